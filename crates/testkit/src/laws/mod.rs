//! The laws of tower middleware, as a check that runs on any stack.
//!
//! [`check`] builds the stack many times around a strict service and around that service inside
//! tower's own `ConcurrencyLimit`, `Buffer`, `LoadShed` and `RateLimit`, and drives it into each
//! situation where middleware usually goes wrong. What it finds is a list of [`Violation`]s, each
//! naming the [`Law`].
//!
//! Services made by `service_fn` are always ready and forgive everything; most of these faults only
//! show around services that are not.
//!
//! ```
//! use std::time::Duration;
//! use backstop_testkit::laws;
//! use tower::{Layer, timeout::TimeoutLayer};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = TimeoutLayer::new(Duration::from_secs(10));
//! laws::check(|inner| layer.layer(inner), || "a request", || "an answer").await?;
//! # Ok::<(), laws::Violations>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Run it on a current-thread runtime, with paused time if the stack waits for anything but the
//! service inside. A stack that never gives what it should is given up on after
//! [`PATIENCE`].

mod probe;

use std::{
    fmt, future::poll_fn, marker::PhantomData, pin::pin, sync::Arc, task::Poll, time::Duration,
};

use backstop_core::BoxError;
use tokio::{sync::Semaphore, task::yield_now, time::timeout};
use tokio_test::task;
use tower::{
    ServiceBuilder, ServiceExt,
    buffer::Buffer,
    limit::{ConcurrencyLimit, RateLimit, rate::Rate},
    load_shed::LoadShed,
    util::BoxCloneSyncService,
};
use tower_service::Service;

pub use probe::ProbeError;
use probe::{Fails, Handle, Probe, Script};

/// The service that a checked stack is built around.
pub type Inner<Req, Res> = BoxCloneSyncService<Req, Res, BoxError>;

/// How long a step of the check may take before it counts as stuck, by tokio's clock: 30 s. With
/// paused time no time passes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a tower middleware must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Law {
    /// Called when ready, a stack around a healthy service answers.
    Answers,
    /// Every call goes to an instance that said it was ready, not to a clone of it.
    ReadyBeforeCall,
    /// One ready stack reserves room for one call at most, however often it is polled.
    OneReservation,
    /// While a call waits for an answer, no room is reserved for a call that is not made.
    NoIdleReservation,
    /// Once ready, a stack stays ready until it is called.
    StaysReady,
    /// Whatever is dropped, whenever it is dropped, all that was reserved comes back.
    GivesBack,
    /// Whoever is told to wait is woken when the wait is over.
    Wakes,
    /// A clone is not ready because the original is, and each works when the other is gone.
    ClonesAreIndependent,
    /// A failure of the service inside is a failure of the stack.
    ErrorsPass,
}

/// One breach of one law.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// What the stack was built around.
    pub around: &'static str,
    /// What was seen.
    pub seen: String,
}

/// All breaches that a check found; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

/// What stands between the stack and the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    Probe,
    ConcurrencyLimit,
    Buffer,
    LoadShed,
    RateLimit,
}

