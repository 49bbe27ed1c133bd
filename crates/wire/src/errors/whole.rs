//! Whole answers under a success status: are they answers at all?

use backstop_core::{Kind, Outcome, Phase};

use super::Answer;
use crate::json::Value;

/// What a whole answer under a success status is.
#[derive(Debug)]
pub(super) enum Judgement {
    Done(Outcome),
    /// It carries an error: the envelope tells which.
    Error,
}

/// Looks over the whole answer without keeping any of it.
pub(super) fn judge(answer: &Answer<'_>) -> Judgement {
    let content_type = answer
        .headers
        .get(http::header::CONTENT_TYPE)
        .map_or(&b""[..], http::HeaderValue::as_bytes);
    let body = answer.body;
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = text.trim_ascii();
    if text.is_empty() {
        return Judgement::Done(if body.is_empty() {
            malformed("an empty body")
        } else {
            // Blank lines keep a waiting connection open; the answer never came
            // (https://api-docs.deepseek.com/quick_start/rate_limit).
            Outcome::timed_out(Phase::FirstToken).with_evidence("only keep-alive blank lines")
        });
    }
    if is_page(text) {
        return Judgement::Done(malformed("a page where an answer should be"));
    }
    let is_json = content_type.is_empty() || memchr::memmem::find(content_type, b"json").is_some();
    if !is_json && !matches!(text.first(), Some(b'{' | b'[')) {
        // Speech, pictures, plain transcripts.
        return Judgement::Done(Outcome::success().with_evidence("a whole body"));
    }
    let Some(value) = Value::parse(text) else {
        return Judgement::Done(malformed("JSON that is broken or cut short"));
    };
    let mut look = Look::default();
    if value.is_array() {
        // Gemini's stream as one array, whose last element may be an error; a list of results.
        for element in value.elements() {
            look.object(element);
        }
    } else {
        look.object(value);
    }
    look.judge(value)
}

const fn malformed(evidence: &'static str) -> Outcome {
    Outcome::new(Kind::Malformed).with_evidence(evidence)
}

/// Whether a text is HTML.
pub(super) fn is_page(text: &[u8]) -> bool {
    [&b"<!doctype"[..], b"<html", b"<head"]
        .iter()
        .any(|start| text.len() >= start.len() && text[..start.len()].eq_ignore_ascii_case(start))
}

/// What matters of an answer's outermost values.
#[derive(Debug, Default)]
struct Look {
    /// An error is there and says something.
    error: bool,
    /// It has a key under which answers stand.
    answer: bool,
    /// It has a key under which errors stand where there is no answer.
    complaint: bool,
    /// It has a list of choices.
    choices: bool,
    /// One of the choices is there.
    chosen: bool,
    /// One of the choices has content.
    content: bool,
    /// The prompt was refused.
    blocked: bool,
    /// It says that more will follow.
    unfinished: bool,
    /// It has the key under which Gemini counts the tokens of an answer.
    counted: bool,
    finish: Option<Finish>,
}

/// Why a model stopped, as far as it tells a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finish {
    /// By itself: without content, that is no answer.
    Stop,
    Error,
    Capacity,
    Filter,
    Window,
    Nonsense,
}

// === impl Look ===

impl Look {
    fn object(&mut self, value: Value<'_>) {
        for (key, value) in value.members() {
            match key {
                b"error" => self.error |= !value.is_empty(),
                // Cloudflare, and others.
                b"success" => self.error |= value.is_false(),
                b"type" | b"object" => self.error |= value.text() == Some(b"error"),
                // `failed` is OpenAI's, for Responses.
                b"status" => {
                    self.error |= matches!(value.text(), Some(b"failed" | b"error"));
                }
                // MiniMax.
                b"base_resp" => {
                    let code = value.get("status_code");
                    self.error |= code.is_some_and(|code| code.number() != Some(0));
                }
                b"choices" | b"candidates" => {
                    self.answer = true;
                    self.choices = true;
                    for choice in value.elements() {
                        self.choice(choice);
                    }
                }
                b"usageMetadata" => self.counted = true,
                // Ollama: a line of a stream, where the whole was asked for.
                b"done" => self.unfinished |= value.is_false(),
                // Gemini.
                b"promptFeedback" => {
                    let reason = value.get("blockReason");
                    self.blocked |= reason.is_some_and(|reason| !reason.is_empty());
                }
                // Cohere.
                b"finish_reason" => self.finish(value),
                b"detail" => self.complaint |= !value.is_empty(),
                // Baidu's Qianfan, and others that answer 200 to everything.
                b"error_code" | b"error_msg" | b"error_message" => {
                    self.complaint |= !value.is_empty() && value.number() != Some(0);
                }
                b"message" if value.text().is_some() => self.complaint = true,
                b"content" | b"output" | b"message" | b"response" | b"data" | b"result"
                | b"results" | b"embedding" | b"embeddings" | b"generated_text" | b"text"
                | b"outputs" | b"predictions" | b"generations" => self.answer = true,
                _ => {}
            }
        }
    }

