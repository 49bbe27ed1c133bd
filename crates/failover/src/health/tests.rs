use backstop_core::{Kind, Phase};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> HealthConfig {
    HealthConfig::default().jitter(0.0)
}

fn fault() -> Outcome {
    Outcome::new(Kind::Unavailable)
}

fn throttled(after: Duration) -> Outcome {
    Outcome::new(Kind::Throttled).with_retry_after(after, HintSource::RetryAfter)
}

fn report(health: &Health, now: Instant, outcome: &Outcome) -> Option<State> {
    health
        .try_acquire(now)
        .expect("may be asked")
        .report(now, outcome)
}

/// A target that was just ejected for the first time, for 5 s.
fn ejected(config: HealthConfig, now: Instant) -> Health {
    let health = Health::new(config).expect("valid");
    for fault_number in 1..=5 {
        let change = report(&health, now, &fault());
        assert_eq!(change.is_some(), fault_number == 5);
    }
    health
}

#[test]
fn faults_in_a_row_eject_and_a_success_between_them_does_not() {
    let now = Instant::now();
    let health = Health::new(config().fault_rate(1.0)).unwrap();
    for _ in 0..4 {
        for _ in 0..4 {
            assert_eq!(report(&health, now, &fault()), None);
        }
        report(&health, now, &Outcome::success());
    }
    for _ in 0..4 {
        assert_eq!(report(&health, now, &fault()), None);
    }
    assert_eq!(report(&health, now, &fault()), Some(State::Faulting));
}

#[test]
fn a_rate_counts_from_five_samples_on_and_within_the_window() {
    let start = Instant::now();
    let alternate = |health: &Health, step: Duration| {
        (0..40_u32).find(|&number| {
            let outcome = if number % 2 == 0 {
                Outcome::success()
            } else {
                fault()
            };
            report(health, start + step * number, &outcome).is_some()
        })
    };
    // Success, fault, success, fault, success, fault: the sixth makes three of six.
    let health = Health::new(config()).unwrap();
    assert_eq!(alternate(&health, SECOND / 10), Some(5));
    // No more than four of them are ever within the window.
    let health = Health::new(config()).unwrap();
    assert_eq!(alternate(&health, SECOND * 3), None);
}

#[test]
fn what_is_nobodys_fault_is_not_counted() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    for kind in [
        Kind::Rejected,
        Kind::ContextTooLong,
        Kind::ContentFiltered,
        Kind::TooLarge,
        Kind::Unsupported,
        Kind::Cancelled,
    ] {
        for _ in 0..20 {
            assert_eq!(report(&health, now, &Outcome::new(kind)), None);
        }
    }
    for _ in 0..20 {
        drop(health.try_acquire(now).unwrap());
    }
    let snapshot = health.snapshot(now);
    assert_eq!((snapshot.attempts, snapshot.faults), (0, 0));
    assert_eq!(snapshot.state, State::Healthy);
}

#[test]
fn silence_and_nonsense_count() {
    let now = Instant::now();
    for kind in [
        Kind::TimedOut(Phase::FirstToken),
        Kind::TimedOut(Phase::Idle),
        Kind::Malformed,
        Kind::Overloaded,
    ] {
        let health = Health::new(config()).unwrap();
        let changes: Vec<_> = (0..5)
            .map(|_| report(&health, now, &Outcome::new(kind)))
            .collect();
        assert_eq!(changes.last(), Some(&Some(State::Faulting)), "{kind}");
    }
}

#[test]
fn the_probe_is_one_and_its_slot_comes_back_on_drop() {
    let now = Instant::now();
    let health = ejected(config(), now);
    let skipped = health.try_acquire(now + SECOND * 4).unwrap_err();
    assert_eq!(skipped.reason, SkipReason::Faulting);
    assert_eq!(skipped.retry_at, Some(now + SECOND * 5));

    let due = now + SECOND * 5;
    assert!(!health.is_probed());
    let probe = health.try_acquire(due).unwrap();
    assert!(probe.is_probe());
    assert_eq!(
        health.try_acquire(due).unwrap_err().reason,
        SkipReason::Probing
    );
    assert!(health.is_probed());
    drop(probe);
    assert!(!health.is_probed());
    let probe = health.try_acquire(due).unwrap();
    probe.report(due, &Outcome::new(Kind::Rejected));
    assert!(health.try_acquire(due).unwrap().is_probe());
}

