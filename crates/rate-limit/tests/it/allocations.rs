//! While nothing is limited, the layer allocates nothing.

use std::{convert::Infallible, future::ready, pin::pin};

use allocation_counter::measure;
use backstop_core::{ClassifyErrors, Typed};
use backstop_rate_limit::{Key, RateLimitLayer};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Builder;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::laws::Reads;

type Body = Full<bytes::Bytes>;

/// The allocations of `call`, by itself and not of what sets it up.
fn allocations(call: impl AsyncFn()) -> u64 {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(call());
    measure(|| runtime.block_on(call())).count_total
}

#[test]
fn http() {
    for reads in [Reads::Head, Reads::Body] {
        let model = service_fn(|_: Request<Body>| {
            ready(Ok::<_, Infallible>(Response::new(Body::from("whole"))))
        });
        let service = RateLimitLayer::new("a", reads).layer(model);
        let count = allocations(async || {
            let mut service = service.clone();
            let ready = service.ready().await.expect("ready");
            let answer = ready.call(Request::default()).await.expect("answered");
            assert_eq!(answer.status(), StatusCode::OK);
            let mut body = pin!(answer.into_body());
            while let Some(frame) = body.frame().await {
                assert!(frame.is_ok());
            }
        });
        assert_eq!(count, 0, "{reads:?}");
    }
}

#[test]
fn typed() {
    let model = service_fn(|request: u64| ready(Ok::<_, Infallible>(request)));
    let builder = RateLimitLayer::builder("a", ClassifyErrors).protocol::<Typed>();
    let service = builder
        .key_by(|request: &u64| Some(Key::model(request)))
        .build()
        .expect("valid")
        .layer(model);
    let count = allocations(async || {
        let mut service = service.clone();
        let ready = service.ready().await.expect("ready");
        assert!(ready.call(7).await.is_ok());
    });
    assert_eq!(count, 0);
}
