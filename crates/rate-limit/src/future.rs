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
use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

use crate::{
    Key,
    body::{Learn, ResponseBody},
    layer::Shared,
    memory::{Pass, Terms},
    state::Sent,
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
        #[pin]
        state: State<Asked<C, C::Call, O>, S::Future, RareOf<S, Req, C, P, O>>,
    }
}

type RareOf<S, Req, C, P, O> = Rare<
    Asked<C, <C as Classify<Req, <S as Service<Req>>::Response>>::Call, O>,
    <S as Service<Req>>::Future,
    Held<S, Req>,
    Peeking<
        <P as Responses<<S as Service<Req>>::Response>>::Head,
        <P as Responses<<S as Service<Req>>::Response>>::Body,
        <C as Classify<Req, <S as Service<Req>>::Response>>::Stream,
        O,
    >,
>;

/// What is known of the request, whatever becomes of it.
pub(crate) struct Asked<C, Call, O> {
    pub(crate) shared: Arc<Shared<C, O>>,
    pub(crate) call: Call,
    pub(crate) key: Option<Key>,
}

pin_project! {
    #[project = StateProjection]
    enum State<A, F, R> {
        // Sent while nothing was remembered.
        Calling { asked: A, #[pin] future: F },
        // Boxed, so that the healthy path does not move it about.
        Rare { rare: Box<R> },
    }
}

/// What happens when a request is not simply sent and answered.
enum Rare<A, F, H, P> {
    /// It is sent late, or was while something was remembered.
    Sending { asked: A, sending: Sending<F, H> },
    /// Its answer is an error, of which the body is being read.
    Peeking(P),
    /// It is answered here; `None` when that is done.
    Refused(Option<Failure>),
}

enum Sending<F, H> {
    Held(H),
    Sent {
        future: Pin<Box<F>>,
        at: Option<Sent>,
    },
}

/// A request that is not sent yet, with an instance of the service to send it with.
pub(crate) struct Held<S, Req> {
    service: S,
    request: Option<Req>,
    terms: Terms,
    stage: Stage,
}

enum Stage {
    /// In line. No place of the inner service is held.
    Waiting { waiting: Waiting, since: Instant },
    /// To be sent as soon as the service is ready.
    Admitted(Pass),
}

/// A response whose error body is being read.
struct Peeking<H, B, C, O> {
    learn: Learn<O>,
    head: Option<H>,
    peek: PeekFuture<B, C>,
    timer: Pin<Box<Sleep>>,
}

// === impl Asked ===

impl<C, Call, O: Observer> Asked<C, Call, O> {
    /// Learns from an error in the stead of a response.
    #[cold]
    fn failed<Res, Req>(&self, sent: Option<Sent>, error: impl Into<BoxError>) -> BoxError
    where
        C: Classify<Req, Res, Call = Call>,
    {
        let error = error.into();
        let outcome = self.shared.classify.on_error(&self.call, &*error);
        self.shared.memory.learn(self.key, sent, &outcome);
        error
    }

    /// Keeps what a response says is left, and tells outer layers.
    #[cold]
    fn report<P: Responses<Res>, Res>(&self, head: &mut P::Head, headroom: &Headroom) {
        self.shared.memory.level(self.key, headroom);
        if let Some(extensions) = P::extensions_mut(head) {
            extensions.insert(*headroom);
        }
    }

    #[inline]
    fn learn(&self, sent: Option<Sent>) -> Learn<O> {
        Learn {
            memory: Arc::clone(&self.shared.memory),
            key: self.key,
            sent,
        }
    }
}

// === impl Learn ===

impl<O: Observer> Learn<O> {
    /// Learns from an outcome, and tells outer layers of it unless it is a success. That is what a
    /// response without a verdict is taken for, and saying so would allocate.
    fn decided<P: Responses<Res>, Res>(&self, head: &mut P::Head, outcome: Outcome) {
        self.memory.learn(self.key, self.sent, &outcome);
        if outcome.is_success() {
            return;
        }
        if let Some(extensions) = P::extensions_mut(head) {
            extensions.insert(outcome);
        }
    }
}

// === impl Held ===

impl<S, Req> Held<S, Req> {
    pub(crate) fn admitted(service: S, request: Req, terms: Terms, pass: Pass) -> Self {
        Self {
            service,
            request: Some(request),
            terms,
            stage: Stage::Admitted(pass),
        }
    }

    pub(crate) fn waiting(service: S, request: Req, terms: Terms, waiting: Waiting) -> Self {
        Self {
            service,
            request: Some(request),
            terms,
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
        asked: &Asked<C, Call, O>,
    ) -> Poll<Result<Sending<S::Future, Self>, BoxError>>
    where
        S: Service<Req, Error: Into<BoxError>> + Clone,
        O: Observer,
    {
        let memory = &asked.shared.memory;
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
                    Err(late) => {
                        let failure = memory.local_answer(late.at, &late.limit);
                        return Poll::Ready(Err(failure.into()));
                    }
                },
                Stage::Admitted(pass) => {
                    ready!(self.service.poll_ready(cx)).map_err(Into::into)?;
                    let mut pass = mem::take(pass);
                    if !memory.holds(asked.key, &pass) {
                        // A limit was noticed while the service was not ready.
                        drop(pass);
                        pass = match memory.admit(&self.terms) {
                            Ok(pass) => pass,
                            Err(blocked) => {
                                let waiting = memory.wait(self.terms, blocked)?;
                                self.service = self.service.clone();
                                self.stage = Stage::Waiting {
                                    waiting,
                                    since: Instant::now(),
                                };
                                continue;
                            }
                        };
                    }
                    let sent = memory.send(pass, &self.terms);
                    #[expect(clippy::expect_used, reason = "it is taken here alone, once")]
                    let request = self.request.take().expect("sent once");
                    let future = self.service.call(request);
                    return Poll::Ready(Ok(Sending::sent(future, sent)));
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
    #[inline]
    pub(crate) const fn calling(asked: Asked<C, C::Call, O>, future: S::Future) -> Self {
        Self {
            state: State::Calling { asked, future },
        }
    }

    /// One that is sent while something is remembered.
    #[cold]
    pub(crate) fn returning(asked: Asked<C, C::Call, O>, at: Sent, future: S::Future) -> Self {
        let sending = Sending::sent(future, Some(at));
        Self::rare(Rare::Sending { asked, sending })
    }

    #[cold]
    pub(crate) fn holding(asked: Asked<C, C::Call, O>, held: Held<S, Req>) -> Self {
        let sending = Sending::Held(held);
        Self::rare(Rare::Sending { asked, sending })
    }

    #[cold]
    pub(crate) fn refused(failure: Failure) -> Self {
        Self::rare(Rare::Refused(Some(failure)))
    }

    fn rare(rare: RareOf<S, Req, C, P, O>) -> Self {
        Self {
            state: State::Rare {
                rare: Box::new(rare),
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

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (asked, future) = match self.as_mut().project().state.project() {
            StateProjection::Calling { asked, future } => (asked, future),
            StateProjection::Rare { rare } => return Self::poll_rare(rare, cx),
        };
        let response = match ready!(future.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(asked.failed::<S::Response, Req>(None, error))),
        };
        let classify = &asked.shared.classify;
        let responded = match classify.headroom(&asked.call, &response) {
            Some(headroom) => {
                let verdict = classify.on_response(&asked.call, &response);
                respond::<_, Req, C, P, O>(asked, None, response, verdict, Some(&headroom))
            }
            // The healthy cases are apart from the others. Where nothing asks for the address of a
            // response, it is moved less, and that is most of what passing it on costs.
            None => match classify.on_response(&asked.call, &response) {
                Verdict::Now(outcome) if outcome.is_success() => {
                    return Poll::Ready(Ok(P::map_body(response, ResponseBody::decided)));
                }
                Verdict::AtEnd(stream) if P::is_to_be_read(&response) => {
                    return Poll::Ready(Ok(P::map_body(response, |body| {
                        ResponseBody::watched(body, stream, asked.learn(None))
                    })));
                }
                verdict => respond::<_, Req, C, P, O>(asked, None, response, verdict, None),
            },
        };
        match responded {
            Ok(response) => Poll::Ready(Ok(response)),
            Err(peeking) => {
                let mut rare = Box::new(Rare::Peeking(*peeking));
                let polled = Self::poll_rare(&mut rare, cx);
                self.project().state.set(State::Rare { rare });
                polled
            }
        }
    }
}

impl<S, Req, C, P, O> ResponseFuture<S, Req, C, P, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    C: Classify<Req, S::Response>,
    P: Responses<S::Response>,
    O: Observer,
{
    /// Polls what is rare, apart, so that the rest is small enough to be inlined.
    #[cold]
    #[inline(never)]
    fn poll_rare(
        rare: &mut RareOf<S, Req, C, P, O>,
        cx: &mut Context<'_>,
    ) -> Poll<<Self as Future>::Output> {
        loop {
            match rare {
                Rare::Sending { asked, sending } => match sending {
                    Sending::Held(held) => *sending = ready!(held.poll_send(cx, asked))?,
                    Sending::Sent { future, at } => {
                        let response = match ready!(future.as_mut().poll(cx)) {
                            Ok(response) => response,
                            Err(error) => {
                                let error = asked.failed::<S::Response, Req>(*at, error);
                                return Poll::Ready(Err(error));
                            }
                        };
                        let classify = &asked.shared.classify;
                        let headroom = classify.headroom(&asked.call, &response);
                        let headroom = headroom.as_ref();
                        let verdict = classify.on_response(&asked.call, &response);
                        match respond::<_, Req, C, P, O>(asked, *at, response, verdict, headroom) {
                            Ok(response) => return Poll::Ready(Ok(response)),
                            Err(peeking) => *rare = Rare::Peeking(*peeking),
                        }
                    }
                },
                Rare::Peeking(peeking) => {
                    let (head, body) = ready!(peeking.poll::<P, S::Response>(cx));
                    return Poll::Ready(Ok(P::join(head, Some(body))));
                }
                #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
                Rare::Refused(failure) => {
                    let failure = failure.take().expect("polled after completion");
                    return Poll::Ready(Err(failure.into()));
                }
            }
        }
    }
}

impl<F, H> Sending<F, H> {
    fn sent(future: F, at: Option<Sent>) -> Self {
        Self::Sent {
            future: Box::pin(future),
            at,
        }
    }
}

impl<H, B, Cs, O> Peeking<H, B, Cs, O>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    Cs: ClassifyStream,
    O: Observer,
{
    #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
    fn poll<P, Res>(&mut self, cx: &mut Context<'_>) -> Poll<(H, ResponseBody<B, Cs, O>)>
    where
        P: Responses<Res, Head = H, Body = B>,
    {
        let body = match Pin::new(&mut self.peek).poll(cx) {
            Poll::Ready(Peek::Decided(outcome, body)) => {
                let mut head = self.head.take().expect("polled after completion");
                self.learn.decided::<P, _>(&mut head, outcome);
                return Poll::Ready((head, ResponseBody::passed(body)));
            }
            Poll::Ready(Peek::Committed(committed)) => committed,
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                self.peek.stop().expect("it is pending")
            }
        };
        let head = self.head.take().expect("polled after completion");
        let body = ResponseBody::peeked(body.watch(self.learn.clone()));
        Poll::Ready((head, body))
    }
}

/// Passes a response on that says more than that all is well, or begins to read its error body.
#[inline(never)]
#[expect(
    clippy::type_complexity,
    reason = "the types follow from the traits, and are named here alone"
)]
fn respond<Res, Req, C, P, O>(
    asked: &Asked<C, C::Call, O>,
    sent: Option<Sent>,
    response: Res,
    verdict: Verdict<C::Stream>,
    headroom: Option<&Headroom>,
) -> Result<
    P::With<ResponseBody<P::Body, C::Stream, O>>,
    Box<Peeking<P::Head, P::Body, C::Stream, O>>,
>
where
    C: Classify<Req, Res>,
    P: Responses<Res>,
    O: Observer,
{
    let (mut head, body) = P::split(response);
    if let Some(headroom) = headroom {
        asked.report::<P, _>(&mut head, headroom);
    }
    let learn = asked.learn(sent);
    let body = match (verdict, body) {
        (Verdict::Now(outcome), body) => {
            learn.decided::<P, _>(&mut head, outcome);
            body.map(ResponseBody::decided)
        }
        (Verdict::AtEnd(mut stream), None) => {
            let outcome = stream.on_end(End::Clean(None));
            learn.decided::<P, _>(&mut head, outcome);
            None
        }
        // Whoever reads the head may never ask for a body that is over: gRPC sends a refusal as a
        // head alone.
        (Verdict::AtEnd(mut stream), Some(body)) if body.is_end_stream() => {
            let outcome = stream.on_end(End::Clean(None));
            learn.decided::<P, _>(&mut head, outcome);
            Some(if P::is_failure(&head) {
                ResponseBody::decided(body)
            } else {
                ResponseBody::ended(body, &outcome)
            })
        }
        (Verdict::AtEnd(stream), Some(body)) if P::is_failure(&head) => {
            let config = &asked.shared.memory.config;
            return Err(Box::new(Peeking {
                learn,
                head: Some(head),
                peek: peek(body, stream, config.peek_limit),
                timer: Box::pin(sleep(config.peek_time)),
            }));
        }
        (Verdict::AtEnd(stream), Some(body)) => Some(ResponseBody::watched(body, stream, learn)),
    };
    Ok(P::join(head, body))
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
