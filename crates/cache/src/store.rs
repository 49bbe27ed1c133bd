use bytes::Bytes;

use crate::Key;

/// Where answers are kept.
///
/// A store is a cache: it may lose anything at any time, and trouble with it is a miss, never an
/// error. It logs its own trouble, once and not per call.
pub trait Store: Clone + Send + Sync + 'static {
    /// The answer under `key`, if there is one.
    fn get(&self, key: &Key) -> impl Future<Output = Option<Entry>> + Send;

    /// Keeps an answer under `key`, in place of an older one.
    fn put(&self, key: Key, entry: Entry) -> impl Future<Output = ()> + Send;
}

/// A kept answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// When the answer was complete, in milliseconds since the Unix epoch.
    pub stored_at: u64,
    /// The record, as the [`Recorder`](backstop_core::Recorder) made it.
    pub record: Record,
}

/// The bytes of a kept answer. `Debug` shows their number only.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(pub Bytes);

impl Entry {
    /// An answer that was complete at `stored_at`.
    #[must_use]
    pub const fn new(stored_at: u64, record: Bytes) -> Self {
        Self {
            stored_at,
            record: Record(record),
        }
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> u32 {
        /// The key, the entry and the store's own book-keeping.
        const OVERHEAD: usize = 256;
        u32::try_from(self.record.0.len().saturating_add(OVERHEAD)).unwrap_or(u32::MAX)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}
