//! A request is read once and issued as often as needed, or sent once with nothing lost.

#![expect(clippy::panic, reason = "helpers of tests")]

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use backstop_core::{BoxError, CarryExtensions, Deadline, Frozen, Http, Replay, body::Replayable};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Collected, Full};
use proptest::{collection::vec, prelude::*};

/// A body that is pending before every frame, and panics when it is polled after its end.
#[derive(Debug)]
struct Upload {
    frames: VecDeque<Result<Frame<Bytes>, io::Error>>,
    pending: bool,
    over: bool,
}

impl Upload {
    fn new(chunks: &[Vec<u8>], trailers: bool, fails: bool) -> Self {
        let mut frames: VecDeque<_> = chunks
            .iter()
            .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        if trailers {
            frames.push_back(Ok(Frame::trailers(some_trailers())));
        }
        if fails {
            frames.push_back(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Self {
            frames,
            pending: true,
            over: false,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        assert!(!self.over, "polled after its end");
        if std::mem::replace(&mut self.pending, false) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pending = true;
        let frame = self.frames.pop_front();
        self.over = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }
}

fn some_trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        HeaderName::from_static("x-trace"),
        HeaderValue::from_static("7"),
    )])
}

fn finish<T>(mut future: impl Future<Output = T> + Unpin) -> T {
    for _ in 0..1_000 {
        if let Some(output) = (&mut future).now_or_never() {
            return output;
        }
    }
    panic!("it does not end");
}

type Issued = Request<Replayable<Upload>>;

/// What reading a request gives.
type Reading<F> = Result<Frozen<F, Issued>, BoxError>;

fn freeze(
    request: Request<Upload>,
    limit: usize,
) -> Reading<<Http as Replay<Request<Upload>>>::Frozen> {
    let carry = CarryExtensions::default();
    finish(<Http as Replay<Request<Upload>>>::freeze(
        request, limit, &carry,
    ))
}

fn prepare(
    mut request: Request<Upload>,
    limit: usize,
) -> Reading<(Issued, <Http as Replay<Request<Upload>>>::Spare)> {
    let carry = CarryExtensions::default();
    let mut read = <Http as Replay<Request<Upload>>>::Read::default();
    finish(poll_fn(|cx| {
        Http::poll_read(&mut request, &mut read, limit, cx)
    }))?;
    let spare = Http::spare(&request, &read, &carry);
    let first = Http::first(request, read, &carry);
    Ok(match spare {
        Some(spare) => Frozen::Replayable((first, spare)),
        None => Frozen::Once(first),
    })
}

/// Issues a request so many times, by the one pair or the other.
fn issue(
    request: Request<Upload>,
    limit: usize,
    times: usize,
    prepared: bool,
) -> Reading<Vec<Issued>> {
    let issued = if prepared {
        match prepare(request, limit)? {
            Frozen::Once(request) => return Ok(Frozen::Once(request)),
            Frozen::Replayable((first, spare)) => std::iter::once(first)
                .chain((1..times).map(|_| <Http as Replay<Request<Upload>>>::again(&spare)))
                .collect(),
        }
    } else {
        match freeze(request, limit)? {
            Frozen::Once(request) => return Ok(Frozen::Once(request)),
            Frozen::Replayable(frozen) => (0..times)
                .map(|_| <Http as Replay<Request<Upload>>>::thaw(&frozen))
                .collect(),
        }
    };
    Ok(Frozen::Replayable(issued))
}

