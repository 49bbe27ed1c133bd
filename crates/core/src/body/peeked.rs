use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{Watch, Watched};
use crate::{BoxError, ClassifyStream, End, Failure, Outcome, Step};

/// How many bytes [`peek`] holds back at most, unless told otherwise: 4 MiB.
///
/// The largest whole answers of chat models are a few hundred KiB (128 Ki tokens of text); what
/// precedes the first token of a stream is a few KiB. Four MiB leaves room for both and bounds the
/// memory of a thousand waiting calls to 4 GiB even if every provider misbehaves.
pub const DEFAULT_PEEK_LIMIT: usize = 4 * 1024 * 1024;

pin_project! {
    /// A body of which the first frames have been read and are given out first.
    pub struct Peeked<B> {
        held: VecDeque<Frame<Bytes>>,
        error: Option<BoxError>,
        #[pin]
        rest: Rest<B>,
    }
}

pin_project! {
    /// What has not been read.
    #[project = RestPinned]
    enum Rest<B> {
        // Never polled so far, so it may still move.
        Unread {
            #[pin]
            body: B,
        },
        Begun { body: Pin<Box<B>> },
        Over,
    }
}

/// What [`peek`] found.
#[derive(Debug)]
pub enum Peek<B, C> {
    /// The stream has begun to answer, or too much would have to be held: nobody else may take
    /// over.
    Committed(Committed<B, C>),
    /// The body is over or has failed, and this is the outcome. All of what came is in the body,
    /// the error at its end included.
    Decided(Outcome, Peeked<B>),
}

/// A body that has begun to answer, with the classifier that has read its first frames.
///
/// The two stay together so that no byte is classified twice or not at all.
#[derive(Debug)]
pub struct Committed<B, C> {
    body: Peeked<B>,
    classify: C,
    step: Step,
}

/// Reads a body until it commits, fails or ends, and holds what it reads.
///
/// At most `limit` bytes are held, however they are split into frames, and the frame that passes the
/// limit. There is no limit of time: race the future against a timer, and [`PeekFuture::stop`] it.
pub fn peek<B, C>(body: B, classify: C, limit: usize) -> PeekFuture<B, C>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
{
    PeekFuture {
        reading: Some(Reading {
            rest: Box::pin(body),
            held: VecDeque::new(),
            held_bytes: 0,
            classify,
            step: Step::default(),
            limit,
        }),
    }
}

/// The future of [`peek`].
///
/// # Cancel safety
///
/// Dropping it drops the body, which aborts the response; [`stop`](Self::stop) keeps it.
pub struct PeekFuture<B, C> {
    reading: Option<Reading<B, C>>,
}

struct Reading<B, C> {
    rest: Pin<Box<B>>,
    held: VecDeque<Frame<Bytes>>,
    held_bytes: usize,
    classify: C,
    step: Step,
    limit: usize,
}

// The body is pinned in its own box, and the classifier is never pinned.
impl<B, C> Unpin for PeekFuture<B, C> {}

impl<B, C> PeekFuture<B, C> {
    /// Stops before anything is decided: what has been read so far is given out first, and the
    /// classifier goes on with the rest. `None` when the future is complete.
    pub fn stop(&mut self) -> Option<Committed<B, C>> {
        self.reading.take().map(Reading::commit)
    }
}

impl<B, C> Future for PeekFuture<B, C>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
{
    type Output = Peek<B, C>;

