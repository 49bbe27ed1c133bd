use backstop_core::{CarryExtensions, Frozen, HintSource, Http, Kind, Outcome, Replay};
use bytes::Bytes;
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn frozen(headers: &[(&'static str, &str)], body: &str) -> FrozenRequest {
    frozen_to("/", headers, body)
}

fn frozen_to(place: &str, headers: &[(&'static str, &str)], body: &str) -> FrozenRequest {
    let mut request = http::Request::new(Full::new(Bytes::from(body.to_owned())));
    *request.uri_mut() = place.parse().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let mut freeze = std::pin::pin!(Http::freeze(
        request,
        usize::MAX,
        &CarryExtensions::default()
    ));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match freeze.as_mut().poll(&mut cx) {
        std::task::Poll::Ready(Ok(Frozen::Replayable(frozen))) => frozen,
        _ => panic!("a full body freezes at once"),
    }
}

fn openai() -> HttpRecorder {
    HttpRecorder::new(Dialect::OpenAiChat)
        .unwrap()
        .allow_tool_calls()
}

fn anthropic() -> HttpRecorder {
    HttpRecorder::new(Dialect::Anthropic)
        .unwrap()
        .allow_tool_calls()
}

/// The recording of an answer to a request for one choice.
fn recording(stream: bool) -> HttpRecording {
    HttpRecording {
        stream,
        choices: NonZeroU32::MIN,
    }
}

fn call(recorder: &HttpRecorder, stream: bool) -> RecorderCall {
    let body = json!({
        "model": "m", "stream": stream, "stream_options": {"include_usage": true},
    });
    recorder
        .on_request(&frozen(&[], &body.to_string()))
        .unwrap()
}

/// Records the answer, serves it as a stream, records that and serves it as JSON.
fn there_and_back(recorder: &HttpRecorder, answer: &Value) -> Value {
    let json = recording(false);
    let record = recorder
        .record(&json, answer.to_string().as_bytes())
        .unwrap();
    let replayed = Replayed::new(Duration::from_secs(5), false);
    let (head, stream) = recorder
        .replay(&call(recorder, true), &record, replayed)
        .unwrap();
    assert_eq!(head.headers["content-type"], "text/event-stream");
    assert_eq!(head.headers["age"], "5");
    assert_eq!(
        head.headers["cache-status"],
        "backstop; hit; detail=stale-if-error"
    );
    assert_eq!(head.headers["cache-control"], "no-store");
    let record = recorder.record(&recording(true), &stream).unwrap();
    let (head, body) = recorder
        .replay(&call(recorder, false), &record, replayed)
        .unwrap();
    assert_eq!(head.headers["content-type"], "application/json");
    serde_json::from_slice(&body).unwrap()
}

/// The answer but for its id, and with its usage marked.
fn expected(mut answer: Value) -> Value {
    answer["usage"]["cached"] = json!(true);
    answer["id"] = json!(null);
    answer
}

fn without_id(mut answer: Value) -> Value {
    assert!(answer["id"].as_str().unwrap().contains("backstop"));
    answer["id"] = json!(null);
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_openai_answer_survives_as_stream(
        text in "\\PC{1,40}",
        reasoning in proptest::option::of("\\PC{1,20}"),
        calls in prop::collection::vec(("[a-z]{1,8}", "\\PC{0,12}"), 0..3),
        tokens in 0..10_000_u32,
    ) {
        let mut message = json!({"role": "assistant", "content": text});
        if let Some(reasoning) = reasoning {
            message["reasoning_content"] = json!(reasoning);
        }
        let reason = if calls.is_empty() { "stop" } else { "tool_calls" };
        if !calls.is_empty() {
            message["tool_calls"] = calls
                .iter()
                .enumerate()
                .map(|(index, (name, value))| json!({
                    "id": format!("call_{index}"),
                    "type": "function",
                    "function": {"name": name, "arguments": json!({"v": value}).to_string()},
                }))
                .collect();
        }
        let answer = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "m-1",
            "system_fingerprint": "fp",
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens},
        });
        prop_assert_eq!(without_id(there_and_back(&openai(), &answer)), expected(answer));
    }

    #[test]
    fn an_anthropic_answer_survives_as_stream(
        text in "\\PC{1,40}",
        thinking in proptest::option::of("\\PC{1,20}"),
        calls in prop::collection::vec(("[a-z]{1,8}", "\\PC{0,12}"), 0..3),
        tokens in 0..10_000_u32,
    ) {
        let mut content = Vec::new();
        if let Some(thinking) = thinking {
            content.push(json!({"type": "thinking", "thinking": thinking, "signature": "sig"}));
        }
        content.push(json!({"type": "text", "text": text}));
        for (index, (name, value)) in calls.iter().enumerate() {
            content.push(json!({
                "type": "tool_use", "id": format!("toolu_{index}"), "name": name,
                "input": {"v": value},
            }));
        }
        let reason = if calls.is_empty() { "end_turn" } else { "tool_use" };
        let answer = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m-1",
            "content": content, "stop_reason": reason, "stop_sequence": null,
            "usage": {"input_tokens": 9, "output_tokens": tokens},
        });
        prop_assert_eq!(without_id(there_and_back(&anthropic(), &answer)), expected(answer));
    }

    /// Key order, white space and the way of carriage do not count; every other difference does.
    #[test]
    fn identity_is_the_meaning(
        fields in prop::collection::btree_map("[a-z]{1,6}", -1_000_000_i64..1_000_000, 1..6),
        stream in any::<bool>(),
        turn in any::<prop::sample::Index>(),
    ) {
        let identity = |body: &str| openai().identity(&frozen(&[], body));
        let mut members: Vec<String> =
            fields.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
        let plain = identity(&format!("{{{}}}", members.join(",")));
        prop_assert!(plain.is_some());
        let middle = turn.index(members.len());
        members.rotate_left(middle);
        members.push(format!("\"stream\" : {stream}"));
        let turned = identity(&format!("{{ {} }}", members.join(" ,\n ")));
        prop_assert_eq!(&plain, &turned);
        let other = members.join(",").replacen(':', ":1", 1);
        let number = members[0].split_once(':').unwrap().1;
        if !number.starts_with('-') {
            prop_assert_ne!(&plain, &identity(&format!("{{{other}}}")));
        }
        members.push("\"unknown_to_us\": null".to_owned());
        prop_assert_ne!(&plain, &identity(&format!("{{{}}}", members.join(","))));
    }
}

