//! The first target is out, and comes back.

use backstop_core::{Kind, Outcome, Phase};
use backstop_failover::{
    Target,
    admission::{Admission, AdmissionConfig},
};
use tower::util::BoxCloneSyncService;

use super::{
    PER_SECOND, builder, health, over,
    rig::{Act, Called, Changes, Model, load, millis, naive_chain, seconds},
};

const BEGINS: u64 = 10;
const ENDS: u64 = 70;

/// Out for a minute.
fn out_for_a_minute() -> Model {
    Model::new("primary", |at, _| {
        if (seconds(BEGINS)..seconds(ENDS)).contains(&at) {
            Act::Fail(millis(20), Outcome::new(Kind::Unavailable))
        } else {
            Act::Answer(millis(20))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_out_is_probed_and_comes_back_by_and_by() {
    let changes = Changes::new();
    let (primary, backup) = (out_for_a_minute(), Model::healthy("backup", millis(20)));
    // Without retries, which are attempts as well, the bound is exact.
    let stack = over(
        builder(&changes).retry(backstop_failover::Retry::times(0)),
        &[("primary", &primary), ("backup", &backup)],
    );
    let calls = load(stack, PER_SECOND, seconds(90)).await;
    assert!(calls.iter().all(Called::is_answered));

    let seen = changes.of("primary");
    let states: Vec<_> = seen.iter().map(|(_, state)| *state).collect();
    assert_eq!(states, ["faulting", "recovering"]);
    let (ejected, back) = (seen[0].0, seen[1].0);

    // What was under way when the fifth fault came in is not to be held against it.
    let under_way = 4;
    let during = primary.count(seconds(BEGINS), seconds(ENDS));
    let probes = usize::try_from((ENDS - BEGINS) / 5).expect("few");
    assert!(during <= 5 + under_way + probes, "{during}");
    let most_at_once = primary
        .arrivals()
        .iter()
        .filter(|arrival| (ejected + millis(21)..back).contains(&arrival.at))
        .map(|arrival| arrival.in_flight)
        .max();
    assert_eq!(most_at_once, Some(1));

    let first_answer = calls
        .iter()
        .find(|call| call.at >= seconds(ENDS) && call.result == Ok("primary"))
        .expect("it is back");
    assert!(first_answer.at <= seconds(ENDS + 5), "{first_answer:?}");
    assert!(back <= seconds(ENDS + 6), "{back:?}");

    let per_second: Vec<_> = (0..7)
        .map(|second| primary.count(back + seconds(second), back + seconds(second + 1)))
        .collect();
    for pair in per_second.windows(2) {
        assert!(pair[1] <= pair[0] * 2 + 1, "{per_second:?}");
    }
    assert!(per_second[0] <= 21, "{per_second:?}");
    assert_eq!(per_second[6], PER_SECOND as usize);

    let naive = out_for_a_minute();
    let chain = naive_chain(vec![naive.service(), backup.service()]);
    load(chain, PER_SECOND, seconds(70)).await;
    assert!(naive.count(seconds(BEGINS), seconds(ENDS)) > 11_000);
}

/// Fails half of the time, without a pattern.
fn flapping() -> Model {
    Model::new("primary", |_, number| {
        if fastrand::Rng::with_seed(number as u64).bool() {
            Act::Answer(millis(20))
        } else {
            Act::Fail(millis(20), Outcome::new(Kind::Overloaded))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_fails_every_other_time_does_not_drag_its_callers_to_and_fro() {
    let changes = Changes::new();
    let (primary, backup) = (flapping(), Model::healthy("backup", millis(20)));
    let stack = over(
        builder(&changes),
        &[("primary", &primary), ("backup", &backup)],
    );
    let calls = load(stack, PER_SECOND, seconds(180)).await;
    assert!(calls.iter().all(Called::is_answered));

    // Two changes for each time that it is ejected, each of which lasts.
    let seen = changes.of("primary");
    for (place, (_, state)) in seen.iter().enumerate() {
        let expected = ["faulting", "recovering"][place % 2];
        assert_eq!(*state, expected, "{seen:?}");
    }
    for pair in seen.windows(2) {
        if pair[0].1 == "faulting" {
            assert!(pair[1].0 >= pair[0].0 + seconds(5), "{seen:?}");
        }
    }
    // Ejections of 5, 10, 15, ... seconds: eight fill three minutes.
    assert!((2..=16).contains(&seen.len()), "{seen:?}");
    // It answers a small share at any time after the first ejection.
    let on_primary = calls
        .iter()
        .filter(|call| call.at > seconds(5) && call.result == Ok("primary"))
        .count();
    assert!(on_primary < calls.len() / 10, "{on_primary}");

    // A plain breaker: one good probe, and everybody is back.
    let plain = Changes::new();
    let plain_health = health()
        .successes_to_return(1)
        .ramp_start(1.0)
        .ejection_cap(seconds(5));
    let (primary, backup) = (flapping(), Model::healthy("backup", millis(20)));
    let stack = over(
        builder(&plain).health(plain_health),
        &[("primary", &primary), ("backup", &backup)],
    );
    load(stack, PER_SECOND, seconds(180)).await;
    let plain = plain.of("primary").len();
    assert!(
        plain >= seen.len() * 2,
        "{plain}, with all measures {}",
        seen.len()
    );
}

#[tokio::test(start_paused = true)]
async fn a_small_backup_gets_no_more_than_its_cap_and_the_rest_is_refused_at_once() {
    const CAP: u32 = 20;
    let primary = Model::new("primary", |_, _| {
        Act::Fail(millis(5), Outcome::new(Kind::Unavailable))
    });
    let backup = Model::healthy("backup", millis(400));
    let config = AdmissionConfig::default().max_rate(CAP, seconds(1));
    let targets = vec![
        Target::new("primary", primary.service()),
        Target::new("backup", backup.service()).admission(Admission::new(config).expect("valid")),
    ];
    let changes = Changes::new();
    let stack = builder(&changes)
        .retry(backstop_failover::Retry::times(0))
        .build(targets)
        .expect("valid");
    let calls = load(BoxCloneSyncService::new(stack), PER_SECOND, seconds(30)).await;

    let most = backup.most_within(seconds(1));
    assert!(most <= 21, "{most}");
    // And it is used for what it is worth.
    assert!(backup.count(seconds(0), seconds(30)) >= 29 * CAP as usize);
    let refused: Vec<_> = calls.iter().filter(|call| !call.is_answered()).collect();
    assert!(refused.len() > calls.len() * 8 / 10);
    for call in refused {
        assert!(call.took < millis(20), "{call:?}");
        let told = call.retry_after.expect("an honest time");
        assert!(told <= seconds(5), "{call:?}");
    }

    // Without a cap it gets everything.
    let (primary, backup) = (primary.service(), Model::healthy("backup", millis(400)));
    load(
        naive_chain(vec![primary, backup.service()]),
        PER_SECOND,
        seconds(5),
    )
    .await;
    assert!(backup.most_within(seconds(1)) >= 199);
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_holds_many_is_not_given_more() {
    let primary = Model::new("primary", |_, _| {
        Act::Fail(millis(5), Outcome::new(Kind::Unavailable))
    });
    let backup = Model::healthy("backup", seconds(2));
    let config = AdmissionConfig::default().max_concurrent(10);
    let targets = vec![
        Target::new("primary", primary.service()),
        Target::new("backup", backup.service()).admission(Admission::new(config).expect("valid")),
    ];
    let stack = builder(&Changes::new()).build(targets).expect("valid");
    load(BoxCloneSyncService::new(stack), PER_SECOND, seconds(20)).await;
    let most = backup
        .arrivals()
        .iter()
        .map(|arrival| arrival.in_flight)
        .max();
    assert_eq!(most, Some(10));
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_is_asked_once_and_the_backup_answers_in_time() {
    let limit = seconds(10);
    let primary = Model::new("primary", |_, _| Act::Silence);
    let backup = Model::healthy("backup", millis(300));
    let silent = tower::timeout::Timeout::new(primary.service(), limit);
    let targets = vec![
        Target::new("primary", BoxCloneSyncService::new(silent)),
        Target::new("backup", backup.service()),
    ];
    let stack = builder(&Changes::new()).build(targets).expect("valid");
    let calls = load(BoxCloneSyncService::new(stack), 1, millis(1)).await;
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].result, Ok("backup"));
    assert!(calls[0].took <= limit + millis(500), "{:?}", calls[0]);
    assert_eq!(primary.arrivals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_without_a_limit_of_its_own_leaves_the_backup_its_share_of_the_deadline() {
    let primary = Model::new("primary", |_, _| Act::Silence);
    let backup = Model::healthy("backup", seconds(20));
    let stack = over(
        builder(&Changes::new()),
        &[("primary", &primary), ("backup", &backup)],
    );
    let calls = load(stack, 1, millis(1)).await;
    assert_eq!(calls[0].result, Ok("backup"));
    assert!(calls[0].took <= seconds(60));
    assert_eq!(primary.arrivals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_is_silent_to_few_callers() {
    let limit = seconds(2);
    let primary = Model::new("primary", |_, _| Act::Silence);
    let backup = Model::healthy("backup", millis(300));
    let silent = tower::timeout::Timeout::new(primary.service(), limit);
    let targets = vec![
        Target::new("primary", BoxCloneSyncService::new(silent)),
        Target::new("backup", backup.service()),
    ];
    let changes = Changes::new();
    let stack = builder(&changes)
        .health(health())
        .build(targets)
        .expect("valid");
    let calls = load(BoxCloneSyncService::new(stack), 50, seconds(60)).await;
    assert!(calls.iter().all(Called::is_answered));
    assert_eq!(
        changes.of("primary").first().map(|(_, state)| *state),
        Some("faulting")
    );
    // Everybody who came before the first limit was over, then one per probe.
    let slow = calls.iter().filter(|call| call.took > limit).count();
    assert!(slow <= 2 * 50 + 10 + 12, "{slow}");
    let timed_out = Outcome::timed_out(Phase::FirstToken);
    assert!(timed_out.is_fault());
}
