//! Random scripts against a short reference model that predicts who is asked, what the caller sees
//! and how long it takes; and what must hold whatever the script.

mod support;

use std::{sync::atomic::Ordering, time::Duration};

use backstop_core::{Kind, Outcome, Phase};
use backstop_failover::{
    Failover, Retry, Target,
    admission::{Admission, AdmissionConfig},
    budget::{Budget, BudgetConfig},
    health::{Health, HealthConfig},
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use support::{Ending, Head, Model, Play, Toy, outcome, read, request};
use tokio::time::{Instant, advance, timeout};
use tower::ServiceExt;

const DEADLINE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
struct Settings {
    at_most_once: bool,
    retries: u32,
}

/// What a caller sees.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    /// A status, all bytes, and whether they end in an error.
    Answer(u16, Bytes, bool),
    Failed(Kind),
}

#[derive(Clone, Debug)]
struct Prediction {
    asked: Vec<usize>,
    seen: Seen,
    took: Duration,
}

// === the reference model ===

/// How one attempt goes that has this long. `None` when it is too close to call.
struct Course {
    took: Duration,
    kind: Kind,
    /// What it said, if it said anything that can be shown.
    answer: Option<Seen>,
    /// How long the rest of the answer takes, if nobody has read it.
    unread: Duration,
}

fn course(play: &Play, limit: Duration) -> Option<Course> {
    let mut at = play.ready_after;
    let late = |at: Duration| -> Option<bool> {
        let close = at.abs_diff(limit) < 100 * MS;
        (!close).then_some(at > limit)
    };
    let lost = |took, kind| {
        Some(Course {
            took,
            kind,
            answer: None,
            unread: Duration::ZERO,
        })
    };
    if late(at)? {
        return lost(limit, Kind::TimedOut(Phase::Ready));
    }
    at += play.head_after;
    if late(at)? || matches!(play.head, Head::Hang) {
        return lost(limit, Kind::TimedOut(Phase::Headers));
    }
    let all: Bytes = play
        .body
        .iter()
        .flat_map(|(_, piece)| piece.to_vec())
        .collect::<Vec<_>>()
        .into();
    let broken = play.end == Ending::Broken;
    let status = match play.head {
        Head::Refused => return lost(at, Kind::NotProcessed),
        Head::Reset => return lost(at, Kind::Unavailable),
        Head::Status(status) => status,
        Head::Hang => unreachable!("above"),
    };
    if status != 200 {
        let kind = match status {
            400 => Kind::Rejected,
            401 => Kind::Unauthorized,
            410 => Kind::ContextTooLong,
            411 => Kind::ContentFiltered,
            429 => Kind::Throttled,
            _ => Kind::Unavailable,
        };
        return Some(Course {
            took: at,
            kind,
            answer: Some(Seen::Answer(status, all, broken)),
            unread: play.body.iter().map(|(delay, _)| *delay).sum(),
        });
    }
    for (delay, piece) in &play.body {
        at += *delay;
        if late(at)? {
            return lost(limit, Kind::TimedOut(Phase::FirstToken));
        }
        for byte in piece {
            let kind = match byte {
                b't' | b'.' => Kind::Success,
                b'e' => Kind::Overloaded,
                _ => continue,
            };
            // Whatever decides first, an end or an error event, is all that the stream says.
            let says_all = all.iter().find(|byte| b".e".contains(byte));
            let ends_badly = match says_all {
                Some(b'.') => false,
                Some(_) => broken,
                None => true,
            };
            return Some(Course {
                took: at,
                kind,
                answer: Some(Seen::Answer(200, all.clone(), ends_badly)),
                unread: Duration::ZERO,
            });
        }
    }
    match play.end {
        Ending::Clean => lost(at, Kind::Malformed),
        Ending::Broken => lost(at, Kind::Unavailable),
        Ending::Silent => lost(limit, Kind::TimedOut(Phase::FirstToken)),
    }
}

