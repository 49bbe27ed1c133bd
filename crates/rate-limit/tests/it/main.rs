//! The rate-limit detector as its users see it.

mod allocations;
mod laws;
mod limits;
mod reserve;
mod support;
mod waiting;
mod wire;
