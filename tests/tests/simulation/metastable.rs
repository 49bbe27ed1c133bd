//! A short loss of capacity that becomes a long one: the backlog of repeated calls keeps the model
//! too busy with what nobody waits for any more.

use std::time::Duration;

use backstop_failover::{
    Target,
    admission::{Admission, AdmissionConfig},
};
use tower::util::BoxCloneSyncService;

use super::{
    builder,
    rig::{Act, Called, Changes, Model, Stack, load, millis, naive_retry, ratio, seconds},
};

/// What the model can serve in a second.
const CAPACITY: f64 = 100.0;
/// What comes in: seven tenths of it.
const OFFERED: u32 = 70;
/// When a tenth of the capacity is left.
const LOST: f64 = 10.0;
/// When all of it is back.
const RESTORED: f64 = 20.0;
/// How long a caller waits for an attempt.
const PATIENCE: Duration = seconds(1);

/// Serves one after the other, and does not notice when a caller has gone away.
fn overloaded() -> Model {
    #[expect(
        clippy::disallowed_types,
        reason = "held for a sum, never across an await"
    )]
    let served = std::sync::Mutex::new(0.0_f64);
    Model::new("model", move |at, _| {
        let at = at.as_secs_f64();
        let mut served = served.lock().expect("not poisoned");
        *served = served.max(work_done_by(at)) + 1.0;
        let waits = done_at(*served) - at;
        Act::Answer(Duration::from_secs_f64(waits) + millis(100))
    })
}

/// How many requests a model that is never idle has served by then.
fn work_done_by(at: f64) -> f64 {
    CAPACITY * (at.min(LOST) + (at - RESTORED).max(0.0))
        + CAPACITY / 10.0 * (at.clamp(LOST, RESTORED) - LOST)
}

/// The inverse.
fn done_at(work: f64) -> f64 {
    let lost = work_done_by(LOST);
    let restored = work_done_by(RESTORED);
    if work <= lost {
        work / CAPACITY
    } else if work <= restored {
        LOST + (work - lost) / (CAPACITY / 10.0)
    } else {
        RESTORED + (work - restored) / CAPACITY
    }
}

/// The share of the calls of this time that were answered.
fn goodput(calls: &[Called], from: u64, to: u64) -> f64 {
    let of_the_time: Vec<_> = calls
        .iter()
        .filter(|call| (seconds(from)..seconds(to)).contains(&call.at))
        .collect();
    let answered = of_the_time.iter().filter(|call| call.is_answered()).count();
    ratio(answered, of_the_time.len())
}

fn guarded(model: &Model, admission: AdmissionConfig) -> Stack {
    let impatient = tower::timeout::Timeout::new(model.service(), PATIENCE);
    let target = Target::new("model", BoxCloneSyncService::new(impatient))
        .admission(Admission::new(admission).expect("valid"));
    let stack = builder(&Changes::new()).build(vec![target]).expect("valid");
    BoxCloneSyncService::new(stack)
}

#[tokio::test(start_paused = true)]
async fn what_is_restored_is_back_within_five_seconds() {
    // Twice what it holds when it is well and fully used: a hundred a second for a tenth of one.
    let sized = AdmissionConfig::default().max_concurrent(20);
    // And with nobody to say how much it can hold: it is found out.
    for admission in [sized, AdmissionConfig::default()] {
        let calls = load(guarded(&overloaded(), admission), OFFERED, seconds(60)).await;
        assert!(goodput(&calls, 0, 9) > 0.99);
        assert!(goodput(&calls, 12, 20) < 0.5, "there was an incident");
        for second in 25..60 {
            let goodput = goodput(&calls, second, second + 1);
            assert!(goodput >= 0.95, "{goodput} in second {second}");
        }
    }

    // The same incident with retries and nothing else: it is down for good.
    let calls = load(
        naive_retry(overloaded().service(), 2, PATIENCE),
        OFFERED,
        seconds(60),
    )
    .await;
    assert!(goodput(&calls, 0, 9) > 0.99);
    let goodput = goodput(&calls, 50, 60);
    assert!(goodput < 0.05, "{goodput}");
}

#[tokio::test(start_paused = true)]
async fn a_sole_target_that_loses_calls_without_a_queue_is_asked_by_all() {
    let every_other = Model::new("model", |_, number| {
        if fastrand::Rng::with_seed(number as u64).bool() {
            Act::Answer(millis(300))
        } else {
            Act::Silence
        }
    });
    let stack = guarded(&every_other, AdmissionConfig::default());
    let calls = load(stack, OFFERED, seconds(120)).await;
    let answered = goodput(&calls, 10, 120);
    assert!(answered > 0.45, "{answered}");
}
