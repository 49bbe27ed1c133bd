//! How much a target is given at the same time, and per second.
//!
//! A backup that is sized for a twentieth of the traffic gets all of it when the primary fails.
//! What is more than it can take is kept away from it here: the overflow goes to the next target or
//! is refused at once, with the time at which there is room again. Nobody queues.
//!
//! ```
//! use std::time::Duration;
//! use backstop_core::SkipReason;
//! use backstop_failover::{admission::{Admission, AdmissionConfig}};
//! use tokio::time::Instant;
//!
//! let now = Instant::now();
//! let second = Duration::from_secs(1);
//! let admission = Admission::new(AdmissionConfig::default().max_concurrent(2).max_rate(3, second))?;
//! let first = admission.try_admit(now).unwrap();
//! let second_one = admission.try_admit(now).unwrap();
//! assert_eq!(admission.try_admit(now).unwrap_err().reason, SkipReason::AtCapacity);
//! // A slot is held until the end of the body and given back on drop.
//! drop((first, second_one));
//! let third = admission.try_admit(now).unwrap();
//! let skipped = admission.try_admit(now).unwrap_err();
//! assert_eq!(skipped.reason, SkipReason::AtRateCap);
//! assert_eq!(skipped.retry_at, Some(now + second));
//! # Ok::<(), backstop_failover::ConfigError>(())
//! ```

#[cfg(all(test, loom))]
mod loom_tests;
mod rate;
#[cfg(all(test, not(loom)))]
mod tests;

use backstop_core::SkipReason;
use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use self::rate::Rate;
use crate::{
    ConfigError, Skipped,
    sync::{AtomicUsize, Ordering},
    timer::later,
};

/// The admission to one target. Clones share it.
#[derive(Clone)]
pub struct Admission {
    shared: Arc<Shared>,
}

/// A place among the requests that a target may hold. Keep it until the end of the body: a streamed
/// answer costs the target until then, not until its head.
#[must_use = "dropped at once, it holds no place"]
pub struct Slot {
    shared: Arc<Shared>,
}

/// How much a target is given. Nothing is limited by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    max_concurrent: Option<usize>,
    max_rate: Option<(u32, Duration)>,
    return_after: Duration,
}

struct Shared {
    in_flight: AtomicUsize,
    max_concurrent: usize,
    rate: Option<Rate>,
    return_after: Duration,
}

// === impl Admission ===

impl Admission {
    /// An admission that has let nobody in yet.
    ///
    /// # Errors
    ///
    /// When a setting cannot work.
    pub fn new(config: AdmissionConfig) -> Result<Self, ConfigError> {
        ConfigError::ensure(
            config.max_concurrent != Some(0),
            "admission.max_concurrent",
            "at least 1",
        )?;
        let rate = config
            .max_rate
            .map(|(requests, per)| Rate::new(requests, per))
            .transpose()?;
        Ok(Self {
            shared: Arc::new(Shared {
                in_flight: AtomicUsize::new(0),
                max_concurrent: config.max_concurrent.unwrap_or(usize::MAX),
                rate,
                return_after: config.return_after,
            }),
        })
    }

    /// Lets one request in.
    ///
    /// # Errors
    ///
    /// Which limit is reached, and when to come back.
    pub fn try_admit(&self, now: Instant) -> Result<Slot, Skipped> {
        let shared = &self.shared;
        let place = shared
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
                (held < shared.max_concurrent).then(|| held + 1)
            });
        if place.is_err() {
            let at = later(now, shared.return_after);
            return Err(Skipped::new(SkipReason::AtCapacity).until(at));
        }
        // From here on the place is given back whatever happens.
        let slot = Slot {
            shared: Arc::clone(shared),
        };
        match &shared.rate {
            Some(rate) => rate
                .try_admit(now)
                .map(|()| slot)
                .map_err(|at| Skipped::new(SkipReason::AtRateCap).until(at)),
            None => Ok(slot),
        }
    }

    /// How many requests the target holds.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

// === impl AdmissionConfig ===

impl AdmissionConfig {
    /// How many requests the target may hold at the same time, each until the end of its body.
    #[must_use]
    pub const fn max_concurrent(mut self, requests: usize) -> Self {
        self.max_concurrent = Some(requests);
        self
    }

    /// How many requests the target may get within any stretch of time as long as `per`.
    ///
    /// All of them may come at once; there is no stretch, wherever it begins, that holds more.
    #[must_use]
    pub const fn max_rate(mut self, requests: u32, per: Duration) -> Self {
        self.max_rate = Some((requests, per));
        self
    }

    /// When to come back if the target holds as many requests as it may: nobody knows when one of
    /// them ends. Default: 1 s, the least that a `Retry-After` in seconds can say.
    #[must_use]
    pub const fn return_after(mut self, wait: Duration) -> Self {
        self.return_after = wait;
        self
    }
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            max_concurrent: None,
            max_rate: None,
            return_after: Duration::from_secs(1),
        }
    }
}
