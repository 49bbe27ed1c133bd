//! A tower layer that answers from a complete earlier answer, or with a text the operator wrote, when
//! no model can.
//!
//! [`CachedFallbackLayer`] goes outermost, around failover. It keeps what models answered, whole
//! answers only, and when a call ends in an outcome of the configured kinds it serves the answer that
//! the same request by the same tenant got before, marked as stale ([RFC 5861], `stale-if-error`).
//! Failing that it serves a [`SimplifiedAnswer`], if there is one. Otherwise the failure passes
//! unchanged.
//!
//! A cache that lies or leaks is worse than an error. Therefore:
//!
//! * A [`Key`] cannot be built without a [`Tenant`], and it is a keyed hash: neither prompts nor keys
//!   reach the store.
//! * An answer is filed under the target and model that produced it, and only complete, clean answers
//!   made by a model are kept. What is served from here is never stored again.
//! * What is served says so: `age`, `cache-status` ([RFC 9211]) and the extension
//!   [`Served`](backstop_core::Served) with [`Mode::Stale`](backstop_core::Mode::Stale) or
//!   [`Mode::Simplified`](backstop_core::Mode::Simplified).
//! * The store is never waited for longer than [`CacheConfig::lookup_timeout`], and only when a call
//!   has failed already or a fresh answer was asked for. Writing happens after the end of the answer
//!   and is given up, not queued, when the store is slow.
//!
//! What an answer *is* — what makes two requests the same, which answers are whole, how a recorded
//! answer is written as JSON or as a stream — is a [`Recorder`](backstop_core::Recorder)'s business;
//! `backstop-wire` has one for OpenAI chat completions and Anthropic Messages.
//!
//! ```
//! use std::{convert::Infallible, sync::Arc, time::Duration};
//!
//! use backstop_cache::{
//!     CacheConfig, CachedFallbackLayer, KeySecret, MemoryStore, ProducedBy, Tenant,
//! };
//! use backstop_core::{FrozenRequest, Mode, Served, body::Replayable};
//! use backstop_wire::{ClassifyHttp, Dialect, recorder::HttpRecorder};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! // A model that answers once. Failover says who answered; here the service says so itself.
//! let answers = Arc::new(tokio::sync::Semaphore::new(1));
//! let model = service_fn(move |_: Request<Replayable<Full<Bytes>>>| {
//!     let answer = answers.try_acquire().map(|permit| permit.forget());
//!     let (status, body) = match answer {
//!         Ok(()) => (200, r#"{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}"#),
//!         Err(_) => (503, r#"{"error":{"message":"down"}}"#),
//!     };
//!     let response = Response::builder().status(status).header("content-type", "application/json");
//!     let mut response = response.body(Full::new(Bytes::from(body))).expect("is valid");
//!     response.extensions_mut().insert(Served::new("large".into(), Mode::Primary, 1));
//!     std::future::ready(Ok::<_, Infallible>(response))
//! });
//!
//! let dialect = Dialect::OpenAiChat;
//! let layer = CachedFallbackLayer::new(
//!     CacheConfig::default(),
//!     MemoryStore::new(MemoryStore::DEFAULT_MAX_BYTES, Duration::from_secs(3600)),
//!     KeySecret::random()?,
//!     [ProducedBy::new("large", "gpt-4.1")],
//!     // Whose a request is: without a tenant it is neither kept nor answered from here.
//!     |request: &FrozenRequest| {
//!         let key = request.parts().headers.get("authorization")?;
//!         Some(Tenant::new(key.as_bytes()))
//!     },
//!     HttpRecorder::new(dialect).ok_or("a dialect that can be kept")?,
//!     ClassifyHttp::new(dialect),
//! )?;
//! let chat = layer.layer(model);
//!
//! let ask = || {
//!     let question = r#"{"model":"chat","messages":[{"role":"user","content":"Hello?"}]}"#;
//!     Request::post("/v1/chat/completions")
//!         .header("authorization", "Bearer alice")
//!         .body(Full::new(Bytes::from(question)))
//! };
//! chat.clone().oneshot(ask()?).await?.into_body().collect().await?;
//! // It is kept after its end, off the caller's path.
//! tokio::time::sleep(Duration::from_secs(1)).await;
//!
//! let stale = chat.oneshot(ask()?).await?;
//! assert_eq!(stale.status(), 200);
//! assert_eq!(stale.extensions().get::<Served>().map(|served| served.mode), Some(Mode::Stale));
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?
//! #     .block_on(example())?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! [RFC 5861]: https://www.rfc-editor.org/rfc/rfc5861
//! [RFC 9211]: https://www.rfc-editor.org/rfc/rfc9211

mod coalesce;
mod config;
mod key;
mod layer;
mod memory;
mod service;
mod store;
mod tee;

pub use config::{CacheConfig, ConfigError, ServeOn, SimplifiedAnswer};
pub use key::{Key, KeySecret, Tenant};
pub use layer::{CachedFallbackLayer, ProducedBy};
pub use memory::MemoryStore;
pub use service::{CachedFallback, ResponseBody, ResponseFuture};
pub use store::{Entry, Record, Store};
