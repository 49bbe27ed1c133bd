use std::{pin::Pin, time::Duration};

use backstop_core::{
    BoxError, ClassifyStream, End, Outcome, Step,
    body::{Peek, Peeked, peek},
};
use bytes::Bytes;
use http_body::Body;

use crate::timer::Timer;

/// How long the next attempt waits for the rest of an answer that is to be kept. Error bodies are
/// small and come with their heads; what takes longer is read when it is needed.
pub(crate) const READ_WITHIN: Duration = Duration::from_millis(50);

/// How much of it is read ahead: 64 KiB, far above any provider's error body. The rest, if there
/// is one, stays on its connection.
const READ_AHEAD: usize = 64 * 1024;

/// The body of an answer that nobody may want.
pub(crate) enum Kept<B> {
    Unread(B),
    Held(Peeked<B>),
}

impl<B> Kept<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    /// Reads it within the time of `timer`, so that it needs its connection no longer.
    pub(crate) async fn hold(self, timer: Pin<&mut Timer>) -> Option<Self> {
        let Self::Unread(body) = self else {
            return Some(self);
        };
        let mut reading = peek(body, Ignore, READ_AHEAD);
        let body = match timer.race(&mut reading).await {
            Some(Peek::Committed(begun)) => begun.into_body(),
            Some(Peek::Decided(_, body)) => body,
            None => reading.stop()?.into_body(),
        };
        Some(Self::Held(body))
    }

    pub(crate) fn into_body(self) -> Peeked<B> {
        match self {
            Self::Unread(body) => Peeked::unread(body),
            Self::Held(body) => body,
        }
    }
}

/// Finds nothing in a body.
struct Ignore;

impl ClassifyStream for Ignore {
    fn on_data(&mut self, _: &[u8]) -> Step {
        Step::default()
    }

    fn on_end(&mut self, _: End<'_>) -> Outcome {
        Outcome::success()
    }
}
