//! Before the refusal: what is left is reported, and spread when there is nowhere else to go.

use std::{convert::Infallible, sync::Arc, time::Duration};

use backstop_core::{
    Allowance, Attempt, Classify, Deadline, Dimension, Headroom, Kind, NoBody, Outcome, Requests,
    Responses, Scope, Unstreamed, Verdict, Window, outcome_of,
};
use backstop_rate_limit::{BytesPerToken, Key, RateLimitBuilder, RateLimitLayer};
use futures_util::future::join_all;
use http::{Extensions, Request, Response};
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{Body, Log, Model, TestClassify, refusal, request, success, whole};

const SECOND: Duration = Duration::from_secs(1);

fn left(dimension: Dimension, limit: u64, remaining: u64, reset: Duration) -> Allowance {
    Allowance {
        dimension,
        window: Window::Minute,
        limit: Some(limit),
        remaining: Some(remaining),
        reset: Some(reset),
    }
}

fn stating(allowance: Allowance) -> Response<Body> {
    let mut headroom = Headroom::default();
    headroom.insert(allowance);
    let mut response = success();
    response.extensions_mut().insert(headroom);
    response
}

fn requests_left(remaining: u64) -> Response<Body> {
    stating(left(Dimension::Requests, 100, remaining, 30 * SECOND))
}

fn tokens_left(remaining: u64) -> Response<Body> {
    stating(left(Dimension::Tokens, 1_000, remaining, 10 * SECOND))
}

fn attempt(is_last: bool) -> Request<Body> {
    let mut request = request();
    let attempt = Attempt::new(Arc::from("a"), 0, is_last);
    request.extensions_mut().insert(attempt);
    request
}

fn builder(
    log: &Log,
) -> RateLimitBuilder<
    TestClassify,
    backstop_core::Http,
    backstop_rate_limit::OneKey,
    BytesPerToken,
    Log,
> {
    RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .shift_below(0.05)
}

