use backstop_core::{CarryExtensions, Frozen, Http, Kind, Outcome, Replay};
use bytes::Bytes;
use http_body_util::Full;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn frozen(headers: &[(&'static str, &str)], body: &str) -> FrozenRequest {
    let mut request = http::Request::new(Full::new(Bytes::from(body.to_owned())));
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

fn call(recorder: HttpRecorder, stream: bool) -> RecorderCall {
    let body = json!({
        "model": "m", "stream": stream, "stream_options": {"include_usage": true},
    });
    recorder
        .on_request(&frozen(&[], &body.to_string()))
        .unwrap()
}

/// Records the answer, serves it as a stream, records that and serves it as JSON.
fn there_and_back(recorder: HttpRecorder, answer: &Value) -> Value {
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
        prop_assert_eq!(without_id(there_and_back(openai(), &answer)), expected(answer));
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
        prop_assert_eq!(without_id(there_and_back(anthropic(), &answer)), expected(answer));
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
fn an_integer_without_canonical_form_is_not_recorded() {
    assert_eq!(
        openai().identity(&frozen(&[], r#"{"seed":9007199254740993}"#)),
        None
    );
    assert!(
        openai()
            .identity(&frozen(&[], r#"{"seed":9007199254740992}"#))
            .is_some()
    );
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
            let call = call(recorder, stream);
            let text = Simplified::new("Come back later.", 200, &outcome);
            let (head, body) = recorder.simplified(&call, &text);
            assert_eq!(head.status, 200);
            assert!(String::from_utf8_lossy(&body).contains("Come back later."));
            assert!(recorder.record(&recording(stream), &body).is_err());
            let text = Simplified::new("Come back later.", 503, &outcome);
            let (head, body) = recorder.simplified(&call, &text);
            assert_eq!(head.status, 503);
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
