//! How much may be spent on repeating and on asking further targets.
//!
//! One bucket is shared by all that a group of targets does beyond the first attempt of a call.
//! Every call puts in a share of a token, every retry takes one out, so that in an outage the
//! targets get at most `1 + share` attempts per call: without a bound, three layers of three
//! attempts each make twenty-seven out of one.
//!
//! ```
//! use backstop_failover::budget::{Budget, BudgetConfig, Spend};
//! use tokio::time::Instant;
//!
//! let budget = Budget::new(BudgetConfig::default().share(0.6).floor_per_second(0.0))?;
//! let now = Instant::now();
//! let mut repeated = 0;
//! for _ in 0..100 {
//!     budget.deposit(now);
//!     repeated += u32::from(budget.try_withdraw(now, Spend::Retry));
//! }
//! assert_eq!(repeated, 60);
//! # Ok::<(), backstop_failover::ConfigError>(())
//! ```

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{
    ConfigError,
    epoch::Epoch,
    sync::{AtomicU64, Ordering},
};

/// One token, in the unit of the bucket. A billionth is so fine that a share such as a third is off
/// by less than one token in a billion calls; in whole tokens, or hundredths, 0.6 becomes 1.
const TOKEN: u64 = 1_000_000_000;

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// The bucket of a group of targets. Clones share it.
///
/// A deposit is two atomic operations at most, a withdrawal three; nothing waits.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

/// How large a [`Budget`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetConfig {
    share: f64,
    floor_per_second: f64,
    cap: f64,
    costs: Costs,
}

/// What is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Spend {
    /// Asking the same target again.
    Retry,
    /// Asking the next target after a failed attempt.
    Failover,
    /// Asking the next target while an attempt is still under way.
    Hedge,
}

/// What each kind costs, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Costs {
    retry: f64,
    failover: f64,
    hedge: f64,
}

struct Shared {
    epoch: Epoch,
    /// What is in the bucket.
    balance: AtomicU64,
    /// The point in time up to which the floor is paid, by the clock or by shares.
    paid_until: AtomicU64,
    /// What a call puts in.
    deposit: u64,
    /// How much of the floor's time a call pays for, in nanoseconds.
    deposit_time: u64,
    /// What a second puts in at least.
    floor: u64,
    cap: u64,
    retry: u64,
    failover: u64,
    hedge: u64,
}

// === impl Budget ===

impl Budget {
    /// A bucket that holds one second's floor.
    ///
    /// It does not start full: a program that is restarted again and again in an outage would pay
    /// for a fresh burst each time.
    ///
    /// # Errors
    ///
    /// When a number is negative, not finite or out of range.
    pub fn new(config: BudgetConfig) -> Result<Self, ConfigError> {
        let deposit = fixed(config.share, 100.0, "budget.share", "from 0 to 100")?;
        let floor = fixed(
            config.floor_per_second,
            1e6,
            "budget.floor_per_second",
            "from 0 to a million",
        )?;
        let cap = fixed(config.cap, 1e9, "budget.cap", "from 0 to a billion tokens")?;
        let cost = |cost, field| fixed(cost, 1e6, field, "from 0 to a million tokens");
        let retry = cost(config.costs.retry, "budget.retry_cost")?;
        let failover = cost(config.costs.failover, "budget.failover_cost")?;
        let hedge = cost(config.costs.hedge, "budget.hedge_cost")?;
        let largest = retry.max(failover).max(hedge);
        ConfigError::ensure(
            cap >= largest || cap == 0,
            "budget.cap",
            "0 or at least the largest cost",
        )?;
        Ok(Self {
            shared: Arc::new(Shared {
                epoch: Epoch::default(),
                balance: AtomicU64::new(floor.min(cap)),
                paid_until: AtomicU64::new(0),
                deposit,
                deposit_time: scale(deposit, TOKEN, floor),
                floor,
                cap,
                retry,
                failover,
                hedge,
            }),
        })
    }

