use std::time::Duration;

use backstop_core::{Kind, Outcome};

use crate::ConfigError;

/// Asking the same target again before the next one is asked. Off unless it is set.
///
/// Only what the outcome calls worth repeating is repeated, never an attempt that was silent: who
/// said nothing within the limit will not say it now. Each retry is paid from the
/// [`Budget`](crate::budget::Budget), and fits in the time that the target has.
///
/// Between attempts there is a random wait of up to the base, doubled with each retry (full
/// jitter), and not less than what the target asked for. If it asked for more than
/// [`longest_wait`](Self::longest_wait), the next target is asked instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    times: u32,
    base: Duration,
    cap: Duration,
    longest_wait: Duration,
}

// === impl Retry ===

impl Retry {
    /// Asks a target again at most this many times.
    #[must_use]
    pub const fn times(times: u32) -> Self {
        Self {
            times,
            base: Duration::from_millis(250),
            cap: Duration::from_secs(2),
            longest_wait: Duration::from_secs(2),
        }
    }

    /// The upper bound of the first wait; it doubles with each retry. Default: 250 ms, half of what
    /// the official OpenAI and Anthropic clients begin with, since another target is waiting.
    #[must_use]
    pub const fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The upper bound of any random wait. Default: 2 s.
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The longest wait that a target may ask for. Default: 2 s: beyond that the caller is better
    /// served by somebody else.
    #[must_use]
    pub const fn longest_wait(mut self, wait: Duration) -> Self {
        self.longest_wait = wait;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::ensure(
            self.times == 0 || !self.base.is_zero(),
            "retry.base",
            "more than no time",
        )?;
        ConfigError::ensure(self.cap >= self.base, "retry.cap", "at least `base`")
    }

    /// How long to wait before the retry that follows `outcome`, when `before` retries were made;
    /// `None` when the target is not to be asked again. `random` is from 0 to 1.
    pub(crate) fn wait(&self, outcome: &Outcome, before: u32, random: f64) -> Option<Duration> {
        if before >= self.times
            || !outcome.may_repeat()
            || matches!(outcome.kind(), Kind::TimedOut(_))
        {
            return None;
        }
        let bound = self
            .base
            .saturating_mul(2_u32.saturating_pow(before))
            .min(self.cap);
        let jittered = bound.mul_f64(random.clamp(0.0, 1.0));
        match outcome.retry_after() {
            Some(hint) if hint.delay > self.longest_wait => None,
            Some(hint) => Some(jittered.max(hint.delay)),
            None => Some(jittered),
        }
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::{HintSource, Phase};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_double_up_to_the_cap_and_are_jittered_from_zero() {
        let retry = Retry::times(9).base(100 * MS).cap(350 * MS);
        let outcome = Outcome::new(Kind::Unavailable);
        let bound = |before| retry.wait(&outcome, before, 1.0).unwrap();
        assert_eq!(
            [bound(0), bound(1), bound(2), bound(3)],
            [100 * MS, 200 * MS, 350 * MS, 350 * MS]
        );
        assert_eq!(retry.wait(&outcome, 3, 0.0), Some(Duration::ZERO));
    }

    #[test]
    fn what_the_target_asks_for_is_the_least_wait() {
        let retry = Retry::times(1);
        let asked =
            |wait| Outcome::new(Kind::Throttled).with_retry_after(wait, HintSource::RetryAfter);
        assert_eq!(retry.wait(&asked(1_500 * MS), 0, 0.9), Some(1_500 * MS));
        assert_eq!(retry.wait(&asked(2_001 * MS), 0, 0.9), None);
        assert_eq!(retry.wait(&asked(Duration::ZERO), 0, 1.0), Some(250 * MS));
    }

    #[test]
    fn only_what_may_be_repeated_is() {
        let retry = Retry::times(1);
        for kind in [
            Kind::Rejected,
            Kind::Unauthorized,
            Kind::NotFound,
            Kind::ContextTooLong,
            Kind::ContentFiltered,
            Kind::TooLarge,
            Kind::QuotaExhausted,
            Kind::TimedOut(Phase::Headers),
        ] {
            assert_eq!(retry.wait(&Outcome::new(kind), 0, 0.5), None, "{kind}");
        }
        let outcome = Outcome::new(Kind::Overloaded);
        assert!(retry.wait(&outcome, 0, 0.5).is_some());
        assert_eq!(retry.wait(&outcome, 1, 0.5), None);
        assert_eq!(retry.wait(&outcome.with_repeat(false), 0, 0.5), None);
    }
}
