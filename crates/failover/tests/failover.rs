//! What a caller of a failover sees, and what its targets see.

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use backstop_core::{Deadline, Kind, Mode, Phase, Served};
use backstop_failover::{Failover, FailoverLayer, Reserve, Target, guards::Guards};
use support::{Ending, Head, Model, Play, Toy, outcome, read, request};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

fn failover(models: &[&Model]) -> Failover<Model, Toy> {
    build(Failover::builder(Toy).deadline(60 * SECOND), models)
}

fn build(
    builder: backstop_failover::FailoverBuilder<Toy>,
    models: &[&Model],
) -> Failover<Model, Toy> {
    builder
        .build(
            models
                .iter()
                .enumerate()
                .map(|(index, &model)| Target::new(format!("model-{index}"), model.clone()))
                .collect(),
        )
        .expect("valid")
}

fn healthy() -> Model {
    Model::new([Play::stream(&["k", "tt", "t."])])
}

#[tokio::test(start_paused = true)]
async fn a_healthy_primary_answers_alone() {
    let (primary, backup) = (healthy(), healthy());
    let response = failover(&[&primary, &backup])
        .oneshot(request())
        .await
        .unwrap();
    let served = response.extensions().get::<Served>().unwrap().clone();
    assert_eq!((&*served.target, served.mode), ("model-0", Mode::Primary));
    assert_eq!(served.attempts, 1);
    assert!(!response.headers().contains_key("x-should-retry"));
    let (bytes, error) = read(response.into_body()).await;
    assert_eq!((&bytes[..], error.is_none()), (&b"kttt."[..], true));
    assert_eq!((primary.calls(), backup.calls()), (1, 0));
    let call = primary.seen.with(|seen| seen.calls[0].clone());
    assert_eq!(&call.body[..], b"the prompt");
    let attempt = call.attempt.unwrap();
    assert_eq!((attempt.index, attempt.is_last), (0, false));
}

/// Everything before the first token lets the backup take over, and the primary is asked once.
#[tokio::test(start_paused = true)]
async fn another_model_answers_whatever_happens_before_the_first_token() {
    let plays = [
        Play::status(429),
        Play::status(500),
        Play::status(503),
        Play::status(529),
        Play::status(401),
        Play::status(404),
        Play::head(Head::Refused),
        Play::head(Head::Reset),
        Play::head(Head::Hang),
        Play::status(200).ready_after(600 * SECOND),
        Play::stream(&[]).ends(Ending::Silent),
        Play::stream(&["kkk"]).ends(Ending::Silent),
        Play::stream(&["kkk"]).ends(Ending::Broken),
        Play::stream(&["kkk"]),
        Play::stream(&["k", "e", "."]),
    ];
    for play in plays {
        let (primary, backup) = (Model::new([play.clone()]), healthy());
        let response = failover(&[&primary, &backup])
            .oneshot(request())
            .await
            .unwrap();
        let served = response.extensions().get::<Served>().unwrap().clone();
        assert_eq!((&*served.target, served.mode), ("model-1", Mode::Failover));
        assert_eq!(served.attempts, 2, "{play:?}");
        assert_eq!(primary.open.load(Ordering::SeqCst), 0, "{play:?}");
        let (bytes, error) = read(response.into_body()).await;
        assert_eq!((&bytes[..], error.is_none()), (&b"kttt."[..], true));
        assert_eq!(
            (primary.calls() <= 1, backup.calls()),
            (true, 1),
            "{play:?}"
        );
        let attempt = backup.seen.with(|seen| seen.calls[0].attempt.clone());
        assert!(attempt.unwrap().is_last);
    }
}

