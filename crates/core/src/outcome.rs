use std::{fmt, time::Duration};

use http::Extensions;

/// What happened to one attempt to get an answer from one target.
///
/// An outcome is small and `Copy`, so it can ride in a response extension, an error, a health
/// record and a trace alike. It is built from a [`Kind`]; the rest has a default that follows from
/// the kind and can be replaced by a classifier that knows better.
///
/// The retry delay, the scope and the advice are fields of the struct rather than of single
/// variants, because providers attach them to almost any kind: a 503 has a `Retry-After`, a 404 may
/// concern one model or the whole account.
///
/// ```
/// use std::time::Duration;
/// use backstop_core::{HintSource, Kind, Outcome, Scope};
///
/// let outcome = Outcome::new(Kind::Throttled)
///     .with_retry_after(Duration::from_secs(7), HintSource::RetryAfter)
///     .with_evidence("header: retry-after");
/// assert_eq!(outcome.scope(), Scope::Model);
/// assert!(outcome.may_fail_over() && outcome.may_repeat());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    kind: Kind,
    scope: Scope,
    retry_after: Option<RetryAfter>,
    may_fail_over: bool,
    may_repeat: bool,
    evidence: &'static str,
}

/// The kind of an [`Outcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A complete answer.
    Success,
    /// A rate limit: the same request succeeds later.
    Throttled,
    /// A spent quota, credit or budget: waiting seconds does not help.
    QuotaExhausted,
    /// The provider lacks capacity; nothing to do with the caller's share.
    Overloaded,
    /// The provider failed, or the connection to it did.
    Unavailable,
    /// The attempt took longer than allowed in the phase.
    TimedOut(Phase),
    /// Never sent, or provably not processed: free to repeat even for a request that must run at
    /// most once.
    NotProcessed,
    /// The target's credential was refused or lacks the right.
    Unauthorized,
    /// The target has no such model, deployment or path.
    NotFound,
    /// The request does not fit the model's context window.
    ContextTooLong,
    /// The provider refused the content.
    ContentFiltered,
    /// The request is too large in bytes.
    TooLarge,
    /// The model or the provider lacks a feature that the request needs.
    Unsupported,
    /// The request itself is wrong: the caller's fault, the same anywhere.
    Rejected,
    /// An answer that is none: a 200 whose body is broken, cut short or not of the dialect.
    Malformed,
    /// The caller went away before the end. Neutral: nobody's fault.
    Cancelled,
}

/// Where an attempt's time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for the service to be ready (`poll_ready`).
    Ready,
    /// Opening the connection.
    Connect,
    /// From sending the request to the head of the response.
    Headers,
    /// From the head to the first semantic token: text, tool call or reasoning delta.
    FirstToken,
    /// Between two semantic events of a stream that has begun to answer.
    Idle,
    /// The whole call.
    Total,
}

/// What a failure speaks about, and therefore what to penalise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// This request only: nothing is penalised.
    Request,
    /// This model or deployment with this credential.
    Model,
    /// Everything that uses this credential.
    Credential,
    /// Everything of this account.
    Account,
    /// Everything at this provider.
    Provider,
}

/// A wait that the other side asked for.
///
/// It is passed on as given. Whoever acts on it must put a floor and a cap on it: values of months
/// and of zero are seen in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    /// How long to wait, counted from when the response arrived.
    pub delay: Duration,
    /// Where the delay was read.
    pub source: HintSource,
}

/// Where a [`RetryAfter`] was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HintSource {
    /// `retry-after-ms` or `x-ms-retry-after-ms`, in milliseconds.
    RetryAfterMs,
    /// `retry-after` (RFC 9110 section 10.2.3), in seconds or as a date.
    RetryAfter,
    /// Another header made for the purpose: `x-amz-retry-after`, `grpc-retry-pushback-ms`.
    Header,
    /// A typed field of the error body, such as `google.rpc.RetryInfo`.
    Body,
    /// A phrase in the error message ("Please try again in 3.89s").
    Text,
    /// The reset of a limit whose remaining is zero.
    Reset,
    /// Our own memory of an earlier refusal, or a computed back-off.
    Local,
}

// === impl Outcome ===

