use std::{
    fmt,
    marker::PhantomData,
    mem,
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
    pub(crate) observed: bool,
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
        let output = match state.as_mut().project() {
            StateProj::Calling {
                inner,
                alarm,
                call,
                since,
            } => match inner.poll(cx) {
                Poll::Ready(Ok(response)) => Ok(call.answered::<Req, P, Res>(response)),
                Poll::Ready(Err(error)) => Err(error.into()),
                Poll::Pending => {
                    let Some((at, elapsed)) = call.due(since) else {
                        return Poll::Pending;
                    };
                    ready!(alarm.poll(cx, at));
                    let elapsed = elapsed.at(Instant::now());
                    call.shared.timed_out(&elapsed);
                    Err(elapsed.into())
                }
            },
            StateProj::Refused { elapsed } => Err((*elapsed).into()),
            // Nothing comes after the end.
            StateProj::Done => return Poll::Pending,
        };
        state.set(State::Done);
        Poll::Ready(output)
    }
}

/// A limit that will have been reached.
struct Reached {
    phase: Phase,
    limit: Duration,
    started: Instant,
}

impl Reached {
    fn at(&self, now: Instant) -> Elapsed {
        Elapsed::new(
            self.phase,
            self.limit,
            now.saturating_duration_since(self.started),
        )
    }
}

impl<C, O: Observer, K> Call<C, O, K> {
    /// A poll found nothing: what is due first, if anything is.
    fn due(&self, since: &mut Option<Instant>) -> Option<(Instant, Reached)> {
        let own = self.terms.overrides.as_ref().and_then(|own| own.headers);
        let headers = own.or(self.shared.limits.headers).map(|limit| {
            let started = *since.get_or_insert_with(Instant::now);
            let reached = Reached {
                phase: Phase::Headers,
                limit,
                started,
            };
            (after(started, limit), reached)
        });
        let total = self.terms.whole().map(|(started, limit)| {
            let reached = Reached {
                phase: Phase::Total,
                limit,
                started,
            };
            (after(started, limit), reached)
        });
        match (headers, total) {
            (Some(headers), Some(total)) if total.0 < headers.0 => Some(total),
            (headers, total) => headers.or(total),
        }
    }

    /// The head is there.
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
        let (head, body) = P::split(response);
        let observed =
            self.observed && self.head_came(body.as_ref().is_none_or(Body::is_end_stream));
        let body = body.map(|body| {
            let terms = mem::take(&mut self.terms);
            let layer = Arc::clone(&self.shared);
            ResponseBody::new(body, stream, terms, layer, observed)
        });
        P::join(head, body)
    }

    /// Tells that the head has come; returns whether the rest is to be told of as well.
    fn head_came(&self, is_over: bool) -> bool {
        let Some(started) = self.terms.started else {
            return false;
        };
        let took = Instant::now().saturating_duration_since(started);
        self.shared.phase_ended(Phase::Headers, took);
        if is_over {
            self.shared.phase_ended(Phase::Total, took);
        }
        !is_over
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
