//! Gemini `streamGenerateContent`, also on Vertex AI and behind Cloud Code, which wraps each event
//! in `response`.
//!
//! Source: <https://ai.google.dev/api/generate-content>. There is no sentinel at the end: the last
//! event has a finish reason.

use backstop_core::{Kind, Outcome};

use super::{Facts, Failure, FinishReason, Mark, Silence};
use crate::json::Value;

pub(super) fn read(event: Value<'_>, facts: &mut Facts) -> Mark {
    // Vertex wraps errors in an array, also inside an event.
    if let Some(first) = event.elements().next() {
        return read(first, facts);
    }
    if !event.is_object() {
        return Mark::FOREIGN;
    }
    let mut content = false;
    let mut finished = false;
    let mut blocked = false;
    let mut has_candidates = false;
    for (key, value) in event.members() {
        match key {
            b"error" if !value.is_empty() => return Mark::content(content).with(Failure::Told),
            b"response" if value.is_object() => return read(value, facts),
            b"candidates" => {
                for (position, candidate) in value.elements().enumerate() {
                    has_candidates = true;
                    let position = u64::try_from(position).unwrap_or_default();
                    let (has_content, is_over) = read_candidate(candidate, position, facts);
                    content |= has_content;
                    finished |= is_over;
                }
            }
            b"promptFeedback" => {
                blocked |= value.get("blockReason").is_some_and(Value::is_text);
            }
            b"usageMetadata" => {
                facts
                    .usage
                    .read(value, b"promptTokenCount", b"candidatesTokenCount");
            }
            _ => {}
        }
    }
    if blocked && !has_candidates {
        return Mark::KEEP_ALIVE.with(Failure::Known(
            Outcome::new(Kind::ContentFiltered).with_evidence("promptFeedback.blockReason"),
        ));
    }
    if finished && facts.choices.are_over(|_| true) {
        // Gemini's own command line client asks again when it stops without a part.
        return Mark::end(content, facts.verdict(content, Silence::IsNoAnswer));
    }
    Mark::content(content)
}

/// Whether a candidate brings content, and whether it is over.
fn read_candidate(candidate: Value<'_>, position: u64, facts: &mut Facts) -> (bool, bool) {
    let mut index = position;
    let mut content = false;
    let mut finished = false;
    for (key, value) in candidate.members() {
        match key {
            b"index" => index = value.number().unwrap_or(position),
            b"content" => {
                let parts = value.get("parts");
                content |= parts.into_iter().flat_map(Value::elements).any(has_content);
            }
            b"finishReason" => {
                if let Some(reason) = value.text()
                    && reason != b"FINISH_REASON_UNSPECIFIED"
                {
                    finished = true;
                    facts.finish(finish_reason(reason));
                }
            }
            _ => {}
        }
    }
    facts.choice(index, finished);
    (content, finished)
}

/// Thoughts are text parts too.
fn has_content(part: Value<'_>) -> bool {
    part.members().any(|(key, value)| match key {
        b"text" => value.is_text(),
        b"functionCall"
        | b"inlineData"
        | b"fileData"
        | b"executableCode"
        | b"codeExecutionResult" => !value.is_empty(),
        _ => false,
    })
}

fn finish_reason(reason: &[u8]) -> FinishReason {
    match reason {
        b"STOP" => FinishReason::Stop,
        b"MAX_TOKENS" => FinishReason::Length,
        b"SAFETY"
        | b"RECITATION"
        | b"BLOCKLIST"
        | b"PROHIBITED_CONTENT"
        | b"SPII"
        | b"IMAGE_SAFETY"
        | b"IMAGE_PROHIBITED_CONTENT"
        | b"IMAGE_RECITATION" => FinishReason::ContentFilter,
        b"MALFORMED_FUNCTION_CALL" | b"UNEXPECTED_TOOL_CALL" => FinishReason::BadGeneration,
        _ => FinishReason::Other,
    }
}
