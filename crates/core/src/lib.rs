//! The vocabulary and the traits that backstop's tower layers share.
//!
//! The layers never depend on each other. They meet here:
//!
//! * [`Outcome`] says what happened to one attempt: its [`Kind`], the [`Scope`] to penalise, how
//!   long to wait and the evidence that decided. [`Phase`] names where time was lost.
//! * [`Classify`] and [`ClassifyStream`] turn a response or an error into an [`Outcome`], in three
//!   stages: at the head, on data, at the end. The [`Outcome`] then travels with the response (an
//!   extension) or in the error chain ([`Failure`], [`Elapsed`]); see [`outcome_of`].
//! * [`Replay`] reads a request once and issues it for every attempt. [`Responses`] and
//!   [`Requests`] let one layer serve HTTP ([`Http`]) and typed services ([`Typed`]) alike.
//! * [`body`] has the bodies: [`Replayable`](body::Replayable) for requests,
//!   [`Peeked`](body::Peeked) and [`Watched`](body::Watched) for responses.
//! * [`protobuf`] reads the few fields of a gRPC status that say why, and how long to wait.
//! * [`Deadline`], [`TimeLimits`], [`Attempt`], [`Served`] and [`Headroom`] travel as typed extensions.
//!   [`Observer`] hears what the layers do.
//!
//! Nothing here reads a clock, spawns a task or needs a runtime.
//!
//! # Features
//!
//! Each feature only teaches [`outcome_of`] to recognise one more library's errors: `hyper` (hyper,
//! hyper-util and h2), `reqwest`, `tokio` (`tokio::time::error::Elapsed`), `tonic`
//! (`tonic::Status`) and `tower` (`tower::timeout::error::Elapsed`). None is on by default.

mod attempt;
pub mod body;
mod classify;
mod deadline;
mod error;
mod headroom;
mod observer;
mod outcome;
pub mod protobuf;
mod protocol;
mod recorder;
mod replay;
mod retarget;
mod trace;

pub use attempt::{Attempt, Mode, Served};
pub use classify::{
    Classify, ClassifyErrors, ClassifyStream, End, Progress, Step, Unstreamed, Verdict,
};
pub use deadline::{Deadline, TimeLimits};
pub use error::{BoxError, Elapsed, Failure, outcome_of};
pub use headroom::{Allowance, Dimension, Headroom, Window};
pub use observer::{Event, Observer};
pub use outcome::{HintSource, Kind, Outcome, Phase, RetryAfter, Scope};
pub use protocol::{Http, NoBody, Requests, Responses, Typed};
pub use recorder::{Directives, Recorder, Replayed, Simplified};
pub use replay::{CarryExtensions, FreezeRequest, Frozen, FrozenRequest, Replay, SpareRequest};
pub use retarget::{Retarget, RetargetFuture, RetargetLayer, RetargetService};
pub use trace::{Candidate, Cause, Considered, Exhausted, SkipReason, Trace, Tried};
