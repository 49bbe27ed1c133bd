use std::{sync::Arc, time::Duration};

use backstop_core::{Event, Failure, Headroom, HintSource, Kind, Observer, Outcome, Scope};
use tokio::time::Instant;

use crate::{
    Key,
    config::Config,
    reserve::Nearly,
    scoped::Scoped,
    state::{Admission, Advice, Limit, LimitKind, Micros, Place, Refusal, Sent, micros, sent_at},
    table::Table,
    waiting::Waiting,
};

/// What is remembered of one target, and who is told.
#[derive(Debug)]
pub(crate) struct Memory<O> {
    pub(crate) target: Arc<str>,
    pub(crate) observer: O,
    pub(crate) config: Config,
    pub(crate) scopes: Arc<Scopes>,
}

/// The scopes of one target.
#[derive(Debug)]
pub(crate) struct Scopes {
    epoch: Instant,
    /// The whole target.
    pub(crate) whole: Arc<Scoped>,
    /// Those that keys name. Empty when requests have none.
    pub(crate) keyed: Table,
}

/// The scopes that one request is subject to, from the widest.
#[derive(Clone, Debug)]
struct Chain {
    scopes: [Option<Arc<Scoped>>; Self::LENGTH],
}

/// The right to send one request, which is given back unless used.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    places: [Option<(Arc<Scoped>, Place)>; Chain::LENGTH],
    released: Option<Scope>,
    /// Whether any limit was remembered when it was given.
    remembered: bool,
}

/// What keeps a request from being sent.
#[derive(Clone, Debug)]
pub(crate) struct Blocked {
    pub(crate) by: Arc<Scoped>,
    /// When its turn would be, if it waited.
    pub(crate) at: Micros,
    pub(crate) why: Why,
}

/// Why a request is not sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why {
    /// The target refused, or would.
    Limited(Limit),
    /// It would not, but little is left.
    Paced,
}

/// On which terms a request is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) key: Option<Key>,
    /// How many tokens it is likely to cost.
    pub(crate) estimate: u64,
    /// Until when it waits for a limit to end; zero when it does not.
    pub(crate) wait_until: Micros,
    /// Until when it may be paced; zero when it may not.
    pub(crate) pace_until: Micros,
}

// === impl Scopes ===

impl Scopes {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            epoch: Instant::now(),
            whole: Arc::new(Scoped::new()),
            keyed: Table::new(capacity),
        }
    }

    /// The time, rounded down: what has not quite come has not come.
    pub(crate) fn now(&self) -> Micros {
        let since = Instant::now().saturating_duration_since(self.epoch);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// The time, rounded up: a wait that is counted from it is not too short.
    fn now_ceil(&self) -> Micros {
        micros(Instant::now().saturating_duration_since(self.epoch))
    }

    pub(crate) fn instant(&self, at: Micros) -> Instant {
        self.epoch
            .checked_add(Duration::from_micros(at))
            .unwrap_or(self.epoch)
    }

    /// Whether nothing is remembered that concerns a key.
    #[inline]
    pub(crate) fn is_open(&self, key: Option<Key>) -> bool {
        self.whole.state.is_open() && key.is_none_or(|key| self.is_open_for(key))
    }

    /// Whether nothing is remembered for a key; what concerns the whole target is left out.
    pub(crate) fn is_open_for(&self, key: Key) -> bool {
        self.keyed.is_open(key)
            && key
                .without_model()
                .is_none_or(|wider| wider == key || self.keyed.is_open(wider))
    }

    /// The limit in force for a key that lasts the longest.
    pub(crate) fn in_force(&self, key: Option<Key>) -> Option<Limit> {
        if self.is_open(key) {
            return None;
        }
        self.chain(key).in_force(self.now())
    }

    fn chain(&self, key: Option<Key>) -> Chain {
        let find = |key| self.keyed.get(key, || self.now());
        let wider = key
            .and_then(Key::without_model)
            .filter(|wider| Some(*wider) != key);
        Chain {
            scopes: [
                Some(Arc::clone(&self.whole)),
                wider.and_then(find),
                key.and_then(find),
            ],
        }
    }
}

// === impl Memory ===

impl<O: Observer> Memory<O> {
    /// Learns what an outcome says of limits.
    ///
    /// `sent` is when the request was sent, if anything was remembered then.
    #[cold]
    pub(crate) fn learn(&self, key: Option<Key>, sent: Option<Sent>, outcome: &Outcome) {
        if !outcome.is_success() {
            self.failed(key, sent, outcome);
        } else if let Some(sent) = sent {
            self.succeeded(key, sent);
        }
    }

