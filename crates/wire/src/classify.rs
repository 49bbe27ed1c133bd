use std::{fmt, num::NonZeroU32};

use backstop_core::{
    Classify, ClassifyStream, End, Headroom, Kind, Outcome, Progress, Step, Verdict, outcome_of,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use crate::{
    Dialect, Provider,
    errors::{Answer, classify_answer},
    headroom,
    json::{Extent, Value},
    request::RequestFacts,
    scan::{Sse, SseItem},
    stream::{FinishReason, Framing, StreamReader, Usage},
};

/// How much of the body of a successful answer that is no stream is read: 4 MiB.
///
/// The same as what may be held back before an answer commits. An answer of 128 Ki tokens is some
/// hundred KiB; what is larger carries pictures or sound. Of a larger one it is only checked that it
/// is whole.
pub const UNARY_LIMIT: usize = 4 * 1024 * 1024;

/// How much of the body of an error is read: 64 KiB.
///
/// Error bodies are a few hundred bytes, but those of validation errors echo the request.
pub const ERROR_LIMIT: usize = 64 * 1024;

/// Classifies HTTP responses in one dialect: streams by their events, other answers as a whole.
///
/// If the response has an [`Outcome`] among its extensions, that decides. Otherwise the body does,
/// by its content type and what it looks like: a JSON error that comes where a stream was asked for,
/// and a stream that is labelled as something else, are both understood.
///
/// A body with a `content-encoding` cannot be read: ask for none, as
/// [`HttpTarget`](crate::retarget::HttpTarget) does, or decode it before. An error is then judged by
/// its head alone. Of a success no byte counts as a token, so that nothing commits to it before its
/// end, and only its end says that it was one.
///
/// From the request it takes [how many choices](RequestFacts::choices) were asked for, if
/// [`RequestFacts`] are among its extensions: a stream is not whole before all of them are. Where
/// that is not known, see [`StreamReader::choices`] for what is believed then.
///
/// ```
/// use backstop_core::{Classify, ClassifyStream, End, Headroom, Kind, Progress, Verdict};
/// use backstop_wire::{ClassifyHttp, Dialect};
///
/// let classify = ClassifyHttp::new(Dialect::OpenAiChat);
/// let response = http::Response::builder()
///     .header("content-type", "text/event-stream")
///     .body(())?;
/// let verdict = Classify::<http::Request<()>, _>::on_response(&classify, &None, &response);
/// let Verdict::AtEnd(mut reader) = verdict else { panic!("its body decides") };
///
/// let role = br#"data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}"#;
/// assert_eq!(reader.on_data(role).progress, Progress::None);
/// assert_eq!(reader.on_data(b"\n\n").progress, Progress::KeepAlive);
/// let text = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
/// assert_eq!(reader.on_data(text).progress, Progress::Token);
/// // The connection ends, but the answer has not.
/// assert_eq!(reader.on_end(End::Clean(None)).kind(), Kind::Malformed);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClassifyHttp {
    dialect: Dialect,
    provider: Provider,
}

/// Reads the body of one response.
pub struct AnswerReader {
    mode: Mode,
}

enum Mode {
    Stream(StreamReader),
    Whole(Whole),
    Grpc(Head),
    Opaque { begun: bool },
}

/// What is kept of the head of a response, and of the request.
struct Head {
    provider: Provider,
    choices: Option<NonZeroU32>,
    status: StatusCode,
    headers: HeaderMap,
}

/// An answer that is not a stream, or does not look like one yet.
struct Whole {
    head: Head,
    dialect: Dialect,
    held: Vec<u8>,
    /// How many bytes of it are blank before anything else.
    blanks: usize,
    extent: Extent,
    decided: Option<Outcome>,
    /// It passed the limit and is no longer held.
    too_large: bool,
}

// === impl ClassifyHttp ===

impl ClassifyHttp {
    /// Classifies answers in `dialect`, from a provider that is not known.
    #[must_use]
    pub const fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            provider: Provider::Unknown,
        }
    }

    /// Names the provider, whose own error codes and headers are then understood as well.
    #[must_use]
    pub const fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// A reader for the body of the response with this head.
    #[must_use]
    pub fn reader(&self, status: StatusCode, headers: &HeaderMap) -> AnswerReader {
        AnswerReader {
            mode: self.mode(status, headers),
        }
    }

    fn mode(&self, status: StatusCode, headers: &HeaderMap) -> Mode {
        let head = Head::new(self.provider, status, headers);
        if is_encoded(headers) {
            return if status.is_success() {
                Mode::Opaque { begun: false }
            } else {
                let outcome = head.classify(&[], None);
                Mode::Whole(Whole {
                    decided: Some(outcome),
                    ..Whole::new(head, self.dialect)
                })
            };
        }
        let kind = content_type(headers);
        if kind.starts_with(b"application/grpc") {
            return Mode::Grpc(head);
        }
        if status.is_success()
            && let Some(framing) = framing(kind)
        {
            return Mode::Stream(head.stream(self.dialect, framing));
        }
        Mode::Whole(Whole::new(head, self.dialect))
    }
}

