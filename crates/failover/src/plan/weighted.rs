use std::sync::Arc;

use super::{Call, MAX_TARGETS, Order, Plan};
use crate::ConfigError;

/// Draws the order at random, by weight: the first target of a call is each target in proportion
/// to its weight, the second one of the others in proportion to theirs, and so on.
///
/// A target of weight zero is asked only when all others have been.
///
/// ```
/// use backstop_failover::plan::{Call, Plan, Weighted};
/// use tokio::time::Instant;
///
/// let plan = Weighted::new([3, 1, 0])?;
/// let order = plan.order(&Call::new(Instant::now(), 3));
/// assert_eq!(order.iter().last(), Some(2));
/// # Ok::<(), backstop_failover::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    weights: Box<[u32]>,
}

impl Weighted {
    /// The weights of the targets, in the order of the configuration.
    ///
    /// # Errors
    ///
    /// When all weights are zero.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Result<Self, ConfigError> {
        let weights: Box<[u32]> = weights.into_iter().collect();
        ConfigError::ensure(
            weights.iter().any(|weight| *weight > 0),
            "plan.weights",
            "at least one above zero",
        )?;
        Ok(Self { weights })
    }
}

impl Plan for Weighted {
    fn bind(&mut self, targets: &[Arc<str>]) -> Result<(), ConfigError> {
        ConfigError::ensure(
            self.weights.len() == targets.len(),
            "plan.weights",
            "one for each target",
        )
    }

    fn order(&self, call: &Call) -> Order {
        let mut left = [0_u64; MAX_TARGETS];
        for (left, weight) in left.iter_mut().zip(&self.weights).take(call.targets) {
            *left = u64::from(*weight);
        }
        let mut total: u64 = left.iter().sum();
        let mut order = Order::empty();
        while total > 0 {
            let mut ticket = fastrand::u64(..total);
            let drawn = left.iter().position(|weight| {
                let hit = ticket < *weight;
                ticket = ticket.saturating_sub(*weight);
                hit
            });
            let Some(drawn) = drawn else { break };
            total -= left[drawn];
            left[drawn] = 0;
            order.push(drawn);
        }
        for target in 0..call.targets {
            order.push(target);
        }
        order
    }
}
