//! Whole answers, recorded and written again as JSON or as a stream.

mod anthropic;
mod canonical;
mod openai;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use backstop_core::{Directives, FrozenRequest, Recorder, Replayed, Simplified};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_TYPE},
    response::Parts,
    uri::PathAndQuery,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Dialect,
    request::RequestFacts,
    scan::{Sse, SseItem},
};

/// Records the answers of OpenAI chat completions or Anthropic Messages.
///
/// A record is the answer's JSON, whichever way it was given: a stream is folded into it. From there
/// it is written as JSON or as a stream, as the later request asks.
///
/// Kept are answers that ended by themselves (`stop`; `end_turn`, `stop_sequence`). Answers that were
/// cut short, filtered, refused or empty are not, nor those with fewer choices than were asked for,
/// nor tool calls unless [`allow_tool_calls`](Self::allow_tool_calls) is set: to repeat an action is
/// not to repeat a text.
///
/// Nor is an answer that a cache on the way gave (`age`, or a hit in `cache-status`): it would be
/// young again, and it may have been stale already.
///
/// Two requests are the same if their bodies are equal as JSON (RFC 8785), leaving out only `stream`
/// and `stream_options`, which say how the answer is carried, if they go to the same path and query,
/// and if their `anthropic-version`, `anthropic-beta` and `openai-beta` headers are equal, and those
/// named with [`vary`](Self::vary). A body with a number beyond 2^53 or with a name twice in one
/// object has no canonical form and is not recorded.
#[derive(Clone, Debug)]
pub struct HttpRecorder {
    dialect: Form,
    tool_calls: bool,
    /// Those named with `vary`.
    headers: Arc<[HeaderName]>,
}

/// What an [`HttpRecorder`] remembers of a request.
#[derive(Clone, Debug)]
pub struct RecorderCall {
    model: String,
    stream: bool,
    include_usage: bool,
    choices: Option<NonZeroU32>,
    directives: Directives,
}

/// What an [`HttpRecorder`] remembers of a response's head, and of what it must bring.
#[derive(Clone, Copy, Debug)]
pub struct HttpRecording {
    stream: bool,
    choices: NonZeroU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    OpenAi,
    Anthropic,
}

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The little that is read of a request on the healthy path.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    model: std::borrow::Cow<'a, str>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl HttpRecorder {
    /// A recorder for `dialect`; `None` if answers of that dialect cannot be recorded.
    #[must_use]
    pub fn new(dialect: Dialect) -> Option<Self> {
        let dialect = match dialect {
            Dialect::OpenAiChat => Form::OpenAi,
            Dialect::Anthropic => Form::Anthropic,
            _ => return None,
        };
        Some(Self {
            dialect,
            tool_calls: false,
            headers: Arc::default(),
        })
    }

    /// Keeps answers that call tools as well.
    #[must_use]
    pub const fn allow_tool_calls(mut self) -> Self {
        self.tool_calls = true;
        self
    }

    /// Takes requests that differ in this header for different ones: one that reaches the model, and
    /// may change what it answers.
    #[must_use]
    pub fn vary(mut self, header: HeaderName) -> Self {
        self.headers = self.headers.iter().cloned().chain([header]).collect();
        self
    }
}

impl Recorder<FrozenRequest, Parts> for HttpRecorder {
    type Call = RecorderCall;
    type Recording = HttpRecording;

    fn on_request(&self, request: &FrozenRequest) -> Option<RecorderCall> {
        let asked: Asked<'_> = serde_json::from_slice(request.data()).ok()?;
        let facts = RequestFacts::known_or_find(&request.parts().extensions, request.data());
        let usage = asked
            .stream_options
            .and_then(|options| options.include_usage);
        Some(RecorderCall {
            model: asked.model.into_owned(),
            stream: asked.stream.unwrap_or(false),
            include_usage: usage.unwrap_or(false),
            choices: facts.ok()?.choices(),
            directives: directives(&request.parts().headers),
        })
    }

    fn directives(&self, call: &RecorderCall) -> Directives {
        call.directives
    }

    fn may_share(&self, call: &RecorderCall) -> bool {
        !call.stream
    }

