use std::{error::Error, fmt, time::Duration};

/// The longest limit that is accepted: 7 days.
///
/// Nothing that a caller waits for takes longer, and the timer wheel of tokio ends at about two
/// years. What should have no limit is `None`.
pub const MAX_LIMIT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long each phase of a call may take.
///
/// `None` leaves a phase unlimited. The defaults are for model traffic, where a healthy call may
/// take minutes: they end what is dead, and leave it to [`TimeLimits`] and to the [`Deadline`] of
/// a request to be strict where the caller knows more.
///
/// [`TimeLimits`]: backstop_core::TimeLimits
/// [`Deadline`]: backstop_core::Deadline
///
/// ```
/// use std::time::Duration;
/// use backstop_timeout::Limits;
///
/// let limits = Limits::default()
///     .first_token(Duration::from_secs(10))
///     .within(Duration::from_secs(300))
///     .ready(None);
/// assert!(limits.validate().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Waiting for the inner service to be ready. Default: 10 s.
    ///
    /// Whoever waits longer for a place in a queue is better served by another target.
    pub ready: Option<Duration>,
    /// From the first poll of the call to the head of the response. Default: 10 min.
    ///
    /// An answer that is not streamed sends its head when the whole text is written, which takes
    /// minutes; ten is the limit of the official OpenAI and Anthropic SDKs. For streams it can be
    /// much shorter.
    ///
    /// The time in which the request itself is sent counts: the body of a request is the inner
    /// service's, and this layer does not look at it. Where bodies come from slow clients and are
    /// passed on as they come, read them before the call, or give such a request a longer limit by
    /// its [`TimeLimits`](backstop_core::TimeLimits).
    pub headers: Option<Duration>,
    /// From the head to the first semantic token. Default: 120 s.
    ///
    /// Models that reason without showing it are silent for a minute or two before their first
    /// token.
    pub first_token: Option<Duration>,
    /// What each MiB of the request adds to `first_token`, in proportion. Default: 15 s.
    ///
    /// A MiB is about 250,000 tokens of English, and a long prompt is read at some 20,000 tokens a
    /// second. It has no effect where the size of the request is not known.
    pub first_token_per_mib: Duration,
    /// Between two semantic events of a stream. Default: 60 s.
    ///
    /// Tokens come many times a second; a minute is left for tool arguments that a provider sends
    /// in one piece.
    pub idle: Option<Duration>,
    /// Between two semantic events while keep-alives come, at most `idle` apart. Default: 5 min.
    ///
    /// Pings and comments say that the connection lives, not that the model does. `None`: they
    /// count for nothing, and `idle` alone holds.
    pub keep_alive: Option<Duration>,
    /// The least that must come after the first token. Default: none.
    pub floor: Option<Floor>,
    /// How long a stream may stay open after its proper end. Default: 2 s.
    ///
    /// Some providers do not close. What belongs to the answer after its end (usage, `[DONE]`,
    /// trailers) is sent together with it; then the body ends cleanly, without an error.
    pub end_grace: Duration,
    /// The whole call, from the call to the end of the body. Default: none.
    ///
    /// One clock for everything ends healthy streams of long answers; the limits above notice every
    /// way in which a call can hang.
    pub total: Option<Duration>,
}

/// The least throughput of a stream that has begun to answer.
///
/// In every `grace` of waiting for the provider, `bytes_per_second * grace` bytes must come in
/// chunks that bring content. As soon as they have come, the next `grace` begins. Time in which the
/// reader does not read does not count.
///
/// The bytes are those of the wire: a token in an SSE event of the OpenAI dialect is 150 to 300.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Floor {
    /// Bytes per second.
    pub bytes_per_second: u32,
    /// Over which time they are averaged; a stream may be silent for that long.
    pub grace: Duration,
}

/// A limit that cannot be meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Zero,
    Infinite,
    Exceeds(&'static str),
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            ready: Some(Duration::from_secs(10)),
            headers: Some(Duration::from_secs(600)),
            first_token: Some(Duration::from_secs(120)),
            first_token_per_mib: Duration::from_secs(15),
            idle: Some(Duration::from_secs(60)),
            keep_alive: Some(Duration::from_secs(300)),
            floor: None,
            end_grace: Duration::from_secs(2),
            total: None,
        }
    }
}

