use std::{
    fmt,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{
    BoxError, Classify, Deadline, Elapsed, Event, Observer, Phase, Requests, Responses, TimeLimits,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::{
    Limits, MAX_LIMIT, ResponseBody, ResponseFuture,
    body::Settings,
    clock::{Limit, Own, after},
    future::Call,
    kept::Kept,
};

/// Limits every phase of a call. See the [crate documentation](crate).
///
/// # Readiness
///
/// The limit of [`Phase::Ready`] starts with the first `poll_ready` that is pending. When it is
/// reached, `poll_ready` says that the service is ready and the next `call` fails with
/// [`Elapsed`]: an error of `poll_ready` would mean that the service is dead, and everybody who
/// shares a `Buffer` would lose it. The inner service that was waiting is replaced by a clone of
/// itself, which gives its place in the queue back; that is why it must be `Clone`.
pub struct Timeout<S, C, P, O> {
    inner: S,
    shared: Arc<Shared<C, O>>,
    readiness: Readiness,
    protocol: PhantomData<fn() -> P>,
}

/// What all calls of a layer have in common.
#[derive(Clone)]
pub(crate) struct Shared<C, O> {
    pub(crate) limits: Limits,
    pub(crate) classify: C,
    pub(crate) observer: O,
    pub(crate) target: Box<str>,
    pub(crate) shares_deadline: bool,
}

/// How the inner service became ready, or did not.
enum Readiness {
    /// It was never found pending, and calls have no limit for all of them.
    AtOnce,
    Waiting {
        since: Instant,
        /// Boxed, so that the service can be moved; it exists only while the service is saturated.
        sleep: Option<Pin<Box<Sleep>>>,
    },
    After(Duration),
    /// It took too long; the next call is refused.
    TooLate(Elapsed),
}

impl<S, C, P, O> Timeout<S, C, P, O> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<C, O>>) -> Self {
        Self {
            inner,
            readiness: Readiness::rest(&shared.limits),
            shared,
            protocol: PhantomData,
        }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service. Polling its readiness here confuses this one's.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, as ready as it is.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl Readiness {
    /// How it is before the inner service is asked. A call that is limited as a whole must know
    /// when it began, so that it is none of those to which nothing happened.
    const fn rest(limits: &Limits) -> Self {
        match limits.total {
            Some(_) => Self::After(Duration::ZERO),
            None => Self::AtOnce,
        }
    }

    /// The inner service is ready.
    #[cold]
    fn end(&mut self, limits: &Limits) {
        *self = match self {
            Self::Waiting { since, .. } => {
                Self::After(Instant::now().saturating_duration_since(*since))
            }
            Self::After(took) => Self::After(*took),
            // What was too late for a call that was not made is in time for the next.
            Self::AtOnce | Self::TooLate(_) => Self::rest(limits),
        };
    }
}

impl<S, C, P, O, Req> Service<Req> for Timeout<S, C, P, O>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    P: Requests<Req> + Responses<S::Response>,
    C: Classify<Req, S::Response> + Send + Sync + 'static,
    O: Observer,
{
    type Response = P::With<ResponseBody<P::Body, C::Stream>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, Req, P, C, O, C::Call>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Poll::Ready(result) = self.inner.poll_ready(cx) {
            if !matches!(self.readiness, Readiness::AtOnce) {
                self.readiness.end(&self.shared.limits);
            }
            return Poll::Ready(result.map_err(Into::into));
        }
        if let Readiness::TooLate(_) = self.readiness {
            self.give_back();
            return Poll::Ready(Ok(()));
        }
        let limit = self.shared.limits.ready;
        if !matches!(self.readiness, Readiness::Waiting { .. }) {
            let since = Instant::now();
            let sleep = limit.map(|limit| Box::pin(sleep_until(after(since, limit))));
            self.readiness = Readiness::Waiting { since, sleep };
        }
        if let Readiness::Waiting {
            since,
            sleep: Some(sleep),
        } = &mut self.readiness
        {
            ready!(sleep.as_mut().poll(cx));
            let waited = Instant::now().saturating_duration_since(*since);
            let elapsed = Elapsed::new(Phase::Ready, limit.unwrap_or_default(), waited);
            self.shared.timed_out(&elapsed);
            self.give_back();
            self.readiness = Readiness::TooLate(elapsed);
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    #[inline(always)]
    fn call(&mut self, mut request: Req) -> Self::Future {
        let size = P::size(&request).unwrap_or(0);
        let remembered = self.shared.classify.on_request(&request);
        // Without any of these the clock is not read and nothing is written.
        let kept = if !matches!(self.readiness, Readiness::AtOnce)
            || self.shared.observer.is_enabled()
            || <P as Requests<Req>>::extensions(&request).is_some_and(|all| !all.is_empty())
        {
            self.own_terms(&mut request)
        } else {
            Kept::new()
        };
        let inner = if kept.is_refusal() {
            None
        } else {
            Some(self.inner.call(request))
        };
        let call = Call {
            shared: Arc::clone(&self.shared),
            remembered,
            size,
        };
        ResponseFuture::new(inner, call, kept)
    }
}

impl<S: Clone, C, P, O> Timeout<S, C, P, O> {
    /// Gives back whatever readiness the inner service holds or queues for: a clone has none.
    fn give_back(&mut self) {
        self.inner = self.inner.clone();
    }
}

impl<S, C, P, O: Observer> Timeout<S, C, P, O> {
    /// What the call has of its own, written into the request where the layers inside are to know
    /// it.
    ///
    /// When it is too late already, that; readiness is given back then.
    #[inline(never)]
    fn own_terms<Req>(&mut self, request: &mut Req) -> Kept
    where
        P: Requests<Req>,
        S: Clone,
    {
        let rest = Readiness::rest(&self.shared.limits);
        let ready_after = match mem::replace(&mut self.readiness, rest) {
            Readiness::TooLate(elapsed) => return Kept::refusal(elapsed),
            Readiness::After(took) => took,
            Readiness::AtOnce | Readiness::Waiting { .. } => Duration::ZERO,
        };
        match self.shared.own_terms::<P, Req>(request, ready_after) {
            Ok(None) => Kept::new(),
            Ok(Some(own)) => Kept::own(own),
            Err(elapsed) => {
                self.shared.timed_out(&elapsed);
                self.give_back();
                Kept::refusal(elapsed)
            }
        }
    }
}

/// A clone carries no readiness: neither what the inner service has, nor how long it took.
impl<S: Clone, C, P, O> Clone for Timeout<S, C, P, O> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), Arc::clone(&self.shared))
    }
}

