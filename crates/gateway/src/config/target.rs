//! `[target.NAME]`: a model at a provider, and what is declared of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backstop_core::TimeLimits;
use backstop_failover::{
    admission::{Admission, AdmissionConfig},
    guards::{Guards, Kinds, Needs},
};
use backstop_wire::{
    Dialect, Provider,
    retarget::{BadTarget, HttpTarget},
};
use http::{HeaderName, Uri};

use super::{
    duration, header,
    reader::{Built, Table, Value},
    variable,
};

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
    pub(crate) guards: Guards,
    pub(crate) admission: Option<AdmissionConfig>,
    /// What is kept of the deadline for it.
    pub(crate) least_time: Duration,
    /// After how long without an answer it has other limits, and which.
    pub(crate) cold: Option<(Duration, TimeLimits)>,
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

/// The paths of the providers' APIs, by their references. Who answers without one as well is not
/// here (DeepSeek, Perplexity, llama.cpp, LiteLLM).
const PATHS: &[(Provider, &str)] = &[
    (Provider::Anthropic, "/v1"),
    (Provider::Azure, "/openai/v1"),
    (Provider::Bedrock, "/openai/v1"),
    (Provider::Cerebras, "/v1"),
    (Provider::Cohere, "/compatibility/v1"),
    (Provider::Fireworks, "/inference/v1"),
    (Provider::Google, "/v1beta/openai"),
    (Provider::Groq, "/openai/v1"),
    (Provider::HuggingFace, "/v1"),
    (Provider::MiniMax, "/v1"),
    (Provider::Mistral, "/v1"),
    (Provider::Moonshot, "/v1"),
    (Provider::Nvidia, "/v1"),
    (Provider::Ollama, "/v1"),
    (Provider::OpenAi, "/v1"),
    (Provider::OpenRouter, "/api/v1"),
    (Provider::Tgi, "/v1"),
    (Provider::Together, "/v1"),
    (Provider::Vllm, "/v1"),
    (Provider::Xai, "/v1"),
    (Provider::Zai, "/api/paas/v4"),
];

impl Target {
    /// Whether there is something that a request can need and the target cannot do.
    pub(crate) fn lacks_something(&self) -> bool {
        let all = Needs::default().tools().vision().json_schema();
        self.guards.serves(&all).is_err()
    }

    /// The path at which its provider's API is, if there is one and `base_url` has none at all.
    pub(crate) fn missing_path(&self) -> Option<&'static str> {
        let has_path = !matches!(self.base_url.path(), "" | "/");
        // Those that have Anthropic's dialect as well have it elsewhere, but for these.
        let is_there = self.dialect == Dialect::OpenAiChat
            || matches!(
                self.provider,
                Provider::Anthropic | Provider::Ollama | Provider::Vllm
            );
        let known = PATHS.iter().find(|(known, _)| *known == self.provider);
        known
            .filter(|_| is_there && !has_path)
            .map(|(_, path)| *path)
    }
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

pub(super) fn read(root: &mut Table<'_>) -> Option<BTreeMap<Arc<str>, Target>> {
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
        value.named("a provider that is known", Provider::names(), |text| {
            Some(Provider::from_name(text)).filter(|provider| *provider != Provider::Unknown)
        })
    });
    let provider = provider.unwrap_or_else(|| {
        let host = base_url.as_ref().and_then(Uri::host);
        Some(host.map_or(Provider::Unknown, Provider::from_host))
    });
    let model = table
        .required("model", "the model's name at the provider")
        .and_then(|value| value.filled("the model's name at the provider"));
    let api_key = api_key(&mut table);
    let timeout = timeouts(&mut table);
    let guards = guards(&mut table);
    let admission = admission(&mut table);
    let least_time = table
        .optional("least_time")
        .map_or(Some(Duration::ZERO), |value| value.duration());
    let cold = cold(&mut table);
    let forward_headers = forward_headers(&mut table);
    table.finish();
    Some(Target {
        dialect: dialect.filter(|_| named)?,
        provider: provider?,
        base_url: base_url?,
        model: model?,
        api_key: api_key?,
        timeout: timeout?,
        guards: guards?,
        admission: admission?,
        least_time: least_time?,
        cold: cold?,
        forward_headers: forward_headers?,
    })
}

