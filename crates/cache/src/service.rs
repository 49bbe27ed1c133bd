use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, Directives, Event, Frozen, Mode, Observer, Outcome,
    Recorder, Replay, Replayed, Responses, Served, Simplified, Trace, Verdict,
    body::{Peek, Peeked, Watched, peek},
};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use tower_service::Service;

use crate::{
    CacheConfig, Entry, Key, KeySecret, ProducedBy, Store, Tenant,
    coalesce::{Flights, Landing, Seat},
    tee::Tee,
};

/// The service of a [`CachedFallbackLayer`](crate::CachedFallbackLayer).
///
/// It is always ready: a call may be answered without the inner service, whose readiness is
/// therefore awaited inside the call, on a clone of its own.
pub struct CachedFallback<S, St, R, C, T, P, O> {
    inner: S,
    shared: Arc<Shared<St, R, C, T, O>>,
    protocol: PhantomData<fn() -> P>,
}

/// The future of a [`CachedFallback`].
///
/// # Cancel safety
///
/// Dropping it drops the call; nothing is stored.
pub struct ResponseFuture<Res> {
    future: BoxFuture<'static, Result<Res, BoxError>>,
}

pin_project! {
    /// The body of an answer: the model's own, or one from here.
    pub struct ResponseBody<B, C: ClassifyStream> {
        #[pin]
        from: Source<B, C>,
    }
}

pin_project! {
    #[project = SourceProjection]
    enum Source<B, C: ClassifyStream> {
        Watched { #[pin] body: Watched<Peeked<B>, C, Tee> },
        Inner { #[pin] body: B },
        Here { #[pin] body: Full<Bytes> },
    }
}

/// What all clones of a service share.
pub(crate) struct Shared<St, R, C, T, O> {
    config: CacheConfig,
    store: St,
    secret: KeySecret,
    producers: Arc<[ProducedBy]>,
    tenant: T,
    recorder: R,
    classify: C,
    observer: O,
    writes: Arc<Semaphore>,
    flights: Flights,
    clock: Clock,
}

/// Wall-clock time that follows tokio's clock, so that tests can move it.
#[derive(Clone, Copy)]
struct Clock {
    epoch_millis: u64,
    started: Instant,
}

/// One call that may be answered from the store.
struct Session<F, Call> {
    frozen: F,
    call: Call,
    tenant: Tenant,
    directives: Directives,
}

// === impl CachedFallback ===

impl<S, St, R, C, T, P, O> CachedFallback<S, St, R, C, T, P, O> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared<St, R, C, T, O>>) -> Self {
        Self {
            inner,
            shared,
            protocol: PhantomData,
        }
    }
}

impl<S, St, R, C, T, P, O, Req> Service<Req> for CachedFallback<S, St, R, C, T, P, O>
where
    P: Replay<Req, Request: Send, Freeze: Send> + Responses<S::Response> + 'static,
    P::Head: Send,
    P::Body: Send + 'static,
    P::With<ResponseBody<P::Body, C::Stream>>: Send,
    S: Service<P::Request, Error: Into<BoxError>, Future: Send, Response: Send>
        + Clone
        + Send
        + 'static,
    C: Classify<P::Request, S::Response> + Send + Sync + 'static,
    R: Recorder<P::Frozen, P::Head>,
    T: Fn(&P::Frozen) -> Option<Tenant> + Send + Sync + 'static,
    St: Store,
    O: Observer,
    Req: Send + 'static,
{
    type Response = P::With<ResponseBody<P::Body, C::Stream>>;
    type Error = BoxError;
    type Future = ResponseFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let inner = self.inner.clone();
        let shared = Arc::clone(&self.shared);
        let freeze =
            <P as Replay<Req>>::freeze(request, shared.config.max_request, &shared.config.carry);
        ResponseFuture {
            future: Box::pin(async move {
                let frozen = match freeze.await? {
                    Frozen::Replayable(frozen) => frozen,
                    Frozen::Once(request) => {
                        return Ok(passed::<P, _, _>(ask(inner, request).await?));
                    }
                };
                let session = shared.recorder.on_request(&frozen).and_then(|call| {
                    let tenant = (shared.tenant)(&frozen)?;
                    let directives = shared.recorder.directives(&call);
                    Some(Session {
                        frozen: frozen.clone(),
                        call,
                        tenant,
                        directives,
                    })
                });
                let Some(session) = session else {
                    return Ok(passed::<P, _, _>(ask(inner, P::thaw(&frozen)).await?));
                };
                let session = Arc::new(session);
                Exchange::<_, _, _, _, _, P, Req, S::Response> {
                    shared,
                    session,
                    types: PhantomData,
                }
                .run(inner)
                .await
            }),
        }
    }
}

