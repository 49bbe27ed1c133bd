//! The twin of each phase on real sockets and a real clock. They say that a limit is noticed, not
//! when: how long it takes is tested with the clock standing still.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{net::SocketAddr, time::Duration};

use backstop_core::{BoxError, Deadline, Kind, outcome_of};
use backstop_timeout::{ConnectTimeoutLayer, Elapsed, Floor, Limits, Phase, TimeoutLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use support::Marks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit};

/// Short, as somebody waits for it; long enough for a loopback on a busy machine.
const LIMIT: Duration = Duration::from_millis(300);

/// For what is not to be reached.
const LONG: Duration = Duration::from_secs(60);

type Model = Client<HttpConnector, Full<Bytes>>;

fn model() -> Model {
    Client::builder(TokioExecutor::new()).build_http()
}

fn request(address: SocketAddr) -> Request<Full<Bytes>> {
    Request::get(format!("http://{address}/"))
        .body(Full::default())
        .unwrap()
}

/// A server that sends `answer`, one piece every 50 ms, and then holds the connection open.
async fn server(answer: &'static [&'static str]) -> (SocketAddr, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        let mut open: Vec<TcpStream> = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await.unwrap();
            for piece in answer {
                socket.write_all(piece.as_bytes()).await.unwrap();
                socket.flush().await.unwrap();
                sleep(Duration::from_millis(50)).await;
            }
            open.push(socket);
        }
    };
    (address, serve)
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// What a call of that server ends with, and what came before.
async fn ending(limits: Limits, answer: &'static [&'static str]) -> (String, Option<Elapsed>) {
    let (address, serve) = server(answer).await;
    let service = TimeoutLayer::new(limits)
        .unwrap()
        .classify(Marks)
        .layer(model());
    let call = async {
        let mut data = String::new();
        let error = match service.oneshot(request(address)).await {
            Ok(response) => read(response, &mut data, Duration::ZERO).await.err(),
            Err(error) => Some(error),
        };
        (data, error.map(|error| *Elapsed::find(&*error).unwrap()))
    };
    tokio::select! {
        ending = timeout(LONG, call) => ending.unwrap(),
        () = serve => unreachable!("it serves for ever"),
    }
}

async fn read<B>(response: Response<B>, data: &mut String, away: Duration) -> Result<(), BoxError>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let mut body = std::pin::pin!(response.into_body());
    while let Some(frame) = body.frame().await {
        if let Some(chunk) = frame?.data_ref() {
            data.push_str(std::str::from_utf8(chunk).unwrap());
        }
        sleep(away).await;
    }
    Ok(())
}

#[tokio::test]
async fn headers() {
    let (_, elapsed) = ending(Limits::unlimited().headers(LIMIT), &[]).await;
    assert_eq!(elapsed.map(|elapsed| elapsed.phase()), Some(Phase::Headers));
}

#[tokio::test]
async fn first_token() {
    let limits = Limits::unlimited().first_token(LIMIT).idle(LONG);
    let pings = &[HEAD, "1\r\n:\r\n", "1\r\n:\r\n"];
    let (data, elapsed) = ending(limits, pings).await;
    assert_eq!(data, "::");
    assert!(elapsed.unwrap().is_first_token());
}

#[tokio::test]
async fn idle() {
    let limits = Limits::unlimited().first_token(LONG).idle(LIMIT);
    let (data, elapsed) = ending(limits, &[HEAD, "1\r\nt\r\n", "1\r\nt\r\n", "1\r\n:\r\n"]).await;
    assert_eq!(data, "tt:");
    assert!(elapsed.unwrap().is_idle());
}

#[tokio::test]
async fn total() {
    let limits = Limits::unlimited().first_token(LIMIT).total(LIMIT);
    let (data, elapsed) = ending(limits, &[HEAD, "1\r\nt\r\n"]).await;
    assert_eq!(data, "t");
    assert!(elapsed.unwrap().is_total());
}

/// Pings come all the time, and nothing else does.
#[tokio::test]
async fn keep_alives_alone() {
    const PING: &str = "1\r\n:\r\n";
    const ANSWER: [&str; 62] = {
        let mut answer = [PING; 62];
        answer[0] = HEAD;
        answer[1] = "1\r\nt\r\n";
        answer
    };
    let limits = Limits::unlimited().idle(4 * LIMIT).keep_alive(5 * LIMIT);
    let (data, elapsed) = ending(limits, &ANSWER).await;
    assert!(data.starts_with("t::"), "{data}");
    let elapsed = elapsed.unwrap();
    assert_eq!((elapsed.phase(), elapsed.limit()), (Phase::Idle, 5 * LIMIT));
}

