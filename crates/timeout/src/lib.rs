//! A tower layer that enforces and names every phase in which a model can be slow.
//!
//! One clock for everything ends healthy streams and calls every trouble a timeout. Here each phase
//! has its own limit, and the error, [`Elapsed`], names it:
//!
//! | phase | from | to |
//! |---|---|---|
//! | [`Ready`](Phase::Ready) | the first `poll_ready` that is pending | the inner service is ready |
//! | [`Connect`](Phase::Connect) | a connection is opened | it is open; see [`ConnectTimeoutLayer`] |
//! | [`Headers`](Phase::Headers) | the first poll of the call | the head of the response |
//! | [`FirstToken`](Phase::FirstToken) | the head | the first content: text, tool call or reasoning |
//! | [`Idle`](Phase::Idle) | content | the next content, or enough of it ([`Floor`]) |
//! | [`Total`](Phase::Total) | the call | the end of the body |
//!
//! What is content and what is only a sign of life (a ping, a comment, a role without text) is told
//! by a [`Classify`](backstop_core::Classify), such as the one of `backstop-wire`. Without one, all
//! data counts.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use std::{convert::Infallible, time::Duration};
//!
//! use backstop_timeout::{Elapsed, Limits, Phase, TimeoutLayer};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! let limits = Limits::default()
//!     .headers(Duration::from_secs(30))
//!     .first_token(Duration::from_secs(10));
//! let model = ServiceBuilder::new()
//!     .layer(TimeoutLayer::new(limits)?)
//!     .service(service_fn(|_: Request<Full<Bytes>>| {
//!         std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
//!     }));
//!
//! let error = model.oneshot(Request::new(Full::default())).await.unwrap_err();
//! let elapsed = Elapsed::find(&*error).expect("the model is silent");
//! assert_eq!(elapsed.phase(), Phase::Headers);
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?
//! #     .block_on(example())?;
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! # What the limits do not do
//!
//! * They never discard what is there. The inner service is polled first, and a timer is looked at
//!   only when there is nothing.
//! * They never blame a provider for a slow reader. Only waiting is counted: time between a poll of
//!   the body that found nothing and the next that found something. [`Total`](Phase::Total) alone is
//!   the time on the clock, and it too is looked at only when there is nothing.
//! * They never end a whole answer in error. When a provider leaves a stream open after its proper
//!   end, the body ends cleanly after [`Limits::end_grace`].
//!
//! # Limits of one request
//!
//! A [`TimeLimits`](backstop_core::TimeLimits) among the extensions of a request replaces the limits
//! of the layer; a [`Deadline`](backstop_core::Deadline) caps them, and is passed on to the layers
//! inside. `ready` among the former is compared with the wait that the call has had behind it when it
//! comes: `poll_ready` does not know the request yet.
//!
//! # Differences from `tower::timeout` and `tower_http::timeout`
//!
//! tower's has one clock for the head; tower-http's bodies look at the timer first, make a timer for
//! every frame, and hide the length and the end of the inner body. `size_hint`, `is_end_stream` and
//! trailers pass through this one.

mod alarm;
mod body;
mod clock;
mod config;
mod connect;
mod future;
pub mod grpc;
mod kept;
mod layer;
mod service;

pub use backstop_core::{Elapsed, Phase};
pub use body::ResponseBody;
pub use config::{ConfigError, Floor, Limits, MAX_LIMIT};
pub use connect::{ConnectFuture, ConnectTimeout, ConnectTimeoutLayer, DEFAULT_CONNECT_LIMIT};
pub use future::ResponseFuture;
pub use layer::TimeoutLayer;
pub use service::Timeout;
