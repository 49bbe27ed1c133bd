//! The paths that callers ask at, and which stack answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
    routing::{get, post},
};
use backstop_core::{BoxError, Mode, Served, TimeLimits, Trace, body::Replayable};
use backstop_failover::{FailoverHandle, Force, plan::Affinity};
use backstop_rate_limit::RateLimitHandle;
use backstop_redis::SharedHealthTask;
use backstop_wire::{
    Dialect,
    request::{BadBody, RequestFacts},
};
use bytes::{Bytes, BytesMut};
use http::{
    Extensions, HeaderMap, HeaderName, StatusCode, Uri,
    header::{CONTENT_ENCODING, EXPECT},
};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;

use crate::{
    body::{LINGER, Rest},
    config::{self, Config},
    needs,
    reply::{Refusal, dress, json_response},
    stack::{self, Secrets, Stack},
    targets,
};

/// How long a caller may pause while it sends its body: as long as for the head of the request.
const BODY_PAUSE: Duration = Duration::from_secs(30);

/// The models that are served.
#[derive(Debug)]
pub(crate) struct Gateway {
    models: HashMap<Arc<str>, Route>,
    force_header: Option<HeaderName>,
    /// The failover of each model, with its name.
    failovers: Vec<(Arc<str>, FailoverHandle)>,
    show_targets: bool,
    limits: Vec<RateLimitHandle>,
    _sharing: Option<SharedHealthTask>,
    list: Value,
    max_body: usize,
    replay_limit: usize,
}

#[derive(Debug)]
struct Route {
    dialect: Dialect,
    deadline: Duration,
    affinity_header: Option<HeaderName>,
    /// Whether it matters what a request asks of a model.
    has_needs: bool,
    stack: Stack,
}

/// A request whose body has been read as far as it is kept.
struct Asked {
    model: Arc<str>,
    facts: RequestFacts,
    body: Replayable<Rest>,
    is_whole: bool,
}

