//! What is declared of a target, and which requests it is therefore not asked to serve.
//!
//! Two questions are kept apart. [`Guards::serves`]: can the target serve such a request at all?
//! [`Guards::follows`]: can it help after what went wrong before? A target that is asked although
//! it cannot help costs time, money and, with a refused prompt, trust.
//!
//! ```
//! use backstop_core::{Kind, Outcome};
//! use backstop_core::SkipReason;
//! use backstop_failover::{guards::{Guards, Needs, WentWrong}};
//!
//! let small = Guards::default().context_window(8_000);
//! let large = Guards::default().context_window(200_000);
//! let mut went_wrong = WentWrong::default();
//! went_wrong.failed(&small, Kind::ContextTooLong);
//! assert_eq!(small.follows(&went_wrong), Err(SkipReason::WindowNotLarger));
//! assert_eq!(large.follows(&went_wrong), Ok(()));
//!
//! let needs = Needs::default().tokens(20_000);
//! assert_eq!(small.serves(&needs), Err(SkipReason::ContextWindow));
//! ```

use backstop_core::{Kind, SkipReason};

/// What is declared of one target. Whatever is not declared is not checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guards {
    max_bytes: Option<u64>,
    context_window: Option<u64>,
    tools: bool,
    vision: bool,
    json_schema: bool,
    refused_content: bool,
    only_on: Option<Kinds>,
    price_multiple: f64,
}

/// What one request needs of a target; a typed request extension.
///
/// Failover knows nothing of what a request says but its size. Who does, a layer outside, states
/// the rest here:
///
/// ```
/// use backstop_failover::guards::Needs;
/// use tower::ServiceBuilder;
///
/// let stating_needs = ServiceBuilder::new().map_request(|mut request: http::Request<String>| {
///     if request.body().contains(r#""tools":"#) {
///         request.extensions_mut().insert(Needs::default().tools());
///     }
///     request
/// });
/// # let _ = stating_needs;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Needs {
    bytes: Option<u64>,
    tokens: Option<u64>,
    tools: bool,
    vision: bool,
    json_schema: bool,
    max_price_multiple: Option<f64>,
}

/// What went wrong for one request so far, with all targets that were asked or skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WentWrong {
    kinds: Kinds,
    /// The largest context window that was too small; zero for one that was not declared.
    window_above: Option<u64>,
    /// The largest request size that was too small, if it was declared.
    bytes_above: Option<u64>,
}

/// A set of kinds of outcomes.
///
/// ```
/// use backstop_core::Kind;
/// use backstop_failover::guards::Kinds;
///
/// let limits: Kinds = [Kind::Throttled, Kind::QuotaExhausted].into_iter().collect();
/// assert!(limits.contains(Kind::Throttled) && !limits.contains(Kind::Unavailable));
/// assert_eq!(Kinds::named("rate_limited"), Some([Kind::Throttled].into_iter().collect()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u32);

/// The names of all kinds: the place of each is its bit.
const NAMES: [&str; 16] = [
    "success",
    "rate_limited",
    "quota_exhausted",
    "overloaded",
    "unavailable",
    "timeout",
    "not_processed",
    "auth",
    "not_found",
    "context_length",
    "content_filtered",
    "payload_too_large",
    "unsupported",
    "invalid_request",
    "malformed_response",
    "cancelled",
];

// === impl Guards ===

impl Guards {
    /// The largest request it takes, in bytes.
    #[must_use]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How many tokens the model's context window holds.
    ///
    /// A request that another target refused because it did not fit is only offered to targets
    /// that declare a larger window. A window that is not declared counts as smaller than any that
    /// is.
    #[must_use]
    pub const fn context_window(mut self, tokens: u64) -> Self {
        self.context_window = Some(tokens);
        self
    }

    /// Whether it can call tools. Default: yes.
    #[must_use]
    pub const fn tools(mut self, can: bool) -> Self {
        self.tools = can;
        self
    }

    /// Whether it can see images. Default: yes.
    #[must_use]
    pub const fn vision(mut self, can: bool) -> Self {
        self.vision = can;
        self
    }

    /// Whether it can answer by a JSON schema. Default: yes.
    #[must_use]
    pub const fn json_schema(mut self, can: bool) -> Self {
        self.json_schema = can;
        self
    }

    /// Whether it is shown what another target refused for its content. Default: no: shopping a
    /// refused prompt around is a decision for the operator.
    #[must_use]
    pub const fn refused_content(mut self, takes: bool) -> Self {
        self.refused_content = takes;
        self
    }

    /// Keeps it for requests with which one of these went wrong before. It is then never asked
    /// first.
    #[must_use]
    pub const fn only_on(mut self, kinds: Kinds) -> Self {
        self.only_on = Some(kinds);
        self
    }

    /// What it costs, as a multiple of what the operator compares by, usually the first target.
    /// Default: 1.
    #[must_use]
    pub const fn price_multiple(mut self, multiple: f64) -> Self {
        self.price_multiple = multiple;
        self
    }

