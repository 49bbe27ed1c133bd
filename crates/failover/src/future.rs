use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use backstop_core::{BoxError, Classify, Observer, Replay, Requests, Responses};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    attempt::Attempted,
    call::{Answer, Asked, AttemptOf, Call},
    service::Inner,
    timer::Timer,
};

pin_project! {
    /// The future of a [`Failover`](crate::Failover).
    ///
    /// The first attempt is made in it; what else may be needed is in a box that is made then.
    ///
    /// # Cancel safety
    ///
    /// Dropping it, or the body of the answer, ends the attempt under way and gives back all that it
    /// held; no other target is asked.
    pub struct ResponseFuture<S, C, P, O, Req>
    where
        P: Replay<Req>,
        P: Responses<S::Response>,
        S: Service<<P as Replay<Req>>::Request>,
        C: Classify<<P as Replay<Req>>::Request, S::Response>,
        O: Observer,
    {
        // Gone when it is sent. It stays where it is until then, since it is large.
        request: Option<Req>,
        #[pin]
        step: Step<
            Arc<Inner<S, C, O>>,
            P::Read,
            AttemptOf<S, C, P, O, Req>,
            Answer<P, S::Response, C::Stream, O>,
        >,
        // Not there before the first poll, nor when it is in the box.
        call: Option<Call<S, C, P, O, Req>>,
    }
}

pin_project! {
    #[project = StepPinned]
    enum Step<I, R, A, T> {
        /// It has not been polled.
        Called { inner: I, at: Instant },
        /// The request is read.
        Reading { read: R, #[pin] timer: Timer },
        /// The first attempt is made.
        Asking { #[pin] attempt: A },
        /// More than that is done.
        GoingOn { running: Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>> },
    }
}

// === impl ResponseFuture ===

impl<S, C, P, O, Req> ResponseFuture<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    S: Service<<P as Replay<Req>>::Request>,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    #[inline]
    pub(crate) fn new(inner: Arc<Inner<S, C, O>>, request: Req) -> Self {
        Self {
            request: Some(request),
            step: Step::Called {
                inner,
                at: Instant::now(),
            },
            call: None,
        }
    }
}

impl<S, C, P, O, Req> Future for ResponseFuture<S, C, P, O, Req>
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
    type Output = Result<Answer<P, S::Response, C::Stream, O>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.step.as_mut().project() {
                StepPinned::Called { inner, at } => {
                    let Some(request) = this.request else {
                        return Poll::Pending;
                    };
                    let call = this.call.insert(Call::new(Arc::clone(inner), request, *at));
                    let timer = Timer::new(*at, call.until());
                    this.step.set(Step::Reading {
                        read: P::Read::default(),
                        timer,
                    });
                }
                StepPinned::Reading { read, mut timer } => {
                    let (Some(call), Some(request)) = (this.call.as_mut(), this.request.as_mut())
                    else {
                        return Poll::Pending;
                    };
                    let limit = call.replay_limit();
                    let mut reading = poll_fn(|cx| P::poll_read(request, read, limit, cx));
                    let was_read = ready!(timer.as_mut().poll_race(Pin::new(&mut reading), cx));
                    call.read(was_read, timer.now())?;
                    let read = std::mem::take(read);
                    let Some(request) = this.request.take() else {
                        return Poll::Pending;
                    };
                    let (start, request) = call.first(request, read);
                    match start {
                        Some(start) if call.hedge_delay(start.course.target).is_none() => {
                            let classify = call.classify();
                            let attempt =
                                AttemptOf::<S, C, P, O, Req>::new(start, request, classify);
                            this.step.set(Step::Asking { attempt });
                        }
                        start => {
                            let start = start.map(|start| (start, request));
                            if let Some(call) = this.call.take() {
                                this.step.set(Step::GoingOn {
                                    running: Box::pin(call.ask_on(start)),
                                });
                            }
                        }
                    }
                }
                StepPinned::Asking { mut attempt } => {
                    let Some(call) = this.call.as_mut() else {
                        return Poll::Pending;
                    };
                    let attempted = ready!(attempt.as_mut().poll(call.classify(), cx));
                    let (course, now) = (attempt.course(), attempt.now());
                    match attempted {
                        Attempted::Answered(head, body) => {
                            call.note_answer(course, now);
                            return Poll::Ready(Ok(call.answered(
                                course.target,
                                Some(course),
                                head,
                                body,
                            )));
                        }
                        Attempted::Lost(loss) => {
                            call.note_loss(course, now, loss.outcome.kind());
                            let asked = Asked::of(course, attempt.limits());
                            if let Some(call) = this.call.take() {
                                this.step.set(Step::GoingOn {
                                    running: Box::pin(call.rescue(asked, loss)),
                                });
                            }
                        }
                    }
                }
                StepPinned::GoingOn { running } => return running.as_mut().poll(cx),
            }
        }
    }
}

impl<S, C, P, O, Req> fmt::Debug for ResponseFuture<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    S: Service<<P as Replay<Req>>::Request>,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
