use backstop_core::{Kind, Outcome, Phase};
use loom::thread;

use super::*;

fn ejected(now: Instant) -> Health {
    let config = HealthConfig::default()
        .consecutive_faults(1)
        .successes_to_return(1)
        .jitter(0.0)
        .ejection_base(Duration::from_secs(1));
    let health = Health::new(config).unwrap();
    let permit = health.try_acquire(now).unwrap();
    assert_eq!(
        permit.report(now, &Outcome::new(Kind::Unavailable)),
        Some(State::Faulting)
    );
    health
}

fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

#[test]
fn loom_one_probe_at_a_time() {
    bounded(|| {
        let now = Instant::now();
        let health = ejected(now);
        let due = now + Duration::from_secs(2);
        let other = health.clone();
        let thread = thread::spawn(move || other.try_acquire(due).ok());
        let mine = health.try_acquire(due).ok();
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        drop((mine, theirs));
        assert!(
            health
                .try_acquire(due)
                .is_ok_and(|permit| permit.is_probe())
        );
    });
}

#[test]
fn loom_a_probe_that_is_dropped_gives_its_slot_back_whatever_else_happens() {
    bounded(|| {
        let now = Instant::now();
        let health = ejected(now);
        let due = now + Duration::from_secs(2);
        let probe = health.try_acquire(due).unwrap();
        let bystander = health.acquire_anyway(due).unwrap();
        let thread = thread::spawn(move || drop(probe));
        bystander.report(due, &Outcome::new(Kind::Unavailable));
        thread.join().unwrap();
        assert!(
            health
                .try_acquire(due)
                .is_ok_and(|permit| permit.is_probe())
        );
    });
}

#[test]
fn loom_a_place_is_given_once_and_given_back_once() {
    bounded(|| {
        let now = Instant::now();
        let health = ejected(now);
        let timed_out = Outcome::timed_out(Phase::FirstToken);
        // Room for one.
        let last = health.acquire_anyway(now).unwrap();
        last.report(now, &timed_out);
        let other = health.clone();
        let thread = thread::spawn(move || other.acquire_anyway(now));
        let mine = health.acquire_anyway(now);
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
        drop((mine, theirs));
        assert!(health.shared.room.is_empty());
    });
}

#[test]
fn loom_a_round_is_halved_once_by_many_that_time_out() {
    bounded(|| {
        let now = Instant::now();
        let health = ejected(now);
        let timed_out = Outcome::timed_out(Phase::FirstToken);
        let round: Vec<_> = (0..4)
            .map(|_| health.acquire_anyway(now).unwrap())
            .collect();
        let [first, second, third, fourth] = <[Permit; 4]>::try_from(round).unwrap();
        // Before a probe is due.
        let later = now + Duration::from_millis(500);
        let thread = thread::spawn(move || second.report(later, &timed_out));
        first.report(later, &timed_out);
        thread.join().unwrap();
        // Three or four were under way, so one or two are left room for, and two are still there.
        assert!(health.acquire_anyway(later).is_none());
        drop((third, fourth));
        assert!(health.acquire_anyway(later).is_some());
    });
}

#[test]
fn loom_a_target_is_ejected_once_by_many_faults() {
    bounded(|| {
        let now = Instant::now();
        let config = HealthConfig::default().consecutive_faults(1).jitter(0.0);
        let health = Health::new(config).unwrap();
        let mine = health.try_acquire(now).unwrap();
        let theirs = health.try_acquire(now).unwrap();
        let thread = thread::spawn(move || theirs.report(now, &Outcome::new(Kind::Unavailable)));
        let changes = [
            mine.report(now, &Outcome::new(Kind::Unavailable)),
            thread.join().unwrap(),
        ];
        assert_eq!(changes.iter().flatten().count(), 1);
        assert_eq!(health.snapshot(now).times_ejected, 1);
    });
}

#[test]
fn loom_a_shorter_hint_never_shortens() {
    bounded(|| {
        let now = Instant::now();
        let limit = SharedLimit::new();
        let other = limit.clone();
        let long = now + Duration::from_secs(9);
        let thread = thread::spawn(move || other.extend(now, long, true));
        limit.extend(now, now + Duration::from_secs(3), true);
        thread.join().unwrap();
        assert_eq!(limit.in_force(now).unwrap().until, long);
    });
}
