//! Recorded answers: read from JSON lines or from what `curl -i` prints, and classified by the
//! same code as live ones.

use std::{borrow::Cow, fmt, num::NonZeroU32};

use backstop_core::{ClassifyStream, End, Headroom, Kind, Outcome};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ClassifyHttp, Dialect, Provider, headroom, hints};

/// One recorded answer.
///
/// [`Record::from_json`] reads the form of the corpora in this repository, one JSON object a line:
///
/// | key | meaning |
/// |---|---|
/// | `id` | any text, repeated in the verdict |
/// | `provider` | the family's name ([`Provider::from_name`]) |
/// | `status` | the HTTP status; without one the record is of a stream after a 200 |
/// | `api` | the API's name ([`Dialect`]), after the provider's where there is no `provider`; else it is found from the body |
/// | `headers`, `trailers` | objects of names and values |
/// | `body` | the text of the body |
/// | `body_b64` | the body in base64, for binary ones; goes before `body` |
/// | `now` | the time (RFC 3339) for an answer without a `date` header |
///
/// Other keys are ignored. `Debug` shows no header and no byte of the body.
#[derive(Clone)]
pub struct Record {
    id: Value,
    provider: Provider,
    dialect: Dialect,
    status: StatusCode,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
    body: Bytes,
}

/// Why a record cannot be read.
#[derive(Debug)]
pub struct RecordError(Why);

#[derive(Debug)]
enum Why {
    NoObject,
    /// `serde_json`'s own error quotes what it met.
    Json,
    NoAnswer,
    Status,
    Base64,
    Head,
}

/// What a line of JSON holds.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: Value,
    #[serde(default, borrow)]
    provider: Option<Cow<'a, str>>,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    trailers: Option<Map<String, Value>>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_b64: Option<String>,
    #[serde(default)]
    now: Option<String>,
    #[serde(default, borrow)]
    api: Option<Cow<'a, str>>,
}

// === impl Record ===

impl Record {
    /// Reads a record from a line of JSON.
    ///
    /// # Errors
    ///
    /// When the line is not such an object, its status is none, or `body_b64` is not base64.
    pub fn from_json(line: &str) -> Result<Self, RecordError> {
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        if !line.trim_start().starts_with('{') {
            return Err(RecordError(Why::NoObject));
        }
        let line: Line<'_> = serde_json::from_str(line).map_err(|_| RecordError(Why::Json))?;
        let body = match (line.body_b64, line.body) {
            (Some(encoded), _) => base64::engine::general_purpose::STANDARD
                .decode(encoded.as_bytes())
                .map_err(|_| RecordError(Why::Base64))?
                .into(),
            (None, Some(text)) => Bytes::from(text),
            (None, None) => Bytes::new(),
        };
        if line.status.is_none() && body.is_empty() {
            return Err(RecordError(Why::NoAnswer));
        }
        let api = line.api.as_deref().unwrap_or_default();
        let (provider, api) = match (line.provider.as_deref(), api.split_once('/')) {
            (Some(name), _) => (Provider::from_name(name), api),
            (None, Some((name, rest))) if Provider::from_name(name) != Provider::Unknown => {
                (Provider::from_name(name), rest)
            }
            (None, _) => (Provider::Unknown, api),
        };
        let mut headers = line.headers.as_ref().map(header_map).unwrap_or_default();
        if let Some(now) = line.now.as_deref().and_then(hints::date)
            && let Ok(now) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
        {
            headers.entry(header::DATE).or_insert(now);
        }
        let dialect = dialect_of_api(api, provider)
            .unwrap_or_else(|| dialect_of_body(provider, &headers, &body));
        if line.status.is_none() {
            let content_type = HeaderValue::from_static(stream_type(dialect));
            headers.entry(header::CONTENT_TYPE).or_insert(content_type);
        }
        Ok(Self {
            id: line.id,
            provider,
            dialect,
            status: StatusCode::from_u16(line.status.unwrap_or(200))
                .map_err(|_| RecordError(Why::Status))?,
            headers,
            trailers: line.trailers.as_ref().map(header_map),
            body,
        })
    }

