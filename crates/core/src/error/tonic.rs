//! tonic.

use std::{error::Error, time::Duration};

use tonic::{Code, Status};

use super::{connecting, deeper};
use crate::{
    HintSource, Kind, Outcome, Phase, RetryAfter,
    protobuf::{self, Field, Fields},
};

pub(super) fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    if let Some(status) = error.downcast_ref::<Status>() {
        // A status made on this side out of another error has that as its source.
        return Some(deeper(status).unwrap_or_else(|| of_status(status)));
    }
    // The timer of a channel or server covers the response future, which ends with the head.
    if error.is::<tonic::TimeoutExpired>() {
        return Some(Outcome::timed_out(Phase::Headers).with_evidence("tonic: timed out"));
    }
    error
        .is::<tonic::ConnectError>()
        .then(|| connecting(error, "tonic: no connection"))
}

/// What the code means, with the wait that the server asks for: the push-back of gRFC A6 in the
/// metadata, or a `google.rpc.RetryInfo` among the details.
fn of_status(status: &Status) -> Outcome {
    let mut outcome = of_code(status.code());
    let push_back = status.metadata().get("grpc-retry-pushback-ms");
    let push_back = push_back.and_then(|value| value.to_str().ok());
    // One that is negative or no number forbids another try.
    if push_back.is_some_and(|text| text.parse::<u32>().is_err()) {
        outcome = outcome.with_repeat(false);
    }
    let pushed_back = || {
        Some(RetryAfter {
            delay: Duration::from_millis(push_back?.parse().ok()?),
            source: HintSource::Header,
        })
    };
    let stated = || {
        Some(RetryAfter {
            delay: retry_delay(status.details())?,
            source: HintSource::Body,
        })
    };
    match pushed_back().or_else(stated) {
        Some(hint) => outcome.with_retry_after(hint.delay, hint.source),
        None => outcome,
    }
}

/// The delay of the first `google.rpc.RetryInfo` in a `google.rpc.Status`; a negative one is none.
fn retry_delay(status: &[u8]) -> Option<Duration> {
    fn parts(message: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
        Fields::new(message).filter_map(move |(number, field)| match field {
            Field::Bytes(bytes) if number == wanted => Some(bytes),
            _ => None,
        })
    }
    // Status: details = 3, each a google.protobuf.Any: type_url = 1, value = 2.
    let is_info = |any: &&[u8]| {
        let url = parts(any, 1).next();
        url.is_some_and(|url| url.ends_with(b"/google.rpc.RetryInfo"))
    };
    let info = parts(status, 3).find(is_info)?;
    // RetryInfo: retry_delay = 1.
    protobuf::duration(parts(parts(info, 2).next()?, 1).next()?)
}

/// The canonical meanings: <https://grpc.io/docs/guides/status-codes/>.
const fn of_code(code: Code) -> Outcome {
    let (kind, evidence) = match code {
        Code::Ok => (Kind::Malformed, "grpc: OK as an error"),
        // The caller's own cancellation never comes back as a status: it drops the call.
        Code::Cancelled => (Kind::Unavailable, "grpc: CANCELLED"),
        Code::Unknown => (Kind::Unavailable, "grpc: UNKNOWN"),
        Code::InvalidArgument => (Kind::Rejected, "grpc: INVALID_ARGUMENT"),
        Code::DeadlineExceeded => (Kind::TimedOut(Phase::Total), "grpc: DEADLINE_EXCEEDED"),
        Code::NotFound => (Kind::NotFound, "grpc: NOT_FOUND"),
        Code::AlreadyExists => (Kind::Rejected, "grpc: ALREADY_EXISTS"),
        Code::PermissionDenied => (Kind::Unauthorized, "grpc: PERMISSION_DENIED"),
        Code::ResourceExhausted => (Kind::Throttled, "grpc: RESOURCE_EXHAUSTED"),
        Code::FailedPrecondition => (Kind::Rejected, "grpc: FAILED_PRECONDITION"),
        Code::Aborted => (Kind::Unavailable, "grpc: ABORTED"),
        Code::OutOfRange => (Kind::Rejected, "grpc: OUT_OF_RANGE"),
        Code::Unimplemented => (Kind::Unsupported, "grpc: UNIMPLEMENTED"),
        Code::Internal => (Kind::Unavailable, "grpc: INTERNAL"),
        Code::Unavailable => (Kind::Unavailable, "grpc: UNAVAILABLE"),
        Code::DataLoss => (Kind::Malformed, "grpc: DATA_LOSS"),
        Code::Unauthenticated => (Kind::Unauthorized, "grpc: UNAUTHENTICATED"),
    };
    Outcome::new(kind).with_evidence(evidence)
}
