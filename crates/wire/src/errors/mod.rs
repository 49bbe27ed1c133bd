//! Error answers to outcomes.

use backstop_core::{Kind, Outcome};
use http::HeaderMap;

use crate::Provider;

/// A whole answer that is not a stream.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Whose answer it is.
    pub provider: Provider,
    /// The HTTP status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, or as much of it as was read.
    pub body: &'a [u8],
    /// The trailers, when there were any.
    pub trailers: Option<&'a HeaderMap>,
}

/// The outcome that a whole answer stands for, whatever its status.
#[must_use]
pub fn classify_answer(answer: &Answer<'_>) -> Outcome {
    match answer.status.as_u16() {
        200..=299 => Outcome::success(),
        429 => Outcome::new(Kind::Throttled),
        401 | 403 => Outcome::new(Kind::Unauthorized),
        404 => Outcome::new(Kind::NotFound),
        413 => Outcome::new(Kind::TooLarge),
        400..=499 => Outcome::new(Kind::Rejected),
        529 => Outcome::new(Kind::Overloaded),
        _ => Outcome::new(Kind::Unavailable),
    }
}

/// The outcome that an error found inside a stream stands for.
///
/// `payload` is the event's data, usually JSON.
#[must_use]
pub fn classify_stream_error(
    provider: Provider,
    headers: &HeaderMap,
    event: Option<&str>,
    payload: &[u8],
) -> Outcome {
    let _ = (provider, headers, event, payload);
    Outcome::new(Kind::Unavailable)
}
