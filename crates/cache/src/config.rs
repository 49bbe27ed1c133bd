use std::{error::Error, fmt, sync::Arc, time::Duration};

use backstop_core::{CarryExtensions, Kind, Outcome};

/// The limits of a [`CachedFallbackLayer`](crate::CachedFallbackLayer).
///
/// ```
/// use std::time::Duration;
/// use backstop_cache::CacheConfig;
///
/// let mut config = CacheConfig::default();
/// config.stale_if_error = Duration::from_secs(600);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CacheConfig {
    /// How stale an answer may be when it is served in place of an error: how long ago it ceased to
    /// be fresh. Default: one hour, the length of a long outage of a model provider; older text is
    /// more likely to be wrong than helpful. A store must keep answers for `fresh_for` and this time
    /// together.
    pub stale_if_error: Duration,
    /// How long an answer is served *without* asking a model; after that time it is stale (RFC 9111
    /// section 4.2). Default: zero, never: this is a fallback, not a cache, until asked to be one.
    pub fresh_for: Duration,
    /// Which outcomes are answered from the store. Default: [`ServeOn::rfc5861`].
    pub serve_on: ServeOn,
    /// Serve stale answers only to requests that ask for it (`cache-control: stale-if-error=N`).
    /// Default: false, whoever stacks the layer has asked for it.
    pub only_on_request: bool,
    /// The largest answer that is kept, in bytes, as it was sent and as it is recorded. Default: 1
    /// MiB. Of an answer in one piece this is more than 128 Ki tokens of text; of a stream, whose
    /// events are a hundred to three hundred bytes a token, some thousands.
    pub max_answer: usize,
    /// The largest request that is looked at, in bytes; larger ones pass by. Default: 16 MiB, the
    /// replay limit of failover.
    pub max_request: usize,
    /// How long the store may take to find an answer. Default: 50 ms, not noticed beside a model
    /// that needs half a second for its first token.
    pub lookup_timeout: Duration,
    /// How long the store may take to keep an answer. Default: one second; nobody waits for it.
    pub write_timeout: Duration,
    /// How many answers may be on their way to the store at once; more are given up. Default: 64.
    pub max_writes: usize,
    /// Whether identical concurrent calls of one tenant that are not streams share one call to the
    /// model. Default: false, since answers of models are not deterministic and callers may want
    /// several. A call that says `no-cache` or `no-store` is made for itself. If the shared call
    /// fails, those that waited for it ask for themselves, from then on with all the time that the
    /// inner service gives a call; a [`Deadline`](backstop_core::Deadline) among a request's
    /// extensions bounds the whole.
    pub coalesce: bool,
    /// Which typed extensions of a request reach the inner service.
    pub carry: CarryExtensions,
    /// What to answer when the store has nothing either. Default: nothing, the failure passes.
    pub simplified: Option<SimplifiedAnswer>,
}

/// Which outcomes are answered from the store or with the simplified answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeOn {
    limits: bool,
}

/// A text that the operator wrote, for when no model can answer.
///
/// In the text, `{outcome}` stands for the outcome and `{retry_after}` for the time to wait: "7 seconds",
/// or "a while" when it is not known.
#[derive(Clone)]
pub struct SimplifiedAnswer {
    text: Text,
    status: u16,
}

#[derive(Clone)]
enum Text {
    Template(Arc<str>),
    Function(Arc<dyn Fn(&Outcome) -> String + Send + Sync>),
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    message: &'static str,
}

// === impl CacheConfig ===

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            stale_if_error: Duration::from_secs(60 * 60),
            fresh_for: Duration::ZERO,
            serve_on: ServeOn::rfc5861(),
            only_on_request: false,
            max_answer: 1024 * 1024,
            max_request: 16 * 1024 * 1024,
            lookup_timeout: Duration::from_millis(50),
            write_timeout: Duration::from_secs(1),
            max_writes: 64,
            coalesce: false,
            carry: CarryExtensions::default(),
            simplified: None,
        }
    }
}

impl CacheConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        /// Beyond it an age is no longer exact in every representation that it passes through.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let rules = [
            (
                self.lookup_timeout.is_zero(),
                "lookup_timeout must be longer than zero",
            ),
            (
                self.write_timeout.is_zero(),
                "write_timeout must be longer than zero",
            ),
            (self.max_answer == 0, "max_answer must be at least one byte"),
            (
                self.max_request == 0,
                "max_request must be at least one byte",
            ),
            (self.max_writes == 0, "max_writes must be at least one"),
            (
                self.stale_if_error > YEAR,
                "stale_if_error must be at most 365 days",
            ),
            (self.fresh_for > YEAR, "fresh_for must be at most 365 days"),
        ];
        match rules.iter().find(|(broken, _)| *broken) {
            Some((_, message)) => Err(ConfigError { message }),
            None => Ok(()),
        }
    }
}

