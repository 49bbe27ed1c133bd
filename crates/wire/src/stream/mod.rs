//! Streams of each dialect: what is a sign of life, what is content, what is an error, what is the
//! proper end.

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod ollama;
mod openai_chat;
mod openai_responses;

/// What each dialect's finish reasons stand for.
pub(crate) mod finish_reason {
    pub(crate) use super::{
        anthropic::stop_reason as anthropic, openai_chat::finish_reason as openai_chat,
    };
}

use std::{fmt, num::NonZeroU32};

use backstop_core::{ClassifyStream, End, Kind, Outcome, Phase, Progress, Step, outcome_of};
use http::HeaderMap;

use crate::{
    Dialect, ERROR_LIMIT, Provider, errors,
    json::{Extent, Value},
    scan::{
        EventStream, EventStreamItem, JsonArray, JsonArrayItem, Ndjson, NdjsonItem, Sse, SseItem,
    },
};

/// Reads the events of a stream in one dialect.
///
/// A token, a proper end and an error are found in the event that brings them, as soon as it is
/// whole. Once the stream has failed, nothing that follows is looked at.
pub struct StreamReader {
    scanner: Scanner,
    state: State,
}

/// How events are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// Server-sent events.
    Sse,
    /// A JSON value a line.
    Ndjson,
    /// The elements of one JSON array.
    JsonArray,
    /// AWS event-stream messages.
    EventStream,
}

#[derive(Debug)]
enum Scanner {
    Sse(Sse),
    Ndjson(Ndjson),
    JsonArray(JsonArray),
    EventStream(EventStream),
}

/// What is known of the stream so far.
struct State {
    dialect: Dialect,
    provider: Provider,
    headers: HeaderMap,
    facts: Facts,
    failed: Option<Outcome>,
    /// Nothing of the framing is missing.
    closed: bool,
    /// JSON that stands between events, and how far it goes.
    stray: (Vec<u8>, Extent),
}

/// What the events of a stream have said.
#[derive(Debug, Default)]
struct Facts {
    /// An event of the dialect was read.
    spoken: bool,
    /// Text, a tool call or reasoning was seen.
    content: bool,
    /// The proper end was seen.
    ended: bool,
    /// Something larger than the scanner's limits was skipped.
    skipped: bool,
    finish: Option<FinishReason>,
    usage: Usage,
    choices: Choices,
}

/// The choices of an answer: alternatives, of which OpenAI and Gemini give as many as are asked for.
#[derive(Debug, Default)]
struct Choices {
    /// How many there must be, if that is known.
    asked: Option<NonZeroU32>,
    /// Which were begun and which are over, one bit per index. OpenAI gives up to 128.
    begun: u128,
    over: u128,
    /// There are more than can be kept account of.
    beyond: bool,
}

/// Why a model stopped, in words that all dialects share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// It was done, or met a stop sequence.
    Stop,
    /// The most tokens that were allowed.
    Length,
    /// It calls a tool.
    ToolCalls,
    /// The provider withheld the answer.
    ContentFilter,
    /// The model declined.
    Refusal,
    /// The context window is full.
    ContextWindow,
    /// The provider ran out of capacity while it answered.
    Overloaded,
    /// The provider failed while it answered.
    Error,
    /// The provider's own time for an answer was up.
    TimedOut,
    /// The generation is not usable, such as a tool call that does not parse.
    BadGeneration,
    /// Another reason.
    Other,
}

/// How many tokens an answer cost, as far as the stream says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, reasoning included.
    pub output_tokens: Option<u64>,
}

/// An event of a stream, whatever it was carried in.
#[derive(Clone, Copy)]
struct Event<'a> {
    name: Option<&'a [u8]>,
    data: &'a [u8],
}

/// What an event brought.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    progress: Progress,
    failure: Failure,
}

#[derive(Clone, Copy, Debug, Default)]
enum Failure {
    #[default]
    None,
    /// The event is an error: what it stands for is for [`errors`] to say.
    Told,
    /// The dialect says what it stands for.
    Known(Outcome),
    /// The event is not of the dialect.
    Foreign,
}

