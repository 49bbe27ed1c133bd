//! What the time limits cost on the healthy path, beside tower's `Timeout` and tower-http's
//! `TimeoutBody`.

use std::{
    convert::Infallible,
    future::ready,
    hint::black_box,
    pin::{Pin, pin},
    process::ExitCode,
    task::{Context, Poll},
    time::Duration,
};

use backstop_benches::{Case, block_on, main_with};
use backstop_core::{BoxError, Typed};
use backstop_timeout::{Limits, TimeoutLayer};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn, timeout::Timeout};
use tower_http::timeout::{ResponseBodyTimeout, TimeoutBody};

/// Our default for the head, given to tower's as well.
const HEAD: Duration = Duration::from_secs(600);
/// Our default between two chunks, given to tower-http's as well.
const IDLE: Duration = Duration::from_secs(60);
const CHUNK: Bytes =
    Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"token\"}}]}\n\n");

type Req = Request<Full<Bytes>>;

// The models and answers of two cases are of two types, as a program has one stack of a type. What
// the compiler inlines in one case then does not depend on which others there are.

/// A model that answers after as many polls that find nothing.
#[derive(Clone, Copy, Debug)]
struct Model<const CASE: u8> {
    waits: u32,
}

/// Nothing is ready for `waits` polls.
struct Answer<T> {
    waits: u32,
    value: Option<T>,
}

impl<T: Unpin> Future for Answer<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.waits > 0 {
            self.waits -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.value.take() {
            Some(value) => Poll::Ready(Ok(value)),
            None => Poll::Pending,
        }
    }
}

impl<const CASE: u8> Service<Req> for Model<CASE> {
    type Response = Response<Whole<CASE>>;
    type Error = BoxError;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        Answer {
            waits: self.waits,
            value: Some(Response::new(Whole(Full::new(CHUNK)))),
        }
    }
}

/// A model that answers after a poll that finds nothing, with a body that does the same.
#[derive(Clone, Copy, Debug)]
struct SlowModel<const CASE: u8>;

impl<const CASE: u8> Service<Req> for SlowModel<CASE> {
    type Response = Response<Stream>;
    type Error = BoxError;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        let body = Stream {
            chunks: 1,
            waits: 1,
            waited: 0,
        };
        Answer {
            waits: 1,
            value: Some(Response::new(body)),
        }
    }
}

impl<const CASE: u8> Service<u64> for Model<CASE> {
    type Response = u64;
    type Error = BoxError;
    type Future = Answer<u64>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        Answer {
            waits: self.waits,
            value: Some(request),
        }
    }
}

/// An answer in one piece.
struct Whole<const CASE: u8>(Full<Bytes>);

impl<const CASE: u8> Body for Whole<CASE> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A stream of chunks, each after as many polls that find nothing.
#[derive(Clone, Copy, Debug)]
struct Stream {
    chunks: u64,
    waits: u32,
    waited: u32,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.chunks == 0 {
            return Poll::Ready(None);
        }
        if self.waited < self.waits {
            self.waited += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = 0;
        self.chunks -= 1;
        Poll::Ready(Some(Ok(Frame::data(CHUNK))))
    }
}

