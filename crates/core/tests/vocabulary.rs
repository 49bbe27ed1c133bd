//! What the words mean: the defaults of each kind of outcome, limits that are left, deadlines, and
//! the one layer of this crate.

use std::time::Duration;

use backstop_core::{
    Allowance, BoxError, Deadline, Dimension, Failure, Headroom, HintSource, Kind, Outcome, Phase,
    RetargetLayer, Scope, Window, outcome_of,
};
use backstop_testkit::laws;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};

/// Kind, scope, may fail over, may repeat, is a fault, is a limit.
const DEFAULTS: [(Kind, Scope, bool, bool, bool, bool); 16] = [
    (Kind::Success, Scope::Request, false, false, false, false),
    (Kind::Throttled, Scope::Model, true, true, false, true),
    (
        Kind::QuotaExhausted,
        Scope::Account,
        true,
        false,
        false,
        true,
    ),
    (Kind::Overloaded, Scope::Provider, true, true, true, false),
    (Kind::Unavailable, Scope::Provider, true, true, true, false),
    (
        Kind::TimedOut(Phase::Idle),
        Scope::Provider,
        true,
        true,
        true,
        false,
    ),
    (Kind::NotProcessed, Scope::Provider, true, true, true, false),
    (
        Kind::Unauthorized,
        Scope::Credential,
        true,
        false,
        true,
        false,
    ),
    (Kind::NotFound, Scope::Model, true, false, true, false),
    (
        Kind::ContextTooLong,
        Scope::Request,
        true,
        false,
        false,
        false,
    ),
    (
        Kind::ContentFiltered,
        Scope::Request,
        false,
        false,
        false,
        false,
    ),
    (Kind::TooLarge, Scope::Request, true, false, false, false),
    (Kind::Unsupported, Scope::Request, true, false, false, false),
    (Kind::Rejected, Scope::Request, false, false, false, false),
    (Kind::Malformed, Scope::Provider, true, true, true, false),
    (Kind::Cancelled, Scope::Request, false, false, false, false),
];

#[test]
fn the_defaults_of_each_kind() {
    for (kind, scope, fail_over, repeat, fault, limit) in DEFAULTS {
        let outcome = Outcome::new(kind);
        assert_eq!(outcome.scope(), scope, "{kind}");
        assert_eq!(outcome.may_fail_over(), fail_over, "{kind}");
        assert_eq!(outcome.may_repeat(), repeat, "{kind}");
        assert_eq!(outcome.is_fault(), fault, "{kind}");
        assert_eq!(outcome.is_limit(), limit, "{kind}");
        // What concerns one request only is held against nobody.
        let outcome = outcome.with_scope(Scope::Request);
        assert!(!outcome.is_fault() && !outcome.is_limit(), "{kind}");
    }
}

#[test]
fn the_names_of_kinds_differ() {
    let mut names: Vec<_> = DEFAULTS.iter().map(|(kind, ..)| kind.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), DEFAULTS.len());
}

#[test]
fn an_outcome_says_what_happened_and_why() {
    let outcome = Outcome::timed_out(Phase::FirstToken)
        .with_retry_after(Duration::from_millis(1500), HintSource::Text)
        .with_evidence("a limit of this stack");
    assert_eq!(
        outcome.to_string(),
        "timeout (first_token), retry after 1500 ms, because of a limit of this stack"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn headroom_keeps_the_last_word_on_each_limit(
        inserted in vec(
            (
                select(vec![Dimension::Requests, Dimension::Tokens, Dimension::InputTokens]),
                select(vec![Window::Minute, Window::Day, Window::Unknown]),
                option::of(0_u64..5),
                option::of(0_u64..9),
            ),
            0..20,
        ),
    ) {
        let mut headroom = Headroom::default();
        let mut expected: Vec<Allowance> = Vec::new();
        for (dimension, window, limit, remaining) in inserted {
            let allowance = Allowance { dimension, window, limit, remaining, reset: None };
            headroom.insert(allowance);
            let same = |one: &&mut Allowance| one.dimension == dimension && one.window == window;
            if let Some(known) = expected.iter_mut().find(same) {
                *known = allowance;
            } else if expected.len() < Headroom::CAPACITY {
                expected.push(allowance);
            }
        }
        let kept: Vec<_> = headroom.iter().copied().collect();
        prop_assert_eq!(headroom.is_empty(), kept.is_empty());
        prop_assert_eq!(kept, expected);
        if let Some(share) = headroom.lowest_share() {
            prop_assert!((0.0..=1.0).contains(&share));
        }
    }

    #[test]
    fn what_is_left_never_exceeds_the_limit(limit in any::<u64>(), later in any::<u64>()) {
        let now = tokio::time::Instant::now().into_std();
        let limit = Duration::from_secs(limit);
        let deadline = Deadline::after(now, limit);
        prop_assert!(deadline.remaining(now) <= limit);
        let past = now.checked_add(Duration::from_secs(later));
        if let Some(past) = past.filter(|past| *past >= deadline.instant()) {
            prop_assert_eq!(deadline.remaining(past), Duration::ZERO);
        }
        let sooner = Deadline::at(now);
        prop_assert_eq!(deadline.earlier(sooner), sooner);
    }
}

#[tokio::test(start_paused = true)]
async fn retargeting_keeps_the_laws_of_tower() {
    let layer = RetargetLayer::new(|request: &'static str| Ok::<_, BoxError>(request.len()));
    laws::check(|inner| layer.layer(inner), || "request", || "answer")
        .await
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_retargeted_is_not_sent() {
    let layer = RetargetLayer::new(|_: ()| {
        Err::<(), _>(Failure::new(Outcome::new(Kind::Unsupported)).into())
    });
    let service = service_fn(async |()| -> Result<(), BoxError> { unreachable!("not sent") });
    let error = layer.layer(service).oneshot(()).await.unwrap_err();
    assert_eq!(outcome_of(&*error).kind(), Kind::Unsupported);
}

#[tokio::test]
async fn what_was_reserved_for_a_refused_request_is_given_back() {
    let layer = RetargetLayer::new(|fits: bool| {
        let refused = || Failure::new(Outcome::new(Kind::Unsupported)).into();
        fits.then_some(()).ok_or_else::<BoxError, _>(refused)
    });
    let service = service_fn(async |()| Ok::<_, BoxError>("answer"));
    let mut one = layer.layer(ConcurrencyLimit::new(service, 1));
    let mut other = one.clone();
    let refused = one.ready().await.unwrap().call(false);
    // Neither the service, which is kept, nor the future holds the only place.
    assert!(tokio_test::task::spawn(other.ready()).poll().is_ready());
    assert!(refused.await.is_err());
    assert_eq!(other.call(true).await.unwrap(), "answer");
    // And it may be used again.
    assert_eq!(
        one.ready().await.unwrap().call(true).await.unwrap(),
        "answer"
    );
}
