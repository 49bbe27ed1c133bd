use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{Attempt, BoxError, Classify, Deadline, Http, Observer, Requests, Responses};
use http::Extensions;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    BytesPerToken, EstimateTokens, Key, KeyOf, OneKey,
    body::ResponseBody,
    future::{Asked, Held, Rare, RareOf, ResponseFuture},
    layer::Shared,
    memory::Terms,
    scoped::Scoped,
    state::micros,
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
pub struct RateLimit<S, C, P = Http, K = OneKey, E = BytesPerToken, O = ()> {
    inner: S,
    readiness: Readiness,
    shared: Arc<Shared<C, O>>,
    /// That of the whole target, near at hand: each call looks at it twice.
    whole: Arc<Scoped>,
    key: K,
    estimate: E,
    protocol: PhantomData<fn() -> P>,
}

/// What `poll_ready` said last. A call on the healthy path leaves it as it is: to take the inner
/// service for one that holds something costs a clone of it at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// Nothing yet.
    Unknown,
    /// What the inner service said, which may hold a place for us, or be in line for one.
    Inner,
    /// Ready, as the target is limited; the inner service holds nothing.
    Local,
}

impl<S, C, P, K, E, O> RateLimit<S, C, P, K, E, O> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<C, O>>, key: K, estimate: E) -> Self {
        let whole = Arc::clone(&shared.memory.scopes.whole);
        Self {
            inner,
            readiness: Readiness::Unknown,
            shared,
            whole,
            key,
            estimate,
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

impl<S: Clone, C, P, K: Clone, E: Clone, O> Clone for RateLimit<S, C, P, K, E, O> {
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            Arc::clone(&self.shared),
            self.key.clone(),
            self.estimate.clone(),
        )
    }
}

impl<Req, S, C, P, K, E, O> Service<Req> for RateLimit<S, C, P, K, E, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    C: Classify<Req, S::Response> + Send + Sync + 'static,
    P: Requests<Req> + Responses<S::Response>,
    K: KeyOf<Req>,
    E: EstimateTokens<Req>,
    O: Observer,
{
    type Response = P::With<ResponseBody<P::Body, C::Stream>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, C, P, O>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Once ready, always ready until called.
        if self.readiness == Readiness::Local || !self.whole.state.is_open() {
            self.ready_for_limited();
            return Poll::Ready(Ok(()));
        }
        self.readiness = Readiness::Inner;
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let key = self.key.key_of(&request);
        if self.readiness == Readiness::Inner
            && self.whole.state.is_open()
            && key.is_none_or(|key| self.shared.memory.scopes.is_open_for(key))
            && (!self.shared.keeps_reserve || self.spends(&request, key))
        {
            let asked = self.asked(&request, key);
            ResponseFuture::calling(asked, self.inner.call(request))
        } else {
            ResponseFuture::rare(self.call_with_care(request, key))
        }
    }
}

impl<S, C, P, K, E, O> RateLimit<S, C, P, K, E, O> {
    /// Is ready without the inner service, and gives back what that holds or is in line for.
    #[cold]
    #[inline(never)]
    fn ready_for_limited(&mut self)
    where
        S: Clone,
    {
        if self.readiness == Readiness::Inner {
            self.inner = self.inner.clone();
        }
        self.readiness = Readiness::Local;
    }

    /// Takes what a request is likely to cost from what is left; `false` if that is too little.
    #[cold]
    #[inline(never)]
    fn spends<Req>(&self, request: &Req, key: Option<Key>) -> bool
    where
        P: Requests<Req>,
        E: EstimateTokens<Req>,
        O: Observer,
    {
        let memory = &self.shared.memory;
        let terms = Terms {
            key,
            estimate: self.tokens(request),
            // What is sent at once waits for nothing.
            wait_until: 0,
            pace_until: 0,
        };
        let has_enough = memory.nearly(&terms).is_none();
        if has_enough {
            memory.spend(&terms);
        }
        has_enough
    }

