//! One call: what is known of it, and what it decides.

mod ask;
mod choose;
mod conclude;
mod rescue;
mod sequence;

use std::sync::Arc;

use backstop_core::{
    BoxError, Classify, Deadline, Failure, Frozen, Observer, Outcome, Phase, Replay, Requests,
    Responses,
};
use tokio::time::Instant;
use tower_service::Service;

use self::sequence::Sequence;
use crate::{
    ResponseBody, Skipped, Trace,
    attempt::{Attempt, BodyOf, HeadOf, Loss, Start},
    config::DEFAULT_WAIT,
    guards::{Needs, WentWrong},
    handle::{Force, Order},
    plan::{self, Affinity},
    service::Inner,
    state::TargetState,
};

pub(crate) use self::ask::Asked;

/// The response of a call.
pub(crate) type Answer<P, Res, K, O> =
    <P as Responses<Res>>::With<ResponseBody<<P as Responses<Res>>::Body, K, O>>;

/// What preparing a request gives.
pub(crate) type Prepared<P, Req> = Result<
    Frozen<(<P as Replay<Req>>::Request, <P as Replay<Req>>::Spare), <P as Replay<Req>>::Request>,
    BoxError,
>;

/// What an attempt begins with.
pub(crate) type StartOf<S, P, O, Req> = Start<S, <P as Replay<Req>>::Request, O>;
/// An attempt under way.
pub(crate) type AttemptOf<S, C, P, O, Req> = Attempt<S, <P as Replay<Req>>::Request, C, P, O>;
pub(crate) type LossOf<P, Res> = Loss<HeadOf<P, Res>, BodyOf<P, Res>>;

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
    went_wrong: WentWrong,
    /// What the plan was told of the call.
    planning: plan::Call,
    attempts: u32,
    trace: Trace,
    /// What the target said or did that speaks for all if none answers.
    first: Option<Box<LossOf<P, S::Response>>>,
    /// Who is asked first if all is well.
    planned_first: usize,
    /// Who would have been asked first: the first one that could not be asked for now, or that can
    /// never serve such a request.
    passed_over: Option<(usize, Skipped)>,
    /// When a target that has no room is worth asking again.
    room_at: Option<Instant>,
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
            Some(force) => shared.order(force),
            None => shared.forced.get(),
        };
        let mut planning = plan::Call::new(started, inner.services.len());
        if let Some(affinity) = extensions.and_then(|extensions| extensions.get::<Affinity>()) {
            planning = planning.affinity(*affinity);
        }
        let mut needs = extensions
            .and_then(|extensions| extensions.get::<Needs>().copied())
            .unwrap_or_default();
        if needs.known_bytes().is_none()
            && let Some(bytes) = <P as Requests<Req>>::size(request)
        {
            needs = needs.bytes(bytes);
        }
        let exercise = inner.config.exercise.filter(|_| forced.is_none());
        let order = Sequence::new(shared.plan.order(&planning), exercise);
        Self {
            inner,
            spare: None,
            planned_first: order.order.first().unwrap_or(0),
            order,
            started,
            now: started,
            deadline,
            until,
            callers_own,
            forced,
            needs,
            went_wrong: WentWrong::default(),
            planning,
            attempts: 0,
            trace: Trace::default(),
            first: None,
            passed_over: None,
            room_at: None,
        }
    }

    /// The first attempt, if anybody may be asked, once the request was read; or not, if that took
    /// too long.
    pub(crate) fn first(
        &mut self,
        prepared: Option<Prepared<P, Req>>,
        now: Instant,
    ) -> Result<Option<StartOf<S, P, O, Req>>, BoxError> {
        self.now = now;
        let request = match prepared {
            Some(Ok(Frozen::Replayable((first, spare)))) => {
                if self.needs.known_bytes().is_none()
                    && let Some(bytes) = P::spare_size(&spare)
                {
                    self.needs = self.needs.bytes(bytes);
                }
                self.spare = Some(spare);
                first
            }
            Some(Ok(Frozen::Once(request))) => request,
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
        self.inner.state.shared.budget.deposit(self.now);
        let pick = self.pick();
        Ok(pick.map(|pick| self.begin(pick, None, request)))
    }

    /// The classifier.
    pub(crate) fn classify(&self) -> &C {
        &self.inner.classify
    }

    /// When the time for the whole call is over.
    pub(crate) const fn until(&self) -> Instant {
        self.until
    }

    fn target(&self, target: usize) -> &'_ TargetState {
        &self.inner.state.shared.targets[target]
    }

    /// Whether the request was sent and cannot be sent again.
    const fn is_spent(&self) -> bool {
        self.spare.is_none() && self.attempts > 0
    }
}
