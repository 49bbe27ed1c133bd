use std::{convert::Infallible, error::Error};

use http::HeaderMap;

use crate::{Headroom, Kind, Outcome, outcome_of};

/// Turns what came back for a request into an [`Outcome`].
///
/// Classification has three stages: at the head ([`on_response`](Self::on_response), or
/// [`on_error`](Self::on_error) when there is no response), on data and at the end (both in
/// [`ClassifyStream`]). What must be remembered of the request for that is taken from it before it
/// is sent ([`on_request`](Self::on_request)), since sending consumes it.
///
/// Errors are seen as `dyn Error`, not as a type parameter: layers stack into `BoxError`, so the
/// service's own error is somewhere in the `source()` chain, which [`outcome_of`] walks.
///
/// An implementation for HTTP must first look for an [`Outcome`] among the response's extensions:
/// an inner layer may have read the body already.
pub trait Classify<Req: ?Sized, Res: ?Sized> {
    /// What is remembered of a request while it is under way.
    type Call: Send + Sync;
    /// What reads the body, when the head does not decide.
    type Stream: ClassifyStream;

    /// Takes what classification needs from the request.
    fn on_request(&self, request: &Req) -> Self::Call;

    /// Classifies the head of a response.
    fn on_response(&self, call: &Self::Call, response: &Res) -> Verdict<Self::Stream>;

    /// Classifies an error.
    fn on_error(&self, call: &Self::Call, error: &(dyn Error + 'static)) -> Outcome {
        let _ = call;
        outcome_of(error)
    }

    /// What the response's head says of the limits that are left, if anything.
    fn headroom(&self, call: &Self::Call, response: &Res) -> Option<Headroom> {
        let _ = (call, response);
        None
    }
}

/// Reads the body of one response.
///
/// The same bytes give the same steps and the same outcome however they are split, but that steps
/// of one chunk are merged into one.
pub trait ClassifyStream: Send + 'static {
    /// Looks at the next bytes and says what they brought.
    fn on_data(&mut self, chunk: &[u8]) -> Step;

    /// Says how it ended. Called once, after which nothing else is.
    ///
    /// A clean end without the dialect's own proper end is a failure ([`Kind::Malformed`]), as is
    /// an error. A drop after the proper end is a success, and before it [`Kind::Cancelled`].
    fn on_end(&mut self, end: End<'_>) -> Outcome;
}

/// What the head of a response decides.
#[derive(Clone, Debug)]
pub enum Verdict<S> {
    /// All is known.
    Now(Outcome),
    /// The body decides.
    AtEnd(S),
}

/// What a chunk of a response body brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// How far the stream is, by the best thing that this chunk brought before any failure.
    pub progress: Progress,
    /// A failure that the stream itself reports in this chunk.
    ///
    /// The bytes tell whoever reads them, so nothing need be added for the caller to know.
    pub failed: Option<Outcome>,
}

/// How far a chunk took a stream, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Nothing whole.
    #[default]
    None,
    /// Sign of life without content: comments, pings, role-only deltas, `message_start`, usage.
    KeepAlive,
    /// Content: a text, tool-call or reasoning delta. The first one commits the stream.
    Token,
    /// The dialect's proper end. It commits as well: an empty answer is an answer.
    End,
}

/// How a body ended.
#[derive(Debug)]
pub enum End<'a> {
    /// By itself, with these trailers.
    Clean(Option<&'a HeaderMap>),
    /// By an error.
    Error(&'a (dyn Error + 'static)),
    /// The reader dropped it.
    Dropped,
}

/// Classifies by errors alone: a response is a success, an error is what [`outcome_of`] says.
///
/// For typed services, whose responses are whole when they arrive.
///
/// ```
/// use backstop_core::{Classify, ClassifyErrors, Kind};
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let outcome = Classify::<str, str>::on_error(&ClassifyErrors, &(), &refused);
/// assert_eq!(outcome.kind(), Kind::NotProcessed);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassifyErrors;

/// The [`ClassifyStream`] of a classifier that always decides at the head. It has no values.
#[derive(Clone, Copy, Debug)]
pub struct Unstreamed(Infallible);

// === impl Step ===

impl Step {
    /// A step without a failure.
    #[must_use]
    pub const fn progress(progress: Progress) -> Self {
        Self {
            progress,
            failed: None,
        }
    }

    /// A failure that the stream reports, after `progress`.
    #[must_use]
    pub const fn failed(progress: Progress, outcome: Outcome) -> Self {
        Self {
            progress,
            failed: Some(outcome),
        }
    }

    /// Whether the stream has begun to answer, so that no other target may take over.
    #[must_use]
    pub fn commits(&self) -> bool {
        self.progress >= Progress::Token
    }
}

// === impl ClassifyErrors ===

impl<Req: ?Sized, Res: ?Sized> Classify<Req, Res> for ClassifyErrors {
    type Call = ();
    type Stream = Unstreamed;

    fn on_request(&self, _: &Req) {}

    fn on_response(&self, (): &(), _: &Res) -> Verdict<Unstreamed> {
        Verdict::Now(Outcome::new(Kind::Success))
    }
}

// === impl Unstreamed ===

impl ClassifyStream for Unstreamed {
    fn on_data(&mut self, _: &[u8]) -> Step {
        match self.0 {}
    }

    fn on_end(&mut self, _: End<'_>) -> Outcome {
        match self.0 {}
    }
}
