//! A provider that sends given frames at given times, and a classifier that needs no dialect.

#![expect(dead_code, reason = "not every test binary needs all of it")]
#![expect(clippy::disallowed_types, reason = "a lock in a test")]

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, End, Event, Kind, Observer, Outcome, Phase, Progress, Step,
    Verdict,
};
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a provider sends: `:` a sign of life, `t` a token, `e` the proper end, `!` a failure that
/// it tells of; anything else is part of something that is not whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks;

impl<Req, B> Classify<Req, Response<B>> for Marks {
    type Call = ();
    type Stream = Self;

    fn on_request(&self, _: &Req) {}

    fn on_response(&self, (): &(), _: &Response<B>) -> Verdict<Self> {
        Verdict::AtEnd(*self)
    }
}

impl ClassifyStream for Marks {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        let progress = chunk
            .iter()
            .map(|byte| match byte {
                b':' => Progress::KeepAlive,
                b't' => Progress::Token,
                b'e' => Progress::End,
                _ => Progress::None,
            })
            .max()
            .unwrap_or_default();
        if chunk.contains(&b'!') {
            return Step::failed(progress, Outcome::new(Kind::Overloaded));
        }
        Step::progress(progress)
    }

    fn on_end(&mut self, _: End<'_>) -> Outcome {
        Outcome::success()
    }
}

/// How a [`Script`] goes on after its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Ends,
    Trailers,
    Fails,
    Hangs,
}

/// A body whose frames arrive at their times, whether anybody reads or not.
pub(crate) struct Script {
    frames: VecDeque<(Instant, Bytes)>,
    then: Then,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Script {
    /// `frames` arrive at times counted from now.
    pub(crate) fn new(frames: &[(Duration, &'static str)], then: Then) -> Self {
        let now = Instant::now();
        Self {
            frames: frames
                .iter()
                .map(|(at, data)| (now + *at, Bytes::from_static(data.as_bytes())))
                .collect(),
            then,
            sleep: None,
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some((at, _)) = self.frames.front() else {
            return match self.then {
                Then::Ends => Poll::Ready(None),
                Then::Trailers => {
                    self.then = Then::Ends;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Then::Fails => Poll::Ready(Some(Err("the connection broke".into()))),
                Then::Hangs => Poll::Pending,
            };
        };
        let at = *at;
        if Instant::now() < at {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
            sleep.as_mut().reset(at);
            ready!(sleep.as_mut().poll(cx));
        }
        let data = self.frames.pop_front().map(|(_, data)| data);
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}

/// Keeps what it hears.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(Phase, Heard)>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Ended { took: Duration },
    TimedOut { limit: Duration, waited: Duration },
}

impl Log {
    pub(crate) fn take(&self) -> Vec<(Phase, Heard)> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

impl Observer for Log {
    fn on_event(&self, event: &Event<'_>) {
        let heard = match *event {
            Event::PhaseEnded {
                target,
                phase,
                took,
            } => {
                assert_eq!(target, "model");
                (phase, Heard::Ended { took })
            }
            Event::PhaseTimedOut {
                target,
                phase,
                limit,
                waited,
            } => {
                assert_eq!(target, "model");
                (phase, Heard::TimedOut { limit, waited })
            }
            _ => return,
        };
        self.0.lock().expect("no panic").push(heard);
    }
}
