//! What is concluded from attempts, and what the caller gets.

use std::{sync::Arc, time::Duration};

use backstop_core::{
    BoxError, Cause, Classify, Event, Exhausted, Failure, HintSource, Kind, Mode, Observer,
    Outcome, Phase, Replay, Responses, Served, Trace, Tried,
};
use tokio::time::Instant;
use tower_service::Service;

use super::{Answer, Call, LossOf};
use crate::{
    ResponseBody,
    attempt::{BodyOf, Course, HeadOf, Loss},
    policy,
    timer::since,
};

type AnswerBody<P, Res, K, O> = ResponseBody<BodyOf<P, Res>, K, O>;

impl<S, C, P, O, Req> Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    pub(crate) fn note_answer(&mut self, course: &Course, now: Instant) {
        let Course { target, tried, .. } = course;
        let target = *target;
        self.now = self.now.max(now);
        let shared = &self.inner.state.shared;
        shared
            .plan
            .on_first_token(self.now, target, first_token(tried));
        if tried.cause != Cause::Exercise {
            shared
                .plan
                .on_served(&self.planning(), target, self.planned_first);
        }
        if let Some(hedge) = self.inner.config.hedge {
            hedge.record(&self.target(target).first_token, tried.took);
        }
    }

    #[cold]
    pub(crate) fn note_loss(&mut self, course: &Course, now: Instant, kind: Kind) {
        let Course { target, tried, .. } = course;
        let target = *target;
        self.now = self.now.max(now);
        let state = &self.inner.state;
        let past = self.past.get_or_insert_default();
        course.put(&mut past.trace, state.name(target));
        if let Kind::TimedOut(Phase::Headers | Phase::FirstToken) = kind {
            self.note_wait(course);
        }
        if tried.possible_duplicate {
            let state = &self.inner.state;
            state.observer.on_event(&Event::PossibleDuplicate {
                target: state.name(target),
            });
        }
    }

    /// Takes note of an attempt of which no first token came while it was waited for.
    pub(super) fn note_wait(&self, course: &Course) {
        let Course { target, tried, .. } = course;
        let target = *target;
        // Before it is ready nothing has been sent.
        if let Some(ready) = tried.ready {
            let waited = tried.took.saturating_sub(ready);
            let shared = &self.inner.state.shared;
            shared.plan.on_no_first_token(self.now, target, waited);
        }
        if let Some(hedge) = self.inner.config.hedge {
            hedge.record_wait(&self.target(target).first_token, tried.took);
        }
    }

    pub(crate) fn answered(
        &mut self,
        target: usize,
        course: Option<&Course>,
        head: HeadOf<P, S::Response>,
        body: Option<AnswerBody<P, S::Response, C::Stream, O>>,
    ) -> Answer<P, S::Response, C::Stream, O> {
        if target != self.planned_first && self.order.exercised() != Some(target) {
            tracing::info!(
                name: "backstop.failover.rescued",
                target = %self.inner.state.name(target),
                attempts = self.attempts,
                "another target answered",
            );
        }
        self.respond(target, course, head, body, false)
    }

    /// The answer when nobody did better than `loss`.
    #[cold]
    pub(super) fn conclude(
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
                Ok(self.respond(target, None, head, body, is_final))
            }
            None => Err(self.fail(outcome, error)),
        }
    }

    /// The answer when nobody answered.
    #[cold]
    pub(super) fn exhausted(&mut self) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError> {
        tracing::warn!(
            name: "backstop.failover.exhausted",
            attempts = self.attempts,
            "no target answered",
        );
        let (first, passed_over) = match &mut self.past {
            Some(past) => (past.first.take(), past.passed_over),
            None => (None, None),
        };
        if let Some(loss) = first
            && passed_over.is_none_or(|(target, skipped)| {
                target == loss.target || !skipped.reason.is_passing()
            })
        {
            // A refusal of this very request comes back as it came.
            let is_final = !policy::is_refusal(&loss.outcome);
            return self.conclude(*loss, is_final);
        }
        let outcome = match passed_over {
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
        let trace = self.take_trace();
        Failure::with_source(outcome, Exhausted::new(trace, error)).into()
    }

    /// How long until the first target may be asked again; `None` when one may be asked now or
    /// nobody knows.
    fn soonest(&self) -> Option<Duration> {
        let room_at = self.past.as_ref().and_then(|past| past.room_at);
        let mut soonest = room_at;
        for target in self.order.order.iter() {
            if self.unsuited(target).is_some() {
                continue;
            }
            match self.target(target).health.due(self.now) {
                Some(due) if due > self.now => {
                    soonest = Some(soonest.map_or(due, |soonest| soonest.min(due)));
                }
                // It has no room, or it has just failed.
                Some(_) if room_at.is_none() => return None,
                Some(_) | None => {}
            }
        }
        soonest
            .map(|at| at.saturating_duration_since(self.now))
            .filter(|wait| !wait.is_zero())
    }

    #[inline(always)]
    fn respond(
        &mut self,
        target: usize,
        answered: Option<&Course>,
        mut head: HeadOf<P, S::Response>,
        body: Option<AnswerBody<P, S::Response, C::Stream, O>>,
        is_final: bool,
    ) -> Answer<P, S::Response, C::Stream, O> {
        if let Some(extensions) = <P as Responses<S::Response>>::extensions_mut(&mut head) {
            let trace = self.take_trace();
            let name = self.inner.state.name(target);
            let mode = if target == self.planned_first {
                Mode::Primary
            } else {
                Mode::Failover
            };
            let mut served = Served::new(Arc::clone(name), mode, self.attempts);
            let trace = served.trace.insert(trace);
            if let Some(course) = answered {
                course.put(trace, name);
            }
            extensions.insert(served);
        }
        if is_final {
            P::mark_final(&mut head);
        }
        P::join(head, body)
    }

    fn take_trace(&mut self) -> Trace {
        let mut trace = match &mut self.past {
            Some(past) => std::mem::take(&mut past.trace),
            None => Trace::default(),
        };
        trace.took = since(self.now, self.started);
        trace.deadline_left = self
            .deadline
            .map(|deadline| deadline.remaining(self.now.into_std()));
        trace
    }
}

/// How long the first token took from when the request was sent.
fn first_token(tried: &Tried) -> Duration {
    tried.head.unwrap_or_default() + tried.first_token.unwrap_or_default()
}
