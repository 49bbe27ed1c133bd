//! What goes on the wire for a [`Reply`].

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Api, Framing, Refusal, Reply,
    reply::{Ending, Pieces, What},
};

/// A response, ready to be played.
#[derive(Debug)]
pub(super) enum Plan {
    Respond {
        after: Duration,
        status: StatusCode,
        headers: HeaderMap,
        steps: VecDeque<Step>,
    },
    Reset,
    Hang,
}

/// What the body does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Data(Bytes),
    Wait(Duration),
    Trailers(HeaderMap),
    /// The same bytes at an interval, for ever.
    Repeat(Bytes, Duration),
    Stall,
    Cut,
    Reset,
}

/// What the reply answers to.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) api: Api,
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) usage: bool,
}

/// The tokens of a text: every word with the space before it.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    for character in text.chars() {
        if character == ' ' && !token.is_empty() {
            tokens.push(std::mem::take(&mut token));
        }
        token.push(character);
    }
    if !token.is_empty() {
        tokens.push(token);
    }
    tokens
}

pub(super) fn plan(reply: &Reply, asked: &Asked, text: &str) -> Plan {
    let mut headers = HeaderMap::new();
    let mut after = reply.head_after;
    let mut status = StatusCode::OK;
    let mut steps = Vec::new();
    let mut stream = asked.stream;
    match &reply.what {
        What::Reset => return Plan::Reset,
        What::Hang => return Plan::Hang,
        What::Answer if asked.stream => stream_steps(&mut steps, reply, asked, text),
        What::Answer => {
            after += reply.first_token_after;
            unary_steps(&mut steps, reply, asked, text);
        }
        What::Refuse(refusal) => {
            stream = false;
            status = refusal.status(asked.api);
            headers = refusal.headers(asked.api);
            steps.push(Step::Data(to_bytes(&refusal.body(asked.api))));
        }
        What::Status(code, body) => {
            stream = false;
            status = *code;
            let body = body.clone().unwrap_or_else(|| {
                let refusal = Refusal::of_status(code.as_u16()).unwrap_or(Refusal::ServerError);
                to_bytes(&refusal.body(asked.api))
            });
            steps.push(Step::Data(body));
        }
        What::ErrorObject(refusal) => {
            stream = false;
            steps.push(Step::Data(to_bytes(&refusal.body(asked.api))));
        }
        What::Silent => steps.push(Step::Stall),
        What::KeepAliveOnly(every) => {
            let noise = if asked.stream {
                steps.extend(opening(asked).into_iter().map(Step::Data));
                keep_alive(asked.api)
            } else {
                Bytes::from_static(b"\n")
            };
            steps.push(Step::Repeat(noise, *every));
        }
    }
    let steps = divide(steps, &reply.pieces);
    let whole = |steps: &VecDeque<Step>| {
        steps.iter().try_fold(0, |sum, step| match step {
            Step::Data(data) => Some(sum + data.len()),
            Step::Wait(_) => Some(sum),
            _ => None,
        })
    };
    // The length that the whole body would have had, when it is broken off.
    let full = || match (&reply.what, asked.stream) {
        (What::Answer, false) => unary(asked, text).concat().len(),
        _ => usize::MAX,
    };
    let tell_length = match reply.framing {
        Framing::Usual => !stream,
        Framing::Length => true,
        Framing::Chunked => false,
    };
    if tell_length && reply.trailers.is_none() {
        let length = whole(&steps).unwrap_or_else(full);
        // A stream that never ends has no length to tell.
        if length != usize::MAX {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    let content_type = if stream {
        "text/event-stream; charset=utf-8"
    } else {
        "application/json"
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let request_id = match asked.api {
        Api::OpenAi => "x-request-id",
        Api::Anthropic => "request-id",
    };
    headers.insert(request_id, HeaderValue::from_static("req_scripted"));
    for (name, value) in &reply.headers {
        headers.insert(name.clone(), value.clone());
    }
    let mut steps = steps;
    if let Some(trailers) = &reply.trailers {
        steps.push_back(Step::Trailers(trailers.clone()));
    }
    Plan::Respond {
        after,
        status,
        headers,
        steps,
    }
}

fn stream_steps(steps: &mut Vec<Step>, reply: &Reply, asked: &Asked, text: &str) {
    steps.extend(opening(asked).into_iter().map(Step::Data));
    for _ in 0..reply.keep_alives {
        steps.push(Step::Data(keep_alive(asked.api)));
    }
    if !reply.first_token_after.is_zero() {
        steps.push(Step::Wait(reply.first_token_after));
    }
    let tokens = tokens(text);
    let count = reply.tokens.unwrap_or(tokens.len()).min(tokens.len());
    for (index, token) in tokens.iter().take(count).enumerate() {
        if index > 0 && !reply.token_gap.is_zero() {
            steps.push(Step::Wait(reply.token_gap));
        }
        steps.push(Step::Data(delta(asked, token)));
    }
    match reply.ending {
        Ending::Proper => steps.extend(closing(asked, count).into_iter().map(Step::Data)),
        Ending::Eof => {}
        Ending::Cut => steps.push(Step::Cut),
        Ending::Reset => steps.push(Step::Reset),
        Ending::Stall => steps.push(Step::Stall),
        Ending::ErrorEvent(refusal) => {
            let body = refusal.body(asked.api);
            steps.push(Step::Data(match asked.api {
                Api::OpenAi => data(&body),
                Api::Anthropic => event("error", &body),
            }));
        }
    }
}

fn unary_steps(steps: &mut Vec<Step>, reply: &Reply, asked: &Asked, text: &str) {
    if let Ending::ErrorEvent(refusal) = reply.ending {
        steps.push(Step::Data(to_bytes(&refusal.body(asked.api))));
        return;
    }
    let [before, _, after] = unary(asked, text);
    let tokens = tokens(text);
    let count = reply.tokens.unwrap_or(tokens.len());
    let told: String = tokens.into_iter().take(count).collect();
    steps.push(Step::Data(Bytes::from(before + &escape(&told))));
    match reply.ending {
        Ending::Proper => steps.push(Step::Data(Bytes::from(after))),
        Ending::Eof | Ending::ErrorEvent(_) => {}
        Ending::Cut => steps.push(Step::Cut),
        Ending::Reset => steps.push(Step::Reset),
        Ending::Stall => steps.push(Step::Stall),
    }
    if matches!(reply.ending, Ending::Proper) {
        // One event in the sense of `Pieces::Events`.
        let whole = merge(std::mem::take(steps));
        steps.extend(whole);
    }
}

/// A whole answer that is not streamed: what is before the text, the text and what is after it.
fn unary(asked: &Asked, text: &str) -> [String; 3] {
    /// Stands where the text goes; in no other place of the body.
    const MARK: &str = "@@text@@";
    let tokens = tokens(text).len();
    let body = match asked.api {
        Api::OpenAi => json!({
            "id": "chatcmpl-scripted",
            "object": "chat.completion",
            "created": CREATED,
            "model": asked.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": MARK, "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": tokens,
                "total_tokens": PROMPT_TOKENS + tokens,
            },
        }),
        Api::Anthropic => json!({
            "id": "msg_scripted",
            "type": "message",
            "role": "assistant",
            "model": asked.model,
            "content": [{"type": "text", "text": MARK}],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": tokens},
        }),
    }
    .to_string();
    let (before, after) = body.split_once(MARK).unwrap_or((&body, ""));
    [before.to_owned(), escape(text), after.to_owned()]
}

/// When every scripted answer was made: 2026-01-01. Fixed, so that the same script gives the same
/// bytes.
const CREATED: u64 = 1_767_225_600;
/// How long every prompt is said to be.
const PROMPT_TOKENS: usize = 12;

/// What a stream sends before its first token.
fn opening(asked: &Asked) -> Vec<Bytes> {
    match asked.api {
        Api::OpenAi => vec![data(&chunk(
            asked,
            &json!({"role": "assistant", "content": "", "refusal": null}),
            None,
        ))],
        Api::Anthropic => vec![
            event(
                "message_start",
                &json!({"type": "message_start", "message": {
                    "id": "msg_scripted",
                    "type": "message",
                    "role": "assistant",
                    "model": asked.model,
                    "content": [],
                    "stop_reason": null,
                    "stop_sequence": null,
                    "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": 1},
                }}),
            ),
            event(
                "content_block_start",
                &json!({
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "text", "text": ""},
                }),
            ),
            keep_alive(Api::Anthropic),
        ],
    }
}

