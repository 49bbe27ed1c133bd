//! Listening, both versions of HTTP, and stopping.

use std::time::Duration;

use backstop_testkit::model::Reply;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Gateway, KINDS, PATIENCE, full, http1, http2, read, trio};

#[tokio::test]
async fn answers_by_both_versions_of_http() {
    for kind in KINDS {
        let (primary, _backup, gateway) = trio(kind).await;
        for (client, version) in [
            (http1(), http::Version::HTTP_11),
            (http2(), http::Version::HTTP_2),
        ] {
            let request = kind.request(&gateway, kind.question("chat").into());
            let response = client.request(request).await.unwrap();
            assert_eq!(response.version(), version);
            assert_eq!(read(kind, response).await.text(kind), primary.text());
        }
    }
}

#[tokio::test]
async fn says_that_it_is_up_and_which_models_it_has() {
    let (_primary, _backup, gateway) = trio(KINDS[0]).await;
    let get = async |path: &str| {
        let request = http::Request::get(gateway.url(path))
            .body(full(""))
            .unwrap();
        let response = http1().request(request).await.unwrap();
        (
            response.status(),
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    };
    let (status, body) = get("/healthz").await;
    assert_eq!((status.as_u16(), &*body), (200, &b"ok\n"[..]));
    let (status, body) = get("/v1/models").await;
    assert_eq!(status, 200);
    let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(list["object"], "list");
    assert_eq!(list["has_more"], false);
    assert_eq!(list["data"][0]["id"], "chat");
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let (status, body) = get("/v1/nothing").await;
    assert_eq!(status, 404);
    let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        error["error"]["message"],
        json!("there is nothing at this path, ask at /v1/chat/completions or /v1/messages")
    );
    let (status, _) = get("/v1/chat/completions").await;
    assert_eq!(status, 405);
    let (status, body) = get("/v1/messages/count_tokens").await;
    assert_eq!(status, 404);
    let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn an_open_answer_ends_before_the_process_does() {
    for kind in KINDS {
        let (primary, _backup, mut gateway) = trio(kind).await;
        let slow = Reply::healthy()
            .first_token_after(Duration::from_millis(300))
            .token_gap(Duration::from_millis(30));
        primary.always(slow);
        let request = kind.request(&gateway, kind.question("chat").into());
        let asking =
            tokio::spawn(async move { read(kind, http1().request(request).await.unwrap()).await });
        primary.log().wait_for(|asked| asked.len() == 1).await;
        gateway.terminate();
        gateway.logged("stopping").await;
        // New callers are turned away.
        assert!(TcpStream::connect(gateway.address).await.is_err());
        let answer = asking.await.unwrap();
        assert_eq!(answer.text(kind), primary.text());
        assert_eq!(gateway.exit().await, Some(0));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_cut_off_at_the_end_of_the_drain_time() {
    let kind = KINDS[0];
    let primary = backstop_testkit::model::Model::start("primary")
        .await
        .unwrap();
    primary.always(Reply::healthy().token_gap(Duration::from_millis(450)));
    let config = crate::support::config("openai", &primary.base_url(), &primary.base_url());
    let mut gateway = Gateway::start(&format!("drain = \"200ms\"\n{config}")).await;
    let request = kind.request(&gateway, kind.question("chat").into());
    let response = http1().request(request).await.unwrap();
    gateway.terminate();
    let answer = read(kind, response).await;
    assert!(answer.broke, "{answer:?}");
    assert_eq!(gateway.exit().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    let kind = KINDS[0];
    let primary = backstop_testkit::model::Model::start("primary")
        .await
        .unwrap();
    primary.always(Reply::healthy().token_gap(Duration::from_secs(10)));
    let config = crate::support::config("openai", &primary.base_url(), &primary.base_url());
    for signal in ["-TERM", "-INT"] {
        let mut gateway = Gateway::start(&config.replace("500ms", "30s")).await;
        let request = kind.request(&gateway, kind.question("chat").into());
        let response = http1().request(request).await.unwrap();
        gateway.signal(signal);
        gateway.logged("stopping").await;
        gateway.signal("-INT");
        let answer = read(kind, response).await;
        assert!(answer.broke, "{answer:?}");
        assert_eq!(gateway.exit().await, Some(0));
        let log = gateway.logged("told to stop again").await;
        assert!(!log.contains("drain time"), "{log}");
    }
}

#[tokio::test]
async fn who_comes_when_all_connections_are_taken_waits() {
    let config = crate::support::config("openai", "http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1");
    let mut gateway = Gateway::start(&format!("max_connections = 2\n{config}")).await;
    let address = gateway.address;
    let connect = async || TcpStream::connect(address).await.unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let read = async |socket: &mut TcpStream| {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            let reading = socket.read_buf(&mut answer);
            let read = tokio::time::timeout(PATIENCE, reading).await.unwrap();
            assert_ne!(read.unwrap(), 0);
        }
    };
    let (mut first, second) = (connect().await, connect().await);
    gateway.logged("max_connections=2").await;
    let mut third = connect().await;
    third.write_all(ask).await.unwrap();
    // Those that are connected are served all the while.
    for _ in 0..10 {
        first.write_all(ask).await.unwrap();
        read(&mut first).await;
    }
    let nothing = third.try_read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    drop(second);
    read(&mut third).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (primary, _backup, gateway) = trio(KINDS[1]).await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    let long = "a".repeat(100_000);
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n");
    // The gateway may close before all is written.
    let _ = socket.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"));
    assert_eq!(primary.log().len(), 0);
}

/// Two proxies that disagree on where a request ends can be made to serve one caller's request as
/// another's (RFC 9112 section 11.2). What is sent on is framed anew, and these are the inputs.
#[tokio::test]
async fn a_request_of_two_lengths_never_becomes_two() {
    let kind = KINDS[1];
    let body = kind.question("chat");
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let smuggled = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    for (headers, sent) in [
        // Both: the chunks count, and the connection ends.
        ("content-length: 4\r\ntransfer-encoding: chunked", &*chunked),
        ("transfer-encoding: chunked\r\ncontent-length: 4", &chunked),
        ("content-length: 4\r\ncontent-length: 6", &body),
        ("content-length: 4, 6", &body),
        ("content-length: +4", &body),
        ("transfer-encoding: chunked, identity", &chunked),
        ("transfer-encoding: xchunked", &chunked),
        ("transfer-encoding : chunked", &chunked),
        ("x: y\r\n transfer-encoding: chunked", &chunked),
    ] {
        let (primary, backup, gateway) = trio(kind).await;
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n",
            kind.path()
        );
        let _ = socket
            .write_all(format!("{head}{sent}{smuggled}").as_bytes())
            .await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        let asked = primary.log().exchanges();
        assert!(asked.len() <= 1, "{headers}");
        assert_eq!(backup.log().len(), 0);
        for asked in asked {
            assert_eq!(asked.body, kind.question("large"), "{headers}");
        }
    }
}
