#![expect(
    clippy::disallowed_types,
    reason = "a point in time is stored and compared here, but the clock is never read: the caller \
              passes tokio's now, which tests can move"
)]

use std::time::{Duration, Instant};

/// The point in time by which the whole call must be over; a typed request extension.
///
/// Every layer honours it and none extends it: an inner limit may only be shorter. It is not sent
/// to providers.
///
/// It holds a `std` instant because this crate has no runtime, and never reads the clock: pass
/// `tokio::time::Instant::now().into_std()`.
///
/// ```
/// use std::time::Duration;
/// use backstop_core::Deadline;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let now = tokio::time::Instant::now().into_std();
/// let deadline = Deadline::after(now, Duration::from_secs(60));
/// assert_eq!(deadline.remaining(now), Duration::from_secs(60));
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Limits for one request that replace those a timeout layer was built with; a typed request
/// extension.
///
/// `None` leaves the layer's own limit; a phase cannot be switched off from a request. Whatever is
/// set, the [`Deadline`] still holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeLimits {
    /// Waiting for the service to be ready.
    pub ready: Option<Duration>,
    /// From sending to the head of the response.
    pub headers: Option<Duration>,
    /// From the head to the first semantic token. What the layer adds for the size of the request
    /// comes on top.
    pub first_token: Option<Duration>,
    /// Between two semantic events. A bound of the layer for keep-alives that is shorter is raised to
    /// it.
    pub idle: Option<Duration>,
    /// The whole call.
    pub total: Option<Duration>,
}

// === impl Deadline ===

impl Deadline {
    /// A deadline at `at`.
    #[must_use]
    pub const fn at(at: Instant) -> Self {
        Self(at)
    }

    /// A deadline `limit` after `now`. A limit too long for the clock is cut to a year.
    #[must_use]
    pub fn after(now: Instant, limit: Duration) -> Self {
        /// Longer than any call; within every clock's range.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        Self(now.checked_add(limit.min(YEAR)).unwrap_or(now))
    }

    /// The point in time.
    #[must_use]
    pub const fn instant(&self) -> Instant {
        self.0
    }

    /// What is left at `now`; zero when it has passed.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// The earlier of two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }
}
