//! Retry, budget, health, admission, hedging, exercise, orders and the trace.

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use backstop_core::{
    Cause, Considered, Event, Kind, Mode, Observer, Outcome, Phase, Served, SkipReason, TimeLimits,
    Trace,
};
use backstop_failover::{
    Failover, FailoverBuilder, Force, Hedge, Judged, Retry, Target,
    admission::{Admission, AdmissionConfig},
    budget::{Budget, BudgetConfig},
    guards::{Guards, Kinds, Needs},
    health::{HealthConfig, LastResort, State},
    plan::{Affinity, LeastFirstToken, Rendezvous, Sticky},
};
use http::Request;
use support::{
    Ending, Head, Incoming, Model, Play, Toy, ToyStream, outcome, parking::Shared, read, request,
};
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn targets(models: &[&Model]) -> Vec<Target<Model>> {
    models
        .iter()
        .enumerate()
        .map(|(index, &model)| Target::new(format!("model-{index}"), model.clone()))
        .collect()
}

fn builder() -> FailoverBuilder<Toy> {
    Failover::builder(Toy).deadline(60 * SECOND)
}

fn empty_budget() -> Budget {
    let nothing = BudgetConfig::default()
        .share(0.0)
        .floor_per_second(0.0)
        .failover_cost(1.0);
    Budget::new(nothing).expect("valid")
}

fn healthy() -> Model {
    Model::new([Play::stream(&["k", "tt", "t."])])
}

fn down() -> Model {
    Model::new([Play::status(503).with(&["down"])])
}

fn served(response: &http::Response<impl Sized>) -> Served {
    response.extensions().get::<Served>().expect("told").clone()
}

fn trace(response: &http::Response<impl Sized>) -> Trace {
    served(response).trace.expect("told")
}

#[derive(Clone, Default)]
struct Log(Shared<Vec<String>>);

impl Observer for Log {
    fn on_event(&self, event: &Event<'_>) {
        let line = match event {
            Event::AttemptStarted { target, index } => format!("start {target} {index}"),
            Event::AttemptEnded {
                target, outcome, ..
            } => {
                format!("end {target} {}", outcome.kind())
            }
            Event::TargetSkipped { target, reason } => format!("skip {target} {reason}"),
            Event::PossibleDuplicate { target } => format!("duplicate {target}"),
            Event::BudgetSpent { on } => format!("spent {on}"),
            Event::HealthChanged { target, state } => format!("health {target} {state}"),
            _ => return,
        };
        self.0.with(|log| log.push(line));
    }
}

impl Log {
    fn take(&self) -> Vec<String> {
        self.0.with(std::mem::take)
    }
}

// === retry ===

