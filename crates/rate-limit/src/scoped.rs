use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, Semaphore};

use crate::{
    reserve::Level,
    state::{Micros, State},
};

/// One scope of a target: its memory and the line of those that wait for it.
#[derive(Debug)]
pub(crate) struct Scoped {
    pub(crate) state: State,
    pub(crate) level: Level,
    /// Held by the first in line; the others queue for it in order of arrival. It guards nothing
    /// but the order, and no lock of the service behind is involved.
    pub(crate) turnstile: Semaphore,
    /// Wakes the first in line when a limit comes or goes before its time.
    pub(crate) changed: Notify,
    waiting: AtomicU64,
    last_used: AtomicU64,
}

/// A place in the line; dropping it leaves.
#[derive(Debug)]
pub(crate) struct InLine<'a>(&'a Scoped);

impl Scoped {
    pub(crate) fn new() -> Self {
        Self {
            state: State::new(),
            level: Level::default(),
            turnstile: Semaphore::new(1),
            changed: Notify::new(),
            waiting: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
        }
    }

    pub(crate) fn reset(&self) {
        self.state.reset();
        self.level.reset();
        self.changed.notify_waiters();
    }

    pub(crate) fn line_up(&self) -> InLine<'_> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        InLine(self)
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Acquire)
    }

    pub(crate) fn touch(&self, now: Micros) {
        self.last_used.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> Micros {
        self.last_used.load(Ordering::Relaxed)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
