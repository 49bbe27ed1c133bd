//! Whole answers under a success status that are of no use, for who asks for it.
//!
//! What is bad is not for this crate to say: an empty completion may be what the model means, and a
//! cut one what the caller's token limit asks for. So nothing is judged by default, and an answer is
//! parsed only if something is.

mod anthropic;
mod openai;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use backstop_core::{Kind, Outcome, Scope};
use serde_json::{Map, Value};

use crate::{
    AnswerReader, Dialect, FinishReason,
    scan::{Sse, SseItem},
};

/// Which answers are bad although their status is good. None by default.
///
/// Judged are answers of OpenAI chat completions and Anthropic Messages, whole JSON and whole
/// streams alike; of others nothing is known. Of several choices each must be good, since the caller
/// asked for them all.
///
/// ```
/// use backstop_core::{ClassifyStream, Kind};
/// use backstop_wire::{BadAnswers, ClassifyHttp, Dialect};
///
/// let bad = BadAnswers::default().empty().truncated();
/// let classify = ClassifyHttp::new(Dialect::OpenAiChat);
/// let mut reader = classify.reader(http::StatusCode::OK, &http::HeaderMap::new());
/// let answer = br#"{"choices":[{"message":{"content":"To be or"},"finish_reason":"length"}]}"#;
/// reader.on_data(answer);
/// let outcome = bad.judge(&reader, answer).expect("cut short");
/// assert_eq!(outcome.kind(), Kind::Malformed);
/// assert_eq!(outcome.evidence(), "bad answer: truncated");
/// assert_eq!(BadAnswers::default().judge(&reader, answer), None);
/// ```
///
/// [`judge`](Self::judge) is what the closure of failover's `Judged` is to return:
/// `Judged::new(classify, move |reader: &AnswerReader, answer: &[u8]| bad.judge(reader, answer))`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of rules, each of which holds or does not"
)]
pub struct BadAnswers {
    empty: bool,
    malformed_tool_call: bool,
    refusal: bool,
    truncated: bool,
}

/// What one choice of an answer said, put together from its parts.
#[derive(Debug, Default)]
struct Said {
    /// A text that is not blank, or anything else that a caller can use but a tool call.
    content: bool,
    /// A text in the place for refusals.
    refusal: bool,
    finish: Option<FinishReason>,
    calls: BTreeMap<u64, Call>,
}

/// A tool call.
#[derive(Debug, Default)]
struct Call {
    name: String,
    /// JSON text, as far as it came as text.
    arguments: String,
    /// It is not of the form that the dialect demands.
    broken: bool,
    /// Its input is free text.
    custom: bool,
}

/// What all choices said, by their index.
type Choices = BTreeMap<u64, Said>;

// === impl BadAnswers ===

impl BadAnswers {
    /// No text but blanks and no tool call is bad, even with reasoning before it.
    ///
    /// [`Kind::Malformed`], counted against the model. A refusal without a text is none of these.
    /// Anthropic's models may end their turn with nothing to add after the result of a tool; who
    /// relies on that must not ask for this.
    #[must_use]
    pub const fn empty(mut self) -> Self {
        self.empty = true;
        self
    }

    /// A tool call without a name or with arguments that are no JSON object is bad, and so is an
    /// answer that ends in order to call a tool and names none.
    ///
    /// [`Kind::Malformed`], counted against the model. Arguments that were left blank pass: some
    /// servers write them so when there are none. What the tool's schema says is not checked.
    #[must_use]
    pub const fn malformed_tool_call(mut self) -> Self {
        self.malformed_tool_call = true;
        self
    }

    /// An answer that is a refusal is bad: by its finish reason (`refusal`, `content_filter`) or by
    /// OpenAI's `refusal` text.
    ///
    /// [`Kind::ContentFiltered`], the same as a refusal by an error status, and counted against
    /// nobody. So failover offers the request to targets that take refused content, and if none does
    /// better the caller is given the refusal itself.
    #[must_use]
    pub const fn refusal(mut self) -> Self {
        self.refusal = true;
        self
    }

