use std::time::Duration;

use super::word::Word;
use crate::ConfigError;

/// The longest time that can be set: a month is longer than any of these waits is meant to be, and
/// no clock overflows.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// When a target counts as faulting, for how long it is left alone, and how it returns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthConfig {
    pub(super) consecutive_faults: u32,
    pub(super) fault_rate: f64,
    pub(super) min_samples: u64,
    pub(super) window: Duration,
    pub(super) ejection_base: Duration,
    pub(super) ejection_cap: Duration,
    pub(super) jitter: f64,
    pub(super) probe_interval: Duration,
    pub(super) successes_to_return: u32,
    pub(super) ramp_start: f64,
    pub(super) limit_tolerated: Duration,
    pub(super) limit_floor: Duration,
    pub(super) limit_base: Duration,
    pub(super) limit_cap: Duration,
    pub(super) quota_base: Duration,
    pub(super) quota_cap: Duration,
}

impl HealthConfig {
    /// How many faults in a row eject a target. Default: 5, as Envoy's outlier detection.
    #[must_use]
    pub const fn consecutive_faults(mut self, faults: u32) -> Self {
        self.consecutive_faults = faults;
        self
    }

    /// Which share of faults within [`window`](Self::window) ejects a target. Default: 0.5.
    #[must_use]
    pub const fn fault_rate(mut self, rate: f64) -> Self {
        self.fault_rate = rate;
        self
    }

    /// How many attempts within the window there must be before their rate says anything.
    /// Default: 5.
    #[must_use]
    pub const fn min_samples(mut self, samples: u64) -> Self {
        self.min_samples = samples;
        self
    }

    /// Over which time the rate is taken. Default: 10 s.
    #[must_use]
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How long the first ejection lasts; the n-th in close succession lasts n times as long.
    /// Default: 5 s.
    #[must_use]
    pub const fn ejection_base(mut self, base: Duration) -> Self {
        self.ejection_base = base;
        self
    }

    /// The longest ejection. One ejection is forgiven for each such time without another.
    /// Default: 60 s.
    #[must_use]
    pub const fn ejection_cap(mut self, cap: Duration) -> Self {
        self.ejection_cap = cap;
        self
    }

