use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    health::Snapshot,
    state::Shared,
    sync::{AtomicUsize, Ordering},
};

/// Shows the targets of a [`Failover`](crate::Failover), and takes an operator's orders.
///
/// Clones and all clones of the failover share everything.
///
/// ```
/// use backstop_core::{BoxError, ClassifyErrors, Typed};
/// use backstop_failover::{Failover, Target};
/// use tower::{ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let model = |name: &'static str| service_fn(move |_: ()| async move { Ok::<_, BoxError>(name) });
/// let targets = vec![Target::new("large", model("large")), Target::new("small", model("small"))];
/// let failover = Failover::builder(ClassifyErrors).protocol::<Typed>().build(targets)?;
///
/// let handle = failover.handle();
/// assert!(handle.switch_off("large"));
/// assert_eq!(failover.clone().oneshot(()).await?, "small");
/// handle.switch_on("large");
/// assert_eq!(failover.oneshot(()).await?, "large");
/// # Ok::<(), BoxError>(())
/// # })?;
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Clone)]
pub struct FailoverHandle {
    shared: Arc<Shared>,
}

/// What is known about one target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its health.
    pub health: Snapshot,
    /// How many requests it holds, if its admission is limited.
    pub in_flight: Option<usize>,
    /// How long ago it gave its last whole answer; `None` if it never did. A backup whose number
    /// only grows is one that nobody knows to work.
    pub since_last_success: Option<Duration>,
}

/// Which target is to answer, whatever the plan says; a typed request extension, or an operator's
/// order through [`FailoverHandle::force`].
///
/// It is for tests of the backup. Whoever turns a request header into this extension lets callers
/// choose, so that header must be one that the operator enabled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Force {
    /// Not the first one.
    Fallback,
    /// This one only; nobody, if no target has that name.
    Target(Arc<str>),
}

/// An order that holds for all calls: none, 1 for a fallback, or 2 and more for one target.
#[derive(Debug, Default)]
pub(crate) struct Forced(AtomicUsize);

/// An order for one call, with the target's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Fallback,
    Only(usize),
    /// A target was named that is not there: an answer of any other would be taken for its.
    Nobody,
}

// === impl FailoverHandle ===

impl FailoverHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The targets, in the order in which they were given.
    #[must_use]
    pub fn targets(&self) -> Vec<TargetStatus> {
        let now = Instant::now();
        self.shared
            .targets
            .iter()
            .enumerate()
            .map(|(place, target)| TargetStatus {
                name: Arc::clone(&target.about.name),
                health: target.health.snapshot(now),
                in_flight: target
                    .admission
                    .as_ref()
                    .map(crate::admission::Admission::in_flight),
                since_last_success: self.shared.since_success(place, now),
            })
            .collect()
    }

    /// What is in the budget, in tokens.
    #[must_use]
    pub fn budget_left(&self) -> f64 {
        self.shared.budget.balance(Instant::now())
    }

    /// Switches a target off: no further request is sent to it. Says whether there is one of that
    /// name.
    #[expect(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn switch_off(&self, name: &str) -> bool {
        self.find(name)
            .inspect(|&place| self.shared.targets[place].health.switch_off())
            .is_some()
    }

    /// Switches a target on again. Says whether there is one of that name.
    #[expect(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn switch_on(&self, name: &str) -> bool {
        self.find(name)
            .inspect(|&place| self.shared.targets[place].health.switch_on())
            .is_some()
    }

    /// Forgets limits and faults of a target. Says whether there is one of that name.
    #[expect(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn forget(&self, name: &str) -> bool {
        self.find(name)
            .inspect(|&place| self.shared.targets[place].health.forget())
            .is_some()
    }

    /// Gives an order for all calls from now on, or takes it back with `None`. Says whether it can
    /// be followed: whether there is a target of that name.
    #[expect(clippy::must_use_candidate, reason = "done for its effect")]
    pub fn force(&self, force: Option<&Force>) -> bool {
        let word = match force.map(|force| self.shared.order(force)) {
            None => 0,
            Some(Some(Order::Fallback)) => 1,
            Some(Some(Order::Only(place))) => place + 2,
            Some(Some(Order::Nobody) | None) => return false,
        };
        self.shared.forced.0.store(word, Ordering::Release);
        true
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.shared.find(name)
    }
}

impl fmt::Debug for FailoverHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailoverHandle")
            .field("targets", &self.shared.targets.len())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// The order that `force` stands for, if it can be followed.
    pub(crate) fn order(&self, force: &Force) -> Option<Order> {
        match force {
            Force::Fallback => Some(Order::Fallback),
            Force::Target(name) => self.find(name).map(Order::Only),
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.targets
            .iter()
            .position(|target| *target.about.name == *name)
    }
}

// === impl Forced ===

impl Forced {
    pub(crate) fn get(&self) -> Option<Order> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Order::Fallback),
            word => Some(Order::Only(word - 2)),
        }
    }
}
