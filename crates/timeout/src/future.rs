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
    clock::{Own, after},
    kept::Kept,
    service::Shared,
};

pin_project! {
    /// The future of [`Timeout`](crate::Timeout). It resolves at the head of the response.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the call and the timer. When it ends in an error it has dropped them
    /// itself. When it ends with an answer, what the future of the inner call still holds (the
    /// permit of a `ConcurrencyLimit`, for one) and the timer of the head go when this future is
    /// dropped, as with tower's `Timeout`; `.await` does that at once.
    pub struct ResponseFuture<F, Req, P, C, O, K> {
        // None where the call was refused, and after an error.
        #[pin]
        inner: Option<F>,
        call: Call<C, O, K>,
        // What the call has of its own to be limited by; its timer is there too.
        kept: Kept,
        // The timer of a call that is limited by the layer alone. Made by the first poll that is
        // pending; what it is set to does not change.
        #[pin]
        sleep: Option<Sleep>,
        marker: PhantomData<fn(Req) -> P>,
    }
}

/// One call, as far as it is the same for every service.
pub(crate) struct Call<C, O, K> {
    pub(crate) shared: Arc<Shared<C, O>>,
    /// What the classifier remembers of the request.
    pub(crate) remembered: K,
    /// The size of the request; 0 if it is not known.
    pub(crate) size: u64,
}

impl<F, Req, P, C, O, K> ResponseFuture<F, Req, P, C, O, K> {
    /// `inner` is there unless the call was refused.
    #[inline]
    pub(crate) const fn new(inner: Option<F>, call: Call<C, O, K>, kept: Kept) -> Self {
        Self {
            inner,
            call,
            kept,
            sleep: None,
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

    // Always inlined, as `call` is: otherwise the response and the future are moved twice more
    // wherever there are two stacks of the same types.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return match this.kept.refused() {
                Some(elapsed) => Poll::Ready(Err(elapsed)),
                // Nothing comes after an error.
                None => Poll::Pending,
            };
        };
        let error = match inner.poll(cx) {
            Poll::Ready(Ok(response)) => {
                // Built where it is returned, because it is large.
                return Poll::Ready(Ok(this.call.answered::<Req, P, Res>(response, this.kept)));
            }
            Poll::Ready(Err(error)) => error.into(),
            Poll::Pending => {
                let at = ready!(this.call.wait(this.kept, this.sleep.as_mut(), cx));
                this.call.reached(this.kept, at)
            }
        };
        this.inner.set(None);
        this.sleep.set(None);
        this.kept.close();
        Poll::Ready(Err(error))
    }
}

impl<C, O: Observer, K> Call<C, O, K> {
    /// A poll found nothing: ready when a limit is reached, with the time when it was.
    ///
    /// Inlined, because the first wait of a call is mostly its last.
    #[inline(always)]
    fn wait(
        &self,
        kept: &mut Kept,
        mut sleep: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<Instant> {
        if sleep.is_none() {
            if kept.is_some() {
                return self.own_wait(kept, cx);
            }
            let Some(limit) = self.shared.limits.headers else {
                return Poll::Pending;
            };
            arm(sleep.as_mut(), limit);
        }
        let Some(mut sleep) = sleep.as_pin_mut() else {
            return Poll::Pending;
        };
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(sleep.deadline())
    }

    /// The same for a call that has limits of its own, or a limit for all of it.
    #[inline(never)]
    fn own_wait(&self, kept: &mut Kept, cx: &mut Context<'_>) -> Poll<Instant> {
        let place = kept.open().project();
        let since = place.waits.since();
        let own = place.own.as_ref();
        let head = own.and_then(|own| own.headers(&self.shared.limits));
        let head = head.map(|limit| after(since, limit));
        let whole = own.and_then(Own::whole);
        let whole = whole.map(|(started, limit)| after(started, limit));
        let Some(at) = head.into_iter().chain(whole).min() else {
            return Poll::Pending;
        };
        ready!(place.alarm.poll(cx, at));
        Poll::Ready(at)
    }

    /// The limit that was reached at `at`.
    #[cold]
    #[inline(never)]
    fn reached(&self, kept: &Kept, at: Instant) -> BoxError {
        let limits = &self.shared.limits;
        let own = kept.get_own();
        let (phase, limit) = match own.and_then(Own::whole) {
            Some((started, limit)) if after(started, limit) <= at => (Phase::Total, limit),
            _ => {
                let limit = own.map_or(limits.headers, |own| own.headers(limits));
                (Phase::Headers, limit.unwrap_or_default())
            }
        };
        let waited = limit + Instant::now().saturating_duration_since(at);
        let elapsed = Elapsed::new(phase, limit, waited);
        self.shared.timed_out(&elapsed);
        elapsed.into()
    }

    /// The head is there.
    #[inline]
    fn answered<Req, P, Res>(
        &self,
        response: Res,
        kept: &mut Kept,
    ) -> P::With<ResponseBody<P::Body, C::Stream>>
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
            self.head_came(kept)
        } else {
            None
        };
        let response = P::map_body(response, |body| {
            let observed = over.is_some() && !body.is_end_stream();
            if observed {
                over = None;
                kept.observe();
            }
            let shared = Arc::clone(&self.shared);
            ResponseBody::new(body, stream, self.size, kept.head_came(), shared)
        });
        if let Some(took) = over {
            self.shared.phase_ended(Phase::Total, took);
        }
        response
    }

    /// Tells that the head has come, and says how long it took.
    fn head_came(&self, kept: &Kept) -> Option<Duration> {
        let took = Instant::now().saturating_duration_since(kept.started()?);
        self.shared.phase_ended(Phase::Headers, took);
        Some(took)
    }
}

/// Apart, because it is moved once more otherwise.
#[inline]
fn arm(mut sleep: Pin<&mut Option<Sleep>>, limit: Duration) {
    sleep.set(Some(sleep_until(after(Instant::now(), limit))));
}

impl<F, Req, P, C, O, K> fmt::Debug for ResponseFuture<F, Req, P, C, O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("open", &self.inner.is_some())
            .finish_non_exhaustive()
    }
}
