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

/// A seat in a shared call. Who holds one whose landing is [`Landing::Open`] makes the call; the
/// others wait for the seat. If it is dropped without a landing, the next in line makes the call.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    // Dropped before the place, which must be the last to let go of the flight.
    landing: OwnedMutexGuard<Landing>,
    place: Place<'a>,
}

/// A share in a flight, with a seat or in wait for it. Whoever leaves last clears up.
#[derive(Debug)]
struct Place<'a> {
    flights: &'a Flights,
    key: Key,
    /// There until it is dropped.
    flight: Option<Arc<AsyncMutex<Landing>>>,
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
        let place = Place {
            flights: self,
            key,
            flight: Some(Arc::clone(&flight)),
        };
        Seat {
            landing: flight.lock_owned().await,
            place,
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
        self.place.flights.lock().remove(&self.place.key);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.lock();
        // Let go with the map locked, so that of two who leave at once one is the last.
        drop(self.flight.take());
        // The flight there may be a later one, and have others in it.
        if under_way
            .get(&self.key)
            .is_some_and(|flight| flight.strong_count() == 0)
        {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task::spawn};

    use super::*;
    use crate::{KeySecret, Tenant};

    fn key() -> Key {
        Key::new(
            &KeySecret::from_passphrase("test"),
            &Tenant::new(b"tenant"),
            &ProducedBy::new("a", "m"),
            b"request",
        )
    }

    #[test]
    fn nothing_is_left_of_callers_that_go_away() {
        let flights = Flights::default();
        let mut first = spawn(flights.join(key()));
        let seat = assert_ready!(first.poll());
        let mut waiting = spawn(flights.join(key()));
        assert_pending!(waiting.poll());
        // The one in wait is offered the seat, and is gone before it takes it.
        drop(seat);
        drop(waiting);
        assert!(flights.lock().is_empty());
        // The one in wait is gone first.
        let mut first = spawn(flights.join(key()));
        let seat = assert_ready!(first.poll());
        let mut waiting = spawn(flights.join(key()));
        assert_pending!(waiting.poll());
        drop(waiting);
        drop(seat);
        assert!(flights.lock().is_empty());
    }

    #[test]
    fn who_leaves_an_ended_call_does_not_end_the_next_one() {
        let flights = Flights::default();
        let mut first = spawn(flights.join(key()));
        let seat = assert_ready!(first.poll());
        let mut waiting = spawn(flights.join(key()));
        assert_pending!(waiting.poll());
        seat.land(Landing::Alone);
        let mut next = spawn(flights.join(key()));
        let next = assert_ready!(next.poll());
        assert!(matches!(next.landing(), Landing::Open));
        let told = assert_ready!(waiting.poll());
        assert!(matches!(told.landing(), Landing::Alone));
        drop(told);
        // A further caller shares the call that is under way.
        let mut further = spawn(flights.join(key()));
        assert_pending!(further.poll());
        drop(next);
        drop(further);
        assert!(flights.lock().is_empty());
    }
}