    /// Puts in the share of one call. To be called once per call, before its first attempt.
    pub fn deposit(&self, now: Instant) {
        let shared = &*self.shared;
        let mut full = false;
        // An error is a bucket that is full already: nothing to do, not even a write.
        let _ = shared
            .balance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |balance| {
                full = balance >= shared.cap;
                (!full).then(|| balance.saturating_add(shared.deposit).min(shared.cap))
            });
        if full || shared.floor == 0 {
            return;
        }
        // The share pays for a piece of the floor, up to a second ahead, so that the two do not add
        // up.
        let now = shared.epoch.nanos(now);
        let _ = shared
            .paid_until
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |paid| {
                let begin = if paid == 0 { now } else { paid };
                let next = begin
                    .saturating_add(shared.deposit_time)
                    .min(now.saturating_add(SECOND).max(paid));
                (next != paid).then_some(next)
            });
    }

    /// Takes out what `spend` costs, or nothing when that is not there.
    #[must_use]
    pub fn try_withdraw(&self, now: Instant, spend: Spend) -> bool {
        let shared = &*self.shared;
        let cost = shared.cost(spend);
        if cost == 0 {
            return true;
        }
        shared.pay_floor(now);
        shared
            .balance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |balance| {
                balance.checked_sub(cost)
            })
            .is_ok()
    }

    /// Puts back what `spend` cost, since nothing came of it.
    pub(crate) fn put_back(&self, spend: Spend) {
        let shared = &*self.shared;
        let cost = shared.cost(spend);
        let _ = shared
            .balance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |balance| {
                (balance < shared.cap).then(|| balance.saturating_add(cost).min(shared.cap))
            });
    }

    /// What is in the bucket, in tokens.
    #[must_use]
    pub fn balance(&self, now: Instant) -> f64 {
        self.shared.pay_floor(now);
        #[expect(
            clippy::cast_precision_loss,
            reason = "for people and metrics; the bucket itself stays exact"
        )]
        let balance = self.shared.balance.load(Ordering::Acquire) as f64 / TOKEN as f64;
        balance
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field(
                "balance_billionths",
                &self.shared.balance.load(Ordering::Acquire),
            )
            .field("share_billionths", &self.shared.deposit)
            .finish_non_exhaustive()
    }
}

// === impl BudgetConfig ===

impl BudgetConfig {
    /// How much of a token each call puts in: 0.1 allows one retry per ten calls.
    ///
    /// Default: 0.1, the share that Finagle, Envoy's documentation and gRPC's retry throttling
    /// settle on within a factor of two.
    #[must_use]
    pub const fn share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// What is allowed per second even when hardly anybody calls, in tokens. It does not come on
    /// top of the share: the larger of the two counts.
    ///
    /// Default: 1.
    #[must_use]
    pub const fn floor_per_second(mut self, floor: f64) -> Self {
        self.floor_per_second = floor;
        self
    }

    /// How much can be saved up, in tokens: the burst that an outage can begin with.
    ///
    /// Default: 100, what a thousand calls put in.
    #[must_use]
    pub const fn cap(mut self, cap: f64) -> Self {
        self.cap = cap;
        self
    }

    /// What asking the same target again costs, in tokens. Default: 1.
    #[must_use]
    pub const fn retry_cost(mut self, cost: f64) -> Self {
        self.costs.retry = cost;
        self
    }

    /// What asking the next target after a failed attempt costs, in tokens.
    ///
    /// Default: 0, because it does not repeat load where load was refused, and because in an outage
    /// of the first target *every* call needs it: a share of 0.1 would leave nine callers of ten
    /// without the answer that the second target has. The chain is bounded by its length, and the
    /// second target by its own admission limits.
    #[must_use]
    pub const fn failover_cost(mut self, cost: f64) -> Self {
        self.costs.failover = cost;
        self
    }

