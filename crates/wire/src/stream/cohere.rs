//! Cohere chat, version 2.
//!
//! Source: <https://docs.cohere.com/v2/docs/streaming>.

use super::{Facts, Failure, FinishReason, Mark, Silence};
use crate::json::Value;

pub(super) fn read(event: Value<'_>, facts: &mut Facts) -> Mark {
    if !event.is_object() {
        return Mark::FOREIGN;
    }
    let delta = event.get("delta");
    let message = |name| delta?.get("message")?.get(name);
    let is_text = |value: Option<Value<'_>>| value.is_some_and(Value::is_text);
    match event.get("type").and_then(Value::text) {
        Some(b"content-start" | b"content-delta") => {
            let content = message("content");
            let part = |name| content?.get(name);
            Mark::content(is_text(part("text")) || is_text(part("thinking")))
        }
        Some(b"tool-plan-delta") => Mark::content(is_text(message("tool_plan"))),
        Some(b"tool-call-start") => Mark::content(true),
        Some(b"tool-call-delta") => Mark::content(message("tool_calls").is_some()),
        Some(b"message-end") => {
            let part = |name| delta?.get(name);
            if let Some(tokens) = part("usage").and_then(|usage| usage.get("tokens")) {
                facts.usage.read(tokens, b"input_tokens", b"output_tokens");
            }
            match part("finish_reason").and_then(Value::text) {
                Some(b"ERROR") | None => {
                    facts.finish(FinishReason::Error);
                    return Mark::KEEP_ALIVE.with(Failure::Told);
                }
                Some(reason) => facts.finish(finish_reason(reason)),
            }
            Mark::end(facts.content, facts.verdict(false, Silence::IsAnAnswer))
        }
        // An error body in place of an event.
        None if event.get("message").is_some_and(Value::is_text) => Mark::ERROR,
        _ if event.get("error").is_some_and(|error| !error.is_empty()) => Mark::ERROR,
        _ => Mark::KEEP_ALIVE,
    }
}

/// The error in an event: `message-end` has it in `delta`, as an error body would have it.
pub(super) fn error(event: &[u8]) -> &[u8] {
    Value::parse(event)
        .and_then(|event| event.get("delta"))
        .map_or(event, Value::as_bytes)
}

fn finish_reason(reason: &[u8]) -> FinishReason {
    match reason {
        b"COMPLETE" | b"STOP_SEQUENCE" => FinishReason::Stop,
        b"MAX_TOKENS" => FinishReason::Length,
        b"TOOL_CALL" => FinishReason::ToolCalls,
        b"ERROR_TOXIC" => FinishReason::ContentFilter,
        b"ERROR_LIMIT" => FinishReason::ContextWindow,
        b"TIMEOUT" => FinishReason::TimedOut,
        _ => FinishReason::Other,
    }
}
