use std::time::Duration;

use crate::{ConfigError, epoch::nanos};

/// How much of the time that is left is kept for the targets that have not been asked yet.
///
/// Without it a silent primary would eat the whole deadline, and the backup would be asked when
/// nobody waits any more. The last attempt may use all that is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reserve(Kept);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    /// In 2^-32.
    Share(u32),
    PerTarget(Duration),
}

// === impl Reserve ===

impl Reserve {
    /// Keeps this share of the time that is left for all other targets together.
    ///
    /// The default is a half: with a deadline of 60 s the primary has 30 s to commit to an answer,
    /// which is above the usual limits for a first token, and the backup has as long.
    ///
    /// # Errors
    ///
    /// When the share is not above 0 and below 1.
    pub fn share(share: f64) -> Result<Self, ConfigError> {
        ConfigError::ensure(
            share > 0.0 && share < 1.0,
            "reserve",
            "a share above 0 and below 1 of the time left",
        )?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "above 0 and below 2^32"
        )]
        let share = (share * 2_f64.powi(32)) as u32;
        Ok(Self(Kept::Share(share)))
    }

    /// Keeps this much for each of the other targets. When that is more than there is, the time
    /// left is divided evenly.
    #[must_use]
    pub const fn per_target(time: Duration) -> Self {
        Self(Kept::PerTarget(time))
    }

    /// How long an attempt may take when `left` is left for it and for `others` more targets, which
    /// need `least_time` together.
    pub(crate) fn limit(&self, left: Duration, others: u32, least_time: Duration) -> Duration {
        if others == 0 {
            return left;
        }
        if let (Kept::Share(share), true) = (self.0, least_time.is_zero()) {
            return left.saturating_sub(Duration::from_nanos(part(left, share)));
        }
        let even = left / others.saturating_add(1);
        let limit = match self.0 {
            Kept::Share(share) => left.saturating_sub(Duration::from_nanos(part(left, share))),
            Kept::PerTarget(time) => left.saturating_sub(time.saturating_mul(others)).max(even),
        };
        limit.min(left.saturating_sub(least_time).max(even))
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self(Kept::Share(1 << 31))
    }
}

/// The share of a time, in nanoseconds.
fn part(time: Duration, share: u32) -> u64 {
    let part = (u128::from(nanos(time)) * u128::from(share)) >> 32;
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_secs(60);

    #[test]
    fn the_last_attempt_may_use_all_that_is_left() {
        for reserve in [
            Reserve::default(),
            Reserve::per_target(Duration::from_secs(5)),
        ] {
            assert_eq!(reserve.limit(LEFT, 0, Duration::ZERO), LEFT);
        }
    }

    #[test]
    fn a_share_is_kept_for_the_others() {
        let reserve = Reserve::share(0.25).unwrap();
        assert_eq!(
            reserve.limit(LEFT, 1, Duration::ZERO),
            Duration::from_secs(45)
        );
        assert_eq!(
            reserve.limit(LEFT, 3, Duration::ZERO),
            Duration::from_secs(45)
        );
    }

    #[test]
    fn each_target_keeps_its_time_or_an_even_part() {
        let reserve = Reserve::per_target(Duration::from_secs(10));
        assert_eq!(
            reserve.limit(LEFT, 2, Duration::ZERO),
            Duration::from_secs(40)
        );
        let reserve = Reserve::per_target(Duration::from_secs(40));
        assert_eq!(
            reserve.limit(LEFT, 2, Duration::ZERO),
            Duration::from_secs(20)
        );
    }

    #[test]
    fn what_a_target_needs_at_least_is_kept_if_it_is_there() {
        let reserve = Reserve::share(0.25).unwrap();
        let needs = |seconds| {
            reserve
                .limit(LEFT, 1, Duration::from_secs(seconds))
                .as_secs()
        };
        assert_eq!([needs(10), needs(20), needs(59)], [45, 40, 30]);
    }

    #[test]
    fn a_share_that_cannot_work_is_refused() {
        for share in [0.0, 1.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Reserve::share(share).unwrap_err().field(), "reserve");
        }
    }
}
