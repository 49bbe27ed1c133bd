//! Failover on the healthy path around a no-op service, beside the service alone, `tower::retry`
//! with a budget, and `tower-resilience`'s fallback on its circuit breaker.
//!
//! Typed requests are strings; HTTP ones have the head and the body of a small chat request, and
//! every answer's body is read to its end.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up cannot go on"
)]

use std::{convert::Infallible, hint::black_box, process::ExitCode, sync::Arc};

use backstop_benches::{Case, block_on, main_with};
use backstop_core::{Classify, ClassifyErrors, Outcome, Typed, Unstreamed, Verdict};
use backstop_failover::{Failover, FailoverLayer, Target};
use backstop_wire::{ClassifyHttp, Dialect};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{
    Layer, Service, ServiceExt,
    retry::{
        Policy, RetryLayer,
        budget::{Budget, TpsBudget},
    },
    service_fn,
};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;
use tower_resilience_fallback::FallbackLayer;

const ANSWER: &[u8] = br#"{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}]}"#;

type Answer = Response<Full<Bytes>>;

/// Retries nothing that succeeds.
#[derive(Clone)]
struct Budgeted(Arc<TpsBudget>);

impl<Req: Clone, Res, E> Policy<Req, Res, E> for Budgeted {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, E>) -> Option<Self::Future> {
        match result {
            Ok(_) => {
                self.0.deposit();
                None
            }
            Err(_) => self.0.withdraw().then(|| std::future::ready(())),
        }
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

/// Decides at the head, as the classifiers of the others do.
#[derive(Clone, Copy)]
struct ByStatus;

impl<Req, B> Classify<Req, Response<B>> for ByStatus {
    type Call = ();
    type Stream = Unstreamed;

    fn on_request(&self, _: &Req) {}

    fn on_response(&self, (): &(), _: &Response<B>) -> Verdict<Unstreamed> {
        Verdict::Now(Outcome::success())
    }
}

fn budgeted() -> RetryLayer<Budgeted> {
    RetryLayer::new(Budgeted(Arc::new(TpsBudget::default())))
}

async fn typed(request: String) -> Result<String, Infallible> {
    Ok(black_box(request))
}

async fn http<B>(request: Request<B>) -> Result<Answer, Infallible> {
    black_box(request);
    Ok(Response::builder()
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(ANSWER)))
        .unwrap())
}

fn request() -> Request<Full<Bytes>> {
    Request::post("http://model.test/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", "Bearer key")
        .header("user-agent", "a client")
        .body(Full::new(Bytes::from_static(
            br#"{"model":"m","messages":[{"role":"user","content":"Hi"}]}"#,
        )))
        .unwrap()
}

fn call_typed<S>(mut service: S, calls: u64)
where
    S: Service<String, Response = String, Error: std::fmt::Debug>,
{
    block_on(async {
        for _ in 0..calls {
            let request = "a prompt that is not long".to_owned();
            black_box(service.ready().await.unwrap().call(request).await.unwrap());
        }
    });
}

fn call_http<S, B>(mut service: S, calls: u64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: std::fmt::Debug>,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    block_on(async {
        for _ in 0..calls {
            let response = service
                .ready()
                .await
                .unwrap()
                .call(request())
                .await
                .unwrap();
            let body = std::pin::pin!(response.into_body());
            black_box(body.collect().await.unwrap().to_bytes());
        }
    });
}

fn typed_bare(calls: u64) {
    call_typed(service_fn(typed), calls);
}

fn typed_retry(calls: u64) {
    call_typed(budgeted().layer(service_fn(typed)), calls);
}

fn typed_resilience(calls: u64) {
    let breaker = CircuitBreakerLayer::standard().build().unwrap();
    let service = FallbackLayer::<String, String, _>::tower_service(service_fn(typed))
        .layer(breaker.layer(service_fn(typed)));
    call_typed(service, calls);
}

fn typed_failover(calls: u64) {
    let service = Failover::builder(ClassifyErrors)
        .protocol::<Typed>()
        .build(vec![
            Target::new("primary", service_fn(typed)),
            Target::new("backup", service_fn(typed)),
        ])
        .unwrap();
    call_typed(service, calls);
}

fn typed_failover_layer(calls: u64) {
    let service = Failover::builder(ClassifyErrors)
        .protocol::<Typed>()
        .layer()
        .unwrap()
        .fallback(service_fn(typed))
        .layer(service_fn(typed));
    call_typed(service, calls);
}

fn http_bare(calls: u64) {
    call_http(service_fn(http), calls);
}

fn http_retry(calls: u64) {
    call_http(budgeted().layer(service_fn(http)), calls);
}

fn http_resilience(calls: u64) {
    let breaker = CircuitBreakerLayer::standard().build().unwrap();
    let backup = service_fn(http::<Full<Bytes>>);
    let service = FallbackLayer::<Request<Full<Bytes>>, Answer, _>::tower_service(backup)
        .layer(breaker.layer(service_fn(http)));
    call_http(service, calls);
}

macro_rules! targets {
    () => {
        vec![
            Target::new("primary", service_fn(http)),
            Target::new("backup", service_fn(http)),
        ]
    };
}

fn http_failover(calls: u64) {
    let service = Failover::builder(ByStatus).build(targets!()).unwrap();
    call_http(service, calls);
}

fn http_failover_reading(calls: u64) {
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let service = Failover::builder(classify).build(targets!()).unwrap();
    call_http(service, calls);
}

fn http_failover_layer(calls: u64) {
    let service = FailoverLayer::new(ByStatus)
        .fallback(service_fn(http))
        .layer(service_fn(http));
    call_http(service, calls);
}

fn main() -> ExitCode {
    let case = |name, run| Case { name, run };
    main_with(
        "Failover on the healthy path, two targets",
        &[
            case("typed: the service alone", typed_bare),
            case("typed: tower::retry with a budget", typed_retry),
            case(
                "typed: tower-resilience fallback + breaker",
                typed_resilience,
            ),
            case("typed: failover", typed_failover),
            case("typed: failover as a layer (boxed)", typed_failover_layer),
            case("http: the service alone", http_bare),
            case("http: tower::retry with a budget", http_retry),
            case("http: tower-resilience fallback + breaker", http_resilience),
            case("http: failover, decided by the status", http_failover),
            case("http: failover as a layer (boxed)", http_failover_layer),
            case(
                "http: failover, the whole answer read",
                http_failover_reading,
            ),
        ],
    )
}
