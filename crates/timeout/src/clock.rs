use std::{
    num::NonZeroU64,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{Elapsed, Phase, Progress, Step, TimeLimits};
use tokio::time::Instant;

use crate::{
    config::{Floor, Limits, MAX_LIMIT},
    kept::Kept,
};

/// What one call has of its own to be limited by. Most calls have nothing.
#[derive(Debug)]
pub(crate) struct Own {
    /// When it was called.
    pub(crate) started: Instant,
    /// What the limit of the layer, that of the request and its deadline leave for the whole call.
    pub(crate) total: Option<Limit>,
    pub(crate) overrides: Option<Box<TimeLimits>>,
}

/// By what a body is limited: what the layer says, and what the call has of its own.
struct Bounds<'a> {
    limits: &'a Limits,
    /// The size of the request; 0 if it is not known.
    size: u64,
    own: Option<&'a Own>,
}

/// How long a body was waited for.
///
/// Only waiting is counted: time between a poll that was pending and the next that was not. While
/// the reader does not poll, the provider may be held up by the reader, and nothing is counted.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// When a poll found nothing, if none has found anything since.
    since: Option<Instant>,
    /// Waited since the last semantic event.
    spent: Nanos,
    /// Waited since the last sign of life.
    silent: Nanos,
    /// Waited since enough had come to satisfy the floor.
    floor_spent: Nanos,
    /// What has come in that time.
    floor_bytes: u64,
}

/// A limit in half the space that an optional duration takes: one more than its nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(NonZeroU64);

/// A duration in half the space, enough for 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Nanos(u64);

/// How far a body has come.
///
/// It is small, because it is moved with every response; the limits are looked up when there is
/// something to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the first token.
    Before,
    /// Between tokens.
    Answering,
    /// Between tokens, and a keep-alive came after the last of them.
    KeptAlive,
    /// After the proper end, or after a failure that the stream told of.
    Over,
    /// Nothing is passed on any more.
    Closed,
}

/// What is due first.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Close,
    Limit {
        phase: Phase,
        limit: Duration,
        /// Waited before `since`.
        spent: Duration,
    },
    Total {
        started: Instant,
        limit: Duration,
    },
}

/// The end of a phase, to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) phase: Phase,
    pub(crate) took: Duration,
}

/// `start + limit`. No limit is longer than [`MAX_LIMIT`], so there is such a time.
pub(crate) fn after(start: Instant, limit: Duration) -> Instant {
    start + limit
}

impl Own {
    /// How long the head may take.
    pub(crate) fn headers(&self, limits: &Limits) -> Option<Duration> {
        let own = self.overrides.as_deref().and_then(|own| own.headers);
        own.or(limits.headers)
    }

    /// When the whole call must be over, if it must: from when, and after how long.
    pub(crate) fn whole(&self) -> Option<(Instant, Duration)> {
        Some((self.started, self.total?.duration()))
    }
}

impl Bounds<'_> {
    fn overrides(&self) -> Option<&TimeLimits> {
        self.own?.overrides.as_deref()
    }

    fn first_token(&self) -> Option<Duration> {
        let own = self.overrides().and_then(|own| own.first_token);
        let limit = own.or(self.limits.first_token)?;
        let more = in_proportion(self.limits.first_token_per_mib, self.size);
        Some(limit.saturating_add(more).min(MAX_LIMIT))
    }

    /// The limit between semantic events, and the looser one while keep-alives come.
    fn idle(&self) -> (Option<Duration>, Option<Duration>) {
        let own = self.overrides().and_then(|own| own.idle);
        let bound = self.limits.keep_alive;
        match own {
            Some(own) => (Some(own), bound.map(|bound| bound.max(own))),
            None => (self.limits.idle, bound),
        }
    }
}

