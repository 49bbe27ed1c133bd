//! However a stream is divided, delayed and abandoned: the same decision, the same bytes, and one
//! outcome.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use backstop_core::{
    ClassifyStream, End, Failure, Kind, Outcome, Progress, Step,
    body::{Peek, Watched, peek},
    outcome_of,
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use proptest::{collection::vec, prelude::*, sample::select};

/// A dialect of one byte per event: `t` is a token, `k` a sign of life, `!` an error, `.` the
/// proper end, and what follows an error or the end means nothing.
#[derive(Clone, Debug, Default)]
struct Letters {
    failed: bool,
    ended: bool,
}

impl ClassifyStream for Letters {
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        let mut step = Step::default();
        for byte in chunk {
            if self.failed || self.ended {
                break;
            }
            let progress = match byte {
                b't' => Progress::Token,
                b'.' => Progress::End,
                b'k' => Progress::KeepAlive,
                _ => Progress::None,
            };
            self.ended = progress == Progress::End;
            step.progress = step.progress.max(progress);
            if *byte == b'!' {
                self.failed = true;
                step.failed = Some(OVERLOADED);
            }
        }
        step
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        match end {
            _ if self.ended => Outcome::success(),
            End::Clean(_) => Outcome::new(Kind::Malformed),
            End::Error(error) => outcome_of(error),
            End::Dropped => Outcome::cancelled(),
        }
    }
}

const OVERLOADED: Outcome = Outcome::new(Kind::Overloaded);

/// How a stream ends, after its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The end is told with the last frame.
    Told,
    /// The end is learnt by asking once more.
    Asked,
    Trailers,
    Reset,
}

/// A body that is pending before a frame where it says so.
#[derive(Clone, Debug)]
struct Stream {
    frames: VecDeque<(bool, Bytes)>,
    ending: Option<Ending>,
}

impl Stream {
    fn new(bytes: &[u8], cuts: &[usize], pending: &[bool], ending: Ending) -> Self {
        let mut bytes = Bytes::copy_from_slice(bytes);
        let mut frames = VecDeque::new();
        let mut pending = pending.iter().copied().cycle();
        for cut in cuts {
            if bytes.is_empty() {
                break;
            }
            let piece = bytes.split_to((*cut).min(bytes.len()));
            frames.push_back((pending.next().unwrap(), piece));
        }
        if !bytes.is_empty() {
            frames.push_back((pending.next().unwrap(), bytes));
        }
        Self {
            frames,
            ending: Some(ending),
        }
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some((pending, _)) = self.frames.front_mut()
            && std::mem::take(pending)
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some((_, data)) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(match self.ending.take() {
            Some(Ending::Told | Ending::Asked) => None,
            Some(Ending::Trailers) => {
                self.ending = Some(Ending::Told);
                Some(Ok(Frame::trailers(trailers())))
            }
            Some(Ending::Reset) => Some(Err(io::ErrorKind::ConnectionReset.into())),
            None => panic!("polled after its end"),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && matches!(self.ending, None | Some(Ending::Told))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        HeaderName::from_static("x-trace"),
        HeaderValue::from_static("7"),
    )])
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    Committed,
    Decided(Kind),
}

/// What the law says, from the bytes alone.
fn expected(bytes: &[u8], ending: Ending) -> Decision {
    for byte in bytes {
        match byte {
            b't' | b'.' => return Decision::Committed,
            b'!' => return Decision::Decided(Kind::Overloaded),
            _ => {}
        }
    }
    Decision::Decided(match ending {
        Ending::Told | Ending::Asked | Ending::Trailers => Kind::Malformed,
        Ending::Reset => Kind::Unavailable,
    })
}

/// All that a body has, until it is over: bytes, trailers, whether it failed.
fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B) -> (Vec<u8>, bool, bool) {
    let mut bytes = BytesMut::new();
    let mut saw_trailers = false;
    for _ in 0..10_000 {
        match body.frame().now_or_never() {
            None => {}
            Some(None) => return (bytes.to_vec(), saw_trailers, false),
            Some(Some(Err(_))) => return (bytes.to_vec(), saw_trailers, true),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(_) => saw_trailers = true,
            },
        }
    }
    panic!("the body does not end");
}

fn run_peek(stream: Stream, limit: usize) -> Peek<Stream, Letters> {
    let mut peeking = peek(stream, Letters::default(), limit);
    for _ in 0..10_000 {
        if let Some(found) = (&mut peeking).now_or_never() {
            return found;
        }
    }
    panic!("the peek does not end");
}

fn ending() -> impl Strategy<Value = Ending> {
    select(vec![
        Ending::Told,
        Ending::Asked,
        Ending::Trailers,
        Ending::Reset,
    ])
}

fn letters() -> impl Strategy<Value = Vec<u8>> {
    vec(select(b"kkkk  t!.".to_vec()), 0..40)
}

