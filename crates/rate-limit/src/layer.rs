use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use backstop_core::{Headroom, Http, Observer, Outcome};
use tower_layer::Layer;

use crate::{
    BytesPerToken, ConfigError, Key, OneKey, RateLimit, RateLimitHandle, Waits,
    body::Remember,
    config::Config,
    memory::{Memory, Scopes},
    state::Sent,
};

/// Notices, remembers and answers a target's limits. See the [crate documentation](crate).
///
/// A layer stands for one target. All services it makes, and all clones of it and of them, share
/// one memory.
pub struct RateLimitLayer<C, P = Http, K = OneKey, E = BytesPerToken, O = ()> {
    shared: Arc<Shared<C, O>>,
    key: K,
    estimate: E,
    protocol: PhantomData<fn() -> P>,
}

/// Sets up a [`RateLimitLayer`].
pub struct RateLimitBuilder<C, P = Http, K = OneKey, E = BytesPerToken, O = ()> {
    target: Arc<str>,
    classify: C,
    key: K,
    estimate: E,
    observer: O,
    config: Config,
    protocol: PhantomData<fn() -> P>,
}

/// What the services of a layer share.
#[derive(Debug)]
pub(crate) struct Shared<C, O> {
    pub(crate) classify: C,
    /// Whether each call looks at what is left, as the configuration says.
    pub(crate) keeps_reserve: bool,
    pub(crate) memory: Memory<O>,
}

// === impl RateLimitLayer ===

impl<C> RateLimitLayer<C> {
    /// The defaults, for HTTP: refusals are remembered and answered at once, nobody waits.
    ///
    /// `target` names the target in events.
    pub fn new(target: impl Into<Arc<str>>, classify: C) -> Self {
        Self::builder(target, classify).assemble()
    }

    /// Sets up a layer for HTTP.
    pub fn builder(target: impl Into<Arc<str>>, classify: C) -> RateLimitBuilder<C> {
        RateLimitBuilder {
            target: target.into(),
            classify,
            key: OneKey,
            estimate: BytesPerToken::default(),
            observer: (),
            config: Config::default(),
            protocol: PhantomData,
        }
    }
}

impl<C, P, K, E, O> RateLimitLayer<C, P, K, E, O> {
    /// Reads and resets what is remembered.
    #[must_use]
    pub fn handle(&self) -> RateLimitHandle {
        let memory = &self.shared.memory;
        RateLimitHandle::new(Arc::clone(&memory.target), Arc::clone(&memory.scopes))
    }
}

impl<C, P, K: Clone, E: Clone, O, S> Layer<S> for RateLimitLayer<C, P, K, E, O> {
    type Service = RateLimit<S, C, P, K, E, O>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(
            inner,
            Arc::clone(&self.shared),
            self.key.clone(),
            self.estimate.clone(),
        )
    }
}

impl<C, P, K: Clone, E: Clone, O> Clone for RateLimitLayer<C, P, K, E, O> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            key: self.key.clone(),
            estimate: self.estimate.clone(),
            protocol: PhantomData,
        }
    }
}

impl<C, P, K, E, O> fmt::Debug for RateLimitLayer<C, P, K, E, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitLayer")
            .field("target", &self.shared.memory.target)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<C: Send + Sync, O: Observer> Remember for Shared<C, O> {
    fn config(&self) -> &Config {
        &self.memory.config
    }

    fn learn(&self, key: Option<Key>, sent: Option<Sent>, outcome: &Outcome) {
        self.memory.learn(key, sent, outcome);
    }

    fn level(&self, key: Option<Key>, headroom: &Headroom) {
        self.memory.level(key, headroom);
    }
}

// === impl RateLimitBuilder ===

impl<C, P, K, E, O> RateLimitBuilder<C, P, K, E, O> {
    /// The requests and responses are of another protocol, such as [`Typed`](backstop_core::Typed)
    /// for plain types.
    #[must_use]
    pub fn protocol<P2>(self) -> RateLimitBuilder<C, P2, K, E, O> {
        RateLimitBuilder {
            target: self.target,
            classify: self.classify,
            key: self.key,
            estimate: self.estimate,
            observer: self.observer,
            config: self.config,
            protocol: PhantomData,
        }
    }

    /// Tells requests apart, so that each [`Key`](crate::Key) has limits of its own. By default the
    /// target has one set of limits.
    #[must_use]
    pub fn key_by<K2>(self, key: K2) -> RateLimitBuilder<C, P, K2, E, O> {
        RateLimitBuilder {
            target: self.target,
            classify: self.classify,
            key,
            estimate: self.estimate,
            observer: self.observer,
            config: self.config,
            protocol: self.protocol,
        }
    }

    /// Tells an observer what the layer notices and does. By default nobody is told.
    #[must_use]
    pub fn observe<O2: Observer>(self, observer: O2) -> RateLimitBuilder<C, P, K, E, O2> {
        RateLimitBuilder {
            target: self.target,
            classify: self.classify,
            key: self.key,
            estimate: self.estimate,
            observer,
            config: self.config,
            protocol: self.protocol,
        }
    }

