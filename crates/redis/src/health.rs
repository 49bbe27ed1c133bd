use std::{collections::HashMap, sync::Arc, time::Duration};

use backstop_core::Scope;
use backstop_failover::health::{Health, Remote, State};
use futures_util::StreamExt;
use redis::{RedisResult, aio::PubSubStream};
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{ProbeLease, RedisLink};

/// Tells other replicas of this one's target health, and this one of theirs.
///
/// The path of a request reads local memory only. A background task looks at the local health ten
/// times a second, writes what is new to Redis and publishes it, and applies what other replicas
/// publish. When it (re)connects, and every few seconds after, it reads all that is known, so that
/// a message lost is a matter of seconds.
///
/// What is shared is *until when* a target is throttled, per scope, and ejected. It is written with
/// that time as its time to live, by the server's clock: replicas need not agree on the time, and
/// nothing is left behind. Probing a faulting target takes a lease; see [`ProbeLease`].
///
/// All keys of a group carry the hash tag `{group}`, so that a cluster keeps them in one place.
#[derive(Clone, Copy, Debug)]
pub struct SharedHealth;

/// What is shared, and through which Redis.
#[derive(Debug)]
pub struct SharedHealthBuilder {
    link: RedisLink,
    group: String,
    targets: Vec<Target>,
}

/// The background task. Dropping it ends the sharing; every replica is then on its own.
#[derive(Debug)]
pub struct SharedHealthTask {
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Target {
    name: Arc<str>,
    health: Health,
    lease: ProbeLease,
    /// What all replicas are known to know.
    known: HashMap<Fact, Instant>,
    probing: Probing,
}

/// Something that a replica knows of a target until some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fact {
    Limited(Scope),
    Faulting,
}

/// Where this replica is with probing a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probing {
    /// There is nothing to probe.
    Idle,
    /// It holds the lease, and the probe has been due since then.
    Holds { due: Option<Instant> },
    /// It leaves the lease to others until then, because its own callers sent no probe.
    Yields { until: Instant },
}

/// How often the local health is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a subscription may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often everything is read again.
const RESYNC: Duration = Duration::from_secs(5);
/// How long a lease lasts unless it is renewed, which happens at every tick: long enough for a
/// replica that is slow, short enough for one that died.
const LEASE: Duration = Duration::from_secs(2);
/// How long a replica may hold the lease of a due probe without sending it, before others may. One
/// that is under way keeps the lease, however long it takes.
const HOLD: Duration = Duration::from_secs(2);
/// A difference between two times that is none: what rounding and travel make of one.
const SAME: Duration = Duration::from_millis(250);

const FACTS: [Fact; 5] = [
    Fact::Limited(Scope::Model),
    Fact::Limited(Scope::Credential),
    Fact::Limited(Scope::Account),
    Fact::Limited(Scope::Provider),
    Fact::Faulting,
];

impl SharedHealth {
    /// Shares among the replicas that use the same `group` on the same Redis.
    #[must_use]
    pub fn builder(link: RedisLink, group: impl Into<String>) -> SharedHealthBuilder {
        SharedHealthBuilder {
            link,
            group: group.into(),
            targets: Vec::new(),
        }
    }
}

impl SharedHealthBuilder {
    /// Shares the health of a target. `lease` is the one that its health was built with.
    #[must_use]
    pub fn target(mut self, name: impl Into<Arc<str>>, health: Health, lease: ProbeLease) -> Self {
        self.targets.push(Target {
            name: name.into(),
            health,
            lease,
            known: HashMap::new(),
            probing: Probing::Idle,
        });
        self
    }

    /// Starts the background task on the current runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(self) -> SharedHealthTask {
        let replica = Replica {
            id: format!("{:032x}", fastrand::u128(..)),
            link: self.link,
            group: self.group,
            targets: self.targets,
        };
        SharedHealthTask {
            task: Handle::current().spawn(replica.run()),
        }
    }
}

impl Drop for SharedHealthTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // When the task is over, and not before: it may be at work when it is told to end.
        self.lease.alone();
    }
}

struct Replica {
    id: String,
    link: RedisLink,
    group: String,
    targets: Vec<Target>,
}

