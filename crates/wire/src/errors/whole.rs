//! Whole answers under a success status: are they answers at all?

use std::fmt;

use backstop_core::{Kind, Outcome, Phase};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Answer;

/// What a whole answer under a success status is.
#[derive(Debug)]
pub(super) enum Judgement {
    Done(Outcome),
    /// It carries an error: the envelope tells which.
    Error,
}

/// Looks over the whole answer without keeping any of it.
pub(super) fn judge(answer: &Answer<'_>) -> Judgement {
    let body = answer
        .body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(answer.body);
    let content_type = answer
        .headers
        .get(http::header::CONTENT_TYPE)
        .map_or(&b""[..], http::HeaderValue::as_bytes);
    let trimmed = body.trim_ascii();
    if trimmed.is_empty() {
        return Judgement::Done(if matches!(answer.status.as_u16(), 204 | 205) {
            Outcome::success().with_evidence("status without content")
        } else if body.is_empty() {
            malformed("empty body")
        } else {
            // Blank lines keep a waiting connection open; the answer never came (DeepSeek, "Rate
            // limit": blank lines are sent while a request waits for inference).
            Outcome::timed_out(Phase::FirstToken).with_evidence("only keep-alive blank lines")
        });
    }
    if trimmed.starts_with(b"<") && starts_like_html(trimmed) {
        return Judgement::Done(malformed("a page where an answer should be"));
    }
    let is_json = memchr::memmem::find(content_type, b"json").is_some();
    if !is_json && !content_type.is_empty() && !matches!(trimmed.first(), Some(b'{' | b'[')) {
        // Speech, pictures, plain transcripts.
        return Judgement::Done(Outcome::success().with_evidence("whole body"));
    }
    match serde_json::from_slice::<Look>(trimmed) {
        Ok(look) => look.judge(),
        Err(_) => Judgement::Done(malformed("JSON that is broken or cut short")),
    }
}

fn malformed(evidence: &'static str) -> Outcome {
    Outcome::new(Kind::Malformed).with_evidence(evidence)
}

fn starts_like_html(text: &[u8]) -> bool {
    let starts =
        |with: &[u8]| text.len() >= with.len() && text[..with.len()].eq_ignore_ascii_case(with);
    starts(b"<!doctype") || starts(b"<html") || starts(b"<head")
}

/// What matters of an answer's outermost values.
#[derive(Debug, Default)]
struct Look {
    /// An object, or an array of some.
    structured: bool,
    empty: bool,
    /// `error`, or an equivalent, is there and is not null.
    error: bool,
    success_false: bool,
    failed: bool,
    choices: Count,
    candidates: Count,
    blocked: bool,
    refused: Option<Finish>,
}

/// How many there are of something that an answer needs one of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Count {
    #[default]
    Absent,
    None,
    Some,
}

/// An end of a whole answer that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    Error,
    Capacity,
    Filtered,
    Window,
}

impl Look {
    fn judge(self) -> Judgement {
        let done = Judgement::Done;
        if !self.structured || self.empty {
            return done(malformed("JSON without an answer"));
        }
        if self.error || self.failed || self.success_false {
            return Judgement::Error;
        }
        if self.blocked && self.candidates != Count::Some {
            return done(
                Outcome::new(Kind::ContentFiltered).with_evidence("promptFeedback.blockReason"),
            );
        }
        match self.refused {
            Some(Finish::Error) => {
                return done(Outcome::new(Kind::Unavailable).with_evidence("finish reason error"));
            }
            Some(Finish::Capacity) => {
                return done(
                    Outcome::new(Kind::Overloaded)
                        .with_evidence("finish reason insufficient_system_resource"),
                );
            }
            Some(Finish::Filtered) => {
                return done(
                    Outcome::new(Kind::ContentFiltered).with_evidence("finish reason of a filter"),
                );
            }
            Some(Finish::Window) => {
                return done(
                    Outcome::new(Kind::ContextTooLong)
                        .with_evidence("finish reason model_context_window_exceeded"),
                );
            }
            None => {}
        }
        if self.choices == Count::None || self.candidates == Count::None {
            return done(malformed("an answer without choices"));
        }
        done(Outcome::success().with_evidence("whole answer"))
    }
}

