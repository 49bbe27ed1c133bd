//! Who is asked first and who is asked as well: plans, affinity, exercise and hedging, by the
//! models' own logs.

use std::time::Duration;

use backstop_testkit::model::{Ended, Exchange, Model, Reply};
use http::HeaderValue;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Answer, Gateway, KINDS, Kind, PATIENCE, config, http1, read};

const KIND: Kind = KINDS[0];

/// Two models and a gateway that is told so much of its own model. Nobody is given up early.
async fn with(model_has: &str) -> (Model, Model, Gateway) {
    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let config = config(KIND.word(), &primary.base_url(), &backup.base_url());
    let config = config.replace("500ms", "60s").replace("10s", "2m");
    let gateway = Gateway::start(&format!("{config}\n{model_has}")).await;
    (primary, backup, gateway)
}

#[tokio::test]
async fn weights_share_the_calls() {
    const CALLS: usize = 200;
    let (primary, backup, gateway) = with("plan = \"weighted\"\nweights = [3, 1]").await;
    for _ in 0..CALLS {
        assert_eq!(gateway.ask(KIND).await.status, 200);
    }
    let (first, second) = (primary.log().len(), backup.log().len());
    assert_eq!(first + second, CALLS);
    // Fifty, and six times the deviation of chance to either side.
    assert!((10..=90).contains(&second), "{second}");
}

async fn converse(gateway: &Gateway, conversation: usize) -> Answer {
    let mut request = KIND.request(gateway, KIND.question("chat").into());
    let name = HeaderValue::from_str(&format!("conversation-{conversation}")).unwrap();
    request.headers_mut().insert("x-conversation", name);
    read(KIND, http1().request(request).await.unwrap()).await
}

#[tokio::test]
async fn a_conversation_stays_where_it_is_and_a_rescued_one_for_the_dwell_time() {
    const DWELL: Duration = Duration::from_secs(3);
    let model_has = "plan = \"rendezvous\"\naffinity_header = \"x-conversation\"\ndwell = \"3s\"";
    let (primary, backup, gateway) = with(model_has).await;
    let mut homes = Vec::new();
    for conversation in 0..20 {
        let home = converse(&gateway, conversation).await.text(KIND);
        for _ in 0..3 {
            assert_eq!(converse(&gateway, conversation).await.text(KIND), home);
        }
        homes.push(home);
    }
    let at_primary = homes
        .iter()
        .position(|home| home == primary.text())
        .unwrap();
    let at_backup = homes.iter().position(|home| home == backup.text()).unwrap();

    primary.push(Reply::status(500));
    let rescued = converse(&gateway, at_primary).await;
    let since = Instant::now();
    assert_eq!(rescued.text(KIND), backup.text());
    let asked = primary.log().len();
    for _ in 0..3 {
        assert_eq!(
            converse(&gateway, at_primary).await.text(KIND),
            backup.text()
        );
    }
    assert!(since.elapsed() < DWELL, "the machine is too slow to see it");
    assert_eq!(primary.log().len(), asked);
    assert_eq!(
        converse(&gateway, at_backup).await.text(KIND),
        backup.text()
    );
    // Seconds are what the dwell time is counted in.
    sleep(DWELL + Duration::from_secs(1)).await;
    assert_eq!(
        converse(&gateway, at_primary).await.text(KIND),
        primary.text()
    );
}

#[tokio::test]
async fn a_backup_is_exercised_by_a_share_of_the_calls() {
    const CALLS: usize = 200;
    let (primary, backup, gateway) = with("exercise = 0.1").await;
    for _ in 0..CALLS {
        assert_eq!(gateway.ask(KIND).await.status, 200);
    }
    let exercised = backup.log().len();
    assert_eq!(primary.log().len() + exercised, CALLS);
    assert!((1..=60).contains(&exercised), "{exercised}");
    // One that does not stand the exercise costs no answer.
    backup.always(Reply::status(500));
    let before = backup.log().len();
    let until_seen = async {
        while backup.log().len() == before {
            assert_eq!(gateway.ask(KIND).await.text(KIND), primary.text());
        }
    };
    timeout(PATIENCE, until_seen)
        .await
        .expect("it is exercised");
}

/// The primary keeps its caller waiting; the backup answers, and the primary's caller is gone.
async fn is_hedged(primary: &Model, backup: &Model, gateway: &Gateway) {
    let before = (primary.log().len(), backup.log().len());
    primary.push(Reply::healthy().first_token_after(Duration::from_secs(50)));
    let answer = timeout(PATIENCE, gateway.ask(KIND)).await.unwrap();
    assert_eq!(answer.text(KIND), backup.text());
    let trace = answer.header("x-backstop-trace");
    assert!(trace.contains("hedge"), "{trace}");
    assert_eq!(backup.log().len(), before.1 + 1);
    let gone = |log: &[Exchange]| log.len() == before.0 + 1 && log[before.0].is(Ended::ClientGone);
    timeout(PATIENCE, primary.log().wait_for(gone))
        .await
        .expect("the loser's connection is closed");
}

#[tokio::test]
async fn a_first_token_that_is_late_is_hedged() {
    let (primary, backup, gateway) = with("hedge = { after = \"1s\" }").await;
    gateway.ask(KIND).await;
    assert!(backup.log().is_empty());
    is_hedged(&primary, &backup, &gateway).await;
}

#[tokio::test]
async fn a_first_token_that_is_later_than_most_is_hedged() {
    let hedge = "hedge = { percentile = 0.95, least = \"1s\" }";
    let (primary, backup, gateway) = with(hedge).await;
    // What is usual is not known before so many answers.
    for _ in 0..20 {
        gateway.ask(KIND).await;
    }
    assert!(backup.log().is_empty());
    is_hedged(&primary, &backup, &gateway).await;
}
