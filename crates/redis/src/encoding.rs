//! How an answer is written in Redis: a version, flags, the time it was complete, the record.

use backstop_cache::Entry;
use bytes::Bytes;

/// The version of this encoding. Another one is not read: a miss.
const VERSION: u8 = 1;
const COMPRESSED: u8 = 1;
const HEAD: usize = 1 + 1 + 8;

/// Records above this size are compressed: below it there is little to gain, and the head of an LZ4
/// block eats it.
const COMPRESS_ABOVE: usize = 1024;

/// The largest record that is read, in bytes. A length in the data is not to be trusted with memory.
const MAX_RECORD: usize = 64 * 1024 * 1024;

pub(crate) fn encode(entry: &Entry) -> Vec<u8> {
    let record = &entry.record.0;
    let compressed = (record.len() > COMPRESS_ABOVE)
        .then(|| lz4_flex::compress_prepend_size(record))
        .filter(|compressed| compressed.len() < record.len());
    let (flags, data) = match &compressed {
        Some(compressed) => (COMPRESSED, compressed.as_slice()),
        None => (0, record.as_ref()),
    };
    let mut encoded = Vec::with_capacity(HEAD + data.len());
    encoded.extend_from_slice(&[VERSION, flags]);
    encoded.extend_from_slice(&entry.stored_at.to_le_bytes());
    encoded.extend_from_slice(data);
    encoded
}

pub(crate) fn decode(encoded: &[u8]) -> Option<Entry> {
    let (head, data) = encoded.split_at_checked(HEAD)?;
    let [VERSION, flags, stored_at @ ..] = head else {
        return None;
    };
    let stored_at = u64::from_le_bytes(stored_at.try_into().ok()?);
    let record = match *flags {
        0 => Bytes::copy_from_slice(data),
        COMPRESSED => {
            let (size, _) = lz4_flex::block::uncompressed_size(data).ok()?;
            if size > MAX_RECORD {
                return None;
            }
            Bytes::from(lz4_flex::decompress_size_prepended(data).ok()?)
        }
        _ => return None,
    };
    Some(Entry::new(stored_at, record))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            stored_at in any::<u64>(),
            piece in prop::collection::vec(any::<u8>(), 0..64),
            times in 0..100_usize,
        ) {
            let entry = Entry::new(stored_at, Bytes::from(piece.repeat(times)));
            let encoded = encode(&entry);
            prop_assert!(encoded.len() <= HEAD + entry.record.0.len());
            prop_assert_eq!(decode(&encoded), Some(entry));
        }

        #[test]
        fn garbage_is_a_miss_and_no_panic(mut garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&garbage);
            if let [version, flags, ..] = &mut garbage[..] {
                *version = VERSION;
                *flags = COMPRESSED;
            }
            let _ = decode(&garbage);
        }
    }

    #[test]
    fn long_text_is_compressed() {
        let entry = Entry::new(1, Bytes::from("all work and no play ".repeat(1000)));
        assert!(encode(&entry).len() < entry.record.0.len() / 10);
    }

    #[test]
    fn a_forged_size_takes_no_memory() {
        let mut forged = vec![VERSION, COMPRESSED, 0, 0, 0, 0, 0, 0, 0, 0];
        forged.extend_from_slice(&u32::MAX.to_le_bytes());
        forged.extend_from_slice(&[0; 16]);
        assert_eq!(decode(&forged), None);
    }

    /// One that was written by a later version, or by something else altogether.
    #[test]
    fn what_another_version_wrote_is_a_miss() {
        let encoded = encode(&Entry::new(1, Bytes::from_static(b"text")));
        assert!(decode(&encoded).is_some());
        for (place, byte) in [(0, VERSION + 1), (0, 0), (1, 2), (1, 0x81)] {
            let mut other = encoded.clone();
            other[place] = byte;
            assert_eq!(decode(&other), None, "{place} {byte}");
        }
        for length in 0..HEAD {
            assert_eq!(decode(&encoded[..length]), None);
        }
    }

    #[test]
    fn what_does_not_compress_is_written_as_it_is() {
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(4096)
            .collect();
        let entry = Entry::new(1, Bytes::from(noise));
        let encoded = encode(&entry);
        assert_eq!(encoded.len(), HEAD + 4096);
        assert_eq!(decode(&encoded), Some(entry));
    }

    #[test]
    fn a_little_that_becomes_too_much_is_not_read() {
        for (length, is_read) in [(MAX_RECORD, true), (MAX_RECORD + 1, false)] {
            let encoded = encode(&Entry::new(1, Bytes::from(vec![0; length])));
            assert!(encoded.len() < MAX_RECORD / 100);
            assert_eq!(decode(&encoded).is_some(), is_read, "{length}");
        }
    }
}
