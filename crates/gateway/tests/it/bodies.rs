//! What is sent and what comes back, byte for byte; and bodies that are too large.

use std::time::Duration;

use backstop_testkit::model::{Framing, Model, Reply};
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Gateway, KINDS, Kind, config, http1, http2, read, trio};

const CHAT: Kind = KINDS[1];

#[tokio::test]
async fn a_healthy_answer_is_what_the_model_sent() {
    for kind in KINDS {
        let (primary, _backup, gateway) = trio(kind).await;
        let long = "word ".repeat(500);
        for reply in [
            Reply::healthy(),
            Reply::healthy().keep_alives(3),
            Reply::healthy().in_pieces_of(1),
            Reply::healthy().in_pieces_of(7).framing(Framing::Length),
            Reply::healthy().in_one_piece(),
            Reply::healthy().text(long).framing(Framing::Chunked),
        ] {
            primary.always(reply);
            for client in [http1(), http2()] {
                let request = kind.request(&gateway, kind.question("chat").into());
                let answer = read(kind, client.request(request).await.unwrap()).await;
                assert!(!answer.broke && answer.outcome.is_success());
                assert_eq!(answer.body, primary.log().last().unwrap().sent);
                assert_eq!(answer.served(), ["primary", "primary", "1"]);
            }
        }
    }
}

#[tokio::test]
async fn of_the_request_only_the_model_changes() {
    let (primary, _backup, gateway) = trio(CHAT).await;
    let with = |model: &str| {
        format!(
            "\t{{ \"zeta\":1.10e+2,\"big\":12345678901234567890123,\n\"model\" : {model} , \
             \"messages\":[{{\"model\":\"inner\",\"content\":\"\\u00e9 \\ud83d\\ude00 é\"}}],\
             \"unknown\":[null,-0.0,{{}}],\"zeta\":2 }}\r\n "
        )
    };
    let answer = gateway.send(CHAT, with("\"ch\\u0061t\"")).await;
    assert_eq!(answer.status, 200);
    let asked = primary.log().last().unwrap();
    assert_eq!(asked.body, with("\"large\""));
    assert_eq!(
        asked.headers["content-length"],
        with("\"large\"").len().to_string()
    );
    assert_eq!(asked.path, "/v1/chat/completions");
}

#[tokio::test]
async fn what_names_no_model_is_refused_in_the_callers_dialect() {
    for kind in KINDS {
        let (primary, backup, gateway) = trio(kind).await;
        for (body, status, message) in [
            ("{}", 400, "the request body has no `model`"),
            ("", 400, "the request body is not a JSON object"),
            ("[1]", 400, "the request body is not a JSON object"),
            (
                "{\"model\":\"chat\"",
                400,
                "the request body ends before its JSON object does",
            ),
            ("{\"model\":7}", 400, "`model` must be a string"),
            (
                "{\"model\":\"no \\\"such\\\"\"}",
                404,
                "the model `no \"such\"` does not exist, /v1/models lists those that do",
            ),
        ] {
            let answer = gateway.send(kind, body).await;
            assert_eq!(answer.status, status, "{body}");
            let expected = match (kind.word(), status) {
                ("anthropic", 404) => "not_found_error",
                _ => "invalid_request_error",
            };
            assert_eq!(answer.error_type(), expected);
            assert_eq!(answer.json()["error"]["message"], message);
            assert_eq!(answer.header("x-should-retry"), "false");
        }
        let other = KINDS
            .into_iter()
            .find(|other| other.dialect != kind.dialect);
        let answer = gateway.ask(other.unwrap()).await;
        assert_eq!(answer.status, 400);
        let told = format!("the model `chat` is served at {}", kind.path());
        assert_eq!(answer.json()["error"]["message"], told);
        assert_eq!(primary.log().len() + backup.log().len(), 0);
    }
}

#[tokio::test]
async fn a_compressed_request_is_refused() {
    let (primary, _backup, gateway) = trio(CHAT).await;
    let mut request = CHAT.request(&gateway, CHAT.question("chat").into());
    let gzip = http::HeaderValue::from_static("gzip");
    request.headers_mut().insert("content-encoding", gzip);
    let answer = read(CHAT, http1().request(request).await.unwrap()).await;
    assert_eq!(answer.status, 415);
    assert_eq!(primary.log().len(), 0);
}

