use std::collections::HashMap;

use backstop_core::Phase;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::*;

fn classify(status: u16, headers: &HeaderMap, body: &[u8]) -> Outcome {
    classify_answer(&Answer {
        provider: Provider::Unknown,
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body,
        trailers: None,
    })
}

#[test]
fn every_row_has_a_name_of_its_own_and_a_source() {
    let mut rows: HashMap<&str, &Rule> = HashMap::new();
    for rule in all_rows() {
        assert!(!rule.evidence().is_empty());
        assert!(!rule.source.is_empty(), "{}", rule.evidence());
        if let Some(other) = rows.insert(rule.evidence(), rule) {
            // A family may share rows with another, but two rows must not share a name.
            assert_eq!(format!("{other:?}"), format!("{rule:?}"));
        }
    }
    assert!(rows.len() > 250, "{}", rows.len());
}

/// Words and phrases are compared with text in lower case, so one that is not never holds.
#[test]
fn rows_are_written_in_lower_case() {
    for rule in all_rows() {
        for text in rule.texts() {
            assert_eq!(text, text.to_lowercase(), "{}", rule.evidence());
        }
    }
}

#[test]
fn an_answer_is_not_printed() {
    let mut headers = HeaderMap::new();
    headers.insert("set-cookie", HeaderValue::from_static("a-secret"));
    let answer = Answer {
        provider: Provider::Unknown,
        status: StatusCode::OK,
        headers: &headers,
        body: b"a-secret",
        trailers: Some(&headers),
    };
    let printed = format!("{answer:?}");
    assert!(
        !printed.contains("a-secret") && !printed.contains("97"),
        "{printed}"
    );
}

#[test]
fn the_innermost_of_ten_wrapped_errors_decides() {
    let mut body = br#"{"error":{"code":"insufficient_quota","message":"spent"}}"#.to_vec();
    for _ in 0..10 {
        let text = String::from_utf8(body).unwrap();
        body = serde_json::json!({"error": {"message": text}})
            .to_string()
            .into_bytes();
    }
    let outcome = classify(500, &HeaderMap::new(), &body);
    assert_eq!(outcome.kind(), Kind::QuotaExhausted);
}

#[test]
fn what_happened_goes_before_how_a_gateway_calls_it() {
    let inner = r#"{"error":{"code":"queue_exceeded","message":"x"}}"#;
    let body = serde_json::json!({
        "error": {"code": "rate_limit_exceeded", "message": format!("upstream error: {inner}")}
    });
    let outcome = classify(429, &HeaderMap::new(), body.to_string().as_bytes());
    assert_eq!(outcome.kind(), Kind::Overloaded);
}

#[test]
fn a_body_nested_beyond_reason_is_judged_by_its_status() {
    for (open, close) in [("[", "]"), ("{\"error\":", "}")] {
        let depth = 100_000;
        let body = [open.repeat(depth), close.repeat(depth)].concat();
        let outcome = classify(503, &HeaderMap::new(), body.as_bytes());
        assert_eq!(outcome.kind(), Kind::Unavailable);
        // As if a bounded read had cut it.
        let outcome = classify(503, &HeaderMap::new(), &body.as_bytes()[..65_536]);
        assert_eq!(outcome.kind(), Kind::Unavailable);
    }
}

/// Core, which knows the status from reqwest's errors, has a test of the same.
#[test]
fn the_status_of_a_time_out_tells_what_was_waited_for() {
    for (status, says, phase) in [
        (408, "Request timed out", Phase::Total),
        (504, "Gateway Timeout", Phase::Headers),
        (522, "Connection timed out", Phase::Connect),
        (524, "A timeout occurred", Phase::Headers),
    ] {
        let page = format!("<title>api.example.com | {status}: {says}</title>");
        for body in ["", &page] {
            let outcome = classify(status, &HeaderMap::new(), body.as_bytes());
            assert_eq!(outcome.kind(), Kind::TimedOut(phase), "{outcome}");
        }
    }
}

#[test]
fn what_a_gateway_relays_of_its_own_account_concerns_the_model_alone() {
    let raw = r#"{"error":{"code":"invalid_api_key","message":"no"}}"#;
    let body = serde_json::json!({"error": {"message": "x", "metadata": {"raw": raw}}});
    let outcome = classify(401, &HeaderMap::new(), body.to_string().as_bytes());
    assert_eq!(
        (outcome.kind(), outcome.scope()),
        (Kind::Unauthorized, Scope::Model)
    );
}

