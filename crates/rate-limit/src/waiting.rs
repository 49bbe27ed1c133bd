use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::timeout_at;

use crate::{
    Key,
    memory::{Blocked, Pass, Scopes},
    state::Micros,
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
pub(crate) struct Waiting(Pin<Box<dyn Future<Output = Result<Pass, Blocked>> + Send + Sync>>);

impl Waiting {
    /// Waits no longer than until `give_up`.
    pub(crate) fn new(
        scopes: Arc<Scopes>,
        key: Option<Key>,
        ramp: Micros,
        give_up: Micros,
        blocked: Blocked,
    ) -> Self {
        Self(Box::pin(wait(scopes, key, ramp, give_up, blocked)))
    }
}

async fn wait(
    scopes: Arc<Scopes>,
    key: Option<Key>,
    ramp: Micros,
    give_up: Micros,
    mut blocked: Blocked,
) -> Result<Pass, Blocked> {
    loop {
        if blocked.at > give_up {
            return Err(blocked);
        }
        let scoped = Arc::clone(&blocked.by);
        let _in_line = scoped.line_up();
        let turnstile = timeout_at(scopes.instant(give_up), scoped.turnstile.acquire());
        // The semaphore is never closed: an error is that of time.
        let Ok(Ok(_turnstile)) = turnstile.await else {
            return scopes.admit(key, ramp, true);
        };
        loop {
            // Made before looking, so that no change is missed.
            let changed = scoped.changed.notified();
            match scopes.admit(key, ramp, false) {
                Ok(pass) => return Ok(pass),
                Err(now) if now.at > give_up => return Err(now),
                Err(now) if Arc::ptr_eq(&now.by, &scoped) => {
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

impl Future for Waiting {
    type Output = Result<Pass, Blocked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}