    /// Learns that a request succeeded which was sent while something was remembered.
    fn succeeded(&self, key: Option<Key>, sent: Sent) {
        let now = self.scopes.now();
        for scoped in self.scopes.chain(key).iter() {
            scoped.state.succeed(sent.get(), now);
        }
    }

    fn failed(&self, key: Option<Key>, sent: Option<Sent>, outcome: &Outcome) {
        let Some(kind) = LimitKind::of(outcome.kind()) else {
            return;
        };
        if outcome.scope() == Scope::Request {
            return;
        }
        self.notice(key, sent, kind, outcome);
    }

    fn notice(&self, key: Option<Key>, sent: Option<Sent>, kind: LimitKind, outcome: &Outcome) {
        let waits = match kind {
            LimitKind::Throttled => &self.config.throttled,
            LimitKind::QuotaExhausted => &self.config.quota,
            LimitKind::Overloaded => &self.config.overloaded,
        };
        let now = self.scopes.now_ceil();
        let scoped = match key.and_then(|key| key.at(outcome.scope())) {
            Some(key) => self.scopes.keyed.get_or_insert(key, now),
            None => Arc::clone(&self.scopes.whole),
        };
        let hint = outcome.retry_after();
        let given = hint.map(|hint| waits.given(hint.delay));
        let refusal = Refusal {
            kind,
            scope: outcome.scope(),
            advice: Advice {
                may_fail_over: outcome.may_fail_over(),
                may_repeat: outcome.may_repeat(),
            },
            now,
            sent: sent.map(Sent::get),
            given: given.map(micros),
        };
        let jitter = self.config.jitter * fastrand::f64();
        let until = scoped.state.notice(&refusal, |strikes| {
            let (wait, cap) = match given {
                Some(given) => (given, waits.cap),
                None => (waits.computed(strikes), waits.backoff_cap),
            };
            micros(wait.saturating_add(wait.mul_f64(jitter)).min(cap.max(wait)))
        });
        if let Some(until) = until {
            scoped.changed.notify_waiters();
            self.observer.on_event(&Event::LimitNoticed {
                target: &self.target,
                outcome,
                source: hint.map_or(HintSource::Local, |hint| hint.source),
                wait: Duration::from_micros(until.saturating_sub(now)),
            });
        }
    }

    /// Lets a request through if nothing keeps it: no limit, and nobody in line before it.
    pub(crate) fn admit(&self, terms: &Terms) -> Result<Pass, Blocked> {
        self.scopes.admit(terms, self.rules(), true)
    }

    /// Lines up, if there is time for it; otherwise the answer is given here.
    pub(crate) fn wait(&self, terms: Terms, blocked: Blocked) -> Result<Waiting, Failure> {
        blocked
            .patience(&terms)
            .map_err(|late| self.local_answer(late.at, &late.limit))?;
        let scopes = Arc::clone(&self.scopes);
        Ok(Waiting::new(scopes, terms, self.rules(), blocked))
    }

    fn rules(&self) -> Rules {
        Rules {
            ramp: micros(self.config.ramp),
            reserve: self.config.shift_below,
        }
    }

    /// Whether so little is left that a request with these terms had better go elsewhere.
    pub(crate) fn nearly(&self, terms: &Terms) -> Option<Nearly> {
        let reserve = self.config.shift_below?;
        let scoped = self.scopes.narrowest(terms.key);
        let now = || self.scopes.now();
        scoped.level.nearly(reserve, terms.estimate, 0, now)
    }

    /// Takes over what an answer says is left.
    pub(crate) fn level(&self, key: Option<Key>, headroom: &Headroom) {
        let Some(reserve) = self.config.shift_below else {
            return;
        };
        let now = self.scopes.now();
        let scoped = match key {
            Some(key) => self.scopes.keyed.get_or_insert(key, now),
            None => Arc::clone(&self.scopes.whole),
        };
        let cap = self.config.quota.cap;
        if let Some(share) = scoped.level.update(headroom, reserve, cap, now) {
            self.shifted(share);
        }
    }

    fn shifted(&self, share: f64) {
        self.observer.on_event(&Event::ShiftedEarly {
            target: &self.target,
            share,
        });
    }

    /// Whether a pass given a while ago still holds.
    pub(crate) fn holds(&self, key: Option<Key>, pass: &Pass) -> bool {
        let scopes = &self.scopes;
        scopes.is_open(key) || (pass.remembered && scopes.in_force(key).is_none())
    }

    /// Makes use of a pass: the request is being sent. Returns when, if anything is remembered.
    pub(crate) fn send(&self, mut pass: Pass, terms: &Terms) -> Option<Sent> {
        pass.places = Default::default();
        if let Some(scope) = pass.released {
            self.observer.on_event(&Event::LimitReleased {
                target: &self.target,
                scope,
            });
        }
        if self.config.shift_below.is_some() {
            self.spend(terms);
        }
        pass.remembered.then(|| sent_at(self.scopes.now()))
    }

