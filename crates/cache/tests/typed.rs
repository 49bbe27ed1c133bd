//! The layer around a typed service: what is kept, for whom and how long.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backstop_cache::{
    CacheConfig, CachedFallbackLayer, Entry, Key, KeySecret, MemoryStore, ProducedBy, ServeOn,
    SimplifiedAnswer, Store, Tenant,
};
use backstop_core::{
    BoxError, ClassifyErrors, Directives, Failure, Kind, Outcome, Recorder, Replayed, Simplified,
    Typed,
};
use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ask {
    tenant: String,
    prompt: String,
    no_store: bool,
    no_cache: bool,
}

impl Ask {
    fn new(tenant: &str, prompt: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            prompt: prompt.to_owned(),
            no_store: false,
            no_cache: false,
        }
    }
}

#[derive(Clone, Copy)]
struct Words;

impl Recorder<Arc<Ask>, String> for Words {
    type Call = Directives;
    type Recording = String;

    fn on_request(&self, request: &Arc<Ask>) -> Option<Directives> {
        let mut directives = Directives::default();
        directives.no_store = request.no_store;
        directives.no_cache = request.no_cache;
        Some(directives)
    }

    fn directives(&self, directives: &Directives) -> Directives {
        *directives
    }

    fn may_share(&self, _: &Directives) -> bool {
        true
    }

    fn identity(&self, request: &Arc<Ask>) -> Option<Vec<u8>> {
        Some(request.prompt.clone().into_bytes())
    }

    fn on_response(&self, _: &Directives, head: &String) -> Result<String, &'static str> {
        Ok(head.clone())
    }

    fn record(&self, recording: &String, _: &[u8]) -> Result<Bytes, &'static str> {
        if recording.ends_with("...") {
            Err("cut short")
        } else {
            Ok(recording.clone().into())
        }
    }

    fn replay(&self, _: &Directives, record: &[u8], replay: Replayed) -> Option<(String, Bytes)> {
        let text = String::from_utf8(record.to_vec()).ok()?;
        Some((
            format!("{text} [{}s old]", replay.age.as_secs()),
            Bytes::new(),
        ))
    }

    fn simplified(&self, _: &Directives, text: &Simplified<'_>) -> (String, Bytes) {
        (text.text.to_owned(), Bytes::new())
    }
}

/// A model that echoes, until it is told to fail, and counts how often it was asked.
#[derive(Clone, Default)]
struct Model {
    fails: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

impl Model {
    const KINDS: [Kind; 6] = [
        Kind::Success,
        Kind::Unavailable,
        Kind::Throttled,
        Kind::Rejected,
        Kind::Overloaded,
        Kind::Malformed,
    ];

    fn fail_with(&self, kind: Kind) {
        let place = Self::KINDS.iter().position(|known| *known == kind).unwrap();
        self.fails
            .store(u32::try_from(place).unwrap(), Ordering::SeqCst);
    }

    fn service(
        &self,
    ) -> impl Service<Ask, Response = String, Error = BoxError, Future: Send> + Clone + Send + 'static
    {
        let this = self.clone();
        service_fn(move |ask: Ask| {
            this.asked.fetch_add(1, Ordering::SeqCst);
            let kind = Self::KINDS[this.fails.load(Ordering::SeqCst) as usize];
            async move {
                // A model takes its time, so that calls overlap.
                tokio::time::sleep(Duration::from_millis(100)).await;
                if kind == Kind::Success {
                    Ok(format!("{} says {}", ask.tenant, ask.prompt))
                } else {
                    Err(Failure::new(Outcome::new(kind)).into())
                }
            }
        })
    }
}

async fn call(
    stack: &(impl Service<Ask, Response = String, Error = BoxError> + Clone),
    ask: Ask,
) -> Result<String, Kind> {
    let answer = stack.clone().oneshot(ask).await;
    // Let the write, which nobody waits for, happen.
    tokio::time::sleep(Duration::from_nanos(1)).await;
    answer.map_err(|error| backstop_core::outcome_of(&*error).kind())
}

fn stack<St: Store>(
    config: CacheConfig,
    store: St,
    model: &Model,
) -> impl Service<Ask, Response = String, Error = BoxError, Future: Send> + Clone + Send + 'static {
    let tenant =
        |ask: &Arc<Ask>| (!ask.tenant.is_empty()).then(|| Tenant::new(ask.tenant.as_bytes()));
    CachedFallbackLayer::new(
        config,
        store,
        KeySecret::from_passphrase("test"),
        [ProducedBy::new("", "model")],
        tenant,
        Words,
        ClassifyErrors,
    )
    .unwrap()
    .protocol::<Typed>()
    .layer(model.service())
}

