use std::{
    error::Error,
    fmt, mem,
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
        state: State<C, W>,
        #[pin]
        inner: B,
    }

    impl<B, C: ClassifyStream, W: Watch> PinnedDrop for Watched<B, C, W> {
        fn drop(this: Pin<&mut Self>) {
            let state = this.project().state;
            if matches!(state, State::Open { .. }) {
                state.cut();
            }
        }
    }
}

// The tag is told to be a byte of its own: it is looked at more often than anything else.
#[repr(u8)]
enum State<C, W> {
    /// The outcome is open.
    Open {
        /// Whether the proper end has come.
        ended: bool,
        /// Frames still to come that have been classified before.
        classified: u32,
        watching: Watching<C, W>,
    },
    /// The outcome was known before; the inner body is passed on as it is.
    Decided,
    /// The inner body is over, but this is still to come.
    Late(Box<Late>),
    /// Nothing is still to come.
    Over,
}

struct Watching<C, W> {
    classify: C,
    watch: W,
    // Boxed: it is large, next to never there, and would be moved about with every body.
    late: Option<Box<Late>>,
}

/// What is passed on after the frame that the inner body has brought last.
#[derive(Debug, Default)]
struct Late {
    /// A failure that the body itself reported: its reader knows.
    told: Option<Outcome>,
    /// Comes in the stead of all else.
    error: Option<Failure>,
    /// The last byte of a body of known length, while the answer in it is not whole.
    withheld: Option<Bytes>,
    /// Comes after what is withheld.
    trailers: Option<Frame<Bytes>>,
}

impl Late {
    #[cold]
    fn error(failure: Failure) -> Box<Self> {
        Box::new(Self {
            error: Some(failure),
            ..Self::default()
        })
    }

    fn is_empty(&self) -> bool {
        self.error.is_none() && self.withheld.is_none() && self.trailers.is_none()
    }

    #[cold]
    #[inline(never)]
    fn next(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        if let Some(failure) = self.error.take() {
            return Some(Err(failure.into()));
        }
        let withheld = self.withheld.take().map(Frame::data);
        withheld.or_else(|| self.trailers.take()).map(Ok)
    }
}

impl<C: ClassifyStream, W: Watch> State<C, W> {
    /// Ends it all, and hands out what watches if the outcome was open.
    #[inline]
    fn close(&mut self) -> Option<Watching<C, W>> {
        match mem::replace(self, Self::Over) {
            Self::Open { watching, .. } => Some(watching),
            _ => None,
        }
    }

    /// What is still to come when the inner body is over.
    #[inline]
    fn next(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        match self {
            Self::Late(late) => late.next(),
            _ => None,
        }
    }

    /// The inner body came to its end.
    #[inline]
    fn end(&mut self, trailers: Option<&http::HeaderMap>) {
        let Self::Open { watching, .. } = self else {
            *self = Self::Over;
            return;
        };
        let outcome = watching.classify.on_end(End::Clean(trailers));
        if !outcome.is_success() || watching.late.is_some() {
            self.end_otherwise(outcome);
        } else if let Some(watching) = self.close() {
            watching.watch.on_finish(&outcome);
        }
    }

    /// A clean end of what is no whole answer, or after which something is still to come. It is a
    /// failure to pass on when the reader would not know of it.
    #[cold]
    #[inline(never)]
    fn end_otherwise(&mut self, outcome: Outcome) {
        let Some(watching) = self.close() else {
            return;
        };
        let has_told = watching.has_told();
        let (outcome, late) = watching.finish(outcome);
        if !has_told && outcome.kind() == Kind::Malformed {
            *self = Self::Late(Late::error(Failure::new(outcome)));
        } else if let Some(late) = late {
            *self = Self::Late(late);
        }
    }

    /// The inner body is over by an error: returns the one to pass on, if any.
    #[cold]
    #[inline(never)]
    fn fail(&mut self, error: BoxError) -> Option<BoxError> {
        let Some(mut watching) = self.close() else {
            return Some(error);
        };
        let cause: &(dyn Error + 'static) = &*error;
        let outcome = watching.classify.on_end(End::Error(cause));
        let (outcome, late) = watching.finish(outcome);
        if !outcome.is_success() {
            return Some(Failure::with_source(outcome, error).into());
        }
        // The answer was whole before the connection broke.
        if let Some(late) = late {
            *self = Self::Late(late);
        }
        None
    }

    /// The body was dropped.
    #[cold]
    #[inline(never)]
    fn cut(&mut self) {
        if let Some(mut watching) = self.close() {
            let outcome = watching.classify.on_end(End::Dropped);
            watching.finish(outcome);
        }
    }
}

impl<C: ClassifyStream, W: Watch> Watching<C, W> {
    #[inline]
    const fn new(classify: C, watch: W) -> Self {
        Self {
            classify,
            watch,
            late: None,
        }
    }

