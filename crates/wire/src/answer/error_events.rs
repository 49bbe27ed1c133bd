use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use backstop_core::{BoxError, outcome_of};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use memchr::memchr2;
use pin_project_lite::pin_project;

use super::error_event;
use crate::Dialect;

pin_project! {
    /// A response body that ends a broken stream of server-sent events with an error event.
    ///
    /// Only whole events are passed on: what follows the last event boundary is held back until the
    /// next one comes, without copying. When the inner body fails, what is held is dropped, an error
    /// event in the caller's dialect takes its place, and the body ends. A reader sees a prefix of
    /// the events and then the error, never half an event, and never an end that the model did not
    /// send.
    ///
    /// The bytes of a body that does not fail are passed on as they came. An error of any other
    /// body than server-sent events is passed on as well, which aborts the connection.
    ///
    /// At most [`HELD_LIMIT`](Self::HELD_LIMIT) bytes are held, in however many pieces they come; a
    /// larger event is passed on in pieces, and an error in the middle of it aborts the connection.
    pub struct ErrorEvents<B> {
        #[pin]
        inner: B,
        dialect: Dialect,
        is_stream: bool,
        boundary: Boundary,
        // What follows the last boundary.
        held: VecDeque<Bytes>,
        // With what keeping the pieces takes.
        held_bytes: usize,
        // Frames to give out before the inner body is polled again.
        ready: VecDeque<Frame<Bytes>>,
        // Part of an event was passed on.
        mid_event: bool,
        done: bool,
    }
}

/// Where the last event ends.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    /// The line that is being read has no byte yet.
    empty_line: bool,
    /// The last byte was a CR: a LF belongs to it.
    after_cr: bool,
}

impl<B> ErrorEvents<B> {
    /// How many bytes are held at most: 1 MiB, which includes the some hundred bytes that keeping a
    /// piece takes.
    ///
    /// Text events are some hundred bytes; this bounds the memory of a thousand streams whose events
    /// do not end to 1 GiB.
    pub const HELD_LIMIT: usize = 1024 * 1024;

    /// What keeping a piece takes beside its bytes: its place among those held, and then among those
    /// given out. Without it a stream in pieces of one byte, or of none, would take a hundred times
    /// the limit, or any.
    const PIECE: usize = size_of::<Bytes>() + size_of::<Frame<Bytes>>();

    /// Wraps the body of the response that has these `headers`.
    ///
    /// Bodies of any other type than `text/event-stream` are passed on, errors included.
    #[must_use]
    pub fn new(dialect: Dialect, headers: &HeaderMap, inner: B) -> Self {
        let is_stream = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
            && !headers.contains_key(header::CONTENT_ENCODING);
        Self {
            inner,
            dialect,
            is_stream,
            boundary: Boundary::START,
            held: VecDeque::new(),
            held_bytes: 0,
            ready: VecDeque::new(),
            mid_event: false,
            done: false,
        }
    }

    /// Whether other bytes may come out than went in.
    pub(super) const fn may_change(&self) -> bool {
        self.is_stream
    }
}

impl<B> Body for ErrorEvents<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if !*this.is_stream {
            return this
                .inner
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into)));
        }
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if *this.done {
                return Poll::Ready(None);
            }
            let frame = match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    *this.done = true;
                    this.held.clear();
                    *this.held_bytes = 0;
                    let error = error.into();
                    if *this.mid_event {
                        return Poll::Ready(Some(Err(error)));
                    }
                    let event = error_event(*this.dialect, &outcome_of(&*error));
                    return Poll::Ready(Some(Ok(Frame::data(event))));
                }
                None => {
                    *this.done = true;
                    release(this.held, this.held_bytes, this.ready);
                    continue;
                }
            };
            let mut data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    release(this.held, this.held_bytes, this.ready);
                    this.ready.push_back(frame);
                    continue;
                }
            };
            match this.boundary.last(&data) {
                Some(end) => {
                    let tail = data.split_off(end);
                    *this.mid_event = false;
                    if !this.held.is_empty() {
                        release(this.held, this.held_bytes, this.ready);
                    }
                    *this.held_bytes = tail.len();
                    if !tail.is_empty() {
                        this.held.push_back(tail);
                    }
                    if this.ready.is_empty() && *this.held_bytes <= Self::HELD_LIMIT {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    this.ready.push_back(Frame::data(data));
                }
                // The rest of an event of which the start is gone.
                None if *this.mid_event => this.ready.push_back(Frame::data(data)),
                None => {
                    *this.held_bytes += data.len() + Self::PIECE;
                    this.held.push_back(data);
                }
            }
            if *this.held_bytes > Self::HELD_LIMIT {
                *this.mid_event = true;
                release(this.held, this.held_bytes, this.ready);
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if !self.is_stream {
            return self.inner.is_end_stream();
        }
        self.ready.is_empty() && self.held.is_empty() && (self.done || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if !self.is_stream {
            return self.inner.size_hint();
        }
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        // What is held may be dropped and an error event added, so only what is ready is sure.
        let mut hint = SizeHint::new();
        let ready = self.ready.iter().filter_map(Frame::data_ref);
        hint.set_lower(ready.map(|data| data.len() as u64).sum());
        hint
    }
}

/// Gives out what is held.
fn release(held: &mut VecDeque<Bytes>, held_bytes: &mut usize, ready: &mut VecDeque<Frame<Bytes>>) {
    ready.extend(held.drain(..).map(Frame::data));
    *held_bytes = 0;
}

impl Boundary {
    const START: Self = Self {
        empty_line: true,
        after_cr: false,
    };

    /// Reads on, and says after how many of the bytes the last event that they end is over.
    fn last(&mut self, data: &[u8]) -> Option<usize> {
        let mut last = None;
        let mut at = 0;
        if self.after_cr && data.first() == Some(&b'\n') {
            // The second half of a line end that was complete without it.
            at = 1;
        }
        if !data.is_empty() {
            self.after_cr = false;
        }
        while let Some(found) = memchr2(b'\n', b'\r', &data[at..]) {
            let is_empty = found == 0 && self.empty_line;
            let is_cr = data[at + found] == b'\r';
            at += found + 1;
            if is_cr {
                match data.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            self.empty_line = true;
            if is_empty {
                last = Some(at);
            }
        }
        if at < data.len() {
            self.empty_line = false;
        }
        last
    }
}

impl<B> fmt::Debug for ErrorEvents<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Counts only: the bytes are somebody's answer.
        f.debug_struct("ErrorEvents")
            .field("dialect", &self.dialect)
            .field("is_stream", &self.is_stream)
            .field("held_bytes", &self.held_bytes)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
