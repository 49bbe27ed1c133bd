use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::timeout_at;

use crate::{
    memory::{Blocked, Pass, Rules, Scopes, Terms, Why},
    state::{Limit, Micros},
};

/// Waits in line until a request may be sent, or until that is too late.
///
/// Requests return in the order in which they lined up: the first in line holds the turnstile and
/// sleeps until its time, the others queue for the turnstile, so nobody wakes in vain. What a
/// request holds is its place alone: no permit of the service behind, no lock.
///
/// # Cancel safety
///
/// Dropping it leaves the line; the next one moves up.
pub(crate) struct Waiting(Pin<Box<dyn Future<Output = Result<Pass, TooLate>> + Send + Sync>>);

/// A limit does not end in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooLate {
    /// When the request's turn would be.
    pub(crate) at: Micros,
    pub(crate) limit: Limit,
}

impl Waiting {
    /// Lines up behind what `blocked` the request.
    pub(crate) fn new(scopes: Arc<Scopes>, terms: Terms, rules: Rules, blocked: Blocked) -> Self {
        Self(Box::pin(wait(scopes, terms, rules, blocked)))
    }
}

async fn wait(
    scopes: Arc<Scopes>,
    terms: Terms,
    rules: Rules,
    mut blocked: Blocked,
) -> Result<Pass, TooLate> {
    loop {
        let until = blocked.patience(&terms)?;
        let scoped = Arc::clone(&blocked.by);
        let in_line = scoped.line_up();
        let turnstile = timeout_at(scopes.instant(until), scoped.turnstile.acquire());
        // The semaphore is never closed: an error is that of time.
        let Ok(Ok(_turnstile)) = turnstile.await else {
            // The time for this line is over, and with that its place in it.
            drop(in_line);
            match scopes.admit(&terms, rules, true) {
                Ok(pass) => return Ok(pass),
                Err(now) => blocked = now,
            }
            continue;
        };
        loop {
            // Made before looking, so that no change is missed.
            let changed = scoped.changed.notified();
            match scopes.admit(&terms, rules, false) {
                Ok(pass) => return Ok(pass),
                Err(now) if Arc::ptr_eq(&now.by, &scoped) => {
                    now.patience(&terms)?;
                    let _ = timeout_at(scopes.instant(now.at), changed).await;
                }
                // Another scope keeps it: let those behind pass and join the other line.
                Err(now) => {
                    blocked = now;
                    break;
                }
            }
        }
    }
}

impl Blocked {
    /// Until when to wait for it.
    pub(crate) fn patience(&self, terms: &Terms) -> Result<Micros, TooLate> {
        match self.why {
            Why::Limited(limit) if self.at > terms.wait_until => {
                Err(TooLate { at: self.at, limit })
            }
            Why::Limited(_) => Ok(terms.wait_until),
            Why::Paced => Ok(terms.pace_until),
        }
    }
}

impl Future for Waiting {
    type Output = Result<Pass, TooLate>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}
