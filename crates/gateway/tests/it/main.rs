//! The program itself, started as a process and asked over sockets; scripted models stand in for
//! providers, and their logs say what was asked of them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking; its tasks end with its runtime, and time that sockets are \
              part of is real"
)]

mod bodies;
mod cancel;
mod choices;
mod choosing;
mod command;
mod failures;
mod features;
mod headers;
mod lifecycle;
mod operating;
mod secrets;
mod shared;
mod support;
mod tls;
