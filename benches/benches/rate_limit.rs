//! The rate-limit detector on the healthy path, beside tower's `RateLimit`.

use std::{convert::Infallible, error::Error, future::ready, hint::black_box, process::ExitCode};
use std::{future::Ready, time::Duration};

use backstop_benches::{Case, block_on, main_with};
use backstop_core::{
    Allowance, Classify, ClassifyErrors, ClassifyStream, Dimension, End, Headroom, Outcome,
    Progress, Step, Typed, Verdict, Window,
};
use backstop_rate_limit::{Key, RateLimitLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{
    Layer, Service, ServiceExt,
    limit::{RateLimit, rate::Rate},
    service_fn,
};
use tower_http::{
    classify::{ServerErrorsAsFailures, SharedClassifier},
    trace::{Trace, TraceLayer},
};
use tracing::Span;

type HttpRequest = Request<Full<Bytes>>;
type HttpResponse = Response<Full<Bytes>>;

type Traced<S> = Trace<
    S,
    SharedClassifier<ServerErrorsAsFailures>,
    fn(&HttpRequest) -> Span,
    (),
    (),
    (),
    (),
    (),
>;

const DATA: Bytes = Bytes::from_static(&[b'x'; 200]);

/// Decides at the head, or at the end of the body; states a headroom, or none.
#[derive(Clone, Copy)]
struct Classifier {
    at_head: bool,
    headroom: Option<Headroom>,
}

/// Commits at once and ends well.
struct Commits;

impl ClassifyStream for Commits {
    fn on_data(&mut self, _: &[u8]) -> Step {
        Step::progress(Progress::Token)
    }

    fn on_end(&mut self, _: End<'_>) -> Outcome {
        Outcome::success()
    }
}

impl Classify<HttpRequest, HttpResponse> for Classifier {
    type Call = ();
    type Stream = Commits;

    fn on_request(&self, _: &HttpRequest) {}

    fn on_response(&self, (): &(), _: &HttpResponse) -> Verdict<Commits> {
        if self.at_head {
            Verdict::Now(Outcome::success())
        } else {
            Verdict::AtEnd(Commits)
        }
    }

    fn on_error(&self, (): &(), _: &(dyn Error + 'static)) -> Outcome {
        Outcome::cancelled()
    }

    fn headroom(&self, (): &(), _: &HttpResponse) -> Option<Headroom> {
        // Not copied where it is none: it is a large type.
        self.headroom.as_ref().copied()
    }
}

const AT_HEAD: Classifier = Classifier {
    at_head: true,
    headroom: None,
};

// The models of two cases are of two types, as a program has one stack of a type. What the compiler
// inlines in one case then does not depend on which others there are.

fn typed_model<const CASE: u8>()
-> impl Service<u64, Response = u64, Error = Infallible, Future = Ready<Result<u64, Infallible>>> + Clone
{
    service_fn(|request: u64| ready(Ok::<_, Infallible>(request)))
}

fn http_model<const CASE: u8>() -> impl Service<
    HttpRequest,
    Response = HttpResponse,
    Error = Infallible,
    Future = Ready<Result<HttpResponse, Infallible>>,
> + Clone {
    service_fn(|_: HttpRequest| ready(Ok::<_, Infallible>(Response::new(Full::new(DATA)))))
}

/// A rate that no benchmark reaches.
fn rate() -> Rate {
    Rate::new(u64::MAX, Duration::from_secs(1))
}

/// What it takes of other crates to look at each response and to watch its body to the end:
/// tower-http's `Trace`, told to do nothing with what it finds.
fn traced<S>(model: S) -> Traced<S> {
    TraceLayer::new_for_http()
        .make_span_with((|_| Span::none()) as fn(&HttpRequest) -> Span)
        .on_request(())
        .on_response(())
        .on_body_chunk(())
        .on_eos(())
        .on_failure(())
        .layer(model)
}

fn call_typed<S: Service<u64>>(service: impl FnOnce() -> S, iterations: u64) {
    block_on(async {
        let mut service = service();
        for request in 0..iterations {
            if let Ok(service) = service.ready().await {
                let _ = black_box(service.call(black_box(request)).await.is_ok());
            }
        }
    });
}

fn call_http<S, B>(service: impl FnOnce() -> S, iterations: u64)
where
    S: Service<HttpRequest, Response = Response<B>>,
{
    block_on(async {
        let mut service = service();
        for _ in 0..iterations {
            if let Ok(service) = service.ready().await {
                let request = Request::new(Full::new(DATA));
                let _ = black_box(service.call(black_box(request)).await.is_ok());
            }
        }
    });
}

fn read_http<S, B>(service: impl FnOnce() -> S, iterations: u64)
where
    S: Service<HttpRequest, Response = Response<B>>,
    B: http_body::Body,
{
    block_on(async {
        let mut service = service();
        for _ in 0..iterations {
            if let Ok(service) = service.ready().await {
                let request = Request::new(Full::new(DATA));
                if let Ok(response) = service.call(black_box(request)).await {
                    let mut body = std::pin::pin!(response.into_body());
                    while let Some(Ok(frame)) = body.frame().await {
                        let _ = black_box(frame.into_data());
                    }
                }
            }
        }
    });
}

fn typed_bare(iterations: u64) {
    call_typed(typed_model::<1>, iterations);
}

fn typed_tower(iterations: u64) {
    call_typed(|| RateLimit::new(typed_model::<2>(), rate()), iterations);
}

fn typed_ours(iterations: u64) {
    let builder = RateLimitLayer::builder("model", ClassifyErrors).protocol::<Typed>();
    if let Ok(layer) = builder.build() {
        call_typed(|| layer.layer(typed_model::<3>()), iterations);
    }
}

fn typed_ours_keyed(iterations: u64) {
    let builder = RateLimitLayer::builder("model", ClassifyErrors)
        .protocol::<Typed>()
        .key_by(|request: &u64| Some(Key::model(request)));
    if let Ok(layer) = builder.build() {
        call_typed(|| layer.layer(typed_model::<4>()), iterations);
    }
}

fn http_bare(iterations: u64) {
    call_http(http_model::<5>, iterations);
}

fn http_tower(iterations: u64) {
    call_http(|| RateLimit::new(http_model::<6>(), rate()), iterations);
}

fn http_tower_traced(iterations: u64) {
    call_http(
        || RateLimit::new(traced(http_model::<12>()), rate()),
        iterations,
    );
}

fn http_ours(iterations: u64) {
    let layer = RateLimitLayer::new("model", AT_HEAD);
    call_http(|| layer.layer(http_model::<7>()), iterations);
}

fn http_ours_reserve(iterations: u64) {
    let mut headroom = Headroom::default();
    headroom.insert(Allowance {
        dimension: Dimension::Requests,
        window: Window::Minute,
        limit: Some(100),
        remaining: Some(50),
        reset: Some(Duration::from_secs(30)),
    });
    let classify = Classifier {
        headroom: Some(headroom),
        ..AT_HEAD
    };
    let builder = RateLimitLayer::builder("model", classify).shift_below(0.05);
    if let Ok(layer) = builder.build() {
        call_http(|| layer.layer(http_model::<8>()), iterations);
    }
}

fn read_bare(iterations: u64) {
    read_http(http_model::<9>, iterations);
}

fn read_tower(iterations: u64) {
    read_http(|| RateLimit::new(http_model::<10>(), rate()), iterations);
}

fn read_tower_traced(iterations: u64) {
    read_http(
        || RateLimit::new(traced(http_model::<13>()), rate()),
        iterations,
    );
}

fn read_ours(iterations: u64) {
    let classify = Classifier {
        at_head: false,
        ..AT_HEAD
    };
    let layer = RateLimitLayer::new("model", classify);
    read_http(|| layer.layer(http_model::<11>()), iterations);
}

fn main() -> ExitCode {
    main_with(
        "The rate-limit detector on the healthy path",
        &[
            Case {
                name: "typed, no layer",
                run: typed_bare,
            },
            Case {
                name: "typed, tower's RateLimit",
                run: typed_tower,
            },
            Case {
                name: "typed, RateLimit",
                run: typed_ours,
            },
            Case {
                name: "typed, RateLimit with a key per request",
                run: typed_ours_keyed,
            },
            Case {
                name: "http head, no layer",
                run: http_bare,
            },
            Case {
                name: "http head, tower's RateLimit",
                run: http_tower,
            },
            Case {
                name: "http head, tower's RateLimit and Trace",
                run: http_tower_traced,
            },
            Case {
                name: "http head, RateLimit",
                run: http_ours,
            },
            Case {
                name: "http head, RateLimit that keeps a reserve",
                run: http_ours_reserve,
            },
            Case {
                name: "http with body, no layer",
                run: read_bare,
            },
            Case {
                name: "http with body, tower's RateLimit",
                run: read_tower,
            },
            Case {
                name: "http with body, tower's RateLimit and Trace",
                run: read_tower_traced,
            },
            Case {
                name: "http with body, RateLimit that watches it",
                run: read_ours,
            },
        ],
    )
}
