use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, End, Event, Failure, Headroom, Kind, Observer, Outcome,
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
    body::{Learn, Remember, ResponseBody},
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
        state: StateOf<S, Req, C, P, O>,
    }
}

/// A response in parts.
type Parts<P, Res, Cs> = (
    <P as Responses<Res>>::Head,
    Option<ResponseBody<<P as Responses<Res>>::Body, Cs>>,
);

type StateOf<S, Req, C, P, O> = State<
    Asked<C, <C as Classify<Req, <S as Service<Req>>::Response>>::Call, O>,
    <S as Service<Req>>::Future,
    RareOf<S, Req, C, P, O>,
>;

pub(crate) type RareOf<S, Req, C, P, O> = Rare<
    Asked<C, <C as Classify<Req, <S as Service<Req>>::Response>>::Call, O>,
    <S as Service<Req>>::Future,
    Held<S, Req>,
    Peeking<
        <P as Responses<<S as Service<Req>>::Response>>::Head,
        <P as Responses<<S as Service<Req>>::Response>>::Body,
        <C as Classify<Req, <S as Service<Req>>::Response>>::Stream,
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
    #[project_replace = StateTaken]
    enum State<A, F, R> {
        // Sent while nothing was remembered.
        Calling { asked: A, #[pin] future: F },
        // Boxed, so that the healthy path does not move it about. `None` when it is over.
        Rare { rare: Option<Box<R>> },
    }
}

/// What happens when a request is not simply sent and answered.
pub(crate) enum Rare<A, F, H, P> {
    /// It is sent late, or was while something was remembered.
    Sending { asked: A, sending: Sending<F, H> },
    /// Its answer is an error, of which the body is being read.
    Peeking(P),
    /// It is answered here; `None` when that is done.
    Refused(Option<Failure>),
}

pub(crate) enum Sending<F, H> {
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

/// Remembers what a response says of limits, and tells outer layers.
struct Learning {
    memory: Arc<dyn Remember>,
    key: Option<Key>,
    /// When the request was sent, if anything was remembered then.
    sent: Option<Sent>,
}

/// A response whose error body is being read.
pub(crate) struct Peeking<H, B, C: ClassifyStream> {
    learning: Learning,
    head: Option<H>,
    peek: PeekFuture<B, C>,
    timer: Pin<Box<Sleep>>,
}

// === impl State ===

impl<A, F, R> State<A, F, R> {
    /// The call is over; what was asked is taken out.
    #[inline]
    fn answered(self: Pin<&mut Self>) -> Option<A> {
        match self.project_replace(Self::Rare { rare: None }) {
            StateTaken::Calling { asked, .. } => Some(asked),
            StateTaken::Rare { .. } => None,
        }
    }
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

