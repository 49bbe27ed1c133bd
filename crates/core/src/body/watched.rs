use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, ClassifyStream, End, Failure, Outcome, Step};

/// Hears what a [`Watched`] body brings and how it ends.
///
/// Guards that count work in progress belong in it: it lives until the body's outcome is known. It
/// may be called from `Drop` and must not panic.
pub trait Watch {
    /// A chunk passes by. Cloning it shares its memory.
    fn on_data(&mut self, data: &Bytes) {
        let _ = data;
    }

    /// What a chunk brought. Not called for chunks that were classified before the body was watched.
    fn on_step(&mut self, step: &Step) {
        let _ = step;
    }

    /// The body is over: at its end, by an error or because it was dropped. Called once.
    fn on_finish(self, outcome: &Outcome);
}

impl<F: FnOnce(&Outcome)> Watch for F {
    fn on_finish(self, outcome: &Outcome) {
        self(outcome);
    }
}

pin_project! {
    /// A response body that is classified as it passes by, and never lets a cut answer look whole.
    ///
    /// Every frame is passed on as it came. At the end, one of three things happens:
    ///
    /// * The answer is complete, or its own bytes say that it failed (an error event, trailers with
    ///   an error status): the body ends as the inner one does. An error of the inner body *after*
    ///   the proper end is left out, the answer was whole.
    /// * The inner body ended in error: so does this one, with a [`Failure`] that carries the outcome.
    /// * The inner body ended without the dialect's proper end: this one ends with a [`Failure`], so
    ///   that HTTP aborts the connection rather than end it cleanly.
    pub struct Watched<B, C: ClassifyStream, W: Watch> {
        #[pin]
        inner: B,
        watching: Option<Watching<C, W>>,
        pending_error: Option<Failure>,
        done: bool,
        // Frames still to come that have been classified before.
        classified: usize,
    }

    impl<B, C: ClassifyStream, W: Watch> PinnedDrop for Watched<B, C, W> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(watching) = this.project().watching.take() {
                watching.finish(End::Dropped);
            }
        }
    }
}

struct Watching<C, W> {
    classify: C,
    watch: W,
    /// A failure that the body itself reported.
    told: Option<Outcome>,
}

impl<C: ClassifyStream, W: Watch> Watching<C, W> {
    /// Returns the outcome, and whether whoever read the body has been told of it.
    fn finish(mut self, end: End<'_>) -> (Outcome, bool) {
        let has_trailers = matches!(end, End::Clean(Some(_)));
        let outcome = self.classify.on_end(end);
        // What the stream said of itself stands, whatever came after.
        let outcome = self.told.unwrap_or(outcome);
        self.watch.on_finish(&outcome);
        (
            outcome,
            outcome.is_success() || self.told.is_some() || has_trailers,
        )
    }
}

impl<B, C: ClassifyStream, W: Watch> Watched<B, C, W> {
    /// Watches `inner` from its beginning.
    pub const fn new(inner: B, classify: C, watch: W) -> Self {
        Self::resume(inner, classify, watch, 0, None)
    }

    /// Watches `inner`, of which `classify` has seen the first `classified` frames and learnt that
    /// the stream `told` of a failure.
    pub(super) const fn resume(
        inner: B,
        classify: C,
        watch: W,
        classified: usize,
        told: Option<Outcome>,
    ) -> Self {
        Self {
            inner,
            watching: Some(Watching {
                classify,
                watch,
                told,
            }),
            pending_error: None,
            done: false,
            classified,
        }
    }

    /// Passes on `inner`, whose outcome is known already.
    pub const fn decided(inner: B) -> Self {
        Self {
            inner,
            watching: None,
            pending_error: None,
            done: false,
            classified: 0,
        }
    }
}

impl<B, C, W> Body for Watched<B, C, W>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
    W: Watch,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Some(failure) = this.pending_error.take() {
            return Poll::Ready(Some(Err(failure.into())));
        }
        if *this.done {
            return Poll::Ready(None);
        }
        let frame = match ready!(this.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                *this.done = true;
                let error: BoxError = error.into();
                let Some(watching) = this.watching.take() else {
                    return Poll::Ready(Some(Err(error)));
                };
                let cause: &(dyn Error + 'static) = &*error;
                let (outcome, _) = watching.finish(End::Error(cause));
                // The answer was whole before the connection broke.
                if outcome.is_success() {
                    return Poll::Ready(None);
                }
                return Poll::Ready(Some(Err(Failure::with_source(outcome, error).into())));
            }
            None => {
                *this.done = true;
                let failure = this
                    .watching
                    .take()
                    .and_then(|watching| ended(watching, None));
                return Poll::Ready(failure.map(|failure| Err(failure.into())));
            }
        };
        if let (Some(data), Some(watching)) = (frame.data_ref(), this.watching.as_mut()) {
            watching.watch.on_data(data);
            if *this.classified > 0 {
                *this.classified -= 1;
            } else {
                let step = watching.classify.on_data(data);
                watching.told = watching.told.or(step.failed);
                watching.watch.on_step(&step);
            }
        }
        // Whoever reads this may stop at the last frame and never ask for the end.
        if frame.is_trailers() || this.inner.is_end_stream() {
            *this.done = true;
            *this.pending_error = this
                .watching
                .take()
                .and_then(|watching| ended(watching, frame.trailers_ref()));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        // While the outcome is open the end is not: it may have to be an error.
        self.watching.is_none()
            && self.pending_error.is_none()
            && (self.done || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.done {
            SizeHint::with_exact(0)
        } else {
            self.inner.size_hint()
        }
    }
}

/// The failure to end with, when the body ended cleanly but the answer was not whole.
fn ended<C: ClassifyStream, W: Watch>(
    watching: Watching<C, W>,
    trailers: Option<&http::HeaderMap>,
) -> Option<Failure> {
    let (outcome, told) = watching.finish(End::Clean(trailers));
    (!told).then(|| Failure::new(outcome))
}

impl<B, C: ClassifyStream, W: Watch> fmt::Debug for Watched<B, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("open", &self.watching.is_some())
            .finish_non_exhaustive()
    }
}
