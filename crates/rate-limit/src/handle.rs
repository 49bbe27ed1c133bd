use std::{fmt, sync::Arc, time::Duration};

use backstop_core::{Kind, Scope};

use crate::{Key, memory::Scopes};

/// Reads and resets what a [`RateLimitLayer`](crate::RateLimitLayer) remembers.
#[derive(Clone)]
pub struct RateLimitHandle {
    target: Arc<str>,
    scopes: Arc<Scopes>,
}

/// A limit in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActiveLimit {
    /// Whose: `None` is the whole target.
    pub key: Option<Key>,
    /// A rate limit, a spent quota or a lack of capacity.
    pub kind: Kind,
    /// What the refusal spoke about.
    pub scope: Scope,
    /// How long it still lasts.
    pub remaining: Duration,
}

impl RateLimitHandle {
    pub(crate) const fn new(target: Arc<str>, scopes: Arc<Scopes>) -> Self {
        Self { target, scopes }
    }

    /// The name that the layer was built with.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The limits in force: of each scope, the one that lasts the longest.
    #[must_use]
    pub fn limits(&self) -> Vec<ActiveLimit> {
        let now = self.scopes.now();
        let keyed = self
            .scopes
            .keyed
            .all()
            .map(|(key, scoped)| (Some(key), scoped));
        std::iter::once((None, Arc::clone(&self.scopes.whole)))
            .chain(keyed)
            .filter_map(|(key, scoped)| {
                let limit = scoped.state.in_force(now)?;
                Some(ActiveLimit {
                    key,
                    kind: limit.kind.kind(),
                    scope: limit.scope,
                    remaining: Duration::from_micros(limit.until - now),
                })
            })
            .collect()
    }

    /// How long a request with this key would have to wait; `None` when it would not.
    #[must_use]
    pub fn remaining(&self, key: Option<Key>) -> Option<Duration> {
        let limit = self.scopes.in_force(key)?;
        Some(Duration::from_micros(
            limit.until.saturating_sub(self.scopes.now()),
        ))
    }

    /// Forgets everything: an operator's word that the limits are gone. Requests that wait are let
    /// through at once.
    pub fn reset(&self) {
        self.scopes.whole.reset();
        for (key, scoped) in self.scopes.keyed.all() {
            scoped.reset();
            self.scopes.keyed.remove(key);
        }
    }

    /// Forgets what is remembered of one key, and nothing of a wider scope.
    pub fn reset_key(&self, key: Key) {
        if let Some(scoped) = self.scopes.keyed.get(key, || self.scopes.now()) {
            scoped.reset();
            self.scopes.keyed.remove(key);
        }
    }
}

impl fmt::Debug for RateLimitHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitHandle")
            .field("target", &self.target)
            .field("limits", &self.limits())
            .finish()
    }
}