#[test]
fn a_failed_probe_waits_for_the_interval_and_a_throttled_one_failed() {
    let now = Instant::now();
    for outcome in [fault(), throttled(SECOND)] {
        let health = ejected(config(), now);
        let due = now + SECOND * 5;
        report(&health, due, &outcome);
        assert_eq!(health.due(due), Some(due + SECOND * 5), "{outcome}");
        assert!(health.try_acquire(due + SECOND * 4).is_err());
        assert!(health.try_acquire(due + SECOND * 5).unwrap().is_probe());
    }
}

#[test]
fn the_return_takes_successes_in_a_row_and_then_a_ramp() {
    let now = Instant::now();
    let health = ejected(config(), now);
    let mut at = now + SECOND * 5;
    assert_eq!(report(&health, at, &Outcome::success()), None);
    assert_eq!(report(&health, at, &Outcome::success()), None);
    // The third fails: from the beginning.
    assert_eq!(report(&health, at, &fault()), None);
    at += SECOND * 5;
    assert_eq!(report(&health, at, &Outcome::success()), None);
    assert_eq!(report(&health, at, &Outcome::success()), None);
    assert_eq!(
        report(&health, at, &Outcome::success()),
        Some(State::Recovering)
    );

    let mut passed = [0_u32; 6];
    for (second, passed) in (0_u32..).zip(&mut passed) {
        for request in 0..200 {
            let when = at + SECOND * second + SECOND / 200 * request;
            match health.try_acquire(when) {
                Ok(permit) => {
                    *passed += 1;
                    assert_eq!(permit.report(when, &Outcome::success()), None);
                }
                Err(skipped) => assert_eq!(skipped.reason, SkipReason::Recovering),
            }
        }
    }
    assert_eq!(passed[4..], [200, 200]);
    assert!(passed[0].abs_diff(20) <= 1, "{passed:?}");
    for pair in passed.windows(2) {
        assert!(pair[1] <= pair[0] * 2 + 1, "{passed:?}");
    }
    assert_eq!(health.state(at + SECOND * 6), State::Healthy);
}

#[test]
fn what_was_begun_before_says_nothing_about_what_is_now() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    let old: Vec<_> = (0..10).map(|_| health.try_acquire(now).unwrap()).collect();
    for _ in 0..5 {
        report(&health, now, &fault());
    }
    let due = now + SECOND * 5;
    let mut old = old.into_iter();
    // Not as successes of the examination...
    for permit in old.by_ref().take(5) {
        assert_eq!(permit.report(due, &Outcome::success()), None);
    }
    assert_eq!(health.state(due), State::Probing);
    for _ in 0..3 {
        report(&health, due, &Outcome::success());
    }
    // ... nor as faults of the new life.
    for permit in old {
        assert_eq!(permit.report(due, &fault()), None);
    }
    assert_eq!(health.state(due), State::Recovering);
}

#[test]
fn a_probe_of_an_earlier_ejection_has_no_say_in_a_later_one() {
    let now = Instant::now();
    let health = ejected(config(), now);
    let due = now + SECOND * 5;
    let old = health.try_acquire(due).unwrap();
    let anyway = || health.acquire_anyway(due).unwrap();
    for _ in 0..3 {
        anyway().report(due, &Outcome::success());
    }
    assert_eq!(health.state(due), State::Recovering);
    for _ in 0..5 {
        anyway().report(due, &fault());
    }
    let due = health.due(due).unwrap();
    let probe = health.try_acquire(due).unwrap();
    drop(old);
    assert_eq!(
        health.try_acquire(due).unwrap_err().reason,
        SkipReason::Probing
    );
    drop(probe);
    assert!(health.try_acquire(due).unwrap().is_probe());
}

