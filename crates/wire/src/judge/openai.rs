use serde_json::Value;

use super::{Call, Choices, Said, is_something, is_text};
use crate::stream::finish_reason;

/// Adds a whole answer or a chunk of one, which differ in little but the name of the message.
pub(super) fn add(choices: &mut Choices, value: &Value) {
    for (place, choice) in numbered(value.get("choices")) {
        let said = choices.entry(place).or_default();
        for (key, value) in choice.as_object().into_iter().flatten() {
            match key.as_str() {
                "message" | "delta" => add_message(said, value),
                // Legacy completions.
                "text" => said.content |= is_text(value),
                "finish_reason" => {
                    if let Some(reason) = value.as_str().filter(|reason| !reason.is_empty()) {
                        said.finish = Some(finish_reason::openai_chat(reason.as_bytes()));
                    }
                }
                _ => {}
            }
        }
    }
}

fn add_message(said: &mut Said, message: &Value) {
    for (key, value) in message.as_object().into_iter().flatten() {
        match key.as_str() {
            "content" | "audio" | "images" => said.content |= is_something(value),
            "refusal" => said.refusal |= is_text(value),
            "tool_calls" => {
                for (place, call) in numbered(Some(value)) {
                    add_call(said.calls.entry(place).or_default(), call);
                }
            }
            // Before there were `tool_calls`.
            "function_call" if !value.is_null() => {
                add_function(said.calls.entry(u64::MAX).or_default(), value);
            }
            _ => {}
        }
    }
}

fn add_call(known: &mut Call, call: &Value) {
    known.custom |= call.get("custom").is_some_and(is_something);
    if let Some(function) = call.get("function") {
        add_function(known, function);
    }
}

fn add_function(known: &mut Call, function: &Value) {
    match function.get("name") {
        Some(Value::String(name)) => known.name.push_str(name),
        Some(Value::Null) | None => {}
        Some(_) => known.broken = true,
    }
    match function.get("arguments") {
        Some(Value::String(arguments)) => known.arguments.push_str(arguments),
        Some(Value::Null) | None => {}
        // An object is no text, which is what clients parse.
        Some(_) => known.broken = true,
    }
}

/// The elements of a list by their `index`, or by their place where none is given.
fn numbered(list: Option<&Value>) -> impl Iterator<Item = (u64, &Value)> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    (0..).zip(list).map(|(place, element)| {
        let index = element.get("index").and_then(Value::as_u64);
        (index.unwrap_or(place), element)
    })
}