/// A body of exactly `bytes`, with the model first.
fn padded(bytes: usize) -> String {
    let empty = r#"{"model":"chat","pad":""}"#;
    let pad = "x".repeat(bytes - empty.len());
    format!(r#"{{"model":"chat","pad":"{pad}"}}"#)
}

/// Sends a body in pieces, without telling its length.
async fn send_chunked(
    gateway: &Gateway,
    kind: Kind,
    body: &str,
    piece: usize,
) -> crate::support::Answer {
    let frames: Vec<_> = body
        .as_bytes()
        .chunks(piece)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    let body: BoxBody<Bytes, std::io::Error> = StreamBody::new(stream::iter(frames)).boxed();
    let request = Request::post(gateway.url(kind.path())).body(body).unwrap();
    read(kind, http1().request(request).await.unwrap()).await
}

async fn small_limits(kind: Kind) -> (Model, Model, Gateway) {
    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let config = config(kind.word(), &primary.base_url(), &backup.base_url());
    let limits = "replay_limit = \"1KiB\"\nmax_body = \"64KiB\"\n";
    let gateway = Gateway::start(&format!("{limits}{config}")).await;
    (primary, backup, gateway)
}

#[tokio::test]
async fn a_body_above_the_hard_limit_is_refused_in_the_callers_dialect() {
    for kind in KINDS {
        let (primary, backup, gateway) = small_limits(kind).await;
        let whole = gateway.send(kind, padded(64 * 1024)).await;
        assert_eq!(whole.text(kind.whole()), primary.text());
        primary.log().clear();
        for answer in [
            gateway.send(kind, padded(64 * 1024 + 1)).await,
            gateway.send(kind, padded(10 * 1024 * 1024)).await,
            // Without a length the target has been asked before the limit is reached.
            send_chunked(&gateway, kind, &padded(64 * 1024 + 1), 10_000).await,
            send_chunked(&gateway, kind, &padded(2 * 1024 * 1024), 10_000).await,
        ] {
            assert_eq!(answer.status, 413, "{kind:?} {answer:?}");
            let expected = match kind.word() {
                "anthropic" => "request_too_large",
                _ => "invalid_request_error",
            };
            assert_eq!(answer.error_type(), expected);
        }
        assert_eq!(backup.log().len(), 0);
    }
}

#[tokio::test]
async fn a_body_above_the_replay_limit_is_sent_once() {
    for kind in KINDS {
        let (primary, backup, gateway) = small_limits(kind).await;
        let body = padded(50_000);
        let sent = body.replace("\"chat\"", "\"large\"");
        for piece in [100, 1_025, 50_000] {
            let answer = send_chunked(&gateway, kind, &body, piece).await;
            assert_eq!(answer.text(kind.whole()), primary.text());
            assert_eq!(primary.log().last().unwrap().body, sent);
        }
        let answer = gateway.send(kind, body.clone()).await;
        assert_eq!(answer.status, 200);
        let asked = primary.log().last().unwrap();
        assert_eq!(asked.headers["content-length"], sent.len().to_string());

        primary.log().clear();
        primary.always(Reply::status(503));
        let answer = gateway.send(kind, body).await;
        assert_eq!(answer.status, 503);
        assert_eq!((primary.log().len(), backup.log().len()), (1, 0));
    }
}

#[tokio::test]
async fn the_model_of_a_large_body_must_come_early_and_once() {
    let (primary, backup, gateway) = small_limits(CHAT).await;
    let pad = "x".repeat(50_000);
    let late = format!(r#"{{"pad":"{pad}","model":"chat"}}"#);
    let answer = send_chunked(&gateway, CHAT, &late, 500).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.json()["error"]["message"],
        "in a request body of more than 1024 bytes, `model` must come within the first 1024"
    );
    assert_eq!(primary.log().len(), 0);

    // A second model would make the target answer for another than the caller was routed by.
    let pad = "x".repeat(50_000);
    let twice = format!(r#"{{"model":"chat","pad":"{pad}","model":"dearer"}}"#);
    let answer = send_chunked(&gateway, CHAT, &twice, 4_000).await;
    assert_eq!(answer.status, 400);
    assert_eq!(backup.log().len(), 0);
    assert!(
        primary
            .log()
            .exchanges()
            .iter()
            .all(|asked| { !asked.body.ends_with(br#""model":"dearer"}"#) })
    );
}

#[tokio::test]
async fn a_caller_that_is_still_writing_can_read_the_refusal() {
    let (_primary, _backup, gateway) = small_limits(CHAT).await;
    let mut socket = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1000000\r\n\r\n",
        CHAT.path()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..100 {
        socket.write_all(&[b' '; 10_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}