#[test]
fn a_fault_of_a_last_resort_ends_the_row_of_successes_and_nothing_else() {
    let now = Instant::now();
    let health = ejected(config(), now);
    let due = now + SECOND * 5;
    for _ in 0..2 {
        report(&health, due, &Outcome::success());
    }
    let probe = health.try_acquire(due).unwrap();
    let anyway = health.acquire_anyway(due).unwrap();
    assert_eq!(anyway.report(due, &fault()), None);
    assert_eq!(health.due(due), Some(due));
    assert_eq!(probe.report(due, &Outcome::success()), None);
    assert_eq!(report(&health, due, &Outcome::success()), None);
    assert_eq!(
        report(&health, due, &Outcome::success()),
        Some(State::Recovering)
    );
}

#[test]
fn a_last_resort_that_lets_all_time_out_is_given_half_of_it_each_round() {
    let start = Instant::now();
    // Longer than the test goes on: no probe is due.
    let health = ejected(config().ejection_base(SECOND * 60), start);
    let timed_out = Outcome::timed_out(Phase::FirstToken);
    let fill = |now| -> Vec<Permit> {
        let all = std::iter::from_fn(|| health.acquire_anyway(now));
        all.take(100).collect()
    };
    let mut now = start + SECOND;
    for expected in [100, 50, 25, 12, 6, 3, 1, 1] {
        let round = fill(now);
        assert_eq!(round.len(), expected);
        assert_eq!(health.has_room(), expected == 100);
        now += SECOND;
        for permit in round {
            permit.report(now, &timed_out);
        }
        now += Duration::from_millis(1);
    }
    // Each success makes room for one more, and what was only broken off for none.
    for expected in [1, 2, 4] {
        let round = fill(now);
        assert_eq!(round.len(), expected);
        for permit in round {
            permit.report(now, &Outcome::success());
        }
        drop(fill(now));
    }
}

#[test]
fn a_round_with_an_answer_and_other_faults_leave_a_last_resort_its_room() {
    let start = Instant::now();
    let health = ejected(config(), start);
    let now = start + SECOND;
    let later = now + SECOND;
    let mut round: Vec<_> = (0..50)
        .map(|_| health.acquire_anyway(now).unwrap())
        .collect();
    round.pop().unwrap().report(now, &Outcome::success());
    for permit in round.drain(..25) {
        permit.report(later, &fault());
    }
    for permit in round {
        permit.report(later, &Outcome::timed_out(Phase::Headers));
    }
    let all: Vec<_> = (0..1_000)
        .map_while(|_| health.acquire_anyway(later))
        .collect();
    assert_eq!(all.len(), 1_000);
}

/// A target that fails again while it recovers is given no more than it took before; one that had
/// all requests is not known to be overloaded.
#[test]
fn the_room_of_a_last_resort_is_kept_until_all_requests_were_let_through() {
    let now = Instant::now();
    let health = ejected(config().successes_to_return(1), now);
    let room = |now| {
        let places = (0..9).map_while(|_| health.acquire_anyway(now));
        places.collect::<Vec<_>>().len()
    };
    let fail_at = |now| {
        let reports = std::iter::repeat_with(|| health.try_acquire(now).ok())
            .flatten()
            .map(|permit| permit.report(now, &fault()));
        let last = reports.take(9).find(Option::is_some);
        assert_eq!(last, Some(Some(State::Faulting)));
    };
    assert_eq!(room(now), 9);
    let under_way: Vec<_> = (0..4).map_while(|_| health.acquire_anyway(now)).collect();
    for permit in under_way {
        permit.report(now, &Outcome::timed_out(Phase::Headers));
    }
    assert_eq!(room(now), 2);
    // When it is due, a last resort is the probe.
    let due = now + SECOND * 5;
    let probe = health.acquire_anyway(due).unwrap();
    assert!(probe.is_probe());
    probe.report(due, &Outcome::success());
    fail_at(due);
    assert_eq!(room(due), 2);
    let due = due + SECOND * 10;
    report(&health, due, &Outcome::success());
    let later = due + SECOND * 4;
    fail_at(later);
    assert_eq!(room(later), 9);
}