    /// Passes a response on that says more than that all is well, or begins to read its error body.
    #[cold]
    #[inline(never)]
    #[expect(
        clippy::type_complexity,
        reason = "the types follow from the traits, and are named here alone"
    )]
    fn respond<P, Res, Cs>(
        &self,
        sent: Option<Sent>,
        mut head: P::Head,
        body: Option<P::Body>,
        verdict: Verdict<Cs>,
        headroom: Option<&Headroom>,
    ) -> Result<Parts<P, Res, Cs>, Box<Peeking<P::Head, P::Body, Cs>>>
    where
        P: Responses<Res>,
        Cs: ClassifyStream,
        C: Send + Sync + 'static,
    {
        let memory: Arc<Shared<C, O>> = Arc::clone(&self.shared);
        let learning = Learning {
            memory,
            key: self.key,
            sent,
        };
        if let Some(headroom) = headroom {
            learning.report::<P, _>(&mut head, headroom);
        }
        let body = match (verdict, body) {
            (Verdict::Now(outcome), body) => {
                learning.decided::<P, _>(&mut head, outcome);
                body.map(ResponseBody::decided)
            }
            (Verdict::AtEnd(mut stream), None) => {
                let outcome = stream.on_end(End::Clean(None));
                learning.decided::<P, _>(&mut head, outcome);
                None
            }
            // Whoever reads the head may never ask for a body that is over: gRPC sends a refusal as a
            // head alone.
            (Verdict::AtEnd(mut stream), Some(body)) if body.is_end_stream() => {
                let outcome = stream.on_end(End::Clean(None));
                learning.decided::<P, _>(&mut head, outcome);
                Some(if P::is_failure(&head) {
                    ResponseBody::decided(body)
                } else {
                    ResponseBody::ended(body, &outcome)
                })
            }
            (Verdict::AtEnd(stream), Some(body)) if P::is_failure(&head) => {
                let config = learning.memory.config();
                return Err(Box::new(Peeking {
                    head: Some(head),
                    peek: peek(body, stream, config.peek_limit),
                    timer: Box::pin(sleep(config.peek_time)),
                    learning,
                }));
            }
            (Verdict::AtEnd(stream), Some(body)) => {
                let learn = Learn::new(learning.memory, learning.key);
                Some(match sent {
                    None => ResponseBody::watched(body, stream, learn),
                    Some(sent) => ResponseBody::returning(body, stream, learn.returning(sent)),
                })
            }
        };
        Ok((head, body))
    }

    /// What learns from the body of the response.
    #[inline]
    fn learn(self) -> Learn
    where
        C: Send + Sync + 'static,
    {
        Learn::new(self.shared, self.key)
    }
}

// === impl Learning ===

impl Learning {
    /// Keeps what a response says is left, and tells outer layers.
    fn report<P: Responses<Res>, Res>(&self, head: &mut P::Head, headroom: &Headroom) {
        self.memory.level(self.key, headroom);
        if let Some(extensions) = P::extensions_mut(head) {
            extensions.insert(*headroom);
        }
    }

    fn learn(&self, outcome: &Outcome) {
        self.memory.learn(self.key, self.sent, outcome);
    }

    /// Learns from an outcome, and tells outer layers of it unless it says nothing against the
    /// response. That is what a response without a verdict is taken for, and saying so would allocate.
    fn decided<P: Responses<Res>, Res>(&self, head: &mut P::Head, outcome: Outcome) {
        self.learn(&outcome);
        if matches!(outcome.kind(), Kind::Success | Kind::Cancelled) {
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

    #[inline]
    pub(crate) const fn rare(rare: Box<RareOf<S, Req, C, P, O>>) -> Self {
        Self {
            state: State::Rare { rare: Some(rare) },
        }
    }
}

impl<S, Req, C, P, O> Future for ResponseFuture<S, Req, C, P, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    C: Classify<Req, S::Response> + Send + Sync + 'static,
    P: Responses<S::Response>,
    O: Observer,
{
    type Output = Result<P::With<ResponseBody<P::Body, C::Stream>>, BoxError>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let (asked, future) = match state.as_mut().project() {
            StateProjection::Calling { asked, future } => (asked, future),
            StateProjection::Rare { rare } => {
                let (head, body) = ready!(Self::poll_rare(rare, cx))?;
                return Poll::Ready(Ok(P::join(head, body)));
            }
        };
        let response = match ready!(future.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(asked.failed::<S::Response, Req>(None, error))),
        };
        let classify = &asked.shared.classify;
        // The healthy cases are apart from the others. Where nothing asks for the address of a
        // response, it is moved less, and that is most of what passing it on costs.
        let responded = match classify.headroom(&asked.call, &response) {
            None => match classify.on_response(&asked.call, &response) {
                Verdict::Now(outcome) if outcome.is_success() => {
                    return Poll::Ready(Ok(P::map_body(response, ResponseBody::decided)));
                }
                Verdict::AtEnd(stream) if P::is_to_be_read(&response) => {
                    // It is there: it was looked at.
                    let Some(asked) = state.answered() else {
                        return Poll::Pending;
                    };
                    return Poll::Ready(Ok(P::map_body(response, |body| {
                        ResponseBody::watched(body, stream, asked.learn())
                    })));
                }
                verdict => {
                    let (head, body) = P::split(response);
                    asked.respond::<P, _, _>(None, head, body, verdict, None)
                }
            },
            Some(headroom) => {
                let verdict = classify.on_response(&asked.call, &response);
                let (head, body) = P::split(response);
                asked.respond::<P, _, _>(None, head, body, verdict, Some(&headroom))
            }
        };
        let (head, body) = match responded {
            Ok(parts) => parts,
            Err(peeking) => {
                let mut rare = Some(Box::new(Rare::Peeking(*peeking)));
                let polled = Self::poll_rare(&mut rare, cx);
                state.set(State::Rare { rare });
                ready!(polled)?
            }
        };
        Poll::Ready(Ok(P::join(head, body)))
    }
}