    /// Reads a whole HTTP response as `curl -i` prints it. Of several heads (a redirect, `100
    /// Continue`, a proxy's answer to `CONNECT`) the last counts.
    ///
    /// # Errors
    ///
    /// When the text does not begin with an HTTP status line.
    pub fn from_response(text: &[u8]) -> Result<Self, RecordError> {
        let mut rest = text;
        let mut head = None;
        while rest.starts_with(b"HTTP/") {
            let (lines, after) = split_head(rest);
            head = Some(lines);
            rest = after;
        }
        let head = head.ok_or(RecordError(Why::Head))?;
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = lines
            .next()
            .and_then(|line| line.split(|byte| *byte == b' ').nth(1))
            .and_then(|code| StatusCode::from_bytes(code).ok())
            .ok_or(RecordError(Why::Head))?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let Some(colon) = memchr::memchr(b':', line) else {
                continue;
            };
            let name = HeaderName::from_bytes(line[..colon].trim_ascii());
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        Ok(Self {
            id: Value::Null,
            provider: Provider::Unknown,
            dialect: dialect_of_body(Provider::Unknown, &headers, rest),
            status,
            headers,
            trailers: None,
            body: Bytes::copy_from_slice(rest),
        })
    }

    /// Replaces the family, for records that do not name it.
    #[must_use]
    pub const fn with_provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// What the recorded answer stands for, as [`ClassifyHttp`] sees it.
    ///
    /// A failure after the first token is nobody's to take over, so that the advice to do so is
    /// withdrawn.
    #[must_use]
    pub fn classify(&self) -> Outcome {
        let classify = ClassifyHttp::new(self.dialect).provider(self.provider);
        // The request is not on record, and next to nobody asks for more than one.
        let choices = Some(NonZeroU32::MIN);
        let mut reader = classify.reader(self.status, &self.headers).choices(choices);
        let step = reader.on_data(&self.body);
        let outcome = reader.on_end(End::Clean(self.trailers.as_ref()));
        if step.commits() {
            outcome.with_fail_over(false).with_repeat(false)
        } else {
            outcome
        }
    }

    /// The `id` as text, when there is one.
    #[must_use]
    pub fn id(&self) -> Option<Cow<'_, str>> {
        match &self.id {
            Value::Null => None,
            Value::String(id) => Some(Cow::Borrowed(id)),
            other => Some(Cow::Owned(other.to_string())),
        }
    }

    /// What the recorded answer says of the limits that are left.
    #[must_use]
    pub fn headroom(&self) -> Option<Headroom> {
        headroom::read(self.provider, &self.headers)
    }

    /// The verdict as one line of JSON: `id`, `kind`, `retry_after_ms`, `scope`, `failover`,
    /// `same_target_retry`, `because`.
    #[must_use]
    pub fn verdict(&self, outcome: &Outcome) -> String {
        let verdict = Verdict {
            id: &self.id,
            kind: kind_word(outcome.kind()),
            retry_after_ms: retry_after_ms(outcome),
            scope: Some(outcome.scope().as_str()).filter(|_| !outcome.is_success()),
            failover: outcome.may_fail_over(),
            same_target_retry: outcome.may_repeat(),
            because: outcome.evidence(),
        };
        // Text, numbers and what was read as JSON: nothing that can fail to be written.
        serde_json::to_string(&verdict).unwrap_or_default()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A count only: the bytes are somebody's answer, and headers carry keys.
        f.debug_struct("Record")
            .field("id", &self.id)
            .field("provider", &self.provider)
            .field("dialect", &self.dialect)
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A verdict, in the order in which its keys are written.
#[derive(Serialize)]
struct Verdict<'a> {
    id: &'a Value,
    kind: &'static str,
    retry_after_ms: Option<u64>,
    scope: Option<&'static str>,
    failover: bool,
    same_target_retry: bool,
    because: &'static str,
}

