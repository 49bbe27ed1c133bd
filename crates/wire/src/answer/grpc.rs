use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{BoxError, Kind, Outcome, outcome_of};
use bytes::Bytes;
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

use super::body::message;

/// The gRPC status that stands for `outcome`.
///
/// The codes are those that Google's APIs use (<https://google.aip.dev/194> on which of them are
/// repeated: `UNAVAILABLE` alone, so that it is kept for what another attempt may cure). A delay is
/// given twice, as `google.rpc.RetryInfo` in the details and as `grpc-retry-pushback-ms` (gRFC A6).
///
/// ```
/// use backstop_core::{Kind, Outcome};
/// use backstop_wire::answer::grpc_status;
///
/// let status = grpc_status(&Outcome::new(Kind::ContextTooLong));
/// assert_eq!(status.code(), tonic::Code::InvalidArgument);
/// ```
#[must_use]
pub fn grpc_status(outcome: &Outcome) -> Status {
    let code = match outcome.kind() {
        Kind::Success => Code::Ok,
        Kind::Throttled | Kind::QuotaExhausted => Code::ResourceExhausted,
        Kind::TimedOut(_) => Code::DeadlineExceeded,
        Kind::NotFound => Code::NotFound,
        Kind::ContextTooLong | Kind::Rejected | Kind::TooLarge => Code::InvalidArgument,
        Kind::ContentFiltered => Code::FailedPrecondition,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Cancelled => Code::Cancelled,
        // The caller's credential was good; the target refused the gateway's. And a broken answer
        // is for the caller the same as none.
        _ => Code::Unavailable,
    };
    let message = message(outcome.kind());
    let Some(hint) = outcome.retry_after() else {
        return Status::new(code, message);
    };
    let mut status = Status::with_details(code, message, retry_info(code, message, hint.delay));
    let millis = hint.delay.as_millis().to_string();
    if let Ok(millis) = millis.parse() {
        status
            .metadata_mut()
            .insert("grpc-retry-pushback-ms", millis);
    }
    status
}

/// A `google.rpc.Status` whose details are one `google.rpc.RetryInfo`.
fn retry_info(code: Code, message: &str, delay: Duration) -> Bytes {
    // google.protobuf.Duration: seconds = 1, nanos = 2.
    let mut duration = Vec::new();
    number(&mut duration, 1, delay.as_secs());
    number(&mut duration, 2, u64::from(delay.subsec_nanos()));
    // RetryInfo: retry_delay = 1.
    let mut info = Vec::new();
    bytes(&mut info, 1, &duration);
    // google.protobuf.Any: type_url = 1, value = 2.
    let mut any = Vec::new();
    bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
    bytes(&mut any, 2, &info);
    // Status: code = 1, message = 2, details = 3.
    let mut status = Vec::new();
    number(&mut status, 1, u64::from(code as u8));
    bytes(&mut status, 2, message.as_bytes());
    bytes(&mut status, 3, &any);
    Bytes::from(status)
}

/// A field of the wire type varint. Zero is left out, as proto3 does.
fn number(message: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        message.push(field << 3);
        varint(message, value);
    }
}

/// A field of the wire type length-delimited.
fn bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, u64::try_from(value.len()).unwrap_or_default());
    message.extend_from_slice(value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return message.push(low & 0x7f);
        }
        message.push(low | 0x80);
    }
}

/// Turns the errors of a service into a [`tonic::Status`].
///
/// On a server, tonic answers with that status. A client sees it as the error of its call. An error
/// that is a status already, or has one behind it, stays that one.
///
/// The error is behind the status as its `source()`, which is not sent: there
/// [`outcome_of`] finds the outcome and [`Trace::find`](backstop_core::Trace::find) what a failover
/// has tried. A layer around tonic's server finds the status among the response's extensions.
///
/// ```
/// use backstop_core::{BoxError, Failure, Kind, Outcome};
/// use backstop_wire::answer::StatusLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let broken = service_fn(async |(): ()| {
///     Err::<(), BoxError>(Failure::new(Outcome::new(Kind::Overloaded)).into())
/// });
/// let result = StatusLayer.layer(broken).oneshot(()).await;
/// assert!(result.is_err_and(|status| status.code() == tonic::Code::Unavailable));
/// # Ok::<(), BoxError>(())
/// # })?;
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusLayer;

