//! With the classifier of `backstop-wire`: what satisfies a limit in a real dialect, what the caller
//! is answered, and how the timeouts of others are named.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{convert::Infallible, future::ready, pin::pin, time::Duration};

use backstop_core::{BoxError, Classify, ClassifyStream, End, Kind, Outcome, Verdict};
use backstop_timeout::{Elapsed, Limits, Phase, TimeoutLayer};
use backstop_wire::{ClassifyHttp, Dialect, answer::AnswerLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use support::{Script, Then, secs};
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

type Req = Request<Full<Bytes>>;

/// When a stream of these events, one every 5 s, meets its end, and which.
async fn ending(dialect: Dialect, events: &[&'static str]) -> (Option<Elapsed>, Duration) {
    let limits = Limits::unlimited().first_token(secs(60)).idle(secs(100));
    let layer = TimeoutLayer::new(limits)
        .unwrap()
        .classify(ClassifyHttp::new(dialect));
    let frames: Vec<_> = (1..)
        .map(|n| secs(5 * n))
        .zip(events.iter().copied())
        .collect();
    let model = service_fn(move |_: Req| {
        let response = Response::builder()
            .header("content-type", "text/event-stream")
            .body(Script::new(&frames, Then::Hangs));
        ready(response)
    });
    let start = Instant::now();
    let response = layer
        .layer(model)
        .oneshot(Request::default())
        .await
        .unwrap();
    let mut body = pin!(response.into_body());
    let mut elapsed = None;
    while let Some(frame) = body.frame().await {
        elapsed = frame.err().map(|error| *Elapsed::find(&*error).unwrap());
    }
    let took = Instant::now().saturating_duration_since(start);
    (elapsed, took)
}

const OPENAI_ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const OPENAI_TEXT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
const OPENAI_TOOL: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n";
const OPENAI_STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const ANTHROPIC_START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[]}}\n\n";
const ANTHROPIC_BLOCK: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
const ANTHROPIC_PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
const ANTHROPIC_TEXT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n";

#[tokio::test(start_paused = true)]
async fn signs_of_life_do_not_satisfy_the_first_token() {
    let first_token = Elapsed::new(Phase::FirstToken, secs(60), secs(60));
    for (dialect, events) in [
        (
            Dialect::OpenAiChat,
            &[": OPENROUTER PROCESSING\n\n", OPENAI_ROLE, "\n\n", "data: "][..],
        ),
        (
            Dialect::Anthropic,
            &[
                ANTHROPIC_START,
                ANTHROPIC_BLOCK,
                ANTHROPIC_PING,
                ANTHROPIC_PING,
            ][..],
        ),
    ] {
        let (elapsed, took) = ending(dialect, events).await;
        assert_eq!(
            (elapsed, took),
            (Some(first_token), secs(60)),
            "{dialect:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn content_does() {
    let idle = Elapsed::new(Phase::Idle, secs(100), secs(100));
    for (dialect, events) in [
        (Dialect::OpenAiChat, [OPENAI_ROLE, OPENAI_TEXT]),
        (Dialect::OpenAiChat, [OPENAI_ROLE, OPENAI_TOOL]),
        (Dialect::Anthropic, [ANTHROPIC_START, ANTHROPIC_TEXT]),
    ] {
        let (elapsed, took) = ending(dialect, &events).await;
        assert_eq!((elapsed, took), (Some(idle), secs(110)), "{events:?}");
    }
}

/// The provider says `finish_reason` and never `[DONE]`, nor does it close.
#[tokio::test(start_paused = true)]
async fn a_whole_answer_is_not_a_stall() {
    let (elapsed, took) = ending(Dialect::OpenAiChat, &[OPENAI_TEXT, OPENAI_STOP]).await;
    assert_eq!((elapsed, took), (None, secs(12)));
}

/// A limit as the caller of a gateway sees it.
#[tokio::test(start_paused = true)]
async fn the_caller_gets_a_504_in_its_dialect() {
    for (dialect, marked) in [(Dialect::OpenAiChat, false), (Dialect::Anthropic, true)] {
        let service = ServiceBuilder::new()
            .layer(AnswerLayer::new(dialect))
            .layer(TimeoutLayer::new(Limits::default().headers(secs(10))).unwrap())
            .service(service_fn(|_: Req| {
                std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
            }));
        let response = service.oneshot(Request::default()).await.unwrap();
        assert_eq!(response.status(), 504);
        // An SDK that asked again would find the same.
        assert_eq!(response.headers()["x-should-retry"], "false");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(text.starts_with(r#"{"error":{"#), "{text}");
        assert_eq!(text.contains(r#""type":"error""#), marked, "{text}");
    }
}

/// Limits of somebody else's are named like one's own.
#[test]
fn the_timeouts_of_gateways_are_timeouts() {
    for status in [408, 504, 522, 524] {
        let outcome = outcome_of_response(status);
        assert!(
            matches!(outcome.kind(), Kind::TimedOut(_)),
            "{status}: {outcome}"
        );
    }
}

fn outcome_of_response(status: u16) -> Outcome {
    let response = Response::builder().status(status).body(()).unwrap();
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    match Classify::<Request<()>, _>::on_response(&classify, &None, &response) {
        Verdict::Now(outcome) => outcome,
        Verdict::AtEnd(mut stream) => stream.on_end(End::Clean(None)),
    }
}

/// A call through a connection that breaks is not made a timeout by the layer.
#[tokio::test(start_paused = true)]
async fn other_errors_pass() {
    let layer = TimeoutLayer::new(Limits::default()).unwrap();
    let broken = service_fn(|_: Req| {
        let error: BoxError = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
        ready(Err::<Response<Full<Bytes>>, _>(error))
    });
    let error = layer
        .layer(broken)
        .oneshot(Request::default())
        .await
        .unwrap_err();
    assert!(error.is::<std::io::Error>());
    assert_eq!(backstop_core::outcome_of(&*error).kind(), Kind::Unavailable);
}