    /// Calls when something is remembered, or little is left.
    #[cold]
    #[inline(never)]
    fn call_with_care<Req>(
        &mut self,
        request: Req,
        key: Option<Key>,
    ) -> Box<RareOf<S, Req, C, P, O>>
    where
        S: Service<Req, Error: Into<BoxError>> + Clone,
        C: Classify<Req, S::Response>,
        P: Requests<Req> + Responses<S::Response>,
        E: EstimateTokens<Req>,
        O: Observer,
    {
        let readiness = mem::replace(&mut self.readiness, Readiness::Unknown);
        let memory = &self.shared.memory;
        let terms = self.terms(&request, key);
        let asked = self.asked(&request, key);
        let nearly = memory.nearly(&terms);
        let refused = if let Some(nearly) = nearly.filter(|_| has_others::<P, _>(&request)) {
            Rare::refused(memory.early_answer(&nearly))
        } else {
            match memory.admit(&terms) {
                Ok(pass) if readiness == Readiness::Inner => {
                    let sent = memory.send(pass, &terms);
                    return Rare::sent(asked, sent, self.inner.call(request));
                }
                Ok(pass) => {
                    let held = Held::admitted(self.inner.clone(), request, terms, pass);
                    return Rare::held(asked, held);
                }
                Err(blocked) => match memory.wait(terms, blocked) {
                    Ok(waiting) => {
                        let held = Held::waiting(self.inner.clone(), request, terms, waiting);
                        Rare::held(asked, held)
                    }
                    Err(failure) => Rare::refused(failure),
                },
            }
        };
        // What the inner service holds for this request is given back.
        if readiness == Readiness::Inner {
            self.inner = self.inner.clone();
        }
        refused
    }

    /// What is known of a request before it is sent.
    #[inline]
    fn asked<Req>(&self, request: &Req, key: Option<Key>) -> Asked<C, C::Call, O>
    where
        S: Service<Req>,
        C: Classify<Req, S::Response>,
    {
        Asked {
            shared: Arc::clone(&self.shared),
            call: self.shared.classify.on_request(request),
            key,
        }
    }

    /// On which terms a request is sent. Half of what its deadline leaves stays for the answer.
    fn terms<Req>(&self, request: &Req, key: Option<Key>) -> Terms
    where
        P: Requests<Req>,
        E: EstimateTokens<Req>,
    {
        let memory = &self.shared.memory;
        let config = &memory.config;
        let until = |longest: Option<Duration>| {
            let Some(longest) = longest else {
                return 0;
            };
            let deadline = P::extensions(request).and_then(Extensions::get::<Deadline>);
            let allowed = deadline.map_or(longest, |deadline| {
                longest.min(deadline.remaining(Instant::now().into_std()) / 2)
            });
            memory.scopes.now().saturating_add(micros(allowed))
        };
        let keeps_reserve = self.shared.keeps_reserve;
        Terms {
            key,
            estimate: if keeps_reserve {
                self.tokens(request)
            } else {
                0
            },
            wait_until: until(config.wait_up_to),
            pace_until: until(keeps_reserve.then_some(config.pace())),
        }
    }

    /// How many tokens a request is likely to cost; none when nothing can be said.
    fn tokens<Req>(&self, request: &Req) -> u64
    where
        P: Requests<Req>,
        E: EstimateTokens<Req>,
    {
        let estimate = self.estimate.tokens(request, P::size(request));
        estimate.unwrap_or(0)
    }
}

/// Whether another target can take the request.
fn has_others<P: Requests<Req>, Req>(request: &Req) -> bool {
    P::extensions(request)
        .and_then(Extensions::get::<Attempt>)
        .is_some_and(|attempt| !attempt.is_last)
}

impl<S: fmt::Debug, C, P, K, E, O> fmt::Debug for RateLimit<S, C, P, K, E, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .field("target", &self.shared.memory.target)
            .field("readiness", &self.readiness)
            .finish_non_exhaustive()
    }
}
