//! Requests for more than one choice: an answer that lacks some is neither taken for a whole one nor
//! kept.

use std::time::Duration;

use backstop_testkit::model::{Framing, Reply};
use serde_json::{Value, json};

use crate::support::{Answer, Gateway, KINDS, Kind, config, trio};

const STREAMED: Kind = KINDS[0];

fn question(kind: Kind, n: usize) -> String {
    let mut body: Value = serde_json::from_str(&kind.question("chat")).unwrap();
    body["n"] = n.into();
    body.to_string()
}

/// The events of `choices` choices, one after the other, a text and an end of each.
fn events(choices: usize) -> Vec<String> {
    let event = |index, delta: Value, reason: Option<&str>| {
        let choice = json!({"index": index, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let choice = |index| {
        let text = json!({"role": "assistant", "content": "Hi"});
        [
            event(index, text, None),
            event(index, json!({}), Some("stop")),
        ]
    };
    (0..choices).flat_map(choice).collect()
}

fn stream(events: &[String]) -> Reply {
    Reply::raw(200, events.concat())
        .header("content-type", "text/event-stream")
        .framing(Framing::Chunked)
}

fn whole(choices: usize) -> Reply {
    let choice = |index| {
        let message = json!({"role": "assistant", "content": "Hi"});
        json!({"index": index, "message": message, "finish_reason": "stop"})
    };
    let choices: Vec<_> = (0..choices).map(choice).collect();
    Reply::raw(200, json!({"choices": choices}).to_string())
}

/// Whether the caller was told that the answer is not whole.
fn is_told(answer: &Answer) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    answer.broke || body.contains("data: {\"error\":")
}

#[tokio::test]
async fn a_stream_that_lacks_a_choice_never_looks_whole() {
    for n in [2, 3] {
        let events = events(n);
        for length in 1..=events.len() {
            let (primary, backup, gateway) = trio(STREAMED).await;
            primary.push(stream(&events[..length]));
            let answer = gateway.send(STREAMED, question(STREAMED, n)).await;
            assert_eq!(answer.served(), ["primary", "primary", "1"]);
            let is_whole = length == events.len();
            assert_eq!(is_told(&answer), !is_whole, "{n}, {length}: {answer:?}");
            if is_whole {
                assert_eq!(answer.body, events.concat());
            }
            // Nothing can be made good after the first token.
            assert_eq!(backup.log().len(), 0);
        }
    }
}

#[tokio::test]
async fn an_answer_that_lacks_a_choice_is_not_kept() {
    let done = "data: [DONE]\n\n".to_owned();
    let lacking = [events(1), vec![done.clone()]].concat();
    let complete = [events(2), vec![done]].concat();
    for (kind, lacking, complete) in [
        (STREAMED, stream(&lacking), stream(&complete)),
        (STREAMED.whole(), whole(1), whole(2)),
    ] {
        for (reply, is_kept) in [(lacking, false), (complete, true)] {
            let (primary, backup, gateway) = {
                let (primary, backup, _) = trio(kind).await;
                let config = config(kind.word(), &primary.base_url(), &backup.base_url());
                let config = format!("[cache]\ntenant = \"everyone\"\n{config}cache = true\n");
                (primary, backup, Gateway::start(&config).await)
            };
            primary.push(reply);
            let answer = gateway.send(kind, question(kind, 2)).await;
            assert!(!is_told(&answer), "the server's own word: {answer:?}");
            // It is kept after its end, off the caller's path.
            tokio::time::sleep(Duration::from_millis(200)).await;
            primary.always(Reply::status(503));
            backup.always(Reply::status(503));
            let again = gateway.send(kind, question(kind, 2)).await;
            let mode = again.header("x-backstop-mode");
            assert_eq!(mode == "stale", is_kept, "{kind:?}: {again:?}");
        }
    }
}
