use std::{
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU64,
    sync::LazyLock,
};

use backstop_core::Scope;

/// What the limits of one target are told apart by.
///
/// A layer stands for one target and remembers one set of limits, unless the requests that pass it
/// use several credentials or models; then each has limits of its own. What a refusal speaks about
/// ([`Scope`]) decides how much of the key counts: that of a model benches this model with this
/// credential, that of a credential or an account benches all models of this credential, and that
/// of a provider benches the whole target. A part that the key does not name stands for all.
///
/// Only keyed hashes are kept (`SipHash`, keyed per process), so a secret may be passed.
///
/// ```
/// use backstop_rate_limit::Key;
///
/// assert_eq!(Key::model("large"), Key::model("large"));
/// assert_ne!(Key::credential("a").with_model("large"), Key::credential("b").with_model("large"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    credential: Option<NonZeroU64>,
    /// [`ANY_MODEL`] when the key names none; not an `Option`, so that an `Option<Key>` is no larger
    /// than a key.
    model: NonZeroU64,
}

/// Stands for all models. No hash has this value.
const ANY_MODEL: NonZeroU64 = NonZeroU64::MAX;

/// Tells the requests of one target apart by a [`Key`].
///
/// Any `Fn(&Req) -> Option<Key>` will do. `None` means the limits that hold for the whole target.
pub trait KeyOf<Req: ?Sized> {
    /// The key of a request.
    fn key_of(&self, request: &Req) -> Option<Key>;
}

/// One set of limits for all requests: the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OneKey;

impl<Req: ?Sized> KeyOf<Req> for OneKey {
    #[inline]
    fn key_of(&self, _: &Req) -> Option<Key> {
        None
    }
}

impl<Req: ?Sized, F: Fn(&Req) -> Option<Key>> KeyOf<Req> for F {
    #[inline]
    fn key_of(&self, request: &Req) -> Option<Key> {
        self(request)
    }
}

// === impl Key ===

impl Key {
    /// The requests for this model, with whatever credential.
    pub fn model(model: impl Hash) -> Self {
        Self {
            credential: None,
            model: hash(model),
        }
    }

    /// The requests with this credential, for whatever model.
    pub fn credential(credential: impl Hash) -> Self {
        Self {
            credential: Some(hash(credential)),
            model: ANY_MODEL,
        }
    }

    /// Only those for this model.
    #[must_use]
    pub fn with_model(self, model: impl Hash) -> Self {
        Self {
            model: hash(model),
            ..self
        }
    }

    /// The part of the key that the limits of all models with this credential are kept under.
    pub(crate) fn without_model(self) -> Option<Self> {
        self.credential.map(|_| Self {
            model: ANY_MODEL,
            ..self
        })
    }

    /// What a refusal with this scope benches; `None` is the whole target.
    pub(crate) fn at(self, scope: Scope) -> Option<Self> {
        match scope {
            Scope::Credential | Scope::Account => self.without_model(),
            Scope::Provider => None,
            _ => Some(self),
        }
    }

    /// A number to choose a shard by.
    pub(crate) fn spread(self) -> u64 {
        let credential = self.credential.map_or(0, NonZeroU64::get);
        credential ^ self.model.get().rotate_left(1)
    }
}

fn hash(value: impl Hash) -> NonZeroU64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let hash = SEED.hash_one(value).min(ANY_MODEL.get() - 1);
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
}