    /// Takes what a request is likely to cost from what is left.
    pub(crate) fn spend(&self, terms: &Terms) {
        let scoped = self.scopes.narrowest(terms.key);
        scoped.level.spend(terms.estimate, self.scopes.now());
    }

    /// The answer in the stead of the target's.
    pub(crate) fn local_answer(&self, at: Micros, limit: &Limit) -> Failure {
        let evidence = match limit.kind {
            LimitKind::Throttled => "a rate limit noticed before",
            LimitKind::QuotaExhausted => "a spent quota noticed before",
            LimitKind::Overloaded => "an overload noticed before",
        };
        let outcome = Outcome::new(limit.kind.kind())
            .with_scope(limit.scope)
            .with_fail_over(limit.advice.may_fail_over)
            .with_repeat(limit.advice.may_repeat)
            .with_evidence(evidence);
        self.answered(at, outcome)
    }

    /// The answer to a request that has somewhere else to go, when little is left.
    pub(crate) fn early_answer(&self, nearly: &Nearly) -> Failure {
        self.shifted(nearly.share);
        // It is somebody else who is to be asked, not this target once more.
        let outcome = Outcome::new(Kind::Throttled)
            .with_scope(Scope::Request)
            .with_repeat(false)
            .with_evidence("little is left of a limit");
        self.answered(nearly.until, outcome)
    }

    fn answered(&self, at: Micros, outcome: Outcome) -> Failure {
        let wait = Duration::from_micros(at.saturating_sub(self.scopes.now()));
        let outcome = outcome.with_retry_after(wait, HintSource::Local);
        self.observer.on_event(&Event::AnsweredLocally {
            target: &self.target,
            outcome: &outcome,
        });
        Failure::new(outcome)
    }
}

/// By which rules requests are let through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    ramp: Micros,
    reserve: Option<f64>,
}

impl Scopes {
    /// Lets a request through if nothing keeps it: no limit, and nobody in line before it unless it
    /// is itself the first (`behind_the_line` is false).
    pub(crate) fn admit(
        &self,
        terms: &Terms,
        rules: Rules,
        behind_the_line: bool,
    ) -> Result<Pass, Blocked> {
        let mut pass = Pass::default();
        let ahead = |scoped: &Scoped| if behind_the_line { scoped.waiting() } else { 0 };
        if !self.is_open(terms.key) {
            let now = self.now();
            pass.remembered = true;
            for (scoped, place) in self.chain(terms.key).iter().zip(&mut pass.places) {
                match scoped.state.admit(now, rules.ramp, ahead(scoped)) {
                    Admission::Open => {}
                    Admission::Returns {
                        place: taken,
                        released,
                    } => {
                        *place = Some((Arc::clone(scoped), taken));
                        pass.released = pass.released.or(released);
                    }
                    Admission::NotBefore { at, limit } => {
                        return Err(Blocked {
                            by: Arc::clone(scoped),
                            at,
                            why: Why::Limited(limit),
                        });
                    }
                }
            }
        }
        if let Some(reserve) = rules.reserve
            && terms.pace_until > 0
        {
            let scoped = self.narrowest(terms.key);
            let ahead = ahead(&scoped);
            let now = || self.now();
            if let Some(nearly) = scoped.level.nearly(reserve, terms.estimate, ahead, now)
                && now() < nearly.at.min(terms.pace_until)
            {
                return Err(Blocked {
                    by: scoped,
                    at: nearly.at.min(terms.pace_until),
                    why: Why::Paced,
                });
            }
        }
        Ok(pass)
    }

    /// The narrowest scope of a key of which anything is remembered.
    fn narrowest(&self, key: Option<Key>) -> Arc<Scoped> {
        key.and_then(|key| self.keyed.get(key, || self.now()))
            .unwrap_or_else(|| Arc::clone(&self.whole))
    }
}

// === impl Chain ===

impl Chain {
    /// The target, the credential or account, the model.
    const LENGTH: usize = 3;

    fn iter(&self) -> impl Iterator<Item = &Arc<Scoped>> {
        self.scopes.iter().flatten()
    }

    /// The limit in force that lasts the longest.
    fn in_force(&self, now: Micros) -> Option<Limit> {
        self.iter()
            .filter_map(|scoped| scoped.state.in_force(now))
            .max_by_key(|limit| limit.until)
    }
}

// === impl Pass ===

impl Drop for Pass {
    fn drop(&mut self) {
        for (scoped, place) in self.places.iter_mut().filter_map(Option::take) {
            scoped.state.give_back(place);
        }
    }
}