impl<A, B> Classify<Request<A>, Response<B>> for ClassifyHttp {
    /// How many choices the answer is to have, if that is known.
    type Call = Option<NonZeroU32>;
    type Stream = AnswerReader;

    fn on_request(&self, request: &Request<A>) -> Option<NonZeroU32> {
        request.extensions().get::<RequestFacts>()?.choices()
    }

    fn on_response(
        &self,
        choices: &Option<NonZeroU32>,
        response: &Response<B>,
    ) -> Verdict<AnswerReader> {
        match response.extensions().get::<Outcome>() {
            Some(outcome) => Verdict::Now(*outcome),
            None => {
                let reader = self.reader(response.status(), response.headers());
                match &reader.mode {
                    // A gRPC answer that is all head.
                    Mode::Grpc(head) if head.headers.contains_key(GRPC_STATUS) => {
                        Verdict::Now(head.classify(&[], None))
                    }
                    _ => Verdict::AtEnd(reader.choices(*choices)),
                }
            }
        }
    }

    fn headroom(&self, _: &Option<NonZeroU32>, response: &Response<B>) -> Option<Headroom> {
        headroom::read(self.provider, response.headers())
    }
}

// === impl AnswerReader ===

impl AnswerReader {
    /// Says how many choices were asked for, if that is known: see [`StreamReader::choices`].
    #[must_use]
    pub fn choices(mut self, asked: Option<NonZeroU32>) -> Self {
        match &mut self.mode {
            Mode::Stream(reader) => reader.ask(asked),
            Mode::Whole(whole) => whole.head.choices = asked,
            Mode::Grpc(_) | Mode::Opaque { .. } => {}
        }
        self
    }

    /// The dialect of an answer whose JSON can be read, and whether it is a stream of events.
    pub(crate) const fn form(&self) -> Option<(Dialect, bool)> {
        match &self.mode {
            Mode::Stream(reader) if reader.is_sse() => Some((reader.dialect(), true)),
            Mode::Whole(whole) if whole.head.status.as_u16() / 100 == 2 => {
                Some((whole.dialect, false))
            }
            _ => None,
        }
    }

    /// Why the model stopped, once a stream has said so.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        match &self.mode {
            Mode::Stream(reader) => reader.finish_reason(),
            _ => None,
        }
    }

    /// How many tokens were used, as far as a stream has said so.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match &self.mode {
            Mode::Stream(reader) => reader.usage(),
            _ => Usage::default(),
        }
    }
}

impl ClassifyStream for AnswerReader {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        match &mut self.mode {
            Mode::Stream(reader) => reader.on_data(chunk),
            Mode::Whole(whole) => {
                if let Some(mut reader) = whole.as_stream(chunk) {
                    let mut step = reader.on_data(chunk);
                    // What was held before it could be told counted as a sign of life already.
                    step.progress = step.progress.max(Progress::KeepAlive);
                    self.mode = Mode::Stream(reader);
                    return step;
                }
                whole.on_data(chunk)
            }
            // A message came, and an error would have come in its place.
            Mode::Grpc(_) if !chunk.is_empty() => Step::progress(Progress::Token),
            // What is in it, whether content or an error, nobody can tell.
            Mode::Opaque { begun } if !chunk.is_empty() => {
                *begun = true;
                Step::progress(Progress::KeepAlive)
            }
            Mode::Grpc(_) | Mode::Opaque { .. } => Step::default(),
        }
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        match &mut self.mode {
            Mode::Stream(reader) => reader.on_end(end),
            Mode::Whole(whole) => whole.on_end(end),
            Mode::Grpc(head) => head.on_grpc_end(end),
            Mode::Opaque { begun } => match end {
                End::Clean(_) if *begun => {
                    Outcome::success().with_evidence("an encoded body, not read")
                }
                End::Clean(_) => Outcome::new(Kind::Malformed).with_evidence("an empty body"),
                End::Error(error) => outcome_of(error),
                End::Dropped => Outcome::cancelled(),
            },
        }
    }
}

impl fmt::Debug for AnswerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("AnswerReader");
        match &self.mode {
            Mode::Stream(reader) => f.field("stream", reader),
            // A count only: the bytes are somebody's answer.
            Mode::Whole(whole) => f.field("held", &whole.held.len()),
            Mode::Grpc(head) => f.field("grpc", &head.status),
            Mode::Opaque { begun } => f.field("opaque", begun),
        };
        f.finish_non_exhaustive()
    }
}

