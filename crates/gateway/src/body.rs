//! The caller's request body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use backstop_core::{BoxError, Failure, Kind, Outcome};
use backstop_wire::request::MemberScanner;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The rest of a body that is too large to be kept, after its beginning has been read.
///
/// It ends in an error, and with it the request to the target, when it grows over the limit or
/// names another model than the one that the call was routed by.
#[derive(Debug)]
pub(crate) struct Rest {
    inner: axum::body::Body,
    left: usize,
    scanner: MemberScanner,
    models: usize,
}

impl Rest {
    /// The rest of a body whose beginning `scanner` has read; `left` more bytes are allowed.
    pub(crate) fn new(inner: axum::body::Body, left: usize, scanner: MemberScanner) -> Self {
        let models = scanner.found().len();
        Self {
            inner,
            left,
            scanner,
            models,
        }
    }

    fn check(&mut self, data: &Bytes) -> Result<(), Outcome> {
        self.left = self.left.checked_sub(data.len()).ok_or_else(too_large)?;
        // What is not JSON is for the target to refuse.
        let _ = self.scanner.feed(data);
        if self.scanner.found().len() > self.models {
            let evidence = "a second model after the first part of a large body";
            return Err(Outcome::new(Kind::Rejected).with_evidence(evidence));
        }
        Ok(())
    }
}

/// The outcome of a body above the limit: the caller's fault, whoever is asked.
pub(crate) fn too_large() -> Outcome {
    Outcome::new(Kind::TooLarge)
        .with_fail_over(false)
        .with_evidence("a body above this gateway's limit")
}

impl Body for Rest {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref()
            && let Err(outcome) = self.check(data)
        {
            return Poll::Ready(Some(Err(Failure::new(outcome).into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