    fn identity(&self, request: &FrozenRequest) -> Option<Vec<u8>> {
        let mut body = canonical::read(request.data())?;
        body.remove("stream");
        body.remove("stream_options");
        let mut identity = match self.dialect {
            Form::OpenAi => b"openai\0".to_vec(),
            Form::Anthropic => b"anthropic\0".to_vec(),
        };
        let parts = request.parts();
        let place = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        identity.extend_from_slice(place.as_bytes());
        let known = ["anthropic-version", "anthropic-beta", "openai-beta"];
        for name in known
            .into_iter()
            .chain(self.headers.iter().map(HeaderName::as_str))
        {
            // No header and no path holds a zero.
            identity.push(0);
            identity.extend_from_slice(name.as_bytes());
            for value in parts.headers.get_all(name) {
                identity.push(b',');
                identity.extend_from_slice(value.as_bytes());
            }
        }
        identity.push(0);
        serde_json_canonicalizer::to_writer(&body, &mut identity).ok()?;
        Some(identity)
    }

    fn on_response(
        &self,
        call: &RecorderCall,
        head: &Parts,
    ) -> Result<HttpRecording, &'static str> {
        let choices = call
            .choices
            .ok_or("how many choices were asked for is not known")?;
        if head.status != StatusCode::OK {
            return Err("status is not 200");
        }
        if is_from_a_cache(&head.headers) {
            return Err("a cache gave it");
        }
        let content_type = head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let stream = match content_type
            .and_then(|value| value.split(';').next())
            .map(str::trim)
        {
            Some("application/json") => false,
            Some("text/event-stream") => true,
            _ => return Err("content type is neither JSON nor an event stream"),
        };
        Ok(HttpRecording { stream, choices })
    }

    fn record(&self, recording: &HttpRecording, body: &[u8]) -> Result<Bytes, &'static str> {
        let answer = if recording.stream {
            match self.dialect {
                Form::OpenAi => openai::fold(&events(body)?),
                Form::Anthropic => anthropic::fold(&events(body)?),
            }?
        } else {
            serde_json::from_slice(body).map_err(|_| "not JSON")?
        };
        match self.dialect {
            Form::OpenAi => openai::admit(&answer, recording.choices, self.tool_calls),
            Form::Anthropic => anthropic::admit(&answer, self.tool_calls),
        }?;
        serde_json::to_vec(&answer)
            .map(Bytes::from)
            .map_err(|_| "not JSON")
    }

    fn replay(
        &self,
        call: &RecorderCall,
        record: &[u8],
        replay: Replayed,
    ) -> Option<(Parts, Bytes)> {
        let mut answer: Value = serde_json::from_slice(record).ok()?;
        let fields = answer.as_object_mut()?;
        let id = fresh_id(self.dialect);
        fields.insert("id".to_owned(), Value::String(id));
        if let Some(usage) = fields.get_mut("usage").and_then(Value::as_object_mut) {
            usage.insert("cached".to_owned(), Value::Bool(true));
        }
        let mut head = self.head(call, StatusCode::OK);
        let detail = if replay.fresh {
            "backstop; hit"
        } else {
            "backstop; hit; detail=stale-if-error"
        };
        let headers = &mut head.headers;
        headers.insert(CACHE_STATUS, HeaderValue::from_static(detail));
        headers.insert(AGE, HeaderValue::from(replay.age.as_secs()));
        Some((head, self.write(call, &answer)?))
    }

    fn simplified(&self, call: &RecorderCall, text: &Simplified<'_>) -> (Parts, Bytes) {
        let status = StatusCode::from_u16(text.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if !status.is_success() {
            let body = match self.dialect {
                Form::OpenAi => openai::error(text.text),
                Form::Anthropic => anthropic::error(text.text),
            };
            let unary = RecorderCall {
                stream: false,
                ..call.clone()
            };
            let mut head = self.head(&unary, status);
            let headers = &mut head.headers;
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
            if let Some(hint) = text.outcome.retry_after() {
                let seconds = hint.delay.as_secs() + u64::from(hint.delay.subsec_nanos() > 0);
                headers.insert(http::header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            return (head, Bytes::from(body.to_string()));
        }
        let id = fresh_id(self.dialect);
        let answer = match self.dialect {
            Form::OpenAi => openai::simplified(&id, &call.model, text.text),
            Form::Anthropic => anthropic::simplified(&id, &call.model, text.text),
        };
        (
            self.head(call, status),
            self.write(call, &answer).unwrap_or_default(),
        )
    }
}

impl HttpRecorder {
    #[expect(
        clippy::unused_self,
        reason = "belongs with write, which needs the dialect"
    )]
    fn head(&self, call: &RecorderCall, status: StatusCode) -> Parts {
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = status;
        let content_type = if call.stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        head.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // What comes from here must not be kept by another cache as if a model had said it now.
        head.headers
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        head
    }

    fn write(&self, call: &RecorderCall, answer: &Value) -> Option<Bytes> {
        if !call.stream {
            return serde_json::to_vec(answer).ok().map(Bytes::from);
        }
        let mut stream = String::new();
        match self.dialect {
            Form::OpenAi => openai::unfold(answer, call.include_usage, &mut stream)?,
            Form::Anthropic => anthropic::unfold(answer, &mut stream)?,
        }
        Some(Bytes::from(stream))
    }
}

