use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::peeked::plus;
use crate::{BoxError, ClassifyStream, End, Failure, Kind, Outcome, Progress, Step};

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
    /// * The answer is complete, or it says itself that it failed (by an error event, an error
    ///   status, trailers): the body ends as the inner one does. An error of the inner body *after*
    ///   the proper end is left out, the answer was whole.
    /// * The inner body ended in error: so does this one, with a [`Failure`] that carries the outcome.
    /// * The inner body ended cleanly and the answer is [`Kind::Malformed`], so that nothing in it
    ///   tells its reader: this one ends with a [`Failure`], so that HTTP aborts the connection
    ///   rather than end it cleanly.
    ///
    /// HTTP reads no further than to the trailers, or to the length that was announced. So in the
    /// last case trailers are left out, and where the length was known so is the last byte, which
    /// waits until it is clear how the body ends.
    pub struct Watched<B, C: ClassifyStream, W: Watch> {
        #[pin]
        inner: B,
        watching: Option<Watching<C, W>>,
        // Boxed: it is large, next to never there, and would be moved about with every body.
        late: Option<Box<Late>>,
        done: bool,
        // Frames still to come that have been classified before.
        classified: usize,
    }

    impl<B, C: ClassifyStream, W: Watch> PinnedDrop for Watched<B, C, W> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(watching) = this.project().watching.take() {
                watching.cut(End::Dropped);
            }
        }
    }
}

/// What is passed on after the frame that the inner body has brought last.
#[derive(Debug, Default)]
struct Late {
    /// Comes in the stead of all else.
    error: Option<Failure>,
    /// The last byte of a body of known length, while the answer in it is not whole.
    withheld: Option<Bytes>,
    /// Comes after what is withheld.
    trailers: Option<Frame<Bytes>>,
}

struct Watching<C, W> {
    classify: C,
    watch: W,
    /// A failure that the body itself reported. Boxed for the reason that the rest is.
    told: Option<Box<Outcome>>,
    /// Whether the proper end has come.
    ended: bool,
}

impl Late {
    fn is_empty(&self) -> bool {
        self.error.is_none() && self.withheld.is_none() && self.trailers.is_none()
    }

    fn next(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        if let Some(failure) = self.error.take() {
            return Some(Err(failure.into()));
        }
        let withheld = self.withheld.take().map(Frame::data);
        withheld.or_else(|| self.trailers.take()).map(Ok)
    }
}

impl<C: ClassifyStream, W: Watch> Watching<C, W> {
    #[inline]
    fn step(&mut self, step: &Step) {
        if let (None, Some(failed)) = (&self.told, step.failed) {
            self.told = Some(Box::new(failed));
        }
        self.ended |= step.progress == Progress::End;
    }

    /// The end of a body that did not come to its own.
    #[cold]
    #[inline(never)]
    fn cut(self, end: End<'_>) -> Outcome {
        self.finish(end)
    }

    #[inline(always)]
    fn finish(mut self, end: End<'_>) -> Outcome {
        let outcome = self.classify.on_end(end);
        // What the stream said of itself stands, whatever came after.
        let outcome = self.told.map_or(outcome, |told| *told);
        self.watch.on_finish(&outcome);
        outcome
    }

    /// The failure to end with, when the body ended cleanly and its reader would not know.
    #[inline]
    fn end(self, trailers: Option<&http::HeaderMap>) -> Option<Failure> {
        let told = self.told.is_some();
        let outcome = self.finish(End::Clean(trailers));
        (!told && outcome.kind() == Kind::Malformed).then(|| Failure::new(outcome))
    }
}

impl<B, C: ClassifyStream, W: Watch> Watched<B, C, W> {
    /// Watches `inner` from its beginning.
    #[inline]
    pub const fn new(inner: B, classify: C, watch: W) -> Self {
        Self {
            inner,
            watching: Some(Watching {
                classify,
                watch,
                told: None,
                ended: false,
            }),
            late: None,
            done: false,
            classified: 0,
        }
    }

    /// Watches `inner`, of which `classify` has seen the first `classified` frames, the last of
    /// which brought `step`.
    pub(super) fn resume(inner: B, classify: C, watch: W, classified: usize, step: &Step) -> Self {
        let mut watched = Self::new(inner, classify, watch);
        watched.classified = classified;
        if let Some(watching) = &mut watched.watching {
            watching.step(step);
        }
        watched
    }

    /// Passes on `inner`, whose outcome is known already.
    #[inline]
    pub const fn decided(inner: B) -> Self {
        Self {
            inner,
            watching: None,
            late: None,
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
        if *this.done {
            return Poll::Ready(this.late.as_mut().and_then(|late| late.next()));
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
                let outcome = watching.cut(End::Error(cause));
                // The answer was whole before the connection broke.
                if outcome.is_success() {
                    return Poll::Ready(this.late.as_mut().and_then(|late| late.next()));
                }
                *this.late = None;
                return Poll::Ready(Some(Err(Failure::with_source(outcome, error).into())));
            }
            None => {
                *this.done = true;
                let failure = this.watching.take().and_then(|watching| watching.end(None));
                if let Some(failure) = failure {
                    *this.late = None;
                    return Poll::Ready(Some(Err(failure.into())));
                }
                return Poll::Ready(this.late.as_mut().and_then(|late| late.next()));
            }
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                *this.done = true;
                let watching = this.watching.take();
                // Whoever reads them asks for nothing more.
                if let Some(failure) =
                    watching.and_then(|watching| watching.end(frame.trailers_ref()))
                {
                    *this.late = None;
                    return Poll::Ready(Some(Err(failure.into())));
                }
                let Some(late) = this.late else {
                    return Poll::Ready(Some(Ok(frame)));
                };
                late.trailers = Some(frame);
                return Poll::Ready(late.next());
            }
        };
        let Some(watching) = this.watching.as_mut() else {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        };
        watching.watch.on_data(&data);
        if *this.classified > 0 {
            *this.classified -= 1;
        } else {
            let step = watching.classify.on_data(&data);
            watching.step(&step);
            watching.watch.on_step(&step);
        }
        let is_open = !watching.ended && watching.told.is_none();
        if let Some(withheld) = this.late.take().and_then(|late| late.withheld) {
            data = [withheld, data].concat().into();
        }
        // Whoever reads this may stop at the last byte and never ask for the end.
        let length_is_known = |inner: &B| inner.size_hint().exact() == Some(0);
        if this.inner.is_end_stream() {
            *this.done = true;
            if let Some(failure) = this.watching.take().and_then(|watching| watching.end(None)) {
                if length_is_known(&this.inner) {
                    data.truncate(data.len().saturating_sub(1));
                }
                this.late.get_or_insert_default().error = Some(failure);
            }
        } else if is_open && !data.is_empty() && length_is_known(&this.inner) {
            this.late.get_or_insert_default().withheld = Some(data.split_off(data.len() - 1));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        // While the outcome is open the end is not: it may have to be an error.
        self.watching.is_none()
            && self.late.as_ref().is_none_or(|late| late.is_empty())
            && (self.done || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let withheld = self.late.as_ref().and_then(|late| late.withheld.as_ref());
        let withheld = withheld.map_or(0, |data| data.len() as u64);
        plus(withheld, (!self.done).then(|| self.inner.size_hint()))
    }
}

impl<B, C: ClassifyStream, W: Watch> fmt::Debug for Watched<B, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("open", &self.watching.is_some())
            .finish_non_exhaustive()
    }
}
