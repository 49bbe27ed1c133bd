use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, End, Event, Failure, Headroom, Observer, Outcome,
    Responses, Verdict,
    body::{Peek, PeekFuture, peek},
};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

use crate::{
    Key,
    body::{Learn, ResponseBody},
    layer::Shared,
    memory::{Blocked, Pass},
    state::Micros,
    waiting::Waiting,
};

pin_project! {
    /// The future of a [`RateLimit`](crate::RateLimit).
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the call. One that waits leaves its place in the line to the next.
    pub struct ResponseFuture<S, Req, C, P, O>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response>,
        P: Responses<S::Response>,
    {
        asked: Asked<C, C::Call, O>,
        #[pin]
        state: State<S, Req, S::Future, PeekingOf<S, Req, C, P>>,
    }
}

type PeekingOf<S, Req, C, P> = Peeking<
    <P as Responses<<S as Service<Req>>::Response>>::Head,
    <P as Responses<<S as Service<Req>>::Response>>::Body,
    <C as Classify<Req, <S as Service<Req>>::Response>>::Stream,
>;

/// What is known of the request, whatever becomes of it.
pub(crate) struct Asked<C, Call, O> {
    pub(crate) shared: Arc<Shared<C, O>>,
    pub(crate) call: Call,
    pub(crate) key: Option<Key>,
    /// When it was sent, if anything was remembered then.
    pub(crate) sent: Option<Micros>,
}

pin_project! {
    // What is rare is boxed, so that the healthy path does not move it about.
    #[project = StateProjection]
    enum State<S, Req, F, Pk> {
        Calling { #[pin] future: F },
        Holding { held: Box<Held<S, Req>> },
        Peeking { peeking: Box<Pk> },
        Refused { failure: Option<Failure> },
    }
}

/// A request that is not sent yet, with an instance of the service to send it with.
pub(crate) struct Held<S, Req> {
    service: S,
    request: Option<Req>,
    give_up: Micros,
    stage: Stage,
}

enum Stage {
    /// In line. No place of the inner service is held.
    Waiting { waiting: Waiting, since: Instant },
    /// To be sent as soon as the service is ready.
    Admitted(Pass),
}

/// A response whose error body is being read.
struct Peeking<H, B, C> {
    head: Option<H>,
    headroom: Option<Headroom>,
    peek: PeekFuture<B, C>,
    timer: Pin<Box<Sleep>>,
}

// === impl Asked ===

impl<C, Call, O: Observer> Asked<C, Call, O> {
    /// Lines up, if there is time for it; otherwise the answer is given here.
    pub(crate) fn wait(&self, give_up: Micros, blocked: Blocked) -> Result<Waiting, Failure> {
        let memory = &self.shared.memory;
        if blocked.at > give_up {
            return Err(Failure::new(memory.local_answer(&blocked)));
        }
        Ok(Waiting::new(
            Arc::clone(&memory.scopes),
            self.key,
            memory.ramp(),
            give_up,
            blocked,
        ))
    }

    fn learn(&self, outcome: &Outcome) {
        self.shared.memory.learn(self.key, self.sent, outcome);
    }

    fn watch(&self) -> Learn<O> {
        Learn {
            memory: Arc::clone(&self.shared.memory),
            key: self.key,
            sent: self.sent,
        }
    }
}

// === impl Held ===

impl<S, Req> Held<S, Req> {
    pub(crate) fn admitted(service: S, request: Req, give_up: Micros, pass: Pass) -> Self {
        Self {
            service,
            request: Some(request),
            give_up,
            stage: Stage::Admitted(pass),
        }
    }

    pub(crate) fn waiting(service: S, request: Req, give_up: Micros, waiting: Waiting) -> Self {
        Self {
            service,
            request: Some(request),
            give_up,
            stage: Stage::Waiting {
                waiting,
                since: Instant::now(),
            },
        }
    }

    /// Sends the request when it may be sent and the service is ready.
    fn poll_send<C, Call, O>(
        &mut self,
        cx: &mut Context<'_>,
        asked: &mut Asked<C, Call, O>,
    ) -> Poll<Result<S::Future, BoxError>>
    where
        S: Service<Req, Error: Into<BoxError>> + Clone,
        O: Observer,
    {
        let shared = Arc::clone(&asked.shared);
        let memory = &shared.memory;
        loop {
            match &mut self.stage {
                Stage::Waiting { waiting, since } => match ready!(Pin::new(waiting).poll(cx)) {
                    Ok(pass) => {
                        memory.observer.on_event(&Event::Waited {
                            target: &memory.target,
                            took: Instant::now().saturating_duration_since(*since),
                        });
                        self.stage = Stage::Admitted(pass);
                    }
                    Err(blocked) => {
                        let failure = Failure::new(memory.local_answer(&blocked));
                        return Poll::Ready(Err(failure.into()));
                    }
                },
                Stage::Admitted(pass) => {
                    ready!(self.service.poll_ready(cx)).map_err(Into::into)?;
                    let mut pass = mem::take(pass);
                    if !memory.holds(asked.key, &pass) {
                        // A limit was noticed while the service was not ready.
                        drop(pass);
                        pass = match memory.admit(asked.key) {
                            Ok(pass) => pass,
                            Err(blocked) => {
                                let waiting = asked.wait(self.give_up, blocked)?;
                                self.service = self.service.clone();
                                self.stage = Stage::Waiting {
                                    waiting,
                                    since: Instant::now(),
                                };
                                continue;
                            }
                        };
                    }
                    asked.sent = memory.send(pass);
                    #[expect(clippy::expect_used, reason = "it is taken here alone, once")]
                    let request = self.request.take().expect("sent once");
                    return Poll::Ready(Ok(self.service.call(request)));
                }
            }
        }
    }
}

// === impl ResponseFuture ===

impl<S, Req, C, P, O> ResponseFuture<S, Req, C, P, O>
where
    S: Service<Req>,
    C: Classify<Req, S::Response>,
    P: Responses<S::Response>,
{
    pub(crate) const fn calling(asked: Asked<C, C::Call, O>, future: S::Future) -> Self {
        Self {
            asked,
            state: State::Calling { future },
        }
    }

    pub(crate) fn holding(asked: Asked<C, C::Call, O>, held: Held<S, Req>) -> Self {
        Self {
            asked,
            state: State::Holding {
                held: Box::new(held),
            },
        }
    }

    pub(crate) const fn refused(asked: Asked<C, C::Call, O>, failure: Failure) -> Self {
        Self {
            asked,
            state: State::Refused {
                failure: Some(failure),
            },
        }
    }
}

impl<S, Req, C, P, O> Future for ResponseFuture<S, Req, C, P, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    C: Classify<Req, S::Response>,
    P: Responses<S::Response>,
    O: Observer,
{
    type Output = Result<P::With<ResponseBody<P::Body, C::Stream, O>>, BoxError>;

    #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Calling { future } => {
                    let response = match ready!(future.poll(cx)) {
                        Ok(response) => response,
                        Err(error) => {
                            let error = error.into();
                            let classify = &this.asked.shared.classify;
                            let outcome = classify.on_error(&this.asked.call, &*error);
                            this.asked.learn(&outcome);
                            return Poll::Ready(Err(error));
                        }
                    };
                    match respond::<_, Req, C, P, O>(this.asked, response) {
                        Ok(response) => return Poll::Ready(Ok(response)),
                        Err(peeking) => this.state.set(State::Peeking { peeking }),
                    }
                }
                StateProjection::Holding { held } => {
                    let future = ready!(held.poll_send(cx, this.asked))?;
                    this.state.set(State::Calling { future });
                }
                StateProjection::Peeking { peeking } => {
                    let body = match Pin::new(&mut peeking.peek).poll(cx) {
                        Poll::Ready(Peek::Decided(outcome, body)) => {
                            this.asked.learn(&outcome);
                            let mut head = peeking.head.take().expect("polled after completion");
                            attach::<P, _>(&mut head, Some(outcome), peeking.headroom);
                            let body = ResponseBody::passed(body);
                            return Poll::Ready(Ok(P::join(head, Some(body))));
                        }
                        Poll::Ready(Peek::Committed(committed)) => committed,
                        Poll::Pending => {
                            ready!(peeking.timer.as_mut().poll(cx));
                            peeking.peek.stop().expect("it is pending")
                        }
                    };
                    let mut head = peeking.head.take().expect("polled after completion");
                    attach::<P, _>(&mut head, None, peeking.headroom);
                    let body = ResponseBody::peeked(body.watch(this.asked.watch()));
                    return Poll::Ready(Ok(P::join(head, Some(body))));
                }
                StateProjection::Refused { failure } => {
                    let failure = failure.take().expect("polled after completion");
                    return Poll::Ready(Err(failure.into()));
                }
            }
        }
    }
}

