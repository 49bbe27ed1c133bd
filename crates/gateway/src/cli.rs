//! The command line.

use std::{fmt::Display, path::PathBuf, process::ExitCode, sync::Arc};

use backstop_core::BoxError;
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;

use crate::{classify, config::Config, demo, logs, routes, server, stack::Secrets};

/// Lets another model answer when the first cannot.
#[derive(Debug, Parser)]
#[command(name = "backstop", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models as a configuration file says.
    ///
    /// OpenAI clients ask at /v1/chat/completions, Anthropic clients at /v1/messages. /v1/models
    /// lists the models, /healthz says that the gateway is up. SIGTERM or ctrl-c stops it: no new
    /// requests are taken, open answers end first; a second one cuts them off.
    ///
    /// Logs go to stderr; the variable `RUST_LOG` sets what is logged (default: info).
    Serve(ConfigFile),
    /// Check a configuration file, and say what is wrong with it.
    ///
    /// All problems are listed with their line, the key and what was expected; what has no effect
    /// or looks unfinished is noted. No key is needed and nothing is sent.
    Check(ConfigFile),
    /// Show how calls survive a failing model: no key, no configuration, no network.
    ///
    /// Starts a primary that fails in many ways, a backup, and the gateway in front of both, on
    /// loopback ports, and asks as a client would. Ends by itself within 30 seconds, with exit
    /// code 0 only if no request failed.
    Demo(demo::Options),
    /// Say of recorded answers why a model did not answer.
    ///
    /// Prints a line of JSON per answer: `id`, `kind`, `retry_after_ms`, `scope`, `failover`,
    /// `same_target_retry`, and the evidence in `because` (see docs/wire.md). Exit code 1 if there is
    /// none or one of the records could not be read.
    Classify(classify::Options),
}

#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration file (TOML, see docs/configuration.md).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the command that the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(file) => serve(&file),
        Command::Check(file) => check(&file),
        Command::Demo(options) => return demo::run(options),
        Command::Classify(options) => return classify::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&*error);
            ExitCode::FAILURE
        }
    }
}

fn read(file: &ConfigFile) -> Result<Config, BoxError> {
    let path = file.config.display();
    let text = std::fs::read_to_string(&file.config)
        .map_err(|error| format!("cannot read {path}: {error}"))?;
    Config::parse(&text)
        .map_err(|error| format!("{path} is not a valid configuration:\n{error}").into())
}

fn check(file: &ConfigFile) -> Result<(), BoxError> {
    let config = read(file)?;
    for what in config.notes() {
        note(&what);
    }
    say(&format_args!(
        "{} is valid: {}, {}, to listen on {}",
        file.config.display(),
        counted(config.models.len(), "model"),
        counted(config.targets.len(), "target"),
        config.listen,
    ));
    Ok(())
}

/// `1 model`, `2 models`.
fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn serve(file: &ConfigFile) -> Result<(), BoxError> {
    let config = read(file)?;
    logs::start();
    for what in config.notes() {
        tracing::warn!("{what}");
    }
    let secrets = Secrets::look_up(&config, |name| std::env::var(name).ok())?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let gateway = Arc::new(routes::Gateway::new(&config, &secrets)?);
            let mut signals = server::Signals::listen();
            let listener = TcpListener::bind(config.listen)
                .await
                .map_err(|error| format!("cannot listen on {}: {error}", config.listen))?;
            let address = listener.local_addr()?;
            let models = config.models.len();
            tracing::info!(%address, models, "listening");
            let stop = async || signals.next().await;
            let router = routes::router(gateway);
            server::serve(listener, router, config.max_connections, stop, config.drain).await;
            tracing::info!("stopped");
            Ok(())
        })
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn say(what: &dyn Display) {
    println!("{what}");
}

#[expect(
    clippy::print_stderr,
    reason = "logging may not have started, and this is for a person"
)]
fn complain(what: &dyn Display) {
    eprintln!("error: {what}");
}

#[expect(clippy::print_stderr, reason = "stdout is for what was asked for")]
fn note(what: &dyn Display) {
    eprintln!("note: {what}");
}
