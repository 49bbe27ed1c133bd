//! What was decided for a call, and why.

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::Duration,
};

use http::{Extensions, HeaderValue};

use crate::{BoxError, Kind, Outcome, Served};

/// Every target that was thought of for a call, tried or skipped, and what was left at the end.
///
/// It is told with the answer, in [`Served`](crate::Served). When there is no answer it is in the
/// error's chain, where [`Trace::find`] finds it. A layer that turns such an error into a response
/// gives the trace to the response as an extension of its own; [`Trace::of`] reads either.
///
/// As text it is a list of RFC 9651 in one line, for logs and for the header
/// [`HEADER`](Self::HEADER): one member per candidate, then `*` with what was left.
///
/// ```text
/// primary;failed=timeout;phase=headers;ms=30000, spare;skipped=throttled, backup;served;ms=412, *;ms=30412;left=29588
/// ```
///
/// Characters of a name that a token may not have become `_`. The text has at most
/// [`HEADER_CAPACITY`](Self::HEADER_CAPACITY) bytes; candidates that do not fit are counted as
/// `omitted`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    // Most calls have one candidate: it needs no allocation.
    first: Option<Candidate>,
    more: Vec<Candidate>,
    omitted: u32,
    /// How long it took to decide.
    pub took: Duration,
    /// What was left then of the deadline, if the call has one.
    pub deadline_left: Option<Duration>,
    /// What was left then of the budget, in tokens, when a budget was asked.
    pub budget_left: Option<f64>,
}

/// A target that was thought of.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its name.
    pub target: Arc<str>,
    /// What became of it.
    pub verdict: Considered,
}

/// What became of a candidate.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Considered {
    /// It was not asked, for this reason.
    Skipped(SkipReason),
    /// It was asked.
    Tried(Tried),
}

/// One attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tried {
    /// Why it was made.
    pub cause: Cause,
    /// How long after the beginning of the call.
    pub began: Duration,
    /// How long it took until the target was ready to be called.
    pub ready: Option<Duration>,
    /// How long it took from then to the head of the response.
    pub head: Option<Duration>,
    /// How long it took from there to the first token, or to the end of an answer that is none.
    pub first_token: Option<Duration>,
    /// How long it took, all phases together.
    pub took: Duration,
    /// How it ended; `None` for an answer that has begun and for an attempt that was called off.
    pub outcome: Option<Outcome>,
    /// Whether it was sent and nothing came back, so that the request may have been processed.
    pub possible_duplicate: bool,
    /// Whether it was called off because another attempt answered first.
    pub called_off: bool,
}

/// Why a candidate was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SkipReason {
    /// An operator switched it off.
    SwitchedOff,
    /// An order says that somebody else is to answer.
    Forced,
    /// It said that it is limited, and the time is not over.
    Throttled,
    /// It is ejected after faults.
    Faulting,
    /// It is ejected after faults, and the one probe is under way.
    Probing,
    /// It is back after faults, and this request is not of the share it gets so far.
    Recovering,
    /// It holds as many of our requests as it may.
    AtCapacity,
    /// It got as many requests in the window as it may.
    AtRateCap,
    /// The request has more bytes than it takes.
    RequestTooLarge,
    /// The request has more tokens, by estimate, than its context window.
    ContextWindow,
    /// A target refused the request as too long, and this one has no larger window.
    WindowNotLarger,
    /// The request needs tools.
    NoTools,
    /// The request holds images.
    NoVision,
    /// The request asks for an answer by a JSON schema.
    NoJsonSchema,
    /// What went wrong before is not among the outcomes that it is kept for.
    OnlyOn,
    /// A target refused the content, and this one is not opted in to refused content.
    ContentNotOptedIn,
    /// What went wrong before goes wrong anywhere.
    WouldNotHelp,
    /// It costs more than the request may.
    TooDear,
}

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The plan said so.
    #[default]
    Planned,
    /// To see whether an ejected target is well again.
    Probe,
    /// Nobody else was left to ask.
    LastResort,
    /// To know that a backup works before it is needed.
    Exercise,
    /// The same target was asked again.
    Retry,
    /// The attempt before it was late.
    Hedge,
}

/// A call that no target answered; the cause inside a [`Failure`](crate::Failure).
#[derive(Debug)]
pub struct Exhausted {
    trace: Trace,
    source: Option<BoxError>,
}

// === impl Trace ===

impl Trace {
    /// The name of the response header that [`to_header_value`](Self::to_header_value) is meant for.
    pub const HEADER: &'static str = "x-backstop-trace";

    /// How many candidates are kept; more are counted. Enough for eight targets asked twice each.
    pub const CAPACITY: usize = 16;

    /// How long the header's value is at most, in bytes. Servers and proxies refuse heads of 8 KiB
    /// to 16 KiB; this leaves room for everything else.
    pub const HEADER_CAPACITY: usize = 1024;