// === impl StreamReader ===

impl StreamReader {
    /// A reader of events of `dialect`.
    #[must_use]
    pub fn new(dialect: Dialect, framing: Framing) -> Self {
        Self {
            scanner: match framing {
                Framing::Sse => Scanner::Sse(Sse::default()),
                Framing::Ndjson => Scanner::Ndjson(Ndjson::default()),
                Framing::JsonArray => Scanner::JsonArray(JsonArray::default()),
                Framing::EventStream => Scanner::EventStream(EventStream::default()),
            },
            state: State {
                dialect,
                provider: Provider::default(),
                headers: HeaderMap::new(),
                facts: Facts::default(),
                failed: None,
                closed: framing != Framing::JsonArray,
                stray: (Vec::new(), Extent::default()),
            },
        }
    }

    /// Names the provider, whose own error codes are then understood as well.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.state.provider = provider;
        self
    }

    /// Adds the headers of the response, whose retry hints hold for an error in the stream as well.
    #[must_use]
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.state.headers = headers;
        self
    }

    /// Says how many choices were asked for, if that is known
    /// ([`RequestFacts::choices`](crate::request::RequestFacts::choices)).
    ///
    /// Providers may give one choice after the other, so that a stream in which all choices so far
    /// are over may be cut before the next has begun. It is whole when as many as were asked for are
    /// over, or when it says itself that it is (`[DONE]`).
    ///
    /// By default it is not known, and what is believed then is this. OpenAI's chat completions and
    /// those of the [`Provider`]s that document `[DONE]` end with it. Others are known to leave it
    /// out, and next to nobody asks for more than one choice: there the end of the only choice is
    /// the end of the stream, but as soon as another is seen, only `[DONE]` is. Gemini has no such
    /// word: a stream is whole when every candidate that was begun is over.
    #[must_use]
    pub const fn choices(mut self, asked: Option<NonZeroU32>) -> Self {
        self.ask(asked);
        self
    }

    pub(crate) const fn ask(&mut self, choices: Option<NonZeroU32>) {
        self.state.facts.choices.asked = choices;
    }

    pub(crate) const fn dialect(&self) -> Dialect {
        self.state.dialect
    }

    pub(crate) const fn is_sse(&self) -> bool {
        matches!(self.scanner, Scanner::Sse(_))
    }

    /// Why the model stopped, once the stream has said so.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.state.facts.finish
    }

    /// How many tokens were used, as far as the stream has said so.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state.facts.usage
    }
}

