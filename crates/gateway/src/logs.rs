//! What is logged.

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer as _, filter::filter_fn, layer::SubscriberExt as _};

/// Starts logging to stderr as `RUST_LOG` says, at `info` without it.
///
/// Whatever it says, other libraries are heard at `info` at most. At `trace` they tell of frames,
/// headers and addresses, and which of it they show is theirs to change with any version.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(filter_fn(is_safe)))
        .with(filter);
    // It can only be set already in tests, where either will do.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn is_safe(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("backstop") || *metadata.level() <= Level::INFO
}
