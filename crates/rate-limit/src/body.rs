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
        Fresh { #[pin] body: Watched<B, C, Learn<O>> },
        // Boxed: the others are moved about.
        Rare { rare: Box<Rare<B, C, O>> },
    }
}

type WatchedRefusal<B, C, O> = Watched<Peeked<B>, C, Learn<O>>;

enum Rare<B, C: ClassifyStream, O: Observer> {
    /// Of a refusal, read before it was passed on.
    Peeked(Pin<Box<WatchedRefusal<B, C, O>>>),
    /// Nothing came, and nothing but an error tells that it was no answer.
    Empty(Option<Failure>),
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
            state: State::Fresh {
                body: Watched::decided(body),
            },
        }
    }

    /// One that was over with its head.
    pub(crate) fn ended(body: B, outcome: &Outcome) -> Self {
        if outcome.kind() == Kind::Malformed {
            return Self::rare(Rare::Empty(Some(Failure::new(*outcome))));
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

    pub(crate) fn peeked(body: WatchedRefusal<B, C, O>) -> Self {
        Self::rare(Rare::Peeked(Box::pin(body)))
    }

    #[cold]
    fn rare(rare: Rare<B, C, O>) -> Self {
        Self {
            state: State::Rare {
                rare: Box::new(rare),
            },
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
            StateProjection::Fresh { body } => body.poll_frame(cx),
            StateProjection::Rare { rare } => rare.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Fresh { body } => body.is_end_stream(),
            State::Rare { rare } => match &**rare {
                Rare::Peeked(body) => body.is_end_stream(),
                Rare::Empty(failure) => failure.is_none(),
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Fresh { body } => body.size_hint(),
            State::Rare { rare } => match &**rare {
                Rare::Peeked(body) => body.size_hint(),
                // Unknown, so that HTTP asks for the error before it says how long the body is.
                Rare::Empty(Some(_)) => SizeHint::default(),
                Rare::Empty(None) => SizeHint::with_exact(0),
            },
        }
    }
}

impl<B, C, O> Rare<B, C, O>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
    O: Observer,
{
    #[cold]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Peeked(body) => body.as_mut().poll_frame(cx),
            Self::Empty(failure) => Poll::Ready(failure.take().map(|failure| Err(failure.into()))),
        }
    }
}

impl<B, C: ClassifyStream, O: Observer> fmt::Debug for ResponseBody<B, C, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
