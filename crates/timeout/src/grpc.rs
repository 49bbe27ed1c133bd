//! The deadline of a call on the wire of gRPC: the header `grpc-timeout`.
//!
//! By itself no layer here writes anything on the wire: a provider learns nothing of how long its
//! caller is prepared to wait. gRPC servers, though, expect to be told, so that they can give up what
//! nobody waits for: put [`ForwardDeadlineLayer`] on a tonic channel, and [`AcceptDeadlineLayer`] in
//! front of a tonic server that has layers of its own to plan.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::Deadline;
use http::{HeaderMap, HeaderValue, Request, header::HeaderName};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

/// The header's name; see the [protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Writes what is left of a request's [`Deadline`] as `grpc-timeout`; applies [`ForwardDeadline`].
///
/// Put it inside everything that takes time, so that what is written is what is left when the
/// request is sent.
///
/// ```
/// # fn main() {
/// use std::{convert::Infallible, time::Duration};
///
/// use backstop_core::Deadline;
/// use backstop_timeout::grpc::{ForwardDeadlineLayer, GRPC_TIMEOUT};
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
/// # .expect("a runtime").block_on(async {
/// let channel = ServiceBuilder::new()
///     .layer(ForwardDeadlineLayer::new())
///     .service(service_fn(|request: Request<()>| async move {
///         assert_eq!(request.headers()[GRPC_TIMEOUT], "1500m");
///         Ok::<_, Infallible>(Response::new(()))
///     }));
/// let now = tokio::time::Instant::now().into_std();
/// let mut request = Request::new(());
/// request
///     .extensions_mut()
///     .insert(Deadline::after(now, Duration::from_millis(1500)));
/// channel.oneshot(request).await.expect("it answers");
/// # });
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ForwardDeadlineLayer {}

/// See [`ForwardDeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ForwardDeadline<S> {
    inner: S,
}

/// Makes the `grpc-timeout` of a request its [`Deadline`]; applies [`AcceptDeadline`].
///
/// A request that carries a deadline already keeps the earlier of the two. A header that is not
/// understood counts as none, as the protocol leaves it to servers to trust it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AcceptDeadlineLayer {}

/// See [`AcceptDeadlineLayer`].
#[derive(Clone, Copy, Debug)]
pub struct AcceptDeadline<S> {
    inner: S,
}

/// Writes what is left of `deadline` as `grpc-timeout`, unless the header asks for less already.
pub fn write(headers: &mut HeaderMap, deadline: Deadline, now: Instant) {
    let left = deadline.remaining(now.into_std());
    if read(headers).is_some_and(|asked| asked <= left) {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(encode(left)) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// What `grpc-timeout` asks for, if it is there and understood.
#[must_use]
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    decode(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// At most eight digits and a unit, rounded down: the other side should give up first.
fn encode(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let fitting = [
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
    ]
    .into_iter()
    .find(|(amount, _)| *amount <= MOST);
    match fitting {
        // Less than a millisecond.
        Some((0, 'm')) => format!("{}n", left.as_nanos()),
        Some((amount, unit)) => format!("{amount}{unit}"),
        None => format!("{MOST}M"),
    }
}

fn decode(value: &str) -> Option<Duration> {
    let unit = value.chars().next_back()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

// === impl ForwardDeadline ===

impl ForwardDeadlineLayer {
    /// The layer.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for ForwardDeadlineLayer {
    type Service = ForwardDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ForwardDeadline { inner }
    }
}

impl<S, B> Service<Request<B>> for ForwardDeadline<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(deadline) = request.extensions().get::<Deadline>().copied() {
            write(request.headers_mut(), deadline, Instant::now());
        }
        self.inner.call(request)
    }
}

// === impl AcceptDeadline ===

impl AcceptDeadlineLayer {
    /// The layer.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for AcceptDeadlineLayer {
    type Service = AcceptDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AcceptDeadline { inner }
    }
}

