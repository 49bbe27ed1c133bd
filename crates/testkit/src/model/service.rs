use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Api, Ended, Exchange, Log, Reply, ReplyBody,
    answer::{self, Asked, Plan, Step},
    server::Connection,
};

/// A scripted model as a tower service. Clones share the script and the log.
///
/// It is always ready. Its error is an `io::Error` of the kind that a connection would give: for
/// [`Reply::reset`] a reset.
///
/// ```
/// use backstop_testkit::model::{Reply, Scripted};
/// use http_body_util::{BodyExt, Full};
/// use tower::ServiceExt;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let model = Scripted::new("m").text_is("Good morning.");
/// model.push(Reply::status(429).header("retry-after", "2"));
/// let request = http::Request::post("/v1/chat/completions")
///     .body(Full::<bytes::Bytes>::from(r#"{"model":"m","messages":[]}"#))?;
/// let response = model.clone().oneshot(request).await?;
/// assert_eq!(response.status(), 429);
/// assert_eq!(model.log().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone)]
pub struct Scripted {
    name: Arc<str>,
    text: Arc<str>,
    script: Arc<Script>,
    log: Log,
}

#[derive(Default)]
struct Script {
    #[expect(
        clippy::disallowed_types,
        reason = "held for a lookup, never across an await"
    )]
    rules: std::sync::Mutex<Rules>,
}

#[derive(Default)]
struct Rules {
    by_model: HashMap<String, Reply>,
    next: VecDeque<Reply>,
    always: Reply,
}

/// The future of a [`Scripted`] service.
pub struct ReplyFuture(
    Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, io::Error>> + Send>>,
);

impl Scripted {
    /// A healthy model of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            text: format!("This is the whole answer of {name}, in order.").into(),
            name: name.into(),
            script: Arc::default(),
            log: Log::new(),
        }
    }

    /// Answers with another text. Every word with the space before it is one token.
    #[must_use]
    pub fn text_is(mut self, text: &str) -> Self {
        self.text = text.into();
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of every whole answer that the script does not give another text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens of a whole answer's text.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        answer::tokens(&self.text)
    }

    /// What the model was asked.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// Adds a reply to the queue: the first in it is for the next request and is used up.
    pub fn push(&self, reply: Reply) {
        self.change(|rules| rules.next.push_back(reply));
    }

    /// Replies like this whenever the queue is empty, in place of the whole answer. Empties the
    /// queue.
    pub fn always(&self, reply: Reply) {
        self.change(|rules| {
            rules.next.clear();
            rules.always = reply;
        });
    }

    /// Replies like this to every request for the model `name`; the queue is left alone.
    pub fn when(&self, name: &str, reply: Reply) {
        self.change(|rules| rules.by_model.insert(name.to_owned(), reply));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        let mut rules = self
            .script
            .rules
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut rules)
    }

    fn reply(&self, model: &str) -> Reply {
        self.change(|rules| {
            if let Some(reply) = rules.by_model.get(model) {
                return reply.clone();
            }
            rules
                .next
                .pop_front()
                .unwrap_or_else(|| rules.always.clone())
        })
    }

    async fn respond<B>(self, request: Request<B>) -> Result<Response<ReplyBody>, io::Error>
    where
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let connection = parts.extensions.get::<Connection>().cloned();
        let mut entry = self.log.enter(Exchange {
            connection: connection.as_ref().map_or(0, |connection| connection.id),
            received_at: Instant::now(),
            version: parts.version,
            method: parts.method.clone(),
            path: parts
                .uri
                .path_and_query()
                .map_or_else(String::new, ToString::to_string),
            headers: parts.headers,
            body: Bytes::new(),
            sent: BytesMut::new(),
            ended: None,
        });
        let Ok(body) = body.collect().await else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let body = body.to_bytes();
        entry.body(body.clone());

        let api = match (&parts.method, Api::of_path(parts.uri.path())) {
            (&Method::POST, Some(api)) => api,
            (&Method::GET, None) if parts.uri.path().ends_with("/models") => {
                let steps = [Step::Data(answer::models(&self.name))].into();
                let mut response = Response::new(ReplyBody::new(steps, Some(entry), None));
                response.headers_mut().insert(
                    header::CONTENT_TYPE,
                    header::HeaderValue::from_static("application/json"),
                );
                return Ok(response);
            }
            _ => {
                let mut response =
                    Response::new(ReplyBody::new(VecDeque::new(), Some(entry), None));
                *response.status_mut() = StatusCode::NOT_FOUND;
                return Ok(response);
            }
        };
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let asked = Asked {
            api,
            model: asked["model"].as_str().unwrap_or(&self.name).to_owned(),
            stream: asked["stream"].as_bool().unwrap_or(false),
            usage: asked["stream_options"]["include_usage"]
                .as_bool()
                .unwrap_or(false),
        };
        let reply = self.reply(&asked.model);
        let text = reply.text.as_deref().unwrap_or(&self.text);
        let kill = connection.map(|connection| connection.kill);
        match answer::plan(&reply, &asked, text) {
            Plan::Hang => std::future::pending().await,
            Plan::Reset => {
                entry.end(Ended::BrokenOff);
                if let Some(kill) = kill {
                    kill.kill();
                }
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Plan::Respond {
                after,
                status,
                headers,
                steps,
            } => {
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                let mut response = Response::new(ReplyBody::new(steps, Some(entry), kill));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Ok(response)
            }
        }
    }
}

impl<B> Service<Request<B>> for Scripted
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
{
    type Response = Response<ReplyBody>;
    type Error = io::Error;
    type Future = ReplyFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ReplyFuture {
        ReplyFuture(Box::pin(self.clone().respond(request)))
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted")
            .field("name", &self.name)
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

impl Future for ReplyFuture {
    type Output = Result<Response<ReplyBody>, io::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ReplyFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyFuture").finish_non_exhaustive()
    }
}
