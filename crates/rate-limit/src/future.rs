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
    memory::{Blocked, Pass, Terms},
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
        asked: Asked<C, C::Call, O>,
        #[pin]
        state: State<S::Future, RareOf<S, Req, C, P>>,
    }
}

type RareOf<S, Req, C, P> = Rare<
    S,
    Req,
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
    pub(crate) sent: Option<Sent>,
}

pin_project! {
    #[project = StateProjection]
    enum State<F, R> {
        Calling { #[pin] future: F },
        // Boxed, so that the healthy path does not move it about.
        Rare { rare: Box<R> },
    }
}

/// What happens when a request is not simply sent and answered.
enum Rare<S, Req, H, B, C> {
    Holding(Held<S, Req>),
    Peeking(Peeking<H, B, C>),
    Refused(Option<Failure>),
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
struct Peeking<H, B, C> {
    head: Option<H>,
    peek: PeekFuture<B, C>,
    timer: Pin<Box<Sleep>>,
}

// === impl Asked ===

impl<C, Call, O: Observer> Asked<C, Call, O> {
    /// Lines up, if there is time for it; otherwise the answer is given here.
    pub(crate) fn wait(&self, terms: Terms, blocked: Blocked) -> Result<Waiting, Failure> {
        let memory = &self.shared.memory;
        blocked
            .patience(&terms)
            .map_err(|late| memory.local_answer(late.at, &late.limit))?;
        let scopes = Arc::clone(&memory.scopes);
        Ok(Waiting::new(scopes, terms, memory.rules(), blocked))
    }

    /// Learns from an error in the stead of a response.
    #[cold]
    fn failed<Res, Req>(&self, error: impl Into<BoxError>) -> BoxError
    where
        C: Classify<Req, Res, Call = Call>,
    {
        let error = error.into();
        let outcome = self.shared.classify.on_error(&self.call, &*error);
        self.learn(&outcome);
        error
    }

    /// Learns from an outcome, and tells outer layers of it unless it is a success. That is what a
    /// response without a verdict is taken for, and saying so would allocate.
    #[inline]
    fn decided<P: Responses<Res>, Res>(&self, head: &mut P::Head, outcome: Outcome) {
        if !outcome.is_success() {
            self.refused::<P, _>(head, outcome);
        } else if let Some(sent) = self.sent {
            self.shared.memory.succeeded(self.key, sent);
        }
    }

    #[cold]
    fn refused<P: Responses<Res>, Res>(&self, head: &mut P::Head, outcome: Outcome) {
        self.learn(&outcome);
        if let Some(extensions) = P::extensions_mut(head) {
            extensions.insert(outcome);
        }
    }

    /// Keeps what a response says is left, and tells outer layers.
    #[cold]
    fn report<P: Responses<Res>, Res>(&self, head: &mut P::Head, headroom: &Headroom) {
        let nearly = self.shared.memory.level(self.key, headroom);
        if let Some(extensions) = P::extensions_mut(head) {
            extensions.insert(*headroom);
            if let Some(nearly) = nearly {
                extensions.insert(nearly);
            }
        }
    }

    fn learn(&self, outcome: &Outcome) {
        self.shared.memory.learn(self.key, self.sent, outcome);
    }

    #[inline]
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
                                let waiting = asked.wait(self.terms, blocked)?;
                                self.service = self.service.clone();
                                self.stage = Stage::Waiting {
                                    waiting,
                                    since: Instant::now(),
                                };
                                continue;
                            }
                        };
                    }
                    asked.sent = memory.send(pass, &self.terms);
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
    #[inline]
    pub(crate) const fn calling(asked: Asked<C, C::Call, O>, future: S::Future) -> Self {
        Self {
            asked,
            state: State::Calling { future },
        }
    }

    #[cold]
    pub(crate) fn holding(asked: Asked<C, C::Call, O>, held: Held<S, Req>) -> Self {
        Self {
            asked,
            state: State::rare(Rare::Holding(held)),
        }
    }

    #[cold]
    pub(crate) fn refused(asked: Asked<C, C::Call, O>, failure: Failure) -> Self {
        Self {
            asked,
            state: State::rare(Rare::Refused(Some(failure))),
        }
    }
}

