//! Finds what an error body reports, whatever the envelope.
//!
//! Only the places where providers put an error are read, never the whole text: a validation error
//! echoes the request, and words of an echoed prompt must decide nothing. The known envelopes are
//! listed in `docs/wire.md`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::embedded;
use crate::{Provider, hints};

/// What an error body is, and what it reports.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) shape: Shape,
    /// From the outermost to the innermost.
    pub(super) reports: Vec<Report>,
}

/// What kind of text a body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing at all.
    #[default]
    Empty,
    /// Only white space: a keep-alive that nothing followed.
    Blank,
    Html,
    Text,
    Json,
}

/// One error found in a body.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The status it stands under: the response's, or its own inside a stream or a 200.
    pub(super) status: Option<u16>,
    /// The typed words: codes, types, reasons; in lower case.
    words: Vec<String>,
    /// The message in lower case, without what it quotes.
    message: String,
    /// The message as sent.
    pub(super) text: String,
    /// The wait that a typed field asks for.
    pub(super) delay: Option<Duration>,
    /// The time until which a typed field asks to wait: an epoch or a date.
    pub(super) until: Option<String>,
    /// Limit headers that a gateway copied into the body.
    pub(super) headers: Option<HeaderMap>,
    /// What a typed field says of asking again.
    pub(super) retryable: Option<bool>,
    /// Whose envelope it is, as far as the shape tells.
    pub(super) family: Provider,
    /// A gateway passes it on from a provider that it has its own account with.
    pub(super) relayed: bool,
}

/// How deep is searched: gateways wrap what they relay, each of which takes two or three steps, and
/// ten gateways are the most that any client is known to unwrap (gemini-cli).
const MAX_DEPTH: usize = 32;
/// How many errors of one body are looked at.
const MAX_REPORTS: usize = 24;
/// How many objects are looked into. Each of ten gateways takes two or three; without a bound an
/// object that says nothing would be looked into twice at each level, which doubles the work with
/// every two of them.
const MAX_VISITS: usize = 256;
/// How many typed words of one error are kept.
const MAX_WORDS: usize = 24;
/// How much of a message is searched for phrases; what follows is an echo.
const MAX_MESSAGE: usize = 4096;

/// Reads a body that is, or may be, an error.
///
/// `status` is the response's when it is itself an error status.
pub(super) fn read(status: Option<u16>, body: &[u8]) -> Envelope {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.is_empty() {
        return Envelope::default();
    }
    let body = body.trim_ascii();
    if body.is_empty() {
        return Envelope {
            shape: Shape::Blank,
            reports: Vec::new(),
        };
    }
    let parsed = match body.first() {
        Some(b'{' | b'[' | b'"') => serde_json::from_slice(body).ok().or_else(|| {
            // A bounded read may have cut the body.
            let text = String::from_utf8_lossy(body);
            embedded::value_at_start(&text)
        }),
        _ => None,
    };
    if let Some(value) = parsed {
        return Envelope {
            shape: Shape::Json,
            reports: read_value(status, &value),
        };
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_MESSAGE)]);
    let (shape, message) = match html_title(&text) {
        Some(title) => (Shape::Html, title),
        None => (Shape::Text, &*text),
    };
    let mut reader = Reader::new(status);
    let mut report = Report::under(status);
    report.set_message(message);
    reader.reports.push(report);
    if shape == Shape::Text {
        reader.embedded(message, 1);
    }
    Envelope {
        shape,
        reports: reader.reports,
    }
}

/// Reads an error that is already parsed.
pub(super) fn read_value(status: Option<u16>, value: &Value) -> Vec<Report> {
    let mut reader = Reader::new(status);
    reader.any(value, 0);
    reader.reports
}

struct Reader {
    status: Option<u16>,
    reports: Vec<Report>,
    visits: usize,
}

// === impl Reader ===

impl Reader {
    const fn new(status: Option<u16>) -> Self {
        Self {
            status,
            reports: Vec::new(),
            visits: 0,
        }
    }

    /// Whether one more object may be looked into, at this depth.
    fn may_visit(&mut self, depth: usize) -> bool {
        let may =
            depth <= MAX_DEPTH && self.reports.len() < MAX_REPORTS && self.visits < MAX_VISITS;
        self.visits += usize::from(may);
        may
    }

