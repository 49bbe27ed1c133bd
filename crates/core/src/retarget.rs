use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::BoxError;

/// Changes a request so that it fits one target: its model name, its address, its credential.
///
/// Each target of a failover has its own, as a [`RetargetLayer`] on that target, so that failover
/// itself knows nothing of what a request is. A closure will do.
pub trait Retarget<Req> {
    /// The request that the target is sent.
    type Request;

    /// Changes the request.
    ///
    /// # Errors
    ///
    /// When the request cannot be made to fit the target. The target is not asked; the error should
    /// be a [`Failure`](crate::Failure) with the outcome that this stands for.
    fn retarget(&self, request: Req) -> Result<Self::Request, BoxError>;
}

impl<Req, Out, F: Fn(Req) -> Result<Out, BoxError>> Retarget<Req> for F {
    type Request = Out;

    fn retarget(&self, request: Req) -> Result<Out, BoxError> {
        self(request)
    }
}

/// Applies a [`Retarget`] to every request.
///
/// ```
/// use backstop_core::{BoxError, RetargetLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let model = service_fn(async |model: String| Ok::<_, BoxError>(model));
/// let smaller = RetargetLayer::new(|_: String| Ok::<_, BoxError>("small".to_owned()));
/// assert_eq!(smaller.layer(model).oneshot("large".to_owned()).await?, "small");
/// # Ok::<(), BoxError>(())
/// # })?;
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Clone)]
pub struct RetargetLayer<T> {
    retarget: T,
}

/// The service of a [`RetargetLayer`].
///
/// A request that is refused is not passed on, so what the inner service had reserved for it is
/// given back: a clone, which holds no readiness, takes its place.
#[derive(Clone)]
pub struct RetargetService<T, S> {
    retarget: T,
    inner: S,
}

pin_project! {
    /// The future of a [`RetargetService`].
    pub struct RetargetFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Calling { #[pin] future: F },
        Refused { error: Option<BoxError> },
    }
}

impl<T> RetargetLayer<T> {
    /// A layer that applies `retarget`.
    pub const fn new(retarget: T) -> Self {
        Self { retarget }
    }
}

impl<T: Clone, S> Layer<S> for RetargetLayer<T> {
    type Service = RetargetService<T, S>;

    fn layer(&self, inner: S) -> Self::Service {
        RetargetService {
            retarget: self.retarget.clone(),
            inner,
        }
    }
}

impl<T, S, Req> Service<Req> for RetargetService<T, S>
where
    T: Retarget<Req>,
    S: Service<T::Request, Error: Into<BoxError>> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RetargetFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let state = match self.retarget.retarget(request) {
            Ok(request) => State::Calling {
                future: self.inner.call(request),
            },
            Err(error) => {
                let unready = self.inner.clone();
                self.inner = unready;
                State::Refused { error: Some(error) }
            }
        };
        RetargetFuture { state }
    }
}

impl<F, Res, E> Future for RetargetFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Calling { future } => {
                Poll::Ready(ready!(future.poll(cx)).map_err(Into::into))
            }
            #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
            StateProjection::Refused { error } => {
                Poll::Ready(Err(error.take().expect("polled after completion")))
            }
        }
    }
}

impl<T> fmt::Debug for RetargetLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetargetLayer").finish_non_exhaustive()
    }
}

impl<T, S: fmt::Debug> fmt::Debug for RetargetService<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetargetService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for RetargetFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetargetFuture").finish_non_exhaustive()
    }
}
