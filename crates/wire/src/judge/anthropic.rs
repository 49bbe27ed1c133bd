use serde_json::Value;

use super::{Choices, Said, is_text};
use crate::stream::finish_reason;

/// Adds a whole answer or an event of one. There is one choice.
pub(super) fn add(choices: &mut Choices, value: &Value) {
    match value.get("type").and_then(Value::as_str) {
        Some("message") => {
            let said = choices.entry(0).or_default();
            let blocks = value.get("content").and_then(Value::as_array);
            for (place, block) in (0..).zip(blocks.into_iter().flatten()) {
                add_block(said, place, block);
            }
            add_reason(said, value);
        }
        Some("message_start") => {
            choices.entry(0).or_default();
        }
        Some("content_block_start") => {
            if let Some(block) = value.get("content_block") {
                add_block(choices.entry(0).or_default(), index(value), block);
            }
        }
        Some("content_block_delta") => {
            let said = choices.entry(0).or_default();
            let delta = |name| value.get("delta")?.get(name);
            said.content |= delta("text").is_some_and(is_text);
            if let Some(json) = delta("partial_json").and_then(Value::as_str)
                && let Some(call) = said.calls.get_mut(&index(value))
            {
                call.arguments.push_str(json);
            }
        }
        Some("message_delta") => {
            if let Some(delta) = value.get("delta") {
                add_reason(choices.entry(0).or_default(), delta);
            }
        }
        _ => {}
    }
}

fn add_block(said: &mut Said, place: u64, block: &Value) {
    match block.get("type").and_then(Value::as_str) {
        Some("text") => said.content |= block.get("text").is_some_and(is_text),
        Some("thinking" | "redacted_thinking") => {}
        Some("tool_use") => {
            let call = said.calls.entry(place).or_default();
            let name = block.get("name").and_then(Value::as_str);
            call.name.push_str(name.unwrap_or_default());
            call.broken |= !block.get("input").is_some_and(Value::is_object);
        }
        // Tools that the provider calls itself, their results, and what there may be some day.
        _ => said.content = true,
    }
}

fn add_reason(said: &mut Said, message: &Value) {
    if let Some(reason) = message.get("stop_reason").and_then(Value::as_str) {
        said.finish = Some(finish_reason::anthropic(reason.as_bytes()));
    }
}

fn index(event: &Value) -> u64 {
    event
        .get("index")
        .and_then(Value::as_u64)
        .unwrap_or_default()
}