fn predict(scripts: &[[Play; 2]], settings: Settings) -> Option<Prediction> {
    let mut asked = Vec::new();
    let mut took = Duration::ZERO;
    let mut first: Option<(usize, Kind, Option<Seen>)> = None;
    let end = |asked, took, first: Option<(usize, Kind, Option<Seen>)>| {
        let (_, kind, answer) = first?;
        let seen = answer.unwrap_or(Seen::Failed(kind));
        Some(Prediction { asked, seen, took })
    };
    'targets: for (target, plays) in scripts.iter().enumerate() {
        let is_last = target + 1 == scripts.len();
        let left = DEADLINE - took;
        let until = took + if is_last { left } else { left / 2 };
        for (retry, play) in (0..).zip(plays) {
            let Course {
                took: passed,
                kind,
                answer,
                unread,
            } = course(play, until - took)?;
            took += passed;
            // Who is never ready is not called.
            if kind != Kind::TimedOut(Phase::Ready) {
                asked.push(target);
            }
            if kind == Kind::Success {
                return end(asked, took, Some((target, kind, answer)));
            }
            let lost = answer.is_none()
                && !matches!(kind, Kind::NotProcessed | Kind::TimedOut(Phase::Ready));
            let kept = first.is_none() || (first.as_ref()?.0 == target && answer.is_some());
            if kept {
                let old = first.take();
                first = Some(
                    old.filter(|_| answer.is_none())
                        .unwrap_or((target, kind, answer)),
                );
            }
            let stops = settings.at_most_once && lost;
            if kind == Kind::Rejected || stops {
                break 'targets;
            }
            // Who is throttled is not asked before it is over.
            let repeats = matches!(
                kind,
                Kind::Unavailable | Kind::Overloaded | Kind::NotProcessed | Kind::Malformed
            );
            let again = retry < settings.retries && repeats && took + 2 * MS < until;
            let refused = matches!(kind, Kind::ContextTooLong | Kind::ContentFiltered);
            // The first answer is read before anybody else is asked, if it does not take long.
            if kept && (again || !is_last) {
                took += unread.min(50 * MS);
            }
            if refused {
                break 'targets;
            }
            if !again {
                break;
            }
        }
        if took >= DEADLINE {
            break;
        }
    }
    end(asked, took, first)
}

// === scripts ===

/// No sum of these is near half of the deadline or of what is left of it.
fn delay() -> impl Strategy<Value = Duration> {
    select(vec![0, 0, 0, 1_300, 7_700, 22_100, 41_900]).prop_map(Duration::from_millis)
}

fn piece() -> impl Strategy<Value = Bytes> {
    vec(select(&b"kkkkte."[..]), 1..4).prop_map(Bytes::from)
}

fn play() -> impl Strategy<Value = Play> {
    let head = prop_oneof![
        6 => Just(Head::Status(200)),
        4 => select(vec![400, 401, 410, 411, 429, 503, 503]).prop_map(Head::Status),
        1 => Just(Head::Refused),
        1 => Just(Head::Reset),
        1 => Just(Head::Hang),
    ];
    let end = select(vec![Ending::Clean, Ending::Broken, Ending::Silent]);
    let ready = prop_oneof![8 => Just(Duration::ZERO), 1 => delay()];
    (ready, delay(), head, vec((delay(), piece()), 0..4), end).prop_map(
        |(ready_after, head_after, head, body, end)| {
            // Nobody reads a silent answer to its end.
            let commits = body
                .iter()
                .any(|(_, piece)| piece.iter().any(|byte| b"te.".contains(byte)));
            let is_silent =
                end == Ending::Silent && (commits || !matches!(head, Head::Status(200)));
            Play {
                ready_after,
                head_after,
                head,
                body,
                end: if is_silent { Ending::Clean } else { end },
                header: None,
            }
        },
    )
}

fn scripts() -> impl Strategy<Value = Vec<[Play; 2]>> {
    vec([play(), play()], 1..4)
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), 0..2_u32).prop_map(|(at_most_once, retries)| Settings {
        at_most_once,
        retries,
    })
}

const EJECTION: Duration = Duration::from_secs(5);

