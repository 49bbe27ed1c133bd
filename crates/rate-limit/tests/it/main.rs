//! The rate-limit detector as its users see it.

mod limits;
mod support;
