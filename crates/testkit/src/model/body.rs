use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Sleep;

use super::{
    answer::Step,
    log::{Ended, Entry},
    server::Kill,
};

/// The body of a scripted answer.
///
/// Between two frames it is pending once, so that a server writes each of them to its socket
/// before it asks for the next.
pub struct ReplyBody {
    steps: VecDeque<Step>,
    entry: Option<Entry>,
    kill: Option<Kill>,
    sleep: Option<Pin<Box<Sleep>>>,
    flushed: bool,
}

impl ReplyBody {
    pub(super) fn new(steps: VecDeque<Step>, entry: Option<Entry>, kill: Option<Kill>) -> Self {
        let mut body = Self {
            steps,
            entry,
            kill,
            sleep: None,
            flushed: true,
        };
        body.end_if_done();
        body
    }

    fn end_if_done(&mut self) {
        if self.steps.is_empty()
            && let Some(mut entry) = self.entry.take()
        {
            entry.end(Ended::Answered);
        }
    }

    /// What a frame needs: the bytes before it written, and the wait before it over.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.flushed, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(())
    }

    fn data(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.flushed = false;
        if let Some(entry) = &self.entry {
            entry.sent(&data);
        }
        self.end_if_done();
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn break_off(&mut self, reset: bool) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.steps.clear();
        if let Some(mut entry) = self.entry.take() {
            entry.end(Ended::BrokenOff);
        }
        if reset && let Some(kill) = &self.kill {
            kill.kill();
        }
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        loop {
            ready!(this.poll_turn(cx));
            match this.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Data(data)) => return this.data(data),
                Some(Step::Wait(wait)) => this.sleep = Some(Box::pin(tokio::time::sleep(wait))),
                Some(Step::Trailers(trailers)) => {
                    this.end_if_done();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(Step::Repeat(data, every)) => {
                    this.steps.push_front(Step::Repeat(data.clone(), every));
                    this.steps.push_front(Step::Wait(every));
                    return this.data(data);
                }
                Some(Step::Stall) => {
                    this.steps.push_front(Step::Stall);
                    return Poll::Pending;
                }
                Some(Step::Cut) => return this.break_off(false),
                Some(Step::Reset) => return this.break_off(true),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody")
            .field("steps_left", &self.steps.len())
            .finish_non_exhaustive()
    }
}
