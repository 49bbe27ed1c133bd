use std::{
    any::Any,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready as ready_or_pending},
};

use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderMap, request::Parts};
use http_body::Body;

use crate::{BoxError, Deadline, Http, TimeLimits, Typed, body::Replayable};

/// Reads a request once, so that it can be issued again for every attempt.
///
/// Implemented by [`Http`] for every `http::Request` and by [`Typed`] for every `Clone` type.
pub trait Replay<Req> {
    /// The request as the targets get it.
    type Request;
    /// The request at rest.
    type Frozen: Clone + Send + Sync + 'static;
    /// The future of [`freeze`](Self::freeze).
    type Freeze: Future<Output = Result<Frozen<Self::Frozen, Self::Request>, BoxError>>;

    /// Reads the request, at most `limit` bytes of its body, and keeps the extensions that `carry`
    /// names.
    ///
    /// The future fails when the body does: the caller's connection broke.
    fn freeze(request: Req, limit: usize, carry: &CarryExtensions) -> Self::Freeze;

    /// Makes the request for one attempt.
    fn thaw(frozen: &Self::Frozen) -> Self::Request;

    /// The typed extensions of a request, if such requests have any.
    fn extensions_mut(request: &mut Self::Request) -> Option<&mut Extensions>;

    /// The size of the frozen request in bytes, when it is known.
    fn size(frozen: &Self::Frozen) -> Option<u64>;
}

/// What freezing a request gave.
#[derive(Debug)]
pub enum Frozen<F, R> {
    /// It can be issued as often as needed.
    Replayable(F),
    /// It was larger than the limit: it can be sent once, nothing of it is lost.
    Once(R),
}

/// Which typed extensions of a request reach the targets: an allow-list.
///
/// Extensions are `Clone`, and a plain copy would send along connection upgrades, permits and
/// whatever else outer layers keep there. [`Deadline`] and [`TimeLimits`] are always carried.
///
/// ```
/// use backstop_core::CarryExtensions;
///
/// #[derive(Clone)]
/// struct ConversationId(u64);
/// let carry = CarryExtensions::default().with::<ConversationId>();
/// ```
#[derive(Clone)]
pub struct CarryExtensions {
    copies: Arc<[Copy]>,
}

type Copy = fn(&Extensions, &mut Extensions);

/// An `http::Request` at rest: cheap to clone.
#[derive(Clone)]
pub struct FrozenRequest {
    parts: Arc<Parts>,
    data: Bytes,
    trailers: Option<Arc<HeaderMap>>,
}

/// The future that freezes an `http::Request`.
///
/// # Cancel safety
///
/// Dropping it drops the request.
pub struct FreezeRequest<B> {
    parts: Option<Parts>,
    body: Option<B>,
    chunks: Vec<Bytes>,
    read: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
}

impl<B> Replay<http::Request<B>> for Http
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Request = http::Request<Replayable<B>>;
    type Frozen = FrozenRequest;
    type Freeze = FreezeRequest<B>;

    fn freeze(
        request: http::Request<B>,
        limit: usize,
        carry: &CarryExtensions,
    ) -> FreezeRequest<B> {
        let (mut parts, body) = request.into_parts();
        parts.extensions = carry.copy(&parts.extensions);
        FreezeRequest {
            parts: Some(parts),
            body: Some(body),
            chunks: Vec::new(),
            read: 0,
            limit,
            trailers: None,
        }
    }

    fn thaw(frozen: &FrozenRequest) -> Self::Request {
        let data = frozen.data.clone();
        let body = match &frozen.trailers {
            Some(trailers) => Replayable::with_trailers(data, HeaderMap::clone(trailers)),
            None => Replayable::full(data),
        };
        http::Request::from_parts(Parts::clone(&frozen.parts), body)
    }

    fn extensions_mut(request: &mut Self::Request) -> Option<&mut Extensions> {
        Some(request.extensions_mut())
    }

    fn size(frozen: &FrozenRequest) -> Option<u64> {
        Some(frozen.data.len() as u64)
    }
}

