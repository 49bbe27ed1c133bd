use backstop_core::{ClassifyStream, Kind, Outcome, Progress, Scope};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::BadAnswers;
use crate::{ClassifyHttp, Dialect};

const ALL: BadAnswers = BadAnswers {
    empty: true,
    malformed_tool_call: true,
    refusal: true,
    truncated: true,
};
const OPENAI: Dialect = Dialect::OpenAiChat;
const ANTHROPIC: Dialect = Dialect::Anthropic;

/// The rules, each alone.
fn rules() -> [(&'static str, BadAnswers); 4] {
    let none = BadAnswers::default();
    [
        ("empty", none.empty()),
        ("malformed tool call", none.malformed_tool_call()),
        ("refusal", none.refusal()),
        ("truncated", none.truncated()),
    ]
}

fn judge(
    bad: BadAnswers,
    dialect: Dialect,
    content_type: &'static str,
    body: &[u8],
) -> Option<Outcome> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut reader = ClassifyHttp::new(dialect).reader(StatusCode::OK, &headers);
    let step = reader.on_data(body);
    assert_eq!(step.failed, None, "it is good but for the rules");
    assert_eq!(step.progress, Progress::End, "it is whole");
    bad.judge(&reader, body)
}

/// The rule that a whole answer breaks, seen to be broken by nothing but itself.
fn broken(dialect: Dialect, content_type: &'static str, body: &str) -> Option<&'static str> {
    let judge = |bad| judge(bad, dialect, content_type, body.as_bytes());
    assert_eq!(judge(BadAnswers::default()), None);
    let all = judge(ALL).map(|outcome| outcome.evidence().trim_start_matches("bad answer: "));
    for (name, rule) in rules() {
        // Some break two; the first is told.
        if Some(name) == all || all.is_none() {
            assert_eq!(judge(rule).is_some(), all.is_some(), "{name}: {body}");
        }
    }
    all
}

fn whole(dialect: Dialect, body: &Value) -> Option<&'static str> {
    broken(dialect, "application/json", &body.to_string())
}

fn stream(dialect: Dialect, events: &[Value]) -> Option<&'static str> {
    let mut body: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    if dialect == OPENAI {
        body += "data: [DONE]\n\n";
    }
    broken(dialect, "text/event-stream", &body)
}