impl<F, R> State<F, R> {
    fn rare(rare: R) -> Self {
        Self::Rare {
            rare: Box::new(rare),
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
        let mut this = self.as_mut().project();
        let StateProjection::Calling { future } = this.state.as_mut().project() else {
            return self.poll_rare(cx);
        };
        let response = match ready!(future.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(this.asked.failed::<S::Response, Req>(error))),
        };
        let asked = &*this.asked;
        let classify = &asked.shared.classify;
        if let Some(headroom) = classify.headroom(&asked.call, &response) {
            return self.poll_respond(cx, response, Some(&headroom), None);
        }
        // The healthy cases are apart from the others. Where nothing asks for the address of a
        // response, it is moved less, and that is most of what passing it on costs.
        match classify.on_response(&asked.call, &response) {
            Verdict::Now(outcome) if outcome.is_success() => {
                if let Some(sent) = asked.sent {
                    asked.shared.memory.succeeded(asked.key, sent);
                }
                Poll::Ready(Ok(P::map_body(response, ResponseBody::decided)))
            }
            Verdict::AtEnd(stream) if P::is_to_be_read(&response) => {
                Poll::Ready(Ok(P::map_body(response, |body| {
                    ResponseBody::watched(body, stream, asked.watch())
                })))
            }
            verdict => self.poll_respond(cx, response, None, Some(verdict)),
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
    /// Passes a response on that says more than that all is well, or begins to read its error body.
    #[inline(never)]
    fn poll_respond(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        response: S::Response,
        headroom: Option<&Headroom>,
        verdict: Option<Verdict<C::Stream>>,
    ) -> Poll<<Self as Future>::Output> {
        let mut this = self.as_mut().project();
        let asked = &*this.asked;
        let classify = &asked.shared.classify;
        let verdict = verdict.unwrap_or_else(|| classify.on_response(&asked.call, &response));
        match respond::<_, Req, C, P, O>(asked, response, verdict, headroom) {
            Ok(response) => Poll::Ready(Ok(response)),
            Err(peeking) => {
                this.state.set(State::rare(Rare::Peeking(*peeking)));
                self.poll_rare(cx)
            }
        }
    }

    /// Polls what is rare, apart, so that the rest is small enough to be inlined.
    #[cold]
    #[inline(never)]
    fn poll_rare(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let mut this = self.as_mut().project();
        if let StateProjection::Rare { rare } = this.state.as_mut().project() {
            match ready!(rare.poll::<C, P, O>(cx, this.asked))? {
                Next::Call(future) => this.state.set(State::Calling { future }),
                Next::Answer(response) => return Poll::Ready(Ok(response)),
            }
        }
        self.poll(cx)
    }
}

/// What follows what is rare.
enum Next<F, R> {
    Call(F),
    Answer(R),
}

impl<S, Req, H, B, Cs> Rare<S, Req, H, B, Cs>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    Cs: ClassifyStream,
{
    #[cold]
    #[expect(
        clippy::type_complexity,
        reason = "the types follow from the traits, and are named here alone"
    )]
    fn poll<C, P, O>(
        &mut self,
        cx: &mut Context<'_>,
        asked: &mut Asked<C, C::Call, O>,
    ) -> Poll<Result<Next<S::Future, P::With<ResponseBody<B, Cs, O>>>, BoxError>>
    where
        C: Classify<Req, S::Response>,
        P: Responses<S::Response, Head = H, Body = B>,
        B: Body<Data = Bytes, Error: Into<BoxError>>,
        O: Observer,
    {
        match self {
            Self::Holding(held) => {
                let future = ready!(held.poll_send(cx, asked))?;
                Poll::Ready(Ok(Next::Call(future)))
            }
            Self::Peeking(peeking) => {
                let (head, body) = ready!(peeking.poll::<C, C::Call, P, S::Response, O>(cx, asked));
                Poll::Ready(Ok(Next::Answer(P::join(head, Some(body)))))
            }
            #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
            Self::Refused(failure) => {
                let failure = failure.take().expect("polled after completion");
                Poll::Ready(Err(failure.into()))
            }
        }
    }
}

impl<H, B, Cs> Peeking<H, B, Cs>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    Cs: ClassifyStream,
{
    #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
    fn poll<C, Call, P, Res, O>(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Asked<C, Call, O>,
    ) -> Poll<(H, ResponseBody<B, Cs, O>)>
    where
        P: Responses<Res, Head = H, Body = B>,
        O: Observer,
    {
        let body = match Pin::new(&mut self.peek).poll(cx) {
            Poll::Ready(Peek::Decided(outcome, body)) => {
                let mut head = self.head.take().expect("polled after completion");
                asked.decided::<P, _>(&mut head, outcome);
                return Poll::Ready((head, ResponseBody::passed(body)));
            }
            Poll::Ready(Peek::Committed(committed)) => committed,
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                self.peek.stop().expect("it is pending")
            }
        };
        let head = self.head.take().expect("polled after completion");
        Poll::Ready((head, ResponseBody::peeked(body.watch(asked.watch()))))
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
    verdict: Verdict<C::Stream>,
    headroom: Option<&Headroom>,
) -> Result<P::With<ResponseBody<P::Body, C::Stream, O>>, Box<Peeking<P::Head, P::Body, C::Stream>>>
where
    C: Classify<Req, Res>,
    P: Responses<Res>,
    O: Observer,
{
    let (mut head, body) = P::split(response);
    if let Some(headroom) = headroom {
        asked.report::<P, _>(&mut head, headroom);
    }
    let body = match (verdict, body) {
        (Verdict::Now(outcome), body) => {
            asked.decided::<P, _>(&mut head, outcome);
            body.map(ResponseBody::decided)
        }
        (Verdict::AtEnd(mut stream), None) => {
            let outcome = stream.on_end(End::Clean(None));
            asked.decided::<P, _>(&mut head, outcome);
            None
        }
        // Whoever reads the head may never ask for a body that is over: gRPC sends a refusal as a
        // head alone.
        (Verdict::AtEnd(mut stream), Some(body)) if body.is_end_stream() => {
            let outcome = stream.on_end(End::Clean(None));
            asked.decided::<P, _>(&mut head, outcome);
            Some(if P::is_failure(&head) {
                ResponseBody::decided(body)
            } else {
                ResponseBody::ended(body, &outcome)
            })
        }
        (Verdict::AtEnd(stream), Some(body)) if P::is_failure(&head) => {
            let config = &asked.shared.memory.config;
            return Err(Box::new(Peeking {
                head: Some(head),
                peek: peek(body, stream, config.peek_limit),
                timer: Box::pin(sleep(config.peek_time)),
            }));
        }
        (Verdict::AtEnd(stream), Some(body)) => {
            Some(ResponseBody::watched(body, stream, asked.watch()))
        }
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
