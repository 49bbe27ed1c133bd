use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// A limit for one thing after the other.
    ///
    /// What is limited is always polled first: an answer that is there is never given up because
    /// whoever polls was late. Nothing is registered with the runtime before something has to wait.
    pub(crate) struct Timer {
        at: Instant,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Timer {
    pub(crate) const fn new(at: Instant) -> Self {
        Self { at, sleep: None }
    }

    /// Moves the limit.
    pub(crate) fn set(self: Pin<&mut Self>, at: Instant) {
        let mut this = self.project();
        if *this.at != at {
            *this.at = at;
            this.sleep.set(None);
        }
    }

    /// Waits for `future`, or gives up at the limit and drops it.
    pub(crate) async fn race<F: Future>(mut self: Pin<&mut Self>, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let mut this = self.as_mut().project();
            if this.sleep.is_none() {
                this.sleep.set(Some(sleep_until(*this.at)));
            }
            match this.sleep.as_pin_mut() {
                Some(sleep) => sleep.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }
}
