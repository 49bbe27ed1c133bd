use std::fmt;

use super::{Limits, Work, recycle};

/// Two lengths and the checksum of both.
const PRELUDE: usize = 12;
/// The checksum at the end.
const CHECKSUM: usize = 4;
/// The type of a header whose value is a string.
const STRING: u8 = 7;

/// A scanner of AWS event-stream messages (`application/vnd.amazon.eventstream`).
///
/// Both checksums of a message are verified. A message that is larger than the limits is skipped
/// once its prelude has proved sound; a checksum that does not hold ends the reading, for there is
/// no way to find the next message.
///
/// Source: <https://docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html>.
///
/// ```
/// use backstop_wire::scan::{EventStream, EventStreamItem, Message};
///
/// let message = Message::encode(&[(":event-type", "messageStop")], b"{}");
/// let mut scanner = EventStream::default();
/// for byte in message.chunks(1) {
///     scanner.feed(byte, |item| {
///         let EventStreamItem::Message(message) = item else { panic!("a sound message") };
///         assert_eq!(message.header(":event-type"), Some(&b"messageStop"[..]));
///         assert_eq!(message.payload(), b"{}");
///     });
/// }
/// ```
#[derive(Default)]
pub struct EventStream {
    limits: Limits,
    held: Vec<u8>,
    /// How many bytes of a message that is too large are still to come.
    skip: usize,
    broken: bool,
    work: Work,
}

/// What an [`EventStream`] scanner found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventStreamItem<'a> {
    /// A whole message whose checksums hold.
    Message(Message<'a>),
    /// A message larger than the limits was met and is skipped.
    TooLong,
    /// A length or a checksum does not hold. Nothing more is read.
    Broken,
}

/// A message of an event stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
}

/// What the prelude of a message says.
enum Prelude {
    Total(usize),
    TooLong(usize),
    Broken,
}