impl ClassifyStream for StreamReader {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        let mut step = Step::default();
        let state = &mut self.state;
        if state.failed.is_some() {
            return step;
        }
        match &mut self.scanner {
            Scanner::Sse(scanner) => scanner.feed(chunk, |item| state.sse(item, &mut step)),
            Scanner::Ndjson(scanner) => scanner.feed(chunk, |item| state.line(item, &mut step)),
            Scanner::JsonArray(scanner) => {
                scanner.feed(chunk, |item| state.element(item, &mut step));
            }
            Scanner::EventStream(scanner) => {
                scanner.feed(chunk, |item| state.message(item, &mut step));
            }
        }
        step
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        let state = &mut self.state;
        if let (End::Clean(_), None) = (&end, state.failed) {
            let mut step = Step::default();
            match &mut self.scanner {
                Scanner::Sse(scanner) => scanner.finish(|item| state.sse(item, &mut step)),
                Scanner::Ndjson(scanner) => scanner.finish(|item| state.line(item, &mut step)),
                // Half of these is not anything.
                Scanner::JsonArray(_) | Scanner::EventStream(_) => {}
            }
        }
        if let Some(outcome) = state.failed {
            return outcome;
        }
        if state.facts.ended && state.closed {
            return Outcome::success();
        }
        match end {
            End::Clean(_) => Outcome::new(Kind::Malformed).with_evidence(
                match (state.facts.skipped, state.facts.content) {
                    (true, _) => "the stream ended after an event too large to be read",
                    (_, true) => "the stream ended without its proper end",
                    (_, false) => "the stream ended before any content",
                },
            ),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader")
            .field("dialect", &self.state.dialect)
            .field("scanner", &self.scanner)
            .field("facts", &self.state.facts)
            .field("failed", &self.state.failed)
            .finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    fn sse(&mut self, item: SseItem<'_>, step: &mut Step) {
        if self.failed.is_some() {
            return;
        }
        let event = match item {
            SseItem::Event(event) => Event {
                name: event.name,
                data: event.data,
            },
            SseItem::Comment(_) => return alive(step),
            SseItem::TooLong => return self.skip(step),
            // Old llama.cpp names the field `error`.
            SseItem::Field {
                name: b"error",
                value,
                ..
            } => Event {
                name: Some(b"error"),
                data: value,
            },
            SseItem::Field { line, .. } => return self.stray(line, step),
        };
        self.event(event, step);
    }

    /// A line that is no part of an event: of a page, or of the JSON of an error that a server wrote
    /// into its stream without a field.
    fn stray(&mut self, line: &[u8], step: &mut Step) {
        let first = line.trim_ascii_start().first();
        if !self.stray.1.has_begun() && first != Some(&b'{') {
            if !self.facts.spoken && first == Some(&b'<') {
                return self.fail(FOREIGN, step);
            }
            return alive(step);
        }
        alive(step);
        let (json, extent) = &mut self.stray;
        json.extend_from_slice(line);
        json.push(b'\n');
        let is_whole = extent.feed(line).is_some();
        if !is_whole && json.len() <= ERROR_LIMIT {
            return;
        }
        let (json, _) = std::mem::take(&mut self.stray);
        let event = Event {
            name: None,
            data: &json,
        };
        // Only an error is believed: whoever reads the stream sees no event here.
        match self.read(event).failure {
            Failure::Told => self.told(event, step),
            _ if !self.facts.spoken => self.fail(FOREIGN, step),
            _ => {}
        }
    }

    fn line(&mut self, item: NdjsonItem<'_>, step: &mut Step) {
        if self.failed.is_some() {
            return;
        }
        match item {
            NdjsonItem::Line(data) => self.event(Event { name: None, data }, step),
            NdjsonItem::TooLong => self.skip(step),
        }
    }

    fn element(&mut self, item: JsonArrayItem<'_>, step: &mut Step) {
        if self.failed.is_some() {
            return;
        }
        match item {
            JsonArrayItem::Element(data) => {
                let mut element = Step::default();
                self.event(Event { name: None, data }, &mut element);
                // Without its bracket the array is not JSON, whatever is in it.
                if element.progress == Progress::End {
                    element.progress = if self.facts.content {
                        Progress::Token
                    } else {
                        Progress::KeepAlive
                    };
                }
                step.progress = step.progress.max(element.progress);
                step.failed = element.failed;
            }
            JsonArrayItem::TooLong => self.skip(step),
            JsonArrayItem::End => {
                self.closed = true;
                alive(step);
                if self.facts.ended {
                    step.progress = Progress::End;
                }
            }
            JsonArrayItem::Broken => self.fail(FOREIGN, step),
        }
    }

    fn message(&mut self, item: EventStreamItem<'_>, step: &mut Step) {
        if self.failed.is_some() {
            return;
        }
        let message = match item {
            EventStreamItem::Message(message) => message,
            EventStreamItem::TooLong => return self.skip(step),
            EventStreamItem::Broken => {
                let outcome = Outcome::new(Kind::Malformed)
                    .with_evidence("an event-stream checksum that does not hold");
                return self.fail(outcome, step);
            }
        };
        // An exception is one of the API's, an error is the transport's and has no payload.
        let (name, payload) = match message.header(":message-type") {
            Some(b"exception") => (message.header(":exception-type"), message.payload()),
            Some(b"error") => (
                message.header(":error-code"),
                message.header(":error-message").unwrap_or_default(),
            ),
            _ => {
                let event = Event {
                    name: message.header(":event-type"),
                    data: message.payload(),
                };
                return self.event(event, step);
            }
        };
        let event = Event {
            name,
            data: payload,
        };
        self.told(event, step);
    }

    fn event(&mut self, event: Event<'_>, step: &mut Step) {
        let mark = self.read(event);
        step.progress = step.progress.max(mark.progress).max(Progress::KeepAlive);
        match mark.progress {
            Progress::None | Progress::KeepAlive => {}
            Progress::Token => self.facts.content = true,
            Progress::End => self.facts.ended = true,
        }
        match mark.failure {
            Failure::None => self.facts.spoken = true,
            Failure::Told => self.told(event, step),
            Failure::Known(outcome) => self.fail(outcome, step),
            // Once it has begun to answer, one bad event does not make the rest of it worthless:
            // whoever reads it may recover, and nobody else may take over.
            Failure::Foreign if self.facts.content => {}
            Failure::Foreign => self.fail(FOREIGN, step),
        }
    }

    fn read(&mut self, event: Event<'_>) -> Mark {
        if event.name == Some(b"error") {
            return Mark::ERROR;
        }
        let data = event.data.trim_ascii();
        if data.is_empty() || event.name.is_some_and(is_heartbeat) {
            return Mark::KEEP_ALIVE;
        }
        // Only chat completions have this end; with others it says nothing.
        if data == b"[DONE]" {
            return match self.dialect {
                Dialect::OpenAiChat => openai_chat::done(&self.facts),
                _ => Mark::KEEP_ALIVE,
            };
        }
        let Some(value) = Value::parse(data) else {
            return Mark::FOREIGN;
        };
        let facts = &mut self.facts;
        match self.dialect {
            Dialect::OpenAiChat => openai_chat::read(value, self.provider, facts),
            Dialect::OpenAiResponses => openai_responses::read(value, facts),
            Dialect::Anthropic => anthropic::read(value, facts),
            Dialect::Gemini => gemini::read(value, facts),
            Dialect::Cohere => cohere::read(value, facts),
            Dialect::Ollama => ollama::read(value, facts),
            Dialect::BedrockConverse => bedrock::read(event.name, value, facts),
        }
    }

    /// The event says of itself that it is an error.
    fn told(&mut self, event: Event<'_>, step: &mut Step) {
        let name = event.name.and_then(|name| std::str::from_utf8(name).ok());
        let payload = match self.dialect {
            Dialect::Cohere => cohere::error(event.data),
            _ => event.data,
        };
        let outcome = errors::classify_stream_error(self.provider, &self.headers, name, payload);
        self.fail(outcome, step);
    }

    fn skip(&mut self, step: &mut Step) {
        self.facts.skipped = true;
        alive(step);
    }

    fn fail(&mut self, outcome: Outcome, step: &mut Step) {
        self.failed = Some(outcome);
        step.failed = Some(outcome);
    }
}

fn alive(step: &mut Step) {
    step.progress = step.progress.max(Progress::KeepAlive);
}

const FOREIGN: Outcome =
    Outcome::new(Kind::Malformed).with_evidence("an event that is not of the dialect");

/// Events that gateways send to keep a connection open, whatever the dialect.
fn is_heartbeat(name: &[u8]) -> bool {
    matches!(
        name,
        b"ping" | b"heartbeat" | b"keepalive" | b"keep-alive" | b"keep_alive"
    )
}

// === impl Facts ===

impl Facts {
    /// The choice `index` was seen, and perhaps it is over.
    fn choice(&mut self, index: u64, is_over: bool) {
        let choices = &mut self.choices;
        let bit = u32::try_from(index)
            .ok()
            .and_then(|index| 1u128.checked_shl(index));
        choices.beyond |= bit.is_none();
        choices.begun |= bit.unwrap_or_default();
        if is_over {
            choices.over |= bit.unwrap_or_default();
        }
        // What looked like the end was that of another choice.
        self.ended &= choices.begun == choices.over;
    }

