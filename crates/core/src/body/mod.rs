//! The bodies: [`Replayable`] for requests, [`Peeked`] and [`Watched`] for responses.
//!
//! All keep the laws of `http_body::Body`: no frame is lost, added or reordered, trailers included;
//! `size_hint` bounds what is still to come; `is_end_stream` is true only when nothing is; the inner
//! body is never polled after its end. Their data is [`Bytes`](bytes::Bytes), so that a frame can be
//! looked at in one piece and held without a copy; use `http_body_util::BodyExt::map_frame` for a
//! body with other data.

mod peeked;
mod replayable;
mod watched;

pub use peeked::{Committed, DEFAULT_PEEK_LIMIT, Peek, PeekFuture, Peeked, peek};
pub use replayable::{ReadBody, Replayable};
pub use watched::{Watch, Watched};
