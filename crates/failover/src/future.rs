use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use backstop_core::{
    Attempt, BoxError, Classify, ClassifyStream, Deadline, End, Event, Failure, Frozen, Mode,
    Observer, Outcome, Phase, Replay, Requests, Responses, Served, Verdict,
    body::{Peek, peek},
};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    ResponseBody,
    body::Tail,
    config::DEFAULT_WAIT,
    keep::{Kept, READ_WITHIN},
    policy::{self, Demands, Next},
    report::Report,
    service::Inner,
    timer::Timer,
};

/// The future of a [`Failover`](crate::Failover).
///
/// # Cancel safety
///
/// Dropping it, or the body of the answer, ends the attempt under way and gives back all that it
/// held; no other target is asked.
pub struct ResponseFuture<T> {
    running: Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>,
}

/// The response of a call.
pub(crate) type Answer<P, Res, K, O> =
    <P as Responses<Res>>::With<ResponseBody<<P as Responses<Res>>::Body, K, O>>;

/// What came of one attempt.
enum Attempted<H, B, K: ClassifyStream, O: Observer> {
    /// An answer that stands: whole, or begun.
    Answered(H, Option<ResponseBody<B, K, O>>),
    /// None.
    Lost(Loss<H, B>),
}

/// An attempt that gave no good answer.
struct Loss<H, B> {
    target: usize,
    outcome: Outcome,
    /// What the target said.
    answer: Option<(H, Option<Kept<B>>)>,
    /// What happened when it said nothing.
    error: Option<BoxError>,
}

/// The request, for the attempts.
enum Source<F, R> {
    Often(F),
    Once(Option<R>),
}

/// Serves one call.
pub(crate) async fn run<S, C, P, O, Req>(
    inner: Arc<Inner<S, C, O>>,
    request: Req,
) -> Result<Answer<P, S::Response, C::Stream, O>, BoxError>
where
    P: Requests<Req> + Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    let Inner {
        services,
        classify,
        config,
        state,
    } = &*inner;
    let started = Instant::now();
    let deadline = earliest(
        <P as Requests<Req>>::extensions(&request)
            .and_then(|extensions| extensions.get::<Deadline>().copied()),
        config
            .deadline
            .map(|limit| Deadline::after(started.into_std(), limit)),
    );
    let until = deadline.map_or_else(
        || started + DEFAULT_WAIT,
        |deadline| Instant::from_std(deadline.instant()),
    );
    let mut timer = pin!(Timer::new(until));

    let freeze = P::freeze(request, config.replay_limit, &config.carry);
    let mut source = match timer.as_mut().race(freeze).await {
        Some(Ok(Frozen::Replayable(frozen))) => Source::Often(frozen),
        Some(Ok(Frozen::Once(request))) => Source::Once(Some(request)),
        Some(Err(error)) => {
            let outcome = Outcome::cancelled().with_evidence("the request's body broke off");
            return Err(Failure::with_source(outcome, error).into());
        }
        None => {
            let outcome = Outcome::timed_out(Phase::Total)
                .with_evidence("the request's body came too slowly");
            return Err(Failure::new(outcome).into());
        }
    };

    let mut demands = Demands::default();
    let mut attempts = 0;
    let mut first: Option<Loss<_, _>> = None;
    let mut candidates = (0..services.len()).peekable();
    while let Some(target) = candidates.next() {
        let about = &state.targets[target];
        if let Some(reason) = demands.refuses(about) {
            state.observer.on_event(&Event::TargetSkipped {
                target: &about.name,
                reason,
            });
            continue;
        }
        let (mut request, others) = match &mut source {
            Source::Often(frozen) => {
                let usable = |about: &_| demands.refuses(about).is_none();
                let others = state.targets[target + 1..]
                    .iter()
                    .filter(|&a| usable(a))
                    .count();
                (P::thaw(frozen), u32::try_from(others).unwrap_or(u32::MAX))
            }
            Source::Once(request) => match request.take() {
                Some(request) => (request, 0),
                None => break,
            },
        };
        let now = Instant::now();
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            break;
        }
        if let Some(extensions) = <P as Replay<Req>>::extensions_mut(&mut request) {
            extensions.insert(Attempt::new(Arc::clone(&about.name), attempts, others == 0));
            if let Some(deadline) = deadline {
                extensions.insert(deadline);
            }
        }
        timer.as_mut().set(now + config.reserve.limit(left, others));
        let report = Report::start(Arc::clone(state), target, attempts, now);
        attempts += 1;
        let attempted = attempt::<S, C, P, O, Req>(
            services[target].clone(),
            target,
            classify,
            request,
            timer.as_mut(),
            config.peek_limit,
            report,
        );
        let loss = match attempted.await {
            Attempted::Answered(head, body) => {
                let served = served(&about.name, target, attempts);
                return Ok(answer::<S::Response, C::Stream, P, O>(
                    head, body, served, false,
                ));
            }
            Attempted::Lost(loss) => loss,
        };
        let next = policy::next(&loss.outcome);
        if first.is_none() && next == Next::Nobody {
            // The caller's own doing, or what nobody else can mend: it stands as it came.
            let served = served(&about.name, target, attempts);
            return conclude::<S::Response, C::Stream, P, O>(loss, served, false);
        }
        let go_on = demands.add(next, about);
        // What a later target said is dropped before anybody else is asked.
        if first.is_none() {
            first = Some(loss);
        }
        if !go_on {
            break;
        }
        // The first answer is kept for the case that nobody does better. Reading it while it is
        // most likely there frees its connection.
        if candidates.peek().is_some()
            && let Some(Loss {
                answer: Some((_, body)),
                ..
            }) = &mut first
            && let Some(kept) = body.take()
        {
            timer.as_mut().set(until.min(Instant::now() + READ_WITHIN));
            *body = kept.hold(timer.as_mut()).await;
        }
    }
    let Some(loss) = first else {
        let outcome =
            Outcome::timed_out(Phase::Total).with_evidence("no time was left to ask anybody");
        return Err(Failure::new(outcome).into());
    };
    let served = served(&state.targets[loss.target].name, loss.target, attempts);
    conclude::<S::Response, C::Stream, P, O>(loss, served, true)
}

