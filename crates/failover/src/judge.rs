use std::{error::Error, fmt};

use backstop_core::{
    Classify, ClassifyStream, End, Headroom, Outcome, Progress, Step, Verdict,
    body::DEFAULT_PEEK_LIMIT,
};

/// A classifier that also judges whole answers, so that a good status with a bad answer fails over.
///
/// What counts as bad is for the user to say: an empty completion, a refusal, an answer that was
/// cut at the token limit, a tool call that does not parse. The judge sees the classifier's reader,
/// which may know the finish reason, and all bytes of the answer; what it returns is the outcome
/// of the attempt. It is only asked about answers that are whole before they commit: those that are
/// not streamed, and streams that fit in one piece. What has begun to reach the caller is not taken
/// back.
///
/// ```
/// use backstop_core::{Kind, Outcome};
/// use backstop_failover::{Failover, Judged};
/// use backstop_wire::{AnswerReader, ClassifyHttp, Dialect, FinishReason};
///
/// let says = |body: &[u8], what: &str| body.windows(what.len()).any(|part| part == what.as_bytes());
/// let classify = Judged::new(
///     ClassifyHttp::new(Dialect::OpenAiChat),
///     move |reader: &AnswerReader, body: &[u8]| {
///         let bad = match reader.finish_reason() {
///             // A stream has told its reader.
///             Some(FinishReason::Refusal | FinishReason::Length) => true,
///             _ => says(body, r#""finish_reason":"length""#) || says(body, r#""content":"""#),
///         };
///         bad.then(|| Outcome::new(Kind::Malformed).with_evidence("the judge of answers"))
///     },
/// );
/// let builder = Failover::builder(classify);
/// ```
#[derive(Clone)]
pub struct Judged<C, F> {
    classify: C,
    judge: F,
}

/// Reads the body of one response, and judges it if it is whole before it commits.
pub struct JudgedStream<K, F> {
    reader: K,
    judge: F,
    /// Gone when nothing is left to judge.
    held: Option<Vec<u8>>,
    bad: Option<Outcome>,
}

// === impl Judged ===

impl<C, F> Judged<C, F> {
    /// Classifies by `classify`, and whole answers by `judge` as well: `None` leaves them as they
    /// are.
    pub const fn new(classify: C, judge: F) -> Self {
        Self { classify, judge }
    }
}

impl<Req: ?Sized, Res: ?Sized, C, F> Classify<Req, Res> for Judged<C, F>
where
    C: Classify<Req, Res>,
    F: Fn(&C::Stream, &[u8]) -> Option<Outcome> + Clone + Send + 'static,
{
    type Call = C::Call;
    type Stream = JudgedStream<C::Stream, F>;

    fn on_request(&self, request: &Req) -> C::Call {
        self.classify.on_request(request)
    }

    fn on_response(&self, call: &C::Call, response: &Res) -> Verdict<Self::Stream> {
        match self.classify.on_response(call, response) {
            Verdict::Now(outcome) => Verdict::Now(outcome),
            Verdict::AtEnd(reader) => Verdict::AtEnd(JudgedStream {
                reader,
                judge: self.judge.clone(),
                held: Some(Vec::new()),
                bad: None,
            }),
        }
    }

    fn on_error(&self, call: &C::Call, error: &(dyn Error + 'static)) -> Outcome {
        self.classify.on_error(call, error)
    }

    fn headroom(&self, call: &C::Call, response: &Res) -> Option<Headroom> {
        self.classify.headroom(call, response)
    }
}

impl<C: fmt::Debug, F> fmt::Debug for Judged<C, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judged")
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}

// === impl JudgedStream ===

impl<K, F> ClassifyStream for JudgedStream<K, F>
where
    K: ClassifyStream,
    F: Fn(&K, &[u8]) -> Option<Outcome> + Send + 'static,
{
    fn on_data(&mut self, chunk: &[u8]) -> Step {
        let step = self.reader.on_data(chunk);
        let Some(held) = &mut self.held else {
            return step;
        };
        held.extend_from_slice(chunk);
        if step.progress == Progress::End && step.failed.is_none() {
            self.bad = (self.judge)(&self.reader, held);
            self.held = None;
            if let Some(outcome) = self.bad {
                return Step::failed(Progress::KeepAlive, outcome);
            }
        } else if step.commits() || step.failed.is_some() || held.len() > DEFAULT_PEEK_LIMIT {
            self.held = None;
        }
        step
    }

    fn on_end(&mut self, end: End<'_>) -> Outcome {
        let is_clean = matches!(end, End::Clean(_));
        let outcome = self.reader.on_end(end);
        if let Some(bad) = self.bad {
            return bad;
        }
        // An answer whose end only the end of the body tells.
        match &self.held {
            Some(held) if is_clean && outcome.is_success() => {
                (self.judge)(&self.reader, held).unwrap_or(outcome)
            }
            _ => outcome,
        }
    }
}

impl<K, F> fmt::Debug for JudgedStream<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Counts only: the bytes are somebody's answer.
        f.debug_struct("JudgedStream")
            .field("held_bytes", &self.held.as_ref().map(Vec::len))
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use backstop_core::Kind;

    use super::*;

    /// Says what a piece that begins with it stands for: `.` the end, `e` an error.
    #[derive(Default)]
    struct Plain;

    impl ClassifyStream for Plain {
        fn on_data(&mut self, chunk: &[u8]) -> Step {
            match chunk.first() {
                Some(b'.') => {
                    let mut step = Step::default();
                    step.progress = Progress::End;
                    step
                }
                Some(b'e') => Step::failed(Progress::End, Outcome::new(Kind::Overloaded)),
                _ => Step::default(),
            }
        }

        fn on_end(&mut self, end: End<'_>) -> Outcome {
            match end {
                End::Dropped => Outcome::cancelled(),
                _ => Outcome::success(),
            }
        }
    }

    fn stream() -> JudgedStream<Plain, impl Fn(&Plain, &[u8]) -> Option<Outcome>> {
        JudgedStream {
            reader: Plain,
            judge: |_: &Plain, _: &[u8]| Some(Outcome::new(Kind::Malformed)),
            held: Some(Vec::new()),
            bad: None,
        }
    }

    #[test]
    fn only_what_is_whole_and_good_so_far_is_judged() {
        let mut judged = stream();
        let failed = judged.on_data(b".").failed.unwrap();
        assert_eq!(failed.kind(), Kind::Malformed);
        let mut judged = stream();
        let failed = judged.on_data(b"e").failed.unwrap();
        assert_eq!(failed.kind(), Kind::Overloaded);
        let mut judged = stream();
        judged.on_data(b"a part");
        assert_eq!(judged.on_end(End::Dropped).kind(), Kind::Cancelled);
        let mut judged = stream();
        judged.on_data(b"all");
        assert_eq!(judged.on_end(End::Clean(None)).kind(), Kind::Malformed);
    }

    #[test]
    fn no_more_is_held_than_may_be_held_back() {
        let mut judged = stream();
        let piece = vec![b' '; DEFAULT_PEEK_LIMIT];
        judged.on_data(&piece);
        assert!(judged.held.is_some());
        judged.on_data(b" ");
        assert!(judged.held.is_none());
        assert!(judged.on_end(End::Clean(None)).is_success());
    }
}