/// A target's health that was ejected just now, for [`EJECTION`].
fn due_for_a_probe() -> Health {
    let config = HealthConfig::default().consecutive_faults(1).jitter(0.0);
    let health = Health::new(config.ejection_base(EJECTION)).expect("valid");
    let now = Instant::now();
    let permit = health.try_acquire(now).expect("healthy so far");
    permit.report(now, &Outcome::new(Kind::Unavailable));
    health
}

fn build(models: &[Model], settings: Settings) -> Failover<Model, Toy> {
    build_with(models, settings, |_, target| target)
}

fn build_with(
    models: &[Model],
    settings: Settings,
    with: impl Fn(usize, Target<Model>) -> Target<Model>,
) -> Failover<Model, Toy> {
    let targets = models
        .iter()
        .enumerate()
        .map(|(place, model)| {
            let one = AdmissionConfig::default().max_concurrent(1);
            let target = Target::new(format!("model-{place}"), model.clone());
            with(place, target).admission(Admission::new(one).expect("valid"))
        })
        .collect();
    let plenty = Budget::new(BudgetConfig::default().share(100.0)).expect("valid");
    let mut builder = Failover::builder(Toy)
        .deadline(DEADLINE)
        .budget(plenty)
        .at_most_once(settings.at_most_once);
    if settings.retries > 0 {
        builder = builder.retry(Retry::times(settings.retries).base(MS).cap(MS));
    }
    builder.build(targets).expect("valid")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Every call that the targets saw, in order.
fn log(models: &[Model]) -> Vec<(Instant, usize)> {
    let mut calls: Vec<_> = models
        .iter()
        .enumerate()
        .flat_map(|(place, model)| {
            model.seen.with(|seen| {
                seen.calls
                    .iter()
                    .map(|call| {
                        assert_eq!(&call.body[..], b"the prompt");
                        let attempt = call.attempt.clone().expect("told");
                        (attempt.index, call.at, place)
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    calls.sort_by_key(|(index, ..)| *index);
    calls
        .into_iter()
        .map(|(_, at, place)| (at, place))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_call_goes_as_the_model_says(scripts in scripts(), settings in settings()) {
        let predicted = predict(&scripts, settings);
        prop_assume!(predicted.is_some());
        let predicted = predicted.expect("checked");
        block_on(async {
            let models: Vec<_> = scripts.iter().cloned().map(Model::new).collect();
            let failover = build(&models, settings);
            let start = Instant::now();
            let result = failover.clone().oneshot(request()).await;
            let took = Instant::now() - start;
            let seen = match result {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let (bytes, error) = timeout(60 * DEADLINE, read(response.into_body()))
                        .await
                        .expect("the answer ends");
                    Seen::Answer(status, bytes, error.is_some())
                }
                Err(error) => Seen::Failed(outcome(&error).kind()),
            };
            let log = log(&models);
            let called: Vec<_> = log.iter().map(|(_, place)| *place).collect();
            prop_assert_eq!(&called, &predicted.asked);
            prop_assert_eq!(&seen, &predicted.seen);
            prop_assert!(took.abs_diff(predicted.took) <= 20 * MS, "{:?} {:?}", took, predicted.took);
            prop_assert!(took <= DEADLINE + MS);
            prop_assert!(log.iter().all(|(at, _)| *at <= start + took));
            for (model, status) in models.iter().zip(failover.handle().targets()) {
                prop_assert_eq!(model.open.load(Ordering::SeqCst), 0);
                prop_assert_eq!(status.in_flight, Some(0));
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_drop_at_any_poll_gives_everything_back(
        scripts in scripts(),
        settings in settings(),
        polls in 0..20_usize,
    ) {
        block_on(async {
            let models: Vec<_> = scripts.into_iter().map(Model::new).collect();
            // All are ejected and due: whoever is asked is probed.
            let health: Vec<_> = models.iter().map(|_| due_for_a_probe()).collect();
            advance(EJECTION).await;
            let failover = build_with(&models, settings, |place, target| {
                target.health(health[place].clone())
            });
            let call = async {
                if let Ok(response) = failover.clone().oneshot(request()).await {
                    let _ = read(response.into_body()).await;
                }
            };
            let mut call = tokio_test::task::spawn(call);
            for _ in 0..polls {
                if call.poll().is_ready() {
                    break;
                }
                advance(Duration::from_millis(1_300)).await;
            }
            drop(call);
            prop_assert!(!health.iter().any(Health::is_probed));
            for (model, status) in models.iter().zip(failover.handle().targets()) {
                prop_assert_eq!(model.open.load(Ordering::SeqCst), 0);
                prop_assert_eq!(status.in_flight, Some(0));
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_split_of_the_same_bytes_gives_the_same_answer(
        bytes in vec(select(&b"kkkkte."[..]), 0..12),
        cuts in vec(0..12_usize, 0..6),
        end in select(vec![Ending::Clean, Ending::Broken]),
    ) {
        block_on(async {
            let ask = async |pieces: Vec<Bytes>| {
                let mut play = Play::status(200).ends(end);
                play.body = pieces.into_iter().map(|piece| (Duration::ZERO, piece)).collect();
                let models = [Model::new([play]), Model::new([Play::stream(&["backup."])])];
                let failover = build(&models, Settings { at_most_once: false, retries: 0 });
                let response = failover.oneshot(request()).await.expect("the backup answers");
                let (bytes, error) = read(response.into_body()).await;
                (models[1].calls(), bytes, error.is_some())
            };
            let whole = ask(vec![Bytes::from(bytes.clone())]).await;
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let split = cuts.windows(2).map(|cut| Bytes::copy_from_slice(&bytes[cut[0]..cut[1]])).collect();
            prop_assert_eq!(ask(split).await, whole.clone());
            let single = bytes.chunks(1).map(Bytes::copy_from_slice).collect();
            prop_assert_eq!(ask(single).await, whole);
            Ok(())
        })?;
    }
}

/// That there is something to give back.
#[test]
fn a_probe_is_held_as_long_as_its_attempt_and_no_longer() {
    let mut play = Play::stream(&["k", "t", "t."]).after(MS).ready_after(MS);
    for piece in &mut play.body {
        piece.0 = MS;
    }
    let settings = Settings {
        at_most_once: false,
        retries: 0,
    };
    block_on(async {
        for polls in 1..=6 {
            let models = [Model::new([play.clone()])];
            let health = due_for_a_probe();
            advance(EJECTION).await;
            let with = |_, target: Target<Model>| target.health(health.clone());
            let failover = build_with(&models, settings, with);
            let call = async {
                let response = failover.clone().oneshot(request()).await;
                read(response.expect("it answers").into_body()).await
            };
            let mut call = tokio_test::task::spawn(call);
            for poll in 1..=polls {
                let over = call.poll().is_ready();
                assert_eq!((over, health.is_probed()), (poll == 6, poll != 6), "{poll}");
                advance(2 * MS).await;
            }
            drop(call);
            assert!(!health.is_probed(), "{polls}");
        }
    });
}

/// For every number of tokens after which the stream is cut, and every size of the pieces.
#[test]
fn a_cut_stream_is_an_exact_prefix_or_the_backups_whole_answer() {
    let text = b"kkktttttt.";
    block_on(async {
        for cut in 0..text.len() {
            for size in 1..=cut.max(1) {
                for end in [Ending::Clean, Ending::Broken] {
                    let mut play = Play::status(200).ends(end);
                    play.body = text[..cut]
                        .chunks(size)
                        .map(|piece| (MS, Bytes::from_static(piece)))
                        .collect();
                    let models = [Model::new([play]), Model::new([Play::stream(&["kt."])])];
                    let settings = Settings {
                        at_most_once: false,
                        retries: 0,
                    };
                    let failover = build(&models, settings);
                    let response = failover.oneshot(request()).await.expect("somebody answers");
                    let (bytes, error) = read(response.into_body()).await;
                    let has_begun = cut > 3;
                    assert_eq!(models[1].calls(), usize::from(!has_begun));
                    let expected: &[u8] = if has_begun { &text[..cut] } else { b"kt." };
                    assert_eq!((&bytes[..], error.is_some()), (expected, has_begun));
                }
            }
        }
    });
}
