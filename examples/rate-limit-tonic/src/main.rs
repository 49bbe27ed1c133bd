//! The rate-limit detector around a tonic channel.
//!
//! What passes a channel is an `http::Request`, so the layer is the same as for HTTP; the classifier
//! reads the status from the head or the trailers, with its `google.rpc.RetryInfo`. Outermost,
//! errors become a [`tonic::Status`], so that a caller sees what the layer answers in the model's
//! stead as it would see it from the model.
//!
//! Run it with `cargo run -p example-rate-limit-tonic`.

mod chat;

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use backstop_core::BoxError;
use backstop_rate_limit::RateLimitLayer;
use backstop_wire::{ClassifyHttp, Dialect, Provider, answer::StatusLayer};
use tokio::{net::TcpListener, time::sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    transport::{Channel, Server},
};
use tower::ServiceBuilder;

use crate::chat::{ChatClient, ChatServer};

/// The layer for one target. The dialect plays no part in gRPC.
fn limits() -> RateLimitLayer<ClassifyHttp> {
    let classify = ClassifyHttp::new(Dialect::Gemini).provider(Provider::Unknown);
    RateLimitLayer::new("chat", classify)
}

/// Asks three times: the model refuses, the layer answers in its stead, the model answers.
async fn ask(channel: Channel, wait: Duration) -> [Result<String, Status>; 3] {
    let limits = limits();
    let handle = limits.handle();
    let channel = ServiceBuilder::new()
        .layer(StatusLayer)
        .layer(limits)
        .service(channel);
    let mut client = ChatClient::new(channel);
    let refused = client.answer("Hello").await;
    let answered_here = client.answer("Hello again").await;
    sleep(wait.min(handle.remaining(None).unwrap_or_default())).await;
    handle.reset();
    [refused, answered_here, client.answer("And now?").await]
}

/// Starts a model on a free port. The server ends with the future that it gives.
async fn serve(
    server: ChatServer,
) -> io::Result<(
    Channel,
    impl Future<Output = Result<(), tonic::transport::Error>>,
)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let channel = Channel::from_shared(url)
        .map_err(io::Error::other)?
        .connect_lazy();
    let serving = Server::builder()
        .add_service(server)
        .serve_with_incoming(TcpListenerStream::new(listener));
    Ok((channel, serving))
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what happens")]
async fn main() -> Result<(), BoxError> {
    let asked = Arc::new(AtomicU32::new(0));
    let server = ChatServer {
        asked: Arc::clone(&asked),
        retry_after: Duration::from_secs(2),
    };
    let (channel, serving) = serve(server).await?;
    let answers = tokio::select! {
        answers = ask(channel, Duration::from_secs(3)) => answers,
        ended = serving => return Ok(ended?),
    };
    let whose = [
        "the model",
        "the layer, in its stead",
        "the model, after the wait",
    ];
    for (whose, answer) in whose.into_iter().zip(answers) {
        match answer {
            Ok(text) => println!("{whose}: {text}"),
            Err(status) => println!("{whose}: {:?}, {}", status.code(), status.message()),
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
    use tonic::Code;

    use super::*;

    /// Over a real socket, so without paused time and without waiting for anything.
    #[tokio::test]
    async fn a_refusal_is_answered_with_the_same_status_and_a_wait() {
        let asked = Arc::new(AtomicU32::new(0));
        let server = ChatServer {
            asked: Arc::clone(&asked),
            retry_after: Duration::from_secs(30),
        };
        let (channel, serving) = serve(server).await.expect("a port");
        let [refused, answered_here, answer] = tokio::select! {
            answers = ask(channel, Duration::ZERO) => answers,
            _ = serving => panic!("the server ended"),
        };
        let refused = refused.expect_err("by the model");
        let answered_here = answered_here.expect_err("by the layer");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(answered_here.code(), Code::ResourceExhausted);
        for status in [&refused, &answered_here] {
            assert!(!status.details().is_empty(), "RetryInfo");
        }
        let wait: u64 = answered_here
            .metadata()
            .get("grpc-retry-pushback-ms")
            .and_then(|wait| wait.to_str().ok())
            .and_then(|wait| wait.parse().ok())
            .expect("a number");
        assert!((25_000..=33_000).contains(&wait), "{wait}");
        assert_eq!(answer.expect("answered"), "You said: And now?");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
