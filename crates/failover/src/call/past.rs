use tokio::time::Instant;

use backstop_core::Trace;

use crate::{Skipped, guards::WentWrong};

/// What has happened in a call so far. Most calls have no past: the first attempt answers.
pub(super) struct Past<L> {
    pub(super) trace: Trace,
    pub(super) went_wrong: WentWrong,
    /// What the target said or did that speaks for all if none answers.
    pub(super) first: Option<Box<L>>,
    /// Who would have been asked first: the first one that could not be asked for now, or that can
    /// never serve such a request.
    pub(super) passed_over: Option<(usize, Skipped)>,
    /// When a target that has no room is worth asking again.
    pub(super) room_at: Option<Instant>,
}

impl<L> Default for Past<L> {
    fn default() -> Self {
        Self {
            trace: Trace::default(),
            went_wrong: WentWrong::default(),
            first: None,
            passed_over: None,
            room_at: None,
        }
    }
}
