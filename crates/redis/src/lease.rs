use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use backstop_failover::health::ProbeGate;
use tokio::time::{Duration, Instant};

/// Whether this replica may probe a target: the [`ProbeGate`] for
/// [`HealthBuilder::probe_gate`](backstop_failover::health::HealthBuilder::probe_gate).
///
/// [`SharedHealth`](crate::SharedHealth) holds a lease in Redis behind it. Until it does, and
/// whenever Redis is down or takes no lease, every replica may probe for itself.
#[derive(Clone, Debug)]
pub struct ProbeLease {
    start: Instant,
    /// Milliseconds after `start` until which this replica may probe.
    until: Arc<AtomicU64>,
}

/// Redis is not there: everybody for themselves.
const FOR_EVER: u64 = u64::MAX;

impl ProbeLease {
    /// A lease that nobody shares yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            until: Arc::new(AtomicU64::new(FOR_EVER)),
        }
    }

    pub(crate) fn hold(&self, until: Instant) {
        self.until.store(self.millis(until), Ordering::Release);
    }

    pub(crate) fn let_go(&self) {
        self.until.store(0, Ordering::Release);
    }

    pub(crate) fn alone(&self) {
        self.until.store(FOR_EVER, Ordering::Release);
    }

    fn millis(&self, at: Instant) -> u64 {
        let since: Duration = at.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(FOR_EVER)
    }
}

impl Default for ProbeLease {
    fn default() -> Self {
        Self::new()
    }
}

impl ProbeGate for ProbeLease {
    fn may_probe(&self, now: Instant) -> bool {
        self.millis(now) < self.until.load(Ordering::Acquire)
    }
}
