//! A failover of two models inside an axum service.
//!
//! Two scripted models stand in for providers: the first is overloaded, the second answers. The route
//! `/v1/chat/completions` is a stack of backstop's layers around a hyper client, and an official SDK
//! could ask it. The program asks it once and prints what came.
//!
//! ```sh
//! cargo run -p example-failover-axum
//! ```

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use std::time::Duration;

use axum::{Router, body::Body, routing::post_service};
use backstop::{
    core::{BoxError, RetargetLayer, Served, Trace, body::Replayable},
    failover::{Failover, Target},
    rate_limit::RateLimitLayer,
    timeout::{Limits, TimeoutLayer},
    wire::{ClassifyHttp, Dialect, answer::AnswerLayer, retarget::HttpTarget},
};
use backstop_testkit::model::{Model, Reply};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let large = Model::start("large").await?;
    large.always(Reply::status(529));
    let small = Model::start("small").await?;

    let client = Client::builder(TokioExecutor::new()).build_http::<Replayable<Body>>();
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let limits = Limits::default().first_token(Duration::from_secs(10));
    let timeout = TimeoutLayer::new(limits)?.classify(classify);
    let target = |name: &'static str, model: &Model| -> Result<_, BoxError> {
        // The address, the model's name and, in earnest, the key that this target is asked with.
        let to = HttpTarget::new(name, Dialect::OpenAiChat, model.base_url().parse()?)?.model(name);
        let service = ServiceBuilder::new()
            .layer(RetargetLayer::new(to))
            .layer(RateLimitLayer::new(name, classify))
            .layer(timeout.clone())
            .service(client.clone());
        Ok(Target::new(name, BoxCloneSyncService::new(service)))
    };
    let failover = Failover::builder(classify)
        .deadline(Duration::from_secs(60))
        .build(vec![target("large", &large)?, target("small", &small)?])?;
    let chat = ServiceBuilder::new()
        .layer(AnswerLayer::new(Dialect::OpenAiChat))
        .service(failover)
        .map_response(|response: http::Response<_>| {
            if let Some(served) = response.extensions().get::<Served>() {
                println!("answered by {} ({})", served.target, served.mode.as_str());
            }
            // The answer to a call that nobody answered has it too.
            if let Some(trace) = Trace::of(response.extensions()) {
                println!("tried: {trace}");
            }
            response
        });
    let app = Router::new().route("/v1/chat/completions", post_service(chat));

    let question = r#"{"model":"chat","messages":[{"role":"user","content":"Hello?"}]}"#;
    let request = http::Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Body::from(question))?;
    let response = app.oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    println!("{status}: {}", String::from_utf8_lossy(&body));
    println!(
        "asked: large {}, small {}",
        large.log().len(),
        small.log().len()
    );
    Ok(())
}