/// Waits until the service is ready and calls it, with nothing in between.
async fn ask<S, Req>(mut inner: S, request: Req) -> Result<S::Response, BoxError>
where
    S: Service<Req, Error: Into<BoxError>>,
{
    poll_fn(|cx| inner.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    inner.call(request).await.map_err(Into::into)
}

/// A response that is none of this layer's business.
fn passed<P, Res, C>(response: Res) -> P::With<ResponseBody<P::Body, C>>
where
    P: Responses<Res>,
    C: ClassifyStream,
{
    let (head, body) = P::split(response);
    P::join(
        head,
        body.map(|body| ResponseBody {
            from: Source::Inner { body },
        }),
    )
}

// === impl Shared ===

impl<St, R, C, T> Shared<St, R, C, T, ()> {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a layer, each of a type of its own"
    )]
    pub(crate) fn new(
        config: CacheConfig,
        store: St,
        secret: KeySecret,
        producers: Arc<[ProducedBy]>,
        tenant: T,
        recorder: R,
        classify: C,
        observer: (),
    ) -> Self {
        let writes = Arc::new(Semaphore::new(config.max_writes));
        Self {
            config,
            store,
            secret,
            producers,
            tenant,
            recorder,
            classify,
            observer,
            writes,
            flights: Flights::default(),
            clock: Clock::new(),
        }
    }
}

impl<St, R, C, T, O> Shared<St, R, C, T, O> {
    pub(crate) const fn config(&self) -> &CacheConfig {
        &self.config
    }

    pub(crate) fn with_observer<O2>(&self, observer: O2) -> Shared<St, R, C, T, O2>
    where
        St: Clone,
        R: Clone,
        C: Clone,
        T: Clone,
    {
        Shared {
            config: self.config.clone(),
            store: self.store.clone(),
            secret: self.secret.clone(),
            producers: Arc::clone(&self.producers),
            tenant: self.tenant.clone(),
            recorder: self.recorder.clone(),
            classify: self.classify.clone(),
            observer,
            writes: Arc::clone(&self.writes),
            flights: Flights::default(),
            clock: self.clock,
        }
    }

    /// The producer of an answer, if its answers are kept.
    fn producer(&self, served: Option<&Served>) -> Option<ProducedBy> {
        let target = match served {
            Some(Served {
                target,
                mode: Mode::Primary | Mode::Failover,
                ..
            }) => &**target,
            Some(_) => return None,
            None => "",
        };
        self.producers
            .iter()
            .find(|producer| &**producer.target() == target)
            .cloned()
    }
}

// === impl Exchange ===

/// One call, with all that its parts need.
struct Exchange<St, R, C, T, O, P, Req, Res>
where
    P: Replay<Req> + Responses<Res>,
    R: Recorder<P::Frozen, P::Head>,
{
    shared: Arc<Shared<St, R, C, T, O>>,
    session: Arc<Session<P::Frozen, R::Call>>,
    types: PhantomData<fn(Req) -> Res>,
}

/// An answer found in the store.
struct Found {
    producer: ProducedBy,
    record: Bytes,
    age: Duration,
}

type Answer<P, Res, C, Req> = <P as Responses<Res>>::With<
    ResponseBody<
        <P as Responses<Res>>::Body,
        <C as Classify<<P as Replay<Req>>::Request, Res>>::Stream,
    >,
>;