fn delta(asked: &Asked, token: &str) -> Bytes {
    match asked.api {
        Api::OpenAi => data(&chunk(asked, &json!({"content": token}), None)),
        Api::Anthropic => event(
            "content_block_delta",
            &json!({
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": token},
            }),
        ),
    }
}

fn closing(asked: &Asked, tokens: usize) -> Vec<Bytes> {
    match asked.api {
        Api::OpenAi => {
            let mut events = vec![data(&chunk(asked, &json!({}), Some("stop")))];
            if asked.usage {
                events.push(data(&json!({
                    "id": "chatcmpl-scripted",
                    "object": "chat.completion.chunk",
                    "created": CREATED,
                    "model": asked.model,
                    "choices": [],
                    "usage": {
                        "prompt_tokens": PROMPT_TOKENS,
                        "completion_tokens": tokens,
                        "total_tokens": PROMPT_TOKENS + tokens,
                    },
                })));
            }
            events.push(Bytes::from_static(b"data: [DONE]\n\n"));
            events
        }
        Api::Anthropic => vec![
            event(
                "content_block_stop",
                &json!({"type": "content_block_stop", "index": 0}),
            ),
            event(
                "message_delta",
                &json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                    "usage": {"output_tokens": tokens},
                }),
            ),
            event("message_stop", &json!({"type": "message_stop"})),
        ],
    }
}

