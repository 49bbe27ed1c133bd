//! `backstop`: a proxy for model traffic that lets another model answer when the first cannot.
//!
//! It is made only of backstop's layers: one stack per model, a failover over targets, each with
//! its own retargeting and time limits around one HTTP client. See `docs/configuration.md`.

mod body;
mod classify;
mod cli;
mod client;
mod config;
mod demo;
mod logs;
mod needs;
mod reply;
mod routes;
mod server;
mod stack;
mod targets;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
