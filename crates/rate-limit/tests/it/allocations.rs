//! While nothing is limited, the layer allocates nothing.

use std::{
    convert::Infallible,
    future::ready,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use allocation_counter::measure;
use backstop_core::{ClassifyErrors, Failure, Kind, Outcome, Typed};
use backstop_rate_limit::{Key, RateLimitLayer, Waits};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{runtime::Builder, time::advance};
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

/// What a limit leaves behind is forgotten when it is over and requests succeed.
#[test]
fn after_a_limit() {
    let limited = Arc::new(AtomicBool::new(true));
    let model = service_fn(move |request: u64| {
        let answer = if limited.swap(false, Ordering::Relaxed) {
            Err(Failure::new(Outcome::new(Kind::Throttled)))
        } else {
            Ok(request)
        };
        ready(answer)
    });
    let service = RateLimitLayer::builder("a", ClassifyErrors)
        .protocol::<Typed>()
        .throttled(Waits::THROTTLED.backoff(Duration::from_millis(1), Duration::from_millis(1)))
        .ramp(Duration::from_millis(1))
        .build()
        .expect("valid")
        .layer(model);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let call = async || {
        let mut service = service.clone();
        let ready = service.ready().await.expect("ready");
        ready.call(7).await.is_ok()
    };
    runtime.block_on(async {
        assert!(!call().await, "refused");
        assert!(!call().await, "answered here");
        for _ in 0..2 {
            advance(Duration::from_secs(1)).await;
            assert!(call().await);
        }
    });
    let count = measure(|| assert!(runtime.block_on(call()))).count_total;
    assert_eq!(count, 0);
}
