//! Streams read as they come, whole and cut anywhere.

use backstop_core::{ClassifyStream, End, Kind, Outcome, Progress, Step};
use backstop_wire::{
    ClassifyHttp, Dialect, FinishReason, Framing, StreamReader, UNARY_LIMIT, scan::Message,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use proptest::prelude::*;

/// Reads `chunks`, and gives the best progress, whether content came first, and the outcome.
fn read<'a>(
    dialect: Dialect,
    content_type: &'static str,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Progress, Option<Outcome>, Outcome) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut reader = ClassifyHttp::new(dialect).reader(StatusCode::OK, &headers);
    let mut merged = Step::default();
    for chunk in chunks {
        let step = reader.on_data(chunk);
        if merged.failed.is_none() {
            merged.progress = merged.progress.max(step.progress);
            merged.failed = step.failed;
        }
    }
    (
        merged.progress,
        merged.failed,
        reader.on_end(End::Clean(None)),
    )
}

/// How bodies may begin, go on and end, whatever they are labelled.
fn body() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\u{feff}"),
        Just("\n"),
        Just("  "),
        Just("data:"),
        Just("event: error\n"),
        Just(": ok\n"),
        Just("<html>"),
        Just("["),
        Just("]"),
        Just(","),
        Just("{}"),
        Just("\"x\""),
        Just("{\"error\":{\"message\":\"x\"}}"),
        Just(TEXT),
        Just(STOP),
        Just(r#"{"message":{"content":"}"},"done":false}"#),
        Just("{\"message\":{},\"done\":true}\n"),
        Just(r#"{"candidates":[{"content":{"parts":[{"text":"}"}]},"finishReason":"STOP"}]}"#),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_any_body_gives_the_same_verdict(
        body in body(),
        cut in any::<prop::sample::Index>(),
        dialect in prop::sample::select(vec![
            Dialect::OpenAiChat,
            Dialect::Gemini,
            Dialect::Ollama,
        ]),
        content_type in prop::sample::select(vec![
            "application/json",
            "text/plain",
            "text/event-stream",
            "application/x-ndjson",
        ]),
    ) {
        let whole = read(dialect, content_type, [body.as_bytes()]);
        let (left, right) = body.as_bytes().split_at(cut.index(body.len() + 1));
        prop_assert_eq!(read(dialect, content_type, [left, right]), whole);
        prop_assert_eq!(read(dialect, content_type, body.as_bytes().chunks(1)), whole);
    }
}

#[test]
fn a_mark_before_an_answer_does_not_hide_its_end() {
    let body = "\u{feff}{\"choices\":[{\"message\":{\"content\":\"Hi\"}}],\"error\":false}";
    let chunks = body.as_bytes().chunks(1);
    let (progress, failed, outcome) = read(Dialect::OpenAiChat, "application/json", chunks);
    assert_eq!((progress, failed), (Progress::End, None));
    assert_eq!(outcome.kind(), Kind::Success);
}

#[test]
fn an_answer_too_large_to_be_read_need_only_be_whole() {
    let large = |end| format!("{{\"a\":\"{}\"{end}", "x".repeat(UNARY_LIMIT));
    for size in [1000, 64 * 1024, usize::MAX] {
        let read = |body: String| {
            let (progress, failed, outcome) = read(
                Dialect::OpenAiChat,
                "application/json",
                body.as_bytes().chunks(size),
            );
            (progress, failed.is_some(), outcome.kind())
        };
        assert_eq!(read(large("}\n")), (Progress::End, false, Kind::Success));
        assert_eq!(read(large("")), (Progress::Token, false, Kind::Malformed));
        // Nothing but blank lines is no answer however long it is.
        let blank = "\n".repeat(UNARY_LIMIT + 1);
        assert!(read(blank).1);
    }
}

/// The verdict, which must be the same however the stream is cut.
fn verdict(dialect: Dialect, content_type: &'static str, stream: &str) -> (Progress, Kind) {
    let bytes = stream.as_bytes();
    let whole = read(dialect, content_type, [bytes]);
    assert_eq!(read(dialect, content_type, bytes.chunks(1)), whole);
    for cut in 0..bytes.len() {
        let (left, right) = bytes.split_at(cut);
        assert_eq!(read(dialect, content_type, [left, right]), whole, "{cut}");
        // Any prefix gives some verdict.
        read(dialect, content_type, [left]);
    }
    (whole.0, whole.2.kind())
}

