//! What follows from an outcome: pure decisions, without time or state.

use backstop_core::{Kind, Outcome};

/// Whether anybody else may be asked after `outcome`.
///
/// The caller's own faults and an answer that is whole stand as they are. After the two refusals
/// that only some targets can help with, those are looked for; for the rest the classifier's advice
/// decides.
pub(crate) const fn goes_on(outcome: &Outcome) -> bool {
    match outcome.kind() {
        Kind::Success | Kind::Cancelled | Kind::Rejected | Kind::TooLarge => false,
        _ if is_refusal(outcome) => true,
        _ => outcome.may_fail_over(),
    }
}

/// Whether the target refused this very request, as it would again.
pub(crate) const fn is_refusal(outcome: &Outcome) -> bool {
    matches!(outcome.kind(), Kind::ContextTooLong | Kind::ContentFiltered)
}

/// Whether an answer with this outcome is one that a caller can be shown when nobody does better.
///
/// A 200 that is none must not be passed on as if it were one.
pub(crate) const fn is_answer(outcome: &Outcome) -> bool {
    !matches!(outcome.kind(), Kind::Malformed | Kind::Cancelled)
}
