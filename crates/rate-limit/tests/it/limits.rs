//! What is noticed, for how long it is remembered, and what callers are answered meanwhile.

use std::time::Duration;

use crate::support::{Body, Log, Model, TestClassify, TestStream, refusal, request, success};
use backstop_core::{BoxError, HintSource, Http, Kind, Outcome, outcome_of};
use backstop_rate_limit::{OneKey, RateLimit, RateLimitLayer, ResponseBody};
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};
use tower_service::Service;

type Answer<O = ()> = Result<Response<ResponseBody<Body, TestStream, O>>, BoxError>;

fn local(answer: Answer<impl backstop_core::Observer>) -> Outcome {
    outcome_of(&*answer.expect_err("answered locally"))
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_passed_on_with_its_verdict_and_the_next_request_is_answered_here() {
    let model = Model::script([refusal(Some(7), "slow down")]);
    let log = Log::default();
    let service = RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .jitter(0.0)
        .build()
        .expect("valid")
        .layer(model.clone());

    let refused = service.clone().oneshot(request()).await.expect("passed on");
    assert_eq!(refused.status(), 429);
    let verdict = refused.extensions().get::<Outcome>().expect("attached");
    assert_eq!(verdict.kind(), Kind::Throttled);
    let body = refused.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "slow down", "byte for byte");

    advance(Duration::from_secs(3)).await;
    let readied = model.readied();
    let outcome = local(service.clone().oneshot(request()).await);
    assert_eq!(outcome.kind(), Kind::Throttled);
    let wait = outcome.retry_after().expect("an honest wait");
    assert_eq!(wait.delay, Duration::from_secs(4));
    assert_eq!(wait.source, HintSource::Local);
    assert_eq!(model.asked(), 1);
    assert_eq!(
        model.readied(),
        readied,
        "not even asked whether it is ready"
    );

    advance(Duration::from_secs(4)).await;
    let answer = service
        .clone()
        .oneshot(request())
        .await
        .expect("let through");
    assert_eq!(answer.status(), 200);
    assert_eq!(
        log.events(),
        [
            "noticed RetryAfter 7000",
            "answered rate_limited",
            "released model"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_is_early_in_a_storm_and_the_return_is_a_ramp() {
    let model = Model::new(|index| match index {
        0 => refusal(Some(7), "slow down"),
        _ => success(),
    });
    let log = Log::default();
    let service = RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .build()
        .expect("valid")
        .layer(model.clone());
    let start = Instant::now();
    service.clone().oneshot(request()).await.expect("refused");

    let caller = |mut service: RateLimit<Model, TestClassify, Http, OneKey, Log>| async move {
        loop {
            let ready = ServiceExt::<Request<Body>>::ready(&mut service).await;
            match ready.expect("never fails").call(request()).await {
                Ok(answer) => return assert_eq!(answer.status(), 200),
                Err(error) => {
                    let hint = outcome_of(&*error).retry_after().expect("a wait");
                    assert!(hint.delay <= Duration::from_secs(20), "{hint:?}");
                    // As a client does that reads whole seconds.
                    tokio::time::sleep(Duration::from_secs(hint.delay.as_secs() + 1)).await;
                }
            }
        }
    };
    let done = join_all((0..1_000).map(|_| caller(service.clone()))).await;
    assert_eq!(done.len(), 1_000);
    assert_eq!(log.count("released"), 1);

    let asked: Vec<Duration> = model.asked_at()[1..]
        .iter()
        .map(|at| at.saturating_duration_since(start))
        .collect();
    assert_eq!(asked.len(), 1_000);
    let noticed = log.events()[0]
        .strip_prefix("noticed RetryAfter ")
        .and_then(|wait| wait.parse().ok())
        .expect("the wait");
    let until = Duration::from_millis(noticed);
    assert!(until >= Duration::from_secs(7) && until <= Duration::from_millis(7_700));
    for (returned, at) in asked.iter().enumerate() {
        assert!(*at >= until, "early: {at:?}");
        let allowed = 2_usize << (*at - until).as_secs();
        assert!(returned < allowed, "{returned} returned by {at:?}");
    }
    let last = *asked.last().expect("a thousand");
    assert!(last <= until + Duration::from_secs(11), "stalled: {last:?}");
}
