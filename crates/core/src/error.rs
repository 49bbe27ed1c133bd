#[cfg(feature = "hyper")]
mod hyper;
#[cfg(feature = "reqwest")]
mod reqwest;
#[cfg(feature = "tokio")]
mod tokio;
#[cfg(feature = "tonic")]
mod tonic;
#[cfg(feature = "tower")]
mod tower;

use std::{error::Error, fmt, io, time::Duration};

use crate::{Kind, Outcome, Phase};

/// The error that layers pass on.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// An error that carries the [`Outcome`] it stands for.
///
/// This is how a verdict travels when there is no response. `Display` prints the outcome and never
/// the text of a body; the cause is behind [`source`](Error::source).
#[derive(Debug)]
pub struct Failure {
    outcome: Outcome,
    source: Option<BoxError>,
}

/// A limit of time was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    phase: Phase,
    limit: Duration,
    waited: Duration,
}

/// The outcome that an error stands for, found by walking its `source()` chain.
///
/// The first link that says something certain decides: [`Failure`] and [`Elapsed`] of this crate,
/// then `io::Error` by its kind, then the libraries that the features of this crate name. An error
/// nobody knows is [`Kind::Unavailable`]: something failed, and another target may not.
#[must_use]
pub fn outcome_of(error: &(dyn Error + 'static)) -> Outcome {
    known_in(Some(error)).unwrap_or_else(|| {
        Outcome::new(Kind::Unavailable).with_evidence("an error of unknown type")
    })
}

/// The first error of type `E` in a chain.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        link = match error.downcast_ref().and_then(io::Error::get_ref) {
            // An io::Error hides what it wraps from its source() chain.
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn known_in(mut link: Option<&(dyn Error + 'static)>) -> Option<Outcome> {
    while let Some(error) = link {
        if let Some(outcome) = known(error) {
            return Some(outcome);
        }
        link = error.source();
    }
    None
}

fn known(error: &(dyn Error + 'static)) -> Option<Outcome> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.outcome);
    }
    if let Some(elapsed) = error.downcast_ref::<Elapsed>() {
        return Some(elapsed.outcome());
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return of_io(error);
    }
    of_library(error)
}

#[cfg_attr(
    not(any(
        feature = "hyper",
        feature = "reqwest",
        feature = "tokio",
        feature = "tonic",
        feature = "tower"
    )),
    expect(unused_variables, reason = "no library is named")
)]
fn of_library(error: &(dyn Error + 'static)) -> Option<Outcome> {
    let outcome = None;
    #[cfg(feature = "hyper")]
    let outcome = outcome.or_else(|| hyper::known(error));
    #[cfg(feature = "reqwest")]
    let outcome = outcome.or_else(|| reqwest::known(error));
    #[cfg(feature = "tokio")]
    let outcome = outcome.or_else(|| tokio::known(error));
    #[cfg(feature = "tonic")]
    let outcome = outcome.or_else(|| tonic::known(error));
    #[cfg(feature = "tower")]
    let outcome = outcome.or_else(|| tower::known(error));
    outcome
}

/// What the causes of an error say.
#[cfg(any(feature = "hyper", feature = "reqwest", feature = "tonic"))]
fn deeper(error: &(dyn Error + 'static)) -> Option<Outcome> {
    known_in(error.source())
}

/// The outcome of an error that says that no connection could be made, so that nothing was sent.
///
/// If a timer ended the attempt, whoever's it was, it ended that phase.
#[cfg(any(feature = "hyper", feature = "reqwest", feature = "tonic"))]
fn connecting(error: &(dyn Error + 'static), evidence: &'static str) -> Outcome {
    if let Some(elapsed) = Elapsed::find(error) {
        return elapsed.outcome();
    }
    match deeper(error) {
        Some(cause) if matches!(cause.kind(), Kind::TimedOut(_)) => {
            Outcome::timed_out(Phase::Connect).with_evidence(cause.evidence())
        }
        _ => Outcome::new(Kind::NotProcessed).with_evidence(evidence),
    }
}

fn of_io(error: &io::Error) -> Option<Outcome> {
    // An io::Error that wraps another error does not show it in its source() chain, only what
    // that error's own source is.
    if let Some(inner) = error.get_ref() {
        let inner: &(dyn Error + 'static) = inner;
        if let Some(outcome) = known(inner) {
            return Some(outcome);
        }
    }
    let (kind, evidence) = match error.kind() {
        io::ErrorKind::TimedOut => (Kind::TimedOut(Phase::Connect), "io: timed out"),
        io::ErrorKind::ConnectionRefused => (Kind::NotProcessed, "io: connection refused"),
        io::ErrorKind::NotConnected => (Kind::NotProcessed, "io: not connected"),
        io::ErrorKind::AddrNotAvailable => (Kind::NotProcessed, "io: address not available"),
        io::ErrorKind::HostUnreachable => (Kind::NotProcessed, "io: host unreachable"),
        io::ErrorKind::NetworkUnreachable => (Kind::NotProcessed, "io: network unreachable"),
        io::ErrorKind::ConnectionReset => (Kind::Unavailable, "io: connection reset"),
        io::ErrorKind::ConnectionAborted => (Kind::Unavailable, "io: connection aborted"),
        io::ErrorKind::BrokenPipe => (Kind::Unavailable, "io: broken pipe"),
        io::ErrorKind::UnexpectedEof => (Kind::Unavailable, "io: unexpected end of file"),
        _ => return None,
    };
    Some(Outcome::new(kind).with_evidence(evidence))
}

// === impl Failure ===

impl Failure {
    /// A failure without a further cause.
    #[must_use]
    pub const fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            source: None,
        }
    }

    /// A failure caused by `source`.
    #[must_use]
    pub fn with_source(outcome: Outcome, source: impl Into<BoxError>) -> Self {
        Self {
            outcome,
            source: Some(source.into()),
        }
    }

    /// Finds one in the `source()` chain of an error.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// What happened.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from the model: {}", self.outcome)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}

// === impl Elapsed ===

impl Elapsed {
    /// `phase` took `waited`, and `limit` was allowed.
    #[must_use]
    pub const fn new(phase: Phase, limit: Duration, waited: Duration) -> Self {
        Self {
            phase,
            limit,
            waited,
        }
    }

    /// Finds one in the `source()` chain of an error.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        find(error)
    }

    /// Where the time went.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// How long was allowed.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// How long it took until the limit was noticed.
    #[must_use]
    pub const fn waited(&self) -> Duration {
        self.waited
    }

    /// Whether the service never became ready.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Whether no connection was made.
    #[must_use]
    pub const fn is_connect(&self) -> bool {
        matches!(self.phase, Phase::Connect)
    }

    /// Whether the head of the response did not come.
    #[must_use]
    pub const fn is_headers(&self) -> bool {
        matches!(self.phase, Phase::Headers)
    }

    /// Whether the first semantic token did not come.
    #[must_use]
    pub const fn is_first_token(&self) -> bool {
        matches!(self.phase, Phase::FirstToken)
    }

    /// Whether a stream that had begun to answer fell silent.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether the whole call took too long.
    #[must_use]
    pub const fn is_total(&self) -> bool {
        matches!(self.phase, Phase::Total)
    }

    /// The outcome that this stands for.
    ///
    /// A service that was never ready or never connected has not processed the request, but it was
    /// too slow all the same: the kind stays [`Kind::TimedOut`] with the phase.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        Outcome::timed_out(self.phase).with_evidence("a time limit of this stack")
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.phase {
            Phase::Ready => "the service was not ready",
            Phase::Connect => "no connection was made",
            Phase::Headers => "the model sent no response head",
            Phase::FirstToken => "the model sent no first token",
            Phase::Idle => "the model fell silent",
            Phase::Total => "the call was not over",
        };
        write!(f, "{what} within {:?} ({} limit)", self.limit, self.phase)
    }
}

impl Error for Elapsed {}