    /// A value that stands where a whole answer or event does.
    fn any(&mut self, value: &Value, depth: usize) {
        if !self.may_visit(depth) {
            return;
        }
        match value {
            Value::Array(items) => {
                for item in items.iter().take(MAX_REPORTS) {
                    if item.is_object() || items.len() == 1 {
                        self.any(item, depth + 1);
                    }
                }
            }
            Value::String(text) => self.prose(text, depth),
            Value::Object(map) => self.object(map, depth),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// An error that is text alone.
    fn prose(&mut self, text: &str, depth: usize) {
        let mut report = Report::under(self.status);
        report.set_message(text);
        if !text.contains(char::is_whitespace) {
            report.add_word(text);
        }
        self.push(report);
        self.embedded(text, depth + 1);
    }

    /// A top-level object: what wraps the error.
    fn object(&mut self, map: &Map<String, Value>, depth: usize) {
        let before = self.reports.len();
        match map.get("error") {
            Some(Value::Object(error)) => {
                let family = if map.get("type").and_then(Value::as_str) == Some("error")
                    && map.get("sequence_number").is_none()
                {
                    Provider::Anthropic
                } else {
                    Provider::Unknown
                };
                self.error(error, Some(map), family, depth + 1);
            }
            Some(Value::String(text)) => {
                let mut report = Report::under(self.status);
                report.take_words(map);
                report.take_fields(map);
                report.set_message(text);
                if let Some(more) = map.get("message").and_then(Value::as_str) {
                    report.add_message(more);
                }
                self.push(report);
                self.embedded(text, depth + 1);
            }
            Some(error @ Value::Array(_)) => self.any(error, depth + 1),
            Some(Value::Number(number)) => {
                let mut report = Report::under(self.status);
                report.take_words(map);
                report.take_fields(map);
                report.add_word(&number.to_string());
                report.add_message(str_of(map, "message"));
                if report.status.is_none() {
                    let status = number.as_u64().and_then(|code| u16::try_from(code).ok());
                    report.status = status.filter(|code| (400..600).contains(code));
                }
                self.push(report);
            }
            _ => {}
        }
        if let Some(Value::Object(base)) = map.get("base_resp")
            && base.get("status_code").and_then(Value::as_i64) != Some(0)
        {
            let mut report = Report::under(self.status);
            report.family = Provider::MiniMax;
            report.take_words(base);
            report.set_message(str_of(base, "status_msg"));
            self.push(report);
        }
        if let Some(Value::Array(errors)) = map.get("errors") {
            for error in errors.iter().take(4) {
                match error {
                    Value::Object(error) => {
                        let family = if map.contains_key("success") {
                            Provider::Cloudflare
                        } else {
                            Provider::Unknown
                        };
                        self.error(error, None, family, depth + 1);
                    }
                    Value::String(text) => self.prose(text, depth + 1),
                    _ => {}
                }
            }
        }
        // A chunk or an answer with an error beside its choices, and the Responses object that an
        // event carries.
        if let Some(Value::Array(choices)) = map.get("choices") {
            for choice in choices.iter().filter_map(Value::as_object).take(4) {
                if let Some(error @ Value::Object(_)) = choice.get("error") {
                    self.wrapped(error, depth);
                }
            }
        }
        for key in ["response", "x_groq"] {
            if let Some(Value::Object(inner)) = map.get(key)
                && let Some(error @ (Value::Object(_) | Value::String(_))) = inner.get("error")
            {
                self.wrapped(error, depth);
            }
        }
        if self.reports.len() == before {
            self.error(map, None, Provider::Unknown, depth + 1);
        }
    }

    /// An error that stands under a key of something else.
    fn wrapped(&mut self, error: &Value, depth: usize) {
        match error {
            Value::Object(error) => self.error(error, None, Provider::Unknown, depth + 1),
            Value::String(text) => self.prose(text, depth + 1),
            _ => {}
        }
    }

    /// The error object itself; `outer` is the object around it.
    fn error(
        &mut self,
        error: &Map<String, Value>,
        outer: Option<&Map<String, Value>>,
        family: Provider,
        depth: usize,
    ) {
        if !self.may_visit(depth) {
            return;
        }
        let mut report = Report::under(self.status);
        report.family = family;
        report.take_words(error);
        report.take_fields(error);
        if let Some(outer) = outer {
            report.take_fields(outer);
            for key in ["error_type", "code", "type"] {
                if let Some(word) = outer.get(key).and_then(Value::as_str) {
                    report.add_word(word);
                }
            }
        }
        let mut inside: Vec<&str> = Vec::new();
        for key in [
            "message",
            "Message",
            "msg",
            "error_message",
            "error_msg",
            "error",
        ] {
            match error.get(key) {
                Some(Value::String(text)) => {
                    report.add_message(text);
                    inside.push(text);
                }
                Some(Value::Object(object)) => report.take_detail(object),
                _ => {}
            }
        }
        match error.get("detail") {
            Some(Value::String(text)) => {
                report.add_message(text);
                inside.push(text);
            }
            Some(Value::Object(object)) => {
                report.take_words(object);
                report.take_fields(object);
                report.take_detail(object);
            }
            Some(Value::Array(items)) => {
                for item in items.iter().filter_map(Value::as_object).take(4) {
                    report.take_violation(item);
                }
            }
            _ => {}
        }
        // RFC 9457.
        report.add_message(str_of(error, "title"));
        let mut raw = None;
        if let Some(Value::Object(metadata)) = error.get("metadata") {
            if metadata.contains_key("provider_name") || metadata.contains_key("limit_source") {
                report.family = Provider::OpenRouter;
            }
            report.take_metadata(metadata);
            raw = metadata.get("raw");
        }
        let family = report.family;
        self.push(report);
        for text in inside {
            self.embedded(text, depth + 1);
        }
        let before = self.reports.len();
        match raw {
            Some(Value::String(text)) => self.relayed(text, depth + 1),
            Some(Value::Object(map)) => self.object(map, depth + 1),
            _ => {}
        }
        for report in &mut self.reports[before..] {
            report.relayed = true;
        }
        if let Some(inner @ Value::Object(_)) = error.get("error") {
            let before = self.reports.len();
            self.any(inner, depth + 1);
            for report in &mut self.reports[before..] {
                if report.family == Provider::Unknown {
                    report.family = family;
                }
            }
        }
    }

    fn push(&mut self, report: Report) {
        if self.reports.len() < MAX_REPORTS && !report.is_empty() {
            self.reports.push(report);
        }
    }

    /// What a gateway relays verbatim: the provider's body, JSON or prose.
    fn relayed(&mut self, text: &str, depth: usize) {
        if let Some(value) = embedded::value_at_start(text.trim_start()) {
            self.relayed_value(&value, depth);
        } else if !text.is_empty() && depth <= MAX_DEPTH {
            self.prose(text, depth);
        }
    }

    /// An error written inside a message.
    fn embedded(&mut self, text: &str, depth: usize) {
        if depth <= MAX_DEPTH
            && self.reports.len() < MAX_REPORTS
            && let Some(value) = embedded::find(text)
        {
            self.relayed_value(&value, depth);
        }
    }

    /// A relayed error stands under its own status, when it has one.
    fn relayed_value(&mut self, value: &Value, depth: usize) {
        let status = self.status;
        let inner = match value {
            Value::Array(items) => items.first().and_then(Value::as_object),
            _ => value.as_object(),
        };
        let inner = inner.map(|map| match map.get("error") {
            Some(Value::Object(error)) => error,
            _ => map,
        });
        if let Some(own) = inner.and_then(own_status) {
            self.status = Some(own);
        }
        self.any(value, depth);
        self.status = status;
    }
}

// === impl Report ===

impl Report {
    pub(super) fn under(status: Option<u16>) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.message.is_empty() && self.delay.is_none()
    }

    /// Whether a typed field equals the word.
    pub(super) fn has_word(&self, word: &str) -> bool {
        self.words.iter().any(|known| known == word)
    }

    /// Whether the message contains the phrase.
    pub(super) fn says(&self, phrase: &str) -> bool {
        memchr::memmem::find(self.message.as_bytes(), phrase.as_bytes()).is_some()
    }

    /// Whether there is a message or a typed word.
    pub(super) fn says_anything(&self) -> bool {
        !self.is_empty()
    }

    pub(super) fn has_message(&self) -> bool {
        !self.message.is_empty()
    }

    pub(super) fn add_word(&mut self, word: &str) {
        let word = word.trim();
        // Python's `None` is written out by proxies.
        if self.words.len() < MAX_WORDS && !word.is_empty() && word != "None" && word.len() <= 160 {
            self.words.push(word.to_ascii_lowercase());
        }
    }

    pub(super) fn add_text(&mut self, text: &str) {
        self.add_message(text);
    }

    fn set_message(&mut self, text: &str) {
        self.message.clear();
        self.text.clear();
        self.add_message(text);
    }

    fn add_message(&mut self, text: &str) {
        let text = cut(text, MAX_MESSAGE);
        if text.is_empty() || self.text.len() > MAX_MESSAGE {
            return;
        }
        if !self.text.is_empty() {
            self.text.push('\n');
            self.message.push('\n');
        }
        self.text.push_str(text);
        let may_echo = matches!(self.status, None | Some(400 | 422));
        without_quotations(text, may_echo, &mut self.message);
    }

    /// A message that is an object: Mistral's `{"detail": [..]}`, an error in a `detail`.
    fn take_detail(&mut self, object: &Map<String, Value>) {
        for key in ["message", "msg", "detail", "error"] {
            match object.get(key) {
                Some(Value::String(text)) => self.add_message(text),
                Some(Value::Array(items)) => {
                    for item in items.iter().filter_map(Value::as_object).take(4) {
                        self.take_violation(item);
                    }
                }
                Some(Value::Object(inner)) => {
                    self.take_words(inner);
                    self.add_message(str_of(inner, "message"));
                }
                _ => {}
            }
        }
    }

    /// One of pydantic's findings. What was received is beside it, in `input`, and is not read.
    fn take_violation(&mut self, item: &Map<String, Value>) {
        self.add_word("validation_error");
        self.add_word(str_of(item, "type"));
        let place = item.get("loc").and_then(Value::as_array);
        if let Some(Value::String(parameter)) = place.and_then(|place| place.last()) {
            self.add_word(&format!("param:{parameter}"));
        }
        self.add_message(str_of(item, "msg"));
    }

    /// The typed fields of an error object.
    fn take_words(&mut self, map: &Map<String, Value>) {
        for key in [
            "code",
            "type",
            "status",
            "reason",
            "error_type",
            "errorType",
            "error_code",
            "errorCode",
            "status_code",
            "statusCode",
            "__type",
            "rate_limit_type",
            "limit_source",
        ] {
            match map.get(key) {
                Some(Value::String(word)) => {
                    let word = word.as_str();
                    if key == "__type" {
                        self.family = Provider::Bedrock;
                        self.add_word(exception_name(word));
                    } else if key == "limit_source" || key == "rate_limit_type" {
                        self.add_word(&format!("{key}:{word}"));
                    } else {
                        self.add_word(word);
                    }
                    if key == "status" && is_canonical(word) {
                        self.family = Provider::Google;
                    }
                }
                Some(Value::Number(number)) => self.add_word(&number.to_string()),
                _ => {}
            }
        }
        if let Some(word) = map.get("param").and_then(Value::as_str) {
            self.add_word(&format!("param:{word}"));
        }
        if self.status.is_none() {
            self.status = own_status(map);
        }
        for key in ["innererror", "inner_error"] {
            if let Some(Value::Object(inner)) = map.get(key)
                && let Some(word) = inner.get("code").and_then(Value::as_str)
            {
                self.add_word(word);
            }
        }
        if let Some(Value::Array(errors)) = map.get("errors") {
            for error in errors.iter().filter_map(Value::as_object).take(4) {
                if let Some(word) = error.get("reason").and_then(Value::as_str) {
                    self.add_word(word);
                }
            }
        }
        if let Some(Value::Array(details)) = map.get("details") {
            for detail in details.iter().filter_map(Value::as_object).take(12) {
                self.take_google_detail(detail);
            }
        }
    }

    /// One of google.rpc's error details.
    fn take_google_detail(&mut self, detail: &Map<String, Value>) {
        let Some(url) = detail.get("@type").and_then(Value::as_str) else {
            return;
        };
        self.family = Provider::Google;
        match url.rsplit(['/', '.']).next().unwrap_or_default() {
            "RetryInfo" => {
                let delay = match detail.get("retryDelay") {
                    Some(Value::String(text)) => hints::duration(text),
                    Some(Value::Object(parts)) => hints::seconds_and_nanos(
                        parts.get("seconds").and_then(as_f64).unwrap_or_default(),
                        parts.get("nanos").and_then(as_f64).unwrap_or_default(),
                    ),
                    _ => None,
                };
                self.set_delay(delay);
            }
            "QuotaFailure" => {
                let violations = detail.get("violations").and_then(Value::as_array);
                for violation in violations
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object)
                    .take(12)
                {
                    for key in ["quotaId", "quotaMetric", "subject", "description"] {
                        self.take_quota(str_of(violation, key));
                    }
                    if violation.get("quotaValue").is_some_and(is_zero) {
                        self.add_word("quota:zero");
                    }
                }
            }
            "ErrorInfo" => {
                self.add_word(str_of(detail, "reason"));
                if let Some(Value::Object(metadata)) = detail.get("metadata") {
                    for key in ["quota_limit", "quotaId", "quota_id"] {
                        self.take_quota(str_of(metadata, key));
                    }
                    if metadata.get("quota_limit_value").is_some_and(is_zero) {
                        self.add_word("quota:zero");
                    }
                    if self.delay.is_none() {
                        let delay = hints::duration(str_of(metadata, "quotaResetDelay"));
                        self.set_delay(delay);
                    }
                }
            }
            _ => {}
        }
    }