impl<Req: Clone + Send + Sync + 'static> Replay<Req> for Typed {
    type Request = Req;
    type Frozen = Arc<Req>;
    type Freeze = Ready<Result<Frozen<Arc<Req>, Req>, BoxError>>;

    fn freeze(request: Req, _: usize, _: &CarryExtensions) -> Self::Freeze {
        ready(Ok(Frozen::Replayable(Arc::new(request))))
    }

    fn thaw(frozen: &Arc<Req>) -> Req {
        Req::clone(frozen)
    }

    fn extensions_mut(_: &mut Req) -> Option<&mut Extensions> {
        None
    }

    fn size(_: &Arc<Req>) -> Option<u64> {
        None
    }
}

// === impl CarryExtensions ===

impl CarryExtensions {
    /// Carries extensions of type `T` as well.
    #[must_use]
    pub fn with<T: Any + Clone + Send + Sync>(self) -> Self {
        let copies = self
            .copies
            .iter()
            .copied()
            .chain([copy::<T> as Copy])
            .collect();
        Self { copies }
    }

    fn copy(&self, from: &Extensions) -> Extensions {
        let mut to = Extensions::new();
        if !from.is_empty() {
            for copy in self.copies.iter() {
                copy(from, &mut to);
            }
        }
        to
    }
}

fn copy<T: Any + Clone + Send + Sync>(from: &Extensions, to: &mut Extensions) {
    if let Some(value) = from.get::<T>() {
        to.insert(value.clone());
    }
}

impl Default for CarryExtensions {
    fn default() -> Self {
        Self {
            copies: [copy::<Deadline> as Copy, copy::<TimeLimits> as Copy].into(),
        }
    }
}

impl fmt::Debug for CarryExtensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarryExtensions")
            .field("types", &self.copies.len())
            .finish()
    }
}

// === impl FrozenRequest ===

impl FrozenRequest {
    /// The head, with the extensions that are carried.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The whole body.
    #[must_use]
    pub const fn data(&self) -> &Bytes {
        &self.data
    }
}

impl fmt::Debug for FrozenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither headers nor body: they hold keys and prompts.
        f.debug_struct("FrozenRequest")
            .field("method", &self.parts.method)
            .field("body_bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

// === impl FreezeRequest ===

impl<B> Future for FreezeRequest<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Output = Result<Frozen<FrozenRequest, http::Request<Replayable<B>>>, BoxError>;

    #[expect(
        clippy::expect_used,
        reason = "polled after completion, as every future"
    )]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let body = this.body.as_mut().expect("polled after completion");
        let over = loop {
            if this.trailers.is_some() || body.is_end_stream() {
                break false;
            }
            let Some(frame) = ready_or_pending!(Pin::new(&mut *body).poll_frame(cx)) else {
                break false;
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    this.body = None;
                    return Poll::Ready(Err(error.into()));
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    this.read += data.len();
                    this.chunks.push(data);
                }
                Err(frame) => this.trailers = frame.into_trailers().ok(),
            }
            if this.read > this.limit {
                break true;
            }
        };
        let parts = this.parts.take().expect("polled after completion");
        let rest = this.body.take().expect("polled after completion");
        let data = join(std::mem::take(&mut this.chunks), this.read);
        if over {
            let body = Replayable::once(data, rest);
            return Poll::Ready(Ok(Frozen::Once(http::Request::from_parts(parts, body))));
        }
        Poll::Ready(Ok(Frozen::Replayable(FrozenRequest {
            parts: Arc::new(parts),
            data,
            trailers: this.trailers.take().map(Arc::new),
        })))
    }
}

/// One piece of all chunks; a single chunk is not copied.
fn join(mut chunks: Vec<Bytes>, len: usize) -> Bytes {
    if chunks.len() == 1 {
        return chunks.remove(0);
    }
    let mut joined = BytesMut::with_capacity(len);
    for chunk in &chunks {
        joined.extend_from_slice(chunk);
    }
    joined.freeze()
}

impl<B> fmt::Debug for FreezeRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreezeRequest")
            .field("read_bytes", &self.read)
            .finish_non_exhaustive()
    }
}