impl<'de> Deserialize<'de> for Look {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LookVisitor)
    }
}

struct LookVisitor;

/// Declares visits that give a fixed value for what a scalar is.
macro_rules! scalars {
    ($value:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

impl<'de> Visitor<'de> for LookVisitor {
    type Value = Look;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars!(Look::default());

    fn visit_str<E>(self, _: &str) -> Result<Look, E> {
        Ok(Look::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Look, A::Error> {
        // Gemini's stream as one array: the last element may be the error.
        let mut all = Look {
            structured: true,
            ..Look::default()
        };
        while let Some(one) = seq.next_element::<Look>()? {
            all.error |= one.error;
            all.failed |= one.failed;
            all.blocked |= one.blocked;
            all.refused = all.refused.or(one.refused);
            if all.candidates != Count::Some {
                all.candidates = one.candidates;
            }
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Look, A::Error> {
        let mut look = Look {
            structured: true,
            empty: true,
            ..Look::default()
        };
        while let Some(key) = map.next_key::<Key>()? {
            look.empty = false;
            match key {
                Key::Error => look.error |= map.next_value::<Truth>()?.present,
                Key::Success => {
                    look.success_false |= map.next_value::<Truth>()? == Truth::FALSE;
                }
                Key::Type => {
                    look.error |= map.next_value::<Word>()?.0 == Known::Error;
                }
                Key::Status => {
                    look.failed |= map.next_value::<Word>()?.0 == Known::Failed;
                }
                Key::BaseResp => {
                    look.error |= map.next_value::<BaseResp>()?.0;
                }
                Key::Choices => {
                    let choices = map.next_value::<Choices>()?;
                    look.choices = choices.count;
                    look.error |= choices.error;
                    look.refused = look.refused.or(choices.refused);
                }
                Key::Candidates => {
                    let candidates = map.next_value::<Choices>()?;
                    look.candidates = candidates.count;
                }
                Key::PromptFeedback => {
                    look.blocked |= map.next_value::<Feedback>()?.0;
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if look.candidates == Count::None && look.blocked {
            look.candidates = Count::Absent;
        }
        Ok(look)
    }
}

/// The keys that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Error,
    Success,
    Type,
    Status,
    BaseResp,
    Choices,
    Candidates,
    PromptFeedback,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "error" => Key::Error,
                    "success" => Key::Success,
                    "type" | "object" => Key::Type,
                    "status" => Key::Status,
                    "base_resp" => Key::BaseResp,
                    "choices" => Key::Choices,
                    "candidates" => Key::Candidates,
                    "promptFeedback" => Key::PromptFeedback,
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_identifier(KeyVisitor)
    }
}

/// Whether a value is there and says something, and whether it is `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Truth {
    present: bool,
    is_false: bool,
}

impl Truth {
    const ABSENT: Self = Self {
        present: false,
        is_false: false,
    };
    const FALSE: Self = Self {
        present: false,
        is_false: true,
    };
    const PRESENT: Self = Self {
        present: true,
        is_false: false,
    };
}

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TruthVisitor;
        impl<'de> Visitor<'de> for TruthVisitor {
            type Value = Truth;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Truth, E> {
                Ok(if value { Truth::PRESENT } else { Truth::FALSE })
            }
            fn visit_unit<E>(self) -> Result<Truth, E> {
                Ok(Truth::ABSENT)
            }
            fn visit_u64<E>(self, value: u64) -> Result<Truth, E> {
                Ok(if value == 0 {
                    Truth::ABSENT
                } else {
                    Truth::PRESENT
                })
            }
            fn visit_i64<E>(self, _: i64) -> Result<Truth, E> {
                Ok(Truth::PRESENT)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Truth, E> {
                Ok(Truth::PRESENT)
            }
            fn visit_str<E>(self, text: &str) -> Result<Truth, E> {
                Ok(if text.is_empty() {
                    Truth::ABSENT
                } else {
                    Truth::PRESENT
                })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Truth, A::Error> {
                let mut truth = Truth::ABSENT;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    truth = Truth::PRESENT;
                }
                Ok(truth)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Truth, A::Error> {
                let mut truth = Truth::ABSENT;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    truth = Truth::PRESENT;
                }
                Ok(truth)
            }
        }
        deserializer.deserialize_any(TruthVisitor)
    }
}

/// A word that means something where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Error,
    Failed,
    Finish(Finish),
    Other,
}

#[derive(Debug)]
struct Word(Known);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor;
        impl<'de> Visitor<'de> for WordVisitor {
            type Value = Word;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            scalars!(Word(Known::Other));
            fn visit_str<E>(self, word: &str) -> Result<Word, E> {
                Ok(Word(match word {
                    "error" => Known::Error,
                    "failed" => Known::Failed,
                    "insufficient_system_resource" => Known::Finish(Finish::Capacity),
                    "content_filter" | "sensitive" => Known::Finish(Finish::Filtered),
                    "model_context_window_exceeded" => Known::Finish(Finish::Window),
                    _ => Known::Other,
                }))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Word(Known::Other))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Word(Known::Other))
            }
        }
        deserializer.deserialize_any(WordVisitor)
    }
}