    /// The model has stopped for `reason`.
    fn finish(&mut self, reason: FinishReason) {
        self.finish.get_or_insert(reason);
    }

    /// What the end stands for, when it is not a success.
    ///
    /// `silence` says whether an answer without any content is none, in this dialect.
    fn verdict(&self, content: bool, silence: Silence) -> Failure {
        let content = content || self.content;
        let outcome = match self.finish {
            Some(FinishReason::Error) => {
                Outcome::new(Kind::Unavailable).with_evidence("finish reason: error")
            }
            Some(FinishReason::Overloaded) => {
                Outcome::new(Kind::Overloaded).with_evidence("finish reason: no capacity")
            }
            Some(FinishReason::TimedOut) => {
                Outcome::new(Kind::TimedOut(Phase::Total)).with_evidence("finish reason: timeout")
            }
            Some(FinishReason::BadGeneration) => Outcome::new(Kind::Malformed)
                .with_scope(backstop_core::Scope::Model)
                .with_evidence("finish reason: generation not usable"),
            Some(FinishReason::ContentFilter) if !content => {
                Outcome::new(Kind::ContentFiltered).with_evidence("finish reason: content filter")
            }
            Some(FinishReason::ContextWindow) if !content => {
                Outcome::new(Kind::ContextTooLong).with_evidence("finish reason: context window")
            }
            Some(FinishReason::Stop | FinishReason::ToolCalls | FinishReason::Other) | None
                if !content && matches!(silence, Silence::IsNoAnswer) =>
            {
                Outcome::new(Kind::Malformed).with_evidence("the stream ended before any content")
            }
            _ => return Failure::None,
        };
        Failure::Known(outcome)
    }
}

// === impl Choices ===

impl Choices {
    /// Whether every choice is over, `unasked` being the answer for as many as there are when it is
    /// not known how many there must be.
    fn are_over(&self, unasked: impl FnOnce(&Self) -> bool) -> bool {
        !self.beyond
            && self.begun == self.over
            && match self.asked {
                Some(asked) => self.over.count_ones() >= asked.get(),
                None => unasked(self),
            }
    }

