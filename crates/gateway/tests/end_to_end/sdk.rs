//! What the users of the official SDKs see.

use std::time::Duration;

use backstop_testkit::model::{ClosedPort, Ended, Model, Refusal, Reply};
use serde_json::json;

use crate::{
    Pair,
    support::{APIS, Answer, Api, Gateway, Sdk, Target, ended, gone, question},
};

const BOTH: &[bool] = &[true, false];
const STREAMED: &[bool] = &[true];
const UNARY: &[bool] = &[false];

/// What can happen before the first token, and in which modes.
fn faults() -> Vec<(&'static str, Reply, &'static [bool])> {
    let soon = Duration::from_millis(20);
    let late = Duration::from_secs(60);
    let healthy = Reply::healthy;
    vec![
        ("429", Reply::status(429).header("retry-after", "7"), BOTH),
        ("500", Reply::status(500), BOTH),
        ("503", Reply::status(503), BOTH),
        ("529", Reply::status(529), BOTH),
        ("a wrong key", Reply::status(401), BOTH),
        ("a key without rights", Reply::status(403), BOTH),
        ("a missing model", Reply::status(404), BOTH),
        ("reset before headers", Reply::reset(), BOTH),
        ("hang before headers", Reply::hang(), BOTH),
        ("200 then silence", Reply::silent(), BOTH),
        ("keep-alives only", Reply::keep_alive_only(soon), BOTH),
        ("a late token", healthy().first_token_after(late), BOTH),
        (
            "an error first",
            healthy().error_after(0, Refusal::Overloaded),
            BOTH,
        ),
        (
            "an error object",
            Reply::error_object(Refusal::ServerError),
            BOTH,
        ),
        ("a role, then a cut", healthy().cut_after(0), STREAMED),
        ("a role, then a reset", healthy().reset_after(0), STREAMED),
        ("a role, then silence", healthy().stall_after(0), STREAMED),
        ("a role, then the end", healthy().eof_after(0), STREAMED),
        ("a body that breaks off", healthy().cut_after(3), UNARY),
        ("a body that is reset", healthy().reset_after(3), UNARY),
        ("a body that goes silent", healthy().stall_after(3), UNARY),
    ]
}

fn assert_backup_answered(answer: &Answer, backup: &Model, what: &str) {
    assert!(answer.error.is_none(), "{what}: {answer:?}");
    assert_eq!(answer.text, backup.text(), "{what}");
    assert!(answer.finished, "{what}");
    assert_eq!(answer.status, Some(200), "{what}");
    let header = |name: &str| answer.headers.get(name).map(String::as_str);
    assert_eq!(header("x-backstop-served-by"), Some("backup"), "{what}");
    assert_eq!(header("x-backstop-mode"), Some("failover"), "{what}");
    assert_eq!(header("x-backstop-attempts"), Some("2"), "{what}");
}

async fn a_fault_before_the_first_token(api: Api) {
    let mut sdk = Sdk::start();
    for (fault, reply, modes) in faults() {
        for stream in modes.iter().copied() {
            let what = format!("{fault}, streamed: {stream}");
            let pair = Pair::start(api).await;
            pair.primary.push(reply.clone());
            let answer = sdk.ask(&question(api, &pair.gateway, stream)).await;
            assert_backup_answered(&answer, &pair.backup, &what);

            let primary = ended(&pair.primary).await;
            let backup = ended(&pair.backup).await;
            assert_eq!(pair.asked(), (1, 1), "{what}");
            let body = String::from_utf8(primary[0].body.to_vec()).unwrap();
            assert_eq!(primary[0].model().as_deref(), Some("model-of-primary"));
            let body = body.replacen("model-of-primary", "model-of-backup", 1);
            assert_eq!(backup[0].body, body, "{what}");
            assert!(backup[0].is(Ended::Answered), "{what}");
        }
    }
}

#[tokio::test]
async fn a_fault_before_the_first_token_over_openai() {
    a_fault_before_the_first_token(Api::OpenAi).await;
}

#[tokio::test]
async fn a_fault_before_the_first_token_over_anthropic() {
    a_fault_before_the_first_token(Api::Anthropic).await;
}

