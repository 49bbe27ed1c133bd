//! Every interleaving of two or three threads:
//! `RUSTFLAGS="--cfg loom" cargo test -p backstop-rate-limit --lib`.

use backstop_core::Scope;
use loom::{sync::Arc, thread};

use crate::state::{Admission, Advice, LimitKind, Micros, Refusal, State};

const STEP: Micros = 1_000;

fn refusal(now: Micros, sent: Option<Micros>, given: Option<Micros>) -> Refusal {
    Refusal {
        kind: LimitKind::Throttled,
        scope: Scope::Model,
        advice: Advice {
            may_fail_over: true,
            may_repeat: true,
        },
        now,
        sent,
        given,
    }
}

fn notice(state: &State, refusal: &Refusal) -> Option<Micros> {
    state.notice(refusal, |strikes| {
        refusal.given.unwrap_or(100 << strikes.saturating_sub(1))
    })
}

fn until(state: &State) -> Micros {
    assert!(!state.is_open(), "what is remembered is looked at");
    state.longest().expect("remembered").until
}

#[test]
fn the_longest_of_two_hints_stays() {
    loom::model(|| {
        let state = Arc::new(State::new());
        let threads = [(10, 500), (12, 300)].map(|(now, given)| {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                notice(&state, &refusal(now, None, Some(given)));
                // Whoever has noticed a limit sees at least that.
                assert!(!state.is_open());
                assert!(state.in_force(now).expect("limited").until >= now + given);
            })
        });
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(until(&state), 510);
    });
}

#[test]
fn refusals_without_a_hint_of_requests_under_way_together_are_one_strike() {
    loom::model(|| {
        let state = Arc::new(State::new());
        let threads = [10, 11].map(|now| {
            let state = Arc::clone(&state);
            thread::spawn(move || notice(&state, &refusal(now, None, None)))
        });
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert!((110..=111).contains(&until(&state)), "not doubled");
    });
}

#[test]
fn a_success_does_not_end_what_it_knows_nothing_of() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, None));
        let refused = {
            let state = Arc::clone(&state);
            // Its request was sent after the first limit had ended.
            thread::spawn(move || notice(&state, &refusal(300, Some(200), Some(700))))
        };
        // So was this one's.
        state.succeed(200, 301);
        refused.join().expect("no panic");
        assert_eq!(until(&state), 1_000, "noticed at 300, sent at 200");
    });
}

#[test]
fn one_request_returns_first() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, Some(90)));
        let threads = [(); 2].map(|()| {
            let state = Arc::clone(&state);
            thread::spawn(move || state.admit(100, STEP, 0))
        });
        let admitted = threads.map(|thread| thread.join().expect("no panic"));
        let first = admitted
            .iter()
            .filter(|admission| {
                matches!(
                    admission,
                    Admission::Returns {
                        released: Some(_),
                        ..
                    }
                )
            })
            .count();
        let blocked = admitted
            .iter()
            .filter(|admission| matches!(admission, Admission::NotBefore { .. }))
            .count();
        assert_eq!((first, blocked), (1, 1));
    });
}

#[test]
fn a_place_given_back_is_there_for_one() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, Some(90)));
        let Admission::Returns { place, .. } = state.admit(100, STEP, 0) else {
            panic!("the first returns");
        };
        let other = {
            let state = Arc::clone(&state);
            thread::spawn(move || matches!(state.admit(100, STEP, 0), Admission::Returns { .. }))
        };
        state.give_back(place);
        let mut returned = usize::from(other.join().expect("no panic"));
        while matches!(state.admit(100, STEP, 0), Admission::Returns { .. }) {
            returned += 1;
        }
        assert_eq!(returned, 1);
    });
}

#[test]
fn a_place_given_back_while_another_is_taken_is_one() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, Some(90)));
        // Two may return by then.
        let now = 100 + STEP;
        let admit = move |state: &State| match state.admit(now, STEP, 0) {
            Admission::Returns { place, .. } => Some(place),
            _ => None,
        };
        let place = admit(&state).expect("the first returns");
        let other = {
            let state = Arc::clone(&state);
            thread::spawn(move || admit(&state).is_some())
        };
        state.give_back(place);
        assert!(other.join().expect("no panic"));
        assert!(admit(&state).is_some());
        assert!(admit(&state).is_none());
    });
}

#[test]
fn nobody_returns_after_a_limit_was_noticed_again() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, Some(90)));
        let noticing = {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                notice(&state, &refusal(100, None, Some(50)));
                // Whatever the others do meanwhile, from here on nobody is let through.
                assert!(matches!(
                    state.admit(120, STEP, 0),
                    Admission::NotBefore { at: 150.., .. }
                ));
            })
        };
        let _ = state.admit(100, STEP, 0);
        state.succeed(100, 101);
        noticing.join().expect("no panic");
        assert_eq!(until(&state), 150);
    });
}

#[test]
fn what_is_over_is_forgotten_and_what_is_new_is_not() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, Some(90)));
        let now = 100 + 11 * STEP;
        assert!(matches!(
            state.admit(now, STEP, 0),
            Admission::Returns { .. }
        ));
        let forgetting = {
            let state = Arc::clone(&state);
            thread::spawn(move || state.admit(now, STEP, 0))
        };
        notice(&state, &refusal(now, None, Some(70)));
        forgetting.join().expect("no panic");
        assert_eq!(until(&state), now + 70);
    });
}

#[test]
fn it_opens_again_when_the_last_word_is_forgotten() {
    loom::model(|| {
        let state = Arc::new(State::new());
        notice(&state, &refusal(10, None, Some(90)));
        let threads = [(); 2].map(|()| {
            let state = Arc::clone(&state);
            thread::spawn(move || state.reset())
        });
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert!(state.is_open());
    });
}
