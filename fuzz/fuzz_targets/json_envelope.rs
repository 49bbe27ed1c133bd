//! Error bodies of any provider under any status, alone and inside what must not be misread.
//!
//! The first byte chooses the provider, the second the status; the rest is the body.

#![no_main]

use backstop_core::{Kind, Outcome};
use backstop_fuzz::provider;
use backstop_wire::{
    Provider,
    errors::{Answer, classify_answer, classify_stream_error},
};
use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;

const STATUSES: [u16; 16] = [
    200, 302, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 498, 500, 503, 529,
];

fn classify(provider: Provider, status: u16, body: &[u8]) -> Outcome {
    let outcome = classify_answer(&Answer {
        provider,
        status: StatusCode::from_u16(status).expect("a status"),
        headers: &HeaderMap::new(),
        body,
        trailers: None,
    });
    assert!(!outcome.evidence().is_empty());
    outcome
}

fuzz_target!(|data: &[u8]| {
    let [chosen, status, body @ ..] = data else {
        return;
    };
    let provider = provider(*chosen);
    let status = STATUSES[usize::from(*status) % STATUSES.len()];
    let outcome = classify(provider, status, body);

    // What may stand before an answer changes nothing.
    if !body.trim_ascii().is_empty() && !body.starts_with(b"\xef\xbb\xbf") {
        let marked = [b"\xef\xbb\xbf\n\r\n", body].concat();
        assert_eq!(classify(provider, status, &marked), outcome);
    }

    let streamed = classify_stream_error(provider, &HeaderMap::new(), Some("error"), body);
    assert!(!streamed.is_success());

    // As the text of an answer, it is an answer; as the input that a validation error echoes, it
    // decides nothing.
    let text = serde_json::Value::from(String::from_utf8_lossy(body).into_owned());
    if !text.as_str().unwrap_or_default().is_empty() {
        let answer = format!(
            "{{\"choices\":[{{\"message\":{{\"content\":{text}}},\"finish_reason\":\"stop\"}}]}}"
        );
        assert!(classify(provider, 200, answer.as_bytes()).is_success());
    }
    let echo = format!(
        "{{\"detail\":[{{\"type\":\"missing\",\"msg\":\"Field required\",\"input\":{text}}}]}}"
    );
    let outcome = classify(Provider::Unknown, 422, echo.as_bytes());
    assert_eq!(outcome.kind(), Kind::Rejected);
    assert_eq!(outcome.retry_after(), None);
});
