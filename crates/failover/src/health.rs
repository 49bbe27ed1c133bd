//! What is known about a target's health, and who may ask it now.
//!
//! Three facts are kept apart, because each has its own cause and its own end:
//!
//! * **throttled**: the target said that it is limited. It is left alone until a point in time.
//!   Kept per [`Scope`]: a spent quota concerns everything of the account, a rate limit the model.
//! * **faulting**: it failed too often, in a row or as a share of the attempts of late. It is
//!   ejected for a while, then examined by one probe at a time, then comes back with a growing
//!   share of the traffic.
//! * **switched off**: an operator said so.
//!
//! A limit is not a fault, a fault is not a limit, and what the caller did wrong or broke off
//! says nothing about the target. A probe that is throttled has failed.
//!
//! # What a scope means here
//!
//! A target is one model at one provider with one credential. What an outcome speaks about is taken
//! from it in this way:
//!
//! * A **limit** (throttled, quota spent) of the scope model, credential, account or provider is
//!   remembered for that scope, and benches all targets that share it
//!   ([`HealthBuilder::sharing`]); by default a target shares none of them.
//! * A **fault** of any of these scopes counts for the one target that was asked.
//! * A limit or a fault of [`Scope::Request`] speaks of that request alone: the next target is
//!   asked, and nobody is benched.
//!
//! Nothing here depends on the request. Where callers bring their own credentials to one target,
//! the limits and the refusals of one of them would bench it for all: let the classifier give them
//! [`Scope::Request`], and remember limits per key in a layer of the target.
//!
//! Everything is lock-free, and nothing here reads a clock: the time is passed in.
//!
//! ```
//! use std::time::Duration;
//! use backstop_core::{Kind, Outcome};
//! use backstop_core::SkipReason;
//! use backstop_failover::{health::{Health, HealthConfig, State}};
//! use tokio::time::Instant;
//!
//! let now = Instant::now();
//! let health = Health::new(HealthConfig::default().consecutive_faults(2).jitter(0.0))?;
//! for _ in 0..2 {
//!     let permit = health.try_acquire(now).expect("it is healthy so far");
//!     permit.report(now, &Outcome::new(Kind::Unavailable));
//! }
//! assert_eq!(health.state(now), State::Faulting);
//! let skipped = health.try_acquire(now).unwrap_err();
//! assert_eq!(skipped.reason, SkipReason::Faulting);
//! assert_eq!(skipped.retry_at, Some(now + Duration::from_secs(5)));
//! # Ok::<(), backstop_failover::ConfigError>(())
//! ```

mod config;
mod last_resort;
mod limit;
#[cfg(all(test, loom))]
mod loom_tests;
mod room;
#[cfg(all(test, not(loom)))]
mod tests;
mod window;
mod word;

use std::{array, fmt, sync::Arc, time::Duration};

use backstop_core::{HintSource, Kind, Outcome, Scope, SkipReason};
use tokio::time::Instant;

pub use self::{
    config::HealthConfig,
    last_resort::{Choice, LastResort},
    limit::{Limited, SharedLimit},
};
use self::{room::Room, window::Window, word::Word};
use crate::{
    ConfigError, Skipped,
    epoch::{Epoch, nanos},
    sync::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

/// The health of one target. Clones share it.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

/// Sets up a [`Health`] that shares something with others.
#[must_use = "nothing happens until it is built"]
pub struct HealthBuilder {
    config: HealthConfig,
    limits: [SharedLimit; 4],
    probe_gate: Option<Box<dyn ProbeGate>>,
}

/// The right to make one attempt, and the duty to say what came of it.
///
/// It lives as long as the attempt does: until the end of the body. Dropped without a
/// [`report`](Self::report), it counts as [`Kind::Cancelled`]: a probe's slot is free again, and
/// nothing is counted.
#[must_use = "dropped at once, it says that the attempt was cancelled"]
pub struct Permit {
    /// Gone once reported.
    shared: Option<Arc<Shared>>,
    generation: u16,
    is_probe: bool,
    /// Whether it holds a place in the [`Room`].
    has_place: bool,
    begun: Instant,
}

/// What a target is like right now. The most serious fact wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Nothing is known against it.
    Healthy,
    /// Back after faults, with a growing share of the requests.
    Recovering,
    /// It said that it is limited.
    Throttled,
    /// Ejected after faults.
    Faulting,
    /// Ejected after faults, and due for a probe or being probed.
    Probing,
    /// Switched off by an operator.
    SwitchedOff,
}

