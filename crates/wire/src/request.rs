//! Reading what a request asks for, and replacing its model, leaving every other byte as it came.
//!
//! A request body is never parsed into values and printed again: that would change how numbers are
//! written, the order of keys and fields nobody here knows of. Instead [`MemberScanner`] finds where
//! the values of a few top-level members lie, [`RequestFacts`] reads them, and
//! [`RequestFacts::replace_model`] cuts exactly the model out.

use std::{fmt, num::NonZeroU32, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::Extensions;

use crate::json::Value;

/// The members that [`RequestFacts`] are read from. The first is the model.
const KEYS: &[&str] = &[
    "model",
    // OpenAI and those who speak it.
    "n",
    // Legacy completions answer each prompt of a list.
    "prompt",
    // Gemini, whose parser takes both spellings (https://protobuf.dev/programming-guides/json/).
    "generationConfig",
    "generation_config",
];

/// How often one of the wanted members may occur at most. A second one is odd already; a bound
/// keeps a body made of nothing else from costing memory.
const MAX_FOUND: usize = 16;

/// Finds the values of wanted top-level members of a JSON object, fed in pieces of any size.
///
/// It follows strings, escapes and brackets, so that a key inside a value is never taken for a
/// top-level one, and it decodes escapes in keys (`"\u006dodel"` is `model`). The case of a key does
/// not matter, since it does not to Go's parser, which many gateways are written with: what they read
/// as `model` must be found (<https://pkg.go.dev/encoding/json#Unmarshal>). It is no validator:
/// of every valid JSON object it finds the right members, and what is not JSON is refused or left
/// for the provider to refuse. Memory is constant; time is linear.
///
/// ```
/// use backstop_wire::request::MemberScanner;
///
/// let body = br#"{"messages":[{"model":"no"}],"model" : "gpt-4.1"}"#;
/// let mut scanner = MemberScanner::new(&["model"]);
/// scanner.feed(body)?;
/// let [found] = scanner.finish()? else { unreachable!() };
/// assert_eq!(&body[found.value.clone()], br#""gpt-4.1""#);
/// # Ok::<(), backstop_wire::request::BadBody>(())
/// ```
#[derive(Clone)]
pub struct MemberScanner {
    keys: &'static [&'static str],
    /// The longest that a wanted key can be, every letter written as a `\u` escape.
    longest: usize,
    state: State,
    /// The key being read, as written, while it can still be a wanted one.
    key: Vec<u8>,
    /// The wanted key whose value is being read, and where the value began.
    current: Option<(usize, usize)>,
    offset: usize,
    found: Vec<Member>,
}

/// A wanted member that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The key, as an index into the wanted ones.
    pub key: usize,
    /// Where its value lies, without the space around it.
    pub value: Range<usize>,
}

/// What the body of a request says that matters on its way and for its answer; a typed request
/// extension.
///
/// Who has read a body inserts it, so that nobody reads it again: [`HttpTarget`] replaces the model
/// by it, [`ClassifyHttp`] learns [how many choices](Self::choices) a stream must bring before it is
/// whole, [`HttpRecorder`] which answers lack some. A layer that sends a request more than once, such as
/// failover, hands on the extensions that it is told to carry.
///
/// [`HttpTarget`]: crate::retarget::HttpTarget
/// [`ClassifyHttp`]: crate::ClassifyHttp
/// [`HttpRecorder`]: crate::recorder::HttpRecorder
///
/// ```
/// use backstop_wire::request::RequestFacts;
///
/// let body = br#"{"model":"gpt-4.1","n":2,"messages":[]}"#;
/// let facts = RequestFacts::find(body)?;
/// assert_eq!(&**facts.model()?, "gpt-4.1");
/// assert_eq!(facts.choices().map(u32::from), Some(2));
/// let mut request = http::Request::new(&body[..]);
/// request.extensions_mut().insert(facts);
/// # Ok::<(), backstop_wire::request::BadBody>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    model: Result<Arc<str>, BadBody>,
    models: Arc<[Range<usize>]>,
    choices: Option<NonZeroU32>,
    scanned: usize,
}

