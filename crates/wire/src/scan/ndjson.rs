use std::{fmt, mem};

use memchr::memchr;

use super::{Limits, Work, recycle};

/// A scanner of newline-delimited JSON: one value a line.
///
/// Lines end with LF, and a CR before it is not part of the line. Empty lines are left out.
///
/// ```
/// use backstop_wire::scan::{Ndjson, NdjsonItem};
///
/// let mut lines = Vec::new();
/// let mut scanner = Ndjson::default();
/// for chunk in ["{\"a\":1}\r\n{\"b\"", ":2}\n\n"] {
///     scanner.feed(chunk.as_bytes(), |item| {
///         if let NdjsonItem::Line(line) = item {
///             lines.push(line.escape_ascii().to_string());
///         }
///     });
/// }
/// assert_eq!(lines, [r#"{\"a\":1}"#, r#"{\"b\":2}"#]);
/// ```
#[derive(Default)]
pub struct Ndjson {
    limits: Limits,
    line: Vec<u8>,
    skip_line: bool,
    work: Work,
}

/// What an [`Ndjson`] scanner found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NdjsonItem<'a> {
    /// A whole line, without its end.
    Line(&'a [u8]),
    /// A line longer than the limits was met and is skipped.
    TooLong,
}

impl Ndjson {
    /// A scanner with other limits than the default ones. A line is an event, so the smaller of the
    /// two counts.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Reads the next chunk and calls `each` for every line that it completes.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(NdjsonItem<'_>)) {
        let limit = self.limits.line.min(self.limits.event);
        let mut rest = chunk;
        // Looked through for the line end, and copied at most once: what is held is not looked at.
        self.work.add(chunk.len());
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if mem::take(&mut self.skip_line) {
                continue;
            }
            if self.line.len().saturating_add(line.len()) > limit {
                each(NdjsonItem::TooLong);
            } else if self.line.is_empty() {
                emit(line, &mut each);
            } else {
                self.work.add(line.len());
                self.line.extend_from_slice(line);
                emit(&self.line, &mut each);
            }
            recycle(&mut self.line);
        }
        if self.skip_line {
            return;
        }
        if self.line.len().saturating_add(rest.len()) > limit {
            self.skip_line = true;
            recycle(&mut self.line);
            each(NdjsonItem::TooLong);
        } else {
            self.work.add(rest.len());
            self.line.extend_from_slice(rest);
        }
    }

    /// Reads what is left when the stream is over, as if a line end followed.
    pub fn finish(&mut self, each: impl FnMut(NdjsonItem<'_>)) {
        self.feed(b"\n", each);
    }
}

fn emit(line: &[u8], each: &mut impl FnMut(NdjsonItem<'_>)) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.is_empty() {
        each(NdjsonItem::Line(line));
    }
}

impl fmt::Debug for Ndjson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ndjson")
            .field("limits", &self.limits)
            .field("held", &self.line.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NdjsonItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "Line({} bytes)", line.len()),
            Self::TooLong => f.write_str("TooLong"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan<'a>(limits: Limits, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Option<String>> {
        let mut seen = Vec::new();
        let mut scanner = Ndjson::with_limits(limits);
        for chunk in chunks {
            scanner.feed(chunk, |item| {
                seen.push(match item {
                    NdjsonItem::Line(line) => Some(String::from_utf8_lossy(line).into_owned()),
                    NdjsonItem::TooLong => None,
                });
            });
        }
        seen
    }

    #[test]
    fn time_is_linear_however_small_the_pieces_are() {
        let total = 256 * 1024;
        let mut scanner = Ndjson::default();
        let mut lines = 0;
        for _ in 0..total {
            scanner.feed(b"x", |_| {});
        }
        scanner.feed(b"\n", |_| lines += 1);
        assert_eq!(lines, 1);
        assert!(scanner.work.bytes.get() <= 3 * total, "{:?}", scanner.work);
        // A line that is too long is skipped as quickly.
        let mut scanner = Ndjson::with_limits(Limits::default().line(1000));
        for _ in 0..total {
            scanner.feed(b"x", |_| lines += 1);
        }
        assert_eq!(lines, 2);
        assert!(scanner.work.bytes.get() <= 3 * total, "{:?}", scanner.work);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_once() {
        let limits = Limits::default().line(4);
        let stream = b"abcde\nabcd\nabcdefghi\nx";
        let expected = [None, Some("abcd".to_owned()), None];
        assert_eq!(scan(limits, [&stream[..]]), expected);
        assert_eq!(scan(limits, stream.chunks(1)), expected);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(stream in "[a\r\n]{0,40}", cut in any::<prop::sample::Index>()) {
            let stream = stream.as_bytes();
            let limits = Limits::default().line(6);
            let whole = scan(limits, [stream]);
            let (left, right) = stream.split_at(cut.index(stream.len() + 1));
            prop_assert_eq!(&scan(limits, [left, right]), &whole);
            prop_assert_eq!(&scan(limits, stream.chunks(1)), &whole);
        }
    }
}
