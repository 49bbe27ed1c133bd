//! The laws of tower middleware and of http bodies, readiness, and what a drop gives back.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    convert::Infallible,
    future::{Ready, pending, ready},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use backstop_core::{BoxError, Deadline, Http, TimeLimits, Typed};
use backstop_testkit::{body, laws};
use backstop_timeout::{Elapsed, Limits, Phase, Timeout, TimeoutLayer};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use support::{Heard, Log, Marks, Script, Then, secs};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{
    Layer, Service, ServiceExt,
    buffer::Buffer,
    limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer},
    service_fn,
};

type Req = Request<Full<Bytes>>;

fn request() -> Req {
    Request::new(Full::default())
}

fn all_limits() -> Limits {
    Limits::default().within(secs(3600))
}

#[tokio::test(start_paused = true)]
async fn the_laws_of_tower() {
    let http = TimeoutLayer::new(all_limits()).unwrap().classify(Marks);
    laws::check(
        |inner| http.layer(inner),
        request,
        || Response::new(Full::new(Bytes::from_static(b"te"))),
    )
    .await
    .unwrap();
    let typed = TimeoutLayer::new(all_limits()).unwrap().protocol::<Typed>();
    laws::check(|inner| typed.layer(inner), || 1, || "an answer")
        .await
        .unwrap();
    let connect = backstop_timeout::ConnectTimeoutLayer::default();
    laws::check(|inner| connect.layer(inner), || 1, || "an answer")
        .await
        .unwrap();
}

/// By hand, and over hyper's HTTP/1 and HTTP/2, with and without a length, with trailers.
#[tokio::test(start_paused = true)]
async fn the_laws_of_bodies() {
    body::check(|inner| {
        let plain = TimeoutLayer::new(all_limits()).unwrap();
        wrap(&plain, inner)
    })
    .await
    .unwrap();
    body::check(|inner| {
        let semantic = TimeoutLayer::new(all_limits()).unwrap().classify(Marks);
        wrap(&semantic, inner)
    })
    .await
    .unwrap();
    body::check(|inner| {
        let heard = TimeoutLayer::new(all_limits()).unwrap().target("model");
        wrap(&heard.observer(Log::default()), inner)
    })
    .await
    .unwrap();
}

/// What the inner body says of its end and its length is said outside, so that a server knows it.
#[tokio::test(start_paused = true)]
async fn an_end_that_is_known_stays_known() {
    let layer = TimeoutLayer::new(all_limits()).unwrap();
    assert!(wrap(&layer, Empty::<Bytes>::new()).is_end_stream());
    let mut body = pin!(wrap(&layer, Full::new(Bytes::from_static(b"whole"))));
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(5));
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
}

/// The body as it leaves the layer.
fn wrap<C, O, B>(
    layer: &TimeoutLayer<C, Http, O>,
    inner: B,
) -> backstop_timeout::ResponseBody<B, C::Stream>
where
    C: backstop_core::Classify<Req, Response<B>> + Send + Sync + 'static,
    O: backstop_core::Observer,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    let model = Once(std::cell::Cell::new(Some(inner)));
    let answer = layer.layer(model).oneshot(request()).now_or_never();
    answer.unwrap().unwrap().into_body()
}

/// Answers once, with this body.
struct Once<B>(std::cell::Cell<Option<B>>);

impl<B> Clone for Once<B> {
    fn clone(&self) -> Self {
        Self(None.into())
    }
}

impl<B> Service<Req> for Once<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        ready(Ok(Response::new(self.0.take().unwrap())))
    }
}

/// A typed service of which one call at a time may be under way, and none ends.
type Limited = ConcurrencyLimit<Silent>;

#[derive(Clone, Debug)]
struct Silent;

impl Service<&'static str> for Silent {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        Box::pin(pending())
    }
}