/// MiniMax's `base_resp`: an error when its `status_code` is not 0.
#[derive(Debug)]
struct BaseResp(bool);

impl<'de> Deserialize<'de> for BaseResp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Inner {
            #[serde(default)]
            status_code: i64,
        }
        let inner = Option::<Inner>::deserialize(deserializer)?;
        Ok(Self(inner.is_some_and(|inner| inner.status_code != 0)))
    }
}

/// Gemini's `promptFeedback`: blocked when it has a `blockReason`.
#[derive(Debug)]
struct Feedback(bool);

impl<'de> Deserialize<'de> for Feedback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Inner {
            #[serde(rename = "blockReason")]
            reason: Option<IgnoredAny>,
        }
        let inner = Option::<Inner>::deserialize(deserializer)?;
        Ok(Self(inner.is_some_and(|inner| inner.reason.is_some())))
    }
}

/// `choices` or `candidates`.
#[derive(Debug, Default)]
struct Choices {
    count: Count,
    error: bool,
    refused: Option<Finish>,
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoicesVisitor;
        impl<'de> Visitor<'de> for ChoicesVisitor {
            type Value = Choices;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            scalars!(Choices {
                count: Count::None,
                ..Choices::default()
            });
            fn visit_str<E>(self, _: &str) -> Result<Choices, E> {
                Ok(Choices::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Choices, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Choices::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Choices, A::Error> {
                let mut choices = Choices {
                    count: Count::None,
                    ..Choices::default()
                };
                while let Some(choice) = seq.next_element::<Choice>()? {
                    choices.count = Count::Some;
                    choices.error |= choice.error;
                    choices.refused = choices.refused.or(choice.refused);
                }
                Ok(choices)
            }
        }
        deserializer.deserialize_any(ChoicesVisitor)
    }
}

#[derive(Debug, Default)]
struct Choice {
    error: bool,
    refused: Option<Finish>,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Inner {
            error: Option<Truth>,
            finish_reason: Option<Word>,
        }
        let inner = Inner::deserialize(deserializer)?;
        Ok(Self {
            error: inner.error.is_some_and(|error| error.present),
            refused: match inner.finish_reason {
                Some(Word(Known::Finish(finish))) => Some(finish),
                Some(Word(Known::Error)) => Some(Finish::Error),
                _ => None,
            },
        })
    }
}
