//! The rules of the memory against a plain model of them, and the shape of the ramp.

use backstop_core::Scope;
use proptest::prelude::*;

use crate::state::{Admission, Advice, LimitKind, Micros, Ramp, Refusal, State, Word, offset};

const STEP: Micros = 1_000;

const ADVICE: Advice = Advice {
    may_fail_over: true,
    may_repeat: false,
};

/// What may happen, `after` the previous thing.
#[derive(Clone, Debug)]
enum Act {
    Refused {
        kind: usize,
        given: Option<Micros>,
        sent_ago: Option<Micros>,
    },
    Succeeded {
        sent_ago: Micros,
    },
    Asked,
}

fn acts() -> impl Strategy<Value = Vec<(Micros, Act)>> {
    let act = prop_oneof![
        (
            0..3_usize,
            proptest::option::of(1..5_000_u64),
            proptest::option::of(0..1_000_u64)
        )
            .prop_map(|(kind, given, sent_ago)| Act::Refused {
                kind,
                given,
                sent_ago
            }),
        (0..1_000_u64).prop_map(|sent_ago| Act::Succeeded { sent_ago }),
        Just(Act::Asked),
    ];
    proptest::collection::vec((0..800_u64, act), 1..60)
}

/// The same rules without packing, atomics or ramps.
#[derive(Clone, Copy, Default)]
struct Plain {
    until: Micros,
    strikes: u32,
    given: bool,
}