fn collect<B: Body<Data = Bytes> + Unpin>(body: B) -> Result<Collected<Bytes>, B::Error> {
    finish(Box::pin(body.collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_is_lost_or_repeated(
        chunks in vec(vec(any::<u8>(), 0..20), 0..10),
        trailers in any::<bool>(),
        fails in any::<bool>(),
        limit in 0_usize..120,
        attempts in 1_usize..4,
        prepared in any::<bool>(),
    ) {
        let whole = chunks.concat();
        let mut request = Request::post("/v1/messages")
            .header("x-one", "1")
            .body(Upload::new(&chunks, trailers, fails))
            .unwrap();
        request.extensions_mut().insert("not carried");
        match issue(request, limit, attempts, prepared) {
            Err(_) => prop_assert!(fails && !trailers && whole.len() <= limit),
            Ok(Frozen::Replayable(issued)) => {
                prop_assert!(whole.len() <= limit);
                prop_assert_eq!(issued.len(), attempts);
                for request in issued {
                    prop_assert_eq!(&request.headers()["x-one"], "1");
                    prop_assert!(request.extensions().get::<&str>().is_none());
                    let hint = request.body().size_hint();
                    prop_assert_eq!(hint.lower(), whole.len() as u64);
                    prop_assert_eq!(hint.exact().is_some(), !trailers);
                    let body = collect(request.into_body()).unwrap();
                    prop_assert_eq!(body.trailers().cloned(), trailers.then(some_trailers));
                    prop_assert_eq!(&body.to_bytes()[..], &whole[..]);
                }
            }
            Ok(Frozen::Once(request)) => {
                prop_assert!(whole.len() > limit);
                let read = request.body().read();
                prop_assert!(read.len() > limit && whole.starts_with(&read));
                prop_assert!(request.body().bytes().is_none());
                prop_assert!(request.extensions().get::<&str>().is_none());
                let body = collect(request.into_body());
                prop_assert_eq!(body.is_err(), fails);
                if let Ok(body) = body {
                    prop_assert_eq!(body.trailers().cloned(), trailers.then(some_trailers));
                    prop_assert_eq!(&body.to_bytes()[..], &whole[..]);
                }
            }
        }
    }
}

#[test]
fn one_chunk_is_not_copied() {
    let data = Bytes::from_static(b"{}");
    let request = Request::new(Full::new(data.clone()));
    let carry = CarryExtensions::default();
    let froze = finish(<Http as Replay<Request<Full<Bytes>>>>::freeze(
        request, 10, &carry,
    ));
    let Ok(Frozen::Replayable(frozen)) = froze else {
        panic!("it fits");
    };
    assert_eq!(frozen.data().as_ptr(), data.as_ptr());
}

#[test]
fn only_what_is_named_is_carried() {
    #[derive(Clone, Debug, PartialEq)]
    struct Conversation(u64);
    let mut request = Request::new(Upload::new(&[], false, false));
    let deadline = Deadline::after(
        tokio::time::Instant::now().into_std(),
        std::time::Duration::from_secs(1),
    );
    request.extensions_mut().insert(deadline);
    request.extensions_mut().insert(Conversation(7));
    request.extensions_mut().insert("a permit");
    let carry = CarryExtensions::default().with::<Conversation>();
    let froze = finish(<Http as Replay<Request<Upload>>>::freeze(
        request, 10, &carry,
    ));
    let Ok(Frozen::Replayable(frozen)) = froze else {
        panic!("it fits");
    };
    let extensions = &frozen.parts().extensions;
    assert_eq!(extensions.get(), Some(&deadline));
    assert_eq!(extensions.get(), Some(&Conversation(7)));
    assert_eq!(extensions.len(), 2);
}

#[test]
fn debug_output_holds_no_prompt_and_no_key() {
    let secret = "sk-very-secret";
    let request = || {
        Request::post(format!("/?key={secret}"))
            .header("authorization", secret)
            .body(Upload::new(&[secret.into()], false, false))
            .unwrap()
    };
    let Ok(Frozen::Replayable(frozen)) = freeze(request(), 100) else {
        panic!("it fits");
    };
    let thawed = <Http as Replay<Request<Upload>>>::thaw(&frozen);
    let peeked = format!("{:?} {:?}", frozen, thawed.body());
    assert!(!peeked.contains(secret), "{peeked}");
    let Ok(Frozen::Replayable((first, spare))) = prepare(request(), 100) else {
        panic!("it fits");
    };
    let peeked = format!("{:?} {:?}", first.body(), spare);
    assert!(!peeked.contains(secret), "{peeked}");
}
