//! Sound middleware passes the laws, and every law has a fixture that breaks it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use backstop_core::BoxError;
use backstop_testkit::laws::{self, Inner, Law, Violations};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, retry::RetryLayer,
    timeout::TimeoutLayer,
};

type Leaf = Inner<&'static str, &'static str>;
type Answer = Result<&'static str, BoxError>;
type BoxFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

async fn check<S>(stack: impl Fn(Leaf) -> S) -> Result<(), Violations>
where
    S: Service<&'static str> + Clone,
{
    laws::check(stack, || "request", || "answer").await
}

/// Asserts that a fixture breaks this law.
async fn breaks<S>(law: Law, stack: impl Fn(Leaf) -> S)
where
    S: Service<&'static str> + Clone,
{
    let violations = check(stack).await.unwrap_err();
    assert!(violations.broke(law), "{violations}");
}

#[derive(Clone)]
struct Once;

impl tower::retry::Policy<&'static str, &'static str, BoxError> for Once {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut &'static str, _: &mut Answer) -> Option<Ready<()>> {
        None
    }

    fn clone_request(&mut self, request: &&'static str) -> Option<&'static str> {
        Some(request)
    }
}

#[tokio::test(start_paused = true)]
async fn sound_middleware_passes() {
    check(|inner| inner).await.unwrap();
    check(|inner| TimeoutLayer::new(Duration::from_secs(10)).layer(inner))
        .await
        .unwrap();
    check(|inner| ConcurrencyLimitLayer::new(4).layer(inner))
        .await
        .unwrap();
    check(|inner| RetryLayer::new(Once).layer(inner))
        .await
        .unwrap();
    check(|inner| ServiceBuilder::new().buffer(4).service(inner))
        .await
        .unwrap();
    // Ready at once, and makes each call wait for its own instance.
    check(|inner| Fixture(Waits(inner))).await.unwrap();
}

/// A service written as three functions, so that a fixture shows only its fault.
#[derive(Clone)]
struct Fixture<F>(F);

trait Faulty {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, request: &'static str) -> BoxFuture;
}

impl<F: Faulty> Service<&'static str> for Fixture<F> {
    type Response = &'static str;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        self.0.call(request)
    }
}

/// Sound: readies a clone inside the call.
#[derive(Clone)]
struct Waits(Leaf);

impl Faulty for Waits {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        Box::pin(self.0.clone().oneshot(request))
    }
}

/// Calls a clone of the instance that is ready.
#[derive(Clone)]
struct CallsClone(Leaf);