    /// Whether there is but the first.
    const fn is_one(&self) -> bool {
        self.begun == 1
    }
}

/// What it means that a model stopped by itself and said nothing.
#[derive(Clone, Copy)]
enum Silence {
    /// The dialect documents it.
    IsAnAnswer,
    /// A broken server.
    IsNoAnswer,
}

impl Usage {
    /// Takes over what `input` and `output` of a usage object say; a later word replaces an earlier.
    fn read(&mut self, usage: Value<'_>, input: &[u8], output: &[u8]) {
        for (key, value) in usage.members() {
            if key == input {
                self.input_tokens = value.number().or(self.input_tokens);
            } else if key == output {
                self.output_tokens = value.number().or(self.output_tokens);
            }
        }
    }
}

// === impl Mark ===

impl Mark {
    const KEEP_ALIVE: Self = Self::progress(Progress::KeepAlive);
    const ERROR: Self = Self::KEEP_ALIVE.with(Failure::Told);
    const FOREIGN: Self = Self::KEEP_ALIVE.with(Failure::Foreign);

    const fn progress(progress: Progress) -> Self {
        Self {
            progress,
            failure: Failure::None,
        }
    }

    const fn with(mut self, failure: Failure) -> Self {
        self.failure = failure;
        self
    }

    /// The dialect's end, unless `failure` says that it is none.
    fn end(content: bool, failure: Failure) -> Self {
        let progress = match failure {
            Failure::None => Progress::End,
            _ if content => Progress::Token,
            _ => Progress::KeepAlive,
        };
        Self::progress(progress).with(failure)
    }

    fn content(content: bool) -> Self {
        Self::progress(if content {
            Progress::Token
        } else {
            Progress::KeepAlive
        })
    }
}
