//! Who is asked next.

use std::{sync::Arc, time::Duration};

use backstop_core::{
    Attempt, BoxError, Cause, Classify, Considered, Event, Observer, Replay, Responses, SkipReason,
    Tried,
};
use tokio::time::Instant;
use tower_service::Service;

use super::{Call, StartOf};
use crate::{
    Skipped,
    admission::Slot,
    attempt::{Course, Limits, Start},
    guards::WentWrong,
    handle::Order,
    health::{Choice, Permit},
    report::Report,
    service::Inner,
    timer::since,
};

/// A target that may be asked now.
pub(super) struct Pick {
    pub(super) target: usize,
    pub(super) permit: Permit,
    pub(super) slot: Option<Slot>,
    pub(super) cause: Cause,
}

impl<S, C, P, O, Req> Call<S, C, P, O, Req>
where
    P: Replay<Req> + Responses<S::Response>,
    <P as Responses<S::Response>>::Body: Send + 'static,
    S: Service<<P as Replay<Req>>::Request, Error: Into<BoxError>> + Clone,
    C: Classify<<P as Replay<Req>>::Request, S::Response>,
    O: Observer,
{
    /// The next target that may be asked, if there is time.
    pub(super) fn pick(&mut self) -> Option<Pick> {
        if self.is_spent() || self.until <= self.now {
            return None;
        }
        while let Some((target, exercised)) = self.order.next() {
            match self.admit(target) {
                Ok((permit, slot)) => {
                    let cause = if exercised {
                        Cause::Exercise
                    } else if permit.is_probe() {
                        Cause::Probe
                    } else {
                        Cause::Planned
                    };
                    return Some(Pick {
                        target,
                        permit,
                        slot,
                        cause,
                    });
                }
                Err(skipped) => self.skip(target, skipped, exercised),
            }
        }
        if self.attempts > 0 {
            return None;
        }
        // Nobody may be asked: the last usable target is never benched.
        let targets = &self.inner.state.shared.targets;
        let able = self
            .order
            .order
            .iter()
            .filter(|target| self.unsuited(*target).is_none())
            .map(|target| (target, &targets[target].health));
        let choice = self.inner.config.last_resort.choose(self.now, able);
        let Choice::Try { target, permit } = choice else {
            return None;
        };
        match self.slot(target) {
            Ok(slot) => Some(Pick {
                target,
                permit,
                slot,
                cause: Cause::LastResort,
            }),
            Err(_) => None,
        }
    }

    /// Why a target is not for this request, whatever its health.
    #[inline]
    pub(super) fn unsuited(&self, target: usize) -> Option<SkipReason> {
        let forbidden = match self.forced {
            Some(Order::Fallback) => target == 0,
            Some(Order::Only(only)) => target != only,
            Some(Order::Nobody) => true,
            None => false,
        };
        if forbidden {
            return Some(SkipReason::Forced);
        }
        let guards = &self.target(target).about.guards;
        let follows = || match &self.past {
            Some(past) => guards.follows(&past.went_wrong),
            None => guards.follows(&WentWrong::default()),
        };
        guards.serves(&self.needs).and_then(|()| follows()).err()
    }

    #[inline]
    pub(super) fn admit(&self, target: usize) -> Result<(Permit, Option<Slot>), Skipped> {
        if let Some(reason) = self.unsuited(target) {
            return Err(Skipped::new(reason));
        }
        let permit = self.inner.state.shared.targets[target]
            .health
            .try_acquire(self.now)?;
        Ok((permit, self.slot(target)?))
    }

    #[inline]
    fn slot(&self, target: usize) -> Result<Option<Slot>, Skipped> {
        self.inner.state.shared.targets[target]
            .admission
            .as_ref()
            .map(|admission| admission.try_admit(self.now))
            .transpose()
    }

    #[cold]
    pub(super) fn skip(&mut self, target: usize, skipped: Skipped, exercised: bool) {
        let state = &self.inner.state;
        let name = state.name(target);
        state.observer.on_event(&Event::TargetSkipped {
            target: name,
            reason: skipped.reason.as_str(),
        });
        tracing::debug!(
            name: "backstop.failover.target_skipped",
            target = %name,
            reason = skipped.reason.as_str(),
            "target skipped",
        );
        let attempts = self.attempts;
        let past = self.past.get_or_insert_default();
        past.trace.push(name, Considered::Skipped(skipped.reason));
        past.went_wrong.skipped(skipped.reason);
        let has_no_room = matches!(
            skipped.reason,
            SkipReason::AtCapacity | SkipReason::AtRateCap
        );
        if let Some(at) = skipped.retry_at.filter(|_| has_no_room) {
            past.room_at = Some(past.room_at.map_or(at, |room| room.min(at)));
        }
        let says_more = match &past.passed_over {
            None => skipped.reason != SkipReason::Forced,
            Some((_, before)) => skipped.reason.is_passing() && !before.reason.is_passing(),
        };
        if attempts == 0 && !exercised && says_more {
            past.passed_over = Some((target, skipped));
        }
    }

    /// How many targets are left that may be asked after `target`.
    pub(super) fn others(&self) -> (u32, Duration) {
        let mut count = 0_u32;
        let mut least_time = Duration::ZERO;
        if self.spare.is_none() {
            return (count, least_time);
        }
        for target in self.order.rest() {
            let state = &self.inner.state.shared.targets[target];
            let is_due = || {
                state
                    .health
                    .due(self.now)
                    .is_some_and(|due| due <= self.now)
            };
            if self.unsuited(target).is_none() && is_due() {
                count = count.saturating_add(1);
                least_time = least_time.saturating_add(state.about.least_time);
            }
        }
        (count, least_time)
    }

    /// Begins a further attempt; `None` when the request can be sent only once.
    pub(super) fn begin_again(
        &mut self,
        pick: Pick,
        until: Option<Instant>,
    ) -> Option<StartOf<S, P, O, Req>> {
        let mut request = P::again(self.spare.as_ref()?);
        Some((self.begin(pick, until, &mut request), request))
    }

    /// Begins an attempt, which may go on until the time given, or for its part of what is left.
    pub(super) fn begin(
        &mut self,
        pick: Pick,
        until: Option<Instant>,
        request: &mut <P as Replay<Req>>::Request,
    ) -> Start<S, O> {
        let (others, least_time) = self.others();
        let is_last = others == 0;
        let until = until.unwrap_or_else(|| {
            let left = self.until.saturating_duration_since(self.now);
            let reserve = &self.inner.config.reserve;
            self.now + reserve.limit(left, others, least_time)
        });
        let Pick {
            target,
            permit,
            slot,
            cause,
        } = pick;
        let Inner {
            services,
            config,
            state,
            ..
        } = &*self.inner;
        let about = &state.shared.targets[target].about;
        if let Some(extensions) = <P as Replay<Req>>::extensions_mut(request) {
            let name = Arc::clone(&about.name);
            extensions.insert(Attempt::new(name, self.attempts, is_last));
            if let Some(deadline) = self.deadline {
                extensions.insert(deadline);
            }
            if let Some((idle, limits)) = about.cold
                && state
                    .shared
                    .since_success(target, self.now)
                    .is_none_or(|since| since >= idle)
            {
                extensions.insert(limits);
            }
        }
        let report = Report::start(state, target, self.attempts, permit, slot);
        self.attempts += 1;
        let tried = Tried::new(cause, since(self.now, self.started));
        Start {
            service: services[target].clone(),
            report,
            limits: Limits {
                until,
                peek: config.peek_limit,
                callers_own: self.callers_own,
            },
            course: Course {
                target,
                place: None,
                at: self.now,
                tried,
            },
        }
    }
}