/// Checks all laws on the stack that `stack` builds around a service.
///
/// `request` and `response` make what is sent and what the service inside answers; the answer
/// should be one that the stack lets pass. The stack's own response is dropped unread. The stack may
/// take other requests than the service inside.
///
/// The stack must let two calls through at the same time, and must wait for a service that is not
/// ready: one that sheds load on the outside fails by design.
///
/// A stack may hold the service more than once: `|inner| failover(inner.clone(), inner)`.
///
/// # Errors
///
/// All breaches that were found.
pub async fn check<S, Req, Sent, Res>(
    stack: impl Fn(Inner<Sent, Res>) -> S,
    request: impl Fn() -> Req,
    response: impl Fn() -> Res + Clone + Send + Sync + 'static,
) -> Result<(), Violations>
where
    S: Service<Req> + Clone,
    Sent: Send + 'static,
    Res: Send + 'static,
{
    let mut violations = Vec::new();
    for around in [
        Around::Probe,
        Around::ConcurrencyLimit,
        Around::Buffer,
        Around::LoadShed,
        Around::RateLimit,
    ] {
        let check = Check {
            around,
            sent: PhantomData,
            stack: &stack,
            request: &request,
            response: response.clone(),
        };
        let mut broken = |law, seen: String| {
            violations.push(Violation {
                law,
                around: around.as_str(),
                seen,
            });
        };
        check.answers(&mut broken).await;
        check.readiness(&mut broken).await;
        check.drops(&mut broken).await;
        check.wakes(&mut broken).await;
        check.clones(&mut broken).await;
        check.errors(&mut broken).await;
        if calls_unready(&violations) {
            // tower's own services panic when they are called so.
            break;
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    Err(Violations(violations))
}

fn calls_unready(violations: &[Violation]) -> bool {
    violations.iter().any(|violation| {
        matches!(
            violation.law,
            Law::ReadyBeforeCall | Law::ClonesAreIndependent
        )
    })
}

struct Check<'a, Stack, Request, Response, Sent> {
    around: Around,
    sent: PhantomData<fn() -> Sent>,
    stack: &'a Stack,
    request: &'a Request,
    response: Response,
}

/// A stack and what is inside it.
struct Built<S, Res> {
    stack: S,
    probe: Handle<Res>,
    /// The permits of tower's `ConcurrencyLimit`, when there is one.
    limit: Option<Arc<Semaphore>>,
}

/// Healthy, and pending a few times at every step, so that there is something to drop.
const HEALTHY: Script = Script {
    permits: PERMITS,
    ready_after: 2,
    answer_after: 3,
    fails: None,
};

/// Enough that a stack which holds the service several times is not held up.
const PERMITS: usize = 8;

/// No healthy stack needs more polls for one call to the probe.
const MOST_POLLS: usize = 100;

impl<Stack, Request, Response, S, Req, Sent, Res> Check<'_, Stack, Request, Response, Sent>
where
    Stack: Fn(Inner<Sent, Res>) -> S,
    Request: Fn() -> Req,
    Response: Fn() -> Res + Clone + Send + Sync + 'static,
    S: Service<Req> + Clone,
    Sent: Send + 'static,
    Res: Send + 'static,
{
    fn build(&self, script: Script) -> Built<S, Res> {
        let (service, probe) = Probe::new(script, self.response.clone());
        let mut limit = None;
        let inner = match self.around {
            Around::Probe => Inner::new(service),
            Around::ConcurrencyLimit => {
                let permits = Arc::new(Semaphore::new(PERMITS));
                limit = Some(Arc::clone(&permits));
                Inner::new(ConcurrencyLimit::with_semaphore(service, permits))
            }
            Around::Buffer => Inner::new(Buffer::new(service, PERMITS)),
            Around::LoadShed => Inner::new(LoadShed::new(service)),
            Around::RateLimit => {
                let rate = Rate::new(1_000, Duration::from_secs(1));
                Inner::new(Buffer::new(
                    ServiceBuilder::new()
                        .map_err(BoxError::from)
                        .service(RateLimit::new(service, rate)),
                    PERMITS,
                ))
            }
        };
        Built {
            stack: (self.stack)(inner),
            probe,
            limit,
        }
    }

    /// `LoadShed` turns a wait into an error: the probe behind it is ready at once.
    fn script(&self, script: Script) -> Script {
        let ready_after = match self.around {
            Around::LoadShed => 0,
            _ => script.ready_after,
        };
        Script {
            ready_after,
            ..script
        }
    }

    async fn answers(&self, broken: &mut impl FnMut(Law, String)) {
        let mut built = self.build(self.script(HEALTHY));
        for call in 0..3 {
            let answered = timeout(PATIENCE, async {
                let ready = built
                    .stack
                    .ready()
                    .await
                    .map(|stack| stack.call((self.request)()));
                match ready {
                    Ok(future) => future.await.is_ok(),
                    Err(_) => false,
                }
            });
            match answered.await {
                Ok(true) => {}
                Ok(false) => broken(Law::Answers, format!("call {call} failed")),
                Err(_) => broken(Law::Answers, format!("call {call} was not answered")),
            }
        }
        self.unready(&built, broken);
    }

    fn unready(&self, built: &Built<S, Res>, broken: &mut impl FnMut(Law, String)) {
        let calls = built.probe.unready_calls();
        if calls > 0 {
            broken(
                Law::ReadyBeforeCall,
                format!("{calls} calls came on an instance that was not ready"),
            );
        }
    }

    async fn readiness(&self, broken: &mut impl FnMut(Law, String)) {
        let mut built = self.build(self.script(HEALTHY));
        if !matches!(timeout(PATIENCE, built.stack.ready()).await, Ok(Ok(_))) {
            return; // Reported by `answers`.
        }
        for _ in 0..3 {
            let again = poll_fn(|cx| Poll::Ready(built.stack.poll_ready(cx))).await;
            match again {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    broken(Law::StaysReady, "ready, then an error".into());
                    return;
                }
                Poll::Pending => {
                    broken(Law::StaysReady, "ready, then pending".into());
                    return;
                }
            }
            settle().await;
        }
        let most = built.probe.reserved();
        if most > 1 {
            broken(
                Law::OneReservation,
                format!("{most} reservations for one call"),
            );
        }
    }

    async fn drops(&self, broken: &mut impl FnMut(Law, String)) {
        let mut idle = false;
        // Dropped after so many polls; then the call has ended.
        for polls in 0..MOST_POLLS {
            let Built {
                mut stack,
                probe,
                limit,
            } = self.build(self.script(HEALTHY));
            let mut left = polls;
            let ready = {
                let ready = pin!(stack.ready());
                match timeout(PATIENCE, poll_at_most(ready, &mut left, || {})).await {
                    Ok(Some(Ok(_))) => true,
                    Ok(None) => false,
                    Ok(Some(Err(_))) | Err(_) => return, // Reported by `answers`.
                }
            };
            let mut ended = false;
            if ready {
                let future = stack.call((self.request)());
                let mut watch = || idle |= probe.reserved() > 0;
                let future = pin!(future);
                match timeout(PATIENCE, poll_at_most(future, &mut left, &mut watch)).await {
                    Ok(answer) => ended = answer.is_some(),
                    Err(_) => return, // Reported by `answers`.
                }
            }
            if polls % 2 == 0 {
                // The stack goes on to be used; what the call held must be back all the same.
                settle().await;
                if ready && probe.in_flight() > 0 {
                    broken(
                        Law::GivesBack,
                        format!("dropped at poll {polls}, the call goes on"),
                    );
                }
            }
            drop(stack);
            settle().await;
            let kept = probe.in_flight() + probe.reserved();
            let limit_kept = limit.map_or(0, |limit| PERMITS - limit.available_permits());
            if kept + limit_kept > 0 {
                broken(
                    Law::GivesBack,
                    format!(
                        "dropped at poll {polls}, {} permits are lost",
                        kept.max(limit_kept)
                    ),
                );
                return;
            }
            if ended {
                break;
            }
        }
        if idle {
            broken(
                Law::NoIdleReservation,
                "a call waits while an instance is ready and not called".into(),
            );
        }
    }

    async fn wakes(&self, broken: &mut impl FnMut(Law, String)) {
        let Built {
            mut stack, probe, ..
        } = self.build(Script {
            permits: 1,
            ready_after: 0,
            answer_after: 0,
            fails: None,
        });
        let Some(held) = probe.hold() else { return };
        {
            let mut ready = task::spawn(stack.ready());
            if settled_pending(&mut ready).await {
                drop(held);
                settle().await;
                if !ready.is_woken() {
                    broken(Law::Wakes, "poll_ready was pending and is not woken".into());
                } else if timeout(PATIENCE, &mut ready).await.is_err() {
                    broken(Law::Wakes, "poll_ready stays pending".into());
                }
                return;
            }
        }
        let mut call = task::spawn(stack.call((self.request)()));
        if settled_pending(&mut call).await {
            drop(held);
            settle().await;
            if !call.is_woken() {
                broken(Law::Wakes, "a call was pending and is not woken".into());
            } else if timeout(PATIENCE, &mut call).await.is_err() {
                broken(Law::Wakes, "a call stays pending".into());
            }
        }
    }

    async fn clones(&self, broken: &mut impl FnMut(Law, String)) {
        let Built {
            stack: mut first,
            probe,
            ..
        } = self.build(self.script(HEALTHY));
        let checked = timeout(PATIENCE, async {
            first.ready().await.ok()?;
            let mut second = first.clone();
            second.ready().await.ok()?;
            let mut later = pin!(second.call((self.request)()));
            let sooner = first.call((self.request)());
            let mut third = first.clone();
            drop((first, second));
            // One that has begun and is not polled must not hold up the other.
            let begun = poll_at_most(later.as_mut(), &mut 1, || {}).await;
            let sooner = sooner.await.is_ok();
            let later = match begun {
                Some(answer) => answer.is_ok(),
                None => later.await.is_ok(),
            };
            third.ready().await.ok()?;
            Some(sooner && later && third.call((self.request)()).await.is_ok())
        });
        if !matches!(checked.await, Ok(Some(true))) {
            broken(
                Law::ClonesAreIndependent,
                "a stack and its clone do not both answer".into(),
            );
        } else if probe.unready_calls() > 0 {
            broken(
                Law::ClonesAreIndependent,
                "a clone of a ready stack called an instance that was not ready".into(),
            );
        }
    }

    async fn errors(&self, broken: &mut impl FnMut(Law, String)) {
        for (fails, what) in [
            (Fails::Ready, "poll_ready of the service fails"),
            (Fails::Call, "a call of the service fails"),
        ] {
            let mut built = self.build(self.script(Script {
                fails: Some(fails),
                ..HEALTHY
            }));
            let failed = timeout(PATIENCE, async {
                match built.stack.ready().await {
                    Ok(stack) => stack.call((self.request)()).await.is_err(),
                    Err(_) => true,
                }
            });
            match failed.await {
                Ok(true) => {}
                Ok(false) => broken(Law::ErrorsPass, format!("{what} and the stack answers")),
                Err(_) => broken(Law::ErrorsPass, format!("{what} and the stack is stuck")),
            }
        }
    }
}

