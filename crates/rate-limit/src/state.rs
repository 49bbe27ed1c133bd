//! The memory of one scope: when what was refused may be tried again, without a lock.
//!
//! Times are microseconds since the memory's epoch. Everything that must be read together is in one
//! word, and every change is a compare-and-swap of it. Nothing here reads a clock.

use std::{num::NonZeroU64, time::Duration};

use backstop_core::{Kind, Scope};

use crate::sync::{AtomicU64, Ordering};

/// Microseconds since the memory's epoch.
pub(crate) type Micros = u64;

/// When a request was sent.
pub(crate) type Sent = NonZeroU64;

/// The kinds of limit that are remembered apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    Throttled,
    QuotaExhausted,
    Overloaded,
}

/// One scope's memory.
#[derive(Debug)]
pub(crate) struct State {
    /// A [`Word`] for each kind of limit; zero when there is none.
    words: [AtomicU64; LimitKind::ALL.len()],
    /// When a limit was last noticed. Requests that were sent before know nothing of its end.
    noticed: AtomicU64,
    /// A [`Ramp`]: how many requests have returned since the last limit ended.
    ramp: AtomicU64,
    /// Odd if any of the words may be set; the rest counts how often one was. Set after the word,
    /// so each request that follows a refusal looks at the words, and a healthy one at this alone.
    remembered: AtomicU64,
}

/// A limit, as it is remembered: until when, after how many refusals without a hint, on whose word,
/// what it speaks about, and what it advises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word(u64);

/// How many requests have returned since the limit that ended at the tagged time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ramp(u64);

/// What to do instead of waiting, by the outcome of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    pub(crate) may_fail_over: bool,
    pub(crate) may_repeat: bool,
}

/// What a refusal says: how long to wait, if the server said so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: LimitKind,
    pub(crate) scope: Scope,
    pub(crate) advice: Advice,
    /// When it arrived, rounded up.
    pub(crate) now: Micros,
    /// When its request was sent; `None` when nothing was limited then.
    pub(crate) sent: Option<Micros>,
    /// The server's wait, within bounds.
    pub(crate) given: Option<Micros>,
}

/// What is in force, or was until a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) kind: LimitKind,
    pub(crate) scope: Scope,
    pub(crate) advice: Advice,
    pub(crate) until: Micros,
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Nothing is remembered.
    Open,
    /// It takes a place among those that return after a limit.
    Returns {
        place: Place,
        /// The limit, if this is the first request since it ended.
        released: Option<Scope>,
    },
    /// Not before this time.
    NotBefore { at: Micros, limit: Limit },
}

/// A place among those that return, to be given back if the request is not sent after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

/// How often the number of returning requests doubles before a limit is forgotten: 1,024 requests
/// have then returned, and more traffic than that per step is beyond what one process sends.
const DOUBLINGS: u32 = 10;

// === impl LimitKind ===

impl LimitKind {
    pub(crate) const ALL: [Self; 3] = [Self::Throttled, Self::QuotaExhausted, Self::Overloaded];

    pub(crate) const fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Throttled => Some(Self::Throttled),
            Kind::QuotaExhausted => Some(Self::QuotaExhausted),
            Kind::Overloaded => Some(Self::Overloaded),
            _ => None,
        }
    }

    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Throttled => Kind::Throttled,
            Self::QuotaExhausted => Kind::QuotaExhausted,
            Self::Overloaded => Kind::Overloaded,
        }
    }
}

// === impl State ===

