//! A reader of JSON that allocates nothing.
//!
//! A stream event is looked at for a handful of keys and then forgotten. Building a tree for that
//! costs an allocation per object, and skipping with `serde_json` costs one per event that nests.
//! Here a value is a slice of the text; going into it scans it again, so that the work is the
//! length of the text times the few levels a dialect descends.

use memchr::memchr2;

/// How deep values may nest, as in `serde_json`.
const MAX_DEPTH: u32 = 128;

/// A JSON value, as the text that it was found to be.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a>(&'a [u8]);

/// The members of an object.
pub(crate) struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

/// The elements of an array.
pub(crate) struct Elements<'a> {
    text: &'a [u8],
    at: usize,
}

/// How far a JSON value goes, without reading what is in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    depth: usize,
    in_string: bool,
    escaped: bool,
    begun: bool,
    /// It is a value without brackets or quotes, or no JSON.
    other: bool,
}

impl<'a> Value<'a> {
    /// The one value that `text` is, with white space or a byte order mark around it.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let start = skip_space(text, 0);
        let end = skip_value(text, start)?;
        (skip_space(text, end) == text.len()).then(|| Self(&text[start..end]))
    }

    /// The text that it is.
    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The members, if it is an object. Keys are given as they are written, escapes and all.
    pub(crate) fn members(self) -> Members<'a> {
        Members {
            text: if self.is_object() { self.0 } else { b"{}" },
            at: 1,
        }
    }

    /// The elements, if it is an array.
    pub(crate) fn elements(self) -> Elements<'a> {
        Elements {
            text: if self.is_array() { self.0 } else { b"[]" },
            at: 1,
        }
    }

    /// The member `key` of an object.
    pub(crate) fn get(self, key: &str) -> Option<Self> {
        self.members()
            .find_map(|(name, value)| (name == key.as_bytes()).then_some(value))
    }

    pub(crate) fn is_object(self) -> bool {
        self.0.first() == Some(&b'{')
    }

    pub(crate) fn is_array(self) -> bool {
        self.0.first() == Some(&b'[')
    }

    /// The text of a string, escapes and all.
    pub(crate) fn text(self) -> Option<&'a [u8]> {
        self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")
    }

    /// Whether it is a string of at least one character.
    pub(crate) fn is_text(self) -> bool {
        self.text().is_some_and(|text| !text.is_empty())
    }

    /// Whether it is `null`, `false`, `""`, `{}` or `[]`: there, but says nothing.
    pub(crate) fn is_empty(self) -> bool {
        match self.0.first() {
            Some(b'n' | b'f') => true,
            Some(b'"') => self.0.len() == 2,
            Some(b'{') => self.members().next().is_none(),
            Some(b'[') => self.elements().next().is_none(),
            _ => false,
        }
    }

    pub(crate) fn is_true(self) -> bool {
        self.0 == b"true"
    }

    pub(crate) fn is_false(self) -> bool {
        self.0 == b"false"
    }

    /// A whole number that is not negative.
    pub(crate) fn number(self) -> Option<u64> {
        std::str::from_utf8(self.0).ok()?.parse().ok()
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut start = skip_space(self.text, self.at);
        if self.text.get(start) == Some(&b',') {
            start = skip_space(self.text, start + 1);
        }
        if self.text.get(start) != Some(&b'"') {
            return None;
        }
        let end = skip_string(self.text, start)?;
        let key = &self.text[start + 1..end - 1];
        let start = skip_space(self.text, skip_space(self.text, end) + 1);
        let end = skip_value(self.text, start)?;
        self.at = end;
        Some((key, Value(&self.text[start..end])))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let mut start = skip_space(self.text, self.at);
        match self.text.get(start)? {
            b',' => start = skip_space(self.text, start + 1),
            b']' => return None,
            _ => {}
        }
        let end = skip_value(self.text, start)?;
        self.at = end;
        Some(Value(&self.text[start..end]))
    }
}

impl Extent {
    /// Whether a value that has brackets or quotes has begun.
    pub(crate) const fn has_begun(self) -> bool {
        self.begun
    }