fn chat(events: &[&str]) -> (Progress, Kind) {
    let stream: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    verdict(Dialect::OpenAiChat, "text/event-stream", &stream)
}

const ROLE: &str =
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
const TEXT: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;

#[test]
fn openai_chat() {
    use Progress::{End, KeepAlive, Token};
    assert_eq!(
        chat(&[ROLE, TEXT, STOP, USAGE, "[DONE]"]),
        (End, Kind::Success)
    );
    assert_eq!(chat(&[ROLE, TEXT, STOP]), (End, Kind::Success));
    assert_eq!(chat(&[ROLE, TEXT]), (Token, Kind::Malformed));
    assert_eq!(chat(&[ROLE]), (KeepAlive, Kind::Malformed));
    assert_eq!(chat(&[ROLE, STOP, "[DONE]"]), (KeepAlive, Kind::Malformed));
    assert_eq!(chat(&[]), (Progress::None, Kind::Malformed));
    let error = r#"{"error":{"message":"x","type":"server_error","code":null}}"#;
    assert_eq!(
        chat(&[ROLE, error, "[DONE]"]),
        (KeepAlive, Kind::Unavailable)
    );
    assert_eq!(chat(&[ROLE, TEXT, error]), (Token, Kind::Unavailable));
    let busy = r#"{"choices":[{"delta":{},"finish_reason":"insufficient_system_resource"}]}"#;
    assert_eq!(chat(&[ROLE, busy, "[DONE]"]), (KeepAlive, Kind::Overloaded));
    let quoted = r#"{"choices":[{"index":0,"delta":{"content":"{\"error\":{}}"}}],"error":null}"#;
    assert_eq!(chat(&[quoted, STOP]), (End, Kind::Success));
    assert_eq!(chat(&["<html>"]), (KeepAlive, Kind::Malformed));
    assert_eq!(chat(&[TEXT, "not json", STOP]), (End, Kind::Success));
}

#[test]
fn an_error_without_a_field_is_still_an_error() {
    use Progress::{KeepAlive, Token};
    let read = |stream: &str| verdict(Dialect::OpenAiChat, "text/event-stream", stream);
    let error =
        r#"{"error": {"message": "Overloaded", "type": "overloaded_error"}}"#.to_owned() + "\n";
    assert_eq!(read(&error), (KeepAlive, Kind::Overloaded));
    assert_eq!(
        read(&error.replace(' ', "\n  ")),
        (KeepAlive, Kind::Overloaded)
    );
    let late = format!("data: {TEXT}\n\n{error}");
    assert_eq!(read(&late), (Token, Kind::Overloaded));
    // An answer without a field is none to those who read events.
    let answer = r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    assert_eq!(read(answer), (Progress::None, Kind::Malformed));
}

#[test]
fn an_error_status_with_an_event_is_read_by_the_event() {
    let headers = HeaderMap::new();
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let body = b"id:1\nevent:error\n:HTTP_STATUS/400\ndata:{\"error\":{\"code\":\"context_length_exceeded\"}}\n\n";
    let mut reader = classify.reader(StatusCode::BAD_REQUEST, &headers);
    reader.on_data(body);
    let outcome = reader.on_end(End::Clean(None));
    assert_eq!(outcome.kind(), Kind::ContextTooLong);
}