#[test]
fn ejections_grow_are_capped_and_are_forgiven() {
    let mut now = Instant::now();
    let config = config()
        .successes_to_return(1)
        .ramp_start(1.0)
        .ejection_cap(SECOND * 12);
    let health = Health::new(config).unwrap();
    let mut eject = |wait: Duration| {
        now += wait;
        for _ in 0..5 {
            report(&health, now, &fault());
        }
        let due = health.due(now).unwrap();
        let period = due.saturating_duration_since(now);
        now = due;
        report(&health, now, &Outcome::success());
        period
    };
    assert_eq!(eject(Duration::ZERO), SECOND * 5);
    assert_eq!(eject(SECOND), SECOND * 10);
    assert_eq!(eject(SECOND), SECOND * 12);
    // Three ejections, two of them forgiven after 24 s.
    assert_eq!(eject(SECOND * 25), SECOND * 10);
}

#[test]
fn jitter_only_prolongs() {
    let now = Instant::now();
    let periods: Vec<_> = (0..50)
        .map(|_| {
            let health = ejected(config().jitter(0.2), now);
            health.due(now).unwrap().saturating_duration_since(now)
        })
        .collect();
    assert!(
        periods
            .iter()
            .all(|period| (SECOND * 5..=SECOND * 6).contains(period))
    );
    assert!(periods.iter().any(|period| *period != periods[0]));
}

#[test]
fn a_fault_that_says_when_to_return_prolongs_the_ejection() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    for _ in 0..5 {
        let asked = fault().with_retry_after(SECOND * 30, HintSource::RetryAfter);
        report(&health, now, &asked);
    }
    assert_eq!(health.due(now), Some(now + SECOND * 30));
}

#[test]
fn a_limit_is_no_fault_and_holds_exactly() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    let permits: Vec<_> = (0..20).map(|_| health.try_acquire(now).unwrap()).collect();
    let changes: Vec<_> = permits
        .into_iter()
        .filter_map(|permit| permit.report(now, &throttled(SECOND * 7)))
        .collect();
    assert_eq!(changes, [State::Throttled]);
    assert_eq!(health.snapshot(now).faults, 0);
    let almost = now + SECOND * 7 - Duration::from_nanos(1);
    let skipped = health.try_acquire(almost).unwrap_err();
    assert_eq!(skipped.reason, SkipReason::Throttled);
    assert_eq!(skipped.retry_at, Some(now + SECOND * 7));
    assert!(health.try_acquire(now + SECOND * 7).is_ok());
}

#[test]
fn a_limit_that_is_tolerated_benches_nobody() {
    let now = Instant::now();
    let tolerant = || Health::new(config().limit_tolerated(SECOND * 3)).unwrap();
    for (outcome, benched) in [
        (throttled(SECOND * 3), None),
        (throttled(SECOND * 4), Some(SECOND * 4)),
        (Outcome::new(Kind::QuotaExhausted), Some(SECOND * 60)),
    ] {
        let health = tolerant();
        let change = health.try_acquire(now).unwrap().report(now, &outcome);
        assert_eq!(change, benched.map(|_| State::Throttled), "{outcome}");
        let due = health.due(now).unwrap();
        assert_eq!(due, now + benched.unwrap_or_default(), "{outcome}");
    }
    // What was benched for longer stays so, and a back-off outgrows what is tolerated.
    let health = tolerant();
    let later = health.try_acquire(now).unwrap();
    report(&health, now, &throttled(SECOND * 20));
    later.report(now, &throttled(SECOND));
    assert_eq!(health.due(now), Some(now + SECOND * 20));
    let health = tolerant();
    let mut at = now;
    for benched in [false, false, true] {
        at += SECOND * 10;
        report(&health, at, &Outcome::new(Kind::Throttled));
        assert_eq!(health.limited(at).is_some(), benched);
    }
}

