use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Affinity, Call, Order, Plan};
use crate::{
    ConfigError,
    epoch::{Epoch, nanos},
    sync::{AtomicU64, Ordering},
};

/// Another plan, in which a rescued conversation stays where it is for a while.
///
/// When another target than the first of the order answers, the call's [`Affinity`] is remembered
/// with it. Until the dwell time is over that target is first for the same affinity: its prompt
/// cache is warm, that of the target it came from may have gone cold, and a target that comes and
/// goes does not drag the conversation to and fro. The time is not extended by use, so everybody
/// is home again within a dwell time of the end of the trouble.
///
/// The memory is bounded: when it is full, the rescue that is over soonest is forgotten first.
/// Calls without an affinity are left to the other plan.
pub struct Sticky<P> {
    plan: P,
    dwell: Duration,
    epoch: Epoch,
    /// Sets of [`WAYS`] neighbours; each an [`Entry`].
    entries: Box<[AtomicU64]>,
}

/// In how many places an affinity may be remembered.
const WAYS: usize = 4;

/// `tag of the affinity (24) | target plus one (8) | seconds until the end (32)`. Zero: empty.
#[derive(Clone, Copy)]
struct Entry(u64);

// === impl Sticky ===

impl<P> Sticky<P> {
    /// How many rescues are remembered unless told otherwise: 16384, in 128 KiB. At ten rescued
    /// conversations a second and a dwell time of five minutes there are 3000.
    pub const CAPACITY: usize = 1 << 14;

    /// `plan` with rescued conversations staying for `dwell`.
    ///
    /// Five minutes is a good dwell time: it is how long Anthropic and `OpenAI` keep a prompt in
    /// the cache after its last use.
    ///
    /// # Errors
    ///
    /// When the dwell time is zero or longer than a year.
    pub fn new(plan: P, dwell: Duration) -> Result<Self, ConfigError> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        ConfigError::ensure(
            !dwell.is_zero() && dwell <= YEAR,
            "plan.dwell",
            "more than no time and at most a year",
        )?;
        Ok(Self {
            plan,
            dwell,
            epoch: Epoch::default(),
            entries: empty(Self::CAPACITY),
        })
    }

    /// Replaces how many rescues are remembered; rounded up to a multiple of four.
    ///
    /// # Errors
    ///
    /// When it is zero or more than a million.
    pub fn capacity(mut self, rescues: usize) -> Result<Self, ConfigError> {
        let valid = (1..=1_000_000).contains(&rescues);
        ConfigError::ensure(valid, "plan.capacity", "from 1 to a million")?;
        self.entries = empty(rescues);
        Ok(self)
    }

    /// Where a conversation was rescued to, if it still stays there.
    #[must_use]
    pub fn rescued(&self, now: Instant, affinity: Affinity) -> Option<usize> {
        let now = self.seconds(now);
        self.set(affinity)
            .iter()
            .map(|entry| Entry(entry.load(Ordering::Acquire)))
            .find(|entry| entry.is_of(affinity) && entry.until() > now)
            .map(Entry::target)
    }

    fn remember(&self, now: Instant, affinity: Affinity, target: usize) {
        let now_seconds = self.seconds(now);
        let until = now_seconds.saturating_add(nanos(self.dwell).div_ceil(1_000_000_000));
        let entry = Entry::new(affinity, target, until);
        let set = self.set(affinity);
        // Its own place, or else the one that is over soonest; an empty one is over already.
        let place = set.iter().min_by_key(|place| {
            let known = Entry(place.load(Ordering::Acquire));
            (!known.is_of(affinity), known.until())
        });
        if let Some(place) = place {
            // Of two that are remembered at the same time the later one stays.
            place.store(entry.0, Ordering::Release);
        }
    }

    fn set(&self, affinity: Affinity) -> &[AtomicU64] {
        let sets = (self.entries.len() / WAYS) as u64;
        #[expect(clippy::cast_possible_truncation, reason = "below the length")]
        let first = (affinity.value() % sets) as usize * WAYS;
        &self.entries[first..first + WAYS]
    }

    fn seconds(&self, now: Instant) -> u64 {
        self.epoch.nanos(now) / 1_000_000_000
    }
}

fn empty(rescues: usize) -> Box<[AtomicU64]> {
    (0..rescues.next_multiple_of(WAYS))
        .map(|_| AtomicU64::new(0))
        .collect()
}

impl<P: Plan> Plan for Sticky<P> {
    fn bind(&mut self, targets: &[Arc<str>]) -> Result<(), ConfigError> {
        self.plan.bind(targets)
    }

    fn order(&self, call: &Call) -> Order {
        let mut order = self.plan.order(call);
        if let Some(affinity) = call.affinity
            && let Some(target) = self.rescued(call.now, affinity)
        {
            order.move_to_front(target);
        }
        order
    }

    fn on_first_token(&self, now: Instant, target: usize, took: Duration) {
        self.plan.on_first_token(now, target, took);
    }

    fn on_no_first_token(&self, now: Instant, target: usize, waited: Duration) {
        self.plan.on_no_first_token(now, target, waited);
    }

    fn on_served(&self, call: &Call, target: usize, first: usize) {
        if let Some(affinity) = call.affinity
            && target != first
        {
            self.remember(call.now, affinity, target);
        }
        self.plan.on_served(call, target, first);
    }
}

impl<P: fmt::Debug> fmt::Debug for Sticky<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sticky")
            .field("plan", &self.plan)
            .field("dwell", &self.dwell)
            .field("capacity", &self.entries.len())
            .finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    fn new(affinity: Affinity, target: usize, until: u64) -> Self {
        let target = u8::try_from(target).map_or(u8::MAX, |target| target.saturating_add(1));
        Self(Self::tag(affinity) << 40 | u64::from(target) << 32 | until.min(0xffff_ffff))
    }

    /// Other bits than those that choose the set.
    const fn tag(affinity: Affinity) -> u64 {
        affinity.value() >> 40
    }

    const fn is_of(self, affinity: Affinity) -> bool {
        self.0 != 0 && self.0 >> 40 == Self::tag(affinity)
    }

    const fn target(self) -> usize {
        ((self.0 >> 32) & 0xff) as usize - 1
    }

    const fn until(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}
