//! The laws of `http_body::Body`, as a check that runs on any wrapper.
//!
//! [`check`] wraps bodies of every shape (empty, whole, in pieces, with and without trailers,
//! failing early and late; with an exact length, a bound or none; telling their end or not; pending
//! or not) and reads the wrapper twice: by hand, looking at `size_hint` and `is_end_stream` before
//! every poll, and through real hyper connections, HTTP/1 and HTTP/2, over an in-memory pipe. The
//! second matters because hyper decides by those two methods how to frame a body and when to stop
//! reading it, so that a wrapper with a small untruth loses frames only there.
//!
//! A wrapper that needs a classifier can have [`Bytewise`].
//!
//! ```
//! use backstop_testkit::body;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! body::check(|inner| http_body_util::BodyExt::map_err(inner, std::io::Error::other)).await?;
//! # Ok::<(), body::Violations>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    cell::Cell,
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use backstop_core::{
    BoxError, Classify, ClassifyStream, End, Kind, Outcome, Progress, Step, Verdict, outcome_of,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::DuplexStream;

/// What a body wrapper must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Law {
    /// All data, the trailers and the error come out as they went in, and in this order.
    KeepsFrames,
    /// What is still to come lies between the bounds of `size_hint`, at every step.
    HintIsTrue,
    /// A length that the inner body knows is known outside too, unless trailers follow.
    KeepsLength,
    /// Where `is_end_stream` is true, nothing follows, not even an error.
    EndIsTrue,
    /// The inner body is not polled again once it has ended or failed.
    StopsAtEnd,
    /// What hyper's client receives over HTTP/1 is what went in.
    SurvivesHttp1,
    /// What hyper's client receives over HTTP/2 is what went in.
    SurvivesHttp2,
}

/// One breach of one law.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// The body that was wrapped, and what was seen.
    pub seen: String,
}

/// All breaches that a check found; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

/// The inner body of a check: it gives what it was told to, and notes when it is polled too often.
#[derive(Debug)]
pub struct Inner {
    shape: Shape,
    frames: VecDeque<Item>,
    pending: bool,
    ended: bool,
    polled_after_end: Arc<AtomicBool>,
}

/// The error of an [`Inner`] body that was told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerError;

/// A classifier for bodies that mean nothing: every byte is a token and a clean end a proper one,
/// unless the head decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytewise {
    decided: Option<Kind>,
}

/// The stream of a [`Bytewise`].
#[derive(Debug)]
pub struct BytewiseStream(());

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Data(&'static [u8]),
    Trailers,
    Error,
}

#[derive(Clone, Debug)]
struct Shape {
    frames: &'static [Item],
    hint: Hint,
    /// Whether `is_end_stream` is true as soon as it can be.
    tells_end: bool,
    /// Whether every poll is pending first.
    pends: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    Exact,
    Lower,
    None,
}

/// What a reader got of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// All data.
    pub data: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
    /// Whether it ended in an error.
    pub failed: bool,
}

const SHAPES: &[&[Item]] = &[
    &[],
    &[Item::Data(b"one")],
    &[Item::Data(b"one"), Item::Data(b"two"), Item::Data(b"three")],
    &[Item::Data(b""), Item::Data(b"one"), Item::Data(b"")],
    &[Item::Trailers],
    &[Item::Data(b"one"), Item::Trailers],
    &[Item::Data(b"one"), Item::Data(b"two"), Item::Trailers],
    &[Item::Error],
    &[Item::Data(b"one"), Item::Error],
    &[Item::Data(b"one"), Item::Data(b"two"), Item::Error],
];

/// The name of the one trailer.
const TRAILER: &str = "x-checksum";

/// Checks all laws on the body that `wrap` makes of another.
///
/// # Errors
///
/// All breaches that were found.
pub async fn check<B>(wrap: impl Fn(Inner) -> B) -> Result<(), Violations>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut violations = Vec::new();
    for shape in shapes() {
        let mut broken = |law, seen: String| {
            violations.push(Violation {
                law,
                seen: format!("{seen}; the inner body: {shape}"),
            });
        };
        if !by_hand(&shape, &wrap, &mut broken).await {
            // hyper panics when two lengths contradict each other.
            continue;
        }
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for length in [false, true] {
                over_hyper(&shape, &wrap, version, length, &mut broken).await;
            }
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    Err(Violations(violations))
}

fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.iter().flat_map(|frames| {
        [Hint::Exact, Hint::Lower, Hint::None]
            .into_iter()
            .flat_map(move |hint| {
                [(true, false), (true, true), (false, false), (false, true)].map(
                    |(tells_end, pends)| Shape {
                        frames,
                        hint,
                        tells_end,
                        pends,
                    },
                )
            })
    })
}

