use std::{
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{BoxError, Classify, Elapsed, Observer, Phase, Responses, Verdict};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    ResponseBody,
    clock::{Terms, after},
    service::Shared,
};

pin_project! {
    /// The future of [`Timeout`](crate::Timeout). It resolves at the head of the response.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the call and the timer. When it ends in an error it has dropped them
    /// itself. When it ends with an answer, what the future of the inner call still holds (the
    /// permit of a `ConcurrencyLimit`, for one) and the timer go when this future is dropped, as
    /// with tower's `Timeout`; `.await` does that at once, and the body holds nothing of it.
    pub struct ResponseFuture<F, Req, P, C, O, K> {
        // None where the call was refused, and after an error.
        #[pin]
        inner: Option<F>,
        // Made by the first poll that is pending; what it is set to does not change.
        #[pin]
        sleep: Option<Sleep>,
        call: Call<C, O, K>,
        // Why the call was refused. Boxed, because it is next to never there.
        refused: Option<Box<Elapsed>>,
        marker: PhantomData<fn(Req) -> P>,
    }
}

/// One call, as far as it is the same for every service.
pub(crate) struct Call<C, O, K> {
    pub(crate) shared: Arc<Shared<C, O>>,
    /// What the classifier remembers of the request.
    pub(crate) remembered: K,
    pub(crate) terms: Terms,
}

impl<F, Req, P, C, O, K> ResponseFuture<F, Req, P, C, O, K> {
    /// `inner` is there unless the call was refused.
    #[inline]
    pub(crate) const fn new(
        inner: Option<F>,
        refused: Option<Box<Elapsed>>,
        call: Call<C, O, K>,
    ) -> Self {
        Self {
            inner,
            sleep: None,
            call,
            refused,
            marker: PhantomData,
        }
    }
}

impl<F, Res, Err, Req, P, C, O> Future for ResponseFuture<F, Req, P, C, O, C::Call>
where
    F: Future<Output = Result<Res, Err>>,
    Err: Into<BoxError>,
    P: Responses<Res>,
    C: Classify<Req, Res> + Send + Sync + 'static,
    O: Observer,
{
    type Output = Result<P::With<ResponseBody<P::Body, C::Stream>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return match this.refused.take() {
                Some(elapsed) => Poll::Ready(Err(elapsed)),
                // Nothing comes after an error.
                None => Poll::Pending,
            };
        };
        let error = match inner.poll(cx) {
            Poll::Ready(Ok(response)) => {
                // Built where it is returned, because it is large; what is left of the call
                // goes with this future, as it does in tower's.
                return Poll::Ready(Ok(this.call.answered::<Req, P, Res>(response)));
            }
            Poll::Ready(Err(error)) => error.into(),
            Poll::Pending => ready!(this.call.wait(this.sleep.as_mut(), cx)).into(),
        };
        this.inner.set(None);
        this.sleep.set(None);
        Poll::Ready(Err(error))
    }
}

impl<C, O: Observer, K> Call<C, O, K> {
    /// A poll found nothing: ready when a limit is reached.
    ///
    /// Inlined, because the first wait of a call is mostly its last.
    #[inline(always)]
    fn wait(&self, mut sleep: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<Elapsed> {
        if sleep.is_none() {
            let Some(at) = self.due() else {
                return Poll::Pending;
            };
            sleep.set(Some(sleep_until(at)));
        }
        let Some(mut sleep) = sleep.as_pin_mut() else {
            return Poll::Pending;
        };
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(self.reached(sleep.deadline()))
    }

    /// The limit that was reached at `at`.
    #[cold]
    fn reached(&self, at: Instant) -> Elapsed {
        let (phase, limit) = match self.terms.whole() {
            Some((started, limit)) if after(started, limit) <= at => (Phase::Total, limit),
            _ => (Phase::Headers, self.limit().unwrap_or_default()),
        };
        let waited = limit + Instant::now().saturating_duration_since(at);
        let elapsed = Elapsed::new(phase, limit, waited);
        self.shared.timed_out(&elapsed);
        elapsed
    }

    /// How long the head may take.
    #[inline]
    fn limit(&self) -> Option<Duration> {
        let own = self.terms.overrides().and_then(|own| own.headers);
        own.or(self.shared.limits.headers)
    }

    /// When the head must be there, if it is waited for from now.
    #[inline]
    fn due(&self) -> Option<Instant> {
        if self.terms.own.is_some() {
            return self.own_due();
        }
        let limit = self.shared.limits.headers?;
        Some(after(Instant::now(), limit))
    }

    /// The same for a call that has limits of its own, or a limit for all of it.
    #[inline(never)]
    fn own_due(&self) -> Option<Instant> {
        let head = self.limit().map(|limit| after(Instant::now(), limit));
        let end = self
            .terms
            .whole()
            .map(|(started, limit)| after(started, limit));
        head.into_iter().chain(end).min()
    }

    /// The head is there.
    #[inline]
    fn answered<Req, P, Res>(&mut self, response: Res) -> P::With<ResponseBody<P::Body, C::Stream>>
    where
        P: Responses<Res>,
        C: Classify<Req, Res, Call = K> + Send + Sync + 'static,
    {
        let stream = match self
            .shared
            .classify
            .on_response(&self.remembered, &response)
        {
            Verdict::Now(_) => None,
            Verdict::AtEnd(stream) => Some(stream),
        };
        // What is to be told if nothing comes after the head.
        let mut over = if self.shared.observer.is_enabled() {
            self.head_came()
        } else {
            None
        };
        let response = P::map_body(response, |body| {
            let observed = over.is_some() && !body.is_end_stream();
            if observed {
                over = None;
            }
            let shared = Arc::clone(&self.shared);
            ResponseBody::new(body, stream, self.terms.take(), shared, observed)
        });
        if let Some(took) = over {
            self.shared.phase_ended(Phase::Total, took);
        }
        response
    }

    /// Tells that the head has come, and says how long it took.
    fn head_came(&self) -> Option<Duration> {
        let took = Instant::now().saturating_duration_since(self.terms.started()?);
        self.shared.phase_ended(Phase::Headers, took);
        Some(took)
    }
}

impl<F, Req, P, C, O, K> fmt::Debug for ResponseFuture<F, Req, P, C, O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("open", &self.inner.is_some())
            .finish_non_exhaustive()
    }
}
