//! Where retry, hedging, exercise, orders and plans meet, and what is set to the extreme.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_core::{
    BoxError, Cause, Classify, ClassifyErrors, ClassifyStream, Considered, Deadline, End, Failure,
    HintSource, Kind, Mode, Outcome, Phase, Served, SkipReason, Step, Trace, Typed, Verdict,
    outcome_of,
};
use backstop_failover::{
    Failover, FailoverBuilder, Force, Hedge, Reserve, Retry, Target,
    admission::{Admission, AdmissionConfig},
    budget::{Budget, BudgetConfig},
    guards::{Guards, Kinds},
    health::{HealthConfig, LastResort, State},
    plan::{Affinity, Call, LeastFirstToken, Order, Ordered, Plan, Sticky},
};
use support::{Ending, Head, Model, Play, Toy, outcome, request};
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

type Typist = BoxCloneSyncService<(), &'static str, BoxError>;

/// What a typed target does with a call.
#[derive(Clone, Copy)]
enum Does {
    Answers(Duration),
    Fails(Outcome),
    Nothing,
}

/// A typed target that does what `script` says of the n-th call, and how often it was asked.
fn typist(
    name: &'static str,
    script: impl Fn(usize) -> Does + Clone + Send + Sync + 'static,
) -> (Target<Typist>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let service = service_fn(move |()| {
        let does = script(count.fetch_add(1, Ordering::SeqCst));
        async move {
            match does {
                Does::Answers(after) => {
                    sleep(after).await;
                    Ok(name)
                }
                Does::Fails(outcome) => Err(Failure::new(outcome).into()),
                Does::Nothing => std::future::pending().await,
            }
        }
    });
    (Target::new(name, BoxCloneSyncService::new(service)), asked)
}

fn typed() -> FailoverBuilder<ClassifyErrors, Typed> {
    Failover::builder(ClassifyErrors)
        .protocol::<Typed>()
        .deadline(60 * SECOND)
        .health(never_ejected())
}

fn never_ejected() -> HealthConfig {
    HealthConfig::default()
        .consecutive_faults(u32::MAX)
        .min_samples(u64::MAX)
}

fn plenty() -> Budget {
    Budget::new(BudgetConfig::default().share(100.0).cap(1e9)).expect("valid")
}

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

fn healthy() -> Model {
    Model::new([Play::stream(&["t."])])
}

fn served(response: &http::Response<impl Sized>) -> Served {
    response.extensions().get::<Served>().expect("told").clone()
}

fn trace(response: &http::Response<impl Sized>) -> Trace {
    served(response).trace.expect("told")
}

// === the plan by latency ===

