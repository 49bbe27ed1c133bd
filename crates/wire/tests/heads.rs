//! What the head of a response decides, and what of it is remembered for the end of the body.

use std::{io, time::Duration};

use backstop_core::{BoxError, Classify, ClassifyStream, End, Kind, Outcome, Progress, Verdict};
use backstop_wire::{AnswerReader, ClassifyHttp, Dialect, UNARY_LIMIT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        (
            http::HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    pairs.collect()
}

fn reader(status: u16, pairs: &[(&'static str, &'static str)]) -> AnswerReader {
    let status = StatusCode::from_u16(status).expect("a status");
    ClassifyHttp::new(Dialect::OpenAiChat).reader(status, &headers(pairs))
}

fn reset() -> BoxError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

#[test]
fn what_an_inner_layer_found_out_decides() {
    let mut response = Response::new(());
    let known = Outcome::new(Kind::Overloaded).with_evidence("known");
    response.extensions_mut().insert(known);
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let verdict = Classify::<Request<()>, _>::on_response(&classify, &None, &response);
    assert!(matches!(verdict, Verdict::Now(outcome) if outcome == known));
}

#[test]
fn a_retry_hint_of_the_head_holds_for_an_error_in_the_stream() {
    let pairs = [("content-type", "text/event-stream"), ("retry-after", "7")];
    let mut reader = reader(200, &pairs);
    let error = b"data: {\"error\":{\"code\":\"rate_limit_exceeded\"}}\n\n";
    let failed = reader.on_data(error).failed.unwrap();
    assert_eq!(failed.kind(), Kind::Throttled);
    let delay = failed.retry_after().map(|hint| hint.delay);
    assert_eq!(delay, Some(Duration::from_secs(7)));
}

#[test]
fn an_error_status_says_more_than_how_its_body_ends() {
    let error = reset();
    for end in [End::Clean(None), End::Error(&*error), End::Dropped] {
        let mut reader = reader(429, &[("content-type", "application/json")]);
        let step = reader.on_data(b"{\"error\":{\"mess");
        assert_eq!(step.failed, None);
        assert_eq!(reader.on_end(end).kind(), Kind::Throttled);
    }
}

#[test]
fn an_error_status_of_grpc_says_more_than_how_its_body_ends() {
    let error = reset();
    for end in [End::Clean(None), End::Error(&*error), End::Dropped] {
        let mut reader = reader(429, &[("content-type", "application/grpc")]);
        assert_eq!(reader.on_end(end).kind(), Kind::Throttled);
    }
}

#[test]
fn a_success_that_breaks_off_is_what_broke_it() {
    let error = reset();
    let unary = || {
        let mut reader = reader(200, &[("content-type", "application/json")]);
        reader.on_data(b"{\"choices\":[");
        reader
    };
    assert_eq!(
        unary().on_end(End::Error(&*error)).kind(),
        Kind::Unavailable
    );
    assert_eq!(unary().on_end(End::Dropped).kind(), Kind::Cancelled);
    assert_eq!(unary().on_end(End::Clean(None)).kind(), Kind::Malformed);
}

#[test]
fn grpc_is_decided_by_its_trailers() {
    let grpc = [("content-type", "application/grpc+proto")];
    let ok = headers(&[("grpc-status", "0")]);
    let exhausted = headers(&[("grpc-status", "8"), ("grpc-retry-pushback-ms", "1500")]);

    let mut call = reader(200, &grpc);
    assert_eq!(call.on_data(b"\0\0\0\0\x01x").progress, Progress::Token);
    assert!(call.on_end(End::Clean(Some(&ok))).is_success());

    let outcome = reader(200, &grpc).on_end(End::Clean(Some(&exhausted)));
    assert_eq!(outcome.kind(), Kind::Throttled);
    let delay = outcome.retry_after().map(|hint| hint.delay);
    assert_eq!(delay, Some(Duration::from_millis(1500)));

    let head_only = [grpc[0], ("grpc-status", "14")];
    let outcome = reader(200, &head_only).on_end(End::Clean(None));
    assert_eq!(outcome.kind(), Kind::Unavailable);

    let mut cut = reader(200, &grpc);
    cut.on_data(b"\0\0\0\0\x01x");
    assert_eq!(cut.on_end(End::Clean(None)).kind(), Kind::Malformed);
}

#[test]
fn a_grpc_answer_that_is_all_head_is_known_at_once() {
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("14"));
    let verdict = Classify::<Request<()>, _>::on_response(&classify, &None, &response);
    assert!(matches!(verdict, Verdict::Now(outcome) if outcome.kind() == Kind::Unavailable));
}

