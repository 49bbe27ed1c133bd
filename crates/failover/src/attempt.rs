use std::{
    future::poll_fn,
    pin::{Pin, pin},
    time::Duration,
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, End, Kind, Observer, Outcome, Phase, Responses, Scope,
    Verdict,
    body::{Peek, peek},
};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    ResponseBody, body::Tail, keep::Kept, policy, report::Report, timer::Timer, trace::Tried,
};

pub(crate) type HeadOf<P, Res> = <P as Responses<Res>>::Head;
pub(crate) type BodyOf<P, Res> = <P as Responses<Res>>::Body;
pub(crate) type AttemptedOf<P, Res, K, O> = Attempted<HeadOf<P, Res>, BodyOf<P, Res>, K, O>;
pub(crate) type SettledOf<P, Res, K, O> = Settled<HeadOf<P, Res>, BodyOf<P, Res>, K, O>;

/// An attempt that can begin.
pub(crate) struct Begun<S, R, O: Observer> {
    pub(crate) service: S,
    pub(crate) target: usize,
    pub(crate) request: R,
    pub(crate) report: Report<O>,
    pub(crate) limits: Limits,
    pub(crate) tried: Tried,
    pub(crate) at: Instant,
    /// Where the trace keeps it.
    pub(crate) place: usize,
}

/// An attempt that is over, or has begun to answer.
pub(crate) struct Settled<H, B, K: ClassifyStream, O: Observer> {
    pub(crate) target: usize,
    pub(crate) place: usize,
    pub(crate) now: Instant,
    pub(crate) tried: Tried,
    pub(crate) attempted: Attempted<H, B, K, O>,
}

/// What came of one attempt.
pub(crate) enum Attempted<H, B, K: ClassifyStream, O: Observer> {
    /// An answer that stands: whole, or begun.
    Answered(H, Option<ResponseBody<B, K, O>>),
    /// None.
    Lost(Loss<H, B>),
}

/// An attempt that gave no good answer.
pub(crate) struct Loss<H, B> {
    pub(crate) target: usize,
    pub(crate) outcome: Outcome,
    pub(crate) possible_duplicate: bool,
    /// What the target said.
    pub(crate) answer: Option<(H, Option<Kept<B>>)>,
    /// What happened when it said nothing.
    pub(crate) error: Option<BoxError>,
}

/// What an attempt may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) until: Instant,
    pub(crate) peek: usize,
    /// Whether the caller's own haste, not ours, sets the limit of time.
    pub(crate) callers_own: bool,
}

impl<S, R, O: Observer> Begun<S, R, O> {
    /// Makes the attempt.
    pub(crate) async fn attempt<C, P>(self, classify: &C) -> SettledOf<P, S::Response, C::Stream, O>
    where
        P: Responses<S::Response>,
        S: Service<R, Error: Into<BoxError>>,
        C: Classify<R, S::Response>,
    {
        let mut timer = pin!(Timer::new(self.at, self.limits.until));
        let (target, place) = (self.target, self.place);
        let mut tried = self.tried;
        let attempted = self.ask::<C, P>(classify, timer.as_mut(), &mut tried).await;
        tried.called_off = false;
        Settled {
            target,
            place,
            now: timer.now(),
            tried,
            attempted,
        }
    }

    /// Takes note of the phases in `tried`.
    async fn ask<C, P>(
        self,
        classify: &C,
        mut timer: Pin<&mut Timer>,
        tried: &mut Tried,
    ) -> AttemptedOf<P, S::Response, C::Stream, O>
    where
        P: Responses<S::Response>,
        S: Service<R, Error: Into<BoxError>>,
        C: Classify<R, S::Response>,
    {
        let Self {
            mut service,
            target,
            request,
            report,
            limits,
            ..
        } = self;
        let mut since = timer.now();
        let mut lap = |timer: &Pin<&mut Timer>, tried: &mut Tried| -> Option<Duration> {
            let took = timer.now().saturating_duration_since(since);
            since = timer.now();
            tried.took = tried.took.saturating_add(took);
            Some(took)
        };
        let late = |phase| {
            let outcome =
                Outcome::timed_out(phase).with_evidence("the attempt's part of the deadline");
            if limits.callers_own {
                outcome.with_scope(Scope::Request)
            } else {
                outcome
            }
        };
        let end = |report: Report<O>, tried: &mut Tried, outcome: Outcome, answer, error| {
            report.finish(&outcome);
            tried.outcome = Some(outcome);
            Attempted::Lost(Loss {
                target,
                outcome,
                possible_duplicate: tried.possible_duplicate,
                answer,
                error,
            })
        };

        let call = classify.on_request(&request);
        let ready: Option<Result<(), BoxError>> = timer
            .as_mut()
            .race(poll_fn(|cx| service.poll_ready(cx).map_err(Into::into)))
            .await;
        tried.ready = lap(&timer, tried);
        match ready {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let outcome = classify.on_error(&call, &*error);
                return end(report, tried, outcome, None, Some(error));
            }
            None => return end(report, tried, late(Phase::Ready), None, None),
        }
        let response = timer.as_mut().race(service.call(request)).await;
        let response: Option<Result<_, BoxError>> =
            response.map(|response| response.map_err(Into::into));
        tried.head = lap(&timer, tried);
        let response = match response {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let outcome = classify.on_error(&call, &*error);
                tried.possible_duplicate = may_be_processed(&outcome);
                return end(report, tried, outcome, None, Some(error));
            }
            None => {
                tried.possible_duplicate = true;
                return end(report, tried, late(Phase::Headers), None, None);
            }
        };
        let verdict = classify.on_response(&call, &response);
        let (head, body) = P::split(response);
        let (stream, body) = match (verdict, body) {
            (Verdict::AtEnd(stream), Some(body)) => (stream, body),
            (verdict, body) => {
                let outcome = match verdict {
                    Verdict::Now(outcome) => outcome,
                    Verdict::AtEnd(mut stream) => stream.on_end(End::Clean(None)),
                };
                if !outcome.is_success() {
                    return end(
                        report,
                        tried,
                        outcome,
                        Some((head, body.map(Kept::Unread))),
                        None,
                    );
                }
                let body = match body {
                    Some(body) => Some(ResponseBody::unread(body, report)),
                    None => {
                        report.finish(&outcome);
                        None
                    }
                };
                return Attempted::Answered(head, body);
            }
        };
        let peeked = timer
            .as_mut()
            .race(peek(body, Tail::Open(stream), limits.peek))
            .await;
        tried.first_token = lap(&timer, tried);
        match peeked {
            Some(Peek::Committed(begun)) => {
                Attempted::Answered(head, Some(ResponseBody::begun(begun, report)))
            }
            Some(Peek::Decided(outcome, body)) if outcome.is_success() => {
                report.finish(&outcome);
                Attempted::Answered(head, Some(ResponseBody::decided(body)))
            }
            Some(Peek::Decided(outcome, body)) => {
                let said = policy::is_answer(&outcome) && !body.has_failed();
                tried.possible_duplicate = !said;
                let answer = said.then_some((head, Some(Kept::Held(body))));
                end(report, tried, outcome, answer, None)
            }
            None => {
                tried.possible_duplicate = true;
                end(report, tried, late(Phase::FirstToken), None, None)
            }
        }
    }
}

/// Whether a request that failed with an error after it was sent may have been processed.
const fn may_be_processed(outcome: &Outcome) -> bool {
    matches!(
        outcome.kind(),
        Kind::Unavailable
            | Kind::Malformed
            | Kind::TimedOut(Phase::Headers | Phase::FirstToken | Phase::Idle | Phase::Total)
    )
}