/// Why a body cannot be read, or names no model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BadBody {
    /// The body is not a JSON object.
    NotAnObject,
    /// The body ends inside the JSON object.
    Unfinished,
    /// There is no top-level `model`.
    NoModel,
    /// The top-level `model` is not a string.
    ModelNotAString,
    /// A wanted member occurs too often.
    TooMany,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    FirstKey,
    NextKey,
    Key {
        escaped: bool,
    },
    Colon,
    Value,
    /// Inside a string, `depth` brackets deep within the value.
    Text {
        depth: usize,
        escaped: bool,
    },
    /// Inside an array or object, `depth` brackets deep within the value.
    Nested {
        depth: usize,
    },
    /// Inside a number, `true`, `false` or `null`.
    Scalar,
    AfterValue,
    Done,
}

// === impl MemberScanner ===

impl MemberScanner {
    /// A scanner for the members named `keys`.
    #[must_use]
    pub fn new(keys: &'static [&'static str]) -> Self {
        let longest = keys.iter().map(|key| key.len()).max().unwrap_or(0);
        Self {
            keys,
            longest: longest * r"\u006d".len(),
            state: State::Start,
            key: Vec::new(),
            current: None,
            offset: 0,
            found: Vec::new(),
        }
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    ///
    /// When they cannot be part of a JSON object, or a wanted member occurs more than 16 times. The
    /// scanner is of no use afterwards.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), BadBody> {
        let mut at = 0;
        while at < chunk.len() {
            at = self.step(chunk, at)?;
        }
        self.offset += chunk.len();
        Ok(())
    }

    /// The wanted members whose values are complete so far.
    #[must_use]
    pub fn found(&self) -> &[Member] {
        &self.found
    }

    /// The wanted members of the whole object.
    ///
    /// # Errors
    ///
    /// When the object is not complete.
    pub fn finish(&self) -> Result<&[Member], BadBody> {
        match self.state {
            State::Done => Ok(&self.found),
            State::Start => Err(BadBody::NotAnObject),
            _ => Err(BadBody::Unfinished),
        }
    }

    /// Reads from `at` and returns where to go on.
    fn step(&mut self, chunk: &[u8], at: usize) -> Result<usize, BadBody> {
        let byte = chunk[at];
        match self.state {
            State::Key { escaped: true } => {
                self.keep(&[byte]);
                self.state = State::Key { escaped: false };
            }
            State::Key { escaped: false } => {
                let rest = &chunk[at..];
                let stop = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                self.keep(&rest[..stop]);
                match rest.get(stop) {
                    Some(b'"') => self.state = State::Colon,
                    Some(_) => {
                        self.keep(b"\\");
                        self.state = State::Key { escaped: true };
                    }
                    None => {}
                }
                return Ok(at + stop + 1);
            }
            State::Text {
                depth,
                escaped: true,
            } => {
                self.state = State::Text {
                    depth,
                    escaped: false,
                };
            }
            State::Text {
                depth,
                escaped: false,
            } => {
                let rest = &chunk[at..];
                let stop = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                match rest.get(stop) {
                    Some(b'"') => self.close(depth, at + stop + 1)?,
                    Some(_) => {
                        self.state = State::Text {
                            depth,
                            escaped: true,
                        }
                    }
                    None => {}
                }
                return Ok(at + stop + 1);
            }
            State::Nested { depth } => match byte {
                b'"' => {
                    self.state = State::Text {
                        depth,
                        escaped: false,
                    }
                }
                b'{' | b'[' => self.state = State::Nested { depth: depth + 1 },
                b'}' | b']' => self.close(depth - 1, at + 1)?,
                _ => {}
            },
            State::Scalar if matches!(byte, b',' | b'}') || is_space(byte) => {
                // The delimiter belongs to what follows.
                self.close(0, at)?;
                return Ok(at);
            }
            State::Scalar => {
                if matches!(byte, b'"' | b'{' | b'[' | b']' | b':') {
                    return Err(BadBody::NotAnObject);
                }
            }
            _ if is_space(byte) => {}
            State::Start if byte == b'{' => self.state = State::FirstKey,
            State::FirstKey | State::NextKey if byte == b'"' => {
                self.key.clear();
                self.state = State::Key { escaped: false };
            }
            State::FirstKey if byte == b'}' => self.state = State::Done,
            State::Colon if byte == b':' => self.state = State::Value,
            State::Value => {
                self.current = self.wanted().map(|key| (key, self.offset + at));
                self.state = match byte {
                    b'"' => State::Text {
                        depth: 0,
                        escaped: false,
                    },
                    b'{' | b'[' => State::Nested { depth: 1 },
                    b'}' | b']' | b',' | b':' => return Err(BadBody::NotAnObject),
                    _ => State::Scalar,
                };
            }
            State::AfterValue if byte == b',' => self.state = State::NextKey,
            State::AfterValue if byte == b'}' => self.state = State::Done,
            State::Start
            | State::FirstKey
            | State::NextKey
            | State::Colon
            | State::AfterValue
            | State::Done => return Err(BadBody::NotAnObject),
        }
        Ok(at + 1)
    }

    /// A string, array, object or scalar is over; `depth` brackets are still open, and the next
    /// byte is `end` of this chunk.
    fn close(&mut self, depth: usize, end: usize) -> Result<(), BadBody> {
        if depth > 0 {
            self.state = State::Nested { depth };
            return Ok(());
        }
        self.state = State::AfterValue;
        if let Some((key, start)) = self.current.take() {
            if self.found.len() == MAX_FOUND {
                return Err(BadBody::TooMany);
            }
            self.found.push(Member {
                key,
                value: start..self.offset + end,
            });
        }
        Ok(())
    }

    /// Keeps bytes of a key, as long as it can be a wanted one.
    fn keep(&mut self, bytes: &[u8]) {
        // One byte over the limit marks a key as too long for good.
        let room = (self.longest + 1).saturating_sub(self.key.len());
        self.key.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Which wanted key the one just read is.
    fn wanted(&self) -> Option<usize> {
        if self.key.len() > self.longest {
            return None;
        }
        if !self.key.contains(&b'\\') {
            let is_key = |key: &&str| key.as_bytes().eq_ignore_ascii_case(&self.key);
            return self.keys.iter().position(is_key);
        }
        let mut quoted = Vec::with_capacity(self.key.len() + 2);
        quoted.push(b'"');
        quoted.extend_from_slice(&self.key);
        quoted.push(b'"');
        let decoded: String = serde_json::from_slice(&quoted).ok()?;
        let is_key = |key: &&str| key.eq_ignore_ascii_case(&decoded);
        self.keys.iter().position(is_key)
    }
}

