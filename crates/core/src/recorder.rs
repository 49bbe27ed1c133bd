use std::time::Duration;

use bytes::Bytes;

use crate::Outcome;

/// Keeps whole answers and writes them again, in the form that a later request asks for.
///
/// This is what a cache needs to know of a dialect: which part of a request makes it *the same
/// request*, which answers are worth keeping, and how a kept answer becomes a response. `F` is the
/// frozen request ([`Replay::Frozen`](crate::Replay::Frozen)), `H` the head of a response
/// ([`Responses::Head`](crate::Responses::Head)).
pub trait Recorder<F: ?Sized, H>: Send + Sync + 'static {
    /// What is remembered of a request while it is under way.
    type Call: Clone + Send + Sync + 'static;
    /// What is remembered of a response's head while its body is recorded.
    type Recording: Send + Sync + 'static;

    /// Takes what is needed from the request; `None` when it is none that can be answered from a
    /// record.
    fn on_request(&self, request: &F) -> Option<Self::Call>;

    /// What the request itself says about being stored and served.
    fn directives(&self, call: &Self::Call) -> Directives;

    /// Whether the answer can be shared by identical calls under way: it is not a stream.
    fn may_share(&self, call: &Self::Call) -> bool;

    /// The canonical bytes of the request: equal for requests of the same meaning, different as soon
    /// as any part counts that the recorder does not know.
    fn identity(&self, request: &F) -> Option<Vec<u8>>;

    /// Whether the answer with this head is worth recording.
    ///
    /// # Errors
    ///
    /// Why not, for metrics.
    fn on_response(&self, call: &Self::Call, head: &H) -> Result<Self::Recording, &'static str>;

    /// Makes the record of an answer that ended well.
    ///
    /// # Errors
    ///
    /// Why the answer must not be kept, for metrics: cut short, filtered, a tool call …
    fn record(&self, recording: &Self::Recording, body: &[u8]) -> Result<Bytes, &'static str>;

    /// Writes a recorded answer in the form that `call` asks for, with new ids and its age.
    ///
    /// `None` when the record cannot be read; it is then as if there were none.
    fn replay(&self, call: &Self::Call, record: &[u8], replay: Replayed) -> Option<(H, Bytes)>;

    /// Writes a text of the operator's as an answer.
    fn simplified(&self, call: &Self::Call, text: &Simplified<'_>) -> (H, Bytes);
}

/// What a request says about being stored and served (RFC 9111 section 5.2.1, RFC 5861 section 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directives {
    /// `no-store`: the answer must not be kept.
    pub no_store: bool,
    /// `no-cache`: no kept answer will do.
    pub no_cache: bool,
    /// `stale-if-error`: a kept answer up to this stale will do if there is an error.
    pub stale_if_error: Option<Duration>,
}

/// How a recorded answer is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// How old the answer is.
    pub age: Duration,
    /// Whether it is still fresh; if not, it is served because of an error.
    pub fresh: bool,
}

/// An answer that the operator wrote.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Simplified<'a> {
    /// The text.
    pub text: &'a str,
    /// The HTTP status: 200 makes the text an answer, an error status makes it the error's message.
    pub status: u16,
    /// Why no model answered.
    pub outcome: &'a Outcome,
}

impl Replayed {
    /// A record of this age.
    #[must_use]
    pub const fn new(age: Duration, fresh: bool) -> Self {
        Self { age, fresh }
    }
}

impl<'a> Simplified<'a> {
    /// An answer with this text.
    #[must_use]
    pub const fn new(text: &'a str, status: u16, outcome: &'a Outcome) -> Self {
        Self {
            text,
            status,
            outcome,
        }
    }
}
