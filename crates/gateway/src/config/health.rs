//! `[health]`: when targets are left alone, and how they come back.

use backstop_failover::health::{Health, HealthConfig};

use super::reader::{Built, Table, Value};

pub(super) fn read(root: &mut Table<'_>) -> Option<HealthConfig> {
    let default = HealthConfig::default();
    let Some(value) = root.optional("health") else {
        return Some(default);
    };
    let mut table = value.table("a [health] table")?;
    let t = &mut table;
    let config = Built::new(default)
        .set(
            t,
            "consecutive_faults",
            Value::whole,
            HealthConfig::consecutive_faults,
        )
        .set(t, "fault_rate", Value::share, HealthConfig::fault_rate)
        .set(t, "min_samples", Value::count, HealthConfig::min_samples)
        .set(t, "window", Value::duration, HealthConfig::window)
        .set(
            t,
            "ejection_base",
            Value::duration,
            HealthConfig::ejection_base,
        )
        .set(
            t,
            "ejection_cap",
            Value::duration,
            HealthConfig::ejection_cap,
        )
        .set(
            t,
            "probe_interval",
            Value::duration,
            HealthConfig::probe_interval,
        )
        .set(
            t,
            "successes_to_return",
            Value::whole,
            HealthConfig::successes_to_return,
        )
        .set(t, "ramp_start", Value::share, HealthConfig::ramp_start)
        .finish();
    table.finish();
    let config = config?;
    value.fits(Health::new(config))?;
    Some(config)
}