/// The service of a [`StatusLayer`].
#[derive(Clone, Debug)]
pub struct StatusErrors<S> {
    inner: S,
}

pin_project! {
    /// The future of a [`StatusErrors`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the inner future.
    pub struct StatusFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<S> Layer<S> for StatusLayer {
    type Service = StatusErrors<S>;

    fn layer(&self, inner: S) -> StatusErrors<S> {
        StatusErrors { inner }
    }
}

impl<S, Req> Service<Req> for StatusErrors<S>
where
    S: Service<Req, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = StatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| of_error(error.into()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        StatusFuture {
            inner: self.inner.call(request),
        }
    }
}

impl<F, R, E> Future for StatusFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project()
            .inner
            .poll(cx)
            .map_err(|error| of_error(error.into()))
    }
}

impl<F> fmt::Debug for StatusFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusFuture").finish_non_exhaustive()
    }
}

fn of_error(error: BoxError) -> Status {
    let outcome = outcome_of(&*error);
    Status::try_from_error(error).unwrap_or_else(|error| {
        let mut status = grpc_status(&outcome);
        status.set_source(error.into());
        status
    })
}

#[cfg(test)]
mod tests {
    use backstop_core::{Exhausted, Failure, HintSource, Trace};

    use super::*;
    use crate::{Provider, errors};

    #[test]
    fn a_status_is_understood_by_those_who_read_statuses() {
        let delay = Duration::from_millis(34_400);
        let outcome = Outcome::new(Kind::Throttled).with_retry_after(delay, HintSource::RetryAfter);
        let response = grpc_status(&outcome).into_http::<()>();
        let mut headers = response.headers().clone();
        assert_eq!(headers.remove("grpc-retry-pushback-ms").unwrap(), "34400");
        // What is left is the detail in the trailers.
        let read = errors::classify_answer(&errors::Answer {
            provider: Provider::Unknown,
            status: response.status(),
            headers: &headers,
            body: b"",
            trailers: None,
        });
        assert_eq!(read.kind(), Kind::Throttled);
        assert_eq!(read.retry_after().map(|hint| hint.delay), Some(delay));
    }

    #[test]
    fn what_failed_and_what_was_tried_is_behind_the_status() {
        let mut trace = Trace::default();
        trace.took = Duration::from_secs(7);
        let outcome = Outcome::new(Kind::Malformed).with_evidence("cut short");
        let error = Failure::with_source(outcome, Exhausted::new(trace.clone(), None));
        let response = of_error(error.into()).into_http::<()>();
        let status = response.extensions().get::<Status>().unwrap();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(outcome_of(status), outcome);
        assert_eq!(Trace::find(status), Some(&trace));
        // The caller is told no more than before.
        let heard = response.headers()["grpc-message"].to_str().unwrap();
        assert!(heard.starts_with("The%20model's%20answer%20broke%20off"));
        assert!(!response.headers().contains_key("grpc-status-details-bin"));
    }

    #[test]
    fn a_status_from_another_process_still_says_how_long() {
        let delay = Duration::from_millis(34_400);
        let outcome = Outcome::new(Kind::Throttled).with_retry_after(delay, HintSource::Local);
        let mut status = grpc_status(&outcome);
        let heard = |status: &Status| {
            let outcome = outcome_of(status);
            assert_eq!(outcome.kind(), Kind::Throttled);
            outcome.retry_after().map(|hint| (hint.delay, hint.source))
        };
        assert_eq!(heard(&status), Some((delay, HintSource::Header)));
        status.metadata_mut().remove("grpc-retry-pushback-ms");
        assert_eq!(heard(&status), Some((delay, HintSource::Body)));
    }

    #[test]
    fn a_status_stays_what_it_is() {
        let error: BoxError = Box::new(Status::permission_denied("no"));
        assert_eq!(of_error(error).code(), Code::PermissionDenied);
        let error: BoxError = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
        assert_eq!(of_error(error).code(), Code::Unavailable);
    }
}
