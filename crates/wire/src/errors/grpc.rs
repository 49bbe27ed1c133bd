//! gRPC: the status is in the trailers, the details in `grpc-status-details-bin`.

use backstop_core::{
    Kind, Outcome, Scope,
    protobuf::{self, Field, Fields},
};
use base64::Engine as _;
use http::HeaderMap;

use super::{
    Answer,
    envelope::{Envelope, Report, Shape},
    generic, rule, with_advice,
};
use crate::{Provider, hints};

/// The outcome of an answer over gRPC; `None` when it states no gRPC status.
pub(super) fn classify(answer: &Answer<'_>) -> Option<Outcome> {
    // An answer without messages has its trailers in the head.
    let place = [answer.trailers, Some(answer.headers)]
        .into_iter()
        .flatten()
        .find(|map| map.contains_key("grpc-status"));
    let Some(place) = place else {
        return (answer.status.is_success()).then(|| {
            Outcome::new(Kind::Malformed).with_evidence("gRPC answer without grpc-status")
        });
    };
    let code: u32 = hints::text_of(place, "grpc-status")
        .and_then(|text| text.parse().ok())
        .unwrap_or(2);
    if code == 0 {
        return Some(Outcome::success().with_evidence("grpc-status 0"));
    }
    let mut report = Report::default();
    if let Some(message) = hints::text_of(place, "grpc-message") {
        report.add_text(&percent_decoded(message));
    }
    if let Some(details) = hints::text_of(place, "grpc-status-details-bin") {
        read_details(details, &mut report);
    }
    let outcome = by_code(code, &report);
    let envelope = Envelope {
        shape: Shape::Json,
        reports: vec![report],
    };
    let outcome = with_advice(outcome, place, &envelope);
    Some(advised(outcome, code, place))
}

/// What a gRPC status code stands for (grpc.io, "Status codes and their use in gRPC").
fn by_code(code: u32, report: &Report) -> Outcome {
    let phrase = || generic::PHRASES.iter().find_map(|rule| rule.decide(report));
    let kind_of_phrase = |kinds: &[Kind]| phrase().filter(|found| kinds.contains(&found.kind()));
    match code {
        1 if report.says("timeout") || report.says("timed out") || report.says("deadline") => {
            rule::SLOW.with_evidence("grpc-status CANCELLED by a timeout")
        }
        1 => rule::DOWN
            .with_scope(Scope::Request)
            .with_evidence("grpc-status CANCELLED"),
        3 => kind_of_phrase(&[
            Kind::ContextTooLong,
            Kind::ContentFiltered,
            Kind::Unsupported,
            Kind::NotFound,
            Kind::Unauthorized,
        ])
        .unwrap_or(rule::WRONG.with_evidence("grpc-status INVALID_ARGUMENT")),
        4 => rule::SLOW.with_evidence("grpc-status DEADLINE_EXCEEDED"),
        5 => rule::NOT_FOUND.with_evidence("grpc-status NOT_FOUND"),
        6 => rule::WRONG.with_evidence("grpc-status ALREADY_EXISTS"),
        7 => kind_of_phrase(&[Kind::QuotaExhausted])
            .unwrap_or(rule::AUTH_KEY.with_evidence("grpc-status PERMISSION_DENIED")),
        8 if report.says("larger than max") || report.says("message too large") => {
            rule::TOO_LARGE.with_evidence("grpc-status RESOURCE_EXHAUSTED for a message's size")
        }
        8 => super::google::FAMILY
            .rows
            .iter()
            .find_map(|rule| rule.decide(report))
            .or_else(|| kind_of_phrase(&[Kind::QuotaExhausted, Kind::Overloaded]))
            .unwrap_or(rule::LIMIT_MODEL.with_evidence("grpc-status RESOURCE_EXHAUSTED")),
        9 => kind_of_phrase(&[Kind::Unavailable, Kind::QuotaExhausted, Kind::Unauthorized])
            .unwrap_or(rule::WRONG.with_evidence("grpc-status FAILED_PRECONDITION")),
        // The caller may repeat the whole sequence, here or elsewhere.
        10 => rule::CLASH
            .with_fail_over(true)
            .with_evidence("grpc-status ABORTED"),
        11 => kind_of_phrase(&[Kind::ContextTooLong])
            .unwrap_or(rule::WRONG.with_evidence("grpc-status OUT_OF_RANGE")),
        12 => rule::UNSUPPORTED.with_evidence("grpc-status UNIMPLEMENTED"),
        13 | 15 => kind_of_phrase(&[Kind::ContextTooLong])
            .unwrap_or(rule::DOWN.with_evidence("grpc-status INTERNAL")),
        14 => kind_of_phrase(&[Kind::Overloaded, Kind::Throttled])
            .unwrap_or(rule::DOWN.with_evidence("grpc-status UNAVAILABLE")),
        16 => rule::AUTH_KEY.with_evidence("grpc-status UNAUTHENTICATED"),
        _ => kind_of_phrase(&[Kind::Overloaded])
            .unwrap_or(rule::DOWN.with_evidence("grpc-status UNKNOWN")),
    }
}