    /// # Panics
    ///
    /// When it is polled after completion.
    #[expect(clippy::expect_used, reason = "polled after completion, as documented")]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let reading = self.reading.as_mut().expect("polled after completion");
            // A body may say that it is over with its last frame; HTTP/1 then reads no further.
            let frame = if reading.rest.is_end_stream() {
                None
            } else {
                ready!(reading.rest.as_mut().poll_frame(cx))
            };
            let decided = match frame {
                None => Some((reading.classify.on_end(End::Clean(None)), None)),
                Some(Err(error)) => {
                    let error = error.into();
                    let outcome = reading.classify.on_end(End::Error(&*error));
                    let error = Failure::with_source(outcome, error).into();
                    Some((outcome, Some(error)))
                }
                Some(Ok(frame)) => {
                    let outcome = frame
                        .trailers_ref()
                        .map(|trailers| reading.classify.on_end(End::Clean(Some(trailers))));
                    if let Some(data) = frame.data_ref() {
                        // Held, frames without bytes would take memory without end.
                        if data.is_empty() {
                            continue;
                        }
                        reading.held_bytes += data.len();
                        reading.step = reading.classify.on_data(data);
                    }
                    reading.held.push_back(frame);
                    outcome.map(|outcome| (outcome, None))
                }
            };
            let over = decided.is_some();
            let failed = reading.step.failed.filter(|_| !reading.step.commits());
            if !over
                && failed.is_none()
                && !reading.step.commits()
                && reading.held_bytes <= reading.limit
            {
                continue;
            }
            let reading = self.reading.take().expect("checked above");
            return Poll::Ready(match (decided, failed) {
                (Some((outcome, error)), _) => Peek::Decided(
                    outcome,
                    Peeked {
                        held: reading.held,
                        error,
                        rest: Rest::Over,
                    },
                ),
                (None, Some(outcome)) => Peek::Decided(
                    outcome,
                    Peeked {
                        held: reading.held,
                        error: None,
                        rest: Rest::Begun { body: reading.rest },
                    },
                ),
                (None, None) => Peek::Committed(reading.commit()),
            });
        }
    }
}

impl<B, C> Reading<B, C> {
    fn commit(self) -> Committed<B, C> {
        Committed {
            body: Peeked {
                held: self.held,
                error: None,
                rest: Rest::Begun { body: self.rest },
            },
            classify: self.classify,
            step: self.step,
        }
    }
}

impl<B, C> fmt::Debug for PeekFuture<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Counts only: the frames are somebody's answer.
        f.debug_struct("PeekFuture")
            .field(
                "held_bytes",
                &self.reading.as_ref().map(|reading| reading.held_bytes),
            )
            .finish_non_exhaustive()
    }
}

/// The hint for `held` bytes that are there and a rest, if there is one.
pub(super) fn plus(held: u64, rest: Option<SizeHint>) -> SizeHint {
    let rest = rest.unwrap_or_else(|| SizeHint::with_exact(0));
    let mut hint = SizeHint::new();
    hint.set_lower(held.saturating_add(rest.lower()));
    if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(held)) {
        hint.set_upper(upper);
    }
    hint
}

impl<B, C: ClassifyStream> Committed<B, C> {
    /// What the last frame read brought.
    #[must_use]
    pub const fn step(&self) -> &Step {
        &self.step
    }

    /// The body alone, when how it goes on does not matter.
    pub fn into_body(self) -> Peeked<B> {
        self.body
    }

    /// Classifies no further: what came so far decides, as if the body were dropped here.
    pub fn decide(mut self) -> (Outcome, Peeked<B>) {
        let outcome = self.classify.on_end(End::Dropped);
        (outcome, self.body)
    }

    /// The body, to be passed on and classified to its end.
    pub fn watch<W: Watch>(self, watch: W) -> Watched<Peeked<B>, C, W> {
        // More than that are never held: each takes 96 bytes and more.
        let classified = u32::try_from(self.body.held.len()).unwrap_or(u32::MAX);
        Watched::resume(self.body, self.classify, watch, classified, &self.step)
    }
}

impl<B> Peeked<B> {
    /// A body of which nothing has been read.
    pub fn unread(body: B) -> Self {
        Self {
            held: VecDeque::new(),
            error: None,
            rest: Rest::Unread { body },
        }
    }

    /// The frames that are held.
    pub fn held(&self) -> impl Iterator<Item = &Frame<Bytes>> {
        self.held.iter()
    }