/// Whether the hints were true.
async fn by_hand<B>(
    shape: &Shape,
    wrap: impl Fn(Inner) -> B,
    broken: &mut impl FnMut(Law, String),
) -> bool
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let inner = Inner::new(shape);
    let polled_after_end = Arc::clone(&inner.polled_after_end);
    let expected = shape.expected();
    let mut body = pin!(wrap(inner));
    if shape.hint == Hint::Exact
        && expected.trailers.is_none()
        && !expected.failed
        && body.size_hint().exact().is_none()
    {
        broken(Law::KeepsLength, "the length is no longer known".into());
    }
    let mut read = BytesMut::new();
    let mut seen = Received::default();
    // The bounds at each step, and how much had been read by then.
    let mut hints = Vec::new();
    let mut end_at = None;
    let mut frames = 0;
    loop {
        hints.push((body.size_hint(), read.len()));
        if body.is_end_stream() && end_at.is_none() {
            end_at = Some(frames);
        }
        // A reader that stops where it is told to stop is checked over hyper.
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            None => break,
            Some(Err(_)) => {
                frames += 1;
                seen.failed = true;
                break;
            }
            Some(Ok(frame)) => {
                frames += 1;
                match frame.into_data() {
                    Ok(data) => read.extend_from_slice(&data),
                    Err(frame) => seen.trailers = frame.into_trailers().ok(),
                }
            }
        }
    }
    seen.data = read.freeze();
    if seen != expected {
        broken(Law::KeepsFrames, format!("{seen:?} came out"));
    }
    if let Some(at) = end_at.filter(|at| *at < frames) {
        broken(
            Law::EndIsTrue,
            format!("the end is told after {at} of {frames} frames"),
        );
    }
    // An error comes in place of one byte that was announced.
    let total = seen.data.len() + usize::from(expected.failed);
    let mut hints_are_true = true;
    for (hint, read) in hints {
        let rest = (total - read) as u64;
        if rest < hint.lower() || hint.upper().is_some_and(|upper| rest > upper) {
            broken(
                Law::HintIsTrue,
                format!("{rest} bytes are to come where {hint:?} was told"),
            );
            hints_are_true = false;
            break;
        }
    }
    if polled_after_end.load(Ordering::Relaxed) {
        broken(Law::StopsAtEnd, "polled after its end".into());
    }
    hints_are_true
}

async fn over_hyper<B>(
    shape: &Shape,
    wrap: impl Fn(Inner) -> B,
    version: Version,
    length: bool,
    broken: &mut impl FnMut(Law, String),
) where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let expected = shape.expected();
    // With a length HTTP/1 has no place for trailers.
    let may_lose_trailers = version != Version::HTTP_2 && (length || shape.hint == Hint::Exact);
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::TRAILER, HeaderValue::from_static(TRAILER));
    if length {
        // An error comes before the whole length has been sent.
        let length = expected.data.len() + usize::from(expected.failed);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let inner = Inner::new(shape);
    let polled_after_end = Arc::clone(&inner.polled_after_end);
    let response = response.map(|()| wrap(inner));
    let seen = receive(response, version).await;
    let (law, name) = match version {
        Version::HTTP_2 => (Law::SurvivesHttp2, "HTTP/2"),
        _ => (Law::SurvivesHttp1, "HTTP/1"),
    };
    // What was in flight when a connection broke may be lost.
    let same = if expected.failed {
        seen.failed && expected.data.starts_with(&seen.data)
    } else {
        seen.data == expected.data
            && seen.failed == expected.failed
            && (seen.trailers == expected.trailers || may_lose_trailers && seen.trailers.is_none())
    };
    if !same {
        let with = if length { "with" } else { "without" };
        broken(
            law,
            format!("{seen:?} came over {name} {with} content-length"),
        );
    }
    if polled_after_end.load(Ordering::Relaxed) {
        broken(Law::StopsAtEnd, format!("polled after its end by {name}"));
    }
}

/// Sends a response through a real hyper connection over an in-memory pipe, HTTP/2 if that is the
/// version and HTTP/1 otherwise, and reads its body at the other end.
///
/// The client accepts trailers; for HTTP/1 to send any, the response must name them in a `trailer`
/// header.
pub async fn receive<B>(response: Response<B>, version: Version) -> Received
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let mut seen = Received::default();
        let Ok(response) = ask(near, version).await else {
            seen.failed = true;
            return seen;
        };
        let mut body = response.into_body();
        let mut data = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(frame)) => data.extend_from_slice(&frame),
                Ok(Err(frame)) => seen.trailers = frame.into_trailers().ok(),
                Err(_) => {
                    seen.failed = true;
                    break;
                }
            }
        }
        seen.data = data.freeze();
        seen
    };
    // The connection is driven here until the client has read to the end.
    tokio::select! {
        biased;
        seen = client => seen,
        never = serve(far, response, version) => match never {},
    }
}

async fn serve<B>(far: DuplexStream, response: Response<B>, version: Version) -> Infallible
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let response = Cell::new(Some(response));
    let service = service_fn(move |_| {
        let response = response.take().ok_or(InnerError);
        async { response }
    });
    let far = TokioIo::new(far);
    // How it ended is what the client sees.
    if version == Version::HTTP_2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(far, service).await);
    } else {
        let server = hyper::server::conn::http1::Builder::new();
        drop(server.serve_connection(far, service).await);
    }
    std::future::pending().await
}

