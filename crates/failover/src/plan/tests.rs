use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn names(count: usize) -> Vec<Arc<str>> {
    (0..count)
        .map(|number| format!("target {number}").into())
        .collect()
}

fn bound<P: Plan>(mut plan: P, targets: usize) -> P {
    plan.bind(&names(targets)).expect("fits");
    plan
}

fn key(number: u32) -> Affinity {
    Affinity::of(&number.to_le_bytes())
}

fn share(plan: &impl Plan, targets: usize, of: usize) -> f64 {
    let hits = (0..10_000_u32)
        .filter(|number| {
            let call = Call::new(Instant::now(), targets).affinity(key(*number));
            plan.order(&call).first() == Some(of)
        })
        .count();
    f64::from(u32::try_from(hits).expect("few")) / 10_000.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the plan, each target is in the order exactly once.
    #[test]
    fn every_target_is_in_every_order_once(
        weights in prop::collection::vec(0_u32..5, 1..32),
        samples in prop::collection::vec((0_usize..32, 0_u64..5_000), 0..50),
        affinity in proptest::option::of(any::<u32>()),
    ) {
        let targets = weights.len();
        let now = Instant::now();
        let latency = LeastFirstToken::new().explore(0.5).unwrap();
        for (target, millis) in samples {
            latency.on_first_token(now, target, Duration::from_millis(millis));
        }
        let mut plans: Vec<Box<dyn Plan>> = vec![
            Box::new(Ordered),
            Box::new(latency),
            Box::new(Rendezvous::default()),
            Box::new(Sticky::new(Rendezvous::default(), SECOND).unwrap().capacity(4).unwrap()),
        ];
        plans.extend(Weighted::new(weights).ok().map(|plan| Box::new(plan) as Box<dyn Plan>));
        let mut call = Call::new(now, targets);
        call.affinity = affinity.map(key);
        for plan in plans {
            let plan = bound(plan, targets);
            let order = plan.order(&call);
            prop_assert_eq!(order.len(), targets);
            let distinct: HashSet<_> = order.iter().collect();
            prop_assert_eq!(distinct.len(), targets);
            prop_assert!(order.iter().all(|target| target < targets));
        }
    }
}

