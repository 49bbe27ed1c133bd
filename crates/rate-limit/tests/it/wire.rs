//! With the classifier for HTTP: what providers say is noticed, and callers are told in their own
//! dialect.

use std::time::Duration;

use backstop_core::{Headroom, HintSource, Kind, Outcome};
use backstop_rate_limit::{RateLimitHandle, RateLimitLayer};
use backstop_testkit::model::{Refusal, Reply, Scripted};
use backstop_wire::{ClassifyHttp, Dialect, Provider, answer::AnswerLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::support::{self, Log, whole};

type Call = BoxCloneSyncService<Request<Full<Bytes>>, (http::response::Parts, Bytes), String>;

/// The layer around a scripted model, and its answers as a caller of OpenAI's dialect sees them.
fn stack(model: &Scripted, log: &Log) -> (Call, RateLimitHandle) {
    let classify = ClassifyHttp::new(Dialect::OpenAiChat).provider(Provider::OpenAi);
    let layer = RateLimitLayer::builder("gpt", classify)
        .observe(log.clone())
        .build()
        .expect("valid");
    let handle = layer.handle();
    let service = ServiceBuilder::new()
        .layer(AnswerLayer::new(Dialect::OpenAiChat))
        .layer(layer)
        .service(model.clone());
    let call = service_fn(move |request: Request<Full<Bytes>>| {
        let answer = service.clone().oneshot(request);
        async move {
            let (head, body) = answer
                .await
                .map_err(|error| error.to_string())?
                .into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok((head, body.to_bytes()))
        }
    });
    (BoxCloneSyncService::new(call), handle)
}

fn request(stream: bool) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"model":"gpt","stream":{stream},"messages":[]}}"#);
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::from(body))
        .expect("valid")
}

#[tokio::test(start_paused = true)]
async fn a_caller_sees_the_providers_refusal_and_then_one_like_it() {
    let (model, log) = (Scripted::new("gpt"), Log::default());
    model.push(Reply::refuse(Refusal::RateLimited).header("retry-after", "7"));
    let (call, handle) = stack(&model, &log);

    let (head, body) = call.clone().oneshot(request(false)).await.expect("sent");
    assert_eq!(head.status, 429);
    let verdict = head.extensions.get::<Outcome>().expect("attached");
    assert_eq!(verdict.kind(), Kind::Throttled);
    assert!(String::from_utf8_lossy(&body).contains("tokens per min"));

    tokio::time::advance(Duration::from_secs(2)).await;
    let (head, body) = call.oneshot(request(false)).await.expect("answered");
    assert_eq!(head.status, 429);
    assert_eq!(model.log().len(), 1);
    let told: u64 = head.headers["retry-after"]
        .to_str()
        .ok()
        .and_then(|value| value.parse().ok())
        .expect("whole seconds");
    let left = handle.remaining(None).expect("limited");
    assert!(Duration::from_secs(told) >= left, "{told} s, {left:?} left");
    assert!((5..=6).contains(&told), "{told}");
    assert!(String::from_utf8_lossy(&body).contains("error"));
}

