use tokio::time::Instant;

use super::{Health, Permit};

/// What to do when no target may be asked.
///
/// The complaint that this answers: all targets are in cooldown at once after a short incident, and
/// callers get errors although the targets are long well again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LastResort {
    /// The target that is due soonest is asked all the same, so that the last usable one is never
    /// ejected. Not so one that *said* how long it is limited: asking it again is a wasted request,
    /// and may prolong the limit. One that lets all such requests time out gets fewer of them; see
    /// [`Health::acquire_anyway`].
    #[default]
    TrySoonest,
    /// The answer is immediate and says when the first target is due.
    Refuse,
}

/// What a [`LastResort`] chose.
#[derive(Debug)]
#[must_use = "a permit that is dropped counts as a cancelled attempt"]
pub enum Choice {
    /// Ask this one.
    Try {
        /// Its place.
        target: usize,
        /// The right to ask it.
        permit: Permit,
    },
    /// Ask nobody.
    Refuse {
        /// When the first one is due; `None` when all are switched off.
        retry_at: Option<Instant>,
    },
}

// === impl LastResort ===

impl LastResort {
    /// Chooses among targets of which none may be asked; each comes with its place.
    ///
    /// Of two that are due at the same time the first one is taken. Leave out those that cannot
    /// serve the request for other reasons.
    pub fn choose<'a>(
        self,
        now: Instant,
        targets: impl IntoIterator<Item = (usize, &'a Health)>,
    ) -> Choice {
        let mut retry_at: Option<Instant> = None;
        let mut soonest: Option<(Instant, usize, &Health)> = None;
        for (target, health) in targets {
            let Some(due) = health.due(now) else { continue };
            retry_at = Some(retry_at.map_or(due, |earlier| earlier.min(due)));
            let is_told = health.limited(now).is_some_and(|limited| limited.stated);
            if is_told || !health.has_room() {
                continue;
            }
            if soonest.is_none_or(|(earlier, ..)| due < earlier) {
                soonest = Some((due, target, health));
            }
        }
        if self == Self::TrySoonest
            && let Some((_, target, health)) = soonest
            && let Some(permit) = health.acquire_anyway(now)
        {
            return Choice::Try { target, permit };
        }
        Choice::Refuse { retry_at }
    }

    /// A stable name for configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TrySoonest => "try_soonest",
            Self::Refuse => "refuse",
        }
    }
}
