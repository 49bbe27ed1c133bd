//! Models on loopback ports, a stack of layers over them, and a caller.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use backstop_core::{BoxError, Http, body::Replayable};
use backstop_failover::{Failover, FailoverBuilder, Target, health::HealthConfig};
use backstop_timeout::{Limits, TimeoutLayer};
use backstop_wire::{ClassifyHttp, Dialect, answer::AnswerLayer};
use bytes::Bytes;
use http::{Request, Response, StatusCode, uri};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

pub(crate) type Stack =
    BoxCloneSyncService<Request<Full<Bytes>>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError>;

/// How long a model may be silent before its first token where silence is not what is tested.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const CLASSIFY: ClassifyHttp = ClassifyHttp::new(Dialect::OpenAiChat);

/// What one caller got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    /// All of an answer with a good status.
    Whole(String),
    /// An answer with another status.
    Refused(StatusCode, bool),
    /// An answer that broke off, and the text until then.
    BrokenOff(String),
    /// No answer at all.
    Nothing,
}

/// The failover that all stacks here are made of.
pub(crate) fn failover(health: HealthConfig) -> FailoverBuilder<ClassifyHttp, Http, ()> {
    Failover::builder(CLASSIFY)
        .health(health)
        .deadline(Duration::from_secs(30))
}

/// A failover over models at these addresses, each of which may be silent for so long, with errors
/// as answers.
pub(crate) fn over(
    builder: FailoverBuilder<ClassifyHttp, Http, ()>,
    first_token: Duration,
    models: &[(&'static str, SocketAddr)],
) -> Stack {
    let targets = models
        .iter()
        .map(|(name, addr)| Target::new(*name, target(*addr, first_token)))
        .collect();
    let failover = builder.build(targets).expect("a valid configuration");
    let stack = ServiceBuilder::new()
        .map_response(|response: Response<_>| {
            response.map(|body| BodyExt::map_err(body, BoxError::from).boxed_unsync())
        })
        .layer(AnswerLayer::new(Dialect::OpenAiChat))
        .service(failover)
        .map_err(BoxError::from);
    BoxCloneSyncService::new(stack)
}

/// One model: a client of its own that names its phases.
pub(crate) fn target(
    addr: SocketAddr,
    first_token: Duration,
) -> impl Service<
    Request<Replayable<Full<Bytes>>>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Send + use<>>,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send
+ Sync
+ use<> {
    let limits = Limits::default()
        .headers(first_token)
        .first_token(first_token);
    let client = Client::builder(TokioExecutor::new()).build_http();
    ServiceBuilder::new()
        .map_request(move |request| addressed_to(request, addr))
        .layer(TimeoutLayer::new(limits).expect("valid").classify(CLASSIFY))
        .service(client)
}

fn addressed_to<B>(mut request: Request<B>, addr: SocketAddr) -> Request<B> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = Some(addr.to_string().parse().expect("an authority"));
    *request.uri_mut() = uri::Uri::from_parts(parts).expect("an address");
    request
}

/// One call. The answer is read to its end.
pub(crate) async fn call(stack: Stack, streamed: bool) -> Got {
    let body = format!(
        r#"{{"model":"m","stream":{streamed},"messages":[{{"role":"user","content":"Hello"}}]}}"#
    );
    let request = Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::from(body))
        .expect("a request");
    let Ok(response) = stack.oneshot(request).await else {
        return Got::Nothing;
    };
    let status = response.status();
    if !status.is_success() {
        let header = response.headers().get("x-should-retry");
        return Got::Refused(status, header.is_some_and(|value| value == "false"));
    }
    let mut body = response.into_body();
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(data);
        }
    }
    let read = String::from_utf8_lossy(&read);
    if streamed {
        streamed_text(&read)
    } else {
        text(&read)
    }
}

fn text(body: &str) -> Got {
    let answer: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match answer["choices"][0]["message"]["content"].as_str() {
        Some(text) => Got::Whole(text.to_owned()),
        None => Got::BrokenOff(String::new()),
    }
}

fn streamed_text(body: &str) -> Got {
    let mut text = String::new();
    for event in body.lines().filter_map(|line| line.strip_prefix("data: ")) {
        if event == "[DONE]" {
            return Got::Whole(text);
        }
        let event: serde_json::Value = serde_json::from_str(event).unwrap_or_default();
        if !event["error"].is_null() {
            break;
        }
        text.push_str(
            event["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or(""),
        );
    }
    Got::BrokenOff(text)
}

/// Calls as the official `OpenAI` client does: two retries, unless the answer says not to.
pub(crate) async fn sdk_call(stack: &Stack) -> Got {
    for attempt in 0_u32.. {
        let got = call(stack.clone(), false).await;
        let may_retry = match &got {
            Got::Whole(_) | Got::BrokenOff(_) => false,
            Got::Nothing => true,
            Got::Refused(status, is_final) => {
                !is_final
                    && (matches!(status.as_u16(), 408 | 409 | 429) || status.is_server_error())
            }
        };
        if !may_retry || attempt == 2 {
            return got;
        }
        // It waits half a second and more; the time makes no difference to the count.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    unreachable!("two retries")
}

/// Sends every request on to `addr`, without any layer.
pub(crate) fn bare(addr: SocketAddr) -> Stack {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let stack = ServiceBuilder::new()
        .map_request(move |request| addressed_to(request, addr))
        .map_response(|response: Response<hyper::body::Incoming>| {
            response.map(|body| body.map_err(BoxError::from).boxed_unsync())
        })
        .map_err(BoxError::from)
        .service(client);
    BoxCloneSyncService::new(stack)
}

/// Tries again at once whatever is not answered, twice.
pub(crate) fn naive(stack: Stack) -> Stack {
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Full<Bytes>>| {
        let stack = stack.clone();
        async move {
            let tries = AtomicU32::new(0);
            loop {
                let last = tries.fetch_add(1, Ordering::Relaxed) == 2;
                match stack.clone().oneshot(request.clone()).await {
                    Ok(response) if last || response.status().is_success() => return Ok(response),
                    Err(error) if last => return Err(error),
                    _ => {}
                }
            }
        }
    }))
}