/// A gateway that gives up at once answers sooner than any model.
#[tokio::test(start_paused = true)]
async fn a_failure_never_makes_a_target_look_faster() {
    let at_once = Does::Fails(Outcome::timed_out(Phase::Headers));
    // The second one is slow, or nothing is known of it.
    for known in [true, false] {
        let (quick, _) = typist("quick", |_| Does::Answers(300 * MS));
        let (other, asked) = typist("other", move |call| match call {
            0 if known => Does::Answers(2 * SECOND),
            _ => at_once,
        });
        let failover = typed()
            .plan(|| LeastFirstToken::new().explore(0.0))
            .build(vec![quick, other])
            .unwrap();
        let handle = failover.handle();
        assert_eq!(failover.clone().oneshot(()).await.unwrap(), "quick");
        handle.force(Some(&Force::Target("other".into())));
        for call in 0..150 {
            let result = failover.clone().oneshot(()).await;
            assert_eq!(result.is_ok(), known && call == 0);
            sleep(SECOND).await;
        }
        handle.force(None);
        for _ in 0..3 {
            assert_eq!(failover.clone().oneshot(()).await.unwrap(), "quick");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 150, "{known}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_target_loses_its_place_to_one_that_answers() {
    let (silent, asked) = typist("silent", |_| Does::Nothing);
    let (quick, _) = typist("quick", |_| Does::Answers(300 * MS));
    let failover = typed()
        .plan(|| LeastFirstToken::new().explore(0.0))
        .build(vec![silent, quick])
        .unwrap();
    for _ in 0..5 {
        assert_eq!(failover.clone().oneshot(()).await.unwrap(), "quick");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Who is always called off when it is late is slow, though it never times out.
#[tokio::test(start_paused = true)]
async fn a_target_that_hedges_are_quicker_than_loses_its_place() {
    let (slow, asked) = typist("slow", |_| Does::Answers(9 * SECOND));
    let (quick, _) = typist("quick", |_| Does::Answers(300 * MS));
    let failover = typed()
        .plan(|| LeastFirstToken::new().explore(0.0))
        .hedge(Hedge::after(SECOND))
        .build(vec![slow, quick])
        .unwrap();
    for _ in 0..5 {
        assert_eq!(failover.clone().oneshot(()).await.unwrap(), "quick");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

// === hedging ===

/// Whoever is called off is one of the slow ones: an estimate that never heard of them would sink
/// until everybody is late.
#[tokio::test(start_paused = true)]
async fn a_percentile_hedges_the_share_that_it_says() {
    let (primary, _) = typist("primary", |call| {
        let random = fastrand::Rng::with_seed(call as u64).u64(1..=1000);
        Does::Answers(MS * u32::try_from(random).expect("small"))
    });
    let (backup, hedged) = typist("backup", |_| Does::Answers(Duration::ZERO));
    let failover = typed()
        .hedge(Hedge::percentile(0.9, Duration::ZERO).unwrap())
        .budget(plenty())
        .build(vec![primary, backup])
        .unwrap();
    let mut before = 0;
    for call in 0..3000 {
        if call == 1000 {
            before = hedged.load(Ordering::SeqCst);
        }
        failover.clone().oneshot(()).await.unwrap();
    }
    let share = hedged.load(Ordering::SeqCst) - before;
    assert!((100..400).contains(&share), "{share} of 2000");
}

#[tokio::test(start_paused = true)]
async fn the_trace_tells_how_far_a_called_off_attempt_came() {
    let mut play = Play::stream(&["k"]).after(SECOND).ends(Ending::Silent);
    play.ready_after = 300 * MS;
    let (primary, backup) = (Model::new([play]), healthy());
    let failover = builder()
        .hedge(Hedge::after(2 * SECOND))
        .build(targets(&[&primary, &backup]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    let trace = trace(&response);
    let (_, tried) = trace.attempts().next().unwrap();
    assert!(tried.called_off);
    assert_eq!(
        (tried.ready, tried.head, tried.first_token, tried.took),
        (Some(300 * MS), Some(SECOND), None, 2 * SECOND)
    );
}

// === retry ===

/// On a clock that goes on between the end of an attempt and its report.
#[tokio::test]
async fn a_hint_is_honoured_on_a_real_clock() {
    let refusal = Outcome::new(Kind::Throttled).with_retry_after(120 * MS, HintSource::RetryAfter);
    let (primary, asked) = typist("primary", move |call| match call {
        0 => Does::Fails(refusal),
        _ => Does::Answers(Duration::ZERO),
    });
    let (backup, _) = typist("backup", |_| Does::Answers(Duration::ZERO));
    let failover = typed()
        .retry(Retry::times(1).base(MS).cap(MS))
        .build(vec![primary, backup])
        .unwrap();
    assert_eq!(failover.oneshot(()).await.unwrap(), "primary");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

// === exercise ===

/// What it says stands for nobody, however often and beside whom it is asked.
#[tokio::test(start_paused = true)]
async fn an_exercised_backup_neither_is_asked_again_nor_calls_off_the_primary() {
    let retried = [Play::status(503), Play::status(400)];
    let late = [Play::status(400).after(3 * SECOND)];
    for calls in 0..40 {
        let (primary, backup) = (healthy(), Model::new(retried.clone()));
        let failover = builder()
            .exercise(0.5)
            .retry(Retry::times(1))
            .build(targets(&[&primary, &backup]))
            .unwrap();
        let response = failover.oneshot(request()).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{calls}");
        assert!(backup.calls() <= 1);

        let primary = Model::new([Play::stream(&["t."]).after(5 * SECOND)]);
        let backup = Model::new(late.clone());
        let failover = builder()
            .exercise(0.5)
            .hedge(Hedge::after(2 * SECOND))
            .build(targets(&[&primary, &backup]))
            .unwrap();
        let response = failover.oneshot(request()).await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_mode_is_that_of_whoever_answers_also_in_an_exercise() {
    for works in [true, false] {
        let backup = if works {
            healthy()
        } else {
            Model::new([Play::status(503)])
        };
        let primary = healthy();
        let failover = builder()
            .exercise(0.5)
            .health(never_ejected())
            .build(targets(&[&primary, &backup]))
            .unwrap();
        let mut exercised = 0;
        for _ in 0..60 {
            let response = failover.clone().oneshot(request()).await.unwrap();
            let served = served(&response);
            let mode = match &*served.target {
                "model-0" => Mode::Primary,
                _ => Mode::Failover,
            };
            assert_eq!(served.mode, mode);
            let trace = served.trace.unwrap();
            let cause = trace.attempts().next().unwrap().1.cause;
            exercised += usize::from(cause == Cause::Exercise);
        }
        assert_eq!(backup.calls(), exercised);
        assert!(exercised > 0);
    }
}

// === orders ===

#[tokio::test(start_paused = true)]
async fn a_plan_that_names_a_target_that_does_not_exist_is_followed_without_it() {
    struct Strange;
    impl Plan for Strange {
        fn order(&self, _: &Call) -> Order {
            let mut order = Order::empty();
            for target in [2, 1, 31, 0] {
                order.push(target);
            }
            order
        }
    }
    let (first, second) = (healthy(), Model::new([Play::status(503)]));
    let failover = builder()
        .plan(|| Ok(Strange))
        .build(targets(&[&first, &second]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!((first.calls(), second.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_in_the_plans_order_is_not_asked_as_a_last_resort_either() {
    struct OnlyTheFirst;
    impl Plan for OnlyTheFirst {
        fn order(&self, _: &Call) -> Order {
            Order::of_configuration(1)
        }
    }
    for last_resort in [LastResort::TrySoonest, LastResort::Refuse] {
        let (primary, other) = (Model::new([Play::status(503)]), healthy());
        let failover = builder()
            .plan(|| Ok(OnlyTheFirst))
            .last_resort(last_resort)
            .health(HealthConfig::default().jitter(0.0))
            .build(targets(&[&primary, &other]))
            .unwrap();
        for _ in 0..5 {
            failover.clone().oneshot(request()).await.unwrap();
        }
        match failover.oneshot(request()).await {
            Ok(response) => assert_eq!(*served(&response).target, *"model-0"),
            Err(error) => {
                let wait = outcome(&error).retry_after().expect("an honest time");
                assert_eq!(wait.delay, 5 * SECOND);
            }
        }
        assert_eq!(other.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_for_a_target_that_is_not_there_lets_nobody_answer_for_it() {
    let (primary, backup) = (healthy(), healthy());
    let failover = builder().build(targets(&[&primary, &backup])).unwrap();
    let mut request = request();
    request
        .extensions_mut()
        .insert(Force::Target("model-l".into()));
    let error = failover.oneshot(request).await.unwrap_err();
    assert_eq!(outcome(&error).kind(), Kind::Unavailable);
    assert_eq!((primary.calls(), backup.calls()), (0, 0));
    let trace = Trace::find(&*error).unwrap();
    assert_eq!(trace.candidates().count(), 2);
    assert_eq!(trace.attempts().count(), 0);
}

// === extremes ===

#[tokio::test(start_paused = true)]
async fn times_that_are_too_long_for_the_clock_are_no_times_at_all() {
    let long = Duration::MAX;
    let forever = Outcome::new(Kind::Throttled).with_retry_after(long, HintSource::RetryAfter);
    let (limited, _) = typist("limited", move |_| Does::Fails(forever));
    let (backup, _) = typist("backup", |_| Does::Answers(SECOND));
    let one = AdmissionConfig::default()
        .max_concurrent(1)
        .return_after(long);
    let failover = typed()
        .deadline(long)
        .reserve(Reserve::per_target(long))
        .retry(Retry::times(1).base(long).cap(long).longest_wait(long))
        .hedge(Hedge::after(long))
        .build(vec![
            limited.least_time(long),
            backup
                .least_time(long)
                .admission(Admission::new(one).unwrap()),
        ])
        .unwrap();
    let mut held = tokio_test::task::spawn(failover.clone().oneshot(()));
    assert!(held.poll().is_pending());
    let error = failover.clone().oneshot(()).await.unwrap_err();
    let told = outcome(&error).retry_after().expect("an honest time");
    assert!(told.delay <= 60 * SECOND, "{told:?}");
    assert_eq!(held.await.unwrap(), "backup");
    let hedge = Hedge::percentile(0.5, long).unwrap();
    let (slow, _) = typist("slow", |_| Does::Answers(SECOND));
    let failover = typed().hedge(hedge).build(vec![slow]).unwrap();
    for _ in 0..30 {
        failover.clone().oneshot(()).await.unwrap();
    }
}

// === who speaks when nobody answers, and for how long ===

fn down() -> Model {
    Model::new([Play::status(503).with(&["down"])])
}

fn throttled() -> Model {
    Model::new([Play::status(429).header("retry-after", "30")])
}

/// Makes a target known as limited, by asking nobody else.
async fn limit(failover: &Failover<Model, Toy>, name: &str) {
    let mut one = request();
    one.extensions_mut().insert(Force::Target(name.into()));
    failover.clone().oneshot(one).await.expect("it answers");
}

#[tokio::test(start_paused = true)]
async fn what_was_skipped_speaks_only_for_what_would_have_been_asked_first() {
    // Ordered to the fallback: what it says counts.
    let failover = builder().build(targets(&[&healthy(), &down()])).unwrap();
    let mut forced = request();
    forced.extensions_mut().insert(Force::Fallback);
    let response = failover.oneshot(forced).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);

    // The limit of a later target is no reason.
    let failover = builder().build(targets(&[&down(), &throttled()])).unwrap();
    limit(&failover, "model-1").await;
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);

    // That of the first one that can serve such a request is, before what a later one says.
    let mut list = targets(&[&healthy(), &throttled(), &down()]);
    let small = list.remove(0).guards(Guards::default().max_bytes(4));
    list.insert(0, small);
    let failover = builder().build(list).unwrap();
    limit(&failover, "model-1").await;
    let error = failover.oneshot(request()).await.unwrap_err();
    assert_eq!(outcome(&error).kind(), Kind::Throttled);

    // A skipped target counts as limited for those that are kept for that.
    let limits: Kinds = [Kind::Throttled].into_iter().collect();
    let mut list = targets(&[&throttled(), &healthy()]);
    let kept = list
        .pop()
        .unwrap()
        .guards(Guards::default().only_on(limits));
    list.push(kept);
    let failover = builder().build(list).unwrap();
    limit(&failover, "model-0").await;
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(*served(&response).target, *"model-1");
}

#[tokio::test(start_paused = true)]
async fn an_exercise_decides_nothing_for_the_call() {
    for play in [
        Play::status(401),
        Play::status(410),
        Play::status(411),
        Play::status(429),
    ] {
        for calls in 0..30 {
            let failover = builder()
                .exercise(0.5)
                .health(never_ejected())
                .build(targets(&[&down(), &Model::new([play.clone()])]))
                .unwrap();
            // The second time a limited one is skipped.
            for _ in 0..2 {
                let response = failover.clone().oneshot(request()).await.unwrap();
                assert_eq!(response.status().as_u16(), 503, "{calls} {play:?}");
            }
            let failover = builder()
                .exercise(0.5)
                .build(targets(&[&healthy(), &Model::new([play.clone()])]))
                .unwrap();
            let response = failover.oneshot(request()).await.unwrap();
            assert_eq!(response.status().as_u16(), 200, "{calls} {play:?}");
        }
    }
    // What must run at most once may have run at the backup.
    let mut exercised = 0;
    for _ in 0..30 {
        let (primary, backup) = (healthy(), Model::new([Play::head(Head::Hang)]));
        let failover = builder()
            .exercise(0.5)
            .at_most_once(true)
            .build(targets(&[&primary, &backup]))
            .unwrap();
        if let Err(error) = failover.oneshot(request()).await {
            assert_eq!(outcome(&error).kind(), Kind::TimedOut(Phase::Headers));
            assert_eq!(primary.calls(), 0);
            exercised += 1;
        }
    }
    assert!(exercised > 0);
    let many = [&healthy(), &healthy(), &healthy(), &healthy()];
    let error = builder().exercise(0.2).build(targets(&many)).unwrap_err();
    assert_eq!(error.field(), "exercise");
}

#[tokio::test(start_paused = true)]
async fn a_conversation_does_not_move_to_a_backup_that_is_tried_out() {
    let models = [healthy(), healthy()];
    let failover = builder()
        .plan(|| Sticky::new(Ordered, 300 * SECOND))
        .exercise(0.5)
        .build(targets(&[&models[0], &models[1]]))
        .unwrap();
    let ask = async || {
        let mut request = request();
        request.extensions_mut().insert(Affinity::of(b"a talk"));
        let served = served(&failover.clone().oneshot(request).await.unwrap());
        let cause = served.trace.unwrap().attempts().next().unwrap().1.cause;
        (cause, served.target.to_string())
    };
    let mut exercised = 0;
    for _ in 0..60 {
        let (cause, target) = ask().await;
        exercised += usize::from(cause == Cause::Exercise);
        assert_eq!(cause == Cause::Exercise, target == "model-1");
    }
    assert!(exercised > 0);
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_is_told_is_true() {
    let hint = |seconds| {
        Outcome::new(Kind::Throttled).with_retry_after(seconds * SECOND, HintSource::RetryAfter)
    };
    let always = |outcome| move |_| Does::Fails(outcome);
    let refused = Outcome::new(Kind::Unavailable);
    let eject = |times| {
        HealthConfig::default()
            .jitter(0.0)
            .consecutive_faults(times)
    };
    let wait = |error: &BoxError| outcome(error).retry_after().map(|hint| hint.delay);

    // What the target itself said stands.
    let (first, _) = typist("first", always(hint(30)));
    let (second, _) = typist("second", always(hint(7)));
    let failover = typed().build(vec![first, second]).unwrap();
    let error = failover.clone().oneshot(()).await.unwrap_err();
    assert_eq!(wait(&error), Some(30 * SECOND));
    // Nobody is asked again: whoever is due soonest counts, of those that may be asked.
    sleep(SECOND).await;
    let error = failover.clone().oneshot(()).await.unwrap_err();
    assert_eq!(wait(&error), Some(6 * SECOND));
    failover
        .handle()
        .force(Some(&Force::Target("first".into())));
    let error = failover.oneshot(()).await.unwrap_err();
    assert_eq!(wait(&error), Some(29 * SECOND));

    // One may be asked at once: there is nothing to wait for.
    let (first, _) = typist("first", always(hint(7)));
    let (second, _) = typist("second", always(refused));
    let failover = typed().health(eject(5)).build(vec![second, first]).unwrap();
    let error = failover.oneshot(()).await.unwrap_err();
    assert_eq!(wait(&error), None);

    // Ejected until different times.
    for swap in [false, true] {
        let (early, _) = typist("early", always(refused));
        let (late, _) = typist(
            "late",
            always(refused.with_retry_after(9 * SECOND, HintSource::RetryAfter)),
        );
        let mut list = vec![early, late];
        if swap {
            list.reverse();
        }
        let failover = typed()
            .health(eject(1))
            .last_resort(LastResort::Refuse)
            .build(list)
            .unwrap();
        let _ = failover.clone().oneshot(()).await.unwrap_err();
        let error = failover.oneshot(()).await.unwrap_err();
        assert_eq!(wait(&error), Some(5 * SECOND), "{swap}");
    }
}

// === time ===

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_when_the_deadline_is_over() {
    let primary = healthy();
    let failover = builder().build(targets(&[&primary])).unwrap();
    let mut late = request();
    let now = Instant::now().into_std();
    late.extensions_mut()
        .insert(Deadline::after(now, Duration::ZERO));
    let error = failover.oneshot(late).await.unwrap_err();
    assert_eq!(outcome(&error).kind(), Kind::TimedOut(Phase::Total));
    assert_eq!(primary.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_only_makes_ours_shorter() {
    let primary = Model::new([Play::head(Head::Hang)]);
    let failover = builder().build(targets(&[&primary])).unwrap();
    let start = Instant::now();
    let mut patient = request();
    patient
        .extensions_mut()
        .insert(Deadline::after(start.into_std(), 600 * SECOND));
    failover.oneshot(patient).await.unwrap_err();
    assert_eq!(Instant::now() - start, 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_callers_haste_is_no_fault_of_the_target_in_any_phase() {
    let plays = [
        (Play::status(200).ready_after(5 * SECOND), Phase::Ready),
        (Play::head(Head::Hang), Phase::Headers),
        (Play::stream(&["k"]).ends(Ending::Silent), Phase::FirstToken),
    ];
    for (play, phase) in plays {
        let primary = Model::new([play]);
        let failover = builder().build(targets(&[&primary])).unwrap();
        for _ in 0..20 {
            let mut hasty = request();
            hasty
                .extensions_mut()
                .insert(Deadline::after(Instant::now().into_std(), SECOND));
            let error = failover.clone().oneshot(hasty).await.unwrap_err();
            assert_eq!(outcome(&error).kind(), Kind::TimedOut(phase));
        }
        let status = &failover.handle().targets()[0];
        assert_eq!(status.health.state, State::Healthy, "{phase}");
    }
}

/// Time is only kept for those that can be asked.
#[tokio::test(start_paused = true)]
async fn no_time_is_kept_for_who_cannot_help() {
    let slow = || Model::new([Play::stream(&["t."]).after(45 * SECOND)]);
    let primary = slow();
    let mut list = targets(&[&primary, &healthy()]);
    let small = list.pop().unwrap().guards(Guards::default().max_bytes(4));
    list.push(small);
    let failover = builder().build(list).unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(*served(&response).target, *"model-0");
    let call = primary.seen.with(|seen| seen.calls[0].clone());
    assert!(call.attempt.unwrap().is_last);

    let failover = builder().build(targets(&[&slow(), &throttled()])).unwrap();
    let mut forced = request();
    forced
        .extensions_mut()
        .insert(Force::Target("model-1".into()));
    failover.clone().oneshot(forced).await.unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(*served(&response).target, *"model-0");

    // What a target needs at least comes on top of a small share.
    let (silent, backup) = (Model::new([Play::head(Head::Hang)]), healthy());
    let mut list = targets(&[&silent, &backup]);
    let needs = list.pop().unwrap().least_time(20 * SECOND);
    list.push(needs);
    let failover = builder()
        .reserve(Reserve::share(0.25).unwrap())
        .build(list)
        .unwrap();
    let start = Instant::now();
    failover.oneshot(request()).await.unwrap();
    assert_eq!(Instant::now() - start, 40 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_trace_tells_each_phase() {
    let mut play = Play::stream(&["k", "t."])
        .ready_after(SECOND)
        .after(2 * SECOND);
    play.body[1].0 = 4 * SECOND;
    let failover = builder().build(targets(&[&Model::new([play])])).unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    let trace = trace(&response);
    let (_, tried) = trace.attempts().next().unwrap();
    assert_eq!(
        (tried.ready, tried.head, tried.first_token, tried.took),
        (Some(SECOND), Some(2 * SECOND), Some(4 * SECOND), 7 * SECOND)
    );
    assert_eq!(trace.took, 7 * SECOND);
    assert_eq!(trace.deadline_left, Some(53 * SECOND));
}

// === retry and hedging together ===

#[tokio::test(start_paused = true)]
async fn who_is_ejected_or_was_hedged_or_has_no_time_is_not_asked_again() {
    let retry = Retry::times(1).base(MS).cap(MS);
    let (primary, backup) = (down(), healthy());
    let failover = builder()
        .retry(retry)
        .health(HealthConfig::default().consecutive_faults(1))
        .build(targets(&[&primary, &backup]))
        .unwrap();
    failover.oneshot(request()).await.unwrap();
    assert_eq!(primary.calls(), 1);

    let primary = Model::new([Play::status(503).after(3 * SECOND)]);
    let (backup, third) = (down(), healthy());
    let failover = builder()
        .retry(retry)
        .hedge(Hedge::after(SECOND))
        .build(targets(&[&primary, &backup, &third]))
        .unwrap();
    failover.oneshot(request()).await.unwrap();
    let calls = [primary.calls(), backup.calls(), third.calls()];
    assert_eq!(calls, [1, 1, 1]);

    // There is no point in a wait that outlasts the deadline.
    let primary = Model::new([Play::status(429).header("retry-after", "2")]);
    let failover = builder()
        .deadline(SECOND)
        .retry(retry)
        .build(targets(&[&primary]))
        .unwrap();
    let start = Instant::now();
    failover.oneshot(request()).await.unwrap();
    assert!(Instant::now() - start < SECOND / 10);

    // Nor in one for a request that cannot be sent again.
    let primary = down();
    let failover = builder()
        .replay_limit(4)
        .retry(Retry::times(1).base(SECOND).cap(SECOND))
        .build(targets(&[&primary]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(primary.calls(), 1);
    assert_eq!(trace(&response).budget_left, None);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_one_more_attempt_by_the_same_rules() {
    let late = || Model::new([Play::stream(&["t."]).after(4 * SECOND)]);
    // Nobody is left: nothing is paid.
    let failover = builder()
        .hedge(Hedge::after(SECOND))
        .build(targets(&[&late()]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(trace(&response).budget_left, None);

    // What must run at most once is not hedged.
    let backup = healthy();
    let failover = builder()
        .hedge(Hedge::after(SECOND))
        .at_most_once(true)
        .build(targets(&[&late(), &backup]))
        .unwrap();
    failover.oneshot(request()).await.unwrap();
    assert_eq!(backup.calls(), 0);

    // A hedge that has failed is told as it failed.
    let backup = Model::new([Play::status(500).after(SECOND)]);
    let failover = builder()
        .hedge(Hedge::after(SECOND))
        .build(targets(&[&late(), &backup]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    let trace = trace(&response);
    let (_, tried) = trace.attempts().nth(1).unwrap();
    assert_eq!(tried.took, SECOND);
    assert!(tried.outcome.is_some() && !tried.called_off);

    // A request that another target calls wrong is not taken to a third one.
    let primary = Model::new([Play::status(503).after(4 * SECOND)]);
    let (backup, third) = (Model::new([Play::status(400)]), healthy());
    let failover = builder()
        .hedge(Hedge::after(SECOND))
        .build(targets(&[&primary, &backup, &third]))
        .unwrap();
    let response = failover.oneshot(request()).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    assert_eq!(third.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_done_is_not_paid_for() {
    let budget = || {
        let tokens = BudgetConfig::default()
            .share(5.0)
            .floor_per_second(0.0)
            .failover_cost(1.0);
        Budget::new(tokens).unwrap()
    };
    let none = || {
        let config = AdmissionConfig::default().max_rate(1, 3600 * SECOND);
        let full = Admission::new(config).unwrap();
        drop(full.try_admit(Instant::now()));
        full
    };
    let late = Model::new([Play::stream(&["t."]).after(4 * SECOND)]);
    for (primary, tokens) in [(late, 5.0), (down(), 5.0)] {
        let mut list = targets(&[&primary, &healthy()]);
        let full = list.pop().unwrap().admission(none());
        list.push(full);
        let failover = builder()
            .hedge(Hedge::after(SECOND))
            .budget(budget())
            .build(list)
            .unwrap();
        let response = failover.clone().oneshot(request()).await.unwrap();
        assert_eq!(trace(&response).budget_left, Some(tokens));
        assert!((failover.handle().budget_left() - tokens).abs() < f64::EPSILON);
    }
    // A retry whose target has no room any more when its wait is over.
    let once = AdmissionConfig::default().max_rate(1, 3600 * SECOND);
    let list = targets(&[&down()])
        .into_iter()
        .map(|target| target.admission(Admission::new(once).unwrap()))
        .collect();
    let failover = builder()
        .retry(Retry::times(1))
        .budget(budget())
        .build(list)
        .unwrap();
    failover.clone().oneshot(request()).await.unwrap();
    assert!((failover.handle().budget_left() - 5.0).abs() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_told_as_one() {
    let primary = Model::new([Play::status(503), Play::stream(&["t."])]);
    let failover = builder()
        .health(HealthConfig::default().consecutive_faults(1).jitter(0.0))
        .build(targets(&[&primary, &healthy()]))
        .unwrap();
    failover.clone().oneshot(request()).await.unwrap();
    sleep(5 * SECOND).await;
    let response = failover.clone().oneshot(request()).await.unwrap();
    let trace = trace(&response);
    assert_eq!(trace.attempts().next().unwrap().1.cause, Cause::Probe);
    // Its answer is open: nobody else probes.
    let other = failover.oneshot(request()).await.unwrap();
    let skipped = Considered::Skipped(SkipReason::Probing);
    assert_eq!(
        self::trace(&other).candidates().next().unwrap().verdict,
        skipped
    );
}

/// A classifier that can only tell at the end, of an answer that has no body to read.
#[derive(Clone, Copy)]
struct AtTheEnd(Kind);

impl Classify<(), &'static str> for AtTheEnd {
    type Call = ();
    type Stream = Self;

    fn on_request(&self, (): &()) {}

    fn on_response(&self, (): &(), _: &&'static str) -> Verdict<Self> {
        Verdict::AtEnd(*self)
    }

    fn on_error(&self, (): &(), error: &(dyn std::error::Error + 'static)) -> Outcome {
        outcome_of(error)
    }
}

impl ClassifyStream for AtTheEnd {
    fn on_data(&mut self, _: &[u8]) -> Step {
        Step::default()
    }

    fn on_end(&mut self, _: End<'_>) -> Outcome {
        Outcome::new(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_is_judged_by_its_end() {
    for (kind, asked_both) in [(Kind::Success, false), (Kind::Malformed, true)] {
        let (first, _) = typist("first", |_| Does::Answers(Duration::ZERO));
        let (second, asked) = typist("second", |_| Does::Answers(Duration::ZERO));
        let failover = typed()
            .classify(AtTheEnd(kind))
            .build(vec![first, second])
            .unwrap();
        let _ = failover.oneshot(()).await;
        assert_eq!(asked.load(Ordering::SeqCst), usize::from(asked_both));
    }
}
