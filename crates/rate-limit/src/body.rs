use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use backstop_core::{
    BoxError, ClassifyStream, Failure, Headroom, Kind, Outcome, Step,
    body::{Peeked, Watch, Watched},
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{Key, config::Config, state::Sent};

pin_project! {
    /// The body of a response that passed a [`RateLimit`](crate::RateLimit).
    ///
    /// It passes on every frame as it came, and learns from what it says: an error in the stream or
    /// in the trailers is remembered like one in the head. An answer that ends without its proper
    /// end ends with an error; see [`Watched`].
    pub struct ResponseBody<B, C: ClassifyStream> {
        #[pin]
        state: State<B, C>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<B, C: ClassifyStream> {
        Fresh { #[pin] body: Watched<B, C, Learn> },
        // Of a refusal, read before it was passed on, or sent while something was remembered.
        // Boxed: the others are moved about.
        Rare { body: Pin<Box<RareBody<B, C>>> },
    }
}

type RareBody<B, C> = Watched<Peeked<B>, C, LearnReturn>;

/// Remembers what a body says of limits.
pub(crate) struct Learn {
    /// `None` when it has said so: a wait counts from then, not from the end.
    memory: Option<Arc<dyn Remember>>,
    key: Option<Key>,
}

/// Remembers what a body says whose request was sent while something was remembered.
pub(crate) struct LearnReturn {
    learn: Learn,
    sent: Sent,
}

/// The memory, whoever observes it and whatever classifies for it.
pub(crate) trait Remember: Send + Sync {
    fn config(&self) -> &Config;

    /// See [`Memory::learn`](crate::memory::Memory::learn).
    fn learn(&self, key: Option<Key>, sent: Option<Sent>, outcome: &Outcome);

    /// See [`Memory::level`](crate::memory::Memory::level).
    fn level(&self, key: Option<Key>, headroom: &Headroom);
}

impl Learn {
    #[inline]
    pub(crate) const fn new(memory: Arc<dyn Remember>, key: Option<Key>) -> Self {
        let memory = Some(memory);
        Self { memory, key }
    }

    pub(crate) const fn returning(self, sent: Sent) -> LearnReturn {
        LearnReturn { learn: self, sent }
    }

    #[cold]
    fn failed(&mut self, sent: Option<Sent>, outcome: &Outcome) {
        if let Some(memory) = self.memory.take() {
            memory.learn(self.key, sent, outcome);
        }
    }
}

impl Watch for Learn {
    #[inline]
    fn on_step(&mut self, step: &Step) {
        if let Some(failed) = &step.failed {
            self.failed(None, failed);
        }
    }

    #[inline]
    fn on_finish(mut self, outcome: &Outcome) {
        // Where nothing was remembered, a success is no news.
        if !outcome.is_success() {
            self.failed(None, outcome);
        }
    }
}

impl Watch for LearnReturn {
    fn on_step(&mut self, step: &Step) {
        if let Some(failed) = &step.failed {
            self.learn.failed(Some(self.sent), failed);
        }
    }

    fn on_finish(self, outcome: &Outcome) {
        if let Some(memory) = self.learn.memory {
            memory.learn(self.learn.key, Some(self.sent), outcome);
        }
    }
}

impl<B, C: ClassifyStream> ResponseBody<B, C> {
    #[inline]
    pub(crate) const fn decided(body: B) -> Self {
        Self {
            state: State::Fresh {
                body: Watched::decided(body),
            },
        }
    }

    #[inline]
    pub(crate) const fn watched(body: B, classify: C, learn: Learn) -> Self {
        Self {
            state: State::Fresh {
                body: Watched::new(body, classify, learn),
            },
        }
    }

    /// One whose request was sent while something was remembered.
    pub(crate) fn returning(body: B, classify: C, learn: LearnReturn) -> Self {
        Self::rare(Watched::new(Peeked::unread(body), classify, learn))
    }

    /// One that was over with its head.
    pub(crate) fn ended(body: B, outcome: &Outcome) -> Self {
        if outcome.kind() == Kind::Malformed {
            return Self {
                state: State::Fresh {
                    body: Watched::failed(body, Failure::new(*outcome)),
                },
            };
        }
        Self::decided(body)
    }

    /// One of which some was read, and whose outcome is known.
    #[cold]
    pub(crate) fn read(body: Peeked<B>) -> Self {
        Self::rare(Watched::decided(body))
    }

    #[cold]
    fn rare(body: RareBody<B, C>) -> Self {
        Self {
            state: State::Rare {
                body: Box::pin(body),
            },
        }
    }
}

impl<B, C> Body for ResponseBody<B, C>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
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
            StateProjection::Rare { body } => poll_rare(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Fresh { body } => body.is_end_stream(),
            State::Rare { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Fresh { body } => body.size_hint(),
            State::Rare { body } => body.size_hint(),
        }
    }
}

#[cold]
#[inline(never)]
fn poll_rare<B>(
    body: &mut Pin<Box<B>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    body.as_mut().poll_frame(cx)
}

impl<B, C: ClassifyStream> fmt::Debug for ResponseBody<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
