use std::{collections::HashSet, fmt, marker::PhantomData, sync::Arc, time::Duration};

use backstop_core::{CarryExtensions, Http, body::DEFAULT_PEEK_LIMIT};

use crate::{ConfigError, Failover, FailoverLayer, Reserve, Target, report::State};

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

/// The settings that hold for all calls.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) deadline: Option<Duration>,
    pub(crate) reserve: Reserve,
    pub(crate) replay_limit: usize,
    pub(crate) peek_limit: usize,
    pub(crate) carry: CarryExtensions,
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

    /// A failover over `targets`, in this order.
    ///
    /// # Errors
    ///
    /// When there is no target, when two have the same name, or when a setting cannot work.
    pub fn build<S>(self, targets: Vec<Target<S>>) -> Result<Failover<S, C, P, O>, ConfigError> {
        self.config.validate()?;
        if targets.is_empty() {
            return Err(ConfigError::new("targets", "at least one"));
        }
        let mut names = HashSet::new();
        if !targets.iter().all(|target| names.insert(target.name())) {
            return Err(ConfigError::new("targets", "names that differ"));
        }
        Ok(self.assemble(targets))
    }

    /// A layer whose primary is the service that it is put on.
    ///
    /// # Errors
    ///
    /// When a setting cannot work.
    pub fn layer<R, Res>(self) -> Result<FailoverLayer<R, Res, C, P, O>, ConfigError> {
        self.config.validate()?;
        Ok(FailoverLayer::of(self))
    }

    pub(crate) fn assemble<S>(self, targets: Vec<Target<S>>) -> Failover<S, C, P, O> {
        let (services, about): (Vec<S>, Vec<_>) = targets
            .into_iter()
            .map(|target| (target.service, target.about))
            .unzip();
        let state = Arc::new(State {
            targets: about.into(),
            observer: self.observer,
        });
        Failover::of(services.into(), self.classify, self.config, state)
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
    fn validate(&self) -> Result<(), ConfigError> {
        if self.deadline == Some(Duration::ZERO) {
            return Err(ConfigError::new("deadline", "more than no time"));
        }
        if self.peek_limit == 0 {
            return Err(ConfigError::new("peek_limit", "at least one byte"));
        }
        Ok(())
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
        }
    }
}
