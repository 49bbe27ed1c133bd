//! The healthy path allocates nothing, whether the answer is there at once or is waited for.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{convert::Infallible, future::poll_fn, pin::pin, task::Poll};

use allocation_counter::measure;
use backstop_core::Typed;
use backstop_timeout::{Limits, TimeoutLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Builder;
use tower::{Layer, Service, service_fn};

/// The allocations of `call`, by itself and not of what sets it up.
fn allocations(call: impl AsyncFn()) -> u64 {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(call());
    measure(|| runtime.block_on(call())).count_total
}

fn layer() -> TimeoutLayer {
    let limits = Limits::default().within(std::time::Duration::from_secs(3600));
    TimeoutLayer::new(limits).unwrap()
}

/// Finds nothing so many times.
async fn wait(mut polls: usize) {
    poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(());
        }
        polls -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[test]
fn http() {
    for waits in [0, 1, 5] {
        let model = service_fn(move |_: Request<Full<Bytes>>| async move {
            wait(waits).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"whole"))))
        });
        let service = layer().layer(model);
        let count = allocations(async || {
            let request = Request::new(Full::default());
            let response = service.clone().call(request).await.unwrap();
            let mut body = pin!(response.into_body());
            while let Some(frame) = body.frame().await {
                assert!(frame.is_ok());
            }
        });
        assert_eq!(count, 0, "after {waits} waits");
    }
}

#[test]
fn typed() {
    for waits in [0, 1, 5] {
        let model = service_fn(move |request: u64| async move {
            wait(waits).await;
            Ok::<_, Infallible>(request)
        });
        let service = layer().protocol::<Typed>().layer(model);
        let count = allocations(async || {
            assert!(service.clone().call(1).await.is_ok());
        });
        assert_eq!(count, 0, "after {waits} waits");
    }
}
