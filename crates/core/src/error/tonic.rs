//! tonic.

use std::error::Error;

use tonic::Code;

use super::{connecting, deeper};
use crate::{Kind, Outcome, Phase};

pub(super) fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        // A status made on this side out of another error has that as its source.
        return Some(deeper(status).unwrap_or_else(|| of_code(status.code())));
    }
    // The timer of a channel or server covers the response future, which ends with the head.
    if error.is::<tonic::TimeoutExpired>() {
        return Some(Outcome::timed_out(Phase::Headers).with_evidence("tonic: timed out"));
    }
    error
        .is::<tonic::ConnectError>()
        .then(|| connecting(error, "tonic: no connection"))
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
