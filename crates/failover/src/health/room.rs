//! How many may ask at the same time a target that is asked although it is ejected.

use crate::sync::{AtomicU64, Ordering};

/// The room for attempts that nobody but the last resort makes.
///
/// It has no bound until attempts time out. A target that says that it is overloaded protects
/// itself; one that lets its callers time out works on what nobody waits for any more, and whatever
/// it is sent on top keeps it there, also when its capacity is back: the more callers, the longer.
/// So a round of attempts that all time out halves what is under way, down to one; each success
/// adds one, so that a target that has room again gets twice as much with every round of answers.
/// It is how TCP finds the capacity of a path (RFC 5681, section 3.1) and needs no declaration.
///
/// A round in which somebody was answered narrows nothing: not every time-out comes of a queue,
/// and a target that loses some requests would lose as many of fewer.
#[derive(Debug)]
pub(super) struct Room {
    /// How many may be under way in the upper half, how many are in the lower one.
    word: AtomicU64,
    /// When the round began, in milliseconds after the epoch, plus one.
    round: AtomicU64,
    /// When the latest of those that were answered was begun, in the same way.
    answered: AtomicU64,
}

const TAKEN: u64 = u32::MAX as u64;
const UNBOUNDED: u64 = u32::MAX as u64;

impl Room {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(UNBOUNDED << 32),
            round: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    pub(super) fn is_free(&self) -> bool {
        is_free(self.word.load(Ordering::Acquire))
    }

    /// Whether nobody holds a place.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.word.load(Ordering::Acquire) & TAKEN == 0
    }

    pub(super) fn try_take(&self) -> bool {
        self.change(|word| is_free(word).then(|| word + 1))
    }

    pub(super) fn give_back(&self) {
        self.word.fetch_sub(1, Ordering::AcqRel);
    }

    /// An attempt that holds a place succeeded.
    pub(super) fn widen(&self, begun: u64) {
        self.answered.fetch_max(begun + 1, Ordering::AcqRel);
        self.change(|word| (word >> 32 < UNBOUNDED).then(|| word + (1 << 32)));
    }

    /// An attempt that holds a place timed out. The first of a round ends it.
    pub(super) fn narrow(&self, begun: u64, now: u64) {
        let round = self.round.load(Ordering::Acquire);
        let ends_round = begun >= round
            && self
                .round
                .compare_exchange(round, now + 1, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if ends_round && self.answered.load(Ordering::Acquire) <= round {
            self.change(|word| {
                let under_way = (word >> 32).min(word & TAKEN);
                Some((under_way / 2).max(1) << 32 | word & TAKEN)
            });
        }
    }

    /// Takes away the bound.
    pub(super) fn open(&self) {
        self.change(|word| (word >> 32 < UNBOUNDED).then_some(UNBOUNDED << 32 | word & TAKEN));
    }

    fn change(&self, change: impl Fn(u64) -> Option<u64>) -> bool {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
            .is_ok()
    }
}

fn is_free(word: u64) -> bool {
    word & TAKEN < word >> 32
}
