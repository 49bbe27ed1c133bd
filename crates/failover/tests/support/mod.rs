//! Scripted targets and a toy dialect in which every byte is an event.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test binary uses its own part"
)]

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{
    Attempt, BoxError, Classify, ClassifyStream, Deadline, End, Failure, HintSource, Kind, Outcome,
    Progress, Step, TimeLimits, Verdict, body::Replayable, outcome_of,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use parking::Shared;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service;

/// A lock for the logs of tests.
pub(crate) mod parking {
    use std::sync::{Arc, PoisonError};

    #[expect(clippy::disallowed_types, reason = "a test's log is no hot path")]
    type Mutex<T> = std::sync::Mutex<T>;

    #[derive(Debug, Default)]
    pub(crate) struct Shared<T>(Arc<Mutex<T>>);

    impl<T> Clone for Shared<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Shared<T> {
        pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }
}

pub(crate) type Incoming = Full<Bytes>;
pub(crate) type Outgoing = Request<Replayable<Incoming>>;

/// A request.
pub(crate) fn request() -> Request<Incoming> {
    Request::new(Full::new(Bytes::from_static(b"the prompt")))
}

// === the dialect ===

pub(crate) const KEEP_ALIVE: u8 = b'k';
pub(crate) const TOKEN: u8 = b't';
pub(crate) const ERROR: u8 = b'e';
pub(crate) const END: u8 = b'.';

/// Classifies by the status, and a 200 by its body: `k` keeps it alive, `t` is a token, `e` an
/// error event and `.` the proper end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toy;

#[derive(Debug, Default)]
pub(crate) struct ToyStream {
    failed: bool,
    ended: bool,
}

impl<Req, B> Classify<Req, Response<B>> for Toy {
    type Call = ();
    type Stream = ToyStream;

    fn on_request(&self, _: &Req) {}

    fn on_response(&self, (): &(), response: &Response<B>) -> Verdict<ToyStream> {
        if let Some(outcome) = response.extensions().get::<Outcome>() {
            return Verdict::Now(*outcome);
        }
        let kind = match response.status().as_u16() {
            200 => return Verdict::AtEnd(ToyStream::default()),
            204 => Kind::Success,
            400 | 422 => Kind::Rejected,
            401 | 403 => Kind::Unauthorized,
            404 => Kind::NotFound,
            410 => Kind::ContextTooLong,
            411 => Kind::ContentFiltered,
            413 => Kind::TooLarge,
            429 => Kind::Throttled,
            529 => Kind::Overloaded,
            _ => Kind::Unavailable,
        };
        let mut outcome = Outcome::new(kind);
        if let Some(seconds) = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
        {
            outcome =
                outcome.with_retry_after(Duration::from_secs(seconds), HintSource::RetryAfter);
        }
        Verdict::Now(outcome)
    }
}

impl ClassifyStream for ToyStream {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        let mut step = Step::default();
        for &byte in chunk {
            if self.failed || self.ended {
                break;
            }
            let progress = match byte {
                TOKEN => Progress::Token,
                END => {
                    self.ended = true;
                    Progress::End
                }
                ERROR => {
                    self.failed = true;
                    step.failed = Some(Outcome::new(Kind::Overloaded));
                    break;
                }
                _ => Progress::KeepAlive,
            };
            step.progress = step.progress.max(progress);
        }
        step
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        if self.failed {
            return Outcome::new(Kind::Overloaded);
        }
        match end {
            _ if self.ended => Outcome::success(),
            End::Clean(_) => Outcome::new(Kind::Malformed),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }
}

// === the targets ===

/// What a target does with one call.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    pub(crate) ready_after: Duration,
    pub(crate) head_after: Duration,
    pub(crate) head: Head,
    /// Each piece of the body and the wait before it.
    pub(crate) body: Vec<(Duration, Bytes)>,
    pub(crate) end: Ending,
    pub(crate) header: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Head {
    Status(u16),
    Refused,
    Reset,
    Hang,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Clean,
    Broken,
    Silent,
}

impl Play {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            ready_after: Duration::ZERO,
            head_after: Duration::ZERO,
            head: Head::Status(status),
            body: Vec::new(),
            end: Ending::Clean,
            header: None,
        }
    }

    pub(crate) fn stream(pieces: &[&'static str]) -> Self {
        Self::status(200).with(pieces)
    }

    pub(crate) fn with(mut self, pieces: &[&'static str]) -> Self {
        self.body = pieces
            .iter()
            .map(|piece| (Duration::ZERO, Bytes::from_static(piece.as_bytes())))
            .collect();
        self
    }

    pub(crate) fn ends(mut self, end: Ending) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn head(head: Head) -> Self {
        Self {
            head,
            ..Self::status(200)
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    pub(crate) fn after(mut self, delay: Duration) -> Self {
        self.head_after = delay;
        self
    }

    pub(crate) fn ready_after(mut self, delay: Duration) -> Self {
        self.ready_after = delay;
        self
    }
}

/// What a target has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: Vec<Call>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: Instant,
    pub(crate) body: Bytes,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) limits: Option<TimeLimits>,
}

/// A target that follows a script, one play per call; the last goes on for ever.
pub(crate) struct Model {
    script: Shared<VecDeque<Play>>,
    pub(crate) seen: Shared<Seen>,
    /// Calls and bodies that are not over.
    pub(crate) open: Arc<AtomicUsize>,
    ready: Readiness,
}

enum Readiness {
    Fresh,
    Waiting(Pin<Box<Sleep>>),
    Ready,
}

impl Model {
    pub(crate) fn new(script: impl IntoIterator<Item = Play>) -> Self {
        let model = Self {
            script: Shared::default(),
            seen: Shared::default(),
            open: Arc::default(),
            ready: Readiness::Fresh,
        };
        model.script.with(|queue| queue.extend(script));
        model
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.with(|seen| seen.calls.len())
    }

    fn play(&self) -> Play {
        self.script.with(|queue| {
            if queue.len() > 1 {
                queue.pop_front().expect("not empty")
            } else {
                queue.front().expect("a script").clone()
            }
        })
    }

    fn peek_play(&self) -> Play {
        self.script
            .with(|queue| queue.front().expect("a script").clone())
    }
}

impl Clone for Model {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            seen: self.seen.clone(),
            open: Arc::clone(&self.open),
            ready: Readiness::Fresh,
        }
    }
}