    /// What asking the next target while an attempt is under way costs, in tokens. Default: 1.
    #[must_use]
    pub const fn hedge_cost(mut self, cost: f64) -> Self {
        self.costs.hedge = cost;
        self
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            share: 0.1,
            floor_per_second: 1.0,
            cap: 100.0,
            costs: Costs {
                retry: 1.0,
                failover: 0.0,
                hedge: 1.0,
            },
        }
    }
}

// === impl Spend ===

impl Spend {
    /// A stable name for metrics, traces and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Failover => "failover",
            Self::Hedge => "hedge",
        }
    }
}

// === impl Shared ===

impl Shared {
    const fn cost(&self, spend: Spend) -> u64 {
        match spend {
            Spend::Retry => self.retry,
            Spend::Failover => self.failover,
            Spend::Hedge => self.hedge,
        }
    }

    /// Puts in what the floor owes for the time since it was last paid. Exactly one of several
    /// concurrent callers moves the mark and puts the difference in.
    fn pay_floor(&self, now: Instant) {
        if self.floor == 0 {
            return;
        }
        let now = self.epoch.nanos(now);
        let mut paid = self.paid_until.load(Ordering::Acquire);
        while paid < now {
            match self.paid_until.compare_exchange_weak(
                paid,
                now,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(newer) => paid = newer,
            }
        }
        if paid == 0 || paid >= now {
            return;
        }
        let owed = scale(now - paid, self.floor, TOKEN);
        let _ = self
            .balance
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |balance| {
                (balance < self.cap).then(|| balance.saturating_add(owed).min(self.cap))
            });
    }
}

/// `value * times / per`, or the largest number.
fn scale(value: u64, times: u64, per: u64) -> u64 {
    let product = u128::from(value) * u128::from(times);
    product
        .checked_div(u128::from(per))
        .and_then(|scaled| u64::try_from(scaled).ok())
        .unwrap_or(u64::MAX)
}

/// `value` in billionths.
fn fixed(
    value: f64,
    most: f64,
    field: &'static str,
    allowed: &'static str,
) -> Result<u64, ConfigError> {
    ConfigError::ensure((0.0..=most).contains(&value), field, allowed)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the range was checked: at most a billion tokens of a billion units, within u64"
    )]
    let fixed = (value * TOKEN as f64).round() as u64;
    Ok(fixed)
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;

    #[test]
    fn loom_no_token_is_spent_twice_and_none_is_lost() {
        loom::model(|| {
            let now = Instant::now();
            let budget = Budget::new(
                BudgetConfig::default()
                    .share(0.5)
                    .floor_per_second(0.0)
                    .cap(2.0),
            )
            .unwrap();
            budget.deposit(now);
            let other = budget.clone();
            let thread = thread::spawn(move || {
                other.deposit(now);
                u32::from(other.try_withdraw(now, Spend::Retry))
            });
            let mine = u32::from(budget.try_withdraw(now, Spend::Retry));
            let spent = mine + thread.join().unwrap();
            let left = u32::from(budget.try_withdraw(now, Spend::Retry));
            assert_eq!(spent + left, 1);
        });
    }

    #[test]
    fn loom_the_floor_is_paid_once() {
        loom::model(|| {
            let start = Instant::now();
            let later = start + std::time::Duration::from_secs(1);
            let budget =
                Budget::new(BudgetConfig::default().share(0.0).floor_per_second(1.0)).unwrap();
            assert!(budget.try_withdraw(start, Spend::Retry));
            let other = budget.clone();
            let thread = thread::spawn(move || u32::from(other.try_withdraw(later, Spend::Retry)));
            let mine = u32::from(budget.try_withdraw(later, Spend::Retry));
            let spent = mine + thread.join().unwrap();
            // Who moved the mark may not have put the token in yet when the other looks: then the
            // other is refused, but the token is never there twice.
            assert!(spent <= 1);
            let left = u32::from(budget.try_withdraw(later, Spend::Retry));
            assert_eq!(spent + left, 1);
        });
    }
}