impl Replica {
    async fn run(mut self) {
        loop {
            self.tick().await;
            if !self.link.is_up() {
                tokio::time::sleep(TICK).await;
                continue;
            }
            // Without a subscription nothing is heard; try for one at every turn.
            let Ok(Ok(mut messages)) = timeout(PATIENCE, self.subscribe()).await else {
                tokio::time::sleep(TICK).await;
                continue;
            };
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut resyncs = interval(RESYNC);
            resyncs.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    message = messages.next() => {
                        let Some(message) = message else { break };
                        self.hear(message.get_payload_bytes());
                    }
                    _ = ticks.tick() => {
                        self.tick().await;
                        // The subscription may be gone without a word: a network that was cut
                        // closes nothing.
                        if !self.link.is_up() { break }
                    }
                    _ = resyncs.tick() => self.resync().await,
                }
            }
        }
    }

    async fn subscribe(&self) -> RedisResult<PubSubStream> {
        let mut subscription = self.link.client().get_async_pubsub().await?;
        subscription.subscribe(self.channel()).await?;
        Ok(subscription.into_on_message())
    }

    /// Tells what is new here, and sees to the leases.
    async fn tick(&mut self) {
        if !self.link.is_up() {
            for target in &mut self.targets {
                target.lease.alone();
                target.probing = Probing::Idle;
            }
            return;
        }
        let now = Instant::now();
        for place in 0..self.targets.len() {
            self.tell(place, now).await;
            self.lease(place, now).await;
        }
    }

    async fn tell(&mut self, place: usize, now: Instant) {
        let target = &mut self.targets[place];
        let snapshot = target.health.snapshot(now);
        let limits = snapshot
            .limits
            .iter()
            .map(|(scope, limited)| (Fact::Limited(*scope), limited.until, limited.stated));
        let ejected = snapshot
            .ejected_until
            .map(|until| (Fact::Faulting, until, false));
        let mut news = Vec::new();
        for (fact, until, stated) in limits.chain(ejected) {
            let known = target.known.get(&fact).copied().unwrap_or(now);
            if until > now + SAME && until > known + SAME {
                news.push((fact, until, stated));
            }
        }
        for (fact, until, stated) in news {
            let left = (until - now).as_millis();
            let millis = u64::try_from(left).unwrap_or(u64::MAX).max(1);
            let stated = u8::from(stated);
            let name = &self.targets[place].name;
            let message = format!("{} {} {millis} {stated} {name}", self.id, fact.as_str());
            let mut commands = redis::pipe();
            commands
                .cmd("SET")
                .arg(self.key(fact.as_str(), name))
                .arg(stated)
                .arg("PX")
                .arg(millis);
            commands.cmd("PUBLISH").arg(self.channel()).arg(message);
            // What could not be told is still news at the next turn.
            if self.link.run_all::<redis::Value>(&commands).await.is_some() {
                self.targets[place].known.insert(fact, until);
            }
        }
    }

    /// Applies what another replica says: `id fact millis stated name`.
    fn hear(&mut self, message: &[u8]) {
        let Ok(message) = std::str::from_utf8(message) else {
            return;
        };
        let mut words = message.splitn(5, ' ');
        let (Some(id), Some(fact), Some(millis), Some(stated), Some(name)) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            return;
        };
        let (Some(fact), Ok(millis)) = (Fact::parse(fact), millis.parse()) else {
            return;
        };
        if id == self.id {
            return;
        }
        let target = self.targets.iter_mut().find(|target| &*target.name == name);
        if let Some(target) = target {
            target.learn(fact, Duration::from_millis(millis), stated == "1");
        }
    }

    /// Reads all that is known in Redis.
    async fn resync(&mut self) {
        let mut commands = redis::pipe();
        for target in &self.targets {
            for fact in FACTS {
                let key = self.key(fact.as_str(), &target.name);
                commands.cmd("PTTL").arg(&key).cmd("GET").arg(&key);
            }
        }
        if self.targets.is_empty() {
            return;
        }
        let Some(values) = self.link.run_all::<Vec<redis::Value>>(&commands).await else {
            return;
        };
        let mut pairs = values.chunks_exact(2);
        for target in &mut self.targets {
            for fact in FACTS {
                let Some([redis::Value::Int(left), stated]) = pairs.next() else {
                    return;
                };
                let stated = matches!(stated, redis::Value::BulkString(stated) if stated == b"1");
                if let Ok(left) = u64::try_from(*left) {
                    target.learn(fact, Duration::from_millis(left), stated);
                }
            }
        }
    }

    /// Takes, renews or returns the lease on probing a target.
    async fn lease(&mut self, place: usize, now: Instant) {
        let target = &self.targets[place];
        let state = target.health.state(now);
        let due = state == State::Probing && !target.health.is_probed();
        let holds = |is_held, since| match is_held {
            true => Probing::Holds { due: since },
            false => Probing::Idle,
        };
        // Nothing when Redis does not say: it is full, and takes no lease from anybody.
        let probing = match (target.probing, state) {
            (Probing::Yields { until }, State::Faulting | State::Probing) if now < until => return,
            (Probing::Holds { due: Some(since) }, _) if due && now > since + HOLD => {
                self.release(place).await;
                Some(Probing::Yields { until: now + HOLD })
            }
            (Probing::Holds { due: since }, State::Faulting | State::Probing) => {
                let since = due.then(|| since.unwrap_or(now));
                let renewed = self.renew(place).await;
                renewed.map(|renewed| holds(renewed, since))
            }
            (_, State::Faulting | State::Probing) => {
                let taken = self.take(place).await;
                taken.map(|taken| holds(taken, due.then_some(now)))
            }
            (Probing::Holds { .. }, _) => {
                self.release(place).await;
                Some(Probing::Idle)
            }
            _ => Some(Probing::Idle),
        };
        let target = &mut self.targets[place];
        target.probing = probing.unwrap_or(Probing::Idle);
        match probing {
            // Counted from before it was taken: it ends here before it ends in Redis.
            Some(Probing::Holds { .. }) => target.lease.hold(now + LEASE),
            Some(_) => target.lease.let_go(),
            None => target.lease.alone(),
        }
    }

    async fn take(&self, place: usize) -> Option<bool> {
        let mut set = redis::cmd("SET");
        set.arg(self.lease_key(place))
            .arg(&self.id)
            .arg("NX")
            .arg("PX")
            .arg(lease_millis());
        let set = self.link.run::<Option<String>>(&set).await?;
        Some(set.is_some())
    }

    async fn renew(&self, place: usize) -> Option<bool> {
        let script = "if redis.call('get', KEYS[1]) == ARGV[1] then \
                      return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end";
        let mut eval = redis::cmd("EVAL");
        eval.arg(script)
            .arg(1)
            .arg(self.lease_key(place))
            .arg(&self.id)
            .arg(lease_millis());
        let renewed = self.link.run::<i64>(&eval).await?;
        Some(renewed == 1)
    }

    async fn release(&self, place: usize) {
        let script = "if redis.call('get', KEYS[1]) == ARGV[1] then \
                      return redis.call('del', KEYS[1]) else return 0 end";
        let mut eval = redis::cmd("EVAL");
        eval.arg(script)
            .arg(1)
            .arg(self.lease_key(place))
            .arg(&self.id);
        let _: Option<i64> = self.link.run(&eval).await;
    }

    fn lease_key(&self, place: usize) -> String {
        self.key("probe", &self.targets[place].name)
    }

    fn key(&self, what: &str, target: &str) -> String {
        format!("backstop:{{{}}}:{what}:{target}", self.group)
    }

    fn channel(&self) -> String {
        format!("backstop:{{{}}}:health", self.group)
    }
}

fn lease_millis() -> u64 {
    u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX)
}

impl Target {
    fn learn(&mut self, fact: Fact, left: Duration, stated: bool) {
        let now = Instant::now();
        let Some(until) = now.checked_add(left) else {
            return;
        };
        if self
            .known
            .get(&fact)
            .is_some_and(|known| *known + SAME >= until)
        {
            return;
        }
        self.known.insert(fact, until);
        let remote = match fact {
            Fact::Limited(scope) => Remote::Throttled {
                scope,
                until,
                stated,
            },
            Fact::Faulting => Remote::Faulting { until },
        };
        self.health.apply(now, remote);
    }
}

impl Fact {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Limited(scope) => scope.as_str(),
            Self::Faulting => "faulting",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        FACTS.into_iter().find(|fact| fact.as_str() == word)
    }
}
