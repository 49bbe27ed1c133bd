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
