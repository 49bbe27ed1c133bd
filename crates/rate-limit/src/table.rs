//! The scopes that requests name: bounded, and read without a lock.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;

use crate::{Key, scoped::Scoped, state::Micros};

/// The scopes of the most recently used keys.
///
/// A few shards of sorted slices, each replaced as a whole when a key comes or goes. That happens
/// when a key is limited for the first time, which took a refusal over the network; reading one
/// happens with every request.
pub(crate) struct Table {
    shards: [ArcSwap<Shard>; Self::SHARDS],
    per_shard: usize,
}

/// Sorted by key.
type Shard = Vec<(Key, Arc<Scoped>)>;

impl Table {
    const SHARDS: usize = 16;

    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| ArcSwap::default()),
            per_shard: capacity.div_ceil(Self::SHARDS),
        }
    }

    pub(crate) fn get(&self, key: Key, now: impl FnOnce() -> Micros) -> Option<Arc<Scoped>> {
        let shard = self.shard(key).load();
        let place = find(&shard, key).ok()?;
        let scoped = &shard[place].1;
        scoped.touch(now());
        Some(Arc::clone(scoped))
    }

    /// Whether nothing is remembered for a key.
    pub(crate) fn is_open(&self, key: Key) -> bool {
        let shard = self.shard(key).load();
        find(&shard, key).map_or(true, |place| shard[place].1.state.is_open())
    }

    /// The scope of a key, made if need be. When the shard is full, the one that has not been used
    /// for the longest time goes, and one that is not limited before one that is.
    pub(crate) fn get_or_insert(&self, key: Key, now: Micros) -> Arc<Scoped> {
        if let Some(scoped) = self.get(key, || now) {
            return scoped;
        }
        let new = Arc::new(Scoped::new());
        new.touch(now);
        let shard = self.shard(key);
        let before = shard.rcu(|entries| {
            let Err(place) = find(entries, key) else {
                return Arc::clone(entries);
            };
            let mut next = Vec::with_capacity(entries.len() + 1);
            next.extend_from_slice(&entries[..place]);
            next.push((key, Arc::clone(&new)));
            next.extend_from_slice(&entries[place..]);
            if next.len() > self.per_shard {
                let oldest = next
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at != place)
                    .min_by_key(|(_, (_, scoped))| {
                        (scoped.state.in_force(now).is_some(), scoped.last_used())
                    })
                    .map(|(at, _)| at);
                if let Some(oldest) = oldest {
                    next.remove(oldest);
                }
            }
            Arc::new(next)
        });
        // Somebody else may have inserted it in the meantime.
        find(&before, key).map_or(new, |place| Arc::clone(&before[place].1))
    }

    pub(crate) fn remove(&self, key: Key) {
        self.shard(key).rcu(|entries| {
            entries
                .iter()
                .filter(|(known, _)| *known != key)
                .cloned()
                .collect::<Vec<_>>()
        });
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (Key, Arc<Scoped>)> {
        self.shards.iter().flat_map(|shard| {
            let shard = shard.load_full();
            (0..shard.len()).map(move |at| shard[at].clone())
        })
    }

    fn shard(&self, key: Key) -> &ArcSwap<Shard> {
        &self.shards[usize::from(key.spread().to_le_bytes()[0]) % Self::SHARDS]
    }
}

fn find(entries: &[(Key, Arc<Scoped>)], key: Key) -> Result<usize, usize> {
    entries.binary_search_by_key(&key, |(key, _)| *key)
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: usize = self.shards.iter().map(|shard| shard.load().len()).sum();
        f.debug_struct("Table").field("keys", &keys).finish()
    }
}