#[tokio::test]
async fn a_refused_connection() {
    let mut sdk = Sdk::start();
    for api in APIS {
        for stream in [true, false] {
            let closed = ClosedPort::new().unwrap();
            let backup = Model::start("backup").await.unwrap();
            let primary = Target {
                name: "primary",
                base_url: closed.base_url(),
            };
            let targets = [primary, Target::new("backup", &backup)];
            let gateway = Gateway::start(api, &targets).await;
            let answer = sdk.ask(&question(api, &gateway, stream)).await;
            assert_backup_answered(&answer, &backup, "a refused connection");
            assert_eq!(backup.log().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_healthy_primary_answers() {
    let mut sdk = Sdk::start();
    for api in APIS {
        for stream in [true, false] {
            let pair = Pair::start(api).await;
            let answer = sdk.ask(&question(api, &pair.gateway, stream)).await;
            assert!(answer.error.is_none() && answer.finished, "{answer:?}");
            assert_eq!(answer.text, pair.primary.text());
            assert_eq!(answer.headers["x-backstop-served-by"], "primary");
            assert_eq!(answer.headers["x-backstop-mode"], "primary");
            assert_eq!(answer.headers["x-backstop-attempts"], "1");
            assert_eq!(pair.asked(), (1, 0));
        }
    }
}

#[tokio::test]
async fn the_callers_own_faults_come_back_unchanged() {
    let mut sdk = Sdk::start();
    for api in APIS {
        for stream in [true, false] {
            for refusal in [
                Refusal::Invalid,
                Refusal::TooLarge,
                Refusal::Unprocessable,
                Refusal::ContentFiltered,
                Refusal::ContextTooLong,
            ] {
                let pair = Pair::start(api).await;
                pair.primary.push(Reply::refuse(refusal));
                let answer = sdk.ask(&question(api, &pair.gateway, stream)).await;
                let log = ended(&pair.primary).await;
                let error = answer.error.expect("the SDK raises");
                assert_eq!(error.sdk, api.as_str(), "{refusal:?} {error:?}");
                let status = error.status.unwrap();
                assert!([400, 413, 422].contains(&status), "{refusal:?} {status}");
                let body = error.body.unwrap();
                assert_eq!(body.as_bytes(), &log[0].sent[..], "{refusal:?}");
                assert_eq!(pair.asked(), (1, 0), "{refusal:?}");
            }
        }
    }
}

#[tokio::test]
async fn when_all_fail_the_primarys_answer_comes_unchanged_and_is_final() {
    let mut sdk = Sdk::start();
    for api in APIS {
        for stream in [true, false] {
            let pair = Pair::start(api).await;
            let failing = Reply::status(500).header("x-ratelimit-limit-tokens", "9");
            pair.primary.always(failing);
            pair.backup.always(Reply::status(401));
            let mut asked = question(api, &pair.gateway, stream);
            // The SDK retries by itself, unless the answer says that it is in vain.
            asked["retries"] = json!(2);
            let error = sdk.ask(&asked).await.error.expect("the SDK raises");
            let log = ended(&pair.primary).await;
            assert_eq!(error.status, Some(500));
            assert_eq!(error.body.unwrap().as_bytes(), &log[0].sent[..]);
            assert_eq!(error.headers["x-ratelimit-limit-tokens"], "9");
            assert_eq!(error.headers["x-should-retry"], "false");
            assert_eq!(pair.asked(), (1, 1));
        }
    }
}

/// An outage of both models, seen by SDKs that retry twice by default.
#[tokio::test]
async fn sdks_that_retry_do_not_multiply() {
    const CALLS: usize = 20;
    let mut sdk = Sdk::start();
    for api in APIS {
        let pair = Pair::start(api).await;
        pair.primary.always(Reply::status(503));
        pair.backup.always(Reply::status(503));
        for call in 0..CALLS {
            let mut asked = question(api, &pair.gateway, call % 2 == 0);
            asked["retries"] = json!(2);
            assert!(sdk.ask(&asked).await.error.is_some());
        }
        let (primary, backup) = pair.asked();
        // One attempt per call at each target, and 15 in a hundred more.
        let most = CALLS * 115 / 100;
        assert!(primary <= most && backup <= most, "{primary} and {backup}");
    }
}

/// How a stream that has begun breaks off, after so many tokens.
type Ending = (&'static str, fn(usize) -> Reply);

async fn after_the_first_token_never_a_switch(api: Api) {
    let mut sdk = Sdk::start();
    let endings: [Ending; 5] = [
        ("cut", |tokens| Reply::healthy().cut_after(tokens)),
        ("reset", |tokens| Reply::healthy().reset_after(tokens)),
        ("stall", |tokens| Reply::healthy().stall_after(tokens)),
        ("end", |tokens| Reply::healthy().eof_after(tokens)),
        ("error", |tokens| {
            Reply::healthy().error_after(tokens, Refusal::Overloaded)
        }),
    ];
    let tokens = Model::start("primary").await.unwrap().scripted().tokens();
    for (ending, reply) in endings {
        let counts: Vec<_> = match ending {
            // Each of these waits for a limit.
            "stall" => vec![1, tokens.len()],
            _ => (1..=tokens.len()).collect(),
        };
        for count in counts {
            let what = format!("{ending} after {count} tokens");
            // A target that fails over and over is set aside: every case has its own gateway.
            let pair = Pair::start(api).await;
            pair.primary.push(reply(count));
            let answer = sdk.ask(&question(api, &pair.gateway, true)).await;
            let prefix = tokens[..count].concat();
            if ending == "reset" {
                // A reset throws away what its receiver has not read yet; if that was all, the
                // answer had not begun.
                if answer
                    .headers
                    .get("x-backstop-served-by")
                    .is_some_and(|by| by == "backup")
                {
                    assert_backup_answered(&answer, &pair.backup, &what);
                    continue;
                }
                assert!(prefix.starts_with(&answer.text), "{what}: {answer:?}");
            } else {
                assert_eq!(answer.text, prefix, "{what}");
            }
            let error = answer
                .error
                .unwrap_or_else(|| panic!("{what}: a clean end"));
            assert!(!answer.finished, "{what}: {error:?}");
            assert_eq!(pair.asked(), (1, 0), "{what}");
        }
    }
}

#[tokio::test]
async fn after_the_first_token_never_a_switch_over_openai() {
    after_the_first_token_never_a_switch(Api::OpenAi).await;
}

#[tokio::test]
async fn after_the_first_token_never_a_switch_over_anthropic() {
    after_the_first_token_never_a_switch(Api::Anthropic).await;
}

#[tokio::test]
async fn a_stream_that_is_closed_closes_the_upstream_connection() {
    let mut sdk = Sdk::start();
    for api in APIS {
        let pair = Pair::start(api).await;
        let slow = Duration::from_secs(60);
        pair.primary.push(Reply::healthy().token_gap(slow));
        let mut asked = question(api, &pair.gateway, true);
        asked["tokens"] = json!(1);
        let answer = sdk.ask(&asked).await;
        assert_eq!(answer.text, pair.primary.scripted().tokens()[0]);
        gone(&pair.primary).await;
        assert_eq!(pair.backup.log().len(), 0);
    }
}
