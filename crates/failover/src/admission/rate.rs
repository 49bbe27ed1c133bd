//! At most so many in any stretch of time: the times of the last admissions, in a ring.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    ConfigError,
    epoch::{Epoch, nanos},
    sync::{AtomicU64, Ordering},
};

/// The most requests per period: half a megabyte of times.
const MOST: u32 = 1 << 16;

/// A sliding log rather than a token bucket: a bucket that allows bursts lets up to twice its rate
/// through in one second, and one that allows none wastes half of a small target's capacity.
#[derive(Debug)]
pub(super) struct Rate {
    epoch: Epoch,
    per: u64,
    /// How many were admitted so far, and therefore whose turn it is.
    admitted: AtomicU64,
    /// Of each [`Entry`] the n-th, n + length, ... admission is the owner.
    ring: Box<[AtomicU64]>,
}

/// `lap (16) | microseconds (48)`: when the slot was last taken, and which time round that was.
/// Microseconds of 48 bits are almost nine years.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

const TIME: u64 = (1 << 48) - 1;

impl Rate {
    pub(super) fn new(requests: u32, per: Duration) -> Result<Self, ConfigError> {
        ConfigError::ensure(
            (1..=MOST).contains(&requests),
            "admission.max_rate.requests",
            "from 1 to 65536",
        )?;
        ConfigError::ensure(
            (Duration::from_millis(1)..=Duration::from_secs(24 * 60 * 60)).contains(&per),
            "admission.max_rate.per",
            "from 1 ms to a day",
        )?;
        Ok(Self {
            epoch: Epoch::default(),
            per: nanos(per).div_ceil(1_000),
            admitted: AtomicU64::new(0),
            ring: (0..requests).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Takes the place of the admission that is `requests` back, if that is long enough ago; else
    /// says when it will be.
    pub(super) fn try_admit(&self, now: Instant) -> Result<(), Instant> {
        let nanos = self.epoch.nanos(now).saturating_sub(1);
        // What is written is rounded up and what is compared is rounded down.
        let (early, late) = (nanos / 1_000, nanos.div_ceil(1_000));
        loop {
            let turn = self.admitted.load(Ordering::Acquire);
            let (lap, place) = self.locate(turn);
            let slot = &self.ring[place];
            let entry = Entry(slot.load(Ordering::Acquire));
            if entry.lap() != lap {
                // Somebody took this turn and has not moved on yet, or did so meanwhile.
                self.advance(turn);
                continue;
            }
            if turn >= self.ring.len() as u64 && early < entry.micros() + self.per {
                let at = (entry.micros() + self.per).saturating_mul(1_000);
                return Err(self.epoch.instant(at.saturating_add(1), now));
            }
            let taken = Entry::new(lap.wrapping_add(1), late);
            if slot
                .compare_exchange(entry.0, taken.0, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                self.advance(turn);
                return Ok(());
            }
        }
    }

    /// The turn after `turn` is next, if nobody said so before.
    fn advance(&self, turn: u64) {
        let _ = self.admitted.compare_exchange(
            turn,
            turn.wrapping_add(1),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a lap counts modulo 2^16, a place is below the length of the ring"
    )]
    fn locate(&self, turn: u64) -> (u16, usize) {
        let length = self.ring.len() as u64;
        ((turn / length) as u16, (turn % length) as usize)
    }
}

impl Entry {
    fn new(lap: u16, micros: u64) -> Self {
        Self(u64::from(lap) << 48 | micros.min(TIME))
    }

    const fn lap(self) -> u16 {
        (self.0 >> 48) as u16
    }

    const fn micros(self) -> u64 {
        self.0 & TIME
    }
}
