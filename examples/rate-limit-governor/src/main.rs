//! Limits of one's own, by governor, in one stack with those of the provider.
//!
//! Backstop notices the limits that a *provider* enforces. How much of them a tenant may use is for
//! the program to say, and governor is good at that. Its place is outside: a request that is over
//! its own budget must not count as a refusal of the model.
//!
//! Run it with `cargo run -p example-rate-limit-governor`.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{
    BoxError, ClassifyErrors, Failure, HintSource, Kind, Outcome, Scope, Typed, outcome_of,
};
use backstop_rate_limit::{RateLimitHandle, RateLimitLayer};
use futures_util::future::{Either, Ready, ready};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

/// A tenant's question.
#[derive(Clone, Copy, Debug)]
struct Question {
    tenant: &'static str,
}

/// Lets each tenant send so many requests a minute.
#[derive(Clone, Debug)]
struct TenantLayer {
    limiter: Arc<DefaultKeyedRateLimiter<&'static str>>,
}

/// The service of a [`TenantLayer`].
#[derive(Clone, Debug)]
struct Tenants<S> {
    limiter: Arc<DefaultKeyedRateLimiter<&'static str>>,
    inner: S,
}

type Refused<T> = Ready<Result<T, BoxError>>;

impl TenantLayer {
    fn per_minute(requests: NonZeroU32) -> Self {
        Self {
            limiter: Arc::new(RateLimiter::keyed(Quota::per_minute(requests))),
        }
    }
}

impl<S> Layer<S> for TenantLayer {
    type Service = Tenants<S>;

    fn layer(&self, inner: S) -> Tenants<S> {
        Tenants {
            limiter: Arc::clone(&self.limiter),
            inner,
        }
    }
}

impl<S> Service<Question> for Tenants<S>
where
    S: Service<Question, Error = BoxError> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Refused<S::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, question: Question) -> Self::Future {
        let Err(over) = self.limiter.check_key(&question.tenant) else {
            return Either::Left(self.inner.call(question));
        };
        // What the inner service holds for this request is given back.
        self.inner = self.inner.clone();
        let wait = over.wait_time_from(DefaultClock::default().now());
        // The same words as for a provider's limit, and the scope of the request: whoever is
        // outside benches nothing for it.
        let outcome = Outcome::new(Kind::Throttled)
            .with_scope(Scope::Request)
            .with_fail_over(false)
            .with_retry_after(wait, HintSource::Local)
            .with_evidence("the tenant's own budget");
        Either::Right(ready(Err(Failure::new(outcome).into())))
    }
}

/// The tenant's budget outside, the provider's limits inside, and a model that refuses its third
/// question.
fn stack(
    requests: NonZeroU32,
    asked: Arc<AtomicU32>,
) -> Result<
    (
        impl Service<Question, Response = String, Error = BoxError> + Clone,
        RateLimitHandle,
    ),
    BoxError,
> {
    let model = service_fn(move |question: Question| {
        let third = asked.fetch_add(1, Ordering::Relaxed) == 2;
        async move {
            if third {
                let outcome = Outcome::new(Kind::Throttled)
                    .with_retry_after(Duration::from_secs(20), HintSource::RetryAfter);
                return Err(Failure::new(outcome));
            }
            Ok(format!("answered {}", question.tenant))
        }
    });
    let limits = RateLimitLayer::builder("model", ClassifyErrors)
        .protocol::<Typed>()
        .build()?;
    let handle = limits.handle();
    let service = ServiceBuilder::new()
        .layer(TenantLayer::per_minute(requests))
        .layer(limits)
        .service(model);
    Ok((service, handle))
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what happens")]
async fn main() -> Result<(), BoxError> {
    let asked = Arc::new(AtomicU32::new(0));
    let budget = NonZeroU32::new(2).ok_or("zero")?;
    let (service, handle) = stack(budget, Arc::clone(&asked))?;
    for tenant in ["alice", "alice", "alice", "bob", "bob"] {
        match service.clone().oneshot(Question { tenant }).await {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{tenant}: {}", outcome_of(&*error)),
        }
        println!("  limits of the model: {}", handle.limits().len());
    }
    println!(
        "The model was asked {} times.",
        asked.load(Ordering::Relaxed)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenants_budget_is_no_limit_of_the_model() {
        let asked = Arc::new(AtomicU32::new(0));
        let budget = NonZeroU32::new(2).expect("not zero");
        let (service, handle) = stack(budget, Arc::clone(&asked)).expect("valid");
        let ask = |tenant| service.clone().oneshot(Question { tenant });
        for _ in 0..2 {
            assert!(ask("alice").await.is_ok());
        }
        let error = ask("alice").await.expect_err("over budget");
        assert_eq!(outcome_of(&*error).scope(), Scope::Request);
        assert!(handle.limits().is_empty());
        assert_eq!(asked.load(Ordering::Relaxed), 2);

        assert!(ask("bob").await.is_err(), "refused by the model");
        assert_eq!(handle.limits().len(), 1);
        let error = ask("bob").await.expect_err("answered here");
        assert_eq!(outcome_of(&*error).scope(), Scope::Model);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }
}
