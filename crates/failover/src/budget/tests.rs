use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn without_floor(share: f64) -> Budget {
    Budget::new(
        BudgetConfig::default()
            .share(share)
            .floor_per_second(0.0)
            .cap(10.0),
    )
    .expect("valid")
}

/// The same bucket, one thread, in exact integers of a billionth of a billionth.
struct Reference {
    balance: u128,
    paid: Option<u128>,
    share: u128,
    floor: u128,
    cap: u128,
}

const FINE: u128 = 1_000_000_000_000_000_000;

impl Reference {
    fn deposit(&mut self, now: u128) {
        if self.balance >= self.cap {
            return;
        }
        self.balance = (self.balance + self.share).min(self.cap);
        if let Some(time) = (self.share).checked_div(self.floor / 1_000_000_000) {
            let paid = *self.paid.get_or_insert(now);
            self.paid = Some((paid + time).min((now + 1_000_000_000).max(paid)));
        }
    }

    fn withdraw(&mut self, now: u128) -> bool {
        let paid = self.paid.unwrap_or(now);
        let owed = now.saturating_sub(paid) * (self.floor / 1_000_000_000);
        self.paid = Some(now.max(paid));
        self.balance = (self.balance + owed).min(self.cap.max(self.balance));
        if self.balance < FINE {
            return false;
        }
        self.balance -= FINE;
        true
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    Deposit,
    Withdraw,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_u64..3_000).prop_map(Step::Wait),
        Just(Step::Deposit),
        Just(Step::Deposit),
        Just(Step::Withdraw),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Every share, to the millionth, allows exactly itself.
    #[test]
    fn a_share_allows_exactly_itself(millionths in 0_u32..=1_000_000, calls in 1_u32..3_000) {
        let budget = without_floor(f64::from(millionths) / 1e6);
        let now = Instant::now();
        let mut repeated = 0_u64;
        for _ in 0..calls {
            budget.deposit(now);
            repeated += u64::from(budget.try_withdraw(now, Spend::Retry));
        }
        prop_assert_eq!(repeated, u64::from(calls) * u64::from(millionths) / 1_000_000);
    }

    /// Any history gives what the reference gives.
    #[test]
    fn any_history_is_as_the_reference_says(
        steps in steps(),
        thousandths in 0_u32..2_000,
        floor in 0_u32..5,
        cap in 1_u32..20,
    ) {
        let budget = Budget::new(
            BudgetConfig::default()
                .share(f64::from(thousandths) / 1e3)
                .floor_per_second(f64::from(floor))
                .cap(f64::from(cap)),
        ).unwrap();
        let mut reference = Reference {
            balance: FINE * u128::from(floor.min(cap)),
            paid: None,
            share: FINE / 1_000 * u128::from(thousandths),
            floor: FINE * u128::from(floor),
            cap: FINE * u128::from(cap),
        };
        let start = Instant::now();
        let mut at = Duration::ZERO;
        // The first sight of the clock is the epoch, for both.
        for step in steps {
            match step {
                Step::Wait(millis) => at += Duration::from_millis(millis),
                Step::Deposit => {
                    budget.deposit(start + at);
                    reference.deposit(at.as_nanos());
                }
                Step::Withdraw => {
                    let got = budget.try_withdraw(start + at, Spend::Retry);
                    // Within a millionth of the line, rounding may decide; elsewhere it may not.
                    let before = reference.balance;
                    let expected = reference.withdraw(at.as_nanos());
                    if got != expected {
                        let after = if expected { reference.balance + FINE } else { reference.balance };
                        prop_assert!(
                            after.abs_diff(FINE) < FINE / 1_000_000,
                            "{got} at {at:?}, {before} before"
                        );
                        // Go on from the same state.
                        reference.balance = if got { 0 } else { after.min(FINE) };
                    }
                }
            }
        }
    }
}

#[test]
fn the_floor_does_not_come_on_top_of_the_share() {
    let budget = Budget::new(BudgetConfig::default().share(0.1).cap(100.0)).unwrap();
    let start = Instant::now();
    let mut spent = 0;
    // 200 calls a second for 60 s, each of them wanting a retry.
    for call in 0..12_000_u32 {
        let now = start + Duration::from_millis(5) * call;
        budget.deposit(now);
        // The attempt takes its time to fail.
        let later = now + Duration::from_millis(3);
        spent += u32::from(budget.try_withdraw(later, Spend::Retry));
    }
    assert!((1_200..=1_202).contains(&spent), "{spent}");
}

#[test]
fn the_floor_serves_where_hardly_anybody_calls() {
    let budget = Budget::new(BudgetConfig::default()).unwrap();
    let start = Instant::now();
    for call in 0..10 {
        let now = start + Duration::from_secs(2) * call;
        budget.deposit(now);
        assert!(budget.try_withdraw(now, Spend::Retry), "call {call}");
    }
}

#[test]
fn costs_are_by_kind_and_zero_is_free() {
    let budget = Budget::new(
        BudgetConfig::default()
            .floor_per_second(0.0)
            .share(1.0)
            .hedge_cost(2.0)
            .cap(2.0),
    )
    .unwrap();
    let now = Instant::now();
    assert!(budget.try_withdraw(now, Spend::Failover));
    assert!(!budget.try_withdraw(now, Spend::Retry));
    budget.deposit(now);
    assert!(!budget.try_withdraw(now, Spend::Hedge));
    budget.deposit(now);
    assert!(budget.try_withdraw(now, Spend::Hedge));
    assert!(!budget.try_withdraw(now, Spend::Retry));
}

#[test]
fn it_is_capped() {
    let budget = without_floor(1.0);
    let now = Instant::now();
    for _ in 0..1_000 {
        budget.deposit(now);
    }
    assert!((budget.balance(now) - 10.0).abs() < f64::EPSILON);
    let paid = (0..1_000)
        .filter(|_| budget.try_withdraw(now, Spend::Retry))
        .count();
    assert_eq!(paid, 10);
}

#[test]
fn a_clock_that_goes_back_pays_nothing_twice() {
    let budget = Budget::new(BudgetConfig::default().share(0.0)).unwrap();
    let start = Instant::now();
    let later = start + Duration::from_secs(5);
    assert!(budget.try_withdraw(start, Spend::Retry));
    let paid = (0..20)
        .flat_map(|_| [later, start])
        .filter(|now| budget.try_withdraw(*now, Spend::Retry))
        .count();
    assert_eq!(paid, 5);
}

#[test]
fn senseless_numbers_are_refused_by_name() {
    let field = |config| Budget::new(config).unwrap_err().field();
    let config = BudgetConfig::default;
    assert_eq!(field(config().share(-0.1)), "budget.share");
    assert_eq!(
        field(config().floor_per_second(f64::INFINITY)),
        "budget.floor_per_second"
    );
    assert_eq!(field(config().cap(f64::NAN)), "budget.cap");
    assert_eq!(field(config().cap(0.5)), "budget.cap");
    assert_eq!(field(config().retry_cost(-1.0)), "budget.retry_cost");
}
