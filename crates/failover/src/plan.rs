//! In which order the targets are asked.
//!
//! A [`Plan`] only orders. Who is left out, and why, is decided when its turn comes: by its
//! [guards](crate::guards), its [health](crate::health) and its [admission](crate::admission).
//!
//! | plan | first is |
//! |---|---|
//! | [`Ordered`] | the first in the configuration (the default) |
//! | [`Weighted`] | chosen at random, by weight |
//! | [`LeastFirstToken`] | the one whose first token came soonest of late |
//! | [`Rendezvous`] | the same one for the same key, whoever asks |
//! | [`Sticky`] | that of another plan, but a rescued conversation stays where it is for a while |
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use backstop_failover::plan::{Affinity, Call, Plan, Rendezvous, Sticky};
//! use tokio::time::Instant;
//!
//! let mut plan = Sticky::new(Rendezvous::default(), Duration::from_secs(300))?;
//! let names: Vec<Arc<str>> = ["north", "south", "west"].map(Arc::from).to_vec();
//! plan.bind(&names)?;
//!
//! let call = Call::new(Instant::now(), 3).affinity(Affinity::of(b"conversation 7"));
//! let order = plan.order(&call);
//! let (own, other) = (order.first().unwrap(), order.iter().nth(1).unwrap());
//! // Its own target fails, another one answers: it stays there.
//! plan.on_served(&call, other, own);
//! assert_eq!(plan.order(&call).first(), Some(other));
//! # Ok::<(), backstop_failover::ConfigError>(())
//! ```

mod latency;
mod rendezvous;
mod sticky;
#[cfg(all(test, not(loom)))]
mod tests;
mod weighted;

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::ConfigError;

pub use self::{
    latency::LeastFirstToken, rendezvous::Rendezvous, sticky::Sticky, weighted::Weighted,
};

/// The most targets of one failover: a chain is as long as its reader's patience, and a fixed size
/// keeps the plan of a call off the heap.
pub const MAX_TARGETS: usize = 32;

/// Decides the order in which the targets are asked, for each call.
///
/// Targets are numbered from zero in the order of the configuration.
pub trait Plan: Send + Sync + 'static {
    /// Learns the names of the targets; called once, before the first call.
    ///
    /// # Errors
    ///
    /// When the plan does not fit them.
    fn bind(&mut self, targets: &[Arc<str>]) -> Result<(), ConfigError> {
        let _ = targets;
        Ok(())
    }

    /// The order for one call. A target that is not in it is not asked at all, and a number beyond
    /// [`Call::targets`] is passed over.
    fn order(&self, call: &Call) -> Order;

    /// A target's first token came `took` after the request was sent.
    fn on_first_token(&self, now: Instant, target: usize, took: Duration) {
        let _ = (now, target, took);
    }

    /// A target's first token had not come when it was given up, `waited` after the request was
    /// sent.
    ///
    /// It may have been given up early, because the deadline was near or a gateway in between had
    /// no patience: all that is known is that the first token would have taken longer.
    fn on_no_first_token(&self, now: Instant, target: usize, waited: Duration) {
        let _ = (now, target, waited);
    }

    /// `target` answered the call, of which `first` was the first of the order.
    ///
    /// Not to be called for traffic that is sent elsewhere on purpose, to exercise a target.
    fn on_served(&self, call: &Call, target: usize, first: usize) {
        let _ = (call, target, first);
    }
}

/// What a plan is told of a call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Call {
    /// When it came.
    pub now: Instant,
    /// How many targets there are.
    pub targets: usize,
    /// What it belongs to.
    pub affinity: Option<Affinity>,
}

/// The key of a conversation, or of whatever should stay at one target so that the provider's
/// prompt cache is of use; a typed request extension.
///
/// Only a hash is kept. It is the same in every process, so that replicas agree, and it is not
/// a secret: do not use it where collisions must not be made on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affinity(u64);

/// An order of targets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Order {
    places: [u8; MAX_TARGETS],
    len: u8,
    /// Above the numbers in it; read for each call.
    end: u8,
}

/// The order of the configuration: the first target is the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ordered;

