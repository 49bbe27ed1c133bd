use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{BoxError, Elapsed, Event, Observer, Phase};
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
#[derive(Clone)]
pub struct ConnectTimeoutLayer<O = ()> {
    terms: Terms<O>,
}

/// A connector, or any service that opens something, with a limit.
///
/// Fails with [`Elapsed`], which is found through the client's own error:
/// [`outcome_of`](backstop_core::outcome_of) of that is a timeout of the phase `Connect`.
///
/// A connection serves many requests and is opened in the background of them, so neither a
/// [`Deadline`](backstop_core::Deadline) nor other limits of a single request apply to it.
#[derive(Clone)]
pub struct ConnectTimeout<S, O = ()> {
    inner: S,
    terms: Terms<O>,
}

/// The future of [`ConnectTimeout`]. It is `Unpin`, as hyper-util's client wants it, for which it
/// allocates twice per connection.
///
/// # Cancel safety
///
/// Dropping it gives up the connection.
pub struct ConnectFuture<F, O = ()> {
    inner: Pin<Box<F>>,
    terms: Terms<O>,
    /// When the first poll was pending.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// What is the same for every connection.
#[derive(Clone)]
struct Terms<O> {
    limit: Duration,
    target: Arc<str>,
    observer: O,
}

impl ConnectTimeoutLayer {
    /// A limit for connecting.
    ///
    /// # Errors
    ///
    /// When the limit is zero or longer than [`MAX_LIMIT`](crate::MAX_LIMIT).
    pub fn new(limit: Duration) -> Result<Self, ConfigError> {
        ConfigError::check("connect", limit)?;
        Ok(Self::of(limit))
    }

    fn of(limit: Duration) -> Self {
        let terms = Terms {
            limit,
            target: "".into(),
            observer: (),
        };
        Self { terms }
    }
}

impl Default for ConnectTimeoutLayer {
    fn default() -> Self {
        Self::of(DEFAULT_CONNECT_LIMIT)
    }
}

impl<O> ConnectTimeoutLayer<O> {
    /// Sets who hears how long connections take; every connector has a clone of it.
    #[must_use]
    pub fn observer<O2: Observer + Clone>(self, observer: O2) -> ConnectTimeoutLayer<O2> {
        let terms = Terms {
            limit: self.terms.limit,
            target: self.terms.target,
            observer,
        };
        ConnectTimeoutLayer { terms }
    }

    /// Names the target, for the observer.
    #[must_use]
    pub fn target(mut self, name: impl Into<Arc<str>>) -> Self {
        self.terms.target = name.into();
        self
    }
}

impl<S, O: Clone> Layer<S> for ConnectTimeoutLayer<O> {
    type Service = ConnectTimeout<S, O>;

    fn layer(&self, inner: S) -> Self::Service {
        ConnectTimeout {
            inner,
            terms: self.terms.clone(),
        }
    }
}

impl<S, O, Req> Service<Req> for ConnectTimeout<S, O>
where
    S: Service<Req, Error: Into<BoxError>>,
    O: Observer + Clone + Unpin,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ConnectFuture<S::Future, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ConnectFuture {
            inner: Box::pin(self.inner.call(request)),
            terms: self.terms.clone(),
            waiting: None,
        }
    }
}

impl<F, O, T, E> Future for ConnectFuture<F, O>
where
    F: Future<Output = Result<T, E>>,
    O: Observer + Unpin,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Poll::Ready(result) = this.inner.as_mut().poll(cx) {
            let waiting = this.waiting.take();
            if result.is_ok() && this.terms.observer.is_enabled() {
                let took = waiting.map_or(Duration::ZERO, |(since, _)| waited(since));
                this.terms.observer.on_event(&Event::PhaseEnded {
                    target: &this.terms.target,
                    phase: Phase::Connect,
                    took,
                });
            }
            return Poll::Ready(result.map_err(Into::into));
        }
        let limit = this.terms.limit;
        let (since, sleep) = this.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(after(now, limit))))
        });
        ready!(sleep.as_mut().poll(cx));
        let waited = waited(*since);
        this.terms.observer.on_event(&Event::PhaseTimedOut {
            target: &this.terms.target,
            phase: Phase::Connect,
            limit,
            waited,
        });
        Poll::Ready(Err(Elapsed::new(Phase::Connect, limit, waited).into()))
    }
}

fn waited(since: Instant) -> Duration {
    Instant::now().saturating_duration_since(since)
}

impl<O> fmt::Debug for ConnectTimeoutLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectTimeoutLayer")
            .field("target", &self.terms.target)
            .field("limit", &self.terms.limit)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug, O> fmt::Debug for ConnectTimeout<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectTimeout")
            .field("inner", &self.inner)
            .field("target", &self.terms.target)
            .field("limit", &self.terms.limit)
            .finish_non_exhaustive()
    }
}

impl<F, O> fmt::Debug for ConnectFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectFuture")
            .field("target", &self.terms.target)
            .field("limit", &self.terms.limit)
            .finish_non_exhaustive()
    }
}