/// Asks one target, within the time of `timer`.
async fn attempt<S, C, P, O, Req>(
    mut service: S,
    target: usize,
    classify: &C,
    request: <P as Replay<Req>>::Request,
    mut timer: Pin<&mut Timer>,
    peek_limit: usize,
    report: Report<O>,
) -> Attempted<<P as Responses<S::Response>>::Head, <P as Responses<S::Response>>::Body, C::Stream, O>
where
    P: Replay<Req> + Responses<S::Response>,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>>,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    let lost = |report: Report<O>, outcome: Outcome, answer, error| {
        report.finish(&outcome);
        Attempted::Lost(Loss {
            target,
            outcome,
            answer,
            error,
        })
    };
    let late =
        |phase| Outcome::timed_out(phase).with_evidence("the attempt's part of the deadline");

    let call = classify.on_request(&request);
    let ready = poll_fn(|cx| service.poll_ready(cx));
    match timer.as_mut().race(ready).await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            let error = error.into();
            return lost(report, classify.on_error(&call, &*error), None, Some(error));
        }
        None => return lost(report, late(Phase::Ready), None, None),
    }
    let response = match timer.as_mut().race(service.call(request)).await {
        Some(Ok(response)) => response,
        Some(Err(error)) => {
            let error = error.into();
            return lost(report, classify.on_error(&call, &*error), None, Some(error));
        }
        None => return lost(report, late(Phase::Headers), None, None),
    };
    let verdict = classify.on_response(&call, &response);
    let (head, body) = P::split(response);
    let (stream, body) = match (verdict, body) {
        (Verdict::Now(outcome), body) if outcome.is_success() => {
            let body = match body {
                Some(body) => Some(ResponseBody::unread(body, report)),
                None => {
                    report.finish(&outcome);
                    None
                }
            };
            return Attempted::Answered(head, body);
        }
        (Verdict::Now(outcome), body) => {
            return lost(report, outcome, Some((head, body.map(Kept::Unread))), None);
        }
        (Verdict::AtEnd(stream), Some(body)) => (stream, body),
        (Verdict::AtEnd(mut stream), None) => {
            let outcome = stream.on_end(End::Clean(None));
            if outcome.is_success() {
                report.finish(&outcome);
                return Attempted::Answered(head, None);
            }
            return lost(report, outcome, Some((head, None)), None);
        }
    };
    match timer
        .as_mut()
        .race(peek(body, Tail::Open(stream), peek_limit))
        .await
    {
        Some(Peek::Committed(begun)) => {
            Attempted::Answered(head, Some(ResponseBody::begun(begun, report)))
        }
        Some(Peek::Decided(outcome, body)) if outcome.is_success() => {
            report.finish(&outcome);
            Attempted::Answered(head, Some(ResponseBody::decided(body)))
        }
        Some(Peek::Decided(outcome, body)) => {
            let said = policy::is_answer(&outcome) && !body.has_failed();
            let answer = said.then_some((head, Some(Kept::Held(body))));
            lost(report, outcome, answer, None)
        }
        None => lost(report, late(Phase::FirstToken), None, None),
    }
}

/// The answer when nobody did better than `loss`.
fn conclude<Res, K, P, O>(
    loss: Loss<<P as Responses<Res>>::Head, <P as Responses<Res>>::Body>,
    served: Served,
    is_final: bool,
) -> Result<Answer<P, Res, K, O>, BoxError>
where
    P: Responses<Res>,
    P::Body: Send + 'static,
    K: ClassifyStream,
    O: Observer,
{
    let Loss {
        outcome,
        answer: said,
        error,
        ..
    } = loss;
    if let Some((head, body)) = said {
        let body = body.map(|body| ResponseBody::decided(body.into_body()));
        return Ok(answer::<Res, K, P, O>(head, body, served, is_final));
    }
    Err(match error {
        Some(error) => Failure::with_source(outcome, error),
        None => Failure::new(outcome),
    }
    .into())
}

fn answer<Res, K, P, O>(
    mut head: <P as Responses<Res>>::Head,
    body: Option<ResponseBody<<P as Responses<Res>>::Body, K, O>>,
    served: Served,
    is_final: bool,
) -> Answer<P, Res, K, O>
where
    P: Responses<Res>,
    K: ClassifyStream,
    O: Observer,
{
    if let Some(extensions) = P::extensions_mut(&mut head) {
        extensions.insert(served);
    }
    if is_final {
        P::mark_final(&mut head);
    }
    P::join(head, body)
}

fn served(name: &Arc<str>, target: usize, attempts: u32) -> Served {
    let mode = if target == 0 {
        Mode::Primary
    } else {
        Mode::Failover
    };
    Served::new(Arc::clone(name), mode, attempts)
}

fn earliest(one: Option<Deadline>, other: Option<Deadline>) -> Option<Deadline> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.earlier(other)),
        (one, other) => one.or(other),
    }
}

// === impl ResponseFuture ===

impl<T> ResponseFuture<T> {
    pub(crate) fn new(running: impl Future<Output = Result<T, BoxError>> + Send + 'static) -> Self {
        Self {
            running: Box::pin(running),
        }
    }
}

impl<T> Future for ResponseFuture<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.running.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for ResponseFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
