//! What `outcome_of` makes of other libraries' errors, each provoked in the library itself.
//!
//! Needs the features: `cargo test -p backstop-core --all-features`.
#![cfg(all(
    feature = "hyper",
    feature = "reqwest",
    feature = "tokio",
    feature = "tonic",
    feature = "tower"
))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{error::Error, future::pending, io, time::Duration};

use backstop_core::{
    BoxError, Elapsed, Failure, HintSource, Kind, Outcome, Phase, Scope, outcome_of,
};
use bytes::Bytes;
use futures_util::future::{join, ready};
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
};
use tower::{ServiceExt, service_fn};

/// Drives `main` to its end, and `others` as far as they go until then.
async fn beside<T>(main: impl Future<Output = T>, others: impl Future) -> T {
    tokio::select! {
        done = main => done,
        () = async { others.await; pending().await } => unreachable!("waits for ever"),
    }
}

fn kind(error: &(dyn Error + 'static)) -> Kind {
    outcome_of(error).kind()
}

fn get(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).body(Empty::new()).unwrap()
}

/// An address that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

/// Sends a request over HTTP/1 to whatever `server` does and returns the error.
async fn http1_error<F: Future<Output = ()>>(
    server: impl FnOnce(DuplexStream) -> F,
) -> hyper::Error {
    let (near, far) = duplex(4096);
    let client = async {
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near))
            .await
            .unwrap();
        let request = send.send_request(get("/"));
        beside(request, connection).await.unwrap_err()
    };
    beside(client, server(far)).await
}

/// Sends a request over HTTP/2, which the server answers with a reset or a `GOAWAY`.
async fn http2_error(
    answer: impl AsyncFnOnce(&mut h2::server::Connection<DuplexStream, Bytes>),
) -> hyper::Error {
    let (near, far) = duplex(4096);
    let client = async {
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
                .await
                .unwrap();
        let request = send.send_request(get("http://model/"));
        beside(request, connection).await.unwrap_err()
    };
    let server = async {
        let mut connection = h2::server::handshake(far).await.unwrap();
        answer(&mut connection).await;
        while connection.accept().await.is_some() {}
    };
    beside(client, server).await
}

async fn reset(reason: h2::Reason) -> hyper::Error {
    http2_error(async |connection| {
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_reset(reason);
    })
    .await
}

