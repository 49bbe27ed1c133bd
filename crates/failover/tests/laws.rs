//! The laws of tower, around services that are not always ready, and the laws of bodies.

use std::task::Poll;

use backstop_core::{BoxError, ClassifyErrors, Kind, Typed, body::Replayable};
use backstop_failover::{Failover, FailoverLayer, Hedge, Retry, Target};
use backstop_testkit::{
    body::{self, Bytewise},
    laws,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Full, combinators::UnsyncBoxBody};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn the_laws_of_tower() {
    type Inner = laws::Inner<&'static str, &'static str>;
    let builder = || Failover::builder(ClassifyErrors).protocol::<Typed>();
    let down = || {
        service_fn(async |_: &'static str| {
            Err::<&'static str, BoxError>(
                std::io::Error::from(std::io::ErrorKind::BrokenPipe).into(),
            )
        })
    };
    let alone = |inner: Inner| builder().build(vec![Target::new("model", inner)]).unwrap();
    laws::check(alone, || "a prompt", || "an answer")
        .await
        .unwrap();
    let twice = |inner: Inner| {
        let targets = vec![Target::new("one", inner.clone()), Target::new("two", inner)];
        builder().build(targets).unwrap()
    };
    laws::check(twice, || "a prompt", || "an answer")
        .await
        .unwrap();
    let repeated = |inner: Inner| {
        builder()
            .retry(Retry::times(2))
            .hedge(Hedge::after(std::time::Duration::from_secs(1)))
            .build(vec![Target::new("model", inner)])
            .unwrap()
    };
    laws::check(repeated, || "a prompt", || "an answer")
        .await
        .unwrap();
    let backup = |inner: Inner| builder().layer().unwrap().fallback(inner).layer(down());
    laws::check(backup, || "a prompt", || "an answer")
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_laws_of_tower_over_http() {
    type Req = Request<Full<Bytes>>;
    // What is replayed is not of the type that came in.
    let plain = |inner: laws::Inner<Req, Response<Full<Bytes>>>| {
        inner.map_request(|request: Request<Replayable<Full<Bytes>>>| {
            request.map(|body| Full::new(body.read()))
        })
    };
    laws::check(
        |inner| {
            FailoverLayer::new(Bytewise::default())
                .fallback(plain(inner.clone()))
                .layer(plain(inner))
        },
        || Request::new(Full::new(Bytes::from_static(b"a prompt"))),
        || Response::new(Full::new(Bytes::from_static(b"an answer"))),
    )
    .await
    .unwrap();
}

/// The body that a failover passes on, when its target answers with `inner`.
fn wrap(classify: Bytewise, inner: body::Inner) -> UnsyncBoxBody<Bytes, BoxError> {
    let answer = std::sync::Arc::new(tokio::sync::Mutex::new(Some(inner)));
    let target = service_fn(move |_: Request<Replayable<Full<Bytes>>>| {
        let answer = std::sync::Arc::clone(&answer);
        async move {
            let body = answer.lock().await.take();
            body.map(Response::new).ok_or("asked twice")
        }
    });
    let failover = Failover::builder(classify)
        .build(vec![Target::new("model", target)])
        .expect("valid");
    let request = Request::new(Full::new(Bytes::new()));
    let mut call = tokio_test::task::spawn(failover.oneshot(request));
    for _ in 0..100 {
        match call.poll() {
            Poll::Ready(Ok(response)) => return UnsyncBoxBody::new(response.into_body()),
            Poll::Ready(Err(error)) => {
                return UnsyncBoxBody::new(Failing(Some(error)));
            }
            Poll::Pending => {}
        }
    }
    unreachable!("the answer comes")
}

/// Nothing but an error.
struct Failing(Option<BoxError>);

impl http_body::Body for Failing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}

/// By hand, and over hyper's HTTP/1 and HTTP/2, with and without a length, with trailers: an answer
/// that is read as it passes, one that its head decides, and a refusal that is passed on.
#[tokio::test(start_paused = true)]
async fn the_laws_of_bodies() {
    for classify in [
        Bytewise::default(),
        Bytewise::decided(Kind::Success),
        Bytewise::decided(Kind::Rejected),
    ] {
        body::check(|inner| wrap(classify, inner)).await.unwrap();
    }
}
