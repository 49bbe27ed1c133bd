//! What is noticed, for how long it is remembered, and what callers are answered meanwhile.

use std::{
    collections::HashSet,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_core::{
    Allowance, BoxError, ClassifyErrors, Dimension, Failure, Headroom, HintSource, Http, Kind,
    Outcome, Scope, Typed, Window, outcome_of,
};
use backstop_rate_limit::{
    BytesPerToken, Key, OneKey, RateLimit, RateLimitLayer, ResponseBody, Waits,
};
use futures_util::{StreamExt, future::join_all, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_service::Service;

use crate::support::{
    Body, Log, Model, TestClassify, TestStream, refusal, request, success, whole,
};

type Answer = Result<Response<ResponseBody<Body, TestStream>>, BoxError>;

fn local(answer: Answer) -> Outcome {
    outcome_of(&*answer.expect_err("answered locally"))
}

fn seconds(outcome: &Outcome) -> u64 {
    let hint = outcome.retry_after().expect("an honest wait");
    assert_eq!(hint.source, HintSource::Local);
    hint.delay.as_secs()
}

fn stream_of(frames: Vec<Frame<bytes::Bytes>>) -> Response<Body> {
    let frames = stream::iter(frames.into_iter().map(Ok));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_passed_on_with_its_verdict_and_the_next_request_is_answered_here() {
    let model = Model::script([refusal(Some(7), "slow down")]);
    let log = Log::default();
    let service = RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .jitter(0.0)
        .build()
        .expect("valid")
        .layer(model.clone());

    let refused = service.clone().oneshot(request()).await.expect("passed on");
    assert_eq!(refused.status(), 429);
    let verdict = Outcome::of(refused.extensions());
    assert_eq!(verdict.kind(), Kind::Throttled);
    let body = refused.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "slow down", "byte for byte");

    advance(Duration::from_secs(3)).await;
    let readied = model.readied();
    let outcome = local(service.clone().oneshot(request()).await);
    assert_eq!(outcome.kind(), Kind::Throttled);
    assert_eq!(seconds(&outcome), 4);
    assert_eq!(model.asked(), 1);
    assert_eq!(
        model.readied(),
        readied,
        "not even asked whether it is ready"
    );

    advance(Duration::from_secs(4)).await;
    let answer = service.oneshot(request()).await.expect("let through");
    assert_eq!(answer.status(), 200);
    assert_eq!(
        log.events(),
        [
            "noticed RetryAfter 7000",
            "answered rate_limited",
            "released model"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_is_early_in_a_storm_and_the_return_is_a_ramp() {
    let model = Model::new(|index| match index {
        0 => refusal(Some(7), "slow down"),
        _ => success(),
    });
    let log = Log::default();
    let service = RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .build()
        .expect("valid")
        .layer(model.clone());
    let start = Instant::now();
    service.clone().oneshot(request()).await.expect("refused");

    let caller = |mut service: RateLimit<Model, TestClassify, Http, OneKey, BytesPerToken, Log>| async move {
        loop {
            let ready = service.ready().await;
            match ready.expect("never fails").call(request()).await {
                Ok(answer) => return assert_eq!(answer.status(), 200),
                Err(error) => {
                    let hint = outcome_of(&*error).retry_after().expect("a wait");
                    assert!(hint.delay <= Duration::from_secs(20), "{hint:?}");
                    // As a client does that reads whole seconds.
                    sleep(Duration::from_secs(hint.delay.as_secs() + 1)).await;
                }
            }
        }
    };
    join_all((0..1_000).map(|_| caller(service.clone()))).await;
    assert_eq!(log.count("released"), 1);

    let asked: Vec<Duration> = model.asked_at()[1..]
        .iter()
        .map(|at| at.saturating_duration_since(start))
        .collect();
    assert_eq!(asked.len(), 1_000);
    let noticed = log.events()[0]
        .strip_prefix("noticed RetryAfter ")
        .and_then(|wait| wait.parse().ok())
        .expect("the wait");
    let until = Duration::from_millis(noticed);
    assert!(until >= Duration::from_secs(7) && until <= Duration::from_millis(7_700));
    for (returned, at) in asked.iter().enumerate() {
        assert!(*at >= until, "early: {at:?}");
        let allowed = 2_usize << (*at - until).as_secs();
        assert!(returned < allowed, "{returned} returned by {at:?}");
    }
    let last = *asked.last().expect("a thousand");
    assert!(last <= until + Duration::from_secs(11), "stalled: {last:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_together_make_one_incident() {
    // All are sent before the first refusal; their hints differ.
    let model = Model::new(|index| refusal(Some([7, 2, 9, 3][index % 4]), "slow"));
    let layer = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let mut services = Vec::new();
    for _ in 0..4 {
        let mut service = layer.layer(model.clone());
        service.ready().await.expect("ready");
        services.push(service.call(request()));
    }
    for refused in join_all(services).await {
        assert_eq!(refused.expect("passed on").status(), 429);
    }
    let remaining = handle.remaining(None).expect("limited");
    assert_eq!(remaining, Duration::from_secs(9), "the longest given");
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_there_is_a_back_off_that_a_success_ends() {
    let model = Model::new(|index| match index {
        4 => success(),
        _ => refusal(None, "busy"),
    });
    let layer = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let service = layer.layer(model.clone());
    for expected in [1, 2, 4, 8] {
        let refused = service.clone().oneshot(request()).await.expect("sent");
        assert_eq!(refused.status(), 429);
        let remaining = handle.remaining(None).expect("limited");
        assert_eq!(remaining, Duration::from_secs(expected));
        assert_eq!(handle.limits()[0].kind, Kind::Overloaded);
        advance(remaining).await;
    }
    let answer = service.clone().oneshot(request()).await.expect("sent");
    // The success is that of the whole answer.
    answer.into_body().collect().await.expect("whole");
    advance(Duration::from_secs(1)).await;
    let refused = service.oneshot(request()).await.expect("sent");
    assert_eq!(refused.status(), 429);
    assert_eq!(handle.remaining(None), Some(Duration::from_secs(1)));
    assert_eq!(model.asked(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_quota_outlasts_a_rate_limit_and_ends_by_an_operators_word() {
    let model = Model::script([refusal(Some(3_600), "quota"), success()]);
    let layer = RateLimitLayer::new("a", TestClassify);
    let handle = layer.handle();
    let service = layer.layer(model);
    service.clone().oneshot(request()).await.expect("sent");
    advance(Duration::from_secs(3_599)).await;
    let outcome = local(service.clone().oneshot(request()).await);
    assert_eq!(outcome.kind(), Kind::QuotaExhausted);
    assert_eq!(outcome.scope(), Scope::Account);
    handle.reset();
    let answer = service.oneshot(request()).await.expect("let through");
    assert_eq!(answer.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn server_given_waits_are_floored_and_capped() {
    for (given, observed) in [
        (0, 500),
        (1, 1_000),
        (60, 60_000),
        (3_000_000, 60_000),
        (u64::MAX, 60_000),
    ] {
        let layer = RateLimitLayer::new("a", TestClassify);
        let handle = layer.handle();
        let service = layer.layer(Model::script([refusal(Some(given), "slow")]));
        service.oneshot(request()).await.expect("sent");
        let remaining = handle.remaining(None).expect("limited").as_millis();
        let lengthened = (observed + observed / 10).min(60_000);
        assert!(
            (observed..=lengthened).contains(&remaining),
            "{given}: {remaining}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn processes_that_were_refused_together_return_apart_and_none_is_early() {
    let mut returns = HashSet::new();
    for _ in 0..100 {
        let layer = RateLimitLayer::new("a", TestClassify);
        let service = layer.layer(Model::script([refusal(Some(7), "slow")]));
        service.oneshot(request()).await.expect("sent");
        let remaining = layer.handle().remaining(None).expect("limited");
        assert!((7_000..=7_700).contains(&remaining.as_millis()));
        returns.insert(remaining.as_millis() / 70);
    }
    // A tenth of the wait, in parts of a hundredth: a hundred throws leave one out next to never.
    assert!(returns.len() >= 8, "{returns:?}");
}

#[tokio::test(start_paused = true)]
async fn not_even_a_part_of_a_microsecond_is_early() {
    let nanos = Duration::from_nanos;
    let model = Model::script([refusal(Some(7), "slow")]);
    let service = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .build()
        .expect("valid")
        .layer(model);
    advance(nanos(500)).await;
    let start = Instant::now();
    service.clone().oneshot(request()).await.expect("sent");
    // The clock of a runtime moves by more than it is told to.
    let wait = Duration::from_secs(7) - nanos(400);
    while Instant::now() - start < wait {
        assert!(service.clone().oneshot(request()).await.is_err());
        advance(wait.saturating_sub(Instant::now() - start)).await;
    }
    let waited = Instant::now() - start;
    let is_over = service.oneshot(request()).await.is_ok();
    assert_eq!(is_over, waited >= Duration::from_secs(7), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_back_off_has_an_end() {
    let model = Model::new(|_| refusal(None, "slow"));
    let layer = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .ramp(Duration::ZERO)
        .build()
        .expect("valid");
    let service = layer.layer(model);
    let mut waits = Vec::new();
    for _ in 0..40 {
        service.clone().oneshot(request()).await.expect("sent");
        let remaining = layer.handle().remaining(None).expect("limited");
        waits.push(remaining.as_secs());
        advance(remaining).await;
    }
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(waits[8..].iter().all(|wait| *wait == 60), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_concerns_one_request_benches_nothing() {
    for text in ["large", "minute"] {
        let model = Model::script([refusal(Some(7), text)]);
        let layer = RateLimitLayer::new("a", TestClassify);
        let service = layer.layer(model.clone());
        let refused = service.clone().oneshot(request()).await.expect("sent");
        assert_eq!(refused.status(), 429);
        service.oneshot(request()).await.expect("sent as well");
        assert_eq!(model.asked(), 2);
        assert!(layer.handle().limits().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn another_target_is_not_affected() {
    let model = Model::script([refusal(Some(7), "slow")]);
    let one = RateLimitLayer::new("one", TestClassify).layer(model.clone());
    let other = RateLimitLayer::new("other", TestClassify).layer(model.clone());
    one.clone().oneshot(request()).await.expect("sent");
    local(one.oneshot(request()).await);
    other.oneshot(request()).await.expect("sent");
    assert_eq!(model.asked(), 2);
}

fn key(request: &Request<Body>) -> Option<Key> {
    let header = |name| Some(request.headers().get(name)?.as_bytes());
    Some(Key::credential(header("x-key")?).with_model(header("x-model")?))
}

fn from(key: &'static str, model: &'static str) -> Request<Body> {
    let mut request = request();
    let headers = request.headers_mut();
    headers.insert("x-key", http::HeaderValue::from_static(key));
    headers.insert("x-model", http::HeaderValue::from_static(model));
    request
}

#[tokio::test(start_paused = true)]
async fn the_scope_of_a_refusal_says_which_keys_are_limited() {
    // What is limited besides the refused one: another model, another credential.
    for (text, other_model, other_key) in [
        ("slow", false, false),
        ("key", true, false),
        ("quota", true, false),
        ("busy", true, true),
    ] {
        let model = Model::script([refusal(Some(7), text)]);
        let service = RateLimitLayer::builder("a", TestClassify)
            .key_by(key)
            .build()
            .expect("valid")
            .layer(model.clone());
        let send = |request| service.clone().oneshot(request);
        send(from("k1", "m1")).await.expect("sent");
        assert!(send(from("k1", "m1")).await.is_err(), "{text}");
        assert_eq!(send(from("k1", "m2")).await.is_err(), other_model, "{text}");
        assert_eq!(send(from("k2", "m1")).await.is_err(), other_key, "{text}");
    }
}

/// Sends a request for a model by its number; what the model answers is its affair.
async fn send<S>(service: &S, model: u32) -> Result<S::Response, S::Error>
where
    S: Service<Request<Body>> + Clone,
{
    let mut request = request();
    request.headers_mut().insert("x-model", model.into());
    service.clone().oneshot(request).await
}

fn by_model(request: &Request<Body>) -> Option<Key> {
    Some(Key::model(request.headers().get("x-model")?))
}

fn model_key(model: u32) -> Key {
    Key::model(http::HeaderValue::from(model))
}

/// However a refusal arrives, it is that of its request's key, and the next of a back-off.
#[tokio::test(start_paused = true)]
async fn what_an_error_says_is_remembered_for_its_key() {
    let model = service_fn(async |model: u32| match model {
        1 => Err(Failure::new(Outcome::new(Kind::Throttled))),
        _ => Ok(model),
    });
    let layer = RateLimitLayer::builder("a", ClassifyErrors)
        .protocol::<Typed>()
        .key_by(|model: &u32| Some(Key::model(model)))
        .jitter(0.0)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let service = layer.layer(model);
    for seconds in [1, 2, 4, 8] {
        let error = service.clone().oneshot(1).await.expect_err("refused");
        assert!(error.is::<Failure>(), "the error is passed on");
        let remaining = handle.remaining(Some(Key::model(1_u32)));
        assert_eq!(remaining, Some(Duration::from_secs(seconds)));
        assert!(service.clone().oneshot(2).await.is_ok());
        advance(Duration::from_secs(seconds)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_says_is_remembered_for_its_key() {
    let layer = RateLimitLayer::builder("a", TestClassify)
        .key_by(by_model)
        .build()
        .expect("valid");
    let text = Frame::data(bytes::Bytes::from("slow down"));
    let service = layer.layer(Model::script([stream_of(vec![text])]));
    let answer = send(&service, 1).await.expect("sent");
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.expect("told by itself");
    assert!(send(&service, 1).await.is_err());
    assert!(send(&service, 2).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_local_answer_is_the_outcome_of_the_refusal() {
    let kinds = [Kind::Throttled, Kind::QuotaExhausted, Kind::Overloaded];
    let scopes = [
        Scope::Model,
        Scope::Credential,
        Scope::Account,
        Scope::Provider,
    ];
    for (kind, scope, advice) in kinds
        .into_iter()
        .flat_map(|kind| scopes.map(|scope| (kind, scope)))
        .flat_map(|(kind, scope)| (0..4).map(move |advice| (kind, scope, advice)))
    {
        let refusal = Outcome::new(kind)
            .with_scope(scope)
            .with_fail_over(advice & 1 == 1)
            .with_repeat(advice & 2 == 2)
            .with_retry_after(Duration::from_secs(7), HintSource::Body);
        let model = service_fn(move |()| ready(Err::<(), _>(Failure::new(refusal))));
        let service = RateLimitLayer::builder("a", ClassifyErrors)
            .protocol::<Typed>()
            .jitter(0.0)
            .build()
            .expect("valid")
            .layer(model);
        let error = service.clone().oneshot(()).await.expect_err("refused");
        assert_eq!(outcome_of(&*error), refusal);
        advance(Duration::from_secs(3)).await;
        let error = service.oneshot(()).await.expect_err("answered here");
        let outcome = outcome_of(&*error);
        let expected = refusal
            .with_retry_after(Duration::from_secs(4), HintSource::Local)
            .with_evidence(outcome.evidence());
        assert_eq!(outcome, expected);
        assert!(outcome.evidence().ends_with("noticed before"));
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_bounded_and_the_newest_is_remembered() {
    let layer = RateLimitLayer::builder("a", TestClassify)
        .key_by(by_model)
        .capacity(64)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let service = layer.layer(Model::new(|_| refusal(Some(50), "slow")));
    for model in 0..10_000 {
        send(&service, model).await.expect("a key of its own");
        advance(Duration::from_micros(10)).await;
    }
    let limits = handle.limits();
    assert!((48..=64).contains(&limits.len()), "{}", limits.len());
    assert!(send(&service, 9_999).await.is_err(), "remembered");
    handle.reset_key(model_key(9_999));
    assert!(
        send(&service, 9_999).await.is_ok(),
        "an operator's word: forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn of_the_limited_keys_those_in_use_are_kept() {
    let layer = RateLimitLayer::builder("a", TestClassify)
        .key_by(by_model)
        .capacity(64)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let service = layer.layer(Model::new(|_| refusal(Some(50), "slow")));
    for model in 0..2_000 {
        if model > 0 {
            assert!(send(&service, 0).await.is_err(), "{model}: asked for often");
        }
        send(&service, model).await.ok();
        advance(Duration::from_micros(10)).await;
    }
    let is_kept = |model| handle.remaining(Some(model_key(model))).is_some();
    assert!(is_kept(0));
    let kept = |models: std::ops::Range<u32>| models.filter(|model| is_kept(*model)).count();
    assert_eq!(kept(1..1_500), 0, "not used for the longest time");
    assert!(kept(1_800..2_000) >= 48);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_keys_does_not_make_it_forget_a_limit() {
    // The first 16 are limited; the others only say what is left, which is kept by key as well.
    let model = Model::new(|index| match index {
        0..16 => refusal(Some(50), "slow"),
        _ => {
            let mut headroom = Headroom::default();
            headroom.insert(Allowance {
                dimension: Dimension::Requests,
                window: Window::Minute,
                limit: Some(100),
                remaining: Some(50),
                reset: None,
            });
            let mut answer = success();
            answer.extensions_mut().insert(headroom);
            answer
        }
    });
    let layer = RateLimitLayer::builder("a", TestClassify)
        .key_by(by_model)
        .capacity(512)
        .shift_below(0.05)
        .build()
        .expect("valid");
    let handle = layer.handle();
    let service = layer.layer(model);
    for model in 0..5_000 {
        send(&service, model).await.expect("a key of its own");
        advance(Duration::from_micros(10)).await;
    }
    assert_eq!(handle.limits().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_passed_on_at_once_and_teaches_at_its_end() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-limited", http::HeaderValue::from_static("1"));
    let text = |text: &'static str| Frame::data(bytes::Bytes::from_static(text.as_bytes()));
    let answers = [
        vec![text("Hel"), text("slow down")],
        vec![text("Hello"), Frame::trailers(trailers)],
    ];
    for frames in answers {
        let layer = RateLimitLayer::new("a", TestClassify);
        let handle = layer.handle();
        let service = layer.layer(Model::script([stream_of(frames)]));
        let answer = service.clone().oneshot(request()).await.expect("sent");
        assert_eq!(answer.status(), 200);
        assert!(answer.extensions().get::<Outcome>().is_none());
        assert!(handle.limits().is_empty(), "nothing is known yet");
        answer.into_body().collect().await.expect("told by itself");
        assert_eq!(handle.limits().len(), 1);
        local(service.oneshot(request()).await);
    }
}

/// Its outcome is in the head, as that of a gRPC refusal is, but it is asked for at the end.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_a_head_alone_teaches_without_being_read() {
    for limited in [true, false] {
        let mut answer = Response::new(whole(""));
        if limited {
            answer.headers_mut().insert("x-limited", 9.into());
        }
        let layer = RateLimitLayer::new("a", TestClassify);
        let service = layer.layer(Model::script([answer]));
        let answer = service.oneshot(request()).await.expect("passed on");
        let verdict = answer.extensions().get::<Outcome>().expect("attached");
        assert_eq!(layer.handle().limits().len(), usize::from(limited));
        if limited {
            assert_eq!(verdict.kind(), Kind::Throttled);
            assert!(answer.into_body().collect().await.is_ok());
        } else {
            assert_eq!(verdict.kind(), Kind::Malformed);
            let error = answer.into_body().collect().await.expect_err("no answer");
            assert_eq!(outcome_of(&*error).kind(), Kind::Malformed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_body_that_stalls_is_passed_on_and_its_head_decides() {
    let late = stream::iter([Ok(Frame::data("slow".into()))])
        .chain(stream::once(async {
            sleep(Duration::from_secs(5)).await;
            Ok(Frame::data(" down".into()))
        }))
        .boxed();
    let answer = Response::builder()
        .status(429)
        .header("retry-after", 30)
        .body(StreamBody::new(late).boxed_unsync())
        .expect("valid");
    let layer = RateLimitLayer::new("a", TestClassify);
    let handle = layer.handle();
    let start = Instant::now();
    let service = layer.layer(Model::script([answer]));
    let answer = service.clone().oneshot(request()).await.expect("passed on");
    assert_eq!(Instant::now() - start, Duration::from_secs(1));
    assert_eq!(Outcome::of(answer.extensions()).kind(), Kind::Throttled);
    let until = handle.limits()[0].remaining;
    local(service.oneshot(request()).await);
    let body = answer.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "slow down");
    let late = Instant::now() - start - Duration::from_secs(1);
    assert_eq!(handle.limits()[0].remaining, until - late, "learnt once");
}

#[tokio::test(start_paused = true)]
async fn an_error_body_that_stalls_before_it_says_anything_is_no_verdict() {
    let answer = Response::builder()
        .status(500)
        .body(StreamBody::new(stream::pending().boxed()).boxed_unsync())
        .expect("valid");
    let layer = RateLimitLayer::new("a", TestClassify);
    let service = layer.layer(Model::script([answer]));
    let answer = service.oneshot(request()).await.expect("passed on");
    assert!(answer.extensions().get::<Outcome>().is_none());
    assert!(layer.handle().limits().is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_more_of_an_error_body_is_held_than_allowed() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let chunks = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::data("slow ".into()))
    });
    let answer = Response::builder()
        .status(429)
        .body(StreamBody::new(chunks.take(1_000)).boxed_unsync())
        .expect("valid");
    let layer = RateLimitLayer::builder("a", TestClassify)
        .peek(50, Duration::from_secs(1))
        .build()
        .expect("valid");
    let service = layer.layer(Model::script([answer]));
    let answer = service.oneshot(request()).await.expect("passed on");
    assert!((10..=12).contains(&sent.load(Ordering::Relaxed)));
    assert_eq!(layer.handle().limits().len(), 1, "what was read decides");
    let body = answer.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes().len(), 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_while_an_error_is_read_leaves_what_its_head_said() {
    let stalled = stream::iter([Ok(Frame::data("slow".into()))])
        .chain(stream::pending())
        .boxed();
    let answer = Response::builder()
        .status(429)
        .header("retry-after", 30)
        .body(StreamBody::new(stalled).boxed_unsync())
        .expect("valid");
    let layer = RateLimitLayer::new("a", TestClassify);
    let service = layer.layer(Model::script([answer]));
    let mut call = task::spawn(service.clone().oneshot(request()));
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(layer.handle().limits().len(), 1);
    local(service.oneshot(request()).await);
}

/// Whatever else it may bring, and whether or not anything was remembered when it was asked for.
#[tokio::test(start_paused = true)]
async fn an_error_within_a_stream_is_learnt_when_it_comes_and_once() {
    for remembered in [false, true] {
        let frames = ["Hel", "slow down"].map(|text| Ok(Frame::data(text.into())));
        let open = stream::iter(frames).chain(stream::pending()).boxed();
        let stream = Response::builder()
            .header("retry-after", 30)
            .body(StreamBody::new(open).boxed_unsync())
            .expect("valid");
        let first = if remembered {
            refusal(Some(2), "slow")
        } else {
            success()
        };
        let layer = RateLimitLayer::new("a", TestClassify);
        let handle = layer.handle();
        let service = layer.layer(Model::script([first, stream]));
        service.clone().oneshot(request()).await.expect("sent");
        advance(Duration::from_secs(3)).await;
        assert!(handle.limits().is_empty());
        let answer = service.clone().oneshot(request()).await.expect("sent");
        let mut body = answer.into_body();
        body.frame().await.expect("a frame").expect("data");
        assert!(handle.limits().is_empty(), "nothing is known yet");
        body.frame().await.expect("a frame").expect("data");
        let until = handle.limits()[0].remaining;
        local(service.oneshot(request()).await);
        advance(Duration::from_secs(10)).await;
        drop(body);
        assert_eq!(
            handle.limits()[0].remaining,
            until - Duration::from_secs(10),
            "its end tells nothing new"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_teaches_nothing() {
    let model = Model::script([stream_of(vec![Frame::data("Hel".into())])]);
    let layer = RateLimitLayer::new("a", TestClassify);
    let service = layer.layer(model);
    let answer = service.oneshot(request()).await.expect("sent");
    drop(answer);
    assert!(layer.handle().limits().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_limit_noticed_between_ready_and_call_holds() {
    let model = Model::script([refusal(Some(7), "slow")]);
    let layer = RateLimitLayer::new("a", TestClassify);
    let mut ready = layer.layer(model.clone());
    ready.ready().await.expect("ready");
    let other = layer.layer(model.clone());
    other.oneshot(request()).await.expect("refused");
    local(ready.call(request()).await);
    assert_eq!(model.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn clones_share_what_is_remembered_and_not_readiness() {
    let model = Model::script([refusal(Some(7), "slow")]);
    let service = RateLimitLayer::new("a", TestClassify).layer(model.clone());
    let mut original = service.clone();
    original.ready().await.expect("ready");
    let readied = model.readied();
    let clone = original.clone();
    clone.oneshot(request()).await.expect("sent");
    assert_eq!(model.readied(), readied + 1, "the clone asked for itself");
    local(original.call(request()).await);
    assert_eq!(model.asked(), 1);
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let builder = || RateLimitLayer::builder("a", TestClassify);
    let second = Duration::from_secs(1);
    let waits = Waits::THROTTLED;
    for (field, result) in [
        (
            "throttled",
            builder().throttled(waits.floor(second * 61)).build(),
        ),
        (
            "quota",
            builder()
                .quota(waits.backoff(Duration::ZERO, second))
                .build(),
        ),
        (
            "overloaded",
            builder()
                .overloaded(waits.backoff(second, Duration::ZERO))
                .build(),
        ),
        ("jitter", builder().jitter(f64::NAN).build()),
        ("jitter", builder().jitter(1.5).build()),
        ("ramp", builder().ramp(second * 61).build()),
        ("wait_up_to", builder().wait_up_to(Duration::ZERO).build()),
        ("shift_below", builder().shift_below(f64::NAN).build()),
        ("shift_below", builder().shift_below(1.0).build()),
        ("pace_up_to", builder().pace_up_to(second).build()),
        ("capacity", builder().capacity(0).build()),
        ("peek_limit", builder().peek(0, second).build()),
    ] {
        let error = result.expect_err(field);
        assert_eq!(error.field(), field);
        assert!(error.to_string().contains(field));
    }
}