fn base_url(value: &Value<'_>) -> Option<Uri> {
    let expected = "an http or https URL with a host, such as \"https://api.openai.com/v1\"";
    let url: Uri = value.parse(expected, |text| text.parse().ok())?;
    let path = url.path().trim_end_matches('/');
    if ["/chat/completions", "/messages"]
        .iter()
        .any(|operation| path.ends_with(operation))
    {
        value.expected(
            "a URL up to and with the version, such as \"https://api.openai.com/v1\": what is asked \
             there is added",
        );
        return None;
    }
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
    let env = variable(table, "api_key_env");
    let beside = table.optional("api_key_header");
    let header = header(table, "api_key_header");
    match (env, beside) {
        (Some(None), Some(value)) => {
            value.expected("`api_key_env` beside it, or there is nothing to send");
            None
        }
        (env, _) => {
            let (env, header) = (env?, header?);
            Some(env.map(|env| ApiKey { env, header }))
        }
    }
}

/// How much the target is given.
fn admission(table: &mut Table<'_>) -> Option<Option<AdmissionConfig>> {
    let expected = "a number of requests per second, minute or hour, such as \"20/s\"";
    let rate = |value: &Value<'_>| {
        let (requests, per) = value.parse(expected, rate_of)?;
        value.fits(Admission::new(
            AdmissionConfig::default().max_rate(requests, per),
        ))?;
        Some((requests, per))
    };
    let config = Built::new(AdmissionConfig::default())
        .set(
            table,
            "max_concurrent",
            Value::whole,
            AdmissionConfig::max_concurrent,
        )
        .set(table, "max_rate", rate, |config, (requests, per)| {
            config.max_rate(requests, per)
        })
        .finish()?;
    Some((config != AdmissionConfig::default()).then_some(config))
}

/// `20/s`, `600/m`, `5000/h`.
fn rate_of(text: &str) -> Option<(u32, Duration)> {
    let (requests, per) = text.split_once('/')?;
    let requests = requests.trim().parse().ok().filter(|number| *number > 0)?;
    let per = match per.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some((requests, Duration::from_secs(per)))
}

/// What the target can do, and after which failures it helps.
fn guards(table: &mut Table<'_>) -> Option<Guards> {
    Built::new(Guards::default())
        .set(
            table,
            "context_window",
            Value::count,
            Guards::context_window,
        )
        .set(table, "max_request", Value::bytes, |guards, bytes| {
            guards.max_bytes(bytes as u64)
        })
        .set(table, "tools", Value::flag, Guards::tools)
        .set(table, "vision", Value::flag, Guards::vision)
        .set(table, "json_schema", Value::flag, Guards::json_schema)
        .set(
            table,
            "takes_refused_content",
            Value::flag,
            Guards::refused_content,
        )
        .set(table, "only_on", outcomes, Guards::only_on)
        .finish()
}

fn outcomes(value: &Value<'_>) -> Option<Kinds> {
    let items = value.array("an array of outcomes, such as [\"rate_limited\", \"overloaded\"]")?;
    if items.is_empty() {
        value.expected("at least one outcome");
    }
    let kinds = items
        .iter()
        .map(|item| item.named("the name of an outcome", Kinds::names(), Kinds::named));
    // Collected first, so that every wrong one is named.
    let kinds: Vec<_> = kinds.collect();
    kinds
        .into_iter()
        .try_fold(Kinds::default(), |all, kind| Some(all.union(kind?)))
}

/// Other limits for a target that has not answered for a while.
fn cold(table: &mut Table<'_>) -> Option<Option<(Duration, TimeLimits)>> {
    let Some(value) = table.optional("cold") else {
        return Some(None);
    };
    let mut table = value.table("a table such as { after = \"5m\", first_token = \"60s\" }")?;
    let after = table
        .required("after", "a duration such as \"5m\"")
        .and_then(|value| value.duration());
    let limits = Built::new(TimeLimits::default())
        .set(
            &mut table,
            "headers",
            Value::duration,
            |mut limits, time| {
                limits.headers = Some(time);
                limits
            },
        )
        .set(
            &mut table,
            "first_token",
            Value::duration,
            |mut limits, time| {
                limits.first_token = Some(time);
                limits
            },
        )
        .finish();
    table.finish();
    if limits == Some(TimeLimits::default()) {
        value.expected("`headers` or `first_token` beside `after`");
    }
    Some(Some((after?, limits?)))
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
