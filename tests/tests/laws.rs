//! Whole stacks keep the laws of tower: every call on an instance that is ready, nothing reserved
//! that is not called, everything given back whenever a call is dropped.

use std::time::Duration;

use backstop_core::{BoxError, ClassifyErrors, RetargetLayer, Typed};
use backstop_failover::{Failover, Target};
use backstop_rate_limit::RateLimitLayer;
use backstop_testkit::laws::{self, Inner, Violations};
use backstop_timeout::{Limits, TimeoutLayer};
use backstop_wire::{ClassifyHttp, Dialect};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceBuilder};

const ANSWER: &str = r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi"}}]}"#;

fn request() -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .body(r#"{"model":"m"}"#.into())
        .unwrap_or_default()
}

fn response() -> Response<Full<Bytes>> {
    let mut response = Response::new(ANSWER.into());
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

fn limits() -> Limits {
    Limits::default().within(Duration::from_secs(600))
}

#[tokio::test(start_paused = true)]
async fn failover_of_typed_services() -> Result<(), Box<dyn std::error::Error>> {
    for targets in 1..=3 {
        let stack = |inner: Inner<u32, u32>| {
            let target = |name| Target::new(format!("target {name}"), inner.clone());
            Failover::builder(ClassifyErrors)
                .protocol::<Typed>()
                .deadline(Duration::from_secs(10))
                .build((0..targets).map(target).collect())
                .expect("a valid configuration")
        };
        laws::check(stack, || 1, || 2).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn failover_as_a_layer() -> Result<(), Violations> {
    let stack = |inner: Inner<u32, u32>| {
        Failover::builder(ClassifyErrors)
            .protocol::<Typed>()
            .layer()
            .expect("a valid configuration")
            .fallback(inner.clone())
            .layer(inner)
    };
    laws::check(stack, || 1, || 2).await
}

#[tokio::test(start_paused = true)]
async fn a_stack_as_the_gateway_has_it() -> Result<(), Violations> {
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let stack = |inner: Inner<_, _>| {
        let target = |name: &'static str| {
            let service = ServiceBuilder::new()
                .layer(RetargetLayer::new(Ok::<_, BoxError>))
                .layer(RateLimitLayer::new(name, classify))
                .layer(
                    TimeoutLayer::new(limits())
                        .expect("valid limits")
                        .classify(classify),
                )
                .service(inner.clone());
            Target::new(name, service)
        };
        Failover::builder(classify)
            .deadline(Duration::from_secs(60))
            .build(vec![target("primary"), target("backup")])
            .expect("a valid configuration")
    };
    laws::check(stack, request, response).await
}
