//! What goes wrong before the first token, in both ways of asking and both dialects: the caller
//! gets the backup's whole answer, and the primary got one request.

use std::time::Duration;

use backstop_core::Kind as OutcomeKind;
use backstop_testkit::model::{ClosedPort, Model, Refusal, Reply};
use serde_json::Value;

use crate::support::{Gateway, KINDS, Kind, config, trio};

/// Everything that the backup makes good, by what the primary does.
fn failures() -> Vec<(&'static str, Reply)> {
    let tick = Duration::from_millis(50);
    vec![
        ("429", Reply::status(429)),
        (
            "429, come back later",
            Reply::status(429).header("retry-after", "7"),
        ),
        ("out of money", Reply::refuse(Refusal::QuotaExhausted)),
        ("500", Reply::status(500)),
        ("502", Reply::status(502)),
        ("503", Reply::status(503)),
        ("529", Reply::status(529)),
        ("its own key is bad", Reply::status(401)),
        ("its own key may not", Reply::status(403)),
        ("no such model", Reply::status(404)),
        ("a redirect", Reply::redirect("http://127.0.0.1:9/")),
        ("reset before the head", Reply::reset()),
        ("silence before the head", Reply::hang()),
        ("200, then silence", Reply::silent()),
        ("200, then signs of life", Reply::keep_alive_only(tick)),
        (
            "the first token is late",
            Reply::healthy().first_token_after(Duration::from_secs(30)),
        ),
        (
            "an error as the first event",
            Reply::healthy().error_after(0, Refusal::ServerError),
        ),
        (
            "overloaded as the first event",
            Reply::healthy().error_after(0, Refusal::Overloaded),
        ),
        (
            "a 200 that is an error",
            Reply::error_object(Refusal::ServerError),
        ),
        ("a 200 that is nothing", Reply::raw(200, "")),
        ("a 200 that is a web page", Reply::raw(200, "<html></html>")),
        ("cut before the first token", Reply::healthy().cut_after(0)),
        (
            "ended before the first token",
            Reply::healthy().eof_after(0),
        ),
    ]
}

/// Those that only a whole answer survives: a stream has begun by then.
fn failures_of_whole_answers() -> Vec<(&'static str, Reply)> {
    vec![
        ("cut in the middle", Reply::healthy().cut_after(3)),
        ("reset in the middle", Reply::healthy().reset_after(3)),
        ("silent in the middle", Reply::healthy().stall_after(3)),
    ]
}

#[tokio::test]
async fn the_backup_answers_whatever_the_primary_does() {
    let kinds = KINDS.map(|kind| {
        tokio::spawn(async move {
            let mut failures = failures();
            if !kind.streamed {
                failures.extend(failures_of_whole_answers());
            }
            for (what, reply) in failures {
                survives(kind, what, reply).await;
            }
        })
    });
    for kind in kinds {
        kind.await.unwrap();
    }
}

async fn survives(kind: Kind, what: &str, reply: Reply) {
    let (primary, backup, gateway) = trio(kind).await;
    primary.always(reply);
    let answer = gateway.ask(kind).await;
    assert_eq!(answer.status, 200, "{kind:?} {what}: {answer:?}");
    assert_eq!(answer.text(kind), backup.text(), "{kind:?} {what}");
    assert_eq!(
        answer.served(),
        ["backup", "failover", "2"],
        "{kind:?} {what}"
    );
    let (asked, then) = (primary.log().exchanges(), backup.log().exchanges());
    assert_eq!((asked.len(), then.len()), (1, 1), "{kind:?} {what}");
    // Of the request only the model differs.
    let large = kind.question("large");
    let small = kind.question("small");
    assert_eq!(
        (&*asked[0].body, &*then[0].body),
        (large.as_bytes(), small.as_bytes())
    );
}

#[tokio::test]
async fn a_refused_connection_is_made_good() {
    for kind in KINDS {
        let closed = ClosedPort::new().unwrap();
        let backup = Model::start("backup").await.unwrap();
        let config = config(kind.word(), &closed.base_url(), &backup.base_url());
        let gateway = Gateway::start(&config).await;
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.text(kind), backup.text());
        assert_eq!(answer.served(), ["backup", "failover", "2"]);
    }
}

