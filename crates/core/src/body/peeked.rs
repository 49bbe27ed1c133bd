use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{Watch, Watched};
use crate::{BoxError, ClassifyStream, End, Failure, Outcome, Step};

/// How many bytes [`peek`] holds back at most, unless told otherwise: 4 MiB.
///
/// The largest whole answers of chat models are a few hundred KiB (128 Ki tokens of text); what
/// precedes the first token of a stream is a few KiB. Four MiB leaves room for both and bounds the
/// memory of a thousand waiting calls to 4 GiB even if every provider misbehaves.
pub const DEFAULT_PEEK_LIMIT: usize = 4 * 1024 * 1024;

/// A body of which the first frames have been read and are given out first.
pub struct Peeked<B> {
    held: VecDeque<Frame<Bytes>>,
    error: Option<BoxError>,
    rest: Option<Pin<Box<B>>>,
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
/// limit. There is no limit of time: race the future against a timer.
///
/// # Cancel safety
///
/// Dropping the future drops the body, which aborts the response.
pub async fn peek<B, C>(body: B, mut classify: C, limit: usize) -> Peek<B, C>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    C: ClassifyStream,
{
    let mut rest = Box::pin(body);
    let mut held = VecDeque::new();
    let mut held_bytes = 0;
    loop {
        // A body may say that it is over with its last frame; HTTP/1 then reads no further.
        let frame = if rest.is_end_stream() {
            None
        } else {
            poll_fn(|cx| rest.as_mut().poll_frame(cx)).await
        };
        match frame {
            None => {
                let outcome = classify.on_end(End::Clean(None));
                return Peek::Decided(
                    outcome,
                    Peeked {
                        held,
                        error: None,
                        rest: None,
                    },
                );
            }
            Some(Err(error)) => {
                let error = error.into();
                let outcome = classify.on_end(End::Error(&*error));
                let error = Failure::with_source(outcome, error).into();
                return Peek::Decided(
                    outcome,
                    Peeked {
                        held,
                        error: Some(error),
                        rest: None,
                    },
                );
            }
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let outcome = classify.on_end(End::Clean(Some(trailers)));
                    held.push_back(frame);
                    return Peek::Decided(
                        outcome,
                        Peeked {
                            held,
                            error: None,
                            rest: None,
                        },
                    );
                }
                let step = frame.data_ref().map(|data| {
                    held_bytes += data.len();
                    classify.on_data(data)
                });
                held.push_back(frame);
                let step = step.unwrap_or_default();
                let failed = step.failed.filter(|_| !step.commits());
                if failed.is_none() && !step.commits() && held_bytes <= limit {
                    continue;
                }
                let body = Peeked {
                    held,
                    error: None,
                    rest: Some(rest),
                };
                return match failed {
                    Some(outcome) => Peek::Decided(outcome, body),
                    None => Peek::Committed(Committed {
                        body,
                        classify,
                        step,
                    }),
                };
            }
        }
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

    /// The body, to be passed on and classified to its end.
    pub fn watch<W: Watch>(self, watch: W) -> Watched<Peeked<B>, C, W> {
        let classified = self.body.held.len();
        Watched::resume(
            self.body,
            self.classify,
            watch,
            classified,
            self.step.failed,
        )
    }
}

impl<B> Peeked<B> {
    /// A body of which nothing has been read.
    pub fn unread(body: B) -> Self {
        Self {
            held: VecDeque::new(),
            error: None,
            rest: Some(Box::pin(body)),
        }
    }

    /// The frames that are held.
    pub fn held(&self) -> impl Iterator<Item = &Frame<Bytes>> {
        self.held.iter()
    }
}

impl<B> Body for Peeked<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.held.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(rest.as_mut().poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty()
            && self.error.is_none()
            && self.rest.as_ref().is_none_or(|rest| rest.is_end_stream())
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
        plus(held, self.rest.as_ref().map(|rest| rest.size_hint()))
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
