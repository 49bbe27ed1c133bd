use std::{fmt, marker::PhantomData, sync::Arc};

use backstop_core::{Http, Observer};
use tower_layer::Layer;

use crate::{CacheConfig, CachedFallback, ConfigError, KeySecret, Store, service::Shared};

/// Answers from the store, or with the operator's text, when the inner service cannot.
///
/// See the [crate documentation](crate).
pub struct CachedFallbackLayer<St, R, C, T, P = Http, O = ()> {
    shared: Arc<Shared<St, R, C, T, O>>,
    protocol: PhantomData<fn() -> P>,
}

/// A target and the model that it asks, as the producer of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedBy {
    target: Arc<str>,
    model: Arc<str>,
}

impl ProducedBy {
    /// The model `model` as asked by the target `target`.
    #[must_use]
    pub fn new(target: impl Into<Arc<str>>, model: impl Into<Arc<str>>) -> Self {
        Self {
            target: target.into(),
            model: model.into(),
        }
    }

    /// The name of the target, as in [`Served`](backstop_core::Served).
    #[must_use]
    pub const fn target(&self) -> &Arc<str> {
        &self.target
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }
}

impl<St: Store, R, C, T> CachedFallbackLayer<St, R, C, T> {
    /// A layer for HTTP that keeps answers in `store`.
    ///
    /// * `producers` are the targets whose answers are kept and served, in the order in which they
    ///   are looked up: those of the failover inside, or one with an empty name when there is none.
    /// * `tenant` says whose request it is (`Fn(&P::Frozen) -> Option<Tenant>`); a request of nobody
    ///   is neither stored nor answered from the store.
    /// * `recorder` knows the dialect, `classify` tells what happened.
    ///
    /// # Errors
    ///
    /// When a setting cannot work; the error names it.
    pub fn new(
        config: CacheConfig,
        store: St,
        secret: KeySecret,
        producers: impl IntoIterator<Item = ProducedBy>,
        tenant: T,
        recorder: R,
        classify: C,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let producers = producers.into_iter().collect();
        let shared = Shared::new(
            config,
            store,
            secret,
            producers,
            tenant,
            recorder,
            classify,
            (),
        );
        Ok(Self {
            shared: Arc::new(shared),
            protocol: PhantomData,
        })
    }
}

impl<St, R, C, T, P> CachedFallbackLayer<St, R, C, T, P> {
    /// Tells `observer` what is stored and served.
    #[must_use]
    pub fn observer<O: Observer>(self, observer: O) -> CachedFallbackLayer<St, R, C, T, P, O>
    where
        St: Clone,
        R: Clone,
        C: Clone,
        T: Clone,
    {
        CachedFallbackLayer {
            shared: Arc::new(self.shared.with_observer(observer)),
            protocol: PhantomData,
        }
    }
}

impl<St, R, C, T, P, O> CachedFallbackLayer<St, R, C, T, P, O> {
    /// For services that do not speak HTTP.
    #[must_use]
    pub fn protocol<P2>(self) -> CachedFallbackLayer<St, R, C, T, P2, O> {
        CachedFallbackLayer {
            shared: self.shared,
            protocol: PhantomData,
        }
    }
}

impl<S, St, R, C, T, P, O> Layer<S> for CachedFallbackLayer<St, R, C, T, P, O> {
    type Service = CachedFallback<S, St, R, C, T, P, O>;

    fn layer(&self, inner: S) -> Self::Service {
        CachedFallback::new(inner, Arc::clone(&self.shared))
    }
}

impl<St, R, C, T, P, O> Clone for CachedFallbackLayer<St, R, C, T, P, O> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            protocol: PhantomData,
        }
    }
}

impl<St, R, C, T, P, O> fmt::Debug for CachedFallbackLayer<St, R, C, T, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedFallbackLayer")
            .field("config", self.shared.config())
            .finish()
    }
}
