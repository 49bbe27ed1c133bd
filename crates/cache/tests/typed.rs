//! The layer around a typed service: what is kept, for whom and how long.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_types,
    reason = "a test fails by panicking, and its lock is never held across an await"
)]

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
    BoxError, ClassifyErrors, Directives, Event, Failure, Kind, Observer, Outcome, Recorder,
    Replayed, Simplified, Typed,
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
    stale_if_error: Option<Duration>,
    /// As a stream would, it shares no call.
    alone: bool,
}

impl Ask {
    fn new(tenant: &str, prompt: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            prompt: prompt.to_owned(),
            no_store: false,
            no_cache: false,
            stale_if_error: None,
            alone: false,
        }
    }
}

#[derive(Clone, Copy)]
struct Words;

impl Recorder<Arc<Ask>, String> for Words {
    type Call = Arc<Ask>;
    type Recording = String;

    fn on_request(&self, request: &Arc<Ask>) -> Option<Arc<Ask>> {
        Some(Arc::clone(request))
    }

    fn directives(&self, ask: &Arc<Ask>) -> Directives {
        let mut directives = Directives::default();
        directives.no_store = ask.no_store;
        directives.no_cache = ask.no_cache;
        directives.stale_if_error = ask.stale_if_error;
        directives
    }

    fn may_share(&self, ask: &Arc<Ask>) -> bool {
        !ask.alone
    }

    fn identity(&self, request: &Arc<Ask>) -> Option<Vec<u8>> {
        Some(request.prompt.clone().into_bytes())
    }

