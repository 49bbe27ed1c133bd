use std::time::Duration;

use http::Extensions;

/// What a provider says is left of its limits, from the headers of any answer; a typed response
/// extension.
///
/// Bounded and without allocation: a response states at most a handful of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    entries: [Option<Allowance>; Self::CAPACITY],
}

/// One limit: how much is allowed, how much is left, and when it is full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// What is counted.
    pub dimension: Dimension,
    /// Over which time.
    pub window: Window,
    /// How much is allowed in the window.
    pub limit: Option<u64>,
    /// How much is left.
    pub remaining: Option<u64>,
    /// How long until it is full again, counted from when the response arrived.
    pub reset: Option<Duration>,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dimension {
    /// Requests.
    Requests,
    /// Tokens of both directions.
    Tokens,
    /// Tokens of the prompt.
    InputTokens,
    /// Tokens of the answer.
    OutputTokens,
}

/// The time over which a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Window {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
    /// The response does not say.
    Unknown,
}

// === impl Headroom ===

impl Headroom {
    /// How many limits are kept; more are dropped. The most that any provider is known to send is
    /// six (Anthropic: requests, tokens, input and output tokens; IETF policies: two).
    pub const CAPACITY: usize = 6;

    /// What a layer attached to a response, from its extensions; empty when the response stated
    /// nothing.
    ///
    /// ```
    /// let response = http::Response::new(());
    /// assert!(backstop_core::Headroom::of(response.extensions()).is_empty());
    /// ```
    #[must_use]
    pub fn of(response: &Extensions) -> Self {
        response.get().copied().unwrap_or_default()
    }

    /// Adds a limit. One with the same dimension and window is replaced; beyond
    /// [`CAPACITY`](Self::CAPACITY) it is dropped.
    pub fn insert(&mut self, allowance: Allowance) {
        let same = |known: &Allowance| {
            known.dimension == allowance.dimension && known.window == allowance.window
        };
        let place = self
            .entries
            .iter()
            .position(|entry| entry.as_ref().is_some_and(same))
            .or_else(|| self.entries.iter().position(Option::is_none));
        if let Some(place) = place {
            self.entries[place] = Some(allowance);
        }
    }

    /// The limits.
    pub fn iter(&self) -> impl Iterator<Item = &Allowance> {
        self.entries.iter().flatten()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The smallest share that is left of any limit, from 0 to 1.
    #[must_use]
    pub fn lowest_share(&self) -> Option<f64> {
        self.iter().filter_map(Allowance::share).reduce(f64::min)
    }
}

// === impl Allowance ===

impl Allowance {
    /// The share that is left, from 0 to 1, when both numbers are known.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        let (limit, remaining) = (self.limit?, self.remaining?);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share needs no more than 52 bits"
        )]
        let share = remaining.min(limit) as f64 / limit.max(1) as f64;
        Some(share)
    }
}
