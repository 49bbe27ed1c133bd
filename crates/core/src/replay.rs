use std::{
    any::Any,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready as ready_or_pending},
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, request::Parts};
use http_body::Body;

use crate::{
    BoxError, Deadline, Http, TimeLimits, Typed,
    body::{ReadBody, Replayable},
};

/// Reads a request once, so that it can be issued again for every attempt.
///
/// There are two ways, for two uses. Who has to look at the request before it is known whether it is
/// sent at all [freezes](Self::freeze) and [thaws](Self::thaw) it: what is frozen can be read, cloned
/// and shared. Who sends it in any case [reads](Self::poll_read) it where it is, sends the
/// [first](Self::first), and issues it [again](Self::again) from the [spare](Self::spare) only if
/// need be: the first request is then no copy, and the spare is opaque and smaller.
///
/// Implemented by [`Http`] for every `http::Request` and by [`Typed`] for every `Clone` type.
pub trait Replay<Req> {
    /// The request as the targets get it.
    type Request;
    /// The request at rest.
    type Frozen: Clone + Send + Sync + 'static;
    /// The future of [`freeze`](Self::freeze).
    type Freeze: Future<Output = Result<Frozen<Self::Frozen, Self::Request>, BoxError>>;
    /// What further requests are made from, when the first one is made already.
    type Spare: Send + Sync + 'static;
    /// What has been read of a request, beside what is left in it.
    type Read: Default + Send + 'static;

    /// Reads the request, at most `limit` bytes of its body, and keeps the extensions that `carry`
    /// names.
    ///
    /// The future fails when the body does: the caller's connection broke.
    fn freeze(request: Req, limit: usize, carry: &CarryExtensions) -> Self::Freeze;

    /// Makes the request for one attempt.
    fn thaw(frozen: &Self::Frozen) -> Self::Request;

    /// Reads the request where it is, at most `limit` bytes of its body: for whoever sends it at
    /// once, and again only if need be. What further requests are made from is then cheaper than
    /// what [`freeze`](Self::freeze) gives.
    ///
    /// # Errors
    ///
    /// When the body fails: the caller's connection broke.
    fn poll_read(
        request: &mut Req,
        read: &mut Self::Read,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>>;

    /// What further requests are made from, of one that was read; `None` if it was larger than the
    /// limit and can be sent only once.
    fn spare(request: &Req, read: &Self::Read, carry: &CarryExtensions) -> Option<Self::Spare>;

    /// The first request: the one that came and was read, with the extensions that `carry` names.
    fn first(request: Req, read: Self::Read, carry: &CarryExtensions) -> Self::Request;

    /// Makes the request for a further attempt.
    fn again(spare: &Self::Spare) -> Self::Request;

    /// The size of the request in bytes, when it is known.
    fn spare_size(spare: &Self::Spare) -> Option<u64>;

    /// The typed extensions of a request, if such requests have any.
    fn extensions_mut(request: &mut Self::Request) -> Option<&mut Extensions>;
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
    // Its body is read in place.
    request: Option<http::Request<B>>,
    read: ReadBody,
    limit: usize,
}

/// What is kept of an `http::Request` that was read and is being sent.
///
/// The headers are in one piece of memory: copying a header map takes an allocation for each value.
pub struct SpareRequest {
    method: Method,
    uri: Uri,
    version: Version,
    headers: PackedHeaders,
    extensions: Extensions,
    data: Bytes,
    trailers: Option<Box<HeaderMap>>,
}

/// Headers one after the other: lengths, a flag, name and value.
struct PackedHeaders(Vec<u8>);

impl<B> Replay<http::Request<B>> for Http
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Request = http::Request<Replayable<B>>;
    type Frozen = FrozenRequest;
    type Freeze = FreezeRequest<B>;
    type Spare = SpareRequest;
    type Read = ReadBody;

    fn freeze(
        mut request: http::Request<B>,
        limit: usize,
        carry: &CarryExtensions,
    ) -> FreezeRequest<B> {
        carry.retain(request.extensions_mut());
        FreezeRequest {
            request: Some(request),
            read: ReadBody::default(),
            limit,
        }
    }

