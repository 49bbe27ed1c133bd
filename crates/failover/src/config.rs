use std::{collections::HashSet, fmt, marker::PhantomData, sync::Arc, time::Duration};

use backstop_core::{CarryExtensions, Http, body::DEFAULT_PEEK_LIMIT};

use crate::{
    ConfigError, Failover, FailoverLayer, Hedge, Reserve, Retry, Target,
    budget::{Budget, BudgetConfig},
    health::{Health, HealthConfig, LastResort},
    plan::{MAX_TARGETS, Ordered, Plan},
    state::{Shared, State, TargetState},
};

/// How large a request may be to be kept for further attempts, unless told otherwise: 16 MiB.
///
/// It holds the largest prompts that providers accept as text (a million tokens are about 4 MiB)
/// and several images; a larger request is sent once.
pub const DEFAULT_REPLAY_LIMIT: usize = 16 * 1024 * 1024;

/// How long a call may take until its answer begins, when neither the request nor the
/// configuration has a deadline: 10 minutes, after which the official OpenAI and Anthropic clients
/// have given up by default.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(600);

/// Sets up a [`Failover`] or a [`FailoverLayer`].
///
/// ```
/// use std::time::Duration;
/// use backstop_core::{BoxError, ClassifyErrors, Typed};
/// use backstop_failover::{Failover, Reserve, Target};
/// use tower::{ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// async fn answer(prompt: String) -> Result<String, BoxError> {
///     Ok(format!("You said: {prompt}"))
/// }
/// let failover = Failover::builder(ClassifyErrors)
///     .protocol::<Typed>()
///     .deadline(Duration::from_secs(60))
///     .reserve(Reserve::share(0.4)?)
///     .build(vec![
///         Target::new("large", service_fn(answer)),
///     ])?;
/// assert_eq!(failover.oneshot("Hello".to_owned()).await?, "You said: Hello");
/// # Ok::<(), BoxError>(())
/// # })?;
/// # Ok::<(), BoxError>(())
/// ```
pub struct FailoverBuilder<C, P = Http, O = ()> {
    classify: C,
    observer: O,
    config: Config,
    protocol: PhantomData<fn() -> P>,
}

type MakePlan = Arc<dyn Fn() -> Result<Box<dyn Plan>, ConfigError> + Send + Sync>;

/// The settings that hold for all calls.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) deadline: Option<Duration>,
    pub(crate) reserve: Reserve,
    pub(crate) replay_limit: usize,
    pub(crate) peek_limit: usize,
    pub(crate) carry: CarryExtensions,
    pub(crate) plan: Option<MakePlan>,
    pub(crate) health: HealthConfig,
    pub(crate) last_resort: LastResort,
    pub(crate) budget: Option<Budget>,
    pub(crate) retry: Option<Retry>,
    pub(crate) hedge: Option<Hedge>,
    pub(crate) exercise: Option<f64>,
    pub(crate) at_most_once: bool,
}

// === impl FailoverBuilder ===

impl<C> FailoverBuilder<C> {
    /// The defaults, with answers classified by `classify`.
    pub fn new(classify: C) -> Self {
        Self {
            classify,
            observer: (),
            config: Config::default(),
            protocol: PhantomData,
        }
    }
}

impl<C, P, O> FailoverBuilder<C, P, O> {
    /// Replaces what classifies the answers.
    pub fn classify<C2>(self, classify: C2) -> FailoverBuilder<C2, P, O> {
        FailoverBuilder {
            classify,
            observer: self.observer,
            config: self.config,
            protocol: PhantomData,
        }
    }

    /// Tells `observer` what happens.
    pub fn observer<O2>(self, observer: O2) -> FailoverBuilder<C, P, O2> {
        FailoverBuilder {
            classify: self.classify,
            observer,
            config: self.config,
            protocol: PhantomData,
        }
    }

    /// Serves other requests and responses than those of HTTP: `protocol::<Typed>()` for requests
    /// that are `Clone` and responses that are whole.
    pub fn protocol<P2>(self) -> FailoverBuilder<C, P2, O> {
        FailoverBuilder {
            classify: self.classify,
            observer: self.observer,
            config: self.config,
            protocol: PhantomData,
        }
    }