    /// By which share at most an ejection, the wait for the next probe and a guessed limit are
    /// prolonged at random, so that replicas do not return in step. Default: 0.1.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// How long a failed probe puts off the next. It does not grow, so that a target is found to be
    /// well within this time however long it was ill. Default: 5 s.
    #[must_use]
    pub const fn probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval;
        self
    }

    /// How many probes in a row must succeed before the target is back, at most 63. Default: 3: a
    /// target that fails every other time passes one of eight such examinations.
    ///
    /// A probe is over at the end of its body, not at its first token, since a stream can still
    /// break off. Where answers stream for minutes, fewer probes bring a target back sooner.
    #[must_use]
    pub const fn successes_to_return(mut self, successes: u32) -> Self {
        self.successes_to_return = successes;
        self
    }

    /// The share of requests that a target gets in its first second back; it doubles with every
    /// second. 1 switches the ramp off. Default: 0.1, all of them after four seconds.
    #[must_use]
    pub const fn ramp_start(mut self, share: f64) -> Self {
        self.ramp_start = share;
        self
    }

    /// A limit that lasts no longer than this benches nobody: the request that was refused moves on,
    /// the next ones are still sent to the target. Default: none.
    ///
    /// It is for targets that wait a short limit out by themselves, such as `RateLimitLayer` with
    /// `wait_up_to`: two seconds of it are often cheaper than another model, which is not reached at
    /// all while this one is skipped. Set both to the same time.
    #[must_use]
    pub const fn limit_tolerated(mut self, longest: Duration) -> Self {
        self.limit_tolerated = longest;
        self
    }

    /// The shortest time that a throttled target is left alone. Default: 100 ms: providers do send
    /// zero, and mean "not right now".
    #[must_use]
    pub const fn limit_floor(mut self, floor: Duration) -> Self {
        self.limit_floor = floor;
        self
    }

    /// How long a target is left alone that is throttled and does not say for how long; it doubles
    /// with each such refusal in a row. Default: 1 s.
    #[must_use]
    pub const fn limit_base(mut self, base: Duration) -> Self {
        self.limit_base = base;
        self
    }

    /// The longest time that a throttled target is left alone, whatever it says. Default: 60 s:
    /// per-minute limits are the longest that are not quotas, and delays of months are seen.
    #[must_use]
    pub const fn limit_cap(mut self, cap: Duration) -> Self {
        self.limit_cap = cap;
        self
    }

    /// How long a target is left alone whose quota is spent and that does not say until when; it
    /// doubles with each such refusal in a row. Default: 60 s.
    #[must_use]
    pub const fn quota_base(mut self, base: Duration) -> Self {
        self.quota_base = base;
        self
    }

    /// The longest time that a target with a spent quota is left alone. Default: 1 h: a top-up is
    /// noticed within the hour without an operator's word.
    #[must_use]
    pub const fn quota_cap(mut self, cap: Duration) -> Self {
        self.quota_cap = cap;
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        use ConfigError as E;
        let share = 0.0..=1.0;
        E::ensure(
            self.consecutive_faults > 0,
            "health.consecutive_faults",
            "at least 1",
        )?;
        E::ensure(
            self.fault_rate > 0.0 && self.fault_rate <= 1.0,
            "health.fault_rate",
            "above 0 and up to 1",
        )?;
        E::ensure(self.min_samples > 0, "health.min_samples", "at least 1")?;
        E::ensure(
            self.window >= Duration::from_millis(10) && self.window <= LONGEST,
            "health.window",
            "from 10 ms to 30 days",
        )?;
        E::ensure(
            !self.ejection_base.is_zero(),
            "health.ejection_base",
            "more than no time",
        )?;
        E::ensure(
            self.ejection_cap >= self.ejection_base && self.ejection_cap <= LONGEST,
            "health.ejection_cap",
            "at least `ejection_base` and at most 30 days",
        )?;
        E::ensure(
            share.contains(&self.jitter),
            "health.jitter",
            "a share from 0 to 1",
        )?;
        E::ensure(
            !self.probe_interval.is_zero() && self.probe_interval <= LONGEST,
            "health.probe_interval",
            "more than no time and at most 30 days",
        )?;
        E::ensure(
            (1..=Word::MOST_SUCCESSES).contains(&self.successes_to_return),
            "health.successes_to_return",
            "from 1 to 63",
        )?;
        E::ensure(
            self.ramp_start > 0.0 && share.contains(&self.ramp_start),
            "health.ramp_start",
            "a share above 0 and up to 1",
        )?;
        E::ensure(
            self.limit_tolerated < self.limit_cap,
            "health.limit_tolerated",
            "less than `limit_cap`",
        )?;
        E::ensure(
            !self.limit_base.is_zero(),
            "health.limit_base",
            "more than no time",
        )?;
        E::ensure(
            self.limit_cap >= self.limit_base.max(self.limit_floor) && self.limit_cap <= LONGEST,
            "health.limit_cap",
            "at least `limit_base` and `limit_floor`, and at most 30 days",
        )?;
        E::ensure(
            !self.quota_base.is_zero(),
            "health.quota_base",
            "more than no time",
        )?;
        E::ensure(
            self.quota_cap >= self.quota_base.max(self.limit_floor) && self.quota_cap <= LONGEST,
            "health.quota_cap",
            "at least `quota_base` and `limit_floor`, and at most 30 days",
        )
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            consecutive_faults: 5,
            fault_rate: 0.5,
            min_samples: 5,
            window: Duration::from_secs(10),
            ejection_base: Duration::from_secs(5),
            ejection_cap: Duration::from_secs(60),
            jitter: 0.1,
            probe_interval: Duration::from_secs(5),
            successes_to_return: 3,
            ramp_start: 0.1,
            limit_tolerated: Duration::ZERO,
            limit_floor: Duration::from_millis(100),
            limit_base: Duration::from_secs(1),
            limit_cap: Duration::from_secs(60),
            quota_base: Duration::from_secs(60),
            quota_cap: Duration::from_secs(60 * 60),
        }
    }
}