#[test]
fn a_shorter_hint_never_shortens_and_an_explicit_success_may() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    let (first, second, early) = (
        health.try_acquire(now).unwrap(),
        health.try_acquire(now).unwrap(),
        health.try_acquire(now).unwrap(),
    );
    first.report(now, &throttled(SECOND * 20));
    second.report(now + SECOND, &throttled(SECOND));
    assert_eq!(health.due(now), Some(now + SECOND * 20));
    // This one was begun before the limit was noticed.
    early.report(now + SECOND, &Outcome::success());
    assert_eq!(health.due(now), Some(now + SECOND * 20));
    let later = now + SECOND * 2;
    let anyway = health.acquire_anyway(later).unwrap();
    anyway.report(later, &Outcome::success());
    assert_eq!(health.state(later), State::Healthy);
}

#[test]
fn hints_are_floored_and_capped_and_missing_ones_back_off() {
    let now = Instant::now();
    let due_after = |outcome: &Outcome| {
        let health = Health::new(config()).unwrap();
        report(&health, now, outcome);
        health.due(now).unwrap().saturating_duration_since(now)
    };
    assert_eq!(
        due_after(&throttled(Duration::ZERO)),
        Duration::from_millis(100)
    );
    assert_eq!(due_after(&throttled(Duration::MAX)), SECOND * 60);
    let quota = Outcome::new(Kind::QuotaExhausted);
    assert_eq!(due_after(&quota), SECOND * 60);

    let health = Health::new(config()).unwrap();
    let mut at = now;
    let mut waits = Vec::new();
    for _ in 0..8 {
        report(&health, at, &Outcome::new(Kind::Throttled));
        let due = health.due(at).unwrap();
        waits.push(due.saturating_duration_since(at).as_secs());
        at = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    report(&health, at, &Outcome::success());
    report(&health, at, &Outcome::new(Kind::Throttled));
    assert_eq!(health.due(at), Some(at + SECOND));
}

#[test]
fn refusals_of_requests_under_way_together_are_one_strike() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    let permits: Vec<_> = (0..50).map(|_| health.try_acquire(now).unwrap()).collect();
    for permit in permits {
        permit.report(now, &Outcome::new(Kind::Throttled));
    }
    assert_eq!(health.due(now), Some(now + SECOND));
}

#[test]
fn a_limit_is_shared_by_scope_and_a_fault_is_not() {
    let now = Instant::now();
    let account = SharedLimit::new();
    let target = || {
        Health::builder(config())
            .sharing(Scope::Account, &account)
            .build()
            .unwrap()
    };
    let (large, small) = (target(), target());
    report(&large, now, &throttled(SECOND * 3));
    assert_eq!(small.state(now), State::Healthy);
    report(&small, now, &Outcome::new(Kind::QuotaExhausted));
    assert_eq!(large.due(now), Some(now + SECOND * 60));
    let later = now + SECOND * 60;
    for _ in 0..5 {
        report(&large, later, &fault());
    }
    assert_eq!(small.state(later), State::Healthy);
}

#[test]
fn what_speaks_of_one_request_benches_nobody_and_any_other_fault_the_target() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    for kind in [
        Kind::Throttled,
        Kind::QuotaExhausted,
        Kind::Unauthorized,
        Kind::Unavailable,
    ] {
        let of_one = Outcome::new(kind).with_scope(Scope::Request);
        for _ in 0..20 {
            assert_eq!(report(&health, now, &of_one), None);
        }
    }
    assert_eq!(health.snapshot(now).faults, 0);
    for scope in [
        Scope::Model,
        Scope::Credential,
        Scope::Account,
        Scope::Provider,
    ] {
        let health = Health::new(config()).unwrap();
        for _ in 0..5 {
            report(&health, now, &fault().with_scope(scope));
        }
        assert_eq!(health.state(now), State::Faulting, "{scope:?}");
    }
}

