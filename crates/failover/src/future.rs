use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use backstop_core::BoxError;

/// The future of a [`Failover`](crate::Failover).
///
/// # Cancel safety
///
/// Dropping it, or the body of the answer, ends the attempt under way and gives back all that it
/// held; no other target is asked.
pub struct ResponseFuture<T> {
    running: Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>,
}

// === impl ResponseFuture ===

impl<T> ResponseFuture<T> {
    pub(crate) fn new(running: impl Future<Output = Result<T, BoxError>> + Send + 'static) -> Self {
        Self {
            running: Box::pin(running),
        }
    }
}

impl<T> Future for ResponseFuture<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.running.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for ResponseFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
