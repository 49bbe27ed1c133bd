//! What gRPC statuses carry in protobuf, read without generated code.
//!
//! A `google.rpc.Status` is looked into for a few fields only, wherever it comes from: the error of a
//! tonic client here, the headers of a response in `backstop-wire`.

use std::time::Duration;

/// The fields of a protobuf message with their numbers, up to the first that is broken.
///
/// Nothing is copied or allocated, and hostile input ends it early. Groups, which are deprecated, count
/// as broken.
///
/// ```
/// use backstop_core::protobuf::{Field, Fields};
///
/// let mut fields = Fields::new(&[0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1a]);
/// assert_eq!(fields.next(), Some((1, Field::Number(150))));
/// assert_eq!(fields.next(), Some((2, Field::Bytes(b"hi"))));
/// assert_eq!(fields.next(), None);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

/// The value of a field, by its form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A number. Negative ones are two's complement.
    Number(u64),
    /// Text, bytes, a message, or a number of fixed size, which is its four or eight bytes.
    Bytes(&'a [u8]),
}

/// Reads a `google.protobuf.Duration`; a negative one, and one that is none, is `None`.
#[must_use]
pub fn duration(message: &[u8]) -> Option<Duration> {
    let (mut seconds, mut nanos) = (0_u64, 0_u64);
    for (number, field) in Fields::new(message) {
        match (number, field) {
            (1, Field::Number(value)) => seconds = value,
            (2, Field::Number(value)) => nanos = value,
            _ => {}
        }
    }
    // Negative numbers are two's complement: beyond the largest signed one.
    let seconds = i64::try_from(seconds).ok()?;
    let nanos = u32::try_from(nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds.unsigned_abs(), nanos))
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The fields of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => Field::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a message of a `Duration`: field 1 and field 2, both varints.
    fn message(seconds: i64, nanos: i64) -> Vec<u8> {
        let mut message = Vec::new();
        for (key, number) in [(0x08, seconds), (0x10, nanos)] {
            message.push(key);
            let mut rest = number.cast_unsigned();
            while rest > 0x7f {
                message.push(0x80 | (rest & 0x7f) as u8);
                rest >>= 7;
            }
            message.push((rest & 0x7f) as u8);
        }
        message
    }

    #[test]
    fn a_duration_is_neither_negative_nor_has_it_a_second_of_nanoseconds() {
        for (seconds, nanos, expected) in [
            (34, 400_000_000, Some(Duration::from_millis(34_400))),
            (
                i64::MAX,
                999_999_999,
                Some(Duration::new(i64::MAX.unsigned_abs(), 999_999_999)),
            ),
            (1, 1_000_000_000, None),
            (-1, 0, None),
            (0, -1, None),
        ] {
            assert_eq!(
                duration(&message(seconds, nanos)),
                expected,
                "{seconds} {nanos}"
            );
        }
        assert_eq!(duration(b""), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_broken_ends_the_fields() {
        for broken in [
            &[0x08][..],
            &[0x12, 5, b'x'],
            &[0x0b],
            &[0x09, 1, 2],
            &[0xff; 11],
        ] {
            assert_eq!(Fields::new(broken).next(), None, "{broken:?}");
        }
        let fixed = [0x0d, 1, 0, 0, 0, 0x11, 2, 0, 0, 0, 0, 0, 0, 0];
        let lengths = Fields::new(&fixed).map(|(number, field)| match field {
            Field::Bytes(bytes) => (number, bytes.len()),
            Field::Number(_) => (number, 0),
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [(1, 4), (2, 8)]);
    }
}
