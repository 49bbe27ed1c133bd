//! The rows that all tables are made of.

use backstop_core::{Kind, Outcome, Phase, Scope};

use super::envelope::Report;

/// One row: when it holds, what it says, and where that is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// What decided, for people.
    evidence: &'static str,
    /// The document, source or report that the row rests on.
    pub(super) source: &'static str,
    /// Statuses it holds for; a single digit stands for its hundred, [`NONE`] for no status at
    /// all (an error inside a stream or a 200). Empty: any.
    statuses: &'static [u16],
    /// Typed words, in lower case, one of which some typed field must equal. Empty: not asked.
    words: &'static [&'static str],
    /// Phrases, in lower case, one of which the message must contain. Empty: not asked.
    any: &'static [&'static str],
    /// Phrases that the message must contain as well.
    all: &'static [&'static str],
    /// Phrases that the message must not contain.
    none: &'static [&'static str],
    /// Whether it holds only where nothing is said at all.
    silent: bool,
    outcome: Outcome,
}

/// The rows of one provider family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// What goes before the shared rows.
    pub(super) rows: &'static [Rule],
    /// What a status means here, when no row, shared ones included, tells more.
    pub(super) last: &'static [Rule],
}

/// No status: the error came inside a stream or under a 200 and names none itself.
pub(super) const NONE: u16 = 0;

// === impl Rule ===

impl Rule {
    pub(super) const fn new(evidence: &'static str, source: &'static str) -> Self {
        Self {
            evidence,
            source,
            statuses: &[],
            words: &[],
            any: &[],
            all: &[],
            none: &[],
            silent: false,
            outcome: Outcome::new(Kind::Unavailable),
        }
    }

    pub(super) const fn on(mut self, statuses: &'static [u16]) -> Self {
        self.statuses = statuses;
        self
    }

    pub(super) const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    pub(super) const fn text(mut self, any: &'static [&'static str]) -> Self {
        self.any = any;
        self
    }

    pub(super) const fn and(mut self, all: &'static [&'static str]) -> Self {
        self.all = all;
        self
    }

    pub(super) const fn but_not(mut self, none: &'static [&'static str]) -> Self {
        self.none = none;
        self
    }

    pub(super) const fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    pub(super) const fn says(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome.with_evidence(self.evidence);
        self
    }

    pub(super) const fn evidence(&self) -> &'static str {
        self.evidence
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &'static str> {
        let texts = [self.words, self.any, self.all, self.none];
        texts.into_iter().flatten().copied()
    }

    /// What the row says of a report, if it holds.
    pub(super) fn decide(&self, report: &Report) -> Option<Outcome> {
        let status = report.status.unwrap_or(NONE);
        let on_status = self.statuses.is_empty()
            || self
                .statuses
                .iter()
                .any(|known| *known == status || (*known != NONE && *known == status / 100));
        let holds = on_status
            && !(self.silent && report.says_anything())
            && (self.words.is_empty() || self.words.iter().any(|word| report.has_word(word)))
            && (self.any.is_empty() || self.any.iter().any(|text| report.says(text)))
            && self.all.iter().all(|text| report.says(text))
            && !self.none.iter().any(|text| report.says(text));
        holds.then_some(self.outcome)
    }
}

// The verdicts that rows name. Scopes say what the limit or the fault covers.

/// A rate limit of this model with this credential.
pub(super) const LIMIT_MODEL: Outcome = Outcome::new(Kind::Throttled);
/// A rate limit of everything that uses the credential.
pub(super) const LIMIT_KEY: Outcome = LIMIT_MODEL.with_scope(Scope::Credential);
/// A rate limit of the whole account.
pub(super) const LIMIT_ACCOUNT: Outcome = LIMIT_MODEL.with_scope(Scope::Account);
/// Spent for all of the account.
pub(super) const QUOTA_ACCOUNT: Outcome = Outcome::new(Kind::QuotaExhausted);
/// Spent for one credential.
pub(super) const QUOTA_KEY: Outcome = QUOTA_ACCOUNT.with_scope(Scope::Credential);
/// Spent for one model.
pub(super) const QUOTA_MODEL: Outcome = QUOTA_ACCOUNT.with_scope(Scope::Model);
/// No capacity anywhere at the provider.
pub(super) const BUSY_PROVIDER: Outcome = Outcome::new(Kind::Overloaded);
/// No capacity for this model.
pub(super) const BUSY_MODEL: Outcome = BUSY_PROVIDER.with_scope(Scope::Model);
/// The provider failed.
pub(super) const DOWN: Outcome = Outcome::new(Kind::Unavailable);
/// This model failed or is not there yet.
pub(super) const DOWN_MODEL: Outcome = DOWN.with_scope(Scope::Model);
/// The provider gave up waiting.
pub(super) const SLOW: Outcome = Outcome::new(Kind::TimedOut(Phase::Total));
/// A gateway gave up waiting for the head of the answer.
pub(super) const NO_HEAD: Outcome = Outcome::new(Kind::TimedOut(Phase::Headers));
/// The model took too long.
pub(super) const SLOW_MODEL: Outcome = SLOW.with_scope(Scope::Model);
/// The credential is refused.
pub(super) const AUTH_KEY: Outcome = Outcome::new(Kind::Unauthorized);
/// The account lacks the right.
pub(super) const AUTH_ACCOUNT: Outcome = AUTH_KEY.with_scope(Scope::Account);
/// The right is lacking for this model.
pub(super) const AUTH_MODEL: Outcome = AUTH_KEY.with_scope(Scope::Model);
/// No such model, deployment or path.
pub(super) const NOT_FOUND: Outcome = Outcome::new(Kind::NotFound);
/// Too many tokens for the model's window.
pub(super) const CONTEXT: Outcome = Outcome::new(Kind::ContextTooLong);
/// The content is refused.
pub(super) const FILTERED: Outcome = Outcome::new(Kind::ContentFiltered);
/// Too many bytes, or more tokens than the limit ever allows at once.
pub(super) const TOO_LARGE: Outcome = Outcome::new(Kind::TooLarge);
/// The target cannot do what is asked.
pub(super) const UNSUPPORTED: Outcome = Outcome::new(Kind::Unsupported);
/// The request is wrong.
pub(super) const WRONG: Outcome = Outcome::new(Kind::Rejected);
/// The model answered this request with nonsense; sampling again may help.
pub(super) const NONSENSE_REQUEST: Outcome =
    Outcome::new(Kind::Malformed).with_scope(Scope::Request);
/// A clash of two requests: the same target, a little later.
pub(super) const CLASH: Outcome = DOWN.with_scope(Scope::Request).with_fail_over(false);