#[tokio::test(start_paused = true)]
async fn the_callers_own_faults_and_refusals_come_back_unchanged() {
    for status in [400, 422, 413, 410, 411] {
        let primary = Model::new([Play::status(status).with(&["why"])]);
        let backup = healthy();
        let response = failover(&[&primary, &backup])
            .oneshot(request())
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["x-from"], "model");
        assert!(!response.headers().contains_key("x-should-retry"));
        let (bytes, error) = read(response.into_body()).await;
        assert_eq!((&bytes[..], error.is_none()), (&b"why"[..], true));
        assert_eq!((primary.calls(), backup.calls()), (1, 0), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_context_refusal_goes_to_a_larger_window_only() {
    let primary = Model::new([Play::status(410).with(&["too long"])]);
    let (same, larger) = (healthy(), healthy());
    let targets = vec![
        Target::new("primary", primary.clone()).context_window(100),
        Target::new("same", same.clone()).context_window(100),
        Target::new("larger", larger.clone()).context_window(101),
    ];
    let failover = Failover::builder(Toy).build(targets).unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(
        &*response.extensions().get::<Served>().unwrap().target,
        "larger"
    );
    assert_eq!((same.calls(), larger.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_content_refusal_goes_to_targets_that_opted_in_only() {
    let primary = Model::new([Play::status(411)]);
    let (closed, open) = (healthy(), healthy());
    let targets = vec![
        Target::new("primary", primary.clone()),
        Target::new("closed", closed.clone()),
        Target::new("open", open.clone()).guards(Guards::default().refused_content(true)),
    ];
    let failover = Failover::builder(Toy).build(targets).unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(
        &*response.extensions().get::<Served>().unwrap().target,
        "open"
    );
    assert_eq!((closed.calls(), open.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_primarys_answer_comes_back_marked_final() {
    let primary = Model::new([Play::status(503).with(&["down ", "for now"])]);
    for play in [
        Play::status(401),
        Play::status(400),
        Play::status(500).with(&["other"]),
        Play::head(Head::Hang),
    ] {
        let backup = Model::new([play]);
        let response = failover(&[&primary, &backup])
            .oneshot(request())
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), 503);
        assert_eq!(response.headers()["x-from"], "model");
        assert_eq!(response.headers()["x-should-retry"], "false");
        let served = response.extensions().get::<Served>().unwrap();
        assert_eq!((&*served.target, served.attempts), ("model-0", 2));
        let (bytes, error) = read(response.into_body()).await;
        assert_eq!((&bytes[..], error.is_none()), (&b"down for now"[..], true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_said_nothing_is_told_by_its_outcome() {
    for (play, kind) in [
        (Play::head(Head::Refused), Kind::NotProcessed),
        (Play::head(Head::Hang), Kind::TimedOut(Phase::Headers)),
        (
            Play::stream(&["k"]).ends(Ending::Silent),
            Kind::TimedOut(Phase::FirstToken),
        ),
        (Play::stream(&["k"]).ends(Ending::Broken), Kind::Unavailable),
        (Play::stream(&["k"]), Kind::Malformed),
    ] {
        let primary = Model::new([play]);
        let backup = Model::new([Play::status(401)]);
        let error = failover(&[&primary, &backup])
            .oneshot(request())
            .await
            .unwrap_err();
        assert_eq!(outcome(&error).kind(), kind);
        assert_eq!((primary.calls(), backup.calls()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_error_body_delays_the_backup_little_and_is_not_lost() {
    let mut play = Play::status(503);
    play.body = vec![(10 * SECOND, "late".into()), (SECOND, "r".into())];
    let primary = Model::new([play]);
    let backup = healthy();
    let start = Instant::now();
    failover(&[&primary, &backup])
        .oneshot(request())
        .await
        .unwrap();
    assert!(Instant::now() - start <= Duration::from_millis(60));

    let backup = Model::new([Play::status(500)]);
    let response = failover(&[&primary, &backup])
        .oneshot(request())
        .await
        .unwrap();
    let (bytes, error) = read(response.into_body()).await;
    assert_eq!((&bytes[..], error.is_none()), (&b"later"[..], true));
}

/// A silent primary is cut early enough that the backup can still answer, and the backup may use
/// all that is left.
#[tokio::test(start_paused = true)]
async fn time_is_kept_for_the_backup() {
    let primary = Model::new([Play::head(Head::Hang)]);
    let backup = Model::new([Play::stream(&["t."]).after(35 * SECOND)]);
    let builder = Failover::builder(Toy)
        .deadline(60 * SECOND)
        .reserve(Reserve::share(0.6).unwrap());
    let start = Instant::now();
    let response = build(builder.clone(), &[&primary, &backup])
        .oneshot(request())
        .await
        .unwrap();
    let took = Instant::now() - start;
    assert!(took >= 59 * SECOND && took < 60 * SECOND, "{took:?}");
    drop(response);
    let asked = backup.seen.with(|seen| seen.calls[0].clone());
    assert_eq!((asked.at - start).as_secs(), 24);
    let deadline = asked.deadline.unwrap();
    assert_eq!(deadline.instant(), (start + 60 * SECOND).into_std());

    // The caller's own deadline is earlier.
    let mut request = request();
    let start = Instant::now();
    request
        .extensions_mut()
        .insert(Deadline::after(start.into_std(), 10 * SECOND));
    let error = build(builder, &[&primary, &backup])
        .oneshot(request)
        .await
        .unwrap_err();
    assert_eq!(Instant::now() - start, 10 * SECOND);
    assert_eq!(outcome(&error).kind(), Kind::TimedOut(Phase::Headers));
    assert_eq!((primary.calls(), backup.calls()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn after_the_first_token_nobody_else_is_asked() {
    for (end, whole) in [(Ending::Clean, false), (Ending::Broken, false)] {
        let primary = Model::new([Play::stream(&["kt", "t"]).ends(end)]);
        let backup = healthy();
        let response = failover(&[&primary, &backup])
            .oneshot(request())
            .await
            .unwrap();
        let (bytes, error) = read(response.into_body()).await;
        assert_eq!((&bytes[..], error.is_none()), (&b"ktt"[..], whole));
        assert_eq!(backup.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_above_the_limit_is_sent_once_and_whole() {
    let primary = Model::new([Play::status(503).with(&["down"])]);
    let backup = healthy();
    let builder = Failover::builder(Toy).replay_limit(4);
    let response = build(builder, &[&primary, &backup])
        .oneshot(request())
        .await
        .unwrap();
    assert_eq!(response.status().as_u16(), 503);
    let (bytes, _) = read(response.into_body()).await;
    assert_eq!(&bytes[..], b"down");
    assert_eq!((primary.calls(), backup.calls()), (1, 0));
    let call = primary.seen.with(|seen| seen.calls[0].clone());
    assert_eq!(&call.body[..], b"the prompt");
    assert!(call.attempt.unwrap().is_last);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_to_hold_back_is_passed_on() {
    let primary = Model::new([Play::stream(&["kkkk", "kkkk", "e"])]);
    let backup = healthy();
    let builder = Failover::builder(Toy).peek_limit(6);
    let response = build(builder, &[&primary, &backup])
        .oneshot(request())
        .await
        .unwrap();
    let (bytes, _) = read(response.into_body()).await;
    assert_eq!(&bytes[..], b"kkkkkkkke");
    assert_eq!(backup.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_stacks_on_unlike_services() {
    let primary = Model::new([Play::status(503)]);
    let backup = healthy();
    let limited = tower::limit::ConcurrencyLimit::new(backup.clone(), 1);
    let service = FailoverLayer::new(Toy).fallback(limited).layer(primary);
    for _ in 0..2 {
        let response = service.clone().oneshot(request()).await.unwrap();
        let served = response.extensions().get::<Served>().unwrap();
        assert_eq!(&*served.target, "fallback-1");
        let (bytes, _) = read(response.into_body()).await;
        assert_eq!(&bytes[..], b"kttt.");
    }
    assert_eq!(backup.calls(), 2);
}

#[test]
fn a_wrong_setting_is_named() {
    let build = |builder: backstop_failover::FailoverBuilder<Toy>, names: &[&str]| {
        let targets = names
            .iter()
            .map(|name| Target::new(*name, healthy()))
            .collect();
        builder.build(targets).unwrap_err().field()
    };
    assert_eq!(build(Failover::builder(Toy), &[]), "targets");
    assert_eq!(build(Failover::builder(Toy), &["a", "a"]), "targets");
    assert_eq!(
        build(Failover::builder(Toy).deadline(Duration::ZERO), &["a"]),
        "deadline"
    );
    assert_eq!(
        build(Failover::builder(Toy).peek_limit(0), &["a"]),
        "peek_limit"
    );
}
