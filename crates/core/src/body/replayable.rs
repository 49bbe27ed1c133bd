use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;

/// A request body that can be sent again, or one that was too large for that.
///
/// [`Replay`](crate::Replay) makes it: bytes that are all there, or the bytes that had been read
/// when the limit was passed followed by the rest of the body as it comes.
pub struct Replayable<B> {
    data: Option<Bytes>,
    // Boxed: they are large, next to never there, and would be moved about with every request.
    trailers: Option<Box<HeaderMap>>,
    rest: Option<B>,
}

impl<B> Replayable<B> {
    /// A body that is all there.
    #[must_use]
    pub fn full(data: Bytes) -> Self {
        Self {
            data: Some(data).filter(|data| !data.is_empty()),
            trailers: None,
            rest: None,
        }
    }

    /// A body that is all there, with trailers.
    #[must_use]
    pub fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self {
            trailers: Some(Box::new(trailers)),
            ..Self::full(data)
        }
    }

    /// A body of which only `read` is there; it can be sent once.
    #[must_use]
    pub fn once(read: Bytes, rest: B) -> Self {
        Self {
            rest: Some(rest),
            ..Self::full(read)
        }
    }

    /// The whole body, unless it can be sent only once.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        self.rest.is_none().then(|| self.read())
    }

    /// The bytes that are there: the whole body, or what had been read when the limit was passed.
    #[must_use]
    pub fn read(&self) -> Bytes {
        self.data.clone().unwrap_or_default()
    }

    /// Replaces the bytes that are there; what is still to come stays.
    #[must_use]
    pub fn with_read(mut self, read: Bytes) -> Self {
        self.data = Some(read).filter(|data| !data.is_empty());
        self
    }
}

impl<B> Replayable<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    /// Reads until the body is all there, or has more than `limit` bytes.
    ///
    /// `more` and `read` are what was read before, but for the first chunk: most bodies are one, and
    /// need no list.
    pub(crate) fn poll_read(
        &mut self,
        more: &mut Vec<Bytes>,
        read: &mut usize,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>> {
        while let Some(rest) = &mut self.rest {
            if self.trailers.is_some() || rest.is_end_stream() {
                self.rest = None;
                break;
            }
            let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.rest = None;
                    return Poll::Ready(Err(error.into()));
                }
                None => {
                    self.rest = None;
                    break;
                }
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    *read += data.len();
                    if self.data.is_none() {
                        self.data = Some(data);
                    } else {
                        more.push(data);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
            }
            if *read > limit {
                break;
            }
        }
        if !more.is_empty() {
            let mut joined = BytesMut::with_capacity(*read);
            for chunk in self.data.iter().chain(&*more) {
                joined.extend_from_slice(chunk);
            }
            more.clear();
            self.data = Some(joined.freeze());
        }
        Poll::Ready(Ok(()))
    }

    /// Whether it is all there.
    pub(crate) const fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }
}

impl<B> Body for Replayable<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(rest) = &mut self.rest {
            let frame = ready!(Pin::new(rest).poll_frame(cx));
            if !matches!(frame, Some(Ok(_))) {
                self.rest = None;
            }
            return Poll::Ready(frame);
        }
        Poll::Ready(
            self.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(*trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data.as_ref().map_or(0, |data| data.len() as u64);
        // An exact hint makes HTTP/1 use content-length, with which trailers are not sent.
        if self.trailers.is_some() {
            let mut hint = SizeHint::new();
            hint.set_lower(read);
            return hint;
        }
        super::peeked::plus(read, self.rest.as_ref().map(Body::size_hint))
    }
}

impl<B> From<Bytes> for Replayable<B> {
    fn from(data: Bytes) -> Self {
        Self::full(data)
    }
}

impl<B> Default for Replayable<B> {
    fn default() -> Self {
        Self::full(Bytes::new())
    }
}

impl<B> fmt::Debug for Replayable<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lengths only: the body is somebody's prompt.
        f.debug_struct("Replayable")
            .field("read_bytes", &self.data.as_ref().map_or(0, Bytes::len))
            .field("once", &self.rest.is_some())
            .finish_non_exhaustive()
    }
}
