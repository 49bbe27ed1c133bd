//! Time limits on both sides of a gRPC service.
//!
//! The client limits every phase of a call and tells the server its deadline as `grpc-timeout`; the
//! server reads it, and has limits of its own. An error of either side is found behind the status
//! that the caller sees, and stands for `DEADLINE_EXCEEDED`.
//!
//! Run it with `cargo run -p example-timeout-tonic`.

mod chat;

use std::{net::SocketAddr, time::Duration};

use backstop_core::{Deadline, Unstreamed, outcome_of};
use backstop_timeout::{
    Elapsed, Limits, ResponseBody, TimeoutLayer,
    grpc::{AcceptDeadlineLayer, ForwardDeadlineLayer},
};
use backstop_wire::answer::{StatusLayer, grpc_status};
use chat::{ChatClient, ChatServer, Question};
use tokio::time::Instant;
use tonic::{
    IntoRequest, Request, Status,
    body::Body,
    client::GrpcService,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tower::{BoxError, ServiceBuilder};

/// Starts a server whose answers may take `limit` until their head.
async fn serve(limit: Duration) -> Result<SocketAddr, BoxError> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
    let address = incoming.local_addr()?;
    let layers = ServiceBuilder::new()
        .layer(StatusLayer)
        .layer(AcceptDeadlineLayer::new())
        .layer(TimeoutLayer::new(Limits::default().headers(limit))?)
        .into_inner();
    let server = Server::builder().layer(layers).add_service(ChatServer);
    #[expect(
        clippy::disallowed_methods,
        reason = "the server of the example ends with its runtime"
    )]
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

/// The body of a response whose silence is limited.
type Limited = ResponseBody<Body, Unstreamed>;

/// A client that waits half a second for each thing that should come.
fn client(
    server: SocketAddr,
) -> Result<ChatClient<impl GrpcService<Body, ResponseBody = Limited>>, BoxError> {
    let channel = Endpoint::from_shared(format!("http://{server}"))?.connect_lazy();
    let half = Duration::from_millis(500);
    let limits = Limits::default().headers(half).first_token(half).idle(half);
    let limited = ServiceBuilder::new()
        .layer(TimeoutLayer::new(limits)?)
        .layer(ForwardDeadlineLayer::new())
        .service(channel);
    Ok(ChatClient::new(limited))
}

/// Asks, and joins the answer's tokens; the status that ended it comes behind.
async fn ask<T>(client: &mut ChatClient<T>, question: Request<Question>) -> (String, Option<Status>)
where
    T: GrpcService<Body, ResponseBody = Limited>,
{
    let mut text = Vec::new();
    let mut tokens = match client.answer(question).await {
        Ok(tokens) => tokens,
        Err(status) => return (String::new(), Some(status)),
    };
    loop {
        match tokens.message().await {
            Ok(Some(token)) => text.push(token.text),
            Ok(None) => return (text.join(", "), None),
            Err(status) => return (text.join(", "), Some(status)),
        }
    }
}

/// The same question with a deadline.
fn by(limit: Duration, question: Question) -> Request<Question> {
    let mut request = question.into_request();
    let deadline = Deadline::after(Instant::now().into_std(), limit);
    request.extensions_mut().insert(deadline);
    request
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), BoxError> {
    let server = serve(Duration::from_secs(60)).await?;
    let mut client = client(server)?;
    let quick = Question {
        head_after: 0,
        token_after: 10,
        tokens: 3,
    };

    let (text, _) = ask(&mut client, by(Duration::from_secs(10), quick)).await;
    println!("in time, and the server knows the deadline: {text}");

    for (what, question) in [
        (
            "no head",
            Question {
                head_after: 5_000,
                ..quick
            },
        ),
        (
            "no token",
            Question {
                token_after: 5_000,
                ..quick
            },
        ),
    ] {
        let (_, status) = ask(&mut client, question.into_request()).await;
        let Some(status) = status else { continue };
        println!(
            "{what}: phase {}, to be answered as {:?}",
            Elapsed::find(&status).map_or("unknown", |elapsed| elapsed.phase().as_str()),
            grpc_status(&outcome_of(&status)).code(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use backstop_core::Kind;
    use backstop_timeout::Phase;
    use tonic::Code;

    use super::*;

    const QUICK: Question = Question {
        head_after: 0,
        token_after: 0,
        tokens: 3,
    };

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_answer_in_time_is_passed_on() {
        let mut client = client(serve(LONG).await.unwrap()).unwrap();
        let (text, status) = ask(&mut client, QUICK.into_request()).await;
        assert_eq!(text, "no deadline, token 1, token 2");
        assert!(status.is_none());
    }

    #[tokio::test]
    async fn the_deadline_is_forwarded() {
        let mut client = client(serve(LONG).await.unwrap()).unwrap();
        let (text, _) = ask(&mut client, by(LONG, QUICK)).await;
        assert_eq!(text, "60 s left, token 1, token 2");
    }

    #[tokio::test]
    async fn the_phase_is_found_behind_the_status() {
        let mut client = client(serve(LONG).await.unwrap()).unwrap();
        for (question, phase) in [
            (
                Question {
                    head_after: 60_000,
                    ..QUICK
                },
                Phase::Headers,
            ),
            (
                Question {
                    token_after: 60_000,
                    ..QUICK
                },
                Phase::FirstToken,
            ),
        ] {
            let (_, status) = ask(&mut client, question.into_request()).await;
            let status = status.unwrap();
            assert_eq!(Elapsed::find(&status).unwrap().phase(), phase);
            assert_eq!(outcome_of(&status).kind(), Kind::TimedOut(phase));
            let answer = grpc_status(&outcome_of(&status));
            assert_eq!(answer.code(), Code::DeadlineExceeded);
        }
    }

    #[tokio::test]
    async fn a_limit_of_the_server_is_a_status_of_the_wire() {
        let limit = Duration::from_millis(100);
        let mut client = client(serve(limit).await.unwrap()).unwrap();
        let question = Question {
            head_after: 60_000,
            ..QUICK
        };
        let (_, status) = ask(&mut client, question.into_request()).await;
        let status = status.unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(matches!(outcome_of(&status).kind(), Kind::TimedOut(_)));
    }
}
