//! The HTTP server: accepting connections, and stopping in order.

use std::{future::pending, sync::Arc, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use tower::ServiceExt as _;

/// A caller must have sent the head of its request within this time: far more than a slow link
/// needs, little enough that idle sockets do not add up.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How large the head of a request may be, in bytes: many times what model clients send, and what
/// other proxies allow at most (nginx: 4 times 8 KiB; Envoy: 60 KiB).
const HEAD_BYTES: u32 = 64 * 1024;

/// How many headers a request may have: hyper's own default for HTTP/1.
const HEADERS: usize = 100;

/// How many requests may be under way on one HTTP/2 connection: twice hyper's default, since model
/// calls last long.
const STREAMS: u32 = 400;

/// How often an HTTP/2 connection is probed, so that callers that vanished are noticed.
const PING: Duration = Duration::from_secs(20);

/// After an error of `accept` that is not about one connection, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// SIGTERM and ctrl-c.
pub(crate) struct Signals {
    #[cfg(unix)]
    heard: Option<[Signal; 2]>,
}

/// Serves until it is told to stop, then lets open requests end for at most `drain`, or until it is
/// told again.
///
/// Who comes when `max_connections` are open waits until another leaves: nobody is refused, and idle
/// connections end soon.
///
/// `stop` waits for the next time that it is told. Connections are tasks of a set that ends with this
/// future.
pub(crate) async fn serve(
    listener: TcpListener,
    router: axum::Router,
    max_connections: usize,
    mut stop: impl AsyncFnMut(),
    drain: Duration,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut was_full = false;
    loop {
        // Once per rush, not once per connection.
        if connections.len() == max_connections && !was_full {
            was_full = true;
            tracing::warn!(
                max_connections,
                "no more callers can connect, new ones wait until others leave"
            );
        } else if connections.len() <= max_connections / 2 {
            was_full = false;
        }
        tokio::select! {
            () = stop() => break,
            accepted = listener.accept(), if connections.len() < max_connections => match accepted {
                Ok((stream, _)) => {
                    let watcher = graceful.watcher();
                    connections.spawn(connection(stream, router.clone(), watcher));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    // From here on nobody can connect.
    drop(listener);
    tracing::info!(open = graceful.count(), "stopping");
    tokio::select! {
        drained = timeout(drain, graceful.shutdown()) => if drained.is_err() {
            tracing::warn!("requests were still open at the end of the drain time and are cut off");
        },
        () = stop() => tracing::warn!("told to stop again: requests that are open are cut off"),
    }
}

async fn connection(
    stream: TcpStream,
    router: axum::Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Without it the second of two small writes waits for the reader's acknowledgement.
    let _ = stream.set_nodelay(true);
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES as usize);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(PING);
    // hyper's own limit begins when it knows the version of HTTP, which takes the first bytes.
    let asked = Arc::new(Notify::new());
    let silent = {
        let asked = Arc::clone(&asked);
        async move {
            if timeout(HEAD_TIME, asked.notified()).await.is_ok() {
                pending::<()>().await;
            }
        }
    };
    let service = TowerToHyperService::new(router.map_request(move |request| {
        asked.notify_one();
        request
    }));
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        biased;
        ended = watcher.watch(connection.into_owned()) => if let Err(error) = ended {
            // Callers that go away are everyday; hyper's text quotes nothing of what was sent.
            tracing::debug!(%error, "a connection ended early");
        },
        () = silent => tracing::debug!("a connection brought no request"),
    }
}

// === impl Signals ===

impl Signals {
    /// Hears them from now on.
    ///
    /// Call it before anybody is told that the process is there: until then either just kills it.
    pub(crate) fn listen() -> Self {
        #[cfg(unix)]
        let heard = signal(SignalKind::terminate())
            .and_then(|terminate| Ok([terminate, signal(SignalKind::interrupt())?]))
            .inspect_err(|error| tracing::warn!(%error, "signals cannot be heard"))
            .ok();
        Self {
            #[cfg(unix)]
            heard,
        }
    }

    /// Waits for the next one.
    ///
    /// # Cancel safety
    ///
    /// One that came is not lost.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        match &mut self.heard {
            Some([terminate, interrupt]) => tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            },
            None => pending().await,
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_brings_no_request_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calling = async {
            for sent in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\n"] {
                let mut socket = TcpStream::connect(address).await.unwrap();
                socket.write_all(sent.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                timeout(HEAD_TIME * 10, socket.read_to_end(&mut answer))
                    .await
                    .unwrap_or_else(|_| panic!("open after {sent:?}"))
                    .unwrap();
            }
        };
        tokio::select! {
            () = calling => {}
            () = serve(listener, axum::Router::new(), 9, async || pending().await, HEAD_TIME) => {}
        }
    }
}
