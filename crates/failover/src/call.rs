use std::{
    future::poll_fn,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use backstop_core::{
    Attempt, BoxError, Classify, ClassifyStream, Deadline, Event, Failure, Frozen, HintSource,
    Kind, Mode, Observer, Outcome, Phase, Replay, Requests, Responses, Served,
};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    Considered, Exhausted, ResponseBody, SkipReason, Skipped, Trace,
    admission::Slot,
    attempt::{Attempted, Begun, BodyOf, HeadOf, Limits, Loss, Settled, SettledOf},
    budget::Spend,
    config::DEFAULT_WAIT,
    guards::{Needs, WentWrong},
    handle::{Force, Order},
    health::{Choice, Permit, State},
    keep::READ_WITHIN,
    plan::{self, Affinity},
    policy,
    report::Report,
    retry::Retry,
    service::Inner,
    state::TargetState,
    timer::Timer,
    trace::{Cause, Tried},
};

/// The response of a call.
pub(crate) type Answer<P, Res, K, O> =
    <P as Responses<Res>>::With<ResponseBody<<P as Responses<Res>>::Body, K, O>>;

/// One call under way.
struct Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    S: Service<<P as Replay<Req>>::Request>,
{
    inner: Arc<Inner<S, C, O>>,
    source: Source<P::Spare, <P as Replay<Req>>::Request>,
    order: Sequence,
    started: Instant,
    now: Instant,
    /// What inner layers are told.
    deadline: Option<Deadline>,
    until: Instant,
    /// Whether the deadline is the caller's, and earlier than ours.
    callers_own: bool,
    forced: Option<Order>,
    needs: Needs,
    went_wrong: WentWrong,
    /// What the plan was told of the call.
    planning: plan::Call,
    attempts: u32,
    trace: Trace,
    /// What the target said or did that speaks for all if none answers.
    first: Option<Box<LossOf<P, S::Response>>>,
    /// Who is asked first if all is well.
    planned_first: usize,
    /// Who would have been asked first: the first one that could not be asked for now, or that can
    /// never serve such a request.
    passed_over: Option<(usize, Skipped)>,
    /// When a target that has no room is worth asking again.
    room_at: Option<Instant>,
}

/// The request, for the attempts.
enum Source<F, R> {
    /// The first one is made already.
    Often(Option<R>, F),
    Once(Option<R>),
}

/// The targets in the order in which they are to be asked.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    order: plan::Order,
    /// How many of them have had their turn.
    past: usize,
    /// Whether the first one is only asked to see that it works.
    is_exercise: bool,
}

/// A target that may be asked now.
struct Pick {
    target: usize,
    permit: Permit,
    slot: Option<Slot>,
    cause: Cause,
}

/// What came of asking one target, and of the hedge if there was one.
enum Round<H, B, K: ClassifyStream, O: Observer> {
    Answered(usize, H, Option<ResponseBody<B, K, O>>),
    Lost(Loss<H, B>, Option<Loss<H, B>>),
}

/// What follows from a round that gave no answer.
#[derive(Clone, Copy, Debug)]
struct Lost {
    /// What the target that was asked first did.
    outcome: Outcome,
    /// Whether anybody else may be asked.
    go_on: bool,
    hedged: bool,
}

/// The end of a call, or what follows.
type Judged<T> = ControlFlow<Result<T, BoxError>, Lost>;
type AnswerBody<P, Res, K, O> = ResponseBody<BodyOf<P, Res>, K, O>;
type RoundOf<P, Res, K, O> = Round<HeadOf<P, Res>, BodyOf<P, Res>, K, O>;
type LossOf<P, Res> = Loss<HeadOf<P, Res>, BodyOf<P, Res>>;

/// Serves one call.
///
/// The work is in one block that owns its state, and makes it when it is polled: what is passed to an
/// `async fn` is kept twice, and all of a future is moved when it is boxed.
pub(crate) fn run<S, C, P, O, Req>(
    inner: Arc<Inner<S, C, O>>,
    request: Req,
) -> impl Future<Output = Result<Answer<P, S::Response, C::Stream, O>, BoxError>>
where
    P: Requests<Req> + Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    let started = Instant::now();
    async move {
        let mut call: Call<S, C, P, O, Req> = Call::new(inner, &request, started);
        {
            let config = &call.inner.config;
            let freeze = pin!(P::prepare(request, config.replay_limit, &config.carry));
            call.freeze(freeze).await?;
        }
        call.drive().await
    }
}

