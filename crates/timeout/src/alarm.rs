use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

pin_project! {
    /// The one timer of a body, and of the head before it where the call has limits of its own.
    ///
    /// It does not exist before it is first waited for. When the deadline moves later, which is what
    /// every chunk of a stream does to it, the timer stays where it is; only when it goes off is it
    /// set to where the deadline is then. So a stream registers a timer once per limit, not once per
    /// chunk.
    #[derive(Default)]
    pub(crate) struct Alarm {
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    /// Ready once `deadline` has passed.
    #[inline]
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let mut sleep = self.project().sleep;
        loop {
            let Some(mut set) = sleep.as_mut().as_pin_mut() else {
                #[cfg(test)]
                registrations::add_one();
                sleep.set(Some(sleep_until(deadline)));
                continue;
            };
            if set.deadline() > deadline {
                #[cfg(test)]
                registrations::add_one();
                set.as_mut().reset(deadline);
            }
            ready!(set.as_mut().poll(cx));
            if set.deadline() >= deadline {
                return Poll::Ready(());
            }
            #[cfg(test)]
            registrations::add_one();
            set.reset(deadline);
        }
    }

    /// Takes the timer out of the runtime.
    pub(crate) fn cancel(self: Pin<&mut Self>) {
        self.project().sleep.set(None);
    }
}

/// Counts how often timers are registered, by this thread.
#[cfg(test)]
pub(crate) mod registrations {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add_one() {
        COUNT.set(COUNT.get() + 1);
    }

    pub(crate) fn take() -> usize {
        COUNT.take()
    }
}
