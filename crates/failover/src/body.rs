use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use backstop_core::{
    BoxError, ClassifyStream, End, Observer, Outcome, Step,
    body::{Committed, Peeked, Watched},
    outcome_of,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::report::Report;

pin_project! {
    /// The body of an answer that passed through a [`Failover`](crate::Failover).
    ///
    /// What was held back while it was not clear who answers comes first, then the rest as it
    /// comes. At the end the target's health hears how it went. An answer that breaks off ends in
    /// an error, never cleanly.
    pub struct ResponseBody<B, K: ClassifyStream, O: Observer> {
        #[pin]
        inner: Watched<Peeked<B>, Tail<K>, Report<O>>,
    }
}

/// Classifies the rest of a body.
pub(crate) enum Tail<K> {
    /// The classifier goes on.
    Open(K),
    /// The head decided on success; only an error can change it.
    Whole,
}

// === impl ResponseBody ===

impl<B, K: ClassifyStream, O: Observer> ResponseBody<B, K, O> {
    /// A body of which nothing has been read, in an answer that its head calls a success.
    pub(crate) fn unread(body: B, report: Report<O>) -> Self {
        Self {
            inner: Watched::new(Peeked::unread(body), Tail::Whole, report),
        }
    }

    /// A body that has begun to answer.
    pub(crate) fn begun(begun: Committed<B, Tail<K>>, report: Report<O>) -> Self {
        Self {
            inner: begun.watch(report),
        }
    }

    /// A body whose outcome is known.
    pub(crate) const fn decided(body: Peeked<B>) -> Self {
        Self {
            inner: Watched::decided(body),
        }
    }
}

impl<B, K, O> Body for ResponseBody<B, K, O>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    K: ClassifyStream,
    O: Observer,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B, K: ClassifyStream, O: Observer> fmt::Debug for ResponseBody<B, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResponseBody").field(&self.inner).finish()
    }
}

// === impl Tail ===

impl<K: ClassifyStream> ClassifyStream for Tail<K> {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        match self {
            Self::Open(classify) => classify.on_data(chunk),
            Self::Whole => Step::default(),
        }
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        match (self, end) {
            (Self::Open(classify), end) => classify.on_end(end),
            (Self::Whole, End::Error(error)) => outcome_of(error),
            (Self::Whole, End::Clean(_) | End::Dropped) => Outcome::success(),
        }
    }
}
