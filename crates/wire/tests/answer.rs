//! Answers that say why there is none.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use backstop_core::{
    BoxError, ClassifyStream, Considered, End, Exhausted, Failure, HintSource, Kind, Outcome,
    Phase, SkipReason, Trace,
};
use backstop_wire::{
    ClassifyHttp, Dialect,
    answer::{AnswerLayer, ErrorEvents, error_event, error_response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

const BROKEN: Outcome = Outcome::new(Kind::Unavailable);

/// A body of these frames, which then ends or fails.
struct Script(VecDeque<Result<Frame<Bytes>, Outcome>>);

impl Script {
    fn new(chunks: impl IntoIterator<Item = Bytes>, fails: bool) -> Self {
        let mut frames: VecDeque<_> = chunks
            .into_iter()
            .map(|data| Ok(Frame::data(data)))
            .collect();
        frames.extend(fails.then_some(Err(BROKEN)));
        Self(frames)
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.0.pop_front();
        Poll::Ready(frame.map(|frame| frame.map_err(|outcome| Failure::new(outcome).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn headers(content_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))])
}

/// All that comes out, whether it ends in an error, and the body laws on the way.
fn read<B: Body<Data = Bytes, Error = BoxError>>(body: B) -> (Vec<u8>, bool, Option<HeaderMap>) {
    let mut body = pin!(body);
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = Vec::new();
    let mut trailers = None;
    let mut hints: Vec<(usize, SizeHint)> = Vec::new();
    let failed = loop {
        hints.push((bytes.len(), body.size_hint()));
        let is_end = body.is_end_stream();
        let Poll::Ready(frame) = body.as_mut().poll_frame(&mut cx) else {
            unreachable!("a script is never pending");
        };
        assert!(!is_end || frame.is_none(), "a frame after the end");
        match frame {
            None => break false,
            Some(Err(_)) => break true,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    };
    if !failed {
        for (read, hint) in hints {
            let left = (bytes.len() - read) as u64;
            assert!(hint.lower() <= left && hint.upper().is_none_or(|upper| left <= upper));
        }
    }
    (bytes, failed, trailers)
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("data: {\"a\":1}"),
        Just("event: e"),
        Just(": c"),
        Just("\n"),
        Just("\r"),
        Just("\r\n"),
        Just("\n\n"),
        Just("\r\n\r\n"),
        Just("x"),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat().into_bytes())
}

/// The events of a stream with CR and CRLF made LF: up to the last empty line.
fn whole_events(stream: &[u8]) -> String {
    let text = String::from_utf8(stream.to_vec()).expect("text");
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let end = match text.rfind("\n\n") {
        Some(at) => at + 2,
        None => usize::from(text.starts_with('\n')),
    };
    text[..end].to_owned()
}

fn split(stream: &[u8], cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| Bytes::copy_from_slice(&stream[pair[0]..pair[1]]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_healthy_stream_passes_as_it_came(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        bytewise in any::<bool>(),
        with_trailers in any::<bool>(),
    ) {
        let mut script = if bytewise {
            Script::new(stream.chunks(1).map(Bytes::copy_from_slice), false)
        } else {
            Script::new(split(&stream, &cuts), false)
        };
        let sent = headers("x/y");
        if with_trailers {
            script.0.push_back(Ok(Frame::trailers(sent.clone())));
        }
        let body = ErrorEvents::new(Dialect::OpenAiChat, &headers("text/event-stream"), script);
        let (bytes, failed, trailers) = read(body);
        prop_assert_eq!(bytes, stream);
        prop_assert!(!failed);
        prop_assert_eq!(trailers, with_trailers.then_some(sent));
    }

    #[test]
    fn a_broken_stream_ends_with_its_whole_events_and_an_error(
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        bytewise in any::<bool>(),
    ) {
        let chunks = if bytewise {
            stream.chunks(1).map(Bytes::copy_from_slice).collect()
        } else {
            split(&stream, &cuts)
        };
        let script = Script::new(chunks, true);
        let body = ErrorEvents::new(Dialect::Anthropic, &headers("text/event-stream"), script);
        let (bytes, failed, _) = read(body);
        let event = error_event(Dialect::Anthropic, &BROKEN);
        prop_assert!(!failed);
        let events = bytes.strip_suffix(&event[..]).expect("the error event is last");
        prop_assert!(stream.starts_with(events), "no byte is changed");
        // A CR that ends an event may have come without the LF that belongs to it.
        let seen = String::from_utf8(events.to_vec()).unwrap();
        prop_assert_eq!(
            seen.replace("\r\n", "\n").replace('\r', "\n"),
            whole_events(&stream)
        );
    }
}

#[test]
fn an_event_too_large_to_hold_is_passed_on_and_its_break_aborts() {
    let chunk = Bytes::from(vec![b'x'; 300 * 1024]);
    let wrap = |chunks: Vec<Bytes>| {
        let script = Script::new(chunks, true);
        read(ErrorEvents::new(
            Dialect::OpenAiChat,
            &headers("text/event-stream; charset=utf-8"),
            script,
        ))
    };
    let (bytes, failed, _) = wrap(vec![chunk.clone(); 5]);
    assert_eq!((bytes.len(), failed), (5 * 300 * 1024, true));
    // Once that event is over, the next break is told again.
    let mut chunks = vec![chunk; 5];
    chunks.push(Bytes::from_static(b"\n\ndata: half"));
    let (bytes, failed, _) = wrap(chunks);
    assert!(!failed && bytes.ends_with(b"\n\n"));
    assert!(!bytes.windows(4).any(|window| window == b"half"));
}

/// The places of the pieces take memory as well as their bytes.
#[test]
fn an_event_in_tiny_pieces_is_not_held_for_long() {
    /// Gives the same piece for ever.
    struct Drip(Bytes, usize);
    impl Body for Drip {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.1 += 1;
            assert!(self.1 * size_of::<Bytes>() < ErrorEvents::<Script>::HELD_LIMIT);
            Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
        }
    }
    for piece in ["x", ""] {
        let drip = Drip(Bytes::from_static(piece.as_bytes()), 0);
        let headers = headers("text/event-stream");
        let mut body = ErrorEvents::new(Dialect::OpenAiChat, &headers, drip);
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(frame))) = polled else {
            panic!("{polled:?}");
        };
        assert_eq!(frame.into_data().unwrap(), piece);
    }
}

#[test]
fn other_bodies_fail_as_they_do() {
    let script = Script::new([Bytes::from_static(b"{\"a\":")], true);
    let body = ErrorEvents::new(Dialect::OpenAiChat, &headers("application/json"), script);
    assert_eq!(read(body), (b"{\"a\":".to_vec(), true, None));
}

#[tokio::test]
async fn errors_become_answers_in_the_dialect_of_the_request() {
    let service =
        AnswerLayer::new(Dialect::OpenAiChat).layer(service_fn(async |request: Request<Kind>| {
            let failure = Failure::new(Outcome::new(request.into_body()));
            Err::<Response<Full<Bytes>>, BoxError>(failure.into())
        }));
    let mut request = Request::new(Kind::Overloaded);
    request.extensions_mut().insert(Dialect::Anthropic);
    let result: Result<_, Infallible> = service.clone().oneshot(request).await;
    let response = result.unwrap();
    assert_eq!(response.status(), 529);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["type"], "overloaded_error");

    let response = service
        .oneshot(Request::new(Kind::Malformed))
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(
        response.extensions().get::<Outcome>().unwrap().kind(),
        Kind::Malformed
    );
}

