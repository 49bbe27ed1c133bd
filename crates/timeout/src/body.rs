use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use backstop_core::{BoxError, ClassifyStream, Elapsed, Phase, Progress, Step};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{Limits, clock::Clock, kept::Kept};

pin_project! {
    /// A response body whose silence is limited.
    ///
    /// Every frame is passed on as it came. Where a limit is reached the body fails with
    /// [`Elapsed`] and the inner body is dropped, which aborts the response. A stream that stays
    /// open after its proper end is ended cleanly; see [`Limits::end_grace`](crate::Limits::end_grace).
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the inner body and the timer.
    pub struct ResponseBody<B, S> {
        #[pin]
        inner: Option<B>,
        stream: Option<S>,
        clock: Clock,
        // The size of the request; 0 if it is not known.
        size: u64,
        kept: Kept,
        layer: Arc<dyn Settings>,
        // Whether an observer is still to hear of the end.
        observed: bool,
        // Whether it matters how long things take that come in time.
        measured: bool,
    }
}

/// What a body needs of its layer, without the types of the classifier and the observer.
pub(crate) trait Settings: Send + Sync {
    fn limits(&self) -> &Limits;
    fn phase_ended(&self, phase: Phase, took: Duration);
    fn timed_out(&self, elapsed: &Elapsed);
}

impl<B, S> ResponseBody<B, S> {
    #[inline]
    pub(crate) fn new(
        inner: B,
        stream: Option<S>,
        size: u64,
        kept: Kept,
        layer: Arc<dyn Settings>,
        observed: bool,
    ) -> Self {
        Self {
            inner: Some(inner),
            stream,
            clock: Clock::new(),
            size,
            kept,
            measured: observed || layer.limits().floor.is_some(),
            layer,
            observed,
        }
    }
}

impl<B, S> Body for ResponseBody<B, S>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    S: ClassifyStream,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // What is there is passed on, however late it is.
        let end = match inner.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                // Each kind of frame is returned where it is known, so that little is moved.
                return match frame.into_data() {
                    Ok(data) => {
                        let step = match this.stream {
                            Some(stream) => stream.on_data(&data),
                            // Nobody knows what the bytes mean, so all of them are content.
                            None if data.is_empty() => Step::default(),
                            None => Step::progress(Progress::Token),
                        };
                        if *this.measured {
                            let floor = this.layer.limits().floor.as_ref();
                            let ended = this.clock.measured(&step, data.len(), floor, this.kept);
                            if let Some(ended) = ended
                                && *this.observed
                            {
                                this.layer.phase_ended(ended.phase, ended.took);
                            }
                            if *this.observed && is_over(&this.inner) {
                                *this.observed = false;
                                over(&**this.layer, this.kept);
                            }
                        } else {
                            this.clock.found(&step, this.kept);
                        }
                        Poll::Ready(Some(Ok(Frame::data(data))))
                    }
                    Err(frame) => {
                        if *this.observed && is_over(&this.inner) {
                            *this.observed = false;
                            over(&**this.layer, this.kept);
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                };
            }
            Poll::Ready(Some(Err(error))) => Some(Err(error.into())),
            Poll::Ready(None) => {
                if *this.observed {
                    over(&**this.layer, this.kept);
                }
                None
            }
            Poll::Pending => {
                let limits = this.layer.limits();
                let elapsed = ready!(this.clock.wait(limits, *this.size, this.kept, cx));
                match &elapsed {
                    Some(elapsed) => this.layer.timed_out(elapsed),
                    None if *this.observed => over(&**this.layer, this.kept),
                    None => {}
                }
                elapsed.map(|elapsed| Err(elapsed.into()))
            }
        };
        this.inner.set(None);
        this.kept.close();
        Poll::Ready(end)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B, S> fmt::Debug for ResponseBody<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("open", &self.inner.is_some())
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// Whether nothing more comes: whoever reads the last frame may never ask for the end.
fn is_over<B: Body>(inner: &Option<B>) -> bool {
    inner.as_ref().is_none_or(Body::is_end_stream)
}

/// The whole call is over, in time.
fn over(layer: &dyn Settings, kept: &Kept) {
    if let Some(started) = kept.started() {
        let took = Instant::now().saturating_duration_since(started);
        layer.phase_ended(Phase::Total, took);
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, pin::pin};

    use backstop_core::Unstreamed;
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::sleep;

    use super::*;
    use crate::{alarm::registrations, service::Shared};

    fn body<B>(inner: B, limits: Limits) -> ResponseBody<B, Unstreamed> {
        let shared = Shared {
            limits,
            classify: (),
            observer: (),
            target: "".into(),
            shares_deadline: false,
        };
        ResponseBody::new(inner, None, 0, Kept::new(), Arc::new(shared), false)
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_is_registered_once_per_limit_not_once_per_chunk() {
        const CHUNKS: usize = 10_000;
        let gap = Duration::from_millis(50);
        let inner = StreamBody::new(stream::unfold(0, move |sent| async move {
            sleep(gap).await;
            let frame = Frame::data(Bytes::from_static(b"token"));
            (sent < CHUNKS).then_some((Ok::<_, Infallible>(frame), sent + 1))
        }));
        let limits = Limits::unlimited()
            .first_token(Duration::from_secs(20))
            .idle(Duration::from_secs(10))
            .keep_alive(Duration::from_secs(30));
        let mut body = pin!(body(inner, limits));
        registrations::take();
        let mut chunks = 0;
        while let Some(frame) = body.frame().await {
            frame.unwrap();
            chunks += 1;
        }
        assert_eq!(chunks, CHUNKS);
        // 500 s, one limit every 10 s; one more for the first token, one for the shorter limit.
        let registered = registrations::take();
        assert!(
            (50..=52).contains(&registered),
            "{registered} registrations"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_waits_has_no_timer() {
        let inner = http_body_util::Full::new(Bytes::from_static(b"whole"));
        let body = body(inner, Limits::default());
        registrations::take();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
        assert_eq!(registrations::take(), 0);
    }
}
