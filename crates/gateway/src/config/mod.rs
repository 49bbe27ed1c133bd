//! The configuration: what the file may say, and what it means.
//!
//! Every key is described in `docs/configuration.md`, which a test compares with this module.

mod reader;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use backstop_wire::{
    Dialect, Provider,
    retarget::{BadTarget, HttpTarget},
};
use http::{HeaderName, Uri};

pub(crate) use self::reader::ConfigError;
use self::reader::{Reader, Table, Value, nearest};

/// A whole configuration that makes sense.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    /// Larger bodies are refused.
    pub(crate) max_body: usize,
    /// Larger bodies are sent once.
    pub(crate) replay_limit: usize,
    /// How long open answers may go on after the signal to stop.
    pub(crate) drain: Duration,
    pub(crate) targets: BTreeMap<Arc<str>, Target>,
    pub(crate) models: Vec<Model>,
}

/// A model at a provider.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) dialect: Dialect,
    /// Whose error codes and headers it uses.
    pub(crate) provider: Provider,
    pub(crate) base_url: Uri,
    pub(crate) model: String,
    pub(crate) api_key: Option<ApiKey>,
    pub(crate) timeout: Timeouts,
    pub(crate) context_window: Option<u64>,
    pub(crate) forward_headers: Vec<HeaderName>,
}

/// Where a target's key is, and how it is shown.
#[derive(Clone, Debug)]
pub(crate) struct ApiKey {
    /// The environment variable.
    pub(crate) env: String,
    /// The header, if not the dialect's own.
    pub(crate) header: Option<HeaderName>,
}

/// The limits for one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) headers: Duration,
    pub(crate) first_token: Duration,
    pub(crate) idle: Duration,
}

/// What callers ask for.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    /// That of all its targets.
    pub(crate) dialect: Dialect,
    pub(crate) targets: Vec<Arc<str>>,
    pub(crate) deadline: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // Three SYNs (RFC 6298: after 0, 1 and 3 s) would take longer, but a provider's edge
            // is one round trip away: two lost packets in a row mean trouble.
            connect: Duration::from_secs(2),
            // An answer that is not streamed comes whole, head included: 4,000 tokens at 40 a
            // second, and some time to think.
            headers: Duration::from_secs(120),
            // Models that reason without showing it are silent for about that long.
            first_token: Duration::from_secs(60),
            // Tokens come many times a second; tool arguments may come in one piece.
            idle: Duration::from_secs(60),
        }
    }
}