impl Limits {
    /// No limit at all, but that a stream which has ended properly is closed after 2 s.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            ready: None,
            headers: None,
            first_token: None,
            first_token_per_mib: Duration::ZERO,
            idle: None,
            keep_alive: None,
            floor: None,
            total: None,
            ..Self::default()
        }
    }

    /// Limits waiting for the inner service; see [`ready`](Self::ready).
    #[must_use]
    pub fn ready(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.ready = limit.into();
        self
    }

    /// Limits the wait for the head; see [`headers`](Self::headers).
    #[must_use]
    pub fn headers(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.headers = limit.into();
        self
    }

    /// Limits the wait for the first token; see [`first_token`](Self::first_token).
    #[must_use]
    pub fn first_token(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.first_token = limit.into();
        self
    }

    /// Grows the wait for the first token with the request; zero: not at all. See
    /// [`first_token_per_mib`](Self::first_token_per_mib).
    #[must_use]
    pub fn first_token_per_mib(mut self, more: Duration) -> Self {
        self.first_token_per_mib = more;
        self
    }

    /// Limits the gap between semantic events; see [`idle`](Self::idle).
    #[must_use]
    pub fn idle(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle = limit.into();
        self
    }

    /// Limits the gap that keep-alives may bridge; see [`keep_alive`](Self::keep_alive).
    #[must_use]
    pub fn keep_alive(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.keep_alive = limit.into();
        self
    }

    /// Asks for a least throughput; see [`floor`](Self::floor).
    #[must_use]
    pub fn floor(mut self, floor: impl Into<Option<Floor>>) -> Self {
        self.floor = floor.into();
        self
    }

    /// Sets how long a stream may stay open after its end; see [`end_grace`](Self::end_grace).
    #[must_use]
    pub fn end_grace(mut self, grace: Duration) -> Self {
        self.end_grace = grace;
        self
    }

    /// Limits the whole call; see [`total`](Self::total). The other limits must not exceed it;
    /// [`within`](Self::within) sees to that.
    #[must_use]
    pub fn total(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.total = limit.into();
        self
    }

    /// Limits the whole call, and shortens every other limit that exceeds it.
    #[must_use]
    pub fn within(mut self, total: Duration) -> Self {
        for limit in [
            &mut self.headers,
            &mut self.first_token,
            &mut self.idle,
            &mut self.keep_alive,
        ] {
            *limit = limit.map(|limit| limit.min(total));
        }
        self.floor = self.floor.map(|floor| Floor {
            grace: floor.grace.min(total),
            ..floor
        });
        self.total = Some(total);
        self
    }

    /// Checks that every limit can be meant. A layer does so when it is built.
    ///
    /// # Errors
    ///
    /// Names the field that is zero, longer than [`MAX_LIMIT`], or longer than a limit that contains
    /// it: `idle` may not exceed `keep_alive`, and no phase of a call may exceed `total`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let phases = [
            ("ready", self.ready),
            ("headers", self.headers),
            ("first_token", self.first_token),
            ("idle", self.idle),
            ("keep_alive", self.keep_alive),
            ("floor.grace", self.floor.map(|floor| floor.grace)),
            ("end_grace", Some(self.end_grace)),
            ("total", self.total),
        ];
        for (field, limit) in phases {
            if limit.is_some_and(|limit| limit.is_zero()) {
                return Err(ConfigError::new(field, Problem::Zero));
            }
            if limit.is_some_and(|limit| limit > MAX_LIMIT) {
                return Err(ConfigError::new(field, Problem::Infinite));
            }
        }
        if self.first_token_per_mib > MAX_LIMIT {
            return Err(ConfigError::new("first_token_per_mib", Problem::Infinite));
        }
        if self.floor.is_some_and(|floor| floor.bytes_per_second == 0) {
            return Err(ConfigError::new("floor.bytes_per_second", Problem::Zero));
        }
        if exceeds(self.idle, self.keep_alive) {
            return Err(ConfigError::new("idle", Problem::Exceeds("keep_alive")));
        }
        // Waiting for readiness comes before the call, and the grace after its end.
        for (field, limit) in &phases[1..6] {
            if exceeds(*limit, self.total) {
                return Err(ConfigError::new(field, Problem::Exceeds("total")));
            }
        }
        Ok(())
    }
}

fn exceeds(limit: Option<Duration>, other: Option<Duration>) -> bool {
    matches!((limit, other), (Some(limit), Some(other)) if limit > other)
}

// === impl Floor ===

