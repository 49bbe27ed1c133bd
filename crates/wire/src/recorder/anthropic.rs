use serde_json::{Map, Value, json};

use super::{append, event};

/// Folds the events of a stream into the answer that the same request would get without one.
pub(super) fn fold(events: &[Value]) -> Result<Value, &'static str> {
    let mut message: Option<Map<String, Value>> = None;
    let mut blocks: Vec<Block> = Vec::new();
    let mut stopped = false;
    for event in events {
        let kind = event
            .get("type")
            .and_then(Value::as_str)
            .ok_or("an event has no type")?;
        match kind {
            "message_start" => message = event.get("message").and_then(Value::as_object).cloned(),
            "content_block_start" => {
                if index(event) != Some(blocks.len()) {
                    return Err("content blocks are out of order");
                }
                let block = event.get("content_block").and_then(Value::as_object);
                let block = block.ok_or("a content block is not an object")?.clone();
                blocks.push(Block {
                    block,
                    input: String::new(),
                    has_ended: false,
                });
            }
            "content_block_delta" => {
                let block = index(event).and_then(|index| blocks.get_mut(index));
                let delta = event.get("delta").and_then(Value::as_object);
                block
                    .zip(delta)
                    .ok_or("a delta belongs to no block")?
                    .0
                    .add(delta)?;
            }
            "content_block_stop" => {
                let block = index(event).and_then(|index| blocks.get_mut(index));
                block.ok_or("no such content block")?.end()?;
            }
            "message_delta" => {
                let message = message.as_mut().ok_or("no message_start")?;
                for (key, value) in event
                    .get("delta")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                {
                    message.insert(key.clone(), value.clone());
                }
                let usage = message.entry("usage").or_insert_with(|| json!({}));
                if let (Some(usage), Some(more)) = (
                    usage.as_object_mut(),
                    event.get("usage").and_then(Value::as_object),
                ) {
                    for (key, value) in more {
                        usage.insert(key.clone(), value.clone());
                    }
                }
            }
            "message_stop" => stopped = true,
            "error" => return Err("the stream has an error"),
            _ => {}
        }
    }
    let mut message = message.filter(|_| stopped).ok_or("the stream has no end")?;
    if !blocks.iter().all(|block| block.has_ended) {
        return Err("a content block has no end");
    }
    let content = blocks
        .into_iter()
        .map(|block| Value::Object(block.block))
        .collect();
    message.insert("content".to_owned(), content);
    Ok(Value::Object(message))
}

struct Block {
    block: Map<String, Value>,
    input: String,
    has_ended: bool,
}

impl Block {
    fn add(&mut self, delta: Option<&Map<String, Value>>) -> Result<(), &'static str> {
        if self.has_ended {
            return Err("a content block goes on after its end");
        }
        let delta = delta.ok_or("a delta is not an object")?;
        match delta.get("type").and_then(Value::as_str) {
            Some("text_delta") => append(&mut self.block, delta, "text"),
            Some("thinking_delta") => append(&mut self.block, delta, "thinking"),
            Some("signature_delta") => append(&mut self.block, delta, "signature"),
            Some("input_json_delta") => {
                self.input.push_str(
                    delta
                        .get("partial_json")
                        .and_then(Value::as_str)
                        .unwrap_or(""),
                );
            }
            Some("citations_delta") => {
                let citations = self.block.entry("citations").or_insert(Value::Null);
                if citations.is_null() {
                    *citations = json!([]);
                }
                if let (Some(citations), Some(citation)) =
                    (citations.as_array_mut(), delta.get("citation"))
                {
                    citations.push(citation.clone());
                }
            }
            _ => return Err("a delta is of a kind that cannot be folded"),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), &'static str> {
        if !self.input.is_empty() {
            let input =
                serde_json::from_str(&self.input).map_err(|_| "a tool's input is not JSON")?;
            self.block.insert("input".to_owned(), input);
        }
        self.has_ended = true;
        Ok(())
    }
}

