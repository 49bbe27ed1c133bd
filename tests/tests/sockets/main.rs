//! Outages over real sockets: the twins of what is simulated in `simulation`.
//!
//! The scripted models' own log is the oracle. Times are those of the wall clock, so they are few
//! and wide, and where one counts, the best of three runs does: a busy machine only adds to it.

mod rig;

use std::{net::SocketAddr, time::Duration};

use backstop_failover::{Retry, health::HealthConfig};
use backstop_testkit::model::{Model, Refusal, Reply};
use http::StatusCode;
use tokio::{task::JoinSet, time::Instant};

use rig::{Got, PATIENCE, Stack, bare, call, failover, naive, over, sdk_call};

const MILLI: Duration = Duration::from_millis(1);

/// Calls every ten milliseconds; every other call is streamed. What came of each, with the time
/// from the start.
async fn hundred_per_second(
    stack: &Stack,
    calls: u32,
    mut before: impl FnMut(u32),
) -> Vec<(Duration, Got)> {
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for number in 0..calls {
        tokio::time::sleep_until(start + MILLI * 10 * number).await;
        before(number);
        let stack = stack.clone();
        under_way.spawn(async move {
            let at = Instant::now().saturating_duration_since(start);
            (at, call(stack, number % 2 == 0).await)
        });
    }
    let mut all = under_way.join_all().await;
    all.sort_by_key(|(at, _)| *at);
    all
}

