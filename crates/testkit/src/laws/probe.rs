use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use backstop_core::BoxError;
use tower_service::Service;

/// The innermost service of a check: it hands out a bounded number of permits through
/// `poll_ready`, as a strict tower service may, and notes every breach of the contract.
pub(super) struct Probe<Res> {
    shared: Arc<Shared<Res>>,
    /// Whether this instance holds a permit that `call` will use.
    ready: bool,
    pending: u32,
}

/// Looks into all clones of a [`Probe`] from outside.
pub(super) struct Handle<Res> {
    shared: Arc<Shared<Res>>,
}

/// A permit that is held from outside, so that the probe has one less.
#[derive(Debug)]
pub(super) struct Held<Res> {
    shared: Arc<Shared<Res>>,
}

/// How a [`Probe`] behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    /// How many calls may be reserved or under way at the same time.
    pub(super) permits: usize,
    /// How many polls of `poll_ready` are pending first, on each instance and for each call.
    pub(super) ready_after: u32,
    /// How many polls of the future are pending first.
    pub(super) answer_after: u32,
    pub(super) fails: Option<Fails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fails {
    Ready,
    Call,
}

struct Shared<Res> {
    script: Script,
    answer: Box<dyn Fn() -> Res + Send + Sync>,
    #[expect(
        clippy::disallowed_types,
        reason = "held for a few lines, never across an await"
    )]
    state: std::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    free: usize,
    reserved: usize,
    in_flight: usize,
    unready_calls: usize,
    waiting: Vec<Waker>,
}

/// The error of the service inside a checked stack, where it is told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeError;

/// The future of a [`Probe`].
pub(super) struct ProbeFuture<Res> {
    /// `None` when the instance was not ready.
    permit: Option<Permit<Res>>,
    pending: u32,
}

struct Permit<Res>(Arc<Shared<Res>>);

impl<Res> Probe<Res> {
    pub(super) fn new(
        script: Script,
        answer: impl Fn() -> Res + Send + Sync + 'static,
    ) -> (Self, Handle<Res>) {
        let state = State {
            free: script.permits,
            ..State::default()
        };
        let shared = Arc::new(Shared {
            script,
            answer: Box::new(answer),
            state: state.into(),
        });
        let probe = Self {
            shared: Arc::clone(&shared),
            ready: false,
            pending: script.ready_after,
        };
        (probe, Handle { shared })
    }
}

impl<Res> Shared<Res> {
    /// Changes the state, and wakes whoever waits if a permit has become free.
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = state.free;
        let result = change(&mut state);
        let woken = if state.free > before {
            std::mem::take(&mut state.waiting)
        } else {
            Vec::new()
        };
        drop(state);
        for waker in woken {
            waker.wake();
        }
        result
    }
}

impl<Res> Handle<Res> {
    /// How many permits are reserved by an instance that has not been called yet.
    pub(super) fn reserved(&self) -> usize {
        self.shared.with(|state| state.reserved)
    }

    /// How many calls are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.shared.with(|state| state.in_flight)
    }

    /// How many calls came on an instance that was not ready.
    pub(super) fn unready_calls(&self) -> usize {
        self.shared.with(|state| state.unready_calls)
    }

    /// Takes a permit away; `None` when there is none.
    pub(super) fn hold(&self) -> Option<Held<Res>> {
        self.shared.with(|state| {
            state.free = state.free.checked_sub(1)?;
            Some(Held {
                shared: Arc::clone(&self.shared),
            })
        })
    }
}

impl<Res> Drop for Held<Res> {
    fn drop(&mut self) {
        self.shared.with(|state| state.free += 1);
    }
}

impl<Res> Clone for Probe<Res> {
    /// A clone holds no permit.
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            ready: false,
            pending: self.shared.script.ready_after,
        }
    }
}

impl<Res> Drop for Probe<Res> {
    fn drop(&mut self) {
        if self.ready {
            self.shared.with(|state| {
                state.reserved -= 1;
                state.free += 1;
            });
        }
    }
}

impl<Req, Res> Service<Req> for Probe<Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = ProbeFuture<Res>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.ready {
            return Poll::Ready(Ok(()));
        }
        if self.pending > 0 {
            self.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.shared.script.fails == Some(Fails::Ready) {
            return Poll::Ready(Err(ProbeError.into()));
        }
        self.ready = self.shared.with(|state| {
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                state.reserved += 1;
                return true;
            }
            state.waiting.push(cx.waker().clone());
            false
        });
        if self.ready {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, _: Req) -> ProbeFuture<Res> {
        let script = self.shared.script;
        self.pending = script.ready_after;
        let was_ready = std::mem::replace(&mut self.ready, false);
        self.shared.with(|state| {
            if was_ready {
                state.reserved -= 1;
                state.in_flight += 1;
            } else {
                state.unready_calls += 1;
            }
        });
        ProbeFuture {
            permit: was_ready.then(|| Permit(Arc::clone(&self.shared))),
            pending: script.answer_after,
        }
    }
}

impl<Res> Future for ProbeFuture<Res> {
    type Output = Result<Res, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.pending > 0 {
            self.pending -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(permit) = self.permit.take() else {
            return Poll::Ready(Err(ProbeError.into()));
        };
        Poll::Ready(match permit.0.script.fails {
            Some(_) => Err(ProbeError.into()),
            None => Ok((permit.0.answer)()),
        })
    }
}

impl<Res> Drop for Permit<Res> {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.in_flight -= 1;
            state.free += 1;
        });
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the probe fails, as told")
    }
}

impl std::error::Error for ProbeError {}

impl<Res> fmt::Debug for Shared<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reserved, in_flight) = self.with(|state| (state.reserved, state.in_flight));
        f.debug_struct("Shared")
            .field("reserved", &reserved)
            .field("in_flight", &in_flight)
            .finish_non_exhaustive()
    }
}

impl<Res> fmt::Debug for Probe<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("ready", &self.ready)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl<Res> fmt::Debug for Handle<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("shared", &self.shared)
            .finish()
    }
}

impl<Res> fmt::Debug for ProbeFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeFuture").finish_non_exhaustive()
    }
}