/// Polls at most `left` times, as often as it is woken; `None` when that was not enough.
async fn poll_at_most<F: Future + Unpin>(
    mut future: F,
    left: &mut usize,
    mut on_pending: impl FnMut(),
) -> Option<F::Output> {
    poll_fn(|cx| {
        if *left == 0 {
            return Poll::Ready(None);
        }
        *left -= 1;
        let polled = std::pin::Pin::new(&mut future).poll(cx);
        if polled.is_pending() {
            on_pending();
        }
        match polled {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if *left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Whether a task waits once it has been polled as often as it asked to be.
async fn settled_pending<F: Future>(task: &mut task::Spawn<F>) -> bool {
    for _ in 0..MOST_POLLS {
        if task.poll().is_ready() {
            return false;
        }
        settle().await;
        if !task.is_woken() {
            return true;
        }
    }
    true
}

/// Lets the tasks of the runtime go on until they wait again; no time passes.
async fn settle() {
    for _ in 0..32 {
        yield_now().await;
    }
}

// === impl Around ===

impl Around {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "a strict service",
            Self::ConcurrencyLimit => "ConcurrencyLimit",
            Self::Buffer => "Buffer",
            Self::LoadShed => "LoadShed",
            Self::RateLimit => "Buffer and RateLimit",
        }
    }
}

// === impl Violations ===

impl Violations {
    /// The breaches.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// Whether this law was broken.
    #[must_use]
    pub fn broke(&self, law: Law) -> bool {
        self.iter().any(|violation| violation.law == law)
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stack breaks a law of tower")?;
        for violation in &self.0 {
            write!(f, "\n- {violation}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, around {}: {}", self.law, self.around, self.seen)
    }
}
