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
use tokio::time::Instant;

use crate::{
    ResponseBody,
    alarm::Alarm,
    clock::{Terms, after},
    service::Shared,
};

pin_project! {
    /// The future of [`Timeout`](crate::Timeout). It resolves at the head of the response.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the call and the timer.
    pub struct ResponseFuture<F, Req, P, C, O, K> {
        #[pin]
        state: State<F, C, O, K>,
        marker: PhantomData<fn(Req) -> P>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, C, O, K> {
        Calling {
            #[pin]
            inner: F,
            #[pin]
            alarm: Alarm,
            call: Call<C, O, K>,
            // The first poll that was pending.
            since: Option<Instant>,
        },
        Refused { elapsed: Elapsed },
        Done,
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
    pub(crate) const fn new(inner: F, call: Call<C, O, K>) -> Self {
        Self {
            state: State::Calling {
                inner,
                alarm: Alarm::new(),
                call,
                since: None,
            },
            marker: PhantomData,
        }
    }

    pub(crate) const fn refused(elapsed: Elapsed) -> Self {
        Self {
            state: State::Refused { elapsed },
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
        let mut state = self.project().state;
        let error = match state.as_mut().project() {
            StateProj::Calling {
                inner,
                alarm,
                call,
                since,
            } => match inner.poll(cx) {
                Poll::Ready(Ok(response)) => {
                    // Built where it is returned, because it is large; what is left of the call
                    // goes with this future, as it does in tower's.
                    return Poll::Ready(Ok(call.answered::<Req, P, Res>(response)));
                }
                Poll::Ready(Err(error)) => error.into(),
                Poll::Pending => ready!(call.wait(alarm, since, cx)).into(),
            },
            StateProj::Refused { elapsed } => (*elapsed).into(),
            // Nothing comes after an error.
            StateProj::Done => return Poll::Pending,
        };
        state.set(State::Done);
        Poll::Ready(Err(error))
    }
}

impl<C, O: Observer, K> Call<C, O, K> {
    /// A poll found nothing: ready when a limit is reached.
    #[inline(never)]
    fn wait(
        &self,
        alarm: Pin<&mut Alarm>,
        since: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Elapsed> {
        let own = self.terms.overrides.as_ref().and_then(|own| own.headers);
        let headers = own.or(self.shared.limits.headers);
        let whole = self.terms.whole();
        let (mut phase, mut started, mut limit) = match (headers, whole) {
            (Some(limit), _) => {
                let started = *since.get_or_insert_with(Instant::now);
                (Phase::Headers, started, limit)
            }
            (None, Some((started, limit))) => (Phase::Total, started, limit),
            (None, None) => return Poll::Pending,
        };
        let mut at = after(started, limit);
        if let Some(whole) = whole {
            let end = after(whole.0, whole.1);
            if end < at {
                (phase, started, limit) = (Phase::Total, whole.0, whole.1);
                at = end;
            }
        }
        ready!(alarm.poll(cx, at));
        let waited = Instant::now().saturating_duration_since(started);
        let elapsed = Elapsed::new(phase, limit, waited);
        self.shared.timed_out(&elapsed);
        Poll::Ready(elapsed)
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
        let shared = Arc::clone(&self.shared);
        let terms = self.terms.take();
        let response = P::map_body(response, |body| {
            let observed = over.is_some() && !body.is_end_stream();
            if observed {
                over = None;
            }
            ResponseBody::new(body, stream, terms, shared, observed)
        });
        if let Some((shared, took)) = over {
            shared.phase_ended(Phase::Total, took);
        }
        response
    }

    /// Tells that the head has come, and says how long it took.
    fn head_came(&self) -> Option<(Arc<Shared<C, O>>, Duration)> {
        let took = Instant::now().saturating_duration_since(self.terms.started?);
        self.shared.phase_ended(Phase::Headers, took);
        Some((Arc::clone(&self.shared), took))
    }
}

impl<F, Req, P, C, O, K> fmt::Debug for ResponseFuture<F, Req, P, C, O, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Refused { .. } => "refused",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