#[tokio::test]
async fn the_callers_own_faults_reach_the_caller_unchanged() {
    for kind in KINDS {
        for refusal in [
            Refusal::Invalid,
            Refusal::TooLarge,
            Refusal::Unprocessable,
            Refusal::ContentFiltered,
            Refusal::ContextTooLong,
        ] {
            let (primary, backup, gateway) = trio(kind).await;
            primary.always(Reply::refuse(refusal));
            let answer = gateway.ask(kind).await;
            let asked = primary.log().exchanges();
            assert_eq!(asked.len(), 1, "{kind:?} {refusal:?}");
            assert_eq!(answer.body, asked[0].sent, "{kind:?} {refusal:?}");
            assert_eq!(
                answer.served()[..2],
                ["primary", "primary"],
                "{kind:?} {refusal:?}"
            );
            assert!(answer.status.is_client_error(), "{kind:?} {refusal:?}");
            assert_eq!(backup.log().len(), 0, "{kind:?} {refusal:?}");
        }
    }
}

#[tokio::test]
async fn a_larger_window_is_asked_when_the_first_is_too_small() {
    for kind in KINDS {
        let primary = Model::start("primary").await.unwrap();
        let backup = Model::start("backup").await.unwrap();
        let config = config(kind.word(), &primary.base_url(), &backup.base_url());
        let window = |tokens: u32| format!("context_window = {tokens}\nmodel =");
        let config = config.replacen("model =", &window(1_000), 1).replacen(
            "model = \"small\"",
            &(window(2_000) + " \"small\""),
            1,
        );
        let gateway = Gateway::start(&config).await;
        primary.always(Reply::refuse(Refusal::ContextTooLong));
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.text(kind), backup.text());
        assert_eq!(primary.log().len(), 1);
    }
}

#[tokio::test]
async fn when_all_fail_the_caller_gets_the_primarys_answer() {
    for kind in KINDS {
        let (primary, backup, gateway) = trio(kind).await;
        primary.always(Reply::status(503).header("x-request-id", "of-the-primary"));
        backup.always(Reply::status(401));
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.body, primary.log().last().unwrap().sent);
        assert_eq!(answer.header("x-request-id"), "of-the-primary");
        assert_eq!(answer.header("x-should-retry"), "false");
    }
}

#[tokio::test]
async fn when_nobody_can_be_reached_the_caller_is_told_in_its_dialect() {
    for kind in KINDS {
        let closed = ClosedPort::new().unwrap();
        let config = config(kind.word(), &closed.base_url(), &closed.base_url());
        let gateway = Gateway::start(&config).await;
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("x-should-retry"), "false");
        assert!(!answer.error_type().is_empty());
        // Nothing of the inside.
        assert!(!String::from_utf8_lossy(&answer.body).contains("127.0.0.1"));

        let hanging = Model::start("hanging").await.unwrap();
        hanging.always(Reply::hang());
        let short = |config: String| config.replace("deadline = \"10s\"", "deadline = \"500ms\"");
        let config = self::config(kind.word(), &hanging.base_url(), &hanging.base_url());
        let gateway = Gateway::start(&short(config)).await;
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.status, 504);
    }
}

#[tokio::test]
async fn a_stream_that_has_begun_ends_in_an_error_and_never_switches() {
    for kind in KINDS.into_iter().filter(|kind| kind.streamed) {
        for reply in [
            Reply::healthy().cut_after(3),
            Reply::healthy().reset_after(3),
            Reply::healthy().eof_after(3),
            Reply::healthy().stall_after(3),
            Reply::healthy().error_after(3, Refusal::ServerError),
        ] {
            let (primary, backup, gateway) = trio(kind).await;
            primary.always(reply.clone());
            let answer = gateway.ask(kind).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.served(), ["primary", "primary", "1"]);
            assert!(
                !answer.outcome.is_success(),
                "{kind:?} {reply:?}: {answer:?}"
            );
            assert_ne!(answer.outcome.kind(), OutcomeKind::Cancelled);
            assert_eq!(backup.log().len(), 0);
            // The tokens that came are a prefix, and nothing says that this is all.
            let text: String = String::from_utf8_lossy(&answer.body)
                .lines()
                .filter_map(|line| line.strip_prefix("data: "))
                .filter_map(|data| serde_json::from_str::<Value>(data).ok())
                .filter_map(|event| {
                    let openai = event.pointer("/choices/0/delta/content");
                    let text = openai.or_else(|| event.pointer("/delta/text"))?;
                    Some(text.as_str()?.to_owned())
                })
                .collect();
            let words: Vec<_> = primary.text().split_inclusive(' ').take(3).collect();
            assert_eq!(
                text.trim_end(),
                words.concat().trim_end(),
                "{kind:?} {reply:?}"
            );
            let all = String::from_utf8_lossy(&answer.body);
            assert!(!all.contains("[DONE]") && !all.contains("message_stop"));
        }
    }
}