    /// The body itself reports a failure. The first one counts.
    #[cold]
    fn tell(&mut self, failed: Outcome) {
        let late = self.late.get_or_insert_default();
        late.told.get_or_insert(failed);
    }

    #[inline]
    fn has_told(&self) -> bool {
        self.late.as_ref().is_some_and(|late| late.told.is_some())
    }

    /// Says what became of it, and what is still to come.
    fn finish(self, mut outcome: Outcome) -> (Outcome, Option<Box<Late>>) {
        // What the stream said of itself stands, whatever came after.
        if let Some(told) = self.late.as_ref().and_then(|late| late.told) {
            outcome = told;
        }
        self.watch.on_finish(&outcome);
        (outcome, self.late)
    }
}

impl<B, C: ClassifyStream, W: Watch> Watched<B, C, W> {
    /// Watches `inner` from its beginning.
    #[inline]
    pub const fn new(inner: B, classify: C, watch: W) -> Self {
        Self {
            inner,
            state: State::Open {
                ended: false,
                classified: 0,
                watching: Watching::new(classify, watch),
            },
        }
    }

    /// Watches `inner`, of which `classify` has seen the first `classified` frames, the last of
    /// which brought `step`.
    pub(super) fn resume(inner: B, classify: C, watch: W, classified: u32, step: &Step) -> Self {
        let mut watching = Watching::new(classify, watch);
        if let Some(failed) = step.failed {
            watching.tell(failed);
        }
        Self {
            inner,
            state: State::Open {
                ended: step.progress == Progress::End,
                classified,
                watching,
            },
        }
    }

    /// Passes on `inner`, whose outcome is known already.
    #[inline]
    pub const fn decided(inner: B) -> Self {
        Self {
            inner,
            state: State::Decided,
        }
    }

    /// Ends with `failure` in the stead of `inner`, which is over and says nothing of it.
    pub fn failed(inner: B, failure: Failure) -> Self {
        Self {
            inner,
            state: State::Late(Late::error(failure)),
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

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        match this.state {
            State::Open { .. } | State::Decided => {}
            State::Late(late) => return Poll::Ready(late.next()),
            State::Over => return Poll::Ready(None),
        }
        let frame = match ready!(this.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let error = this.state.fail(error.into());
                return Poll::Ready(
                    error.map_or_else(|| this.state.next(), |error| Some(Err(error))),
                );
            }
            None => {
                this.state.end(None);
                return Poll::Ready(this.state.next());
            }
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                this.state.end(frame.trailers_ref());
                let State::Late(late) = this.state else {
                    return Poll::Ready(Some(Ok(frame)));
                };
                // Whoever reads them asks for nothing more.
                if late.error.is_none() {
                    late.trailers = Some(frame);
                }
                return Poll::Ready(late.next());
            }
        };
        let State::Open {
            ended,
            classified,
            watching,
        } = this.state
        else {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        };
        watching.watch.on_data(&data);
        if *classified > 0 {
            *classified -= 1;
        } else {
            let step = watching.classify.on_data(&data);
            if let Some(failed) = step.failed {
                watching.tell(failed);
            }
            *ended |= step.progress == Progress::End;
            watching.watch.on_step(&step);
        }
        let is_open = !*ended && !watching.has_told();
        if let Some(withheld) = watching.late.as_mut().and_then(|late| late.withheld.take()) {
            data = [withheld, data].concat().into();
        }
        // Whoever reads this may stop at the last byte and never ask for the end.
        let length_is_known = |inner: &B| inner.size_hint().exact() == Some(0);
        if this.inner.is_end_stream() {
            this.state.end(None);
            if matches!(this.state, State::Late(late) if late.error.is_some())
                && length_is_known(&this.inner)
            {
                data.truncate(data.len().saturating_sub(1));
            }
        } else if is_open && !data.is_empty() && length_is_known(&this.inner) {
            let last = data.split_off(data.len() - 1);
            watching.late.get_or_insert_default().withheld = Some(last);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            // While the outcome is open the end is not: it may have to be an error.
            State::Open { .. } => false,
            State::Decided => self.inner.is_end_stream(),
            State::Late(late) => late.is_empty(),
            State::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (late, inner) = match &self.state {
            // Unknown, so that HTTP asks for the error before it says how long the body is.
            State::Late(late) if late.error.is_some() => return SizeHint::default(),
            State::Open { watching, .. } => (watching.late.as_ref(), Some(&self.inner)),
            State::Decided => (None, Some(&self.inner)),
            State::Late(late) => (Some(late), None),
            State::Over => (None, None),
        };
        let withheld = late.and_then(|late| late.withheld.as_ref());
        let withheld = withheld.map_or(0, |data| data.len() as u64);
        plus(withheld, inner.map(Body::size_hint))
    }
}

impl<B, C: ClassifyStream, W: Watch> fmt::Debug for Watched<B, C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("open", &matches!(self.state, State::Open { .. }))
            .finish_non_exhaustive()
    }
}
