//! Errors written inside other text: a provider's JSON in a gateway's message, or the printed form
//! of a Python dictionary.

use serde_json::Value;

/// How much text is searched and parsed.
const MAX_TEXT: usize = 64 * 1024;

/// What must stand right before an object for it to be a relayed error and not an echo.
const MARKS: &[&str] = &[
    "exception",
    "error",
    "upstream",
    "provider",
    "status",
    "response",
    "returned",
    "failed",
    "failure",
    "body",
];

/// What tells that the object is an echo of the request.
const ECHOES: &[&str] = &[
    "invalid",
    "validation",
    "expected",
    "input",
    "got ",
    "value",
];

/// The error object that a message relays, if it does.
///
/// The message is JSON as a whole, or ends in an object that a gateway's words introduce
/// (`OpenAIException - {...}`). An object after words of validation is an echo of the request and
/// is left alone.
pub(super) fn find(text: &str) -> Option<Value> {
    let text = text.trim_start();
    if text.starts_with(['{', '[']) {
        return value_at_start(text).filter(is_error_like);
    }
    let open = text.find(['{', '['])?;
    let (before, object) = text.split_at(open);
    let before = before.trim_end();
    let before = before
        .strip_suffix("b'")
        .or(before.strip_suffix('\''))
        .unwrap_or(before);
    let before = before.trim_end();
    if !before.ends_with(['-', ':', '=', '.', ',']) {
        return None;
    }
    let before = before.to_ascii_lowercase();
    if !MARKS.iter().any(|mark| before.contains(mark))
        || ECHOES.iter().any(|echo| before.contains(echo))
    {
        return None;
    }
    value_at_start(object).filter(is_error_like)
}

/// Whether an object has a key that errors have.
fn is_error_like(value: &Value) -> bool {
    let map = match value {
        Value::Array(items) => items.first().and_then(Value::as_object),
        other => other.as_object(),
    };
    map.is_some_and(|map| {
        ["error", "message", "detail", "errors", "code"]
            .iter()
            .any(|key| map.contains_key(*key))
    })
}

/// The object or array that the text begins with, in JSON or as Python prints it. What was cut off
/// its end is completed.
pub(super) fn value_at_start(text: &str) -> Option<Value> {
    if !text.starts_with(['{', '[']) {
        return None;
    }
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let (json, complete) = to_json(&text[..end]);
    if let Ok(value) = serde_json::from_str(&json.text) {
        return Some(value);
    }
    if complete {
        return None;
    }
    // The cut fell inside a pair: leave that pair away.
    let (at, open) = json.last_pair?;
    let mut text = json.text;
    text.truncate(at);
    for closer in open.iter().rev() {
        text.push(*closer);
    }
    serde_json::from_str(&text).ok()
}

struct Json {
    text: String,
    /// Where the last complete pair or element ended, and what was open there.
    last_pair: Option<(usize, Vec<char>)>,
}

/// Rewrites an object to JSON up to where it closes, and says whether it does.
fn to_json(text: &str) -> (Json, bool) {
    let mut json = Json {
        text: String::with_capacity(text.len() + 8),
        last_pair: None,
    };
    let mut open: Vec<char> = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            '{' | '[' => {
                if open.len() >= 64 {
                    return (json, true);
                }
                open.push(if c == '{' { '}' } else { ']' });
                json.text.push(c);
            }
            '}' | ']' => {
                json.text.push(c);
                if open.pop() != Some(c) || open.is_empty() {
                    return (json, true);
                }
            }
            ',' => {
                json.last_pair = Some((json.text.len(), open.clone()));
                json.text.push(c);
            }
            '"' | '\'' => {
                json.text.push('"');
                let closed = string(&mut rest, c, &mut json.text);
                json.text.push('"');
                if !closed {
                    break;
                }
            }
            'N' | 'T' | 'F' => {
                let word = &text[at..];
                let known = [("None", "null"), ("True", "true"), ("False", "false")];
                if let Some((python, word)) = known
                    .into_iter()
                    .find(|(python, _)| word.starts_with(python))
                {
                    json.text.push_str(word);
                    for _ in 1..python.len() {
                        rest.next();
                    }
                } else {
                    json.text.push(c);
                }
            }
            other => json.text.push(other),
        }
    }
    for closer in open.iter().rev() {
        json.text.push(*closer);
    }
    (json, false)
}

/// Copies a quoted string as JSON; says whether its end was found.
fn string(
    rest: &mut std::iter::Peekable<std::str::CharIndices<'_>>,
    quote: char,
    into: &mut String,
) -> bool {
    while let Some((_, c)) = rest.next() {
        match c {
            '\\' => match rest.next() {
                None => return false,
                Some((_, '\'')) => into.push('\''),
                Some((_, 'x')) => {
                    into.push_str("\\u00");
                }
                Some((_, escaped)) => {
                    into.push('\\');
                    into.push(escaped);
                }
            },
            '"' if quote != '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            other if other == quote => return true,
            other => into.push(other),
        }
    }
    false
}
