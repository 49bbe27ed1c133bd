use std::{fmt, marker::PhantomData, sync::Arc};

use backstop_core::{ClassifyErrors, Http, Observer};
use tower_layer::Layer;

use crate::{ConfigError, Limits, Timeout, service::Shared};

/// Applies [`Timeout`] to a service. See the [crate documentation](crate).
pub struct TimeoutLayer<C = ClassifyErrors, P = Http, O = ()> {
    shared: Arc<Shared<C, O>>,
    protocol: PhantomData<fn() -> P>,
}

impl TimeoutLayer {
    /// Limits the phases of every call.
    ///
    /// Requests and responses are those of the `http` crate, until
    /// [`protocol`](TimeoutLayer::protocol) says otherwise. All data of a body counts as content,
    /// until [`classify`](TimeoutLayer::classify) brings somebody who knows.
    ///
    /// # Errors
    ///
    /// When a limit cannot be meant; see [`Limits::validate`].
    pub fn new(limits: Limits) -> Result<Self, ConfigError> {
        limits.validate()?;
        Ok(Self::of(Shared {
            limits,
            classify: ClassifyErrors,
            observer: (),
            target: "".into(),
            shares_deadline: false,
        }))
    }
}

impl<C, P, O> TimeoutLayer<C, P, O> {
    fn of(shared: Shared<C, O>) -> Self {
        Self {
            shared: Arc::new(shared),
            protocol: PhantomData,
        }
    }
}

impl<C: Clone, P, O: Clone> TimeoutLayer<C, P, O> {
    /// Sets who tells content from signs of life; its [`ClassifyStream`] decides when the first
    /// token has come and when a stream is over.
    ///
    /// [`ClassifyStream`]: backstop_core::ClassifyStream
    #[must_use]
    pub fn classify<C2>(self, classify: C2) -> TimeoutLayer<C2, P, O> {
        let shared = Arc::unwrap_or_clone(self.shared);
        TimeoutLayer::of(Shared {
            classify,
            limits: shared.limits,
            observer: shared.observer,
            target: shared.target,
            shares_deadline: shared.shares_deadline,
        })
    }

    /// Sets what the requests and responses are: [`Http`], [`Typed`](backstop_core::Typed) or a type
    /// of your own that implements [`Requests`](backstop_core::Requests) and
    /// [`Responses`](backstop_core::Responses).
    #[must_use]
    pub fn protocol<P2>(self) -> TimeoutLayer<C, P2, O> {
        TimeoutLayer {
            shared: self.shared,
            protocol: PhantomData,
        }
    }

    /// Sets who hears when a phase ends or takes too long.
    #[must_use]
    pub fn observer<O2: Observer>(self, observer: O2) -> TimeoutLayer<C, P, O2> {
        let shared = Arc::unwrap_or_clone(self.shared);
        TimeoutLayer::of(Shared {
            observer,
            limits: shared.limits,
            classify: shared.classify,
            target: shared.target,
            shares_deadline: shared.shares_deadline,
        })
    }

    /// Names the target, for the observer.
    #[must_use]
    pub fn target(self, name: impl Into<Box<str>>) -> Self {
        let mut shared = Arc::unwrap_or_clone(self.shared);
        shared.target = name.into();
        Self::of(shared)
    }

    /// Writes the end of the whole call into every request as a [`Deadline`], so that the layers
    /// inside plan with it. It has an effect with a limit of [`Limits::total`] only.
    ///
    /// A deadline that a request carries already is always cut to the limit. Adding one costs an
    /// allocation, which is why it is asked for; it belongs on the outermost layer.
    ///
    /// [`Deadline`]: backstop_core::Deadline
    #[must_use]
    pub fn share_deadline(self) -> Self {
        let mut shared = Arc::unwrap_or_clone(self.shared);
        shared.shares_deadline = true;
        Self::of(shared)
    }
}

impl<S, C, P, O> Layer<S> for TimeoutLayer<C, P, O> {
    type Service = Timeout<S, C, P, O>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout::new(inner, Arc::clone(&self.shared))
    }
}

impl<C, P, O> Clone for TimeoutLayer<C, P, O> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            protocol: PhantomData,
        }
    }
}

impl<C, P, O> fmt::Debug for TimeoutLayer<C, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutLayer")
            .field("target", &self.shared.target)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}
