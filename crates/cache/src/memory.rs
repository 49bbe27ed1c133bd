use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use moka::future::Cache;

use crate::{Entry, Key, Store};

/// Keeps answers in the memory of this process, bounded by their size.
///
/// The room is divided into [`SHARES`](Self::SHARES) parts and a tenant may use one of them, so that
/// one tenant cannot push out everybody else's answers: it can only push out those of the tenants
/// that fall into the same part.
#[derive(Clone)]
pub struct MemoryStore {
    shares: Arc<[Cache<Key, Entry>]>,
}

impl MemoryStore {
    /// Into how many parts the room is divided. With sixteen, one tenant holds at most 6.25 % of it.
    pub const SHARES: usize = 16;

    /// The room when nothing else is said: 64 MiB, some ten thousand answers of 6 KiB.
    pub const DEFAULT_MAX_BYTES: u64 = 64 * 1024 * 1024;

    /// A store of at most `max_bytes` that forgets an answer after `keep`.
    #[must_use]
    pub fn new(max_bytes: u64, keep: Duration) -> Self {
        let part = max_bytes / Self::SHARES as u64;
        let build = |_| {
            Cache::builder()
                .max_capacity(part)
                .weigher(|_: &Key, entry: &Entry| entry.weight())
                .time_to_live(keep)
                .build()
        };
        Self {
            shares: (0..Self::SHARES).map(build).collect(),
        }
    }

    /// How many answers are kept, about.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.shares.iter().map(Cache::entry_count).sum()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are kept, about.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shares.iter().map(Cache::weighted_size).sum()
    }

    fn part(&self, key: &Key) -> &Cache<Key, Entry> {
        &self.shares[key.share(Self::SHARES)]
    }
}

impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Option<Entry> {
        self.part(key).get(key).await
    }

    async fn put(&self, key: Key, entry: Entry) {
        // A copy of its own, of just its size: the bytes given may be part of a larger piece of
        // memory, which would then be held and not counted.
        let record = Bytes::copy_from_slice(&entry.record.0);
        let entry = Entry::new(entry.stored_at, record);
        self.part(&key).insert(key, entry).await;
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("answers", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeySecret, ProducedBy, Tenant};

    const HOUR: Duration = Duration::from_secs(3600);

    struct Keys {
        secret: KeySecret,
        producer: ProducedBy,
        tenants: Vec<Tenant>,
    }

    impl Keys {
        fn new(tenants: u32) -> Self {
            Self {
                secret: KeySecret::from_passphrase("test"),
                producer: ProducedBy::new("a", "m"),
                tenants: (0..tenants)
                    .map(|tenant| Tenant::new(&tenant.to_le_bytes()))
                    .collect(),
            }
        }

        fn key(&self, tenant: usize, identity: u32) -> Key {
            let tenant = &self.tenants[tenant % self.tenants.len()];
            Key::new(
                &self.secret,
                tenant,
                &self.producer,
                &identity.to_le_bytes(),
            )
        }
    }

    fn entry(bytes: usize) -> Entry {
        Entry::new(0, Bytes::from(vec![b'x'; bytes]))
    }

    async fn settle(store: &MemoryStore) {
        for share in store.shares.iter() {
            share.run_pending_tasks().await;
        }
    }

    #[tokio::test]
    async fn a_million_keys_of_a_thousand_tenants_stay_within_the_room() {
        const ROOM: u64 = 4 * 1024 * 1024;
        let store = MemoryStore::new(ROOM, HOUR);
        let answer = entry(100);
        let keys = Keys::new(1_000);
        for identity in 0..1_000_000 {
            store
                .put(keys.key(identity as usize, identity), answer.clone())
                .await;
            if identity % 100 == 0 {
                settle(&store).await;
                assert!(
                    store.bytes() <= ROOM,
                    "{} bytes after {identity}",
                    store.bytes()
                );
            }
        }
        settle(&store).await;
        assert!(store.bytes() <= ROOM);
        assert!(store.bytes() > ROOM / 2, "the room is used");
        assert!(store.len() <= ROOM / u64::from(answer.weight()));
    }

    #[tokio::test]
    async fn a_greedy_tenant_pushes_out_only_its_own_share() {
        let store = MemoryStore::new(16 * 64 * 1024, HOUR);
        let keys = Keys::new(200);
        let modest: Vec<usize> = (1..200).collect();
        for tenant in &modest {
            store.put(keys.key(*tenant, 0), entry(10)).await;
        }
        settle(&store).await;
        let mut kept_before = 0;
        for tenant in &modest {
            kept_before += usize::from(store.get(&keys.key(*tenant, 0)).await.is_some());
        }
        assert_eq!(kept_before, modest.len());
        for identity in 0..20_000 {
            store.put(keys.key(0, identity), entry(1_000)).await;
        }
        settle(&store).await;
        let greedy = keys.key(0, 0).share(MemoryStore::SHARES);
        for tenant in modest {
            let key = keys.key(tenant, 0);
            if key.share(MemoryStore::SHARES) != greedy {
                assert!(
                    store.get(&key).await.is_some(),
                    "tenant {tenant} was pushed out"
                );
            }
        }
    }

    /// What a large piece of memory is held by is dropped with it.
    struct Large(Vec<u8>, std::sync::mpsc::Sender<()>);

    impl AsRef<[u8]> for Large {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Large {
        fn drop(&mut self) {
            let _ = self.1.send(());
        }
    }

    #[tokio::test]
    async fn no_more_memory_is_held_than_is_counted() {
        let (dropped, was_dropped) = std::sync::mpsc::channel();
        let large = Bytes::from_owner(Large(vec![7; 1 << 20], dropped));
        let store = MemoryStore::new(1 << 20, HOUR);
        let key = Keys::new(1).key(0, 0);
        store.put(key, Entry::new(1, large.slice(..10))).await;
        drop(large);
        assert!(was_dropped.try_recv().is_ok());
        let kept = store.get(&key).await.unwrap();
        assert_eq!(kept, Entry::new(1, Bytes::from_static(&[7; 10])));
    }
}
