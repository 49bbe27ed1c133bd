//! OpenAI Responses.
//!
//! Source: <https://platform.openai.com/docs/api-reference/responses-streaming>.

use backstop_core::{Kind, Outcome};

use super::{Facts, Failure, FinishReason, Mark, Silence};
use crate::json::Value;

pub(super) fn read(event: Value<'_>, facts: &mut Facts) -> Mark {
    if !event.is_object() {
        return Mark::FOREIGN;
    }
    let field = |name| event.get(name);
    let kind = field("type").and_then(Value::text).unwrap_or_default();
    match kind {
        b"response.completed" | b"response.incomplete" => {
            let response = field("response");
            let member = |name| response.and_then(|response| response.get(name));
            if let Some(usage) = member("usage") {
                facts.usage.read(usage, b"input_tokens", b"output_tokens");
            }
            let reason = member("incomplete_details").and_then(|details| details.get("reason"));
            facts.finish(match reason.and_then(Value::text) {
                Some(b"max_output_tokens") => FinishReason::Length,
                Some(b"content_filter") => FinishReason::ContentFilter,
                Some(_) => FinishReason::Other,
                None => FinishReason::Stop,
            });
            // The whole answer is in this event as well, so no delta need have come before.
            Mark::end(facts.content, facts.verdict(false, Silence::IsAnAnswer))
        }
        // The error of a failed response is inside it, that of an `error` event is flat or nested.
        b"response.failed" | b"error" => Mark::ERROR,
        b"response.cancelled" => Mark::KEEP_ALIVE.with(Failure::Known(
            Outcome::new(Kind::Unavailable).with_evidence("stream: response.cancelled"),
        )),
        b"response.output_item.added" => {
            let item = field("item").and_then(|item| item.get("type"));
            // A call of the caller's own tool, whose name is known from here on.
            Mark::content(matches!(
                item.and_then(Value::text),
                Some(b"function_call" | b"custom_tool_call" | b"mcp_approval_request")
                    | Some(b"computer_call" | b"local_shell_call" | b"shell_call")
            ))
        }
        b"response.image_generation_call.partial_image" => Mark::content(true),
        _ if kind.ends_with(b".delta") => {
            Mark::content(field("delta").is_some_and(|delta| !delta.is_empty()))
        }
        // A server that sends no deltas says it all at once.
        b"response.output_text.done" => Mark::content(field("text").is_some_and(Value::is_text)),
        _ if field("error").is_some_and(|error| !error.is_empty()) => Mark::ERROR,
        _ => Mark::KEEP_ALIVE,
    }
}
