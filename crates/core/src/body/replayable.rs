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
    inner: Inner<B>,
}

/// A request is moved from layer to layer, and most bodies are just bytes.
enum Inner<B> {
    Data(Bytes),
    More(Box<More<B>>),
}

/// Bytes, and what follows them.
struct More<B> {
    data: Bytes,
    rest: Option<B>,
    trailers: Option<HeaderMap>,
}

/// What has been read of a request's body so far; see [`Replay::Read`](crate::Replay::Read).
#[derive(Default)]
pub struct ReadBody {
    data: Bytes,
    // What follows the first chunk: most bodies are one, and need no list.
    more: Vec<Bytes>,
    len: usize,
    trailers: Option<Box<HeaderMap>>,
    is_over: bool,
}

impl<B> Replayable<B> {
    /// A body that is all there.
    #[inline]
    #[must_use]
    pub const fn full(data: Bytes) -> Self {
        Self {
            inner: Inner::Data(data),
        }
    }

    /// A body that is all there, with trailers.
    #[must_use]
    pub fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self {
            inner: Inner::More(Box::new(More {
                data,
                rest: None,
                trailers: Some(trailers),
            })),
        }
    }

    /// A body of which only `read` is there; it can be sent once.
    #[must_use]
    pub fn once(read: Bytes, rest: B) -> Self {
        Self {
            inner: Inner::More(Box::new(More {
                data: read,
                rest: Some(rest),
                trailers: None,
            })),
        }
    }

    /// The whole body, unless it can be sent only once.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        self.rest().is_none().then(|| self.read())
    }

    /// The bytes that are there: the whole body, or what had been read when the limit was passed.
    #[must_use]
    pub fn read(&self) -> Bytes {
        self.data().clone()
    }

    /// Replaces the bytes that are there; what is still to come stays.
    #[must_use]
    pub fn with_read(mut self, read: Bytes) -> Self {
        match &mut self.inner {
            Inner::Data(data) => *data = read,
            Inner::More(more) => more.data = read,
        }
        self
    }

    const fn data(&self) -> &Bytes {
        match &self.inner {
            Inner::Data(data) => data,
            Inner::More(more) => &more.data,
        }
    }

    const fn rest(&self) -> Option<&B> {
        match &self.inner {
            Inner::Data(_) => None,
            Inner::More(more) => more.rest.as_ref(),
        }
    }

    const fn trailers(&self) -> Option<&HeaderMap> {
        match &self.inner {
            Inner::Data(_) => None,
            Inner::More(more) => more.trailers.as_ref(),
        }
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
        let data = match &mut self.inner {
            Inner::Data(data) => data,
            Inner::More(more) => &mut more.data,
        };
        if !data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))));
        }
        let Inner::More(more) = &mut self.inner else {
            return Poll::Ready(None);
        };
        if let Some(rest) = &mut more.rest {
            let frame = ready!(Pin::new(rest).poll_frame(cx));
            if !matches!(frame, Some(Ok(_))) {
                more.rest = None;
            }
            return Poll::Ready(frame);
        }
        Poll::Ready(
            more.trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.data().is_empty()
            && self.trailers().is_none()
            && self.rest().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.data().len() as u64;
        // An exact hint makes HTTP/1 use content-length, with which trailers are not sent.
        if self.trailers().is_some() {
            let mut hint = SizeHint::new();
            hint.set_lower(read);
            return hint;
        }
        super::peeked::plus(read, self.rest().map(Body::size_hint))
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
            .field("read_bytes", &self.data().len())
            .field("once", &self.rest().is_some())
            .finish_non_exhaustive()
    }
}

// === impl ReadBody ===

impl ReadBody {
    /// Reads until the body is all there, or has more than `limit` bytes.
    pub(crate) fn poll_more<B>(
        &mut self,
        body: &mut B,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
    {
        while self.len <= limit {
            if self.trailers.is_some() || body.is_end_stream() {
                self.is_over = true;
                break;
            }
            let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => {
                    self.is_over = true;
                    break;
                }
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.len += data.len();
                    if self.data.is_empty() {
                        self.data = data;
                    } else {
                        self.more.push(data);
                    }
                }
                Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
            }
        }
        if !self.more.is_empty() {
            let mut joined = BytesMut::with_capacity(self.len);
            for chunk in std::iter::once(&self.data).chain(&self.more) {
                joined.extend_from_slice(chunk);
            }
            self.more.clear();
            self.data = joined.freeze();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the body is all there.
    pub(crate) const fn is_whole(&self) -> bool {
        self.is_over
    }

    pub(crate) const fn data(&self) -> &Bytes {
        &self.data
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    /// The body of which this was read, with what is left of it.
    #[inline]
    pub(crate) fn into_body<B>(self, rest: B) -> Replayable<B> {
        match self.trailers {
            _ if !self.is_over => Replayable::once(self.data, rest),
            Some(trailers) => Replayable::with_trailers(self.data, *trailers),
            None => Replayable::full(self.data),
        }
    }
}

impl fmt::Debug for ReadBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBody")
            .field("read_bytes", &self.len)
            .field("is_over", &self.is_over)
            .finish_non_exhaustive()
    }
}