impl Service<Outgoing> for Model {
    type Response = Response<ModelBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ModelBody>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            match &mut self.ready {
                Readiness::Fresh => {
                    let delay = self.peek_play().ready_after;
                    self.ready = if delay.is_zero() {
                        Readiness::Ready
                    } else {
                        Readiness::Waiting(Box::pin(sleep(delay)))
                    };
                }
                Readiness::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.ready = Readiness::Ready;
                }
                Readiness::Ready => return Poll::Ready(Ok(())),
            }
        }
    }

    fn call(&mut self, request: Outgoing) -> Self::Future {
        assert!(
            matches!(self.ready, Readiness::Ready),
            "called without being ready"
        );
        self.ready = Readiness::Fresh;
        let play = self.play();
        let open = Open::new(&self.open);
        let seen = self.seen.clone();
        let at = Instant::now();
        seen.with(|seen| {
            seen.calls.push(Call {
                at,
                body: request.body().read(),
                attempt: request.extensions().get::<Attempt>().cloned(),
                deadline: request.extensions().get::<Deadline>().copied(),
                limits: request.extensions().get::<TimeLimits>().copied(),
            });
        });
        Box::pin(async move {
            if !play.head_after.is_zero() {
                sleep(play.head_after).await;
            }
            let status = match play.head {
                Head::Status(status) => StatusCode::from_u16(status)?,
                Head::Refused => {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                Head::Reset => return Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                Head::Hang => std::future::pending().await,
            };
            let body = ModelBody {
                pieces: play.body.into(),
                end: play.end,
                sleep: None,
                _open: open,
            };
            let mut response = Response::new(body);
            *response.status_mut() = status;
            response
                .headers_mut()
                .insert("x-from", "model".parse().expect("valid"));
            if let Some((name, value)) = play.header {
                response
                    .headers_mut()
                    .insert(name, value.parse().expect("valid"));
            }
            Ok(response)
        })
    }
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct ModelBody {
    pieces: VecDeque<(Duration, Bytes)>,
    end: Ending,
    sleep: Option<Pin<Box<Sleep>>>,
    _open: Open,
}

impl Body for ModelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some((delay, _)) = self.pieces.front() else {
            return match self.end {
                Ending::Clean => Poll::Ready(None),
                Ending::Broken => {
                    self.end = Ending::Clean;
                    Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
                }
                Ending::Silent => Poll::Pending,
            };
        };
        if !delay.is_zero() {
            let delay = *delay;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(delay)));
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        let (_, piece) = self.pieces.pop_front().expect("checked above");
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

/// The whole body, and the error it ended with.
pub(crate) async fn read<B>(body: B) -> (Bytes, Option<B::Error>)
where
    B: Body<Data = Bytes>,
{
    let mut body = Box::pin(body);
    let mut all = Vec::new();
    loop {
        match body.frame().await {
            None => return (all.into(), None),
            Some(Ok(frame)) => all.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Some(Err(error)) => return (all.into(), Some(error)),
        }
    }
}

/// The outcome that a call failed with.
pub(crate) fn outcome(error: &BoxError) -> Outcome {
    let error: &(dyn std::error::Error + 'static) = &**error;
    error
        .downcast_ref::<Failure>()
        .expect("failover fails with a Failure")
        .outcome()
}
