//! Waiting a short limit out: in order, within the deadline, and without holding anything.

use std::{sync::Arc, task::Poll, time::Duration};

use backstop_core::{Deadline, Http, Kind, outcome_of};
use backstop_rate_limit::{BytesPerToken, OneKey, RateLimit, RateLimitLayer};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use http::Request;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::support::{Body, Log, Model, TestClassify, refusal, request};

type Limited = RateLimit<Model, TestClassify, Http, OneKey, BytesPerToken, Log>;

const SECOND: Duration = Duration::from_secs(1);

/// A service that has just been told to stay away for two seconds.
async fn limited(model: &Model, wait_up_to: Duration, log: &Log) -> Limited {
    let service = RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .jitter(0.0)
        .wait_up_to(wait_up_to)
        .build()
        .expect("valid")
        .layer(model.clone());
    let refused = service.clone().oneshot(request()).await.expect("sent");
    assert_eq!(refused.status(), 429);
    service
}

fn two_seconds() -> Model {
    Model::script([refusal(Some(2), "slow")])
}

#[tokio::test(start_paused = true)]
async fn a_short_limit_is_waited_out() {
    let (model, log) = (two_seconds(), Log::default());
    let service = limited(&model, 3 * SECOND, &log).await;
    let start = Instant::now();
    let answer = service.oneshot(request()).await.expect("answered");
    assert_eq!(answer.status(), 200);
    assert_eq!(Instant::now() - start, 2 * SECOND);
    assert_eq!(
        log.events(),
        ["noticed RetryAfter 2000", "waited 2000", "released model"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_too_long_is_answered_at_once() {
    let (model, log) = (two_seconds(), Log::default());
    let service = limited(&model, SECOND, &log).await;
    let start = Instant::now();
    let error = service.oneshot(request()).await.expect_err("answered here");
    assert_eq!(outcome_of(&*error).kind(), Kind::Throttled);
    assert_eq!(Instant::now(), start);
    assert_eq!(model.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn half_of_the_deadline_is_left_for_the_answer() {
    for (deadline, waits) in [(5 * SECOND, true), (3 * SECOND, false)] {
        let (model, log) = (two_seconds(), Log::default());
        let service = limited(&model, 10 * SECOND, &log).await;
        let mut request = request();
        let start = Instant::now();
        request
            .extensions_mut()
            .insert(Deadline::after(start.into_std(), deadline));
        assert_eq!(service.oneshot(request).await.is_ok(), waits);
        assert_eq!(Instant::now() > start, waits);
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_return_in_order_and_one_by_one() {
    let (model, log) = (two_seconds(), Log::default());
    let service = limited(&model, 60 * SECOND, &log).await;
    let start = Instant::now();
    let waiting: FuturesUnordered<_> = (0..20)
        .map(|index| {
            let call = service.clone().oneshot(request());
            async move {
                assert_eq!(call.await.expect("answered").status(), 200);
                (index, Instant::now() - start)
            }
        })
        .collect();
    let returned: Vec<_> = waiting.collect().await;
    assert!(
        returned.iter().map(|(index, _)| *index).eq(0..20),
        "in order: {returned:?}"
    );
    // One, then as many again in each second, evenly spread.
    let at: Vec<u128> = returned.iter().map(|(_, at)| at.as_millis()).collect();
    assert_eq!(
        at[..8],
        [2_000, 3_000, 3_500, 4_000, 4_250, 4_500, 4_750, 5_000]
    );
    assert!(at.is_sorted() && at.iter().collect::<std::collections::HashSet<_>>().len() == 20);
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_too_late_in_the_line_is_told_so_at_once() {
    let (model, log) = (two_seconds(), Log::default());
    let service = limited(&model, 4 * SECOND, &log).await;
    let start = Instant::now();
    let answers = join_all((0..20).map(|_| {
        let call = service.clone().oneshot(request());
        async move { (call.await, Instant::now() - start) }
    }))
    .await;
    let (sent, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(a, _)| a.is_ok());
    // At 2, 3, 3.5 and 4 seconds.
    assert_eq!(sent.len(), 4);
    for (answer, at) in refused {
        let error = answer.expect_err("refused");
        let wait = outcome_of(&*error).retry_after().expect("honest").delay;
        assert_eq!(at, Duration::ZERO, "at once");
        assert!(wait > 4 * SECOND, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_left_goes_to_the_next() {
    let (model, log) = (two_seconds(), Log::default());
    let service = limited(&model, 60 * SECOND, &log).await;
    let start = Instant::now();
    let mut waiting: Vec<_> = (0..6)
        .map(|_| task::spawn(service.clone().oneshot(request())))
        .collect();
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    // The first, who sleeps, and one in the middle, who queues.
    drop(waiting.remove(3));
    drop(waiting.remove(0));
    let returned = join_all(waiting.into_iter().map(|call| async move {
        assert!(call.into_inner().await.is_ok());
        (Instant::now() - start).as_millis()
    }))
    .await;
    assert_eq!(returned, [2_000, 3_000, 3_500, 4_000]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_during_the_return_sends_those_who_wait_away() {
    let model = Model::script([refusal(Some(2), "slow"), refusal(Some(50), "slow")]);
    let log = Log::default();
    let service = limited(&model, 10 * SECOND, &log).await;
    let start = Instant::now();
    let answers = join_all((0..10).map(|_| {
        let call = service.clone().oneshot(request());
        async move { (call.await, Instant::now() - start) }
    }))
    .await;
    assert_eq!(model.asked(), 2, "only the first returned");
    for (answer, at) in &answers[1..] {
        let error = answer.as_ref().expect_err("sent away");
        let wait = outcome_of(&**error).retry_after().expect("honest").delay;
        assert_eq!(*at, 2 * SECOND, "as soon as it is known");
        assert!(wait >= 50 * SECOND, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_lets_those_who_wait_through() {
    let (model, log) = (two_seconds(), Log::default());
    let layer = RateLimitLayer::builder("a", TestClassify)
        .observe(log)
        .wait_up_to(10 * SECOND)
        .build()
        .expect("valid");
    let service = layer.layer(model.clone());
    service.clone().oneshot(request()).await.expect("sent");
    let mut waiting: Vec<_> = (0..5)
        .map(|_| task::spawn(service.clone().oneshot(request())))
        .collect();
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    layer.handle().reset();
    let start = Instant::now();
    for call in waiting {
        assert!(call.into_inner().await.is_ok());
    }
    assert_eq!(Instant::now(), start);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_inner_service_is_held_while_waiting() {
    let (model, permits) = (two_seconds(), Arc::new(Semaphore::new(1)));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let layer = RateLimitLayer::builder("a", TestClassify)
        .wait_up_to(10 * SECOND)
        .build()
        .expect("valid");
    let mut service = layer.layer(inner);
    // Made ready before the limit is noticed, so that it holds the permit.
    let mut early = service.clone();
    let refused = service.ready().await.expect("ready").call(request()).await;
    assert_eq!(refused.expect("sent").status(), 429);
    assert_eq!(permits.available_permits(), 1);

    let ready = early.ready().await;
    let mut call = task::spawn(ready.expect("ready at once").call(request()));
    assert_pending!(call.poll());
    assert_eq!(permits.available_permits(), 1, "waits without a permit");
    drop(call);
    assert_eq!(permits.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn readiness_that_is_not_used_is_given_back() {
    let (model, permits) = (two_seconds(), Arc::new(Semaphore::new(2)));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let service = RateLimitLayer::new("a", TestClassify).layer(inner);
    let (mut ready, mut other) = (service.clone(), service);
    ready.ready().await.expect("ready");
    let refused = other.ready().await.expect("ready").call(request()).await;
    assert_eq!(refused.expect("sent").status(), 429);
    assert_eq!(
        permits.available_permits(),
        1,
        "one is held by the ready one"
    );
    let refused = ready.call(request());
    assert_eq!(permits.available_permits(), 2, "given back at once");
    assert!(refused.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_place_in_the_line_of_the_inner_service_is_given_back_when_a_limit_comes() {
    let (model, permits) = (two_seconds(), Arc::new(Semaphore::new(1)));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let mut service = RateLimitLayer::new("a", TestClassify).layer(inner);
    let mut lined_up = service.clone();
    service.ready().await.expect("ready");
    let mut ready = task::spawn(());
    let mut poll_ready =
        |service: &mut _| ready.enter(|cx, _| Service::<Request<Body>>::poll_ready(service, cx));
    assert_pending!(poll_ready(&mut lined_up));

    assert_eq!(service.call(request()).await.expect("sent").status(), 429);
    assert_ready!(poll_ready(&mut lined_up)).expect("limited");
    assert_eq!(permits.available_permits(), 1, "it waits for none");
    assert!(lined_up.call(request()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn once_ready_it_stays_ready_until_it_is_called() {
    let (model, permits) = (two_seconds(), Arc::new(Semaphore::new(1)));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let layer = RateLimitLayer::new("a", TestClassify);
    let service = layer.layer(inner);
    service.clone().oneshot(request()).await.expect("refused");
    let _busy = permits.acquire().await.expect("open");
    let mut ready = service.clone();
    for limited in [true, false] {
        let mut polled = task::spawn(());
        let polled = polled.enter(|cx, _| Service::<Request<Body>>::poll_ready(&mut ready, cx));
        assert_ready!(polled, "{limited}").expect("ready");
        layer.handle().reset();
    }
}

/// A limit that comes when the turn has come sends it back into the line, with empty hands.
#[tokio::test(start_paused = true)]
async fn nothing_is_held_when_it_waits_once_more() {
    let model = Model::script([refusal(Some(2), "slow"), refusal(Some(3), "slow")]);
    let permits = Arc::new(Semaphore::new(1));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let service = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .ramp(Duration::ZERO)
        .wait_up_to(10 * SECOND)
        .build()
        .expect("valid")
        .layer(inner);
    service.clone().oneshot(request()).await.expect("refused");
    tokio::time::advance(2 * SECOND).await;
    let busy = permits.clone().acquire_owned().await.expect("open");
    let mut calls: Vec<_> = (0..2)
        .map(|_| task::spawn(service.clone().oneshot(request())))
        .collect();
    for call in &mut calls {
        assert_pending!(call.poll(), "the service is busy");
    }
    drop(busy);
    let refused = assert_ready!(calls[0].poll()).expect("sent");
    assert_eq!(refused.status(), 429);
    assert_pending!(calls[1].poll(), "it waits for the new limit");
    assert_eq!(permits.available_permits(), 1);
    let start = Instant::now();
    let answer = calls.remove(1).into_inner().await.expect("sent");
    assert_eq!(answer.status(), 200);
    assert_eq!(Instant::now() - start, 3 * SECOND);
}

/// While it is limited it is ready without the inner service. When the limit ends before the call,
/// the inner service has not been asked yet, and it must not be called like that.
#[tokio::test(start_paused = true)]
async fn a_limit_that_ends_between_ready_and_call_leaves_the_inner_service_to_be_asked() {
    let model = two_seconds();
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(model.clone());
    let layer = RateLimitLayer::new("a", TestClassify);
    let mut service = layer.layer(inner);
    let refused = service.ready().await.expect("ready").call(request()).await;
    assert_eq!(refused.expect("sent").status(), 429);

    service.ready().await.expect("ready at once");
    assert_eq!(model.readied(), 1, "without the inner service");
    layer.handle().reset();
    // A concurrency limit panics when it is called without being ready.
    let answer = service.call(request()).await.expect("sent");
    assert_eq!(answer.status(), 200);
    assert_eq!(model.readied(), 2);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_poll_it_leaves_nothing_behind() {
    // A call of each kind: sent, refused, waiting; the inner service is ready after two polls.
    for polls in 0..6 {
        let (model, permits) = (two_seconds(), Arc::new(Semaphore::new(1)));
        let inner = ServiceBuilder::new()
            .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
                Arc::clone(&permits),
            ))
            .service(model.clone());
        let layer = RateLimitLayer::builder("a", TestClassify)
            .jitter(0.0)
            .wait_up_to(10 * SECOND)
            .build()
            .expect("valid");
        let service = layer.layer(inner);
        service.clone().oneshot(request()).await.expect("refused");

        let busy = permits.clone().acquire_owned().await.expect("open");
        let mut busy = Some(busy);
        let mut call = task::spawn(service.clone().oneshot(request()));
        for poll in 0..polls {
            // Waiting in line, then for readiness, then sent.
            if poll == 3 {
                busy = None;
            }
            if call.poll().is_ready() {
                break;
            }
            tokio::time::advance(SECOND).await;
        }
        drop(call);
        drop(busy);
        assert_eq!(permits.available_permits(), 1, "after {polls} polls");
        tokio::time::advance(5 * SECOND).await;
        // Nobody is in line and no place is lost: the next goes at once.
        let mut next = task::spawn(service.oneshot(request()));
        let answer = assert_ready!(next.poll(), "after {polls} polls");
        assert_eq!(answer.expect("sent").status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_given_back_after_the_wait_is_used_by_the_next() {
    // The inner service is not ready when the turn comes, and the caller leaves.
    let (model, permits) = (two_seconds(), Arc::new(Semaphore::new(1)));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let log = Log::default();
    let service = RateLimitLayer::builder("a", TestClassify)
        .observe(log.clone())
        .jitter(0.0)
        .wait_up_to(10 * SECOND)
        .build()
        .expect("valid")
        .layer(inner);
    service.clone().oneshot(request()).await.expect("refused");
    let busy = permits.clone().acquire_owned().await.expect("open");
    let mut first = task::spawn(service.clone().oneshot(request()));
    assert_pending!(first.poll());
    tokio::time::advance(2 * SECOND).await;
    assert_pending!(first.poll(), "its turn, but the service is busy");
    drop(first);
    drop(busy);
    let mut second = task::spawn(service.oneshot(request()));
    let Poll::Ready(answer) = second.poll() else {
        panic!("the first place is free again");
    };
    assert_eq!(answer.expect("sent").status(), 200);
    assert_eq!(log.count("released"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_limit_noticed_while_the_service_is_not_ready_holds() {
    // Three requests are let through after the limit; the service takes one at a time.
    let model = Model::script([refusal(Some(2), "slow"), refusal(Some(50), "slow")]);
    let permits = Arc::new(Semaphore::new(1));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&permits),
        ))
        .service(model.clone());
    let service = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .ramp(Duration::ZERO)
        .build()
        .expect("valid")
        .layer(inner);
    service.clone().oneshot(request()).await.expect("refused");
    tokio::time::advance(2 * SECOND).await;
    let busy = permits.clone().acquire_owned().await.expect("open");
    let mut calls: Vec<_> = (0..3)
        .map(|_| task::spawn(service.clone().oneshot(request())))
        .collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    drop(busy);
    let answers = join_all(calls.into_iter().map(task::Spawn::into_inner)).await;
    assert_eq!(model.asked(), 2, "the second refusal stops the others");
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    assert_eq!(refused, 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_left_the_line_is_not_waited_for() {
    let (model, log) = (two_seconds(), Log::default());
    // There is time for two: at two and at three seconds.
    let service = limited(&model, 3 * SECOND, &log).await;
    let line_up = || task::spawn(service.clone().oneshot(request()));
    let mut waiting = [line_up(), line_up()];
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    assert!(assert_ready!(line_up().poll()).is_err(), "too late");
    drop(waiting);
    let mut next = [line_up(), line_up()];
    for call in &mut next {
        assert_pending!(call.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_wakes_in_vain() {
    let (model, log) = (two_seconds(), Log::default());
    let service = limited(&model, 60 * SECOND, &log).await;
    let mut waiting: Vec<_> = (0..10)
        .map(|_| task::spawn(service.clone().oneshot(request())))
        .collect();
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    tokio::time::advance(2 * SECOND).await;
    let woken: Vec<bool> = waiting.iter().map(task::Spawn::is_woken).collect();
    assert!(woken[0] && !woken[1..].contains(&true), "{woken:?}");
    assert!(assert_ready!(waiting[0].poll()).is_ok());
    assert!(waiting[1].is_woken() && !waiting[2].is_woken());
}

#[tokio::test(start_paused = true)]
async fn those_who_sleep_hear_of_a_refusal_when_it_comes() {
    let model = Model::script([refusal(Some(2), "slow"), refusal(Some(50), "slow")]);
    let slow = service_fn(move |request| {
        let answer = model.clone().oneshot(request);
        async move {
            sleep(SECOND / 2).await;
            answer.await
        }
    });
    let service = RateLimitLayer::builder("a", TestClassify)
        .jitter(0.0)
        .wait_up_to(10 * SECOND)
        .build()
        .expect("valid")
        .layer(slow);
    service.clone().oneshot(request()).await.expect("refused");
    let start = Instant::now();
    let answers = join_all((0..3).map(|_| {
        let call = service.clone().oneshot(request());
        async move { (call.await.is_ok(), (Instant::now() - start).as_millis()) }
    }))
    .await;
    assert_eq!(answers, [(true, 2_500), (false, 2_500), (false, 2_500)]);
}
