use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use backstop_core::{BoxError, Classify, Http, Observer, Replay, Requests, Responses};
use tower_service::Service;

use crate::{
    FailoverBuilder, FailoverHandle, ResponseBody, ResponseFuture, config::Config, state::State,
};

/// Asks one target after the other until one answers; see the [crate's documentation](crate).
///
/// It is always ready, since it may not hold the readiness of a target it might not call: every
/// attempt clones its target and waits for that clone, within the attempt's own time. Put a
/// concurrency limit outside where back-pressure is wanted.
///
/// Clones share everything.
pub struct Failover<S, C, P = Http, O = ()> {
    pub(crate) inner: Arc<Inner<S, C, O>>,
    protocol: PhantomData<fn() -> P>,
}

pub(crate) struct Inner<S, C, O> {
    pub(crate) services: Box<[S]>,
    pub(crate) classify: C,
    pub(crate) config: Config,
    pub(crate) state: Arc<State<O>>,
}

// === impl Failover ===

impl Failover<(), ()> {
    /// Starts to set one up, with answers classified by `classify`.
    pub fn builder<C>(classify: C) -> FailoverBuilder<C> {
        FailoverBuilder::new(classify)
    }
}

impl<S, C, P, O> Failover<S, C, P, O> {
    pub(crate) fn of(
        services: Box<[S]>,
        classify: C,
        config: Config,
        state: Arc<State<O>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                services,
                classify,
                config,
                state,
            }),
            protocol: PhantomData,
        }
    }

    /// Shows the state of the targets and takes orders.
    #[must_use]
    pub fn handle(&self) -> FailoverHandle {
        FailoverHandle::new(Arc::clone(&self.inner.state.shared))
    }
}

impl<S, C, P, O, Req> Service<Req> for Failover<S, C, P, O>
where
    P: Requests<Req> + Replay<Req> + Responses<S::Response> + 'static,
    <P as Replay<Req>>::Request: Send,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Response: Send,
    C: Classify<<P as Replay<Req>>::Request, S::Response> + Send + Sync + 'static,
    O: Observer,
    Req: Send + 'static,
{
    type Response = <P as Responses<S::Response>>::With<
        ResponseBody<<P as Responses<S::Response>>::Body, C::Stream, O>,
    >;
    type Error = BoxError;
    type Future = ResponseFuture<S, C, P, O, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::new(Arc::clone(&self.inner), request)
    }
}

impl<S, C, P, O> Clone for Failover<S, C, P, O> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            protocol: PhantomData,
        }
    }
}

impl<S, C, P, O> fmt::Debug for Failover<S, C, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("config", &self.inner.config)
            .field("targets", &self.inner.services.len())
            .finish_non_exhaustive()
    }
}
