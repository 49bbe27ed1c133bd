//! Going on when the first attempt was not enough.

use std::{ops::ControlFlow, pin::pin};

use backstop_core::{BoxError, Cause, Classify, Event, Observer, Outcome, Replay, Responses};
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Answer, Call, LossOf, StartOf,
    ask::{Asked, Round, RoundOf},
    choose::Pick,
};
use crate::{
    budget::Spend,
    health::State,
    keep::READ_WITHIN,
    policy,
    retry::Retry,
    timer::{Timer, later},
};

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

impl<S, C, P, O, Req> Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    /// Asks until somebody answers, beginning with this attempt, if anybody may be asked.
    pub(crate) async fn ask_on(
        mut self,
        start: Option<StartOf<S, P, O, Req>>,
    ) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        match start {
            Some((start, request)) => {
                let (asked, round) = self.ask(start, request).await;
                self.go_on(asked, round).await
            }
            None => self.exhausted(),
        }
    }

    /// Asks until somebody answers, after an attempt that was lost.
    pub(crate) async fn rescue(
        self,
        asked: Asked,
        loss: Box<LossOf<P, S::Response>>,
    ) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        self.go_on(asked, Round::Lost(loss, None)).await
    }

    async fn go_on(
        mut self,
        mut asked: Asked,
        mut round: RoundOf<P, S::Response, C::Stream, O>,
    ) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        let mut retries = 0;
        loop {
            let lost = match self.judge(round, asked.is_exercise) {
                ControlFlow::Continue(lost) => lost,
                ControlFlow::Break(result) => return result,
            };
            let Some((start, request)) = self.next(asked, &lost, &mut retries).await else {
                return self.exhausted();
            };
            (asked, round) = self.ask(start, request).await;
        }
    }

    /// The next attempt, if there is to be one.
    async fn next(
        &mut self,
        asked: Asked,
        lost: &Lost,
        retries: &mut u32,
    ) -> Option<StartOf<S, P, O, Req>> {
        if !lost.go_on || self.is_spent() {
            return None;
        }
        if let Some(retry) = self.inner.config.retry
            && !lost.hedged
            && !asked.is_exercise
            && let Some(pick) = self.again(retry, asked, &lost.outcome, *retries).await
        {
            *retries += 1;
            return self.begin_again(pick, Some(asked.until));
        }
        if self.order.is_over() {
            return None;
        }
        self.hold_first().await;
        if !self.pays(Spend::Failover) {
            return None;
        }
        *retries = 0;
        let pick = self.pick();
        if pick.is_none() {
            self.take_back(Spend::Failover);
        }
        self.begin_again(pick?, None)
    }

    /// Whether what came of a round ends the call, or who may be asked next.
    fn judge(
        &mut self,
        round: RoundOf<P, S::Response, C::Stream, O>,
        is_exercise: bool,
    ) -> Judged<Answer<P, S::Response, C::Stream, O>> {
        let (loss, hedge) = match round {
            Round::Answered(target, head, body) => {
                return ControlFlow::Break(Ok(self.answered(target, None, head, body)));
            }
            Round::Lost(loss, hedge) => (loss, hedge),
        };
        let outcome = loss.outcome;
        if !is_exercise && self.stands(&loss) {
            return ControlFlow::Break(self.conclude(*loss, false));
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

    /// Waits to ask the same target again, if that makes sense.
    async fn again(
        &mut self,
        retry: Retry,
        asked: Asked,
        outcome: &Outcome,
        before: u32,
    ) -> Option<Pick> {
        let Asked { target, until, .. } = asked;
        let wait = retry.wait(outcome, before, fastrand::f64())?;
        // A limit with a time counts from when health heard of it, which is a little later than the
        // end of the attempt: it is to be over when the wait is.
        self.now = self.now.max(Instant::now());
        let at = later(self.now, wait);
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
                self.take_back(Spend::Retry);
                None
            }
        }
    }

    /// Whether the budget pays. When it does not, the trace says so.
    pub(super) fn pays(&mut self, spend: Spend) -> bool {
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
        let left = budget.balance(self.now);
        self.past().trace.budget_left = Some(left);
        pays
    }

    /// Takes back what was paid for an attempt that was not made after all.
    #[cold]
    pub(super) fn take_back(&mut self, spend: Spend) {
        let budget = &self.inner.state.shared.budget;
        budget.put_back(spend);
        let left = budget.balance(self.now);
        self.past().trace.budget_left = Some(left);
    }

    /// Whether what the first target asked said stands, so that nobody else is asked: the caller's
    /// own doing, or what nobody else can mend.
    pub(super) fn stands(&self, loss: &LossOf<P, S::Response>) -> bool {
        self.past.as_ref().is_none_or(|past| past.first.is_none())
            && !policy::goes_on(&loss.outcome)
    }

    /// Draws the conclusions from a failed attempt. Returns whether anybody else may be asked.
    fn lose(&mut self, loss: Box<LossOf<P, S::Response>>, exercised: bool) -> bool {
        let runs_once = self.inner.config.at_most_once && loss.possible_duplicate;
        // A backup that is only being tried out says nothing for the others.
        let go_on = exercised || policy::goes_on(&loss.outcome);
        let past = self.past.get_or_insert_default();
        if !exercised {
            let guards = &self.inner.state.shared.targets[loss.target].about.guards;
            past.went_wrong.failed(guards, loss.outcome.kind());
        }
        match &past.first {
            None if exercised && !runs_once => {}
            None => past.first = Some(loss),
            // The same target again: what it said last, if it said anything.
            Some(first) if first.target == loss.target && loss.answer.is_some() => {
                past.first = Some(loss);
            }
            // What a later target said is dropped before anybody else is asked.
            Some(_) => {}
        }
        go_on && !runs_once
    }

    /// The first answer is kept for the case that nobody does better. Reading it while it is most
    /// likely there frees its connection.
    async fn hold_first(&mut self) {
        if let Some(past) = &mut self.past
            && let Some(first) = &mut past.first
            && let Some((_, body)) = &mut first.answer
            && let Some(kept) = body.take()
        {
            let until = self.until.min(self.now + READ_WITHIN);
            let mut timer = pin!(Timer::new(self.now, until));
            *body = kept.hold(timer.as_mut()).await;
            self.now = timer.now();
        }
    }
}