/// All that is known about a target, for people and for other replicas.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The most serious fact.
    pub state: State,
    /// The limits in force.
    pub limits: Vec<(Scope, Limited)>,
    /// Until when it is ejected; a probe is due afterwards.
    pub ejected_until: Option<Instant>,
    /// How many ejections in close succession there were.
    pub times_ejected: u32,
    /// Faults in a row.
    pub consecutive_faults: u32,
    /// Attempts that ended within the window.
    pub attempts: u64,
    /// How many of them were faults.
    pub faults: u64,
    /// The share of the requests that it gets; 1 unless it is ejected or recovering.
    pub share: f64,
}

/// What another replica knows about the same target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remote {
    /// It is limited until then.
    Throttled {
        /// What is limited.
        scope: Scope,
        /// Until when.
        until: Instant,
        /// Whether the target said so.
        stated: bool,
    },
    /// It is ejected until then.
    Faulting {
        /// Until when.
        until: Instant,
    },
}

/// Whether this process may probe a target now: the hook for replicas that share the probing, so
/// that one probe at a time is sent by all of them together.
///
/// It is asked on the path of a request and must not block: hold a lease that is renewed elsewhere.
pub trait ProbeGate: Send + Sync + 'static {
    /// Whether a probe may be sent.
    fn may_probe(&self, now: Instant) -> bool;
}

struct Shared {
    config: HealthConfig,
    epoch: Epoch,
    /// A [`Word`].
    breaker: AtomicU64,
    consecutive: AtomicU32,
    window: Window,
    times_ejected: AtomicU32,
    /// Fractions of requests that the ramp has not let through yet.
    ramp_credit: AtomicU32,
    /// The share of the ramp's first second, in 2^-32.
    ramp_start: u64,
    switched_off: AtomicBool,
    /// For attempts that are made although the target should not be asked.
    room: Room,
    limits: [SharedLimit; 4],
    probe_gate: Option<Box<dyn ProbeGate>>,
}

/// The scopes that have a limit of their own, in the order of [`Shared::limits`].
const SCOPES: [Scope; 4] = [
    Scope::Model,
    Scope::Credential,
    Scope::Account,
    Scope::Provider,
];

/// All requests, in the unit of the ramp.
const WHOLE: u64 = 1 << 32;

// === impl Health ===

impl Health {
    /// A target of which nothing is known.
    ///
    /// # Errors
    ///
    /// When a setting cannot work.
    pub fn new(config: HealthConfig) -> Result<Self, ConfigError> {
        Self::builder(config).build()
    }

    /// Starts to set one up that shares something with others.
    pub fn builder(config: HealthConfig) -> HealthBuilder {
        HealthBuilder {
            config,
            limits: array::from_fn(|_| SharedLimit::new()),
            probe_gate: None,
        }
    }

    /// Asks to make an attempt now.
    ///
    /// Of the requests that ask while the target is due for a probe, one gets the permit.
    ///
    /// # Errors
    ///
    /// Why the target should not be asked, and when it is worth asking again.
    #[inline]
    pub fn try_acquire(&self, now: Instant) -> Result<Permit, Skipped> {
        let shared = &self.shared;
        if shared.switched_off.load(Ordering::Acquire) {
            return Err(Skipped::new(SkipReason::SwitchedOff));
        }
        if let Some(limited) = shared.limited(now) {
            return Err(Skipped::new(SkipReason::Throttled).until(limited.until));
        }
        let mut word = shared.word();
        loop {
            if !word.is_ejected() {
                return if shared.lets_through(word, now) {
                    Ok(self.permit(word, false, now))
                } else {
                    Err(Skipped::new(SkipReason::Recovering).until(now))
                };
            }
            if word.millis() > shared.millis(now) {
                let until = shared.instant(word.millis(), now);
                return Err(Skipped::new(SkipReason::Faulting).until(until));
            }
            match self.try_probe(word, now) {
                Ok(Some(permit)) => return Ok(permit),
                Ok(None) => return Err(Skipped::new(SkipReason::Probing).until(now)),
                Err(newer) => word = newer,
            }
        }
    }