#[test]
fn a_stream_error_is_known_by_the_name_of_its_frame() {
    let outcome = classify_stream_error(
        Provider::Bedrock,
        &HeaderMap::new(),
        Some("modelTimeoutException"),
        b"",
    );
    assert!(matches!(outcome.kind(), Kind::TimedOut(_)));
    assert_eq!(outcome.scope(), Scope::Model);
}

/// Phrases that decide where an error says them.
const ALARMS: &[&str] = &[
    "rate limit exceeded (429), please try again in 5 seconds",
    "the model is overloaded",
    "your credit balance is too low",
    "maximum context length",
    "invalid api key",
    "blocked by content filtering policy",
    "request timed out",
    "the model does not exist",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_a_validation_error_echoes_decides_nothing(
        status in prop_oneof![Just(400_u16), Just(422)],
        alarm in prop::sample::select(ALARMS),
        quotes in prop::sample::select(&[("'", "'"), ("\"", "\""), ("`", "`"), ("{\"text\":\"", "\"}")][..]),
        shape in 0..4,
    ) {
        let echo = format!("{}{alarm}{}", quotes.0, quotes.1);
        let message = format!("messages[0].content: {echo} is not of the right form");
        let body = match shape {
            0 => serde_json::json!({"error": {"message": message, "type": "invalid_request_error"}}),
            1 => serde_json::json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}}),
            2 => serde_json::json!({"detail": [{"loc": ["body"], "msg": message, "type": "value_error", "input": alarm}]}),
            _ => serde_json::json!({"message": message, "type": "invalid_request_error", "code": null}),
        };
        let outcome = classify(status, &HeaderMap::new(), body.to_string().as_bytes());
        prop_assert_eq!(outcome.kind(), Kind::Rejected);
        prop_assert_eq!(outcome.retry_after(), None);
        prop_assert!(!outcome.may_fail_over() && !outcome.may_repeat());
    }

    #[test]
    fn what_an_answer_says_never_makes_it_a_failure(alarm in prop::sample::select(ALARMS), shape in 0..4) {
        let text = serde_json::json!({"error": {"code": 429, "message": alarm}}).to_string();
        let body = match shape {
            0 => serde_json::json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}),
            1 => serde_json::json!({"type": "message", "role": "assistant", "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}),
            2 => serde_json::json!({"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]}),
            _ => serde_json::json!({"message": {"role": "assistant", "content": text}, "done": true}),
        };
        let outcome = classify(200, &HeaderMap::new(), body.to_string().as_bytes());
        prop_assert_eq!(outcome.kind(), Kind::Success);
    }

    #[test]
    fn no_bytes_make_it_panic(
        status in 100_u16..1000,
        names in prop::collection::vec(prop::sample::select(&[
            "retry-after", "retry-after-ms", "x-amz-retry-after", "x-amzn-errortype", "date",
            "grpc-status", "grpc-status-details-bin", "content-type", "x-ratelimit-reset",
            "x-ratelimit-remaining", "ratelimit", "ratelimit-policy",
            "anthropic-ratelimit-requests-reset", "anthropic-ratelimit-requests-remaining",
        ][..]), 0..6),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 6),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[{}\\[\\]\"':,a-z\\\\0-9 ]{0,80}".prop_map(String::into_bytes),
        ],
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in names.into_iter().zip(values) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        let outcome = classify(status, &headers, &body);
        prop_assert!(!outcome.evidence().is_empty());
        let streamed = classify_stream_error(Provider::Google, &headers, Some("error"), &body);
        prop_assert!(!streamed.evidence().is_empty());
    }

    /// A bounded read may cut an error body anywhere: once the code was read, it decides.
    #[test]
    fn an_error_body_that_was_cut_is_still_read(cut in 0_usize..200) {
        let start = r#"{"error":{"code":"queue_exceeded","#;
        let end = r#""message":"a \"long\" é message","param":["x",{"y":null}],"more":{"z":[1,2,3]}}}"#;
        let whole = [start, end].concat();
        let cut = start.len() + cut.min(end.len());
        let outcome = classify(429, &HeaderMap::new(), &whole.as_bytes()[..cut]);
        prop_assert_eq!(outcome.kind(), Kind::Overloaded);
    }
}