fn division() -> impl Strategy<Value = (Vec<usize>, Vec<bool>)> {
    (vec(0_usize..6, 0..40), vec(any::<bool>(), 1..8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_division_is_decided_alike(
        bytes in letters(),
        (cuts, pending) in division(),
        ending in ending(),
    ) {
        let stream = Stream::new(&bytes, &cuts, &pending, ending);
        let (decision, body) = match run_peek(stream, 1_000) {
            Peek::Committed(begun) => (Decision::Committed, begun.into_body()),
            Peek::Decided(outcome, body) => (Decision::Decided(outcome.kind()), body),
        };
        prop_assert_eq!(decision, expected(&bytes, ending));
        let wanted = (bytes, ending == Ending::Trailers, ending == Ending::Reset);
        prop_assert_eq!(drain(body), wanted);
    }

    #[test]
    fn no_more_is_held_than_the_limit_and_one_frame(
        count in 0_usize..60,
        (cuts, pending) in division(),
        limit in 0_usize..50,
    ) {
        let stream = Stream::new(&vec![b'k'; count], &cuts, &pending, Ending::Asked);
        let frames: Vec<_> = stream.frames.iter().map(|(_, data)| data.len()).collect();
        let body = match run_peek(stream, limit) {
            Peek::Committed(begun) => {
                prop_assert!(count > limit);
                begun.into_body()
            }
            Peek::Decided(..) if count > limit => panic!("held {count} of {limit} bytes"),
            Peek::Decided(_, body) => body,
        };
        let held: usize = body.held().filter_map(Frame::data_ref).map(Bytes::len).sum();
        let largest = frames.into_iter().max().unwrap_or(0);
        prop_assert!(held <= limit + largest);
        prop_assert_eq!(drain(body).0.len(), count);
    }

    #[test]
    fn a_peek_stopped_anywhere_goes_on_as_if_nothing_had_been(
        bytes in letters(),
        (cuts, pending) in division(),
        ending in ending(),
        polls in 0_usize..20,
    ) {
        let stream = Stream::new(&bytes, &cuts, &pending, ending);
        let mut peeking = peek(stream.clone(), Letters::default(), 1_000);
        let found = (0..polls).find_map(|_| (&mut peeking).now_or_never());
        let begun = match found {
            Some(Peek::Decided(..)) => return Ok(()),
            Some(Peek::Committed(begun)) => begun,
            None => peeking.stop().unwrap(),
        };
        let resumed = watch(|watch| drain(begun.watch(watch)));
        let plain = watch(|watch| drain(Watched::new(stream, Letters::default(), watch)));
        prop_assert_eq!(resumed, plain);
    }

    #[test]
    fn what_is_watched_comes_as_it_was_and_never_looks_whole_when_it_is_not(
        bytes in letters(),
        (cuts, pending) in division(),
        ending in ending(),
    ) {
        let stream = Stream::new(&bytes, &cuts, &pending, ending);
        let ((read, saw_trailers, failed), kind) =
            watch(|watch| drain(Watched::new(stream, Letters::default(), watch)));
        let end = bytes.iter().position(|byte| matches!(byte, b'.' | b'!'));
        let (wanted, clean) = match end.map(|at| bytes[at]) {
            Some(b'.') => (Kind::Success, true),
            Some(_) => (Kind::Overloaded, ending != Ending::Reset),
            None if ending == Ending::Reset => (Kind::Unavailable, false),
            None => (Kind::Malformed, false),
        };
        prop_assert_eq!(kind, wanted);
        prop_assert_eq!(failed, !clean);
        prop_assert_eq!(saw_trailers, clean && ending == Ending::Trailers);
        prop_assert_eq!(read, bytes);
    }

    #[test]
    fn a_drop_anywhere_is_one_outcome(
        bytes in letters(),
        (cuts, pending) in division(),
        ending in ending(),
        polls in 0_usize..60,
    ) {
        let stream = Stream::new(&bytes, &cuts, &pending, ending);
        let ((read, over), kind) = watch(|watch| {
            let mut body = Watched::new(stream, Letters::default(), watch);
            let mut read = Vec::new();
            let mut over = false;
            for _ in 0..polls {
                match Pin::new(&mut body).frame().now_or_never() {
                    None => {}
                    Some(Some(Ok(frame))) => {
                        read.extend(frame.into_data().unwrap_or_default());
                    }
                    Some(_) => {
                        over = true;
                        break;
                    }
                }
            }
            (read, over)
        });
        let told = read.iter().find(|byte| matches!(byte, b'.' | b'!'));
        let wanted = match told {
            Some(b'.') => vec![Kind::Success],
            Some(_) => vec![Kind::Overloaded],
            None if over => vec![Kind::Malformed, Kind::Unavailable],
            // The end may come with the last frame.
            None if read == bytes => vec![Kind::Cancelled, Kind::Malformed],
            None => vec![Kind::Cancelled],
        };
        prop_assert!(wanted.contains(&kind), "{kind:?} is none of {wanted:?}");
    }
}

/// Runs with a watch and returns the kind that it heard, which must be exactly one.
fn watch<T>(run: impl FnOnce(Box<dyn FnOnce(&Outcome)>) -> T) -> (T, Kind) {
    let heard = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let hears = std::rc::Rc::clone(&heard);
    let result = run(Box::new(move |outcome: &Outcome| {
        hears.borrow_mut().push(outcome.kind());
    }));
    let heard = heard.borrow();
    assert_eq!(heard.len(), 1, "heard {heard:?}");
    (result, heard[0])
}

/// The error is there to be asked for, and comes once.
#[test]
fn a_body_that_failed_with_its_head_ends_with_the_error() {
    type Nobody = fn(&Outcome);
    let failure = Failure::new(Outcome::new(Kind::Malformed));
    let empty = http_body_util::Empty::<Bytes>::new();
    let mut body = Watched::<_, Letters, Nobody>::failed(empty, failure);
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), None);
    let error = body.frame().now_or_never().unwrap().unwrap().unwrap_err();
    assert_eq!(outcome_of(&*error).kind(), Kind::Malformed);
    assert!(body.is_end_stream());
    assert!(body.frame().now_or_never().unwrap().is_none());
}
