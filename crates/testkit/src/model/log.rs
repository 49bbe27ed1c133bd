use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Version};
use tokio::{sync::watch, time::Instant};

/// What a model was asked, in order of arrival. Cheap to clone; all clones see the same log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<watch::Sender<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many exchanges were forgotten.
    cleared: usize,
    exchanges: Vec<Exchange>,
}

/// One request and how it ended.
#[derive(Clone)]
#[non_exhaustive]
pub struct Exchange {
    /// Which connection it came on, counted from zero; zero for a model without a socket.
    pub connection: u64,
    /// When its head had been read.
    pub received_at: Instant,
    /// The HTTP version.
    pub version: Version,
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub path: String,
    /// The headers, keys included.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// What was handed to the connection as the body of the answer, so far.
    pub sent: BytesMut,
    /// How it ended and when; `None` while it is under way.
    pub ended: Option<(Ended, Instant)>,
}

/// How an exchange ended, as the model saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// All of the reply was handed to the connection.
    Answered,
    /// The script broke it off.
    BrokenOff,
    /// The client went away first: it closed the connection or reset the stream.
    ClientGone,
}

/// Marks one exchange as it goes on. Dropped before the end, the client is gone.
#[derive(Debug)]
pub(super) struct Entry {
    log: Log,
    index: usize,
    ended: bool,
}

// === impl Log ===

impl Log {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(watch::Sender::new(Kept::default())),
        }
    }

    /// All exchanges so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.borrow().exchanges.clone()
    }

    /// How many requests came so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.borrow().exchanges.len()
    }

    /// Whether no request has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last exchange, if there was one.
    #[must_use]
    pub fn last(&self) -> Option<Exchange> {
        self.shared.borrow().exchanges.last().cloned()
    }

    /// Forgets all exchanges, those under way too.
    pub fn clear(&self) {
        self.shared.send_modify(|kept| {
            kept.cleared += kept.exchanges.len();
            kept.exchanges.clear();
        });
    }

    /// Waits until the log is as `condition` says, and returns it.
    ///
    /// It waits for ever if that never happens: give the test a time limit.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_for(&self, mut condition: impl FnMut(&[Exchange]) -> bool) -> Vec<Exchange> {
        let mut changes = self.shared.subscribe();
        loop {
            {
                let kept = changes.borrow_and_update();
                if condition(&kept.exchanges) {
                    return kept.exchanges.clone();
                }
            }
            if changes.changed().await.is_err() {
                // Not reached: `self` holds the sender.
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn enter(&self, exchange: Exchange) -> Entry {
        let mut index = 0;
        self.shared.send_modify(|kept| {
            index = kept.cleared + kept.exchanges.len();
            kept.exchanges.push(exchange);
        });
        Entry {
            log: self.clone(),
            index,
            ended: false,
        }
    }
}

// === impl Exchange ===

impl Exchange {
    /// The body as JSON, or `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `model` that the request asks for.
    #[must_use]
    pub fn model(&self) -> Option<String> {
        Some(self.json().get("model")?.as_str()?.to_owned())
    }

    /// Whether it ended in this way.
    #[must_use]
    pub fn is(&self, how: Ended) -> bool {
        self.ended.is_some_and(|(ended, _)| ended == how)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("version", &self.version)
            .field("connection", &self.connection)
            .field("body_bytes", &self.body.len())
            .field("sent_bytes", &self.sent.len())
            .field("ended", &self.ended.map(|(ended, _)| ended))
            .finish_non_exhaustive()
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn body(&self, body: Bytes) {
        self.change(|exchange| exchange.body = body);
    }

    pub(super) fn sent(&self, data: &[u8]) {
        self.change(|exchange| exchange.sent.extend_from_slice(data));
    }

    pub(super) fn end(&mut self, how: Ended) {
        if !std::mem::replace(&mut self.ended, true) {
            let at = Instant::now();
            self.change(|exchange| exchange.ended = Some((how, at)));
        }
    }

    fn change(&self, change: impl FnOnce(&mut Exchange)) {
        self.log.shared.send_modify(|kept| {
            // Absent once the log has been cleared.
            let index = self.index.checked_sub(kept.cleared);
            if let Some(exchange) = index.and_then(|index| kept.exchanges.get_mut(index)) {
                change(exchange);
            }
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end(Ended::ClientGone);
    }
}
