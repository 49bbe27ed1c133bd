use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use backstop_core::{
    BoxError, ClassifyStream, Failure, Kind, Observer, Outcome,
    body::{Peeked, Watch, Watched},
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{Key, memory::Memory, state::Sent};

pin_project! {
    /// The body of a response that passed a [`RateLimit`](crate::RateLimit).
    ///
    /// It passes on every frame as it came, and learns from what it says: an error in the stream or
    /// in the trailers is remembered like one in the head. An answer that ends without its proper
    /// end ends with an error; see [`Watched`].
    pub struct ResponseBody<B, C: ClassifyStream, O: Observer> {
        #[pin]
        state: State<B, C, O>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<B, C: ClassifyStream, O: Observer> {
        // Its outcome was known from the head.
        Decided { #[pin] body: B },
        Fresh { #[pin] body: Watched<B, C, Learn<O>> },
        // Boxed: only the bodies of refusals are peeked, and the others are moved about.
        Peeked { body: Pin<Box<Watched<Peeked<B>, C, Learn<O>>>> },
        // Nothing came, and nothing but an error tells that it was no answer.
        Empty { failure: Option<Box<Failure>> },
    }
}

/// Remembers what a body says of limits.
pub(crate) struct Learn<O> {
    pub(crate) memory: Arc<Memory<O>>,
    pub(crate) key: Option<Key>,
    pub(crate) sent: Option<Sent>,
}

impl<O> Clone for Learn<O> {
    fn clone(&self) -> Self {
        Self {
            memory: Arc::clone(&self.memory),
            key: self.key,
            sent: self.sent,
        }
    }
}

impl<O: Observer> Watch for Learn<O> {
    #[inline]
    fn on_finish(self, outcome: &Outcome) {
        self.memory.learn(self.key, self.sent, outcome);
    }
}

impl<B, C: ClassifyStream, O: Observer> ResponseBody<B, C, O> {
    #[inline]
    pub(crate) const fn decided(body: B) -> Self {
        Self {
            state: State::Decided { body },
        }
    }

    /// One that was over with its head.
    pub(crate) fn ended(body: B, outcome: &Outcome) -> Self {
        if outcome.kind() == Kind::Malformed {
            let failure = Some(Box::new(Failure::new(*outcome)));
            return Self {
                state: State::Empty { failure },
            };
        }
        Self::decided(body)
    }

    /// One that was read until its outcome was known.
    pub(crate) fn passed(body: Peeked<B>) -> Self {
        Self::peeked(Watched::decided(body))
    }

    #[inline]
    pub(crate) const fn watched(body: B, classify: C, learn: Learn<O>) -> Self {
        Self {
            state: State::Fresh {
                body: Watched::new(body, classify, learn),
            },
        }
    }

    pub(crate) fn peeked(body: Watched<Peeked<B>, C, Learn<O>>) -> Self {
        let body = Box::pin(body);
        Self {
            state: State::Peeked { body },
        }
    }
}

impl<B, C, O> Body for ResponseBody<B, C, O>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
    O: Observer,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().state.project() {
            StateProjection::Decided { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            StateProjection::Fresh { body } => body.poll_frame(cx),
            StateProjection::Peeked { body } => body.as_mut().poll_frame(cx),
            StateProjection::Empty { failure } => {
                Poll::Ready(failure.take().map(|failure| Err((*failure).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Decided { body } => body.is_end_stream(),
            State::Fresh { body } => body.is_end_stream(),
            State::Peeked { body } => body.is_end_stream(),
            State::Empty { failure } => failure.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Decided { body } => body.size_hint(),
            State::Fresh { body } => body.size_hint(),
            State::Peeked { body } => body.size_hint(),
            // Unknown, so that HTTP asks for the error before it says how long the body is.
            State::Empty { failure } if failure.is_some() => SizeHint::default(),
            State::Empty { .. } => SizeHint::with_exact(0),
        }
    }
}

impl<B, C: ClassifyStream, O: Observer> fmt::Debug for ResponseBody<B, C, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
