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

use rig::{FIRST_TOKEN, Got, Stack, bare, call, failover, naive, over, sdk_call};

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
        (FIRST_TOKEN..FIRST_TOKEN + MILLI * 500).contains(&quickest),
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
    assert!(by(&primary_text) >= 80 && by(&backup_text) >= 100);
    assert!(primary_log.len() > by(&primary_text));

    // Without the layers everybody who comes later is left without an answer.
    let killed = started("killed").await;
    let stack = bare(killed.addr());
    drop(killed);
    assert_eq!(call(stack, false).await, Got::Nothing);
}

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
        &[("primary", primary.addr()), ("backup", backup.addr())],
    );
    let healed_at = MILLI * 3_000;
    let got = hundred_per_second(&stack, 900, |number| {
        if number == 300 {
            primary.always(Reply::healthy());
        }
    })
    .await;
    assert!(got.iter().all(|(_, got)| matches!(got, Got::Whole(_))));

    let log = primary.log().exchanges();
    let start = log[0].received_at;
    let at = |exchange: &backstop_testkit::model::Exchange| {
        exchange.received_at.saturating_duration_since(start)
    };
    let during = log
        .iter()
        .filter(|exchange| at(exchange) < healed_at)
        .count();
    // Five faults, what was under way with them, and one probe in each interval.
    assert!((5..=5 + 5 + 10).contains(&during), "{during}");
    // From the ejection until it is back, one at a time.
    let probes: Vec<_> = log
        .iter()
        .filter(|exchange| (INTERVAL..healed_at).contains(&at(exchange)))
        .collect();
    assert!(probes.len() >= 5, "{}", probes.len());
    for pair in probes.windows(2) {
        let (_, ended) = pair[0].ended.expect("it is over");
        assert!(ended <= pair[1].received_at);
        // Timers of one process: the probe is never early.
        assert!(at(pair[1]) >= at(pair[0]) + INTERVAL - MILLI);
    }

    let back = got
        .iter()
        .find(|(_, got)| *got == Got::Whole(primary.text().to_owned()))
        .expect("it is back");
    assert!(back.0 < healed_at + INTERVAL + MILLI * 300, "{back:?}");
    // A tenth of the callers, then twice as many with each second.
    let share_of = |second: u32| {
        let from = back.0 + MILLI * 1_000 * second;
        got.iter()
            .filter(|(at, _)| (from..from + MILLI * 1_000).contains(at))
            .filter(|(_, got)| *got == Got::Whole(primary.text().to_owned()))
            .count()
    };
    let shares: Vec<_> = (0..5).map(share_of).collect();
    assert!(shares[0] <= 20, "{shares:?}");
    for pair in shares.windows(2) {
        // The seconds are the callers', not those of the ramp.
        assert!(pair[1] <= pair[0] * 2 + 5, "{shares:?}");
    }
    assert!(shares[4] >= 80, "{shares:?}");
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
        over(failover, &[("model", addr)])
    };
    let ours = attempts_per_call(guarded).await;
    assert!((1.0..=1.15).contains(&ours), "{ours}");
    let alone = attempts_per_call(bare).await;
    assert!((alone - 3.0).abs() < f64::EPSILON, "{alone}");
    let multiplied = attempts_per_call(|addr| naive(bare(addr))).await;
    assert!((multiplied - 9.0).abs() < f64::EPSILON, "{multiplied}");
}