#[tokio::test(start_paused = true)]
async fn headroom_rides_on_the_response_and_a_near_limit_is_told() {
    for (remaining, nearly) in [(50, false), (5, false), (4, true), (0, true)] {
        let log = Log::default();
        let layer = builder(&log).build().expect("valid");
        let service = layer.layer(Model::script([requests_left(remaining)]));
        let answer = service.oneshot(request()).await.expect("sent");
        let headroom = answer.extensions().get::<Headroom>().expect("attached");
        assert_eq!(
            headroom.iter().next().expect("one").remaining,
            Some(remaining)
        );
        assert_eq!(log.count("shifted"), usize::from(nearly), "{remaining}");
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let told = format!("shifted {}", remaining as f64 / 100.0);
        assert_eq!(log.events().contains(&told), nearly, "{remaining}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_reserve_nothing_is_shifted() {
    let service = RateLimitLayer::new("a", TestClassify).layer(Model::script([requests_left(0)]));
    let answer = service.clone().oneshot(request()).await.expect("sent");
    assert!(answer.extensions().get::<Headroom>().is_some());
    assert!(service.oneshot(attempt(false)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_has_somewhere_else_to_go_is_sent_there_and_nobody_is_refused() {
    let (log, model) = (Log::default(), Model::script([requests_left(3)]));
    let layer = builder(&log).build().expect("valid");
    let service = layer.layer(model.clone());
    let send = |request| service.clone().oneshot(request);
    send(request()).await.expect("sent");

    let error = send(attempt(false)).await.expect_err("elsewhere");
    let outcome = outcome_of(&*error);
    assert_eq!(outcome.kind(), Kind::Throttled);
    assert_eq!(outcome.scope(), Scope::Request, "benches nothing");
    assert!(outcome.may_fail_over() && !outcome.may_repeat());
    assert_eq!(
        outcome.retry_after().expect("until it is full").delay,
        30 * SECOND
    );
    assert_eq!(model.asked(), 1);
    assert!(layer.handle().limits().is_empty());
    let told = ["shifted 0.03", "shifted 0.03", "answered rate_limited"];
    assert_eq!(log.events(), told, "noticed, and sent on");

    for request in [request(), attempt(true)] {
        send(request).await.expect("it is the only target");
    }
    advance(30 * SECOND).await;
    assert!(send(attempt(false)).await.is_ok(), "it is full again");
}

#[tokio::test(start_paused = true)]
async fn the_only_target_is_paced() {
    // Three requests for thirty seconds: one every ten.
    let (log, model) = (Log::default(), Model::script([requests_left(3)]));
    let service = builder(&log)
        .pace_up_to(60 * SECOND)
        .build()
        .expect("valid")
        .layer(model.clone());
    let start = Instant::now();
    service.clone().oneshot(request()).await.expect("sent");
    let calls = (0..6).map(|_| service.clone().oneshot(request()));
    for answer in join_all(calls).await {
        assert_eq!(answer.expect("never refused").status(), 200);
    }
    let at: Vec<u64> = model.asked_at()[1..]
        .iter()
        .map(|at| (*at - start).as_secs())
        .collect();
    assert_eq!(
        at,
        [0, 10, 20, 30, 30, 30],
        "and no longer than to the reset"
    );
}

#[tokio::test(start_paused = true)]
async fn the_only_target_is_paced_by_default() {
    for (pace, waited) in [(None, 8), (Some(Duration::ZERO), 0)] {
        let mut builder = builder(&Log::default());
        if let Some(pace) = pace {
            builder = builder.pace_up_to(pace);
        }
        let service = builder.build().expect("valid");
        let service = service.layer(Model::script([requests_left(0)]));
        service.clone().oneshot(request()).await.expect("sent");
        let start = Instant::now();
        service.oneshot(request()).await.expect("never refused");
        assert_eq!(Instant::now() - start, waited * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn pacing_ends_at_its_limit_and_then_the_request_is_sent() {
    let (log, model) = (Log::default(), Model::script([requests_left(1)]));
    let service = builder(&log)
        .pace_up_to(5 * SECOND)
        .build()
        .expect("valid")
        .layer(model.clone());
    let start = Instant::now();
    for _ in 0..3 {
        service.clone().oneshot(request()).await.expect("sent");
    }
    let at: Vec<u64> = model
        .asked_at()
        .iter()
        .map(|at| (*at - start).as_secs())
        .collect();
    assert_eq!(at, [0, 0, 5]);
}

/// Pauses before the requests that follow an answer, one after the other, in milliseconds.
async fn pauses<const N: usize>(answers: impl IntoIterator<Item = Response<Body>>) -> [u128; N] {
    let model = Model::script(answers);
    let service = builder(&Log::default())
        .pace_up_to(Duration::MAX)
        .build()
        .expect("valid")
        .layer(model);
    service.clone().oneshot(request()).await.expect("sent");
    let mut pauses = [0; N];
    for pause in &mut pauses {
        let start = Instant::now();
        service.clone().oneshot(request()).await.expect("sent");
        *pause = (Instant::now() - start).as_millis();
    }
    pauses
}

#[tokio::test(start_paused = true)]
async fn half_of_the_deadline_is_left_for_the_answer() {
    let service = builder(&Log::default())
        .pace_up_to(60 * SECOND)
        .build()
        .expect("valid")
        .layer(Model::script([requests_left(0)]));
    service.clone().oneshot(request()).await.expect("sent");
    let start = Instant::now();
    let mut request = request();
    let deadline = Deadline::after(start.into_std(), 10 * SECOND);
    request.extensions_mut().insert(deadline);
    service.oneshot(request).await.expect("sent");
    assert_eq!(Instant::now() - start, 5 * SECOND);
}

/// Not all providers state all of it.
#[tokio::test(start_paused = true)]
async fn what_is_not_stated_is_taken_for_the_usual() {
    for (window, seconds) in [
        (Window::Unknown, 60),
        (Window::Second, 1),
        (Window::Minute, 60),
        (Window::Hour, 3_600),
        (Window::Day, 86_400),
        (Window::Month, 86_400),
    ] {
        let spent = Allowance {
            window,
            reset: None,
            ..left(Dimension::Requests, 100, 0, SECOND)
        };
        assert_eq!(pauses([stating(spent)]).await, [seconds * 1_000, 0]);
    }
    // Two bytes are no token, and eight are two: there is one, of nobody knows how many.
    let unlimited = Allowance {
        limit: None,
        ..left(Dimension::Tokens, 0, 1, 10 * SECOND)
    };
    let layer = builder(&Log::default()).build().expect("valid");
    let service = layer.layer(Model::script([stating(unlimited)]));
    service.clone().oneshot(request()).await.expect("sent");
    assert!(service.clone().oneshot(attempt(false)).await.is_ok());
    let large = || attempt(false).map(|_| whole("two tokens"));
    let error = service.clone().oneshot(large()).await;
    let outcome = outcome_of(&*error.expect_err("elsewhere"));
    assert_eq!(outcome.retry_after().expect("a wait").delay, 10 * SECOND);
    advance(10 * SECOND).await;
    assert!(service.oneshot(large()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_reserve_of_its_own() {
    let layer = builder(&Log::default())
        .key_by(|request: &Request<Body>| Some(Key::credential(request.headers().get("x-key")?)))
        .build()
        .expect("valid");
    let service = layer.layer(Model::script([requests_left(0)]));
    let send = |key: &'static str| {
        let mut request = attempt(false);
        let key = http::HeaderValue::from_static(key);
        request.headers_mut().insert("x-key", key);
        service.clone().oneshot(request)
    };
    assert!(send("alice").await.is_ok());
    assert!(send("alice").await.is_err(), "nothing is left");
    assert!(send("bob").await.is_ok());
    assert!(service.clone().oneshot(attempt(false)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_gives_the_reserve_back() {
    let layer = builder(&Log::default()).build().expect("valid");
    let service = layer.layer(Model::script([requests_left(0)]));
    service.clone().oneshot(request()).await.expect("sent");
    assert!(service.clone().oneshot(attempt(false)).await.is_err());
    layer.handle().reset();
    assert!(service.oneshot(attempt(false)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn with_nothing_left_even_the_first_waits() {
    for dimension in [Dimension::Requests, Dimension::OutputTokens] {
        let spent = stating(left(dimension, 100, 0, 30 * SECOND));
        assert_eq!(pauses([spent]).await, [30_000, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_answer_decides_how_far_apart_requests_are() {
    // One for thirty seconds, then three for three.
    let second = stating(left(Dimension::Requests, 100, 3, 3 * SECOND));
    assert_eq!(pauses([requests_left(1), second]).await, [0, 1_000, 1_000]);
}

#[tokio::test(start_paused = true)]
async fn a_strange_reset_keeps_nobody_away_for_longer_than_the_cap() {
    let day = 24 * 60 * 60 * SECOND;
    for reset in [Duration::MAX, Duration::from_secs(1_000_000_000_000)] {
        let strange = || stating(left(Dimension::Requests, 100, 0, reset));
        assert_eq!(pauses([strange()]).await, [day.as_millis(), 0]);

        let layer = builder(&Log::default()).build().expect("valid");
        let service = layer.layer(Model::script([strange()]));
        service.clone().oneshot(request()).await.expect("sent");
        let error = service.clone().oneshot(attempt(false)).await;
        let outcome = outcome_of(&*error.expect_err("elsewhere"));
        assert_eq!(outcome.retry_after().expect("a wait").delay, day);
        advance(day).await;
        assert!(service.oneshot(attempt(false)).await.is_ok());
    }
}

/// Who was paced when the limit came has as much patience with it as everybody else.
#[tokio::test(start_paused = true)]
async fn a_limit_that_comes_while_a_request_is_paced_is_waited_out() {
    let model = Model::script([requests_left(1), refusal(Some(4), "slow")]);
    let slow = service_fn(move |request| {
        let model = model.clone();
        async move {
            let answer = model.oneshot(request).await;
            if answer.as_ref().is_ok_and(|answer| answer.status() == 429) {
                sleep(4 * SECOND).await;
            }
            answer
        }
    });
    let service = builder(&Log::default())
        .jitter(0.0)
        .pace_up_to(5 * SECOND)
        .wait_up_to(20 * SECOND)
        .build()
        .expect("valid")
        .layer(slow);
    service.clone().oneshot(request()).await.expect("sent");
    let start = Instant::now();
    let answers = join_all((0..3).map(|_| {
        let call = service.clone().oneshot(request());
        async move {
            let status = call.await.map(|answer| answer.status().as_u16());
            (status.ok(), (Instant::now() - start).as_secs())
        }
    }))
    .await;
    assert_eq!(answers, [(Some(429), 4), (Some(200), 8), (Some(200), 9)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_costs_more_than_is_left_waits_for_the_tokens() {
    // 400 of 1,000 tokens are left, and the other 600 come back within ten seconds.
    let (log, model) = (Log::default(), Model::script([tokens_left(400)]));
    let layer = builder(&log)
        .pace_up_to(60 * SECOND)
        .build()
        .expect("valid");
    let service = layer.layer(model.clone());
    service.clone().oneshot(request()).await.expect("sent");

    let large = |bytes: usize, mut request: Request<Body>| {
        *request.body_mut() = whole(vec![b'x'; bytes]);
        request
    };
    let elsewhere = service.clone().oneshot(large(2_800, attempt(false))).await;
    assert!(elsewhere.is_err(), "700 tokens are not there");
    let start = Instant::now();
    let small = service.clone().oneshot(large(1_200, attempt(false)));
    assert!(small.await.is_ok(), "300 tokens are there");
    assert_eq!(Instant::now(), start);
    // 100 are left: 400 more are there after 400/900 of the time.
    let paced = service.clone().oneshot(large(2_000, request())).await;
    assert!(paced.is_ok());
    let waited = (Instant::now() - start).as_millis();
    assert!((4_400..4_500).contains(&waited), "{waited}");
    let never = service.oneshot(large(40_000, attempt(false))).await;
    assert!(
        never.is_ok(),
        "10,000 never fit: that is the provider's to say"
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_left_goes_to_the_next() {
    // Three requests for thirty seconds: one every ten.
    let model = Model::script([requests_left(3)]);
    let service = builder(&Log::default())
        .pace_up_to(60 * SECOND)
        .build()
        .expect("valid")
        .layer(model.clone());
    service.clone().oneshot(request()).await.expect("sent");
    service.clone().oneshot(request()).await.expect("sent");
    let start = Instant::now();
    let mut waiting: Vec<_> = (0..4)
        .map(|_| task::spawn(service.clone().oneshot(request())))
        .collect();
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    // The first, who sleeps, and one in the middle, who queues.
    drop(waiting.remove(2));
    drop(waiting.remove(0));
    let returned = join_all(waiting.into_iter().map(|call| async move {
        assert!(call.into_inner().await.is_ok());
        (Instant::now() - start).as_secs()
    }))
    .await;
    assert_eq!(returned, [10, 20]);
    assert_eq!(model.asked(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_estimate_can_be_replaced() {
    let model = Model::script([tokens_left(400)]);
    let service = RateLimitLayer::builder("a", TestClassify)
        .shift_below(0.0)
        .estimate_by(|request: &Request<Body>, _: Option<u64>| {
            request
                .headers()
                .get("x-tokens")?
                .to_str()
                .ok()?
                .parse()
                .ok()
        })
        .build()
        .expect("valid")
        .layer(model);
    service.clone().oneshot(request()).await.expect("sent");
    for (tokens, fits) in [(700, false), (399, true)] {
        let mut request = attempt(false);
        request.headers_mut().insert("x-tokens", tokens.into());
        assert_eq!(service.clone().oneshot(request).await.is_ok(), fits);
    }
}

/// A question of one's own type that carries what layers outside say of it.
struct Question {
    extensions: Extensions,
    prompt: &'static str,
}

/// An answer of one's own type: how many of a hundred requests are left.
struct Answer(u64);

struct Own;

impl Requests<Question> for Own {
    fn extensions(question: &Question) -> Option<&Extensions> {
        Some(&question.extensions)
    }

    fn extensions_mut(question: &mut Question) -> Option<&mut Extensions> {
        Some(&mut question.extensions)
    }

    fn size(question: &Question) -> Option<u64> {
        u64::try_from(question.prompt.len()).ok()
    }
}

impl Responses<Answer> for Own {
    type Head = Answer;
    type Body = NoBody;
    type With<B> = Answer;

    fn split(answer: Answer) -> (Answer, Option<NoBody>) {
        (answer, None)
    }

    fn join<B>(answer: Answer, _: Option<B>) -> Answer {
        answer
    }

    fn extensions(_: &Answer) -> Option<&Extensions> {
        None
    }

    fn extensions_mut(_: &mut Answer) -> Option<&mut Extensions> {
        None
    }

    fn mark_final(_: &mut Answer) {}
}

impl Classify<Question, Answer> for Own {
    type Call = ();
    type Stream = Unstreamed;

    fn on_request(&self, _: &Question) {}

    fn on_response(&self, (): &(), _: &Answer) -> Verdict<Unstreamed> {
        Verdict::Now(Outcome::success())
    }

    fn headroom(&self, (): &(), answer: &Answer) -> Option<Headroom> {
        let mut headroom = Headroom::default();
        headroom.insert(left(Dimension::Requests, 100, answer.0, 30 * SECOND));
        Some(headroom)
    }
}

#[tokio::test(start_paused = true)]
async fn types_of_ones_own_may_tell_of_deadlines_and_other_targets() {
    let service = RateLimitLayer::builder("a", Own)
        .protocol::<Own>()
        .shift_below(0.05)
        .pace_up_to(60 * SECOND)
        .build()
        .expect("valid")
        .layer(service_fn(async |_: Question| {
            Ok::<_, Infallible>(Answer(0))
        }));
    let question = || Question {
        extensions: Extensions::new(),
        prompt: "Hello",
    };
    service.clone().oneshot(question()).await.expect("sent");

    let mut elsewhere = question();
    let attempt = Attempt::new(Arc::from("a"), 0, false);
    elsewhere.extensions.insert(attempt);
    assert!(service.clone().oneshot(elsewhere).await.is_err());

    let start = Instant::now();
    let mut urgent = question();
    let deadline = Deadline::after(start.into_std(), 10 * SECOND);
    urgent.extensions.insert(deadline);
    service.clone().oneshot(urgent).await.expect("sent");
    assert_eq!(Instant::now() - start, 5 * SECOND);
    // It was told once more that nothing is left.
    service.oneshot(question()).await.expect("sent");
    assert_eq!(Instant::now() - start, 35 * SECOND);
}