    fn thaw(frozen: &FrozenRequest) -> Self::Request {
        let body = body(&frozen.data, frozen.trailers.as_deref());
        http::Request::from_parts(Parts::clone(&frozen.parts), body)
    }

    #[inline]
    fn poll_read(
        request: &mut http::Request<B>,
        read: &mut ReadBody,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>> {
        read.poll_more(request.body_mut(), limit, cx)
    }

    #[inline]
    fn spare(
        request: &http::Request<B>,
        read: &ReadBody,
        carry: &CarryExtensions,
    ) -> Option<SpareRequest> {
        read.is_whole().then(|| SpareRequest {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: PackedHeaders::pack(request.headers()),
            extensions: carry.copy(request.extensions()),
            data: read.data().clone(),
            trailers: read.trailers().map(|trailers| Box::new(trailers.clone())),
        })
    }

    #[inline]
    fn first(
        mut request: http::Request<B>,
        read: ReadBody,
        carry: &CarryExtensions,
    ) -> Self::Request {
        carry.retain(request.extensions_mut());
        request.map(|rest| read.into_body(rest))
    }

    fn again(spare: &SpareRequest) -> Self::Request {
        let mut request = http::Request::new(body(&spare.data, spare.trailers.as_deref()));
        *request.method_mut() = spare.method.clone();
        *request.uri_mut() = spare.uri.clone();
        *request.version_mut() = spare.version;
        *request.headers_mut() = spare.headers.unpack();
        *request.extensions_mut() = spare.extensions.clone();
        request
    }

    fn spare_size(spare: &SpareRequest) -> Option<u64> {
        Some(spare.data.len() as u64)
    }

    fn extensions_mut(request: &mut Self::Request) -> Option<&mut Extensions> {
        Some(request.extensions_mut())
    }
}

impl<Req: Clone + Send + Sync + 'static> Replay<Req> for Typed {
    type Request = Req;
    type Frozen = Arc<Req>;
    type Freeze = Ready<Result<Frozen<Arc<Req>, Req>, BoxError>>;
    type Spare = Req;
    type Read = ();

    fn freeze(request: Req, _: usize, _: &CarryExtensions) -> Self::Freeze {
        ready(Ok(Frozen::Replayable(Arc::new(request))))
    }

    fn thaw(frozen: &Arc<Req>) -> Req {
        Req::clone(frozen)
    }