/// The error of hyper-util's client when its connector fails.
async fn connect_error<E: Into<BoxError>>(
    fail: impl Fn() -> E + Clone + Send + Sync + 'static,
) -> hyper_util::client::legacy::Error {
    let connector =
        service_fn(move |_: Uri| ready(Err::<TokioIo<TcpStream>, BoxError>(fail().into())));
    Client::builder(TokioExecutor::new())
        .build::<_, Empty<Bytes>>(connector)
        .request(get("http://model/"))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_refused_connection_was_not_processed() {
    let uri = nobody().await;
    let client =
        Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(HttpConnector::new());
    assert_eq!(
        kind(&client.request(get(&uri)).await.unwrap_err()),
        Kind::NotProcessed
    );

    let error = reqwest::get(&uri).await.unwrap_err();
    assert_eq!(kind(&error), Kind::NotProcessed);
    // As it arrives through layers.
    let boxed: BoxError = io::Error::other(error).into();
    assert_eq!(kind(&*boxed), Kind::NotProcessed);
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_is_a_timeout_of_that_phase_whoever_ended_it() {
    let limit = Duration::from_secs(5);
    let ours = connect_error(move || Elapsed::new(Phase::Connect, limit, limit)).await;
    assert_eq!(kind(&ours), Kind::TimedOut(Phase::Connect));
    assert_eq!(Elapsed::find(&ours).map(Elapsed::limit), Some(limit));

    let io = connect_error(|| io::Error::from(io::ErrorKind::TimedOut)).await;
    assert_eq!(kind(&io), Kind::TimedOut(Phase::Connect));

    let towers = connect_error(tower::timeout::error::Elapsed::new).await;
    assert_eq!(kind(&towers), Kind::TimedOut(Phase::Connect));

    let other = connect_error(|| "the certificate has expired").await;
    assert_eq!(kind(&other), Kind::NotProcessed);

    // A connection that breaks while it is being made has carried no request.
    let reset = connect_error(|| io::Error::from(io::ErrorKind::ConnectionReset)).await;
    assert_eq!(kind(&reset), Kind::NotProcessed);
}

#[tokio::test]
async fn http1_connections_that_break() {
    let closed_midway = http1_error(async |mut far| {
        far.read_exact(&mut [0; 16]).await.unwrap();
    })
    .await;
    assert!(closed_midway.is_incomplete_message());
    assert_eq!(kind(&closed_midway), Kind::Unavailable);

    let not_http = http1_error(async |mut far| {
        far.read_exact(&mut [0; 16]).await.unwrap();
        far.write_all(b"220 smtp.example ESMTP\r\n\r\n")
            .await
            .unwrap();
        pending::<()>().await;
    })
    .await;
    assert_eq!(kind(&not_http), Kind::Malformed);
}

#[tokio::test]
async fn a_request_on_a_closed_connection_was_not_processed() {
    let (near, far) = duplex(64);
    let (mut send, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(near))
            .await
            .unwrap();
    drop((far, connection));
    let error = send.send_request(get("/")).await.unwrap_err();
    assert_eq!(kind(&error), Kind::NotProcessed);
}

/// Sends a request whose body breaks off with an error.
async fn broken_body(error: impl Into<BoxError>) -> Outcome {
    let (near, mut far) = duplex(4096);
    let body = StreamBody::new(futures_util::stream::iter([
        Ok(Frame::data(Bytes::from_static(b"{"))),
        Err(error.into()),
    ]));
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near))
        .await
        .unwrap();
    let request = send.send_request(Request::post("/").body(body).unwrap());
    let server = async { far.read_to_end(&mut Vec::new()).await };
    outcome_of(&beside(request, join(connection, server)).await.unwrap_err())
}

#[tokio::test]
async fn a_request_body_that_breaks_is_not_the_targets_fault() {
    let outcome = broken_body(io::Error::from(io::ErrorKind::ConnectionReset)).await;
    assert_eq!(outcome.kind(), Kind::Cancelled);
    assert!(!outcome.is_fault());
}

#[tokio::test]
async fn a_request_body_that_was_refused_says_why() {
    let refusal = Outcome::new(Kind::TooLarge).with_evidence("a limit of this stack");
    assert_eq!(broken_body(Failure::new(refusal)).await, refusal);
}

