//! A caller that goes away takes its request to the target with it.

use std::time::Duration;

use backstop_testkit::model::{Ended, Reply};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::support::{KINDS, PATIENCE, http1, http2, trio};

/// The upstream connection must be closed within this time.
const BOUND: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_caller_that_leaves_before_the_first_token_is_noticed_by_the_target() {
    for kind in KINDS {
        for (hangs, client) in [
            (Reply::hang(), http1()),
            (Reply::hang(), http2()),
            (Reply::silent(), http1()),
            (Reply::healthy().first_token_after(PATIENCE), http2()),
        ] {
            let (primary, backup, gateway) = trio(kind).await;
            primary.always(hangs);
            let request = kind.request(&gateway, kind.question("chat").into());
            let asking = tokio::spawn(client.request(request));
            primary.log().wait_for(|asked| asked.len() == 1).await;
            // Well into the call, well before any limit.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let left = Instant::now();
            asking.abort();
            drop(client);
            noticed(&primary, left).await;
            assert_eq!(
                backup.log().len(),
                0,
                "nobody else is asked for a caller who left"
            );
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_in_mid_stream_is_noticed_by_the_target() {
    for kind in KINDS.into_iter().filter(|kind| kind.streamed) {
        for client in [http1(), http2()] {
            let (primary, _backup, gateway) = trio(kind).await;
            primary.always(Reply::healthy().token_gap(Duration::from_millis(200)));
            let request = kind.request(&gateway, kind.question("chat").into());
            let mut answer = client.request(request).await.unwrap();
            answer.frame().await.unwrap().unwrap();
            let left = Instant::now();
            drop(answer);
            drop(client);
            noticed(&primary, left).await;
        }
    }
}

async fn noticed(model: &backstop_testkit::model::Model, left: Instant) {
    let is_over = |asked: &[backstop_testkit::model::Exchange]| asked[0].ended.is_some();
    let asked = model.log().wait_for(is_over).await;
    let (how, when) = asked[0].ended.unwrap();
    assert_eq!(how, Ended::ClientGone);
    let took = when.saturating_duration_since(left);
    assert!(took <= BOUND, "{took:?}");
}
