//! The layer around an HTTP service that speaks OpenAI chat completions or Anthropic Messages.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_cache::{
    CacheConfig, CachedFallbackLayer, KeySecret, MemoryStore, ProducedBy, SimplifiedAnswer, Tenant,
};
use backstop_core::{
    BoxError, Cause, Considered, Exhausted, Failure, FrozenRequest, Kind, Mode, Outcome, Served,
    SkipReason, Trace, Tried, body::Replayable,
};
use backstop_wire::{ClassifyHttp, Dialect, recorder::HttpRecorder};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

type Chunks = Vec<Result<&'static str, &'static str>>;

/// What the model answers: status, content type, chunks of the body, who served.
type Answer = (u16, &'static str, Chunks, Option<(&'static str, Mode)>);
type Script = Vec<Answer>;

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";
const WHOLE: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
const STREAM: [&str; 4] = [
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello \"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"there\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
];
const DOWN: &str = r#"{"error":{"message":"down","type":"server_error","code":null,"param":null}}"#;

fn stream(events: usize) -> Chunks {
    STREAM[..events].iter().copied().map(Ok).collect()
}

fn down() -> Answer {
    (503, JSON, vec![Ok(DOWN)], None)
}

type Reply = (
    http::StatusCode,
    http::HeaderMap,
    Option<Served>,
    Result<String, String>,
    Option<Outcome>,
);

