//! Against a real redis-server, which is killed, stopped, flushed, filled up and replaced by garbage
//! while calls go on.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "tasks end with the runtime of their test"
)]

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use backstop_cache::{Entry, Key, KeySecret, ProducedBy, Store, Tenant};
use backstop_core::{HintSource, Kind, Outcome, Scope};
use backstop_failover::health::{Health, HealthConfig, Permit, ProbeGate, State};
use backstop_redis::{
    ProbeLease, REDIS_TIMEOUT, RedisLink, RedisStore, SharedHealth, SharedHealthTask,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

/// A redis-server of this test's own.
struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    server: Child,
}

impl Redis {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(options: &[&str]) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().unwrap();
        let server = Self::spawn(port, folder.path(), options);
        let redis = Self {
            port,
            folder,
            server,
        };
        redis.wait().await;
        redis
    }

    fn spawn(port: u16, folder: &std::path::Path, options: &[&str]) -> Child {
        Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .arg("--dir")
            .arg(folder)
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test installs it)")
    }

    async fn wait(&self) {
        until("redis listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
        })
        .await;
    }

    async fn restart(&mut self) {
        self.server = Self::spawn(self.port, self.folder.path(), &[]);
        self.wait().await;
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn link(&self) -> RedisLink {
        RedisLink::open(&self.url()).unwrap()
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.server.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn command(&self, words: &[&str]) {
        let mut connection = redis::Client::open(self.url())
            .unwrap()
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        let _: redis::Value = command.query_async(&mut connection).await.unwrap();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Waits for something that must come to pass; the bound only ends a test that hangs.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2_000 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("never came to pass: {what}");
}

fn key(identity: &str) -> Key {
    Key::new(
        &KeySecret::from_passphrase("test"),
        &Tenant::new(b"tenant"),
        &ProducedBy::new("a", "m"),
        identity.as_bytes(),
    )
}

fn entry(text: &str) -> Entry {
    Entry::new(1, Bytes::from(text.to_owned()))
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_answer_is_kept_until_its_time_is_over_and_by_the_server() {
    let redis = Redis::start().await;
    let store = RedisStore::new(redis.link(), HOUR);
    let long = "all work and no play ".repeat(1000);
    assert_eq!(store.get(&key("a")).await, None);
    let other = RedisStore::new(redis.link(), HOUR);
    // On a busy machine even a healthy server may once be too slow, which is a miss.
    until("both are kept", async || {
        store.put(key("a"), entry("short")).await;
        store.put(key("b"), entry(&long)).await;
        other.get(&key("a")).await == Some(entry("short"))
            && other.get(&key("b")).await == Some(entry(&long))
    })
    .await;
    let brief = RedisStore::new(redis.link(), Duration::from_millis(50));
    brief.put(key("c"), entry("brief")).await;
    until("the server forgets", async || {
        store.get(&key("c")).await.is_none()
    })
    .await;
}

/// How many callers there are at once.
const WORKERS: usize = 8;

/// Calls that look up and keep answers all the time, and what they met.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    calls: AtomicUsize,
    slow: AtomicUsize,
}

impl Load {
    fn start(store: &RedisStore) -> Arc<Self> {
        let load = Arc::new(Self::default());
        for worker in 0..WORKERS {
            let (load, store) = (Arc::clone(&load), store.clone());
            tokio::spawn(async move {
                while !load.stop.load(Ordering::SeqCst) {
                    let start = Instant::now();
                    let key = key(&format!("k{}", worker % 4));
                    if store.get(&key).await.is_none() {
                        store.put(key, entry("answer")).await;
                    }
                    load.calls.fetch_add(1, Ordering::SeqCst);
                    // One wait for the look-up; what then is kept finds Redis down already.
                    if Instant::now() - start >= REDIS_TIMEOUT {
                        load.slow.fetch_add(1, Ordering::SeqCst);
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        load
    }

    async fn some_calls(&self) {
        let before = self.calls.load(Ordering::SeqCst);
        until("calls go on", async || {
            self.calls.load(Ordering::SeqCst) > before + 200
        })
        .await;
    }
}

/// Trouble costs each caller under way one wait at most, and nobody anything after that; then Redis
/// is used again without a restart.
async fn survives(link: &RedisLink, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
    let store = RedisStore::new(link.clone(), HOUR);
    until("redis is used", async || {
        store.put(key("before"), entry("answer")).await;
        store.get(&key("before")).await.is_some()
    })
    .await;
    let load = Load::start(&store);
    load.some_calls().await;
    load.slow.store(0, Ordering::SeqCst);
    begin().await;
    until("the trouble is noticed", async || !link.is_up()).await;
    // Whoever was waiting when it was noticed.
    sleep(REDIS_TIMEOUT * 2).await;
    assert!(
        load.slow.load(Ordering::SeqCst) <= WORKERS,
        "a caller waited twice"
    );
    load.slow.store(0, Ordering::SeqCst);
    load.some_calls().await;
    assert_eq!(
        load.slow.load(Ordering::SeqCst),
        0,
        "a caller waited for a redis known to be down"
    );
    end().await;
    until("redis is used again", async || {
        store.put(key("after"), entry("answer")).await;
        store.get(&key("after")).await.is_some()
    })
    .await;
    load.stop.store(true, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_a_server_that_is_killed() {
    let redis = tokio::sync::Mutex::new(Redis::start().await);
    let link = redis.lock().await.link();
    survives(
        &link,
        async || redis.lock().await.kill(),
        async || redis.lock().await.restart().await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_a_server_that_hangs() {
    let redis = Redis::start().await;
    let link = redis.link();
    survives(
        &link,
        async || redis.signal("-STOP"),
        async || redis.signal("-CONT"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_flushed_is_only_empty() {
    let redis = Redis::start().await;
    let link = redis.link();
    let store = RedisStore::new(link.clone(), HOUR);
    store.put(key("a"), entry("answer")).await;
    let load = Load::start(&store);
    load.some_calls().await;
    redis.command(&["FLUSHALL"]).await;
    assert_eq!(store.get(&key("a")).await, None);
    load.some_calls().await;
    until("it is filled again", async || {
        store.put(key("a"), entry("answer")).await;
        store.get(&key("a")).await.is_some()
    })
    .await;
    load.stop.store(true, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_still_gives_what_it_has() {
    let redis =
        Redis::start_with(&["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]).await;
    let link = redis.link();
    let store = RedisStore::new(link.clone(), HOUR);
    store.put(key("first"), entry("answer")).await;
    let load = Load::start(&store);
    load.some_calls().await;
    // Text that does not compress.
    let text: String = (0..100_000).map(|_| fastrand::alphanumeric()).collect();
    for number in 0..100 {
        store.put(key(&format!("n{number}")), entry(&text)).await;
    }
    assert_eq!(
        store.get(&key("n99")).await,
        None,
        "the server was not full"
    );
    load.some_calls().await;
    assert!(store.get(&key("first")).await.is_some());
    assert!(link.is_up());
    redis
        .command(&["CONFIG", "SET", "maxmemory", "100mb"])
        .await;
    store.put(key("n99"), entry(&text)).await;
    assert!(store.get(&key("n99")).await.is_some());
    load.stop.store(true, Ordering::SeqCst);
}

/// Something on Redis's port that answers whatever it is asked with what is no answer.
struct Garbage {
    tasks: tokio::task::JoinSet<()>,
}

impl Garbage {
    async fn start(port: u16) -> Self {
        let listener = loop {
            // The port is free once the kernel has let go of the server.
            match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut request = [0; 1024];
                    while socket.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n\x00\xff";
                        if socket.write_all(garbage).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { tasks }
    }

    async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_garbage_in_the_servers_place() {
    let redis = tokio::sync::Mutex::new(Redis::start().await);
    let garbage = tokio::sync::Mutex::new(None);
    let link = redis.lock().await.link();
    survives(
        &link,
        async || {
            let mut redis = redis.lock().await;
            redis.kill();
            *garbage.lock().await = Some(Garbage::start(redis.port).await);
        },
        async || {
            if let Some(garbage) = garbage.lock().await.take() {
                garbage.stop().await;
            }
            redis.lock().await.restart().await;
        },
    )
    .await;
}

#[test]
fn an_address_that_is_none_is_refused_without_showing_it() {
    let error = RedisLink::open("http://user:secret@host")
        .unwrap_err()
        .to_string();
    assert!(error.contains("redis://") && !error.contains("secret"));
}

/// What one of several replicas has.
struct Replica {
    health: Health,
    lease: ProbeLease,
    link: RedisLink,
    task: Option<SharedHealthTask>,
}

impl Replica {
    fn start(redis: &Redis) -> Self {
        Self::start_on(redis.link())
    }

    fn start_on(link: RedisLink) -> Self {
        let lease = ProbeLease::new();
        let config = HealthConfig::default()
            .consecutive_faults(3)
            .ejection_base(Duration::from_millis(500))
            .jitter(0.0)
            .successes_to_return(1);
        let health = Health::builder(config)
            .probe_gate(lease.clone())
            .build()
            .unwrap();
        let task = SharedHealth::builder(link.clone(), "test")
            .target("primary", health.clone(), lease.clone())
            .start();
        Self {
            health,
            lease,
            link,
            task: Some(task),
        }
    }

    fn may_probe(&self) -> bool {
        self.lease.may_probe(Instant::now())
    }

    fn report(&self, outcome: &Outcome) {
        let now = Instant::now();
        self.health.try_acquire(now).unwrap().report(now, outcome);
    }

    fn state(&self) -> State {
        self.health.state(Instant::now())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_one_replica_meets_is_known_to_all() {
    let redis = Redis::start().await;
    let replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    let limited = Outcome::new(Kind::Throttled)
        .with_scope(Scope::Model)
        .with_retry_after(Duration::from_secs(30), HintSource::RetryAfter);
    let start = Instant::now();
    replicas[0].report(&limited);
    until("the other replica knows", async || {
        replicas[1].state() == State::Throttled
    })
    .await;
    let took = Instant::now() - start;
    assert!(took < Duration::from_secs(1), "took {took:?}");
    // Who starts later reads what is known.
    let late = Replica::start(&redis);
    until("a late replica knows", async || {
        late.state() == State::Throttled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_learnt_while_redis_is_away_is_told_when_it_is_back() {
    let mut redis = Redis::start().await;
    let replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    redis.kill();
    // The attempt to tell this is what finds out that Redis is gone.
    let limited =
        Outcome::new(Kind::Throttled).with_retry_after(Duration::from_secs(30), HintSource::Header);
    replicas[0].report(&limited);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(replicas[1].state(), State::Healthy);
    redis.restart().await;
    until("the other replica knows", async || {
        replicas[1].state() == State::Throttled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_at_a_time_probes() {
    let redis = Redis::start().await;
    let replicas: Vec<Replica> = (0..3).map(|_| Replica::start(&redis)).collect();
    sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        replicas[0].report(&Outcome::new(Kind::Unavailable));
    }
    for replica in &replicas {
        until("all replicas know", async || {
            matches!(replica.state(), State::Faulting | State::Probing)
        })
        .await;
    }
    // All callers of all replicas want the target; count the probes in flight.
    let mut most = 0;
    let mut healed = 0;
    for _ in 0..400 {
        let now = Instant::now();
        let probes: Vec<_> = replicas
            .iter()
            .filter_map(|replica| replica.health.try_acquire(now).ok())
            .collect();
        let in_flight = probes.iter().filter(|permit| permit.is_probe()).count();
        most = most.max(in_flight);
        for probe in probes {
            healed += usize::from(probe.is_probe());
            probe.report(now, &Outcome::success());
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(most, 1, "more than one probe at a time");
    assert!(
        healed >= 3,
        "each replica is back after a probe of its own, {healed} were sent"
    );
    for replica in &replicas {
        assert!(!matches!(replica.state(), State::Faulting | State::Probing));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_replica_probes_for_itself() {
    let mut redis = Redis::start().await;
    let replica = Replica::start(&redis);
    sleep(Duration::from_millis(300)).await;
    redis.kill();
    for _ in 0..3 {
        replica.report(&Outcome::new(Kind::Unavailable));
    }
    until("a probe is let through", async || {
        replica.health.try_acquire(Instant::now()).is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_server_refuses_is_told_again() {
    let redis = Redis::start().await;
    let replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let limited = Outcome::new(Kind::Throttled)
        .with_retry_after(Duration::from_secs(300), HintSource::Header);
    replicas[0].report(&limited);
    // It is said to those who listen, and kept for nobody.
    until("the other replica knows", async || {
        replicas[1].state() == State::Throttled
    })
    .await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let late = Replica::start(&redis);
    until("a late replica knows", async || {
        late.state() == State::Throttled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_no_longer_probes_for_itself() {
    let redis = Redis::start().await;
    let mut replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        replicas[0].report(&Outcome::new(Kind::Unavailable));
    }
    until("one of them may probe", async || {
        replicas[0].may_probe() != replicas[1].may_probe()
    })
    .await;
    let other = replicas.iter_mut().find(|replica| !replica.may_probe());
    let other = other.unwrap();
    drop(other.task.take());
    until("it is alone", async || other.may_probe()).await;
}

#[tokio::test]
async fn a_wrong_password_is_a_redis_that_is_not_there() {
    let redis = Redis::start_with(&["--requirepass", "right"]).await;
    for (password, is_right) in [("right", true), ("wrong", false)] {
        let url = format!("redis://:{password}@127.0.0.1:{}", redis.port);
        let link = RedisLink::open(&url).unwrap();
        let store = RedisStore::new(link.clone(), HOUR);
        until("it is found out", async || {
            store.put(key("a"), entry("answer")).await;
            let found = store.get(&key("a")).await.is_some();
            assert!(!found || is_right);
            found || !link.is_up() && !is_right
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_keeps_nobody_from_probing() {
    let redis = Redis::start().await;
    let replica = Replica::start(&redis);
    sleep(Duration::from_millis(300)).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..3 {
        replica.report(&Outcome::new(Kind::Unavailable));
    }
    until("a probe is let through", async || {
        replica.health.try_acquire(Instant::now()).is_ok()
    })
    .await;
}

/// A model takes its time, and a probe as long as any other call.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_takes_long_is_the_only_one_until_it_is_over() {
    for _ in 0..5 {
        if a_long_probe_is_alone().await {
            return;
        }
    }
    panic!("the machine is too busy for Redis");
}

async fn a_long_probe_is_alone() -> bool {
    let redis = Redis::start().await;
    let replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        replicas[0].report(&Outcome::new(Kind::Unavailable));
    }
    let probes = || {
        let now = Instant::now();
        let permits = replicas
            .iter()
            .map(|replica| replica.health.try_acquire(now));
        permits
            .filter_map(|permit| permit.ok().filter(Permit::is_probe))
            .collect::<Vec<_>>()
    };
    for replica in &replicas {
        until("both know", async || replica.state() == State::Probing).await;
    }
    let mut under_way = Vec::new();
    until("a probe is let through", async || {
        under_way = probes();
        !under_way.is_empty()
    })
    .await;
    if replicas.iter().any(|replica| !replica.link.is_up()) {
        return false;
    }
    assert_eq!(under_way.len(), 1);
    let began = Instant::now();
    while Instant::now() - began < Duration::from_secs(6) {
        let another = !probes().is_empty();
        // While Redis is too slow for a busy machine, each replica probes for itself.
        if replicas.iter().any(|replica| !replica.link.is_up()) {
            return false;
        }
        assert!(!another, "a second probe at the same time");
        sleep(Duration::from_millis(10)).await;
    }
    drop(under_way);
    until("the next probe is let through", async || {
        !probes().is_empty()
    })
    .await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_replica_that_died_goes_to_another() {
    let redis = Redis::start().await;
    let mut replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        replicas[0].report(&Outcome::new(Kind::Unavailable));
    }
    until("one of them may probe", async || {
        replicas[0].may_probe() != replicas[1].may_probe()
    })
    .await;
    let holder = usize::from(replicas[1].may_probe());
    // It does not say good-bye to Redis, and its probe is still under way.
    drop(replicas[holder].task.take());
    let other = &replicas[1 - holder];
    until("the other may probe", async || other.may_probe()).await;
}

/// Between a replica and Redis: what goes through it can be made to vanish without a word.
struct Wire {
    port: u16,
    vanishes: tokio::sync::watch::Sender<bool>,
}

impl Wire {
    async fn to(redis: &Redis) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), redis.port);
        let vanishes = tokio::sync::watch::Sender::new(false);
        let is_cut = vanishes.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut is_cut = is_cut.clone();
                tokio::spawn(async move {
                    let Ok(mut server) =
                        tokio::net::TcpStream::connect(("127.0.0.1", server)).await
                    else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = async { drop(is_cut.wait_for(|is_cut| *is_cut).await) } => {
                            // Neither side hears of the other, nor that it is gone.
                            std::future::pending::<()>().await;
                        }
                    }
                });
            }
        });
        Self { port, vanishes }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_hears_again_when_redis_is_reached() {
    let redis = Redis::start().await;
    let wire = Wire::to(&redis).await;
    let link = RedisLink::open(&format!("redis://127.0.0.1:{}", wire.port)).unwrap();
    let there = Replica::start(&redis);
    let here = Replica::start_on(link.clone());
    sleep(Duration::from_millis(500)).await;
    let limited = |scope, seconds| {
        Outcome::new(Kind::Throttled)
            .with_scope(scope)
            .with_retry_after(Duration::from_secs(seconds), HintSource::Header)
    };
    wire.vanishes.send_replace(true);
    here.report(&limited(Scope::Model, 1));
    until("it is noticed", async || !link.is_up()).await;
    wire.vanishes.send_replace(false);
    until("redis is reached", async || link.is_up()).await;
    sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    there.report(&limited(Scope::Account, 60));
    until("it is heard", async || here.state() == State::Throttled).await;
    let took = Instant::now() - start;
    assert!(took < Duration::from_secs(1), "took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_know_is_said_once() {
    let redis = Redis::start().await;
    let replicas = [Replica::start(&redis), Replica::start(&redis)];
    let mut heard = redis::Client::open(redis.url())
        .unwrap()
        .get_async_pubsub()
        .await
        .unwrap();
    heard.subscribe("backstop:{test}:health").await.unwrap();
    sleep(Duration::from_millis(500)).await;
    let limited =
        Outcome::new(Kind::Throttled).with_retry_after(Duration::from_secs(30), HintSource::Header);
    replicas[0].report(&limited);
    let messages = heard.into_on_message();
    let messages: Vec<_> = messages
        .take_until(sleep(Duration::from_secs(2)))
        .collect()
        .await;
    // A busy machine may not see in time that it was told, and tell it again; not ten times a second.
    assert!((1..5).contains(&messages.len()), "{}", messages.len());
    // Nothing of a request is in it.
    let message = messages[0].get_payload::<String>().unwrap();
    let words: Vec<_> = message.split(' ').collect();
    assert_eq!((words[1], words[3], words[4]), ("model", "1", "primary"));
    assert_eq!(replicas[1].state(), State::Throttled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_used_goes_around() {
    let redis = Redis::start().await;
    let replicas = [Replica::start(&redis), Replica::start(&redis)];
    sleep(Duration::from_millis(500)).await;
    for _ in 0..3 {
        replicas[0].report(&Outcome::new(Kind::Unavailable));
    }
    for replica in &replicas {
        until("both know", async || replica.state() == State::Probing).await;
    }
    // Nobody calls where the lease is: it must not stay there.
    for holder in [0, 1, 0, 1] {
        until("it is this one's turn", async || {
            replicas[holder].may_probe() && !replicas[1 - holder].may_probe()
        })
        .await;
    }
}
