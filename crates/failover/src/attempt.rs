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
pub(crate) type SettledOf<P, Res, K, O> = Settled<HeadOf<P, Res>, BodyOf<P, Res>, K, O>;

/// An attempt that can begin.
pub(crate) struct Begun<S, R, O: Observer> {
    pub(crate) service: S,
    pub(crate) target: usize,
    /// Gone when it is sent.
    pub(crate) request: Option<R>,
    /// Gone when the attempt is over, or its answer has begun.
    pub(crate) report: Option<Report<O>>,
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
    /// Makes the attempt. Made again, it does not end.
    ///
    /// It borrows what it works on, since the arguments of an `async fn` are kept twice.
    pub(crate) async fn attempt<C, P>(
        &mut self,
        classify: &C,
    ) -> SettledOf<P, S::Response, C::Stream, O>
    where
        P: Responses<S::Response>,
        S: Service<R, Error: Into<BoxError>>,
        C: Classify<R, S::Response>,
    {
        let (Some(request), Some(report)) = (&self.request, self.report.take()) else {
            return std::future::pending().await;
        };
        let limits = self.limits;
        let mut timer = pin!(Timer::new(self.at, limits.until));
        self.tried.called_off = false;
        let call = classify.on_request(request);
        let ready = poll_fn(|cx| {
            let mut ready = poll_fn(|cx| self.service.poll_ready(cx));
            timer
                .as_mut()
                .poll_race(Pin::new(&mut ready), cx)
                .map(boxed)
        })
        .await;
        self.tried.ready = Some(lap(self.at, timer.now(), &mut self.tried));
        match ready {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let outcome = classify.on_error(&call, &*error);
                return self.lost(timer.now(), report, outcome, None, Some(error));
            }
            None => {
                let outcome = limits.late(Phase::Ready);
                return self.lost(timer.now(), report, outcome, None, None);
            }
        }
        let sent_at = timer.now();
        let Some(request) = self.request.take() else {
            return std::future::pending().await;
        };
        let response = {
            let mut response = pin!(self.service.call(request));
            poll_fn(|cx| timer.as_mut().poll_race(response.as_mut(), cx).map(boxed)).await
        };
        self.tried.head = Some(lap(sent_at, timer.now(), &mut self.tried));
        let response = match response {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let outcome = classify.on_error(&call, &*error);
                self.tried.possible_duplicate = may_be_processed(&outcome);
                return self.lost(timer.now(), report, outcome, None, Some(error));
            }
            None => {
                let outcome = limits.late(Phase::Headers);
                self.tried.possible_duplicate = true;
                return self.lost(timer.now(), report, outcome, None, None);
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
                    let answer = Some((head, body.map(Kept::Unread)));
                    return self.lost(timer.now(), report, outcome, answer, None);
                }
                let body = match body {
                    Some(body) => Some(ResponseBody::unread(body, report)),
                    None => {
                        report.finish(&outcome);
                        None
                    }
                };
                return self.settled(timer.now(), Attempted::Answered(head, body));
            }
        };
        let head_at = timer.now();
        let peeked = {
            let mut peeking = peek(body, Tail::Open(stream), limits.peek);
            poll_fn(|cx| timer.as_mut().poll_race(Pin::new(&mut peeking), cx)).await
        };
        self.tried.first_token = Some(lap(head_at, timer.now(), &mut self.tried));
        match peeked {
            Some(Peek::Committed(begun)) => {
                let body = ResponseBody::begun(begun, report);
                self.settled(timer.now(), Attempted::Answered(head, Some(body)))
            }
            Some(Peek::Decided(outcome, body)) if outcome.is_success() => {
                report.finish(&outcome);
                let body = ResponseBody::decided(body);
                self.settled(timer.now(), Attempted::Answered(head, Some(body)))
            }
            Some(Peek::Decided(outcome, body)) => {
                let said = policy::is_answer(&outcome) && !body.has_failed();
                self.tried.possible_duplicate = !said;
                let answer = said.then_some((head, Some(Kept::Held(body))));
                self.lost(timer.now(), report, outcome, answer, None)
            }
            None => {
                let outcome = limits.late(Phase::FirstToken);
                self.tried.possible_duplicate = true;
                self.lost(timer.now(), report, outcome, None, None)
            }
        }
    }
}

impl<S, R, O: Observer> Begun<S, R, O> {
    const fn settled<H, B, K: ClassifyStream>(
        &self,
        now: Instant,
        attempted: Attempted<H, B, K, O>,
    ) -> Settled<H, B, K, O> {
        Settled {
            target: self.target,
            place: self.place,
            now,
            tried: self.tried,
            attempted,
        }
    }

    #[cold]
    fn lost<H, B, K: ClassifyStream>(
        &mut self,
        now: Instant,
        report: Report<O>,
        outcome: Outcome,
        answer: Option<(H, Option<Kept<B>>)>,
        error: Option<BoxError>,
    ) -> Settled<H, B, K, O> {
        report.finish(&outcome);
        self.tried.outcome = Some(outcome);
        let loss = Loss {
            target: self.target,
            outcome,
            possible_duplicate: self.tried.possible_duplicate,
            answer,
            error,
        };
        self.settled(now, Attempted::Lost(loss))
    }
}

impl Limits {
    /// The outcome of an attempt that took too long in `phase`. If the caller was in a hurry, that
    /// is no fault of the target.
    fn late(&self, phase: Phase) -> Outcome {
        let outcome = Outcome::timed_out(phase).with_evidence("the attempt's part of the deadline");
        if self.callers_own {
            outcome.with_scope(Scope::Request)
        } else {
            outcome
        }
    }
}

/// The error of whatever type as the one that is passed on.
fn boxed<T, E: Into<BoxError>>(result: Option<Result<T, E>>) -> Option<Result<T, BoxError>> {
    result.map(|result| result.map_err(Into::into))
}

/// The time of a phase, which is added up.
fn lap(since: Instant, now: Instant, tried: &mut Tried) -> Duration {
    if now == since {
        return Duration::ZERO;
    }
    let took = now.saturating_duration_since(since);
    tried.took = tried.took.saturating_add(took);
    took
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
