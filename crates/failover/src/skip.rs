use backstop_core::SkipReason;
use tokio::time::Instant;

/// A candidate that was not asked: why, and when asking makes sense again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Why.
    pub reason: SkipReason,
    /// When it is worth asking again; `None` when nobody can tell.
    pub retry_at: Option<Instant>,
}

// === impl Skipped ===

impl Skipped {
    /// Skipped for `reason`, with nothing known about a return.
    #[must_use]
    pub const fn new(reason: SkipReason) -> Self {
        Self {
            reason,
            retry_at: None,
        }
    }

    /// Worth asking again at `at`.
    #[must_use]
    pub const fn until(mut self, at: Instant) -> Self {
        self.retry_at = Some(at);
        self
    }
}
