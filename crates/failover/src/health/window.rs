//! How many attempts of late were faults.

use std::time::Duration;

use crate::{
    epoch::millis_up,
    sync::{AtomicU64, Ordering},
};

/// Ten pieces of a sliding window: it forgets a tenth at a time.
const PIECES: u64 = 10;

/// `piece number (24) | attempts (20) | faults (20)`.
#[derive(Clone, Copy)]
struct Piece(u64);

const COUNT: u64 = (1 << 20) - 1;
const NUMBER: u64 = (1 << 24) - 1;

/// Counts of attempts and faults over a sliding window.
#[derive(Debug)]
pub(super) struct Window {
    piece_millis: u64,
    pieces: [AtomicU64; 10],
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self {
            piece_millis: millis_up(length).div_ceil(PIECES).max(1),
            pieces: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Counts one attempt.
    pub(super) fn record(&self, now_millis: u64, fault: bool) {
        let number = now_millis / self.piece_millis;
        let _ = self
            .piece(number)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |piece| {
                Some(Piece(piece).count(number & NUMBER, fault).0)
            });
    }

    /// Attempts and faults within the window.
    pub(super) fn counts(&self, now_millis: u64) -> (u64, u64) {
        let newest = now_millis / self.piece_millis;
        let oldest = (newest + 1).saturating_sub(PIECES);
        (oldest..=newest).fold((0, 0), |(attempts, faults), number| {
            let piece = Piece(self.piece(number).load(Ordering::Acquire));
            if piece.number() == number & NUMBER {
                (attempts + piece.attempts(), faults + piece.faults())
            } else {
                (attempts, faults)
            }
        })
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for piece in &self.pieces {
            piece.store(0, Ordering::Release);
        }
    }

    fn piece(&self, number: u64) -> &AtomicU64 {
        &self.pieces[(number % PIECES) as usize]
    }
}

impl Piece {
    const fn number(self) -> u64 {
        self.0 >> 40
    }

    const fn attempts(self) -> u64 {
        (self.0 >> 20) & COUNT
    }

    const fn faults(self) -> u64 {
        self.0 & COUNT
    }

    fn count(self, number: u64, fault: bool) -> Self {
        let (mut attempts, mut faults) = if self.number() == number {
            (self.attempts(), self.faults())
        } else {
            (0, 0)
        };
        if attempts == COUNT {
            // More than a million in a tenth of the window: the share is what matters.
            attempts /= 2;
            faults /= 2;
        }
        attempts += 1;
        faults += u64::from(fault);
        Self(number << 40 | attempts << 20 | faults)
    }
}