/// The paths, and what answers.
pub(crate) fn router(gateway: Arc<Gateway>) -> Router {
    let mut router = Router::new();
    if gateway.show_targets {
        router = router.route("/backstop/targets", get(show_targets));
    }
    router
        .route("/v1/chat/completions", post(chat))
        .route("/v1/messages", post(messages))
        .route("/v1/models", get(list))
        .route("/healthz", get(async || "ok\n"))
        .fallback(async |uri: Uri| no_route(&uri, StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async |uri: Uri| {
            no_route(&uri, StatusCode::METHOD_NOT_ALLOWED)
        })
        .with_state(gateway)
}

async fn chat(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    gateway.answer(Dialect::OpenAiChat, request).await
}

async fn messages(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    gateway.answer(Dialect::Anthropic, request).await
}

/// Answers in the dialect of whoever asks at such a path.
fn no_route(uri: &Uri, status: StatusCode) -> Response {
    let dialect = if uri.path().starts_with("/v1/messages") {
        Dialect::Anthropic
    } else {
        Dialect::OpenAiChat
    };
    refuse(&Refusal::NoRoute(status), dialect)
}

/// Answers a request that no target is asked for, and says so in the log.
fn refuse(refusal: &Refusal, dialect: Dialect) -> Response {
    let response = refusal.response(dialect);
    let status = response.status().as_u16();
    tracing::info!(status, why = refusal.reason(), "refused");
    response
}

async fn list(State(gateway): State<Arc<Gateway>>) -> Response {
    json_response(StatusCode::OK, &gateway.list)
}

async fn show_targets(State(gateway): State<Arc<Gateway>>) -> Response {
    json_response(StatusCode::OK, &targets::of(&gateway.failovers))
}

impl Gateway {
    /// Builds the stacks of all models.
    pub(crate) fn new(config: &Config, secrets: &Secrets) -> Result<Self, BoxError> {
        let stacks = stack::build(config, secrets)?;
        let names = || config.models.iter().map(|model| model.name.as_str().into());
        let models = stacks
            .models
            .into_iter()
            .zip(&config.models)
            .map(|(stack, model)| {
                let route = Route {
                    dialect: model.dialect,
                    deadline: model.deadline,
                    affinity_header: model.affinity_header.clone(),
                    has_needs: model.targets.iter().any(|name| {
                        let target = config.targets.get(name);
                        target.is_some_and(config::Target::lacks_something)
                    }),
                    stack,
                };
                (model.name.as_str().into(), route)
            })
            .collect();
        Ok(Self {
            models,
            force_header: config.force_header.clone(),
            failovers: names().zip(stacks.failovers).collect(),
            show_targets: config.show_targets,
            limits: stacks.limits,
            _sharing: stacks.sharing,
            list: model_list(config),
            max_body: config.max_body,
            replay_limit: config.replay_limit,
        })
    }

    /// Forgets what was learnt of the targets.
    pub(crate) fn forget(&self) {
        for limit in &self.limits {
            limit.reset();
        }
        for (_, failover) in &self.failovers {
            for target in failover.targets() {
                failover.forget(&target.name);
            }
        }
    }

    /// Answers a request in the dialect of the path that it came by.
    async fn answer(&self, dialect: Dialect, request: Request) -> Response {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        // A caller that waits for leave to send its body need not send it in vain.
        let may_linger = !head.headers.contains_key(EXPECT);
        let is_plain = |coding: &http::HeaderValue| coding == "identity";
        let asked = if head.headers.get(CONTENT_ENCODING).is_none_or(is_plain) {
            self.read(body).await
        } else {
            Err((Refusal::Encoded, body))
        };
        let routed = asked.and_then(|asked| match self.route(dialect, &asked.model) {
            Ok(route) => Ok((route, asked)),
            // What is not kept of such a body is not worth reading.
            Err(refusal) => Err((refusal, Body::empty())),
        });
        let ((name, route), asked) = match routed {
            Ok(routed) => routed,
            Err((refusal, rest)) => {
                if may_linger {
                    discard(rest).await;
                }
                return refuse(&refusal, dialect);
            }
        };
        let mut head = head;
        head.extensions = self.extensions(route, &head.headers, &asked);
        let request = http::Request::from_parts(head, Body::new(asked.body));
        let response = match route.stack.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (mut head, body) = response.into_parts();
        // How the target was spoken to is no business of this connection.
        head.version = http::Version::default();
        let served: Option<Served> = head.extensions.remove();
        let failed: Option<Trace> = head.extensions.remove();
        let trace = served.as_ref().and_then(|served| served.trace.as_ref());
        dress(
            &mut head.headers,
            served.as_ref(),
            trace.or(failed.as_ref()),
        );
        // On good days it would only repeat the rest of the line.
        let is_plain = head.status.is_success()
            && served
                .as_ref()
                .is_some_and(|served| served.mode == Mode::Primary && served.attempts == 1);
        let told = head.headers.get(Trace::HEADER).filter(|_| !is_plain);
        tracing::info!(
            model = &**name,
            status = head.status.as_u16(),
            served_by = served
                .as_ref()
                .map(|served| &*served.target)
                .filter(|target| !target.is_empty()),
            mode = served.as_ref().map(|served| served.mode.as_str()),
            attempts = served.as_ref().map(|served| served.attempts),
            begun_ms = u64::try_from(
                Instant::now()
                    .saturating_duration_since(started)
                    .as_millis()
            )
            .unwrap_or(u64::MAX),
            trace = told.and_then(|trace| trace.to_str().ok()),
            "answered",
        );
        Response::from_parts(head, body)
    }

    /// What the layers are told of a request. Nothing that the server knows of the caller's
    /// connection is among it.
    fn extensions(&self, route: &Route, headers: &HeaderMap, asked: &Asked) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(asked.facts.clone());
        if !asked.is_whole {
            // Until the head comes it is mostly the caller who takes time, and nobody else can be
            // asked: the deadline alone holds.
            let mut limits = TimeLimits::default();
            limits.headers = Some(route.deadline);
            extensions.insert(limits);
        }
        if route.has_needs {
            extensions.insert(needs::of(&asked.body.read()));
        }
        if let Some(name) = &route.affinity_header
            && let Some(value) = headers.get(name)
        {
            extensions.insert(Affinity::of(value.as_bytes()));
        }
        if let Some(name) = &self.force_header
            && let Some(value) = headers.get(name).and_then(|value| value.to_str().ok())
        {
            extensions.insert(match value {
                "fallback" => Force::Fallback,
                target => Force::Target(target.into()),
            });
        }
        extensions
    }

    fn route(&self, dialect: Dialect, model: &Arc<str>) -> Result<(&Arc<str>, &Route), Refusal> {
        let (name, route) = self
            .models
            .get_key_value(model)
            .ok_or_else(|| Refusal::UnknownModel(model.to_string()))?;
        if route.dialect != dialect {
            return Err(Refusal::OtherDialect {
                model: name.to_string(),
                dialect: route.dialect,
            });
        }
        Ok((name, route))
    }

    /// Reads a body as far as it is kept, and finds its model. On refusal gives back what was not
    /// read.
    async fn read(&self, mut body: Body) -> Result<Asked, (Refusal, Body)> {
        let too_large = Refusal::TooLarge {
            limit: self.max_body,
        };
        if body.size_hint().lower() > self.max_body as u64 {
            return Err((too_large, body));
        }
        let mut scanner = RequestFacts::scanner();
        let mut kept = Kept::default();
        loop {
            let frame = match timeout(BODY_PAUSE, body.frame()).await {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err((Refusal::BrokenOff, body)),
                Err(_) => return Err((Refusal::TooSlow, body)),
            };
            // Trailers mean nothing to a model.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if let Err(why) = scanner.feed(&data) {
                return Err((Refusal::Body(why), body));
            }
            kept.push(data);
            if kept.len() > self.max_body {
                return Err((too_large, body));
            }
            if kept.len() > self.replay_limit {
                let read = kept.into_bytes();
                let facts = RequestFacts::of(&scanner, &read);
                let model = match facts.model() {
                    Ok(model) => Arc::clone(model),
                    Err(BadBody::NoModel) => {
                        let limit = self.replay_limit;
                        return Err((Refusal::LateModel { limit }, body));
                    }
                    Err(why) => return Err((Refusal::Body(why), body)),
                };
                let left = self.max_body - read.len();
                let body = Replayable::once(read, Rest::new(body, left, scanner));
                return Ok(Asked {
                    model,
                    facts,
                    body,
                    is_whole: false,
                });
            }
        }
        let read = kept.into_bytes();
        let facts = RequestFacts::of(&scanner, &read);
        match scanner.finish().and_then(|_| facts.model()) {
            Ok(model) => Ok(Asked {
                model: Arc::clone(model),
                facts,
                body: Replayable::full(read),
                is_whole: true,
            }),
            Err(why) => Err((Refusal::Body(why), body)),
        }
    }
}

