//! The atomics that the shared state is made of, so that loom can take their place.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p backstop-failover --lib --release loom` explores every
//! interleaving of the small models beside each state machine.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