fn main() -> ExitCode {
    let case = |name, run: fn(u64)| Case { name, run };
    main_with(
        "Time limits: per call, or per chunk of a stream",
        &[
            case("typed, bare", |n| typed(n, Model::<1> { waits: 0 })),
            case("typed, tower", |n| {
                typed(n, Timeout::new(Model::<2> { waits: 0 }, HEAD));
            }),
            case("typed, backstop", |n| {
                typed(n, ours().protocol::<Typed>().layer(Model::<3> { waits: 0 }));
            }),
            case("typed after a wait, bare", |n| {
                typed(n, Model::<4> { waits: 1 });
            }),
            case("typed after a wait, tower", |n| {
                typed(n, Timeout::new(Model::<5> { waits: 1 }, HEAD));
            }),
            case("typed after a wait, backstop", |n| {
                typed(n, ours().protocol::<Typed>().layer(Model::<6> { waits: 1 }));
            }),
            case("http head at once, bare", |n| {
                head(n, Model::<7> { waits: 0 });
            }),
            case("http head at once, tower", |n| {
                head(n, Timeout::new(Model::<8> { waits: 0 }, HEAD));
            }),
            case("http head at once, backstop", |n| {
                head(n, ours().layer(Model::<9> { waits: 0 }));
            }),
            case("http head after a wait, bare", |n| {
                head(n, Model::<10> { waits: 1 });
            }),
            case("http head after a wait, tower", |n| {
                head(n, Timeout::new(Model::<11> { waits: 1 }, HEAD));
            }),
            case("http head after a wait, backstop", |n| {
                head(n, ours().layer(Model::<12> { waits: 1 }));
            }),
            case("http at once, bare", |n| unary(n, Model::<13> { waits: 0 })),
            case("http at once, tower", |n| {
                unary(n, Timeout::new(Model::<14> { waits: 0 }, HEAD));
            }),
            case("http at once, both", |n| {
                unary(n, both(Model::<15> { waits: 0 }));
            }),
            case("http at once, backstop", |n| {
                unary(n, ours().layer(Model::<16> { waits: 0 }));
            }),
            case("http after a wait, bare", |n| {
                unary(n, Model::<17> { waits: 1 });
            }),
            case("http after a wait, tower", |n| {
                unary(n, Timeout::new(Model::<18> { waits: 1 }, HEAD));
            }),
            case("http after a wait, both", |n| {
                unary(n, both(Model::<19> { waits: 1 }));
            }),
            case("http after a wait, backstop", |n| {
                unary(n, ours().layer(Model::<20> { waits: 1 }));
            }),
            case("http head and body after waits, bare", |n| {
                unary(n, SlowModel::<21>);
            }),
            case("http head and body after waits, tower", |n| {
                unary(n, Timeout::new(SlowModel::<22>, HEAD));
            }),
            case("http head and body after waits, both", |n| {
                unary(n, both(SlowModel::<23>));
            }),
            case("http head and body after waits, backstop", |n| {
                unary(n, ours().layer(SlowModel::<24>));
            }),
            case("chunk at once, bare", |n| stream(n, 0, |body| body)),
            case("chunk at once, tower-http", |n| {
                stream(n, 0, |body| TimeoutBody::new(IDLE, body));
            }),
            case("chunk at once, backstop", |n| stream(n, 0, limited)),
            case("chunk after a wait, bare", |n| stream(n, 1, |body| body)),
            case("chunk after a wait, tower-http", |n| {
                stream(n, 1, |body| TimeoutBody::new(IDLE, body));
            }),
            case("chunk after a wait, backstop", |n| stream(n, 1, limited)),
        ],
    )
}

#[expect(
    clippy::expect_used,
    reason = "a benchmark without its layer cannot go on"
)]
fn ours() -> TimeoutLayer {
    TimeoutLayer::new(Limits::default()).expect("the defaults are valid")
}

/// What it takes of other crates to limit both the head and the body.
fn both<S>(model: S) -> Timeout<ResponseBodyTimeout<S>> {
    Timeout::new(ResponseBodyTimeout::new(model, IDLE), HEAD)
}

/// The body as it leaves the layer.
fn limited(body: Stream) -> impl Body {
    let model = service_fn(move |_: Req| ready(Ok::<_, BoxError>(Response::new(body))));
    let response = ours()
        .layer(model)
        .oneshot(Request::new(Full::default()))
        .now_or_never();
    response.and_then(Result::ok).map_or_else(
        || unreachable!("the model answers at once"),
        Response::into_body,
    )
}

/// Calls of a typed service.
fn typed(calls: u64, mut service: impl Service<u64, Response = u64, Error = BoxError>) {
    block_on(async {
        for call in 0..calls {
            let Ok(service) = service.ready().await else {
                return;
            };
            let _ = black_box(service.call(black_box(call)).await);
        }
    });
}

/// Calls of which the body is not looked at.
fn head<B>(calls: u64, mut service: impl Service<Req, Response = Response<B>, Error = BoxError>) {
    block_on(async {
        for _ in 0..calls {
            let request = Request::new(Full::new(CHUNK));
            let Ok(service) = service.ready().await else {
                return;
            };
            let _ = black_box(service.call(request).await.is_ok());
        }
    });
}

/// Calls with a whole answer, which is read.
fn unary<B>(calls: u64, mut service: impl Service<Req, Response = Response<B>, Error = BoxError>)
where
    B: Body,
{
    block_on(async {
        for _ in 0..calls {
            let request = Request::new(Full::new(CHUNK));
            let Ok(service) = service.ready().await else {
                return;
            };
            let Ok(response) = service.call(request).await else {
                return;
            };
            let mut body = pin!(response.into_body());
            while let Some(Ok(frame)) = body.frame().await {
                let _ = black_box(frame.into_data());
            }
        }
    });
}

/// One stream of so many chunks, read to its end.
fn stream<B: Body>(chunks: u64, waits: u32, wrap: impl FnOnce(Stream) -> B) {
    block_on(async {
        let mut body = pin!(wrap(Stream {
            chunks,
            waits,
            waited: 0,
        }));
        while let Some(Ok(frame)) = body.frame().await {
            let _ = black_box(frame.into_data());
        }
    });
}
