//! Until when a target, a credential, an account or a provider is throttled.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{
    epoch::Epoch,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// The memory of one limit. Clones share it.
///
/// Each target has one per scope. Targets that have a credential, an account or a provider in
/// common are given the same one for it
/// ([`HealthBuilder::sharing`](super::HealthBuilder::sharing)), so that a spent quota is learnt
/// once.
#[derive(Clone, Default)]
pub struct SharedLimit {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    epoch: Epoch,
    /// Twice the nanoseconds of the end, plus one if the other side said so. Zero: not limited.
    until: AtomicU64,
    /// When the limit was noticed.
    noted: AtomicU64,
    /// How many refusals came without a time, one after the other.
    strikes: AtomicU32,
}

/// A limit that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limited {
    /// Until when.
    pub until: Instant,
    /// Whether the other side said so; else it is our own guess.
    pub stated: bool,
}

impl SharedLimit {
    /// A limit that is not in force.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it was never in force, or was lifted.
    pub(super) fn was_never(&self) -> bool {
        self.shared.until.load(Ordering::Acquire) == 0
    }

    /// The limit, if it is in force.
    #[must_use]
    pub fn in_force(&self, now: Instant) -> Option<Limited> {
        let word = self.shared.until.load(Ordering::Acquire);
        (word / 2 > self.shared.epoch.nanos(now)).then(|| Limited {
            until: self.shared.epoch.instant(word / 2, now),
            stated: word % 2 == 1,
        })
    }

    /// Puts the limit in force until `until`. An earlier time never shortens a later one.
    ///
    /// Says whether it was not in force before.
    #[expect(
        clippy::must_use_candidate,
        reason = "done for its effect; the change is for those who observe"
    )]
    pub fn extend(&self, now: Instant, until: Instant, stated: bool) -> bool {
        let now_nanos = self.shared.epoch.nanos(now);
        let end = self.shared.epoch.nanos(until);
        self.shared.noted.fetch_max(now_nanos, Ordering::AcqRel);
        let word = end.min(u64::MAX / 2) * 2 + u64::from(stated);
        let before = self.shared.until.fetch_max(word, Ordering::AcqRel);
        before / 2 <= now_nanos && end > now_nanos
    }

    /// Lifts the limit: an operator's word.
    pub fn lift(&self) {
        self.shared.until.store(0, Ordering::Release);
        self.shared.strikes.store(0, Ordering::Release);
    }

    /// Counts a refusal without a time, of an attempt that was begun at `begun`, and gives how many
    /// came before it. Refusals of attempts that were under way together are one.
    pub(super) fn strike(&self, begun: Instant) -> u32 {
        let strikes = &self.shared.strikes;
        if self.shared.epoch.nanos(begun) <= self.shared.noted.load(Ordering::Acquire) {
            return strikes.load(Ordering::Acquire).saturating_sub(1);
        }
        strikes.fetch_add(1, Ordering::AcqRel)
    }

    /// An attempt that was begun at `begun` succeeded: the refusals before it are over, and so is a
    /// limit that was noticed earlier.
    pub(super) fn succeeded(&self, begun: Instant) {
        let word = self.shared.until.load(Ordering::Acquire);
        if word == 0 {
            return;
        }
        if self.shared.epoch.nanos(begun) <= self.shared.noted.load(Ordering::Acquire) {
            return;
        }
        self.shared.strikes.store(0, Ordering::Release);
        // Whoever extended it meanwhile knows better.
        let _ = self
            .shared
            .until
            .compare_exchange(word, 0, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl fmt::Debug for SharedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLimit")
            .field(
                "was_limited",
                &(self.shared.until.load(Ordering::Acquire) != 0),
            )
            .finish_non_exhaustive()
    }
}
