use std::{fmt, sync::Arc};

use backstop_core::{Event, Kind, Observer, Outcome, body::Watch};
use tokio::time::Instant;

use crate::{admission::Slot, health::Permit, state::State};

/// An attempt under way, until its outcome is reported; if it is dropped, the caller went away or
/// another attempt was quicker.
pub(crate) struct Report<O: Observer> {
    /// Gone when the outcome has been reported.
    open: Option<Open<O>>,
}

struct Open<O> {
    state: Arc<State<O>>,
    target: usize,
    index: u32,
    permit: Permit,
    /// Held until the end, and only for that.
    _slot: Option<Slot>,
}

// === impl Report ===

impl<O: Observer> Report<O> {
    pub(crate) fn start(
        state: &Arc<State<O>>,
        target: usize,
        index: u32,
        permit: Permit,
        slot: Option<Slot>,
    ) -> Self {
        let name = state.name(target);
        state.observer.on_event(&Event::AttemptStarted {
            target: name,
            index,
        });
        tracing::trace!(
            name: "backstop.failover.attempt_started",
            target = %name,
            index,
            "attempt started",
        );
        Self {
            open: Some(Open {
                state: Arc::clone(state),
                target,
                index,
                permit,
                _slot: slot,
            }),
        }
    }

    /// The attempt is over.
    pub(crate) fn finish(mut self, outcome: &Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: &Outcome) {
        let Some(open) = self.open.take() else { return };
        let Open {
            state,
            target,
            index,
            permit,
            _slot,
        } = open;
        let started = permit.begun();
        let name = state.name(target);
        let now = Instant::now();
        if outcome.is_success() {
            state.shared.succeeded(target, now);
        }
        if state.observer.is_enabled() {
            state.observer.on_event(&Event::AttemptEnded {
                target: name,
                index,
                outcome,
                took: now.saturating_duration_since(started),
            });
        }
        tracing::debug!(
            name: "backstop.failover.attempt_ended",
            target = %name,
            index,
            outcome = outcome.kind().as_str(),
            evidence = outcome.evidence(),
            took_ms = now.saturating_duration_since(started).as_millis(),
            "attempt ended",
        );
        if let Some(now_in) = permit.report(now, outcome) {
            state.observer.on_event(&Event::HealthChanged {
                target: name,
                state: now_in.as_str(),
            });
            tracing::info!(
                name: "backstop.failover.health_changed",
                target = %name,
                state = now_in.as_str(),
                "health changed",
            );
        }
    }
}

impl<O: Observer> Watch for Report<O> {
    fn on_finish(self, outcome: &Outcome) {
        if let Some(open) = &self.open
            && !outcome.is_success()
            && outcome.kind() != Kind::Cancelled
        {
            // Its caller has seen a part, so nobody else may answer, and the head said all is well.
            tracing::warn!(
                name: "backstop.failover.answer_failed",
                target = %open.state.name(open.target),
                outcome = outcome.kind().as_str(),
                evidence = outcome.evidence(),
                "an answer failed after it had begun",
            );
        }
        self.finish(outcome);
    }
}

impl<O: Observer> Drop for Report<O> {
    fn drop(&mut self) {
        self.end(&Outcome::cancelled());
    }
}

impl<O: Observer> fmt::Debug for Report<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").finish_non_exhaustive()
    }
}