impl<St, R, C, T, O, P, Req, Res> Exchange<St, R, C, T, O, P, Req, Res>
where
    P: Replay<Req> + Responses<Res> + 'static,
    P::Body: Send + 'static,
    R: Recorder<P::Frozen, P::Head>,
    C: Classify<P::Request, Res> + Send + Sync + 'static,
    T: Send + Sync + 'static,
    St: Store,
    O: Observer,
    Req: 'static,
    Res: 'static,
{
    async fn run<S>(self, inner: S) -> Result<Answer<P, Res, C, Req>, BoxError>
    where
        S: Service<P::Request, Response = Res, Error: Into<BoxError>>,
    {
        let shared = &*self.shared;
        let directives = self.session.directives;
        if !shared.config.fresh_for.is_zero()
            && !directives.no_cache
            && let Some(found) = self.lookup(|age| age < shared.config.fresh_for).await
            && let Some(response) = self.serve(&found, Mode::Cached, 0)
        {
            return Ok(response);
        }
        let mut seat = None;
        if shared.config.coalesce
            && !directives.no_store
            && !directives.no_cache
            && shared.recorder.may_share(&self.session.call)
            && let Some(identity) = shared.recorder.identity(&self.session.frozen)
        {
            let anybody = ProducedBy::new("", "");
            let key = Key::new(&shared.secret, &self.session.tenant, &anybody, &identity);
            let joined = shared.flights.join(key).await;
            match joined.landing() {
                Landing::Open => seat = Some(joined),
                Landing::Alone => {}
                Landing::Answered(record, producer) => {
                    let found = Found {
                        producer: producer.clone(),
                        record: record.clone(),
                        age: Duration::ZERO,
                    };
                    drop(joined);
                    if let Some(response) = self.serve(&found, Mode::Cached, 0) {
                        return Ok(response);
                    }
                }
            }
        }
        let result = self.ask(inner, &mut seat).await;
        // Whatever has not been shared by now is not going to be.
        if let Some(seat) = seat {
            seat.land(Landing::Alone);
        }
        result
    }

    /// Asks the inner service, keeps a good answer and stands in for a bad one.
    async fn ask<S>(
        &self,
        inner: S,
        seat: &mut Option<Seat<'_>>,
    ) -> Result<Answer<P, Res, C, Req>, BoxError>
    where
        S: Service<P::Request, Response = Res, Error: Into<BoxError>>,
    {
        let shared = &*self.shared;
        let request = P::thaw(&self.session.frozen);
        let call = shared.classify.on_request(&request);
        let response = match ask(inner, request).await {
            Ok(response) => response,
            Err(error) => {
                let outcome = shared.classify.on_error(&call, &*error);
                // A service that keeps no trace was itself asked once.
                let attempts = Trace::find(&*error).map_or(1, |trace| trace.attempts().count());
                let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                return self.stand_in(&outcome, attempts).await.ok_or(error);
            }
        };
        let verdict = shared.classify.on_response(&call, &response);
        let (mut head, body) = P::split(response);
        let (outcome, from) = match (verdict, body) {
            (Verdict::AtEnd(stream), Some(body)) => {
                match peek(body, stream, shared.config.max_answer).await {
                    Peek::Committed(committed) => {
                        let keep = self.recording(&head).map(|(recording, producer)| {
                            let this = self.clone();
                            Box::new(move |chunks| this.keep(recording, producer, chunks)) as _
                        });
                        let tee = Tee::new(shared.config.max_answer, keep);
                        let from = Source::Watched {
                            body: committed.watch(tee),
                        };
                        return Ok(P::join(head, Some(ResponseBody { from })));
                    }
                    Peek::Decided(outcome, body) => {
                        if outcome.is_success() {
                            let held = body.held().filter_map(Frame::data_ref).cloned().collect();
                            self.whole(&head, held, seat);
                        }
                        (
                            outcome,
                            Some(Source::Watched {
                                body: Watched::decided(body),
                            }),
                        )
                    }
                }
            }
            (Verdict::Now(outcome), None) => {
                if outcome.is_success() {
                    self.whole(&head, Vec::new(), seat);
                }
                (outcome, None)
            }
            // The classifier did not want the body: whether it is whole is not known.
            (Verdict::Now(outcome), Some(body)) => (outcome, Some(Source::Inner { body })),
            (Verdict::AtEnd(mut stream), None) => {
                (stream.on_end(backstop_core::End::Clean(None)), None)
            }
        };
        if !outcome.is_success() {
            let served = P::extensions(&head).and_then(|extensions| extensions.get::<Served>());
            let attempts = served.map_or(1, |served| served.attempts);
            if let Some(response) = self.stand_in(&outcome, attempts).await {
                return Ok(response);
            }
            // The verdict travels with the response, so that nobody has to read the body again.
            if let Some(extensions) = <P as Responses<Res>>::extensions_mut(&mut head) {
                extensions.insert(outcome);
            }
        }
        Ok(P::join(head, from.map(|from| ResponseBody { from })))
    }

    /// An answer in place of a failed one: kept, simplified, or none.
    async fn stand_in(&self, outcome: &Outcome, attempts: u32) -> Option<Answer<P, Res, C, Req>> {
        let config = &self.shared.config;
        let directives = &self.session.directives;
        if !config.serve_on.contains(outcome) {
            return None;
        }
        let asked = directives.stale_if_error;
        let may_serve = !directives.no_cache && (asked.is_some() || !config.only_on_request);
        if may_serve {
            let stale = config.stale_if_error.min(asked.unwrap_or(Duration::MAX));
            let oldest = config.fresh_for.saturating_add(stale);
            if let Some(found) = self.lookup(|age| age <= oldest).await
                && let Some(response) = self.serve(&found, Mode::Stale, attempts)
            {
                return Some(response);
            }
        }
        let simplified = config.simplified.as_ref()?;
        let text = simplified.text(outcome);
        let text = Simplified::new(&text, simplified.status(), outcome);
        let (head, body) = self.shared.recorder.simplified(&self.session.call, &text);
        self.tell(Mode::Simplified, Duration::ZERO);
        Some(self.here(
            head,
            body,
            Served::new(Arc::from(""), Mode::Simplified, attempts),
        ))
    }

    /// The best kept answer of an age that will do. The store's trouble is a miss.
    async fn lookup(&self, will_do: impl Fn(Duration) -> bool + Send) -> Option<Found> {
        let shared = &*self.shared;
        let identity = shared.recorder.identity(&self.session.frozen)?;
        let search = async {
            for producer in shared.producers.iter() {
                let key = Key::new(&shared.secret, &self.session.tenant, producer, &identity);
                let Some(entry) = shared.store.get(&key).await else {
                    continue;
                };
                let age = shared.clock.now().saturating_sub(entry.stored_at);
                let age = Duration::from_millis(age);
                if will_do(age) {
                    let (producer, record) = (producer.clone(), entry.record.0);
                    return Some(Found {
                        producer,
                        record,
                        age,
                    });
                }
            }
            None
        };
        tokio::time::timeout(shared.config.lookup_timeout, search)
            .await
            .ok()?
    }

    /// Writes a kept answer in the form that this call asks for.
    fn serve(&self, found: &Found, mode: Mode, attempts: u32) -> Option<Answer<P, Res, C, Req>> {
        let replayed = Replayed::new(found.age, mode == Mode::Cached);
        let (head, body) =
            self.shared
                .recorder
                .replay(&self.session.call, &found.record, replayed)?;
        self.tell(mode, found.age);
        let target = Arc::clone(found.producer.target());
        Some(self.here(head, body, Served::new(target, mode, attempts)))
    }

    fn here(&self, mut head: P::Head, body: Bytes, served: Served) -> Answer<P, Res, C, Req> {
        if let Some(extensions) = <P as Responses<Res>>::extensions_mut(&mut head) {
            extensions.insert(served);
        }
        let body = ResponseBody {
            from: Source::Here {
                body: Full::new(body),
            },
        };
        P::join(head, Some(body))
    }

    /// Whether an answer with this head is kept, and under whose name.
    fn recording(&self, head: &P::Head) -> Option<(R::Recording, ProducedBy)> {
        if self.session.directives.no_store {
            self.decided("no-store");
            return None;
        }
        let served = P::extensions(head).and_then(|extensions| extensions.get::<Served>());
        let Some(producer) = self.shared.producer(served) else {
            self.decided("not made by a target whose answers are kept");
            return None;
        };
        match self.shared.recorder.on_response(&self.session.call, head) {
            Ok(recording) => Some((recording, producer)),
            Err(why) => {
                self.decided(why);
                None
            }
        }
    }

    /// Keeps an answer that is whole already, and shares it with those who wait for it.
    fn whole(&self, head: &P::Head, chunks: Vec<Bytes>, seat: &mut Option<Seat<'_>>) {
        let Some((recording, producer)) = self.recording(head) else {
            return;
        };
        let Some(seat) = seat.take() else {
            return self.keep(recording, producer, Ok(chunks));
        };
        match self.shared.recorder.record(&recording, &join(&chunks)) {
            Ok(record) => {
                seat.land(Landing::Answered(record.clone(), producer.clone()));
                self.store(producer, move || Ok(record));
            }
            Err(why) => {
                seat.land(Landing::Alone);
                self.decided(why);
            }
        }
    }

    /// Keeps the answer that these chunks are.
    fn keep(
        &self,
        recording: R::Recording,
        producer: ProducedBy,
        chunks: Result<Vec<Bytes>, &'static str>,
    ) {
        let shared = Arc::clone(&self.shared);
        match chunks {
            Ok(chunks) => {
                self.store(producer, move || {
                    shared.recorder.record(&recording, &join(&chunks))
                });
            }
            Err(why) => self.decided(why),
        }
    }

    /// Makes the record and stores it, off the caller's path. It is given up when too many are under
    /// way or the store is slow, so the task ends by itself.
    fn store(
        &self,
        producer: ProducedBy,
        record: impl FnOnce() -> Result<Bytes, &'static str> + Send + 'static,
    ) {
        let Ok(permit) = Arc::clone(&self.shared.writes).try_acquire_owned() else {
            return self.decided("too many writes under way");
        };
        let Ok(runtime) = Handle::try_current() else {
            return self.decided("no runtime to write in");
        };
        let this = self.clone();
        runtime.spawn(async move {
            let decision = this
                .write(&producer, record)
                .await
                .err()
                .unwrap_or("stored");
            this.decided(decision);
            drop(permit);
        });
    }

    async fn write(
        &self,
        producer: &ProducedBy,
        record: impl FnOnce() -> Result<Bytes, &'static str>,
    ) -> Result<(), &'static str> {
        let shared = &*self.shared;
        let record = record()?;
        if record.len() > shared.config.max_answer {
            return Err("larger than max_answer");
        }
        let identity = shared
            .recorder
            .identity(&self.session.frozen)
            .ok_or("no identity")?;
        let key = Key::new(&shared.secret, &self.session.tenant, producer, &identity);
        let put = shared
            .store
            .put(key, Entry::new(shared.clock.now(), record));
        tokio::time::timeout(shared.config.write_timeout, put)
            .await
            .map_err(|_| "the store is slow")
    }

    fn tell(&self, mode: Mode, age: Duration) {
        self.shared.observer.on_event(&Event::FallbackServed {
            mode: mode.as_str(),
            age,
        });
    }

    fn decided(&self, decision: &'static str) {
        self.shared
            .observer
            .on_event(&Event::StoreDecided { decision });
    }
}