#[tokio::test]
async fn the_trace_of_a_failed_call_is_told_with_the_answer() {
    let mut trace = Trace::default();
    trace.push(
        &"primary".into(),
        Considered::Skipped(SkipReason::Throttled),
    );
    let tried = trace.clone();
    let service = AnswerLayer::new(Dialect::OpenAiChat).layer(service_fn(move |_: Request<()>| {
        let exhausted = Exhausted::new(tried.clone(), None);
        let error = Failure::with_source(Outcome::new(Kind::Throttled), exhausted);
        ready(Err::<Response<Full<Bytes>>, BoxError>(error.into()))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(Trace::of(response.extensions()), Some(&trace));
}

#[tokio::test]
async fn a_service_that_breaks_is_an_answer_too() {
    struct Dead;
    impl tower::Service<Request<()>> for Dead {
        type Response = Response<Full<Bytes>>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Self::Response, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Poll::Ready(Err(error.into()))
        }
        fn call(&mut self, _: Request<()>) -> Self::Future {
            panic!("called without being ready")
        }
    }
    let service = AnswerLayer::new(Dialect::OpenAiChat).layer(Dead);
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 504);
}

#[tokio::test]
async fn a_stream_loses_the_length_that_it_may_not_keep() {
    let answer = |content_type: &'static str| {
        AnswerLayer::new(Dialect::OpenAiChat).layer(service_fn(move |_: Request<()>| async move {
            Response::builder()
                .header(header::CONTENT_TYPE, content_type)
                .header(header::CONTENT_LENGTH, 2)
                .body(Full::new(Bytes::from_static(b"{}")))
        }))
    };
    let stream = answer("text/event-stream")
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert!(!stream.headers().contains_key(header::CONTENT_LENGTH));
    let json = answer("application/json")
        .oneshot(Request::new(()))
        .await
        .unwrap();
    assert!(json.headers().contains_key(header::CONTENT_LENGTH));
    assert_eq!(json.body().size_hint().exact(), Some(2));
}