    /// Goes on with `chunk`, and says after which of its bytes the value is over.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.other {
            return None;
        }
        if !self.begun {
            let blank = |byte: &u8| byte.is_ascii_whitespace() || b"\xef\xbb\xbf".contains(byte);
            at = chunk.iter().position(|byte| !blank(byte))?;
            self.begun = matches!(chunk[at], b'{' | b'[' | b'"');
            self.other = !self.begun;
            if self.other {
                return None;
            }
        }
        while let Some(&byte) = chunk.get(at) {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                let plain = memchr2(b'"', b'\\', &chunk[at..])?;
                at += plain;
                self.escaped = chunk[at] == b'\\';
                self.in_string = self.escaped;
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
            at += 1;
            if self.depth == 0 && !self.in_string && !self.escaped {
                return Some(at);
            }
        }
        None
    }
}

#[inline]
fn skip_space(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

/// Where the value that starts at `at` ends.
fn skip_value(text: &[u8], mut at: usize) -> Option<usize> {
    // One bit for each level that is open: set for an object.
    let mut objects: u128 = 0;
    let mut depth = 0;
    loop {
        at = skip_space(text, at);
        match *text.get(at)? {
            open @ (b'{' | b'[') => {
                let is_object = open == b'{';
                let inside = skip_space(text, at + 1);
                let close = if is_object { b'}' } else { b']' };
                if *text.get(inside)? != close {
                    if depth == MAX_DEPTH {
                        return None;
                    }
                    depth += 1;
                    objects = objects << 1 | u128::from(is_object);
                    at = if is_object {
                        skip_key(text, inside)?
                    } else {
                        inside
                    };
                    continue;
                }
                at = inside + 1;
            }
            b'"' => at = skip_string(text, at)?,
            b't' => at = skip_word(text, at, b"true")?,
            b'f' => at = skip_word(text, at, b"false")?,
            b'n' => at = skip_word(text, at, b"null")?,
            _ => at = skip_number(text, at)?,
        }
        loop {
            if depth == 0 {
                return Some(at);
            }
            at = skip_space(text, at);
            match (*text.get(at)?, objects & 1 == 1) {
                (b',', true) => {
                    at = skip_key(text, skip_space(text, at + 1))?;
                    break;
                }
                (b',', false) => {
                    at += 1;
                    break;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    objects >>= 1;
                    depth -= 1;
                }
                _ => return None,
            }
        }
    }
}

/// Where the value of the key that starts at `at` may start.
fn skip_key(text: &[u8], at: usize) -> Option<usize> {
    let end = skip_space(text, skip_string(text, at)?);
    (*text.get(end)? == b':').then_some(end + 1)
}

fn skip_string(text: &[u8], at: usize) -> Option<usize> {
    if *text.get(at)? != b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        let plain = skip_plain(text.get(at..)?)?;
        at += plain;
        match text[at] {
            b'"' => return Some(at + 1),
            b'\\' => {}
            _ => return None,
        }
        at += match *text.get(at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' => {
                let digits = text.get(at + 2..at + 6)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                6
            }
            _ => return None,
        };
    }
}

/// How far the next byte is that a string does not simply contain: a quote, a backslash, a control.
///
/// Most strings are keys and words, for which the start of a vector search costs more than it saves,
/// so the first bytes are looked at eight at a time.
fn skip_plain(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHS: u64 = ONES << 7;
    let mut at = 0;
    while at < 32
        && let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk)
    {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte that is zero (the usual trick), and of each below 0x20. Bytes
        // above the first hit may be wrong, but only the first counts.
        let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
        let special = zeros(word ^ (ONES * u64::from(b'"')))
            | zeros(word ^ (ONES * u64::from(b'\\')))
            | (word.wrapping_sub(ONES * 0x20) & !word & HIGHS);
        if special != 0 {
            let offset = special.trailing_zeros() / 8;
            return Some(at + usize::try_from(offset).ok()?);
        }
        at += 8;
    }
    let rest = &text[at..];
    if rest.len() < 8 {
        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        return Some(at + rest.iter().position(is_special)?);
    }
    let plain = memchr2(b'"', b'\\', rest)?;
    // No early exit, so that this is done many bytes at a time as well.
    let controls = rest[..plain]
        .iter()
        .fold(false, |found, byte| found | (*byte < 0x20));
    (!controls).then_some(at + plain)
}

