//! The laws of tower middleware and of http bodies, and what a service must be to be shared.

use std::{cell::Cell, convert::Infallible, future::ready, rc::Rc, task::Poll, time::Duration};

use backstop_core::{
    Classify, ClassifyErrors, ClassifyStream, End, Kind, Outcome, Progress, Step, Typed, Verdict,
};
use backstop_rate_limit::{
    RateLimit, RateLimitHandle, RateLimitLayer, ResponseBody, ResponseFuture,
};
use backstop_testkit::{body, laws};
use http::{Request, Response, StatusCode};
use tokio_test::task;
use tower::{Layer, Service, service_fn};

use crate::support::{Body, Model, TestClassify, request};

#[tokio::test(start_paused = true)]
async fn the_laws_hold() {
    let layer = RateLimitLayer::builder("a", ClassifyErrors)
        .protocol::<Typed>()
        .wait_up_to(Duration::from_secs(1))
        .build()
        .expect("valid");
    let checked = laws::check(|inner| layer.layer(inner), || "a request", || "an answer");
    if let Err(violations) = checked.await {
        panic!("{violations}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_laws_hold_with_a_reserve() {
    let layer = RateLimitLayer::builder("a", ClassifyErrors)
        .protocol::<Typed>()
        .shift_below(0.05)
        .pace_up_to(Duration::from_secs(1))
        .build()
        .expect("valid");
    let checked = laws::check(|inner| layer.layer(inner), || "a request", || "an answer");
    if let Err(violations) = checked.await {
        panic!("{violations}");
    }
}

/// Whether the head decides, or the body is read: as it passes, or before if it is a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    Head,
    Body,
}

/// Takes whatever comes for an answer, or for a refusal.
pub(crate) struct Whatever(Kind);

impl<Req, B> Classify<Req, Response<B>> for Reads {
    type Call = ();
    type Stream = Whatever;

    fn on_request(&self, _: &Req) {}

    fn on_response(&self, (): &(), response: &Response<B>) -> Verdict<Whatever> {
        let kind = match response.status() {
            StatusCode::OK => Kind::Success,
            _ => Kind::Throttled,
        };
        match self {
            Self::Head => Verdict::Now(Outcome::new(kind)),
            Self::Body => Verdict::AtEnd(Whatever(kind)),
        }
    }
}

impl ClassifyStream for Whatever {
    fn on_data(&mut self, _: &[u8]) -> Step {
        Step::progress(match self.0 {
            Kind::Success => Progress::Token,
            _ => Progress::KeepAlive,
        })
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        Outcome::new(match end {
            End::Error(_) => Kind::Unavailable,
            _ => self.0,
        })
    }
}

/// The body as it leaves the layer.
fn wrap(
    reads: Reads,
    status: StatusCode,
    inner: body::Inner,
) -> ResponseBody<body::Inner, Whatever> {
    let answer = Rc::new(Cell::new(Some(inner)));
    let model = service_fn(move |_: Request<Body>| {
        let mut response = Response::new(answer.take().expect("asked once"));
        *response.status_mut() = status;
        ready(Ok::<_, Infallible>(response))
    });
    let mut service = RateLimitLayer::new("a", reads).layer(model);
    let is_ready = task::spawn(()).enter(|cx, _| service.poll_ready(cx).is_ready());
    assert!(is_ready);
    let mut call = task::spawn(service.call(request()));
    for _ in 0..1_000 {
        if let Poll::Ready(response) = call.poll() {
            return response.expect("passed on").into_body();
        }
    }
    unreachable!("the answer comes")
}

/// By hand, and over hyper's HTTP/1 and HTTP/2, with and without a length, with trailers.
#[tokio::test(start_paused = true)]
async fn the_laws_of_bodies_hold() {
    for (reads, status) in [
        (Reads::Head, StatusCode::OK),
        (Reads::Head, StatusCode::TOO_MANY_REQUESTS),
        (Reads::Body, StatusCode::OK),
        (Reads::Body, StatusCode::TOO_MANY_REQUESTS),
    ] {
        let checked = body::check(|inner| wrap(reads, status, inner));
        if let Err(violations) = checked.await {
            panic!("{reads:?} {status}: {violations}");
        }
    }
}

#[test]
fn everything_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<RateLimitLayer<TestClassify>>();
    shared::<RateLimit<Model, TestClassify>>();
    shared::<RateLimitHandle>();
    sent::<ResponseFuture<Model, Request<Body>, TestClassify, backstop_core::Http, ()>>();
    sent::<Response<backstop_rate_limit::ResponseBody<Body, crate::support::TestStream>>>();
}