const DIALECTS: [(Dialect, &str); 7] = [
    (Dialect::OpenAiChat, "text/event-stream"),
    (Dialect::OpenAiResponses, "text/event-stream"),
    (Dialect::Anthropic, "text/event-stream"),
    (Dialect::Gemini, "text/event-stream"),
    (Dialect::Cohere, "text/event-stream"),
    (Dialect::Ollama, "application/x-ndjson"),
    (
        Dialect::BedrockConverse,
        "application/vnd.amazon.eventstream",
    ),
];

/// What we say, and what it is to those who hear it: a credential of ours, a connection that was not
/// made and an answer that was none are all a bad gateway to the caller.
const SAID_AND_HEARD: [(Kind, Kind); 15] = [
    (Kind::Throttled, Kind::Throttled),
    (Kind::QuotaExhausted, Kind::QuotaExhausted),
    (Kind::Overloaded, Kind::Overloaded),
    (Kind::Unavailable, Kind::Unavailable),
    (
        Kind::TimedOut(Phase::FirstToken),
        Kind::TimedOut(Phase::Total),
    ),
    (Kind::NotProcessed, Kind::Unavailable),
    (Kind::Unauthorized, Kind::Unavailable),
    (Kind::NotFound, Kind::NotFound),
    (Kind::ContextTooLong, Kind::ContextTooLong),
    (Kind::ContentFiltered, Kind::ContentFiltered),
    (Kind::TooLarge, Kind::TooLarge),
    (Kind::Unsupported, Kind::Unsupported),
    (Kind::Rejected, Kind::Rejected),
    (Kind::Malformed, Kind::Unavailable),
    (Kind::Cancelled, Kind::Unavailable),
];

#[test]
fn what_we_say_is_understood_as_it_was_meant() {
    let mut wrong = Vec::new();
    for (dialect, content_type) in DIALECTS {
        for (said, heard) in SAID_AND_HEARD {
            let heard = match (dialect, said) {
                // AWS has one word for both.
                (Dialect::BedrockConverse, Kind::Overloaded) => Kind::Unavailable,
                (Dialect::BedrockConverse, Kind::TooLarge) => Kind::Rejected,
                _ => heard,
            };
            let delay = Duration::from_millis(2_500);
            let outcome = Outcome::new(said).with_retry_after(delay, HintSource::Local);
            let classify = ClassifyHttp::new(dialect);

            let response = error_response(dialect, &outcome);
            let mut reader = classify.reader(response.status(), response.headers());
            let (body, ..) = read(response.into_body().map_err(|never| match never {}));
            reader.on_data(&body);
            let answer = reader.on_end(End::Clean(None));
            if answer.kind().as_str() != heard.as_str() {
                wrong.push(format!("{dialect:?} answer: {said} is heard as {answer}"));
            }
            assert_eq!(
                answer.retry_after().map(|hint| hint.delay),
                Some(Duration::from_secs(3)),
                "{dialect:?} {said}"
            );

            let mut reader = classify.reader(StatusCode::OK, &headers(content_type));
            let step = reader.on_data(&error_event(dialect, &outcome));
            assert!(!step.commits(), "{dialect:?} {said}");
            let event = step.failed.unwrap_or(Outcome::success());
            // Without a code there is nothing to tell a wrong request by, and none gets this far.
            let no_code = matches!(dialect, Dialect::Cohere | Dialect::Ollama);
            if no_code && said == Kind::Rejected {
                continue;
            }
            if event.kind().as_str() != heard.as_str() {
                wrong.push(format!("{dialect:?} event: {said} is heard as {event}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