    /// Whether it is known to end in an error.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.error.is_some()
    }
}

impl<B> Body for Peeked<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Some(frame) = this.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match this.rest.as_mut().project() {
            RestPinned::Unread { body } => ready!(body.poll_frame(cx)),
            RestPinned::Begun { body } => ready!(body.as_mut().poll_frame(cx)),
            RestPinned::Over => return Poll::Ready(None),
        };
        if !matches!(frame, Some(Ok(_))) {
            this.rest.set(Rest::Over);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty()
            && self.error.is_none()
            && self.rest.get().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let held = self
            .held
            .iter()
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64)
            .sum();
        // With held trailers an exact hint would make HTTP/1 use content-length and drop them; with
        // a held error, how much was still to come is not known.
        if self.error.is_some() || self.held.iter().any(Frame::is_trailers) {
            let mut hint = SizeHint::new();
            hint.set_lower(held);
            return hint;
        }
        plus(held, self.rest.get().map(Body::size_hint))
    }
}

impl<B> Rest<B> {
    fn get(&self) -> Option<&B> {
        match self {
            Self::Unread { body } => Some(body),
            Self::Begun { body } => Some(body),
            Self::Over => None,
        }
    }
}

impl<B> fmt::Debug for Peeked<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Counts only: the frames are somebody's answer.
        f.debug_struct("Peeked")
            .field("held_frames", &self.held.len())
            .field("failed", &self.error.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::{Kind, Progress};

    /// Counts bytes; complete after six.
    struct Six(usize);

    impl ClassifyStream for Six {
        fn on_data(&mut self, chunk: &[u8]) -> Step {
            self.0 += chunk.len();
            Step::progress(Progress::KeepAlive)
        }

        fn on_end(&mut self, _: End<'_>) -> Outcome {
            Outcome::new(if self.0 == 6 {
                Kind::Success
            } else {
                Kind::Malformed
            })
        }
    }

    #[test]
    fn a_stopped_peek_loses_and_repeats_nothing() {
        let mut poll = 0;
        let frames = stream::poll_fn(move |_| {
            poll += 1;
            let data: &'static [u8] = match poll {
                1 => b"abc",
                2 => return Poll::Pending,
                3 => b"def",
                _ => return Poll::Ready(None),
            };
            Poll::Ready(Some(Ok::<_, Infallible>(Frame::data(Bytes::from_static(
                data,
            )))))
        });
        let mut peeking = peek(StreamBody::new(frames), Six(0), 1024);
        assert!((&mut peeking).now_or_never().is_none());
        let stopped = peeking.stop().expect("not complete");
        let mut heard = None;
        let body = stopped.watch(|outcome: &Outcome| heard = Some(outcome.kind()));
        let bytes = body
            .collect()
            .now_or_never()
            .expect("all is there")
            .expect("whole")
            .to_bytes();
        assert_eq!(&bytes[..], b"abcdef");
        assert_eq!(heard, Some(Kind::Success), "six bytes were seen, each once");
    }

    #[test]
    fn only_frames_that_carry_something_are_held() {
        let frames = ["", "abc", "", "", "def", ""].map(|data| Ok(Frame::data(Bytes::from(data))));
        let body = StreamBody::new(stream::iter(frames as [Result<_, Infallible>; 6]));
        let peeked = peek(body, Six(0), 1024).now_or_never();
        let Some(Peek::Decided(_, body)) = peeked else {
            panic!("the body ends");
        };
        let held: Vec<_> = body.held().filter_map(Frame::data_ref).collect();
        assert_eq!(held, ["abc", "def"]);
    }

    #[test]
    fn a_complete_peek_cannot_be_stopped() {
        let empty = StreamBody::new(stream::empty::<Result<Frame<Bytes>, Infallible>>());
        let mut peeking = peek(empty, Six(0), 1024);
        assert!((&mut peeking).now_or_never().is_some());
        assert!(peeking.stop().is_none());
    }
}