    /// The window that a quota's name states.
    pub(super) fn take_quota(&mut self, name: &str) {
        let name = name.to_ascii_lowercase().replace(['_', '-', ' '], "");
        for (part, word) in [
            ("perday", "quota:day"),
            ("daily", "quota:day"),
            ("perhour", "quota:hour"),
            ("permonth", "quota:month"),
            ("monthly", "quota:month"),
            ("perminute", "quota:minute"),
            ("persecond", "quota:second"),
        ] {
            if name.contains(part) && !self.has_word(word) {
                self.add_word(word);
            }
        }
    }

    /// The typed fields that state a wait or advise on asking again.
    fn take_fields(&mut self, map: &Map<String, Value>) {
        for key in ["retry_after_ms", "retryAfterMs"] {
            let delay = map.get(key).and_then(as_f64).and_then(hints::millis);
            self.set_delay(delay);
        }
        for key in [
            "retry_after",
            "retryAfter",
            "retry_after_seconds",
            // ChatGPT's plans.
            "resets_in_seconds",
            "estimated_time",
        ] {
            let delay = match map.get(key) {
                Some(Value::String(text)) => hints::duration_or_seconds(text),
                Some(value) => as_f64(value).and_then(hints::seconds),
                None => None,
            };
            self.set_delay(delay);
        }
        for key in ["resets_at", "reset_at"] {
            let until = match map.get(key) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(Value::Number(number)) => Some(number.to_string()),
                _ => None,
            };
            self.until = self.until.take().or(until);
        }
        if map.contains_key("estimated_time") {
            self.add_word("estimated_time");
        }
        if let Some(Value::Object(availability)) = map.get("availability") {
            self.add_word(str_of(availability, "code"));
            self.take_fields(availability);
        }
        // OpenRouter, and Cloudflare for its own errors.
        if let Some(advice) = map.get("retryable").and_then(Value::as_bool) {
            self.retryable = Some(advice);
        }
    }

    /// OpenRouter's `metadata`, and what others put under that name.
    fn take_metadata(&mut self, metadata: &Map<String, Value>) {
        for key in ["error_type", "provider_code", "code"] {
            match metadata.get(key) {
                Some(Value::String(word)) => self.add_word(word),
                Some(Value::Number(number)) => self.add_word(&number.to_string()),
                _ => {}
            }
        }
        if let Some(source) = metadata.get("limit_source").and_then(Value::as_str) {
            self.add_word(&format!("limit_source:{source}"));
        }
        if metadata.contains_key("reasons") || metadata.contains_key("flagged_input") {
            self.add_word("moderation");
        }
        self.take_fields(metadata);
        if let Some(Value::Object(copied)) = metadata.get("headers") {
            let mut headers = HeaderMap::new();
            for (name, value) in copied.iter().take(32) {
                let value = match value {
                    Value::String(text) => HeaderValue::from_str(text).ok(),
                    Value::Number(number) => HeaderValue::from_str(&number.to_string()).ok(),
                    _ => None,
                };
                if let (Ok(name), Some(value)) = (HeaderName::try_from(name.as_str()), value) {
                    headers.insert(name, value);
                }
            }
            self.headers = Some(headers);
        }
    }

    pub(super) fn set_delay(&mut self, delay: Option<Duration>) {
        if self.delay.is_none() {
            self.delay = delay;
        }
    }
}

