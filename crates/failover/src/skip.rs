use std::fmt;

use backstop_core::Kind;
use tokio::time::Instant;

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

/// A candidate that was not asked: why, and when asking makes sense again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// Why.
    pub reason: SkipReason,
    /// When it is worth asking again; `None` when nobody can tell.
    pub retry_at: Option<Instant>,
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
    /// A target that is kept for certain outcomes ([`only_on`](crate::guards::Guards::only_on)) is
    /// also meant when the target before it was not even asked for that reason.
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

// === impl Skipped ===

impl Skipped {
    /// Skipped for `reason`, with nothing known about a return.
    #[must_use]
    pub const fn new(reason: SkipReason) -> Self {
        Self {
            reason,
            retry_at: None,
        }
    }

    /// Worth asking again at `at`.
    #[must_use]
    pub const fn until(mut self, at: Instant) -> Self {
        self.retry_at = Some(at);
        self
    }
}
