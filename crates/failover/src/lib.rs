//! A tower service and layer that let another model answer when the first cannot.
//!
//! [`Failover`] asks its targets one after the other until one begins to answer. It never mentions
//! HTTP: what it needs of requests and responses comes from the traits of `backstop-core`, so that
//! typed services work as HTTP ones do.
//!
//! * The request is read once, within a limit, and issued anew for every attempt; a larger one is
//!   sent once and never fails over.
//! * Every attempt clones its target, waits for the clone to be ready within the attempt's own time
//!   and calls it with nothing in between.
//! * An answer is held back until it begins in earnest: at the first text, tool call or piece of
//!   reasoning, not at the head. Until then another target may take over; after that none ever
//!   does, and an answer that breaks off ends in an error.
//! * One deadline holds for the whole call, and part of it is kept for the targets that have not
//!   been asked ([`Reserve`]).
//! * The caller's own faults reach the caller unchanged and nobody else is asked. If all targets
//!   fail, the caller gets the first one's answer, unchanged but for the mark that trying again is
//!   of no use; if it gave none, a [`Failure`](backstop_core::Failure) with its outcome.
//! * Who is asked, and in which order, follows from a [plan], the targets' [guards],
//!   [health] and [admission]. The last usable target is never left alone. What
//!   is done beyond the first attempt is paid from a [budget].
//! * Off by default: asking the same target again ([`Retry`]), asking the next one while the first
//!   is late ([`Hedge`]), trying out the backups with a share of the calls
//!   ([`exercise`](FailoverBuilder::exercise)), judging whole answers ([`Judged`]).
//! * Who answered is told by the response extension [`Served`](backstop_core::Served), and every
//!   target that was thought of, with the reason and the times, by its [`Trace`](backstop_core::Trace), which is also in the
//!   chain of an error. [`FailoverHandle`] shows the targets and takes an operator's orders.
//!
//! The healthy path takes no lock and starts no task. Targets are shared between calls by
//! reference, so services must be `Sync`; box others with `tower::util::BoxCloneSyncService`.
//!
//! # Events
//!
//! `tracing` events have stable names; `target` is the target's name.
//!
//! | name | level | when |
//! |---|---|---|
//! | `backstop.failover.attempt_started` | trace | an attempt is about to be sent |
//! | `backstop.failover.attempt_ended` | debug | an attempt is over, at the end of its body |
//! | `backstop.failover.target_skipped` | debug | a target was not asked, with the reason |
//! | `backstop.failover.rescued` | info | another target than the first one answered, and not to see that it works |
//! | `backstop.failover.health_changed` | info | a target was ejected, is limited or is back |
//! | `backstop.failover.budget_spent` | info | the budget did not pay for something |
//! | `backstop.failover.exhausted` | warn | nobody answered |
//! | `backstop.failover.answer_failed` | warn | an answer broke off, stalled or reported an error after it had begun |
//!
//! # Example
//!
//! ```
//! use backstop_core::{BoxError, ClassifyErrors, Typed};
//! use backstop_failover::{Failover, FailoverLayer};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let large = service_fn(async |_: String| {
//!     Err::<String, _>(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
//! });
//! let small = service_fn(async |prompt: String| Ok::<_, BoxError>(format!("{prompt}, yourself")));
//!
//! let answering = Failover::builder(ClassifyErrors)
//!     .protocol::<Typed>()
//!     .layer()?
//!     .fallback(small)
//!     .layer(large);
//! assert_eq!(answering.oneshot("Hello".to_owned()).await?, "Hello, yourself");
//! # Ok::<(), BoxError>(())
//! # })?;
//! # Ok::<(), BoxError>(())
//! ```

pub mod admission;
mod attempt;
mod body;
pub mod budget;
mod call;
mod config;
mod epoch;
mod error;
mod future;
pub mod guards;
mod handle;
pub mod health;
mod hedge;
mod judge;
mod keep;
mod layer;
pub mod plan;
mod policy;
mod report;
mod reserve;
mod retry;
mod service;
mod skip;
mod state;
mod sync;
mod target;
mod timer;

pub use body::ResponseBody;
pub use config::{DEFAULT_REPLAY_LIMIT, DEFAULT_WAIT, FailoverBuilder};
pub use error::ConfigError;
pub use future::ResponseFuture;
pub use handle::{FailoverHandle, Force, TargetStatus};
pub use hedge::Hedge;
pub use judge::{Judged, JudgedStream};
pub use layer::FailoverLayer;
pub use reserve::Reserve;
pub use retry::Retry;
pub use service::Failover;
pub use skip::Skipped;
pub use target::Target;
