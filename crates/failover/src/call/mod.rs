//! One call: what is known of it, and what it decides.

mod ask;
mod choose;
mod conclude;
mod past;
mod rescue;
mod sequence;

use std::sync::Arc;

use backstop_core::{
    BoxError, Classify, Deadline, Failure, Observer, Outcome, Phase, Replay, Requests, Responses,
};
use tokio::time::Instant;
use tower_service::Service;

use self::{past::Past, sequence::Sequence};
use crate::{
    ResponseBody,
    attempt::{Attempt, BodyOf, HeadOf, Loss, Start},
    config::DEFAULT_WAIT,
    guards::Needs,
    handle::{Force, Order},
    plan::{self, Affinity},
    service::Inner,
    state::TargetState,
};

pub(crate) use self::ask::Asked;

/// The response of a call.
pub(crate) type Answer<P, Res, K, O> =
    <P as Responses<Res>>::With<ResponseBody<<P as Responses<Res>>::Body, K, O>>;

/// What an attempt begins with, and its request.
pub(crate) type StartOf<S, P, O, Req> = (Start<S, O>, <P as Replay<Req>>::Request);
/// An attempt under way.
pub(crate) type AttemptOf<S, C, P, O, Req> = Attempt<S, <P as Replay<Req>>::Request, C, P, O>;
pub(crate) type LossOf<P, Res> = Loss<HeadOf<P, Res>, BodyOf<P, Res>>;

type PastOf<P, Res> = Box<Past<LossOf<P, Res>>>;

/// One call under way.
pub(crate) struct Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    S: Service<<P as Replay<Req>>::Request>,
{
    inner: Arc<Inner<S, C, O>>,
    /// What further requests are made from; nothing if the request can be sent only once.
    spare: Option<P::Spare>,
    order: Sequence,
    started: Instant,
    now: Instant,
    /// What inner layers are told.
    deadline: Option<Deadline>,
    until: Instant,
    /// Whether the deadline is the caller's, and earlier than ours.
    callers_own: bool,
    forced: Option<Order>,
    needs: Needs,
    /// What the plan was told of the call.
    affinity: Option<Affinity>,
    attempts: u32,
    /// Who is asked first if all is well.
    planned_first: usize,
    past: Option<PastOf<P, S::Response>>,
}

impl<S, C, P, O, Req> Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    /// Takes what is needed from the request.
    pub(crate) fn new(inner: Arc<Inner<S, C, O>>, request: &Req, started: Instant) -> Self
    where
        P: Requests<Req>,
    {
        let extensions = <P as Requests<Req>>::extensions(request);
        let callers = extensions.and_then(|extensions| extensions.get::<Deadline>().copied());
        let ours = inner
            .config
            .deadline
            .map(|limit| Deadline::after(started.into_std(), limit));
        let callers_own = callers.is_some_and(|callers| ours.is_none_or(|ours| callers < ours));
        let deadline = if callers_own { callers } else { ours };
        let until = deadline.map_or_else(
            || started + DEFAULT_WAIT,
            |deadline| Instant::from_std(deadline.instant()),
        );
        let shared = &inner.state.shared;
        let forced = match extensions.and_then(|extensions| extensions.get::<Force>()) {
            Some(force) => Some(shared.order(force).unwrap_or(Order::Nobody)),
            None => shared.forced.get(),
        };
        let affinity = extensions.and_then(|extensions| extensions.get::<Affinity>().copied());
        let mut needs = extensions
            .and_then(|extensions| extensions.get::<Needs>().copied())
            .unwrap_or_default();
        if needs.known_bytes().is_none()
            && let Some(bytes) = <P as Requests<Req>>::size(request)
        {
            needs = needs.bytes(bytes);
        }
        let exercise = inner.config.exercise.filter(|_| forced.is_none());
        let targets = inner.services.len();
        let mut planned = shared.plan.order(&planning(started, targets, affinity));
        planned.keep_below(targets);
        Self {
            inner,
            spare: None,
            planned_first: planned.first().unwrap_or(0),
            order: Sequence::new(planned, exercise),
            started,
            now: started,
            deadline,
            until,
            callers_own,
            forced,
            needs,
            affinity,
            attempts: 0,
            past: None,
        }
    }

    /// How much of the request is read at most.
    pub(crate) fn replay_limit(&self) -> usize {
        self.inner.config.replay_limit
    }

    /// The request was read, or it was not, or not in time.
    pub(crate) fn read(
        &mut self,
        was_read: Option<Result<(), BoxError>>,
        now: Instant,
    ) -> Result<(), BoxError> {
        self.now = now;
        match was_read {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                let outcome = Outcome::cancelled().with_evidence("the request's body broke off");
                Err(Failure::with_source(outcome, error).into())
            }
            None => {
                let outcome = Outcome::timed_out(Phase::Total)
                    .with_evidence("the request's body came too slowly");
                Err(Failure::new(outcome).into())
            }
        }
    }

    /// The first attempt, if anybody may be asked, and its request.
    #[inline(always)]
    pub(crate) fn first(
        &mut self,
        request: Req,
        read: P::Read,
    ) -> (Option<Start<S, O>>, <P as Replay<Req>>::Request) {
        let carry = &self.inner.config.carry;
        self.spare = P::spare(&request, &read, carry);
        let mut request = P::first(request, read, carry);
        if self.needs.known_bytes().is_none()
            && let Some(bytes) = self.spare.as_ref().and_then(P::spare_size)
        {
            self.needs = self.needs.bytes(bytes);
        }
        self.inner.state.shared.budget.deposit(self.now);
        let pick = self.pick();
        let start = pick.map(|pick| self.begin(pick, None, &mut request));
        (start, request)
    }

    /// The classifier.
    pub(crate) fn classify(&self) -> &C {
        &self.inner.classify
    }

    /// When the time for the whole call is over.
    pub(crate) const fn until(&self) -> Instant {
        self.until
    }

    /// What the plan is told of the call.
    fn planning(&self) -> plan::Call {
        planning(self.started, self.inner.services.len(), self.affinity)
    }

    /// What has happened, to add to it.
    fn past(&mut self) -> &mut Past<LossOf<P, S::Response>> {
        self.past.get_or_insert_default()
    }

    fn target(&self, target: usize) -> &'_ TargetState {
        &self.inner.state.shared.targets[target]
    }

    /// Whether the request was sent and cannot be sent again.
    const fn is_spent(&self) -> bool {
        self.spare.is_none() && self.attempts > 0
    }
}

fn planning(now: Instant, targets: usize, affinity: Option<Affinity>) -> plan::Call {
    let call = plan::Call::new(now, targets);
    match affinity {
        Some(affinity) => call.affinity(affinity),
        None => call,
    }
}
