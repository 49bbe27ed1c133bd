//! The caller's request body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{BoxError, Failure, Kind, Outcome};
use backstop_wire::request::{MemberScanner, RequestFacts};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// How long the rest of a refused body is read and thrown away, so that a caller that is still
/// writing gets to read the answer rather than a reset connection.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

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
    refused: Option<Refused>,
}

/// Why the body ends in an error, and until when what follows is thrown away before it does.
#[derive(Debug)]
struct Refused {
    outcome: Outcome,
    linger: Pin<Box<Sleep>>,
}

impl Rest {
    /// The rest of a body whose beginning `scanner` has read; `left` more bytes are allowed.
    pub(crate) fn new(inner: axum::body::Body, left: usize, scanner: MemberScanner) -> Self {
        let models = RequestFacts::models(&scanner).count();
        Self {
            inner,
            left,
            scanner,
            models,
            refused: None,
        }
    }

    fn check(&mut self, data: &Bytes) -> Result<(), Outcome> {
        self.left = self.left.checked_sub(data.len()).ok_or_else(too_large)?;
        // What is not JSON is for the target to refuse.
        let _ = self.scanner.feed(data);
        if RequestFacts::models(&self.scanner).count() > self.models {
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
        loop {
            if let Some(refused) = &mut self.refused
                && refused.linger.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Some(Err(Failure::new(refused.outcome).into())));
            }
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                ended => {
                    if let Some(refused) = &self.refused {
                        return Poll::Ready(Some(Err(Failure::new(refused.outcome).into())));
                    }
                    return Poll::Ready(ended.map(|ended| ended.map_err(Into::into)));
                }
            };
            if self.refused.is_some() {
                continue;
            }
            match frame.data_ref().map_or(Ok(()), |data| self.check(data)) {
                Ok(()) => return Poll::Ready(Some(Ok(frame))),
                Err(outcome) => {
                    let linger = Box::pin(sleep(LINGER));
                    self.refused = Some(Refused { outcome, linger });
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.refused.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
