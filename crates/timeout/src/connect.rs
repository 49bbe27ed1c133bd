use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{BoxError, Elapsed, Phase};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{ConfigError, clock::after};

/// How long a connection may take, unless told otherwise: 5 s.
///
/// A handshake around the world takes less than a second, TLS included; five leave room for a packet
/// that is lost twice, which TCP sends again after one and three seconds (RFC 6298).
pub const DEFAULT_CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Limits the phase [`Phase::Connect`]: applies [`ConnectTimeout`] to a connector.
///
/// ```
/// # fn main() -> Result<(), backstop_timeout::ConfigError> {
/// use backstop_timeout::ConnectTimeoutLayer;
/// use http_body_util::Full;
/// use hyper_util::{
///     client::legacy::{Client, connect::HttpConnector},
///     rt::TokioExecutor,
/// };
/// use tower::Layer;
///
/// // Around the outermost connector, so that name resolution and TLS are inside.
/// let connector = ConnectTimeoutLayer::default().layer(HttpConnector::new());
/// let client: Client<_, Full<bytes::Bytes>> =
///     Client::builder(TokioExecutor::new()).build(connector);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ConnectTimeoutLayer {
    limit: Duration,
}

/// A connector, or any service that opens something, with a limit.
///
/// Fails with [`Elapsed`], which is found through the client's own error:
/// [`outcome_of`](backstop_core::outcome_of) of that is a timeout of the phase `Connect`.
///
/// A connection serves many requests and is opened in the background of them, so neither a
/// [`Deadline`](backstop_core::Deadline) nor other limits of a single request apply to it.
#[derive(Clone, Debug)]
pub struct ConnectTimeout<S> {
    inner: S,
    limit: Duration,
}

/// The future of [`ConnectTimeout`]. It is `Unpin`, as hyper-util's client wants it, for which it
/// allocates twice per connection.
///
/// # Cancel safety
///
/// Dropping it gives up the connection.
pub struct ConnectFuture<F> {
    inner: Pin<Box<F>>,
    limit: Duration,
    /// When the first poll was pending.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl ConnectTimeoutLayer {
    /// A limit for connecting.
    ///
    /// # Errors
    ///
    /// When the limit is zero or longer than [`MAX_LIMIT`](crate::MAX_LIMIT).
    pub const fn new(limit: Duration) -> Result<Self, ConfigError> {
        match ConfigError::check("connect", limit) {
            Ok(()) => Ok(Self { limit }),
            Err(error) => Err(error),
        }
    }
}

impl Default for ConnectTimeoutLayer {
    fn default() -> Self {
        Self {
            limit: DEFAULT_CONNECT_LIMIT,
        }
    }
}

impl<S> Layer<S> for ConnectTimeoutLayer {
    type Service = ConnectTimeout<S>;

    fn layer(&self, inner: S) -> ConnectTimeout<S> {
        ConnectTimeout {
            inner,
            limit: self.limit,
        }
    }
}

impl<S, Req> Service<Req> for ConnectTimeout<S>
where
    S: Service<Req, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConnectFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ConnectFuture {
            inner: Box::pin(self.inner.call(request)),
            limit: self.limit,
            waiting: None,
        }
    }
}

impl<F, T, E> Future for ConnectFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(result) = self.inner.as_mut().poll(cx) {
            self.waiting = None;
            return Poll::Ready(result.map_err(Into::into));
        }
        let limit = self.limit;
        let (since, sleep) = self.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(after(now, limit))))
        });
        ready!(sleep.as_mut().poll(cx));
        let waited = Instant::now().saturating_duration_since(*since);
        Poll::Ready(Err(Elapsed::new(Phase::Connect, limit, waited).into()))
    }
}

impl<F> fmt::Debug for ConnectFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectFuture")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
