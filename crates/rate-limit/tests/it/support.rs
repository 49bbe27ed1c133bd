//! A model that follows a script and keeps a log, and a classifier for its answers.

#![expect(
    clippy::disallowed_types,
    reason = "logs of tests, never held across an await"
)]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{
    Classify, ClassifyStream, End, Event, Headroom, HintSource, Kind, Observer, Outcome, Progress,
    Scope, Step, Verdict,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::time::Instant;
use tower_service::Service;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Reads `retry-after` in seconds; the words `slow`, `quota`, `busy`, `large` in an error body or
/// in a stream; takes `.` for the proper end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TestClassify;

#[derive(Debug)]
pub(crate) struct TestStream {
    retry_after: Option<Duration>,
    seen: Vec<u8>,
    error: bool,
    limited: bool,
}

impl Classify<Request<Body>, Response<Body>> for TestClassify {
    type Call = ();
    type Stream = TestStream;

    fn on_request(&self, _: &Request<Body>) {}

    fn on_response(&self, (): &(), response: &Response<Body>) -> Verdict<TestStream> {
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        if response.headers().contains_key("x-plain") {
            let mut outcome = Outcome::new(Kind::Throttled);
            if let Some(delay) = retry_after {
                outcome = outcome.with_retry_after(delay, HintSource::RetryAfter);
            }
            return Verdict::Now(outcome);
        }
        if response.headers().contains_key("x-whole") {
            return Verdict::Now(Outcome::success());
        }
        Verdict::AtEnd(TestStream {
            retry_after,
            seen: Vec::new(),
            error: !response.status().is_success(),
            limited: response.headers().contains_key("x-limited"),
        })
    }

    fn headroom(&self, (): &(), response: &Response<Body>) -> Option<Headroom> {
        response.extensions().get().copied()
    }
}

impl TestStream {
    fn error(&self) -> Option<Outcome> {
        let has = |word: &[u8]| self.seen.windows(word.len()).any(|window| window == word);
        let outcome = if has(b"quota") {
            Outcome::new(Kind::QuotaExhausted)
        } else if has(b"busy") {
            Outcome::new(Kind::Overloaded)
        } else if has(b"large") {
            Outcome::new(Kind::TooLarge)
        } else if has(b"minute") {
            Outcome::new(Kind::Throttled).with_scope(Scope::Request)
        } else if has(b"slow") {
            Outcome::new(Kind::Throttled)
        } else if has(b"key") {
            Outcome::new(Kind::Throttled).with_scope(Scope::Credential)
        } else {
            return None;
        };
        Some(match self.retry_after {
            Some(delay) => outcome.with_retry_after(delay, HintSource::RetryAfter),
            None => outcome,
        })
    }
}

impl ClassifyStream for TestStream {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        self.seen.extend_from_slice(chunk);
        if self.error {
            return Step::progress(Progress::KeepAlive);
        }
        match self.error() {
            Some(outcome) => Step::failed(Progress::None, outcome),
            None => Step::progress(Progress::Token),
        }
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        let trailer = match &end {
            End::Clean(Some(trailers)) => trailers.contains_key("x-limited"),
            _ => false,
        };
        if self.limited || trailer {
            return Outcome::new(Kind::Throttled)
                .with_retry_after(Duration::from_secs(9), HintSource::Header);
        }
        if let Some(outcome) = self.error() {
            return outcome;
        }
        if self.seen.contains(&b'.') {
            Outcome::success()
        } else if matches!(end, End::Dropped) {
            Outcome::cancelled()
        } else {
            Outcome::new(Kind::Malformed)
        }
    }
}

pub(crate) fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

pub(crate) fn success() -> Response<Body> {
    Response::new(whole("Hello."))
}

pub(crate) fn refusal(retry_after: Option<u64>, text: &'static str) -> Response<Body> {
    let mut response = Response::builder().status(429);
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(whole(text)).expect("valid")
}

pub(crate) fn request() -> Request<Body> {
    Request::new(whole("{}"))
}

type Answer = Box<dyn Fn(usize) -> Response<Body> + Send + Sync>;

/// Answers what a function says, and keeps a log of when it was asked and made ready.
#[derive(Clone)]
pub(crate) struct Model {
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<Instant>>>,
    readied: Arc<AtomicUsize>,
}

impl Model {
    /// Answers by a function of how many requests came before.
    pub(crate) fn new(answer: impl Fn(usize) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(Box::new(answer)),
            log: Arc::default(),
            readied: Arc::default(),
        }
    }

    /// Answers these, then successes.
    pub(crate) fn script(answers: impl IntoIterator<Item = Response<Body>>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
        Self::new(move |_| {
            answers
                .lock()
                .expect("not poisoned")
                .pop_front()
                .unwrap_or_else(success)
        })
    }

    pub(crate) fn asked(&self) -> usize {
        self.log.lock().expect("not poisoned").len()
    }

    pub(crate) fn asked_at(&self) -> Vec<Instant> {
        self.log.lock().expect("not poisoned").clone()
    }

    pub(crate) fn readied(&self) -> usize {
        self.readied.load(Ordering::SeqCst)
    }
}

impl Service<Request<Body>> for Model {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.readied.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let index = {
            let mut log = self.log.lock().expect("not poisoned");
            log.push(Instant::now());
            log.len() - 1
        };
        ready(Ok((self.answer)(index)))
    }
}

/// Keeps the names of events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }

    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.events()
            .iter()
            .filter(|event| event.starts_with(prefix))
            .count()
    }
}

impl Observer for Log {
    fn on_event(&self, event: &Event<'_>) {
        let text = match event {
            Event::LimitNoticed { source, wait, .. } => {
                format!("noticed {source:?} {}", wait.as_millis())
            }
            Event::AnsweredLocally { outcome, .. } => format!("answered {}", outcome.kind()),
            Event::Waited { took, .. } => format!("waited {}", took.as_millis()),
            Event::LimitReleased { scope, .. } => format!("released {scope}"),
            Event::ShiftedEarly { share, .. } => format!("shifted {share}"),
            other => format!("{other:?}"),
        };
        self.0.lock().expect("not poisoned").push(text);
    }
}