fn index(event: &Value) -> Option<usize> {
    event
        .get("index")
        .and_then(Value::as_u64)
        .and_then(|index| usize::try_from(index).ok())
}

/// Whether the answer may be kept.
pub(super) fn admit(answer: &Value, tool_calls: bool) -> Result<(), &'static str> {
    if answer.get("type").and_then(Value::as_str) != Some("message") {
        return Err("not a message");
    }
    let content = answer
        .get("content")
        .and_then(Value::as_array)
        .ok_or("no content")?;
    let kind = |block: &Value| block.get("type").and_then(Value::as_str).map(str::to_owned);
    let calls = content
        .iter()
        .filter_map(kind)
        .any(|kind| kind.ends_with("tool_use"));
    match answer.get("stop_reason").and_then(Value::as_str) {
        _ if calls && !tool_calls => return Err("it calls a tool"),
        Some("end_turn" | "stop_sequence") => {}
        Some("tool_use") if calls => {}
        Some("max_tokens" | "model_context_window_exceeded") => {
            return Err("it was cut at the length limit");
        }
        Some("refusal") => return Err("the model refused"),
        _ => return Err("its stop reason is not known to be good"),
    }
    let has_text = content.iter().any(|block| {
        block
            .get("text")
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    });
    if has_text || calls {
        Ok(())
    } else {
        Err("it is empty")
    }
}

/// Writes the answer as a stream.
pub(super) fn unfold(answer: &Value, stream: &mut String) -> Option<()> {
    let mut message = answer.as_object()?.clone();
    let Some(Value::Array(content)) = message.remove("content") else {
        return None;
    };
    let stop_reason = message.insert("stop_reason".to_owned(), Value::Null);
    let stop_sequence = message.insert("stop_sequence".to_owned(), Value::Null);
    let usage = message.get("usage").cloned().unwrap_or_else(|| json!({}));
    message.insert("content".to_owned(), json!([]));
    let mut send = |kind: &str, mut data: Value| {
        if let Some(data) = data.as_object_mut() {
            data.insert("type".to_owned(), json!(kind));
        }
        event(stream, Some(kind), &data);
    };
    send("message_start", json!({"message": message}));
    for (index, block) in content.iter().enumerate() {
        let mut start = block.as_object()?.clone();
        let mut deltas = Vec::new();
        match block.get("type").and_then(Value::as_str) {
            Some("text") => {
                let text = start.insert("text".to_owned(), json!(""));
                deltas.push(json!({"type": "text_delta", "text": text}));
                if let Some(Value::Array(citations)) = start.remove("citations") {
                    start.insert("citations".to_owned(), json!([]));
                    deltas.extend(
                        citations.into_iter().map(
                            |citation| json!({"type": "citations_delta", "citation": citation}),
                        ),
                    );
                }
            }
            Some("thinking") => {
                let thinking = start.insert("thinking".to_owned(), json!(""));
                deltas.push(json!({"type": "thinking_delta", "thinking": thinking}));
                if let Some(signature) = start.insert("signature".to_owned(), json!("")) {
                    deltas.push(json!({"type": "signature_delta", "signature": signature}));
                }
            }
            Some("tool_use" | "server_tool_use") => {
                let input = start.insert("input".to_owned(), json!({}))?.to_string();
                deltas.push(json!({"type": "input_json_delta", "partial_json": input}));
            }
            // Other blocks, such as redacted thinking, come whole in their start.
            _ => {}
        }
        send(
            "content_block_start",
            json!({"index": index, "content_block": start}),
        );
        for delta in deltas {
            send(
                "content_block_delta",
                json!({"index": index, "delta": delta}),
            );
        }
        send("content_block_stop", json!({"index": index}));
    }
    let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
    send("message_delta", json!({"delta": delta, "usage": usage}));
    send("message_stop", json!({}));
    Some(())
}

pub(super) fn simplified(id: &str, model: &str, text: &str) -> Value {
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "simplified",
        "stop_sequence": null,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    })
}

pub(super) fn error(text: &str) -> Value {
    json!({"type": "error", "error": {"type": "api_error", "message": text}})
}
