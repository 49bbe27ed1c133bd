//! The scripted model does what it is told, on real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{io, net::SocketAddr, time::Duration};

use backstop_testkit::model::{ClosedPort, Ended, Framing, Model, Refusal, Reply, Scripted};
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tower::ServiceExt;

const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";

fn request(addr: SocketAddr, path: &str, stream: bool) -> Request<Full<Bytes>> {
    let body = json!({"model": "m", "messages": [], "stream": stream}).to_string();
    Request::post(format!("http://{addr}{path}"))
        .body(Full::from(body))
        .unwrap()
}

async fn ask(model: &Model, path: &str, stream: bool) -> Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request(model.addr(), path, stream);
    client.request(request).await.unwrap()
}

/// Sends by hand and reads until the connection is over.
async fn raw(model: &Model, stream: bool) -> (Vec<u8>, Option<io::ErrorKind>) {
    let body = json!({"model": "m", "stream": stream}).to_string();
    let mut socket = TcpStream::connect(model.addr()).await.unwrap();
    let head = format!(
        "POST {OPENAI} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let end = socket.read_to_end(&mut read).await;
    (read, end.err().map(|error| error.kind()))
}

/// The text of a stream, and whether its proper end came.
fn told(bytes: &[u8]) -> (String, bool) {
    let mut text = String::new();
    let mut ended = false;
    for line in std::str::from_utf8(bytes).unwrap().lines() {
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let event: Value = serde_json::from_str(data).unwrap_or_default();
        ended |= data == "[DONE]" || event["type"] == "message_stop";
        text += event["choices"][0]["delta"]["content"]
            .as_str()
            .or(event["delta"]["text"].as_str())
            .unwrap_or("");
    }
    (text, ended)
}

async fn whole(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn answers_in_both_dialects_and_both_modes() {
    let model = Model::start("m").await.unwrap();
    for path in [OPENAI, ANTHROPIC] {
        let response = ask(&model, path, true).await;
        assert_eq!(
            response.headers()["content-type"],
            "text/event-stream; charset=utf-8"
        );
        let bytes = whole(response).await;
        assert_eq!(told(&bytes), (model.text().to_owned(), true));
        assert_eq!(model.log().last().unwrap().sent, bytes);

        let answer: Value =
            serde_json::from_slice(&whole(ask(&model, path, false).await).await).unwrap();
        let text = answer["choices"][0]["message"]["content"]
            .as_str()
            .or(answer["content"][0]["text"].as_str());
        assert_eq!(text, Some(model.text()));
    }
    let log = model
        .log()
        .wait_for(|log| log.iter().all(|one| one.ended.is_some()))
        .await;
    assert_eq!(log.len(), 4);
    assert!(
        log.iter()
            .all(|one| one.is(Ended::Answered) && one.model().as_deref() == Some("m"))
    );
}

#[tokio::test]
async fn replies_in_turn_by_name_and_always() {
    let model = Model::start("m").await.unwrap();
    model.push(Reply::status(429).header("retry-after", "2"));
    model.push(Reply::status(529));
    let first = ask(&model, OPENAI, true).await;
    assert_eq!(
        (first.status().as_u16(), &first.headers()["retry-after"]),
        (429, &"2".parse().unwrap())
    );
    assert!(String::from_utf8_lossy(&whole(first).await).contains("rate_limit_exceeded"));
    let second = ask(&model, ANTHROPIC, true).await;
    assert_eq!(second.status().as_u16(), 529);
    assert!(String::from_utf8_lossy(&whole(second).await).contains("overloaded_error"));
    assert_eq!(ask(&model, OPENAI, false).await.status(), 200);
    model.always(Reply::status(500));
    assert_eq!(ask(&model, OPENAI, false).await.status(), 500);
    model.when("m", Reply::refuse(Refusal::ContextTooLong));
    let response = ask(&model, OPENAI, false).await;
    assert_eq!(response.status(), 400);
    assert!(String::from_utf8_lossy(&whole(response).await).contains("context_length_exceeded"));
    model.when("m", Reply::error_object(Refusal::ServerError));
    assert_eq!(
        ask(&model, OPENAI, true).await.headers()["content-type"],
        "application/json"
    );
}

#[tokio::test]
async fn resets_before_the_head_and_in_the_middle() {
    let model = Model::start("m").await.unwrap();
    model.push(Reply::reset());
    assert_eq!(
        raw(&model, true).await,
        (vec![], Some(io::ErrorKind::ConnectionReset))
    );
    model.push(Reply::healthy().reset_after(2));
    assert_eq!(
        raw(&model, true).await.1,
        Some(io::ErrorKind::ConnectionReset)
    );
    assert!(
        model
            .log()
            .exchanges()
            .iter()
            .all(|one| one.is(Ended::BrokenOff))
    );
}

#[tokio::test]
async fn cuts_after_every_token_are_exact_prefixes() {
    let model = Model::start("m").await.unwrap();
    let tokens = model.scripted().tokens();
    for count in 0..=tokens.len() {
        model.push(Reply::healthy().cut_after(count));
        let (read, error) = raw(&model, true).await;
        assert_eq!(error, None);
        let (text, ended) = told(&read);
        assert_eq!((text, ended), (tokens[..count].concat(), false));
        assert!(
            !read.ends_with(b"0\r\n\r\n"),
            "the last chunk makes a clean end"
        );

        model.push(Reply::healthy().eof_after(count));
        let (read, _) = raw(&model, true).await;
        assert_eq!(told(&read), (tokens[..count].concat(), false));
        assert!(read.ends_with(b"0\r\n\r\n"));

        model.push(Reply::healthy().cut_after(count));
        let (read, _) = raw(&model, false).await;
        let read = String::from_utf8(read).unwrap();
        let (head, body) = read.split_once("\r\n\r\n").unwrap();
        assert!(
            body.ends_with(&format!("\"content\":\"{}", tokens[..count].concat())),
            "{body}"
        );
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        assert!(length.parse::<usize>().unwrap() > body.len());
    }
}

#[tokio::test]
async fn a_client_that_goes_is_noticed() {
    let model = Model::start("m").await.unwrap();
    for (reply, stream) in [
        (Reply::hang(), true),
        (Reply::silent(), true),
        (Reply::silent(), false),
        (Reply::keep_alive_only(Duration::from_millis(1)), true),
        (Reply::healthy().stall_after(2), true),
        (
            Reply::healthy().first_token_after(Duration::from_secs(3600)),
            true,
        ),
    ] {
        model.log().clear();
        model.push(reply);
        let client = Client::builder(TokioExecutor::new()).build_http();
        let call = client.request(request(model.addr(), OPENAI, stream));
        let call = async {
            let Ok(response) = call.await else { return };
            let mut body = response.into_body();
            while body.frame().await.is_some() {}
        };
        tokio::select! {
            () = call => panic!("the call ended"),
            _ = model.log().wait_for(|log| log.len() == 1) => {}
        }
        assert!(model.log().last().unwrap().ended.is_none());
        drop(client);
        model
            .log()
            .wait_for(|log| log[0].is(Ended::ClientGone))
            .await;
    }
}

#[tokio::test]
async fn speaks_http2() {
    let model = Model::start("m").await.unwrap();
    let socket = TcpStream::connect(model.addr()).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let response = client
        .send_request(request(model.addr(), OPENAI, true))
        .await
        .unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(
        told(&whole(response).await),
        (model.text().to_owned(), true)
    );
    model.push(Reply::healthy().cut_after(1));
    let response = client
        .send_request(request(model.addr(), OPENAI, true))
        .await
        .unwrap();
    response.into_body().collect().await.unwrap_err();
    model.push(Reply::reset());
    client
        .send_request(request(model.addr(), OPENAI, true))
        .await
        .unwrap_err();
    tasks.join_next().await.unwrap().unwrap().unwrap_err();
}

#[tokio::test]
async fn nobody_listens_on_a_closed_port() {
    let port = ClosedPort::new().unwrap();
    let error = TcpStream::connect(port.addr()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_dropped_model_is_gone() {
    let model = Model::start("m").await.unwrap();
    let addr = model.addr();
    let mut open = TcpStream::connect(addr).await.unwrap();
    open.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert_ne!(open.read(&mut [0; 64]).await.unwrap(), 0);
    drop(model);
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest).await;
    TcpStream::connect(addr).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn as_a_service_every_division_gives_the_same_bytes() {
    let model = Scripted::new("m").text_is("Grüße, \"quoted\" and\nbroken.");
    let ask = |reply: Reply, stream| {
        model.push(reply);
        let model = model.clone();
        async move {
            let request = request(([127, 0, 0, 1], 1).into(), ANTHROPIC, stream);
            let mut body = model.oneshot(request).await.unwrap().into_body();
            let mut frames = Vec::new();
            while let Some(frame) = body.frame().await {
                frames.push(frame.unwrap().into_data().unwrap());
            }
            frames
        }
    };
    for stream in [true, false] {
        let plain = ask(Reply::healthy(), stream).await.concat();
        for len in 1..plain.len() {
            let frames = ask(Reply::healthy().in_pieces_of(len), stream).await;
            assert!(
                frames[..frames.len() - 1]
                    .iter()
                    .all(|frame| frame.len() == len)
            );
            assert_eq!(frames.concat(), plain);
            let frames = ask(Reply::healthy().split_at([len]), stream).await;
            assert_eq!((frames.len(), frames[0].len()), (2, len));
            assert_eq!(frames.concat(), plain);
        }
        let one = ask(Reply::healthy().in_one_piece(), stream).await;
        assert_eq!((one.len(), one.concat()), (1, plain));
    }
}

#[tokio::test(start_paused = true)]
async fn waits_as_long_as_told() {
    let model = Scripted::new("m").text_is("one two three");
    let second = Duration::from_secs(1);
    model.push(
        Reply::healthy()
            .head_after(second)
            .first_token_after(10 * second)
            .token_gap(100 * second),
    );
    let start = Instant::now();
    let request = request(([127, 0, 0, 1], 1).into(), OPENAI, true);
    let response = model.oneshot(request).await.unwrap();
    assert_eq!(Instant::now(), start + second);
    response.into_body().collect().await.unwrap();
    assert_eq!(Instant::now(), start + 211 * second);
}

#[tokio::test]
async fn a_stream_may_tell_its_length() {
    let model = Model::start("m").await.unwrap();
    model.push(Reply::healthy().framing(Framing::Length));
    let response = ask(&model, OPENAI, true).await;
    let length: usize = response.headers()["content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(whole(response).await.len(), length);
    model.push(Reply::healthy().framing(Framing::Chunked));
    let response = ask(&model, OPENAI, false).await;
    assert!(!response.headers().contains_key("content-length"));
}