impl<S: fmt::Debug, C, P, O> fmt::Debug for Timeout<S, C, P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeout")
            .field("inner", &self.inner)
            .field("target", &self.shared.target)
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<C, O: Observer> Shared<C, O> {
    fn own_terms<P, Req>(
        &self,
        request: &mut Req,
        ready_after: Duration,
    ) -> Result<Option<Own>, Elapsed>
    where
        P: Requests<Req>,
    {
        let extensions = P::extensions(request);
        let overrides = extensions.and_then(|all| all.get::<TimeLimits>().copied());
        let deadline = extensions.and_then(|all| all.get::<Deadline>().copied());
        let observed = self.observer.is_enabled();
        let mut whole = self.limits.total;
        if let Some(overrides) = overrides {
            whole = overrides.total.or(whole);
            if let Some(limit) = overrides.ready.filter(|limit| ready_after > *limit) {
                return Err(Elapsed::new(Phase::Ready, limit, ready_after));
            }
        }
        if !observed && whole.is_none() && deadline.is_none() && overrides.is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        if observed {
            self.phase_ended(Phase::Ready, ready_after);
        }
        let left = deadline.map(|deadline| deadline.remaining(now.into_std()));
        if left == Some(Duration::ZERO) {
            return Err(Elapsed::new(Phase::Total, Duration::ZERO, Duration::ZERO));
        }
        // Nobody extends a deadline.
        let total = match (whole, left) {
            (Some(whole), Some(left)) => Some(whole.min(left)),
            (whole, left) => whole.or(left),
        };
        if let Some(whole) = whole
            && (deadline.is_some() || self.shares_deadline)
            && let Some(extensions) = P::extensions_mut(request)
        {
            let end = Deadline::after(now.into_std(), whole);
            extensions.insert(deadline.map_or(end, |deadline| deadline.earlier(end)));
        }
        Ok(Some(Own {
            started: now,
            total: total.map(Limit::new),
            overrides: overrides.map(|overrides| Box::new(within_reach(overrides))),
        }))
    }

    pub(crate) fn phase_ended(&self, phase: Phase, took: Duration) {
        self.observer.on_event(&Event::PhaseEnded {
            target: &self.target,
            phase,
            took,
        });
    }

    pub(crate) fn timed_out(&self, elapsed: &Elapsed) {
        self.observer.on_event(&Event::PhaseTimedOut {
            target: &self.target,
            phase: elapsed.phase(),
            limit: elapsed.limit(),
            waited: elapsed.waited(),
        });
    }
}

impl<C: Send + Sync, O: Observer> Settings for Shared<C, O> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn phase_ended(&self, phase: Phase, took: Duration) {
        Self::phase_ended(self, phase, took);
    }

    fn timed_out(&self, elapsed: &Elapsed) {
        Self::timed_out(self, elapsed);
    }
}

/// No limit is longer than the longest that can be set.
fn within_reach(mut limits: TimeLimits) -> TimeLimits {
    for limit in [
        &mut limits.headers,
        &mut limits.first_token,
        &mut limits.idle,
    ] {
        *limit = limit.map(|limit| limit.min(MAX_LIMIT));
    }
    limits
}