impl fmt::Debug for MemberScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where things are, not what they are.
        f.debug_struct("MemberScanner")
            .field("keys", &self.keys)
            .field("state", &self.state)
            .field("read_bytes", &self.offset)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

// === impl RequestFacts ===

impl RequestFacts {
    /// What a whole body says.
    ///
    /// # Errors
    ///
    /// When the body is not a JSON object.
    pub fn find(body: &[u8]) -> Result<Self, BadBody> {
        let mut scanner = Self::scanner();
        scanner.feed(body)?;
        scanner.finish()?;
        Ok(Self::of(&scanner, body))
    }

    /// What is found among a request's extensions if it was read from this `body`, else what the
    /// body itself says.
    ///
    /// # Errors
    ///
    /// When the body has to be read and is not a JSON object.
    pub(crate) fn known_or_find(extensions: &Extensions, body: &[u8]) -> Result<Self, BadBody> {
        match extensions.get::<Self>() {
            Some(known) if known.is_of_length(body.len()) => Ok(known.clone()),
            _ => Self::find(body),
        }
    }

    /// The scanner that finds what [`of`](Self::of) needs.
    #[must_use]
    pub fn scanner() -> MemberScanner {
        MemberScanner::new(KEYS)
    }

    /// What a body says, or the beginning of one, all of which `scanner` has read and no more.
    ///
    /// Of a beginning it is not known how many choices it asks for, and a further `model` may follow
    /// in the rest; feed the rest to the scanner to notice.
    #[must_use]
    pub fn of(scanner: &MemberScanner, read: &[u8]) -> Self {
        let models: Arc<[_]> = Self::models(scanner).map(|m| m.value.clone()).collect();
        Self {
            model: name(&models, read),
            models,
            choices: scanner.finish().ok().and_then(|found| choices(found, read)),
            scanned: read.len(),
        }
    }

