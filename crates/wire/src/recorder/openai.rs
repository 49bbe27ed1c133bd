use std::{collections::BTreeMap, num::NonZeroU32};

use serde_json::{Map, Value, json};

use super::{event, unix_now};

/// Folds the chunks of a stream into the answer that the same request would get without one.
pub(super) fn fold(chunks: &[Value]) -> Result<Value, &'static str> {
    let mut answer = Map::new();
    let mut choices: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for chunk in chunks {
        let chunk = chunk.as_object().ok_or("a chunk is not an object")?;
        for (key, value) in chunk {
            match key.as_str() {
                // Obfuscation is padding, and says so.
                "choices" | "object" | "obfuscation" => {}
                "error" => return Err("the stream has an error"),
                "usage" if value.is_null() => {}
                _ => {
                    answer.insert(key.clone(), value.clone());
                }
            }
        }
        for delta in chunk
            .get("choices")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let delta = delta.as_object().ok_or("a choice is not an object")?;
            let index = delta.get("index").and_then(Value::as_u64).unwrap_or(0);
            let choice = choices.entry(index).or_insert_with(|| {
                Map::from_iter([
                    ("index".to_owned(), Value::from(index)),
                    (
                        "message".to_owned(),
                        json!({"role": "assistant", "content": null}),
                    ),
                    ("finish_reason".to_owned(), Value::Null),
                ])
            });
            fold_choice(choice, delta)?;
        }
    }
    answer.insert("object".to_owned(), json!("chat.completion"));
    answer.insert(
        "choices".to_owned(),
        choices.into_values().map(Value::Object).collect(),
    );
    Ok(Value::Object(answer))
}

fn fold_choice(
    choice: &mut Map<String, Value>,
    chunk: &Map<String, Value>,
) -> Result<(), &'static str> {
    for (key, value) in chunk {
        match key.as_str() {
            "index" | "delta" => {}
            "logprobs" => gather(choice, key, value)?,
            _ if value.is_null() => {}
            _ => {
                choice.insert(key.clone(), value.clone());
            }
        }
    }
    let Some(delta) = chunk.get("delta").and_then(Value::as_object) else {
        return Ok(());
    };
    let message = choice
        .get_mut("message")
        .and_then(Value::as_object_mut)
        .ok_or("a choice has no message")?;
    for (key, value) in delta {
        match (key.as_str(), value) {
            ("role", _) => {}
            ("tool_calls", Value::Array(calls)) => {
                for call in calls {
                    fold_tool_call(message, call)?;
                }
            }
            (key, value) => gather(message, key, value)?,
        }
    }
    Ok(())
}

fn fold_tool_call(message: &mut Map<String, Value>, call: &Value) -> Result<(), &'static str> {
    let call = call.as_object().ok_or("a tool call is not an object")?;
    let index = call.get("index").and_then(Value::as_u64).unwrap_or(0);
    let index = usize::try_from(index).map_err(|_| "a tool call has no index")?;
    let calls = message.entry("tool_calls").or_insert_with(|| json!([]));
    let calls = calls.as_array_mut().ok_or("tool calls are not a list")?;
    if index > calls.len() {
        return Err("tool calls are out of order");
    }
    if index == calls.len() {
        calls.push(json!({"type": "function", "function": {"name": "", "arguments": ""}}));
    }
    let known = calls[index]
        .as_object_mut()
        .ok_or("a tool call is not an object")?;
    let id = |call: &Map<String, Value>| {
        let id = call.get("id").and_then(Value::as_str)?;
        (!id.is_empty()).then(|| id.to_owned())
    };
    if let (Some(known), Some(other)) = (id(known), id(call))
        && known != other
    {
        // There are servers that give every call the index 0.
        return Err("two tool calls have one index");
    }
    for (key, value) in call.iter().filter(|(key, _)| *key != "index") {
        gather(known, key, value)?;
    }
    Ok(())
}

/// Adds what a delta says of `key` to what those before it said.
fn gather(known: &mut Map<String, Value>, key: &str, more: &Value) -> Result<(), &'static str> {
    match (known.get_mut(key), more) {
        (_, Value::Null) => {}
        (None | Some(Value::Null), _) => {
            known.insert(key.to_owned(), more.clone());
        }
        // These are said again, not continued.
        (Some(known), Value::String(more)) if matches!(key, "id" | "type") => {
            if !more.is_empty() {
                *known = Value::from(more.as_str());
            }
        }
        (Some(Value::String(whole)), Value::String(more)) => whole.push_str(more),
        (Some(Value::Array(whole)), Value::Array(more)) => whole.extend_from_slice(more),
        (Some(Value::Object(whole)), Value::Object(more)) => {
            for (key, more) in more {
                gather(whole, key, more)?;
            }
        }
        (Some(known), more) if known == more => {}
        _ => return Err("a delta is of a kind that cannot be folded"),
    }
    Ok(())
}