impl Faulty for CallsClone {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        Box::pin(self.0.clone().call(request))
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_is_called_unready() {
    breaks(Law::ReadyBeforeCall, |inner| Fixture(CallsClone(inner))).await;
}

/// Remembers in a field that it is ready, and copies the field.
#[derive(Clone)]
struct CopiesReadiness(Leaf, bool);

impl Faulty for CopiesReadiness {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !self.1 {
            std::task::ready!(self.0.poll_ready(cx))?;
            self.1 = true;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        self.1 = false;
        Box::pin(self.0.call(request))
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_is_copied() {
    breaks(Law::ClonesAreIndependent, |inner| {
        Fixture(CopiesReadiness(inner, false))
    })
    .await;
}

/// Readies one more clone on every poll.
struct ReservesAgain(Leaf, Vec<Leaf>);

impl Clone for ReservesAgain {
    fn clone(&self) -> Self {
        Self(self.0.clone(), Vec::new())
    }
}

impl Faulty for ReservesAgain {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        std::task::ready!(self.0.poll_ready(cx))?;
        let clone = self.0.clone();
        self.1.push(std::mem::replace(&mut self.0, clone));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        Box::pin(self.1.pop().unwrap().call(request))
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_reservation() {
    breaks(Law::OneReservation, |inner| {
        Fixture(ReservesAgain(inner, Vec::new()))
    })
    .await;
}

/// Readies the backup together with the primary.
#[derive(Clone)]
struct ReadiesBackup(Leaf, Leaf);

impl Faulty for ReadiesBackup {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        std::task::ready!(self.0.poll_ready(cx))?;
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        let mut backup = self.1.clone();
        std::mem::swap(&mut backup, &mut self.1);
        let call = self.0.call(request);
        Box::pin(async move {
            match call.await {
                Ok(answer) => Ok(answer),
                Err(_) => backup.call(request).await,
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_held_while_the_primary_answers() {
    let stack = |inner: Leaf| Fixture(ReadiesBackup(inner.clone(), inner));
    breaks(Law::NoIdleReservation, stack).await;
    breaks(Law::OneReservation, stack).await;
}

/// Waits between ready and call.
#[derive(Clone)]
struct Dawdles(Leaf);

impl Faulty for Dawdles {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        let mut inner = self.0.clone();
        Box::pin(async move {
            inner.ready().await?;
            tokio::task::yield_now().await;
            inner.call(request).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_await_between_ready_and_call() {
    breaks(Law::NoIdleReservation, |inner| Fixture(Dawdles(inner))).await;
}

/// Ready every other time.
#[derive(Clone)]
struct Wavers(Leaf, bool);

impl Faulty for Wavers {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        std::task::ready!(self.0.poll_ready(cx))?;
        self.1 = !self.1;
        if self.1 {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        self.1 = false;
        Box::pin(self.0.call(request))
    }
}

#[tokio::test(start_paused = true)]
async fn readiness_that_goes_away() {
    breaks(Law::StaysReady, |inner| Fixture(Wavers(inner, false))).await;
}

/// Never gives back what a dropped call held.
#[derive(Clone)]
struct Leaks(Leaf);

struct Leaked(Option<BoxFuture>);

impl Future for Leaked {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let call = self.0.as_mut().unwrap();
        let answer = std::task::ready!(call.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(answer)
    }
}

impl Drop for Leaked {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

impl Faulty for Leaks {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        Box::pin(Leaked(Some(Box::pin(self.0.call(request)))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_is_lost() {
    breaks(Law::GivesBack, |inner| Fixture(Leaks(inner))).await;
}

/// Does the work in a task that goes on when nobody waits for it.
#[derive(Clone)]
struct Detaches(Leaf);

impl Faulty for Detaches {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        let call = self.0.call(request);
        let slow = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            call.await
        };
        #[expect(clippy::disallowed_methods, reason = "the fault of the fixture")]
        let task = tokio::spawn(slow);
        Box::pin(async { task.await? })
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_outlives_its_call() {
    breaks(Law::GivesBack, |inner| Fixture(Detaches(inner))).await;
}

/// Waits without leaving word where it is to be woken.
#[derive(Clone)]
struct Sleeps(Leaf);

impl Faulty for Sleeps {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(&mut Context::from_waker(Waker::noop()))
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        Box::pin(self.0.call(request))
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_nobody_ends() {
    breaks(Law::Wakes, |inner| Fixture(Sleeps(inner))).await;
}

/// Answers in place of the service that failed.
#[derive(Clone)]
struct Swallows(Leaf);

impl Faulty for Swallows {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        let call = self.0.call(request);
        Box::pin(async { Ok(call.await.unwrap_or("all is well")) })
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_lost() {
    breaks(Law::ErrorsPass, |inner| Fixture(Swallows(inner))).await;
}

/// Fails every call.
#[derive(Clone)]
struct Fails;

impl Service<&'static str> for Fails {
    type Response = Infallible;
    type Error = ();
    type Future = Ready<Result<Infallible, ()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        ready(Err(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_does_not_answer() {
    breaks(Law::Answers, |_| Fails).await;
}

/// Serves through one instance behind a lock, so that one slow call holds up all others.
#[derive(Clone)]
struct Queues(Arc<tokio::sync::Mutex<Leaf>>);

impl Faulty for Queues {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: &'static str) -> BoxFuture {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let mut inner = inner.lock().await;
            inner.ready().await?.call(request).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_clone() {
    breaks(Law::ClonesAreIndependent, |inner| {
        Fixture(Queues(Arc::new(tokio::sync::Mutex::new(inner))))
    })
    .await;
}
