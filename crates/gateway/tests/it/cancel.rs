//! A caller that goes away takes its request to the target with it.

use std::time::Duration;

use backstop_testkit::model::{Ended, Exchange, Model, Reply};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::support::{Asking, KINDS, PATIENCE, http1, http2, trio};

/// The upstream connection must be closed within this time. The machine may pause as long by
/// itself, so it is measured up to so many times; what is too slow by design is too slow each time.
const BOUND: Duration = Duration::from_millis(50);
const TRIES: usize = 5;

/// Measures how long it took, and again where it took too long.
async fn soon(measure: impl AsyncFn() -> Duration) {
    let mut took = Vec::new();
    while took.len() < TRIES && took.iter().all(|took| *took > BOUND) {
        took.push(measure().await);
    }
    assert!(took.iter().any(|took| *took <= BOUND), "{took:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_first_token_is_noticed_by_the_target() {
    for kind in KINDS {
        for (hangs, client) in [
            (Reply::hang(), http1 as fn() -> Asking),
            (Reply::hang(), http2),
            (Reply::silent(), http1),
            (Reply::healthy().first_token_after(PATIENCE), http2),
        ] {
            soon(async || {
                let (primary, backup, gateway) = trio(kind).await;
                primary.always(hangs.clone());
                let client = client();
                let request = kind.request(&gateway, kind.question("chat").into());
                let asking = tokio::spawn(client.request(request));
                primary.log().wait_for(|asked| asked.len() == 1).await;
                // Well into the call, well before any limit.
                tokio::time::sleep(Duration::from_millis(100)).await;
                let left = Instant::now();
                asking.abort();
                drop(client);
                let took = noticed(&primary, left).await;
                assert_eq!(
                    backup.log().len(),
                    0,
                    "nobody else is asked for a caller who left"
                );
                took
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_in_mid_stream_is_noticed_by_the_target() {
    for kind in KINDS.into_iter().filter(|kind| kind.streamed) {
        for client in [http1 as fn() -> Asking, http2] {
            soon(async || {
                let (primary, _backup, gateway) = trio(kind).await;
                primary.always(Reply::healthy().token_gap(Duration::from_millis(200)));
                let client = client();
                let request = kind.request(&gateway, kind.question("chat").into());
                let mut answer = client.request(request).await.unwrap();
                answer.frame().await.unwrap().unwrap();
                let left = Instant::now();
                drop(answer);
                drop(client);
                noticed(&primary, left).await
            })
            .await;
        }
    }
}

/// How long it took until the target noticed.
async fn noticed(model: &Model, left: Instant) -> Duration {
    let is_over = |asked: &[Exchange]| asked[0].ended.is_some();
    let asked = model.log().wait_for(is_over).await;
    let (how, when) = asked[0].ended.unwrap();
    assert_eq!(how, Ended::ClientGone);
    when.saturating_duration_since(left)
}
