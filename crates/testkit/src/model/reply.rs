use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::Refusal;

/// What a model does with one request. Made by one of the constructors, then changed by methods.
///
/// ```
/// use std::time::Duration;
/// use backstop_testkit::model::Reply;
///
/// let slow = Reply::healthy().first_token_after(Duration::from_secs(30));
/// let throttled = Reply::status(429).header("retry-after", "2");
/// let byte_by_byte = Reply::healthy().text("Good morning.").in_pieces_of(1);
/// ```
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) what: What,
    pub(super) headers: HeaderMap,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) head_after: Duration,
    pub(super) first_token_after: Duration,
    pub(super) token_gap: Duration,
    pub(super) keep_alives: usize,
    pub(super) text: Option<String>,
    pub(super) tokens: Option<usize>,
    pub(super) ending: Ending,
    pub(super) pieces: Pieces,
    pub(super) framing: Framing,
}

/// How the length of a body is told on HTTP/1.1, and whether it is told on HTTP/2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// A length for what is whole when the head is sent, none for a stream: as providers do.
    #[default]
    Usual,
    /// `content-length`, also for a stream.
    Length,
    /// No length: chunks on HTTP/1.1.
    Chunked,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The answer, streamed or not as the request asks.
    Answer,
    /// A refusal, with the status and the body that the provider sends for it.
    Refuse(Refusal),
    /// A status and exactly this body; without one, the usual error body.
    Status(StatusCode, Option<Bytes>),
    /// 200, and an error as the whole body, also when a stream was asked for.
    ErrorObject(Refusal),
    /// The connection is reset.
    Reset,
    /// Nothing is sent, ever.
    Hang,
    /// The head is sent and nothing else, ever.
    Silent,
    /// The head and everything that is no content, for ever.
    KeepAliveOnly(Duration),
}

/// What follows the last token that is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// The proper end.
    Proper,
    /// The end of the body, properly framed, without the dialect's own end.
    Eof,
    /// The connection closes in the middle of the body.
    Cut,
    /// The connection is reset in the middle of the body.
    Reset,
    /// Nothing, for ever.
    Stall,
    /// An error event, then the end of the body.
    ErrorEvent(Refusal),
}

#[derive(Clone, Debug)]
pub(super) enum Pieces {
    /// One frame per event.
    Events,
    /// One frame for all that is sent at the same time.
    Whole,
    /// Frames of this many bytes.
    Of(usize),
    /// Frames that end at these offsets of the body.
    At(Vec<usize>),
}

impl Reply {
    /// The whole answer.
    #[must_use]
    pub fn healthy() -> Self {
        Self::new(What::Answer)
    }

    /// A status that is not 200, with the body that the provider sends with it.
    ///
    /// # Panics
    ///
    /// If `status` is not between 100 and 999.
    #[must_use]
    pub fn status(status: u16) -> Self {
        match Refusal::of_status(status) {
            Some(Refusal::Overloaded) | None => Self::new(What::Status(code(status), None)),
            Some(refusal) => Self::new(What::Refuse(refusal)),
        }
    }

    /// A refusal as the provider reports it.
    #[must_use]
    pub fn refuse(refusal: Refusal) -> Self {
        Self::new(What::Refuse(refusal))
    }

    /// A status and exactly this body.
    ///
    /// # Panics
    ///
    /// If `status` is not between 100 and 999.
    #[must_use]
    pub fn raw(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(What::Status(code(status), Some(body.into())))
    }

