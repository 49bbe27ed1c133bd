use std::convert::Infallible;

use bytes::Bytes;
use http::{Extensions, HeaderValue, header::HeaderName};
use http_body::Body;

use crate::BoxError;

/// The requests and responses are those of the `http` crate, their bodies are looked into.
///
/// gRPC counts: what passes a tonic channel or server is an `http::Request`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http;

/// The requests are any `Clone` type, the responses are whole when they arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Typed;

/// What a layer may need of a request, without knowing its type.
///
/// Implemented by [`Http`] and [`Typed`]; implement it on a type of your own when your requests
/// carry extensions in another way.
pub trait Requests<Req> {
    /// The typed extensions, if such requests have any.
    fn extensions(request: &Req) -> Option<&Extensions>;

    /// The typed extensions to write to, if such requests have any.
    fn extensions_mut(request: &mut Req) -> Option<&mut Extensions>;

    /// The size of the request in bytes, when it is known.
    fn size(request: &Req) -> Option<u64>;
}

/// What a layer may need of a response, without knowing its type.
///
/// Implemented by [`Http`] and [`Typed`]; implement it on a type of your own when your responses
/// have a body that is not an HTTP one.
pub trait Responses<Res> {
    /// All of the response but its body.
    type Head: Send;
    /// The body.
    type Body: Body<Data = Bytes, Error: Into<BoxError>>;
    /// The response with another body.
    type With<B>;

    /// Takes the body out, if such responses have one.
    fn split(response: Res) -> (Self::Head, Option<Self::Body>);

    /// Puts a body in; `None` exactly when [`split`](Self::split) gave `None`.
    fn join<B>(head: Self::Head, body: Option<B>) -> Self::With<B>;

    /// Puts `wrap` of the body in its place, if such responses have one.
    ///
    /// What [`split`](Self::split) and [`join`](Self::join) do, without moving a large body more
    /// often than needed.
    #[inline]
    fn map_body<B>(response: Res, wrap: impl FnOnce(Self::Body) -> B) -> Self::With<B> {
        let (head, body) = Self::split(response);
        Self::join(head, body.map(wrap))
    }

    /// The typed extensions, if such responses have any.
    fn extensions(head: &Self::Head) -> Option<&Extensions>;

    /// The typed extensions to write to, if such responses have any.
    fn extensions_mut(head: &mut Self::Head) -> Option<&mut Extensions>;

    /// Whether the head alone says that this is no answer, though not why. The body is then small
    /// and may be read before the response is passed on.
    #[inline]
    fn is_failure(head: &Self::Head) -> bool {
        let _ = head;
        false
    }

    /// Whether the head promises an answer and the body is still to come, so that all there is to do
    /// is to watch it. `false` is always safe: the response is then taken apart and looked at.
    #[inline]
    fn is_to_be_read(response: &Res) -> bool {
        let _ = response;
        false
    }

    /// Marks an answer as final: all retries have been made on this side, so the caller should not
    /// add its own.
    fn mark_final(head: &mut Self::Head);
}

/// The body of a response that has none. It has no values.
#[derive(Clone, Copy, Debug)]
pub struct NoBody(Infallible);

// === impl Http ===

impl<B: Body> Requests<http::Request<B>> for Http {
    #[inline]
    fn extensions(request: &http::Request<B>) -> Option<&Extensions> {
        Some(request.extensions())
    }

    #[inline]
    fn extensions_mut(request: &mut http::Request<B>) -> Option<&mut Extensions> {
        Some(request.extensions_mut())
    }

    #[inline]
    fn size(request: &http::Request<B>) -> Option<u64> {
        request.body().size_hint().exact()
    }
}

impl<B> Responses<http::Response<B>> for Http
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Head = http::response::Parts;
    type Body = B;
    type With<B2> = http::Response<B2>;

    #[inline]
    fn split(response: http::Response<B>) -> (Self::Head, Option<B>) {
        let (head, body) = response.into_parts();
        (head, Some(body))
    }

    #[inline]
    #[expect(
        clippy::expect_used,
        reason = "the trait states when the body is there"
    )]
    fn join<B2>(head: Self::Head, body: Option<B2>) -> http::Response<B2> {
        http::Response::from_parts(head, body.expect("an HTTP response has a body"))
    }

    #[inline]
    fn map_body<B2>(response: http::Response<B>, wrap: impl FnOnce(B) -> B2) -> http::Response<B2> {
        response.map(wrap)
    }

    fn extensions(head: &Self::Head) -> Option<&Extensions> {
        Some(&head.extensions)
    }

    #[inline]
    fn extensions_mut(head: &mut Self::Head) -> Option<&mut Extensions> {
        Some(&mut head.extensions)
    }

    /// True for any status but 2xx.
    #[inline]
    fn is_failure(head: &Self::Head) -> bool {
        !head.status.is_success()
    }

    #[inline]
    fn is_to_be_read(response: &http::Response<B>) -> bool {
        response.status().is_success() && !response.body().is_end_stream()
    }

    /// Sets `x-should-retry: false`, which the official OpenAI and Anthropic SDKs obey.
    #[inline]
    fn mark_final(head: &mut Self::Head) {
        head.headers.insert(
            HeaderName::from_static("x-should-retry"),
            HeaderValue::from_static("false"),
        );
    }
}

// === impl Typed ===

impl<Req> Requests<Req> for Typed {
    #[inline]
    fn extensions(_: &Req) -> Option<&Extensions> {
        None
    }

    #[inline]
    fn extensions_mut(_: &mut Req) -> Option<&mut Extensions> {
        None
    }

    #[inline]
    fn size(_: &Req) -> Option<u64> {
        None
    }
}

impl<Res: Send> Responses<Res> for Typed {
    type Head = Res;
    type Body = NoBody;
    type With<B> = Res;

    #[inline]
    fn split(response: Res) -> (Res, Option<NoBody>) {
        (response, None)
    }

    #[inline]
    fn join<B>(head: Res, _: Option<B>) -> Res {
        head
    }

    #[inline]
    fn map_body<B>(response: Res, _: impl FnOnce(NoBody) -> B) -> Res {
        response
    }

    fn extensions(_: &Res) -> Option<&Extensions> {
        None
    }

    #[inline]
    fn extensions_mut(_: &mut Res) -> Option<&mut Extensions> {
        None
    }

    #[inline]
    fn mark_final(_: &mut Res) {}
}

// === impl NoBody ===

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    #[inline]
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        match self.0 {}
    }
}
