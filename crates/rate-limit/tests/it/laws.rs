//! The laws of tower middleware, and what a service must be to be shared.

use std::time::Duration;

use backstop_core::{ClassifyErrors, Typed};
use backstop_rate_limit::{RateLimit, RateLimitHandle, RateLimitLayer, ResponseFuture};
use backstop_testkit::laws;
use http::{Request, Response};
use tower::Layer;

use crate::support::{Body, Model, TestClassify};

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

#[test]
fn everything_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<RateLimitLayer<TestClassify>>();
    shared::<RateLimit<Model, TestClassify>>();
    shared::<RateLimitHandle>();
    sent::<ResponseFuture<Model, Request<Body>, TestClassify, backstop_core::Http, ()>>();
    sent::<Response<backstop_rate_limit::ResponseBody<Body, crate::support::TestStream, ()>>>();
}
