//! tonic.

use std::{error::Error, time::Duration};

use tonic::{Code, Status};

use super::{connecting, deeper};
use crate::{HintSource, Kind, Outcome, Phase, RetryAfter};

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
    fn part(message: &[u8], number: u64) -> Option<&[u8]> {
        Fields(message).find_map(|field| field.bytes(number))
    }
    // Status: details = 3, each a google.protobuf.Any: type_url = 1, value = 2.
    let mut details = Fields(status).filter_map(|field| field.bytes(3));
    let is_info =
        |any: &&[u8]| part(any, 1).is_some_and(|url| url.ends_with(b"/google.rpc.RetryInfo"));
    // RetryInfo: retry_delay = 1, a google.protobuf.Duration: seconds = 1, nanos = 2.
    let delay = part(part(details.find(is_info)?, 2)?, 1)?;
    let number = |number| Fields(delay).find_map(|field| field.number(number));
    // Negative numbers are two's complement: beyond the largest signed one.
    let seconds = i64::try_from(number(1).unwrap_or(0)).ok()?;
    let nanos = number(2).unwrap_or(0);
    let nanos = u32::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds.unsigned_abs(), nanos))
}

/// The fields of a protobuf message, up to the first that is broken.
struct Fields<'a>(&'a [u8]);

/// A field by its number, as far as it is used here.
enum Field<'a> {
    Number(u64, u64),
    Bytes(u64, &'a [u8]),
}

impl<'a> Field<'a> {
    fn number(&self, wanted: u64) -> Option<u64> {
        match self {
            Self::Number(number, value) if *number == wanted => Some(*value),
            _ => None,
        }
    }

    fn bytes(&self, wanted: u64) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(number, value) if *number == wanted => Some(value),
            _ => None,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let number = key >> 3;
        let length = match key & 7 {
            0 => return Some(Field::Number(number, self.varint()?)),
            1 => 8,
            2 => usize::try_from(self.varint()?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Field::Bytes(number, value))
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
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