    /// 307 to another place.
    ///
    /// # Panics
    ///
    /// If `location` is no header value.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::raw(307, Bytes::new()).header("location", location)
    }

    /// 200 with an error object as the whole body, as gateways and some providers do.
    #[must_use]
    pub fn error_object(refusal: Refusal) -> Self {
        Self::new(What::ErrorObject(refusal))
    }

    /// The connection is reset once the request has been read.
    #[must_use]
    pub fn reset() -> Self {
        Self::new(What::Reset)
    }

    /// The request is read and nothing is ever sent.
    #[must_use]
    pub fn hang() -> Self {
        Self::new(What::Hang)
    }

    /// 200, then nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::new(What::Silent)
    }

    /// 200, what comes before the first token (a role, `message_start`), then comments and pings at
    /// this interval, for ever. A call that is not streamed gets blank lines.
    #[must_use]
    pub fn keep_alive_only(every: Duration) -> Self {
        Self::new(What::KeepAliveOnly(every))
    }

    fn new(what: What) -> Self {
        Self {
            what,
            headers: HeaderMap::new(),
            trailers: None,
            head_after: Duration::ZERO,
            first_token_after: Duration::ZERO,
            token_gap: Duration::ZERO,
            keep_alives: 0,
            text: None,
            tokens: None,
            ending: Ending::Proper,
            pieces: Pieces::Events,
            framing: Framing::Usual,
        }
    }

    /// Another text than the model's own. Every word with the space before it is one token.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Sets a header, in place of what would be sent under this name.
    ///
    /// # Panics
    ///
    /// If the name or the value is none.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "a test kit: a wrong script is a wrong test"
    )]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        let value: HeaderValue = value.parse().expect("a header value");
        self.headers.insert(name, value);
        self
    }

    /// Sends trailers after the body.
    #[must_use]
    pub fn trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    /// Waits before the head is sent.
    #[must_use]
    pub const fn head_after(mut self, wait: Duration) -> Self {
        self.head_after = wait;
        self
    }

    /// Waits between the head and the first token; for a call that is not streamed, before the
    /// head, which providers send when the answer is there.
    #[must_use]
    pub const fn first_token_after(mut self, wait: Duration) -> Self {
        self.first_token_after = wait;
        self
    }

    /// Waits between two tokens of a stream.
    #[must_use]
    pub const fn token_gap(mut self, wait: Duration) -> Self {
        self.token_gap = wait;
        self
    }

    /// Sends this many comments (OpenAI) or pings (Anthropic) before the first token.
    #[must_use]
    pub const fn keep_alives(mut self, count: usize) -> Self {
        self.keep_alives = count;
        self
    }

    /// Closes the connection in the middle of the body, after so many tokens.
    #[must_use]
    pub const fn cut_after(self, tokens: usize) -> Self {
        self.ends(tokens, Ending::Cut)
    }

    /// Resets the connection in the middle of the body, after so many tokens.
    #[must_use]
    pub const fn reset_after(self, tokens: usize) -> Self {
        self.ends(tokens, Ending::Reset)
    }

    /// Goes silent in the middle of the body, after so many tokens.
    #[must_use]
    pub const fn stall_after(self, tokens: usize) -> Self {
        self.ends(tokens, Ending::Stall)
    }

    /// Ends the body without the dialect's own end, after so many tokens.
    #[must_use]
    pub const fn eof_after(self, tokens: usize) -> Self {
        self.ends(tokens, Ending::Eof)
    }

    /// Sends an error event after so many tokens, then ends the body. A call that is not streamed
    /// gets a 200 with an error object.
    #[must_use]
    pub const fn error_after(self, tokens: usize, refusal: Refusal) -> Self {
        self.ends(tokens, Ending::ErrorEvent(refusal))
    }

    const fn ends(mut self, tokens: usize, ending: Ending) -> Self {
        self.tokens = Some(tokens);
        self.ending = ending;
        self
    }

    /// Sends the body in frames of so many bytes, each written to the socket alone.
    ///
    /// # Panics
    ///
    /// If `bytes` is zero.
    #[must_use]
    pub fn in_pieces_of(mut self, bytes: usize) -> Self {
        assert!(bytes > 0, "a piece has at least one byte");
        self.pieces = Pieces::Of(bytes);
        self
    }

    /// Sends all that is sent at the same time in one frame.
    #[must_use]
    pub fn in_one_piece(mut self) -> Self {
        self.pieces = Pieces::Whole;
        self
    }

    /// Sends the body in frames that end at these offsets, in rising order.
    #[must_use]
    pub fn split_at(mut self, offsets: impl Into<Vec<usize>>) -> Self {
        self.pieces = Pieces::At(offsets.into());
        self
    }

    /// Tells the length of the body in another way.
    #[must_use]
    pub const fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }
}

impl Default for Reply {
    fn default() -> Self {
        Self::healthy()
    }
}

#[expect(
    clippy::expect_used,
    reason = "a test kit: a wrong script is a wrong test"
)]
fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("a status between 100 and 999")
}
