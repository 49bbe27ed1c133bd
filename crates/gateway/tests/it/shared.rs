//! Two replicas that share what they know through Redis.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use backstop_testkit::model::{Exchange, Model, Reply};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{Gateway, KINDS, Kind, PATIENCE, config};

const KIND: Kind = KINDS[1];

/// A redis-server of this test's own.
struct Redis {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Self::spawn(port, folder.path()).await;
        Self {
            child,
            port,
            folder,
        }
    }

    async fn spawn(port: u16, folder: &std::path::Path) -> Child {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test installs it)");
        let up = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, up).await.expect("redis-server comes up");
        child
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.unwrap().success());
    }

    async fn restart(&mut self) {
        self.child = Self::spawn(self.port, self.folder.path()).await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two replicas in front of the same two models, around one Redis.
struct Fleet {
    redis: Redis,
    primary: Model,
    backup: Model,
    replicas: [Gateway; 2],
}

impl Fleet {
    /// Both replicas with what is said of the process and of the model.
    async fn start(top: &str, model_has: &str) -> Self {
        let redis = Redis::start().await;
        let primary = Model::start("primary").await.unwrap();
        let backup = Model::start("backup").await.unwrap();
        let config = config(KIND.word(), &primary.base_url(), &backup.base_url());
        let config = format!("[shared]\nredis_url_env = \"REDIS\"\n{top}\n{config}\n{model_has}\n");
        let url = format!("redis://127.0.0.1:{}", redis.port);
        let env = [("REDIS", &*url), ("SECRET", "the same in all replicas")];
        let replicas = [
            Gateway::start_with(&config, &env).await,
            Gateway::start_with(&config, &env).await,
        ];
        Self {
            redis,
            primary,
            backup,
            replicas,
        }
    }

    /// Asks both replicas every so often, for as long as it is polled. Every call is answered.
    async fn load(&self) {
        const EVERY: Duration = Duration::from_millis(50);
        let callers = self.replicas.iter().map(async |replica| {
            loop {
                assert_eq!(replica.ask(KIND).await.status, 200);
                sleep(EVERY).await;
            }
        });
        futures_util::future::join_all(callers).await;
    }

    /// How often the replicas said that Redis cannot be reached, or is again.
    async fn troubles(&mut self) -> usize {
        let mut troubles = 0;
        for replica in &mut self.replicas {
            troubles += about_redis(replica).await.len();
        }
        troubles
    }

    /// Waits until the primary's log is so, with callers at both replicas all the while.
    async fn under_load(&self, is_so: impl FnMut(&[Exchange]) -> bool) -> Vec<Exchange> {
        tokio::select! {
            () = self.load() => unreachable!("callers do not end"),
            log = timeout(PATIENCE, self.primary.log().wait_for(is_so)) => log.unwrap(),
        }
    }
}

/// What a replica has said about Redis.
async fn about_redis(replica: &mut Gateway) -> Vec<String> {
    let log = replica.logged("").await;
    let lines = log.lines().map(str::to_ascii_lowercase);
    lines.filter(|line| line.contains("redis")).collect()
}

const KEPT_IN_REDIS: &str = "[cache]\nstore = \"redis\"\nredis_url_env = \"REDIS\"\nsecret_env \
                             = \"SECRET\"\ntenant = \"everyone\"\non_limits = true\n";

#[tokio::test]
async fn what_one_replica_was_answered_the_other_gives_again() {
    let mut fleet = Fleet::start(KEPT_IN_REDIS, "cache = true").await;
    fleet.backup.always(Reply::status(503));
    // A busy machine may be too slow for Redis to be waited for; then nothing is kept or found.
    let given_again = async {
        let [one, other] = &fleet.replicas;
        loop {
            fleet.primary.always(Reply::healthy());
            assert_eq!(one.ask(KIND).await.text(KIND), fleet.primary.text());
            // It is kept after its end, off the caller's path.
            sleep(Duration::from_millis(200)).await;
            fleet.primary.always(Reply::status(503));
            let answer = other.ask(KIND).await;
            if answer.header("x-backstop-mode") == "stale" {
                return answer;
            }
        }
    };
    let answer = timeout(PATIENCE, given_again).await.expect("it is kept");
    assert_eq!(answer.text(KIND), fleet.primary.text());

    // Without Redis each is on its own, and nobody waits.
    fleet.redis.kill();
    fleet.backup.always(Reply::healthy());
    // Its overload is remembered for a second.
    sleep(Duration::from_millis(1500)).await;
    let began = Instant::now();
    for gateway in &fleet.replicas {
        assert_eq!(gateway.ask(KIND).await.status, 200);
    }
    assert!(Instant::now().saturating_duration_since(began) < Duration::from_secs(2));
}

#[tokio::test]
async fn what_limits_one_replica_limits_the_other_for_as_long() {
    const WAIT: Duration = Duration::from_secs(3);
    let fleet = Fleet::start("", "").await;
    let [one, other] = &fleet.replicas;
    assert_eq!(other.ask(KIND).await.text(KIND), fleet.primary.text());
    let seconds = WAIT.as_secs().to_string();
    fleet
        .primary
        .push(Reply::status(429).header("retry-after", &seconds));
    assert_eq!(one.ask(KIND).await.text(KIND), fleet.backup.text());
    let refused = fleet.primary.log().last().unwrap().ended.unwrap().1;

    // A second is what it may take to get about.
    sleep(Duration::from_secs(1)).await;
    let answer = other.ask(KIND).await;
    assert_eq!(answer.text(KIND), fleet.backup.text());
    let trace = answer.header("x-backstop-trace");
    assert!(trace.starts_with("primary;skipped=throttled"), "{trace}");

    // The refused request came third, and the next one when the time was over: both clocks are
    // rounded to milliseconds.
    let log = fleet.under_load(|log| log.len() > 2).await;
    let after = log[2].received_at - refused;
    assert!(after + Duration::from_millis(5) >= WAIT, "{after:?}");
}

#[tokio::test]
async fn one_probe_at_a_time_is_sent_by_both_replicas_together() {
    const INTERVAL: Duration = Duration::from_secs(1);
    const PROBES: usize = 4;
    let health = "[health]\nconsecutive_faults = 3\nejection_base = \"1s\"\nprobe_interval = \
                  \"1s\"\nsuccesses_to_return = 1\nramp_start = 1.0\n";
    let mut fleet = Fleet::start(health, "").await;
    // Long enough for two to be seen at once, were there two.
    let failing = Reply::status(500).head_after(Duration::from_millis(300));
    fleet.primary.always(failing);
    let skipped = async |replica: &Gateway| {
        let answer = replica.ask(KIND).await;
        answer
            .header("x-backstop-trace")
            .starts_with("primary;skipped=faulting")
    };
    let benched = async {
        for replica in &fleet.replicas {
            while !skipped(replica).await {}
        }
    };
    timeout(PATIENCE, benched).await.expect("both stay away");
    // What was under way when the first of them gave up is over, and the rest are probes.
    sleep(INTERVAL / 2).await;
    let all_over = |log: &[Exchange]| log.iter().all(|one| one.ended.is_some());
    timeout(PATIENCE, fleet.primary.log().wait_for(all_over))
        .await
        .unwrap();
    let mut tries = 0;
    let (probes, took) = loop {
        let troubles = fleet.troubles().await;
        fleet.primary.log().clear();
        let began = Instant::now();
        let probes = fleet
            .under_load(|log| log.iter().filter(|one| one.ended.is_some()).count() >= PROBES)
            .await;
        // While Redis is too slow for a busy machine, each replica probes for itself.
        if fleet.troubles().await == troubles {
            break (probes, began.elapsed());
        }
        tries += 1;
        assert!(tries < 10, "the machine is too busy for Redis");
    };
    for pair in probes.windows(2) {
        let (_, ended) = pair[0].ended.expect("one at a time");
        let quiet = pair[1].received_at.saturating_duration_since(ended);
        // It is counted from when the gateway has read the refusal, in milliseconds.
        assert!(quiet + Duration::from_millis(5) >= INTERVAL, "{quiet:?}");
    }
    // Neither forgets to probe: a wait is prolonged by a tenth, and a lease may change hands.
    let intervals = u32::try_from(PROBES).unwrap();
    assert!(took < INTERVAL * intervals * 3, "{took:?}");

    // Each sees for itself that the primary is well again.
    fleet.primary.always(Reply::healthy());
    for replica in &fleet.replicas {
        let returned = async {
            while replica.ask(KIND).await.header("x-backstop-mode") != "primary" {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, returned).await.expect("it is back");
    }
    fleet.backup.log().clear();
    for replica in &fleet.replicas {
        for _ in 0..10 {
            assert_eq!(replica.ask(KIND).await.text(KIND), fleet.primary.text());
        }
    }
    assert!(fleet.backup.log().is_empty());
}

#[tokio::test]
async fn a_redis_that_goes_away_or_hangs_is_said_once_and_costs_no_call() {
    let mut fleet = Fleet::start(KEPT_IN_REDIS, "cache = true").await;
    // With callers before, while and after it is away; the background task tries all the while.
    let load = async |fleet: &Fleet, time| timeout(time, fleet.load()).await.unwrap_err();
    for (round, hangs) in [(1, false), (2, true), (3, false)] {
        load(&fleet, Duration::from_millis(300)).await;
        if hangs {
            fleet.redis.signal("-STOP");
        } else {
            fleet.redis.kill();
        }
        load(&fleet, Duration::from_secs(2)).await;
        if hangs {
            fleet.redis.signal("-CONT");
        } else {
            fleet.redis.restart().await;
        }
        load(&fleet, Duration::from_millis(500)).await;
        for replica in &mut fleet.replicas {
            let both = async {
                let mut lines = about_redis(replica).await;
                while lines.len() < 2 * round || !lines.len().is_multiple_of(2) {
                    sleep(Duration::from_millis(20)).await;
                    lines = about_redis(replica).await;
                }
            };
            timeout(PATIENCE, both).await.expect("it is reached again");
        }
    }
    for replica in &mut fleet.replicas {
        // A busy machine may make a Redis slow that is well: two lines more, and in turn.
        let said = about_redis(replica).await;
        for (place, line) in said.iter().enumerate() {
            let part = ["cannot be reached", "is reached again"][place % 2];
            assert!(line.contains(part), "{said:#?}");
        }
    }
}