impl<S, B> Service<Request<B>> for AcceptDeadline<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(left) = read(request.headers()) {
            let asked = Deadline::after(Instant::now().into_std(), left);
            let extensions = request.extensions_mut();
            let deadline = extensions
                .get::<Deadline>()
                .map_or(asked, |deadline| deadline.earlier(asked));
            extensions.insert(deadline);
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::ready};

    use http::Response;
    use proptest::prelude::*;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// The header ends at 190 years.
    const YEARS_90: u64 = 90 * 365 * 24 * 60 * 60 * 1_000_000_000;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_is_never_more(nanos in 0..YEARS_90) {
            let left = Duration::from_nanos(nanos);
            let value = encode(left);
            prop_assert!(value.len() <= 9, "{value}");
            let read = decode(&value).expect("it is well-formed");
            prop_assert!(read <= left);
            // Less than a unit is lost.
            prop_assert!(left - read < Duration::from_secs(60), "{value}");
            if left < Duration::from_secs(99_999) {
                prop_assert!(left - read < Duration::from_millis(1), "{value}");
            }
        }

        #[test]
        fn nothing_else_is_read(value in "\\PC{0,12}") {
            if decode(&value).is_some() {
                let (digits, unit) = value.split_at(value.len() - 1);
                prop_assert!(!digits.is_empty() && digits.len() <= 8);
                prop_assert!(digits.bytes().all(|byte| byte.is_ascii_digit()));
                prop_assert!("HMSmun".contains(unit));
            }
        }
    }

    fn with(header: Option<&'static str>, deadline: Option<Duration>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(header) = header {
            let value = HeaderValue::from_static(header);
            request.headers_mut().insert(GRPC_TIMEOUT, value);
        }
        if let Some(left) = deadline {
            let deadline = Deadline::after(Instant::now().into_std(), left);
            request.extensions_mut().insert(deadline);
        }
        request
    }

    /// The request as it comes out of a layer.
    async fn through<L>(layer: L, request: Request<()>) -> Request<()>
    where
        L: Layer<tower::util::BoxService<Request<()>, Response<Request<()>>, Infallible>>,
        L::Service: Service<Request<()>, Response = Response<Request<()>>, Error = Infallible>,
    {
        let echo = service_fn(|request| ready(Ok(Response::new(request))));
        let response = layer.layer(echo.boxed()).oneshot(request).await;
        response.expect("it answers").into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_forwarded_and_never_extended() {
        for (header, left, expected) in [
            (None, None, None),
            (None, Some(7), Some("7000m")),
            (Some("9S"), Some(7), Some("7000m")),
            (Some("5S"), Some(7), Some("5S")),
            (Some("5S"), None, Some("5S")),
            (Some("soon"), Some(7), Some("7000m")),
        ] {
            let request = with(header, left.map(Duration::from_secs));
            let sent = through(ForwardDeadlineLayer::new(), request).await;
            let value = sent.headers().get(GRPC_TIMEOUT);
            assert_eq!(
                value.map(HeaderValue::as_bytes),
                expected.map(str::as_bytes)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_accepted_and_never_extended() {
        for (header, left, expected) in [
            (None, None, None),
            (Some("7S"), None, Some(7)),
            (Some("7S"), Some(5), Some(5)),
            (Some("7S"), Some(9), Some(7)),
            (Some("1H"), None, Some(3600)),
            (Some("soon"), Some(9), Some(9)),
            (Some("123456789m"), None, None),
        ] {
            let now = Instant::now().into_std();
            let request = with(header, left.map(Duration::from_secs));
            let got = through(AcceptDeadlineLayer::new(), request).await;
            let deadline = got.extensions().get::<Deadline>();
            assert_eq!(
                deadline.map(|deadline| deadline.remaining(now)),
                expected.map(Duration::from_secs),
                "{header:?} {left:?}"
            );
        }
    }
}
