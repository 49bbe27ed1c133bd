//! The rate-limit detector around a service of one's own request and response types.
//!
//! Many programs call a model through a client library, with types and errors of its own. The layer
//! needs to be told two things: what an error means, here by a [`Classify`], and by what the limits
//! are told apart, here by the model and the tenant's key.
//!
//! Run it with `cargo run -p example-rate-limit-typed`.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backstop_core::{
    BoxError, Classify, Event, HintSource, Kind, Observer, Outcome, Typed, Unstreamed, Verdict,
    outcome_of,
};
use backstop_rate_limit::{Key, RateLimitLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A question to a model, asked for a tenant.
#[derive(Clone, Debug)]
struct Question {
    model: &'static str,
    tenant: &'static str,
}

/// How the client library says that it was refused.
#[derive(Clone, Copy, Debug)]
enum ClientError {
    TooManyRequests { retry_in: Duration },
}

/// Knows the client library's errors.
#[derive(Clone, Copy, Debug)]
struct ClassifyClient;

/// Prints what the layer does.
#[derive(Clone, Copy, Debug)]
struct Print;

impl Classify<Question, String> for ClassifyClient {
    type Call = ();
    type Stream = Unstreamed;

    fn on_request(&self, _: &Question) {}

    fn on_response(&self, (): &(), _: &String) -> Verdict<Unstreamed> {
        Verdict::Now(Outcome::success())
    }

    fn on_error(&self, (): &(), error: &(dyn Error + 'static)) -> Outcome {
        match error.downcast_ref() {
            Some(ClientError::TooManyRequests { retry_in }) => Outcome::new(Kind::Throttled)
                .with_retry_after(*retry_in, HintSource::Body)
                .with_evidence("an error of the client library"),
            None => outcome_of(error),
        }
    }
}

impl Observer for Print {
    #[expect(clippy::print_stdout, reason = "an example shows what happens")]
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::LimitNoticed { outcome, wait, .. } => {
                println!("  noticed: {outcome}; kept away for {wait:.1?}");
            }
            Event::AnsweredLocally { outcome, .. } => println!("  answered here: {outcome}"),
            Event::Waited { took, .. } => println!("  waited {took:.1?}"),
            Event::LimitReleased { scope, .. } => println!("  released: {scope}"),
            _ => {}
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRequests { .. } => f.write_str("too many requests"),
        }
    }
}

impl Error for ClientError {}

/// A model that refuses the first question of all, and counts them.
fn model(
    asked: Arc<AtomicU32>,
) -> impl Service<Question, Response = String, Error = ClientError, Future: Send> + Clone {
    service_fn(move |question: Question| {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                let retry_in = Duration::from_secs(2);
                return Err(ClientError::TooManyRequests { retry_in });
            }
            Ok(format!("{} answers {}", question.model, question.tenant))
        }
    })
}

/// The model behind the layer. A limit of up to `wait_up_to` is waited out.
fn stack(
    asked: Arc<AtomicU32>,
    wait_up_to: Duration,
) -> Result<impl Service<Question, Response = String, Error = BoxError> + Clone, BoxError> {
    let layer = RateLimitLayer::builder("models", ClassifyClient)
        .protocol::<Typed>()
        .key_by(|question: &Question| {
            Some(Key::credential(question.tenant).with_model(question.model))
        })
        .wait_up_to(wait_up_to)
        .observe(Print)
        .build()?;
    Ok(layer.layer(model(asked)))
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what happens")]
async fn main() -> Result<(), BoxError> {
    let asked = Arc::new(AtomicU32::new(0));
    let models = stack(Arc::clone(&asked), Duration::from_secs(3))?;
    let questions = [
        ("large", "alice"),
        ("small", "alice"),
        ("large", "bob"),
        ("large", "alice"),
    ];
    for (model, tenant) in questions {
        println!("{tenant} asks {model}:");
        match models.clone().oneshot(Question { model, tenant }).await {
            Ok(answer) => println!("  {answer}"),
            Err(error) => println!("  {error}"),
        }
    }
    println!(
        "The model was asked {} times.",
        asked.load(Ordering::Relaxed)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const ALICE: Question = Question {
        model: "large",
        tenant: "alice",
    };

    #[tokio::test(start_paused = true)]
    async fn a_typed_error_is_understood_and_remembered_for_its_key() {
        let asked = Arc::new(AtomicU32::new(0));
        let models = stack(Arc::clone(&asked), Duration::from_millis(1)).expect("valid");
        let error = models.clone().oneshot(ALICE).await.expect_err("refused");
        assert!(error.is::<ClientError>(), "the client's own error");
        let error = models
            .clone()
            .oneshot(ALICE)
            .await
            .expect_err("answered here");
        assert_eq!(outcome_of(&*error).kind(), Kind::Throttled);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let other = Question {
            tenant: "bob",
            ..ALICE
        };
        assert!(models.oneshot(other).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_limit_is_waited_out() {
        let models = stack(Arc::default(), Duration::from_secs(3)).expect("valid");
        let start = Instant::now();
        assert!(models.clone().oneshot(ALICE).await.is_err());
        assert!(models.oneshot(ALICE).await.is_ok());
        let waited = Instant::now().saturating_duration_since(start);
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(3));
    }
}
