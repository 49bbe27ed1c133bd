use std::{
    fmt, mem,
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

use crate::{Limits, clock::Stage, kept::Kept};

pin_project! {
    /// A response body whose silence is limited.
    ///
    /// Every frame is passed on as it came. Where a limit is reached the body fails with
    /// [`Elapsed`] and is over; dropping it, as readers do with a body that failed, aborts the
    /// response. A stream that stays open after its proper end is ended cleanly; see
    /// [`Limits::end_grace`](crate::Limits::end_grace).
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the inner body and the timer.
    pub struct ResponseBody<B, S> {
        #[pin]
        inner: B,
        stream: Option<S>,
        stage: Stage,
        // The size of the request; 0 if it is not known.
        size: u64,
        kept: Kept,
        layer: Arc<dyn Settings>,
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
    pub(crate) const fn new(
        inner: B,
        stream: Option<S>,
        size: u64,
        kept: Kept,
        layer: Arc<dyn Settings>,
    ) -> Self {
        Self {
            inner,
            stream,
            stage: Stage::Before,
            size,
            kept,
            layer,
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

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.stage == Stage::Closed {
            return Poll::Ready(None);
        }
        let this = self.as_mut().project();
        // What is there is passed on, however late it is.
        let end = match this.inner.poll_frame(cx) {
            // Each kind of frame is returned where it is known, so that little is moved.
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let step = match this.stream {
                        Some(stream) => stream.on_data(&data),
                        // Nobody knows what the bytes mean, so all of them are content.
                        None if data.is_empty() => Step::default(),
                        None => Step::progress(Progress::Token),
                    };
                    if let Some(place) = this.kept.get_mut() {
                        if place.measured {
                            self.measure(step, data.len());
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        place.project().waits.found(*this.stage, &step);
                    }
                    this.stage.found(&step);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    self.found_last();
                    return Poll::Ready(Some(Ok(frame)));
                }
            },
            Poll::Ready(Some(Err(error))) => Some(error.into()),
            Poll::Ready(None) => None,
            Poll::Pending => ready!(self.as_mut().wait(cx)),
        };
        let this = self.as_mut().project();
        *this.stage = Stage::Closed;
        if this.kept.is_some() {
            self.ended(end.is_none());
        }
        Poll::Ready(end.map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Closed || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stage == Stage::Closed {
            return SizeHint::with_exact(0);
        }
        self.inner.size_hint()
    }
}

impl<B, S> ResponseBody<B, S>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
    S: ClassifyStream,
{
    /// Data came, and it is of interest how long it took and how much it is.
    #[inline(never)]
    fn measure(mut self: Pin<&mut Self>, step: Step, bytes: usize) {
        let this = self.as_mut().project();
        let place = this.kept.open().project();
        let floor = this.layer.limits().floor.as_ref();
        let ended = place.waits.measured(*this.stage, &step, bytes, floor);
        if let Some(ended) = ended
            && *place.observed
        {
            this.layer.phase_ended(ended.phase, ended.took);
        }
        this.stage.found(&step);
        self.found_last();
    }

    /// A frame came, and it may have been the last: whoever reads it may never ask for the end.
    #[inline(never)]
    fn found_last(mut self: Pin<&mut Self>) {
        if self.kept.is_observed() && self.inner.is_end_stream() {
            self.over();
        }
    }

    /// There is nothing yet: ready when a limit is reached, or with `None` if the stream was over.
    #[inline(never)]
    fn wait(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BoxError>> {
        let this = self.as_mut().project();
        let elapsed = ready!(
            this.stage
                .wait(this.layer.limits(), *this.size, this.kept, cx)
        );
        if let Some(elapsed) = &elapsed {
            this.layer.timed_out(elapsed);
        }
        Poll::Ready(elapsed.map(Into::into))
    }

    /// Nothing more is passed on.
    #[inline(never)]
    fn ended(mut self: Pin<&mut Self>, in_time: bool) {
        if in_time {
            self.over();
        }
        self.project().kept.close();
    }

    /// The whole call is over, in time.
    fn over(self: &mut Pin<&mut Self>) {
        let this = self.as_mut().project();
        let place = this.kept.open().project();
        if mem::take(place.observed)
            && let Some(own) = place.own
        {
            let took = Instant::now().saturating_duration_since(own.started);
            this.layer.phase_ended(Phase::Total, took);
        }
    }
}

impl<B, S> fmt::Debug for ResponseBody<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
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
        ResponseBody::new(inner, None, 0, Kept::new(), Arc::new(shared))
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