/// Passes a response on, or begins to read its error body.
#[expect(
    clippy::type_complexity,
    reason = "the types follow from the traits, and are named here alone"
)]
fn respond<Res, Req, C, P, O>(
    asked: &Asked<C, C::Call, O>,
    response: Res,
) -> Result<P::With<ResponseBody<P::Body, C::Stream, O>>, Box<Peeking<P::Head, P::Body, C::Stream>>>
where
    C: Classify<Req, Res>,
    P: Responses<Res>,
    O: Observer,
{
    let classify = &asked.shared.classify;
    let headroom = classify.headroom(&asked.call, &response);
    let verdict = classify.on_response(&asked.call, &response);
    let (mut head, body) = P::split(response);
    let (outcome, body) = match (verdict, body) {
        (Verdict::Now(outcome), body) => {
            asked.learn(&outcome);
            (Some(outcome), body.map(ResponseBody::decided))
        }
        (Verdict::AtEnd(mut stream), None) => {
            let outcome = stream.on_end(End::Clean(None));
            asked.learn(&outcome);
            (Some(outcome), None)
        }
        (Verdict::AtEnd(stream), Some(body)) if P::is_failure(&head) => {
            let config = &asked.shared.memory.config;
            return Err(Box::new(Peeking {
                head: Some(head),
                headroom,
                peek: peek(body, stream, config.peek_limit),
                timer: Box::pin(sleep(config.peek_time)),
            }));
        }
        (Verdict::AtEnd(stream), Some(body)) => (
            None,
            Some(ResponseBody::watched(body, stream, asked.watch())),
        ),
    };
    attach::<P, _>(&mut head, outcome, headroom);
    Ok(P::join(head, body))
}

/// Tells outer layers what was found, so that they need not read it again. A success is not
/// attached: it is what a response without a verdict is taken for, and extensions allocate.
fn attach<P, Res>(head: &mut P::Head, outcome: Option<Outcome>, headroom: Option<Headroom>)
where
    P: Responses<Res>,
{
    let outcome = outcome.filter(|outcome| !outcome.is_success());
    if outcome.is_none() && headroom.is_none() {
        return;
    }
    let Some(extensions) = P::extensions_mut(head) else {
        return;
    };
    if let Some(outcome) = outcome {
        extensions.insert(outcome);
    }
    if let Some(headroom) = headroom {
        extensions.insert(headroom);
    }
}

impl<S, Req, C, P, O> fmt::Debug for ResponseFuture<S, Req, C, P, O>
where
    S: Service<Req>,
    C: Classify<Req, S::Response>,
    P: Responses<S::Response>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
