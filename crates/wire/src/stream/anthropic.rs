//! Anthropic Messages.
//!
//! Source: <https://docs.anthropic.com/en/api/messages-streaming>. New event and block types may
//! appear at any time, by that document, and must be passed over.

use super::{Facts, FinishReason, Mark, Silence};
use crate::json::Value;

pub(super) fn read(event: Value<'_>, facts: &mut Facts) -> Mark {
    if !event.is_object() {
        return Mark::FOREIGN;
    }
    let field = |name| event.get(name);
    let kind = field("type").and_then(Value::text);
    match kind {
        Some(b"content_block_delta") => {
            Mark::content(field("delta").is_some_and(|delta| {
                // `signature_delta` and `citations_delta` bring nothing that a reader sees.
                delta.members().any(|(key, value)| {
                    matches!(key, b"text" | b"thinking" | b"partial_json") && value.is_text()
                })
            }))
        }
        Some(b"content_block_start") => {
            Mark::content(field("content_block").is_some_and(has_content))
        }
        Some(b"message_start") => {
            let usage = field("message").and_then(|message| message.get("usage"));
            if let Some(usage) = usage {
                facts.usage.read(usage, b"input_tokens", b"output_tokens");
            }
            Mark::KEEP_ALIVE
        }
        Some(b"message_delta") => {
            if let Some(usage) = field("usage") {
                facts.usage.read(usage, b"input_tokens", b"output_tokens");
            }
            let reason = field("delta").and_then(|delta| delta.get("stop_reason"));
            if let Some(reason) = reason.and_then(Value::text) {
                facts.finish(stop_reason(reason));
            }
            Mark::KEEP_ALIVE
        }
        // An empty answer is documented ("Empty responses with end_turn"), and so is a refusal
        // without a block.
        Some(b"message_stop") => {
            Mark::end(facts.content, facts.verdict(false, Silence::IsAnAnswer))
        }
        Some(b"error") => Mark::ERROR,
        // Those who speak the dialect may send their own envelope.
        _ if field("error").is_some_and(|error| !error.is_empty()) => Mark::ERROR,
        _ => Mark::KEEP_ALIVE,
    }
}

/// A tool call has its name already when it starts; text and thinking start empty.
fn has_content(block: Value<'_>) -> bool {
    match block.get("type").and_then(Value::text) {
        Some(b"text") => block.get("text").is_some_and(Value::is_text),
        Some(b"thinking") => block.get("thinking").is_some_and(Value::is_text),
        Some(_) => true,
        None => false,
    }
}

pub(crate) fn stop_reason(reason: &[u8]) -> FinishReason {
    match reason {
        b"end_turn" | b"stop_sequence" | b"pause_turn" => FinishReason::Stop,
        b"max_tokens" => FinishReason::Length,
        b"tool_use" => FinishReason::ToolCalls,
        b"refusal" => FinishReason::Refusal,
        b"model_context_window_exceeded" => FinishReason::ContextWindow,
        _ => FinishReason::Other,
    }
}
