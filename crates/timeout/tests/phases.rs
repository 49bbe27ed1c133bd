//! Every phase, exactly: the time is tokio's and stands still but for what is waited for.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    convert::Infallible,
    future::{Ready, pending, ready},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{BoxError, Deadline, Http, Observer, TimeLimits, outcome_of};
use backstop_timeout::{
    ConnectTimeoutLayer, Elapsed, Floor, Limits, MAX_LIMIT, Phase, TimeoutLayer,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use support::{Heard, Log, Marks, Script, Then, secs};
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;

fn request() -> Req {
    Request::new(Full::default())
}

/// A request with a typed extension.
fn carrying(extension: impl Clone + Send + Sync + 'static) -> Req {
    let mut request = request();
    request.extensions_mut().insert(extension);
    request
}

type Layered<O = ()> = TimeoutLayer<Marks, Http, O>;

/// A layer that has no limits but those.
fn layer(limits: impl FnOnce(Limits) -> Limits) -> Layered {
    TimeoutLayer::new(limits(Limits::unlimited()))
        .unwrap()
        .classify(Marks)
}

/// What came of a body, and when it ended.
struct Read {
    data: String,
    error: Option<Elapsed>,
    trailers: bool,
    took: Duration,
}

/// Frames and when they arrive, in seconds from the call.
type Frames = &'static [(u64, &'static str)];

/// Calls a model whose head takes no time and reads all of its body.
async fn read<O: Observer>(layer: &Layered<O>, request: Req, frames: Frames, then: Then) -> Read {
    read_slowly(layer, request, frames, then, |_| 0).await
}