fn skip_word(text: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    text.get(at..)?.starts_with(word).then_some(at + word.len())
}

fn skip_number(text: &[u8], mut at: usize) -> Option<usize> {
    if text.get(at) == Some(&b'-') {
        at += 1;
    }
    at = match *text.get(at)? {
        b'0' => at + 1,
        b'1'..=b'9' => skip_digits(text, at)?,
        _ => return None,
    };
    if text.get(at) == Some(&b'.') {
        at = skip_digits(text, at + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = text.get(at) {
            at += 1;
        }
        at = skip_digits(text, at)?;
    }
    Some(at)
}

/// At least one digit.
fn skip_digits(text: &[u8], at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    let digits = rest
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(rest.len());
    (digits > 0).then_some(at + digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    #[test]
    fn members_and_elements_are_found_at_their_level_only() {
        let text = br#" {"a":{"error":1},"b":[ "x\"]" , {}],"error" : null , "c\u0041":-1.5e3} "#;
        let value = Value::parse(text).unwrap();
        let keys: Vec<_> = value.members().map(|(key, _)| key).collect();
        assert_eq!(keys, [&b"a"[..], b"b", b"error", br"c\u0041"]);
        assert!(value.get("error").unwrap().is_empty());
        assert_eq!(value.get("b").unwrap().elements().count(), 2);
        assert_eq!(
            value.get("a").unwrap().get("error").unwrap().number(),
            Some(1)
        );
        assert_eq!(Value::parse(b"[]").unwrap().members().count(), 0);
    }

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(
            mut text in proptest::collection::vec(0x20_u8.., 0..80),
            special in prop::sample::select(vec![b'"', b'\\', 0, 0x1f]),
        ) {
            text.retain(|byte| !matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(skip_plain(&text), None);
            let length = text.len();
            text.extend([special, 0x80, b'"']);
            // A control character makes the string wrong, wherever it is found.
            let found = skip_plain(&text);
            prop_assert!(found == Some(length) || (special < 0x20 && found.is_none()));
        }
    }

    /// Text that is JSON, or close to it.
    fn nearly_json() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just(" "),
            Just("\"a\""),
            Just("\"\\u00e9\\n\""),
            Just("\"\\x\""),
            Just("\"\n\""),
            Just("0"),
            Just("-1.5e+3"),
            Just("01"),
            Just("1."),
            Just("true"),
            Just("null"),
            Just("nul"),
            Just("{\"k\":"),
            Just("[1,"),
            Just("\""),
            Just("\\"),
        ];
        proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn accepts_what_serde_json_accepts(text in nearly_json()) {
            let theirs = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(Value::parse(text.as_bytes()).is_some(), theirs, "{}", text);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(value) = Value::parse(&bytes) {
                value.members().count();
                value.elements().count();
            }
        }
    }

    #[test]
    fn what_is_there_but_says_nothing_is_empty() {
        for text in ["null", "false", "\"\"", "{ }", "[ ]", "\u{feff} null"] {
            assert!(Value::parse(text.as_bytes()).unwrap().is_empty(), "{text}");
        }
        for text in ["true", "0", "\" \"", "{\"\":0}", "[0]"] {
            assert!(!Value::parse(text.as_bytes()).unwrap().is_empty(), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_as_in_serde_json() {
        let nest = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for depth in [100, 126, 127, 128, 129] {
            let text = ["[".repeat(depth), "0".into(), "]".repeat(depth)].concat();
            let theirs = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            // What theirs reads ours reads; theirs stops one level before its bound.
            let ours = Value::parse(text.as_bytes()).is_some();
            assert_eq!(ours, theirs || depth == 128, "{depth}");
        }
        assert!(Value::parse(nest(100_000).as_bytes()).is_none());
    }
}