/// The data of all events of a stream, parsed; `[DONE]` and events without JSON data are left out.
fn events(body: &[u8]) -> Result<Vec<Value>, &'static str> {
    let mut events = Vec::new();
    let mut broken = false;
    let mut scanner = Sse::default();
    let mut each = |item: SseItem<'_>| match item {
        SseItem::Event(event) if event.data == b"[DONE]" => {}
        SseItem::Event(event) => match serde_json::from_slice(event.data) {
            Ok(value) => events.push(value),
            Err(_) => broken = true,
        },
        SseItem::TooLong => broken = true,
        _ => {}
    };
    scanner.feed(body, &mut each);
    scanner.finish(&mut each);
    if broken {
        Err("an event of the stream is not JSON")
    } else {
        Ok(events)
    }
}

fn directives(headers: &HeaderMap) -> Directives {
    let mut directives = Directives::default();
    for value in headers.get_all(CACHE_CONTROL) {
        let Ok(value) = value.to_str() else { continue };
        for directive in value.split(',').map(str::trim) {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.to_ascii_lowercase().as_str() {
                "no-store" => directives.no_store = true,
                "no-cache" => directives.no_cache = true,
                "stale-if-error" => {
                    directives.stale_if_error = argument
                        .trim_matches('"')
                        .parse()
                        .ok()
                        .map(Duration::from_secs);
                }
                _ => {}
            }
        }
    }
    directives
}

/// Whether the response says that no model made it for this request: it has an age (RFC 9111 section
/// 5.1; some servers in between add one of zero to what they fetched just now), or a hit (RFC 9211).
fn is_from_a_cache(headers: &HeaderMap) -> bool {
    let is_old = |age: &HeaderValue| age.as_bytes() != b"0";
    let is_hit = |status: &HeaderValue| {
        let members = status.as_bytes().split(|byte| b",;".contains(byte));
        members
            .map(<[u8]>::trim_ascii)
            .any(|member| member == b"hit")
    };
    headers.get_all(AGE).iter().any(is_old) || headers.get_all(CACHE_STATUS).iter().any(is_hit)
}

fn fresh_id(form: Form) -> String {
    let random = fastrand::u128(..);
    match form {
        Form::OpenAi => format!("chatcmpl-backstop-{random:032x}"),
        Form::Anthropic => format!("msg_backstop_{random:032x}"),
    }
}

/// Seconds since the Unix epoch, for the field `created`.
#[expect(
    clippy::disallowed_methods,
    reason = "a label for people; nothing is decided by it"
)]
fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since_epoch| since_epoch.as_secs())
}

/// Appends an event.
fn event(stream: &mut String, name: Option<&str>, data: &Value) {
    if let Some(name) = name {
        stream.push_str("event: ");
        stream.push_str(name);
        stream.push('\n');
    }
    stream.push_str("data: ");
    stream.push_str(&data.to_string());
    stream.push_str("\n\n");
}

/// Appends the text that `from` has under `key` to the text that `to` has.
fn append(to: &mut Map<String, Value>, from: &Map<String, Value>, key: &str) {
    let Some(text) = from.get(key).and_then(Value::as_str) else {
        return;
    };
    match to.get_mut(key) {
        Some(Value::String(whole)) => whole.push_str(text),
        _ => {
            to.insert(key.to_owned(), Value::from(text));
        }
    }
}

#[cfg(test)]
mod tests;