/// The wait in whole milliseconds, rounded to the nearest.
fn retry_after_ms(outcome: &Outcome) -> Option<u64> {
    let delay = outcome.retry_after()?.delay;
    let millis = delay.as_nanos().saturating_add(500_000) / 1_000_000;
    u64::try_from(millis).ok()
}

/// The word of a kind in records: what was provably not processed reads as unavailable.
fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::NotProcessed => Kind::Unavailable.as_str(),
        other => other.as_str(),
    }
}

/// The dialect of an API by the name that records call it.
fn dialect_of_api(api: &str, provider: Provider) -> Option<Dialect> {
    let path = api.split('?').next().unwrap_or_default();
    Some(match path {
        "responses" => Dialect::OpenAiResponses,
        "messages" => Dialect::Anthropic,
        "generateContent" | "streamGenerateContent" | "cloudcode" => Dialect::Gemini,
        "v2/chat" => Dialect::Cohere,
        "api/chat" | "api/generate" => Dialect::Ollama,
        "converse" | "converse-stream" | "ConverseStream" => Dialect::BedrockConverse,
        "chat" | "v1/chat" | "completions" | "openai-compat" => match provider {
            Provider::Cohere => return None,
            _ => Dialect::OpenAiChat,
        },
        _ => return None,
    })
}

/// The media type of a dialect's streams.
const fn stream_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Ollama => "application/x-ndjson",
        Dialect::BedrockConverse => "application/vnd.amazon.eventstream",
        _ => "text/event-stream",
    }
}

/// The dialect that a body looks like, else the one that the provider speaks by itself.
fn dialect_of_body(provider: Provider, headers: &HeaderMap, body: &[u8]) -> Dialect {
    const SIGNS: &[(&[u8], Dialect)] = &[
        (b"\"type\":\"response.", Dialect::OpenAiResponses),
        (b"\"chat.completion", Dialect::OpenAiChat),
        (b"\"type\":\"message_start\"", Dialect::Anthropic),
        (b"\"type\":\"message-start\"", Dialect::Cohere),
        (b"\"candidates\"", Dialect::Gemini),
        (b"\"promptFeedback\"", Dialect::Gemini),
        (b"\"choices\"", Dialect::OpenAiChat),
    ];
    let kind = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    if kind.starts_with(b"application/vnd.amazon.eventstream") {
        return Dialect::BedrockConverse;
    }
    if kind.starts_with(b"application/x-ndjson") || kind.starts_with(b"application/ndjson") {
        return Dialect::Ollama;
    }
    let start = &body[..body.len().min(4096)];
    let sign = SIGNS
        .iter()
        .find(|(sign, _)| memchr::memmem::find(start, sign).is_some());
    if let Some((_, dialect)) = sign {
        return *dialect;
    }
    match provider {
        Provider::Anthropic => Dialect::Anthropic,
        Provider::Google => Dialect::Gemini,
        Provider::Cohere => Dialect::Cohere,
        Provider::Ollama => Dialect::Ollama,
        Provider::Bedrock => Dialect::BedrockConverse,
        _ => Dialect::OpenAiChat,
    }
}

fn header_map(map: &Map<String, Value>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in map {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
            continue;
        };
        let mut add = |value: &Value| {
            let value = match value {
                Value::String(text) => HeaderValue::from_bytes(text.as_bytes()),
                other => HeaderValue::from_bytes(other.to_string().as_bytes()),
            };
            if let Ok(value) = value {
                headers.append(name.clone(), value);
            }
        };
        match value {
            Value::Array(values) => values.iter().for_each(add),
            Value::Null => {}
            one => add(one),
        }
    }
    headers
}

/// The head's lines and what follows the empty line after them.
fn split_head(text: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    while let Some(end) = memchr::memchr(b'\n', &text[at..]) {
        if text[at..at + end].trim_ascii().is_empty() {
            return (&text[..at], &text[at + end + 1..]);
        }
        at += end + 1;
    }
    (text, b"")
}

