//! AWS event-stream messages: any bytes, and any headers and payloads under checksums that hold.
//!
//! The first byte chooses between the two, the second the size of the pieces. Under good checksums,
//! the rest is a list of messages: the lengths of the header block and the payload, a byte each, and
//! then both.

#![no_main]

use backstop_fuzz::read;
use backstop_wire::{
    Dialect, Framing,
    scan::{EventStream, EventStreamItem, Limits},
};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] = [
    ":message-type",
    ":event-type",
    ":exception-type",
    ":error-code",
    ":error-message",
];

fn sealed(mut rest: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [headers, payload, more @ ..] = rest {
        let (headers, more) = more.split_at(more.len().min(usize::from(*headers)));
        let (payload, more) = more.split_at(more.len().min(usize::from(*payload)));
        rest = more;
        let start = stream.len();
        let total = 16 + headers.len() + payload.len();
        for word in [total, headers.len()] {
            stream.extend(u32::try_from(word).unwrap_or_default().to_be_bytes());
        }
        stream.extend(crc32fast::hash(&stream[start..]).to_be_bytes());
        stream.extend(headers);
        stream.extend(payload);
        stream.extend(crc32fast::hash(&stream[start..]).to_be_bytes());
    }
    stream
}

fn scan(stream: &[u8], size: usize) -> Vec<(String, Vec<Option<Vec<u8>>>, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut scanner = EventStream::with_limits(Limits::default().event(300));
    for chunk in stream.chunks(size) {
        scanner.feed(chunk, |item| {
            seen.push(match item {
                EventStreamItem::Message(message) => {
                    let headers = NAMES.map(|name| message.header(name).map(<[u8]>::to_vec));
                    (String::new(), headers.into(), message.payload().to_vec())
                }
                other => (format!("{other:?}"), Vec::new(), Vec::new()),
            });
        });
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let [selector, size, rest @ ..] = data else {
        return;
    };
    let stream = if selector % 2 == 0 {
        rest.to_vec()
    } else {
        sealed(rest)
    };
    let size = usize::from(*size) % 64 + 1;
    let whole = stream.len().max(1);
    assert_eq!(scan(&stream, size), scan(&stream, whole));
    let verdict = |size| {
        read(
            Dialect::BedrockConverse,
            Framing::EventStream,
            &stream,
            size,
        )
    };
    assert_eq!(verdict(size), verdict(whole));
});