fn chunk(asked: &Asked, delta: &Value, finish_reason: Option<&str>) -> Value {
    json!({
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": asked.model,
        "choices": [{
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish_reason,
        }],
    })
}

fn keep_alive(api: Api) -> Bytes {
    match api {
        Api::OpenAi => Bytes::from_static(b": keep-alive\n\n"),
        Api::Anthropic => event("ping", &json!({"type": "ping"})),
    }
}

/// The list of models, for `GET …/models`.
pub(super) fn models(name: &str) -> Bytes {
    to_bytes(&json!({
        "object": "list",
        "data": [{"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"}],
    }))
}

fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn event(name: &str, value: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {value}\n\n"))
}

fn to_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// A text as it stands between the quotes of a JSON string.
fn escape(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn divide(steps: Vec<Step>, pieces: &Pieces) -> VecDeque<Step> {
    let steps = match pieces {
        Pieces::Events => return steps.into(),
        Pieces::Whole => return merge(steps).into(),
        Pieces::Of(_) | Pieces::At(_) => merge(steps),
    };
    let mut divided = VecDeque::new();
    let mut offset = 0;
    for step in steps {
        let Step::Data(mut data) = step else {
            divided.push_back(step);
            continue;
        };
        while !data.is_empty() {
            let len = match pieces {
                Pieces::Of(len) => *len,
                Pieces::At(ends) => ends
                    .iter()
                    .find(|&&end| end > offset)
                    .map_or(data.len(), |end| end - offset),
                Pieces::Events | Pieces::Whole => data.len(),
            };
            let piece = data.split_to(len.min(data.len()));
            offset += piece.len();
            divided.push_back(Step::Data(piece));
        }
    }
    divided
}

/// Joins what is sent at the same time.
fn merge(steps: Vec<Step>) -> Vec<Step> {
    let mut merged = Vec::new();
    let mut run = BytesMut::new();
    for step in steps {
        match step {
            Step::Data(data) => run.extend_from_slice(&data),
            step => {
                if !run.is_empty() {
                    merged.push(Step::Data(run.split().freeze()));
                }
                merged.push(step);
            }
        }
    }
    if !run.is_empty() {
        merged.push(Step::Data(run.freeze()));
    }
    merged
}