/// Our own guess of a limit is no word of the target: a last resort may try.
#[test]
fn a_last_resort_obeys_what_was_stated_and_takes_the_first_of_equals() {
    let now = Instant::now();
    let limited = |source| {
        let health = Health::new(config()).unwrap();
        let limit = Outcome::new(Kind::Throttled).with_retry_after(SECOND * 9, source);
        report(&health, now, &limit);
        health
    };
    let stated = limited(HintSource::RetryAfter);
    let choice = LastResort::TrySoonest.choose(now, [(0, &stated)]);
    assert!(matches!(choice, Choice::Refuse { .. }));
    let guessed = limited(HintSource::Local);
    let choice = LastResort::TrySoonest.choose(now, [(3, &stated), (1, &guessed), (2, &guessed)]);
    assert!(matches!(choice, Choice::Try { target: 1, .. }));
    // One that has no room is passed over for one that is due later.
    let full = ejected(config(), now);
    let begun = [
        full.acquire_anyway(now).unwrap(),
        full.acquire_anyway(now).unwrap(),
    ];
    for permit in begun {
        permit.report(now, &Outcome::timed_out(Phase::Headers));
    }
    let _held = full.acquire_anyway(now).unwrap();
    let choice = LastResort::TrySoonest.choose(now, [(0, &full), (1, &guessed)]);
    assert!(matches!(choice, Choice::Try { target: 1, .. }));
}

#[test]
fn an_operators_word_holds() {
    let now = Instant::now();
    let health = ejected(config(), now);
    health.switch_off();
    assert_eq!(health.state(now), State::SwitchedOff);
    assert!(health.acquire_anyway(now).is_none());
    assert_eq!(health.due(now), None);
    health.forget();
    assert_eq!(health.state(now), State::SwitchedOff);
    health.switch_on();
    assert_eq!(health.state(now), State::Healthy);
}

#[test]
fn replicas_learn_from_each_other() {
    let now = Instant::now();
    let health = Health::new(config()).unwrap();
    let until = now + SECOND * 9;
    let faulting = Remote::Faulting { until };
    assert_eq!(health.apply(now, faulting), Some(State::Faulting));
    assert_eq!(health.apply(now, faulting), None);
    assert_eq!(health.due(now), Some(until));
    let shorter = Remote::Faulting {
        until: now + SECOND,
    };
    assert_eq!(health.apply(now, shorter), None);
    assert_eq!(health.due(now), Some(until));
    let throttled = Remote::Throttled {
        scope: Scope::Model,
        until: until + SECOND,
        stated: true,
    };
    assert_eq!(health.apply(now, throttled), Some(State::Throttled));
    assert_eq!(health.due(now), Some(until + SECOND));
    let snapshot = health.snapshot(now);
    assert_eq!(snapshot.ejected_until, Some(until));
    assert_eq!(snapshot.limits.len(), 1);
}

#[test]
fn what_another_replica_knows_does_not_let_a_second_probe_begin() {
    let now = Instant::now();
    let health = ejected(config(), now);
    let due = now + SECOND * 5;
    let probe = health.try_acquire(due).unwrap();
    let until = due + SECOND * 9;
    health.apply(due, Remote::Faulting { until });
    assert_eq!(
        health.try_acquire(until).unwrap_err().reason,
        SkipReason::Probing
    );
    // Its failure does not bring the next one forward.
    probe.report(due, &fault());
    assert_eq!(health.due(due), Some(until));
    let next = health.try_acquire(until).unwrap();
    assert!(next.is_probe());
}

