use std::time::Duration;

use backstop_core::{Elapsed, Phase, Progress, Step, TimeLimits};
use tokio::time::Instant;

use crate::config::{Floor, Limits, MAX_LIMIT};

/// When the whole call must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Total {
    pub(crate) started: Instant,
    pub(crate) limit: Duration,
}

/// The limits of one body and how much of them has been used.
///
/// Only waiting is counted: time between a poll that was pending and the next that was not. While
/// the reader does not poll, the provider may be held up by the reader, and nothing is counted.
#[derive(Debug)]
pub(crate) struct Clock {
    first_token: Option<Duration>,
    idle: Option<Duration>,
    keep_alive: Option<Duration>,
    end_grace: Duration,
    floor: Option<FloorClock>,
    total: Option<Total>,
    stage: Stage,
    /// Whether a keep-alive came after the last semantic event.
    kept_alive: bool,
    /// Waited since the last semantic event.
    spent: Duration,
    /// Waited since the last sign of life.
    silent: Duration,
    /// When a poll found nothing, if none has found anything since.
    since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the first token.
    Before,
    /// Between tokens.
    Answering,
    /// After the proper end, or after a failure that the stream told of.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct FloorClock {
    floor: Floor,
    spent: Duration,
    bytes: u64,
}

/// What is due first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    pub(crate) at: Instant,
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
    Total(Total),
}

/// The end of a phase, to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) phase: Phase,
    pub(crate) took: Duration,
}

/// `start + limit`, or the end of all limits if that is beyond the clock.
pub(crate) fn after(start: Instant, limit: Duration) -> Instant {
    start.checked_add(limit.min(MAX_LIMIT)).unwrap_or(start)
}

impl Total {
    pub(crate) fn at(&self) -> Instant {
        after(self.started, self.limit)
    }

    pub(crate) fn elapsed(&self, now: Instant) -> Elapsed {
        Elapsed::new(
            Phase::Total,
            self.limit,
            now.saturating_duration_since(self.started),
        )
    }
}

impl Clock {
    pub(crate) fn new(
        limits: &Limits,
        overrides: Option<&TimeLimits>,
        size: Option<u64>,
        total: Option<Total>,
    ) -> Self {
        let (mut first_token, mut idle) = (limits.first_token, limits.idle);
        let mut keep_alive = limits.keep_alive;
        if let Some(overrides) = overrides {
            first_token = overrides.first_token.or(first_token);
            if let Some(limit) = overrides.idle {
                idle = Some(limit);
                // The bound for keep-alives is the looser one.
                keep_alive = keep_alive.map(|bound| bound.max(limit));
            }
        }
        if let (Some(limit), Some(size)) = (&mut first_token, size) {
            *limit = limit.saturating_add(in_proportion(limits.first_token_per_mib, size));
        }
        Self {
            first_token,
            idle,
            keep_alive,
            end_grace: limits.end_grace,
            floor: limits.floor.map(FloorClock::new),
            total,
            stage: Stage::Before,
            kept_alive: false,
            spent: Duration::ZERO,
            silent: Duration::ZERO,
            since: None,
        }
    }

    /// A poll found nothing: what is due first, if anything is.
    pub(crate) fn pending(&mut self) -> Option<Due> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let mut due: Option<Due> = None;
        let mut consider = |at, what| {
            if due.is_none_or(|due| at < due.at) {
                due = Some(Due { at, what });
            }
        };
        let mut limit = |phase, limit: Duration, spent| {
            consider(
                after(since, limit.saturating_sub(spent)),
                What::Limit {
                    phase,
                    limit,
                    spent,
                },
            );
        };
        match self.stage {
            Stage::Before => {
                if let Some(first_token) = self.first_token {
                    limit(Phase::FirstToken, first_token, self.spent);
                }
            }
            Stage::Answering => {
                match (self.idle, self.keep_alive) {
                    (idle, Some(bound)) if self.kept_alive => {
                        limit(Phase::Idle, bound, self.spent);
                        if let Some(idle) = idle {
                            limit(Phase::Idle, idle, self.silent);
                        }
                    }
                    (Some(idle), _) => limit(Phase::Idle, idle, self.spent),
                    (None, _) => {}
                }
                if let Some(floor) = &self.floor {
                    limit(Phase::Idle, floor.floor.grace, floor.spent);
                }
            }
            Stage::Over => consider(
                after(since, self.end_grace - self.spent.min(self.end_grace)),
                What::Close,
            ),
        }
        if let Some(total) = self.total {
            let what = if self.stage == Stage::Over {
                What::Close
            } else {
                What::Total(total)
            };
            consider(total.at(), what);
        }
        due
    }

    /// What was due has come: the limit that was reached, or `None` if the stream was over.
    pub(crate) fn reached(&self, due: Due) -> Option<Elapsed> {
        let now = Instant::now();
        match due.what {
            What::Close => None,
            What::Total(total) => Some(total.elapsed(now)),
            What::Limit {
                phase,
                limit,
                spent,
            } => {
                let waiting = self
                    .since
                    .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                Some(Elapsed::new(phase, limit, spent + waiting))
            }
        }
    }

    /// A poll found `bytes` of data, which brought `step`.
    pub(crate) fn found(&mut self, step: &Step, bytes: usize, observed: bool) -> Option<Ended> {
        let semantic = step.commits() || step.failed.is_some();
        if let Some(since) = self.since.take()
            && (observed || !semantic || self.floor.is_some())
        {
            let waited = Instant::now().saturating_duration_since(since);
            self.spent += waited;
            self.silent += waited;
            if let Some(floor) = &mut self.floor
                && self.stage == Stage::Answering
            {
                floor.spent += waited;
            }
        }
        if !semantic {
            if step.progress == Progress::KeepAlive {
                self.kept_alive = true;
                self.silent = Duration::ZERO;
            }
            return None;
        }
        let took = std::mem::take(&mut self.spent);
        self.silent = Duration::ZERO;
        self.kept_alive = false;
        let phase = match self.stage {
            Stage::Before => Phase::FirstToken,
            Stage::Answering => Phase::Idle,
            Stage::Over => return None,
        };
        if step.progress == Progress::End || step.failed.is_some() {
            self.stage = Stage::Over;
        } else {
            self.stage = Stage::Answering;
            if let Some(floor) = &mut self.floor {
                floor.found(bytes);
            }
        }
        // A stream that failed before its first token has had none.
        step.commits().then_some(Ended { phase, took })
    }
}

impl FloorClock {
    const fn new(floor: Floor) -> Self {
        Self {
            floor,
            spent: Duration::ZERO,
            bytes: 0,
        }
    }

    fn found(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes >= self.floor.needed() {
            *self = Self::new(self.floor);
        }
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