/// The server's advice on asking again. A push-back that is negative or no number forbids it (gRFC
/// A6); a spent resource without a stated wait is not to be retried (OpenTelemetry, OTLP/gRPC
/// throttling).
fn advised(outcome: Outcome, code: u32, place: &HeaderMap) -> Outcome {
    let forbidden = hints::text_of(place, "grpc-retry-pushback-ms")
        .is_some_and(|text| text.parse::<u32>().is_err());
    let silent = code == 8 && outcome.retry_after().is_none() && outcome.kind() == Kind::Throttled;
    if forbidden || silent {
        outcome.with_repeat(false)
    } else {
        outcome
    }
}

/// Reads google.rpc.Status from its base64, with or without padding.
fn read_details(text: &str, report: &mut Report) {
    let engine = base64::engine::general_purpose::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::general_purpose::NO_PAD,
    );
    let Ok(bytes) = engine.decode(text.trim_end_matches('=')) else {
        return;
    };
    report.family = Provider::Google;
    for (number, field) in Fields::new(&bytes) {
        match (number, field) {
            (2, Field::Bytes(message)) if !report.has_message() => {
                report.add_text(&String::from_utf8_lossy(message));
            }
            (3, Field::Bytes(any)) => read_detail(any, report),
            _ => {}
        }
    }
}

/// One `google.protobuf.Any` of the details.
fn read_detail(any: &[u8], report: &mut Report) {
    let (mut url, mut value): (&[u8], &[u8]) = (b"", b"");
    for (number, field) in Fields::new(any) {
        match (number, field) {
            (1, Field::Bytes(bytes)) => url = bytes,
            (2, Field::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    if url.ends_with(b"google.rpc.RetryInfo") {
        for (number, field) in Fields::new(value) {
            if let (1, Field::Bytes(duration)) = (number, field) {
                report.set_delay(protobuf::duration(duration));
            }
        }
    } else if url.ends_with(b"google.rpc.QuotaFailure") {
        for (_, field) in Fields::new(value) {
            let Field::Bytes(violation) = field else {
                continue;
            };
            for (_, field) in Fields::new(violation) {
                if let Field::Bytes(text) = field {
                    report.take_quota(&String::from_utf8_lossy(text));
                }
            }
        }
    } else if url.ends_with(b"google.rpc.ErrorInfo") {
        for (number, field) in Fields::new(value) {
            if let (1, Field::Bytes(reason)) = (number, field) {
                report.add_word(&String::from_utf8_lossy(reason));
            }
        }
    }
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2); what is not well encoded stays as it is.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digit = |at: usize| {
            let digit = char::from(*bytes.get(at)?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        if *byte == b'%'
            && let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2))
        {
            decoded.push(high << 4 | low);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