fn typed(limits: Limits) -> TimeoutLayer<backstop_core::ClassifyErrors, Typed, Log> {
    TimeoutLayer::new(limits)
        .unwrap()
        .protocol::<Typed>()
        .target("model")
        .observer(Log::default())
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_is_limited_and_refused_in_the_call() {
    let log = Log::default();
    let layer = typed(Limits::unlimited().ready(secs(10))).observer(log.clone());
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut first = limit.layer(Silent);
    let under_way = first.ready().await.unwrap().call("first");

    let mut second = layer.layer(limit.layer(Silent));
    let start = Instant::now();
    second.ready().await.unwrap();
    assert_eq!(Instant::now(), start + secs(10));
    // It stays so until the call.
    second.ready().await.unwrap();
    let error = second.call("second").await.unwrap_err();
    let expected = Elapsed::new(Phase::Ready, secs(10), secs(10));
    assert_eq!(Elapsed::find(&*error), Some(&expected));
    assert_eq!(
        log.take(),
        [(
            Phase::Ready,
            Heard::TimedOut {
                limit: secs(10),
                waited: secs(10)
            }
        )]
    );

    // It is not dead: the next call has its own time.
    let mut waiting = task::spawn(second.ready());
    assert_pending!(waiting.poll());
    drop(under_way);
    assert!(waiting.is_woken());
    assert_ready_ok!(waiting.poll());
}

/// A place in a queue that nobody waits for any more would hold a permit for ever.
#[tokio::test(start_paused = true)]
async fn a_place_in_the_queue_is_given_back_before_the_call_is_refused() {
    let layer = typed(Limits::unlimited().ready(secs(10)));
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut first = limit.layer(Silent);
    let under_way = first.ready().await.unwrap().call("first");
    let mut second = layer.layer(limit.layer(Silent));
    second.ready().await.unwrap();

    drop(under_way);
    let mut third = limit.layer(Silent);
    let mut waiting = task::spawn(third.ready());
    assert_ready_ok!(waiting.poll());
}

/// A service that waited, or refused a call, still limits the next as a whole.
#[tokio::test(start_paused = true)]
async fn a_total_outlives_waits_and_refusals() {
    let limits = Limits::unlimited().ready(secs(10)).total(secs(60));
    let layer = typed(limits).observer(());
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut first = limit.layer(Silent);
    let mut service = layer.layer(limit.layer(Silent));
    // Ready at once, after a wait, refused, and refused without anybody who fetched it.
    for waited in [0, 5, 10, 11] {
        let mut under_way = None;
        if waited > 0 {
            under_way = Some(first.ready().await.unwrap().call("first"));
        }
        let mut ready = Box::pin(service.ready());
        if waited == 5 {
            assert!(timeout(secs(5), &mut ready).await.is_err());
            drop(under_way.take());
        }
        ready.await.unwrap();
        drop(under_way);
        if waited == 10 {
            let error = service.call("refused").await.unwrap_err();
            assert_eq!(Elapsed::find(&*error).unwrap().phase(), Phase::Ready);
        }
        service.ready().await.unwrap();
        let start = Instant::now();
        let end = timeout(secs(100), service.call("second")).await;
        let error = end.expect("it is limited").unwrap_err();
        let expected = Elapsed::new(Phase::Total, secs(60), secs(60));
        assert_eq!(Elapsed::find(&*error), Some(&expected), "after {waited} s");
        assert_eq!(Instant::now(), start + secs(60));
    }
}

/// Nobody made the call that would have been refused; the next caller asks anew.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_nobody_fetched_does_not_outlive_its_cause() {
    let layer = typed(Limits::unlimited().ready(secs(10)));
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut first = limit.layer(Silent);
    let under_way = first.ready().await.unwrap().call("first");
    let mut second = layer.layer(limit.layer(Silent));
    second.ready().await.unwrap();

    drop(under_way);
    second.ready().await.unwrap();
    let mut call = task::spawn(second.call("second"));
    assert_pending!(call.poll(), "it is sent, not refused");
}

#[tokio::test(start_paused = true)]
async fn readiness_that_came_in_time_is_told() {
    let log = Log::default();
    let layer = typed(Limits::unlimited().ready(secs(10))).observer(log.clone());
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut first = limit.layer(Silent);
    let under_way = first.ready().await.unwrap().call("first");
    let mut second = layer.layer(limit.layer(Silent));
    let mut waiting = task::spawn(second.ready());
    assert_pending!(waiting.poll());
    sleep(secs(4)).await;
    drop(under_way);
    assert_ready_ok!(waiting.poll());
    drop(waiting);
    let _call = second.call("second");
    assert_eq!(log.take(), [(Phase::Ready, Heard::Ended { took: secs(4) })]);
}