    /// Limits each call to this time, all attempts together.
    ///
    /// A [`Deadline`](backstop_core::Deadline) that the request carries can only make it shorter.
    /// Failover itself enforces it until an answer begins; inner layers are told of it by the same
    /// extension. Without either, an answer must begin within [`DEFAULT_WAIT`], and inner layers
    /// are told nothing: there is no limit for how long an answer goes on.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.config.deadline = Some(deadline);
        self
    }

    /// Keeps time for the targets that have not been asked; see [`Reserve`].
    #[must_use]
    pub const fn reserve(mut self, reserve: Reserve) -> Self {
        self.config.reserve = reserve;
        self
    }

    /// Keeps requests of up to this many bytes for further attempts; larger ones are sent once, to
    /// the first usable target. The default is [`DEFAULT_REPLAY_LIMIT`].
    #[must_use]
    pub const fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// Holds back at most this many bytes of an answer while it is not clear whether it is one.
    ///
    /// The default is [`DEFAULT_PEEK_LIMIT`]. An answer that passes the limit is taken for one.
    #[must_use]
    pub const fn peek_limit(mut self, bytes: usize) -> Self {
        self.config.peek_limit = bytes;
        self
    }

    /// Passes request extensions of type `T` on to the targets; others are left out, see
    /// [`CarryExtensions`].
    #[must_use]
    pub fn carry_extension<T: Clone + Send + Sync + 'static>(mut self) -> Self {
        self.config.carry = self.config.carry.with::<T>();
        self
    }

    /// Decides the order of the targets for each call, with a plan that `make` makes for each
    /// failover that is built. The default is their [order](crate::plan::Ordered) in the list.
    #[must_use]
    pub fn plan<Pl: Plan>(
        mut self,
        make: impl Fn() -> Result<Pl, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        self.config.plan = Some(Arc::new(move || Ok(Box::new(make()?) as Box<dyn Plan>)));
        self
    }

    /// Says when targets are left alone and how they come back, but for those that bring a
    /// [`Health`] of their own.
    #[must_use]
    pub const fn health(mut self, health: HealthConfig) -> Self {
        self.config.health = health;
        self
    }

    /// Says what to do when no target may be asked.
    #[must_use]
    pub const fn last_resort(mut self, last_resort: LastResort) -> Self {
        self.config.last_resort = last_resort;
        self
    }

    /// Pays for everything beyond the first attempt of a call from this budget, which may be shared
    /// with others. The default is one of its own, with the defaults of
    /// [`BudgetConfig`].
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.config.budget = Some(budget);
        self
    }

    /// Asks the same target again where that makes sense. Off by default: another model is there to
    /// answer at once.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.config.retry = Some(retry);
        self
    }

    /// Asks the next target while one is late. Off by default: it costs tokens.
    #[must_use]
    pub const fn hedge(mut self, hedge: Hedge) -> Self {
        self.config.hedge = Some(hedge);
        self
    }

    /// Sends this share of the calls to each backup first, so that it is known to work before it is
    /// needed. Off by default. 0.01 is a good value; it must leave the primary at least half.
    #[must_use]
    pub const fn exercise(mut self, share: f64) -> Self {
        self.config.exercise = Some(share);
        self
    }

    /// Never sends a request again that may have been processed: one that was sent, and of which
    /// nothing came back. Off by default, since a lost answer is what failover is for.
    #[must_use]
    pub const fn at_most_once(mut self, at_most_once: bool) -> Self {
        self.config.at_most_once = at_most_once;
        self
    }

    /// A failover over `targets`, in this order.
    ///
    /// # Errors
    ///
    /// When there is no target, when two have the same name, or when a setting cannot work.
    pub fn build<S>(self, targets: Vec<Target<S>>) -> Result<Failover<S, C, P, O>, ConfigError> {
        ConfigError::ensure(
            (1..=MAX_TARGETS).contains(&targets.len()),
            "targets",
            "from 1 to 32",
        )?;
        let mut names = HashSet::new();
        ConfigError::ensure(
            targets.iter().all(|target| names.insert(target.name())),
            "targets",
            "names that differ",
        )?;
        self.assemble(targets)
    }

    /// A layer whose primary is the service that it is put on.
    ///
    /// # Errors
    ///
    /// When a setting cannot work. Whether the plan and the share of exercise fit the targets shows
    /// when the layer is put on a service.
    pub fn layer<R, Res>(self) -> Result<FailoverLayer<R, Res, C, P, O>, ConfigError> {
        self.config.validate(2)?;
        Ok(FailoverLayer::of(self))
    }

    /// Fails only for settings that [`Config::validate`] refuses, and when the plan does not fit the
    /// targets.
    pub(crate) fn assemble<S>(
        self,
        targets: Vec<Target<S>>,
    ) -> Result<Failover<S, C, P, O>, ConfigError> {
        self.config.validate(targets.len())?;
        let mut services = Vec::with_capacity(targets.len());
        let mut states = Vec::with_capacity(targets.len());
        for Target { service, about } in targets {
            let health = match &about.health {
                Some(health) => health.clone(),
                None => Health::new(self.config.health)?,
            };
            services.push(service);
            states.push(TargetState::new(about, health));
        }
        let budget = match &self.config.budget {
            Some(budget) => budget.clone(),
            None => Budget::new(BudgetConfig::default())?,
        };
        let mut plan = match &self.config.plan {
            Some(make) => make()?,
            None => Box::new(Ordered),
        };
        let names: Vec<_> = states
            .iter()
            .map(|state: &TargetState| Arc::clone(&state.about.name))
            .collect();
        plan.bind(&names)?;
        let state = Arc::new(State {
            shared: Arc::new(Shared::new(states.into(), budget, plan)),
            observer: self.observer,
        });
        Ok(Failover::of(
            services.into(),
            self.classify,
            self.config,
            state,
        ))
    }
}