#[tokio::test(start_paused = true)]
async fn what_the_headers_say_is_left_rides_on_the_response() {
    for refuses in [false, true] {
        let (model, log) = (Scripted::new("gpt"), Log::default());
        let reply = if refuses {
            Reply::refuse(Refusal::RateLimited)
        } else {
            Reply::healthy()
        };
        model.push(
            reply
                .header("x-ratelimit-limit-requests", "100")
                .header("x-ratelimit-remaining-requests", "25"),
        );
        let (call, _) = stack(&model, &log);
        let (head, _) = call.oneshot(request(false)).await.expect("sent");
        let headroom = head.extensions.get::<Headroom>().expect("attached");
        assert_eq!(headroom.lowest_share(), Some(0.25));
        let verdict = head.extensions.get::<Outcome>().map(Outcome::kind);
        assert_eq!(verdict, refuses.then_some(Kind::Throttled));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_stream_counts() {
    let (model, log) = (Scripted::new("gpt"), Log::default());
    model.push(Reply::healthy().error_after(2, Refusal::RateLimited));
    let (call, handle) = stack(&model, &log);
    let (head, _) = call.clone().oneshot(request(true)).await.expect("sent");
    assert_eq!(head.status, 200);
    assert_eq!(
        handle.limits().first().map(|limit| limit.kind),
        Some(Kind::Throttled)
    );
    let (head, _) = call.oneshot(request(true)).await.expect("answered");
    assert_eq!(head.status, 429);
    assert_eq!(model.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_spent_quota_is_no_rate_limit() {
    let (model, log) = (Scripted::new("gpt"), Log::default());
    model.push(Reply::refuse(Refusal::QuotaExhausted));
    let (call, handle) = stack(&model, &log);
    call.oneshot(request(false)).await.expect("sent");
    let limit = handle.limits()[0];
    assert_eq!(limit.kind, Kind::QuotaExhausted);
    assert!(limit.remaining >= Duration::from_secs(60), "{limit:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_spent_until_the_time_that_the_refusal_names() {
    let refusal = Response::builder()
        .status(400)
        .header("content-type", "application/json")
        .header("date", "Sat, 31 Jan 2026 21:00:00 GMT")
        .body(whole(
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-02-01 at 00:00 UTC."}}"#,
        ));
    let model = support::Model::script([refusal.expect("valid")]);
    let classify = ClassifyHttp::new(Dialect::Anthropic).provider(Provider::Anthropic);
    let layer = RateLimitLayer::builder("claude", classify).jitter(0.0);
    let layer = layer.build().expect("valid");
    let service = layer.layer(model.clone());
    let send = || service.clone().oneshot(support::request());
    send().await.expect("passed on");
    let limit = layer.handle().limits()[0];
    assert_eq!(limit.kind, Kind::QuotaExhausted);
    assert_eq!(limit.remaining, Duration::from_secs(3 * 60 * 60));
    tokio::time::advance(limit.remaining - Duration::from_millis(1)).await;
    assert!(send().await.is_err(), "a moment early");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(send().await.is_ok());
    assert_eq!(model.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_mistake_of_the_caller_is_no_limit() {
    let (model, log) = (Scripted::new("gpt"), Log::default());
    model.always(Reply::refuse(Refusal::ContextTooLong));
    let (call, handle) = stack(&model, &log);
    for _ in 0..3 {
        call.clone().oneshot(request(false)).await.expect("sent");
    }
    assert_eq!(model.log().len(), 3);
    assert!(handle.limits().is_empty());
}

async fn told(retry_after: &str) -> (Duration, Log) {
    told_by(&[("retry-after", retry_after)]).await
}

async fn told_by(headers: &[(&str, &str)]) -> (Duration, Log) {
    let (model, log) = (Scripted::new("gpt"), Log::default());
    let refusal = Reply::refuse(Refusal::RateLimited);
    model.push(
        headers
            .iter()
            .fold(refusal, |reply, (name, value)| reply.header(name, value)),
    );
    let (call, handle) = stack(&model, &log);
    let start = Instant::now();
    call.clone().oneshot(request(false)).await.expect("sent");
    let remaining = handle.remaining(None).expect("limited");
    let (head, _) = call.oneshot(request(false)).await.expect("answered");
    assert_eq!(head.status, 429);
    assert_eq!(Instant::now(), start, "nobody is parked");
    (remaining, log)
}

#[tokio::test(start_paused = true)]
async fn strange_waits_are_bounded() {
    for (value, waits) in [
        ("1000000000000", 60_000..=60_000),
        ("3000000", 60_000..=60_000),
        ("99999999999999999999999999", 500..=60_000),
        ("0", 500..=550),
        // Not a wait: the back-off for want of one.
        ("-1", 500..=1_100),
        ("NaN", 500..=1_100),
        ("inf", 500..=60_000),
        ("soon", 500..=1_100),
        ("", 500..=1_100),
        // 1999 as a date, and as a number of seconds.
        ("Fri, 31 Dec 1999 23:59:59 GMT", 500..=1_100),
        ("1999", 60_000..=60_000),
        ("7", 7_000..=7_700),
    ] {
        let (remaining, _) = told(value).await;
        assert!(
            waits.contains(&remaining.as_millis()),
            "{value:?}: {remaining:?}"
        );
    }
}

/// A wait is read from several headers, and each of them may hold anything.
#[tokio::test(start_paused = true)]
async fn strange_waits_are_bounded_wherever_they_are_read() {
    for (name, source) in [
        ("retry-after-ms", HintSource::RetryAfterMs),
        ("x-ms-retry-after-ms", HintSource::RetryAfterMs),
        ("x-amz-retry-after", HintSource::Header),
        ("grpc-retry-pushback-ms", HintSource::Header),
        ("x-ratelimit-reset-requests", HintSource::Reset),
    ] {
        let spent = [
            ("x-ratelimit-limit-requests", "100"),
            ("x-ratelimit-remaining-requests", "0"),
        ];
        for (value, is_hint) in [
            ("999999999999", true),
            ("0", true),
            ("1999", true),
            ("-1", false),
            ("NaN", false),
            ("inf", false),
            ("1e999", false),
            ("soon", false),
            ("", false),
        ] {
            let mut headers = vec![(name, value), ("date", "Mon, 23 Nov 2026 02:00:00 GMT")];
            if source == HintSource::Reset {
                headers.extend(spent);
            }
            let (remaining, log) = told_by(&headers).await;
            let remaining = remaining.as_millis();
            assert!(
                (500..=60_000).contains(&remaining),
                "{name}: {value}: {remaining}"
            );
            let by_it = log.count(&format!("noticed {source:?}"));
            assert_eq!(
                by_it,
                usize::from(is_hint),
                "{name}: {value}: {:?}",
                log.events()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_source_of_a_hint_is_told() {
    let (_, log) = told("7").await;
    let source = format!("noticed {:?}", HintSource::RetryAfter);
    assert_eq!(log.count(&source), 1, "{:?}", log.events());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_value_at_all_escapes_the_bounds(value in "[ -~]{0,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let (remaining, _) = runtime.block_on(told(&value));
        prop_assert!(remaining >= Duration::from_millis(500));
        prop_assert!(remaining <= Duration::from_secs(60));
    }
}
