use std::fmt;

use super::{Limits, Work, recycle};
use crate::json::Extent;

/// A scanner of the elements of one JSON array, each given out as soon as it is whole.
///
/// Gemini streams like this without `alt=sse`. Elements must be objects, arrays or strings. They are
/// found by their brackets and quotes; whether what is between them is JSON is left to the reader.
///
/// ```
/// use backstop_wire::scan::{JsonArray, JsonArrayItem};
///
/// let mut elements = 0;
/// let mut scanner = JsonArray::default();
/// for chunk in ["[{\"a\":[1]}\r\n,\r\n", "{\"b\"", ":\"]\"}]"] {
///     scanner.feed(chunk.as_bytes(), |item| {
///         elements += usize::from(matches!(item, JsonArrayItem::Element(_)));
///     });
/// }
/// assert_eq!(elements, 2);
/// ```
#[derive(Default)]
pub struct JsonArray {
    limits: Limits,
    place: Place,
    extent: Extent,
    element: Vec<u8>,
    skip_element: bool,
    work: Work,
}

/// What a [`JsonArray`] scanner found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonArrayItem<'a> {
    /// A whole element.
    Element(&'a [u8]),
    /// An element larger than the limits was met and is skipped.
    TooLong,
    /// The array is over.
    End,
    /// This is not an array of such elements. Nothing more is read.
    Broken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    /// After the opening bracket: an element or the end.
    First,
    Element,
    /// After an element: a comma or the end.
    Between,
    /// After a comma: an element.
    Next,
    After,
    Broken,
}

impl JsonArray {
    /// A scanner with other limits than the default ones. An element is an event; lines do not
    /// count.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Reads the next chunk and calls `each` for every item that it completes.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(JsonArrayItem<'_>)) {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            if self.place == Place::Element {
                at += self.element(&chunk[at..], &mut each);
                continue;
            }
            self.place = match (self.place, byte) {
                (Place::Broken, _) => return,
                (place, b' ' | b'\t' | b'\n' | b'\r') => place,
                (Place::Before, b'\xef' | b'\xbb' | b'\xbf') => Place::Before,
                (Place::Before, b'[') => Place::First,
                (Place::First | Place::Between, b']') => {
                    each(JsonArrayItem::End);
                    Place::After
                }
                (Place::Between, b',') => Place::Next,
                (Place::First | Place::Next, b'{' | b'[' | b'"') => {
                    self.extent = Extent::default();
                    self.place = Place::Element;
                    continue;
                }
                _ => {
                    each(JsonArrayItem::Broken);
                    Place::Broken
                }
            };
            at += 1;
        }
    }

    /// Reads on in an element, and says how many bytes of it were there.
    fn element(&mut self, rest: &[u8], each: &mut impl FnMut(JsonArrayItem<'_>)) -> usize {
        let end = self.extent.feed(rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        self.work.add(part.len());
        if !self.skip_element && self.element.len().saturating_add(part.len()) > self.limits.event {
            self.skip_element = true;
            recycle(&mut self.element);
            each(JsonArrayItem::TooLong);
        }
        if end.is_none() {
            if !self.skip_element {
                self.work.add(part.len());
                self.element.extend_from_slice(part);
            }
            return part.len();
        }
        self.place = Place::Between;
        if self.skip_element {
            self.skip_element = false;
        } else if self.element.is_empty() {
            each(JsonArrayItem::Element(part));
        } else {
            self.work.add(part.len());
            self.element.extend_from_slice(part);
            each(JsonArrayItem::Element(&self.element));
        }
        recycle(&mut self.element);
        part.len()
    }
}

impl fmt::Debug for JsonArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonArray")
            .field("limits", &self.limits)
            .field("place", &self.place)
            .field("held", &self.element.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JsonArrayItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Element(element) => write!(f, "Element({} bytes)", element.len()),
            Self::TooLong => f.write_str("TooLong"),
            Self::End => f.write_str("End"),
            Self::Broken => f.write_str("Broken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan<'a>(limits: Limits, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut seen = Vec::new();
        let mut scanner = JsonArray::with_limits(limits);
        for chunk in chunks {
            scanner.feed(chunk, |item| {
                seen.push(match item {
                    JsonArrayItem::Element(element) => {
                        String::from_utf8_lossy(element).into_owned()
                    }
                    other => format!("{other:?}"),
                });
            });
        }
        seen
    }

    #[test]
    fn elements_end_with_their_own_bracket() {
        let stream = "\u{feff} [ {\"a\":\"}]\\\"\"} ,\r\n[[],{}],\"x\"]\n";
        assert_eq!(
            scan(Limits::default(), [stream.as_bytes()]),
            [r#"{"a":"}]\""}"#, "[[],{}]", "\"x\"", "End"]
        );
        assert_eq!(scan(Limits::default(), [&b"[]"[..]]), ["End"]);
        for broken in ["{}", "[1]", "[{},]", "[{}{}]", "[,{}]"] {
            let seen = scan(Limits::default(), [broken.as_bytes()]);
            assert_eq!(seen.last().map(String::as_str), Some("Broken"), "{broken}");
        }
    }

    #[test]
    fn time_is_linear_however_small_the_pieces_are() {
        let total = 256 * 1024;
        for (limit, expected) in [(Limits::DEFAULT, 1), (1000, 1)] {
            let mut scanner = JsonArray::with_limits(Limits::default().event(limit));
            let mut items = 0;
            scanner.feed(b"[{\"a\":\"", |_| {});
            for _ in 0..total {
                scanner.feed(b"x", |_| items += 1);
            }
            scanner.feed(b"\"}", |_| items += 1);
            assert_eq!(items, expected);
            assert!(scanner.work.bytes.get() <= 3 * total, "{:?}", scanner.work);
        }
        // Elements that are all brackets, in one piece.
        let nested = ["[", &"[".repeat(total), &"]".repeat(total)].concat();
        let mut scanner = JsonArray::default();
        scanner.feed(nested.as_bytes(), |_| {});
        assert!(scanner.work.bytes.get() <= 3 * nested.len());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_elements(
            stream in r#"\[(\{("a":"[b}\]]{0,9}")?\}[, ]{0,2}){0,5}\]?"#,
            cut in any::<prop::sample::Index>(),
        ) {
            let stream = stream.as_bytes();
            let limits = Limits::default().event(10);
            let whole = scan(limits, [stream]);
            let (left, right) = stream.split_at(cut.index(stream.len() + 1));
            prop_assert_eq!(&scan(limits, [left, right]), &whole);
            prop_assert_eq!(&scan(limits, stream.chunks(1)), &whole);
        }
    }
}