#[tokio::test(start_paused = true)]
async fn the_same_target_is_asked_again_where_that_makes_sense() {
    let primary = Model::new([Play::status(503), Play::stream(&["t."])]);
    let backup = healthy();
    let failover = builder()
        .retry(Retry::times(1))
        .build(targets(&[&primary, &backup]))
        .unwrap();
    let start = Instant::now();
    let response = failover.oneshot(request()).await.unwrap();
    assert!(Instant::now() - start <= 250 * MS);
    assert_eq!((primary.calls(), backup.calls()), (2, 0));
    assert_eq!(served(&response).attempts, 2);
    let trace = trace(&response);
    let causes: Vec<_> = trace.attempts().map(|(_, tried)| tried.cause).collect();
    assert_eq!(causes, [Cause::Planned, Cause::Retry]);
    assert!(trace.budget_left.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_honoured_and_a_long_one_goes_to_the_next_target() {
    let ask = async |seconds: &'static str| {
        let primary = Model::new([
            Play::status(429).header("retry-after", seconds),
            Play::stream(&["t."]),
        ]);
        let backup = healthy();
        let failover = builder()
            .retry(Retry::times(1))
            .build(targets(&[&primary, &backup]))
            .unwrap();
        let start = Instant::now();
        failover.oneshot(request()).await.unwrap();
        let took = (Instant::now() - start).as_millis();
        (primary.calls(), backup.calls(), took)
    };
    let (primary, backup, took) = ask("1").await;
    assert_eq!((primary, backup), (2, 0));
    assert!((1000..1010).contains(&took), "{took}");
    let (primary, backup, took) = ask("30").await;
    assert_eq!((primary, backup), (1, 1));
    assert!(took < 60, "{took}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_ends_the_call_at_once_with_the_primarys_answer() {
    let (primary, backup) = (down(), healthy());
    let log = Log::default();
    let failover = builder()
        .retry(Retry::times(3))
        .budget(empty_budget())
        .observer(log.clone())
        .build(targets(&[&primary, &backup]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert_eq!(trace(&response).budget_left, Some(0.0));
    assert_eq!((primary.calls(), backup.calls()), (1, 0));
    assert_eq!(
        log.take(),
        [
            "start model-0 0",
            "end model-0 unavailable",
            "spent retry",
            "spent failover"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_asked_again() {
    let primary = Model::new([Play::head(Head::Hang)]);
    let backup = healthy();
    let failover = builder()
        .retry(Retry::times(3))
        .build(targets(&[&primary, &backup]))
        .unwrap();
    failover.oneshot(request()).await.unwrap();
    assert_eq!((primary.calls(), backup.calls()), (1, 1));
}

// === possible duplicates ===

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_been_processed_is_told_and_can_be_kept_from_running_twice() {
    let plays = [
        (Play::head(Head::Reset), true),
        (Play::head(Head::Hang), true),
        (Play::stream(&["k"]).ends(Ending::Silent), true),
        (Play::stream(&["k"]).ends(Ending::Broken), true),
        (Play::stream(&["k"]), true),
        (Play::head(Head::Refused), false),
        (Play::status(503), false),
        (Play::stream(&["ke"]), false),
    ];
    for (play, may_be_processed) in plays {
        for at_most_once in [false, true] {
            let (primary, backup) = (Model::new([play.clone()]), healthy());
            let log = Log::default();
            let failover = builder()
                .at_most_once(at_most_once)
                .observer(log.clone())
                .build(targets(&[&primary, &backup]))
                .unwrap();
            let result = failover.oneshot(request()).await;
            let asked_on = !(at_most_once && may_be_processed);
            assert_eq!(backup.calls(), usize::from(asked_on), "{play:?}");
            let trace = match &result {
                Ok(response) => trace(response),
                Err(error) => Trace::find(&**error).unwrap().clone(),
            };
            assert_eq!(trace.has_possible_duplicate(), may_be_processed, "{play:?}");
            let told = log.take().contains(&"duplicate model-0".to_owned());
            assert_eq!(told, may_be_processed, "{play:?}");
        }
    }
}

// === health and admission ===

#[tokio::test(start_paused = true)]
async fn a_throttled_target_is_left_alone_until_it_said() {
    let primary = Model::new([
        Play::status(429).header("retry-after", "7"),
        Play::stream(&["t."]),
    ]);
    let backup = healthy();
    let failover = builder().build(targets(&[&primary, &backup])).unwrap();
    for second in 0..7 {
        let response = failover.clone().oneshot(request()).await.unwrap();
        assert_eq!(served(&response).mode, Mode::Failover, "{second}");
        if second > 0 {
            let trace = trace(&response);
            let skipped = Considered::Skipped(SkipReason::Throttled);
            assert_eq!(trace.candidates().next().unwrap().verdict, skipped);
            assert_eq!(served(&response).attempts, 1);
        }
        drop(response);
        sleep(SECOND).await;
    }
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(served(&response).mode, Mode::Primary);
    assert_eq!(primary.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn health_hears_the_end_of_the_stream_and_not_its_head() {
    // Every stream begins well and breaks in the middle.
    let primary = Model::new([Play::stream(&["t", "t"]).ends(Ending::Broken)]);
    let backup = healthy();
    let log = Log::default();
    let failover = builder()
        .observer(log.clone())
        .build(targets(&[&primary, &backup]))
        .unwrap();
    for _ in 0..5 {
        let response = failover.clone().oneshot(request()).await.unwrap();
        assert_eq!(served(&response).mode, Mode::Primary);
        let (bytes, error) = read(response.into_body()).await;
        assert_eq!((&bytes[..], error.is_some()), (&b"tt"[..], true));
    }
    assert!(log.take().contains(&"health model-0 faulting".to_owned()));
    let response = failover.clone().oneshot(request()).await.unwrap();
    assert_eq!(served(&response).mode, Mode::Failover);
    assert_eq!(primary.calls(), 5);
    let status = &failover.handle().targets()[0];
    assert_eq!(status.health.state, State::Faulting);
    assert_eq!(status.since_last_success, None);
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_does_is_no_fault_of_the_target() {
    let primary = Model::new([Play::status(400)]);
    let slow = Model::new([Play::stream(&["t"]).after(5 * SECOND)]);
    let bad = builder().build(targets(&[&primary])).unwrap();
    let late = builder().build(targets(&[&slow])).unwrap();
    for _ in 0..20 {
        bad.clone().oneshot(request()).await.unwrap();
        // The caller goes away, or has no time.
        let gone = tokio::time::timeout(SECOND, late.clone().oneshot(request()));
        assert!(gone.await.is_err());
        let mut hasty = request();
        let deadline = backstop_core::Deadline::after(Instant::now().into_std(), SECOND);
        hasty.extensions_mut().insert(deadline);
        let error = late.clone().oneshot(hasty).await.unwrap_err();
        assert_eq!(outcome(&error).kind(), Kind::TimedOut(Phase::Headers));
    }
    for failover in [bad, late] {
        assert_eq!(failover.handle().targets()[0].health.state, State::Healthy);
    }
    assert_eq!(slow.open.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_usable_target_is_never_benched() {
    let primary = down();
    let failover = builder().build(targets(&[&primary])).unwrap();
    for _ in 0..20 {
        let response = failover.clone().oneshot(request()).await.unwrap();
        assert_eq!(response.status().as_u16(), 503);
    }
    assert_eq!(primary.calls(), 20);
    let refusing = builder()
        .last_resort(LastResort::Refuse)
        .health(HealthConfig::default().jitter(0.0))
        .build(targets(&[&primary]))
        .unwrap();
    for _ in 0..5 {
        refusing.clone().oneshot(request()).await.unwrap();
    }
    let error = refusing.oneshot(request()).await.unwrap_err();
    assert_eq!(primary.calls(), 25);
    assert_eq!(outcome(&error).kind(), Kind::Unavailable);
    let wait = outcome(&error).retry_after().unwrap().delay;
    assert_eq!(wait, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn overflow_goes_on_or_is_told_when_to_return() {
    let (primary, backup) = (healthy(), healthy());
    let limit = |config| Admission::new(config).unwrap();
    let one = AdmissionConfig::default().max_concurrent(1);
    let rate = AdmissionConfig::default().max_rate(1, 10 * SECOND);
    let mut list = targets(&[&primary, &backup]);
    let second = list.pop().unwrap().admission(limit(rate));
    let first = list.pop().unwrap().admission(limit(one));
    let failover = builder().build(vec![first, second]).unwrap();

    let held = failover.clone().oneshot(request()).await.unwrap();
    assert_eq!(served(&held).mode, Mode::Primary);
    // The head is here, the body is not over: the place is taken.
    let other = failover.clone().oneshot(request()).await.unwrap();
    assert_eq!(served(&other).mode, Mode::Failover);
    assert_eq!(failover.handle().targets()[0].in_flight, Some(1));
    let error = failover.clone().oneshot(request()).await.unwrap_err();
    assert_eq!(outcome(&error).kind(), Kind::Overloaded);
    assert_eq!(outcome(&error).retry_after().unwrap().delay, SECOND);
    assert_eq!((primary.calls(), backup.calls()), (1, 1));

    let (_, error) = read(held.into_body()).await;
    assert!(error.is_none());
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(served(&response).mode, Mode::Primary);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_when_the_caller_goes_away_at_any_poll() {
    let mut play = Play::stream(&["k", "t", "t."])
        .after(SECOND)
        .ready_after(SECOND);
    for piece in &mut play.body {
        piece.0 = SECOND;
    }
    let (mut dropped, mut finished) = (0, false);
    for polls in 0..12 {
        let primary = Model::new([Play::status(503).after(SECOND)]);
        let backup = Model::new([play.clone()]);
        let one = || Admission::new(AdmissionConfig::default().max_concurrent(1)).unwrap();
        let list = targets(&[&primary, &backup])
            .into_iter()
            .map(|target| target.admission(one()))
            .collect();
        let failover = builder().build(list).unwrap();
        let call = async {
            let response = failover.clone().oneshot(request()).await.unwrap();
            read(response.into_body()).await
        };
        let mut call = tokio_test::task::spawn(call);
        let mut over = false;
        for _ in 0..polls {
            if over {
                break;
            }
            over = call.poll().is_ready();
            advance(SECOND).await;
        }
        drop(call);
        finished |= over;
        dropped += usize::from(!over);
        for (model, status) in [&primary, &backup]
            .into_iter()
            .zip(failover.handle().targets())
        {
            assert_eq!(model.open.load(Ordering::SeqCst), 0);
            assert_eq!(status.in_flight, Some(0));
        }
    }
    assert!(finished && dropped >= 7, "{dropped}");
}

// === plan and guards ===

#[tokio::test(start_paused = true)]
async fn a_rescued_conversation_stays_where_it_is_for_a_while() {
    let models = [healthy(), healthy(), healthy()];
    let failover = builder()
        .plan(|| Sticky::new(Rendezvous::default(), 300 * SECOND))
        .build(targets(&[&models[0], &models[1], &models[2]]))
        .unwrap();
    let handle = failover.handle();
    let ask = async || {
        let mut request = request();
        request.extensions_mut().insert(Affinity::of(b"a talk"));
        served(&failover.clone().oneshot(request).await.unwrap())
    };
    let home = ask().await;
    assert_eq!(home.mode, Mode::Primary);
    assert_eq!(ask().await.target, home.target);
    handle.switch_off(&home.target);
    let refuge = ask().await;
    assert_eq!(refuge.mode, Mode::Failover);
    handle.switch_on(&home.target);
    sleep(299 * SECOND).await;
    assert_eq!(ask().await.target, refuge.target);
    sleep(2 * SECOND).await;
    assert_eq!(ask().await.target, home.target);
}

#[tokio::test(start_paused = true)]
async fn a_plan_hears_how_long_the_first_token_took() {
    let slow = Model::new([Play::stream(&["t."]).after(2 * SECOND)]);
    let quick = healthy();
    let failover = builder()
        .plan(|| LeastFirstToken::new().explore(0.0))
        .build(targets(&[&slow, &quick]))
        .unwrap();
    // Nothing is known of the second one yet: the first one goes on until it is slow.
    for _ in 0..4 {
        let response = failover.clone().oneshot(request()).await.unwrap();
        let _ = read(response.into_body()).await;
    }
    failover.handle().switch_off("model-0");
    for _ in 0..4 {
        let response = failover.clone().oneshot(request()).await.unwrap();
        let _ = read(response.into_body()).await;
    }
    failover.handle().switch_on("model-0");
    let response = failover.clone().oneshot(request()).await.unwrap();
    let served = served(&response);
    assert_eq!((&*served.target, served.mode), ("model-1", Mode::Primary));
}

#[tokio::test(start_paused = true)]
async fn what_a_target_cannot_serve_it_is_not_asked() {
    let models = [healthy(), down(), healthy(), healthy()];
    let limits: Kinds = [Kind::Throttled].into_iter().collect();
    let guards = [
        Guards::default().max_bytes(4),
        Guards::default(),
        Guards::default().only_on(limits),
        Guards::default().tools(false),
    ];
    let list = targets(&models.iter().collect::<Vec<_>>())
        .into_iter()
        .zip(guards)
        .map(|(target, guards)| target.guards(guards))
        .collect();
    let failover = builder().build(list).unwrap();
    let mut with_tools = request();
    with_tools.extensions_mut().insert(Needs::default().tools());
    let response = failover.clone().oneshot(with_tools).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    let skipped = |trace: &Trace| -> Vec<_> {
        trace
            .candidates()
            .filter_map(|candidate| match candidate.verdict {
                Considered::Skipped(reason) => Some(reason),
                _ => None,
            })
            .collect()
    };
    assert_eq!(
        skipped(&trace(&response)),
        [
            SkipReason::RequestTooLarge,
            SkipReason::OnlyOn,
            SkipReason::NoTools
        ]
    );
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(*served(&response).target, *"model-3");
    let calls: Vec<_> = models.iter().map(Model::calls).collect();
    assert_eq!(calls, [0, 2, 0, 1]);
    // The first one that can serve such a request speaks for all, or says for how long it cannot.
    let pair = || {
        let first = Target::new("small", healthy()).guards(Guards::default().max_bytes(4));
        vec![first, Target::new("down", down())]
    };
    let failover = builder().build(pair()).unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    let failover = builder()
        .build(pair().into_iter().take(1).collect())
        .unwrap();
    let error = failover.oneshot(request()).await.unwrap_err();
    assert_eq!(outcome(&error).kind(), Kind::TooLarge);
    assert_eq!(outcome(&error).retry_after(), None);
    let failover = builder()
        .last_resort(LastResort::Refuse)
        .build(vec![
            Target::new(
                "limited",
                Model::new([Play::status(429).header("retry-after", "9")]),
            ),
            Target::new("down", down()),
        ])
        .unwrap();
    for _ in 0..2 {
        let result = failover.clone().oneshot(request()).await;
        let status = result.as_ref().map(|response| response.status().as_u16());
        match status {
            Ok(status) => assert_eq!(status, 429),
            Err(error) => {
                let outcome = outcome(error);
                assert_eq!(outcome.kind(), Kind::Throttled);
            }
        }
    }
}

// === hedging ===

#[tokio::test(start_paused = true)]
async fn a_late_first_token_starts_the_next_target_and_the_first_answer_wins() {
    let cases = [
        // Who answers, after which time, and how often both were asked.
        (
            Play::head(Head::Hang),
            Play::stream(&["t."]).after(SECOND),
            1,
            3000,
            (1, 1),
        ),
        (
            Play::stream(&["t."]).after(SECOND),
            Play::stream(&["t."]),
            0,
            1000,
            (1, 0),
        ),
        (
            Play::stream(&["t."]).after(3 * SECOND),
            Play::stream(&["t."]).after(9 * SECOND),
            0,
            3000,
            (1, 1),
        ),
        // A failure does not win, on either side.
        (
            Play::stream(&["t."]).after(4 * SECOND),
            Play::status(500).after(SECOND),
            0,
            4000,
            (1, 1),
        ),
        (
            Play::status(500).after(3 * SECOND),
            Play::stream(&["t."]).after(4 * SECOND),
            1,
            6000,
            (1, 1),
        ),
    ];
    for (first, second, winner, took, asked) in cases {
        let (primary, backup) = (Model::new([first]), Model::new([second]));
        let failover = builder()
            .hedge(Hedge::after(2 * SECOND))
            .build(targets(&[&primary, &backup]))
            .unwrap();
        let start = Instant::now();
        let response = failover.clone().oneshot(request()).await.unwrap();
        assert_eq!((Instant::now() - start).as_millis(), took);
        assert_eq!(*served(&response).target, *format!("model-{winner}"));
        assert_eq!((primary.calls(), backup.calls()), asked);
        // The loser is gone although the answer is still open.
        let loser = if winner == 0 { &backup } else { &primary };
        assert_eq!(loser.open.load(Ordering::SeqCst), 0);
        let (bytes, _) = read(response.into_body()).await;
        assert_eq!(&bytes[..], b"t.");
        for status in failover.handle().targets() {
            assert_ne!(status.health.state, State::Faulting);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_paid_for_and_told() {
    let slow = || Model::new([Play::stream(&["t."]).after(5 * SECOND)]);
    let (primary, backup) = (slow(), healthy());
    let failover = builder()
        .hedge(Hedge::after(2 * SECOND))
        .budget(empty_budget())
        .build(targets(&[&primary, &backup]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(served(&response).mode, Mode::Primary);
    assert_eq!(backup.calls(), 0);

    let failover = builder()
        .hedge(Hedge::after(2 * SECOND))
        .build(targets(&[&primary, &backup]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    let trace = trace(&response);
    let tried: Vec<_> = trace.attempts().collect();
    assert!(tried[0].1.called_off && !tried[1].1.called_off);
    assert_eq!(tried[0].1.took, 2 * SECOND);
    assert_eq!(tried[1].1.cause, Cause::Hedge);
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_the_first_one_speaks() {
    let primary = Model::new([Play::status(503).with(&["down"]).after(5 * SECOND)]);
    let backup = Model::new([Play::status(401)]);
    let third = Model::new([Play::status(500)]);
    let failover = builder()
        .hedge(Hedge::after(2 * SECOND))
        .build(targets(&[&primary, &backup, &third]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(served(&response).attempts, 3);
    // The caller's own fault is known before the hedge is over.
    let primary = Model::new([Play::status(400).after(3 * SECOND)]);
    let backup = Model::new([Play::stream(&["t."]).after(9 * SECOND)]);
    let failover = builder()
        .hedge(Hedge::after(2 * SECOND))
        .build(targets(&[&primary, &backup]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(backup.open.load(Ordering::SeqCst), 0);
}

// === exercise ===

#[tokio::test(start_paused = true)]
async fn each_backup_serves_its_share_of_the_traffic() {
    let models = [healthy(), healthy(), healthy()];
    let failover = builder()
        .exercise(0.1)
        .build(targets(&[&models[0], &models[1], &models[2]]))
        .unwrap();
    for _ in 0..2000 {
        let response = failover.clone().oneshot(request()).await.unwrap();
        let (_, error) = read(response.into_body()).await;
        assert!(error.is_none());
    }
    let calls: Vec<_> = models.iter().map(Model::calls).collect();
    // Twenty standard deviations are not a coincidence.
    for backup in &calls[1..] {
        assert!((100..330).contains(backup), "{calls:?}");
    }
    assert_eq!(calls.iter().sum::<usize>(), 2000);
    advance(7 * SECOND).await;
    for status in failover.handle().targets() {
        let since = status.since_last_success.unwrap();
        assert!(since >= 7 * SECOND && since < 8 * SECOND, "{since:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exercised_backup_that_fails_costs_the_caller_nothing() {
    for play in [Play::status(401), Play::status(400), Play::head(Head::Hang)] {
        let (primary, backup) = (healthy(), Model::new([play]));
        let failover = builder()
            .exercise(0.5)
            .build(targets(&[&primary, &backup]))
            .unwrap();
        for _ in 0..40 {
            let response = failover.clone().oneshot(request()).await.unwrap();
            assert_eq!(response.status().as_u16(), 200);
        }
        assert!(backup.calls() > 0);
        assert_eq!(primary.calls(), 40);
    }
    let two = targets(&[&healthy(), &healthy()]);
    assert_eq!(
        builder().exercise(0.6).build(two).unwrap_err().field(),
        "exercise"
    );
}

// === orders ===

#[tokio::test(start_paused = true)]
async fn an_operator_switches_targets_and_forces_the_fallback() {
    let (primary, backup) = (healthy(), healthy());
    let failover = builder().build(targets(&[&primary, &backup])).unwrap();
    let handle = failover.handle();
    let ask = async |request: Request<Incoming>| {
        let response = failover.clone().oneshot(request).await;
        response.map(|response| served(&response).target.to_string())
    };
    assert!(!handle.switch_off("nobody"));
    assert!(handle.switch_off("model-0"));
    assert_eq!(ask(request()).await.unwrap(), "model-1");
    assert_eq!(handle.targets()[0].health.state, State::SwitchedOff);
    assert!(handle.switch_off("model-1"));
    let error = ask(request()).await.unwrap_err();
    assert_eq!(outcome(&error).kind(), Kind::Unavailable);
    assert!(handle.switch_on("model-0") && handle.switch_on("model-1"));
    assert_eq!(ask(request()).await.unwrap(), "model-0");

    assert!(!handle.force(Some(&Force::Target("nobody".into()))));
    for force in [Force::Fallback, Force::Target("model-1".into())] {
        assert!(handle.force(Some(&force)));
        assert_eq!(ask(request()).await.unwrap(), "model-1");
        assert!(handle.force(None));
        let mut one = request();
        one.extensions_mut().insert(force);
        assert_eq!(ask(one).await.unwrap(), "model-1");
        assert_eq!(ask(request()).await.unwrap(), "model-0");
    }
}

// === the trace ===

#[tokio::test(start_paused = true)]
async fn the_trace_tells_all_that_was_decided() {
    let limits = || AdmissionConfig::default().max_rate(1, 3600 * SECOND);
    let full = Admission::new(limits()).unwrap();
    let _ = full.try_admit(Instant::now()).unwrap();
    let models = [
        Model::new([Play::head(Head::Hang)]),
        healthy(),
        Model::new([Play::status(529).after(SECOND)]),
        Model::new([Play::stream(&["k", "t."]).ready_after(SECOND)]),
    ];
    let mut list = targets(&models.iter().collect::<Vec<_>>());
    let last = list.split_off(2);
    let second = list.pop().unwrap().admission(full);
    let list = list.into_iter().chain([second]).chain(last).collect();
    let budget = BudgetConfig::default().share(0.5).floor_per_second(0.0);
    let failover = builder()
        .budget(Budget::new(budget).unwrap())
        .build(list)
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    let trace = trace(&response);
    assert_eq!(&*served(&response).target, "model-3");
    assert_eq!(
        trace.to_header_value(),
        "model-0;failed=timeout;phase=headers;possible_duplicate;ms=30000, \
         model-1;skipped=at_rate_cap, model-2;failed=overloaded;ms=1000, \
         model-3;served;ms=1000, *;ms=32000;left=28000;budget=0.5"
    );
    let (_, tried) = trace.attempts().last().unwrap();
    assert_eq!(tried.ready, Some(SECOND));
    assert_eq!(tried.began, 31 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_cold_target_gets_its_own_limits() {
    let limits = {
        let mut limits = TimeLimits::default();
        limits.first_token = Some(90 * SECOND);
        limits
    };
    let model = healthy();
    let list = targets(&[&model])
        .into_iter()
        .map(|target| target.cold_after(60 * SECOND, limits))
        .collect();
    let failover = builder().build(list).unwrap();
    for wait in [0, 30, 61] {
        sleep(wait * SECOND).await;
        let response = failover.clone().oneshot(request()).await.unwrap();
        let _ = read(response.into_body()).await;
    }
    let seen = model.seen.with(|seen| {
        seen.calls
            .iter()
            .map(|call| call.limits)
            .collect::<Vec<_>>()
    });
    assert_eq!(seen, [Some(limits), None, Some(limits)]);
}

#[test]
fn it_is_send_and_sync() {
    fn is<T: Send + Sync>(_: &T) {}
    let failover = builder().build(targets(&[&healthy()])).unwrap();
    is(&failover);
    is(&failover.handle());
    is(&Trace::default());
}

// === bad answers ===

#[tokio::test(start_paused = true)]
async fn a_whole_answer_that_is_judged_bad_fails_over_and_a_begun_one_does_not() {
    let cases: [(&[&'static str], usize, &[u8]); 4] = [
        // Whole in one piece, or without a token before its end.
        (&["kk."], 1, b"kt."),
        (&["k", "k", "."], 1, b"kt."),
        (&["tkk."], 1, b"kt."),
        // It has begun before it was whole.
        (&["t", "kk."], 0, b"tkk."),
    ];
    for (pieces, winner, bytes) in cases {
        let models = [
            Model::new([Play::stream(pieces)]),
            Model::new([Play::stream(&["kt."])]),
        ];
        let classify = Judged::new(Toy, |_: &ToyStream, body: &[u8]| {
            body.ends_with(b"kk.")
                .then(|| Outcome::new(Kind::Malformed).with_evidence("too little said"))
        });
        let failover = Failover::builder(classify)
            .build(targets(&[&models[0], &models[1]]))
            .unwrap();
        let response = failover.oneshot(request()).await.unwrap();
        assert_eq!(*served(&response).target, *format!("model-{winner}"));
        let (read, error) = read(response.into_body()).await;
        assert_eq!((&read[..], error.is_none()), (bytes, true));
    }
}
