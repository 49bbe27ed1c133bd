//! A caller that goes away leaves nothing behind: no call upstream, no socket, no task.

use std::time::Duration;

use backstop_testkit::model::{Exchange, Reply};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    Pair,
    support::{APIS, Api, Gateway, PATIENCE, gone},
};

fn chat(stream: bool) -> Vec<u8> {
    json!({"model": "chat", "messages": [], "max_tokens": 9, "stream": stream})
        .to_string()
        .into()
}

async fn send(gateway: &Gateway, api: Api, body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(&gateway.addr).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: backstop.test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        api.path(),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body).await.unwrap();
    socket
}

/// Reads until the answer has begun.
async fn read_some(socket: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.windows(5).any(|bytes| bytes == b"data:") {
        let count = timeout(PATIENCE, socket.read_buf(&mut read)).await;
        assert_ne!(count.unwrap().unwrap(), 0, "the connection ends early");
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    /// How soon it must be closed. The machine may pause as long by itself, so it is measured up
    /// to so many times; what is too slow by design is too slow each time.
    const SOON: Duration = Duration::from_millis(50);
    const TRIES: usize = 5;

    let slow = Duration::from_secs(60);
    for api in APIS {
        for (what, reply, stream, begins) in [
            ("before the head", Reply::hang(), true, false),
            ("before the first token", Reply::silent(), true, false),
            (
                "in the middle",
                Reply::healthy().token_gap(slow),
                true,
                true,
            ),
            ("in a unary call", Reply::hang(), false, false),
            (
                "in a unary body",
                Reply::healthy().stall_after(2),
                false,
                false,
            ),
        ] {
            let mut took = Vec::new();
            while took.len() < TRIES && took.iter().all(|took| *took > SOON) {
                let pair = Pair::start(api).await;
                let sockets = pair.gateway.sockets();
                pair.primary.push(reply.clone());
                let mut socket = send(&pair.gateway, api, &chat(stream)).await;
                if begins {
                    read_some(&mut socket).await;
                }
                let came = |log: &[Exchange]| log.first().is_some_and(|one| !one.body.is_empty());
                let came = timeout(PATIENCE, pair.primary.log().wait_for(came)).await;
                assert!(came.unwrap()[0].ended.is_none(), "{what}");
                let left = Instant::now();
                drop(socket);
                let (_, at) = gone(&pair.primary).await.ended.unwrap();
                took.push(at.saturating_duration_since(left));
                assert_eq!(pair.asked(), (1, 0), "{what}");
                // Whatever held the call is gone as well.
                let closed = async {
                    while pair.gateway.sockets() > sockets {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let closed = timeout(PATIENCE, closed).await;
                closed.expect("all sockets of the call are closed");
            }
            let soon = took.iter().any(|took| *took <= SOON);
            assert!(soon, "{api:?} {what}: {took:?}");
        }
    }
}