/// Whole, and as a stream of one chunk with the message and one with the reason.
fn openai(message: &Value, reason: &str) -> [Option<&'static str>; 2] {
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": reason}]});
    let chunks = [
        json!({"choices": [{"index": 0, "delta": message, "finish_reason": null}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
    ];
    [whole(OPENAI, &body), stream(OPENAI, &chunks)]
}

fn called(name: &str, arguments: &str) -> Value {
    let function = json!({"name": name, "arguments": arguments});
    json!({"content": null, "tool_calls": [{"index": 0, "id": "c", "function": function}]})
}

#[test]
fn openai_answers() {
    let text = json!({"role": "assistant", "content": "Hi."});
    assert_eq!(openai(&text, "stop"), [None; 2]);
    for reason in ["length", "model_length"] {
        assert_eq!(openai(&text, reason), [Some("truncated"); 2]);
    }
    for reason in ["content_filter", "refusal"] {
        assert_eq!(openai(&text, reason), [Some("refusal"); 2]);
    }
    let refused = json!({"content": null, "refusal": "I cannot help with that."});
    assert_eq!(openai(&refused, "stop"), [Some("refusal"); 2]);
    for content in [json!("\n "), json!([{"type": "text", "text": "Hi."}])] {
        let is_blank = content.is_string();
        let message = json!({"content": content, "refusal": null});
        assert_eq!(openai(&message, "stop"), [is_blank.then_some("empty"); 2]);
    }
    let thought = json!({"content": "", "reasoning_content": "Hm."});
    assert_eq!(openai(&thought, "stop"), [Some("empty"); 2]);

    for good in [r#"{"city":"Ulm"}"#, "{}", "", " "] {
        assert_eq!(
            openai(&called("f", good), "tool_calls"),
            [None; 2],
            "{good}"
        );
    }
    let bad = Some("malformed tool call");
    for arguments in [r#"{"city":"#, "Ulm", "[]", "\"Ulm\"", "{} {}"] {
        assert_eq!(openai(&called("f", arguments), "tool_calls"), [bad; 2]);
    }
    assert_eq!(openai(&called("", "{}"), "tool_calls"), [bad; 2]);
    assert_eq!(openai(&text, "tool_calls"), [bad; 2]);
    // Cut short, it does not parse either; the cause is told.
    let cut = called("f", r#"{"city":"#);
    assert_eq!(openai(&cut, "length"), [Some("truncated"); 2]);
    let object = json!({"tool_calls": [{"function": {"name": "f", "arguments": {}}}]});
    assert_eq!(openai(&object, "tool_calls"), [bad; 2]);
    let custom = json!({"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]});
    assert_eq!(openai(&custom, "tool_calls"), [None; 2]);
    let old = |arguments| json!({"function_call": {"name": "f", "arguments": arguments}});
    assert_eq!(openai(&old("{}"), "function_call"), [None; 2]);
    assert_eq!(openai(&old("{"), "function_call"), [bad; 2]);
}

#[test]
fn openai_tool_calls_are_put_together() {
    let part = |index, function: Value| {
        let calls = json!([{"index": index, "function": function}]);
        json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})
    };
    let mut chunks = vec![
        part(0, json!({"name": "f", "arguments": ""})),
        part(0, json!({"arguments": "{\"a\":"})),
        part(1, json!({"name": "g", "arguments": "{"})),
        part(0, json!({"arguments": "1}"})),
        part(1, json!({"arguments": "}"})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ];
    assert_eq!(stream(OPENAI, &chunks), None);
    chunks.remove(4);
    assert_eq!(stream(OPENAI, &chunks), Some("malformed tool call"));
}

#[test]
fn every_choice_must_be_good() {
    let choice = |index, reason| json!({"index": index, "message": {"content": "Hi."}, "finish_reason": reason});
    let answer = |choices: [Value; 2]| json!({"choices": choices});
    let good = answer([choice(0, "stop"), choice(1, "stop")]);
    assert_eq!(whole(OPENAI, &good), None);
    let bad = answer([choice(0, "stop"), choice(1, "length")]);
    assert_eq!(whole(OPENAI, &bad), Some("truncated"));
}

/// Whole, and as a stream.
fn anthropic(blocks: &[Value], reason: &str) -> [Option<&'static str>; 2] {
    let body = json!({"type": "message", "content": blocks, "stop_reason": reason});
    let mut events =
        vec![json!({"type": "message_start", "message": {"type": "message", "content": []}})];
    for (index, block) in blocks.iter().enumerate() {
        let mut start = block.clone();
        let delta = match block["type"].as_str() {
            Some("text") => {
                start["text"] = "".into();
                json!({"type": "text_delta", "text": block["text"]})
            }
            Some("tool_use") => {
                start["input"] = json!({});
                json!({"type": "input_json_delta", "partial_json": block["input"].to_string()})
            }
            _ => json!({"type": "signature_delta", "signature": "s"}),
        };
        events.push(json!({"type": "content_block_start", "index": index, "content_block": start}));
        events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": reason}}));
    events.push(json!({"type": "message_stop"}));
    [whole(ANTHROPIC, &body), stream(ANTHROPIC, &events)]
}

#[test]
fn anthropic_answers() {
    let text = json!({"type": "text", "text": "Hi."});
    let blank = json!({"type": "text", "text": "\n"});
    let thought = json!({"type": "thinking", "thinking": "Hm."});
    let one = |block: &Value, reason| anthropic(std::slice::from_ref(block), reason);
    assert_eq!(one(&text, "end_turn"), [None; 2]);
    assert_eq!(
        anthropic(&[thought.clone(), text.clone()], "end_turn"),
        [None; 2]
    );
    for blocks in [vec![], vec![blank], vec![thought]] {
        assert_eq!(
            anthropic(&blocks, "end_turn"),
            [Some("empty"); 2],
            "{blocks:?}"
        );
    }
    for reason in ["max_tokens", "model_context_window_exceeded"] {
        assert_eq!(one(&text, reason), [Some("truncated"); 2]);
    }
    // An empty refusal is a refusal: who asks for the empty ones only is not asked about it.
    assert_eq!(one(&text, "refusal"), [Some("refusal"); 2]);
    assert_eq!(anthropic(&[], "refusal"), [Some("refusal"); 2]);
    let body = br#"{"type":"message","content":[],"stop_reason":"refusal"}"#;
    let empty = BadAnswers::default().empty();
    assert_eq!(judge(empty, ANTHROPIC, "application/json", body), None);

    let bad = Some("malformed tool call");
    let call = |name: &str, input: Value| json!({"type": "tool_use", "name": name, "input": input});
    assert_eq!(one(&call("f", json!({"a": 1})), "tool_use"), [None; 2]);
    assert_eq!(one(&call("f", json!({})), "tool_use"), [None; 2]);
    assert_eq!(one(&call("", json!({})), "tool_use"), [bad; 2]);
    assert_eq!(one(&call("f", json!("a")), "tool_use"), [bad; 2]);
    assert_eq!(one(&text, "tool_use"), [bad; 2]);
    let search = json!({"type": "server_tool_use", "name": "web_search", "input": {}});
    assert_eq!(one(&search, "pause_turn"), [None; 2]);
}

#[test]
fn anthropic_tool_input_is_put_together() {
    let input = |json: &str| {
        let delta = json!({"type": "input_json_delta", "partial_json": json});
        json!({"type": "content_block_delta", "index": 0, "delta": delta})
    };
    let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    let mut events = vec![
        json!({"type": "message_start", "message": {}}),
        json!({"type": "content_block_start", "index": 0, "content_block": block}),
        input("{\"a\":"),
        input("1}"),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
        json!({"type": "message_stop"}),
    ];
    assert_eq!(stream(ANTHROPIC, &events), None);
    events.remove(3);
    assert_eq!(stream(ANTHROPIC, &events), Some("malformed tool call"));
}

#[test]
fn an_event_that_is_cut_after_the_end_is_passed_over() {
    let body =
        b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"length\"}]}\n\n\
        data: {\"choices\":[],\"usa";
    let outcome = judge(ALL, OPENAI, "text/event-stream", body);
    // The reader is at the end of the answer, not of the body.
    assert_eq!(outcome.unwrap().evidence(), "bad answer: truncated");
}

#[test]
fn who_is_to_blame_and_who_may_help() {
    let of = |message: Value, reason: &str| {
        let body = json!({"choices": [{"message": message, "finish_reason": reason}]}).to_string();
        judge(ALL, OPENAI, "application/json", body.as_bytes()).unwrap()
    };
    let text = json!({"content": "Hi."});
    let truncated = of(text.clone(), "length");
    assert!(truncated.may_fail_over() && !truncated.may_repeat() && !truncated.is_fault());
    let refusal = of(text, "refusal");
    assert_eq!(refusal.kind(), Kind::ContentFiltered);
    assert!(!refusal.is_fault());
    let thought = json!({"content": "", "reasoning_content": "Hm."});
    for outcome in [of(thought, "stop"), of(called("f", "{"), "tool_calls")] {
        assert_eq!(outcome.kind(), Kind::Malformed);
        assert_eq!(outcome.scope(), Scope::Model);
        assert!(outcome.may_fail_over() && outcome.is_fault());
    }
}

#[test]
fn what_cannot_be_read_is_not_judged() {
    let empty = br#"{"type":"message","content":[]}"#;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    let reader = ClassifyHttp::new(ANTHROPIC).reader(StatusCode::OK, &headers);
    assert_eq!(ALL.judge(&reader, empty), None);
    let reader = |dialect| ClassifyHttp::new(dialect).reader(StatusCode::OK, &HeaderMap::new());
    assert_eq!(ALL.judge(&reader(Dialect::Gemini), empty), None);
    assert_eq!(ALL.judge(&reader(ANTHROPIC), b"{\"type\":"), None);
    assert_eq!(
        ALL.judge(&reader(ANTHROPIC), br#"{"input_tokens":5}"#),
        None
    );
    assert!(ALL.judge(&reader(ANTHROPIC), empty).is_some());
}