// === impl Head ===

impl Head {
    fn new(provider: Provider, status: StatusCode, headers: &HeaderMap) -> Self {
        Self {
            choices: None,
            // Not all headers may be kept that tell it.
            provider: match provider {
                Provider::Unknown => Provider::from_headers(headers),
                known => known,
            },
            status,
            // The headers of a success matter only if they have something to say about a failure
            // that the body may still bring; as a rule they have not, and copying them costs.
            headers: if !status.is_success() || headers.iter().any(tells) {
                headers.clone()
            } else {
                HeaderMap::new()
            },
        }
    }

    fn stream(self, dialect: Dialect, framing: Framing) -> StreamReader {
        StreamReader::new(dialect, framing)
            .provider(self.provider)
            .headers(self.headers)
            .choices(self.choices)
    }

    fn classify(&self, body: &[u8], trailers: Option<&HeaderMap>) -> Outcome {
        classify_answer(&Answer {
            provider: self.provider,
            status: self.status,
            headers: &self.headers,
            body,
            trailers,
        })
    }

    fn on_grpc_end(&self, end: End<'_>) -> Outcome {
        let told = self.headers.contains_key(GRPC_STATUS);
        match end {
            End::Clean(trailers)
                if told || trailers.is_some_and(|trailers| trailers.contains_key(GRPC_STATUS)) =>
            {
                self.classify(&[], trailers)
            }
            End::Clean(_) if self.status.is_success() => {
                Outcome::new(Kind::Malformed).with_evidence("no gRPC status")
            }
            End::Clean(trailers) => self.classify(&[], trailers),
            // The status of an error says more than how its body ended.
            _ if !self.status.is_success() => self.classify(&[], None),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }
}

const GRPC_STATUS: &str = "grpc-status";

/// How a stream of this media type is cut into events.
fn framing(media_type: &[u8]) -> Option<Framing> {
    match media_type {
        b"text/event-stream" => Some(Framing::Sse),
        b"application/x-ndjson"
        | b"application/ndjson"
        | b"application/jsonl"
        | b"application/x-jsonlines"
        | b"application/stream+json" => Some(Framing::Ndjson),
        b"application/vnd.amazon.eventstream" => Some(Framing::EventStream),
        _ => None,
    }
}

/// Whether a header of a successful response may say something about a failure in its body: how long
/// to wait, what it is, or that a limit is spent, whose reset is a wait as well.
fn tells((name, value): (&HeaderName, &HeaderValue)) -> bool {
    let (name, value) = (name.as_str(), value.as_bytes());
    let is_spent = || {
        (name.ends_with("ratelimit") && memchr::memmem::find(value, b"=0").is_some())
            || (value == b"0" && name.contains("remaining"))
            || name == "anthropic-ratelimit-unified-status"
    };
    name.contains("retry")
        || name.starts_with("grpc-")
        || name.starts_with("x-amzn-errortype")
        || is_spent()
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// The media type without its parameters, as far as it is in lower case as all are who are known.
fn content_type(headers: &HeaderMap) -> &[u8] {
    let value = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], |value| value.as_bytes());
    value
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

// === impl Whole ===

impl Whole {
    fn new(head: Head, dialect: Dialect) -> Self {
        Self {
            head,
            dialect,
            held: Vec::new(),
            blanks: 0,
            extent: Extent::default(),
            decided: None,
            too_large: false,
        }
    }

    /// A reader of events, fed with what is held, if that is what the body turns out to be.
    fn as_stream(&mut self, chunk: &[u8]) -> Option<StreamReader> {
        let is_settled = self.too_large || self.decided.is_some();
        if !self.head.status.is_success() || is_settled {
            return None;
        }
        if self.extent.has_begun() && self.dialect != Dialect::Ollama {
            return None;
        }
        let blank = |byte: &&u8| byte.is_ascii_whitespace() || BOM.contains(byte);
        self.blanks += self.held[self.blanks..].iter().take_while(blank).count();
        let mut bytes = self.held[self.blanks..]
            .iter()
            .chain(chunk)
            .skip_while(blank);
        let start: [u8; LONGEST_FIELD] =
            std::array::from_fn(|_| bytes.next().copied().unwrap_or_default());
        let framing = if start[0] == b'[' && self.dialect == Dialect::Gemini {
            Framing::JsonArray
        } else if FIELDS.iter().any(|field| start.starts_with(field)) {
            Framing::Sse
        } else if self.dialect == Dialect::Ollama && self.is_first_of_many(chunk) {
            Framing::Ndjson
        } else {
            return None;
        };
        let head = Head {
            headers: self.head.headers.clone(),
            ..self.head
        };
        let mut reader = head.stream(self.dialect, framing);
        reader.on_data(&self.held);
        Some(reader)
    }