#[test]
fn the_configuration_is_the_default_order() {
    let order = Ordered.order(&Call::new(Instant::now(), 3));
    assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn weights_decide_how_often_a_target_is_first() {
    let plan = bound(Weighted::new([6, 3, 1, 0]).unwrap(), 4);
    for (target, expected) in [(0, 0.6), (1, 0.3), (2, 0.1), (3, 0.0)] {
        let share = share(&plan, 4, target);
        // Ten thousand draws: five standard deviations are 0.025.
        assert!((share - expected).abs() < 0.025, "{target}: {share}");
    }
    let mut plan = Weighted::new([1, 2]).unwrap();
    assert_eq!(plan.bind(&names(3)).unwrap_err().field(), "plan.weights");
    assert!(Weighted::new([0, 0]).is_err());
}

#[test]
fn keys_are_spread_evenly_and_few_move() {
    let four = bound(Rendezvous::default(), 4);
    let five = bound(Rendezvous::default(), 5);
    for target in 0..4 {
        let share = share(&four, 4, target);
        assert!((share - 0.25).abs() < 0.025, "{target}: {share}");
    }
    let now = Instant::now();
    for number in 0..2_000 {
        let first = |plan: &Rendezvous, targets| {
            plan.order(&Call::new(now, targets).affinity(key(number)))
                .first()
        };
        let (before, after) = (first(&four, 4), first(&five, 5));
        assert!(before == after || after == Some(4));
    }
    let call = Call::new(now, 4);
    assert_eq!(four.order(&call), Ordered.order(&call));
}

#[test]
fn a_key_means_the_same_in_every_version() {
    // Written down: replicas of different versions must agree.
    let plan = bound(Rendezvous::default(), 4);
    let firsts: Vec<_> = (0..12)
        .map(|number| {
            let call = Call::new(Instant::now(), 4).affinity(key(number));
            plan.order(&call).first().unwrap()
        })
        .collect();
    assert_eq!(firsts, WRITTEN_DOWN);
}

const WRITTEN_DOWN: [usize; 12] = [1, 2, 1, 0, 0, 1, 0, 2, 2, 0, 3, 2];

#[test]
fn a_rescued_conversation_stays_for_the_dwell_time_and_no_longer() {
    let plan = bound(Sticky::new(Ordered, SECOND * 300).unwrap(), 3);
    let start = Instant::now();
    let call = |after: Duration| Call::new(start + after, 3).affinity(key(7));
    let first = |after| plan.order(&call(after)).iter().collect::<Vec<_>>();

    plan.on_served(&call(SECOND), 0, 0);
    assert_eq!(first(SECOND), [0, 1, 2]);
    plan.on_served(&call(SECOND), 2, 0);
    assert_eq!(first(SECOND * 2), [2, 0, 1]);
    // Use does not extend it.
    plan.on_served(&call(SECOND * 200), 2, 2);
    assert_eq!(first(SECOND * 300), [2, 0, 1]);
    assert_eq!(first(SECOND * 302), [0, 1, 2]);
    // Others are where they were, and so are calls without a key.
    let other = Call::new(start, 3).affinity(key(8));
    assert_eq!(plan.order(&other).first(), Some(0));
    assert_eq!(plan.order(&Call::new(start, 3)).first(), Some(0));
    // Rescued again, from where it was rescued to.
    plan.on_served(&call(SECOND), 2, 0);
    plan.on_served(&call(SECOND * 5), 1, 2);
    assert_eq!(first(SECOND * 6), [1, 0, 2]);
}

#[test]
fn the_memory_of_rescues_is_bounded_and_forgets_the_oldest() {
    let plan = Sticky::new(Ordered, SECOND * 300)
        .unwrap()
        .capacity(4)
        .unwrap();
    let start = Instant::now();
    for number in 0..100 {
        let now = start + SECOND * number;
        plan.on_served(&Call::new(now, 3).affinity(key(number)), 1, 0);
    }
    let now = start + SECOND * 100;
    let remembered: Vec<_> = (0..100)
        .filter(|number| plan.rescued(now, key(*number)).is_some())
        .collect();
    assert_eq!(remembered, [96, 97, 98, 99]);
}

#[test]
fn the_fastest_is_first_and_equals_keep_their_order() {
    let plan = LeastFirstToken::new().explore(0.0).unwrap();
    let now = Instant::now();
    let call = Call::new(now, 4);
    let order = || plan.order(&call).iter().collect::<Vec<_>>();
    assert_eq!(order(), [0, 1, 2, 3]);
    let told = |target, millis| plan.on_first_token(now, target, Duration::from_millis(millis));
    told(0, 900);
    told(1, 110);
    told(2, 100);
    // The second is within a fifth of the third; of the last nothing is known.
    assert_eq!(order(), [1, 2, 3, 0]);
    assert_eq!(plan.average(0), Some(Duration::from_millis(900)));
    assert_eq!(plan.average(3), None);
}

#[test]
fn of_many_that_come_at_the_same_time_each_counts() {
    let plan = LeastFirstToken::new();
    let now = Instant::now();
    plan.on_first_token(now, 0, SECOND);
    for _ in 0..1000 {
        plan.on_first_token(now, 0, SECOND / 10);
    }
    assert!(plan.average(0).unwrap() < SECOND / 9);
}

#[test]
fn a_wait_in_vain_makes_slower_and_never_faster() {
    let ms = Duration::from_millis;
    let now = Instant::now();
    let call = Call::new(now, 2);
    let plan = || LeastFirstToken::new().explore(0.0).unwrap();
    // Of a target of which nothing is known a short wait says little, a long one something.
    for (waited, first) in [(ms(1), 0), (ms(110), 0), (ms(200), 1)] {
        let plan = plan();
        plan.on_no_first_token(now, 0, waited);
        plan.on_first_token(now, 1, ms(100));
        assert_eq!(plan.order(&call).first(), Some(first), "{waited:?}");
        assert_eq!(plan.average(0), Some(waited));
        // A shorter one takes nothing back, and the first answer is not taken for a quicker one.
        plan.on_no_first_token(now, 0, ms(1));
        assert_eq!(plan.average(0), Some(waited));
        plan.on_no_first_token(now, 0, ms(250));
        assert_eq!(plan.average(0), Some(ms(250)));
        plan.on_first_token(now, 0, ms(300));
        assert_eq!(plan.average(0), Some(ms(300)));
        assert_eq!(plan.order(&call).first(), Some(1));
    }
    let plan = Sticky::new(plan(), SECOND).unwrap();
    plan.on_first_token(now, 0, ms(100));
    plan.on_first_token(now, 1, ms(100));
    plan.on_no_first_token(now + SECOND * 600, 0, ms(1));
    assert_eq!(plan.order(&call).first(), Some(0));
    plan.on_no_first_token(now + SECOND * 600, 0, SECOND * 3600);
    assert_eq!(plan.order(&call).first(), Some(1));
}

#[test]
fn the_average_forgets_by_time() {
    let plan = LeastFirstToken::new().explore(0.0).unwrap();
    let now = Instant::now();
    plan.on_first_token(now, 0, SECOND);
    // A second of many fast answers moves it a little, two minutes of them altogether.
    for number in 1..=100 {
        plan.on_first_token(now + SECOND / 100 * number, 0, SECOND / 10);
    }
    let soon = plan.average(0).unwrap();
    assert!(soon > SECOND / 4, "{soon:?}");
    plan.on_first_token(now + SECOND * 120, 0, SECOND / 10);
    let later = plan.average(0).unwrap();
    assert!(later < SECOND * 12 / 100, "{later:?}");
}

#[test]
fn exploration_begins_at_the_one_asked_longest_ago() {
    let plan = LeastFirstToken::new().explore(0.25).unwrap();
    let now = Instant::now();
    plan.on_first_token(now, 0, SECOND / 10);
    plan.on_first_token(now + SECOND, 2, SECOND * 5);
    plan.on_first_token(now + SECOND * 2, 1, SECOND * 5);
    plan.on_first_token(now + SECOND * 3, 0, SECOND / 10);
    assert_eq!(plan.stalest(&Call::new(now, 4)), 3);
    // Each has its turn, also those that are not asked then.
    let mut explored = Vec::new();
    for number in 1..=4_000 {
        let now = now + SECOND * 4 + SECOND / 100 * number;
        let first = plan.order(&Call::new(now, 3)).first().unwrap();
        if first == 0 {
            plan.on_first_token(now, 0, SECOND / 10);
        } else {
            explored.push(first);
        }
    }
    assert!((800..1_200).contains(&explored.len()), "{}", explored.len());
    assert_eq!(explored[0], 2);
    assert!(explored.chunks_exact(2).all(|turns| turns == [2, 1]));
}

#[test]
fn senseless_settings_are_refused_by_name() {
    let latency = LeastFirstToken::new;
    assert_eq!(latency().explore(1.5).unwrap_err().field(), "plan.explore");
    assert_eq!(
        latency().tolerance(f64::NAN).unwrap_err().field(),
        "plan.tolerance"
    );
    assert_eq!(
        latency().memory(Duration::ZERO).unwrap_err().field(),
        "plan.memory"
    );
    let sticky = |dwell| Sticky::new(Ordered, dwell);
    assert_eq!(sticky(Duration::ZERO).unwrap_err().field(), "plan.dwell");
    assert!(sticky(SECOND).unwrap().capacity(0).is_err());
}

#[test]
fn keys_do_not_show_in_debug() {
    assert_eq!(format!("{:?}", Affinity::of(b"secret")), "Affinity { .. }");
}