/// Whether the answer to a request for so many choices may be kept.
pub(super) fn admit(
    answer: &Value,
    asked: NonZeroU32,
    tool_calls: bool,
) -> Result<(), &'static str> {
    if answer.get("error").is_some_and(|error| !error.is_null()) {
        return Err("the answer has an error");
    }
    let choices = answer
        .get("choices")
        .and_then(Value::as_array)
        .ok_or("no choices")?;
    if u32::try_from(choices.len()).is_ok_and(|given| given < asked.get()) {
        return Err("it has fewer choices than were asked for");
    }
    for choice in choices {
        let message = choice.get("message").ok_or("a choice has no message")?;
        let calls = ["tool_calls", "function_call"].iter().any(|key| {
            message.get(key).is_some_and(|value| {
                !value.is_null() && value.as_array().is_none_or(|calls| !calls.is_empty())
            })
        });
        match choice.get("finish_reason").and_then(Value::as_str) {
            Some("stop" | "tool_calls" | "function_call") if calls && !tool_calls => {
                return Err("it calls a tool");
            }
            Some("tool_calls" | "function_call") if calls => {}
            Some("stop") => {}
            Some("length") => return Err("it was cut at the length limit"),
            Some("content_filter") => return Err("it was filtered"),
            _ => return Err("its finish reason is not known to be good"),
        }
        let refused = message.get("refusal").is_some_and(Value::is_string);
        let empty = message
            .get("content")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty);
        if refused {
            return Err("the model refused");
        }
        if empty && !calls {
            return Err("it is empty");
        }
    }
    Ok(())
}

/// Writes the answer as a stream.
pub(super) fn unfold(answer: &Value, include_usage: bool, stream: &mut String) -> Option<()> {
    let mut common = answer.as_object()?.clone();
    let usage = common.remove("usage").unwrap_or(Value::Null);
    let Some(Value::Array(choices)) = common.remove("choices") else {
        return None;
    };
    common.insert("object".to_owned(), json!("chat.completion.chunk"));
    let mut chunk = |choices: Value, usage: Option<&Value>| {
        let mut chunk = common.clone();
        chunk.insert("choices".to_owned(), choices);
        if let Some(usage) = usage {
            chunk.insert("usage".to_owned(), usage.clone());
        }
        event(stream, None, &Value::Object(chunk));
    };
    // With include_usage every other chunk has the field too, as null.
    let none = include_usage.then_some(&Value::Null);
    for (place, choice) in choices.iter().enumerate() {
        // There are servers that leave it out of an answer, which has an order.
        let index = choice.get("index").cloned().unwrap_or(json!(place));
        let mut delta = |delta: Value| {
            let choice = json!([{"index": index, "delta": delta, "finish_reason": null}]);
            chunk(choice, none);
        };
        let message = choice.get("message")?.as_object()?;
        delta(json!({"role": "assistant", "content": ""}));
        for (key, value) in message {
            match (key.as_str(), value) {
                (_, Value::Null) | ("role", _) => {}
                ("tool_calls", Value::Array(calls)) => {
                    for (index, call) in calls.iter().enumerate() {
                        let mut call = call.as_object()?.clone();
                        call.insert("index".to_owned(), json!(index));
                        delta(json!({"tool_calls": [call]}));
                    }
                }
                (key, value) => delta(json!({key: value})),
            }
        }
        // The last one says why it ended, and all else that is said of the choice.
        let mut last = choice.as_object()?.clone();
        last.remove("message");
        last.insert("index".to_owned(), index.clone());
        last.insert("delta".to_owned(), json!({}));
        chunk(json!([last]), none);
    }
    if include_usage {
        chunk(json!([]), Some(&usage));
    }
    stream.push_str("data: [DONE]\n\n");
    Some(())
}

pub(super) fn simplified(id: &str, model: &str, text: &str) -> Value {
    json!({
        "id": id,
        "object": "chat.completion",
        "created": unix_now(),
        "model": model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": null},
            "finish_reason": "simplified",
        }],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    })
}

pub(super) fn error(text: &str) -> Value {
    json!({"error": {
        "message": text,
        "type": "server_error",
        "param": null,
        "code": "simplified",
    }})
}
