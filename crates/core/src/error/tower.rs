//! tower.

use std::error::Error;

use crate::{Kind, Outcome, Phase, Scope};

pub(super) fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    // Its timer covers the response future, which ends with the head.
    if error.is::<tower::timeout::error::Elapsed>() {
        return Some(Outcome::timed_out(Phase::Headers).with_evidence("tower: timed out"));
    }
    // Shed by a limit in front of the target: the target never saw it and is not to blame.
    if error.is::<tower::load_shed::error::Overloaded>() {
        return Some(
            Outcome::new(Kind::NotProcessed)
                .with_scope(Scope::Request)
                .with_evidence("tower: load shed"),
        );
    }
    None
}
