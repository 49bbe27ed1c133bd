//! A tower layer that notices a provider's rate limit, remembers it, and acts before the next refusal.
//!
//! * **Notices.** [`Throttled`], [`QuotaExhausted`] and [`Overloaded`] are heard from the head of a
//!   response, from its body, its stream and its trailers, and from errors, through a
//!   [`Classify`] of your choice. What was found rides on the response for outer layers, which read
//!   it with [`Outcome::of`] and [`Headroom::of`]. To learn why a request was refused, an error body
//!   is read before its response is passed on, byte for byte; a stream is passed on at once and
//!   watched.
//! * **Remembers.** For as long as the server asked, within bounds ([`Waits`]), and with an
//!   exponential back-off when it did not ask. A later, shorter hint never shortens a longer one. A
//!   refusal that speaks of the request alone is forgotten at once.
//! * **Answers.** A request that would be refused is answered here and at once with the same
//!   [`Outcome`] and the wait that is left, as a [`Failure`] in the error, or waits if the limit
//!   ends soon ([`RateLimitBuilder::wait_up_to`]). The inner service does not hear of it.
//! * **Returns.** After a limit, one request goes first, and the number that may follow doubles in
//!   every step of the ramp ([`DEFAULT_RAMP`]). A refusal among them starts over.
//! * **Acts early**, if asked to ([`RateLimitBuilder::shift_below`]): when answers state that little
//!   is left, requests that have another target are sent on to it, and the only target is paced rather
//!   than refused.
//!
//! The memory is read without a lock, and one load tells that nothing is limited. While that is so
//! nothing is allocated and the clock is not read. [`RateLimitHandle`] reads it and resets it.
//!
//! # Limits of it
//!
//! * One layer is one target, and its memory is that of one process. Several processes each learn
//!   from their own refusals; jitter keeps them from returning together.
//! * A response with a success status is passed on before its body is read. What the body says is
//!   remembered when it passes, but it cannot be attached to the response.
//! * Plain requests ([`Typed`]) have no extensions to tell of a deadline or of other targets: waits
//!   are bounded by their settings alone, and all are paced. Where yours carry them, implement
//!   [`Requests`] for a protocol of your own.
//! * It does not enforce limits of your own: put a limiter such as `governor` outside of it.
//! * Its place is directly around what speaks to the provider, inside of retries and failover, with
//!   a limit of time further in: a service that is never ready keeps a request waiting.
//!
//! ```
//! use std::time::Duration;
//! use backstop_core::{
//!     BoxError, ClassifyErrors, Failure, HintSource, Kind, Outcome, Typed, outcome_of,
//! };
//! use backstop_rate_limit::RateLimitLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let model = service_fn(async |_: String| {
//!     let refusal = Outcome::new(Kind::Throttled)
//!         .with_retry_after(Duration::from_secs(7), HintSource::RetryAfter);
//!     Err::<String, _>(Failure::new(refusal))
//! });
//! let layer = RateLimitLayer::builder("large", ClassifyErrors).protocol::<Typed>().build()?;
//! let handle = layer.handle();
//! let service = layer.layer(model);
//!
//! // The first refusal comes from the model, the second from the layer.
//! assert!(service.clone().oneshot("Hello".to_owned()).await.is_err());
//! let error = service.oneshot("Hello again".to_owned()).await.err().ok_or("no error")?;
//! let hint = outcome_of(&*error).retry_after().ok_or("no hint")?;
//! assert_eq!(hint.source, HintSource::Local);
//! assert!(hint.delay > Duration::from_secs(6));
//!
//! // An operator knows better.
//! handle.reset();
//! assert!(handle.limits().is_empty());
//! # Ok::<(), BoxError>(())
//! # })?;
//! # Ok::<(), BoxError>(())
//! ```
//!
//! [`Throttled`]: backstop_core::Kind::Throttled
//! [`QuotaExhausted`]: backstop_core::Kind::QuotaExhausted
//! [`Overloaded`]: backstop_core::Kind::Overloaded
//! [`Classify`]: backstop_core::Classify
//! [`Typed`]: backstop_core::Typed
//! [`Requests`]: backstop_core::Requests
//! [`Outcome`]: backstop_core::Outcome
//! [`Outcome::of`]: backstop_core::Outcome::of
//! [`Headroom::of`]: backstop_core::Headroom::of
//! [`Failure`]: backstop_core::Failure

mod body;
mod config;
mod future;
mod handle;
mod key;
mod layer;
mod memory;
mod reserve;
mod scoped;
mod service;
mod state;
mod sync;
mod table;
mod waiting;

pub use body::ResponseBody;
pub use config::{
    ConfigError, DEFAULT_CAPACITY, DEFAULT_JITTER, DEFAULT_PACE, DEFAULT_PEEK_LIMIT,
    DEFAULT_PEEK_TIME, DEFAULT_RAMP, Waits,
};
pub use future::ResponseFuture;
pub use handle::{ActiveLimit, RateLimitHandle};
pub use key::{Key, KeyOf, OneKey};
pub use layer::{RateLimitBuilder, RateLimitLayer};
pub use reserve::{BytesPerToken, EstimateTokens};
pub use service::RateLimit;