impl<S, C, P, O, Req> Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    /// Takes what is needed from the request.
    fn new(inner: Arc<Inner<S, C, O>>, request: &Req, started: Instant) -> Self
    where
        P: Requests<Req>,
    {
        let extensions = <P as Requests<Req>>::extensions(request);
        let callers = extensions.and_then(|extensions| extensions.get::<Deadline>().copied());
        let ours = inner
            .config
            .deadline
            .map(|limit| Deadline::after(started.into_std(), limit));
        let callers_own = callers.is_some_and(|callers| ours.is_none_or(|ours| callers < ours));
        let deadline = if callers_own { callers } else { ours };
        let until = deadline.map_or_else(
            || started + DEFAULT_WAIT,
            |deadline| Instant::from_std(deadline.instant()),
        );
        let shared = &inner.state.shared;
        let forced = match extensions.and_then(|extensions| extensions.get::<Force>()) {
            Some(force) => shared.order(force),
            None => shared.forced.get(),
        };
        let mut planning = plan::Call::new(started, inner.services.len());
        if let Some(affinity) = extensions.and_then(|extensions| extensions.get::<Affinity>()) {
            planning = planning.affinity(*affinity);
        }
        let mut needs = extensions
            .and_then(|extensions| extensions.get::<Needs>().copied())
            .unwrap_or_default();
        if needs.known_bytes().is_none()
            && let Some(bytes) = <P as Requests<Req>>::size(request)
        {
            needs = needs.bytes(bytes);
        }
        let exercise = inner.config.exercise.filter(|_| forced.is_none());
        let order = Sequence::new(shared.plan.order(&planning), exercise);
        Self {
            inner,
            source: Source::Once(None),
            planned_first: order.order.first().unwrap_or(0),
            order,
            started,
            now: started,
            deadline,
            until,
            callers_own,
            forced,
            needs,
            went_wrong: WentWrong::default(),
            planning,
            attempts: 0,
            trace: Trace::default(),
            first: None,
            passed_over: None,
            room_at: None,
        }
    }

    /// Reads the request.
    async fn freeze(&mut self, mut freeze: Pin<&mut P::Prepare>) -> Result<(), BoxError> {
        let mut timer = pin!(Timer::new(self.now, self.until));
        let frozen = poll_fn(|cx| timer.as_mut().poll_race(freeze.as_mut(), cx)).await;
        self.now = timer.now();
        self.source = match frozen {
            Some(Ok(Frozen::Replayable((first, spare)))) => {
                if self.needs.known_bytes().is_none()
                    && let Some(bytes) = P::spare_size(&spare)
                {
                    self.needs = self.needs.bytes(bytes);
                }
                Source::Often(Some(first), spare)
            }
            Some(Ok(Frozen::Once(request))) => Source::Once(Some(request)),
            Some(Err(error)) => {
                let outcome = Outcome::cancelled().with_evidence("the request's body broke off");
                return Err(Failure::with_source(outcome, error).into());
            }
            None => {
                let outcome = Outcome::timed_out(Phase::Total)
                    .with_evidence("the request's body came too slowly");
                return Err(Failure::new(outcome).into());
            }
        };
        Ok(())
    }

    /// Asks until somebody answers.
    async fn drive(&mut self) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        self.inner.state.shared.budget.deposit(self.now);
        let mut retries = 0;
        let mut next = match self.pick() {
            Some(pick) => self.begin(pick, None),
            None => None,
        };
        while let Some(begun) = &mut next {
            let target = begun.target;
            let limit = begun.limits.until;
            let is_exercise = begun.tried.cause == Cause::Exercise;
            let delay = self
                .inner
                .config
                .hedge
                .and_then(|hedge| hedge.delay(&self.target(target).first_token));
            // What is not on the healthy path is in a box of its own, so that calls are small.
            let round = match delay {
                Some(delay) => Box::pin(self.ask_hedged(begun, delay)).await,
                None => {
                    let settled = begun.attempt::<C, P>(&self.inner.classify).await;
                    // An answer is large: it is not handed through what judges losses.
                    if let Attempted::Answered(head, body) = settled.attempted {
                        self.note_answer(target, settled.place, settled.now, &settled.tried);
                        return Ok(self.answered(target, head, body));
                    }
                    self.settle(settled)
                }
            };
            let Lost {
                outcome,
                go_on,
                hedged,
            } = match self.judge(round, is_exercise) {
                ControlFlow::Continue(lost) => lost,
                ControlFlow::Break(result) => return result,
            };
            if !go_on || self.is_spent() {
                break;
            }
            let again = match self.inner.config.retry {
                Some(retry) if !hedged => {
                    Box::pin(self.again(retry, target, limit, &outcome, retries)).await
                }
                _ => None,
            };
            if let Some(pick) = again {
                retries += 1;
                next = self.begin(pick, Some(limit));
                continue;
            }
            if self.order.is_over() {
                break;
            }
            Box::pin(self.hold_first()).await;
            if !self.pays(Spend::Failover) {
                break;
            }
            retries = 0;
            next = match self.pick() {
                Some(pick) => self.begin(pick, None),
                None => None,
            };
        }
        self.exhausted()
    }

    /// Whether what came of a round ends the call, or who may be asked next.
    fn judge(
        &mut self,
        round: RoundOf<P, S::Response, C::Stream, O>,
        is_exercise: bool,
    ) -> Judged<Answer<P, S::Response, C::Stream, O>> {
        let (loss, hedge) = match round {
            Round::Answered(target, head, body) => {
                return ControlFlow::Break(Ok(self.answered(target, head, body)));
            }
            Round::Lost(loss, hedge) => (loss, hedge),
        };
        let outcome = loss.outcome;
        if !is_exercise && self.stands(&loss) {
            return ControlFlow::Break(self.conclude(loss, false));
        }
        let hedged = hedge.is_some();
        let mut go_on = self.lose(loss, is_exercise);
        if let Some(hedge) = hedge {
            go_on &= self.lose(hedge, false);
        }
        ControlFlow::Continue(Lost {
            outcome,
            go_on,
            hedged,
        })
    }

    /// The next target that may be asked, if there is time.
    fn pick(&mut self) -> Option<Pick> {
        if self.is_spent() || self.until <= self.now {
            return None;
        }
        while let Some((target, exercised)) = self.order.next() {
            match self.admit(target) {
                Ok((permit, slot)) => {
                    let cause = if exercised {
                        Cause::Exercise
                    } else if permit.is_probe() {
                        Cause::Probe
                    } else {
                        Cause::Planned
                    };
                    return Some(Pick {
                        target,
                        permit,
                        slot,
                        cause,
                    });
                }
                Err(skipped) => self.skip(target, skipped, exercised),
            }
        }
        if self.attempts > 0 {
            return None;
        }
        // Nobody may be asked: the last usable target is never benched.
        let targets = &self.inner.state.shared.targets;
        let able = targets
            .iter()
            .enumerate()
            .filter(|(target, _)| self.unsuited(*target).is_none())
            .map(|(target, state)| (target, &state.health));
        let choice = self.inner.config.last_resort.choose(self.now, able);
        let Choice::Try { target, permit } = choice else {
            return None;
        };
        match self.slot(target) {
            Ok(slot) => Some(Pick {
                target,
                permit,
                slot,
                cause: Cause::LastResort,
            }),
            Err(_) => None,
        }
    }

    /// Why a target is not for this request, whatever its health.
    fn unsuited(&self, target: usize) -> Option<SkipReason> {
        let forbidden = match self.forced {
            Some(Order::Fallback) => target == 0,
            Some(Order::Only(only)) => target != only,
            None => false,
        };
        if forbidden {
            return Some(SkipReason::Forced);
        }
        let guards = &self.target(target).about.guards;
        guards
            .serves(&self.needs)
            .and_then(|()| guards.follows(&self.went_wrong))
            .err()
    }

    fn admit(&self, target: usize) -> Result<(Permit, Option<Slot>), Skipped> {
        if let Some(reason) = self.unsuited(target) {
            return Err(Skipped::new(reason));
        }
        let permit = self.inner.state.shared.targets[target]
            .health
            .try_acquire(self.now)?;
        Ok((permit, self.slot(target)?))
    }

    fn slot(&self, target: usize) -> Result<Option<Slot>, Skipped> {
        self.inner.state.shared.targets[target]
            .admission
            .as_ref()
            .map(|admission| admission.try_admit(self.now))
            .transpose()
    }

    #[cold]
    fn skip(&mut self, target: usize, skipped: Skipped, exercised: bool) {
        let state = &self.inner.state;
        let name = state.name(target);
        state.observer.on_event(&Event::TargetSkipped {
            target: name,
            reason: skipped.reason.as_str(),
        });
        tracing::debug!(
            name: "backstop.failover.target_skipped",
            model = %name,
            reason = skipped.reason.as_str(),
            "target skipped",
        );
        self.trace.push(name, Considered::Skipped(skipped.reason));
        self.went_wrong.skipped(skipped.reason);
        let has_no_room = matches!(
            skipped.reason,
            SkipReason::AtCapacity | SkipReason::AtRateCap
        );
        if let Some(at) = skipped.retry_at.filter(|_| has_no_room) {
            self.room_at = Some(self.room_at.map_or(at, |room| room.min(at)));
        }
        let says_more = match &self.passed_over {
            None => skipped.reason != SkipReason::Forced,
            Some((_, before)) => skipped.reason.is_passing() && !before.reason.is_passing(),
        };
        if self.attempts == 0 && !exercised && says_more {
            self.passed_over = Some((target, skipped));
        }
    }

    /// How many targets are left that may be asked after `target`.
    fn others(&self) -> (u32, Duration) {
        let mut count = 0_u32;
        let mut least_time = Duration::ZERO;
        if matches!(self.source, Source::Once(_)) {
            return (count, least_time);
        }
        let mut order = self.order;
        while let Some((target, _)) = order.next() {
            let state = &self.inner.state.shared.targets[target];
            let is_due = || {
                state
                    .health
                    .due(self.now)
                    .is_some_and(|due| due <= self.now)
            };
            if self.unsuited(target).is_none() && is_due() {
                count = count.saturating_add(1);
                least_time = least_time.saturating_add(state.about.least_time);
            }
        }
        (count, least_time)
    }

    /// Makes the request of an attempt, which may go on until the time given, or for its part of what
    /// is left. `None` when the request was sent already and can be sent only once.
    fn begin(
        &mut self,
        pick: Pick,
        until: Option<Instant>,
    ) -> Option<Begun<S, <P as Replay<Req>>::Request, O>> {
        let (others, least_time) = self.others();
        let is_last = others == 0;
        let until = until.unwrap_or_else(|| {
            let left = self.until.saturating_duration_since(self.now);
            let reserve = &self.inner.config.reserve;
            self.now + reserve.limit(left, others, least_time)
        });
        let Pick {
            target,
            permit,
            slot,
            cause,
        } = pick;
        let Inner {
            services,
            config,
            state,
            ..
        } = &*self.inner;
        let mut request = match &mut self.source {
            Source::Often(first, spare) => first.take().unwrap_or_else(|| P::again(spare)),
            Source::Once(request) => request.take()?,
        };
        let about = &state.shared.targets[target].about;
        if let Some(extensions) = <P as Replay<Req>>::extensions_mut(&mut request) {
            let name = Arc::clone(&about.name);
            extensions.insert(Attempt::new(name, self.attempts, is_last));
            if let Some(deadline) = self.deadline {
                extensions.insert(deadline);
            }
            if let Some((idle, limits)) = about.cold
                && state
                    .shared
                    .since_success(target, self.now)
                    .is_none_or(|since| since >= idle)
            {
                extensions.insert(limits);
            }
        }
        let report = Report::start(state, target, self.attempts, self.now, permit, slot);
        self.attempts += 1;
        let tried = Tried::new(cause, self.now.saturating_duration_since(self.started));
        let place = self.trace.push(&about.name, Considered::Tried(tried));
        Some(Begun {
            service: services[target].clone(),
            target,
            request: Some(request),
            report: Some(report),
            place,
            limits: Limits {
                until,
                peek: config.peek_limit,
                callers_own: self.callers_own,
            },
            tried,
            at: self.now,
        })
    }

    /// Asks a target, and another one as well if the first one is late.
    async fn ask_hedged(
        &mut self,
        begun: &mut Begun<S, <P as Replay<Req>>::Request, O>,
        delay: Duration,
    ) -> RoundOf<P, S::Response, C::Stream, O> {
        let inner = Arc::clone(&self.inner);
        let classify = &inner.classify;
        let (at, place) = (begun.at, begun.place);
        let mut first = pin!(begun.attempt::<C, P>(classify));
        let mut timer = pin!(Timer::new(at, at + delay));
        if let Some(settled) = timer.as_mut().race(first.as_mut()).await {
            return self.settle(settled);
        }
        self.now = timer.now();
        let Some(mut hedge) = self.hedge() else {
            let settled = first.await;
            return self.settle(settled);
        };
        let (hedge_at, hedge_place) = (hedge.at, hedge.place);
        let mut second = pin!(hedge.attempt::<C, P>(classify));
        let mut first_loss = None;
        let mut second_loss = None;
        loop {
            let (first_runs, second_runs) = (first_loss.is_none(), second_loss.is_none());
            let (is_hedge, settled) = poll_fn(|cx| {
                if first_runs && let Poll::Ready(settled) = first.as_mut().poll(cx) {
                    return Poll::Ready((false, settled));
                }
                if second_runs && let Poll::Ready(settled) = second.as_mut().poll(cx) {
                    return Poll::Ready((true, settled));
                }
                Poll::Pending
            })
            .await;
            let round = self.settle(settled);
            // Whatever ends the round calls off the other attempt, by dropping it.
            let (other_lost, other_at, other_place) = if is_hedge {
                (first_loss.is_some(), at, place)
            } else {
                (second_loss.is_some(), hedge_at, hedge_place)
            };
            let loss = match round {
                Round::Lost(loss, _) if is_hedge || !self.stands(&loss) => loss,
                round => {
                    if !other_lost {
                        let took = self.now.saturating_duration_since(other_at);
                        self.trace.called_off(other_place, took);
                    }
                    return round;
                }
            };
            if is_hedge {
                second_loss = Some(loss);
            } else {
                first_loss = Some(loss);
            }
            if let (Some(_), Some(_)) = (&first_loss, &second_loss)
                && let Some(loss) = first_loss.take()
            {
                return Round::Lost(loss, second_loss);
            }
        }
    }

    /// Begins another attempt while one is late, if somebody is left and the budget pays for it.
    fn hedge(&mut self) -> Option<Begun<S, <P as Replay<Req>>::Request, O>> {
        if self.inner.config.at_most_once || self.others().0 == 0 || !self.pays(Spend::Hedge) {
            return None;
        }
        let mut pick = self.pick()?;
        pick.cause = Cause::Hedge;
        self.begin(pick, None)
    }

    /// Waits to ask the same target again, if that makes sense.
    async fn again(
        &mut self,
        retry: Retry,
        target: usize,
        until: Instant,
        outcome: &Outcome,
        before: u32,
    ) -> Option<Pick> {
        let wait = retry.wait(outcome, before, fastrand::f64())?;
        let at = self.now + wait;
        // Neither time nor budget is spent on one that is ejected or will be limited still.
        let health = &self.target(target).health;
        let may_be_asked = match health.state(self.now) {
            State::Healthy | State::Recovering => true,
            State::Throttled => health.due(self.now).is_some_and(|due| due <= at),
            State::Faulting | State::Probing | State::SwitchedOff => false,
        };
        if at >= until || !may_be_asked || !self.pays(Spend::Retry) {
            return None;
        }
        self.hold_first().await;
        let mut timer = pin!(Timer::new(self.now, at));
        timer.as_mut().wait().await;
        self.now = timer.now();
        match self.admit(target) {
            Ok((permit, slot)) => Some(Pick {
                target,
                permit,
                slot,
                cause: Cause::Retry,
            }),
            Err(skipped) => {
                self.skip(target, skipped, false);
                None
            }
        }
    }

    /// Whether the budget pays. When it does not, the trace says so.
    fn pays(&mut self, spend: Spend) -> bool {
        let budget = &self.inner.state.shared.budget;
        let pays = budget.try_withdraw(self.now, spend);
        if !pays {
            self.inner
                .state
                .observer
                .on_event(&Event::BudgetSpent { on: spend.as_str() });
            tracing::info!(
                name: "backstop.failover.budget_spent",
                on = spend.as_str(),
                "the budget is spent",
            );
        }
        self.trace.budget_left = Some(budget.balance(self.now));
        pays
    }

    /// Takes note of how an attempt went.
    fn settle(
        &mut self,
        settled: SettledOf<P, S::Response, C::Stream, O>,
    ) -> RoundOf<P, S::Response, C::Stream, O> {
        let Settled {
            target,
            place,
            now,
            tried,
            attempted,
        } = settled;
        match attempted {
            Attempted::Answered(head, body) => {
                self.note_answer(target, place, now, &tried);
                Round::Answered(target, head, body)
            }
            Attempted::Lost(loss) => {
                self.note_loss(target, place, now, &tried, loss.outcome.kind());
                Round::Lost(loss, None)
            }
        }
    }

    fn note_answer(&mut self, target: usize, place: usize, now: Instant, tried: &Tried) {
        self.now = self.now.max(now);
        self.trace.update(place, *tried);
        let shared = &self.inner.state.shared;
        shared
            .plan
            .on_first_token(self.now, target, first_token(tried));
        if tried.cause != Cause::Exercise {
            shared
                .plan
                .on_served(&self.planning, target, self.planned_first);
        }
        if let Some(hedge) = self.inner.config.hedge {
            hedge.record(&self.target(target).first_token, tried.took);
        }
    }

    #[cold]
    fn note_loss(&mut self, target: usize, place: usize, now: Instant, tried: &Tried, kind: Kind) {
        self.now = self.now.max(now);
        self.trace.update(place, *tried);
        let state = &self.inner.state;
        if let Kind::TimedOut(Phase::Headers | Phase::FirstToken) = kind {
            state
                .shared
                .plan
                .on_first_token(self.now, target, first_token(tried));
        }
        if tried.possible_duplicate {
            state.observer.on_event(&Event::PossibleDuplicate {
                target: state.name(target),
            });
        }
    }

    /// Whether what the first target asked said stands, so that nobody else is asked: the caller's
    /// own doing, or what nobody else can mend.
    fn stands(&self, loss: &LossOf<P, S::Response>) -> bool {
        self.first.is_none() && !policy::goes_on(&loss.outcome)
    }

    /// Draws the conclusions from a failed attempt. Returns whether anybody else may be asked.
    fn lose(&mut self, loss: LossOf<P, S::Response>, exercised: bool) -> bool {
        let runs_once = self.inner.config.at_most_once && loss.possible_duplicate;
        // A backup that is only being tried out says nothing for the others.
        let go_on = exercised || policy::goes_on(&loss.outcome);
        if !exercised {
            let guards = &self.inner.state.shared.targets[loss.target].about.guards;
            self.went_wrong.failed(guards, loss.outcome.kind());
        }
        match &self.first {
            None if exercised && !runs_once => {}
            None => self.first = Some(Box::new(loss)),
            // The same target again: what it said last, if it said anything.
            Some(first) if first.target == loss.target && loss.answer.is_some() => {
                self.first = Some(Box::new(loss));
            }
            // What a later target said is dropped before anybody else is asked.
            Some(_) => {}
        }
        go_on && !runs_once
    }

    /// The first answer is kept for the case that nobody does better. Reading it while it is most
    /// likely there frees its connection.
    async fn hold_first(&mut self) {
        if let Some(first) = &mut self.first
            && let Some((_, body)) = &mut first.answer
            && let Some(kept) = body.take()
        {
            let until = self.until.min(self.now + READ_WITHIN);
            let mut timer = pin!(Timer::new(self.now, until));
            *body = kept.hold(timer.as_mut()).await;
            self.now = timer.now();
        }
    }

    fn answered(
        &mut self,
        target: usize,
        head: HeadOf<P, S::Response>,
        body: Option<AnswerBody<P, S::Response, C::Stream, O>>,
    ) -> Answer<P, S::Response, C::Stream, O> {
        if target != self.planned_first {
            tracing::info!(
                name: "backstop.failover.rescued",
                model = %self.inner.state.name(target),
                attempts = self.attempts,
                "another target answered",
            );
        }
        self.respond(target, head, body, false)
    }

    /// The answer when nobody did better than `loss`.
    #[cold]
    fn conclude(
        &mut self,
        loss: LossOf<P, S::Response>,
        is_final: bool,
    ) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        let Loss {
            target,
            outcome,
            answer,
            error,
            ..
        } = loss;
        match answer {
            Some((head, body)) => {
                let body = body.map(|body| ResponseBody::decided(body.into_body()));
                Ok(self.respond(target, head, body, is_final))
            }
            None => Err(self.fail(outcome, error)),
        }
    }

    /// The answer when nobody answered.
    #[cold]
    fn exhausted(&mut self) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        tracing::warn!(
            name: "backstop.failover.exhausted",
            attempts = self.attempts,
            "no target answered",
        );
        let first = self.first.take();
        if let Some(loss) = first
            && self.passed_over.is_none_or(|(target, skipped)| {
                target == loss.target || !skipped.reason.is_passing()
            })
        {
            // A refusal of this very request comes back as it came.
            let is_final = !policy::is_refusal(&loss.outcome);
            return self.conclude(*loss, is_final);
        }
        let outcome = match self.passed_over {
            Some((_, skipped)) => {
                Outcome::new(skipped.reason.stands_for()).with_evidence(skipped.reason.as_str())
            }
            None if self.until <= self.now => {
                Outcome::timed_out(Phase::Total).with_evidence("no time was left to ask anybody")
            }
            None => Outcome::new(Kind::Unavailable).with_evidence("nobody could be asked"),
        };
        Err(self.fail(outcome, None))
    }

    #[cold]
    fn fail(&mut self, mut outcome: Outcome, error: Option<BoxError>) -> BoxError {
        if outcome.retry_after().is_none()
            && let Some(wait) = self.soonest()
        {
            outcome = outcome.with_retry_after(wait, HintSource::Local);
        }
        self.finish_trace();
        Failure::with_source(
            outcome,
            Exhausted::new(std::mem::take(&mut self.trace), error),
        )
        .into()
    }

    /// How long until the first target may be asked again; `None` when one may be asked now or
    /// nobody knows.
    fn soonest(&self) -> Option<Duration> {
        let mut soonest = self.room_at;
        for (target, state) in self.inner.state.shared.targets.iter().enumerate() {
            if self.unsuited(target).is_some() {
                continue;
            }
            match state.health.due(self.now) {
                Some(due) if due > self.now => {
                    soonest = Some(soonest.map_or(due, |soonest| soonest.min(due)));
                }
                // It has no room, or it has just failed.
                Some(_) if self.room_at.is_none() => return None,
                Some(_) | None => {}
            }
        }
        soonest
            .map(|at| at.saturating_duration_since(self.now))
            .filter(|wait| !wait.is_zero())
    }

    fn respond(
        &mut self,
        target: usize,
        mut head: HeadOf<P, S::Response>,
        body: Option<AnswerBody<P, S::Response, C::Stream, O>>,
        is_final: bool,
    ) -> Answer<P, S::Response, C::Stream, O> {
        if let Some(extensions) = <P as Responses<S::Response>>::extensions_mut(&mut head) {
            let name = self.inner.state.name(target);
            let mode = if target == self.planned_first {
                Mode::Primary
            } else {
                Mode::Failover
            };
            extensions.insert(Served::new(Arc::clone(name), mode, self.attempts));
            self.trace.served = Some(Arc::clone(name));
            self.finish_trace();
            extensions.insert(std::mem::take(&mut self.trace));
        }
        if is_final {
            P::mark_final(&mut head);
        }
        P::join(head, body)
    }

    fn finish_trace(&mut self) {
        self.trace.took = self.now.saturating_duration_since(self.started);
        self.trace.deadline_left = self
            .deadline
            .map(|deadline| deadline.remaining(self.now.into_std()));
    }

    fn target(&self, target: usize) -> &'_ TargetState {
        &self.inner.state.shared.targets[target]
    }

    /// Whether the request was sent and cannot be sent again.
    const fn is_spent(&self) -> bool {
        matches!(self.source, Source::Once(None))
    }
}

/// How long the first token took from when the request was sent.
fn first_token(tried: &Tried) -> Duration {
    tried.head.unwrap_or_default() + tried.first_token.unwrap_or_default()
}

impl Sequence {
    /// The plan's order; each target but the first is put first for `share` of the calls.
    fn new(mut order: plan::Order, share: Option<f64>) -> Self {
        let mut is_exercise = false;
        if let Some(share) = share {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and a large one is no place in the order"
            )]
            let place = (fastrand::f64() / share) as usize;
            let exercised = order.iter().skip(1).nth(place);
            if let Some(target) = exercised {
                order.move_to_front(target);
                is_exercise = true;
            }
        }
        Self {
            order,
            past: 0,
            is_exercise,
        }
    }

    /// The next target, and whether it is asked only to see that it works.
    fn next(&mut self) -> Option<(usize, bool)> {
        let target = self.order.iter().nth(self.past)?;
        self.past += 1;
        Some((target, self.is_exercise && self.past == 1))
    }

    const fn is_over(&self) -> bool {
        self.past >= self.order.len()
    }
}