/// The text of a key, or nothing.
fn str_of<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn is_zero(value: &Value) -> bool {
    as_f64(value) == Some(0.0)
}

/// The HTTP status that an error object states of itself, as a number or in digits.
fn own_status(map: &Map<String, Value>) -> Option<u16> {
    ["code", "status", "statusCode", "status_code"]
        .into_iter()
        .filter_map(|key| match map.get(key)? {
            Value::Number(number) => u16::try_from(number.as_u64()?).ok(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        })
        .find(|code| (400..600).contains(code))
}

/// The bare name of an AWS exception: without a namespace before `#` and an address after `:`.
pub(super) fn exception_name(name: &str) -> &str {
    let name = name.split(':').next().unwrap_or_default();
    name.rsplit('#').next().unwrap_or_default().trim()
}

/// The canonical codes of google.rpc, as `status` spells them.
fn is_canonical(word: &str) -> bool {
    matches!(
        word,
        "CANCELLED"
            | "UNKNOWN"
            | "INVALID_ARGUMENT"
            | "DEADLINE_EXCEEDED"
            | "NOT_FOUND"
            | "ALREADY_EXISTS"
            | "PERMISSION_DENIED"
            | "RESOURCE_EXHAUSTED"
            | "FAILED_PRECONDITION"
            | "ABORTED"
            | "OUT_OF_RANGE"
            | "UNIMPLEMENTED"
            | "INTERNAL"
            | "UNAVAILABLE"
            | "DATA_LOSS"
            | "UNAUTHENTICATED"
    )
}

/// The title of a page, when the text is one.
fn html_title(text: &str) -> Option<&str> {
    let start = text.get(..text.len().min(15)).unwrap_or(text);
    let start = start.to_ascii_lowercase();
    if !(start.starts_with("<!doctype") || start.starts_with("<html") || start.starts_with("<head"))
    {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title>").map_or("", |open| {
        let open = open + "<title>".len();
        let close = lower[open..].find("</title>").unwrap_or(0);
        text.get(open..open + close).unwrap_or_default()
    });
    Some(title.trim())
}

