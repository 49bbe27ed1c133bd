use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// A limit for one thing after the other, and the time as far as it is known.
    ///
    /// What is limited is always polled first: an answer that is there is never given up because
    /// whoever polls was late. Before something has to wait nothing is registered with the runtime
    /// and the clock is not read: no time has passed.
    pub(crate) struct Timer {
        now: Instant,
        at: Instant,
        #[pin]
        sleep: Option<Sleep>,
    }
}

/// How long ago `then` was.
#[inline]
pub(crate) fn since(now: Instant, then: Instant) -> Duration {
    // Nothing has to wait in most calls, and a difference costs more than this.
    if now == then {
        return Duration::ZERO;
    }
    now.saturating_duration_since(then)
}

/// `wait` after `now`, or a year after it if that is sooner: longer than any call, and within every
/// clock's range.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    now + wait.min(YEAR)
}

impl Timer {
    /// A limit at `at`, now that it is `now`.
    pub(crate) const fn new(now: Instant, at: Instant) -> Self {
        Self {
            now,
            at,
            sleep: None,
        }
    }

    /// The time when the last wait ended.
    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// Polls `future`, and says when the limit is reached before it is ready.
    #[inline(always)]
    pub(crate) fn poll_race<F: Future>(
        self: Pin<&mut Self>,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        let mut this = self.project();
        if let Poll::Ready(output) = future.poll(cx) {
            // It is only set when something had to wait.
            if this.sleep.is_some() {
                *this.now = Instant::now();
            }
            return Poll::Ready(Some(output));
        }
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(*this.at)));
        }
        let over = this
            .sleep
            .as_pin_mut()
            .is_some_and(|sleep| sleep.poll(cx).is_ready());
        if over {
            *this.now = Instant::now();
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// Waits for `future`, or gives up at the limit and drops it.
    pub(crate) async fn race<F: Future>(mut self: Pin<&mut Self>, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| self.as_mut().poll_race(future.as_mut(), cx)).await
    }

    /// Waits until the limit.
    pub(crate) async fn wait(self: Pin<&mut Self>) {
        self.race(std::future::pending::<()>()).await;
    }
}
