#![expect(
    clippy::disallowed_types,
    reason = "the map of calls under way is off by default, and its lock is held for one operation \
              on the map, never across an await"
)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{Key, ProducedBy};

/// The calls under way that others may share.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<Key, Weak<AsyncMutex<Landing>>>>,
}

/// What became of a shared call.
#[derive(Debug, Default)]
pub(crate) enum Landing {
    /// It is under way, or whoever made it went away.
    #[default]
    Open,
    /// This is the answer.
    Answered(Bytes, ProducedBy),
    /// Its answer cannot be shared: everybody asks for themselves.
    Alone,
}

/// A place in a shared call. Who holds one whose landing is [`Landing::Open`] makes the call; the
/// others wait for the place. If it is dropped without a landing, the next in line makes the call.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    flights: &'a Flights,
    key: Key,
    landing: OwnedMutexGuard<Landing>,
}

impl Flights {
    /// Joins the call for `key`, or begins it.
    pub(crate) async fn join(&self, key: Key) -> Seat<'_> {
        let flight = {
            let mut under_way = self.lock();
            match under_way.get(&key).and_then(Weak::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = Arc::default();
                    under_way.insert(key, Arc::downgrade(&flight));
                    flight
                }
            }
        };
        Seat {
            flights: self,
            key,
            landing: flight.lock_owned().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<AsyncMutex<Landing>>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    pub(crate) fn landing(&self) -> &Landing {
        &self.landing
    }

    /// Ends the call. Whoever comes later begins a new one.
    pub(crate) fn land(mut self, landing: Landing) {
        *self.landing = landing;
        self.flights.lock().remove(&self.key);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        // One reference is this seat's own.
        if under_way
            .get(&self.key)
            .is_some_and(|flight| flight.strong_count() <= 1)
        {
            under_way.remove(&self.key);
        }
    }
}