    /// Asks to make an attempt although the target is ejected, recovering or limited, because
    /// nobody else is left; see [`LastResort`].
    ///
    /// `None` when it is switched off: an operator's word holds. `None` also when it lets such
    /// attempts time out, a whole round of them, and holds as many as it can take: half of those
    /// that were under way then, halved again with each such round, at least one. Each success
    /// allows one more, and an ejection after all requests went to the target as usual begins
    /// without a bound. A target that is overloaded works on what nobody waits for any more; given
    /// all that comes, it would be kept there long after its capacity is back.
    #[must_use = "a permit that is dropped counts as a cancelled attempt"]
    pub fn acquire_anyway(&self, now: Instant) -> Option<Permit> {
        if self.shared.switched_off.load(Ordering::Acquire) {
            return None;
        }
        let mut word = self.shared.word();
        while word.is_ejected() && word.millis() <= self.shared.millis(now) {
            match self.try_probe(word, now) {
                Ok(Some(permit)) => return Some(permit),
                Ok(None) => break,
                Err(newer) => word = newer,
            }
        }
        self.shared.room.try_take().then(|| {
            let mut permit = self.permit(word, false, now);
            permit.has_place = true;
            permit
        })
    }

    /// Whether there is room for an attempt that is made anyway.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.room.is_free()
    }

    /// When the target may be asked again: now, if it may be asked already or only has too little
    /// of a share; `None` when it is switched off.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.shared.switched_off.load(Ordering::Acquire) {
            return None;
        }
        let limited = self.shared.limited(now).map(|limited| limited.until);
        let ejected = self.shared.ejected_until(now);
        Some(limited.max(ejected).unwrap_or(now))
    }

    /// The limit in force that ends last.
    #[must_use]
    pub fn limited(&self, now: Instant) -> Option<Limited> {
        self.shared.limited(now)
    }

    /// The most serious fact.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        let shared = &self.shared;
        if shared.switched_off.load(Ordering::Acquire) {
            return State::SwitchedOff;
        }
        let word = shared.word();
        if word.is_ejected() {
            return if word.millis() > shared.millis(now) {
                State::Faulting
            } else {
                State::Probing
            };
        }
        if shared.limited(now).is_some() {
            return State::Throttled;
        }
        if shared.share(word, now) < WHOLE {
            return State::Recovering;
        }
        State::Healthy
    }

    /// Whether a probe is under way, until its body is over: [`State::Probing`] says that one is, or
    /// is due.
    #[must_use]
    pub fn is_probed(&self) -> bool {
        let word = self.shared.word();
        word.is_ejected() && word.has_probe()
    }

    /// All that is known.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let shared = &self.shared;
        let word = shared.word();
        let (attempts, faults) = shared.window.counts(shared.millis(now));
        #[expect(clippy::cast_precision_loss, reason = "at most 2^32, and for people")]
        let share = if word.is_ejected() {
            0.0
        } else {
            shared.share(word, now) as f64 / WHOLE as f64
        };
        Snapshot {
            state: self.state(now),
            limits: SCOPES
                .into_iter()
                .zip(&shared.limits)
                .filter_map(|(scope, limit)| Some((scope, limit.in_force(now)?)))
                .collect(),
            ejected_until: shared.ejected_until(now),
            times_ejected: shared.times_ejected.load(Ordering::Acquire),
            consecutive_faults: shared.consecutive.load(Ordering::Acquire),
            attempts,
            faults,
            share,
        }
    }

    /// Takes over what another replica knows. It never shortens what is known here.
    ///
    /// Gives the state that the target is in now, if that changed it.
    #[expect(
        clippy::must_use_candidate,
        reason = "done for its effect; the change is for those who observe"
    )]
    pub fn apply(&self, now: Instant, remote: Remote) -> Option<State> {
        let shared = &self.shared;
        match remote {
            Remote::Throttled {
                scope,
                until,
                stated,
            } => {
                let limit = &shared.limits[place(scope)?];
                let until = until.min(now + shared.config.quota_cap);
                limit.extend(now, until, stated).then_some(State::Throttled)
            }
            Remote::Faulting { until } => {
                let now_millis = shared.millis(now);
                // Another replica's clock or settings must not bench a target for days.
                let until = until.min(now + shared.config.ejection_cap * 2);
                let millis = shared.millis_up(until);
                if millis <= now_millis {
                    return None;
                }
                let mut word = shared.word();
                loop {
                    let next = if !word.is_ejected() {
                        word.eject(millis)
                    } else if word.millis() < millis {
                        word.postpone(millis)
                    } else {
                        return None;
                    };
                    match shared.exchange(word, next) {
                        Ok(()) if word.is_ejected() => return None,
                        Ok(()) => {
                            shared.forget_counts();
                            return Some(State::Faulting);
                        }
                        Err(newer) => word = newer,
                    }
                }
            }
        }
    }

    /// Switches the target off: nobody asks it until it is switched on. Attempts under way go on.
    pub fn switch_off(&self) {
        self.shared.switched_off.store(true, Ordering::Release);
    }

    /// Switches the target on. What else is known about it holds.
    pub fn switch_on(&self) {
        self.shared.switched_off.store(false, Ordering::Release);
    }

    /// Forgets limits, faults and ejections, but not that it is switched off: an operator's word.
    pub fn forget(&self) {
        for limit in &self.shared.limits {
            limit.lift();
        }
        let mut word = self.shared.word();
        while let Err(newer) = self.shared.exchange(word, word.fresh()) {
            word = newer;
        }
        self.shared.forget_counts();
        self.shared.times_ejected.store(0, Ordering::Release);
        self.shared.room.open();
    }

    /// Takes the probe's slot of an ejected target that is due. `Ok(None)` when it is not to be
    /// had, an error when the state changed meanwhile.
    fn try_probe(&self, word: Word, now: Instant) -> Result<Option<Permit>, Word> {
        if word.has_probe() {
            return Ok(None);
        }
        let gate = self.shared.probe_gate.as_ref();
        if gate.is_some_and(|gate| !gate.may_probe(now)) {
            return Ok(None);
        }
        self.shared.exchange(word, word.with_probe())?;
        Ok(Some(self.permit(word, true, now)))
    }

    fn permit(&self, word: Word, is_probe: bool, now: Instant) -> Permit {
        Permit {
            shared: Some(Arc::clone(&self.shared)),
            generation: word.generation(),
            is_probe,
            has_place: false,
            begun: now,
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.shared.word();
        f.debug_struct("Health")
            .field("ejected", &word.is_ejected())
            .field("has_probe", &word.has_probe())
            .field(
                "switched_off",
                &self.shared.switched_off.load(Ordering::Acquire),
            )
            .finish_non_exhaustive()
    }
}

