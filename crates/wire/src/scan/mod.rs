//! Scanners that cut the bytes of a stream into its events.
//!
//! Each is fed chunks as they come and calls back once for every item that is whole. An item that
//! lies within one chunk is borrowed from it; only what the end of a chunk cuts is copied. The
//! items are the same however the bytes are split, each byte is looked at a bounded number of
//! times, and memory is bounded by the [`Limits`].

mod event_stream;
mod json_array;
mod ndjson;
mod sse;

pub use event_stream::{EventStream, EventStreamItem, Message};
pub use json_array::{JsonArray, JsonArrayItem};
pub use ndjson::{Ndjson, NdjsonItem};
pub use sse::{Sse, SseEvent, SseItem};

/// How much a scanner holds at most.
///
/// What is larger is reported and skipped: the bytes of a stream are passed on all the same, only
/// not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest line, in bytes.
    pub line: usize,
    /// The largest event, in bytes of its data.
    pub event: usize,
}

impl Limits {
    /// The default of both limits: 8 MiB.
    ///
    /// Text events are some hundred bytes. The largest that are seen carry a picture in base64, of a
    /// few MiB, and Gemini puts its finish reason into the same event, so that skipping those would
    /// miss the end.
    pub const DEFAULT: usize = 8 * 1024 * 1024;

    /// Replaces the longest line.
    #[must_use]
    pub const fn line(mut self, bytes: usize) -> Self {
        self.line = bytes;
        self
    }

    /// Replaces the largest event.
    #[must_use]
    pub const fn event(mut self, bytes: usize) -> Self {
        self.event = bytes;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: Self::DEFAULT,
            event: Self::DEFAULT,
        }
    }
}

/// Counts the bytes that a scanner looks at or copies, in tests only: to show that its time is linear.
#[derive(Debug, Default)]
struct Work {
    #[cfg(test)]
    bytes: std::cell::Cell<usize>,
}

impl Work {
    #[inline]
    fn add(&self, bytes: usize) {
        #[cfg(test)]
        self.bytes.update(|sum| sum + bytes);
        let _ = bytes;
    }
}

/// Empties a buffer, and gives its memory back if a rare large item made it grow.
fn recycle(buffer: &mut Vec<u8>) {
    const KEEP: usize = 64 * 1024;
    buffer.clear();
    if buffer.capacity() > KEEP {
        buffer.shrink_to(KEEP);
    }
}