impl Floor {
    /// At least `bytes_per_second`, averaged over `grace`.
    #[must_use]
    pub const fn new(bytes_per_second: u32, grace: Duration) -> Self {
        Self {
            bytes_per_second,
            grace,
        }
    }

    /// The bytes that must come in one `grace`; at least one.
    pub(crate) fn needed(&self) -> u64 {
        let bytes = u128::from(self.bytes_per_second) * self.grace.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX).max(1)
    }
}

// === impl ConfigError ===

impl ConfigError {
    const fn new(field: &'static str, problem: Problem) -> Self {
        Self { field, problem }
    }

    pub(crate) fn check(field: &'static str, limit: Duration) -> Result<(), Self> {
        if limit.is_zero() {
            return Err(Self::new(field, Problem::Zero));
        }
        if limit > MAX_LIMIT {
            return Err(Self::new(field, Problem::Infinite));
        }
        Ok(())
    }

    /// The field that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.field;
        match self.problem {
            Problem::Zero => write!(f, "the limit `{field}` is zero: nothing could meet it"),
            Problem::Infinite => write!(
                f,
                "the limit `{field}` is longer than 7 days: for no limit, leave it out"
            ),
            Problem::Exceeds(other) => write!(
                f,
                "the limit `{field}` is longer than `{other}`, which would always be first"
            ),
        }
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    type Set = fn(Limits, Duration) -> Limits;

    const PHASES: [(&str, Set); 8] = [
        ("ready", |limits, limit| limits.ready(limit)),
        ("headers", |limits, limit| limits.headers(limit)),
        ("first_token", |limits, limit| limits.first_token(limit)),
        ("idle", |limits, limit| limits.idle(limit)),
        ("keep_alive", |limits, limit| limits.keep_alive(limit)),
        ("floor.grace", |limits, limit| {
            limits.floor(Floor::new(1, limit))
        }),
        ("end_grace", |limits, limit| limits.end_grace(limit)),
        ("total", |limits, limit| limits.total(limit)),
    ];

    fn refused(limits: &Limits) -> (&'static str, String) {
        let error = limits.validate().unwrap_err();
        assert!(error.to_string().contains(error.field()));
        (error.field(), error.to_string())
    }

    #[test]
    fn the_defaults_are_valid_and_so_is_no_limit() {
        assert_eq!(Limits::default().validate(), Ok(()));
        assert_eq!(Limits::unlimited().validate(), Ok(()));
    }

    #[test]
    fn a_limit_of_zero_or_without_end_is_refused_by_name() {
        for (field, set) in PHASES {
            let (named, text) = refused(&set(Limits::unlimited(), Duration::ZERO));
            assert_eq!(named, field);
            assert!(text.contains("zero"), "{text}");
            for endless in [Duration::MAX, MAX_LIMIT + Duration::from_nanos(1)] {
                let (named, text) = refused(&set(Limits::unlimited(), endless));
                assert_eq!(named, field);
                assert!(text.contains("7 days"), "{text}");
            }
            assert_eq!(set(Limits::unlimited(), MINUTE).validate(), Ok(()));
            assert_eq!(set(Limits::unlimited(), MAX_LIMIT).validate(), Ok(()));
        }
        let endless = Limits::default().first_token_per_mib(Duration::MAX);
        assert_eq!(refused(&endless).0, "first_token_per_mib");
        let none = Limits::default().floor(Floor::new(0, MINUTE));
        assert_eq!(refused(&none).0, "floor.bytes_per_second");
    }

    #[test]
    fn inverted_limits_are_refused_by_both_names() {
        for (field, set) in &PHASES[1..6] {
            let inverted = set(Limits::unlimited().total(MINUTE), 2 * MINUTE);
            let (named, text) = refused(&inverted);
            assert_eq!(named, *field);
            assert!(text.contains("`total`"), "{text}");
        }
        let inverted = Limits::unlimited().idle(2 * MINUTE).keep_alive(MINUTE);
        let (named, text) = refused(&inverted);
        assert_eq!(named, "idle");
        assert!(text.contains("`keep_alive`"), "{text}");
    }

    proptest! {
        #[test]
        fn limits_within_a_total_are_valid(millis in 1..MAX_LIMIT.as_millis()) {
            let total = Duration::from_millis(u64::try_from(millis).expect("7 days fit"));
            let limits = Limits::default().floor(Floor::new(1, MINUTE)).within(total);
            prop_assert_eq!(limits.validate(), Ok(()));
            prop_assert_eq!(limits.total, Some(total));
        }
    }
}
