//! reqwest.

use std::error::Error;

use http::StatusCode;

use super::{connecting, deeper};
use crate::{Kind, Outcome, Phase};

pub(super) fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    let error = error.downcast_ref::<reqwest::Error>()?;
    let outcome = if let Some(status) = error.status() {
        of_status(status)
    } else if error.is_connect() {
        connecting(error, "reqwest: no connection")
    } else if error.is_builder() {
        // Never sent, but what cannot be built now cannot be built later.
        Outcome::new(Kind::NotProcessed)
            .with_repeat(false)
            .with_evidence("reqwest: no request could be built")
    } else if let Some(outcome) = deeper(error) {
        outcome
    } else if error.is_timeout() {
        // Its clocks run from the start of the call; the step that failed says what was awaited.
        let phase = if error.is_body() || error.is_decode() {
            Phase::Idle
        } else {
            Phase::Headers
        };
        Outcome::timed_out(phase).with_evidence("reqwest: timed out")
    } else if error.is_decode() {
        Outcome::new(Kind::Malformed).with_evidence("reqwest: undecodable body")
    } else {
        Outcome::new(Kind::Unavailable).with_evidence("reqwest: request failed")
    };
    Some(outcome)
}

/// A status that `error_for_status` made an error. Headers and body are gone by then, so this is the
/// plain meaning of the code; classify the response itself to learn more.
fn of_status(status: StatusCode) -> Outcome {
    let kind = match status.as_u16() {
        401 | 403 => Kind::Unauthorized,
        404 => Kind::NotFound,
        402 => Kind::QuotaExhausted,
        413 => Kind::TooLarge,
        429 => Kind::Throttled,
        // The phases of time-outs are those that wire reads from responses, and docs/wire.md says why.
        408 => Kind::TimedOut(Phase::Total),
        // A gateway waited for the head of the answer and none came (RFC 9110 section 15.6.5).
        504 | 524 => Kind::TimedOut(Phase::Headers),
        // Cloudflare: the server behind it took no connection.
        522 => Kind::TimedOut(Phase::Connect),
        503 | 529 => Kind::Overloaded,
        400..=499 => Kind::Rejected,
        _ => Kind::Unavailable,
    };
    Outcome::new(kind).with_evidence("reqwest: an error status")
}
