use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, Considered, End, Kind, Observer, Outcome, Phase, Responses,
    Scope, Trace, Tried, Verdict,
    body::{Peek, PeekFuture, peek},
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{ResponseBody, body::Tail, keep::Kept, policy, report::Report, timer::Timer};

pub(crate) type HeadOf<P, Res> = <P as Responses<Res>>::Head;
pub(crate) type BodyOf<P, Res> = <P as Responses<Res>>::Body;
pub(crate) type AttemptedOf<P, Res, K, O> = Attempted<HeadOf<P, Res>, BodyOf<P, Res>, K, O>;

/// What an attempt begins with.
pub(crate) struct Start<S, O: Observer> {
    pub(crate) service: S,
    pub(crate) report: Report<O>,
    pub(crate) limits: Limits,
    pub(crate) course: Course,
}

/// Which attempt it is, and how it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) target: usize,
    /// Where the trace keeps it, once it is there.
    pub(crate) place: Option<usize>,
    /// When it began.
    pub(crate) at: Instant,
    pub(crate) tried: Tried,
}

/// What an attempt may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) until: Instant,
    pub(crate) peek: usize,
    /// Whether the caller's own haste, not ours, sets the limit of time.
    pub(crate) callers_own: bool,
}

pin_project! {
    /// An attempt under way.
    pub(crate) struct Attempt<S, R, C, P, O>
    where
        S: Service<R>,
        C: Classify<R, S::Response>,
        P: Responses<S::Response>,
        O: Observer,
    {
        #[pin]
        step: Step<S, R, S::Future, HeadOf<P, S::Response>, BodyOf<P, S::Response>, C::Stream>,
        #[pin]
        timer: Timer,
        call: C::Call,
        // Gone when the attempt is over, or its answer has begun.
        report: Option<Report<O>>,
        limits: Limits,
        course: Course,
        since: Instant,
    }
}

