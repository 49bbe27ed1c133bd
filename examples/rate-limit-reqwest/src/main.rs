//! The rate-limit detector alone, around a reqwest client.
//!
//! A `reqwest::Client` is a tower service already; two mappings make its requests and responses
//! those of the `http` crate, which the layer and its classifier read. Outermost, errors become
//! answers in the caller's dialect: what the layer answers in the model's stead is a 429 with an
//! honest `retry-after`.
//!
//! Run it with `cargo run -p example-rate-limit-reqwest`; it starts a model of its own that refuses
//! the first request for two seconds.

use std::time::Duration;

use backstop_core::{BoxError, RetargetLayer};
use backstop_rate_limit::{ConfigError, RateLimitLayer};
use backstop_testkit::model::{Model, Refusal, Reply};
use backstop_wire::{ClassifyHttp, Dialect, Provider, answer::AnswerLayer};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt};

/// The layer for one target. A limit of up to `wait_up_to` is waited out.
fn limits(wait_up_to: Duration) -> Result<RateLimitLayer<ClassifyHttp>, ConfigError> {
    let classify = ClassifyHttp::new(Dialect::OpenAiChat).provider(Provider::OpenAi);
    RateLimitLayer::builder("openai", classify)
        .wait_up_to(wait_up_to)
        .build()
}

/// The client behind the layer.
fn stack(
    client: reqwest::Client,
    limits: RateLimitLayer<ClassifyHttp>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>>>,
    Error: Into<BoxError>,
> + Clone {
    ServiceBuilder::new()
        .layer(AnswerLayer::new(Dialect::OpenAiChat))
        .layer(limits)
        .map_response(Response::<reqwest::Body>::from)
        .layer(RetargetLayer::new(|request: Request<Full<Bytes>>| {
            Ok(request.map(reqwest::Body::wrap).try_into()?)
        }))
        .service(client)
}

/// Asks once, and reads the whole answer.
async fn ask<S, B>(service: S, url: &str) -> Result<(StatusCode, HeaderMap, Bytes), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Into<BoxError>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let question = r#"{"model":"gpt","messages":[{"role":"user","content":"Hello"}]}"#;
    let request = Request::post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(Full::from(question))?;
    let (head, body) = service
        .oneshot(request)
        .await
        .map_err(Into::into)?
        .into_parts();
    let body = body.collect().await.map_err(Into::into)?;
    Ok((head.status, head.headers, body.to_bytes()))
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what happens")]
async fn main() -> Result<(), BoxError> {
    let model = Model::start("gpt").await?;
    model.push(Reply::refuse(Refusal::RateLimited).header("retry-after", "2"));
    let url = model.base_url();
    let limits = limits(Duration::from_secs(5))?;
    let handle = limits.handle();
    let service = stack(reqwest::Client::new(), limits);
    let (status, ..) = ask(service.clone(), &url).await?;
    println!("The model says {status}.");
    let (status, ..) = ask(service.clone(), &url).await?;
    println!("The next request waits for it and gets {status}.");

    model.push(Reply::refuse(Refusal::RateLimited).header("retry-after", "30"));
    handle.reset();
    let (status, ..) = ask(service.clone(), &url).await?;
    println!("The model says {status} again, for longer.");
    let (status, headers, body) = ask(service, &url).await?;
    let wait = headers
        .get("retry-after")
        .and_then(|wait| wait.to_str().ok());
    println!(
        "The next request is answered here: {status}, retry-after: {}",
        wait.unwrap_or("none")
    );
    println!("{}", String::from_utf8_lossy(&body));
    println!("Known limits: {:?}", handle.limits());
    println!("The model was asked {} times.", model.log().len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over a real socket, so without paused time and without waiting for anything.
    #[tokio::test]
    async fn a_limited_model_is_left_alone() {
        let model = Model::start("gpt").await.expect("a port");
        model.push(Reply::refuse(Refusal::RateLimited).header("retry-after", "30"));
        let url = model.base_url();
        let limits = limits(Duration::from_secs(1)).expect("valid");
        let handle = limits.handle();
        let service = stack(reqwest::Client::new(), limits);
        let (status, ..) = ask(service.clone(), &url).await.expect("an answer");
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        for _ in 0..10 {
            let (status, headers, _) = ask(service.clone(), &url).await.expect("an answer");
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
            let wait = headers["retry-after"].to_str().expect("text");
            assert!(wait.parse::<u64>().is_ok_and(|wait| wait <= 33), "{wait}");
        }
        assert_eq!(model.log().len(), 1);
        handle.reset();
        let (status, ..) = ask(service, &url).await.expect("an answer");
        assert_eq!(status, StatusCode::OK);
    }
}