// === impl RecordError ===

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Why::NoObject | Why::Json => "the line is not a record in JSON",
            Why::NoAnswer => "the record has neither a `status` nor the `body` of a stream",
            Why::Status => "`status` is no HTTP status",
            Why::Base64 => "`body_b64` is not base64",
            Why::Head => "the text does not begin with an HTTP status line",
        })
    }
}

impl std::error::Error for RecordError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_heads_the_last_counts() {
        let text =
            b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 307 Temporary Redirect\r\n\
            location: /x\r\n\r\nHTTP/2 429 \r\nRetry-After: 4\r\n\
            content-type: application/json\r\n\r\n{\"error\":{\"code\":\"insufficient_quota\"}}";
        let record = Record::from_response(text).unwrap();
        let outcome = record.classify();
        assert_eq!(outcome.kind(), Kind::QuotaExhausted);
        assert_eq!(retry_after_ms(&outcome), Some(4000));
    }

    #[test]
    fn a_stream_that_broke_after_its_first_token_is_nobodys_to_take_over() {
        let text = b"HTTP/1.1 200 OK\ncontent-type: text/event-stream\n\n\
            data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
        let outcome = Record::from_response(text).unwrap().classify();
        assert_eq!(outcome.kind(), Kind::Malformed);
        assert!(!outcome.may_fail_over() && !outcome.may_repeat());
    }

    #[test]
    fn a_record_without_a_status_is_of_a_stream() {
        for (api, body) in [
            (
                "openai/chat",
                "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n",
            ),
            (
                "ollama/api/chat",
                "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"done\":true}\n",
            ),
            (
                "gemini/streamGenerateContent?alt=sse",
                "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\"}]},\"finishReason\":\"STOP\"}]}\n\n",
            ),
        ] {
            let line = serde_json::json!({"api": api, "body": body}).to_string();
            let outcome = Record::from_json(&line).unwrap().classify();
            assert!(outcome.is_success(), "{api}: {}", outcome.evidence());
            // Half of it.
            let line = serde_json::json!({"api": api, "body": body[..body.len() / 2]}).to_string();
            let outcome = Record::from_json(&line).unwrap().classify();
            assert_eq!(outcome.kind(), Kind::Malformed, "{api}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_with_a_reason() {
        for (line, reason) in [
            ("{", "the line is not a record in JSON"),
            (
                "{\"id\":1}",
                "the record has neither a `status` nor the `body` of a stream",
            ),
            ("[]", "the line is not a record in JSON"),
            ("{\"status\":\"x\"}", "the line is not a record in JSON"),
            ("{\"status\":7}", "`status` is no HTTP status"),
            (
                "{\"status\":200,\"body_b64\":\"*\"}",
                "`body_b64` is not base64",
            ),
        ] {
            let error = Record::from_json(line).unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
        for text in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 abc\r\n\r\n", b"{}"] {
            let error = Record::from_response(text).unwrap_err();
            assert_eq!(error.to_string(), RecordError(Why::Head).to_string());
        }
    }

    #[test]
    fn neither_a_record_nor_its_error_quotes_what_was_said() {
        let line = r#"{"status":400,"headers":{"x-echo":"a-secret"},"body":"a-secret"}"#;
        let record = Record::from_json(line).unwrap();
        assert!(!format!("{record:?}").contains("a-secret"));
        let error = Record::from_json(r#"{"status":"a-secret"}"#).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(!format!("{error:?} {error} {source:?}").contains("a-secret"));
    }

    #[test]
    fn the_verdict_has_its_keys_in_order_and_keeps_the_id_as_it_is() {
        let record = Record::from_json(r#"{"id":{"a":[1]},"status":503}"#).unwrap();
        let verdict = record.verdict(&record.classify());
        let expected = r#"{"id":{"a":[1]},"kind":"unavailable","retry_after_ms":null,"scope":"provider","failover":true,"same_target_retry":true,"because":"status of a failing server"}"#;
        assert_eq!(verdict, expected);
        let success = Outcome::success();
        assert!(record.verdict(&success).contains(r#""scope":null"#));
    }
}
