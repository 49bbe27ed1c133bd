//! The bodies of this crate keep the laws of bodies, by hand and through hyper, and hyper never
//! makes a cut answer look whole.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use backstop_core::{
    ClassifyStream, End, Kind, Outcome, Progress, Step,
    body::{Peek, PeekFuture, Peeked, Replayable, Watched, peek},
    outcome_of,
};
use backstop_testkit::body::{self, Inner, Received};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Response, Version, header};
use http_body::{Body, Frame, SizeHint};

/// Every chunk brings this progress, and all is well unless an error comes.
struct Always(Progress);

impl ClassifyStream for Always {
    fn on_data(&mut self, _: &[u8]) -> Step {
        Step::progress(self.0)
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        match end {
            End::Clean(_) => Outcome::success(),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }
}

fn ignore(_: &Outcome) {}

/// Peeks with at most so many polls; bodies that are pending wake at once.
fn peeked(inner: Inner, progress: Progress, polls: usize) -> Peeked<Inner> {
    let mut peeking: PeekFuture<_, _> = peek(inner, Always(progress), 4);
    for _ in 0..polls {
        match (&mut peeking).now_or_never() {
            Some(Peek::Committed(begun)) => return begun.into_body(),
            Some(Peek::Decided(_, body)) => return body,
            None => {}
        }
    }
    peeking.stop().unwrap().into_body()
}

#[tokio::test]
async fn peeked_bodies_keep_the_laws() {
    body::check(Peeked::unread).await.unwrap();
    for polls in 0..4 {
        body::check(|inner| peeked(inner, Progress::Token, polls))
            .await
            .unwrap();
    }
    // To the end, or past the limit.
    body::check(|inner| peeked(inner, Progress::KeepAlive, 100))
        .await
        .unwrap();
}

#[tokio::test]
async fn watched_bodies_keep_the_laws() {
    for progress in [Progress::KeepAlive, Progress::Token, Progress::End] {
        body::check(|inner| Watched::new(inner, Always(progress), ignore))
            .await
            .unwrap();
    }
    body::check(Watched::<_, Always, fn(&Outcome)>::decided)
        .await
        .unwrap();
    for polls in 0..4 {
        let resumed = |inner| {
            let mut peeking = peek(inner, Always(Progress::Token), 4);
            let done = (0..polls).find_map(|_| (&mut peeking).now_or_never());
            match done {
                Some(Peek::Decided(_, body)) => Watched::decided(body),
                Some(Peek::Committed(begun)) => begun.watch(ignore as fn(&Outcome)),
                None => peeking.stop().unwrap().watch(ignore as fn(&Outcome)),
            }
        };
        body::check(resumed).await.unwrap();
    }
}

#[tokio::test]
async fn replayable_bodies_keep_the_laws() {
    body::check(|inner| Replayable::once(Bytes::new(), inner))
        .await
        .unwrap();
}

/// Whole once a full stop has come.
struct Sentence(bool);

impl ClassifyStream for Sentence {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        self.0 |= chunk.contains(&b'.');
        Step::progress(if self.0 {
            Progress::End
        } else {
            Progress::Token
        })
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        match end {
            _ if self.0 => Outcome::success(),
            End::Clean(_) => Outcome::new(Kind::Malformed),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }
}

/// How the length and the end of a body are told.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// An exact `size_hint` and the end with the last frame, as a buffered body does.
    Length,
    /// The length, but not the end, as HTTP/2 with a `content-length` and a late end does.
    LengthOnly,
    /// Nothing, as HTTP/1 with chunks does.
    Nothing,
}

/// A body in two frames, or fewer, and perhaps trailers.
fn body_of(
    frames: &[&'static str],
    trailers: bool,
    told: Told,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + use<> {
    let length = frames.iter().map(|frame| frame.len() as u64).sum();
    let mut items: Vec<_> = frames
        .iter()
        .map(|frame| Frame::data(Bytes::from_static(frame.as_bytes())))
        .collect();
    if trailers {
        items.push(Frame::trailers(HeaderMap::from_iter([(
            header::HeaderName::from_static("x-trace"),
            header::HeaderValue::from_static("7"),
        )])));
    }
    Telling {
        frames: items.into(),
        left: length,
        told,
    }
}

struct Telling {
    frames: VecDeque<Frame<Bytes>>,
    left: u64,
    told: Told,
}

impl Body for Telling {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.frames.pop_front();
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            self.left -= data.len() as u64;
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.told, Told::Length) && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.told {
            Told::Length | Told::LengthOnly => SizeHint::with_exact(self.left),
            Told::Nothing => SizeHint::new(),
        }
    }
}

/// All ways to send a text, whole or not.
fn ways() -> impl Iterator<Item = (Told, bool, Version, bool)> {
    let told = [Told::Length, Told::LengthOnly, Told::Nothing];
    told.into_iter().flat_map(|told| {
        [Version::HTTP_11, Version::HTTP_2]
            .into_iter()
            .flat_map(move |version| {
                [(false, false), (false, true), (true, false), (true, true)]
                    .map(|(trailers, header)| (told, trailers, version, header))
            })
    })
}

async fn sent(frames: &[&'static str], way: (Told, bool, Version, bool)) -> (Received, Outcome) {
    let (told, trailers, version, length) = way;
    let heard = Arc::new(OnceLock::new());
    let hears = Arc::clone(&heard);
    let watch = move |outcome: &Outcome| hears.set(*outcome).unwrap();
    let body = Watched::new(body_of(frames, trailers, told), Sentence(false), watch);
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::TRAILER, "x-trace".parse().unwrap());
    if length {
        headers.insert(header::CONTENT_LENGTH, frames.concat().len().into());
    }
    (
        body::receive(response, version).await,
        *heard.get().unwrap(),
    )
}

#[tokio::test]
async fn hyper_never_ends_a_cut_answer_cleanly() {
    // A length that only the head knows is out of a body's reach.
    let known = |(told, _, _, length): &_| !(matches!(told, Told::Nothing) && *length);
    for way in ways().filter(known) {
        for frames in [&["One"][..], &["One two", " three"], &["O"], &["One ", ""]] {
            let (received, outcome) = sent(frames, way).await;
            assert!(received.failed, "{frames:?} {way:?} came as {received:?}");
            assert!(frames.concat().as_bytes().starts_with(&received.data));
            assert!(received.trailers.is_none());
            assert_eq!(outcome.kind(), Kind::Malformed, "{way:?}");
        }
    }
}

#[tokio::test]
async fn hyper_passes_on_a_whole_answer() {
    for way in ways() {
        for frames in [
            &["One."][..],
            &["One two", " three."],
            &["O", "."],
            &["One.", ""],
        ] {
            let (received, outcome) = sent(frames, way).await;
            assert!(!received.failed, "{frames:?} {way:?} came as {received:?}");
            assert_eq!(frames.concat().as_bytes(), received.data);
            let (told, trailers, version, length) = way;
            let no_place =
                version == Version::HTTP_11 && (length || !matches!(told, Told::Nothing));
            assert_eq!(
                received.trailers.is_some(),
                trailers && !no_place,
                "{way:?}"
            );
            assert!(outcome.is_success(), "{way:?}");
        }
    }
}
