use std::{fmt, sync::Arc, time::Duration};

use backstop_core::TimeLimits;

use crate::{admission::Admission, guards::Guards, health::Health};

/// A service that may answer, and what is declared of it.
///
/// The service is cloned for every attempt, so its clones should be cheap; everything that must
/// change in a request for this target (model name, address, credential) is done by layers on the
/// service.
#[derive(Clone)]
pub struct Target<S> {
    pub(crate) service: S,
    pub(crate) about: About,
}

/// What is declared of a target.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) name: Arc<str>,
    pub(crate) guards: Guards,
    pub(crate) least_time: Duration,
    pub(crate) cold: Option<(Duration, TimeLimits)>,
    pub(crate) health: Option<Health>,
    pub(crate) admission: Option<Admission>,
}

// === impl Target ===

impl<S> Target<S> {
    /// A target that is called `name` in traces, headers and events.
    pub fn new(name: impl Into<Arc<str>>, service: S) -> Self {
        Self {
            service,
            about: About {
                name: name.into(),
                guards: Guards::default(),
                least_time: Duration::ZERO,
                cold: None,
                health: None,
                admission: None,
            },
        }
    }

    /// Declares which requests the target can serve, and after which failures it helps.
    #[must_use]
    pub fn guards(mut self, guards: Guards) -> Self {
        self.about.guards = guards;
        self
    }

    /// Declares how many tokens the model's context window holds; see [`Guards::context_window`].
    #[must_use]
    pub fn context_window(mut self, tokens: u64) -> Self {
        self.about.guards = self.about.guards.context_window(tokens);
        self
    }

    /// Keeps at least this much of the deadline for this target while others are asked before it,
    /// but no more than an even part of what is left; see [`Reserve`](crate::Reserve) for what is kept
    /// for all of them.
    #[must_use]
    pub fn least_time(mut self, time: Duration) -> Self {
        self.about.least_time = time;
        self
    }

    /// Gives the target other time limits for a request when it has not answered for this long, or
    /// never: a model that must be loaded first needs more time to its first token.
    ///
    /// The limits are passed on as a request extension, which a timeout layer on the target obeys.
    #[must_use]
    pub fn cold_after(mut self, idle: Duration, limits: TimeLimits) -> Self {
        self.about.cold = Some((idle, limits));
        self
    }

    /// Replaces the target's health, to share it or to share limits with other targets.
    #[must_use]
    pub fn health(mut self, health: Health) -> Self {
        self.about.health = Some(health);
        self
    }

    /// Limits how much the target is given. Nothing is limited by default.
    #[must_use]
    pub fn admission(mut self, admission: Admission) -> Self {
        self.about.admission = Some(admission);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// The service.
    pub const fn get_ref(&self) -> &S {
        &self.service
    }

    /// Changes the service and keeps what is declared.
    pub fn map<T>(self, map: impl FnOnce(S) -> T) -> Target<T> {
        Target {
            service: map(self.service),
            about: self.about,
        }
    }
}

impl<S> fmt::Debug for Target<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The service may hold a credential.
        f.debug_struct("Target")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}
