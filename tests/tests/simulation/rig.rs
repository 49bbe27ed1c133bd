//! Models on a simulated clock, open-loop load, and what came of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_core::{BoxError, Event, Failure, Observer, Outcome, outcome_of};
use tokio::{task::JoinSet, time::Instant};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};

pub(crate) type Stack = BoxCloneSyncService<u32, &'static str, BoxError>;

#[expect(
    clippy::disallowed_types,
    reason = "held for a push or a copy, never across an await"
)]
type Shelf<T> = std::sync::Mutex<Vec<T>>;

/// What a model does with a request that arrives so long after the start, as the n-th from zero.
pub(crate) type Script = dyn Fn(Duration, usize) -> Act + Send + Sync;

/// What a model does with one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Answers after this time.
    Answer(Duration),
    /// Fails after this time.
    Fail(Duration, Outcome),
    /// Says nothing, for ever.
    Silence,
}

/// A model whose log is the oracle.
#[derive(Clone)]
pub(crate) struct Model {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    start: Instant,
    script: Box<Script>,
    log: Shelf<Arrival>,
    in_flight: AtomicUsize,
}

/// One request, as the model saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Which call it belongs to, in the order in which they are made.
    pub(crate) call: u32,
    /// When, from the start.
    pub(crate) at: Duration,
    /// How many it held then, this one included.
    pub(crate) in_flight: usize,
}

/// One call, as the caller saw it.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    /// When, from the start.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) result: Result<&'static str, Outcome>,
    /// How long the caller is told to wait, if it is.
    pub(crate) retry_after: Option<Duration>,
}

/// Hears the changes of every target's health.
#[derive(Clone)]
pub(crate) struct Changes {
    start: Instant,
    seen: Arc<Shelf<(Duration, String, &'static str)>>,
}

/// Gives the model its place back, also when the caller goes away.
struct Held(Arc<Shared>);

// === impl Model ===

impl Model {
    pub(crate) fn new(
        name: &'static str,
        script: impl Fn(Duration, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                start: Instant::now(),
                script: Box::new(script),
                log: Shelf::default(),
                in_flight: AtomicUsize::new(0),
            }),
        }
    }

    /// One that always answers after `latency`.
    pub(crate) fn healthy(name: &'static str, latency: Duration) -> Self {
        Self::new(name, move |_, _| Act::Answer(latency))
    }

    pub(crate) fn service(&self) -> Stack {
        let model = self.clone();
        BoxCloneSyncService::new(service_fn(move |call: u32| model.clone().serve(call)))
    }

    async fn serve(self, call: u32) -> Result<&'static str, BoxError> {
        let shared = &self.shared;
        let at = since(shared.start);
        let in_flight = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        let _held = Held(Arc::clone(shared));
        let number = {
            let mut log = shared.log.lock().expect("not poisoned");
            log.push(Arrival {
                call,
                at,
                in_flight,
            });
            log.len() - 1
        };
        match (shared.script)(at, number) {
            Act::Answer(after) => {
                tokio::time::sleep(after).await;
                Ok(shared.name)
            }
            Act::Fail(after, outcome) => {
                tokio::time::sleep(after).await;
                Err(Failure::new(outcome).into())
            }
            Act::Silence => std::future::pending().await,
        }
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.shared.log.lock().expect("not poisoned").clone()
    }

    /// How many requests arrived from `from` on and before `to`.
    pub(crate) fn count(&self, from: Duration, to: Duration) -> usize {
        self.arrivals()
            .iter()
            .filter(|arrival| (from..to).contains(&arrival.at))
            .count()
    }

    /// The most requests that arrived within any stretch as long as `stretch`.
    pub(crate) fn most_within(&self, stretch: Duration) -> usize {
        let at: Vec<_> = self.arrivals().iter().map(|arrival| arrival.at).collect();
        (0..at.len())
            .map(|first| at[first..].partition_point(|later| *later < at[first] + stretch))
            .max()
            .unwrap_or(0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Called ===

impl Called {
    pub(crate) fn is_answered(&self) -> bool {
        self.result.is_ok()
    }
}

/// Calls `stack` so many times a second for so long, whether or not earlier calls are over, and
/// waits for all of them.
pub(crate) async fn load<S>(stack: S, per_second: u32, length: Duration) -> Vec<Called>
where
    S: Service<u32, Response = &'static str, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let start = Instant::now();
    let interval = Duration::from_secs(1) / per_second;
    let mut calls = JoinSet::new();
    let mut number = 0;
    while interval * number < length {
        tokio::time::sleep_until(start + interval * number).await;
        let stack = stack.clone();
        calls.spawn(async move {
            let begun = Instant::now();
            let result = stack.oneshot(number).await;
            let outcome = result.map_err(|error| outcome_of(&*error));
            Called {
                at: begun.saturating_duration_since(start),
                took: since(begun),
                retry_after: outcome
                    .err()
                    .and_then(|outcome| Some(outcome.retry_after()?.delay)),
                result: outcome,
            }
        });
        number += 1;
    }
    let mut all = calls.join_all().await;
    all.sort_by_key(|called| called.at);
    all
}

/// The stack that everybody writes first: every failure is tried again at once, up to `times`
/// times, each within `limit`.
pub(crate) fn naive_retry<S>(service: S, times: u32, limit: Duration) -> Stack
where
    S: Service<u32, Response = &'static str, Error = BoxError> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    #[derive(Clone)]
    struct Again(u32);

    impl tower::retry::Policy<u32, &'static str, BoxError> for Again {
        type Future = std::future::Ready<()>;

        fn retry(
            &mut self,
            _: &mut u32,
            result: &mut Result<&'static str, BoxError>,
        ) -> Option<Self::Future> {
            if result.is_ok() || self.0 == 0 {
                return None;
            }
            self.0 -= 1;
            Some(std::future::ready(()))
        }

        fn clone_request(&mut self, request: &u32) -> Option<u32> {
            Some(*request)
        }
    }

    BoxCloneSyncService::new(
        tower::ServiceBuilder::new()
            .retry(Again(times))
            .timeout(limit)
            .service(service),
    )
}

/// Asks one after the other and the next one whenever one fails, without any memory.
pub(crate) fn naive_chain(services: Vec<Stack>) -> Stack {
    BoxCloneSyncService::new(service_fn(move |request: u32| {
        let services = services.clone();
        async move {
            let mut last: Option<BoxError> = None;
            for service in services {
                match service.oneshot(request).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.expect("there is a service"))
        }
    }))
}

// === impl Changes ===

impl Changes {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            seen: Arc::default(),
        }
    }

    /// The changes of one target.
    pub(crate) fn of(&self, target: &str) -> Vec<(Duration, &'static str)> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.iter()
            .filter(|(_, name, _)| name == target)
            .map(|(at, _, state)| (*at, *state))
            .collect()
    }
}

impl Observer for Changes {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::HealthChanged { target, state } = event {
            let change = (since(self.start), (*target).to_owned(), *state);
            self.seen.lock().expect("not poisoned").push(change);
        }
    }
}

pub(crate) fn since(start: Instant) -> Duration {
    Instant::now().saturating_duration_since(start)
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a test are far below 2^52"
)]
pub(crate) fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}