impl Config {
    const LISTEN: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
    /// Twice what the largest provider accepts (Anthropic: 32 MB per request).
    const MAX_BODY: usize = 64 << 20;
    /// What a service manager waits for before it kills (systemd: 90 s, Kubernetes: 30 s), less a
    /// little to end in order.
    const DRAIN: Duration = Duration::from_secs(25);
    /// The time after which the official clients give up by default.
    const DEADLINE: Duration = Duration::from_secs(600);

    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let reader = Reader::new(text);
        let document = reader.parse()?;
        let config = Self::read(reader.root(document.get_ref()));
        reader.finish(config)
    }

    fn read(mut root: Table<'_>) -> Option<Self> {
        let listen = root.optional("listen").map_or(Some(Self::LISTEN), |value| {
            value.parse(
                "an address and a port, such as \"127.0.0.1:8080\"",
                |text| text.parse().ok(),
            )
        });
        let max_body = bytes(&mut root, "max_body", Self::MAX_BODY);
        let replay_limit = bytes(
            &mut root,
            "replay_limit",
            backstop_failover::DEFAULT_REPLAY_LIMIT,
        );
        let drain = duration(&mut root, "drain", Self::DRAIN);
        let targets = targets(&mut root);
        let models = models(&mut root, targets.as_ref());
        root.finish();
        Some(Self {
            listen: listen?,
            max_body: max_body?,
            replay_limit: replay_limit?,
            drain: drain?,
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

/// The names are known even when a target is wrong, so that models are not blamed for it.
fn targets(root: &mut Table<'_>) -> Option<BTreeMap<Arc<str>, Target>> {
    let table = root
        .required("target", "at least one table such as [target.primary]")?
        .table("tables such as [target.primary]")?;
    let mut targets = Some(BTreeMap::new());
    for (name, value) in table.named() {
        let target = target(name, &value);
        match (&mut targets, target) {
            (Some(targets), Some(target)) => {
                targets.insert(name.into(), target);
            }
            (targets, _) => *targets = None,
        }
    }
    targets
}

fn target(name: &str, value: &Value<'_>) -> Option<Target> {
    let mut table = value.table("a table")?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let named = !name.is_empty() && name.len() <= 64 && name.bytes().all(is_plain);
    if !named {
        value.expected(
            "a name of at most 64 letters, digits, `-`, `_` and `.`, since it is sent in headers",
        );
    }
    let dialect = table
        .required("dialect", "one of `openai`, `anthropic`")
        .and_then(|value| {
            value.one_of(&[
                ("openai", Dialect::OpenAiChat),
                ("anthropic", Dialect::Anthropic),
            ])
        });
    let base_url = table
        .required("base_url", "a URL such as \"https://api.openai.com/v1\"")
        .and_then(|value| base_url(&value));
    let provider = table.optional("provider").map(|value| {
        let expected = "a provider that is known, such as \"openai\", \"azure\" or \"vllm\"";
        value.parse(expected, |text| {
            Some(Provider::from_name(text)).filter(|provider| *provider != Provider::Unknown)
        })
    });
    let provider = provider.unwrap_or_else(|| {
        let host = base_url.as_ref().and_then(Uri::host);
        Some(host.map_or(Provider::Unknown, Provider::from_host))
    });
    let model = table
        .required("model", "the model's name at the provider")
        .and_then(|value| {
            value.parse("the model's name at the provider", |text| {
                (!text.is_empty()).then(|| text.to_owned())
            })
        });
    let api_key = api_key(&mut table);
    let timeout = timeouts(&mut table);
    let context_window = table
        .optional("context_window")
        .map_or(Some(None), |value| value.count().map(Some));
    let forward_headers = forward_headers(&mut table);
    table.finish();
    Some(Target {
        dialect: dialect.filter(|_| named)?,
        provider: provider?,
        base_url: base_url?,
        model: model?,
        api_key: api_key?,
        timeout: timeout?,
        context_window: context_window?,
        forward_headers: forward_headers?,
    })
}

fn base_url(value: &Value<'_>) -> Option<Uri> {
    let expected = "an http or https URL with a host, such as \"https://api.openai.com/v1\"";
    let url: Uri = value.parse(expected, |text| text.parse().ok())?;
    // The dialect does not matter for what may be wrong.
    match HttpTarget::new("", Dialect::OpenAiChat, url.clone()) {
        Ok(_) => Some(url),
        Err(BadTarget::UserInfo) => {
            value.expected("a URL without a user name or password: keys belong in `api_key_env`");
            None
        }
        Err(BadTarget::Query) => {
            value.expected("a URL without a query: keys belong in `api_key_env`");
            None
        }
        Err(_) => {
            value.expected(expected);
            None
        }
    }
}

/// The outer option is `None` when something is wrong.
fn api_key(table: &mut Table<'_>) -> Option<Option<ApiKey>> {
    let env = table.optional("api_key_env").map(|value| {
        let expected = "the name of an environment variable, such as \"OPENAI_API_KEY\" (not the \
                        key itself)";
        value.parse(expected, |text| {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let starts = !text.is_empty() && !text.as_bytes()[0].is_ascii_digit();
            (starts && text.bytes().all(is_name)).then(|| text.to_owned())
        })
    });
    let header_value = table.optional("api_key_header");
    let header = header_value.as_ref().map_or(Some(None), |value| {
        value
            .parse("the name of a header, such as \"api-key\"", |text| {
                text.parse().ok()
            })
            .map(Some)
    });
    match (env, &header_value) {
        (Some(env), _) => Some(Some(ApiKey {
            env: env?,
            header: header?,
        })),
        (None, Some(value)) => {
            value.expected("`api_key_env` beside it, or there is nothing to send");
            None
        }
        (None, None) => Some(None),
    }
}

fn timeouts(table: &mut Table<'_>) -> Option<Timeouts> {
    let default = Timeouts::default();
    let Some(value) = table.optional("timeout") else {
        return Some(default);
    };
    let mut table = value.table("a table such as { connect = \"2s\", headers = \"10s\" }")?;
    let connect = duration(&mut table, "connect", default.connect);
    let headers = duration(&mut table, "headers", default.headers);
    let first_token = duration(&mut table, "first_token", default.first_token);
    let idle = duration(&mut table, "idle", default.idle);
    table.finish();
    Some(Timeouts {
        connect: connect?,
        headers: headers?,
        first_token: first_token?,
        idle: idle?,
    })
}

fn forward_headers(table: &mut Table<'_>) -> Option<Vec<HeaderName>> {
    let Some(value) = table.optional("forward_headers") else {
        return Some(Vec::new());
    };
    let probe = HttpTarget::new("", Dialect::OpenAiChat, Uri::from_static("http://h")).ok()?;
    let expected = "an array of header names";
    let names = value.array(expected)?.into_iter().map(|item| {
        let name: HeaderName = item.parse("the name of a header", |text| text.parse().ok())?;
        if probe.clone().forward(name.clone()).is_err() {
            item.expected(
                "a header that may leave: not a credential, an account's identity, the caller's \
                 network, nor one that belongs to the connection or the body",
            );
            return None;
        }
        Some(name)
    });
    // Collected first, so that every wrong one is named.
    let names: Vec<_> = names.collect();
    names.into_iter().collect()
}

fn models(
    root: &mut Table<'_>,
    targets: Option<&BTreeMap<Arc<str>, Target>>,
) -> Option<Vec<Model>> {
    let items = root
        .required("model", "at least one [[model]]")?
        .array("[[model]] tables")?;
    let mut models: Option<Vec<Model>> = Some(Vec::new());
    for item in &items {
        let model = model(item, targets);
        match (&mut models, model) {
            (Some(models), Some(model)) => {
                if models.iter().any(|known| known.name == model.name) {
                    item.expected("a `name` that no other [[model]] has");
                }
                models.push(model);
            }
            (models, _) => *models = None,
        }
    }
    models
}

fn model(value: &Value<'_>, targets: Option<&BTreeMap<Arc<str>, Target>>) -> Option<Model> {
    let mut table = value.table("a [[model]] table")?;
    let name = table
        .required("name", "the name that callers ask for")
        .and_then(|value| {
            value.parse("the name that callers ask for", |text| {
                (!text.is_empty()).then(|| text.to_owned())
            })
        });
    let names = table
        .required("targets", "an array of target names")
        .and_then(|value| model_targets(&value, targets));
    let deadline = duration(&mut table, "deadline", Config::DEADLINE);
    table.finish();
    let (names, dialect) = names?;
    Some(Model {
        name: name?,
        dialect,
        targets: names,
        deadline: deadline?,
    })
}

fn model_targets(
    value: &Value<'_>,
    targets: Option<&BTreeMap<Arc<str>, Target>>,
) -> Option<(Vec<Arc<str>>, Dialect)> {
    let items = value.array("an array of target names")?;
    // With a target wrong there is nothing to compare with, and that is what has to be mended.
    let targets = targets?;
    let mut found: Vec<(Arc<str>, Dialect)> = Vec::new();
    let mut is_right = true;
    for item in &items {
        let name = item.text("the name of a target");
        let known = name.and_then(|name| targets.get_key_value(name));
        match (name, known) {
            (Some(name), None) => {
                is_right = false;
                match nearest(name, targets.keys().map(|name| &**name)) {
                    Some(near) => {
                        item.expected(&format!("the name of a [target], did you mean `{near}`?"));
                    }
                    None => item.expected("the name of a [target]"),
                }
            }
            (Some(_), Some((name, target))) => {
                if found.iter().any(|(known, _)| known == name) {
                    is_right = false;
                    item.expected("each target once");
                } else if found.first().is_some_and(|(_, d)| *d != target.dialect) {
                    is_right = false;
                    item.expected("a target of the same dialect as the first");
                }
                found.push((Arc::clone(name), target.dialect));
            }
            (None, _) => is_right = false,
        }
    }
    if items.is_empty() {
        value.expected("at least one target");
    }
    let (_, dialect) = found.first()?;
    let dialect = *dialect;
    is_right.then(|| (found.into_iter().map(|(name, _)| name).collect(), dialect))
}
