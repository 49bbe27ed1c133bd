use std::{fmt, sync::Arc, time::Duration};

use crate::{HintSource, Outcome, Phase, Scope};

/// Hears what the layers do. Metrics, logs and traces are built on it, outside the layers.
///
/// It is called on the path of a request, also from `Drop`: it must be quick and must not panic.
/// `()` hears nothing and costs nothing; a pair hears with both halves.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);

    /// Whether anybody listens. If not, a layer leaves out what it would only do to have something
    /// to tell, such as reading the clock.
    fn is_enabled(&self) -> bool {
        true
    }
}

/// What a layer did or noticed. `target` is the name that the layer was built with.
///
/// No variant holds a header, a prompt, a key or a body.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase of an attempt is over, in time.
    PhaseEnded {
        /// The target.
        target: &'a str,
        /// Which phase.
        phase: Phase,
        /// How long it took.
        took: Duration,
    },
    /// A phase of an attempt took longer than allowed.
    PhaseTimedOut {
        /// The target.
        target: &'a str,
        /// Which phase.
        phase: Phase,
        /// How long was allowed.
        limit: Duration,
        /// How long it took until it was noticed.
        waited: Duration,
    },
    /// A limit was noticed and is remembered.
    LimitNoticed {
        /// The target.
        target: &'a str,
        /// What the provider said.
        outcome: &'a Outcome,
        /// Where the wait came from.
        source: HintSource,
        /// The wait that is observed, after floor, cap and jitter.
        wait: Duration,
    },
    /// A request was answered without asking the target, because it is limited.
    AnsweredLocally {
        /// The target.
        target: &'a str,
        /// What was answered.
        outcome: &'a Outcome,
    },
    /// A request waited for a limit to end.
    Waited {
        /// The target.
        target: &'a str,
        /// How long.
        took: Duration,
    },
    /// A limit is over.
    LimitReleased {
        /// The target.
        target: &'a str,
        /// What had been limited.
        scope: Scope,
    },
    /// Little is left of a target's limits, though it has refused nothing yet: an answer said so for
    /// the first time, or a request was sent on to another target.
    ShiftedEarly {
        /// The target.
        target: &'a str,
        /// The smallest share left of any of its limits.
        share: f64,
    },
    /// An attempt is about to be sent.
    AttemptStarted {
        /// The target.
        target: &'a str,
        /// How many attempts came before it.
        index: u32,
    },
    /// An attempt is over: at the end of its body, not of its head.
    AttemptEnded {
        /// The target.
        target: &'a str,
        /// How many attempts came before it.
        index: u32,
        /// What happened.
        outcome: &'a Outcome,
        /// From its start.
        took: Duration,
    },
    /// A target was not asked.
    TargetSkipped {
        /// The target.
        target: &'a str,
        /// Why.
        reason: &'static str,
    },
    /// A request was sent to a target and nothing came back: it may have been processed.
    PossibleDuplicate {
        /// The target.
        target: &'a str,
    },
    /// Something was not done because the budget for it is spent.
    BudgetSpent {
        /// `retry`, `failover` or `hedge`.
        on: &'static str,
    },
    /// A target's health changed.
    HealthChanged {
        /// The target.
        target: &'a str,
        /// The state it is in now.
        state: &'static str,
    },
    /// An answer came from the store or from the operator's text.
    FallbackServed {
        /// `cached`, `stale` or `simplified`.
        mode: &'static str,
        /// How old the answer is.
        age: Duration,
    },
    /// An answer was stored, or was not.
    StoreDecided {
        /// `stored`, or why not.
        decision: &'static str,
    },
}

impl Observer for () {
    fn on_event(&self, _: &Event<'_>) {}

    fn is_enabled(&self) -> bool {
        false
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn on_event(&self, event: &Event<'_>) {
        (**self).on_event(event);
    }

    fn is_enabled(&self) -> bool {
        (**self).is_enabled()
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn on_event(&self, event: &Event<'_>) {
        self.0.on_event(event);
        self.1.on_event(event);
    }

    fn is_enabled(&self) -> bool {
        self.0.is_enabled() || self.1.is_enabled()
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
