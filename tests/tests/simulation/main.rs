//! Storms, outages and recoveries on a simulated clock.
//!
//! The load is open-loop: calls come whether or not earlier ones are over. What counts is the
//! models' own log, and each bound stands beside a naive stack in the same test, so that it is seen
//! to be one. What a model is told and what it does is in [`rig`].

#[path = "rig.rs"]
mod rig;

mod metastable;
mod outage;
mod storm;

use std::time::Duration;

use backstop_core::{ClassifyErrors, Typed};
use backstop_failover::{Failover, FailoverBuilder, Retry, Target, health::HealthConfig};
use tower::util::BoxCloneSyncService;

use rig::{Changes, Model, Stack};

/// How often anything is sent, in most simulations.
const PER_SECOND: u32 = 200;

/// What all stacks here have in common: two retries, and times that are exact.
fn builder(changes: &Changes) -> FailoverBuilder<ClassifyErrors, Typed, Changes> {
    // Chance decides how long a retry waits: the same in every run.
    fastrand::seed(0x5eed);
    Failover::builder(ClassifyErrors)
        .protocol::<Typed>()
        .observer(changes.clone())
        .retry(Retry::times(2))
        .health(health())
        .deadline(Duration::from_secs(60))
}

/// The defaults without chance.
fn health() -> HealthConfig {
    HealthConfig::default().jitter(0.0)
}

/// Nothing is ever ejected, so that the budget stands alone.
fn without_ejection() -> HealthConfig {
    health().consecutive_faults(u32::MAX).min_samples(u64::MAX)
}

fn over(
    builder: FailoverBuilder<ClassifyErrors, Typed, Changes>,
    models: &[(&'static str, &Model)],
) -> Stack {
    let targets = models
        .iter()
        .map(|(name, model)| Target::new(*name, model.service()))
        .collect();
    BoxCloneSyncService::new(builder.build(targets).expect("a valid configuration"))
}
