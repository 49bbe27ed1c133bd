//! Asking one target, and another one as well when it is late.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use backstop_core::{
    BoxError, Cause, Classify, ClassifyStream, Considered, Observer, Replay, Responses,
};
use tokio::time::Instant;
use tower_service::Service;

use super::{AttemptOf, Call, StartOf};
use crate::{
    ResponseBody,
    attempt::{Attempted, AttemptedOf, BodyOf, Course, HeadOf, Limits, Loss, Start},
    budget::Spend,
    timer::{Timer, later},
};

/// Which target was asked, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(super) target: usize,
    /// How long it had.
    pub(super) until: Instant,
    /// Whether it was asked only to see that it works.
    pub(super) is_exercise: bool,
}

/// What came of asking one target, and of the hedge if there was one.
pub(super) enum Round<H, B, K: ClassifyStream, O: Observer> {
    Answered(usize, H, Option<ResponseBody<B, K, O>>),
    Lost(Box<Loss<H, B>>, Option<Box<Loss<H, B>>>),
}

pub(super) type RoundOf<P, Res, K, O> = Round<HeadOf<P, Res>, BodyOf<P, Res>, K, O>;

impl<S, C, P, O, Req> Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    /// Whether another target is to be asked as well if this one is late, and when.
    pub(crate) fn hedge_delay(&self, target: usize) -> Option<Duration> {
        let hedge = self.inner.config.hedge?;
        hedge.delay(&self.target(target).first_token)
    }

    /// Makes an attempt.
    pub(super) async fn ask(
        &mut self,
        mut start: Start<S, O>,
        request: <P as Replay<Req>>::Request,
    ) -> (Asked, RoundOf<P, S::Response, C::Stream, O>) {
        let asked = Asked::of(&start.course, &start.limits);
        let inner = Arc::clone(&self.inner);
        let delay = self.hedge_delay(asked.target);
        self.enter(&mut start.course);
        let attempt = AttemptOf::<S, C, P, O, Req>::new(start, request, &inner.classify);
        let mut attempt = pin!(attempt);
        let round = match delay {
            Some(delay) => self.ask_hedged(attempt, delay).await,
            None => {
                let attempted = poll_fn(|cx| attempt.as_mut().poll(&inner.classify, cx)).await;
                self.settle(attempt.course(), attempt.now(), attempted)
            }
        };
        (asked, round)
    }

    /// Asks a target, and another one as well if the first one is late.
    async fn ask_hedged(
        &mut self,
        mut first: Pin<&mut AttemptOf<S, C, P, O, Req>>,
        delay: Duration,
    ) -> RoundOf<P, S::Response, C::Stream, O> {
        let inner = Arc::clone(&self.inner);
        let classify = &inner.classify;
        let at = first.course().at;
        let mut timer = pin!(Timer::new(at, later(at, delay)));
        let attempted = poll_fn(|cx| {
            let mut first = poll_fn(|cx| first.as_mut().poll(classify, cx));
            timer.as_mut().poll_race(Pin::new(&mut first), cx)
        })
        .await;
        if let Some(attempted) = attempted {
            return self.settle(first.course(), first.now(), attempted);
        }
        self.now = timer.now();
        let Some((mut hedge, request)) = self.hedge() else {
            let attempted = poll_fn(|cx| first.as_mut().poll(classify, cx)).await;
            return self.settle(first.course(), first.now(), attempted);
        };
        self.enter(&mut hedge.course);
        let second = AttemptOf::<S, C, P, O, Req>::new(hedge, request, classify);
        let mut second = pin!(second);
        let mut first_loss = None;
        let mut second_loss = None;
        loop {
            let (is_hedge, attempted) = poll_fn(|cx| {
                // One that was lost stays pending.
                if let Poll::Ready(attempted) = first.as_mut().poll(classify, cx) {
                    return Poll::Ready((false, attempted));
                }
                second
                    .as_mut()
                    .poll(classify, cx)
                    .map(|attempted| (true, attempted))
            })
            .await;
            let (one, other) = if is_hedge {
                (&second, &first)
            } else {
                (&first, &second)
            };
            let other = *other.course();
            // A backup that is only tried out says nothing for the other.
            let may_stand = !is_hedge && first.course().tried.cause != Cause::Exercise;
            let round = self.settle(one.course(), one.now(), attempted);
            // Whatever ends the round calls off the other attempt, by dropping it.
            let other_lost = first_loss.is_some() || second_loss.is_some();
            let loss = match round {
                Round::Lost(loss, _) if !may_stand || !self.stands(&loss) => loss,
                round => {
                    if !other_lost {
                        self.call_off(other);
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
    fn hedge(&mut self) -> Option<StartOf<S, P, O, Req>> {
        if self.inner.config.at_most_once || self.others().0 == 0 || !self.pays(Spend::Hedge) {
            return None;
        }
        let Some(mut pick) = self.pick() else {
            self.take_back(Spend::Hedge);
            return None;
        };
        pick.cause = Cause::Hedge;
        self.begin_again(pick, None)
    }

    /// Gives an attempt its place in the trace while it is under way.
    fn enter(&mut self, course: &mut Course) {
        let name = self.inner.state.name(course.target);
        let past = self.past.get_or_insert_default();
        course.place = Some(past.trace.push(name, Considered::Tried(course.tried)));
    }

    /// Takes note of an attempt that another one was quicker than.
    fn call_off(&mut self, mut other: Course) {
        other.tried.called_off = true;
        other.tried.took = self.now.saturating_duration_since(other.at);
        self.note_wait(&other);
        let past = self.past.get_or_insert_default();
        other.put(&mut past.trace, self.inner.state.name(other.target));
    }

    /// Takes note of how an attempt went.
    fn settle(
        &mut self,
        course: &Course,
        now: Instant,
        attempted: AttemptedOf<P, S::Response, C::Stream, O>,
    ) -> RoundOf<P, S::Response, C::Stream, O> {
        match attempted {
            Attempted::Answered(head, body) => {
                self.note_answer(course, now);
                let name = self.inner.state.name(course.target);
                course.put(&mut self.past.get_or_insert_default().trace, name);
                Round::Answered(course.target, head, body)
            }
            Attempted::Lost(loss) => {
                self.note_loss(course, now, loss.outcome.kind());
                Round::Lost(loss, None)
            }
        }
    }
}

impl Asked {
    pub(crate) fn of(course: &Course, limits: &Limits) -> Self {
        Self {
            target: course.target,
            until: limits.until,
            is_exercise: course.tried.cause == Cause::Exercise,
        }
    }
}