#[test]
fn dialect_version_and_beta_headers_count() {
    let body = r#"{"model":"m"}"#;
    let plain = anthropic().identity(&frozen(&[], body));
    assert_ne!(plain, openai().identity(&frozen(&[], body)));
    let versioned = frozen(&[("anthropic-version", "2023-06-01")], body);
    assert_ne!(plain, anthropic().identity(&versioned));
    let beta = frozen(&[("anthropic-beta", "2023-06-01")], body);
    assert_ne!(
        anthropic().identity(&versioned),
        anthropic().identity(&beta)
    );
    assert_eq!(
        plain,
        anthropic().identity(&frozen(&[("x-other", "1")], body))
    );
}

#[test]
fn where_a_request_goes_counts_and_so_do_headers_that_reach_the_model() {
    let ask = |recorder: &HttpRecorder, place: &str, headers: &[(&'static str, &str)]| {
        recorder
            .identity(&frozen_to(place, headers, r#"{"model":"m"}"#))
            .unwrap()
    };
    let plain = HttpRecorder::new(Dialect::OpenAiChat).unwrap();
    let varied = plain.clone().vary(HeaderName::from_static("x-tier"));
    for recorder in [&plain, &varied] {
        let different = [
            ask(recorder, "/a", &[]),
            ask(recorder, "/b", &[]),
            ask(recorder, "/a?x=1", &[]),
            ask(recorder, "/a", &[("openai-beta", "1")]),
            ask(recorder, "/a", &[("anthropic-beta", "1")]),
            ask(recorder, "/a", &[("anthropic-version", "1")]),
        ];
        let distinct: std::collections::HashSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
    }
    let high = [("x-tier", "high")];
    assert_eq!(ask(&plain, "/a", &high), ask(&plain, "/a", &[]));
    assert_ne!(ask(&varied, "/a", &high), ask(&varied, "/a", &[]));
    assert_ne!(
        ask(&varied, "/a", &high),
        ask(&varied, "/a", &[("x-tier", "low")])
    );
}

/// Whoever reads such a body may take it for another one than its canonical form says.
#[test]
fn what_has_no_canonical_form_is_not_recorded() {
    let identity = |body: &str| openai().identity(&frozen(&[], body));
    for body in [
        r#"{"seed":9007199254740993}"#,
        r#"{"seed":-9007199254740993}"#,
        r#"{"a":[{"seed":9007199254740993}]}"#,
        // Beyond 64 bits integers are read as floating-point numbers.
        r#"{"seed":18446744073709551617}"#,
        r#"{"a":{"b":[-18446744073709551617]}}"#,
        r#"{"seed":9007199254740993.0}"#,
        r#"{"seed":1e300}"#,
        r#"{"seed":1e400}"#,
        r#"{"messages":[1],"messages":[2]}"#,
        r#"{"a":1,"\u0061":1}"#,
        r#"{"messages":[{"content":"a","role":"user","content":"b"}]}"#,
        r#"{"stream":true,"stream":false}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"a":1} {}"#,
        r#"[{"a":1}]"#,
    ] {
        assert_eq!(identity(body), None, "{body}");
    }
    for body in [
        r#"{"seed":9007199254740992}"#,
        r#"{"seed":-9007199254740992}"#,
        r#"{"seed":1.5e15}"#,
        r#"{"a":{"b":1},"b":{"a":1,"c":{"a":1}}}"#,
    ] {
        assert!(identity(body).is_some(), "{body}");
    }
    // An escape is another way to write the same, another composition of a letter is another text.
    assert_eq!(
        identity(r#"{"a":"\u00e9\n"}"#),
        identity("{\"\\u0061\":\"\u{e9}\\u000a\"}")
    );
    assert_ne!(
        identity("{\"a\":\"\u{e9}\"}"),
        identity("{\"a\":\"e\u{301}\"}")
    );
    assert_ne!(identity(r#"{"a":1}"#), identity(r#"{"a":"1"}"#));
    assert_ne!(identity(r#"{"a":null}"#), identity("{}"));
    assert_ne!(identity(r#"{"a":[1,2]}"#), identity(r#"{"a":[2,1]}"#));
}

/// Behind another gateway that keeps answers, a stale one would be young again.
#[test]
fn what_a_cache_gave_is_not_kept() {
    let whole =
        json!({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}]});
    let whole = whole.to_string();
    for fresh in [false, true] {
        let call = call(&openai(), false);
        let age = Duration::ZERO;
        let (replayed, _) = openai()
            .replay(&call, whole.as_bytes(), Replayed::new(age, fresh))
            .unwrap();
        assert!(openai().on_response(&call, &replayed).is_err());
    }
    for (name, value, is_kept) in [
        ("age", "0", true),
        ("age", "1", false),
        ("age", "soon", false),
        ("cache-status", "edge; fwd=method; stored", true),
        ("cache-status", "shit", true),
        ("cache-status", "edge; fwd=miss, backstop;hit ;ttl=1", false),
    ] {
        let response = http::Response::builder()
            .header(CONTENT_TYPE, "application/json")
            .header(name, value);
        let (head, ()) = response.body(()).unwrap().into_parts();
        let recording = openai().on_response(&call(&openai(), false), &head);
        assert_eq!(recording.is_ok(), is_kept, "{name}: {value}");
    }
}

fn stream_of(events: &[Value]) -> String {
    let mut stream = String::new();
    for data in events {
        event(&mut stream, None, data);
    }
    stream + "data: [DONE]\n\n"
}

/// The answer that these deltas of one choice are, or why it is none.
fn folded(deltas: &[Value]) -> Result<Value, &'static str> {
    let chunk = |choice: Value| json!({"choices": [choice], "obfuscation": "aZ"});
    let mut chunks: Vec<Value> = deltas
        .iter()
        .map(|delta| chunk(json!({"index": 0, "delta": delta, "finish_reason": null})))
        .collect();
    chunks.push(chunk(
        json!({"index": 0, "delta": {}, "finish_reason": "tool_calls"}),
    ));
    let record = openai().record(&recording(true), stream_of(&chunks).as_bytes())?;
    let answer: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(answer.get("obfuscation"), None);
    Ok(answer["choices"][0]["message"].clone())
}

#[test]
fn what_comes_in_pieces_is_put_together_or_not_kept() {
    let call = |index: u32, id: &str, arguments: &str| {
        let function =
            json!({"name": if id.is_empty() { "" } else { "f" }, "arguments": arguments});
        json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
    };
    let message = folded(&[
        call(0, "a", "{\"x\""),
        call(0, "", ":1}"),
        json!({"tool_calls": [{"index": 0, "id": "a", "type": "function"}]}),
        call(1, "b", "{}"),
    ]);
    let calls = message.unwrap()["tool_calls"].clone();
    assert_eq!(calls[0]["id"], "a");
    assert_eq!(
        calls[0]["function"],
        json!({"name": "f", "arguments": "{\"x\":1}"})
    );
    assert_eq!(calls[1]["id"], "b");
    assert_eq!(calls.as_array().unwrap().len(), 2);
    // Two calls that cannot be told apart.
    assert!(folded(&[call(0, "a", "{}"), call(0, "b", "{}")]).is_err());
    assert!(folded(&[call(1, "a", "{}")]).is_err());

    let message = folded(&[
        json!({"function_call": {"name": "f", "arguments": "{\"x\""}}),
        json!({"function_call": {"arguments": ":1}"}}),
    ]);
    let expected = json!({"name": "f", "arguments": "{\"x\":1}"});
    assert_eq!(message.unwrap()["function_call"], expected);

    let signed = json!({"signature": "s"});
    let message = folded(&[
        json!({"content": "a", "notes": [1], "role": "assistant", "odd": null}),
        json!({"content": "b", "notes": [2], "role": "assistant", "odd": 1}),
        json!({"tool_calls": [{"index": 0, "id": "a", "extra": signed}], "odd": 1}),
    ])
    .unwrap();
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["content"], "ab");
    assert_eq!(message["notes"], json!([1, 2]));
    assert_eq!(message["tool_calls"][0]["extra"], signed);
    assert!(folded(&[call(0, "a", "{}"), json!({"odd": 1}), json!({"odd": 2})]).is_err());
}

#[test]
fn what_is_said_of_a_choice_survives_as_stream() {
    let token =
        |text: &str| json!({"token": text, "logprob": -0.5, "bytes": null, "top_logprobs": []});
    let answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "ab"},
            "logprobs": {"content": [token("a"), token("b")]},
            "stop_reason": "###", "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    });
    assert_eq!(
        without_id(there_and_back(&openai(), &answer)),
        expected(answer)
    );
    let chunk = |text: &str, reason: Value| {
        json!({"choices": [{
            "index": 0, "delta": {"content": text}, "finish_reason": reason,
            "logprobs": {"content": [token(text)], "refusal": null},
        }]})
    };
    let stream = stream_of(&[chunk("a", json!(null)), chunk("b", json!("stop"))]);
    let record = openai()
        .record(&recording(true), stream.as_bytes())
        .unwrap();
    let answer: Value = serde_json::from_slice(&record).unwrap();
    let tokens = &answer["choices"][0]["logprobs"]["content"];
    assert_eq!(*tokens, json!([token("a"), token("b")]));
}

#[test]
fn a_content_block_without_end_is_not_kept() {
    let start = |index: u32, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u32, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = |index: u32| json!({"type": "content_block_stop", "index": index});
    let text = || delta(0, json!({"type": "text_delta", "text": "hi"}));
    let input = |part: &str| delta(1, json!({"type": "input_json_delta", "partial_json": part}));
    let keep = |events: &[Value]| {
        let mut whole = vec![
            json!({"type": "message_start", "message": {"type": "message", "role": "assistant"}}),
            start(0, json!({"type": "text", "text": ""})),
        ];
        whole.extend_from_slice(events);
        whole.push(json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}));
        whole.push(json!({"type": "message_stop"}));
        anthropic().record(&recording(true), stream_of(&whole).as_bytes())
    };
    let tool = || {
        start(
            1,
            json!({"type": "tool_use", "id": "t", "name": "f", "input": {}}),
        )
    };
    let whole = [
        text(),
        stop(0),
        tool(),
        input("{\"x\":"),
        input("1}"),
        stop(1),
    ];
    let record: Value = serde_json::from_slice(&keep(&whole).unwrap()).unwrap();
    assert_eq!(record["content"][1]["input"], json!({"x": 1}));
    for broken in [
        &whole[..5],
        &[text(), tool(), input("{}"), stop(1)],
        &[text(), stop(0), tool(), input("{"), stop(1)],
        &[text(), stop(0), text(), tool(), stop(1)],
        &[
            text(),
            stop(0),
            start(2, json!({"type": "text", "text": ""})),
            stop(2),
        ],
        &[
            text(),
            stop(0),
            tool(),
            delta(1, json!({"type": "unheard_of"})),
            stop(1),
        ],
    ] {
        assert!(keep(broken).is_err(), "{broken:?}");
    }
}

#[test]
fn what_is_not_whole_and_clean_is_not_kept() {
    let strict = HttpRecorder::new(Dialect::OpenAiChat).unwrap();
    let with = |reason: &str, message: Value| {
        json!({"choices": [{"index": 0, "message": message, "finish_reason": reason}]}).to_string()
    };
    let text = json!({"role": "assistant", "content": "hi"});
    let keep = |body: &str| strict.record(&recording(false), body.as_bytes());
    assert!(keep(&with("stop", text.clone())).is_ok());
    let tool = json!({"role": "assistant", "tool_calls": [{"id": "1"}]});
    for (name, body) in [
        ("length", with("length", text.clone())),
        ("filter", with("content_filter", text.clone())),
        ("unknown", with("simplified", text)),
        ("tool", with("tool_calls", tool)),
        (
            "empty",
            with("stop", json!({"role": "assistant", "content": ""})),
        ),
        (
            "refusal",
            with("stop", json!({"content": "", "refusal": "no"})),
        ),
        (
            "error",
            json!({"error": {"message": "x"}, "choices": []}).to_string(),
        ),
        ("none", "{}".to_owned()),
        ("html", "<html>".to_owned()),
    ] {
        assert!(keep(&body).is_err(), "{name} was kept");
    }
    let cut = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    assert!(strict.record(&recording(true), cut.as_bytes()).is_err());
    let strict = HttpRecorder::new(Dialect::Anthropic).unwrap();
    let start = r#"data: {"type":"message_start","message":{"type":"message","content":[]}}"#;
    let cut = format!("{start}\n\n");
    assert!(strict.record(&recording(true), cut.as_bytes()).is_err());
    let used = json!({
        "type": "message", "content": [{"type": "tool_use"}], "stop_reason": "tool_use",
    });
    let used = used.to_string();
    assert!(strict.record(&recording(false), used.as_bytes()).is_err());
}

#[test]
fn requests_say_whether_they_are_stored_and_served() {
    let headers = [
        ("cache-control", "no-store, Stale-If-Error=\"60\""),
        ("cache-control", "no-cache"),
    ];
    let call = openai()
        .on_request(&frozen(&headers, r#"{"model":"m"}"#))
        .unwrap();
    let directives = openai().directives(&call);
    assert!(directives.no_store && directives.no_cache);
    assert_eq!(directives.stale_if_error, Some(Duration::from_secs(60)));
}

#[test]
fn a_simplified_answer_is_valid_both_ways_and_is_not_kept() {
    let outcome = Outcome::new(Kind::Unavailable);
    for recorder in [openai(), anthropic()] {
        for stream in [false, true] {
            let call = call(&recorder, stream);
            let text = Simplified::new("Come back later.", 200, &outcome);
            let (head, body) = recorder.simplified(&call, &text);
            assert_eq!(head.status, 200);
            assert!(String::from_utf8_lossy(&body).contains("Come back later."));
            assert!(recorder.record(&recording(stream), &body).is_err());
            let soon = outcome.with_retry_after(Duration::from_millis(1_200), HintSource::Header);
            let text = Simplified::new("Come back later.", 503, &soon);
            let (head, body) = recorder.simplified(&call, &text);
            assert_eq!(head.status, 503);
            assert_eq!(head.headers["retry-after"], "2");
            assert_eq!(head.headers["content-type"], "application/json");
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"]["message"], "Come back later.");
        }
    }
}

/// What is kept of an answer to a request with this `n`.
fn keep(n: &Value, stream: bool, body: &[u8]) -> Result<Value, &'static str> {
    let recorder = HttpRecorder::new(Dialect::OpenAiChat).unwrap();
    let request = json!({"model": "m", "n": n, "stream": stream}).to_string();
    let call = recorder.on_request(&frozen(&[], &request)).unwrap();
    let content_type = if stream {
        "text/event-stream"
    } else {
        "application/json"
    };
    let response = http::Response::builder().header(CONTENT_TYPE, content_type);
    let (head, ()) = response.body(()).unwrap().into_parts();
    let recording = recorder.on_response(&call, &head)?;
    let record = recorder.record(&recording, body)?;
    Ok(serde_json::from_slice(&record).unwrap())
}

#[test]
fn an_answer_with_fewer_choices_than_asked_for_is_not_kept() {
    const FEWER: Result<usize, &str> = Err("it has fewer choices than were asked for");
    for (n, given, expected) in [
        (json!(null), 1, Ok(1)),
        (json!(1), 0, FEWER),
        (json!(1), 1, Ok(1)),
        (json!(2), 1, FEWER),
        (json!(2), 2, Ok(2)),
        (json!(3), 2, FEWER),
        (json!(200), 199, FEWER),
        (json!(200), 200, Ok(200)),
        (
            json!("2"),
            2,
            Err("how many choices were asked for is not known"),
        ),
    ] {
        let whole = |index| {
            let message = json!({"role": "assistant", "content": "a"});
            json!({"index": index, "message": message, "finish_reason": "stop"})
        };
        let answer = json!({"choices": (0..given).map(whole).collect::<Vec<_>>()});
        let mut stream = String::new();
        for index in 0..given {
            for (delta, reason) in [(json!({"content": "a"}), None), (json!({}), Some("stop"))] {
                let choice = json!({"index": index, "delta": delta, "finish_reason": reason});
                event(&mut stream, None, &json!({"choices": [choice]}));
            }
        }
        // The server says that it is whole, which is nothing against the number.
        stream.push_str("data: [DONE]\n\n");
        for (is_stream, body) in [(false, answer.to_string()), (true, stream)] {
            let kept = keep(&n, is_stream, body.as_bytes());
            let kept = kept.map(|answer| answer["choices"].as_array().unwrap().len());
            assert_eq!(kept, expected, "n {n}, given {given}, {is_stream}");
        }
    }
}

#[test]
fn how_an_answer_is_carried_does_not_count_and_whose_header_it_is_does() {
    let identity = |headers: &[(&'static str, &str)], body: &str| {
        anthropic().identity(&frozen(headers, body)).unwrap()
    };
    let plain = identity(&[], r#"{"model":"m"}"#);
    let carried = r#"{"stream":true,"model":"m","stream_options":{"include_usage":true}}"#;
    assert_eq!(identity(&[], carried), plain);
    let with = |headers: &[(&'static str, &str)]| identity(headers, r#"{"model":"m"}"#);
    let beta = |value| ("anthropic-beta", value);
    assert_ne!(with(&[beta("ab")]), with(&[beta("a"), beta("b")]));
    assert_ne!(with(&[beta("b"), beta("a")]), with(&[beta("a"), beta("b")]));
    assert_ne!(with(&[("anthropic-version", "x")]), with(&[beta("x")]));
    assert!(!anthropic().may_share(&call(&anthropic(), true)));
    assert!(anthropic().may_share(&call(&anthropic(), false)));
}

#[test]
fn what_is_no_whole_answer_by_its_head_is_not_kept() {
    for (status, content_type, is_kept) in [
        (200, "application/json", Some(false)),
        (200, "application/json ; charset=utf-8", Some(false)),
        (200, "text/event-stream;charset=utf-8", Some(true)),
        (200, "text/html", None),
        (200, "application/x-ndjson", None),
        (201, "application/json", None),
        (206, "application/json", None),
        (304, "application/json", None),
    ] {
        let response = http::Response::builder().status(status);
        let response = response.header(CONTENT_TYPE, content_type);
        let (head, ()) = response.body(()).unwrap().into_parts();
        let kept = openai().on_response(&call(&openai(), false), &head);
        let as_stream = kept.ok().map(|recording| recording.stream);
        assert_eq!(as_stream, is_kept, "{status} {content_type}");
    }
    let (head, ()) = http::Response::new(()).into_parts();
    assert!(
        openai()
            .on_response(&call(&openai(), false), &head)
            .is_err()
    );
}

#[test]
fn a_stream_with_anything_odd_in_it_is_not_kept() {
    let keep = |stream: String| openai().record(&recording(true), stream.as_bytes());
    let usage = json!({"total_tokens": 3});
    let text = json!({"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": usage});
    let end = json!({
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null,
    });
    let whole = stream_of(&[text.clone(), end.clone()]);
    let record: Value = serde_json::from_slice(&keep(whole.clone()).unwrap()).unwrap();
    assert_eq!(record["usage"], usage);
    assert!(keep(format!("{whole}data: <html>\n\n")).is_err());
    assert!(keep(format!("data: {{\"a\n\n{whole}")).is_err());
    let failed = json!({"error": {"message": "x"}});
    assert!(keep(stream_of(&[text.clone(), failed, end])).is_err());
    assert!(keep(stream_of(std::slice::from_ref(&text))).is_err());
    assert!(keep(stream_of(&[text, json!([])])).is_err());
}

#[test]
fn what_is_no_answer_to_keep_is_not_kept_either_way() {
    let message = |stop_reason: &str, content: Value| {
        json!({"type": "message", "content": content, "stop_reason": stop_reason}).to_string()
    };
    let text = json!([{"type": "text", "text": "hi"}]);
    let searched = json!([{"type": "server_tool_use", "id": "1"}, {"type": "text", "text": "hi"}]);
    let strict = HttpRecorder::new(Dialect::Anthropic).unwrap();
    let keep = |recorder: &HttpRecorder, body: &str| {
        recorder.record(&recording(false), body.as_bytes()).is_ok()
    };
    for (reason, content, is_kept, with_tools) in [
        ("end_turn", text.clone(), true, true),
        ("stop_sequence", text.clone(), true, true),
        ("max_tokens", text.clone(), false, false),
        ("model_context_window_exceeded", text.clone(), false, false),
        ("refusal", text.clone(), false, false),
        ("pause_turn", text.clone(), false, false),
        ("tool_use", text.clone(), false, false),
        ("end_turn", searched, false, true),
        ("end_turn", json!([]), false, false),
        (
            "end_turn",
            json!([{"type": "text", "text": ""}]),
            false,
            false,
        ),
        (
            "end_turn",
            json!([{"type": "thinking", "thinking": "hm"}]),
            false,
            false,
        ),
    ] {
        let body = message(reason, content);
        assert_eq!(keep(&strict, &body), is_kept, "{body}");
        assert_eq!(keep(&anthropic(), &body), with_tools, "{body}");
    }
    assert!(!keep(
        &strict,
        &json!({"content": text, "stop_reason": "end_turn"}).to_string()
    ));
    let strict = HttpRecorder::new(Dialect::OpenAiChat).unwrap();
    let choice = |reason: &str, message: Value| json!({"choices": [{"index": 0, "message": message, "finish_reason": reason}]});
    let called = json!({"content": "hi", "tool_calls": [{"id": "1"}]});
    let old = json!({"content": null, "function_call": {"name": "f", "arguments": "{}"}});
    let none = json!({"content": "hi", "tool_calls": []});
    for (reason, message, is_kept, with_tools) in [
        ("stop", called, false, true),
        ("function_call", old.clone(), false, true),
        ("stop", old, false, true),
        ("stop", none.clone(), true, true),
        ("tool_calls", none, false, false),
        (
            "stop",
            json!({"content": "hi", "refusal": "no"}),
            false,
            false,
        ),
        ("stop", json!({"content": null}), false, false),
    ] {
        let body = choice(reason, message).to_string();
        assert_eq!(keep(&strict, &body), is_kept, "{body}");
        assert_eq!(keep(&openai(), &body), with_tools, "{body}");
    }
    let mut failed = choice("stop", json!({"content": "hi"}));
    failed["error"] = json!({"message": "x"});
    assert!(!keep(&strict, &failed.to_string()));
}

#[test]
fn a_message_is_put_together_from_all_its_events_or_not_kept() {
    let usage = json!({"input_tokens": 9, "output_tokens": 1});
    let message = json!({"type": "message", "role": "assistant", "usage": usage});
    let text = json!({"type": "text", "text": "", "citations": null});
    let delta = |delta: Value| json!({"type": "content_block_delta", "index": 0, "delta": delta});
    let whole = [
        json!({"type": "message_start", "message": message}),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 0, "content_block": text}),
        delta(json!({"type": "text_delta", "text": "a"})),
        delta(json!({"type": "citations_delta", "citation": 1})),
        delta(json!({"type": "citations_delta", "citation": 2})),
        delta(json!({"type": "text_delta", "text": "b"})),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 7}}),
        json!({"type": "message_stop"}),
    ];
    let keep = |events: &[Value]| {
        let record = anthropic().record(&recording(true), stream_of(events).as_bytes())?;
        Ok::<Value, &str>(serde_json::from_slice(&record).unwrap())
    };
    let expected = json!({
        "type": "message", "role": "assistant", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "ab", "citations": [1, 2]}],
        "usage": {"input_tokens": 9, "output_tokens": 7},
    });
    assert_eq!(keep(&whole), Ok(expected));
    let stop = whole.len() - 1;
    assert!(keep(&whole[..stop]).is_err(), "no end");
    for (place, odd) in [
        (
            2,
            json!({"type": "content_block_start", "index": 1, "content_block": {}}),
        ),
        (7, json!({"type": "content_block_stop", "index": 1})),
        (
            8,
            json!({"type": "error", "error": {"type": "overloaded_error"}}),
        ),
        (8, json!({"index": 0})),
    ] {
        let mut events = whole.to_vec();
        events.insert(place, odd);
        assert!(keep(&events).is_err(), "{place}");
    }
}

/// Every chunk is one that a model could have sent.
#[test]
fn a_replayed_stream_has_all_that_its_dialect_promises() {
    let answer = json!({"model": "m", "object": "chat.completion", "usage": {"total_tokens": 3},
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]});
    let events_of = |recorder: &HttpRecorder, asked: &str, answer: &Value| {
        let call = recorder.on_request(&frozen(&[], asked)).unwrap();
        let replayed = Replayed::new(Duration::ZERO, true);
        let record = answer.to_string();
        let (head, body) = recorder.replay(&call, record.as_bytes(), replayed).unwrap();
        assert_eq!(head.headers["cache-status"], "backstop; hit");
        events(&body).unwrap()
    };
    let mut bare = answer.clone();
    bare["choices"][0].as_object_mut().unwrap().remove("index");
    let asked = r#"{"model":"m","stream":true}"#;
    let both = [&answer, &bare].map(|answer| {
        let mut chunks = events_of(&openai(), asked, answer);
        chunks
            .iter_mut()
            .for_each(|chunk| chunk["id"] = json!(null));
        chunks
    });
    assert_eq!(both[0], both[1]);
    for usage in [false, true] {
        let asked =
            json!({"model": "m", "stream": true, "stream_options": {"include_usage": usage}});
        let chunks = events_of(&openai(), &asked.to_string(), &answer);
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["object"] == "chat.completion.chunk")
        );
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let (last, others) = chunks.split_last().unwrap();
        assert!(
            others
                .iter()
                .all(|chunk| chunk.get("usage") == usage.then_some(&Value::Null))
        );
        assert_eq!(last["choices"].as_array().unwrap().is_empty(), usage);
        let expected = usage.then(|| json!({"total_tokens": 3, "cached": true}));
        assert_eq!(last.get("usage"), expected.as_ref());
    }
    let cited = json!([{"cited_text": "a"}, {"cited_text": "b"}]);
    let answer = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "hi", "citations": cited},
        ],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 1, "output_tokens": 2},
    });
    assert_eq!(
        without_id(there_and_back(&anthropic(), &answer)),
        expected(answer.clone())
    );
    let sent = events_of(&anthropic(), r#"{"model":"m","stream":true}"#, &answer);
    let start = sent
        .iter()
        .rfind(|event| event["type"] == "content_block_start");
    assert_eq!(start.unwrap()["content_block"]["citations"], json!([]));
    let deltas: Vec<_> = sent
        .iter()
        .filter_map(|event| event["delta"]["type"].as_str())
        .collect();
    let expected = [
        "thinking_delta",
        "signature_delta",
        "text_delta",
        "citations_delta",
        "citations_delta",
    ];
    assert_eq!(deltas, expected);
    let end = sent
        .iter()
        .find(|event| event["type"] == "message_delta")
        .unwrap();
    assert_eq!(end["usage"]["output_tokens"], 2);
}