impl EventStream {
    /// A scanner with other limits than the default ones. A message, headers and all, is an event;
    /// lines do not count.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Reads the next chunk and calls `each` for every item that it completes.
    pub fn feed(&mut self, chunk: &[u8], mut each: impl FnMut(EventStreamItem<'_>)) {
        let mut rest = chunk;
        while !rest.is_empty() && !self.broken {
            if self.skip > 0 {
                let skipped = self.skip.min(rest.len());
                self.skip -= skipped;
                rest = &rest[skipped..];
                continue;
            }
            // A message that lies in the chunk as a whole is read there.
            if self.held.is_empty()
                && let Some(prelude) = rest.first_chunk()
                && let Prelude::Total(total) = self.prelude(prelude)
                && let Some((message, more)) = rest.split_at_checked(total)
            {
                rest = more;
                self.message(message, &mut each);
                continue;
            }
            let want = match self.held.first_chunk() {
                None => PRELUDE,
                Some(prelude) => match self.prelude(prelude) {
                    Prelude::Total(total) => total,
                    Prelude::TooLong(_) | Prelude::Broken => PRELUDE,
                },
            };
            let (part, more) = rest.split_at(rest.len().min(want - self.held.len()));
            self.work.add(part.len());
            self.held.extend_from_slice(part);
            rest = more;
            if self.held.len() < want {
                return;
            }
            if want == PRELUDE {
                if let Some(prelude) = self.held.first_chunk() {
                    match self.prelude(prelude) {
                        Prelude::Total(_) => {}
                        Prelude::TooLong(total) => {
                            self.skip = total - PRELUDE;
                            recycle(&mut self.held);
                            each(EventStreamItem::TooLong);
                        }
                        Prelude::Broken => self.fail(&mut each),
                    }
                }
            } else {
                let mut held = std::mem::take(&mut self.held);
                self.message(&held, &mut each);
                recycle(&mut held);
                self.held = held;
            }
        }
    }

    fn prelude(&self, prelude: &[u8; PRELUDE]) -> Prelude {
        self.work.add(PRELUDE);
        let word = |at: usize| u32_at(prelude, at);
        let (total, headers) = (word(0), word(4));
        let (Ok(size), Ok(headers)) = (usize::try_from(total), usize::try_from(headers)) else {
            return Prelude::Broken;
        };
        if crc32fast::hash(&prelude[..8]) != word(8)
            || size < PRELUDE + CHECKSUM
            || headers > size - PRELUDE - CHECKSUM
        {
            Prelude::Broken
        } else if size > self.limits.event {
            Prelude::TooLong(size)
        } else {
            Prelude::Total(size)
        }
    }

    /// Verifies and gives out a message whose prelude is sound.
    fn message(&mut self, message: &[u8], each: &mut impl FnMut(EventStreamItem<'_>)) {
        self.work.add(message.len());
        let (body, checksum) = message.split_at(message.len() - CHECKSUM);
        let headers = usize::try_from(u32_at(message, 4)).unwrap_or_default();
        if crc32fast::hash(body) == u32_at(checksum, 0) {
            let (headers, payload) = body[PRELUDE..].split_at(headers);
            each(EventStreamItem::Message(Message { headers, payload }));
        } else {
            self.fail(each);
        }
    }

    fn fail(&mut self, each: &mut impl FnMut(EventStreamItem<'_>)) {
        self.broken = true;
        recycle(&mut self.held);
        each(EventStreamItem::Broken);
    }
}

/// The big-endian number at a place where there is one.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u32::from_be_bytes(*word))
}

impl<'a> Message<'a> {
    /// The value of the string header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut rest = self.headers;
        loop {
            let (length, after) = rest.split_first()?;
            let (key, after) = after.split_at_checked(usize::from(*length))?;
            let (kind, after) = after.split_first()?;
            let (size, after) = match kind {
                0 | 1 => (0, after),
                2 => (1, after),
                3 => (2, after),
                4 => (4, after),
                5 | 8 => (8, after),
                6 | 7 => {
                    let (length, after) = after.split_first_chunk()?;
                    (usize::from(u16::from_be_bytes(*length)), after)
                }
                9 => (16, after),
                _ => return None,
            };
            let (value, after) = after.split_at_checked(size)?;
            if *kind == STRING && key == name.as_bytes() {
                return Some(value);
            }
            rest = after;
        }
    }

    /// The payload.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The bytes of a message with these string headers.
    ///
    /// A name that is longer than 255 bytes or a value that is longer than 65535 is cut there.
    #[must_use]
    pub fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
            let value = &value.as_bytes()[..value.len().min(usize::from(u16::MAX))];
            block.extend(u8::try_from(name.len()).unwrap_or_default().to_be_bytes());
            block.extend_from_slice(name);
            block.push(STRING);
            block.extend(u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
            block.extend_from_slice(value);
        }
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
        let mut message = Vec::new();
        message.extend(size(PRELUDE + block.len() + payload.len() + CHECKSUM));
        message.extend(size(block.len()));
        message.extend(crc32fast::hash(&message).to_be_bytes());
        message.extend(block);
        message.extend_from_slice(payload);
        message.extend(crc32fast::hash(&message).to_be_bytes());
        message
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("limits", &self.limits)
            .field("held", &self.held.len())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EventStreamItem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => message.fmt(f),
            Self::TooLong => f.write_str("TooLong"),
            Self::Broken => f.write_str("Broken"),
        }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.payload.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan<'a>(limits: Limits, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut seen = Vec::new();
        let mut scanner = EventStream::with_limits(limits);
        for chunk in chunks {
            scanner.feed(chunk, |item| {
                seen.push(match item {
                    EventStreamItem::Message(message) => format!(
                        "{:?} {:?}",
                        message
                            .header("n")
                            .map(|value| value.escape_ascii().to_string()),
                        message.payload().escape_ascii().to_string()
                    ),
                    other => format!("{other:?}"),
                });
            });
        }
        seen
    }

    #[test]
    fn the_published_example_is_read() {
        // The message with one string header and a payload, of the test vectors of AWS's SDKs:
        // {"content-type": "application/json"} and {'foo':'bar'}.
        let message =
            b"\0\0\0\x3d\0\0\0\x20\x07\xfd\x83\x96\x0ccontent-type\x07\0\x10application/json\
                        {'foo':'bar'}\x8d\x9c\x08\xb1";
        assert_eq!(
            Message::encode(&[("content-type", "application/json")], b"{'foo':'bar'}"),
            message
        );
        assert_eq!(
            scan(Limits::default(), [&message[..]]),
            [r#"None "{\\'foo\\':\\'bar\\'}""#]
        );
    }

    #[test]
    fn headers_of_all_types_are_passed_over() {
        let mut block = Vec::new();
        for (kind, size) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 4),
            (5, 8),
            (8, 8),
            (9, 16),
        ] {
            block.extend([1, b'x', kind]);
            block.extend(std::iter::repeat_n(0xff, size));
        }
        block.extend([1, b'b', 6, 0, 2, 1, 2, 1, b'n', 7, 0, 1, b'v']);
        let message = Message {
            headers: &block,
            payload: b"",
        };
        assert_eq!(message.header("n"), Some(&b"v"[..]));
        assert_eq!(message.header("b"), None);
        for cut in 0..block.len() - 1 {
            let message = Message {
                headers: &block[..cut],
                payload: b"",
            };
            assert_eq!(message.header("n"), None);
        }
    }

    #[test]
    fn any_bit_that_flips_is_noticed() {
        let sound = Message::encode(&[("n", "v")], b"payload");
        for bit in 0..sound.len() * 8 {
            let mut message = sound.clone();
            message[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                scan(Limits::default(), [&message[..]]),
                ["Broken"],
                "bit {bit}"
            );
        }
    }

    #[test]
    fn a_message_too_large_is_skipped_in_bounded_memory() {
        let large = Message::encode(&[], &vec![b'x'; 1024 * 1024]);
        let mut scanner = EventStream::with_limits(Limits::default().event(256));
        let mut seen = Vec::new();
        for chunk in large.chunks(1000) {
            scanner.feed(chunk, |item| seen.push(format!("{item:?}")));
            assert!(scanner.held.capacity() <= 1024);
        }
        scanner.feed(&Message::encode(&[], b"x"), |item| {
            seen.push(format!("{item:?}"));
        });
        assert_eq!(seen, ["TooLong", "Message(1 bytes)"]);
    }

    #[test]
    fn time_is_linear_however_small_the_pieces_are() {
        let total = 256 * 1024;
        let message = Message::encode(&[(":event-type", "x")], &vec![b'x'; total]);
        for (limit, piece) in [(Limits::DEFAULT, 1), (1000, 1), (Limits::DEFAULT, 7)] {
            let mut scanner = EventStream::with_limits(Limits::default().event(limit));
            let mut items = 0;
            for piece in message.chunks(piece) {
                scanner.feed(piece, |_| items += 1);
            }
            assert_eq!(items, 1);
            // Of each piece the prelude is looked at again, which is of a fixed length.
            let per_byte = 2 + 2 * PRELUDE;
            assert!(
                scanner.work.bytes.get() <= per_byte * message.len(),
                "{:?}",
                scanner.work
            );
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            payloads in prop::collection::vec("[a-z]{0,30}", 0..5),
            garbage in prop::collection::vec(any::<u8>(), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut stream: Vec<u8> = payloads
                .iter()
                .flat_map(|payload| Message::encode(&[("n", payload)], payload.as_bytes()))
                .collect();
            stream.extend(garbage);
            let limits = Limits::default().event(64);
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