pin_project! {
    #[project = StepPinned]
    enum Step<S, R, F, H, B, K> {
        Readying { service: S, request: Option<R> },
        Calling { #[pin] future: F },
        Peeking { head: Option<H>, peeking: PeekFuture<B, Tail<K>> },
        Over,
    }
}

/// What came of one attempt.
pub(crate) enum Attempted<H, B, K: ClassifyStream, O: Observer> {
    /// An answer that stands: whole, or begun.
    Answered(H, Option<ResponseBody<B, K, O>>),
    /// None.
    Lost(Box<Loss<H, B>>),
}

/// What a target said that gave no good answer.
pub(crate) type Said<H, B> = Option<(H, Option<Kept<B>>)>;
type SaidOf<P, Res> = Said<HeadOf<P, Res>, BodyOf<P, Res>>;
type PeekOf<P, Res, K> = Peek<BodyOf<P, Res>, Tail<K>>;

/// An attempt that gave no good answer.
pub(crate) struct Loss<H, B> {
    pub(crate) target: usize,
    pub(crate) outcome: Outcome,
    pub(crate) possible_duplicate: bool,
    /// What the target said.
    pub(crate) answer: Said<H, B>,
    /// What happened when it said nothing.
    pub(crate) error: Option<BoxError>,
}

impl<S, R, C, P, O> Attempt<S, R, C, P, O>
where
    S: Service<R, Error: Into<BoxError>>,
    C: Classify<R, S::Response>,
    P: Responses<S::Response>,
    O: Observer,
{
    pub(crate) fn new(start: Start<S, O>, request: R, classify: &C) -> Self {
        let Start {
            service,
            report,
            limits,
            mut course,
        } = start;
        course.tried.called_off = false;
        Self {
            call: classify.on_request(&request),
            step: Step::Readying {
                service,
                request: Some(request),
            },
            timer: Timer::new(course.at, limits.until),
            report: Some(report),
            limits,
            course,
            since: course.at,
        }
    }

    /// How it went so far.
    pub(crate) const fn course(&self) -> &Course {
        &self.course
    }

    /// What it may use.
    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The time, as far as the attempt knows it.
    pub(crate) const fn now(&self) -> Instant {
        self.timer.now()
    }

    /// Goes on. Once it is over, it stays pending.
    pub(crate) fn poll(
        mut self: Pin<&mut Self>,
        classify: &C,
        cx: &mut Context<'_>,
    ) -> Poll<AttemptedOf<P, S::Response, C::Stream, O>> {
        loop {
            let mut this = self.as_mut().project();
            match this.step.as_mut().project() {
                StepPinned::Readying { service, request } => {
                    let mut ready = poll_fn(|cx| service.poll_ready(cx));
                    let ready = ready!(this.timer.as_mut().poll_race(Pin::new(&mut ready), cx));
                    let took = lap(this.since, &this.timer, &mut this.course.tried);
                    this.course.tried.ready = Some(took);
                    match ready {
                        Some(Ok(())) => {}
                        Some(Err(error)) => {
                            let error = error.into();
                            let outcome = classify.on_error(this.call, &*error);
                            return self.lost(outcome, None, Some(error));
                        }
                        None => {
                            let outcome = this.limits.late(Phase::Ready);
                            return self.lost(outcome, None, None);
                        }
                    }
                    let Some(request) = request.take() else {
                        return Poll::Pending;
                    };
                    let future = service.call(request);
                    this.step.set(Step::Calling { future });
                }
                StepPinned::Calling { future } => {
                    let response = ready!(this.timer.as_mut().poll_race(future, cx));
                    let took = lap(this.since, &this.timer, &mut this.course.tried);
                    this.course.tried.head = Some(took);
                    this.step.set(Step::Over);
                    let response = match response {
                        Some(Ok(response)) => response,
                        Some(Err(error)) => {
                            let error = error.into();
                            let outcome = classify.on_error(this.call, &*error);
                            this.course.tried.possible_duplicate = may_be_processed(&outcome);
                            return self.lost(outcome, None, Some(error));
                        }
                        None => {
                            let outcome = this.limits.late(Phase::Headers);
                            this.course.tried.possible_duplicate = true;
                            return self.lost(outcome, None, None);
                        }
                    };
                    let verdict = classify.on_response(this.call, &response);
                    let (head, body) = P::split(response);
                    match (verdict, body) {
                        (Verdict::AtEnd(stream), Some(body)) => this.step.set(Step::Peeking {
                            head: Some(head),
                            peeking: peek(body, Tail::Open(stream), this.limits.peek),
                        }),
                        (verdict, body) => return self.decided(verdict, head, body),
                    }
                }
                StepPinned::Peeking { head, peeking } => {
                    let peeked = ready!(this.timer.as_mut().poll_race(Pin::new(peeking), cx));
                    let took = lap(this.since, &this.timer, &mut this.course.tried);
                    this.course.tried.first_token = Some(took);
                    let Some(head) = head.take() else {
                        return Poll::Pending;
                    };
                    return self.peeked(head, peeked);
                }
                StepPinned::Over => return Poll::Pending,
            }
        }
    }

    /// The head decided, or there is nothing but a head.
    fn decided(
        self: Pin<&mut Self>,
        verdict: Verdict<C::Stream>,
        head: HeadOf<P, S::Response>,
        body: Option<BodyOf<P, S::Response>>,
    ) -> Poll<AttemptedOf<P, S::Response, C::Stream, O>> {
        let outcome = match verdict {
            Verdict::Now(outcome) => outcome,
            Verdict::AtEnd(mut stream) => stream.on_end(End::Clean(None)),
        };
        if !outcome.is_success() {
            return self.lost(outcome, Some((head, body.map(Kept::Unread))), None);
        }
        let Some(report) = self.project().report.take() else {
            return Poll::Pending;
        };
        let body = match body {
            Some(body) => Some(ResponseBody::unread(body, report)),
            None => {
                report.finish(&outcome);
                None
            }
        };
        Poll::Ready(Attempted::Answered(head, body))
    }

    /// The beginning of the body was read, if it came in time.
    fn peeked(
        mut self: Pin<&mut Self>,
        head: HeadOf<P, S::Response>,
        peeked: Option<PeekOf<P, S::Response, C::Stream>>,
    ) -> Poll<AttemptedOf<P, S::Response, C::Stream, O>> {
        let this = self.as_mut().project();
        let (outcome, body) = match peeked {
            Some(Peek::Committed(begun)) => {
                let Some(report) = this.report.take() else {
                    return Poll::Pending;
                };
                let body = ResponseBody::begun(begun, report);
                return Poll::Ready(Attempted::Answered(head, Some(body)));
            }
            Some(Peek::Decided(outcome, body)) => (outcome, body),
            None => {
                this.course.tried.possible_duplicate = true;
                let outcome = this.limits.late(Phase::FirstToken);
                return self.lost(outcome, None, None);
            }
        };
        if outcome.is_success() {
            if let Some(report) = this.report.take() {
                report.finish(&outcome);
            }
            let body = ResponseBody::decided(body);
            return Poll::Ready(Attempted::Answered(head, Some(body)));
        }
        let said = policy::is_answer(&outcome) && !body.has_failed();
        this.course.tried.possible_duplicate = !said;
        let answer = said.then_some((head, Some(Kept::Held(body))));
        self.lost(outcome, answer, None)
    }

    #[cold]
    fn lost(
        self: Pin<&mut Self>,
        outcome: Outcome,
        answer: SaidOf<P, S::Response>,
        error: Option<BoxError>,
    ) -> Poll<AttemptedOf<P, S::Response, C::Stream, O>> {
        let mut this = self.project();
        // What is under way is called off before anybody hears of it.
        this.step.set(Step::Over);
        if let Some(report) = this.report.take() {
            report.finish(&outcome);
        }
        let course = this.course;
        course.tried.outcome = Some(outcome);
        Poll::Ready(Attempted::Lost(Box::new(Loss {
            target: course.target,
            outcome,
            possible_duplicate: course.tried.possible_duplicate,
            answer,
            error,
        })))
    }
}

impl Course {
    /// Tells the trace how it went: in its place, or in the next one.
    pub(crate) fn put(&self, trace: &mut Trace, name: &Arc<str>) {
        match self.place {
            None => {
                trace.push(name, Considered::Tried(self.tried));
            }
            Some(place) => {
                if let Some(tried) = trace.attempt_mut(place) {
                    *tried = self.tried;
                }
            }
        }
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

/// The time of a phase that is over, which is added up.
fn lap(since: &mut Instant, timer: &Timer, tried: &mut Tried) -> Duration {
    let now = timer.now();
    if now == *since {
        return Duration::ZERO;
    }
    let took = now.saturating_duration_since(*since);
    *since = now;
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
