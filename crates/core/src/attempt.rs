use std::sync::Arc;

use crate::Trace;

/// Which attempt a request is; a typed request extension set by failover.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The target's name in the configuration.
    pub target: Arc<str>,
    /// How many attempts of this call came before, over all targets.
    pub index: u32,
    /// Whether no other target is left to try.
    pub is_last: bool,
}

/// Who answered; a typed response extension.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Served {
    /// The name of the target that answered.
    pub target: Arc<str>,
    /// In which way.
    pub mode: Mode,
    /// How many attempts were sent for this call, over all targets.
    pub attempts: u32,
    /// What was decided for the call, and why; `None` for an answer that no target gave.
    pub trace: Option<Trace>,
}

/// In which way a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// By the first target of the plan.
    Primary,
    /// By another target.
    Failover,
    /// By an answer given before that is still fresh.
    Cached,
    /// By an answer given before, because no model could answer.
    Stale,
    /// By text that the operator wrote.
    Simplified,
}

// === impl Attempt ===

impl Attempt {
    /// An attempt at `target`.
    #[must_use]
    pub const fn new(target: Arc<str>, index: u32, is_last: bool) -> Self {
        Self {
            target,
            index,
            is_last,
        }
    }
}

// === impl Served ===

impl Served {
    /// An answer by `target`.
    #[must_use]
    pub const fn new(target: Arc<str>, mode: Mode, attempts: u32) -> Self {
        Self {
            target,
            mode,
            attempts,
            trace: None,
        }
    }
}

// === impl Mode ===

impl Mode {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Failover => "failover",
            Self::Cached => "cached",
            Self::Stale => "stale",
            Self::Simplified => "simplified",
        }
    }
}