    /// The `model` members among what such a scanner has found so far.
    pub fn models(scanner: &MemberScanner) -> impl Iterator<Item = &Member> {
        scanner.found().iter().filter(|member| member.key == 0)
    }

    /// The model's name, with escapes decoded.
    ///
    /// When the key occurs more than once the last one names the model, as nearly all parsers have
    /// it.
    ///
    /// # Errors
    ///
    /// When there is no complete top-level `model`, or it is not a string.
    pub const fn model(&self) -> Result<&Arc<str>, BadBody> {
        match &self.model {
            Ok(model) => Ok(model),
            Err(why) => Err(*why),
        }
    }

    /// How many choices the answer is to have: the `n` of OpenAI, for each prompt of a list of them,
    /// or Gemini's `candidateCount`. One where the body says nothing; the most where it says it more
    /// than once.
    ///
    /// `None` when it is not known, since only the beginning of the body was read, or what stands
    /// there is no such number.
    #[must_use]
    pub const fn choices(&self) -> Option<NonZeroU32> {
        self.choices
    }

    /// Whether this was found in a body, or the beginning of one, of exactly so many bytes.
    #[must_use]
    pub fn is_of_length(&self, bytes: usize) -> bool {
        self.scanned == bytes
    }

    /// The body with another model, which is given as JSON text, quotes included.
    ///
    /// All other bytes stay, and a `model` that occurs more than once is replaced everywhere, so that
    /// no parser sees another. When the body has that very text already it is returned as it is,
    /// without a copy.
    #[must_use]
    pub fn replace_model(&self, body: &Bytes, model: &[u8]) -> Bytes {
        let is_there = |span: &Range<usize>| body.get(span.clone()) == Some(model);
        if self.models.iter().all(is_there) {
            return body.clone();
        }
        let removed: usize = self.models.iter().map(Range::len).sum();
        let added = self.models.len() * model.len();
        let mut spliced = BytesMut::with_capacity((body.len() + added).saturating_sub(removed));
        let mut from = 0;
        for span in &*self.models {
            spliced.extend_from_slice(&body[from..span.start]);
            spliced.extend_from_slice(model);
            from = span.end;
        }
        spliced.extend_from_slice(&body[from..]);
        spliced.freeze()
    }
}

fn name(models: &[Range<usize>], read: &[u8]) -> Result<Arc<str>, BadBody> {
    let last = models.last().cloned().ok_or(BadBody::NoModel)?;
    let value = read.get(last).ok_or(BadBody::NoModel)?;
    let name: String = serde_json::from_slice(value).map_err(|_| BadBody::ModelNotAString)?;
    Ok(name.into())
}

fn choices(found: &[Member], body: &[u8]) -> Option<NonZeroU32> {
    let (mut each, mut prompts) = (NonZeroU32::MIN, NonZeroU32::MIN);
    for member in found {
        let value = Value::parse(body.get(member.value.clone())?)?;
        match KEYS[member.key] {
            "n" => each = each.max(count(value)?),
            "prompt" => prompts = prompts.max(self::prompts(value)?),
            "generationConfig" | "generation_config" => {
                for (key, value) in value.members() {
                    if matches!(key, b"candidateCount" | b"candidate_count") {
                        each = each.max(count(value)?);
                    }
                }
            }
            _ => {}
        }
    }
    each.checked_mul(prompts)
}

/// A number of answers, where `null` is the default of one.
fn count(value: Value<'_>) -> Option<NonZeroU32> {
    match value.as_bytes() {
        b"null" => Some(NonZeroU32::MIN),
        _ => NonZeroU32::new(value.number()?.try_into().ok()?),
    }
}

/// How many prompts a `prompt` is: a text or a list of tokens is one, other lists have one each.
fn prompts(value: Value<'_>) -> Option<NonZeroU32> {
    let lists = |element: &Value<'_>| element.text().is_some() || element.is_array();
    let count = value.elements().filter(lists).count();
    NonZeroU32::new(u32::try_from(count).ok()?.max(1))
}

