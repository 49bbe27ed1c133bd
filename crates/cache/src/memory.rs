use std::{fmt, sync::Arc, time::Duration};

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