fn memory() -> MemoryStore {
    MemoryStore::new(1 << 20, Duration::from_secs(1_000_000))
}

fn config() -> CacheConfig {
    let mut config = CacheConfig::default();
    config.stale_if_error = Duration::from_secs(600);
    config
}

#[tokio::test(start_paused = true)]
async fn serves_stale_within_the_bound_and_the_error_past_it() {
    let model = Model::default();
    let stack = stack(config(), memory(), &model);
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await.unwrap(),
        "a says hi"
    );
    model.fail_with(Kind::Unavailable);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await.unwrap(),
        "a says hi [60s old]"
    );
    assert_eq!(
        call(&stack, Ask::new("a", "bye")).await,
        Err(Kind::Unavailable)
    );
    // What was served stale has not been stored anew: the age goes on from the first answer.
    tokio::time::sleep(
        Duration::from_secs(600) - Duration::from_secs(60) - Duration::from_millis(500),
    )
    .await;
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await.unwrap(),
        "a says hi [599s old]"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await,
        Err(Kind::Unavailable)
    );
}

/// RFC 9111 section 4.2: fresh while younger than the lifetime. RFC 5861 section 4: stale answers will
/// do up to the bound.
#[tokio::test(start_paused = true)]
async fn both_bounds_hold_to_the_millisecond() {
    const FRESH: Duration = Duration::from_secs(10);
    const LATENCY: Duration = Duration::from_millis(100);
    const MILLI: Duration = Duration::from_millis(1);
    let mut config = config();
    config.fresh_for = FRESH;
    let oldest = FRESH + config.stale_if_error;
    for (age, fails, expected) in [
        (FRESH - MILLI, true, Ok("a says hi [9s old]")),
        (FRESH, false, Ok("a says hi")),
        (oldest, true, Ok("a says hi [610s old]")),
        (oldest + MILLI, true, Err(Kind::Unavailable)),
    ] {
        let model = Model::default();
        let stack = stack(config.clone(), memory(), &model);
        let kept = Instant::now() + LATENCY;
        call(&stack, Ask::new("a", "hi")).await.unwrap();
        if fails {
            model.fail_with(Kind::Unavailable);
        }
        // A stale one is looked up when the model has failed, a fresh one before it is asked.
        let is_asked = age >= FRESH;
        let before = if is_asked && fails {
            LATENCY
        } else {
            Duration::ZERO
        };
        tokio::time::sleep_until(kept + age - before).await;
        let answer = call(&stack, Ask::new("a", "hi")).await;
        assert_eq!(answer.as_deref(), expected.as_deref(), "{age:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_above_the_limit_is_given_and_not_kept() {
    let text = "a says hi";
    for (max_answer, is_kept) in [(text.len(), true), (text.len() - 1, false)] {
        for coalesce in [false, true] {
            let model = Model::default();
            let mut config = config();
            config.max_answer = max_answer;
            config.coalesce = coalesce;
            let stack = stack(config, memory(), &model);
            assert_eq!(call(&stack, Ask::new("a", "hi")).await.unwrap(), text);
            model.fail_with(Kind::Unavailable);
            let again = call(&stack, Ask::new("a", "hi")).await;
            assert_eq!(again.is_ok(), is_kept, "{max_answer} {coalesce}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn limits_and_the_callers_faults_pass_unless_asked_for() {
    let model = Model::default();
    let plain = stack(config(), memory(), &model);
    let store = memory();
    let mut wide = config();
    wide.serve_on = ServeOn::rfc5861().and_limits();
    let wide = stack(wide, store, &model);
    for stack in [&plain as &dyn Fixture, &wide] {
        stack.ask(Ask::new("a", "hi")).await.unwrap();
    }
    model.fail_with(Kind::Throttled);
    assert_eq!(
        call(&plain, Ask::new("a", "hi")).await,
        Err(Kind::Throttled)
    );
    assert_eq!(
        call(&wide, Ask::new("a", "hi")).await.unwrap(),
        "a says hi [0s old]"
    );
    model.fail_with(Kind::Rejected);
    assert_eq!(call(&wide, Ask::new("a", "hi")).await, Err(Kind::Rejected));
}

trait Fixture {
    fn ask(&self, ask: Ask) -> std::pin::Pin<Box<dyn Future<Output = Result<String, Kind>> + '_>>;
}

impl<S: Service<Ask, Response = String, Error = BoxError> + Clone> Fixture for S {
    fn ask(&self, ask: Ask) -> std::pin::Pin<Box<dyn Future<Output = Result<String, Kind>> + '_>> {
        Box::pin(call(self, ask))
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_no_store_and_bad_answers_are_not_kept() {
    let model = Model::default();
    let store = memory();
    let stack = stack(config(), store.clone(), &model);
    let unkept = [
        Ask::new("", "hi"),
        Ask {
            no_store: true,
            ..Ask::new("a", "hi")
        },
        Ask::new("a", "hm..."),
    ];
    for ask in &unkept {
        call(&stack, ask.clone()).await.unwrap();
    }
    model.fail_with(Kind::Unavailable);
    for ask in &unkept {
        assert_eq!(
            call(&stack, ask.clone()).await,
            Err(Kind::Unavailable),
            "{ask:?}"
        );
    }
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await,
        Err(Kind::Unavailable)
    );
}

#[tokio::test(start_paused = true)]
async fn the_simplified_answer_comes_last_and_is_never_stored() {
    let model = Model::default();
    let store = memory();
    let mut config = config();
    config.simplified = Some(SimplifiedAnswer::new(
        "Sorry: {outcome}, try in {retry_after}.",
    ));
    let stack = stack(config, store, &model);
    model.fail_with(Kind::Overloaded);
    for _ in 0..2 {
        let answer = call(&stack, Ask::new("a", "hi")).await.unwrap();
        assert_eq!(answer, "Sorry: overloaded, try in a while.");
    }
    model.fail_with(Kind::Success);
    call(&stack, Ask::new("a", "hi")).await.unwrap();
    model.fail_with(Kind::Malformed);
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await.unwrap(),
        "a says hi [0s old]"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_spares_the_model_only_when_asked_for() {
    let model = Model::default();
    let mut fresh = config();
    fresh.fresh_for = Duration::from_secs(10);
    let stack = stack(fresh, memory(), &model);
    call(&stack, Ask::new("a", "hi")).await.unwrap();
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await.unwrap(),
        "a says hi [0s old]"
    );
    assert_eq!(model.asked.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        call(&stack, Ask::new("a", "hi")).await.unwrap(),
        "a says hi"
    );
    assert_eq!(model.asked.load(Ordering::SeqCst), 2);
}

/// A store that never answers.
#[derive(Clone)]
struct Hung;

impl Store for Hung {
    async fn get(&self, _: &Key) -> Option<Entry> {
        std::future::pending().await
    }

    async fn put(&self, _: Key, _: Entry) {
        std::future::pending::<()>().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_store_costs_fifty_milliseconds_and_no_call() {
    let model = Model::default();
    let mut config = config();
    config.max_writes = 2;
    let stack = stack(config, Hung, &model);
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(
            stack.clone().oneshot(Ask::new("a", "hi")).await.unwrap(),
            "a says hi"
        );
        assert_eq!(Instant::now() - start, Duration::from_millis(100));
    }
    model.fail_with(Kind::Unavailable);
    let start = Instant::now();
    assert!(stack.clone().oneshot(Ask::new("a", "hi")).await.is_err());
    assert_eq!(Instant::now() - start, Duration::from_millis(150));
}

#[tokio::test(start_paused = true)]
async fn identical_calls_of_one_tenant_share_one_call_when_asked_to() {
    let model = Model::default();
    let mut shared = config();
    shared.coalesce = true;
    let stack = stack(shared, memory(), &model);
    let calls = (0..100).map(|call| {
        let tenant = if call % 2 == 0 { "a" } else { "b" };
        stack.clone().oneshot(Ask::new(tenant, "hi"))
    });
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(model.asked.load(Ordering::SeqCst), 2);
    for (call, answer) in answers.into_iter().enumerate() {
        let tenant = if call % 2 == 0 { "a" } else { "b" };
        assert!(answer.unwrap().starts_with(&format!("{tenant} says hi")));
    }
    // A later call is a new one.
    call(&stack, Ask::new("a", "hi")).await.unwrap();
    assert_eq!(model.asked.load(Ordering::SeqCst), 3);
    // Whoever wants no kept answer wants no other call's either.
    let mut unshared = Ask::new("a", "hi");
    unshared.no_cache = true;
    let both = [Ask::new("a", "hi"), unshared].map(|ask| stack.clone().oneshot(ask));
    for answer in futures_util::future::join_all(both).await {
        assert_eq!(answer.unwrap(), "a says hi");
    }
    assert_eq!(model.asked.load(Ordering::SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn when_the_one_who_asks_goes_away_the_next_asks() {
    let model = Model::default();
    let mut shared = config();
    shared.coalesce = true;
    let stack = stack(shared, memory(), &model);
    let mut first = tokio_test::task::spawn(stack.clone().oneshot(Ask::new("a", "hi")));
    let mut second = tokio_test::task::spawn(stack.clone().oneshot(Ask::new("a", "hi")));
    assert!(first.poll().is_pending());
    assert!(second.poll().is_pending());
    assert_eq!(model.asked.load(Ordering::SeqCst), 1);
    drop(first);
    assert_eq!(second.await.unwrap(), "a says hi");
    assert_eq!(model.asked.load(Ordering::SeqCst), 2);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let mut broken = config();
    broken.lookup_timeout = Duration::ZERO;
    let result = CachedFallbackLayer::new(
        broken,
        memory(),
        KeySecret::from_passphrase("test"),
        [],
        |_: &Arc<Ask>| None::<Tenant>,
        Words,
        ClassifyErrors,
    );
    assert!(result.unwrap_err().to_string().contains("lookup_timeout"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever tenants ask in whatever order, nobody gets what another tenant's model said.
    #[test]
    fn no_tenant_gets_anothers_answer(
        calls in prop::collection::vec((0..20_u8, 0..5_u8, any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let model = Model::default();
            let stack = stack(config(), memory(), &model);
            let mut known = std::collections::HashSet::new();
            for (tenant, prompt, fails) in calls {
                let ask = Ask::new(&format!("t{tenant}"), &format!("p{prompt}"));
                model.fail_with(if fails { Kind::Unavailable } else { Kind::Success });
                let answer = call(&stack, ask.clone()).await;
                let expected = format!("{} says {}", ask.tenant, ask.prompt);
                match answer {
                    Ok(answer) if fails => {
                        assert!(known.contains(&ask));
                        assert!(answer.starts_with(&expected));
                    }
                    Ok(answer) => assert_eq!(answer, expected),
                    Err(_) => assert!(fails && !known.contains(&ask)),
                }
                if !fails {
                    known.insert(ask);
                }
            }
        });
    }
}
