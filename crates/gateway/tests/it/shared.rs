//! Two replicas that share what they know through Redis.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use backstop_testkit::model::{Model, Reply};
use tokio::time::{Instant, sleep};

use crate::support::{Gateway, KINDS, PATIENCE, config};

/// A redis-server of this test's own.
struct Redis {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test installs it)");
        let redis = Self {
            child,
            url: format!("redis://127.0.0.1:{port}"),
            _folder: folder,
        };
        let until = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            assert!(Instant::now() < until, "redis-server does not come up");
            sleep(Duration::from_millis(20)).await;
        }
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn replicas_share_limits_and_answers() {
    let redis = Redis::start().await;
    let kind = KINDS[1];
    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let config = format!(
        "[shared]\nredis_url_env = \"REDIS\"\n[cache]\nstore = \"redis\"\nredis_url_env = \
         \"REDIS\"\nsecret_env = \"SECRET\"\ntenant = \"everyone\"\non_limits = true\n{}cache = true\n",
        config(kind.word(), &primary.base_url(), &backup.base_url())
    );
    let env = [
        ("REDIS", &*redis.url),
        ("SECRET", "the same in all replicas"),
    ];
    let one = Gateway::start_with(&config, &env).await;
    let other = Gateway::start_with(&config, &env).await;
    assert_eq!(one.ask(kind).await.text(kind), primary.text());

    // What one was refused the other does not ask for.
    primary.always(Reply::status(429).header("retry-after", "30"));
    assert_eq!(one.ask(kind).await.text(kind), backup.text());
    sleep(Duration::from_secs(1)).await;
    let asked = primary.log().len();
    let answer = other.ask(kind).await;
    assert_eq!(answer.text(kind), backup.text());
    let trace = answer.header("x-backstop-trace");
    assert!(trace.starts_with("primary;skipped=throttled"), "{trace}");
    assert_eq!(primary.log().len(), asked);

    // What one was answered the other can give again.
    backup.always(Reply::status(503));
    let answer = other.ask(kind).await;
    assert_eq!(answer.header("x-backstop-mode"), "stale", "{answer:?}");
    assert_eq!(answer.text(kind), primary.text());

    // Without Redis each is on its own, and nobody waits.
    drop(redis);
    backup.always(Reply::healthy());
    // Its overload is remembered for a second.
    sleep(Duration::from_millis(1500)).await;
    let began = Instant::now();
    for gateway in [&one, &other] {
        assert_eq!(gateway.ask(kind).await.status, 200);
    }
    assert!(Instant::now().saturating_duration_since(began) < Duration::from_secs(2));
}
