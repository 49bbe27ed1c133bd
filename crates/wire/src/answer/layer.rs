use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use backstop_core::{BoxError, Trace, outcome_of};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{ErrorEvents, error_response};
use crate::Dialect;

/// Turns the errors of a service into responses in the caller's dialect.
///
/// The service never fails then, so that it fits axum. An error's meaning is found with
/// [`outcome_of`]; the body of a stream that fails ends with an error event (see [`ErrorEvents`]).
/// Responses are passed on as they are, whatever their status.
///
/// What such a response stands for is among its extensions: the [`Outcome`](backstop_core::Outcome),
/// and where a failover has tried its targets in vain its [`Trace`]. [`Trace::of`] finds it there as
/// it does with a target's own answer.
///
/// The dialect is the one given here, or the [`Dialect`] among the request's extensions.
///
/// ```
/// use backstop_core::{BoxError, Failure, Kind, Outcome};
/// use backstop_wire::{Dialect, answer::AnswerLayer};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let broken = service_fn(async |_: http::Request<()>| {
///     let outcome = Outcome::new(Kind::TooLarge);
///     Err::<http::Response<Full<Bytes>>, BoxError>(Failure::new(outcome).into())
/// });
/// let service = AnswerLayer::new(Dialect::OpenAiChat).layer(broken);
/// let response = service.oneshot(http::Request::new(())).await?;
/// assert_eq!(response.status(), 413);
/// # Ok::<(), BoxError>(())
/// # })?;
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AnswerLayer {
    dialect: Dialect,
}

/// The service of an [`AnswerLayer`].
pub struct Answer<S> {
    inner: S,
    dialect: Dialect,
    /// Why the inner service will never be ready: told to the next call, for there is nobody else
    /// to tell.
    broken: Option<BoxError>,
}

pin_project! {
    /// The future of an [`Answer`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the inner future.
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        dialect: Dialect,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling { #[pin] future: F },
        Broken { error: Option<BoxError> },
    }
}

pin_project! {
    /// The body of an [`Answer`]'s responses.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Source<B>,
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<B> {
        Inner { #[pin] body: ErrorEvents<B> },
        Error { #[pin] body: Full<Bytes> },
    }
}

// === impl AnswerLayer ===

impl AnswerLayer {
    /// Answers in `dialect`.
    #[must_use]
    pub const fn new(dialect: Dialect) -> Self {
        Self { dialect }
    }
}

impl<S> Layer<S> for AnswerLayer {
    type Service = Answer<S>;

    fn layer(&self, inner: S) -> Answer<S> {
        Answer {
            inner,
            dialect: self.dialect,
            broken: None,
        }
    }
}

// === impl Answer ===

impl<S, A, B> Service<Request<A>> for Answer<S>
where
    S: Service<Request<A>, Response = Response<B>, Error: Into<BoxError>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.broken.is_none()
            && let Err(error) = ready!(self.inner.poll_ready(cx))
        {
            self.broken = Some(error.into());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let dialect = request.extensions().get().copied();
        ResponseFuture {
            state: match self.broken.take() {
                Some(error) => State::Broken { error: Some(error) },
                None => State::Calling {
                    future: self.inner.call(request),
                },
            },
            dialect: dialect.unwrap_or(self.dialect),
        }
    }
}

impl<S: Clone> Clone for Answer<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            dialect: self.dialect,
            // Another instance has another readiness.
            broken: None,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Answer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("inner", &self.inner)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

// === impl ResponseFuture ===

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let dialect = *this.dialect;
        let error = match this.state.project() {
            StateProj::Calling { future } => match ready!(future.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(wrap(dialect, response))),
                Err(error) => error.into(),
            },
            StateProj::Broken { error } => match error.take() {
                Some(error) => error,
                None => return Poll::Pending,
            },
        };
        let mut response = error_response(dialect, &outcome_of(&*error));
        if let Some(trace) = Trace::find(&*error) {
            response.extensions_mut().insert(trace.clone());
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody {
            kind: Source::Error { body },
        })))
    }
}

fn wrap<B>(dialect: Dialect, response: Response<B>) -> Response<ResponseBody<B>> {
    let (mut head, body) = response.into_parts();
    let body = ErrorEvents::new(dialect, &head.headers, body);
    if body.may_change() {
        // An error event may follow what was announced.
        head.headers.remove(header::CONTENT_LENGTH);
    }
    Response::from_parts(
        head,
        ResponseBody {
            kind: Source::Inner { body },
        },
    )
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

// === impl ResponseBody ===

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            SourceProj::Inner { body } => body.poll_frame(cx),
            SourceProj::Error { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Source::Inner { body } => body.is_end_stream(),
            Source::Error { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Source::Inner { body } => body.size_hint(),
            Source::Error { body } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Source::Inner { .. } => "ResponseBody::Inner",
            Source::Error { .. } => "ResponseBody::Error",
        })
    }
}
