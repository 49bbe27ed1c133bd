//! The headers that state waits and limits.
//!
//! The first byte chooses the provider; then come headers: a byte that chooses the name, a byte for
//! the length of the value, the value.

#![no_main]

use backstop_core::HintSource;
use backstop_fuzz::provider;
use backstop_wire::{
    errors::{Answer, classify_answer},
    headroom, hints,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 32] = [
    "date",
    "retry-after",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "x-amz-retry-after",
    "grpc-retry-pushback-ms",
    "x-should-retry",
    "x-amzn-errortype",
    "content-type",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
    "ratelimit",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-remaining-tokens-minute",
    "x-ratelimit-reset-tokens-minute",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-input-tokens-reset",
    "anthropic-ratelimit-unified-status",
    "anthropic-ratelimit-unified-reset",
];

fuzz_target!(|data: &[u8]| {
    let Some((chosen, mut rest)) = data.split_first() else {
        return;
    };
    let provider = provider(*chosen);
    let mut headers = HeaderMap::new();
    while let [name, length, more @ ..] = rest {
        let (value, more) = more.split_at(more.len().min(usize::from(*length)));
        rest = more;
        let name = HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    if let Some(hint) = hints::from_headers(&headers) {
        // No wait is made of words alone.
        let name = match hint.source {
            HintSource::RetryAfterMs => &["retry-after-ms", "x-ms-retry-after-ms"][..],
            HintSource::RetryAfter => &["retry-after"],
            _ => &["x-amz-retry-after", "grpc-retry-pushback-ms"],
        };
        let stated = |name: &&str| {
            let value = headers.get(*name).map_or(&b""[..], HeaderValue::as_bytes);
            value.iter().any(u8::is_ascii_digit)
        };
        assert!(name.iter().any(stated));
    }
    let _ = hints::should_retry(&headers);
    if let Some(room) = headroom::read(provider, &headers) {
        assert!(!room.is_empty());
        let share = room.lowest_share();
        assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)));
    }
    for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
        for trailers in [None, Some(&headers)] {
            let outcome = classify_answer(&Answer {
                provider,
                status,
                headers: &headers,
                body: b"",
                trailers,
            });
            assert!(!outcome.evidence().is_empty());
        }
    }
});
