use std::{fmt, mem};

use memchr::{memchr, memchr2};

use super::{Limits, Work, recycle};

/// A scanner of server-sent events (WHATWG HTML, section 9.2).
///
/// Lines end with CR, LF or CRLF, also mixed and cut between the two; a byte order mark at the
/// start is skipped; one space after the colon of a field is not part of the value; several `data`
/// fields are joined with LF; an event without `data` is none.
///
/// ```
/// use backstop_wire::scan::{Sse, SseItem};
///
/// let mut seen = Vec::new();
/// let mut scanner = Sse::default();
/// for chunk in ["event: gre", "eting\r\nda", "ta:hello\r\n\r", "\n: bye\n"] {
///     scanner.feed(chunk.as_bytes(), |item| match item {
///         SseItem::Event(event) => {
///             seen.push(format!("{:?} {:?}", event.name.map(<[u8]>::escape_ascii).map(|n| n.to_string()), event.data.escape_ascii().to_string()));
///         }
///         SseItem::Comment(text) => seen.push(text.escape_ascii().to_string()),
///         _ => {}
///     });
/// }
/// assert_eq!(seen, [r#"Some("greeting") "hello""#, " bye"]);
/// ```
#[derive(Default)]
pub struct Sse {
    limits: Limits,
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    /// The fields of an event that began in an earlier chunk or has several lines of data.
    name: Vec<u8>,
    data: Vec<u8>,
    has_name: bool,
    has_data: bool,
    /// The last chunk ended with CR: a LF at the start of the next belongs to it.
    after_cr: bool,
    /// The first line, which may begin with a byte order mark, is over.
    begun: bool,
    /// The rest of the line is skipped.
    skip_line: bool,
    /// The rest of the event is skipped.
    skip_event: bool,
    work: Work,
}

/// What an [`Sse`] scanner found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SseItem<'a> {
    /// A whole event.
    Event(SseEvent<'a>),
    /// A comment: what follows the colon.
    Comment(&'a [u8]),
    /// A line with another field: `id`, `retry`, or one that the standard does not know. Reported
    /// at the end of its line, without waiting for the end of the event.
    Field {
        /// What comes before the colon, or the whole line if there is none.
        name: &'a [u8],
        /// What comes after it.
        value: &'a [u8],
        /// The line as a whole: what is no field at all must be judged by it.
        line: &'a [u8],
    },
    /// Something larger than the limits was met and is skipped: a comment, or an event with all its
    /// fields.
    TooLong,
}

/// A server-sent event.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SseEvent<'a> {
    /// The `event` field, if there is one.
    pub name: Option<&'a [u8]>,
    /// The `data` fields, joined with LF.
    pub data: &'a [u8],
}

/// A field of the event being read.
#[derive(Clone, Copy)]
enum Part<'c> {
    Missing,
    /// Borrowed from the chunk.
    Chunk(&'c [u8]),
    /// Copied to the scanner's buffer.
    Kept,
}

struct Pending<'c> {
    name: Part<'c>,
    data: Part<'c>,
}

