use std::{error::Error, fmt, time::Duration};

/// How long refusals of one kind are remembered.
///
/// The wait that a server gives is raised to `floor` and cut to `cap`. When it gives none, the first
/// refusal is remembered for `backoff`, each further one for twice as long, up to `backoff_cap`; a
/// success of a request that was sent after the refusal starts over.
///
/// ```
/// use std::time::Duration;
/// use backstop_rate_limit::Waits;
///
/// let patient = Waits::THROTTLED.cap(Duration::from_secs(300));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    pub(crate) floor: Duration,
    pub(crate) cap: Duration,
    pub(crate) backoff: Duration,
    pub(crate) backoff_cap: Duration,
}

/// A setting that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    reason: &'static str,
}

/// How much a wait is lengthened at random, as a share of it, unless told otherwise: up to 10 %.
///
/// It keeps several processes that were refused together from returning together; within one, the
/// ramp does. It is never shortened, and never lengthened beyond the cap.
pub const DEFAULT_JITTER: f64 = 0.1;

/// In which time the number of requests that may return doubles, unless told otherwise: 1 second.
///
/// A refusal takes a round trip and no inference, so the answer to the first request is known before
/// the next two are sent, and so on. Providers say when *one* request fits again; a client that
/// returns with all its requests is refused again. The ramp counts from the end of the limit: ten
/// steps later all may return, whether others did before them or not.
pub const DEFAULT_RAMP: Duration = Duration::from_secs(1);

/// For how many keys limits are remembered, unless told otherwise: 1,024.
///
/// An entry is about 200 bytes. Only keys that were limited have one (all keys, when a reserve is
/// kept), and beyond that number the one that was not used for the longest time is forgotten, and one
/// that is not limited before one that is. They are kept in sixteen parts of equal size by their hash,
/// so that a part may be full somewhat earlier than all are.
pub const DEFAULT_CAPACITY: usize = 1_024;

/// How much of an error body is read to learn what it says, unless told otherwise: 64 KiB. The
/// largest error bodies of providers are a few KiB.
pub const DEFAULT_PEEK_LIMIT: usize = 64 * 1024;

/// How long an error body may take to arrive, unless told otherwise: 1 second after its head.
///
/// It is sent in one piece with its head. One that is late, or larger than is read, is passed on as it
/// comes, and what has come of it decides: the limit that the head tells of holds from then on.
pub const DEFAULT_PEEK_TIME: Duration = Duration::from_secs(1);

/// How long a request waits at most when little is left and there is no other target, unless told
/// otherwise: 8 seconds.
///
/// As long as the official OpenAI and Anthropic clients wait at most before they try again by
/// themselves, which is what a refusal would make them do.
pub const DEFAULT_PACE: Duration = Duration::from_secs(8);

/// The settings of a layer, validated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) throttled: Waits,
    pub(crate) quota: Waits,
    pub(crate) overloaded: Waits,
    pub(crate) jitter: f64,
    pub(crate) ramp: Duration,
    pub(crate) wait_up_to: Option<Duration>,
    pub(crate) shift_below: Option<f64>,
    pub(crate) pace_up_to: Option<Duration>,
    pub(crate) capacity: usize,
    pub(crate) peek_limit: usize,
    pub(crate) peek_time: Duration,
}

// === impl Waits ===

impl Waits {
    /// For rate limits: half a second to a minute, back-off from one second to a minute.
    ///
    /// The floor is the shortest delay of the official OpenAI and Anthropic clients; hints of zero
    /// are seen in the field. The cap is the window over which providers count, and what most
    /// gateways accept (LiteLLM, Portkey): after it one request finds out whether the limit holds.
    pub const THROTTLED: Self = Self {
        floor: Duration::from_millis(500),
        cap: Duration::from_secs(60),
        backoff: Duration::from_secs(1),
        backoff_cap: Duration::from_secs(60),
    };

