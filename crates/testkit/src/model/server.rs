use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tower_service::Service;

use super::{Log, Reply, Scripted};

/// A scripted model that listens on a loopback port.
///
/// Dropped, it closes the port and every connection.
#[derive(Debug)]
pub struct Model {
    scripted: Scripted,
    addr: SocketAddr,
    task: JoinHandle<()>,
}

/// A loopback port that refuses connections, and that nobody else can take as long as this lives.
#[derive(Debug)]
pub struct ClosedPort {
    /// Bound and not listening.
    _socket: TcpSocket,
    addr: SocketAddr,
}

/// The connection that a request came on; a request extension.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) kill: Kill,
}

/// Resets a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Kill(Arc<AtomicBool>);

/// A socket that a [`Kill`] resets.
struct Wire {
    stream: TcpStream,
    kill: Kill,
}

impl Model {
    /// Starts a healthy model of this name on a free port.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn start(name: &str) -> io::Result<Self> {
        Self::serve(Scripted::new(name), (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Lets a scripted model listen on an address.
    ///
    /// # Errors
    ///
    /// When the address cannot be had.
    pub async fn serve(scripted: Scripted, addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the task is the server; dropping the model ends it"
        )]
        let task = tokio::spawn(accept(listener, scripted.clone()));
        Ok(Self {
            scripted,
            addr,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT/v1`: what an OpenAI client takes as the base URL.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// The model without its socket.
    #[must_use]
    pub const fn scripted(&self) -> &Scripted {
        &self.scripted
    }

    /// See [`Scripted::push`].
    pub fn push(&self, reply: Reply) {
        self.scripted.push(reply);
    }

    /// See [`Scripted::always`].
    pub fn always(&self, reply: Reply) {
        self.scripted.always(reply);
    }

    /// See [`Scripted::when`].
    pub fn when(&self, name: &str, reply: Reply) {
        self.scripted.when(name, reply);
    }

    /// See [`Scripted::text`].
    #[must_use]
    pub fn text(&self) -> &str {
        self.scripted.text()
    }

    /// See [`Scripted::log`].
    #[must_use]
    pub const fn log(&self) -> &Log {
        self.scripted.log()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts for ever. The connections are tasks of the set and end with it.
async fn accept(listener: TcpListener, scripted: Scripted) {
    let mut connections = JoinSet::new();
    for id in 0_u64.. {
        let stream = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => break stream,
                    // Of one connection, or out of descriptors: the next may do.
                    Err(_) => tokio::task::yield_now().await,
                },
                Some(_) = connections.join_next() => {}
            }
        };
        connections.spawn(connection(stream, id, scripted.clone()));
    }
}

async fn connection(stream: TcpStream, id: u64, scripted: Scripted) {
    // Without it the second of two small writes waits for the reader's acknowledgement.
    let _ = stream.set_nodelay(true);
    let kill = Kill::default();
    let wire = Wire {
        stream,
        kill: kill.clone(),
    };
    let service =
        hyper::service::service_fn(|mut request: http::Request<hyper::body::Incoming>| {
            let kill = kill.clone();
            request.extensions_mut().insert(Connection { id, kill });
            scripted.clone().call(request)
        });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    server.http2().timer(TokioTimer::new());
    // A broken connection is in the log of the exchange.
    let _ = server.serve_connection(TokioIo::new(wire), service).await;
}

impl ClosedPort {
    /// Takes a port.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let addr = socket.local_addr()?;
        Ok(Self {
            _socket: socket,
            addr,
        })
    }

    /// Where nobody listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT/v1`: what an OpenAI client takes as the base URL.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }
}

impl Kill {
    pub(super) fn kill(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.kill.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.kill.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kill.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.kill.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.kill.check().is_err() {
            // Closing without lingering sends a reset in place of an orderly end.
            let _ = self.stream.set_zero_linger();
        }
    }
}
