//! tokio.

use std::error::Error;

use crate::{Outcome, Phase};

/// Which phase ran out is not known: whoever set the timer meant all that is under it.
pub(super) fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    error
        .is::<tokio::time::error::Elapsed>()
        .then(|| Outcome::timed_out(Phase::Total).with_evidence("tokio: timed out"))
}