#[test]
fn an_encoded_body_is_passed_on_unread() {
    let pairs = [
        ("content-type", "text/event-stream"),
        ("content-encoding", "gzip"),
    ];
    let mut encoded = reader(200, &pairs);
    // It may be an error: nobody commits to what nobody has read.
    assert_eq!(encoded.on_data(b"\x1f\x8b").progress, Progress::KeepAlive);
    assert!(encoded.on_end(End::Clean(None)).is_success());
    assert_eq!(
        reader(200, &pairs).on_end(End::Clean(None)).kind(),
        Kind::Malformed
    );
    assert_eq!(
        reader(503, &pairs).on_end(End::Clean(None)).kind(),
        Kind::Unavailable
    );
    for encoding in ["gzip", "br", "zstd", "gzip, br"] {
        let pairs = [("content-encoding", encoding), ("retry-after", "7")];
        let mut refused = reader(429, &pairs);
        refused.on_data(b"\x1f\x8b no JSON");
        let outcome = refused.on_end(End::Clean(None));
        assert_eq!(outcome.kind(), Kind::Throttled);
        assert_eq!(
            outcome.retry_after().map(|hint| hint.delay.as_secs()),
            Some(7)
        );
    }
    let pairs = [pairs[0], ("content-encoding", "identity")];
    let mut plain = reader(200, &pairs);
    let token = plain.on_data(b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
    assert_eq!(token.progress, Progress::Token);
}

#[test]
fn the_reset_of_a_spent_limit_is_the_wait_for_an_error_under_a_200_too() {
    let error = br#"{"error":{"message":"x","code":"rate_limit_exceeded"}}"#;
    let event = [b"data: ", &error[..], b"\n\n"].concat();
    for (content_type, body) in [
        ("application/json", &error[..]),
        ("text/event-stream", &event[..]),
    ] {
        for (left, expected) in [("0", Some(8640)), ("1", None)] {
            let mut reader = reader(
                200,
                &[
                    ("content-type", content_type),
                    ("x-ratelimit-remaining-tokens", left),
                    ("x-ratelimit-reset-tokens", "8.64s"),
                    ("x-ratelimit-remaining-requests", "9"),
                    ("x-ratelimit-reset-requests", "20s"),
                ],
            );
            reader.on_data(body);
            let outcome = reader.on_end(End::Clean(None));
            assert_eq!(outcome.kind(), Kind::Throttled, "{content_type}");
            let wait = outcome.retry_after().map(|hint| hint.delay.as_millis());
            assert_eq!(wait, expected, "{content_type}, {left} left");
        }
    }
}

/// Whoever passes a body on may go on feeding after the verdict.
#[test]
fn blank_lines_without_end_fail_once_and_are_read_no_further() {
    let mut reader = reader(200, &[("content-type", "application/json")]);
    let blank = vec![b'\n'; UNARY_LIMIT / 2];
    assert_eq!(reader.on_data(&blank).failed, None);
    assert_eq!(reader.on_data(&blank).failed, None);
    let failed = reader.on_data(&blank).failed.map(|outcome| outcome.kind());
    assert!(matches!(failed, Some(Kind::TimedOut(_))), "{failed:?}");
    for late in [&b"\n"[..], b"data: {}\n\n", b"{\"choices\":[]}"] {
        let step = reader.on_data(late);
        assert_eq!((step.progress, step.failed), (Progress::None, None));
    }
    let end = reader.on_end(End::Clean(None)).kind();
    assert!(matches!(end, Kind::TimedOut(_)), "{end:?}");
}
