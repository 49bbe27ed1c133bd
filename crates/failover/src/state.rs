//! What all calls share, and whoever reads their answers.

use std::{sync::Arc, time::Duration};

use backstop_core::Observer;
use tokio::time::Instant;

use crate::{
    admission::Admission,
    budget::Budget,
    epoch::Epoch,
    handle::Forced,
    health::Health,
    hedge::Quantile,
    plan::Plan,
    sync::{AtomicU64, Ordering},
    target::About,
};

pub(crate) struct State<O> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) observer: O,
}

/// The part that does not depend on any type parameter.
pub(crate) struct Shared {
    pub(crate) targets: Box<[TargetState]>,
    pub(crate) budget: Budget,
    pub(crate) plan: Box<dyn Plan>,
    pub(crate) forced: Forced,
    epoch: Epoch,
}

pub(crate) struct TargetState {
    pub(crate) about: About,
    pub(crate) health: Health,
    pub(crate) admission: Option<Admission>,
    pub(crate) first_token: Quantile,
    /// By the epoch; zero for never.
    last_success: AtomicU64,
}

impl Shared {
    pub(crate) fn new(targets: Box<[TargetState]>, budget: Budget, plan: Box<dyn Plan>) -> Self {
        Self {
            targets,
            budget,
            plan,
            forced: Forced::default(),
            epoch: Epoch::default(),
        }
    }

    pub(crate) fn succeeded(&self, target: usize, now: Instant) {
        self.targets[target]
            .last_success
            .store(self.epoch.nanos(now), Ordering::Relaxed);
    }

    /// How long ago a target's last whole answer was; `None` for never.
    pub(crate) fn since_success(&self, target: usize, now: Instant) -> Option<Duration> {
        let at = self.targets[target].last_success.load(Ordering::Relaxed);
        (at > 0).then(|| Duration::from_nanos(self.epoch.nanos(now).saturating_sub(at)))
    }
}

impl TargetState {
    pub(crate) fn new(about: About, health: Health) -> Self {
        Self {
            health,
            admission: about.admission.clone(),
            about,
            first_token: Quantile::default(),
            last_success: AtomicU64::new(0),
        }
    }
}

impl<O: Observer> State<O> {
    pub(crate) fn name(&self, target: usize) -> &Arc<str> {
        &self.shared.targets[target].about.name
    }
}