    /// Whether it can serve a request with these needs.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn serves(&self, needs: &Needs) -> Result<(), SkipReason> {
        let exceeds = |need: Option<u64>, most: Option<u64>| {
            need.zip(most).is_some_and(|(need, most)| need > most)
        };
        if exceeds(needs.bytes, self.max_bytes) {
            return Err(SkipReason::RequestTooLarge);
        }
        if exceeds(needs.tokens, self.context_window) {
            return Err(SkipReason::ContextWindow);
        }
        if needs.tools && !self.tools {
            return Err(SkipReason::NoTools);
        }
        if needs.vision && !self.vision {
            return Err(SkipReason::NoVision);
        }
        if needs.json_schema && !self.json_schema {
            return Err(SkipReason::NoJsonSchema);
        }
        if needs
            .max_price_multiple
            .is_some_and(|most| self.price_multiple > most)
        {
            return Err(SkipReason::TooDear);
        }
        Ok(())
    }

    /// Whether it can help after what went wrong.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub fn follows(&self, went_wrong: &WentWrong) -> Result<(), SkipReason> {
        if let Some(only_on) = self.only_on
            && !only_on.overlaps(went_wrong.kinds)
        {
            return Err(SkipReason::OnlyOn);
        }
        if let Some(above) = went_wrong.window_above
            && self.context_window.is_none_or(|window| window <= above)
        {
            return Err(SkipReason::WindowNotLarger);
        }
        if let (Some(above), Some(most)) = (went_wrong.bytes_above, self.max_bytes)
            && most <= above
        {
            return Err(SkipReason::RequestTooLarge);
        }
        if went_wrong.kinds.contains(Kind::ContentFiltered) && !self.refused_content {
            return Err(SkipReason::ContentNotOptedIn);
        }
        Ok(())
    }
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            max_bytes: None,
            context_window: None,
            tools: true,
            vision: true,
            json_schema: true,
            refused_content: false,
            only_on: None,
            price_multiple: 1.0,
        }
    }
}

// === impl Needs ===

impl Needs {
    /// The size of the request.
    #[must_use]
    pub const fn bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// The tokens of the request and of the answer it asks for, by estimate.
    ///
    /// There is no default, since a wrong estimate keeps a request from a target that would have
    /// served it. Four bytes a token is a usual guess for English text; an image as base64 has
    /// a hundred times as many.
    #[must_use]
    pub const fn tokens(mut self, tokens: u64) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// It has tools.
    #[must_use]
    pub const fn tools(mut self) -> Self {
        self.tools = true;
        self
    }

    /// It holds images.
    #[must_use]
    pub const fn vision(mut self) -> Self {
        self.vision = true;
        self
    }

    /// It asks for an answer by a JSON schema.
    #[must_use]
    pub const fn json_schema(mut self) -> Self {
        self.json_schema = true;
        self
    }

    /// The most that an answer may cost, as a multiple; see [`Guards::price_multiple`].
    #[must_use]
    pub const fn max_price_multiple(mut self, multiple: f64) -> Self {
        self.max_price_multiple = Some(multiple);
        self
    }

    /// The size of the request, if it is known so far.
    #[must_use]
    pub const fn known_bytes(&self) -> Option<u64> {
        self.bytes
    }
}

// === impl WentWrong ===

impl WentWrong {
    /// The target that declares `guards` was asked and failed.
    pub fn failed(&mut self, guards: &Guards, kind: Kind) {
        self.kinds = self.kinds.with(kind);
        match kind {
            Kind::ContextTooLong => {
                let window = guards.context_window.unwrap_or(0);
                self.window_above = self.window_above.max(Some(window));
            }
            Kind::TooLarge => self.bytes_above = self.bytes_above.max(guards.max_bytes),
            _ => {}
        }
    }

    /// A target was not asked. It counts as [`SkipReason::stands_for`] for those that are kept for
    /// certain outcomes, and demands nothing of the others: an estimate is no refusal.
    pub fn skipped(&mut self, reason: SkipReason) {
        self.kinds = self.kinds.with(reason.stands_for());
    }

    /// All kinds so far.
    #[must_use]
    pub const fn kinds(&self) -> Kinds {
        self.kinds
    }
}

// === impl Kinds ===

impl Kinds {
    /// This set and `kind`. A timeout counts without its phase.
    #[must_use]
    pub fn with(self, kind: Kind) -> Self {
        self.union(Self::named(kind.as_str()).unwrap_or_default())
    }