    /// The candidates, in the order in which they were thought of.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.first.iter().chain(&self.more)
    }

    /// The attempts, in the order in which they were begun.
    pub fn attempts(&self) -> impl Iterator<Item = (&str, &Tried)> {
        self.candidates()
            .filter_map(|candidate| match &candidate.verdict {
                Considered::Tried(tried) => Some((&*candidate.target, tried)),
                Considered::Skipped(_) => None,
            })
    }

    /// How many candidates are not among [`candidates`](Self::candidates) for want of room.
    #[must_use]
    pub const fn omitted(&self) -> u32 {
        self.omitted
    }

    /// Whether a target may have processed the request without an answer reaching us.
    #[must_use]
    pub fn has_possible_duplicate(&self) -> bool {
        self.attempts().any(|(_, tried)| tried.possible_duplicate)
    }

    /// The trace among the extensions of a response, whoever answered.
    #[must_use]
    pub fn of(response: &Extensions) -> Option<&Self> {
        let served = response.get::<Served>();
        let trace = served.and_then(|served| served.trace.as_ref());
        trace.or_else(|| response.get())
    }

    /// Finds the trace of a call that failed, in the `source()` chain of its error.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut link = Some(error);
        while let Some(error) = link {
            if let Some(exhausted) = error.downcast_ref::<Exhausted>() {
                return Some(&exhausted.trace);
            }
            link = error.source();
        }
        None
    }

    /// The text as the value of the header [`HEADER`](Self::HEADER).
    #[must_use]
    pub fn to_header_value(&self) -> HeaderValue {
        HeaderValue::try_from(self.text()).unwrap_or_else(|_| HeaderValue::from_static("*"))
    }

    /// Adds a candidate and says where it is kept, beyond all that are when there is no room.
    pub fn push(&mut self, target: &Arc<str>, verdict: Considered) -> usize {
        let place = self.candidates().count() + self.omitted as usize;
        let candidate = Candidate {
            target: Arc::clone(target),
            verdict,
        };
        if self.first.is_none() {
            self.first = Some(candidate);
        } else if self.more.len() + 1 < Self::CAPACITY {
            self.more.push(candidate);
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
        place
    }

    /// The attempt that is kept at a place, to tell how it went.
    pub fn attempt_mut(&mut self, place: usize) -> Option<&mut Tried> {
        let candidate = match place.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.more.get_mut(place),
        };
        match &mut candidate?.verdict {
            Considered::Tried(tried) => Some(tried),
            Considered::Skipped(_) => None,
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(128);
        let mut omitted = self.omitted;
        for candidate in self.candidates() {
            let before = text.len();
            candidate.write(&mut text);
            text.push_str(", ");
            // Room for the last member.
            if omitted > self.omitted || text.len() + 96 > Self::HEADER_CAPACITY {
                text.truncate(before);
                omitted = omitted.saturating_add(1);
            }
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "*;ms={}", self.took.as_millis());
        if omitted > 0 {
            let _ = write!(text, ";omitted={omitted}");
        }
        if let Some(left) = self.deadline_left {
            let _ = write!(text, ";left={}", left.as_millis());
        }
        if let Some(left) = self.budget_left {
            let _ = write!(text, ";budget={left:.1}");
        }
        text
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

// === impl Candidate ===

impl Candidate {
    fn write(&self, text: &mut String) {
        write_token(text, &self.target);
        let tried = match &self.verdict {
            Considered::Skipped(reason) => {
                text.push_str(";skipped=");
                text.push_str(reason.as_str());
                return;
            }
            Considered::Tried(tried) => tried,
        };
        match &tried.outcome {
            Some(outcome) if outcome.is_success() => text.push_str(";served"),
            Some(outcome) => {
                text.push_str(";failed=");
                text.push_str(outcome.kind().as_str());
                if let Kind::TimedOut(phase) = outcome.kind() {
                    text.push_str(";phase=");
                    text.push_str(phase.as_str());
                }
            }
            None if tried.called_off => text.push_str(";called_off"),
            None => text.push_str(";served"),
        }
        if tried.cause != Cause::Planned {
            text.push_str(";cause=");
            text.push_str(tried.cause.as_str());
        }
        if tried.possible_duplicate {
            text.push_str(";possible_duplicate");
        }
        let _ = write!(text, ";ms={}", tried.took.as_millis());
    }
}

/// A token starts with a letter or `*` and goes on with what RFC 9110 allows in tokens.
fn write_token(text: &mut String, name: &str) {
    /// A name is for people; a longer one would crowd out the rest.
    const LONGEST: usize = 64;
    for (place, character) in name.chars().take(LONGEST).enumerate() {
        let allowed = character.is_ascii_alphabetic()
            || (place > 0
                && (character.is_ascii_digit() || "!#$%&'*+-.^_`|~:/".contains(character)));
        if place == 0 && !allowed {
            text.push('t');
        }
        text.push(if allowed || (place == 0 && character.is_ascii_digit()) {
            character
        } else {
            '_'
        });
    }
    if name.is_empty() {
        text.push('t');
    }
}

// === impl Tried ===

impl Tried {
    /// An attempt under way: called off, until it is known how it went.
    #[must_use]
    pub const fn new(cause: Cause, began: Duration) -> Self {
        Self {
            cause,
            began,
            ready: None,
            head: None,
            first_token: None,
            took: Duration::ZERO,
            outcome: None,
            possible_duplicate: false,
            called_off: true,
        }
    }
}

// === impl Cause ===

impl Cause {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Probe => "probe",
            Self::LastResort => "last_resort",
            Self::Exercise => "exercise",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl SkipReason ===

impl SkipReason {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SwitchedOff => "switched_off",
            Self::Forced => "forced",
            Self::Throttled => "throttled",
            Self::Faulting => "faulting",
            Self::Probing => "probing",
            Self::Recovering => "recovering",
            Self::AtCapacity => "at_capacity",
            Self::AtRateCap => "at_rate_cap",
            Self::RequestTooLarge => "request_too_large",
            Self::ContextWindow => "context_window",
            Self::WindowNotLarger => "window_not_larger",
            Self::NoTools => "no_tools",
            Self::NoVision => "no_vision",
            Self::NoJsonSchema => "no_json_schema",
            Self::OnlyOn => "only_on",
            Self::ContentNotOptedIn => "content_not_opted_in",
            Self::WouldNotHelp => "would_not_help",
            Self::TooDear => "too_dear",
        }
    }

    /// Whether it is for a while: the same request may be served later.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Faulting
                | Self::Probing
                | Self::Recovering
                | Self::AtCapacity
                | Self::AtRateCap
        )
    }

    /// The kind of outcome that asking would probably have had.
    ///
    /// A target that is kept for certain outcomes is also meant when the target before it was not
    /// even asked for that reason.
    #[must_use]
    pub const fn stands_for(self) -> Kind {
        match self {
            Self::Throttled | Self::AtRateCap => Kind::Throttled,
            Self::AtCapacity => Kind::Overloaded,
            Self::SwitchedOff
            | Self::Forced
            | Self::Faulting
            | Self::Probing
            | Self::Recovering => Kind::Unavailable,
            Self::RequestTooLarge => Kind::TooLarge,
            Self::ContextWindow | Self::WindowNotLarger => Kind::ContextTooLong,
            Self::ContentNotOptedIn => Kind::ContentFiltered,
            Self::NoTools | Self::NoVision | Self::NoJsonSchema => Kind::Unsupported,
            Self::OnlyOn | Self::WouldNotHelp | Self::TooDear => Kind::Rejected,
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Exhausted ===

impl Exhausted {
    /// A call of which this is the trace, with what happened last if that was an error.
    #[must_use]
    pub const fn new(trace: Trace, source: Option<BoxError>) -> Self {
        Self { trace, source }
    }

    /// What was tried.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.trace.attempts().count();
        write!(f, "no target answered after {attempts} attempts")
    }
}

impl std::error::Error for Exhausted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Mode, Phase};

    use super::*;

    fn tried(outcome: Option<Outcome>) -> Considered {
        Considered::Tried(Tried {
            took: Duration::from_millis(412),
            called_off: false,
            outcome,
            ..Tried::new(Cause::Planned, Duration::ZERO)
        })
    }

    #[test]
    fn the_header_names_every_candidate() {
        let mut trace = Trace {
            took: Duration::from_millis(30_412),
            deadline_left: Some(Duration::from_millis(29_588)),
            budget_left: Some(9.5),
            ..Trace::default()
        };
        trace.push(
            &"primary".into(),
            tried(Some(Outcome::timed_out(Phase::Headers))),
        );
        trace.push(
            &"4 spare\n".into(),
            Considered::Skipped(SkipReason::Throttled),
        );
        trace.push(&"backup".into(), tried(None));
        assert_eq!(trace.to_header_value(), trace.to_string());
        assert_eq!(
            trace.to_string(),
            "primary;failed=timeout;phase=headers;ms=412, t4_spare_;skipped=throttled, \
             backup;served;ms=412, *;ms=30412;left=29588;budget=9.5"
        );
    }

    #[test]
    fn it_is_found_with_whoever_answered_and_when_nobody_did() {
        let trace = |millis| Trace {
            took: Duration::from_millis(millis),
            ..Trace::default()
        };
        let mut response = Extensions::new();
        assert_eq!(Trace::of(&response), None);
        response.insert(trace(1));
        // As one that stood in for the target that failed.
        response.insert(Served::new("".into(), Mode::Stale, 0));
        assert_eq!(Trace::of(&response), Some(&trace(1)));
        let mut served = Served::new("backup".into(), Mode::Failover, 2);
        served.trace = Some(trace(2));
        response.insert(served);
        assert_eq!(Trace::of(&response), Some(&trace(2)));
    }

    #[test]
    fn the_header_is_bounded_and_says_what_it_leaves_out() {
        let mut trace = Trace::default();
        let name: Arc<str> = "n".repeat(500).into();
        for _ in 0..100 {
            trace.push(&name, tried(Some(Outcome::new(Kind::Malformed))));
        }
        assert_eq!(trace.candidates().count(), Trace::CAPACITY);
        let value = trace.to_header_value();
        assert!(value.len() <= Trace::HEADER_CAPACITY);
        let text = value.to_str().unwrap();
        let shown = text.matches("failed").count();
        assert!(shown > 1, "{text}");
        assert!(text.contains(&format!("omitted={}", 100 - shown)), "{text}");
    }
}
