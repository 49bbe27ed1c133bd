//! Sound wrappers pass the laws of bodies, and every law has a fixture that breaks it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use backstop_testkit::body::{self, Inner, InnerError, Law};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

#[tokio::test]
async fn sound_wrappers_pass() {
    body::check(|inner| inner).await.unwrap();
    body::check(|inner| inner.boxed()).await.unwrap();
    body::check(|inner| Limited::new(inner, 1_000_000))
        .await
        .unwrap();
}

type Polled = Poll<Option<Result<Frame<Bytes>, InnerError>>>;

/// A wrapper as a set of functions, so that a fixture shows only its fault.
trait Faulty {
    fn poll_frame(inner: &mut Faults, cx: &mut Context<'_>) -> Polled {
        Pin::new(&mut inner.inner).poll_frame(cx)
    }

    fn is_end_stream(inner: &Faults) -> bool {
        inner.inner.is_end_stream()
    }

    fn size_hint(inner: &Faults) -> SizeHint {
        inner.inner.size_hint()
    }
}

struct Faults {
    inner: Inner,
    held: Option<Frame<Bytes>>,
    done: bool,
}

struct Wrapper<F>(Faults, std::marker::PhantomData<fn() -> F>);

impl<F: Faulty> Body for Wrapper<F> {
    type Data = Bytes;
    type Error = InnerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        F::poll_frame(&mut self.0, cx)
    }

    fn is_end_stream(&self) -> bool {
        F::is_end_stream(&self.0)
    }

    fn size_hint(&self) -> SizeHint {
        F::size_hint(&self.0)
    }
}

async fn breaks<F: Faulty + 'static>(laws: &[Law]) {
    let wrap = |inner| {
        let faults = Faults {
            inner,
            held: None,
            done: false,
        };
        Wrapper::<F>(faults, std::marker::PhantomData)
    };
    let violations = body::check(wrap).await.unwrap_err();
    for law in laws {
        assert!(violations.broke(*law), "{law:?} is not among: {violations}");
    }
}

/// Passes on data and nothing else.
struct DropsTrailers;

impl Faulty for DropsTrailers {
    fn poll_frame(faults: &mut Faults, cx: &mut Context<'_>) -> Polled {
        let frame = ready!(Pin::new(&mut faults.inner).poll_frame(cx));
        Poll::Ready(frame.filter(|frame| !matches!(frame, Ok(frame) if frame.is_trailers())))
    }
}

#[tokio::test]
async fn trailers_that_are_lost() {
    breaks::<DropsTrailers>(&[Law::KeepsFrames, Law::SurvivesHttp1, Law::SurvivesHttp2]).await;
}

/// Loses the frame it holds when the next one is not there yet.
struct LosesPeeked;

impl Faulty for LosesPeeked {
    fn poll_frame(faults: &mut Faults, cx: &mut Context<'_>) -> Polled {
        if faults.held.is_none() {
            match ready!(Pin::new(&mut faults.inner).poll_frame(cx)) {
                Some(Ok(frame)) => faults.held = Some(frame),
                other => return Poll::Ready(other),
            }
        }
        let held = faults.held.take();
        if faults.inner.is_end_stream() {
            return Poll::Ready(held.map(Ok));
        }
        match ready!(Pin::new(&mut faults.inner).poll_frame(cx)) {
            Some(Ok(next)) => faults.held = Some(next),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => {}
        }
        Poll::Ready(held.map(Ok))
    }
}

#[tokio::test]
async fn a_frame_that_is_lost_by_waiting() {
    breaks::<LosesPeeked>(&[Law::KeepsFrames]).await;
}

/// Ends cleanly where the inner body failed.
struct HidesErrors;

impl Faulty for HidesErrors {
    fn poll_frame(faults: &mut Faults, cx: &mut Context<'_>) -> Polled {
        let frame = ready!(Pin::new(&mut faults.inner).poll_frame(cx));
        Poll::Ready(frame.filter(Result::is_ok))
    }
}

#[tokio::test]
async fn a_cut_that_looks_whole() {
    breaks::<HidesErrors>(&[Law::KeepsFrames, Law::SurvivesHttp1, Law::SurvivesHttp2]).await;
}

/// Says nothing of its length.
struct HidesLength;

impl Faulty for HidesLength {
    fn size_hint(_: &Faults) -> SizeHint {
        SizeHint::new()
    }
}

#[tokio::test]
async fn a_length_that_is_hidden() {
    breaks::<HidesLength>(&[Law::KeepsLength]).await;
}

/// Goes on telling the length that the body had at first.
struct OldLength;

impl Faulty for OldLength {
    fn size_hint(faults: &Faults) -> SizeHint {
        let rest = faults.inner.size_hint();
        if rest.exact().is_some() {
            return SizeHint::with_exact(3);
        }
        rest
    }
}

#[tokio::test]
async fn a_length_that_is_wrong() {
    breaks::<OldLength>(&[Law::HintIsTrue]).await;
}

/// Holds one frame back and forgets it when it is asked for the end or the length.
struct ForgetsHeld;

impl Faulty for ForgetsHeld {
    fn poll_frame(faults: &mut Faults, cx: &mut Context<'_>) -> Polled {
        loop {
            if faults.done {
                return Poll::Ready(faults.held.take().map(Ok));
            }
            match ready!(Pin::new(&mut faults.inner).poll_frame(cx)) {
                None => faults.done = true,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(next)) => {
                    if let Some(held) = faults.held.replace(next) {
                        return Poll::Ready(Some(Ok(held)));
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_held_frame_that_is_not_told_of() {
    breaks::<ForgetsHeld>(&[
        Law::EndIsTrue,
        Law::HintIsTrue,
        Law::SurvivesHttp1,
        Law::SurvivesHttp2,
    ])
    .await;
}

/// Says that it knows the length although trailers are held.
struct ExactWithTrailers;

impl Faulty for ExactWithTrailers {
    fn is_end_stream(_: &Faults) -> bool {
        false
    }

    fn size_hint(faults: &Faults) -> SizeHint {
        match faults.inner.size_hint().lower() {
            0 => SizeHint::new(),
            rest => SizeHint::with_exact(rest),
        }
    }
}

#[tokio::test]
async fn trailers_that_only_http1_loses() {
    breaks::<ExactWithTrailers>(&[Law::SurvivesHttp1]).await;
}

/// Asks once more after the end.
struct AsksAgain;

impl Faulty for AsksAgain {
    fn poll_frame(faults: &mut Faults, cx: &mut Context<'_>) -> Polled {
        let frame = ready!(Pin::new(&mut faults.inner).poll_frame(cx));
        if frame.is_none() {
            let _ = Pin::new(&mut faults.inner).poll_frame(cx);
        }
        Poll::Ready(frame)
    }
}

#[tokio::test]
async fn an_end_that_is_not_believed() {
    breaks::<AsksAgain>(&[Law::StopsAtEnd]).await;
}
