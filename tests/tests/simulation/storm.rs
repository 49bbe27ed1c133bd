//! Nothing works: how many attempts that costs.

use backstop_core::{Kind, Outcome};

use super::{
    PER_SECOND, builder, over,
    rig::{Act, Changes, Model, load, millis, naive_chain, naive_retry, ratio, seconds},
    without_ejection,
};

/// Refuses everything, quickly.
fn down(name: &'static str) -> Model {
    Model::new(name, |_, _| {
        Act::Fail(millis(50), Outcome::new(Kind::Unavailable))
    })
}

/// Attempts per call, for the calls of the first ten seconds and for those after them.
///
/// Each attempt is counted for the call that it belongs to: a retry that is sent just after the
/// tenth second may be of a call from before it.
fn attempts(models: &[&Model]) -> (f64, f64) {
    let arrivals = || models.iter().flat_map(|model| model.arrivals());
    let first = arrivals().filter(|arrival| arrival.call < 10 * PER_SECOND);
    let after = arrivals().filter(|arrival| arrival.call >= 10 * PER_SECOND);
    let calls = |seconds| seconds * PER_SECOND as usize;
    (
        ratio(first.count(), calls(10)),
        ratio(after.count(), calls(50)),
    )
}

#[tokio::test(start_paused = true)]
async fn one_target_that_is_out_gets_hardly_more_than_the_calls() {
    let model = down("only");
    let stack = over(builder(&Changes::new()), &[("only", &model)]);
    let calls = load(stack, PER_SECOND, seconds(60)).await;
    assert!(calls.iter().all(|call| !call.is_answered()));
    let (_, after) = attempts(&[&model]);
    assert!((1.0..=1.10).contains(&after), "{after}");
    // It is ejected: nobody waits for a retry that will not be made.
    let slowest = calls
        .iter()
        .filter(|call| call.at >= seconds(10))
        .map(|call| call.took)
        .max();
    assert_eq!(slowest, Some(millis(50)));

    // By the budget alone. It does allow retries: a burst that was saved up, then a tenth.
    let model = down("only");
    let builder_without = builder(&Changes::new()).health(without_ejection());
    load(
        over(builder_without, &[("only", &model)]),
        PER_SECOND,
        seconds(60),
    )
    .await;
    let (first, after) = attempts(&[&model]);
    assert!((1.05..=1.15).contains(&first), "{first}");
    assert!((1.09..=1.10).contains(&after), "{after}");

    let model = down("only");
    let naive = naive_retry(model.service(), 2, seconds(10));
    load(naive, PER_SECOND, seconds(60)).await;
    let (_, naive) = attempts(&[&model]);
    assert!(naive > 2.9, "{naive}");
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_is_out_gets_hardly_more_than_one_attempt_per_link() {
    let models = [down("a"), down("b"), down("c")];
    let [a, b, c] = &models;
    let chain = [("a", a), ("b", b), ("c", c)];
    load(
        over(builder(&Changes::new()), &chain),
        PER_SECOND,
        seconds(60),
    )
    .await;
    let (first, after) = attempts(&[a, b, c]);
    assert!(first <= 3.3, "{first}");
    // All are ejected: each call is one try at the one that is due soonest, or a probe.
    assert!(after <= 1.10, "{after}");

    let models = [down("a"), down("b"), down("c")];
    let [a, b, c] = &models;
    let chain = [("a", a), ("b", b), ("c", c)];
    let builder_without = builder(&Changes::new()).health(without_ejection());
    load(over(builder_without, &chain), PER_SECOND, seconds(60)).await;
    let (_, after) = attempts(&[a, b, c]);
    assert!((3.0..=3.0 * 1.10).contains(&after), "{after}");

    let models = [down("a"), down("b"), down("c")];
    let naive = models
        .iter()
        .map(|model| naive_retry(model.service(), 2, seconds(10)))
        .collect();
    load(naive_chain(naive), PER_SECOND, seconds(60)).await;
    let [a, b, c] = &models;
    let (_, naive) = attempts(&[a, b, c]);
    assert!(naive > 8.9, "{naive}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_with_a_time_is_kept_by_all_callers() {
    let throttled = |at, _| {
        if at < seconds(7) {
            // Counted from when the answer arrives.
            let rest = (seconds(7) - at).saturating_sub(millis(5));
            let outcome = Outcome::new(Kind::Throttled)
                .with_retry_after(rest, backstop_core::HintSource::RetryAfter);
            Act::Fail(millis(5), outcome)
        } else {
            Act::Answer(millis(5))
        }
    };
    let primary = Model::new("primary", throttled);
    let stack = over(builder(&Changes::new()), &[("primary", &primary)]);
    let calls = load(stack, PER_SECOND, seconds(9)).await;
    // Those that were under way together at the very beginning, and nobody until it is over.
    assert!(primary.count(seconds(0), millis(100)) <= 2);
    assert_eq!(primary.count(millis(100), seconds(7)), 0);
    for call in &calls {
        let early = call.at < seconds(7);
        assert_eq!(call.is_answered(), !early, "{call:?}");
        if early {
            let told = call.retry_after.expect("an honest time");
            let rest = seconds(7) - call.at;
            assert!(told.abs_diff(rest) < millis(1_000), "{call:?}");
        }
    }
}
