//! A short limit of a target that waits it out by itself costs nobody another model.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_core::{BoxError, Classify, Deadline, Kind, Served, body::Replayable, outcome_of};
use backstop_failover::{Failover, Target, health::HealthConfig};
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

/// A model that refuses its first request for so many seconds, behind a layer that waits up to five.
fn target(refuses_for: Option<u32>) -> Limited {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = tower::service_fn(move |_: Asked| {
        let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        let response = Response::builder().header("content-type", "application/json");
        let response = match refuses_for.filter(|_| is_first) {
            Some(seconds) => response.status(429).header("retry-after", seconds),
            None => response,
        };
        let response = response.body(Full::from(ANSWER));
        std::future::ready(Ok::<_, Infallible>(response.unwrap_or_default()))
    });
    let layer = RateLimitLayer::builder("model", ClassifyHttp::new(Dialect::OpenAiChat))
        .jitter(0.0)
        .wait_up_to(5 * SECOND)
        .build()
        .expect("valid");
    BoxCloneSyncService::new(layer.layer(model))
}

fn failover(targets: Vec<Limited>) -> Failover<Limited, ClassifyHttp> {
    let named = targets.into_iter().enumerate();
    let named = named.map(|(index, target)| Target::new(format!("model-{index}"), target));
    Failover::builder(ClassifyHttp::new(Dialect::OpenAiChat))
        .deadline(60 * SECOND)
        .health(HealthConfig::default().limit_tolerated(5 * SECOND))
        .build(named.collect())
        .expect("valid")
}

/// Asks once: who answered, and after how long. `None` when nobody did.
async fn ask(
    failover: &Failover<Limited, ClassifyHttp>,
    deadline: Duration,
) -> (Option<Arc<str>>, Duration) {
    let mut request = Request::post("/v1/chat/completions")
        .body(Full::from(r#"{"model":"m"}"#))
        .expect("valid");
    let start = Instant::now();
    let deadline = Deadline::after(start.into_std(), deadline);
    request.extensions_mut().insert(deadline);
    let mut failover = failover.clone();
    let ready = failover.ready().await.expect("ready");
    let served = match ready.call(request).await {
        Ok(answer) if answer.status() == 200 => {
            let served = answer.extensions().get::<Served>().expect("told").clone();
            answer.into_body().collect().await.expect("whole");
            Some(served.target)
        }
        Ok(refused) => {
            assert_eq!(refused.status(), 429);
            None
        }
        Err(error) => {
            assert_eq!(outcome_of(&*error).kind(), Kind::Throttled);
            None
        }
    };
    (served, Instant::now() - start)
}

#[tokio::test(start_paused = true)]
async fn two_seconds_are_waited_out_and_not_spent_on_another_model() {
    let failover = failover(vec![target(Some(2)), target(None)]);
    // The one that was refused moves on at once.
    let minute = 60 * SECOND;
    let served = ask(&failover, minute).await;
    assert_eq!(served, (Some("model-1".into()), Duration::ZERO));
    let served = ask(&failover, minute).await;
    assert_eq!(served, (Some("model-0".into()), 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_time_for_it_moves_on() {
    let failover = failover(vec![target(Some(2)), target(None)]);
    for _ in 0..2 {
        let served = ask(&failover, 2 * SECOND).await;
        assert_eq!(served, (Some("model-1".into()), Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_longer_limit_benches() {
    let failover = failover(vec![target(Some(20)), target(None)]);
    for _ in 0..2 {
        let served = ask(&failover, 60 * SECOND).await;
        assert_eq!(served, (Some("model-1".into()), Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_target_is_waited_for() {
    let failover = failover(vec![target(Some(2))]);
    let served = ask(&failover, 60 * SECOND).await;
    assert_eq!(served, (None, Duration::ZERO), "the refusal itself");
    let served = ask(&failover, 60 * SECOND).await;
    assert_eq!(served, (Some("model-0".into()), 2 * SECOND));
}
