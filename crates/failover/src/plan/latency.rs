use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Call, MAX_TARGETS, Order, Plan};
use crate::{
    ConfigError,
    epoch::{Epoch, nanos},
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// Prefers the target whose first token came soonest of late.
///
/// The latency is an average that forgets by time, not by number: at ten requests a second as at
/// one a minute it speaks of the same stretch of time. A small share of the calls begins at the
/// target that was asked longest ago, so that one that has become fast again is found out.
///
/// Targets that are about as fast as the fastest are equals, and so is one of which nothing is
/// known: among equals the configuration decides. Otherwise noise would move conversations to and
/// fro and waste the providers' prompt caches.
///
/// A first token that did not come counts as well, as the time for which it was waited at least. It
/// never makes a target look faster: a gateway that gives up at once says nothing about its model.
pub struct LeastFirstToken {
    epoch: Epoch,
    /// Of each target an [`Average`].
    averages: [AtomicU64; MAX_TARGETS],
    /// When a call last began at each target to explore it, in milliseconds; zero for never.
    explored: [AtomicU32; MAX_TARGETS],
    explore: f64,
    tolerance: f64,
    memory: Duration,
}

/// `microseconds (31) | only waited (1) | milliseconds of the last sample (32)`: up to 35 minutes
/// of latency. The time goes round in 49 days; only differences are used. Zero: nothing is known.
#[derive(Clone, Copy)]
struct Average(u64);

// === impl LeastFirstToken ===

impl LeastFirstToken {
    /// The share of calls that begins at the target that was asked longest ago: 0.02. It keeps the
    /// average fresh at a price of one call in fifty.
    pub const EXPLORE: f64 = 0.02;

    /// How much slower than the fastest is about as fast: 0.2. First-token times of one model vary
    /// by more than that within a minute.
    pub const TOLERANCE: f64 = 0.2;

    /// Over which time the average forgets: 30 s.
    pub const MEMORY: Duration = Duration::from_secs(30);

    /// A plan that knows no latency yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            epoch: Epoch::default(),
            averages: std::array::from_fn(|_| AtomicU64::new(0)),
            explored: std::array::from_fn(|_| AtomicU32::new(0)),
            explore: Self::EXPLORE,
            tolerance: Self::TOLERANCE,
            memory: Self::MEMORY,
        }
    }

    /// Replaces the share of calls that explores.
    ///
    /// # Errors
    ///
    /// When it is not a share from 0 to 1.
    pub fn explore(mut self, share: f64) -> Result<Self, ConfigError> {
        let valid = (0.0..=1.0).contains(&share);
        ConfigError::ensure(valid, "plan.explore", "a share from 0 to 1")?;
        self.explore = share;
        Ok(self)
    }

    /// Replaces how much slower than the fastest is about as fast.
    ///
    /// # Errors
    ///
    /// When it is negative or not finite.
    pub fn tolerance(mut self, share: f64) -> Result<Self, ConfigError> {
        let valid = share >= 0.0 && share.is_finite();
        ConfigError::ensure(valid, "plan.tolerance", "0 or more")?;
        self.tolerance = share;
        Ok(self)
    }

    /// Replaces the time over which the average forgets.
    ///
    /// # Errors
    ///
    /// When it is zero.
    pub fn memory(mut self, memory: Duration) -> Result<Self, ConfigError> {
        ConfigError::ensure(!memory.is_zero(), "plan.memory", "more than no time")?;
        self.memory = memory;
        Ok(self)
    }

    /// The average latency until the first token, if anything is known of the target; if none has
    /// come yet, the longest wait for one.
    #[must_use]
    pub fn average(&self, target: usize) -> Option<Duration> {
        self.known(target)
            .map(|average| Duration::from_micros(average.micros()))
    }

    fn known(&self, target: usize) -> Option<Average> {
        let word = self.averages.get(target)?.load(Ordering::Acquire);
        (word != 0).then_some(Average(word))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "it goes round, and only differences are used"
    )]
    fn millis(&self, now: Instant) -> u32 {
        (self.epoch.nanos(now) / 1_000_000) as u32
    }

    fn learn(
        &self,
        now: Instant,
        target: usize,
        took: Duration,
        learn: impl Fn(Average, u32, u64, Duration) -> Average,
    ) {
        let Some(average) = self.averages.get(target) else {
            return;
        };
        let now = self.millis(now);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let micros = micros.clamp(1, Average::MOST_MICROS);
        let _ = average.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            Some(learn(Average(word), now, micros, self.memory).0)
        });
    }

    /// The target that was asked longest ago, or whose turn to be asked that was: one that may not
    /// be asked, for whatever reason, does not keep the others from being explored.
    pub(super) fn stalest(&self, call: &Call) -> usize {
        let now = self.millis(call.now);
        let ago = |stamp| now.wrapping_sub(stamp);
        (0..call.targets.min(MAX_TARGETS))
            .rev()
            .max_by_key(|target| {
                let asked = self
                    .known(*target)
                    .map_or(u32::MAX, |known| ago(known.stamp()));
                match self.explored[*target].load(Ordering::Relaxed) {
                    0 => asked,
                    explored => asked.min(ago(explored)),
                }
            })
            .unwrap_or(0)
    }
}