impl Plan for Ordered {
    fn order(&self, call: &Call) -> Order {
        Order::of_configuration(call.targets)
    }
}

impl Plan for Box<dyn Plan> {
    fn bind(&mut self, targets: &[Arc<str>]) -> Result<(), ConfigError> {
        (**self).bind(targets)
    }

    fn order(&self, call: &Call) -> Order {
        (**self).order(call)
    }

    fn on_first_token(&self, now: Instant, target: usize, took: Duration) {
        (**self).on_first_token(now, target, took);
    }

    fn on_no_first_token(&self, now: Instant, target: usize, waited: Duration) {
        (**self).on_no_first_token(now, target, waited);
    }

    fn on_served(&self, call: &Call, target: usize, first: usize) {
        (**self).on_served(call, target, first);
    }
}

impl fmt::Debug for dyn Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plan")
    }
}

// === impl Call ===

impl Call {
    /// A call that came `now`, for one of so many `targets`.
    #[must_use]
    pub const fn new(now: Instant, targets: usize) -> Self {
        Self {
            now,
            targets,
            affinity: None,
        }
    }

    /// The call belongs to this.
    #[must_use]
    pub const fn affinity(mut self, affinity: Affinity) -> Self {
        self.affinity = Some(affinity);
        self
    }
}

// === impl Affinity ===

impl Affinity {
    /// The affinity of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(hash(key))
    }

    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Affinity").finish_non_exhaustive()
    }
}

// === impl Order ===

impl Order {
    /// No target.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            places: [0; MAX_TARGETS],
            len: 0,
            end: 0,
        }
    }

    /// The first `targets` targets as they are configured, at most [`MAX_TARGETS`].
    #[must_use]
    pub fn of_configuration(targets: usize) -> Self {
        let mut order = Self::empty();
        for (place, target) in order.places.iter_mut().zip(0..).take(targets) {
            *place = target;
            order.len = target + 1;
        }
        order.end = order.len;
        order
    }

    /// Appends a target. One that is in the order already, and one beyond [`MAX_TARGETS`], is left
    /// out: nobody is asked twice by a plan.
    pub fn push(&mut self, target: usize) {
        let Ok(place) = u8::try_from(target) else {
            return;
        };
        if target < MAX_TARGETS && !self.as_slice().contains(&place) {
            self.places[usize::from(self.len)] = place;
            self.len += 1;
            self.end = self.end.max(place + 1);
        }
    }

    /// Moves a target to the front, if it is in the order.
    pub fn move_to_front(&mut self, target: usize) {
        let at = self.iter().position(|other| other == target);
        if let Some(at) = at {
            self.places[..=at].rotate_right(1);
        }
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.iter().next()
    }

    /// All of them.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.as_slice().iter().map(|place| usize::from(*place))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Leaves out numbers that are nobody's.
    #[inline]
    pub(crate) fn keep_below(&mut self, targets: usize) {
        if usize::from(self.end) > targets {
            let all = *self;
            *self = Self::empty();
            for target in all.iter().filter(|target| *target < targets) {
                self.push(target);
            }
        }
    }

    /// The targets from a place in the order on.
    pub(crate) fn iter_from(&self, place: usize) -> impl Iterator<Item = usize> + '_ {
        let rest = self.as_slice().get(place..).unwrap_or_default();
        rest.iter().map(|target| usize::from(*target))
    }

    fn as_slice(&self) -> &[u8] {
        &self.places[..usize::from(self.len)]
    }

    /// Sorts by what `key` says of a target; equals stay as they are configured.
    fn sort_by_key<K: Ord>(&mut self, mut key: impl FnMut(usize) -> K) {
        self.places[..usize::from(self.len)]
            .sort_unstable_by_key(|place| (key(usize::from(*place)), *place));
    }
}

impl FromIterator<usize> for Order {
    fn from_iter<I: IntoIterator<Item = usize>>(targets: I) -> Self {
        let mut order = Self::empty();
        for target in targets {
            order.push(target);
        }
        order
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// FNV-1a, finished by [`mix`]: small, without a secret, and the same in every process and version.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

/// The finaliser of `SplitMix64`: every bit of the input reaches every bit of the output.
const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
