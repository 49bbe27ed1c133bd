//! What is known of the targets, for an operator's eyes.

use std::sync::Arc;

use backstop_failover::{FailoverHandle, TargetStatus};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The targets of each model, in their order. Names, times and counts: nothing that was asked or
/// answered is among it.
pub(crate) fn of(failovers: &[(Arc<str>, FailoverHandle)]) -> Value {
    let now = Instant::now();
    let models: Vec<_> = failovers
        .iter()
        .map(|(name, failover)| {
            let targets: Vec<_> = failover
                .targets()
                .iter()
                .map(|target| status(target, now))
                .collect();
            json!({
                "name": &**name,
                "budget_left": failover.budget_left(),
                "targets": targets,
            })
        })
        .collect();
    json!({ "models": models })
}

fn status(target: &TargetStatus, now: Instant) -> Value {
    let health = &target.health;
    let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
    let limits: Vec<_> = health
        .limits
        .iter()
        .map(|(scope, limit)| {
            json!({
                "scope": scope.as_str(),
                "seconds_left": left(limit.until),
                "stated": limit.stated,
            })
        })
        .collect();
    json!({
        "name": &*target.name,
        "state": health.state.as_str(),
        "share": health.share,
        "seconds_since_last_success": target.since_last_success.map(|since| since.as_secs_f64()),
        "in_flight": target.in_flight,
        "limits": limits,
        "ejected_seconds_left": health.ejected_until.map(left),
        "times_ejected": health.times_ejected,
        "consecutive_faults": health.consecutive_faults,
        "attempts": health.attempts,
        "faults": health.faults,
    })
}