/// Sends the requests one after the other, a second apart, and returns what came back.
async fn run(
    script: Script,
    producers: &[&str],
    requests: impl IntoIterator<Item = (&'static str, Value)>,
) -> Vec<Reply> {
    run_with(CacheConfig::default(), script, producers, requests).await
}

async fn run_with(
    config: CacheConfig,
    script: Script,
    producers: &[&str],
    requests: impl IntoIterator<Item = (&'static str, Value)>,
) -> Vec<Reply> {
    let asked = Arc::new(AtomicUsize::new(0));
    let model = service_fn(move |_: Request<Replayable<Full<Bytes>>>| {
        let (status, content_type, chunks, served) =
            script[asked.fetch_add(1, Ordering::SeqCst)].clone();
        async move {
            let frames = chunks.into_iter().map(|chunk| match chunk {
                Ok(data) => Ok(Frame::data(Bytes::from(data))),
                Err(error) => Err(BoxError::from(error)),
            });
            let body = UnsyncBoxBody::new(StreamBody::new(futures_util::stream::iter(frames)));
            let mut response = Response::new(body);
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            response
                .headers_mut()
                .insert("content-type", content_type.parse().unwrap());
            if let Some((target, mode)) = served {
                response
                    .extensions_mut()
                    .insert(Served::new(target.into(), mode, 2));
            }
            Ok::<_, BoxError>(response)
        }
    });
    let tenant = |request: &FrozenRequest| {
        let key = request.parts().headers.get("authorization")?;
        Some(Tenant::new(key.as_bytes()))
    };
    let mut stack = CachedFallbackLayer::new(
        config,
        MemoryStore::new(1 << 20, Duration::from_secs(7200)),
        KeySecret::random().unwrap(),
        producers.iter().map(|name| ProducedBy::new(*name, "m")),
        tenant,
        HttpRecorder::new(Dialect::OpenAiChat).unwrap(),
        ClassifyHttp::new(Dialect::OpenAiChat),
    )
    .unwrap()
    .layer(model);
    let mut replies = Vec::new();
    for (key, body) in requests {
        let mut request = Request::post("/v1/chat/completions")
            .header("content-type", JSON)
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        request
            .headers_mut()
            .insert("authorization", key.parse().unwrap());
        let response = stack.ready().await.unwrap().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = match body.collect().await {
            Ok(body) => Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap()),
            Err(error) => Err(error.to_string()),
        };
        replies.push((
            head.status,
            head.headers,
            head.extensions.get().cloned(),
            body,
            head.extensions.get().copied(),
        ));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    replies
}

fn ask(prompt: &str, stream: bool) -> Value {
    json!({"model": "chat", "stream": stream, "messages": [{"role": "user", "content": prompt}]})
}

fn text(reply: &Reply) -> String {
    let body = reply.3.as_ref().unwrap();
    if reply.1["content-type"] == SSE {
        body.lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str::<Value>(data).ok())
            .filter_map(|chunk| {
                chunk["choices"][0]["delta"]["content"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect()
    } else {
        let body: Value = serde_json::from_str(body).unwrap();
        body["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_as_json_is_replayed_as_stream_and_the_other_way_round() {
    for first_as_stream in [false, true] {
        let first = if first_as_stream {
            (200, SSE, stream(4), None)
        } else {
            (200, JSON, vec![Ok(WHOLE)], None)
        };
        let replies = run(
            vec![first, down(), down(), down()],
            &[""],
            [
                ("a", ask("hi", first_as_stream)),
                ("a", ask("hi", true)),
                ("a", ask("hi", false)),
                ("b", ask("hi", false)),
            ],
        )
        .await;
        assert!(replies[0].2.is_none());
        assert_eq!(text(&replies[0]), "Hello there");
        for (reply, age) in replies[1..3].iter().zip(["1", "2"]) {
            assert_eq!(reply.0, 200);
            assert_eq!(text(reply), "Hello there");
            assert_eq!(reply.1["age"], age);
            assert_eq!(
                reply.1["cache-status"],
                "backstop; hit; detail=stale-if-error"
            );
            assert_eq!(reply.2.as_ref().unwrap().mode, Mode::Stale);
        }
        assert!(replies[1].3.as_ref().unwrap().ends_with("data: [DONE]\n\n"));
        // Another tenant gets the failure, byte for byte.
        assert_eq!(replies[3].0, 503);
        assert_eq!(replies[3].3.as_deref(), Ok(DOWN));
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_is_a_hit_and_not_stale() {
    let mut config = CacheConfig::default();
    config.fresh_for = Duration::from_secs(60);
    let script = vec![(200, JSON, vec![Ok(WHOLE)], None)];
    let asks = [("a", ask("hi", false)), ("a", ask("hi", true))];
    let replies = run_with(config, script, &[""], asks).await;
    assert_eq!(text(&replies[1]), "Hello there");
    assert_eq!(replies[1].1["cache-status"], "backstop; hit");
    assert_eq!(replies[1].1["age"], "1");
    assert_eq!(replies[1].2.as_ref().unwrap().mode, Mode::Cached);
}

#[tokio::test(start_paused = true)]
async fn the_healthy_stream_passes_byte_for_byte() {
    let replies = run(
        vec![(200, SSE, stream(4), None)],
        &[""],
        [("a", ask("hi", true))],
    )
    .await;
    assert_eq!(replies[0].3.as_deref(), Ok(&*STREAM.concat()));
}

#[tokio::test(start_paused = true)]
async fn poison_is_never_kept() {
    let cut = |end: Result<&'static str, &'static str>| {
        let mut chunks = stream(3);
        chunks.push(end);
        (200, SSE, chunks, None)
    };
    let tool = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#;
    let by = |mode| (200, JSON, vec![Ok(WHOLE)], Some(("", mode)));
    let poison: [(&str, Answer); 9] = [
        ("served fresh by somebody else", by(Mode::Cached)),
        ("written by an operator", by(Mode::Simplified)),
        ("broken stream", cut(Err("reset"))),
        ("stream without end", (200, SSE, stream(3), None)),
        (
            "error in the stream",
            cut(Ok("data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n")),
        ),
        ("tool call", (200, JSON, vec![Ok(tool)], None)),
        ("error in a 200", (200, JSON, vec![Ok(DOWN)], None)),
        (
            "made by an unknown target",
            (200, JSON, vec![Ok(WHOLE)], Some(("other", Mode::Failover))),
        ),
        (
            "served stale by somebody else",
            (200, JSON, vec![Ok(WHOLE)], Some(("", Mode::Stale))),
        ),
    ];
    for (name, answer) in poison {
        let is_stream = answer.1 == SSE;
        let replies = run(
            vec![answer, down()],
            &[""],
            [("a", ask("hi", is_stream)), ("a", ask("hi", false))],
        )
        .await;
        assert_eq!(replies[1].0, 503, "{name} was kept");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_filed_under_the_target_that_made_it() {
    let by = |target, mode| (200, JSON, vec![Ok(WHOLE)], Some((target, mode)));
    let replies = run(
        vec![by("backup", Mode::Failover), down()],
        &["primary", "backup"],
        [("a", ask("hi", false)), ("a", ask("hi", false))],
    )
    .await;
    let served = replies[1].2.as_ref().unwrap();
    assert_eq!((&*served.target, served.mode), ("backup", Mode::Stale));
}

#[tokio::test(start_paused = true)]
async fn an_answer_or_a_request_above_its_limit_passes_by() {
    let question = ask("hi", true).to_string().len();
    let stream_length = STREAM.concat().len();
    for (as_stream, max_answer, max_request, is_kept) in [
        (true, stream_length, question, true),
        (true, stream_length - 1, question, false),
        (true, stream_length, question - 1, false),
        (false, WHOLE.len(), question + 1, true),
        (false, WHOLE.len() - 1, question + 1, false),
        (false, WHOLE.len(), question, false),
    ] {
        let mut config = CacheConfig::default();
        config.max_answer = max_answer;
        config.max_request = max_request;
        let (answer, sent) = if as_stream {
            ((200, SSE, stream(4), None), STREAM.concat())
        } else {
            ((200, JSON, vec![Ok(WHOLE)], None), WHOLE.to_owned())
        };
        let asks = [("a", ask("hi", as_stream)), ("a", ask("hi", as_stream))];
        let replies = run_with(config, vec![answer, down()], &[""], asks).await;
        // Whatever is kept of it, it is given as it came.
        assert_eq!(replies[0].3.as_deref(), Ok(&*sent));
        let status = if is_kept { 200 } else { 503 };
        assert_eq!(
            replies[1].0, status,
            "{as_stream} {max_answer} {max_request}"
        );
    }
}

/// Nor is more of it held than would be kept.
#[tokio::test(start_paused = true)]
async fn an_answer_above_the_limit_is_not_waited_for() {
    let model = service_fn(|_: Request<Replayable<Full<Bytes>>>| {
        use futures_util::StreamExt as _;
        let begun = Ok::<_, BoxError>(Frame::data(Bytes::from(&WHOLE[..100])));
        let never_ends = futures_util::stream::iter([begun]).chain(futures_util::stream::pending());
        let response = Response::builder().header("content-type", JSON);
        std::future::ready(response.body(StreamBody::new(never_ends)))
    });
    let mut config = CacheConfig::default();
    config.max_answer = 99;
    let stack = CachedFallbackLayer::new(
        config,
        MemoryStore::new(1 << 20, Duration::from_secs(7200)),
        KeySecret::random().unwrap(),
        [ProducedBy::new("", "m")],
        |_: &FrozenRequest| Some(Tenant::new(b"a")),
        HttpRecorder::new(Dialect::OpenAiChat).unwrap(),
        ClassifyHttp::new(Dialect::OpenAiChat),
    );
    let request = Request::new(Full::new(Bytes::from(ask("hi", false).to_string())));
    let answering = stack.unwrap().layer(model).oneshot(request);
    let answered = tokio::time::timeout(Duration::from_secs(60), answering).await;
    assert_eq!(answered.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_operators_text_as_an_error_is_whole_and_final() {
    let mut config = CacheConfig::default();
    config.simplified = Some(SimplifiedAnswer::new("Out of office: {outcome}.").as_error());
    let asks = [("a", ask("hi", false)), ("a", ask("hi", true))];
    for reply in run_with(config, vec![down(), down()], &[""], asks).await {
        assert_eq!(reply.0, 503);
        assert_eq!(reply.2.as_ref().unwrap().mode, Mode::Simplified);
        assert_eq!(reply.1["content-type"], JSON);
        assert_eq!(reply.1["x-should-retry"], "false");
        let body: Value = serde_json::from_str(reply.3.as_ref().unwrap()).unwrap();
        assert_eq!(body["error"]["message"], "Out of office: unavailable.");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_was_found_to_be_goes_with_it() {
    let failed = (503, JSON, vec![Ok(DOWN)], Some(("", Mode::Primary)));
    let asks = || [("a", ask("hi", false))];
    let passed = run(vec![failed.clone()], &[""], asks()).await;
    let found = passed[0].4.map(|outcome| outcome.kind());
    assert_eq!(found, Some(Kind::Unavailable));
    let mut config = CacheConfig::default();
    config.simplified = Some(SimplifiedAnswer::new("Out of office."));
    let replies = run_with(config, vec![failed], &[""], asks()).await;
    let served = replies[0].2.as_ref().unwrap();
    assert_eq!((served.mode, served.attempts), (Mode::Simplified, 2));
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_for_an_error_says_how_often_was_asked() {
    let mut trace = Trace::default();
    for _ in 0..3 {
        let tried = Tried::new(Cause::Planned, Duration::ZERO);
        trace.push(&"a".into(), Considered::Tried(tried));
    }
    trace.push(&"b".into(), Considered::Skipped(SkipReason::Throttled));
    for (trace, attempts) in [(Some(trace), 3), (Some(Trace::default()), 0), (None, 1)] {
        let model = service_fn(move |_: Request<Replayable<Full<Bytes>>>| {
            let outcome = Outcome::new(Kind::Unavailable);
            let failure = match trace.clone() {
                Some(trace) => Failure::with_source(outcome, Exhausted::new(trace, None)),
                None => Failure::new(outcome),
            };
            std::future::ready(Err::<Response<Full<Bytes>>, BoxError>(failure.into()))
        });
        let mut config = CacheConfig::default();
        config.simplified = Some(SimplifiedAnswer::new("Out of office."));
        let stack = CachedFallbackLayer::new(
            config,
            MemoryStore::new(1 << 20, Duration::from_secs(7200)),
            KeySecret::random().unwrap(),
            [ProducedBy::new("", "m")],
            |_: &FrozenRequest| Some(Tenant::new(b"a")),
            HttpRecorder::new(Dialect::OpenAiChat).unwrap(),
            ClassifyHttp::new(Dialect::OpenAiChat),
        );
        let request = Request::post("/v1/chat/completions")
            .header("content-type", JSON)
            .body(Full::new(Bytes::from(ask("hi", false).to_string())))
            .unwrap();
        let response = stack.unwrap().layer(model).oneshot(request).await.unwrap();
        let served: &Served = response.extensions().get().unwrap();
        assert_eq!((served.mode, served.attempts), (Mode::Simplified, attempts));
    }
}