impl Outcome {
    /// An outcome with the defaults of its kind.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            scope: kind.default_scope(),
            retry_after: None,
            may_fail_over: kind.default_may_fail_over(),
            may_repeat: kind.default_may_repeat(),
            evidence: "",
        }
    }

    /// The verdict that a layer attached to a response, from its extensions.
    ///
    /// A success is not attached, since that would allocate for every good answer. So one without a
    /// verdict is a success as far as its head tells: of an answer that is passed on before its body is
    /// read, what the body says is still to come.
    ///
    /// ```
    /// use backstop_core::{Kind, Outcome};
    ///
    /// let mut response = http::Response::new(());
    /// assert!(Outcome::of(response.extensions()).is_success());
    /// response.extensions_mut().insert(Outcome::new(Kind::Throttled));
    /// assert_eq!(Outcome::of(response.extensions()).kind(), Kind::Throttled);
    /// ```
    #[must_use]
    pub fn of(response: &Extensions) -> Self {
        response.get().copied().unwrap_or(Self::success())
    }

    /// A complete answer.
    #[must_use]
    pub const fn success() -> Self {
        Self::new(Kind::Success)
    }

    /// The caller went away.
    #[must_use]
    pub const fn cancelled() -> Self {
        Self::new(Kind::Cancelled)
    }

    /// The attempt took too long in `phase`.
    #[must_use]
    pub const fn timed_out(phase: Phase) -> Self {
        Self::new(Kind::TimedOut(phase))
    }

    /// Replaces what to penalise.
    #[must_use]
    pub const fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Adds the wait that the other side asked for.
    #[must_use]
    pub const fn with_retry_after(mut self, delay: Duration, source: HintSource) -> Self {
        self.retry_after = Some(RetryAfter { delay, source });
        self
    }

    /// Replaces the advice on asking another target.
    #[must_use]
    pub const fn with_fail_over(mut self, advice: bool) -> Self {
        self.may_fail_over = advice;
        self
    }

    /// Replaces the advice on asking the same target again.
    #[must_use]
    pub const fn with_repeat(mut self, advice: bool) -> Self {
        self.may_repeat = advice;
        self
    }

    /// Names the evidence that decided.
    ///
    /// The text is static so that it cannot quote a request or a response.
    #[must_use]
    pub const fn with_evidence(mut self, evidence: &'static str) -> Self {
        self.evidence = evidence;
        self
    }

    /// What happened.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What to penalise.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// The wait that the other side asked for, unclamped.
    #[must_use]
    pub const fn retry_after(&self) -> Option<RetryAfter> {
        self.retry_after
    }

    /// Whether another target plausibly succeeds where this one did not.
    ///
    /// This is the classifier's advice. A policy may ask for more: a context-length refusal only
    /// helps a target with a larger window, and shopping a refused prompt around is opt-in.
    #[must_use]
    pub const fn may_fail_over(&self) -> bool {
        self.may_fail_over
    }

    /// Whether the same target plausibly succeeds if asked again after the wait.
    #[must_use]
    pub const fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    /// The evidence that decided, for people; never a quotation.
    #[must_use]
    pub const fn evidence(&self) -> &'static str {
        self.evidence
    }

    /// Whether the answer is complete.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.kind, Kind::Success)
    }

    /// Whether this says that the target is at fault: it is slow, broken or answers nonsense.
    ///
    /// A limit is not a fault (it has its own memory), the caller's mistake and a cancelled call
    /// are nobody's.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        matches!(
            self.kind,
            Kind::Overloaded
                | Kind::Unavailable
                | Kind::TimedOut(_)
                | Kind::NotProcessed
                | Kind::Unauthorized
                | Kind::NotFound
                | Kind::Malformed
        ) && !matches!(self.scope, Scope::Request)
    }

    /// Whether the target asked to be left alone for a while.
    #[must_use]
    pub const fn is_limit(&self) -> bool {
        matches!(self.kind, Kind::Throttled | Kind::QuotaExhausted)
            && !matches!(self.scope, Scope::Request)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Kind::TimedOut(phase) = self.kind {
            write!(f, " ({phase})")?;
        }
        if let Some(hint) = self.retry_after {
            write!(f, ", retry after {} ms", hint.delay.as_millis())?;
        }
        if !self.evidence.is_empty() {
            write!(f, ", because of {}", self.evidence)?;
        }
        Ok(())
    }
}

// === impl Kind ===

impl Kind {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Throttled => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::TimedOut(_) => "timeout",
            Self::NotProcessed => "not_processed",
            Self::Unauthorized => "auth",
            Self::NotFound => "not_found",
            Self::ContextTooLong => "context_length",
            Self::ContentFiltered => "content_filtered",
            Self::TooLarge => "payload_too_large",
            Self::Unsupported => "unsupported",
            Self::Rejected => "invalid_request",
            Self::Malformed => "malformed_response",
            Self::Cancelled => "cancelled",
        }
    }

    const fn default_scope(self) -> Scope {
        match self {
            Self::Throttled | Self::NotFound => Scope::Model,
            Self::QuotaExhausted => Scope::Account,
            Self::Unauthorized => Scope::Credential,
            Self::Overloaded
            | Self::Unavailable
            | Self::TimedOut(_)
            | Self::NotProcessed
            | Self::Malformed => Scope::Provider,
            Self::Success
            | Self::ContextTooLong
            | Self::ContentFiltered
            | Self::TooLarge
            | Self::Unsupported
            | Self::Rejected
            | Self::Cancelled => Scope::Request,
        }
    }

    const fn default_may_fail_over(self) -> bool {
        !matches!(
            self,
            Self::Success | Self::ContentFiltered | Self::Rejected | Self::Cancelled
        )
    }

    const fn default_may_repeat(self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Overloaded
                | Self::Unavailable
                | Self::TimedOut(_)
                | Self::NotProcessed
                | Self::Malformed
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Phase ===

impl Phase {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Connect => "connect",
            Self::Headers => "headers",
            Self::FirstToken => "first_token",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Scope ===

impl Scope {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Model => "model",
            Self::Credential => "key",
            Self::Account => "account",
            Self::Provider => "provider",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
