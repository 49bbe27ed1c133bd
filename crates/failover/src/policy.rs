//! What follows from an outcome: pure decisions, without time or state.

use backstop_core::{Kind, Outcome};

use crate::target::About;

/// Who may be asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nobody: the answer stands.
    Nobody,
    /// Any other target.
    Anybody,
    /// Only a target that declares a larger context window.
    LargerWindow,
    /// Only a target that takes content which another refused.
    RefusedContent,
}

/// What the failures so far demand of the next target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    /// More than this many tokens of context; zero for any window that is declared.
    window_above: Option<u64>,
    refused_content: bool,
}

/// Who may be asked after `outcome`.
///
/// The caller's own faults and an answer that is whole stand as they are. The classifier's advice
/// decides the rest, but for the two refusals that only some targets can help with.
pub(crate) fn next(outcome: &Outcome) -> Next {
    match outcome.kind() {
        Kind::Success | Kind::Cancelled | Kind::Rejected | Kind::TooLarge => Next::Nobody,
        Kind::ContextTooLong => Next::LargerWindow,
        Kind::ContentFiltered => Next::RefusedContent,
        _ if outcome.may_fail_over() => Next::Anybody,
        _ => Next::Nobody,
    }
}

/// Whether an answer with this outcome is one that a caller can be shown when nobody does better.
///
/// A 200 that is none must not be passed on as if it were one.
pub(crate) const fn is_answer(outcome: &Outcome) -> bool {
    !matches!(outcome.kind(), Kind::Malformed | Kind::Cancelled)
}

// === impl Demands ===

impl Demands {
    /// Adds what follows from the failure of the target `about`. Returns whether anybody may be
    /// asked at all.
    pub(crate) fn add(&mut self, next: Next, about: &About) -> bool {
        match next {
            Next::Nobody => return false,
            Next::Anybody => {}
            Next::LargerWindow => {
                let window = about.context_window.unwrap_or(0);
                self.window_above = self.window_above.max(Some(window));
            }
            Next::RefusedContent => self.refused_content = true,
        }
        true
    }

    /// Why the target `about` cannot help, if it cannot.
    pub(crate) fn refuses(&self, about: &About) -> Option<&'static str> {
        if let Some(above) = self.window_above
            && about.context_window.is_none_or(|window| window <= above)
        {
            return Some("context_window");
        }
        if self.refused_content && !about.takes_refused_content {
            return Some("content_refusal");
        }
        None
    }
}
