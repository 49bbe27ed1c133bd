use std::fmt;

use crate::ProducedBy;

/// Whose request it is.
///
/// It is hashed at once: the value it was made of, often a credential, is not kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tenant([u8; blake3::OUT_LEN]);

/// The secret of the keyed hash, so that who can read the store cannot test guesses of prompts.
///
/// Replicas that share a store must share the secret.
#[derive(Clone)]
pub struct KeySecret([u8; blake3::KEY_LEN]);

/// The name of an answer in a store: the tenant, the producing target and the request, hashed.
///
/// There is no way to make one without a [`Tenant`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    hash: [u8; blake3::OUT_LEN],
    /// Few bits of the tenant, by which a store shares its room between tenants.
    share: u8,
}

// === impl Tenant ===

impl Tenant {
    /// The tenant that `identity` names: the value of an `authorization` header, an account id …
    #[must_use]
    pub fn new(identity: &[u8]) -> Self {
        Self(blake3::derive_key("backstop cache tenant v1", identity))
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenant(..)")
    }
}

// === impl KeySecret ===

impl KeySecret {
    /// A secret for this process alone, from the operating system's random source.
    ///
    /// # Errors
    ///
    /// When the operating system gives no random bytes.
    pub fn random() -> Result<Self, crate::ConfigError> {
        let mut secret = [0; blake3::KEY_LEN];
        getrandom::fill(&mut secret).map_err(|_| crate::ConfigError::no_randomness())?;
        Ok(Self(secret))
    }

    /// The secret that `passphrase` stands for, the same in every replica.
    #[must_use]
    pub fn from_passphrase(passphrase: &str) -> Self {
        Self(blake3::derive_key(
            "backstop cache key secret v1",
            passphrase.as_bytes(),
        ))
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(..)")
    }
}

// === impl Key ===

impl Key {
    /// The key of the answer that `producer` gave to the request `identity` of `tenant`.
    #[must_use]
    pub fn new(
        secret: &KeySecret,
        tenant: &Tenant,
        producer: &ProducedBy,
        identity: &[u8],
    ) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&secret.0);
        hasher.update(&tenant.0);
        // Each part is preceded by its length, so that no part can pass for another.
        for part in [
            producer.target().as_bytes(),
            producer.model().as_bytes(),
            identity,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self {
            hash: *hasher.finalize().as_bytes(),
            share: tenant.0[0],
        }
    }

    /// The hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The hash in hexadecimal.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.hash).to_hex().to_string()
    }

    /// Which of `shares` parts of a store this key's tenant may use.
    #[must_use]
    pub fn share(&self, shares: usize) -> usize {
        usize::from(self.share) % shares.max(1)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(secret: &str, tenant: &str, target: &str, model: &str, identity: &str) -> Key {
        Key::new(
            &KeySecret::from_passphrase(secret),
            &Tenant::new(tenant.as_bytes()),
            &ProducedBy::new(target, model),
            identity.as_bytes(),
        )
    }

    /// Moving bytes from one part to the next makes another key: no part can pass for another.
    #[test]
    fn every_part_counts_and_none_can_pass_for_another() {
        let keys: HashSet<[u8; 32]> = [
            ("s", "t", "a", "m", "i"),
            ("S", "t", "a", "m", "i"),
            ("s", "T", "a", "m", "i"),
            ("s", "t", "A", "m", "i"),
            ("s", "t", "a", "M", "i"),
            ("s", "t", "a", "m", "I"),
            ("s", "t", "am", "", "i"),
            ("s", "t", "", "am", "i"),
            ("s", "t", "a", "", "mi"),
            ("s", "t", "a", "mi", ""),
        ]
        .map(|(secret, tenant, target, model, identity)| {
            *key(secret, tenant, target, model, identity).as_bytes()
        })
        .into();
        assert_eq!(keys.len(), 10);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// 100,000 pairs of tenant and request in all: two keys are equal exactly if both parts are.
        #[test]
        fn keys_are_equal_exactly_if_tenant_and_request_are(
            asks in prop::collection::vec(("[a-c]{0,3}", "[a-c]{0,4}"), 400),
        ) {
            let distinct: HashSet<_> = asks.iter().collect();
            let keys: HashSet<_> = asks
                .iter()
                .map(|(tenant, identity)| *key("s", tenant, "a", "m", identity).as_bytes())
                .collect();
            prop_assert_eq!(distinct.len(), keys.len());
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let key = key("secret", "tenant", "a", "m", "prompt");
        let shown = format!(
            "{key:?} {:?} {:?}",
            Tenant::new(b"tenant"),
            KeySecret::from_passphrase("secret")
        );
        assert_eq!(shown, "Key(..) Tenant(..) KeySecret(..)");
    }
}