/// The longest prefix of at most `max` bytes that ends between characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Appends a message in lower case, with typographic apostrophes made plain and without quoted
/// passages of more than one word: they are what the error is about, not what it says. Where the
/// error `may_echo` the request, an object is such a passage as well.
fn without_quotations(text: &str, may_echo: bool, into: &mut String) {
    into.reserve(text.len());
    let mut rest = text;
    let mut before = ' ';
    // Where one apostrophe closes nothing no later one does, and to look each time would be quadratic.
    let mut may_close = true;
    while let Some(open) = rest.chars().next() {
        rest = &rest[open.len_utf8()..];
        let close = match open {
            '"' | '`' => Some(open),
            '\'' if may_close && !before.is_alphanumeric() => Some(open),
            '\u{201c}' => Some('\u{201d}'),
            '{' if may_echo => Some('}'),
            _ => None,
        };
        before = open;
        let end = close.and_then(|close| {
            let ends = |(at, found): &(usize, char)| {
                let after = || rest[at + found.len_utf8()..].chars().next();
                *found == close && (close != '\'' || !after().is_some_and(char::is_alphanumeric))
            };
            let mut places = rest.char_indices();
            // Objects nest: the last brace ends the passage.
            let end = if close == '}' {
                places.rfind(ends)
            } else {
                places.find(ends)
            };
            end.map(|(at, _)| at)
        });
        may_close &= end.is_some() || close != Some('\'');
        match (close, end) {
            (Some(close), Some(end)) => {
                let inside = &rest[..end];
                if inside.contains(char::is_whitespace) {
                    into.push('\u{fffc}');
                } else {
                    into.push(open);
                    into.extend(inside.chars().map(|c| c.to_ascii_lowercase()));
                    into.push(close);
                }
                rest = &rest[end + close.len_utf8()..];
            }
            (Some('"' | '\u{201d}' | '}'), None) => {
                // A quotation that was cut: nothing after it is the error's own.
                into.push('\u{fffc}');
                return;
            }
            _ => into.push(match open {
                '\u{2019}' => '\'',
                other => other.to_ascii_lowercase(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each level may be the error or what wraps it, and to try both would double the work with it.
    #[test]
    fn a_few_bytes_that_nest_and_say_nothing_are_given_up() {
        for (open, close) in [("{\"error\":", "}"), ("[{\"error\":", "}]")] {
            let depth = 50;
            let body = [open.repeat(depth), "{}".into(), close.repeat(depth)].concat();
            let value = serde_json::from_str(&body).unwrap();
            let mut reader = Reader::new(Some(500));
            reader.any(&value, 0);
            assert!(reader.visits <= 256, "{}", reader.visits);
        }
    }
}