    fn on_response(&self, _: &Arc<Ask>, head: &String) -> Result<String, &'static str> {
        Ok(head.clone())
    }

    fn record(&self, recording: &String, _: &[u8]) -> Result<Bytes, &'static str> {
        if recording.ends_with("...") {
            Err("cut short")
        } else {
            Ok(recording.clone().into())
        }
    }

    fn replay(&self, _: &Arc<Ask>, record: &[u8], replay: Replayed) -> Option<(String, Bytes)> {
        let text = String::from_utf8(record.to_vec()).ok()?;
        Some((
            format!("{text} [{}s old]", replay.age.as_secs()),
            Bytes::new(),
        ))
    }

    fn simplified(&self, _: &Arc<Ask>, text: &Simplified<'_>) -> (String, Bytes) {
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

/// RFC 5861 section 4: the shorter of what the operator and the caller allow.
#[tokio::test(start_paused = true)]
async fn what_the_request_says_bounds_what_it_is_given() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (only_on_request, asked, no_cache, age, is_served) in [
        (false, None, false, 600, true),
        (false, None, true, 1, false),
        (false, seconds(10), false, 10, true),
        (false, seconds(10), false, 11, false),
        (false, seconds(10_000), false, 600, true),
        (false, seconds(10_000), false, 601, false),
        (true, None, false, 1, false),
        (true, seconds(10), false, 10, true),
        (true, seconds(10), true, 1, false),
    ] {
        let model = Model::default();
        let mut config = config();
        config.only_on_request = only_on_request;
        let stack = stack(config, memory(), &model);
        call(&stack, Ask::new("a", "hi")).await.unwrap();
        model.fail_with(Kind::Unavailable);
        // The model takes a tenth of a second to fail.
        tokio::time::sleep(Duration::from_millis(age * 1000 - 101)).await;
        let ask = Ask {
            stale_if_error: asked,
            no_cache,
            ..Ask::new("a", "hi")
        };
        let answer = call(&stack, ask).await;
        assert_eq!(
            answer.is_ok(),
            is_served,
            "{only_on_request} {asked:?} {no_cache} {age}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_answer_is_not_given_to_who_wants_a_new_one() {
    let model = Model::default();
    let mut fresh = config();
    fresh.fresh_for = Duration::from_secs(10);
    let stack = stack(fresh, memory(), &model);
    for asked in 1..3 {
        let ask = Ask {
            no_cache: true,
            ..Ask::new("a", "hi")
        };
        assert_eq!(call(&stack, ask).await.unwrap(), "a says hi");
        assert_eq!(model.asked.load(Ordering::SeqCst), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_is_shared_only_if_both_may_and_what_fails_holds_nobody_up() {
    let model = Model::default();
    let mut shared = config();
    shared.coalesce = true;
    let stack = stack(shared, memory(), &model);
    let no_store = Ask {
        no_store: true,
        ..Ask::new("a", "hi")
    };
    let alone = Ask {
        alone: true,
        ..Ask::new("a", "hi")
    };
    for ask in [no_store, alone] {
        model.asked.store(0, Ordering::SeqCst);
        let start = Instant::now();
        let asks = [Ask::new("a", "hi"), ask.clone(), ask.clone()];
        let calls = asks.map(|ask| stack.clone().oneshot(ask));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.unwrap(), "a says hi");
        }
        assert_eq!(model.asked.load(Ordering::SeqCst), 3, "{ask:?}");
        assert_eq!(Instant::now() - start, Duration::from_millis(100));
    }
    // An answer that is not kept is not shared, nor is a failure; who waited asks at once.
    for (prompt, kind) in [("hm...", Kind::Success), ("no", Kind::Unavailable)] {
        model.fail_with(kind);
        model.asked.store(0, Ordering::SeqCst);
        let start = Instant::now();
        let calls = (0..5).map(|_| stack.clone().oneshot(Ask::new("a", prompt)));
        futures_util::future::join_all(calls).await;
        assert_eq!(model.asked.load(Ordering::SeqCst), 5, "{prompt}");
        assert_eq!(
            Instant::now() - start,
            Duration::from_millis(200),
            "{prompt}"
        );
    }
}

/// A store that counts what it is asked to keep and takes long over it, as one on a slow disk would.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<AtomicU32>,
    done: Arc<AtomicU32>,
}

impl Store for Slow {
    async fn get(&self, _: &Key) -> Option<Entry> {
        None
    }

    async fn put(&self, _: Key, _: Entry) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(10)).await;
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn writes_to_a_slow_store_are_given_up_not_queued() {
    let model = Model::default();
    let store = Slow::default();
    let mut config = config();
    config.max_writes = 2;
    let stack = stack(config, store.clone(), &model);
    // Ten at once: two are tried, and given up after a second. Then there is room again.
    for begun in [2, 4] {
        let calls = (0..10).map(|_| stack.clone().oneshot(Ask::new("a", "hi")));
        futures_util::future::join_all(calls).await;
        tokio::time::sleep(Duration::from_millis(1_001)).await;
        assert_eq!(store.begun.load(Ordering::SeqCst), begun);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.done.load(Ordering::SeqCst), 0);
}

/// A store with one answer, of a time that another replica's clock says.
#[derive(Clone)]
struct Foreign(u64);

impl Store for Foreign {
    async fn get(&self, _: &Key) -> Option<Entry> {
        Some(Entry::new(self.0, Bytes::from_static(b"hi")))
    }

    async fn put(&self, _: Key, _: Entry) {}
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_the_future_is_new_and_one_from_long_ago_is_too_old() {
    let model = Model::default();
    model.fail_with(Kind::Unavailable);
    let stack_at = |stored_at| stack(config(), Foreign(stored_at), &model);
    let answer = call(&stack_at(u64::MAX), Ask::new("a", "hi")).await;
    assert_eq!(answer.unwrap(), "hi [0s old]");
    let answer = call(&stack_at(0), Ask::new("a", "hi")).await;
    assert_eq!(answer, Err(Kind::Unavailable));
}

/// Notes what was decided.
#[derive(Clone, Default)]
struct Notes(Arc<std::sync::Mutex<Vec<String>>>);

impl Observer for Notes {
    fn on_event(&self, event: &Event<'_>) {
        let note = match event {
            Event::FallbackServed { mode, age } => format!("{mode} {}", age.as_secs()),
            Event::StoreDecided { decision } => (*decision).to_owned(),
            _ => return,
        };
        self.0.lock().unwrap().push(note);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_is_told() {
    let model = Model::default();
    let notes = Notes::default();
    let mut config = config();
    config.fresh_for = Duration::from_secs(5);
    config.simplified = Some(SimplifiedAnswer::new("Sorry."));
    let stack = CachedFallbackLayer::new(
        config,
        memory(),
        KeySecret::from_passphrase("test"),
        [ProducedBy::new("", "model")],
        |ask: &Arc<Ask>| Some(Tenant::new(ask.tenant.as_bytes())),
        Words,
        ClassifyErrors,
    )
    .unwrap()
    .observer(notes.clone())
    .protocol::<Typed>()
    .layer(model.service());
    let no_store = Ask {
        no_store: true,
        ..Ask::new("a", "ho")
    };
    for ask in [no_store, Ask::new("a", "hm..."), Ask::new("a", "hi")] {
        call(&stack, ask).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    call(&stack, Ask::new("a", "hi")).await.unwrap();
    model.fail_with(Kind::Unavailable);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for prompt in ["hi", "ho"] {
        call(&stack, Ask::new("a", prompt)).await.unwrap();
    }
    let noted = notes.0.lock().unwrap().clone();
    assert_eq!(
        noted,
        [
            "no-store",
            "cut short",
            "stored",
            "cached 3",
            "stale 6",
            "simplified 0"
        ]
    );
}

#[test]
fn settings_that_cannot_work_are_named() {
    type Set = fn(&mut CacheConfig, Duration);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let broken: [(&str, Set); 7] = [
        ("lookup_timeout", |config, _| {
            config.lookup_timeout = Duration::ZERO;
        }),
        ("write_timeout", |config, _| {
            config.write_timeout = Duration::ZERO;
        }),
        ("max_answer", |config, _| config.max_answer = 0),
        ("max_request", |config, _| config.max_request = 0),
        ("max_writes", |config, _| config.max_writes = 0),
        ("stale_if_error", |config, time| {
            config.stale_if_error = time;
        }),
        ("fresh_for", |config, time| config.fresh_for = time),
    ];
    let built = |config| {
        CachedFallbackLayer::new(
            config,
            memory(),
            KeySecret::from_passphrase("test"),
            [],
            |_: &Arc<Ask>| None::<Tenant>,
            Words,
            ClassifyErrors,
        )
        .map(drop)
    };
    for (name, set) in broken {
        let mut config = config();
        set(&mut config, year + Duration::from_nanos(1));
        let error = built(config).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    let mut most = config();
    most.stale_if_error = year;
    most.fresh_for = year;
    assert_eq!(built(most), Ok(()));
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
