//! Answers that say, in the caller's dialect, why there is none.
//!
//! * [`error_response`] is a whole response, [`error_event`] the last event of a stream.
//! * [`AnswerLayer`] turns the errors of a service into such responses, so that the service can be
//!   mounted where errors are not allowed (axum).
//! * [`ErrorEvents`] ends a stream that breaks off with such an event, at an event boundary.
//!
//! With the feature `tonic` there are also `grpc_status` and `StatusLayer` for gRPC.
//!
//! ```
//! use std::time::Duration;
//! use backstop_core::{HintSource, Kind, Outcome};
//! use backstop_wire::{Dialect, answer::error_response};
//!
//! let outcome = Outcome::new(Kind::Throttled)
//!     .with_retry_after(Duration::from_millis(1_200), HintSource::Local);
//! let response = error_response(Dialect::Anthropic, &outcome);
//! assert_eq!(response.status(), 429);
//! assert_eq!(response.headers()["retry-after"], "2");
//! ```

mod body;
mod error_events;
#[cfg(feature = "tonic")]
mod grpc;
mod layer;

pub use body::{error_event, error_response};
pub use error_events::ErrorEvents;
#[cfg(feature = "tonic")]
pub use grpc::{StatusErrors, StatusFuture, StatusLayer, grpc_status};
pub use layer::{Answer, AnswerLayer, ResponseBody, ResponseFuture};