/// `poll_ready` does not know the request; a request that may not have waited so long is refused.
#[tokio::test(start_paused = true)]
async fn a_request_may_refuse_the_wait_that_is_behind_it() {
    let layer = TimeoutLayer::new(Limits::unlimited()).unwrap();
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let silent = service_fn(|_: Req| pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let mut first = limit.layer(silent);
    let under_way = first.ready().await.unwrap().call(request());
    let mut second = layer.layer(limit.layer(silent));
    let mut waiting = task::spawn(second.ready());
    assert_pending!(waiting.poll());
    sleep(secs(4)).await;
    drop(under_way);
    assert_ready_ok!(waiting.poll());
    drop(waiting);

    let mut own = TimeLimits::default();
    own.ready = Some(secs(3));
    let mut strict = request();
    strict.extensions_mut().insert(own);
    let error = second.call(strict).await.unwrap_err();
    assert_eq!(
        Elapsed::find(&*error),
        Some(&Elapsed::new(Phase::Ready, secs(3), secs(4)))
    );
    // The permit is free, although the service lives.
    let mut third = limit.layer(silent);
    let mut ready = task::spawn(third.ready());
    assert_ready_ok!(ready.poll());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_gives_the_permit_back() {
    let layer = TimeoutLayer::new(Limits::unlimited()).unwrap();
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let silent = service_fn(|_: Req| pending::<Result<Response<Full<Bytes>>, Infallible>>());
    let mut service = layer.layer(limit.layer(silent));
    let mut late = request();
    late.extensions_mut()
        .insert(Deadline::at(Instant::now().into_std()));
    let error = service.ready().await.unwrap().call(late).await.unwrap_err();
    assert!(Elapsed::find(&*error).unwrap().is_total());
    let mut other = limit.layer(silent);
    let mut ready = task::spawn(other.ready());
    assert_ready_ok!(ready.poll());
}

#[tokio::test(start_paused = true)]
async fn a_clone_has_waited_for_nothing() {
    let layer = typed(Limits::unlimited().ready(secs(10)));
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let mut first = limit.layer(Silent);
    let _under_way = first.ready().await.unwrap().call("first");
    let mut original: Timeout<Limited, _, _, _> = layer.layer(limit.layer(Silent));
    original.ready().await.unwrap();
    // The original's next call is refused; the clone waits its own ten seconds.
    let start = Instant::now();
    original.clone().ready().await.unwrap();
    assert_eq!(Instant::now(), start + secs(10));
}

/// What belongs to the call ends with the call, not with the body of its answer.
#[tokio::test(start_paused = true)]
async fn a_permit_of_the_call_is_not_held_by_the_body() {
    let layer = TimeoutLayer::new(all_limits()).unwrap().classify(Marks);
    let limit = GlobalConcurrencyLimitLayer::new(1);
    let model = service_fn(|_: Req| async {
        sleep(secs(1)).await;
        Ok::<_, Infallible>(Response::new(Script::new(&[], Then::Hangs)))
    });
    let service = layer.layer(limit.layer(model));
    let answer = service.clone().oneshot(request()).await.unwrap();
    let mut other = service.clone();
    assert_ready_ok!(task::spawn(other.ready()).poll());
    drop(answer);
}

/// A `Buffer` hands an error of `poll_ready` to everybody, and is dead from then on.
#[tokio::test(start_paused = true)]
async fn a_buffer_around_it_survives() {
    let layer = typed(Limits::unlimited().ready(secs(10)).total(secs(60)));
    let service = layer.layer(ConcurrencyLimit::new(Silent, 1));
    let buffer = Buffer::new(service, 8);
    let first = buffer.clone().oneshot("first");
    let second = buffer.clone().oneshot("second");
    let (first, second) = tokio::join!(first, second);
    assert!(Elapsed::find(&*first.unwrap_err()).unwrap().is_total());
    assert!(Elapsed::find(&*second.unwrap_err()).unwrap().is_ready());
    let third = buffer.oneshot("third").await.unwrap_err();
    assert!(Elapsed::find(&*third).unwrap().is_total());
}

/// A body that holds a permit, as the guard of a call in progress does.
struct Guarded {
    body: Script,
    alive: Arc<AtomicUsize>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// Whom a call wakes. A timer, or a place in a queue, has a clone of it.
struct Woken;

impl Wake for Woken {
    fn wake(self: Arc<Self>) {}
}

/// Dropped after any number of polls, the call leaves no timer, no task and no work in progress.
#[tokio::test(start_paused = true)]
async fn a_drop_at_any_poll_leaves_nothing() {
    const FRAMES: &[(Duration, &str)] = &[
        (secs(2), ":"),
        (secs(3), "t"),
        (secs(9), "t"),
        (secs(11), "e"),
    ];
    let layer = TimeoutLayer::new(Limits::default().ready(secs(10)))
        .unwrap()
        .classify(Marks);
    let metrics = Handle::current().metrics();
    let alive = Arc::new(AtomicUsize::new(0));
    let mut polls = 0;
    loop {
        let limit = GlobalConcurrencyLimitLayer::new(1);
        let counter = Arc::clone(&alive);
        let model = service_fn(move |_: Req| {
            let counter = Arc::clone(&counter);
            async move {
                sleep(secs(1)).await;
                counter.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Response::new(Guarded {
                    body: Script::new(FRAMES, Then::Hangs),
                    alive: counter,
                }))
            }
        });
        let mut service = layer.layer(limit.layer(model.clone()));
        let mut call = Box::pin(async move {
            let response = service
                .ready()
                .await
                .unwrap()
                .call(request())
                .await
                .unwrap();
            response.into_body().collect().await.unwrap().to_bytes()
        });
        let mut done = false;
        let woken = Arc::new(Woken);
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..polls {
            let mut cx = Context::from_waker(&waker);
            if call.as_mut().poll(&mut cx).is_ready() {
                done = true;
                break;
            }
            sleep(secs(1)).await;
        }
        drop((call, waker));
        assert_eq!(Arc::strong_count(&woken), 1, "after {polls} polls");
        assert_eq!(alive.load(Ordering::Relaxed), 0, "after {polls} polls");
        assert_eq!(metrics.num_alive_tasks(), 0, "after {polls} polls");
        let mut other = limit.layer(model);
        assert_ready_ok!(task::spawn(other.ready()).poll(), "after {polls} polls");
        if done {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "the stream was followed to its end");
}

#[test]
fn what_can_be_sent_and_shared() {
    fn assert<T: Send + Sync + 'static>(_: &T) {}
    let layer = TimeoutLayer::new(Limits::default())
        .unwrap()
        .classify(Marks);
    let mut service = layer.layer(service_fn(|_: Req| {
        ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))))
    }));
    assert(&layer);
    assert(&service);
    assert(&wrap(&layer, Full::new(Bytes::new())));
    assert(&service.call(request()));
}