#[test]
fn cohere_says_by_the_finish_reason_what_failed() {
    let read = |reason: &str, before: &str| {
        let end = format!(r#"{{"type":"message-end","delta":{{"finish_reason":"{reason}"}}}}"#);
        let stream = format!("{before}event: message-end\ndata: {end}\n\n");
        verdict(Dialect::Cohere, "text/event-stream", &stream)
    };
    let text = "data: {\"type\":\"content-delta\",\"delta\":{\"message\":{\"content\":{\"text\":\"a\"}}}}\n\n";
    use Progress::{End, KeepAlive, Token};
    assert_eq!(read("COMPLETE", text), (End, Kind::Success));
    assert_eq!(read("TIMEOUT", "").0, KeepAlive);
    assert!(matches!(read("TIMEOUT", text), (Token, Kind::TimedOut(_))));
    assert_eq!(read("ERROR", text), (Token, Kind::Unavailable));
}

#[test]
fn anthropic() {
    let read = |events: &[&str]| {
        let stream: String = events
            .iter()
            .map(|data| {
                let name = data.split('"').nth(3).unwrap_or_default();
                format!("event: {name}\ndata: {data}\n\n")
            })
            .collect();
        verdict(
            Dialect::Anthropic,
            "text/event-stream; charset=utf-8",
            &stream,
        )
    };
    let start = r#"{"type":"message_start","message":{"content":[],"usage":{"input_tokens":2}}}"#;
    let block = r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#;
    let tool = r#"{"type":"content_block_start","content_block":{"type":"tool_use","name":"f"}}"#;
    let ping = r#"{"type":"ping"}"#;
    let text = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}"#;
    let delta = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{}}"#;
    let stop = r#"{"type":"message_stop"}"#;
    let error = r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#;
    use Progress::{End, KeepAlive, Token};
    assert_eq!(
        read(&[start, block, ping, text, delta, stop]),
        (End, Kind::Success)
    );
    assert_eq!(read(&[start, block, ping]), (KeepAlive, Kind::Malformed));
    assert_eq!(read(&[start, tool]), (Token, Kind::Malformed));
    assert_eq!(read(&[start, block, text, delta]), (Token, Kind::Malformed));
    assert_eq!(read(&[start, block, error]), (KeepAlive, Kind::Unavailable));
    assert_eq!(read(&[start, delta, stop]), (End, Kind::Success));
}

#[test]
fn answers_that_are_no_stream() {
    let read = |content_type, body: &str| verdict(Dialect::OpenAiChat, content_type, body);
    let whole = r#"{"choices":[{"message":{"content":"\"}"},"finish_reason":"stop"}]}"#;
    assert_eq!(
        read("application/json", &format!("\n\n{whole}\n")),
        (Progress::End, Kind::Success)
    );
    assert_eq!(
        read("application/json", &whole[..whole.len() - 1]),
        (Progress::KeepAlive, Kind::Malformed)
    );
    assert_eq!(read("application/json", "").1, Kind::Malformed);
    assert_eq!(read("text/html", "<html>sign in</html>").1, Kind::Malformed);
    // A stream with the wrong label.
    assert_eq!(
        read(
            "text/plain",
            &format!("\n: hello\n\ndata: {TEXT}\n\ndata: {STOP}\n\n")
        ),
        (Progress::End, Kind::Success)
    );
}

