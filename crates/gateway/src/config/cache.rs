//! `[cache]` and `[shared]`: what outlives a call, and where.

use std::time::Duration;

use backstop_cache::{CacheConfig, MemoryStore};
use http::HeaderName;

use super::{bytes, duration, flag, header, reader::Table, variable};

/// Where answers are kept for when no model can answer, and which.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    pub(crate) store: StoreAt,
    /// The variable with the secret that replicas share.
    pub(crate) secret_env: Option<String>,
    /// How much memory answers take; for Redis its own limit holds.
    pub(crate) max_bytes: u64,
    pub(crate) stale_if_error: Duration,
    /// Nothing if a model is always asked.
    pub(crate) fresh_for: Duration,
    pub(crate) tenant: TenantBy,
    pub(crate) on_limits: bool,
    pub(crate) only_on_request: bool,
    pub(crate) max_answer: usize,
    pub(crate) coalesce: bool,
    pub(crate) tool_calls: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreAt {
    Memory,
    /// The variable with the URL.
    Redis {
        url_env: String,
    },
}

/// Whose a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TenantBy {
    /// The value of this header tells; without it a request is nobody's.
    Header(HeaderName),
    /// All callers are one tenant.
    Everyone,
}

/// Where replicas tell each other of the targets' health.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// The variable with the URL.
    pub(crate) url_env: String,
    pub(crate) group: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Memory,
    Redis,
}

impl Cache {
    /// How long an answer is of use: it turns stale first.
    pub(crate) fn keep(&self) -> Duration {
        self.fresh_for + self.stale_if_error
    }
}

/// The outer option is `None` when something is wrong.
pub(super) fn read(root: &mut Table<'_>) -> Option<Option<Cache>> {
    let Some(value) = root.optional("cache") else {
        return Some(None);
    };
    let default = CacheConfig::default();
    let mut table = value.table("a [cache] table")?;
    let kind = table.optional("store").map_or(Some(Kind::Memory), |value| {
        value.one_of(&[("memory", Kind::Memory), ("redis", Kind::Redis)])
    });
    let url_env = variable(&mut table, "redis_url_env");
    let secret_env = variable(&mut table, "secret_env");
    let store = match (kind, url_env) {
        (Some(Kind::Memory), Some(None)) => Some(StoreAt::Memory),
        (Some(Kind::Redis), Some(Some(url_env))) => Some(StoreAt::Redis { url_env }),
        (Some(Kind::Memory), Some(Some(_))) => {
            value.expected("`store = \"redis\"` beside `redis_url_env`");
            None
        }
        (Some(Kind::Redis), Some(None)) => {
            value.expected("`redis_url_env` beside `store = \"redis\"`");
            None
        }
        _ => None,
    };
    if let (Some(StoreAt::Redis { .. }), Some(None)) = (&store, &secret_env) {
        value
            .expected("`secret_env` beside `store = \"redis\"`, since replicas must agree on keys");
    }
    let room = usize::try_from(MemoryStore::DEFAULT_MAX_BYTES).unwrap_or(usize::MAX);
    let max_bytes = bytes(&mut table, "max_bytes", room);
    let stale_if_error = duration(&mut table, "stale_if_error", default.stale_if_error);
    let fresh_for = duration(&mut table, "fresh_for", default.fresh_for);
    let tenants = "{ header = \"authorization\" }, or \"everyone\" if all callers may see each \
                   other's answers";
    let tenant = table.required("tenant", tenants).and_then(|value| {
        if value.is_text() {
            return value.parse(tenants, |text| {
                (text == "everyone").then_some(TenantBy::Everyone)
            });
        }
        let mut table = value.table(tenants)?;
        let header = header(&mut table, "header");
        table.finish();
        let header = header?;
        if header.is_none() {
            value.expected(tenants);
        }
        header.map(TenantBy::Header)
    });
    let on_limits = flag(&mut table, "on_limits");
    let only_on_request = flag(&mut table, "only_on_request");
    let max_answer = bytes(&mut table, "max_answer", default.max_answer);
    let coalesce = flag(&mut table, "coalesce");
    let tool_calls = flag(&mut table, "tool_calls");
    table.finish();
    Some(Some(Cache {
        store: store?,
        secret_env: secret_env?,
        max_bytes: max_bytes? as u64,
        stale_if_error: stale_if_error?,
        fresh_for: fresh_for?,
        tenant: tenant?,
        on_limits: on_limits?,
        only_on_request: only_on_request?,
        max_answer: max_answer?,
        coalesce: coalesce?,
        tool_calls: tool_calls?,
    }))
}

pub(super) fn read_shared(root: &mut Table<'_>) -> Option<Option<Shared>> {
    let Some(value) = root.optional("shared") else {
        return Some(None);
    };
    let mut table = value.table("a [shared] table")?;
    let url_env = variable(&mut table, "redis_url_env");
    if url_env == Some(None) {
        value.expected("`redis_url_env`, the name of the variable with the URL of Redis");
    }
    let group = table
        .optional("group")
        .map_or(Some("backstop".to_owned()), |value| {
            let expected = "a name of at most 64 letters, digits, `-` and `_`";
            value.parse(expected, |text| {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                let fits = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
                fits.then(|| text.to_owned())
            })
        });
    table.finish();
    Some(Some(Shared {
        url_env: url_env??,
        group: group?,
    }))
}