#[test]
fn another_replica_cannot_bench_a_target_for_days() {
    let now = Instant::now();
    let until = now + SECOND * 1_000_000;
    let health = Health::new(config()).unwrap();
    health.apply(now, Remote::Faulting { until });
    assert_eq!(health.due(now), Some(now + SECOND * 120));
    let health = Health::new(config()).unwrap();
    let throttled = Remote::Throttled {
        scope: Scope::Account,
        until,
        stated: true,
    };
    health.apply(now, throttled);
    assert_eq!(health.due(now), Some(now + SECOND * 3600));
}

#[test]
fn what_is_forgotten_counts_no_more() {
    let now = Instant::now();
    let health = ejected(config(), now);
    // Its room is narrow: a round of last resorts timed out.
    let tried: Vec<_> = (0..8)
        .map(|_| health.acquire_anyway(now).unwrap())
        .collect();
    for permit in tried {
        permit.report(now, &Outcome::timed_out(Phase::Headers));
    }
    assert!((0..9).any(|_| health.acquire_anyway(now).map(std::mem::forget).is_none()));
    health.forget();
    let many: Vec<_> = (0..9).map_while(|_| health.acquire_anyway(now)).collect();
    assert_eq!(many.len(), 9);
    let unstated = Outcome::new(Kind::Throttled);
    let health = ejected(config(), now);
    for second in 0..3 {
        let permit = health.acquire_anyway(now + SECOND * second).unwrap();
        permit.report(now + SECOND * second, &unstated);
    }
    health.forget();
    assert_eq!(health.state(now), State::Healthy);
    assert_eq!(health.snapshot(now).times_ejected, 0);
    // The first limit without a time, the first ejection.
    let later = now + SECOND * 9;
    report(&health, later, &unstated);
    assert_eq!(health.due(later), Some(later + SECOND));
    let after = later + SECOND;
    for _ in 0..5 {
        report(&health, after, &fault());
    }
    assert_eq!(health.due(after), Some(after + SECOND * 5));
}

#[test]
fn a_failed_probe_that_says_when_to_return_is_obeyed() {
    let now = Instant::now();
    let health = ejected(config(), now);
    let due = now + SECOND * 5;
    let asked =
        Outcome::new(Kind::Overloaded).with_retry_after(SECOND * 20, HintSource::RetryAfter);
    report(&health, due, &asked);
    assert_eq!(health.due(due), Some(due + SECOND * 20));
}

#[test]
fn a_gate_decides_who_probes() {
    struct Never;
    impl ProbeGate for Never {
        fn may_probe(&self, _: Instant) -> bool {
            false
        }
    }
    let now = Instant::now();
    let health = Health::builder(config()).probe_gate(Never).build().unwrap();
    for _ in 0..5 {
        report(&health, now, &fault());
    }
    let skipped = health.try_acquire(now + SECOND * 6).unwrap_err();
    assert_eq!(skipped.reason, SkipReason::Probing);
}

#[test]
fn the_last_resort_takes_the_soonest_or_says_when() {
    let now = Instant::now();
    let later = now + SECOND;
    let first = ejected(config(), later);
    let second = ejected(config(), now);
    let said = Health::new(config()).unwrap();
    report(&said, now, &throttled(SECOND * 2));
    let all = [&first, &second, &said];
    let targets = || all.into_iter().enumerate();

    match LastResort::TrySoonest.choose(later, targets()) {
        Choice::Try { target, permit } => {
            assert_eq!(target, 1);
            assert!(!permit.is_probe());
        }
        Choice::Refuse { .. } => panic!("one may be tried"),
    }
    match LastResort::Refuse.choose(later, targets()) {
        Choice::Refuse { retry_at } => assert_eq!(retry_at, Some(now + SECOND * 2)),
        Choice::Try { .. } => panic!("it refuses"),
    }
    // Only the one is left that said when.
    match LastResort::TrySoonest.choose(later, [(0, &said)]) {
        Choice::Refuse { retry_at } => assert_eq!(retry_at, Some(now + SECOND * 2)),
        Choice::Try { .. } => panic!("it was told when"),
    }
    first.switch_off();
    match LastResort::TrySoonest.choose(later, [(0, &first)]) {
        Choice::Refuse { retry_at } => assert_eq!(retry_at, None),
        Choice::Try { .. } => panic!("it is switched off"),
    }
}