    /// The set of the kind with this stable name ([`Kind::as_str`]).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let bit = NAMES.iter().position(|known| *known == name)?;
        Some(Self(1 << bit))
    }

    /// The names that [`named`](Self::named) knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter()
    }

    /// Whether `kind` is among them.
    #[must_use]
    pub fn contains(self, kind: Kind) -> bool {
        self.overlaps(Self::default().with(kind))
    }

    /// All of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether both have one in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::Phase;

    use super::*;

    const ALL: [Kind; 16] = [
        Kind::Success,
        Kind::Throttled,
        Kind::QuotaExhausted,
        Kind::Overloaded,
        Kind::Unavailable,
        Kind::TimedOut(Phase::FirstToken),
        Kind::NotProcessed,
        Kind::Unauthorized,
        Kind::NotFound,
        Kind::ContextTooLong,
        Kind::ContentFiltered,
        Kind::TooLarge,
        Kind::Unsupported,
        Kind::Rejected,
        Kind::Malformed,
        Kind::Cancelled,
    ];

    fn after(failures: &[(Guards, Kind)]) -> WentWrong {
        let mut went_wrong = WentWrong::default();
        for (guards, kind) in failures {
            went_wrong.failed(guards, *kind);
        }
        went_wrong
    }

    #[test]
    fn every_kind_is_told_from_every_other() {
        for (place, kind) in ALL.into_iter().enumerate() {
            let set: Kinds = [kind].into_iter().collect();
            for (other_place, other) in ALL.into_iter().enumerate() {
                assert_eq!(set.contains(other), place == other_place, "{kind} {other}");
            }
        }
        assert_eq!(Kinds::named("no such kind"), None);
        assert!(Kinds::names().eq(ALL.into_iter().map(Kind::as_str)));
    }

    #[test]
    fn each_need_is_checked_against_its_declaration() {
        let plain = Guards::default();
        let none = Needs::default();
        let cases = [
            (
                plain.max_bytes(10),
                none.bytes(11),
                SkipReason::RequestTooLarge,
            ),
            (
                plain.context_window(10),
                none.tokens(11),
                SkipReason::ContextWindow,
            ),
            (plain.tools(false), none.tools(), SkipReason::NoTools),
            (plain.vision(false), none.vision(), SkipReason::NoVision),
            (
                plain.json_schema(false),
                none.json_schema(),
                SkipReason::NoJsonSchema,
            ),
            (
                plain.price_multiple(3.1),
                none.max_price_multiple(3.0),
                SkipReason::TooDear,
            ),
        ];
        for (guards, needs, reason) in cases {
            assert_eq!(guards.serves(&needs), Err(reason));
            assert_eq!(guards.serves(&none), Ok(()), "{reason}");
            assert_eq!(plain.serves(&needs), Ok(()), "{reason}");
        }
        assert_eq!(plain.max_bytes(10).serves(&none.bytes(10)), Ok(()));
        assert_eq!(plain.context_window(10).serves(&none.tokens(10)), Ok(()));
    }

    #[test]
    fn too_long_goes_to_a_larger_window_only_whatever_failed_since() {
        let window = |tokens| Guards::default().context_window(tokens);
        let undeclared = Guards::default();
        let cases: [(&[_], _, bool); 7] = [
            (&[(window(8), Kind::ContextTooLong)], window(9), true),
            (&[(window(8), Kind::ContextTooLong)], window(8), false),
            (&[(window(8), Kind::ContextTooLong)], undeclared, false),
            (&[(undeclared, Kind::ContextTooLong)], window(1), true),
            (&[(undeclared, Kind::ContextTooLong)], undeclared, false),
            (
                &[
                    (window(8), Kind::ContextTooLong),
                    (window(100), Kind::Unavailable),
                ],
                window(4),
                false,
            ),
            (
                &[
                    (window(8), Kind::ContextTooLong),
                    (window(4), Kind::ContextTooLong),
                ],
                window(6),
                false,
            ),
        ];
        for (failures, next, may) in cases {
            let expected = may.then_some(()).ok_or(SkipReason::WindowNotLarger);
            assert_eq!(next.follows(&after(failures)), expected);
        }
    }

    #[test]
    fn too_large_does_not_go_to_one_that_takes_no_more() {
        let most = |bytes| Guards::default().max_bytes(bytes);
        let went_wrong = after(&[(most(100), Kind::TooLarge)]);
        assert_eq!(
            most(100).follows(&went_wrong),
            Err(SkipReason::RequestTooLarge)
        );
        assert_eq!(most(101).follows(&went_wrong), Ok(()));
        assert_eq!(Guards::default().follows(&went_wrong), Ok(()));
    }

    #[test]
    fn refused_content_goes_where_it_is_opted_in() {
        let went_wrong = after(&[(Guards::default(), Kind::ContentFiltered)]);
        assert_eq!(
            Guards::default().follows(&went_wrong),
            Err(SkipReason::ContentNotOptedIn)
        );
        let opted_in = Guards::default().refused_content(true);
        assert_eq!(opted_in.follows(&went_wrong), Ok(()));
    }

    #[test]
    fn one_that_is_kept_for_some_outcomes_is_asked_after_those_only() {
        let kept = Guards::default().only_on([Kind::Throttled].into_iter().collect());
        assert_eq!(kept.follows(&WentWrong::default()), Err(SkipReason::OnlyOn));
        assert_eq!(
            kept.follows(&after(&[(Guards::default(), Kind::Unavailable)])),
            Err(SkipReason::OnlyOn)
        );
        let mut skipped = WentWrong::default();
        skipped.skipped(SkipReason::Throttled);
        assert_eq!(kept.follows(&skipped), Ok(()));
    }

    #[test]
    fn an_estimate_is_no_refusal() {
        let mut skipped = WentWrong::default();
        skipped.skipped(SkipReason::ContextWindow);
        assert_eq!(Guards::default().follows(&skipped), Ok(()));
    }
}