fn back_off(strikes: u32) -> Micros {
    100 << (strikes - 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_memory_keeps_its_rules(acts in acts()) {
        let state = State::new();
        let mut plain = [Plain::default(); 3];
        // The longest that the server has said since a success.
        let mut promised = [0; 3];
        let mut noticed = 0;
        let mut now = 1;
        for (after, act) in acts {
            now += after;
            match act {
                Act::Refused { kind, given, sent_ago } => {
                    let sent = sent_ago.map(|ago| now.saturating_sub(ago));
                    let refusal = Refusal {
                        kind: LimitKind::ALL[kind],
                        scope: Scope::Model,
                        advice: ADVICE,
                        now,
                        sent,
                        given,
                    };
                    let before = plain[kind];
                    let told = state.notice(&refusal, |strikes| {
                        given.unwrap_or_else(|| back_off(strikes))
                    });
                    let in_force = before.until > now;
                    let is_news = before.until == 0 || sent.is_some_and(|sent| sent > noticed);
                    noticed = noticed.max(now);
                    let (strikes, until) = match given {
                        Some(given) => (before.strikes, now + given),
                        None if in_force && (before.given || !is_news) => (before.strikes, 0),
                        None => {
                            let strikes = if is_news { before.strikes + 1 } else { before.strikes.max(1) };
                            (strikes, now + back_off(strikes.min(31)))
                        }
                    };
                    let protected = in_force && (before.given || given.is_none());
                    let changes = until > 0 && (!protected || until > before.until);
                    prop_assert_eq!(told, changes.then_some(until));
                    if changes {
                        plain[kind] = Plain { until, strikes, given: given.is_some() };
                    }
                    // The law the rules are for.
                    if let Some(given) = given {
                        promised[kind] = promised[kind].max(now + given);
                    }
                    if promised[kind] > now {
                        prop_assert!(state.in_force(now).is_some_and(|limit| limit.until >= promised[kind]));
                    }
                }
                Act::Succeeded { sent_ago } => {
                    let sent = now.saturating_sub(sent_ago);
                    state.succeed(sent, now);
                    if sent > noticed {
                        for plain in &mut plain {
                            plain.until = plain.until.min(now);
                            plain.strikes = 0;
                        }
                        promised = [0; 3];
                    }
                }
                Act::Asked => {
                    // Without a ramp: what is over is let through and not forgotten here.
                    let longest = plain.iter().map(|plain| plain.until).max().unwrap_or(0);
                    let blocked = state.in_force(now).map(|limit| limit.until);
                    prop_assert_eq!(blocked, (longest > now).then_some(longest));
                    prop_assert_eq!(state.is_open(), longest == 0);
                    if longest > now {
                        let asked = state.admit(now, STEP, 0);
                        let waits = matches!(asked, Admission::NotBefore { at, .. } if at >= longest);
                        prop_assert!(waits, "{:?}", asked);
                    }
                }
            }
        }
    }

    #[test]
    fn a_word_keeps_its_parts(
        until in 1..=Word::UNTIL_MAX,
        strikes in 0..=Word::STRIKES_MAX,
        given: bool,
        may_fail_over: bool,
        may_repeat: bool,
        scope in prop_oneof![
            Just(Scope::Request),
            Just(Scope::Model),
            Just(Scope::Credential),
            Just(Scope::Account),
            Just(Scope::Provider),
        ],
    ) {
        let advice = Advice { may_fail_over, may_repeat };
        let word = Word::new(until, strikes, scope, advice, given);
        prop_assert!(!word.is_zero());
        prop_assert_eq!(
            (word.until(), word.strikes(), word.scope(), word.advice(), word.given()),
            (until, strikes, scope, advice, given)
        );
    }

    #[test]
    fn no_more_return_than_the_ramp_allows(gaps in proptest::collection::vec(0..400_u64, 1..200)) {
        let state = State::new();
        let refusal = Refusal {
            kind: LimitKind::Overloaded,
            scope: Scope::Provider,
            advice: ADVICE,
            now: 0,
            sent: None,
            given: Some(5_000),
        };
        state.notice(&refusal, |_| 5_000);
        let (mut now, mut returned) = (4_000, 0_u64);
        for gap in gaps {
            now += gap;
            match state.admit(now, STEP, 0) {
                Admission::Returns { .. } => {
                    returned += 1;
                    prop_assert!(now >= 5_000);
                    let doublings = u32::try_from((now - 5_000) / STEP).expect("small");
                    prop_assert!(doublings >= 10 || returned < 2 << doublings);
                }
                Admission::NotBefore { at, .. } => prop_assert!(at > now),
                Admission::Open => prop_assert!(now >= 5_000 + 10 * STEP),
            }
        }
    }
}

#[test]
fn the_ramp_doubles_in_each_step() {
    let offsets: Vec<_> = (1..=8).map(|n| offset(n, STEP)).collect();
    assert_eq!(
        offsets,
        [0, 1_000, 1_500, 2_000, 2_250, 2_500, 2_750, 3_000]
    );
    assert!((1..5_000).all(|n| offset(n, 1_000_000) < offset(n + 1, 1_000_000)));
    assert_eq!(offset(1_000, 0), 0, "no ramp");
    assert_eq!(offset(u64::MAX, Micros::MAX), Micros::MAX, "no overflow");
}

#[test]
fn a_place_of_an_older_limit_is_not_given_back_to_a_newer_one() {
    let state = State::new();
    let refused = |now| {
        let refusal = Refusal {
            kind: LimitKind::Throttled,
            scope: Scope::Model,
            advice: ADVICE,
            now,
            sent: None,
            given: Some(50),
        };
        state.notice(&refusal, |_| 50)
    };
    let admit = |now| match state.admit(now, STEP, 0) {
        Admission::Returns { place, .. } => Some(place),
        _ => None,
    };
    refused(10);
    let older = admit(60).expect("the first");
    refused(70);
    assert!(admit(120).is_some(), "the first again");
    state.give_back(older);
    assert!(admit(120).is_none(), "one at a time");
}

#[test]
fn a_ramp_belongs_to_one_limit() {
    let ramp = Ramp(0).since(7).next().next();
    assert_eq!(ramp.since(7).count(), 2);
    assert_eq!(ramp.since(8).count(), 0);
}

/// Sent in the moment in which another one learns of the limit, a request is refused once more.
#[test]
fn a_guess_does_not_leave_what_the_server_said_unprotected() {
    let state = State::new();
    let refused = |now, sent, given: Option<Micros>| {
        let refusal = Refusal {
            kind: LimitKind::Throttled,
            scope: Scope::Model,
            advice: ADVICE,
            now,
            sent,
            given,
        };
        state.notice(&refusal, |strikes| {
            given.unwrap_or_else(|| back_off(strikes))
        })
    };
    assert_eq!(refused(10, None, Some(50)), Some(60));
    assert_eq!(refused(12, Some(11), None), None, "a guess of 100");
    assert_eq!(refused(13, None, Some(5)), None, "shorter");
    assert_eq!(state.in_force(59).map(|limit| limit.until), Some(60));
    assert_eq!(refused(14, None, Some(70)), Some(84), "longer");
}

#[test]
fn a_wait_beyond_the_clock_is_cut() {
    let state = State::new();
    let refusal = Refusal {
        kind: LimitKind::QuotaExhausted,
        scope: Scope::Account,
        advice: ADVICE,
        now: Micros::MAX - 1,
        sent: None,
        given: Some(Micros::MAX),
    };
    assert_eq!(
        state.notice(&refusal, |_| Micros::MAX),
        Some(Word::UNTIL_MAX)
    );
}
