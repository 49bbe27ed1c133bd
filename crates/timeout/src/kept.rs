use std::{cell::Cell, mem::ManuallyDrop, pin::Pin};

use backstop_core::{BoxError, Elapsed};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    alarm::Alarm,
    clock::{Own, Waits},
};

/// How many places a thread keeps for later calls; more are given back to the allocator. A call takes
/// one that an earlier call has left, so that only their bursts need many. 64 are less than 20 KiB.
const SPARE: u32 = 64;

thread_local! {
    /// The last place that was left, on top of the others.
    static POOL: Cell<Option<Pin<Box<Place>>>> = const { Cell::new(None) };
}

/// What a call has if its body is waited for, or if it has limits of its own.
///
/// It is most of what there is to a call, and apart from the rest, because the rest is moved with
/// every response. The places are used again, so that a call that waits allocates nothing.
pub(crate) struct Kept(ManuallyDrop<Option<Pin<Box<Place>>>>);

pin_project! {
    #[derive(Default)]
    pub(crate) struct Place {
        #[pin]
        pub(crate) alarm: Alarm,
        pub(crate) waits: Waits,
        pub(crate) own: Option<Own>,
        // Whether it matters how long things take that come in time.
        pub(crate) measured: bool,
        // Whether an observer is still to hear of the end.
        pub(crate) observed: bool,
        refused: Option<Elapsed>,
        // The place below this in the pool, and how many there are below this.
        next: Option<Pin<Box<Place>>>,
        below: u32,
    }
}

impl Kept {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(ManuallyDrop::new(None))
    }

    /// The limits that a call has of its own.
    pub(crate) fn own(own: Own) -> Self {
        let mut kept = Self::new();
        *kept.open().project().own = Some(own);
        kept
    }

    /// Why a call is refused.
    pub(crate) fn refusal(elapsed: Elapsed) -> Self {
        let mut kept = Self::new();
        *kept.open().project().refused = Some(elapsed);
        kept
    }

    pub(crate) fn is_refusal(&self) -> bool {
        self.get().is_some_and(|place| place.refused.is_some())
    }

    /// Why the call was refused, if it was; told once.
    #[cold]
    #[inline(never)]
    pub(crate) fn refused(&mut self) -> Option<BoxError> {
        let elapsed = self.get_mut()?.project().refused.take()?;
        Some(elapsed.into())
    }

    pub(crate) fn get_own(&self) -> Option<&Own> {
        self.get()?.own.as_ref()
    }

    /// An observer is to hear of the end of the body.
    pub(crate) fn observe(&mut self) {
        let place = self.open().project();
        *place.measured = true;
        *place.observed = true;
    }

    /// When the call was made, if that is known.
    pub(crate) fn started(&self) -> Option<Instant> {
        Some(self.get_own()?.started)
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.get().is_some_and(|place| place.observed)
    }

    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// What the body goes on with: the wait for the head is over. Leaves nothing behind.
    #[inline]
    pub(crate) fn head_came(&mut self) -> Self {
        let Some(place) = self.get_mut() else {
            return Self::new();
        };
        place.project().waits.over();
        Self(ManuallyDrop::new(self.0.take()))
    }

    /// Ends the timer and gives the place back.
    #[inline]
    pub(crate) fn close(&mut self) {
        if self.is_some() {
            give_back(self);
        }
    }

    #[inline]
    fn get(&self) -> Option<&Place> {
        self.0.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<Pin<&mut Place>> {
        self.0.as_mut().map(Pin::as_mut)
    }

    /// The place; one is taken from the pool if there was none.
    #[inline]
    pub(crate) fn open(&mut self) -> Pin<&mut Place> {
        self.0.get_or_insert_with(from_pool).as_mut()
    }
}

impl Drop for Kept {
    #[inline]
    fn drop(&mut self) {
        self.close();
    }
}

#[cold]
#[inline(never)]
fn from_pool() -> Pin<Box<Place>> {
    // There is no pool any more while the thread ends.
    let Some(mut place) = POOL.try_with(Cell::take).ok().flatten() else {
        return Box::pin(Place::default());
    };
    POOL.set(place.as_mut().project().next.take());
    place
}

/// Apart from where it is called, because most calls have no place.
#[cold]
#[inline(never)]
fn give_back(kept: &mut Kept) {
    let Some(mut place) = kept.0.take() else {
        return;
    };
    let left = place.as_mut().project();
    left.alarm.cancel();
    *left.waits = Waits::default();
    *left.own = None;
    *left.measured = false;
    *left.observed = false;
    *left.refused = None;
    let Ok(next) = POOL.try_with(Cell::take) else {
        return;
    };
    *left.below = next.as_ref().map_or(0, |next| next.below + 1);
    if *left.below < SPARE {
        *left.next = next;
        POOL.set(Some(place));
    } else {
        POOL.set(next);
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use bytes::Bytes;
    use futures_util::stream;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::{BodyExt, Empty, StreamBody};
    use tokio::time::sleep;
    use tower::{Layer, ServiceExt, service_fn};

    use super::*;
    use crate::{Limits, TimeoutLayer, alarm::registrations};

    fn places() -> usize {
        let mut top = POOL.take();
        let mut count = 0;
        while let Some(mut place) = top {
            count += 1;
            top = place.as_mut().project().next.take();
        }
        count
    }

    #[test]
    fn a_place_is_used_again_and_the_pool_is_bounded() {
        let elapsed = Elapsed::new(backstop_core::Phase::Total, Duration::ZERO, Duration::ZERO);
        assert_eq!(places(), 0);
        for _ in 0..3 {
            let mut kept = Kept::refusal(elapsed);
            assert!(kept.refused().is_some());
        }
        drop(Kept::refusal(elapsed));
        let mut kept = Kept::new();
        kept.open();
        assert!(!kept.is_refusal(), "what was there is forgotten");
        kept.close();
        assert!(!kept.is_some());
        assert_eq!(places(), 1);

        let mut many: Vec<Kept> = (0..200).map(|_| Kept::new()).collect();
        for kept in &mut many {
            kept.open();
        }
        drop(many);
        assert_eq!(places(), 64);
    }

    #[test]
    fn the_pool_is_less_than_20_kib() {
        assert!(
            size_of::<Place>() * 64 < 20 * 1024,
            "{}",
            size_of::<Place>()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_head_and_the_body_of_a_call_with_a_limit_of_its_own_have_one_timer() {
        let second = Duration::from_secs(1);
        let model = service_fn(async |_: Request<Empty<Bytes>>| {
            sleep(second).await;
            let body = StreamBody::new(stream::once(async {
                sleep(second).await;
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"token")))
            }));
            Ok::<_, Infallible>(Response::new(Box::pin(body)))
        });
        let limits = Limits::unlimited().within(second * 60);
        let service = TimeoutLayer::new(limits).unwrap().layer(model);
        registrations::take();
        let response = service.oneshot(Request::new(Empty::new())).await.unwrap();
        assert_eq!(response.collect().await.unwrap().to_bytes(), "token");
        assert_eq!(registrations::take(), 1);
    }
}
