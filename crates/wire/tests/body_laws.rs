//! The body that ends a broken stream with an error event keeps the laws of bodies, by hand and
//! through real hyper connections.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use backstop_core::{BoxError, Failure, Kind, Outcome};
use backstop_testkit::body;
use backstop_wire::{
    Dialect,
    answer::{AnswerLayer, ErrorEvents, error_event},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, ServiceExt, service_fn};

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// These frames, and then perhaps a failure.
struct Frames {
    data: VecDeque<Bytes>,
    fails: bool,
    known: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(data) = self.data.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(std::mem::take(&mut self.fails).then(|| Err(failure().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.fails
    }

    fn size_hint(&self) -> SizeHint {
        let left: usize = self.data.iter().map(Bytes::len).sum();
        if self.known {
            SizeHint::with_exact(left as u64)
        } else {
            SizeHint::default()
        }
    }
}

const OUTCOME: Outcome = Outcome::new(Kind::Overloaded);

fn failure() -> Failure {
    Failure::new(OUTCOME)
}

fn headers(content_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))])
}

#[tokio::test]
async fn other_bodies_are_passed_on_by_the_laws() -> Result<(), body::Violations> {
    for content_type in ["application/json", "text/plain"] {
        let headers = headers(content_type);
        body::check(|inner| ErrorEvents::new(Dialect::OpenAiChat, &headers, inner)).await?;
    }
    Ok(())
}

/// What a client of a server with an `AnswerLayer` receives.
async fn received(
    frames: &[&'static str],
    fails: bool,
    known: bool,
    version: Version,
) -> body::Received {
    let data: VecDeque<_> = frames
        .iter()
        .map(|frame| Bytes::from_static(frame.as_bytes()))
        .collect();
    let length = data.iter().map(Bytes::len).sum::<usize>();
    let mut body = Some(Frames { data, fails, known });
    let inner = service_fn(move |_: Request<()>| {
        let mut response = Response::new(body.take().expect("one call"));
        *response.headers_mut() = headers("text/event-stream");
        if known {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        async { Ok::<_, Infallible>(response) }
    });
    let service = AnswerLayer::new(Dialect::OpenAiChat).layer(inner);
    let response = match service.oneshot(Request::new(())).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    body::receive(response, version).await
}

#[tokio::test]
async fn hyper_delivers_the_error_event_after_the_whole_events() {
    let event = error_event(Dialect::OpenAiChat, &OUTCOME);
    for version in VERSIONS {
        for known in [false, true] {
            for (frames, whole) in [
                (&[][..], ""),
                (&["data: a\n\n"], "data: a\n\n"),
                (&["data: a\n\nda", "ta: b"], "data: a\n\n"),
                (
                    &["data: a\n", "\n", "data: b\r\n\r\n"],
                    "data: a\n\ndata: b\r\n\r\n",
                ),
                (&["data"], ""),
            ] {
                let got = received(frames, true, known, version).await;
                let expected = [whole.as_bytes(), &event[..]].concat();
                assert_eq!(got.data, expected, "{frames:?} {version:?} {known}");
                assert!(!got.failed, "the event says it: {frames:?} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn hyper_delivers_a_whole_stream_as_it_came() {
    for version in VERSIONS {
        for known in [false, true] {
            for frames in [
                &[][..],
                &["data: a\n\n"],
                &["data: a\n\nda", "ta: b\n", "\n"],
                // The last event counts without its empty line.
                &["data: a\n\n", "data: b"],
            ] {
                let got = received(frames, false, known, version).await;
                assert_eq!(got.data, frames.concat(), "{frames:?} {version:?} {known}");
                assert!(!got.failed && got.trailers.is_none());
            }
        }
    }
}

#[tokio::test]
async fn hyper_aborts_when_half_of_a_large_event_is_out() {
    let half: &'static str = Box::leak("x".repeat(3 << 20).into_boxed_str());
    for version in VERSIONS {
        let got = received(&["data: ", half], true, false, version).await;
        assert!(got.failed, "{version:?}");
    }
}
