//! Streams of text: server-sent events, lines and arrays, in every dialect and any division.
//!
//! The first byte chooses the dialect and the framing, the second the size of the pieces.

#![no_main]

use backstop_fuzz::{dialect, read};
use backstop_wire::{
    Framing,
    scan::{JsonArray, JsonArrayItem, Limits, Ndjson, NdjsonItem, Sse, SseItem},
};
use libfuzzer_sys::fuzz_target;

/// Far below the default, so that a short input reaches them.
fn limits() -> Limits {
    Limits::default().line(48).event(64)
}

fn sse(stream: &[u8], size: usize) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut each = |item: SseItem<'_>| {
        seen.push(match item {
            SseItem::Event(event) => {
                assert!(event.data.len() <= 64 && event.name.is_none_or(|name| name.len() <= 48));
                let name = event.name.map_or(vec![0xff], <[u8]>::to_vec);
                (0, name, event.data.to_vec())
            }
            SseItem::Comment(text) => (1, Vec::new(), text.to_vec()),
            SseItem::Field { name, value, .. } => (2, name.to_vec(), value.to_vec()),
            _ => (3, Vec::new(), Vec::new()),
        });
    };
    let mut scanner = Sse::with_limits(limits());
    for chunk in stream.chunks(size) {
        scanner.feed(chunk, &mut each);
    }
    scanner.finish(&mut each);
    seen
}

fn ndjson(stream: &[u8], size: usize) -> Vec<Option<Vec<u8>>> {
    let mut seen = Vec::new();
    let mut each = |item: NdjsonItem<'_>| {
        seen.push(match item {
            NdjsonItem::Line(line) => Some(line.to_vec()),
            _ => None,
        });
    };
    let mut scanner = Ndjson::with_limits(limits());
    for chunk in stream.chunks(size) {
        scanner.feed(chunk, &mut each);
    }
    scanner.finish(&mut each);
    seen
}

fn array(stream: &[u8], size: usize) -> Vec<(bool, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut scanner = JsonArray::with_limits(limits());
    for chunk in stream.chunks(size) {
        scanner.feed(chunk, |item| {
            seen.push(match item {
                JsonArrayItem::Element(element) => (true, element.to_vec()),
                other => (false, format!("{other:?}").into_bytes()),
            });
        });
    }
    seen
}

fuzz_target!(|data: &[u8]| {
    let [selector, size, stream @ ..] = data else {
        return;
    };
    let size = usize::from(*size) % 32 + 1;
    let whole = stream.len().max(1);
    assert_eq!(sse(stream, size), sse(stream, whole));
    assert_eq!(ndjson(stream, size), ndjson(stream, whole));
    assert_eq!(array(stream, size), array(stream, whole));
    let framing = match selector / 7 % 4 {
        0 | 1 => Framing::Sse,
        2 => Framing::Ndjson,
        _ => Framing::JsonArray,
    };
    let dialect = dialect(*selector);
    assert_eq!(
        read(dialect, framing, stream, size),
        read(dialect, framing, stream, whole)
    );
});