async fn started(name: &str) -> Model {
    Model::start(name).await.expect("a port")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_primary_is_asked_once_and_the_backup_answers_in_time() {
    const LIMIT: Duration = Duration::from_secs(1);
    let mut quickest = Duration::MAX;
    for silence in [
        Reply::silent(),
        Reply::hang(),
        Reply::keep_alive_only(MILLI * 100),
    ] {
        let (primary, backup) = (started("primary").await, started("backup").await);
        primary.always(silence);
        let stack = over(
            failover(HealthConfig::default()).retry(Retry::times(2)),
            LIMIT,
            &[("primary", primary.addr()), ("backup", backup.addr())],
        );
        let begun = Instant::now();
        let got = call(stack, true).await;
        quickest = quickest.min(Instant::now().saturating_duration_since(begun));
        assert_eq!(got, Got::Whole(backup.text().to_owned()));
        assert_eq!(primary.log().len(), 1);
        assert_eq!(backup.log().len(), 1);
    }
    assert!(
        (LIMIT..LIMIT + MILLI * 500).contains(&quickest),
        "{quickest:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_the_primary_is_killed_before_it_answers() {
    let (primary, backup) = (started("primary").await, started("backup").await);
    // Each request is with the primary for a while before the answer begins.
    primary.always(Reply::healthy().first_token_after(MILLI * 50));
    let stack = over(
        failover(HealthConfig::default()),
        PATIENCE,
        &[("primary", primary.addr()), ("backup", backup.addr())],
    );
    let (primary_text, backup_text) = (primary.text().to_owned(), backup.text().to_owned());
    let primary_log = primary.log().clone();
    let mut alive = Some(primary);
    let got = hundred_per_second(&stack, 200, |number| {
        if number == 100 {
            alive = None;
        }
    })
    .await;
    assert_eq!(got.len(), 200);
    for (at, got) in &got {
        match got {
            Got::Whole(text) => assert!([&primary_text, &backup_text].contains(&text)),
            // It had begun to answer, so nobody else may take over.
            Got::BrokenOff(begun) => {
                assert!(
                    !begun.is_empty() && primary_text.starts_with(begun),
                    "{at:?}"
                );
            }
            Got::Refused(..) | Got::Nothing => panic!("{got:?} at {at:?}"),
        }
    }
    // Both served, and some were with the primary when it died.
    let by = |text: &String| {
        got.iter()
            .filter(|(_, got)| *got == Got::Whole(text.clone()))
            .count()
    };
    assert!(by(&primary_text) >= 20 && by(&backup_text) >= 100);
    assert!(primary_log.len() > by(&primary_text));

    // Without the layers everybody who comes later is left without an answer.
    let killed = started("killed").await;
    let stack = bare(killed.addr());
    drop(killed);
    assert_eq!(call(stack, false).await, Got::Nothing);
}

/// How many calls come together where they come in rounds.
const ROUND: usize = 8;

/// A few calls at the same time. Gives how many of them `primary` answered; all are answered.
async fn round(stack: &Stack, primary: &Model) -> usize {
    tokio::time::sleep(MILLI * 10).await;
    let calls = (0..ROUND).map(|number| call(stack.clone(), number % 2 == 0));
    let got = futures_util::future::join_all(calls).await;
    for got in &got {
        assert!(matches!(got, Got::Whole(_)), "{got:?}");
    }
    let by_primary = Got::Whole(primary.text().to_owned());
    got.iter().filter(|got| **got == by_primary).count()
}

/// The calls come in rounds, so that what is asserted does not depend on how busy the machine is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_was_out_is_probed_and_comes_back_by_and_by() {
    const INTERVAL: Duration = Duration::from_millis(300);
    let (primary, backup) = (started("primary").await, started("backup").await);
    primary.always(Reply::refuse(Refusal::Unavailable));
    let health = HealthConfig::default()
        .ejection_base(INTERVAL)
        .probe_interval(INTERVAL)
        .jitter(0.0);
    let stack = over(
        failover(health),
        PATIENCE,
        &[("primary", primary.addr()), ("backup", backup.addr())],
    );

    // Out: the first round ejects it, then it sees one probe in each interval.
    assert_eq!(round(&stack, &primary).await, 0);
    let before = primary.log().len();
    assert!((5..=ROUND).contains(&before), "{before}");
    while primary.log().len() < before + 5 {
        let seen = primary.log().len();
        assert_eq!(round(&stack, &primary).await, 0);
        assert!(primary.log().len() <= seen + 1);
    }
    let log = primary.log().exchanges();
    for pair in log[before..].windows(2) {
        let apart = pair[1]
            .received_at
            .saturating_duration_since(pair[0].received_at);
        assert!(apart >= INTERVAL - MILLI, "{apart:?}");
    }

    // Healed: whoever comes an interval later finds it, and three answers in a row bring it back.
    primary.always(Reply::healthy());
    let healed = Instant::now();
    let mut answered = 0;
    let mut last_probe = healed;
    while answered < 3 {
        let begun = Instant::now();
        let by_primary = round(&stack, &primary).await;
        let is_due = begun > healed + INTERVAL;
        assert!(by_primary > 0 || answered > 0 || !is_due);
        last_probe = begun;
        answered += by_primary;
    }
    let back = Instant::now();

    // A tenth of the callers, then twice as many with each second.
    let mut calls = [0_usize; 5];
    let mut by_primary = [0_usize; 5];
    loop {
        let begun = Instant::now();
        let answered = round(&stack, &primary).await;
        // It came back after the last probe was sent and before the last round was over.
        let most = Instant::now()
            .saturating_duration_since(last_probe)
            .as_secs();
        let second = usize::try_from(most).expect("few").min(4);
        calls[second] += ROUND;
        by_primary[second] += answered;
        if begun >= back + Duration::from_secs(4) {
            assert_eq!(answered, ROUND);
            break;
        }
    }
    for second in 0..4 {
        let most = (calls[second] << second).div_ceil(10) + 2;
        assert!(by_primary[second] <= most, "{by_primary:?} of {calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sdk_in_front_does_not_multiply_an_outage() {
    const CALLS: u32 = 300;
    async fn attempts_per_call(stack: impl Fn(SocketAddr) -> Stack) -> f64 {
        let model = started("model").await;
        model.always(Reply::refuse(Refusal::Unavailable));
        let stack = stack(model.addr());
        let mut under_way = JoinSet::new();
        for _ in 0..CALLS {
            tokio::time::sleep(MILLI * 5).await;
            let stack = stack.clone();
            under_way.spawn(async move { sdk_call(&stack).await });
        }
        for got in under_way.join_all().await {
            assert!(
                matches!(got, Got::Refused(StatusCode::SERVICE_UNAVAILABLE, _)),
                "{got:?}"
            );
        }
        let seen = u32::try_from(model.log().len()).expect("thousands");
        f64::from(seen) / f64::from(CALLS)
    }

    let guarded = |addr| {
        let failover = failover(HealthConfig::default()).retry(Retry::times(2));
        over(failover, PATIENCE, &[("model", addr)])
    };
    let ours = attempts_per_call(guarded).await;
    assert!((1.0..=1.15).contains(&ours), "{ours}");
    let alone = attempts_per_call(bare).await;
    assert!((alone - 3.0).abs() < f64::EPSILON, "{alone}");
    let multiplied = attempts_per_call(|addr| naive(bare(addr))).await;
    assert!((multiplied - 9.0).abs() < f64::EPSILON, "{multiplied}");
}