    /// How long rate limits are remembered; [`Waits::THROTTLED`] by default.
    #[must_use]
    pub fn throttled(mut self, waits: Waits) -> Self {
        self.config.throttled = waits;
        self
    }

    /// How long spent quotas are remembered; [`Waits::QUOTA`] by default.
    #[must_use]
    pub fn quota(mut self, waits: Waits) -> Self {
        self.config.quota = waits;
        self
    }

    /// How long a lack of capacity is remembered; [`Waits::OVERLOADED`] by default.
    #[must_use]
    pub fn overloaded(mut self, waits: Waits) -> Self {
        self.config.overloaded = waits;
        self
    }

    /// By how much waits are lengthened at random, as a share;
    /// [`DEFAULT_JITTER`](crate::DEFAULT_JITTER) by default.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.config.jitter = share;
        self
    }

    /// In which time the number of returning requests doubles;
    /// [`DEFAULT_RAMP`](crate::DEFAULT_RAMP) by default. Zero lets all return at once.
    #[must_use]
    pub fn ramp(mut self, doubling: Duration) -> Self {
        self.config.ramp = doubling;
        self
    }

    /// Waits for a limit that ends soon instead of answering at once: at most this long, and at
    /// most half of what the request's [`Deadline`](backstop_core::Deadline) leaves. Never by
    /// default.
    ///
    /// A limit of two seconds should not cost a cold and dearer fallback. A failover around it must
    /// then tolerate limits of this length, and not skip the target for them: see `limit_tolerated`
    /// of `HealthConfig` in `backstop-failover`.
    #[must_use]
    pub fn wait_up_to(mut self, longest: Duration) -> Self {
        self.config.wait_up_to = Some(longest);
        self
    }

    /// Acts before a refusal: takes the target for nearly limited when a smaller share than this is
    /// left of any limit that its answers state, or fewer tokens than a request is estimated to
    /// cost. Never by default; 0.05 is a good reserve, and 0 looks at the estimate alone.
    ///
    /// What an answer says is believed until the limit is full again, at most for the cap of
    /// [`quota`](Self::quota), whatever reset it states.
    ///
    /// Meanwhile a request that is marked as an attempt with others to follow (an
    /// [`Attempt`](backstop_core::Attempt) extension that is not the last) is answered here, as if
    /// throttled but with the scope of the request, so that it moves on and nothing is benched. Any
    /// other request is [paced](Self::pace_up_to), and never refused.
    #[must_use]
    pub fn shift_below(mut self, share: f64) -> Self {
        self.config.shift_below = Some(share);
        self
    }

    /// When little is left and there is no other target, spreads the requests over the time until
    /// the limit is full again: each waits for its turn at most this long, and at most half of what
    /// its [`Deadline`](backstop_core::Deadline) leaves, and is then sent.
    /// [`DEFAULT_PACE`](crate::DEFAULT_PACE) by default; zero sends them at once. It needs
    /// [`shift_below`](Self::shift_below).
    #[must_use]
    pub fn pace_up_to(mut self, longest: Duration) -> Self {
        self.config.pace_up_to = Some(longest);
        self
    }

    /// Estimates the tokens of requests in another way than [`BytesPerToken`]; used when a reserve
    /// is kept.
    #[must_use]
    pub fn estimate_by<E2>(self, estimate: E2) -> RateLimitBuilder<C, P, K, E2, O> {
        RateLimitBuilder {
            target: self.target,
            classify: self.classify,
            key: self.key,
            estimate,
            observer: self.observer,
            config: self.config,
            protocol: self.protocol,
        }
    }

    /// For how many keys limits are remembered; [`DEFAULT_CAPACITY`](crate::DEFAULT_CAPACITY) by
    /// default.
    #[must_use]
    pub fn capacity(mut self, keys: usize) -> Self {
        self.config.capacity = keys;
        self
    }

    /// How much of an error body is read, and for how long, to learn what it says;
    /// [`DEFAULT_PEEK_LIMIT`](crate::DEFAULT_PEEK_LIMIT) and
    /// [`DEFAULT_PEEK_TIME`](crate::DEFAULT_PEEK_TIME) by default.
    #[must_use]
    pub fn peek(mut self, bytes: usize, time: Duration) -> Self {
        self.config.peek_limit = bytes;
        self.config.peek_time = time;
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// When a setting cannot work; the error names it.
    pub fn build(self) -> Result<RateLimitLayer<C, P, K, E, O>, ConfigError> {
        self.config.validate()?;
        Ok(self.assemble())
    }

    fn assemble(self) -> RateLimitLayer<C, P, K, E, O> {
        let memory = Memory {
            target: self.target,
            observer: self.observer,
            config: self.config,
            scopes: Arc::new(Scopes::new(self.config.capacity)),
        };
        RateLimitLayer {
            shared: Arc::new(Shared {
                classify: self.classify,
                keeps_reserve: memory.config.shift_below.is_some(),
                memory,
            }),
            key: self.key,
            estimate: self.estimate,
            protocol: PhantomData,
        }
    }
}

impl<C, P, K, E, O> fmt::Debug for RateLimitBuilder<C, P, K, E, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitBuilder")
            .field("target", &self.target)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