/// What each dialect says at its end, beside that it is one.
#[test]
fn every_dialect_tells_why_it_stopped_and_what_it_used() {
    use FinishReason::{BadGeneration, ContentFilter, ContextWindow, Length, Other};
    use FinishReason::{Refusal, Stop, ToolCalls};
    let chat = |reason| {
        let stop = STOP.replace("stop", reason);
        format!("data: {TEXT}\n\ndata: {stop}\n\ndata: {USAGE}\n\n")
    };
    let responses = |details: &str| {
        format!(
            "data: {{\"type\":\"response.incomplete\",\"response\":{{\"incomplete_details\":{details},\
             \"usage\":{{\"input_tokens\":9,\"output_tokens\":2}}}}}}\n\n"
        )
    };
    let anthropic = |reason| {
        let start =
            r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
        let delta = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#;
        let usage = r#""usage":{"input_tokens":null,"output_tokens":2}"#;
        format!(
            "data: {start}\n\ndata: {delta}\n\ndata: {{\"type\":\"message_delta\",\"delta\":\
             {{\"stop_reason\":\"{reason}\"}},{usage}}}\n\ndata: {{\"type\":\"message_stop\"}}\n\n"
        )
    };
    let gemini = |reason| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"a\"}}]}},\"finishReason\":\
             \"{reason}\"}}],\"usageMetadata\":{{\"promptTokenCount\":9,\"candidatesTokenCount\":2}}}}\n\n"
        )
    };
    let cohere = |reason| {
        format!(
            "data: {{\"type\":\"message-end\",\"delta\":{{\"finish_reason\":\"{reason}\",\"usage\":\
             {{\"tokens\":{{\"input_tokens\":9,\"output_tokens\":2}}}}}}}}\n\n"
        )
    };
    let ollama = |reason| {
        format!(
            "{{\"message\":{{\"content\":\"a\"}},\"done\":true,\"done_reason\":\"{reason}\",\
             \"prompt_eval_count\":9,\"eval_count\":2}}\n"
        )
    };
    let bedrock = |reason| {
        let stop = format!("{{\"stopReason\":\"{reason}\"}}");
        let usage = br#"{"usage":{"inputTokens":9,"outputTokens":2}}"#;
        // A failure ends the reading, so that what was used has to come before.
        let event = |name, data: &[u8]| Message::encode(&[(":event-type", name)], data);
        let text = event("contentBlockDelta", br#"{"delta":{"text":"a"}}"#);
        let stop = event("messageStop", stop.as_bytes());
        [text, event("metadata", usage), stop].concat()
    };
    let of = |dialect, framing, stream: Vec<u8>, expected| {
        let mut reader = StreamReader::new(dialect, framing);
        reader.on_data(&stream);
        assert_eq!(reader.finish_reason(), Some(expected), "{dialect:?}");
        let usage = reader.usage();
        let tokens = (usage.input_tokens, usage.output_tokens);
        assert_eq!(tokens, (Some(9), Some(2)), "{dialect:?} {expected:?}");
    };
    let sse = |dialect, stream: String, expected| {
        of(dialect, Framing::Sse, stream.into_bytes(), expected);
    };
    for (reason, expected) in [
        ("stop", Stop),
        ("length", Length),
        ("tool_calls", ToolCalls),
        ("content_filter", ContentFilter),
        ("new", Other),
    ] {
        sse(Dialect::OpenAiChat, chat(reason), expected);
    }
    for (details, expected) in [
        ("null", Stop),
        (r#"{"reason":"max_output_tokens"}"#, Length),
        (r#"{"reason":"content_filter"}"#, ContentFilter),
        (r#"{"reason":"new"}"#, Other),
    ] {
        sse(Dialect::OpenAiResponses, responses(details), expected);
    }
    for (reason, expected) in [
        ("end_turn", Stop),
        ("max_tokens", Length),
        ("tool_use", ToolCalls),
        ("refusal", Refusal),
        ("model_context_window_exceeded", ContextWindow),
    ] {
        sse(Dialect::Anthropic, anthropic(reason), expected);
    }
    for (reason, expected) in [
        ("STOP", Stop),
        ("MAX_TOKENS", Length),
        ("SAFETY", ContentFilter),
        ("MALFORMED_FUNCTION_CALL", BadGeneration),
        ("LANGUAGE", Other),
    ] {
        sse(Dialect::Gemini, gemini(reason), expected);
    }
    for (reason, expected) in [
        ("COMPLETE", Stop),
        ("MAX_TOKENS", Length),
        ("TOOL_CALL", ToolCalls),
        ("ERROR_TOXIC", ContentFilter),
    ] {
        sse(Dialect::Cohere, cohere(reason), expected);
    }
    for (reason, expected) in [("stop", Stop), ("length", Length), ("load", Other)] {
        let stream = ollama(reason).into_bytes();
        of(Dialect::Ollama, Framing::Ndjson, stream, expected);
    }
    for (reason, expected) in [
        ("end_turn", Stop),
        ("max_tokens", Length),
        ("tool_use", ToolCalls),
        ("guardrail_intervened", ContentFilter),
        ("malformed_tool_use", BadGeneration),
    ] {
        let framing = Framing::EventStream;
        of(Dialect::BedrockConverse, framing, bedrock(reason), expected);
    }
}

#[test]
fn an_error_of_the_transport_of_amazons_is_known_by_its_code() {
    let headers = [
        (":message-type", "error"),
        (":error-code", "ThrottlingException"),
        (":error-message", "no"),
    ];
    let error = Message::encode(&headers, b"");
    let content_type = "application/vnd.amazon.eventstream";
    let (_, failed, outcome) = read(Dialect::BedrockConverse, content_type, [&error[..]]);
    assert_eq!(failed.map(|failed| failed.kind()), Some(Kind::Throttled));
    assert_eq!(outcome.kind(), Kind::Throttled);
}

#[test]
fn json_without_a_field_that_is_no_error_fails_at_once() {
    let bytes = b"{\"choices\":[]}\n";
    let (_, failed, _) = read(Dialect::OpenAiChat, "text/event-stream", [&bytes[..]]);
    assert_eq!(failed.map(|failed| failed.kind()), Some(Kind::Malformed));
}
