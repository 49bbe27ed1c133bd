//! The configuration: what the file may say, and what it means.
//!
//! Every key is described in `docs/configuration.md`, which a test compares with this module.

mod cache;
mod health;
mod model;
mod reader;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use backstop_failover::health::HealthConfig;
use http::HeaderName;

use self::reader::{Reader, Table};
pub(crate) use self::{
    cache::{Cache, Shared, StoreAt, TenantBy},
    model::{Model, Order, Simplified},
    reader::ConfigError,
    target::Target,
};

/// A whole configuration that makes sense.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    /// How many connections callers may have open.
    pub(crate) max_connections: usize,
    /// Larger bodies are refused.
    pub(crate) max_body: usize,
    /// Larger bodies are sent once.
    pub(crate) replay_limit: usize,
    /// How long open answers may go on after the signal to stop.
    pub(crate) drain: Duration,
    /// The header by which a caller may choose who answers, for tests of the backup.
    pub(crate) force_header: Option<HeaderName>,
    /// Whether anybody who can ask may see the state of the targets.
    pub(crate) show_targets: bool,
    /// When targets are left alone, and how they come back.
    pub(crate) health: HealthConfig,
    /// Where answers are kept for when no model can answer.
    pub(crate) cache: Option<Cache>,
    /// Where replicas tell each other of the targets' health.
    pub(crate) shared: Option<Shared>,
    pub(crate) targets: BTreeMap<Arc<str>, Target>,
    pub(crate) models: Vec<Model>,
}

impl Config {
    const LISTEN: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
    /// Four processes of callers at what the official Python clients keep to (1000 each), many times
    /// what the models behind them take at once.
    const MAX_CONNECTIONS: usize = 4000;
    /// Twice what the largest provider accepts (Anthropic: 32 MB per request).
    const MAX_BODY: usize = 64 << 20;
    /// What a service manager waits for before it kills (systemd: 90 s, Kubernetes: 30 s), less a
    /// little to end in order.
    const DRAIN: Duration = Duration::from_secs(25);

    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let reader = Reader::new(text);
        let document = reader.parse()?;
        let config = Self::read(reader.root(document.get_ref()));
        reader.finish(config)
    }

    /// The environment variables that hold secrets, each with the key that names it.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (String, &str)> {
        let keys = self.targets.iter().filter_map(|(name, target)| {
            let key = target.api_key.as_ref()?;
            Some((format!("target.{name}.api_key_env"), &*key.env))
        });
        let cache = self.cache.iter().flat_map(|cache| {
            let secret = cache.secret_env.as_deref();
            let secret = secret.map(|env| ("cache.secret_env".to_owned(), env));
            let url = match &cache.store {
                StoreAt::Redis { url_env } => Some(("cache.redis_url_env".to_owned(), &**url_env)),
                StoreAt::Memory => None,
            };
            secret.into_iter().chain(url)
        });
        let shared = self.shared.iter();
        let shared = shared.map(|shared| ("shared.redis_url_env".to_owned(), &*shared.url_env));
        keys.chain(cache).chain(shared)
    }

    /// What may be right, but most likely something was forgotten.
    pub(crate) fn notes(&self) -> Vec<String> {
        let is_unused = |name: &&Arc<str>| !self.models.iter().any(|m| m.targets.contains(name));
        let targets = self.targets.keys().filter(is_unused);
        let targets =
            targets.map(|name| format!("target.{name}: no [[model]] has it in `targets`"));
        let has_unused_cache = self.cache.is_some() && !self.models.iter().any(|m| m.cache);
        let cache = has_unused_cache
            .then(|| "cache: no [[model]] has `cache = true`, so nothing is kept".to_owned());
        let pathless = self.targets.iter().filter_map(|(name, target)| {
            let path = target.missing_path()?;
            Some(format!(
                "target.{name}.base_url: has no path, and this provider's API is at one such as \
                 `{path}`"
            ))
        });
        targets.chain(pathless).chain(cache).collect()
    }

    fn read(mut root: Table<'_>) -> Option<Self> {
        let listen = root.optional("listen").map_or(Some(Self::LISTEN), |value| {
            value.parse(
                "an IP address and a port, such as \"127.0.0.1:8080\"",
                |text| text.parse().ok(),
            )
        });
        let max_connections = root
            .optional("max_connections")
            .map_or(Some(Self::MAX_CONNECTIONS), |value| value.whole());
        let max_body = bytes(&mut root, "max_body", Self::MAX_BODY);
        let replay_limit = bytes(
            &mut root,
            "replay_limit",
            backstop_failover::DEFAULT_REPLAY_LIMIT,
        );
        let drain = duration(&mut root, "drain", Self::DRAIN);
        let force_header = header(&mut root, "force_header");
        let show_targets = flag(&mut root, "show_targets");
        let health = health::read(&mut root);
        let cache = cache::read(&mut root);
        let shared = cache::read_shared(&mut root);
        let targets = target::read(&mut root);
        let has_cache = !matches!(cache, Some(None));
        let models = model::read(&mut root, targets.as_ref(), has_cache);
        root.finish();
        Some(Self {
            listen: listen?,
            max_connections: max_connections?,
            max_body: max_body?,
            replay_limit: replay_limit?,
            drain: drain?,
            force_header: force_header?,
            show_targets: show_targets?,
            health: health?,
            cache: cache?,
            shared: shared?,
            targets: targets?,
            models: models?,
        })
    }
}

fn duration(table: &mut Table<'_>, key: &'static str, default: Duration) -> Option<Duration> {
    table
        .optional(key)
        .map_or(Some(default), |value| value.duration())
}

fn bytes(table: &mut Table<'_>, key: &'static str, default: usize) -> Option<usize> {
    table
        .optional(key)
        .map_or(Some(default), |value| value.bytes())
}

/// `false` unless it is there.
fn flag(table: &mut Table<'_>, key: &'static str) -> Option<bool> {
    table
        .optional(key)
        .map_or(Some(false), |value| value.flag())
}

/// The name of a header, if it is there. The outer option is `None` when it is wrong.
fn header(table: &mut Table<'_>, key: &'static str) -> Option<Option<HeaderName>> {
    table.optional(key).map_or(Some(None), |value| {
        value
            .parse("the name of a header, such as \"x-name\"", |text| {
                text.parse().ok()
            })
            .map(Some)
    })
}

/// The name of an environment variable, if it is there.
fn variable(table: &mut Table<'_>, key: &'static str) -> Option<Option<String>> {
    table.optional(key).map_or(Some(None), |value| {
        let expected = "the name of an environment variable, such as \"OPENAI_API_KEY\" (not what \
                        it holds)";
        let name = value.parse(expected, |text| {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let starts = !text.is_empty() && !text.as_bytes()[0].is_ascii_digit();
            (starts && text.bytes().all(is_name)).then(|| text.to_owned())
        });
        name.map(Some)
    })
}