/// The chunks read so far as one piece; a single chunk is not copied.
#[derive(Default)]
enum Kept {
    #[default]
    Nothing,
    One(Bytes),
    Joined(BytesMut),
}

impl Kept {
    fn push(&mut self, data: Bytes) {
        *self = match std::mem::take(self) {
            Self::Nothing => Self::One(data),
            Self::One(first) => {
                let mut joined = BytesMut::with_capacity(4 * (first.len() + data.len()));
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                Self::Joined(joined)
            }
            Self::Joined(mut joined) => {
                joined.extend_from_slice(&data);
                Self::Joined(joined)
            }
        };
    }

    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(bytes) => bytes.len(),
            Self::Joined(bytes) => bytes.len(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(bytes) => bytes,
            Self::Joined(bytes) => bytes.freeze(),
        }
    }
}

/// Reads a body that nobody wants, for a short while.
async fn discard(mut body: Body) {
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // When the time is up the answer is sent all the same.
    let _ = timeout(LINGER, all).await;
}

/// The models in a form that both OpenAI's and Anthropic's clients read.
fn model_list(config: &Config) -> Value {
    let models: Vec<_> = config
        .models
        .iter()
        .map(|model| {
            json!({
                "id": model.name,
                "object": "model",
                "created": 0,
                "owned_by": "backstop",
                "type": "model",
                "display_name": model.name,
                "created_at": "1970-01-01T00:00:00Z",
            })
        })
        .collect();
    let first = models.first().map(|model| model["id"].clone());
    let last = models.last().map(|model| model["id"].clone());
    json!({
        "object": "list",
        "data": models,
        "has_more": false,
        "first_id": first,
        "last_id": last,
    })
}