    fn choice(&mut self, choice: Value<'_>) {
        self.chosen = true;
        for (key, value) in choice.members() {
            match key {
                // OpenRouter.
                b"error" => self.error |= !value.is_empty(),
                b"finish_reason" | b"finishReason" => self.finish(value),
                b"message" | b"delta" => {
                    self.content |= value
                        .members()
                        .any(|(key, value)| key != b"role" && !value.is_empty());
                }
                // Gemini.
                b"content" => {
                    let parts = value.get("parts");
                    self.content |= parts.is_some_and(|parts| !parts.is_empty());
                }
                // Legacy completions.
                b"text" => self.content |= value.is_text(),
                _ => {}
            }
        }
    }

    fn finish(&mut self, reason: Value<'_>) {
        let finish = match reason.text() {
            Some(b"stop" | b"STOP") => Finish::Stop,
            // OpenRouter and Mistral; Z.AI; Cohere.
            Some(b"error" | b"network_error" | b"ERROR") => Finish::Error,
            // DeepSeek.
            Some(b"insufficient_system_resource") => Finish::Capacity,
            // OpenAI; Z.AI; Cohere; Gemini.
            Some(
                b"content_filter"
                | b"sensitive"
                | b"ERROR_TOXIC"
                | b"SAFETY"
                | b"RECITATION"
                | b"BLOCKLIST"
                | b"PROHIBITED_CONTENT"
                | b"SPII"
                | b"IMAGE_SAFETY",
            ) => Finish::Filter,
            // Z.AI; Cohere.
            Some(b"model_context_window_exceeded" | b"ERROR_LIMIT") => Finish::Window,
            // Gemini.
            Some(b"MALFORMED_FUNCTION_CALL" | b"UNEXPECTED_TOOL_CALL") => Finish::Nonsense,
            _ => return,
        };
        self.finish.get_or_insert(finish);
    }

    fn judge(self, value: Value<'_>) -> Judgement {
        if self.error || (self.complaint && !self.answer) {
            return Judgement::Error;
        }
        let outcome =
            match self.finish {
                Some(Finish::Error) => {
                    Outcome::new(Kind::Unavailable).with_evidence("finish reason: error")
                }
                Some(Finish::Capacity) => {
                    Outcome::new(Kind::Overloaded).with_evidence("finish reason: no capacity")
                }
                Some(Finish::Nonsense) => malformed("finish reason: generation not usable"),
                Some(Finish::Filter) if !self.content => Outcome::new(Kind::ContentFiltered)
                    .with_evidence("finish reason: content filter"),
                Some(Finish::Window) if !self.content => Outcome::new(Kind::ContextTooLong)
                    .with_evidence("finish reason: context window"),
                _ if self.blocked && !self.chosen => {
                    Outcome::new(Kind::ContentFiltered).with_evidence("promptFeedback.blockReason")
                }
                _ if self.unfinished => malformed("an answer that is not over"),
                Some(Finish::Stop) if self.choices && !self.content => {
                    malformed("an answer without content")
                }
                _ if (self.choices && !self.chosen) || (self.counted && !self.answer) => {
                    malformed("an answer without choices")
                }
                _ if !value.is_object() && !value.is_array() => malformed("JSON without an answer"),
                _ if value.is_object() && value.is_empty() => malformed("an empty object"),
                _ => Outcome::success().with_evidence("a whole answer"),
            };
        Judgement::Done(outcome)
    }
}