    /// For spent quotas: a second to a day, back-off from a minute to an hour.
    ///
    /// A quota comes back by the day, by the month or when somebody pays. Beyond the cap, one
    /// refused request a day finds out; without a hint, one an hour, so that a refilled account is
    /// not left alone for long.
    pub const QUOTA: Self = Self {
        floor: Duration::from_secs(1),
        cap: Duration::from_secs(24 * 60 * 60),
        backoff: Duration::from_secs(60),
        backoff_cap: Duration::from_secs(60 * 60),
    };

    /// For a lack of capacity: half a second to a minute, back-off from one second to a minute.
    ///
    /// Providers seldom say how long it lasts, and it usually lasts seconds.
    pub const OVERLOADED: Self = Self::THROTTLED;

    /// The shortest wait that is observed, whatever the server says.
    #[must_use]
    pub const fn floor(mut self, floor: Duration) -> Self {
        self.floor = floor;
        self
    }

    /// The longest wait that is observed, whatever the server says.
    #[must_use]
    pub const fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// The first and the longest wait when the server says nothing.
    #[must_use]
    pub const fn backoff(mut self, first: Duration, cap: Duration) -> Self {
        self.backoff = first;
        self.backoff_cap = cap;
        self
    }

    /// The wait that a server asked for, within bounds.
    pub(crate) fn given(&self, delay: Duration) -> Duration {
        delay.max(self.floor).min(self.cap)
    }

    /// The wait after this many refusals without a hint, the first being 1.
    pub(crate) fn computed(&self, strikes: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(strikes.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.backoff.saturating_mul(factor).min(self.backoff_cap)
    }

    fn validate(&self, field: &'static str) -> Result<(), ConfigError> {
        /// Thirty years: what fits the clock of the memory.
        const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        let reason = if self.floor > self.cap {
            "the floor is above the cap"
        } else if self.backoff.is_zero() {
            "the back-off is zero"
        } else if self.backoff > self.backoff_cap {
            "the first back-off is above the longest"
        } else if self.cap > LONGEST || self.backoff_cap > LONGEST {
            "the cap is longer than 30 years"
        } else {
            return Ok(());
        };
        Err(ConfigError { field, reason })
    }
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            throttled: Waits::THROTTLED,
            quota: Waits::QUOTA,
            overloaded: Waits::OVERLOADED,
            jitter: DEFAULT_JITTER,
            ramp: DEFAULT_RAMP,
            wait_up_to: None,
            shift_below: None,
            pace_up_to: None,
            capacity: DEFAULT_CAPACITY,
            peek_limit: DEFAULT_PEEK_LIMIT,
            peek_time: DEFAULT_PEEK_TIME,
        }
    }
}

impl Config {
    /// How long a request may be paced, where a reserve is kept.
    pub(crate) fn pace(&self) -> Duration {
        self.pace_up_to.unwrap_or(DEFAULT_PACE)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let error = |field, reason| Err(ConfigError { field, reason });
        self.throttled.validate("throttled")?;
        self.quota.validate("quota")?;
        self.overloaded.validate("overloaded")?;
        if !(0.0..=1.0).contains(&self.jitter) {
            return error("jitter", "not between 0 and 1");
        }
        if self.ramp > Duration::from_secs(60) {
            return error("ramp", "longer than a minute");
        }
        if self.wait_up_to.is_some_and(|wait| wait.is_zero()) {
            return error("wait_up_to", "zero");
        }
        if self
            .shift_below
            .is_some_and(|share| !(0.0..1.0).contains(&share))
        {
            return error("shift_below", "not a share from 0 to less than 1");
        }
        if self.pace_up_to.is_some() && self.shift_below.is_none() {
            return error("pace_up_to", "needs shift_below");
        }
        if self.capacity == 0 {
            return error("capacity", "zero");
        }
        if self.peek_limit == 0 {
            return error("peek_limit", "zero");
        }
        Ok(())
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// Which setting.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rate limit: {}: {}", self.field, self.reason)
    }
}

impl Error for ConfigError {}
