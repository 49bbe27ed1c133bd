//! Time limits on a service of one's own request and response types.
//!
//! Many programs call a model through a client library, not through HTTP of their own. The layer is
//! the same; only what it asks of a request and a response is answered in another way. With
//! `.protocol::<Typed>()` any types will do. A program whose requests carry a deadline or limits of
//! their own says where, as [`Chat`] does here.
//!
//! Run it with `cargo run -p example-timeout-typed`.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use backstop_core::{Deadline, NoBody, Requests, Responses, outcome_of};
use backstop_timeout::{ConfigError, Limits, TimeoutLayer};
use http::Extensions;
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer, Service, ServiceExt, util::BoxCloneSyncService};

/// A question to the model.
#[derive(Clone, Debug, Default)]
struct ChatRequest {
    prompt: String,
    /// What the program tells its layers about this request.
    extensions: Extensions,
}

/// The model's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ChatResponse {
    text: String,
}

/// How the layers read this program's requests and responses.
#[derive(Clone, Copy, Debug)]
struct Chat;

impl Requests<ChatRequest> for Chat {
    fn extensions(request: &ChatRequest) -> Option<&Extensions> {
        Some(&request.extensions)
    }

    fn extensions_mut(request: &mut ChatRequest) -> Option<&mut Extensions> {
        Some(&mut request.extensions)
    }

    fn size(request: &ChatRequest) -> Option<u64> {
        u64::try_from(request.prompt.len()).ok()
    }
}

/// A response is whole when it arrives.
impl Responses<ChatResponse> for Chat {
    type Head = ChatResponse;
    type Body = NoBody;
    type With<B> = ChatResponse;

    fn split(response: ChatResponse) -> (ChatResponse, Option<NoBody>) {
        (response, None)
    }

    fn join<B>(head: ChatResponse, _: Option<B>) -> ChatResponse {
        head
    }

    fn extensions(_: &ChatResponse) -> Option<&Extensions> {
        None
    }

    fn extensions_mut(_: &mut ChatResponse) -> Option<&mut Extensions> {
        None
    }

    fn mark_final(_: &mut ChatResponse) {}
}

/// A model that thinks for a second per word of the prompt.
#[derive(Clone, Copy, Debug)]
struct Model;

impl Service<ChatRequest> for Model {
    type Response = ChatResponse;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<ChatResponse, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ChatRequest) -> Self::Future {
        let words = request.prompt.split_whitespace().count();
        Box::pin(async move {
            sleep(Duration::from_secs(words as u64)).await;
            let text = format!("an answer to {words} words");
            Ok(ChatResponse { text })
        })
    }
}

type LimitedModel = BoxCloneSyncService<ChatRequest, ChatResponse, BoxError>;

/// The model, which may take three seconds for its answer.
fn limited() -> Result<LimitedModel, ConfigError> {
    let layer = TimeoutLayer::new(Limits::default().headers(Duration::from_secs(3)))?;
    Ok(BoxCloneSyncService::new(
        layer.protocol::<Chat>().layer(Model),
    ))
}

fn ask(prompt: &str) -> ChatRequest {
    ChatRequest {
        prompt: prompt.to_owned(),
        extensions: Extensions::new(),
    }
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), BoxError> {
    let model = limited()?;

    let answer = model.clone().oneshot(ask("Hello there")).await?;
    println!("in time: {}", answer.text);

    let question = ask("Tell me all that there is to know");
    if let Err(error) = model.clone().oneshot(question).await {
        println!("too slow: {error}; as an outcome: {}", outcome_of(&*error));
    }

    // This caller waits for a second only, whatever the layer allows.
    let mut question = ask("Hello there");
    let now = Instant::now().into_std();
    question
        .extensions
        .insert(Deadline::after(now, Duration::from_secs(1)));
    if let Err(error) = model.oneshot(question).await {
        println!("past the deadline: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use backstop_timeout::{Elapsed, Phase};

    use super::*;

    const LONG: &str = "one two three four five";

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_passed_on() {
        let answer = limited().unwrap().oneshot(ask("one two")).await.unwrap();
        assert_eq!(answer.text, "an answer to 2 words");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_named() {
        let start = Instant::now();
        let error = limited().unwrap().oneshot(ask(LONG)).await.unwrap_err();
        let limit = Duration::from_secs(3);
        assert_eq!(
            Elapsed::find(&*error),
            Some(&Elapsed::new(Phase::Headers, limit, limit))
        );
        assert_eq!(Instant::now(), start + limit);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_of_a_request_is_found() {
        let mut question = ask(LONG);
        let now = Instant::now().into_std();
        let limit = Duration::from_secs(1);
        question.extensions.insert(Deadline::after(now, limit));
        let error = limited().unwrap().oneshot(question).await.unwrap_err();
        assert!(Elapsed::find(&*error).unwrap().is_total());
    }
}