async fn ask(
    near: DuplexStream,
    version: Version,
) -> Result<Response<hyper::body::Incoming>, hyper::Error> {
    let mut request = Request::new(Empty::<Bytes>::new());
    let near = TokioIo::new(near);
    request
        .headers_mut()
        .insert(header::HOST, HeaderValue::from_static("model.test"));
    request
        .headers_mut()
        .insert(header::TE, HeaderValue::from_static("trailers"));
    // The connection ends by itself once both ends of it are gone.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends with the connection, whose other end the caller holds"
    )]
    if version == Version::HTTP_2 {
        let executor = TokioExecutor::new();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(executor, near).await?;
        tokio::spawn(connection);
        client.send_request(request).await
    } else {
        let (mut client, connection) = hyper::client::conn::http1::handshake(near).await?;
        tokio::spawn(connection);
        client.send_request(request).await
    }
}

// === impl Shape ===

impl Shape {
    fn expected(&self) -> Received {
        let mut data = BytesMut::new();
        for item in self.frames {
            if let Item::Data(bytes) = item {
                data.extend_from_slice(bytes);
            }
        }
        Received {
            data: data.freeze(),
            trailers: self.frames.contains(&Item::Trailers).then(trailers),
            failed: self.frames.contains(&Item::Error),
        }
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        header::HeaderName::from_static(TRAILER),
        HeaderValue::from_static("1a2b"),
    )])
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.frames.iter().map(|item| match item {
                Item::Data(data) => format!("{} bytes", data.len()),
                Item::Trailers => "trailers".into(),
                Item::Error => "error".into(),
            }))
            .finish()?;
        let hint = match self.hint {
            Hint::Exact => "its length",
            Hint::Lower => "a lower bound",
            Hint::None => "no length",
        };
        let end = if self.tells_end { " and its end" } else { "" };
        let pends = if self.pends {
            ", pending before each"
        } else {
            ""
        };
        write!(f, ", telling {hint}{end}{pends}")
    }
}

// === impl Inner ===

impl Inner {
    fn new(shape: &Shape) -> Self {
        Self {
            shape: shape.clone(),
            frames: shape.frames.iter().cloned().collect(),
            pending: shape.pends,
            ended: false,
            polled_after_end: Arc::default(),
        }
    }
}

impl Body for Inner {
    type Data = Bytes;
    type Error = InnerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InnerError>>> {
        if self.ended {
            self.polled_after_end.store(true, Ordering::Relaxed);
            return Poll::Ready(None);
        }
        if std::mem::replace(&mut self.pending, false) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pending = self.shape.pends;
        let item = self.frames.pop_front();
        self.ended = matches!(item, None | Some(Item::Error));
        Poll::Ready(item.map(|item| match item {
            Item::Data(data) => Ok(Frame::data(Bytes::from_static(data))),
            Item::Trailers => Ok(Frame::trailers(trailers())),
            Item::Error => Err(InnerError),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.shape.tells_end && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self
            .frames
            .iter()
            .map(|item| match item {
                Item::Data(data) => data.len() as u64,
                Item::Trailers => 0,
                // It breaks off before all of the length has come.
                Item::Error => 1,
            })
            .sum();
        match self.shape.hint {
            Hint::Exact => SizeHint::with_exact(rest),
            Hint::Lower => {
                let mut hint = SizeHint::new();
                hint.set_lower(rest);
                hint
            }
            Hint::None => SizeHint::new(),
        }
    }
}

impl fmt::Display for InnerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the inner body fails, as told")
    }
}

impl std::error::Error for InnerError {}

// === impl Bytewise ===

impl Bytewise {
    /// One for which the head of every response decides: this kind.
    #[must_use]
    pub const fn decided(kind: Kind) -> Self {
        Self {
            decided: Some(kind),
        }
    }
}

impl<Req, Res> Classify<Req, Res> for Bytewise {
    type Call = ();
    type Stream = BytewiseStream;

    fn on_request(&self, _: &Req) {}

    fn on_response(&self, (): &(), _: &Res) -> Verdict<BytewiseStream> {
        match self.decided {
            Some(kind) => Verdict::Now(Outcome::new(kind)),
            None => Verdict::AtEnd(BytewiseStream(())),
        }
    }
}

impl ClassifyStream for BytewiseStream {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        Step::progress(if chunk.is_empty() {
            Progress::None
        } else {
            Progress::Token
        })
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        match end {
            End::Error(error) => outcome_of(error),
            End::Clean(_) | End::Dropped => Outcome::success(),
        }
    }
}

// === impl Violations ===

impl Violations {
    /// The breaches.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// Whether this law was broken.
    #[must_use]
    pub fn broke(&self, law: Law) -> bool {
        self.iter().any(|violation| violation.law == law)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body breaks a law")?;
        for violation in &self.0 {
            write!(f, "\n- {:?}: {}", violation.law, violation.seen)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}