impl<S, Req, C, P, O> ResponseFuture<S, Req, C, P, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    C: Classify<Req, S::Response> + Send + Sync + 'static,
    P: Responses<S::Response>,
    O: Observer,
{
    /// Polls what is rare, apart, so that the rest is small enough to be inlined.
    #[cold]
    #[inline(never)]
    #[expect(
        clippy::type_complexity,
        reason = "the types follow from the traits, and are named here alone"
    )]
    fn poll_rare(
        rare: &mut Option<Box<RareOf<S, Req, C, P, O>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Parts<P, S::Response, C::Stream>, BoxError>> {
        #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
        let rare = rare.as_deref_mut().expect("polled after completion");
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
                        let (head, body) = P::split(response);
                        match asked.respond::<P, _, _>(*at, head, body, verdict, headroom) {
                            Ok(parts) => return Poll::Ready(Ok(parts)),
                            Err(peeking) => *rare = Rare::Peeking(*peeking),
                        }
                    }
                },
                Rare::Peeking(peeking) => {
                    let (head, body) = ready!(peeking.poll::<P, S::Response>(cx));
                    return Poll::Ready(Ok((head, Some(body))));
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

// === impl Rare ===

impl<A, F, H, P> Rare<A, F, H, P> {
    /// One that is sent; `at` if something was remembered then.
    pub(crate) fn sent(asked: A, at: Option<Sent>, future: F) -> Box<Self> {
        let sending = Sending::sent(future, at);
        Box::new(Self::Sending { asked, sending })
    }

    pub(crate) fn held(asked: A, held: H) -> Box<Self> {
        let sending = Sending::Held(held);
        Box::new(Self::Sending { asked, sending })
    }

    pub(crate) fn refused(failure: Failure) -> Box<Self> {
        Box::new(Self::Refused(Some(failure)))
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

impl<H, B, Cs> Peeking<H, B, Cs>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    Cs: ClassifyStream,
{
    #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
    fn poll<P, Res>(&mut self, cx: &mut Context<'_>) -> Poll<(H, ResponseBody<B, Cs>)>
    where
        P: Responses<Res, Head = H, Body = B>,
    {
        let (outcome, body) = match Pin::new(&mut self.peek).poll(cx) {
            Poll::Ready(Peek::Decided(outcome, body)) => (outcome, body),
            Poll::Ready(Peek::Committed(committed)) => committed.decide(),
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                self.peek.stop().expect("it is pending").decide()
            }
        };
        let mut head = self.head.take().expect("polled after completion");
        self.learning.decided::<P, _>(&mut head, outcome);
        Poll::Ready((head, ResponseBody::read(body)))
    }
}

/// A caller that goes away meanwhile leaves what the head has said.
impl<H, B, C: ClassifyStream> Drop for Peeking<H, B, C> {
    fn drop(&mut self) {
        if let Some(begun) = self.peek.stop() {
            let (outcome, _) = begun.decide();
            self.learning.learn(&outcome);
        }
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
