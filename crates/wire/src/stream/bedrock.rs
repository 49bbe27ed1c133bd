//! AWS Bedrock `ConverseStream`.
//!
//! Source: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html>.

use super::{Facts, FinishReason, Mark, Silence};
use crate::json::Value;

/// Reads the payload of an event of the type `name`. Exceptions do not come here.
pub(super) fn read(name: Option<&[u8]>, event: Value<'_>, facts: &mut Facts) -> Mark {
    let is_text = |value: Option<Value<'_>>| value.is_some_and(Value::is_text);
    match name.unwrap_or_default() {
        b"contentBlockStart" => {
            let start = event.get("start");
            Mark::content(start.is_some_and(|start| start.get("toolUse").is_some()))
        }
        b"contentBlockDelta" => {
            let delta = event.get("delta");
            let part = |name| delta?.get(name);
            let inner = |name, member| part(name)?.get(member);
            Mark::content(
                is_text(part("text"))
                    || is_text(inner("toolUse", "input"))
                    || is_text(inner("reasoningContent", "text"))
                    || is_text(inner("reasoningContent", "redactedContent")),
            )
        }
        b"messageStop" => {
            let reason = event.get("stopReason").and_then(Value::text);
            facts.finish(stop_reason(reason.unwrap_or_default()));
            Mark::end(facts.content, facts.verdict(false, Silence::IsAnAnswer))
        }
        b"metadata" => {
            if let Some(usage) = event.get("usage") {
                facts.usage.read(usage, b"inputTokens", b"outputTokens");
            }
            Mark::KEEP_ALIVE
        }
        _ => Mark::KEEP_ALIVE,
    }
}

fn stop_reason(reason: &[u8]) -> FinishReason {
    match reason {
        b"end_turn" | b"stop_sequence" => FinishReason::Stop,
        b"max_tokens" => FinishReason::Length,
        b"tool_use" => FinishReason::ToolCalls,
        b"guardrail_intervened" | b"content_filtered" => FinishReason::ContentFilter,
        b"model_context_window_exceeded" => FinishReason::ContextWindow,
        b"malformed_model_output" | b"malformed_tool_use" => FinishReason::BadGeneration,
        _ => FinishReason::Other,
    }
}