// === impl ServeOn ===

impl ServeOn {
    /// The errors of RFC 5861 section 4 (500, 502, 503, 504), by meaning: unavailable, overloaded,
    /// timed out, malformed.
    #[must_use]
    pub const fn rfc5861() -> Self {
        Self { limits: false }
    }

    /// Rate limits and spent quotas too. An extension of RFC 5861.
    #[must_use]
    pub const fn and_limits(mut self) -> Self {
        self.limits = true;
        self
    }

    /// Whether this outcome is answered from here.
    #[must_use]
    pub const fn contains(self, outcome: &Outcome) -> bool {
        match outcome.kind() {
            Kind::Unavailable
            | Kind::NotProcessed
            | Kind::Overloaded
            | Kind::TimedOut(_)
            | Kind::Malformed => true,
            Kind::Throttled | Kind::QuotaExhausted => self.limits,
            _ => false,
        }
    }
}

// === impl SimplifiedAnswer ===

impl SimplifiedAnswer {
    /// A text, given as an answer with status 200.
    #[must_use]
    pub fn new(template: impl Into<Arc<str>>) -> Self {
        Self {
            text: Text::Template(template.into()),
            status: 200,
        }
    }

    /// A text made for each outcome.
    #[must_use]
    pub fn with(text: impl Fn(&Outcome) -> String + Send + Sync + 'static) -> Self {
        Self {
            text: Text::Function(Arc::new(text)),
            status: 200,
        }
    }

    /// Gives the text as the message of a 503 error in place of an answer.
    #[must_use]
    pub const fn as_error(mut self) -> Self {
        self.status = 503;
        self
    }

    pub(crate) const fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn text(&self, outcome: &Outcome) -> String {
        match &self.text {
            Text::Template(template) => {
                let wait = outcome.retry_after().map_or_else(
                    || "a while".to_owned(),
                    |hint| match hint.delay.as_secs_f64().ceil() {
                        1.0 => "1 second".to_owned(),
                        seconds => format!("{seconds} seconds"),
                    },
                );
                template
                    .replace("{outcome}", outcome.kind().as_str())
                    .replace("{retry_after}", &wait)
            }
            Text::Function(text) => text(outcome),
        }
    }
}

impl fmt::Debug for SimplifiedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimplifiedAnswer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

// === impl ConfigError ===

impl ConfigError {
    pub(crate) const fn no_randomness() -> Self {
        Self {
            message: "the operating system gave no random bytes for the cache's secret",
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl Error for ConfigError {}

#[cfg(test)]
mod tests {
    use backstop_core::{HintSource, Phase};

    use super::*;

    /// RFC 5861 section 4 by meaning; limits only where they are asked for; never what the caller
    /// did.
    #[test]
    fn which_outcomes_are_answered_from_here() {
        for (kinds, plain, with_limits) in [
            (
                &[
                    Kind::Unavailable,
                    Kind::NotProcessed,
                    Kind::Overloaded,
                    Kind::TimedOut(Phase::Total),
                    Kind::Malformed,
                ][..],
                true,
                true,
            ),
            (&[Kind::Throttled, Kind::QuotaExhausted], false, true),
            (
                &[Kind::Success, Kind::Rejected, Kind::Cancelled],
                false,
                false,
            ),
        ] {
            for kind in kinds {
                let outcome = Outcome::new(*kind);
                assert_eq!(ServeOn::rfc5861().contains(&outcome), plain, "{kind:?}");
                let wide = ServeOn::rfc5861().and_limits();
                assert_eq!(wide.contains(&outcome), with_limits, "{kind:?}");
            }
        }
    }

    #[test]
    fn the_text_names_the_outcome_and_the_wait_rounded_up() {
        let answer = SimplifiedAnswer::new("{outcome}: {retry_after}, {retry_after}");
        let outcome = Outcome::new(Kind::Overloaded);
        assert_eq!(answer.text(&outcome), "overloaded: a while, a while");
        for (millis, wait) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (1_000, "1 second"),
            (1_001, "2 seconds"),
            (90_000, "90 seconds"),
        ] {
            let hint = Duration::from_millis(millis);
            let outcome = outcome.with_retry_after(hint, HintSource::Header);
            let expected = format!("overloaded: {wait}, {wait}");
            assert_eq!(answer.text(&outcome), expected);
        }
        let answer = SimplifiedAnswer::with(|outcome| format!("{}!", outcome.kind().as_str()));
        assert_eq!(answer.text(&outcome), "overloaded!");
    }
}
