//! hyper, hyper-util's legacy client and h2.

use std::error::Error;

use h2::Reason;

use super::{connecting, deeper, of_io};
use crate::{Failure, Kind, Outcome, Phase};

pub(super) fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    if let Some(client) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        // What else it may be is said by the hyper error behind it.
        return client
            .is_connect()
            .then(|| connecting(error, "hyper-util: no connection"));
    }
    if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
        return Some(of_hyper(hyper));
    }
    error.downcast_ref::<h2::Error>().map(of_h2)
}

fn of_hyper(error: &hyper::Error) -> Outcome {
    // Both mean that the connection was gone before anything of the request was written to it.
    if error.is_canceled() {
        return outcome(Kind::NotProcessed, "hyper: never sent");
    }
    if error.is_closed() {
        return outcome(Kind::NotProcessed, "hyper: connection closed before");
    }
    // The body of the request failed, and the target did nothing. A body that was refused on this
    // side has said why; otherwise whoever sends it broke off.
    if error.is_user() {
        let said = error.source().and_then(Failure::find);
        return said.map_or(
            outcome(Kind::Cancelled, "hyper: request broken off on this side"),
            Failure::outcome,
        );
    }
    if error.is_parse() {
        return outcome(Kind::Malformed, "hyper: not HTTP");
    }
    if let Some(outcome) = deeper(error) {
        return outcome;
    }
    // hyper's own timer towards a server is the HTTP/2 keep-alive: a ping was not answered.
    if error.is_timeout() {
        return outcome(Kind::TimedOut(Phase::Idle), "hyper: keep-alive timed out");
    }
    if error.is_incomplete_message() {
        return outcome(Kind::Unavailable, "hyper: connection closed midway");
    }
    outcome(Kind::Unavailable, "hyper: connection error")
}

/// RFC 9113 section 8.7 names the two cases in which a request is known not to be processed:
/// `REFUSED_STREAM`, and a `GOAWAY` that the stream came too late for. h2 reports the latter only to
/// streams above the last one that the peer says it may have processed; with any code but
/// `NO_ERROR` the connection breaks and the older streams see the same error, so it proves nothing.
fn of_h2(error: &h2::Error) -> Outcome {
    if let Some(io) = error.get_io() {
        return of_io(io).unwrap_or_else(|| outcome(Kind::Unavailable, "h2: connection error"));
    }
    if !error.is_remote() {
        return outcome(Kind::Unavailable, "h2: broken off on this side");
    }
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => outcome(Kind::NotProcessed, "h2: refused stream"),
        Some(Reason::NO_ERROR) if error.is_go_away() => {
            outcome(Kind::NotProcessed, "h2: going away")
        }
        Some(Reason::ENHANCE_YOUR_CALM) => outcome(Kind::Throttled, "h2: enhance your calm"),
        Some(Reason::CANCEL) => outcome(Kind::Unavailable, "h2: cancelled by the server"),
        _ if error.is_go_away() => outcome(Kind::Unavailable, "h2: connection given up"),
        _ => outcome(Kind::Unavailable, "h2: stream reset"),
    }
}

const fn outcome(kind: Kind, evidence: &'static str) -> Outcome {
    Outcome::new(kind).with_evidence(evidence)
}
