use std::{fmt, sync::Arc};

use backstop_core::{Event, Observer, Outcome, body::Watch};
use tokio::time::Instant;

use crate::target::About;

/// What the attempts of all calls share, and whoever reads their bodies.
pub(crate) struct State<O> {
    pub(crate) targets: Box<[About]>,
    pub(crate) observer: O,
}

/// An attempt under way. It is over when its outcome is reported, or when it is dropped: then the
/// caller went away.
pub(crate) struct Report<O: Observer> {
    /// Gone when the outcome has been reported.
    open: Option<Open<O>>,
}

struct Open<O> {
    state: Arc<State<O>>,
    target: usize,
    index: u32,
    started: Instant,
}

// === impl Report ===

impl<O: Observer> Report<O> {
    pub(crate) fn start(state: Arc<State<O>>, target: usize, index: u32, started: Instant) -> Self {
        state.observer.on_event(&Event::AttemptStarted {
            target: &state.targets[target].name,
            index,
        });
        Self {
            open: Some(Open {
                state,
                target,
                index,
                started,
            }),
        }
    }

    /// The attempt is over.
    pub(crate) fn finish(mut self, outcome: &Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: &Outcome) {
        let Some(open) = self.open.take() else { return };
        open.state.observer.on_event(&Event::AttemptEnded {
            target: &open.state.targets[open.target].name,
            index: open.index,
            outcome,
            took: Instant::now().saturating_duration_since(open.started),
        });
    }
}

impl<O: Observer> Watch for Report<O> {
    fn on_finish(self, outcome: &Outcome) {
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
