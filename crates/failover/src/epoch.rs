use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

/// Turns points in time into integers that fit an atomic.
///
/// The zero of the scale is the first instant that is seen, not the instant of construction: a
/// stack is often built outside of the runtime whose clock it will live by.
#[derive(Debug, Default)]
pub(crate) struct Epoch(OnceLock<Instant>);

impl Epoch {
    /// Nanoseconds since the epoch, at least 1: zero stands for "never" wherever it is stored.
    pub(crate) fn nanos(&self, at: Instant) -> u64 {
        let epoch = *self.0.get_or_init(|| at);
        nanos(at.saturating_duration_since(epoch)).saturating_add(1)
    }

    /// The instant of a value that [`nanos`](Self::nanos) gave.
    pub(crate) fn instant(&self, nanos: u64, now: Instant) -> Instant {
        let epoch = *self.0.get_or_init(|| now);
        epoch
            .checked_add(Duration::from_nanos(nanos.saturating_sub(1)))
            .unwrap_or(now)
    }
}

/// A duration in nanoseconds; more than 584 years are cut.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A duration in milliseconds, rounded up.
pub(crate) fn millis_up(duration: Duration) -> u64 {
    nanos(duration).div_ceil(1_000_000)
}
