//! A target of which little is left: another one is preferred, and the only one is paced.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_core::{BoxError, Classify, Considered, Kind, Scope, Served, body::Replayable};
use backstop_failover::{Failover, FailoverBuilder, Retry, Target, health::State};
use backstop_rate_limit::{RateLimitLayer, ResponseBody};
use backstop_wire::{ClassifyHttp, Dialect};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

const SECOND: Duration = Duration::from_secs(1);
const ANSWER: &str = r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi"}}]}"#;

type Asked = Request<Replayable<Full<Bytes>>>;
type Stream = <ClassifyHttp as Classify<Asked, Response<Full<Bytes>>>>::Stream;
type Limited = BoxCloneSyncService<Asked, Response<ResponseBody<Full<Bytes>, Stream>>, BoxError>;

/// A model that says how many of a hundred requests are left until they are full again, behind a
/// layer that keeps a reserve.
fn target_until(remaining: usize, reset: &'static str) -> (Limited, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let model = tower::service_fn(move |_: Asked| {
        counter.fetch_add(1, Ordering::SeqCst);
        let response = Response::builder()
            .header("content-type", "application/json")
            .header("x-ratelimit-limit-requests", "100")
            .header("x-ratelimit-remaining-requests", remaining.to_string())
            .header("x-ratelimit-reset-requests", reset)
            .body(Full::from(ANSWER));
        std::future::ready(Ok::<_, Infallible>(response.unwrap_or_default()))
    });
    let layer = RateLimitLayer::builder("model", ClassifyHttp::new(Dialect::OpenAiChat))
        .shift_below(0.05)
        .pace_up_to(8 * SECOND)
        .build()
        .expect("valid");
    (BoxCloneSyncService::new(layer.layer(model)), asked)
}

fn target(remaining: usize) -> (Limited, Arc<AtomicUsize>) {
    target_until(remaining, "10s")
}

fn failover(targets: Vec<Limited>) -> Failover<Limited, ClassifyHttp> {
    build(builder(), targets)
}

fn builder() -> FailoverBuilder<ClassifyHttp> {
    Failover::builder(ClassifyHttp::new(Dialect::OpenAiChat)).deadline(60 * SECOND)
}

fn build(
    builder: FailoverBuilder<ClassifyHttp>,
    targets: Vec<Limited>,
) -> Failover<Limited, ClassifyHttp> {
    let named = targets.into_iter().enumerate();
    let named = named.map(|(index, target)| Target::new(format!("model-{index}"), target));
    builder.build(named.collect()).expect("valid")
}

/// Asks once, reads the answer, and says what was decided.
async fn ask(failover: &Failover<Limited, ClassifyHttp>) -> Served {
    let request = Request::post("/v1/chat/completions").body(Full::from(r#"{"model":"m"}"#));
    let mut failover = failover.clone();
    let ready = failover.ready().await.expect("ready");
    let answer = ready.call(request.expect("valid")).await.expect("answered");
    assert_eq!(answer.status(), 200);
    let served = answer.extensions().get::<Served>().expect("told").clone();
    let body = answer.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), ANSWER);
    served
}

#[tokio::test(start_paused = true)]
async fn another_target_is_preferred_and_the_first_keeps_its_good_name() {
    let ((first, asked_first), (second, asked_second)) = (target(2), target(90));
    let failover = failover(vec![first, second]);
    // Nothing is known yet.
    assert_eq!(&*ask(&failover).await.target, "model-0");
    let start = Instant::now();

    for calls in 1..=50 {
        let served = ask(&failover).await;
        assert_eq!(&*served.target, "model-1");
        let trace = served.trace.expect("a trace");
        let (name, tried) = trace.attempts().next().expect("the first");
        let outcome = tried.outcome.expect("answered");
        assert_eq!((name, outcome.kind()), ("model-0", Kind::Throttled));
        assert_eq!(outcome.scope(), Scope::Request);
        assert_eq!(outcome.evidence(), "little is left of a limit");
        assert_eq!(asked_second.load(Ordering::SeqCst), calls);
    }
    assert_eq!(asked_first.load(Ordering::SeqCst), 1, "left alone");
    assert_eq!(Instant::now(), start, "nobody waited");
    let status = &failover.handle().targets()[0];
    assert_eq!(status.health.state, State::Healthy, "{status:?}");
    assert!(status.health.limits.is_empty(), "{status:?}");
    assert_eq!(status.health.faults, 0, "{status:?}");

    // When the limit is full again, so is its share.
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(&*ask(&failover).await.target, "model-0");
}

#[tokio::test(start_paused = true)]
async fn the_only_target_is_paced_and_never_refused() {
    let (only, asked) = target(2);
    let failover = failover(vec![only]);
    ask(&failover).await;
    // Two are left for ten seconds: one every five.
    for waited in [0, 5] {
        let start = Instant::now();
        assert_eq!(&*ask(&failover).await.target, "model-0");
        assert_eq!(Instant::now() - start, waited * SECOND);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn the_last_target_left_is_paced_and_never_refused() {
    let ((first, asked_first), (second, asked_second)) = (target(2), target(90));
    let failover = failover(vec![first, second]);
    ask(&failover).await;
    assert!(failover.handle().switch_off("model-1"));
    for waited in [0, 5] {
        let start = Instant::now();
        let served = ask(&failover).await;
        assert_eq!(&*served.target, "model-0");
        let trace = served.trace.expect("a trace");
        assert!(trace.candidates().all(|candidate| {
            &*candidate.target == "model-0" || matches!(candidate.verdict, Considered::Skipped(_))
        }));
        assert_eq!(Instant::now() - start, waited * SECOND);
    }
    assert_eq!(asked_first.load(Ordering::SeqCst), 3);
    assert_eq!(asked_second.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_are_nearly_limited_the_last_one_answers() {
    let ((first, asked_first), (second, asked_second)) = (target(2), target(2));
    let failover = failover(vec![first, second]);
    ask(&failover).await;
    for calls in 1..=3 {
        assert_eq!(&*ask(&failover).await.target, "model-1");
        assert_eq!(asked_second.load(Ordering::SeqCst), calls);
    }
    assert_eq!(asked_first.load(Ordering::SeqCst), 1);
}

/// Its allowance is back within the time that a retry would wait, but somebody else has one now.
#[tokio::test(start_paused = true)]
async fn a_retry_does_not_go_before_another_target() {
    let ((first, asked_first), (second, _)) = (target_until(2, "1s"), target(90));
    let failover = build(builder().retry(Retry::times(3)), vec![first, second]);
    ask(&failover).await;
    let start = Instant::now();
    let served = ask(&failover).await;
    assert_eq!(&*served.target, "model-1");
    let trace = served.trace.expect("a trace");
    assert_eq!(trace.attempts().count(), 2);
    assert_eq!(Instant::now(), start, "nobody waited");
    assert_eq!(asked_first.load(Ordering::SeqCst), 1);
}
