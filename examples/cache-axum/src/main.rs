//! A cached fallback around a failover of two models, inside an axum service.
//!
//! While the models answer, whole answers are kept. When none can, a caller who asked the same before
//! gets the earlier answer, marked as stale, and everybody else a text that the operator wrote. Run it
//! with
//!
//! ```sh
//! cargo run -p example-cache-axum
//! ```
//!
//! It starts two scripted models and lets both be overloaded after the first question.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    response::{IntoResponse, Response},
    routing::post_service,
};
use backstop::{
    cache::{
        CacheConfig, CachedFallbackLayer, KeySecret, MemoryStore, ProducedBy, SimplifiedAnswer,
        Tenant,
    },
    core::{BoxError, Event, FrozenRequest, Observer, RetargetLayer, Served},
    failover::{Failover, Target},
    timeout::{Limits, TimeoutLayer},
    wire::{
        ClassifyHttp, Dialect, answer::AnswerLayer, recorder::HttpRecorder, retarget::HttpTarget,
    },
};
use backstop_testkit::model::{Model, Reply};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{AGE, AUTHORIZATION, CONTENT_TYPE},
};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::sync::Notify;
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

const DIALECT: Dialect = Dialect::OpenAiChat;
/// The layers tell who answered by an extension; which header says so is for the program to choose.
const MODE: HeaderName = HeaderName::from_static("x-answered");

/// Tells when an answer was kept, which happens after its end and off the caller's path.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Notify>);

impl Observer for Kept {
    fn on_event(&self, event: &Event<'_>) {
        if let Event::StoreDecided { decision: "stored" } = event {
            self.0.notify_one();
        }
    }
}

/// The models behind failover, behind the cache, behind the route.
fn app(models: &[&Model], kept: Kept) -> Result<Router, BoxError> {
    // The cache keeps the request to recognise it, failover to send it again: the type of the body
    // has two `Replayable` around axum's, and is found out by the compiler.
    let client = Client::builder(TokioExecutor::new()).build_http();
    let classify = ClassifyHttp::new(DIALECT);
    let timeout = TimeoutLayer::new(Limits::default())?.classify(classify);
    let target = |model: &&Model| -> Result<_, BoxError> {
        let name = model.scripted().name();
        let to = HttpTarget::new(name, DIALECT, model.base_url().parse()?)?.model(name);
        let service = ServiceBuilder::new()
            .layer(RetargetLayer::new(to))
            .layer(timeout.clone())
            .service(client.clone());
        Ok(Target::new(name, BoxCloneSyncService::new(service)))
    };
    let targets = models.iter().map(target).collect::<Result<_, _>>()?;
    let failover = Failover::builder(classify).build(targets)?;

    let mut config = CacheConfig::default();
    config.simplified = Some(SimplifiedAnswer::new(
        "No model can answer now ({outcome}). Try again in {retry_after}.",
    ));
    // A store keeps what it has for as long as it may be served.
    let store = MemoryStore::new(
        MemoryStore::DEFAULT_MAX_BYTES,
        config.fresh_for + config.stale_if_error,
    );
    let cache = CachedFallbackLayer::new(
        config,
        store,
        KeySecret::random()?,
        // The targets by name, with the model that each is asked for.
        models.iter().map(|model| {
            let name = model.scripted().name();
            ProducedBy::new(name, name)
        }),
        // Whose a request is. Callers of one tenant see each other's answers.
        |request: &FrozenRequest| {
            let key = request.parts().headers.get(AUTHORIZATION)?;
            Some(Tenant::new(key.as_bytes()))
        },
        HttpRecorder::new(DIALECT).ok_or("a dialect that can be kept")?,
        classify,
    )?;
    let chat = ServiceBuilder::new()
        .layer(AnswerLayer::new(DIALECT))
        .layer(cache.observer(kept))
        .service(failover)
        .map_response(|response: http::Response<_>| {
            let mut response = response.into_response();
            if let Some(served) = response.extensions().get::<Served>() {
                let mode = HeaderValue::from_static(served.mode.as_str());
                response.headers_mut().insert(MODE, mode);
            }
            response
        });
    Ok(Router::new().route("/v1/chat/completions", post_service(chat)))
}

/// Asks as this caller, and reads the whole answer.
async fn ask(app: &Router, caller: &str) -> Result<(StatusCode, HeaderMap, Bytes), BoxError> {
    let question = r#"{"model":"chat","messages":[{"role":"user","content":"Hello?"}]}"#;
    let request = Request::post("/v1/chat/completions")
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Bearer {caller}"))
        .body(Body::from(question))?;
    let response: Response = app.clone().oneshot(request).await?;
    let (head, body) = response.into_parts();
    Ok((head.status, head.headers, body.collect().await?.to_bytes()))
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what happens")]
async fn main() -> Result<(), BoxError> {
    let large = Model::start("large").await?;
    let small = Model::start("small").await?;
    let kept = Kept::default();
    let app = app(&[&large, &small], kept.clone())?;
    let print = |who: &str, (status, headers, body): (StatusCode, HeaderMap, Bytes)| {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let mode = text(MODE).unwrap_or("nobody");
        let age = text(AGE).map(|age| format!(", {age} s old"));
        println!("{who}: {status}, {mode}{}", age.unwrap_or_default());
        println!("  {}", String::from_utf8_lossy(&body));
    };

    print("alice", ask(&app, "alice").await?);
    kept.0.notified().await;
    large.always(Reply::status(529));
    small.always(Reply::status(529));
    print("alice, in the outage", ask(&app, "alice").await?);
    print("bob, in the outage", ask(&app, "bob").await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Over a real socket, so without paused time and without waiting for anything but the store.
    #[tokio::test]
    async fn an_earlier_answer_is_given_to_the_one_who_got_it() {
        let large = Model::start("large").await.expect("a port");
        let small = Model::start("small").await.expect("a port");
        large.always(Reply::status(529));
        let kept = Kept::default();
        let app = app(&[&large, &small], kept.clone()).expect("valid");

        // The backup's answers are kept as well.
        let (status, headers, first) = ask(&app, "alice").await.expect("an answer");
        assert_eq!(
            (status, &headers[MODE]),
            (StatusCode::OK, &HeaderValue::from_static("failover"))
        );
        assert!(!headers.contains_key(AGE));
        tokio::time::timeout(Duration::from_secs(10), kept.0.notified())
            .await
            .expect("the answer is kept");
        small.always(Reply::status(529));

        let (status, headers, again) = ask(&app, "alice").await.expect("an answer");
        assert_eq!(
            (status, &headers[MODE]),
            (StatusCode::OK, &HeaderValue::from_static("stale"))
        );
        assert!(headers.contains_key(AGE));
        let text = |body: &Bytes| String::from_utf8_lossy(body).contains(small.text());
        assert!(text(&first) && text(&again), "{again:?}");

        let (_, headers, other) = ask(&app, "bob").await.expect("an answer");
        assert_eq!(headers[MODE], "simplified");
        assert!(!text(&other), "{other:?}");
    }
}