// === impl BadBody ===

impl fmt::Display for BadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnObject => "the request body is not a JSON object",
            Self::Unfinished => "the request body ends before its JSON object does",
            Self::NoModel => "the request body has no `model`",
            Self::ModelNotAString => "`model` must be a string",
            Self::TooMany => "the request body has the same key too often",
        })
    }
}

impl std::error::Error for BadBody {}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::{Map, Value, value::RawValue};

    use super::*;

    fn replaced(body: &str, model: &str) -> String {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let found = RequestFacts::find(&body).unwrap();
        let json = serde_json::to_vec(model).unwrap();
        String::from_utf8(found.replace_model(&body, &json).to_vec()).unwrap()
    }

    fn found(body: &str) -> RequestFacts {
        RequestFacts::find(body.as_bytes()).unwrap()
    }

    #[test]
    fn replaces_the_top_level_model_only() {
        assert_eq!(
            replaced(
                r#" { "a":{"model":"x"},"b":["model",{"model":[]}] , "model"
                : "gpt-4.1"	,"n":1.10e+2,"z":"\"model\":\"y\""} "#,
                "m\"2"
            ),
            r#" { "a":{"model":"x"},"b":["model",{"model":[]}] , "model"
                : "m\"2"	,"n":1.10e+2,"z":"\"model\":\"y\""} "#,
        );
    }

    #[test]
    fn a_model_in_another_case_is_a_model() {
        assert_eq!(
            replaced(r#"{"model":"a","Model":"b","MODEL":"c","mode":"d"}"#, "x"),
            r#"{"model":"x","Model":"x","MODEL":"x","mode":"d"}"#
        );
        assert_eq!(
            replaced(r#"{"\u004dodel":"b"}"#, "x"),
            r#"{"\u004dodel":"x"}"#
        );
    }

    #[test]
    fn knows_an_escaped_key_and_keeps_it_as_written() {
        assert_eq!(
            replaced(r#"{"\u006d\u006Fdel":"a","mod\/el":"b"}"#, "c"),
            r#"{"\u006d\u006Fdel":"c","mod\/el":"b"}"#,
        );
    }

    #[test]
    fn the_last_of_several_names_the_model_and_all_are_replaced() {
        let body = r#"{"model":"a","x":1,"model":"b","\u006dodel":"c\u0021"}"#;
        assert_eq!(&**found(body).model().unwrap(), "c!");
        assert_eq!(
            replaced(body, "z"),
            r#"{"model":"z","x":1,"model":"z","\u006dodel":"z"}"#
        );
    }

    #[test]
    fn says_what_is_wrong() {
        for (body, expected) in [
            ("", BadBody::NotAnObject),
            ("  ", BadBody::NotAnObject),
            ("[]", BadBody::NotAnObject),
            ("\u{feff}{}", BadBody::NotAnObject),
            ("{,}", BadBody::NotAnObject),
            ("{\"a\":}", BadBody::NotAnObject),
            ("{\"a\" 1}", BadBody::NotAnObject),
            ("{\"a\":1 2}", BadBody::NotAnObject),
            ("{\"a\":1\"model\":\"x\"}", BadBody::NotAnObject),
            ("{} {}", BadBody::NotAnObject),
            ("{\"model\":\"a\"", BadBody::Unfinished),
            ("{\"model\":\"a", BadBody::Unfinished),
            ("{\"a\":[[]", BadBody::Unfinished),
            ("{}", BadBody::NoModel),
            ("{\"models\":\"a\",\"mode\":\"b\"}", BadBody::NoModel),
            ("{\"messages\":[{\"model\":\"a\"}]}", BadBody::NoModel),
            ("{\"model\":1}", BadBody::ModelNotAString),
            ("{\"model\":null}", BadBody::ModelNotAString),
            ("{\"model\":[\"a\"]}", BadBody::ModelNotAString),
        ] {
            let found = RequestFacts::find(body.as_bytes());
            let model = found.and_then(|facts| facts.model().cloned());
            assert_eq!(model, Err(expected), "{body}");
        }
        let many = format!("{{{}}}", vec!["\"model\":\"a\""; MAX_FOUND + 1].join(","));
        assert_eq!(RequestFacts::find(many.as_bytes()), Err(BadBody::TooMany));
    }

    #[test]
    fn a_body_with_the_same_model_is_not_copied() {
        let body = Bytes::from_static(br#"{"model":"a"}"#);
        let found = RequestFacts::find(&body).unwrap();
        assert_eq!(found.replace_model(&body, b"\"a\"").as_ptr(), body.as_ptr());
    }

    #[test]
    fn knows_how_many_choices_are_asked_for() {
        for (body, expected) in [
            (r#"{"model":"a"}"#, Some(1)),
            (r#"{"n":null}"#, Some(1)),
            (r#"{"n": 3 ,"messages":[{"n":7}]}"#, Some(3)),
            (r#"{"\u006e":2}"#, Some(2)),
            // Parsers differ in which of them counts.
            (r#"{"n":3,"n":1}"#, Some(3)),
            (r#"{"n":1,"n":3}"#, Some(3)),
            // For the provider to refuse, or to read in a way that is not known here.
            (r#"{"n":0}"#, None),
            (r#"{"n":-1}"#, None),
            (r#"{"n":"2"}"#, None),
            (r#"{"n":2.0}"#, None),
            (r#"{"n":4294967296}"#, None),
            (r#"{"prompt":"a","n":2}"#, Some(2)),
            (r#"{"prompt":["a","b"]}"#, Some(2)),
            (r#"{"prompt":["a","b"],"n":2}"#, Some(4)),
            (r#"{"prompt":[1,2,3],"n":2}"#, Some(2)),
            (r#"{"prompt":[[1,2],[3]]}"#, Some(2)),
            (r#"{"prompt":[]}"#, Some(1)),
            (r#"{"prompt":["a","b"],"n":4294967295}"#, None),
            (r#"{"generationConfig":{"candidateCount":2}}"#, Some(2)),
            (r#"{"generation_config":{"candidate_count":2}}"#, Some(2)),
            (r#"{"generationConfig":{"topK":2}}"#, Some(1)),
            (r#"{"generationConfig":null}"#, Some(1)),
            (r#"{"generationConfig":{"candidateCount":"2"}}"#, None),
        ] {
            let choices = found(body).choices().map(NonZeroU32::get);
            assert_eq!(choices, expected, "{body}");
        }
    }

    #[test]
    fn of_a_beginning_it_is_not_known_how_many_choices_it_asks_for() {
        let mut scanner = RequestFacts::scanner();
        let read = br#"{"model":"a","n":2,"messages":["lo"#;
        scanner.feed(read).unwrap();
        assert_eq!(RequestFacts::of(&scanner, read).choices(), None);
    }

    #[test]
    fn what_was_read_from_another_body_is_not_believed() {
        let mut extensions = Extensions::new();
        extensions.insert(found(r#"{"n":2}"#));
        let facts = |body: &[u8]| RequestFacts::known_or_find(&extensions, body);
        let choices = |body| facts(body).map(|facts| facts.choices().map(NonZeroU32::get));
        assert_eq!(choices(br#"{"n":33}"#), Ok(Some(33)));
        assert_eq!(choices(b"{"), Err(BadBody::Unfinished));
    }

    #[test]
    fn finds_the_model_of_a_beginning() {
        let read = br#"{"model":"a","messages":["lo"#;
        let mut scanner = RequestFacts::scanner();
        scanner.feed(read).unwrap();
        assert_eq!(&**RequestFacts::of(&scanner, read).model().unwrap(), "a");
        scanner.feed(br#"ng"],"model":"b"}"#).unwrap();
        assert_eq!(scanner.finish().unwrap().len(), 2);

        // A value that may go on is not complete.
        let read = br#"{"model":"a"#;
        let mut scanner = RequestFacts::scanner();
        scanner.feed(read).unwrap();
        let facts = RequestFacts::of(&scanner, read);
        assert_eq!(facts.model(), Err(BadBody::NoModel));
    }

    /// JSON text, written in many ways.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?",
            text(),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                vec((space(), inner.clone()), 0..4).prop_map(|items| {
                    let items: Vec<_> = items.iter().map(|(s, i)| format!("{s}{i}{s}")).collect();
                    format!("[{}]", items.join(","))
                }),
                vec((key(), space(), inner), 0..4).prop_map(object),
            ]
        })
    }

    fn object(members: Vec<(String, String, String)>) -> String {
        let members: Vec<_> = members
            .iter()
            .map(|(key, space, value)| format!("{space}{key}{space}:{space}{value}{space}"))
            .collect();
        format!("{{{}}}", members.join(","))
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
            Just(r#""\\\"{[,:]}\\""#.to_owned()),
            Just(r#""\"model\":\"x\"""#.to_owned()),
            Just(r#""\u006d\ud83d\ude00\/""#.to_owned()),
        ]
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            text(),
            Just("\"model\"".to_owned()),
            Just(r#""mod\u0065l""#.to_owned()),
            Just(r#""model\u0000""#.to_owned()),
            Just("\"models\"".to_owned()),
        ]
    }

    fn space() -> impl Strategy<Value = String> {
        "[ \t\r\n]{0,2}"
    }

    /// All top-level members in order, duplicates included, by `serde_json` alone.
    fn members(body: &str) -> Vec<(String, String)> {
        struct Members(Vec<(String, String)>);
        impl<'de> serde::Deserialize<'de> for Members {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = Members;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<Members, A::Error> {
                        let mut members = Vec::new();
                        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                            members.push((key, value.get().to_owned()));
                        }
                        Ok(Members(members))
                    }
                }
                from.deserialize_map(Visitor)
            }
        }
        serde_json::from_str::<Members>(body).unwrap().0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn finds_what_serde_json_finds_however_it_is_split(
            body in (vec((key(), space(), json()), 0..6).prop_map(object), space())
                .prop_map(|(object, space)| format!("{space}{object}{space}")),
            cuts in vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let expected: Vec<_> = members(&body)
                .into_iter()
                .filter(|(key, _)| key == "model")
                .map(|(_, value)| value)
                .collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let mut scanner = MemberScanner::new(&["model"]);
            for cut in cuts.windows(2) {
                scanner.feed(&body.as_bytes()[cut[0]..cut[1]]).unwrap();
            }
            let found: Vec<_> = scanner
                .finish()
                .unwrap()
                .iter()
                .map(|member| body[member.value.clone()].to_owned())
                .collect();
            prop_assert_eq!(&found, &expected);

            let mut by_byte = MemberScanner::new(&["model"]);
            for byte in body.as_bytes() {
                by_byte.feed(&[*byte]).unwrap();
            }
            prop_assert_eq!(by_byte.finish().unwrap(), scanner.finish().unwrap());
        }

        #[test]
        fn nothing_but_the_model_changes(
            before in vec((key(), space(), json()), 0..4),
            after in vec((text(), space(), json()), 0..4),
            old in text(),
            new in any::<String>(),
        ) {
            let mut all = before;
            // A model that is no string would be refused if it came last.
            all.push(("\"model\"".to_owned(), String::new(), old));
            all.extend(after);
            let body = object(all.clone());
            let out = replaced(&body, &new);

            let mut expected: Map<String, Value> = serde_json::from_str(&body).unwrap();
            expected.insert("model".to_owned(), Value::String(new.clone()));
            prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(&out).unwrap(), expected);

            // Byte for byte: the same object written with the new model in the first place.
            let json = serde_json::to_string(&new).unwrap();
            for (key, _, value) in &mut all {
                if serde_json::from_str::<String>(key).unwrap() == "model" {
                    *value = json.clone();
                }
            }
            prop_assert_eq!(out, object(all));
        }

        #[test]
        fn never_panics(body in vec(any::<u8>(), 0..64), json in json()) {
            let _ = RequestFacts::find(&body);
            let mut broken = json.into_bytes();
            broken.extend(body);
            let _ = RequestFacts::find(&broken);
        }
    }
}