#[tokio::test]
async fn h2_says_what_was_not_processed() {
    assert_eq!(
        kind(&reset(h2::Reason::REFUSED_STREAM).await),
        Kind::NotProcessed
    );
    assert_eq!(
        kind(&reset(h2::Reason::ENHANCE_YOUR_CALM).await),
        Kind::Throttled
    );
    assert_eq!(kind(&reset(h2::Reason::CANCEL).await), Kind::Unavailable);
    assert_eq!(
        kind(&reset(h2::Reason::INTERNAL_ERROR).await),
        Kind::Unavailable
    );

    let broken = http2_error(async |connection| {
        connection.accept().await;
        connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    assert_eq!(kind(&broken), Kind::Unavailable);
}

/// The frames are written by hand: h2's own server waits for the streams that it has seen.
#[tokio::test]
async fn a_stream_that_came_after_the_goaway_was_not_processed() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // Last stream 0, NO_ERROR.
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (near, mut far) = duplex(4096);
    let client = async {
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
                .await
                .unwrap();
        let request = send.send_request(get("http://model/"));
        beside(request, connection).await.unwrap_err()
    };
    let server = async {
        far.write_all(SETTINGS).await.unwrap();
        // The request's HEADERS frame has been sent by then: preface, SETTINGS, WINDOW_UPDATE.
        let mut seen = Vec::new();
        while !seen.windows(4).any(|frame| frame == [1, 5, 0, 0]) {
            far.read_buf(&mut seen).await.unwrap();
        }
        far.write_all(GOAWAY).await.unwrap();
        far.read_to_end(&mut seen).await.ok();
    };
    let error = beside(client, server).await;
    assert_eq!(kind(&error), Kind::NotProcessed, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn timers_of_tokio_and_tower() {
    let tokios = tokio::time::timeout(Duration::from_secs(1), pending::<()>())
        .await
        .unwrap_err();
    assert_eq!(kind(&tokios), Kind::TimedOut(Phase::Total));

    let silent = service_fn(|()| pending::<Result<(), BoxError>>());
    let towers = tower::timeout::Timeout::new(silent, Duration::from_secs(1))
        .oneshot(())
        .await
        .unwrap_err();
    assert_eq!(kind(&*towers), Kind::TimedOut(Phase::Headers));
}

#[test]
fn what_our_own_side_shed_is_not_the_targets_fault() {
    let outcome = outcome_of(&tower::load_shed::error::Overloaded::new());
    assert_eq!(outcome.kind(), Kind::NotProcessed);
    assert_eq!(outcome.scope(), Scope::Request);
}

#[test]
fn a_status_of_grpc() {
    for (code, expected) in [
        (tonic::Code::DeadlineExceeded, Kind::TimedOut(Phase::Total)),
        (tonic::Code::ResourceExhausted, Kind::Throttled),
        (tonic::Code::Unavailable, Kind::Unavailable),
        (tonic::Code::Cancelled, Kind::Unavailable),
        (tonic::Code::Unauthenticated, Kind::Unauthorized),
        (tonic::Code::InvalidArgument, Kind::Rejected),
        (tonic::Code::Unimplemented, Kind::Unsupported),
        (tonic::Code::NotFound, Kind::NotFound),
    ] {
        assert_eq!(kind(&tonic::Status::new(code, "text")), expected, "{code}");
    }
}

/// The wait that a `RESOURCE_EXHAUSTED` asks for, and whether the target may be asked again.
fn wait(push_back: Option<&'static str>, details: &[u8]) -> (Option<(Duration, HintSource)>, bool) {
    let code = tonic::Code::ResourceExhausted;
    let mut status = tonic::Status::with_details(code, "text", details.to_vec().into());
    if let Some(push_back) = push_back {
        let value = tonic::metadata::MetadataValue::from_static(push_back);
        status
            .metadata_mut()
            .insert("grpc-retry-pushback-ms", value);
    }
    let outcome = outcome_of(&status);
    assert_eq!(outcome.kind(), Kind::Throttled);
    let hint = outcome.retry_after().map(|hint| (hint.delay, hint.source));
    (hint, outcome.may_repeat())
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo`, behind another detail.
fn retry_info(seconds: &[u8], nanos: &[u8]) -> Vec<u8> {
    fn part(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        [&[number << 3 | 2, length], bytes].concat()
    }
    let any = |name: &str, value: &[u8]| {
        let url = format!("type.googleapis.com/google.rpc.{name}");
        part(3, &[part(1, url.as_bytes()), part(2, value)].concat())
    };
    let number = |number: u8, varint: &[u8]| match varint {
        [] => Vec::new(),
        _ => [&[number << 3], varint].concat(),
    };
    let duration = [number(1, seconds), number(2, nanos)].concat();
    [
        vec![1 << 3, 8],
        part(2, b"text"),
        any("QuotaFailure", &part(1, b"")),
        any("RetryInfo", &part(1, &duration)),
    ]
    .concat()
}

#[test]
fn a_status_says_how_long_to_wait() {
    let (by_header, by_detail) = (HintSource::Header, HintSource::Body);
    let seven = retry_info(&[7], &[]);
    assert_eq!(wait(None, b""), (None, true));
    assert_eq!(
        wait(None, &seven),
        (Some((Duration::from_secs(7), by_detail)), true)
    );
    let half = retry_info(&[], &[0x80, 0xca, 0xb5, 0xee, 0x01]);
    assert_eq!(
        wait(None, &half),
        (Some((Duration::from_millis(500), by_detail)), true)
    );
    assert_eq!(
        wait(Some("250"), &seven),
        (Some((Duration::from_millis(250), by_header)), true)
    );
    // What forbids another try says nothing of when.
    assert_eq!(
        wait(Some("-1"), &seven),
        (Some((Duration::from_secs(7), by_detail)), false)
    );
    for push_back in ["-1", "NaN", "soon", "", "99999999999999999999999"] {
        assert_eq!(wait(Some(push_back), b""), (None, false), "{push_back}");
    }
    // Absurd, and for whoever acts on it to cap.
    let (hint, _) = wait(Some("1000000000000"), b"");
    assert_eq!(hint, Some((Duration::from_secs(1_000_000_000), by_header)));
}

#[test]
fn strange_details_are_no_wait() {
    let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for (seconds, nanos) in [(&minus_one[..], &[][..]), (&[1], &minus_one)] {
        assert_eq!(wait(None, &retry_info(seconds, nanos)).0, None);
    }
    // A second is too many nanoseconds.
    let second = [0x80, 0x94, 0xeb, 0xdc, 0x03];
    assert_eq!(wait(None, &retry_info(&[], &second)).0, None);
    let whole = retry_info(&[7], &[]);
    for cut in 0..whole.len() {
        assert_eq!(wait(None, &whole[..cut]).0, None, "{cut}");
    }
    assert_eq!(wait(None, &[0xff; 64]).0, None);
}

#[test]
fn the_cause_of_a_status_says_more_than_its_code() {
    let limit = Duration::from_secs(1);
    let ours = tonic::Status::from_error(Elapsed::new(Phase::Headers, limit, limit).into());
    assert_eq!(ours.code(), tonic::Code::Unknown);
    assert_eq!(kind(&ours), Kind::TimedOut(Phase::Headers));

    let expired = tonic::Status::from_error(tonic::TimeoutExpired(()).into());
    assert_eq!(expired.code(), tonic::Code::Cancelled);
    assert_eq!(kind(&expired), Kind::TimedOut(Phase::Headers));

    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    assert_eq!(
        kind(&tonic::Status::from_error(
            tonic::ConnectError(refused.into()).into()
        )),
        Kind::NotProcessed
    );
}

#[tokio::test]
async fn reqwest_statuses_and_timers() {
    for (status, expected) in [
        (408, Kind::TimedOut(Phase::Total)),
        (504, Kind::TimedOut(Phase::Headers)),
        (524, Kind::TimedOut(Phase::Headers)),
        (522, Kind::TimedOut(Phase::Connect)),
        (429, Kind::Throttled),
        (503, Kind::Overloaded),
        (500, Kind::Unavailable),
        (400, Kind::Rejected),
    ] {
        let response = Response::builder().status(status).body("").unwrap();
        let error = reqwest::Response::from(response)
            .error_for_status()
            .unwrap_err();
        assert_eq!(kind(&error), expected, "{status}");
    }

    let unbuilt = reqwest::get("no scheme").await.unwrap_err();
    let outcome = outcome_of(&unbuilt);
    assert_eq!(outcome.kind(), Kind::NotProcessed);
    assert!(!outcome.may_repeat());

    // Real sockets and a real clock: that the limit is noticed, not when.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let client = reqwest::Client::builder()
        .timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let silent = client.get(&uri).send().await.unwrap_err();
    assert_eq!(kind(&silent), Kind::TimedOut(Phase::Headers));

    let server = async {
        // The first connection is that of the call before.
        listener.accept().await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 16]).await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfour")
            .await
            .unwrap();
        socket.read_to_end(&mut Vec::new()).await.ok();
    };
    let stalled = async {
        let response = client.get(&uri).send().await.unwrap();
        response.bytes().await.unwrap_err()
    };
    let error = beside(stalled, server).await;
    assert_eq!(kind(&error), Kind::TimedOut(Phase::Idle));
}

#[test]
fn an_outer_verdict_stands_over_its_cause() {
    let verdict = Outcome::new(Kind::Malformed);
    let failure = Failure::with_source(verdict, tonic::Status::unavailable("text"));
    assert_eq!(outcome_of(&failure), verdict);
}