// === impl HealthBuilder ===

impl HealthBuilder {
    /// Shares the limits of one scope with other targets: those that use the same credential,
    /// belong to the same account or are at the same provider. [`Scope::Request`] has none to
    /// share.
    ///
    /// Faults are not shared: one model of a provider may be down while the next one answers, and
    /// what is down altogether is found out within a few attempts.
    pub fn sharing(mut self, scope: Scope, limit: &SharedLimit) -> Self {
        if let Some(place) = place(scope) {
            self.limits[place] = limit.clone();
        }
        self
    }

    /// Probes only when `gate` agrees.
    pub fn probe_gate(mut self, gate: impl ProbeGate) -> Self {
        self.probe_gate = Some(Box::new(gate));
        self
    }

    /// A target of which nothing is known, but for the limits that it shares.
    ///
    /// # Errors
    ///
    /// When a setting cannot work.
    pub fn build(self) -> Result<Health, ConfigError> {
        self.config.validate()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share from 0 to 1 of 2^32"
        )]
        let ramp_start = ((self.config.ramp_start * WHOLE as f64).round() as u64).max(1);
        Ok(Health {
            shared: Arc::new(Shared {
                config: self.config,
                epoch: Epoch::default(),
                breaker: AtomicU64::new(Word::NEW.0),
                consecutive: AtomicU32::new(0),
                window: Window::new(self.config.window),
                times_ejected: AtomicU32::new(0),
                ramp_credit: AtomicU32::new(0),
                ramp_start,
                switched_off: AtomicBool::new(false),
                room: Room::new(),
                limits: self.limits,
                probe_gate: self.probe_gate,
            }),
        })
    }
}

impl fmt::Debug for HealthBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

// === impl Permit ===

