use std::sync::Arc;

use super::{Call, Order, Plan, hash, mix};
use crate::ConfigError;

/// The same order for the same key, in every replica, by rendezvous hashing (Thaler and
/// Ravishankar, 1998).
///
/// Different keys are spread evenly. When a target is added or removed only those keys move whose
/// first target it becomes or was, so the providers' prompt caches stay of use for all others. The
/// hash is of the targets' names: renaming one moves its keys.
///
/// A call without an [`Affinity`](super::Affinity) gets the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendezvous {
    names: Box<[u64]>,
}

impl Plan for Rendezvous {
    fn bind(&mut self, targets: &[Arc<str>]) -> Result<(), ConfigError> {
        self.names = targets.iter().map(|name| hash(name.as_bytes())).collect();
        Ok(())
    }

    fn order(&self, call: &Call) -> Order {
        let mut order = Order::of_configuration(call.targets);
        if let Some(affinity) = call.affinity {
            order.sort_by_key(|target| {
                let name = self.names.get(target).copied().unwrap_or(target as u64);
                std::cmp::Reverse(mix(affinity.value() ^ name))
            });
        }
        order
    }
}