/// A byte now and then, where a thousand a second are asked for.
#[tokio::test]
async fn a_trickle() {
    const ANSWER: [&str; 62] = {
        let mut answer = ["1\r\nt\r\n"; 62];
        answer[0] = HEAD;
        answer
    };
    let limits = Limits::unlimited()
        .idle(LONG)
        .floor(Floor::new(1000, LIMIT));
    let (_, elapsed) = ending(limits, &ANSWER).await;
    let elapsed = elapsed.unwrap();
    assert_eq!((elapsed.phase(), elapsed.limit()), (Phase::Idle, LIMIT));
}

#[tokio::test]
async fn a_deadline() {
    let (address, serve) = server(&[]).await;
    let service = TimeoutLayer::new(Limits::default()).unwrap().layer(model());
    let mut request = request(address);
    let deadline = Deadline::after(Instant::now().into_std(), LIMIT);
    request.extensions_mut().insert(deadline);
    let error = tokio::select! {
        answer = timeout(LONG, service.oneshot(request)) => answer.unwrap().unwrap_err(),
        () = serve => unreachable!("it serves for ever"),
    };
    assert!(Elapsed::find(&*error).unwrap().is_total());
}

#[tokio::test]
async fn a_stream_that_is_not_closed_after_its_end() {
    let limits = Limits::unlimited().idle(LONG).end_grace(LIMIT);
    let (data, elapsed) = ending(limits, &[HEAD, "1\r\nt\r\n", "1\r\ne\r\n"]).await;
    assert_eq!((data.as_str(), elapsed), ("te", None));
}

/// The whole answer lies in the socket while the reader is away for longer than the limit.
#[tokio::test]
async fn a_slow_reader() {
    let (address, serve) =
        server(&[HEAD, "1\r\nt\r\n", "1\r\nt\r\n", "1\r\ne\r\n", "0\r\n\r\n"]).await;
    let limits = Limits::unlimited().first_token(LIMIT).idle(LIMIT);
    let service = TimeoutLayer::new(limits)
        .unwrap()
        .classify(Marks)
        .layer(model());
    let call = async {
        let response = service.oneshot(request(address)).await.unwrap();
        let mut data = String::new();
        read(response, &mut data, 2 * LIMIT).await.unwrap();
        data
    };
    let data = tokio::select! {
        data = timeout(LONG, call) => data.unwrap(),
        () = serve => unreachable!("it serves for ever"),
    };
    assert_eq!(data, "tte");
}

#[tokio::test]
async fn ready() {
    let (address, serve) = server(&[]).await;
    let one = ConcurrencyLimit::new(model(), 1);
    let limited = TimeoutLayer::new(Limits::unlimited().ready(LIMIT))
        .unwrap()
        .layer(one);
    let first = limited.clone().oneshot(request(address));
    let second = async {
        sleep(LIMIT / 10).await;
        limited.clone().oneshot(request(address)).await
    };
    let error = tokio::select! {
        _ = first => unreachable!("the server is silent"),
        () = serve => unreachable!("it serves for ever"),
        answer = timeout(LONG, second) => answer.unwrap().unwrap_err(),
    };
    assert!(Elapsed::find(&*error).unwrap().is_ready());
}

/// Connections that the listener has no room for stay half open, as to a host behind a firewall.
#[tokio::test]
async fn connect() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(connection) = timeout(LIMIT, TcpStream::connect(address)).await {
        filling.push(connection.unwrap());
        assert!(filling.len() < 100, "the listener takes everybody");
    }
    let connector = ConnectTimeoutLayer::new(LIMIT)
        .unwrap()
        .layer(HttpConnector::new());
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let error = timeout(LONG, client.request(request(address)))
        .await
        .unwrap()
        .unwrap_err();
    assert!(Elapsed::find(&error).unwrap().is_connect());
    assert_eq!(outcome_of(&error).kind(), Kind::TimedOut(Phase::Connect));

    // A service knows it too, and so does whoever is outside it.
    let mut layered = TimeoutLayer::new(Limits::default()).unwrap().layer(client);
    let call = layered.ready().await.unwrap().call(request(address));
    let error = timeout(LONG, call).await.unwrap().unwrap_err();
    assert!(Elapsed::find(&*error).unwrap().is_connect());
}
