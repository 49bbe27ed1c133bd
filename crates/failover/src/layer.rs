use std::{fmt, sync::Arc};

use backstop_core::{BoxError, Http};
use tower::util::BoxCloneSyncService;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Failover, FailoverBuilder, Target};

/// Puts [`Failover`] on a primary, with fallbacks of any types.
///
/// The primary is called `primary` and the fallbacks `fallback-1` and so on, unless they come as
/// [`Target`]s. Unlike services are boxed; a list of services of one type is better given to
/// [`FailoverBuilder::build`], which boxes none of them.
pub struct FailoverLayer<R, Res, C, P = Http, O = ()> {
    builder: FailoverBuilder<C, P, O>,
    primary: Target<()>,
    fallbacks: Vec<Target<BoxCloneSyncService<R, Res, BoxError>>>,
}

// === impl FailoverLayer ===

impl<R, Res, C> FailoverLayer<R, Res, C> {
    /// A layer with the default settings; use [`FailoverBuilder::layer`] for others.
    pub fn new(classify: C) -> Self {
        Self::of(FailoverBuilder::new(classify))
    }
}

impl<R, Res, C, P, O> FailoverLayer<R, Res, C, P, O> {
    pub(crate) fn of(builder: FailoverBuilder<C, P, O>) -> Self {
        Self {
            builder,
            primary: Target::new("primary", ()),
            fallbacks: Vec::new(),
        }
    }

    /// Replaces the name of the primary and what is declared of it.
    #[must_use]
    pub fn primary(mut self, primary: Target<()>) -> Self {
        self.primary = primary;
        self
    }

    /// Adds a service that is asked when those before it did not answer.
    #[must_use]
    pub fn fallback<S>(self, service: S) -> Self
    where
        S: Service<R, Response = Res, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        R: 'static,
    {
        let name: Arc<str> = format!("fallback-{}", self.fallbacks.len() + 1).into();
        self.fallback_target(Target::new(name, service))
    }

    /// Adds a target that is asked when those before it did not answer. Names should differ, or
    /// traces cannot tell who answered. More than 31 are never asked.
    #[must_use]
    pub fn fallback_target<S>(mut self, target: Target<S>) -> Self
    where
        S: Service<R, Response = Res, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        R: 'static,
    {
        self.fallbacks.push(target.map(boxed));
        self
    }
}

impl<S, R, Res, C, P, O> Layer<S> for FailoverLayer<R, Res, C, P, O>
where
    S: Service<R, Response = Res, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    R: 'static,
    C: Clone,
    O: Clone,
{
    type Service = Failover<BoxCloneSyncService<R, Res, BoxError>, C, P, O>;

    /// # Panics
    ///
    /// When a [plan](FailoverBuilder::plan) was set that does not fit the targets, or a share of the
    /// calls for [exercise](FailoverBuilder::exercise) that is too large for so many.
    fn layer(&self, primary: S) -> Self::Service {
        let primary = self.primary.clone().map(|()| boxed(primary));
        let targets = [primary]
            .into_iter()
            .chain(self.fallbacks.iter().cloned())
            .collect();
        #[expect(
            clippy::expect_used,
            reason = "the settings were validated when the layer was built; the rest is documented"
        )]
        self.builder
            .clone()
            .assemble(targets)
            .expect("the plan and the share of exercise fit the targets")
    }
}

fn boxed<S, R, Res>(service: S) -> BoxCloneSyncService<R, Res, BoxError>
where
    S: Service<R, Response = Res, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    R: 'static,
{
    BoxCloneSyncService::new(tower::util::MapErr::new(service, Into::into))
}

impl<R, Res, C: Clone, P, O: Clone> Clone for FailoverLayer<R, Res, C, P, O> {
    fn clone(&self) -> Self {
        Self {
            builder: self.builder.clone(),
            primary: self.primary.clone(),
            fallbacks: self.fallbacks.clone(),
        }
    }
}

impl<R, Res, C, P, O> fmt::Debug for FailoverLayer<R, Res, C, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailoverLayer")
            .field("builder", &self.builder)
            .field("primary", &self.primary)
            .field("fallbacks", &self.fallbacks)
            .finish()
    }
}
