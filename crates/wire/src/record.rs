//! Recorded answers: read from JSON lines or from what `curl -i` prints, and classified by the
//! same code as live ones.

use std::{borrow::Cow, fmt, time::SystemTime};

use backstop_core::{Kind, Outcome};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Provider,
    errors::{self, Answer},
    hints,
};

/// One recorded answer.
///
/// [`Record::from_json`] reads the form of the corpora in this repository, one JSON object a line:
///
/// | key | meaning |
/// |---|---|
/// | `id` | any text, repeated in the verdict |
/// | `provider` | the family's name ([`Provider::from_name`]) |
/// | `status` | the HTTP status |
/// | `stream` | whether a stream was asked for |
/// | `headers`, `trailers` | objects of names and values |
/// | `body` | the text of the body |
/// | `body_b64` | the body in base64, for binary ones; goes before `body` |
/// | `now` | when it arrived (RFC 3339), for answers without a `date` header |
///
/// Other keys are ignored.
#[derive(Clone, Debug)]
pub struct Record {
    id: Value,
    provider: Provider,
    stream: bool,
    status: StatusCode,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
    body: Bytes,
    received: Option<SystemTime>,
}

/// Why a record cannot be read.
#[derive(Debug)]
pub struct RecordError(Why);

#[derive(Debug)]
enum Why {
    Json(serde_json::Error),
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
    stream: Option<bool>,
    status: u16,
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
        let line: Line<'_> = serde_json::from_str(line).map_err(|e| RecordError(Why::Json(e)))?;
        let body = match (line.body_b64, line.body) {
            (Some(encoded), _) => base64::engine::general_purpose::STANDARD
                .decode(encoded.as_bytes())
                .map_err(|_| RecordError(Why::Base64))?
                .into(),
            (None, Some(text)) => Bytes::from(text),
            (None, None) => Bytes::new(),
        };
        Ok(Self {
            id: line.id,
            provider: line
                .provider
                .as_deref()
                .map_or(Provider::Unknown, Provider::from_name),
            stream: line.stream.unwrap_or(false),
            status: StatusCode::from_u16(line.status).map_err(|_| RecordError(Why::Status))?,
            headers: line.headers.as_ref().map(header_map).unwrap_or_default(),
            trailers: line.trailers.as_ref().map(header_map),
            body,
            received: line.now.as_deref().and_then(hints::date),
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
            stream: false,
            status,
            headers,
            trailers: None,
            body: Bytes::copy_from_slice(rest),
            received: None,
        })
    }

    /// Replaces the family, for records that do not name it.
    #[must_use]
    pub const fn with_provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// What the recorded answer stands for.
    #[must_use]
    pub fn classify(&self) -> Outcome {
        let _ = self.stream;
        errors::classify_answer(&Answer {
            provider: self.provider,
            status: self.status,
            headers: &self.headers,
            body: &self.body,
            trailers: self.trailers.as_ref(),
            received: self.received,
        })
    }

    /// The verdict as one line of JSON: `id`, `kind`, `retry_after_ms`, `scope`, `failover`,
    /// `same_target_retry`, `because`.
    #[must_use]
    pub fn verdict(&self, outcome: &Outcome) -> String {
        let mut line = Map::new();
        line.insert("id".into(), self.id.clone());
        line.insert("kind".into(), kind_word(outcome.kind()).into());
        line.insert(
            "retry_after_ms".into(),
            retry_after_ms(outcome).map_or(Value::Null, Value::from),
        );
        let scope = if outcome.is_success() {
            Value::Null
        } else {
            outcome.scope().as_str().into()
        };
        line.insert("scope".into(), scope);
        line.insert("failover".into(), outcome.may_fail_over().into());
        line.insert("same_target_retry".into(), outcome.may_repeat().into());
        line.insert("because".into(), outcome.evidence().into());
        Value::Object(line).to_string()
    }
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
            Why::Json(_) => "the line is not a record in JSON",
            Why::Status => "`status` is no HTTP status",
            Why::Base64 => "`body_b64` is not base64",
            Why::Head => "the text does not begin with an HTTP status line",
        })
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Why::Json(error) => Some(error),
            _ => None,
        }
    }
}
