use std::time::Duration;

use crate::{
    ConfigError,
    epoch::nanos,
    sync::{AtomicU64, Ordering},
};

/// Asking the next target while the first token of the one before is late. Off unless it is set.
///
/// Whichever begins to answer first wins, and the other is called off at once. Failures do not win:
/// the other attempt goes on. Each hedge is paid from the [`Budget`](crate::budget::Budget).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge(When);

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    After(Duration),
    Percentile { quantile: f64, least: Duration },
}

/// Where a quantile of the times to the first token is, for one target.
///
/// An estimate that needs no memory of samples: each one above moves it up a little, each one below
/// moves it down a little, in the ratio that balances at the quantile.
#[derive(Debug, Default)]
pub(crate) struct Quantile {
    /// In nanoseconds.
    estimate: AtomicU64,
    samples: AtomicU64,
}

// === impl Hedge ===

impl Hedge {
    /// Asks the next target when there is no first token after this time.
    #[must_use]
    pub const fn after(delay: Duration) -> Self {
        Self(When::After(delay))
    }

    /// Asks the next target when the first token takes longer than this share of them do (0.95 for
    /// the slowest in twenty), by a running estimate for each target, but not before `least`.
    ///
    /// Nothing is hedged before a target has been seen to answer 20 times.
    ///
    /// # Errors
    ///
    /// When the share is not above 0 and below 1.
    pub fn percentile(share: f64, least: Duration) -> Result<Self, ConfigError> {
        ConfigError::ensure(
            share > 0.0 && share < 1.0,
            "hedge.percentile",
            "a share above 0 and below 1",
        )?;
        Ok(Self(When::Percentile {
            quantile: share,
            least,
        }))
    }

    /// How long to wait for a target whose times are `seen`.
    pub(crate) fn delay(&self, seen: &Quantile) -> Option<Duration> {
        match self.0 {
            When::After(delay) => Some(delay),
            When::Percentile { least, .. } => seen.get().map(|estimate| estimate.max(least)),
        }
    }

    /// Takes note of a time to the first token.
    pub(crate) fn record(&self, seen: &Quantile, took: Duration) {
        if let When::Percentile { quantile, .. } = self.0 {
            seen.record(took, quantile);
        }
    }

    /// Takes note of a time for which a first token was waited for in vain: because the attempt
    /// timed out, or was called off when another one answered.
    ///
    /// Without it the estimate would only hear of those that were quick enough, and sink.
    pub(crate) fn record_wait(&self, seen: &Quantile, waited: Duration) {
        if let When::Percentile { quantile, .. } = self.0 {
            seen.record_wait(waited, quantile);
        }
    }
}

// === impl Quantile ===

impl Quantile {
    /// Fewer samples say nothing about the slowest in twenty.
    const LEAST_SAMPLES: u64 = 20;

    /// How far one sample moves the estimate at most, as a share of it.
    const STEP: f64 = 0.1;

    fn get(&self) -> Option<Duration> {
        (self.samples.load(Ordering::Relaxed) >= Self::LEAST_SAMPLES)
            .then(|| Duration::from_nanos(self.estimate.load(Ordering::Relaxed)))
    }

    fn record(&self, took: Duration, quantile: f64) {
        let took = nanos(took).max(1);
        // The first samples only raise it, so that it starts at their maximum.
        let samples = self.samples.fetch_add(1, Ordering::Relaxed);
        if samples < Self::LEAST_SAMPLES {
            self.estimate.fetch_max(took, Ordering::Relaxed);
            return;
        }
        let is_above = took > self.estimate.load(Ordering::Relaxed);
        self.move_by(if is_above {
            1.0 + Self::STEP * quantile
        } else {
            1.0 - Self::STEP * (1.0 - quantile)
        });
    }

    /// A wait that is shorter than the estimate does not say on which side of it the time is.
    fn record_wait(&self, waited: Duration, quantile: f64) {
        if self.get().is_some_and(|estimate| waited >= estimate) {
            self.move_by(1.0 + Self::STEP * quantile);
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of some seconds in nanoseconds, never negative"
    )]
    fn move_by(&self, share: f64) {
        // Samples that are lost in a race do not matter.
        let estimate = self.estimate.load(Ordering::Relaxed);
        let moved = (estimate as f64 * share) as u64;
        self.estimate.store(moved.max(1), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_finds_the_quantile() {
        let seen = Quantile::default();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            seen.record(Duration::from_micros(random.u64(1..=100_000)), 0.9);
        }
        let estimate = seen.get().unwrap();
        let found = Duration::from_millis(80)..Duration::from_millis(100);
        assert!(found.contains(&estimate), "{estimate:?}");
    }

    #[test]
    fn a_wait_in_vain_counts_when_it_was_longer_than_the_estimate() {
        let seen = Quantile::default();
        for _ in 0..20 {
            seen.record(Duration::from_millis(100), 0.9);
        }
        let before = seen.get().unwrap();
        seen.record_wait(before / 2, 0.9);
        assert_eq!(seen.get(), Some(before));
        seen.record_wait(before, 0.9);
        assert!(seen.get().unwrap() > before);
    }

    #[test]
    fn too_few_samples_say_nothing() {
        let hedge = Hedge::percentile(0.95, Duration::from_secs(1)).unwrap();
        let seen = Quantile::default();
        for _ in 0..19 {
            hedge.record(&seen, Duration::from_millis(1));
            assert_eq!(hedge.delay(&seen), None);
        }
        hedge.record(&seen, Duration::from_millis(1));
        assert_eq!(hedge.delay(&seen), Some(Duration::from_secs(1)));
        assert!(Hedge::percentile(1.0, Duration::ZERO).is_err());
    }
}