impl Sse {
    /// A scanner with other limits than the default ones.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Reads the next chunk and calls `each` for every item that it completes.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(SseItem<'_>)) {
        if chunk.is_empty() {
            return;
        }
        let mut rest = chunk;
        if mem::take(&mut self.after_cr) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        let mut pending = Pending {
            name: Part::kept_if(self.has_name),
            data: Part::kept_if(self.has_data),
        };
        self.work.add(rest.len());
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let line = &rest[..end];
            let is_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_cr {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            if mem::take(&mut self.skip_line) {
                continue;
            }
            if self.line.len().saturating_add(line.len()) > self.limits.line {
                self.too_long(line, &mut each);
            } else if self.line.is_empty() {
                self.line(line, Some(line), &mut pending, &mut each);
            } else {
                self.work.add(line.len());
                self.line.extend_from_slice(line);
                let mut line = mem::take(&mut self.line);
                self.line(&line, None, &mut pending, &mut each);
                recycle(&mut line);
                self.line = line;
            }
        }
        if !rest.is_empty() && !self.skip_line {
            if self.line.len().saturating_add(rest.len()) > self.limits.line {
                self.too_long(rest, &mut each);
                self.skip_line = true;
            } else {
                self.work.add(rest.len());
                self.line.extend_from_slice(rest);
            }
        }
        self.keep(&pending);
    }

    /// Reads what is left when the stream is over, as if the last event were complete.
    ///
    /// The standard drops an event that no empty line ends. Providers forget that line, most of all
    /// after an error, and what they said should be known.
    pub fn finish(&mut self, mut each: impl FnMut(SseItem<'_>)) {
        self.after_cr = false;
        self.feed(b"\n\n", &mut each);
    }

    fn line<'c>(
        &mut self,
        line: &[u8],
        chunk: Option<&'c [u8]>,
        pending: &mut Pending<'c>,
        each: &mut impl FnMut(SseItem<'_>),
    ) {
        let mut start = 0;
        if !mem::replace(&mut self.begun, true) && line.starts_with(b"\xef\xbb\xbf") {
            start = 3;
        }
        let line = &line[start..];
        let chunk = chunk.map(|chunk| &chunk[start..]);
        if line.is_empty() {
            return self.dispatch(pending, each);
        }
        let (name, value_at) = match memchr(b':', line) {
            Some(0) => return each(SseItem::Comment(&line[1..])),
            Some(colon) => {
                let space = usize::from(line.get(colon + 1) == Some(&b' '));
                (&line[..colon], colon + 1 + space)
            }
            None => (line, line.len()),
        };
        let value = &line[value_at..];
        let chunk = chunk.map(|chunk| &chunk[value_at..]);
        match name {
            b"data" => self.data(value, chunk, pending, each),
            b"event" => {
                pending.name = match chunk {
                    Some(chunk) => Part::Chunk(chunk),
                    None => {
                        self.name.clear();
                        self.name.extend_from_slice(value);
                        Part::Kept
                    }
                };
            }
            _ => each(SseItem::Field { name, value, line }),
        }
    }

    fn data<'c>(
        &mut self,
        value: &[u8],
        chunk: Option<&'c [u8]>,
        pending: &mut Pending<'c>,
        each: &mut impl FnMut(SseItem<'_>),
    ) {
        if self.skip_event {
            return;
        }
        let held = match pending.data {
            Part::Missing => 0,
            Part::Chunk(first) => first.len() + 1,
            Part::Kept => self.data.len() + 1,
        };
        if held.saturating_add(value.len()) > self.limits.event {
            self.skip_event = true;
            return each(SseItem::TooLong);
        }
        pending.data = match (pending.data, chunk) {
            (Part::Missing, Some(chunk)) => Part::Chunk(chunk),
            (first, _) => {
                match first {
                    Part::Missing => self.data.clear(),
                    Part::Chunk(first) => {
                        self.data.clear();
                        self.data.extend_from_slice(first);
                        self.data.push(b'\n');
                    }
                    Part::Kept => self.data.push(b'\n'),
                }
                self.work.add(value.len());
                self.data.extend_from_slice(value);
                Part::Kept
            }
        };
    }

    fn dispatch(&mut self, pending: &mut Pending<'_>, each: &mut impl FnMut(SseItem<'_>)) {
        let name = pending.name.get(&self.name);
        if let Some(data) = pending.data.get(&self.data)
            && !self.skip_event
        {
            each(SseItem::Event(SseEvent { name, data }));
        }
        pending.name = Part::Missing;
        pending.data = Part::Missing;
        self.skip_event = false;
        recycle(&mut self.name);
        recycle(&mut self.data);
    }

    /// A line is longer than allowed. `more` is what of it is not in the buffer.
    fn too_long(&mut self, more: &[u8], each: &mut impl FnMut(SseItem<'_>)) {
        self.begun = true;
        let first = self.line.first().or(more.first());
        if first != Some(&b':') {
            // An event that lacks one of its lines would be another event.
            if mem::replace(&mut self.skip_event, true) {
                recycle(&mut self.line);
                return;
            }
        }
        recycle(&mut self.line);
        each(SseItem::TooLong);
    }

    /// Copies what the chunk lent, before it goes.
    fn keep(&mut self, pending: &Pending<'_>) {
        if let Part::Chunk(name) = pending.name {
            self.name.clear();
            self.name.extend_from_slice(name);
        }
        if let Part::Chunk(data) = pending.data {
            self.work.add(data.len());
            self.data.clear();
            self.data.extend_from_slice(data);
        }
        self.has_name = !matches!(pending.name, Part::Missing);
        self.has_data = !matches!(pending.data, Part::Missing);
    }
}

impl<'c> Part<'c> {
    const fn kept_if(kept: bool) -> Self {
        if kept { Self::Kept } else { Self::Missing }
    }

    fn get<'a>(self, buffer: &'a [u8]) -> Option<&'a [u8]>
    where
        'c: 'a,
    {
        match self {
            Self::Missing => None,
            Self::Chunk(chunk) => Some(chunk),
            Self::Kept => Some(buffer),
        }
    }
}

impl fmt::Debug for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Counts only: the bytes are somebody's answer.
        f.debug_struct("Sse")
            .field("limits", &self.limits)
            .field(
                "held",
                &(self.line.len() + self.name.len() + self.data.len()),
            )
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SseItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(event) => event.fmt(f),
            Self::Comment(text) => write!(f, "Comment({} bytes)", text.len()),
            Self::Field { line, .. } => write!(f, "Field({} bytes)", line.len()),
            Self::TooLong => f.write_str("TooLong"),
        }
    }
}

