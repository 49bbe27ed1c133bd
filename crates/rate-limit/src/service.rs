use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use backstop_core::{BoxError, Classify, Deadline, Http, Observer, Requests, Responses};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    KeyOf, OneKey,
    body::ResponseBody,
    future::{Asked, Held, ResponseFuture},
    layer::Shared,
    memory::Memory,
    state::{Micros, micros},
};

/// The service of a [`RateLimitLayer`](crate::RateLimitLayer).
///
/// # Readiness
///
/// While nothing is remembered it is ready when the inner service is, and calls the instance that
/// was made ready. While the target is limited it is ready at once *without* asking the inner
/// service, which holds no place there for a request that will not be sent. A request that may be
/// sent after all, because the limit ended or because it waited, makes a clone of the inner service
/// ready within its own future and calls that. A request that is refused after the inner service
/// was made ready gives that readiness back by dropping the instance for a fresh clone.
///
/// So it never fails in `poll_ready` because of a limit, and a clone of it has no readiness.
pub struct RateLimit<S, C, P = Http, K = OneKey, O = ()> {
    inner: S,
    readiness: Readiness,
    shared: Arc<Shared<C, O>>,
    key: K,
    protocol: PhantomData<fn() -> P>,
}

/// What `poll_ready` has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// Nothing yet.
    Unknown,
    /// The inner service is ready, and may hold a place for us.
    Inner,
    /// The target is limited; the inner service was not asked.
    Local,
}

impl<S, C, P, K, O> RateLimit<S, C, P, K, O> {
    pub(crate) const fn new(inner: S, shared: Arc<Shared<C, O>>, key: K) -> Self {
        Self {
            inner,
            readiness: Readiness::Unknown,
            shared,
            key,
            protocol: PhantomData,
        }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service. It must not be called without being made ready.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, taken out.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, C, P, K: Clone, O> Clone for RateLimit<S, C, P, K, O> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            Arc::clone(&self.shared),
            self.key.clone(),
        )
    }
}

impl<Req, S, C, P, K, O> Service<Req> for RateLimit<S, C, P, K, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    C: Classify<Req, S::Response>,
    P: Requests<Req> + Responses<S::Response>,
    K: KeyOf<Req>,
    O: Observer,
{
    type Response = P::With<ResponseBody<P::Body, C::Stream, O>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, C, P, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Once ready, always ready until called.
        if self.readiness == Readiness::Local {
            return Poll::Ready(Ok(()));
        }
        if self.readiness == Readiness::Unknown && !self.shared.memory.scopes.is_open(None) {
            self.readiness = Readiness::Local;
            return Poll::Ready(Ok(()));
        }
        let ready = self.inner.poll_ready(cx).map_err(Into::into);
        if ready.is_ready() {
            self.readiness = Readiness::Inner;
        }
        ready
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let readiness = mem::replace(&mut self.readiness, Readiness::Unknown);
        let memory = &self.shared.memory;
        let key = self.key.key_of(&request);
        let asked = |request: &Req, sent| Asked {
            shared: Arc::clone(&self.shared),
            call: self.shared.classify.on_request(request),
            key,
            sent,
        };
        if memory.scopes.is_open(key) && readiness == Readiness::Inner {
            let asked = asked(&request, None);
            return ResponseFuture::calling(asked, self.inner.call(request));
        }
        match memory.admit(key) {
            Ok(pass) if readiness == Readiness::Inner => {
                let asked = asked(&request, memory.send(pass));
                ResponseFuture::calling(asked, self.inner.call(request))
            }
            Ok(pass) => {
                let asked = asked(&request, None);
                let give_up = give_up::<P, _, _>(memory, &request);
                let held = Held::admitted(self.inner.clone(), request, give_up, pass);
                ResponseFuture::holding(asked, held)
            }
            Err(blocked) => {
                let asked = asked(&request, None);
                let give_up = give_up::<P, _, _>(memory, &request);
                let future = match asked.wait(give_up, blocked) {
                    Ok(waiting) => {
                        let held = Held::waiting(self.inner.clone(), request, give_up, waiting);
                        ResponseFuture::holding(asked, held)
                    }
                    Err(failure) => ResponseFuture::refused(asked, failure),
                };
                // What the inner service holds for this request is given back.
                if readiness == Readiness::Inner {
                    self.inner = self.inner.clone();
                }
                future
            }
        }
    }
}

/// Until when a request may wait; zero when it may not.
///
/// Half of what the deadline leaves stays for the answer.
fn give_up<P: Requests<Req>, Req, O>(memory: &Memory<O>, request: &Req) -> Micros {
    let Some(longest) = memory.config.wait_up_to else {
        return 0;
    };
    let deadline = P::extensions(request).and_then(|extensions| extensions.get::<Deadline>());
    let allowed = deadline.map_or(longest, |deadline| {
        longest.min(deadline.remaining(Instant::now().into_std()) / 2)
    });
    memory.scopes.now().saturating_add(micros(allowed))
}

impl<S: fmt::Debug, C, P, K, O> fmt::Debug for RateLimit<S, C, P, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .field("target", &self.shared.memory.target)
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}