impl<C: Clone, P, O: Clone> Clone for FailoverBuilder<C, P, O> {
    fn clone(&self) -> Self {
        Self {
            classify: self.classify.clone(),
            observer: self.observer.clone(),
            config: self.config.clone(),
            protocol: PhantomData,
        }
    }
}

impl<C, P, O> fmt::Debug for FailoverBuilder<C, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailoverBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

// === impl Config ===

impl Config {
    fn validate(&self, targets: usize) -> Result<(), ConfigError> {
        ConfigError::ensure(
            self.deadline != Some(Duration::ZERO),
            "deadline",
            "more than no time",
        )?;
        ConfigError::ensure(self.peek_limit > 0, "peek_limit", "at least one byte")?;
        Health::new(self.health)?;
        if let Some(retry) = &self.retry {
            retry.validate()?;
        }
        if let Some(share) = self.exercise {
            #[expect(clippy::cast_precision_loss, reason = "a handful of targets")]
            let backups = targets.saturating_sub(1) as f64;
            ConfigError::ensure(
                share > 0.0 && share * backups.max(1.0) <= 0.5,
                "exercise",
                "a share above 0 that leaves the primary at least half",
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("deadline", &self.deadline)
            .field("reserve", &self.reserve)
            .field("replay_limit", &self.replay_limit)
            .field("peek_limit", &self.peek_limit)
            .field("retry", &self.retry)
            .field("hedge", &self.hedge)
            .field("exercise", &self.exercise)
            .field("at_most_once", &self.at_most_once)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            deadline: None,
            reserve: Reserve::default(),
            replay_limit: DEFAULT_REPLAY_LIMIT,
            peek_limit: DEFAULT_PEEK_LIMIT,
            carry: CarryExtensions::default(),
            plan: None,
            health: HealthConfig::default(),
            last_resort: LastResort::default(),
            budget: None,
            retry: None,
            hedge: None,
            exercise: None,
            at_most_once: false,
        }
    }
}