    #[inline]
    fn poll_read(
        _: &mut Req,
        (): &mut (),
        _: usize,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn spare(request: &Req, (): &(), _: &CarryExtensions) -> Option<Req> {
        Some(request.clone())
    }

    #[inline]
    fn first(request: Req, (): (), _: &CarryExtensions) -> Req {
        request
    }

    fn again(spare: &Req) -> Req {
        spare.clone()
    }

    fn spare_size(_: &Req) -> Option<u64> {
        None
    }

    fn extensions_mut(_: &mut Req) -> Option<&mut Extensions> {
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

    /// Leaves nothing but what is carried.
    #[inline]
    fn retain(&self, extensions: &mut Extensions) {
        if !extensions.is_empty() {
            *extensions = self.copy(extensions);
        }
    }

    #[inline]
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
        let request = this.request.as_mut().expect("polled after completion");
        ready_or_pending!(this.read.poll_more(request.body_mut(), this.limit, cx))?;
        let request = this.request.take().expect("it was read");
        let read = std::mem::take(&mut this.read);
        if !read.is_whole() {
            let request = request.map(|rest| read.into_body(rest));
            return Poll::Ready(Ok(Frozen::Once(request)));
        }
        let (parts, _) = request.into_parts();
        Poll::Ready(Ok(Frozen::Replayable(FrozenRequest {
            parts: Arc::new(parts),
            data: read.data().clone(),
            trailers: read.trailers().map(|trailers| Arc::new(trailers.clone())),
        })))
    }
}

/// A body that is all there.
fn body<B>(data: &Bytes, trailers: Option<&HeaderMap>) -> Replayable<B> {
    let data = data.clone();
    match trailers {
        Some(trailers) => Replayable::with_trailers(data, trailers.clone()),
        None => Replayable::full(data),
    }
}

impl<B> fmt::Debug for FreezeRequest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreezeRequest")
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

// === impl SpareRequest ===

impl fmt::Debug for SpareRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither headers nor body: they hold keys and prompts.
        f.debug_struct("SpareRequest")
            .field("method", &self.method)
            .field("body_bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

// === impl PackedHeaders ===

impl PackedHeaders {
    /// The lengths of name and value, four bytes each, and whether the value is sensitive.
    const PREFIX: usize = 9;

    /// What a header takes, about: names have a dozen bytes, most values some dozens.
    const USUAL: usize = 64;

    fn pack(headers: &HeaderMap) -> Self {
        let mut packed = Vec::with_capacity(headers.len() * Self::USUAL);
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            let [a, b, c, d] = len_of(name);
            let [e, f, g, h] = len_of(value.as_bytes());
            packed.extend_from_slice(&[a, b, c, d, e, f, g, h, value.is_sensitive().into()]);
            packed.extend_from_slice(name);
            packed.extend_from_slice(value.as_bytes());
        }
        Self(packed)
    }

    fn unpack(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut rest = Bytes::copy_from_slice(&self.0);
        while let Some((prefix, _)) = rest.split_first_chunk::<{ Self::PREFIX }>() {
            let [a, b, c, d, e, f, g, h, sensitive] = *prefix;
            let name_len = u32::from_be_bytes([a, b, c, d]) as usize;
            let value_len = u32::from_be_bytes([e, f, g, h]) as usize;
            let name = Self::PREFIX..Self::PREFIX + name_len;
            let value = name.end..name.end + value_len;
            let name = HeaderName::from_bytes(&rest[name]);
            let packed = rest.split_to(value.end);
            // They came from valid headers.
            if let (Ok(name), Ok(mut value)) =
                (name, HeaderValue::from_maybe_shared(packed.slice(value)))
            {
                value.set_sensitive(sensitive == 1);
                headers.append(name, value);
            }
        }
        headers
    }
}

/// Headers are far below the 4 GiB that this can tell.
fn len_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_unpacked_as_they_were_packed() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        let mut key = HeaderValue::from_static("Bearer key");
        key.set_sensitive(true);
        headers.append("authorization", key);
        headers.append("x-own", HeaderValue::from_static(""));
        headers.append("x-own", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let unpacked = PackedHeaders::pack(&headers).unpack();
        assert!(unpacked.iter().eq(headers.iter()));
        assert!(unpacked["authorization"].is_sensitive());
        assert!(!unpacked["content-type"].is_sensitive());
        assert!(PackedHeaders::pack(&HeaderMap::new()).unpack().is_empty());
    }

    #[test]
    fn a_further_request_is_like_the_first() {
        use futures_util::FutureExt;
        use http_body_util::{BodyExt, Full};

        let carry = CarryExtensions::default().with::<u8>();
        let mut request = http::Request::put("/v1/chat?x=1")
            .version(Version::HTTP_2)
            .header("authorization", "Bearer key")
            .extension(7_u8)
            .extension("not carried")
            .body(Full::new(Bytes::from_static(b"a body")))
            .unwrap();
        let mut read = ReadBody::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let is_read = Http::poll_read(&mut request, &mut read, 10, &mut cx);
        assert!(matches!(is_read, Poll::Ready(Ok(()))));
        let spare = Http::spare(&request, &read, &carry).unwrap();
        let first = Http::first(request, read, &carry);
        let again = <Http as Replay<http::Request<Full<Bytes>>>>::again(&spare);
        for request in [first, again] {
            let (parts, body) = request.into_parts();
            assert_eq!(parts.method, "PUT");
            assert_eq!(parts.uri, "/v1/chat?x=1");
            assert_eq!(parts.version, Version::HTTP_2);
            assert_eq!(parts.headers["authorization"], "Bearer key");
            assert_eq!(parts.extensions.get(), Some(&7_u8));
            assert_eq!(parts.extensions.get::<&str>(), None);
            let body = body.collect().now_or_never().unwrap().unwrap().to_bytes();
            assert_eq!(body, "a body");
        }
    }
}