impl Permit {
    /// The attempt is over. Gives the state that the target is in now, if that changed it: at most
    /// two changes for each ejection, one when it begins and one when it is over.
    ///
    /// A report about an attempt that was begun before the target was ejected, or before it
    /// returned, is not counted.
    #[expect(
        clippy::must_use_candidate,
        reason = "done for its effect; the change is for those who observe"
    )]
    pub fn report(mut self, now: Instant, outcome: &Outcome) -> Option<State> {
        let shared = self.shared.take()?;
        if self.has_place {
            self.leave(&shared, now, outcome);
        }
        if outcome.is_limit() {
            self.fail_probe(&shared, now, None);
            return shared.throttle(now, self.begun, outcome);
        }
        if outcome.is_fault() {
            return self.fault(&shared, now, outcome);
        }
        if outcome.is_success() {
            return self.success(&shared, now);
        }
        self.give_back(&shared);
        None
    }

    /// Whether this attempt is the probe of an ejected target.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// When the attempt began.
    pub(crate) const fn begun(&self) -> Instant {
        self.begun
    }

    /// Gives back the place, and says how it went.
    #[cold]
    fn leave(&self, shared: &Shared, now: Instant, outcome: &Outcome) {
        let begun = shared.millis(self.begun);
        if outcome.is_success() {
            shared.room.widen(begun);
        } else if matches!(outcome.kind(), Kind::TimedOut(_)) {
            shared.room.narrow(begun, shared.millis(now));
        }
        shared.room.give_back();
    }

    fn success(&self, shared: &Shared, now: Instant) -> Option<State> {
        for limit in &shared.limits {
            limit.succeeded(self.begun);
        }
        let mut word = shared.word();
        loop {
            if word.generation() != self.generation {
                return None;
            }
            if !word.is_ejected() {
                if shared.consecutive.load(Ordering::Acquire) != 0 {
                    shared.consecutive.store(0, Ordering::Release);
                }
                shared.window.record(shared.millis(now), false);
                return None;
            }
            let mut next = word.with_success();
            if self.is_probe {
                next = next.without_probe();
            }
            let is_back = next.successes() >= shared.config.successes_to_return;
            if is_back {
                next = word.restore(shared.millis(now));
            }
            match shared.exchange(word, next) {
                Ok(()) if !is_back => return None,
                Ok(()) => {
                    shared.forget_counts();
                    return Some(if shared.share(next, now) < WHOLE {
                        State::Recovering
                    } else {
                        State::Healthy
                    });
                }
                Err(newer) => word = newer,
            }
        }
    }

    fn fault(&self, shared: &Shared, now: Instant, outcome: &Outcome) -> Option<State> {
        let asked_for = outcome
            .retry_after()
            .map(|hint| hint.delay.min(shared.config.limit_cap));
        let mut word = shared.word();
        if word.generation() != self.generation {
            return None;
        }
        if word.is_ejected() {
            self.fail_probe(shared, now, asked_for);
            return None;
        }
        let millis = shared.millis(now);
        let consecutive = shared.consecutive.fetch_add(1, Ordering::AcqRel) + 1;
        shared.window.record(millis, true);
        if consecutive < shared.config.consecutive_faults && !shared.rate_is_too_high(millis) {
            return None;
        }
        loop {
            let (times, period) = shared.next_ejection(word, millis);
            let period = period.max(asked_for.unwrap_or_default());
            let next = word.eject(shared.millis_up(now + period));
            match shared.exchange(word, next) {
                Ok(()) => {
                    if shared.share(word, now) == WHOLE {
                        shared.room.open();
                    }
                    shared.times_ejected.store(times, Ordering::Release);
                    shared.forget_counts();
                    return Some(State::Faulting);
                }
                Err(newer) if newer.generation() == self.generation => word = newer,
                Err(_) => return None,
            }
        }
    }

    /// A probe that failed puts off the next one. Any other failure of an ejected target only
    /// ends the row of successes.
    fn fail_probe(&self, shared: &Shared, now: Instant, asked_for: Option<Duration>) {
        let interval = shared.jittered(shared.config.probe_interval);
        let until = now + interval.max(asked_for.unwrap_or_default());
        let until = shared.millis_up(until);
        self.change(shared, |word| {
            if self.is_probe {
                word.prolong(until.max(word.millis()))
            } else {
                word.without_successes()
            }
        });
    }

    /// The attempt says nothing about the target.
    fn give_back(&self, shared: &Shared) {
        if self.is_probe {
            self.change(shared, Word::without_probe);
        }
    }

    /// Changes the state of the ejection that this attempt belongs to.
    fn change(&self, shared: &Shared, change: impl Fn(Word) -> Word) {
        let mut word = shared.word();
        while word.generation() == self.generation && word.is_ejected() {
            match shared.exchange(word, change(word)) {
                Ok(()) => return,
                Err(newer) => word = newer,
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            if self.has_place {
                shared.room.give_back();
            }
            self.give_back(&shared);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("is_probe", &self.is_probe)
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// A stable name for metrics, events and people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Recovering => "recovering",
            Self::Throttled => "throttled",
            Self::Faulting => "faulting",
            Self::Probing => "probing",
            Self::SwitchedOff => "switched_off",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Shared ===

impl Shared {
    fn word(&self) -> Word {
        Word(self.breaker.load(Ordering::Acquire))
    }

    fn exchange(&self, from: Word, to: Word) -> Result<(), Word> {
        self.breaker
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Word)
    }

    fn millis(&self, at: Instant) -> u64 {
        self.epoch.nanos(at).saturating_sub(1) / 1_000_000
    }

    /// Rounded up, so that nothing is due before its time.
    fn millis_up(&self, at: Instant) -> u64 {
        self.epoch.nanos(at).saturating_sub(1).div_ceil(1_000_000)
    }

    fn instant(&self, millis: u64, now: Instant) -> Instant {
        self.epoch
            .instant(millis.saturating_mul(1_000_000).saturating_add(1), now)
    }

    fn ejected_until(&self, now: Instant) -> Option<Instant> {
        let word = self.word();
        (word.is_ejected() && word.millis() > self.millis(now))
            .then(|| self.instant(word.millis(), now))
    }

    /// The limit in force that ends last.
    #[inline]
    fn limited(&self, now: Instant) -> Option<Limited> {
        // The usual case, asked twice for every attempt.
        if self.limits.iter().all(SharedLimit::was_never) {
            return None;
        }
        self.longest_limit(now)
    }

    #[cold]
    fn longest_limit(&self, now: Instant) -> Option<Limited> {
        self.limits
            .iter()
            .filter_map(|limit| limit.in_force(now))
            .max_by_key(|limited| limited.until)
    }

    /// The share of the requests for a target that is not ejected.
    fn share(&self, word: Word, now: Instant) -> u64 {
        if word.millis() == 0 {
            return WHOLE;
        }
        let seconds = self.millis(now).saturating_sub(word.millis()) / 1_000;
        if seconds >= 32 {
            return WHOLE;
        }
        (self.ramp_start << seconds).min(WHOLE)
    }

    /// Whether this request is of the share. Fractions add up, so that of any ten requests exactly
    /// one passes at a tenth: chance would let bursts through.
    fn lets_through(&self, word: Word, now: Instant) -> bool {
        let Ok(share) = u32::try_from(self.share(word, now)) else {
            return true;
        };
        let credit = self.ramp_credit.fetch_add(share, Ordering::AcqRel);
        credit.checked_add(share).is_none()
    }

    fn rate_is_too_high(&self, millis: u64) -> bool {
        let (attempts, faults) = self.window.counts(millis);
        #[expect(
            clippy::cast_precision_loss,
            reason = "counts of ten seconds are far below 2^52"
        )]
        let rate = faults as f64 / attempts.max(1) as f64;
        attempts >= self.config.min_samples && rate >= self.config.fault_rate
    }

    /// Which ejection this is and how long it lasts.
    fn next_ejection(&self, word: Word, millis: u64) -> (u32, Duration) {
        let quiet = millis.saturating_sub(word.millis());
        let cap = self.config.ejection_cap;
        let forgiven = quiet / (nanos(cap) / 1_000_000).max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        let times = self
            .times_ejected
            .load(Ordering::Acquire)
            .saturating_sub(forgiven)
            .saturating_add(1);
        let period = self.config.ejection_base.saturating_mul(times).min(cap);
        (times, self.jittered(period))
    }

    fn throttle(&self, now: Instant, begun: Instant, outcome: &Outcome) -> Option<State> {
        let limit = &self.limits[place(outcome.scope())?];
        let config = &self.config;
        let (base, cap) = if outcome.kind() == Kind::QuotaExhausted {
            (config.quota_base, config.quota_cap)
        } else {
            (config.limit_base, config.limit_cap)
        };
        let (wait, stated) = match outcome.retry_after() {
            Some(hint) => (
                hint.delay.clamp(config.limit_floor, cap),
                hint.source != HintSource::Local,
            ),
            None => {
                let doublings = limit.strike(begun).min(31);
                let wait = base.saturating_mul(1 << doublings).min(cap);
                (self.jittered(wait), false)
            }
        };
        if wait <= config.limit_tolerated {
            return None;
        }
        limit
            .extend(now, now + wait, stated)
            .then_some(State::Throttled)
    }

    /// `period`, a little longer.
    fn jittered(&self, period: Duration) -> Duration {
        let longer = period.mul_f64(self.config.jitter * fastrand::f64());
        period.saturating_add(longer)
    }

    /// A new ejection, or a new life, begins without a past.
    fn forget_counts(&self) {
        self.consecutive.store(0, Ordering::Release);
        self.window.clear();
    }
}

/// Where the limit of a scope is kept.
fn place(scope: Scope) -> Option<usize> {
    SCOPES.iter().position(|known| *known == scope)
}
