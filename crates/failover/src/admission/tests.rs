use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(requests: u32, per: Duration) -> Admission {
    Admission::new(AdmissionConfig::default().max_rate(requests, per)).expect("valid")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Exactly what a log of all admissions says, hence never more than the cap in any window.
    #[test]
    fn any_arrivals_are_admitted_as_a_log_of_all_would(
        cap in 1_u32..12,
        millis in 1_u64..3_000,
        gaps in prop::collection::vec(0_u64..400_000, 1..400),
    ) {
        let per = Duration::from_millis(millis);
        let admission = rate(cap, per);
        let mut log: VecDeque<Instant> = VecDeque::new();
        let mut now = Instant::now();
        for micros in gaps {
            now += Duration::from_micros(micros);
            let got = admission.try_admit(now);
            let held = log.len() - log.partition_point(|at| *at + per <= now);
            prop_assert_eq!(got.is_ok(), held < cap as usize);
            match got {
                Ok(_) => log.push_back(now),
                Err(skipped) => {
                    // It is told when the oldest one within the window leaves it.
                    let at = log[log.len() - cap as usize] + per;
                    prop_assert_eq!(skipped.retry_at, Some(at));
                }
            }
        }
    }

    #[test]
    fn places_are_conserved(steps in prop::collection::vec(any::<bool>(), 1..200), cap in 1_usize..6) {
        let admission = Admission::new(AdmissionConfig::default().max_concurrent(cap)).unwrap();
        let now = Instant::now();
        let mut held = Vec::new();
        for enter in steps {
            if enter {
                match admission.try_admit(now) {
                    Ok(slot) => held.push(slot),
                    Err(skipped) => {
                        prop_assert_eq!(held.len(), cap);
                        prop_assert_eq!(skipped.retry_at, Some(now + SECOND));
                    }
                }
            } else {
                held.pop();
            }
            prop_assert_eq!(admission.in_flight(), held.len());
            prop_assert!(held.len() <= cap);
        }
    }
}

#[test]
fn a_refusal_by_the_rate_holds_no_place() {
    let now = Instant::now();
    let config = AdmissionConfig::default()
        .max_concurrent(5)
        .max_rate(1, SECOND);
    let admission = Admission::new(config).unwrap();
    let slot = admission.try_admit(now).unwrap();
    for _ in 0..10 {
        assert_eq!(
            admission.try_admit(now).unwrap_err().reason,
            SkipReason::AtRateCap
        );
    }
    assert_eq!(admission.in_flight(), 1);
    drop(slot);
    assert_eq!(admission.in_flight(), 0);
}

#[test]
fn sub_microsecond_edges_are_on_the_safe_side() {
    let start = Instant::now();
    let admission = rate(1, SECOND);
    assert!(admission.try_admit(start).is_ok());
    let first = start + SECOND + Duration::from_nanos(900);
    assert!(admission.try_admit(first).is_ok());
    // Less than a second later, although both are the same number of whole microseconds.
    assert!(
        admission
            .try_admit(start + SECOND * 2 + Duration::from_nanos(100))
            .is_err()
    );
}

#[test]
fn threads_do_not_get_more_than_the_cap() {
    let admission = rate(100, SECOND);
    let now = Instant::now();
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..200)
                        .filter(|_| admission.try_admit(now).is_ok())
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(admitted, 100);
}

#[test]
fn without_limits_everybody_is_counted_and_let_in() {
    let admission = Admission::new(AdmissionConfig::default()).unwrap();
    let now = Instant::now();
    let slots: Vec<_> = (0..100)
        .map(|_| admission.try_admit(now).unwrap())
        .collect();
    assert_eq!(admission.in_flight(), slots.len());
}

#[test]
fn senseless_settings_are_refused_by_name() {
    let field = |config| Admission::new(config).unwrap_err().field();
    let config = AdmissionConfig::default;
    assert_eq!(
        field(config().max_concurrent(0)),
        "admission.max_concurrent"
    );
    assert_eq!(
        field(config().max_rate(0, SECOND)),
        "admission.max_rate.requests"
    );
    assert_eq!(
        field(config().max_rate(1, Duration::ZERO)),
        "admission.max_rate.per"
    );
}