#[test]
fn senseless_settings_are_refused_by_name() {
    let field = |config: HealthConfig| Health::new(config).unwrap_err().field();
    assert_eq!(field(config().fault_rate(f64::NAN)), "health.fault_rate");
    assert_eq!(field(config().jitter(1.1)), "health.jitter");
    assert_eq!(field(config().ramp_start(0.0)), "health.ramp_start");
    assert_eq!(field(config().ejection_cap(SECOND)), "health.ejection_cap");
    assert_eq!(
        field(config().limit_floor(SECOND * 100)),
        "health.limit_cap"
    );
    assert_eq!(
        field(config().limit_tolerated(SECOND * 60)),
        "health.limit_tolerated"
    );
    assert_eq!(
        field(config().successes_to_return(64)),
        "health.successes_to_return"
    );
    assert_eq!(
        field(config().probe_interval(Duration::MAX)),
        "health.probe_interval"
    );
}

#[derive(Clone, Copy, Debug)]
enum Did {
    Wait(u64),
    Begin,
    Anyway,
    End(usize, u8),
    Drop(usize),
}

fn history() -> impl Strategy<Value = Vec<Did>> {
    let did = prop_oneof![
        (0_u64..8_000).prop_map(Did::Wait),
        Just(Did::Begin),
        Just(Did::Begin),
        Just(Did::Anyway),
        (any::<usize>(), 0_u8..5).prop_map(|(which, how)| Did::End(which, how)),
        (any::<usize>(), 0_u8..5).prop_map(|(which, how)| Did::End(which, how)),
        any::<usize>().prop_map(Did::Drop),
    ];
    prop::collection::vec(did, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens: at most one probe, none before its time, two changes per ejection, and
    /// neither its slot nor a place is ever lost.
    #[test]
    fn the_laws_of_ejection_hold_in_any_history(history in history()) {
        let health = Health::new(config().consecutive_faults(2)).unwrap();
        let mut now = Instant::now();
        let mut open: Vec<Permit> = Vec::new();
        let mut changes = Vec::new();
        for did in history {
            match did {
                Did::Wait(millis) => now += Duration::from_millis(millis),
                Did::Begin => {
                    let due = health.due(now).expect("switched on");
                    if let Ok(permit) = health.try_acquire(now) {
                        prop_assert!(due <= now);
                        open.push(permit);
                    }
                }
                Did::Anyway => open.extend(health.acquire_anyway(now)),
                Did::End(which, how) => if !open.is_empty() {
                    let permit = open.swap_remove(which % open.len());
                    let outcome = match how {
                        0 => Outcome::success(),
                        1 => fault(),
                        2 => throttled(SECOND),
                        3 => Outcome::timed_out(Phase::FirstToken),
                        _ => Outcome::new(Kind::Rejected),
                    };
                    let change = permit.report(now, &outcome);
                    changes.extend(change.filter(|change| *change != State::Throttled));
                },
                Did::Drop(which) => if !open.is_empty() {
                    drop(open.swap_remove(which % open.len()));
                },
            }
            let generation = health.shared.word().generation();
            let probes = open
                .iter()
                .filter(|permit| permit.is_probe() && permit.generation == generation)
                .count();
            prop_assert!(probes <= 1);
            prop_assert_eq!(probes == 1, health.shared.word().has_probe());
        }
        for (place, change) in changes.iter().enumerate() {
            let expected = if place % 2 == 0 { State::Faulting } else { State::Recovering };
            prop_assert_eq!(*change, expected);
        }
        open.clear();
        prop_assert!(!health.shared.word().has_probe());
        prop_assert!(health.shared.room.is_empty());
    }
}