/// One piece of all chunks.
fn join(chunks: &[Bytes]) -> Bytes {
    if let [chunk] = chunks {
        return chunk.clone();
    }
    let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in chunks {
        joined.extend_from_slice(chunk);
    }
    joined.freeze()
}

impl<St, R, C, T, O, P, Req, Res> Clone for Exchange<St, R, C, T, O, P, Req, Res>
where
    P: Replay<Req> + Responses<Res>,
    R: Recorder<P::Frozen, P::Head>,
{
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            session: Arc::clone(&self.session),
            types: PhantomData,
        }
    }
}

// === impl Clock ===

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the wall clock is read once; from there on tokio's clock counts"
    )]
    fn new() -> Self {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let epoch_millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        Self {
            epoch_millis,
            started: Instant::now(),
        }
    }

    /// Milliseconds since the Unix epoch.
    fn now(&self) -> u64 {
        let run = Instant::now().saturating_duration_since(self.started);
        self.epoch_millis
            .saturating_add(u64::try_from(run.as_millis()).unwrap_or(u64::MAX))
    }
}

// === impl ResponseFuture ===

impl<Res> Future for ResponseFuture<Res> {
    type Output = Result<Res, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

// === impl ResponseBody ===

impl<B, C> Body for ResponseBody<B, C>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().from.project() {
            SourceProjection::Watched { body } => body.poll_frame(cx),
            SourceProjection::Inner { body } => body.poll_frame(cx).map_err(Into::into),
            SourceProjection::Here { body } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            Source::Watched { body } => body.is_end_stream(),
            Source::Inner { body } => body.is_end_stream(),
            Source::Here { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            Source::Watched { body } => body.size_hint(),
            Source::Inner { body } => body.size_hint(),
            Source::Here { body } => body.size_hint(),
        }
    }
}

impl<S: Clone, St, R, C, T, P, O> Clone for CachedFallback<S, St, R, C, T, P, O> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            protocol: PhantomData,
        }
    }
}

impl<S: fmt::Debug, St, R, C, T, P, O> fmt::Debug for CachedFallback<S, St, R, C, T, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFallback")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<Res> fmt::Debug for ResponseFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<B, C: ClassifyStream> fmt::Debug for ResponseBody<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
