//! A fallback model for tower services that speak to language models.
//!
//! When the primary model fails, is slow, hits a limit or goes away, another model answers; when none
//! can, a complete earlier answer or a simplified one does. Each layer is a crate of its own, useful
//! alone, re-exported here under the name of its feature:
//!
//! | module | layer | what it does |
//! |---|---|---|
//! | [`timeout`] | [`TimeoutLayer`](timeout::TimeoutLayer) | names and enforces each phase in which a model can be slow |
//! | [`rate_limit`] | [`RateLimitLayer`](rate_limit::RateLimitLayer) | notices a limit, remembers it, answers until it is over |
//! | [`failover`] | [`FailoverLayer`](failover::FailoverLayer), [`Failover`](failover::Failover) | asks the next target until one begins to answer |
//! | `cache` (off by default) | `CachedFallbackLayer` | answers from the store, or with the operator's text, when none can |
//! | [`wire`] | [`AnswerLayer`](wire::answer::AnswerLayer) | what providers put on the wire: outcomes, streams, error answers |
//! | `redis` (off by default) | | state shared by replicas |
//! | [`core`] | [`RetargetLayer`](core::RetargetLayer) | the vocabulary that all of them share |
//!
//! # A stack
//!
//! Limits of time and of rate belong to a target, the deadline to the call. From the outside in:
//!
//! ```text
//! AnswerLayer ─ CachedFallbackLayer ─ Failover ─┬─ RetargetLayer ─ RateLimitLayer ─ TimeoutLayer ─ model A
//!                                               └─ RetargetLayer ─ RateLimitLayer ─ TimeoutLayer ─ model B
//! ```
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use backstop::{
//!     core::{Mode, Served, body::Replayable},
//!     failover::{Failover, Target},
//!     rate_limit::RateLimitLayer,
//!     timeout::{Limits, TimeoutLayer},
//!     wire::{ClassifyHttp, Dialect, answer::AnswerLayer},
//! };
//! use bytes::Bytes;
//! use http::{Request, Response, header::CONTENT_TYPE};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! // Two models. The first takes the request and says nothing.
//! let silent = service_fn(|_: Request<Replayable<Full<Bytes>>>| {
//!     std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
//! });
//! let healthy = service_fn(async |_: Request<Replayable<Full<Bytes>>>| {
//!     let answer = r#"{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}"#;
//!     let response = Response::builder().header(CONTENT_TYPE, "application/json");
//!     Ok::<_, Infallible>(response.body(Full::new(Bytes::from(answer))).expect("is valid"))
//! });
//!
//! let classify = ClassifyHttp::new(Dialect::OpenAiChat);
//! let limits = Limits::default().headers(Duration::from_secs(10));
//! let timeout = TimeoutLayer::new(limits)?.classify(classify);
//! let primary = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new("primary", classify))
//!     .layer(timeout.clone())
//!     .service(silent);
//! let backup = ServiceBuilder::new()
//!     .layer(RateLimitLayer::new("backup", classify))
//!     .layer(timeout)
//!     .service(healthy);
//!
//! let chat = ServiceBuilder::new()
//!     // Errors become answers in the caller's dialect.
//!     .layer(AnswerLayer::new(Dialect::OpenAiChat))
//!     .service(Failover::builder(classify).deadline(Duration::from_secs(60)).build(vec![
//!         Target::new("primary", BoxCloneSyncService::new(primary)),
//!         Target::new("backup", BoxCloneSyncService::new(backup)),
//!     ])?);
//!
//! let question = r#"{"model":"chat","messages":[{"role":"user","content":"Hello?"}]}"#;
//! let request = Request::post("/v1/chat/completions").body(Full::new(Bytes::from(question)))?;
//! let response = chat.oneshot(request).await?;
//! let served = response.extensions().get::<Served>().expect("somebody answered");
//! assert_eq!((&*served.target, served.mode), ("backup", Mode::Failover));
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?
//! #     .block_on(example())?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! # With an HTTP client
//!
//! In place of the two functions stands a client that sends requests, and around it an
//! [`HttpTarget`](wire::retarget::HttpTarget): it gives a request the address, the model and the key
//! of the target, and leaves the caller's credentials behind.
//!
//! ```
//! use backstop::{
//!     core::{BoxError, RetargetLayer, body::Replayable},
//!     failover::Target,
//!     wire::{Dialect, retarget::{Credential, HttpTarget}},
//! };
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::{ServiceBuilder, util::BoxCloneSyncService};
//!
//! # fn example(key: &str) -> Result<(), BoxError> {
//! let client = Client::builder(TokioExecutor::new()).build_http::<Replayable<Full<Bytes>>>();
//! let url = "http://127.0.0.1:8000/v1".parse()?;
//! let to = HttpTarget::new("backup", Dialect::OpenAiChat, url)?
//!     .model("qwen3-32b")
//!     .credential(Credential::bearer(key)?);
//! let backup = ServiceBuilder::new()
//!     .layer(RetargetLayer::new(to))
//!     // The limits of rate and time, as above.
//!     .service(client);
//! let target = Target::new("backup", BoxCloneSyncService::new(backup));
//! # drop(target);
//! # Ok(())
//! # }
//! # example("key")?;
//! # Ok::<(), BoxError>(())
//! ```
//!
//! `build_http` speaks no TLS, a connector such as hyper-rustls' does. A whole program is the example
//! `failover-axum`, and `cache-axum` puts the cached fallback around it; `rate-limit-reqwest` has the two
//! mappings that a reqwest client needs.
//!
//! The body that the client is given is a [`Replayable`](core::body::Replayable) of the caller's for
//! each layer that keeps the request: one for failover, another for the cache around it.
//!
//! Who answered is the response extension [`Served`](core::Served); what else was thought of and why
//! is its [`Trace`](core::Trace), which as text is a line for a log. Where nobody answered,
//! `AnswerLayer` gives its response the extensions [`Outcome`](core::Outcome) and `Trace` instead.
//! [`Trace::of`](core::Trace::of) reads the trace from either response, and inside of `AnswerLayer`
//! [`Trace::find`](core::Trace::find) from the error. The gateway writes them into the headers
//! `x-backstop-...`, the layers do not; [`Trace::to_header_value`](core::Trace::to_header_value) is
//! its `x-backstop-trace`.
//!
//! # Features
//!
//! `timeout`, `rate-limit`, `failover` and `wire` are on by default; `cache` and `redis` are off,
//! because a cache is to be asked for. So are `hyper`, `reqwest`, `tokio`, `tonic` and `tower`: each
//! teaches the layers what the errors of that library mean, see [`core`].

#[cfg(feature = "cache")]
pub use backstop_cache as cache;
pub use backstop_core as core;
#[cfg(feature = "failover")]
pub use backstop_failover as failover;
#[cfg(feature = "rate-limit")]
pub use backstop_rate_limit as rate_limit;
#[cfg(feature = "redis")]
pub use backstop_redis as redis;
#[cfg(feature = "timeout")]
pub use backstop_timeout as timeout;
#[cfg(feature = "wire")]
pub use backstop_wire as wire;

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
mod readme {}