impl Stage {
    /// A poll found nothing: ready when a limit is reached, or with `None` if the stream was over.
    #[inline]
    pub(crate) fn wait(
        self,
        limits: &Limits,
        size: u64,
        kept: &mut Kept,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Elapsed>> {
        let place = kept.open().project();
        *place.measured |= limits.floor.is_some();
        let since = place.waits.since();
        let bounds = Bounds {
            limits,
            size,
            own: place.own.as_ref(),
        };
        let Some(due) = self.due(since, place.waits, &bounds) else {
            return Poll::Pending;
        };
        ready!(place.alarm.poll(cx, due.at));
        Poll::Ready(due.reached(since))
    }

    /// What is due first, if anything is.
    fn due(self, since: Instant, waits: &Waits, bounds: &Bounds<'_>) -> Option<Due> {
        let mut due: Option<Due> = None;
        let mut consider = |at, what| {
            if due.is_none_or(|due| at < due.at) {
                due = Some(Due { at, what });
            }
        };
        let mut limit = |phase, limit: Duration, spent: Nanos| {
            let spent = spent.duration();
            let what = What::Limit {
                phase,
                limit,
                spent,
            };
            consider(after(since, limit.saturating_sub(spent)), what);
        };
        match self {
            Self::Before => {
                if let Some(first_token) = bounds.first_token() {
                    limit(Phase::FirstToken, first_token, waits.spent);
                }
            }
            Self::Answering | Self::KeptAlive => {
                match bounds.idle() {
                    (idle, Some(bound)) if self == Self::KeptAlive => {
                        limit(Phase::Idle, bound, waits.spent);
                        if let Some(idle) = idle {
                            limit(Phase::Idle, idle, waits.silent);
                        }
                    }
                    (Some(idle), _) => limit(Phase::Idle, idle, waits.spent),
                    (None, _) => {}
                }
                if let Some(floor) = bounds.limits.floor {
                    limit(Phase::Idle, floor.grace, waits.floor_spent);
                }
            }
            Self::Over | Self::Closed => {
                let grace = bounds.limits.end_grace;
                let left = grace.saturating_sub(waits.spent.duration());
                consider(after(since, left), What::Close);
            }
        }
        if let Some((started, limit)) = bounds.own.and_then(Own::whole) {
            let what = match self {
                Self::Over | Self::Closed => What::Close,
                _ => What::Total { started, limit },
            };
            consider(after(started, limit), what);
        }
        due
    }

    /// Data came, which brought `step`.
    #[inline]
    pub(crate) fn found(&mut self, step: &Step) {
        if is_semantic(step) {
            if step.progress == Progress::End || step.failed.is_some() {
                *self = Self::Over;
            } else if *self != Self::Over {
                *self = Self::Answering;
            }
        } else if step.progress == Progress::KeepAlive && *self == Self::Answering {
            *self = Self::KeptAlive;
        }
    }
}

impl Due {
    /// What was due has come: the limit that was reached, or `None` if the stream was over.
    fn reached(self, since: Instant) -> Option<Elapsed> {
        let now = Instant::now();
        match self.what {
            What::Close => None,
            What::Total { started, limit } => {
                let waited = now.saturating_duration_since(started);
                Some(Elapsed::new(Phase::Total, limit, waited))
            }
            What::Limit {
                phase,
                limit,
                spent,
            } => {
                let waited = spent + now.saturating_duration_since(since);
                Some(Elapsed::new(phase, limit, waited))
            }
        }
    }
}

impl Waits {
    /// When the wait began; now, if it had not.
    #[inline]
    pub(crate) fn since(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }

    /// What was waited for is there, and all of it is forgotten.
    #[inline]
    pub(crate) const fn over(&mut self) {
        self.since = None;
        self.spent = Nanos(0);
        self.silent = Nanos(0);
    }

    /// Data came after a wait, which brought `step`.
    #[inline]
    pub(crate) fn found(&mut self, stage: Stage, step: &Step) {
        if is_semantic(step) {
            self.over();
            return;
        }
        self.end(stage);
        if step.progress == Progress::KeepAlive {
            self.silent = Nanos(0);
        }
    }

    /// The same where it is of interest how long it took and how much came: the phase that ended.
    pub(crate) fn measured(
        &mut self,
        stage: Stage,
        step: &Step,
        bytes: usize,
        floor: Option<&Floor>,
    ) -> Option<Ended> {
        if is_semantic(step) {
            self.end(stage);
            if let Some(floor) = floor {
                self.count(bytes, floor);
            }
        }
        let took = self.spent.duration();
        self.found(stage, step);
        let phase = match stage {
            Stage::Before => Phase::FirstToken,
            Stage::Answering | Stage::KeptAlive => Phase::Idle,
            Stage::Over | Stage::Closed => return None,
        };
        // A stream that failed before its first token has had none.
        step.commits().then_some(Ended { phase, took })
    }

    /// Content came. The grace of the floor begins with the first wait, and so does the counting.
    fn count(&mut self, bytes: usize, floor: &Floor) {
        if self.floor_spent == Nanos(0) {
            return;
        }
        self.floor_bytes = self.floor_bytes.saturating_add(bytes as u64);
        if self.floor_bytes >= floor.needed() {
            self.floor_spent = Nanos(0);
            self.floor_bytes = 0;
        }
    }

    /// Adds up the wait that is over, if there was one.
    fn end(&mut self, stage: Stage) {
        let Some(since) = self.since.take() else {
            return;
        };
        let waited = Instant::now().saturating_duration_since(since);
        self.spent.add(waited);
        self.silent.add(waited);
        if matches!(stage, Stage::Answering | Stage::KeptAlive) {
            self.floor_spent.add(waited);
        }
    }
}

#[inline]
fn is_semantic(step: &Step) -> bool {
    step.commits() || step.failed.is_some()
}

impl Limit {
    pub(crate) fn new(limit: Duration) -> Self {
        let nanos = u64::try_from(limit.min(MAX_LIMIT).as_nanos()).unwrap_or(u64::MAX);
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    const fn duration(self) -> Duration {
        Duration::from_nanos(self.0.get() - 1)
    }
}

impl Nanos {
    fn add(&mut self, more: Duration) {
        let more = u64::try_from(more.as_nanos()).unwrap_or(u64::MAX);
        self.0 = self.0.saturating_add(more);
    }

    const fn duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

/// `per_mib` for every MiB of `size`.
fn in_proportion(per_mib: Duration, size: u64) -> Duration {
    const MIB: u128 = 1024 * 1024;
    if per_mib.is_zero() || size == 0 {
        return Duration::ZERO;
    }
    let micros = per_mib.as_micros() * u128::from(size) / MIB;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}
