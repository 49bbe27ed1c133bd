use std::time::Duration;

use backstop_cache::{Entry, Key, Store};

use crate::{
    RedisLink,
    encoding::{decode, encode},
};

/// Keeps answers in Redis or Valkey.
///
/// The answers are there in clear, possibly compressed; whose they are and what was asked is in the
/// keyed hash that they are filed under. Who can read this Redis can read what models answered.
///
/// Each answer is one key, `backstop:answer:1:<hash>`, so that any cluster takes it; the server
/// forgets it after the time to live. Long answers are compressed (LZ4). Memory is bounded by the
/// server: set `maxmemory` and an eviction policy there.
#[derive(Clone, Debug)]
pub struct RedisStore {
    link: RedisLink,
    keep: Duration,
}

impl RedisStore {
    /// A store whose server forgets an answer after `keep`.
    #[must_use]
    pub const fn new(link: RedisLink, keep: Duration) -> Self {
        Self { link, keep }
    }
}

impl Store for RedisStore {
    async fn get(&self, key: &Key) -> Option<Entry> {
        let found: Option<Vec<u8>> = self.link.run(redis::cmd("GET").arg(name(key))).await?;
        decode(&found?)
    }

    async fn put(&self, key: Key, entry: Entry) {
        let keep = u64::try_from(self.keep.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let mut set = redis::cmd("SET");
        set.arg(name(&key)).arg(encode(&entry)).arg("PX").arg(keep);
        let _: Option<()> = self.link.run(&set).await;
    }
}

fn name(key: &Key) -> String {
    format!("backstop:answer:1:{}", key.to_hex())
}