/// The same, and stays away for some seconds before every frame.
async fn read_slowly<O: Observer>(
    layer: &Layered<O>,
    request: Req,
    frames: Frames,
    then: Then,
    away: impl Fn(usize) -> u64,
) -> Read {
    let start = Instant::now();
    let model = service_fn(move |_: Req| {
        let frames: Vec<_> = frames.iter().map(|(at, data)| (secs(*at), *data)).collect();
        ready(Ok::<_, Infallible>(Response::new(Script::new(
            &frames, then,
        ))))
    });
    let response = layer.layer(model).oneshot(request).await.unwrap();
    let mut body = pin!(response.into_body());
    let mut read = Read {
        data: String::new(),
        error: None,
        trailers: false,
        took: Duration::ZERO,
    };
    for frames in 0.. {
        // Nobody polls the body in the meantime.
        sleep(secs(away(frames))).await;
        match timeout(secs(100_000), body.frame()).await.unwrap() {
            None => break,
            Some(Err(error)) => {
                read.error = Some(find(&error));
                assert!(body.frame().await.is_none(), "it is over after an error");
                break;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => read.data.push_str(std::str::from_utf8(&data).unwrap()),
                Err(_) => read.trailers = true,
            },
        }
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    read.took = Instant::now().saturating_duration_since(start);
    read
}

fn find(error: &BoxError) -> Elapsed {
    *Elapsed::find(&**error).unwrap()
}

/// A model that never answers.
fn silent()
-> impl Service<Req, Response = Response<Script>, Error = Infallible, Future: Send> + Clone {
    service_fn(|_: Req| pending())
}

/// What a call of the silent model ends with, and after how long.
async fn call_silent<O: Observer>(layer: &Layered<O>, request: Req) -> (Elapsed, Duration) {
    let start = Instant::now();
    let error = layer.layer(silent()).oneshot(request).await.unwrap_err();
    assert_eq!(outcome_of(&*error), find(&error).outcome());
    let took = Instant::now().saturating_duration_since(start);
    (find(&error), took)
}

#[tokio::test(start_paused = true)]
async fn headers() {
    let layer = layer(|limits| limits.headers(secs(10)));
    let expected = Elapsed::new(Phase::Headers, secs(10), secs(10));
    assert!(expected.is_headers());
    assert_eq!(call_silent(&layer, request()).await, (expected, secs(10)));
}

#[tokio::test(start_paused = true)]
async fn headers_are_counted_from_the_first_poll() {
    let layer = layer(|limits| limits.headers(secs(10)));
    let call = layer.layer(silent()).call(request());
    advance(secs(20)).await;
    let start = Instant::now();
    assert!(find(&call.await.unwrap_err()).is_headers());
    assert_eq!(Instant::now(), start + secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_there_is_passed_on_however_late() {
    let layer = layer(|limits| limits.headers(secs(10)).total(secs(10)));
    let mut call = task::spawn(
        layer
            .layer(service_fn(|_: Req| async {
                sleep(secs(9)).await;
                Ok::<_, Infallible>(Response::new(Script::new(&[], Then::Ends)))
            }))
            .call(request()),
    );
    assert_pending!(call.poll());
    // Both the head and the limit are due by now.
    advance(secs(60)).await;
    assert!(assert_ready!(call.poll()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn first_token() {
    let layer = layer(|limits| limits.first_token(secs(10)).idle(secs(60)));
    // Signs of life, a half event, blanks: none of it is a token.
    let read = read(
        &layer,
        request(),
        &[(2, ":"), (4, "x"), (8, ":"), (11, "t")],
        Then::Ends,
    )
    .await;
    assert_eq!(
        read.error,
        Some(Elapsed::new(Phase::FirstToken, secs(10), secs(10)))
    );
    assert_eq!((read.data.as_str(), read.took), (":x:", secs(10)));
}

#[tokio::test(start_paused = true)]
async fn first_token_in_time() {
    let layer = layer(|limits| limits.first_token(secs(10)));
    let read = read(&layer, request(), &[(9, "t"), (500, "e")], Then::Trailers).await;
    assert_eq!(read.error, None);
    assert!(read.trailers);
    assert_eq!((read.data.as_str(), read.took), ("te", secs(500)));
}

#[tokio::test(start_paused = true)]
async fn first_token_grows_with_the_request() {
    let layer = layer(|limits| limits.first_token(secs(10)).first_token_per_mib(secs(4)));
    let long = Request::new(Full::from(vec![b' '; 2 * 1024 * 1024 + 512 * 1024]));
    let read = read(&layer, long, &[], Then::Hangs).await;
    assert_eq!(
        read.error,
        Some(Elapsed::new(Phase::FirstToken, secs(20), secs(20)))
    );
}

#[tokio::test(start_paused = true)]
async fn idle() {
    let layer = layer(|limits| limits.first_token(secs(100)).idle(secs(10)));
    // Keep-alives do not count.
    let read = read(
        &layer,
        request(),
        &[(50, "t"), (59, "t"), (64, ":"), (68, ":")],
        Then::Hangs,
    )
    .await;
    assert_eq!(
        read.error,
        Some(Elapsed::new(Phase::Idle, secs(10), secs(10)))
    );
    assert_eq!((read.data.as_str(), read.took), ("tt::", secs(69)));
}

#[tokio::test(start_paused = true)]
async fn keep_alives_have_a_looser_bound() {
    let layer = layer(|limits| limits.idle(secs(10)).keep_alive(secs(30)));
    // As long as they come, it is the bound that counts.
    let kept = read(
        &layer,
        request(),
        &[(0, "t"), (9, ":"), (18, ":"), (27, ":"), (29, ":")],
        Then::Hangs,
    )
    .await;
    assert_eq!(
        kept.error,
        Some(Elapsed::new(Phase::Idle, secs(30), secs(30)))
    );
    // When they cease, the stream is silent.
    let ceased = read(&layer, request(), &[(0, "t"), (9, ":")], Then::Hangs).await;
    assert_eq!(
        ceased.error,
        Some(Elapsed::new(Phase::Idle, secs(10), secs(10)))
    );
    assert_eq!(ceased.took, secs(19));
    // A token ends it.
    let went_on = read(
        &layer,
        request(),
        &[(0, "t"), (9, ":"), (18, "t")],
        Then::Hangs,
    )
    .await;
    assert_eq!(went_on.took, secs(28));
}

#[tokio::test(start_paused = true)]
async fn total() {
    let layer = layer(|limits| limits.headers(secs(10)).idle(secs(10)).total(secs(15)));
    let read = read(
        &layer,
        request(),
        &[(1, "t"), (7, "t"), (13, "t"), (19, "t")],
        Then::Ends,
    )
    .await;
    assert_eq!(
        read.error,
        Some(Elapsed::new(Phase::Total, secs(15), secs(15)))
    );
    assert_eq!((read.data.as_str(), read.took), ("ttt", secs(15)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_a_stall() {
    let layer = layer(|limits| limits.first_token(secs(10)).idle(secs(10)));
    // The reader is away for 20 s before every frame, the data is there in the meantime.
    let frames = &[(1, "t"), (2, "t"), (3, ":"), (4, "t"), (70, "e")];
    let slow = read_slowly(&layer, request(), frames, Then::Ends, |_| 20).await;
    assert_eq!(slow.error, None);
    assert_eq!(slow.data, "tt:te");
    // When it is back and finds nothing, the provider has its whole time from then.
    let stalled = read_slowly(&layer, request(), &[(1, "t")], Then::Hangs, |_| 20).await;
    assert_eq!(
        stalled.error,
        Some(Elapsed::new(Phase::Idle, secs(10), secs(10)))
    );
    assert_eq!(stalled.took, secs(50));
}

#[tokio::test(start_paused = true)]
async fn waiting_adds_up_over_keep_alives_without_the_readers_time() {
    let layer = layer(|limits| limits.idle(secs(10)));
    // Waits 4 s for the first keep-alive, is away until 24 s, waits the remaining 6 s.
    let read = read_slowly(
        &layer,
        request(),
        &[(0, "t"), (4, ":")],
        Then::Hangs,
        |frames| {
            if frames == 2 { 20 } else { 0 }
        },
    )
    .await;
    assert_eq!(
        read.error,
        Some(Elapsed::new(Phase::Idle, secs(10), secs(10)))
    );
    assert_eq!(read.took, secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_stays_open_after_its_end_ends_cleanly() {
    let layer = layer(|limits| limits.idle(secs(10)).total(secs(100)));
    // What belongs to it still passes, later signs of life do not keep it open.
    let frames = &[(1, "t"), (2, "e"), (3, ":"), (5, ":"), (6, ":")];
    let read = read(&layer, request(), frames, Then::Hangs).await;
    assert_eq!(read.error, None);
    assert_eq!((read.data.as_str(), read.took), ("te:", secs(4)));
}

/// The answer is whole; that its time is up as well harms nobody.
#[tokio::test(start_paused = true)]
async fn a_stream_past_its_end_is_not_past_the_total() {
    let layer = layer(|limits| limits.total(secs(10)));
    let read = read(&layer, request(), &[(1, "t"), (9, "e")], Then::Hangs).await;
    assert_eq!(read.error, None);
    assert_eq!((read.data.as_str(), read.took), ("te", secs(10)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_told_of_its_failure_ends_cleanly() {
    let layer = layer(|limits| limits.first_token(secs(100)));
    let read = read(&layer, request(), &[(1, "!")], Then::Hangs).await;
    assert_eq!(read.error, None);
    assert_eq!((read.data.as_str(), read.took), ("!", secs(3)));
}

#[tokio::test(start_paused = true)]
async fn trailers_after_the_end_are_passed_on() {
    let layer = layer(|limits| limits.idle(secs(10)));
    let read = read(&layer, request(), &[(1, "t"), (2, "e")], Then::Trailers).await;
    assert_eq!(read.error, None);
    assert!(read.trailers);
}

#[tokio::test(start_paused = true)]
async fn a_trickle_is_a_stall() {
    // Four bytes in ten seconds.
    let floor = Floor::new(1, secs(4));
    let layer = layer(|limits| limits.idle(secs(100)).floor(floor));
    let enough = read(
        &layer,
        request(),
        &[(50, "tttt"), (53, "tttt"), (56, "tttt"), (59, "e")],
        Then::Ends,
    )
    .await;
    assert_eq!((enough.error, enough.took), (None, secs(59)));
    let trickle = read(
        &layer,
        request(),
        &[(50, "t"), (52, "t"), (53, ":::::"), (55, "tt")],
        Then::Hangs,
    )
    .await;
    assert_eq!(
        trickle.error,
        Some(Elapsed::new(Phase::Idle, secs(4), secs(4)))
    );
    assert_eq!((trickle.data.as_str(), trickle.took), ("tt:::::", secs(54)));
    // A reader that is away is no trickle.
    let slow = read_slowly(
        &layer,
        request(),
        &[(1, "t"), (2, "t"), (3, "t"), (4, "e")],
        Then::Ends,
        |_| 20,
    )
    .await;
    assert_eq!(slow.error, None);
}

#[tokio::test(start_paused = true)]
async fn a_request_may_bring_its_own_limits() {
    let layer = layer(|limits| {
        limits
            .headers(secs(10))
            .first_token(secs(10))
            .idle(secs(10))
    });
    let mut limits = TimeLimits::default();
    limits.headers = Some(secs(3));
    limits.first_token = Some(secs(4));
    limits.idle = Some(secs(25));
    let (elapsed, took) = call_silent(&layer, carrying(limits)).await;
    assert_eq!((elapsed.phase(), took), (Phase::Headers, secs(3)));
    let none = read(&layer, carrying(limits), &[], Then::Hangs).await;
    assert_eq!(
        none.error,
        Some(Elapsed::new(Phase::FirstToken, secs(4), secs(4)))
    );
    let idle = read(&layer, carrying(limits), &[(1, "t")], Then::Hangs).await;
    assert_eq!(
        idle.error,
        Some(Elapsed::new(Phase::Idle, secs(25), secs(25)))
    );

    limits.total = Some(secs(2));
    let (elapsed, took) = call_silent(&layer, carrying(limits)).await;
    assert_eq!((elapsed.phase(), took), (Phase::Total, secs(2)));
    // A phase cannot be switched off, only be made long.
    limits = TimeLimits::default();
    limits.headers = Some(Duration::MAX);
    let (elapsed, took) = call_silent(&layer, carrying(limits)).await;
    assert_eq!((elapsed.phase(), took), (Phase::Headers, MAX_LIMIT));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_caps_everything() {
    let layer = layer(|limits| {
        limits
            .headers(secs(10))
            .first_token(secs(10))
            .idle(secs(10))
            .total(secs(20))
    });
    let by = |limit| carrying(Deadline::after(Instant::now().into_std(), limit));
    let (elapsed, took) = call_silent(&layer, by(secs(3))).await;
    assert_eq!(elapsed, Elapsed::new(Phase::Total, secs(3), secs(3)));
    assert_eq!(took, secs(3));
    let (elapsed, _) = call_silent(&layer, by(secs(12))).await;
    assert_eq!(elapsed.phase(), Phase::Headers);
    let none = read(&layer, by(secs(4)), &[], Then::Hangs).await;
    assert_eq!(
        none.error,
        Some(Elapsed::new(Phase::Total, secs(4), secs(4)))
    );
    // It extends nothing.
    let frames = &[(5, "t"), (10, "t"), (15, "t"), (19, "t"), (25, "t")];
    let long = read(&layer, by(secs(50)), frames, Then::Hangs).await;
    assert_eq!(
        long.error,
        Some(Elapsed::new(Phase::Total, secs(20), secs(20)))
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_deadline() {
    let layer = layer(|limits| limits);
    let mut request = request();
    request
        .extensions_mut()
        .insert(Deadline::at(Instant::now().into_std()));
    let unreachable = service_fn(|_: Req| -> Ready<Result<Response<Script>, Infallible>> {
        panic!("it is too late to call")
    });
    let error = layer.layer(unreachable).oneshot(request).await.unwrap_err();
    assert!(find(&error).is_total());
}

/// The deadline that the inner service sees.
async fn seen<O: Observer>(layer: &Layered<O>, request: Req) -> Option<Duration> {
    let now = Instant::now().into_std();
    let tell = service_fn(|request: Req| {
        let seen = request.extensions().get::<Deadline>().copied();
        assert!(
            request.headers().is_empty(),
            "nothing of it goes on the wire"
        );
        let mut response = Response::new(Script::new(&[], Then::Ends));
        response.extensions_mut().insert(seen);
        ready(Ok::<_, Infallible>(response))
    });
    let response = layer.layer(tell).oneshot(request).await.unwrap();
    let seen = *response.extensions().get::<Option<Deadline>>().unwrap();
    seen.map(|deadline| deadline.remaining(now))
}

#[tokio::test(start_paused = true)]
async fn a_deadline_reaches_the_layers_inside() {
    let by = |limit| carrying(Deadline::after(Instant::now().into_std(), limit));
    let total = layer(|limits| limits.total(secs(20)));
    assert_eq!(seen(&total, by(secs(5))).await, Some(secs(5)));
    assert_eq!(
        seen(&total, by(secs(50))).await,
        Some(secs(20)),
        "never extended"
    );
    // Adding one costs an allocation and is asked for.
    assert_eq!(seen(&total, request()).await, None);
    assert_eq!(
        seen(&total.share_deadline(), request()).await,
        Some(secs(20))
    );
    let no_total = layer(|limits| limits).share_deadline();
    assert_eq!(seen(&no_total, request()).await, None);
    assert_eq!(seen(&no_total, by(secs(5))).await, Some(secs(5)));
}

/// One limit around all attempts and one around each: the call takes the former at most.
#[tokio::test(start_paused = true)]
async fn limits_inside_and_outside_do_not_multiply() {
    #[derive(Clone)]
    struct ThreeTimes<S>(S);

    impl<S: Service<Req, Error = BoxError> + Clone + Send + 'static> Service<Req> for ThreeTimes<S>
    where
        S::Future: Send,
        S::Response: Send,
    {
        type Response = S::Response;
        type Error = BoxError;
        type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Req) -> Self::Future {
            let inner = self.0.clone();
            Box::pin(async move {
                for _ in 0..2 {
                    let attempt = inner.clone().oneshot(request.clone()).await;
                    assert!(attempt.is_err());
                }
                inner.oneshot(request).await
            })
        }
    }

    let each = layer(|limits| limits.headers(secs(20)).total(secs(30)));
    let whole = layer(|limits| limits.total(secs(50))).share_deadline();
    let start = Instant::now();
    let attempts = ThreeTimes(
        each.layer(silent())
            .map_response(|response| response.map(|_| Script::new(&[], Then::Ends))),
    );
    let error = whole.layer(attempts).oneshot(request()).await.unwrap_err();
    assert_eq!(Instant::now(), start + secs(50));
    assert!(find(&error).is_total());
}

#[tokio::test(start_paused = true)]
async fn the_observer_hears_every_phase() {
    let log = Log::default();
    let layer = layer(|limits| limits.idle(secs(10)))
        .target("model")
        .observer(log.clone());
    let ended = |phase, seconds| {
        (
            phase,
            Heard::Ended {
                took: secs(seconds),
            },
        )
    };
    read(
        &layer,
        request(),
        &[(2, ":"), (3, "t"), (8, "t"), (9, "e")],
        Then::Ends,
    )
    .await;
    assert_eq!(
        log.take(),
        [
            ended(Phase::Ready, 0),
            ended(Phase::Headers, 0),
            ended(Phase::FirstToken, 3),
            ended(Phase::Idle, 5),
            ended(Phase::Idle, 1),
            ended(Phase::Total, 9),
        ]
    );
    read(&layer, request(), &[(3, "t")], Then::Hangs).await;
    let stalled = Heard::TimedOut {
        limit: secs(10),
        waited: secs(10),
    };
    assert_eq!(log.take()[3..], [(Phase::Idle, stalled)]);
}

/// A body of one frame, that knows its end.
struct Last(Option<Frame<Bytes>>);

impl Body for Last {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

#[tokio::test(start_paused = true)]
async fn the_observer_hears_the_end_of_who_reads_no_further_than_the_last_frame() {
    let data = || Frame::data(Bytes::from_static(b"t"));
    let trailers = || Frame::trailers(http::HeaderMap::new());
    for last in [data, trailers] as [fn() -> Frame<Bytes>; 2] {
        let log = Log::default();
        let layer = layer(|limits| limits.idle(secs(10)))
            .target("model")
            .observer(log.clone());
        let model =
            service_fn(move |_: Req| ready(Ok::<_, Infallible>(Response::new(Last(Some(last()))))));
        let response = layer.layer(model).oneshot(request()).await.unwrap();
        let mut body = pin!(response.into_body());
        body.frame().await.unwrap().unwrap();
        assert!(body.is_end_stream());
        let told = (Phase::Total, Heard::Ended { took: secs(0) });
        assert_eq!(log.take().last(), Some(&told));
        assert!(body.frame().await.is_none());
        assert_eq!(log.take(), [], "it is told once");
    }
}

/// A call that is limited as a whole has one timer for the head and the body, not one wait.
#[tokio::test(start_paused = true)]
async fn the_wait_for_the_head_is_none_for_the_first_token() {
    let layer = layer(|limits| {
        let limits = limits.headers(secs(60)).first_token(secs(10));
        limits.total(secs(100))
    });
    for (token, expected) in [
        (8, None),
        (
            12,
            Some(Elapsed::new(Phase::FirstToken, secs(10), secs(10))),
        ),
    ] {
        let model = service_fn(move |_: Req| async move {
            sleep(secs(50)).await;
            let frames = [(secs(token), "t"), (secs(token + 1), "e")];
            Ok::<_, Infallible>(Response::new(Script::new(&frames, Then::Ends)))
        });
        let response = layer.layer(model).oneshot(request()).await.unwrap();
        let ended = response.into_body().collect().await;
        assert_eq!(ended.err().map(|error| find(&error)), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_is_limited_and_heard() {
    let log = Log::default();
    let layer = ConnectTimeoutLayer::new(secs(5))
        .unwrap()
        .target("model")
        .observer(log.clone());
    let connector = |takes| {
        service_fn(move |()| async move {
            sleep(takes).await;
            Ok::<_, Infallible>("a connection")
        })
    };
    let made = layer.layer(connector(secs(2))).oneshot(()).await;
    assert_eq!(made.unwrap(), "a connection");
    let start = Instant::now();
    let error = layer
        .layer(connector(secs(9)))
        .oneshot(())
        .await
        .unwrap_err();
    assert_eq!(Instant::now(), start + secs(5));
    assert!(find(&error).is_connect());
    let (limit, waited) = (secs(5), secs(5));
    assert_eq!(
        log.take(),
        [
            (Phase::Connect, Heard::Ended { took: secs(2) }),
            (Phase::Connect, Heard::TimedOut { limit, waited }),
        ]
    );
    for refused in [Duration::ZERO, Duration::MAX] {
        let error = ConnectTimeoutLayer::new(refused).unwrap_err();
        assert_eq!(error.field(), "connect");
    }
}

/// The body of a refusal, or of whatever the classifier knows without reading it: any data counts.
#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_classifies() {
    let plain = TimeoutLayer::new(Limits::unlimited().first_token(secs(5)).idle(secs(10))).unwrap();
    let model = |frames: Frames| {
        service_fn(move |_: Req| {
            let frames: Vec<_> = frames.iter().map(|(at, data)| (secs(*at), *data)).collect();
            ready(Ok::<_, Infallible>(Response::new(Script::new(
                &frames,
                Then::Hangs,
            ))))
        })
    };
    let start = Instant::now();
    let response = plain
        .layer(model(&[(4, ":"), (13, "x")]))
        .oneshot(request())
        .await
        .unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(find(&error).is_idle());
    assert_eq!(Instant::now(), start + secs(23));
    let response = plain
        .layer(model(&[(4, "")]))
        .oneshot(request())
        .await
        .unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(find(&error).is_first_token());
}
