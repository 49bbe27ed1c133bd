use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use tokio::{runtime::Handle, time::timeout};

/// How long a call waits for Redis, once: 40 ms. Redis on the same network answers in one; a call
/// that has to do without must not be slower for it than anybody notices beside a model, which is
/// 50 ms with what a busy machine adds.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(40);

/// How long the background task waits before it tries to reach Redis again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// A connection to Redis or Valkey that may be down. Clones share it.
#[derive(Clone)]
pub struct RedisLink {
    shared: Arc<Shared>,
}

/// The address of Redis cannot be used.
#[derive(Debug)]
pub struct OpenError {
    source: RedisError,
}

struct Shared {
    client: Client,
    manager: ArcSwap<ConnectionManager>,
    /// Whether Redis is asked at all.
    up: AtomicBool,
    /// Whether Redis has refused something since it was last reached.
    refused: AtomicBool,
}

impl RedisLink {
    /// A link to the server at `url` (`redis://[:password@]host:port[/db]`). It connects when it is
    /// first used.
    ///
    /// # Errors
    ///
    /// When the address is not one. The error does not show it: it may hold a password.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        let client = Client::open(url).map_err(|source| OpenError { source })?;
        let manager = connection(&client).map_err(|source| OpenError { source })?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                manager: ArcSwap::from_pointee(manager),
                up: AtomicBool::new(true),
                refused: AtomicBool::new(false),
            }),
        })
    }

    /// Whether Redis was reachable when it was last asked.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    /// Runs a command. `None` when Redis is down, slow, refuses or answers something else.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = ConnectionManager::clone(&self.shared.manager.load());
        self.ask(connection.req_packed_command(command)).await
    }

    /// Runs several commands in one exchange. `None` when one of them is refused, too.
    pub(crate) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Option<T> {
        let mut connection = ConnectionManager::clone(&self.shared.manager.load());
        self.ask(async {
            let answers = connection.req_packed_commands(commands, 0, commands.len());
            Value::Array(answers.await?).extract_error()
        })
        .await
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    async fn ask<T: FromRedisValue>(
        &self,
        question: impl Future<Output = RedisResult<Value>>,
    ) -> Option<T> {
        if !self.is_up() {
            return None;
        }
        match timeout(REDIS_TIMEOUT, question).await {
            Ok(Ok(answer)) => return T::from_redis_value(answer).ok(),
            Ok(Err(error)) if is_refusal(&error) => self.refused(&error),
            Ok(Err(error)) => self.down(kind_of(&error)),
            Err(_) => self.down("no answer in time"),
        }
        None
    }

    /// Redis is there and says no: full, read-only, still loading.
    fn refused(&self, error: &RedisError) {
        if !self.shared.refused.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                code = error.code().unwrap_or("unknown"),
                "redis refuses commands; answers are not shared until it takes them again"
            );
        }
    }

    fn down(&self, why: &str) {
        if !self.shared.up.swap(false, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(
            why,
            "redis cannot be reached; this replica goes on by itself"
        );
        // The task ends when Redis is reached, or when nobody has the link any more.
        match Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(watch(Arc::downgrade(&self.shared)));
            }
            Err(_) => self.shared.up.store(true, Ordering::Release),
        }
    }
}

/// A connection that is made when it is first used.
fn connection(client: &Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(Duration::from_secs(1)))
        .set_response_timeout(Some(Duration::from_secs(1)));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Waits until Redis answers again.
async fn watch(shared: Weak<Shared>) {
    let mut wait = RETRY_FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MOST);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        // A new connection: the old one may be up to something that is not Redis.
        let Ok(mut connection) = connection(&shared.client) else {
            continue;
        };
        let ping = redis::cmd("PING");
        let pong = timeout(
            Duration::from_secs(1),
            ping.query_async::<String>(&mut connection),
        );
        if matches!(pong.await, Ok(Ok(pong)) if pong == "PONG") {
            shared.manager.store(Arc::new(connection));
            shared.refused.store(false, Ordering::Release);
            shared.up.store(true, Ordering::Release);
            tracing::info!("redis is reached again");
            return;
        }
    }
}

/// Whether the server understood and said no, as opposed to not being there.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// The kind of an error in words; its text may hold parts of the command.
fn kind_of(error: &RedisError) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connection_refusal() {
        "connection refused"
    } else if error.is_io_error() {
        "connection lost"
    } else if error.kind() == ErrorKind::AuthenticationFailed {
        "the password is refused"
    } else {
        "an answer that is not redis"
    }
}

impl fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the address: it may hold a password.
        f.debug_struct("RedisLink")
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the address of redis cannot be used ({}); expected redis://[:password@]host:port[/db]",
            self.source.category()
        )
    }
}

impl std::error::Error for OpenError {}