    /// Whether `chunk` ends an object that says of itself that more will follow.
    fn is_first_of_many(&self, chunk: &[u8]) -> bool {
        let mut extent = self.extent;
        let Some(end) = extent.feed(chunk) else {
            return false;
        };
        let value = [&self.held[..], &chunk[..end]].concat();
        let done = Value::parse(&value).and_then(|value| value.get("done"));
        done.is_some_and(Value::is_false)
    }

    fn on_data(&mut self, chunk: &[u8]) -> Step {
        let is_success = self.head.status.is_success();
        if let Some(outcome) = self.decided {
            let more = outcome.is_success() && !chunk.trim_ascii().is_empty();
            return if more {
                self.trailing(Progress::KeepAlive)
            } else {
                Step::default()
            };
        }
        let end = self.extent.feed(chunk);
        let (value, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
        let limit = if is_success { UNARY_LIMIT } else { ERROR_LIMIT };
        let room = limit - self.held.len();
        let mut progress = if chunk.is_empty() {
            Progress::None
        } else {
            Progress::KeepAlive
        };
        if value.len() > room && !self.too_large {
            if !is_success || !self.extent.has_begun() {
                self.held.extend_from_slice(&value[..room]);
                return self.decide(self.judge(&self.held, None), progress);
            }
            // Nobody else may take over from an answer that is too large to be held.
            self.too_large = true;
            self.held = Vec::new();
            progress = Progress::Token;
        }
        if end.is_none() {
            if !self.too_large {
                self.held.extend_from_slice(value);
            }
            return Step::progress(progress);
        }
        let outcome = if self.too_large {
            Outcome::success().with_evidence("a whole answer, too large to be read")
        } else if self.held.is_empty() {
            self.judge(value, None)
        } else {
            self.held.extend_from_slice(value);
            self.judge(&self.held, None)
        };
        let step = self.decide(outcome, progress);
        if outcome.is_success() && !rest.trim_ascii().is_empty() {
            return self.trailing(step.progress);
        }
        step
    }

    fn decide(&mut self, outcome: Outcome, progress: Progress) -> Step {
        self.held = Vec::new();
        self.decided = Some(outcome);
        if outcome.is_success() {
            Step::progress(Progress::End)
        } else {
            Step::failed(progress, outcome)
        }
    }

    fn on_end(&self, end: End<'_>) -> Outcome {
        if let Some(outcome) = self.decided {
            return outcome;
        }
        match end {
            End::Clean(_) if self.too_large => {
                Outcome::new(Kind::Malformed).with_evidence("a body that ends too early")
            }
            End::Clean(trailers) => self.judge(&self.held, trailers),
            // The status of an error says more than how its body ended.
            _ if !self.head.status.is_success() => self.judge(&self.held, None),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }

    fn judge(&self, body: &[u8], trailers: Option<&HeaderMap>) -> Outcome {
        if !self.head.status.is_success()
            && let Some(data) = first_event(body)
        {
            return self.head.classify(&data, trailers);
        }
        let outcome = self.head.classify(body, trailers);
        if outcome.is_success() && Value::parse(body).is_none() {
            return Outcome::new(Kind::Malformed).with_evidence("a body that is not whole JSON");
        }
        outcome
    }

    /// Something follows the answer.
    fn trailing(&mut self, progress: Progress) -> Step {
        let outcome = Outcome::new(Kind::Malformed).with_evidence("bytes after the answer");
        self.decided = Some(outcome);
        Step::failed(progress, outcome)
    }
}

/// The data of the first event, if the body is one of server-sent events. Some send their errors like
/// this under an error status (Alibaba's model studio, when a stream was asked for).
fn first_event(body: &[u8]) -> Option<Vec<u8>> {
    let start = body.trim_ascii_start();
    if !FIELDS.iter().any(|field| start.starts_with(field)) {
        return None;
    }
    let mut data = None;
    let mut scanner = Sse::default();
    let mut each = |item: SseItem<'_>| {
        if let SseItem::Event(event) = item {
            data.get_or_insert_with(|| event.data.to_vec());
        }
    };
    scanner.feed(body, &mut each);
    scanner.finish(&mut each);
    data
}

/// What a server-sent event may begin with.
const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b":", b"id:", b"retry:"];
/// The longest of them.
const LONGEST_FIELD: usize = 6;
/// The byte order mark, which may come before anything.
const BOM: [u8; 3] = *b"\xef\xbb\xbf";
