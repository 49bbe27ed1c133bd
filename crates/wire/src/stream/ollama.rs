//! Ollama `/api/chat` and `/api/generate`: a JSON object a line.
//!
//! Source: <https://github.com/ollama/ollama/blob/main/docs/api.md>.

use super::{Facts, Failure, FinishReason, Mark, Silence};
use crate::json::Value;

pub(super) fn read(line: Value<'_>, facts: &mut Facts) -> Mark {
    if !line.is_object() {
        return Mark::FOREIGN;
    }
    let mut content = false;
    let mut done = false;
    for (key, value) in line.members() {
        match key {
            b"error" if !value.is_empty() => return Mark::content(content).with(Failure::Told),
            b"message" => content |= value.members().any(has_content),
            b"response" | b"thinking" => content |= value.is_text(),
            b"done" => done = value.is_true(),
            b"done_reason" => {
                if let Some(reason) = value.text().filter(|reason| !reason.is_empty()) {
                    facts.finish(match reason {
                        b"stop" => FinishReason::Stop,
                        b"length" => FinishReason::Length,
                        // `load` and `unload` answer a request that asks nothing.
                        _ => FinishReason::Other,
                    });
                }
            }
            _ => {}
        }
    }
    if done {
        facts.usage.read(line, b"prompt_eval_count", b"eval_count");
        facts.finish(FinishReason::Stop);
        return Mark::end(content, facts.verdict(content, Silence::IsAnAnswer));
    }
    Mark::content(content)
}

fn has_content((key, value): (&[u8], Value<'_>)) -> bool {
    matches!(key, b"content" | b"thinking" | b"tool_calls" | b"images") && !value.is_empty()
}
