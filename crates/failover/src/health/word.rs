//! The state of a breaker in one word, so that a transition is one compare-and-swap.

/// `generation (16) | successes (6) | probe (1) | ejected (1) | milliseconds (40)`.
///
/// Forty bits of milliseconds are 34 years. The time is when the ejection ends, or, when not
/// ejected, when the last one ended (zero: there was none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

const TIME: u64 = (1 << 40) - 1;
const EJECTED: u64 = 1 << 40;
const PROBE: u64 = 1 << 41;
const SUCCESS: u64 = 1 << 42;
const SUCCESSES: u64 = ((1 << 6) - 1) << 42;
const GENERATION: u64 = 1 << 48;

impl Word {
    /// The most successes that can be counted.
    pub(super) const MOST_SUCCESSES: u32 = (1 << 6) - 1;

    /// A target that was never ejected.
    pub(super) const NEW: Self = Self(0);

    pub(super) const fn is_ejected(self) -> bool {
        self.0 & EJECTED != 0
    }

    pub(super) const fn has_probe(self) -> bool {
        self.0 & PROBE != 0
    }

    pub(super) const fn millis(self) -> u64 {
        self.0 & TIME
    }

    pub(super) const fn successes(self) -> u32 {
        ((self.0 & SUCCESSES) / SUCCESS) as u32
    }

    /// Goes up with every ejection and every return, so that what was begun before says nothing
    /// about what is now.
    pub(super) const fn generation(self) -> u16 {
        (self.0 / GENERATION) as u16
    }

    const fn next(self) -> u64 {
        (self.generation().wrapping_add(1) as u64) * GENERATION
    }

    /// Ejected until `millis`.
    pub(super) const fn eject(self, millis: u64) -> Self {
        Self(self.next() | EJECTED | clip(millis))
    }

    /// Back since `millis`.
    pub(super) const fn restore(self, millis: u64) -> Self {
        Self(self.next() | clip(millis))
    }

    /// As if it had never been ejected.
    pub(super) const fn fresh(self) -> Self {
        Self(self.next())
    }

    /// Ejected until `millis` after all; the probe is over and no success counts any more.
    pub(super) const fn prolong(self, millis: u64) -> Self {
        Self(self.0 & !(TIME | PROBE | SUCCESSES) | clip(millis))
    }

    /// Ejected for longer, until `millis`: a probe that is under way goes on, alone.
    pub(super) const fn postpone(self, millis: u64) -> Self {
        Self(self.0 & !(TIME | SUCCESSES) | clip(millis))
    }

    pub(super) const fn with_probe(self) -> Self {
        Self(self.0 | PROBE)
    }

    pub(super) const fn without_probe(self) -> Self {
        Self(self.0 & !PROBE)
    }

    pub(super) const fn with_success(self) -> Self {
        if self.successes() == Self::MOST_SUCCESSES {
            return self;
        }
        Self(self.0 + SUCCESS)
    }

    pub(super) const fn without_successes(self) -> Self {
        Self(self.0 & !SUCCESSES)
    }
}

/// Never zero: zero is "never".
const fn clip(millis: u64) -> u64 {
    if millis == 0 {
        1
    } else if millis > TIME {
        TIME
    } else {
        millis
    }
}