impl State {
    pub(crate) fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            noticed: AtomicU64::new(0),
            ramp: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
        }
    }

    /// Whether nothing at all is remembered: one load, no clock.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.remembered.load(Ordering::Acquire) & 1 == 0
    }

    fn remember(&self) {
        let next = |remembered: u64| Some(remembered.wrapping_add(2) | 1);
        let _ = self
            .remembered
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Opens if no word is set. A word that is set meanwhile counts on, and that keeps it closed.
    fn open(&self) {
        let remembered = self.remembered.load(Ordering::Acquire);
        let is_set = |word: &AtomicU64| word.load(Ordering::Acquire) != 0;
        if !self.words.iter().any(is_set) {
            let _ = self.remembered.compare_exchange(
                remembered,
                remembered & !1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
    }

    /// The limit that is remembered and lasts the longest, in force or over.
    fn longest(&self) -> Option<Limit> {
        LimitKind::ALL
            .iter()
            .zip(&self.words)
            .filter_map(|(&kind, word)| Word(word.load(Ordering::Acquire)).limit(kind))
            .max_by_key(|limit| limit.until)
    }

    /// The limit that is in force at `now` and lasts the longest.
    pub(crate) fn in_force(&self, now: Micros) -> Option<Limit> {
        self.longest().filter(|limit| limit.until > now)
    }

    /// Remembers a refusal.
    ///
    /// `wait` makes the wait, jitter included, from the number of refusals without a hint (zero
    /// when the server gave one). Returns when the limit ends, if this refusal decided it.
    pub(crate) fn notice(&self, refusal: &Refusal, wait: impl Fn(u32) -> Micros) -> Option<Micros> {
        // Before the word: whoever sees the word sees that it is newer than its request.
        let before = self.noticed.fetch_max(refusal.now, Ordering::AcqRel);
        let word = &self.words[refusal.kind as usize];
        let mut current = Word(word.load(Ordering::Acquire));
        // Refusals of requests that were under way together are one incident.
        let mut is_news = current.is_zero() || refusal.sent.is_some_and(|sent| sent > before);
        loop {
            let Some(next) = current.after(refusal, is_news, &wait) else {
                // Whoever remembered it may not have come to say so.
                self.remember();
                return None;
            };
            match word.compare_exchange_weak(current.0, next.0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    self.remember();
                    return Some(next.until());
                }
                Err(seen) => {
                    let seen = Word(seen);
                    is_news &= seen == current || seen.is_zero();
                    current = seen;
                }
            }
        }
    }

    /// Hears of a success. It counts for the limits that were noticed before the request was sent:
    /// they end, and the next refusal starts a new back-off.
    pub(crate) fn succeed(&self, sent: Micros, now: Micros) {
        for word in &self.words {
            let current = Word(word.load(Ordering::Acquire));
            if current.is_zero() || sent <= self.noticed.load(Ordering::Acquire) {
                continue;
            }
            let next = current.ended(now);
            // When the word has changed, something newer is known.
            let _ = word.compare_exchange(current.0, next.0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        for word in &self.words {
            word.store(0, Ordering::Release);
        }
        self.open();
    }

    /// Lets a request through, or says when the place behind `ahead` others is.
    pub(crate) fn admit(&self, now: Micros, step: Micros, ahead: u64) -> Admission {
        let Some(limit) = self.longest() else {
            self.open();
            return Admission::Open;
        };
        let mut ramp = self.ramp.load(Ordering::Acquire);
        loop {
            let current = Ramp(ramp).since(limit.until);
            let returned = current.count();
            let at = limit.until.saturating_add(offset(
                returned.saturating_add(ahead).saturating_add(1),
                step,
            ));
            let over = limit
                .until
                .saturating_add(step.saturating_mul(DOUBLINGS.into()));
            if now < limit.until || (now < at && now < over) {
                return Admission::NotBefore {
                    at: at.min(over.max(limit.until)),
                    limit,
                };
            }
            if now >= over && returned > 0 {
                self.forget(limit.until);
                return Admission::Open;
            }
            match self.ramp.compare_exchange_weak(
                ramp,
                current.next().0,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    return Admission::Returns {
                        place: Place(current.tag()),
                        released: (returned == 0).then_some(limit.scope),
                    };
                }
                Err(seen) => ramp = seen,
            }
        }
    }

    /// Takes back a place that was not used.
    pub(crate) fn give_back(&self, place: Place) {
        let mut ramp = self.ramp.load(Ordering::Acquire);
        while Ramp(ramp).tag() == place.0 && Ramp(ramp).count() > 0 {
            match self.ramp.compare_exchange_weak(
                ramp,
                ramp - 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(seen) => ramp = seen,
            }
        }
    }

    /// Forgets what ended at `until` or before, but not how often it was refused without a hint.
    fn forget(&self, until: Micros) {
        for word in &self.words {
            let current = Word(word.load(Ordering::Acquire));
            if !current.is_zero() && current.until() <= until && current.strikes() == 0 {
                let _ = word.compare_exchange(current.0, 0, Ordering::AcqRel, Ordering::Acquire);
            }
        }
        self.open();
    }
}

/// When the n-th request (from 1) returns, counted from the end of the limit: the first at once,
/// and as many again in every step, evenly spread.
fn offset(n: u64, step: Micros) -> Micros {
    let doublings = n.max(1).ilog2();
    let within = n.max(1) - (1 << doublings);
    let fraction = (u128::from(step) * u128::from(within)) >> doublings;
    step.saturating_mul(doublings.into())
        .saturating_add(u64::try_from(fraction).unwrap_or(u64::MAX))
}

// === impl Word ===

impl Word {
    /// Fifty bits of microseconds: 35 years.
    const UNTIL_BITS: u32 = 50;
    const UNTIL_MAX: u64 = (1 << Self::UNTIL_BITS) - 1;
    const STRIKES_SHIFT: u32 = Self::UNTIL_BITS;
    const STRIKES_MAX: u32 = 31;
    const SCOPE_SHIFT: u32 = Self::STRIKES_SHIFT + 5;
    const GIVEN_SHIFT: u32 = Self::SCOPE_SHIFT + 3;
    const FAIL_OVER_SHIFT: u32 = Self::GIVEN_SHIFT + 1;
    const REPEAT_SHIFT: u32 = Self::FAIL_OVER_SHIFT + 1;

    fn new(until: Micros, strikes: u32, scope: Scope, advice: Advice, given: bool) -> Self {
        let scope = match scope {
            Scope::Request => 0,
            Scope::Model => 1,
            Scope::Credential => 2,
            Scope::Account => 3,
            _ => 4,
        };
        // Never zero, which means that nothing is remembered.
        Self(
            until.clamp(1, Self::UNTIL_MAX)
                | u64::from(strikes.min(Self::STRIKES_MAX)) << Self::STRIKES_SHIFT
                | scope << Self::SCOPE_SHIFT
                | u64::from(given) << Self::GIVEN_SHIFT
                | u64::from(advice.may_fail_over) << Self::FAIL_OVER_SHIFT
                | u64::from(advice.may_repeat) << Self::REPEAT_SHIFT,
        )
    }

    const fn is_zero(self) -> bool {
        self.0 == 0
    }

    const fn until(self) -> Micros {
        self.0 & Self::UNTIL_MAX
    }

    const fn strikes(self) -> u32 {
        (self.0 >> Self::STRIKES_SHIFT) as u32 & Self::STRIKES_MAX
    }

    const fn scope(self) -> Scope {
        match self.0 >> Self::SCOPE_SHIFT & 7 {
            0 => Scope::Request,
            1 => Scope::Model,
            2 => Scope::Credential,
            3 => Scope::Account,
            _ => Scope::Provider,
        }
    }

    const fn given(self) -> bool {
        self.is_set(Self::GIVEN_SHIFT)
    }

    const fn advice(self) -> Advice {
        Advice {
            may_fail_over: self.is_set(Self::FAIL_OVER_SHIFT),
            may_repeat: self.is_set(Self::REPEAT_SHIFT),
        }
    }

    const fn is_set(self, shift: u32) -> bool {
        self.0 >> shift & 1 == 1
    }

    fn limit(self, kind: LimitKind) -> Option<Limit> {
        (!self.is_zero()).then(|| Limit {
            kind,
            scope: self.scope(),
            advice: self.advice(),
            until: self.until(),
        })
    }

    /// What is remembered after a refusal; `None` when it adds nothing.
    fn after(self, refusal: &Refusal, is_news: bool, wait: impl Fn(u32) -> Micros) -> Option<Self> {
        let in_force = self.until() > refusal.now;
        let strikes = match (refusal.given, is_news) {
            (Some(_), _) => self.strikes(),
            // The server has said how long. A guess that took its place would protect nothing.
            (None, _) if in_force && self.given() => return None,
            (None, true) => (self.strikes() + 1).min(Self::STRIKES_MAX),
            // The same incident as the one remembered.
            (None, false) if in_force => return None,
            (None, false) => self.strikes().max(1),
        };
        // A server's own later word replaces a guess; nothing shortens what a server said.
        let protects = in_force && (self.given() || refusal.given.is_none());
        if let Some(given) = refusal.given
            && protects
            && refusal.now.saturating_add(given) <= self.until()
        {
            return None;
        }
        let until =
            refusal
                .now
                .saturating_add(wait(if refusal.given.is_some() { 0 } else { strikes }));
        if protects && until <= self.until() {
            return None;
        }
        Some(Self::new(
            until,
            strikes,
            refusal.scope,
            refusal.advice,
            refusal.given.is_some(),
        ))
    }

    /// What is remembered after a success: the end, so that the return still ramps.
    fn ended(self, now: Micros) -> Self {
        let until = self.until().min(now);
        Self::new(until, 0, self.scope(), self.advice(), self.given())
    }
}

// === impl Ramp ===

impl Ramp {
    const COUNT_BITS: u32 = 24;
    const COUNT_MAX: u64 = (1 << Self::COUNT_BITS) - 1;

    /// This ramp if it is that of the limit that ended then, or the beginning of it.
    const fn since(self, until: Micros) -> Self {
        // Forty bits of microseconds tell limits of twelve days apart.
        let tag = until & (u64::MAX >> Self::COUNT_BITS);
        if self.tag() == tag {
            self
        } else {
            Self(tag << Self::COUNT_BITS)
        }
    }

    const fn tag(self) -> u64 {
        self.0 >> Self::COUNT_BITS
    }

    const fn count(self) -> u64 {
        self.0 & Self::COUNT_MAX
    }

    const fn next(self) -> Self {
        if self.count() == Self::COUNT_MAX {
            self
        } else {
            Self(self.0 + 1)
        }
    }
}

/// The time at which a request is sent, never zero.
pub(crate) fn sent_at(now: Micros) -> Sent {
    NonZeroU64::new(now).unwrap_or(NonZeroU64::MIN)
}

/// Microseconds of a duration, rounded up.
pub(crate) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