impl fmt::Debug for SseEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} bytes)", self.data.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An item that can be kept.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Event(Option<String>, String),
        Comment(String),
        Field(String, String),
        TooLong,
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn keep(item: SseItem<'_>) -> Seen {
        match item {
            SseItem::Event(event) => Seen::Event(event.name.map(text), text(event.data)),
            SseItem::Comment(comment) => Seen::Comment(text(comment)),
            SseItem::Field { name, value, .. } => Seen::Field(text(name), text(value)),
            SseItem::TooLong => Seen::TooLong,
        }
    }

    fn scan<'a>(limits: Limits, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut scanner = Sse::with_limits(limits);
        for chunk in chunks {
            scanner.feed(chunk, |item| seen.push(keep(item)));
        }
        seen
    }

    fn event(data: &str) -> Seen {
        Seen::Event(None, data.to_owned())
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let stream = "\u{feff}data:a\n\nevent: n\ndata: b\ndata:  c\n\n:x\nid: 1\nretry: 5\ndata\n\n\
                      event: lonely\n\nerror: {}\n\ndata: open";
        assert_eq!(
            scan(Limits::default(), [stream.as_bytes()]),
            [
                event("a"),
                Seen::Event(Some("n".into()), "b\n c".into()),
                Seen::Comment("x".into()),
                Seen::Field("id".into(), "1".into()),
                Seen::Field("retry".into(), "5".into()),
                event(""),
                Seen::Field("error".into(), "{}".into()),
            ]
        );
    }

    #[test]
    fn lines_may_end_in_three_ways() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("data: a{end}data: b{end}{end}data: c{end}{end}");
            let bytes = stream.as_bytes();
            for cut in 0..=bytes.len() {
                let (left, right) = bytes.split_at(cut);
                let seen = scan(Limits::default(), [left, right]);
                assert_eq!(seen, [event("a\nb"), event("c")], "{end:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_skipped_and_the_next_event_is_read() {
        let limits = Limits::default().line(16).event(24);
        let long = "x".repeat(64);
        let many = "data: 12345678\n".repeat(5);
        let stream = format!(
            "event: e\ndata: {long}\ndata: y\n\n:{long}\ndata: a\n\n{many}\ndata: b\n\n{long}"
        );
        let expected = [
            Seen::TooLong,
            Seen::TooLong,
            event("a"),
            Seen::TooLong,
            event("b"),
            Seen::TooLong,
        ];
        assert_eq!(scan(limits, [stream.as_bytes()]), expected);
        assert_eq!(scan(limits, stream.as_bytes().chunks(1)), expected);
    }

    #[test]
    fn a_line_of_10_mib_costs_bounded_memory_and_linear_time() {
        let chunk = vec![b'x'; 16 * 1024];
        let mut scanner = Sse::default();
        let mut skipped = 0;
        for _ in 0..640 {
            scanner.feed(&chunk, |item| {
                skipped += usize::from(item == SseItem::TooLong);
            });
            assert!(scanner.line.capacity() <= 2 * Limits::DEFAULT);
        }
        assert_eq!(skipped, 1);
        assert!(scanner.line.capacity() <= 64 * 1024);
        assert!(
            scanner.work.bytes.get() <= 2 * 640 * chunk.len(),
            "{:?}",
            scanner.work
        );
    }

    #[test]
    fn an_event_of_many_pieces_takes_linear_time() {
        let mut scanner = Sse::default();
        let mut events = 0;
        let total = 256 * 1024;
        scanner.feed(b"data: ", |_| {});
        for _ in 0..total {
            scanner.feed(b"x", |_| {});
        }
        scanner.feed(b"\n\n", |_| events += 1);
        assert_eq!(events, 1);
        assert!(scanner.work.bytes.get() <= 4 * total, "{:?}", scanner.work);
        // The same for many lines of data, a chunk each.
        let mut scanner = Sse::default();
        for _ in 0..total / 8 {
            scanner.feed(b"data: x\n", |_| {});
        }
        scanner.feed(b"\n", |_| events += 1);
        assert_eq!(events, 2);
        assert!(scanner.work.bytes.get() <= 4 * total, "{:?}", scanner.work);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("data: {\"a\":1}"),
            Just("data:x"),
            Just("data"),
            Just("event: e"),
            Just(": c"),
            Just("id: 1"),
            Just("error: y"),
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\n\n"),
            Just("\u{feff}"),
            Just("é"),
            Just("a rather long line of text without any meaning"),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_items(
            stream in stream(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            small in any::<bool>(),
        ) {
            let limits = if small { Limits::default().line(24).event(20) } else { Limits::default() };
            let whole = scan(limits, [&stream[..]]);
            prop_assert_eq!(&scan(limits, stream.chunks(1)), &whole);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
            prop_assert_eq!(&scan(limits, chunks), &whole);
        }
    }
}