    /// An answer that was cut at the token limit or at the end of the context window is bad.
    ///
    /// [`Kind::Malformed`], counted against nobody, since the limit may be the caller's, and not
    /// worth asking the same target again.
    #[must_use]
    pub const fn truncated(mut self) -> Self {
        self.truncated = true;
        self
    }

    /// Whether nothing is bad, so that there is no need to ask.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The outcome of an answer that is bad.
    ///
    /// `reader` has read exactly `answer` and found it to be whole. An answer that cannot be read,
    /// such as a compressed one, is not judged.
    #[must_use]
    pub fn judge(&self, reader: &AnswerReader, answer: &[u8]) -> Option<Outcome> {
        if self.is_none() {
            return None;
        }
        let (dialect, is_stream) = reader.form()?;
        let mut choices = Choices::new();
        let add = match dialect {
            Dialect::OpenAiChat => openai::add,
            Dialect::Anthropic => anthropic::add,
            _ => return None,
        };
        if is_stream {
            for event in events(answer) {
                add(&mut choices, &event);
            }
        } else {
            let answer = answer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(answer);
            add(&mut choices, &serde_json::from_slice(answer).ok()?);
        }
        choices.values().find_map(|said| self.rule(said))
    }

    /// The first rule that a choice breaks.
    fn rule(&self, said: &Said) -> Option<Outcome> {
        // To ask somebody else after a refusal is only right where that is asked for, so no other
        // rule applies.
        if said.is_refusal() {
            return self.refusal.then_some(
                Outcome::new(Kind::ContentFiltered).with_evidence("bad answer: refusal"),
            );
        }
        let malformed = Outcome::new(Kind::Malformed);
        if self.truncated && said.is_truncated() {
            let outcome = malformed.with_scope(Scope::Request).with_repeat(false);
            return Some(outcome.with_evidence("bad answer: truncated"));
        }
        if self.malformed_tool_call && said.has_malformed_call() {
            let outcome = malformed.with_scope(Scope::Model);
            return Some(outcome.with_evidence("bad answer: malformed tool call"));
        }
        if self.empty && !said.content && said.calls.is_empty() {
            let outcome = malformed.with_scope(Scope::Model);
            return Some(outcome.with_evidence("bad answer: empty"));
        }
        None
    }
}

// === impl Said ===

impl Said {
    const fn is_refusal(&self) -> bool {
        self.refusal
            || matches!(
                self.finish,
                Some(FinishReason::Refusal | FinishReason::ContentFilter)
            )
    }

    const fn is_truncated(&self) -> bool {
        matches!(
            self.finish,
            Some(FinishReason::Length | FinishReason::ContextWindow)
        )
    }

    fn has_malformed_call(&self) -> bool {
        let missing = self.finish == Some(FinishReason::ToolCalls) && self.calls.is_empty();
        missing || self.calls.values().any(Call::is_malformed)
    }
}

// === impl Call ===

impl Call {
    fn is_malformed(&self) -> bool {
        if self.custom {
            return false;
        }
        let arguments = self.arguments.trim();
        let is_object = || {
            arguments.is_empty() || serde_json::from_str::<Map<String, Value>>(arguments).is_ok()
        };
        self.broken || self.name.is_empty() || !is_object()
    }
}

/// The events of a stream that are JSON. The last may be cut, since what follows the end of an
/// answer is not waited for.
fn events(stream: &[u8]) -> Vec<Value> {
    let mut events = Vec::new();
    let mut scanner = Sse::default();
    let mut each = |item: SseItem<'_>| {
        if let SseItem::Event(event) = item
            && let Ok(value) = serde_json::from_slice(event.data)
        {
            events.push(value);
        }
    };
    scanner.feed(stream, &mut each);
    scanner.finish(&mut each);
    events
}

/// Whether a value is a text with more than blanks in it.
fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

/// Whether a value has something in it.
fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}
