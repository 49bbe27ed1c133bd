//! Backstop state shared by replicas through Redis or Valkey.
//!
//! * [`RedisStore`] keeps the answers of the cached-response fallback, so that every replica can serve
//!   what one of them was answered.
//! * [`SharedHealth`] tells the other replicas that a target is throttled or faulting, within a second,
//!   and lets one of them at a time probe a faulting target.
//!
//! Redis is a convenience, never a condition. A store that is down, slow, full or answers garbage is a
//! miss; shared health without Redis is each replica's own health. The first call that notices waits
//! at most [`REDIS_TIMEOUT`]; from then on nothing is asked of Redis until a background task has
//! reached it again. Either change writes one line to the log.
//!
//! ```no_run
//! use std::time::Duration;
//! use backstop_redis::{RedisLink, RedisStore};
//!
//! let link = RedisLink::open("redis://127.0.0.1:6379")?;
//! let store = RedisStore::new(link, Duration::from_secs(3600));
//! # Ok::<(), backstop_redis::OpenError>(())
//! ```

mod encoding;
mod health;
mod lease;
mod link;
mod store;

pub use health::{SharedHealth, SharedHealthBuilder, SharedHealthTask};
pub use lease::ProbeLease;
pub use link::{OpenError, REDIS_TIMEOUT, RedisLink};
pub use store::RedisStore;