impl Plan for LeastFirstToken {
    fn bind(&mut self, targets: &[Arc<str>]) -> Result<(), ConfigError> {
        ConfigError::ensure(targets.len() <= MAX_TARGETS, "targets", "at most 32")
    }

    fn order(&self, call: &Call) -> Order {
        let mut order = Order::of_configuration(call.targets);
        let best = order
            .iter()
            .filter_map(|target| self.known(target))
            .filter(|average| !average.only_waited())
            .map(Average::micros)
            .min();
        if let Some(best) = best {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "31 bits of microseconds times a positive number; too large a one is cut"
            )]
            let equal = (best as f64 * (1.0 + self.tolerance)) as u64;
            order.sort_by_key(|target| match self.known(target) {
                Some(average) if average.micros() > equal => average.micros(),
                _ => 0,
            });
        }
        if fastrand::f64() < self.explore {
            let target = self.stalest(call);
            let now = self.millis(call.now).max(1);
            self.explored[target].store(now, Ordering::Relaxed);
            order.move_to_front(target);
        }
        order
    }

    fn on_first_token(&self, now: Instant, target: usize, took: Duration) {
        self.learn(now, target, took, Average::with);
    }

    fn on_no_first_token(&self, now: Instant, target: usize, waited: Duration) {
        self.learn(now, target, waited, Average::with_wait);
    }
}

impl Default for LeastFirstToken {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LeastFirstToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeastFirstToken")
            .field("explore", &self.explore)
            .field("tolerance", &self.tolerance)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

// === impl Average ===

impl Average {
    /// The least weight of a sample: of many that come at the same time each still counts.
    const LEAST_WEIGHT: f64 = 0.01;

    const MOST_MICROS: u64 = (1 << 31) - 1;

    const ONLY_WAITED: u64 = 1 << 32;

    const fn new(micros: u64, now: u32) -> Self {
        Self(micros << 33 | now as u64)
    }

    const fn micros(self) -> u64 {
        self.0 >> 33
    }

    /// Whether no first token has come yet.
    const fn only_waited(self) -> bool {
        self.0 & Self::ONLY_WAITED != 0
    }

    const fn stamp(self) -> u32 {
        (self.0 & 0xffff_ffff) as u32
    }

    /// After a first token that took so long.
    fn with(self, now: u32, sample: u64, memory: Duration) -> Self {
        let average = self.moved(now, sample, memory);
        Self::new(
            if self.only_waited() {
                average.max(sample)
            } else {
                average
            },
            now,
        )
    }

    /// After a first token that had not come by then.
    fn with_wait(self, now: u32, waited: u64, memory: Duration) -> Self {
        if waited <= self.micros() {
            return self;
        }
        if self.0 == 0 || self.only_waited() {
            return Self(Self::new(waited, now).0 | Self::ONLY_WAITED);
        }
        Self::new(self.moved(now, waited, memory), now)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between two numbers of 31 bits"
    )]
    fn moved(self, now: u32, sample: u64, memory: Duration) -> u64 {
        if self.0 == 0 {
            return sample;
        }
        let passed = f64::from(now.wrapping_sub(self.stamp())) * 1e6;
        let weight = 1.0 - (-passed / nanos(memory) as f64).exp();
        let weight = weight.max(Self::LEAST_WEIGHT);
        let old = self.micros() as f64;
        (old + (sample as f64 - old) * weight).round() as u64
    }
}
