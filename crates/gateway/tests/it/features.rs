//! What a configuration can ask of the layers, seen from outside.

use std::time::Duration;

use backstop_testkit::model::{ClosedPort, Model, Reply};
use backstop_wire::Dialect;
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Answer, Gateway, KINDS, Kind, config, http1, read};

/// A primary and a backup with more in the configuration: of the process, of the backup, of the
/// model.
async fn with(kind: Kind, top: &str, backup_has: &str, model_has: &str) -> (Model, Model, Gateway) {
    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let config = config(kind.word(), &primary.base_url(), &backup.base_url()).replace(
        "model = \"small\"",
        &format!("model = \"small\"\n{backup_has}"),
    );
    let gateway = Gateway::start(&format!("{top}\n{config}\n{model_has}")).await;
    (primary, backup, gateway)
}

async fn ask_with(gateway: &Gateway, kind: Kind, name: &'static str, value: &str) -> Answer {
    let mut request = kind.request(gateway, kind.question("chat").into());
    let value = HeaderValue::from_str(value).unwrap();
    request.headers_mut().insert(name, value);
    read(kind, http1().request(request).await.unwrap()).await
}

#[tokio::test]
async fn the_trace_tells_what_was_decided() {
    for kind in KINDS {
        let (primary, backup, gateway) = with(kind, "", "", "").await;
        let healthy = gateway.ask(kind).await;
        assert!(
            healthy
                .header("x-backstop-trace")
                .starts_with("primary;served;")
        );

        primary.push(Reply::status(500));
        let rescued = gateway.ask(kind).await;
        let trace = rescued.header("x-backstop-trace");
        assert!(trace.starts_with("primary;failed=unavailable"), "{trace}");
        assert!(trace.contains(", backup;served"), "{trace}");

        primary.push(Reply::reset());
        backup.push(Reply::reset());
        let lost = gateway.ask(kind).await;
        let trace = lost.header("x-backstop-trace");
        assert!(!lost.status.is_success());
        assert!(trace.starts_with("primary;failed="), "{trace}");
        assert!(trace.contains("backup;failed="), "{trace}");
    }
}

#[tokio::test]
async fn a_caller_chooses_only_where_the_operator_lets_it() {
    let kind = KINDS[1];
    let (primary, backup, gateway) = with(kind, "force_header = \"x-force\"", "", "").await;
    let forced = ask_with(&gateway, kind, "x-force", "fallback").await;
    assert_eq!(forced.text(kind), backup.text());
    let forced = ask_with(&gateway, kind, "x-force", "primary").await;
    assert_eq!(forced.text(kind), primary.text());

    let (primary, _backup, gateway) = with(kind, "", "", "").await;
    let asked = ask_with(&gateway, kind, "x-force", "fallback").await;
    assert_eq!(asked.text(kind), primary.text());
}

#[tokio::test]
async fn a_backup_gets_no_more_than_it_is_sized_for() {
    let kind = KINDS[1];
    let (primary, backup, gateway) = with(kind, "", "max_concurrent = 1", "").await;
    primary.always(Reply::status(503));
    backup.always(Reply::healthy().head_after(Duration::from_secs(1)));
    let first = async { gateway.ask(kind).await };
    let second = async {
        backup.log().wait_for(|asked| asked.len() == 1).await;
        let began = Instant::now();
        let refused = gateway.ask(kind).await;
        (refused, Instant::now().saturating_duration_since(began))
    };
    let (first, (refused, took)) = tokio::join!(first, second);
    assert_eq!(first.text(kind), backup.text());
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("x-should-retry"), "false");
    let trace = refused.header("x-backstop-trace");
    assert!(trace.contains("backup;skipped=at_capacity"), "{trace}");
    assert_eq!(backup.log().len(), 1);
    assert!(took < Duration::from_millis(400), "{took:?}");
}

#[tokio::test]
async fn a_target_that_cannot_call_tools_is_left_out() {
    for kind in KINDS {
        let (primary, backup, gateway) = with(kind, "", "tools = false", "").await;
        primary.always(Reply::status(500));
        let mut body: serde_json::Value = serde_json::from_str(&kind.question("chat")).unwrap();
        body["tools"] = json!([{"name": "look_up", "input_schema": {"type": "object"}}]);
        let answer = gateway.send(kind, body.to_string()).await;
        assert_eq!(answer.status, 500);
        assert_eq!(backup.log().len(), 0);
        assert_eq!(gateway.ask(kind).await.status, 200);
    }
}

#[tokio::test]
async fn a_lost_request_is_not_sent_again_where_that_is_asked_for() {
    let kind = KINDS[1];
    let (primary, backup, gateway) = with(kind, "", "", "at_most_once = true").await;
    primary.push(Reply::reset());
    let answer = gateway.ask(kind).await;
    assert_eq!(answer.status, 502);
    assert_eq!(backup.log().len(), 0);
    // A refusal was not processed.
    primary.push(Reply::status(503));
    assert_eq!(gateway.ask(kind).await.text(kind), backup.text());
}

#[tokio::test]
async fn an_earlier_answer_is_given_again_to_the_same_tenant_when_no_model_can() {
    let cache = "[cache]\ntenant = { header = \"authorization\" }\n";
    for kind in KINDS {
        let (primary, backup, gateway) = with(kind, cache, "", "cache = true").await;
        let first = ask_with(&gateway, kind, "authorization", "Bearer one").await;
        assert_eq!(first.text(kind), primary.text());
        // It is kept after its end, off the caller's path.
        tokio::time::sleep(Duration::from_millis(200)).await;
        primary.always(Reply::status(503));
        backup.always(Reply::status(503));
        for other in KINDS
            .into_iter()
            .filter(|other| other.dialect == kind.dialect)
        {
            let stale = ask_with(&gateway, other, "authorization", "Bearer one").await;
            assert_eq!(stale.text(other), primary.text());
            assert_eq!(stale.header("x-backstop-mode"), "stale");
            assert!(stale.headers.contains_key("age"));
            let trace = stale.header("x-backstop-trace");
            assert!(trace.contains("backup;"), "{trace}");
            let status = stale.header("cache-status");
            assert!(status.contains("stale-if-error"), "{status}");
        }
        let foreign = ask_with(&gateway, kind, "authorization", "Bearer two").await;
        assert_eq!(foreign.status, 503);
        assert_eq!(gateway.ask(kind).await.status, 503);
        // Who says to be two is neither.
        let mut request = kind.request(&gateway, kind.question("chat").into());
        for name in ["Bearer one", "Bearer two"] {
            let value = HeaderValue::from_static(name);
            request.headers_mut().append("authorization", value);
        }
        let both = read(kind, http1().request(request).await.unwrap()).await;
        assert!(!both.status.is_success(), "{both:?}");
    }
}

#[tokio::test]
async fn an_earlier_answer_is_not_given_to_nobody_nor_to_another_request() {
    let cache = "[cache]\ntenant = { header = \"x-tenant\" }\n";
    let kind = KINDS[0];
    let tier = "forward_headers = [\"x-tier\"]";
    let (primary, backup, gateway) = with(kind, cache, tier, "cache = true").await;
    let ask = async |tenant: &'static str, tier: &'static str| {
        let mut request = kind.request(&gateway, kind.question("chat").into());
        for (name, value) in [("x-tenant", tenant), ("x-tier", tier)] {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        read(kind, http1().request(request).await.unwrap()).await
    };
    for tenant in ["one", ""] {
        assert_eq!(ask(tenant, "low").await.text(kind), primary.text());
    }
    // They are kept after their end, off the caller's path.
    tokio::time::sleep(Duration::from_millis(200)).await;
    primary.always(Reply::status(503));
    backup.always(Reply::status(503));
    assert_eq!(
        ask("one", "low").await.header("x-backstop-mode"),
        "stale",
        "the same request of the same tenant"
    );
    assert_eq!(ask("one", "high").await.status, 503, "another tier");
    assert_eq!(ask("", "low").await.status, 503, "of nobody");
}

#[tokio::test]
async fn the_operators_text_is_the_last_resort() {
    for kind in KINDS {
        let simplified = "simplified = \"Back in {retry_after}: {outcome}.\"";
        let (primary, backup, gateway) = with(kind, "", "", simplified).await;
        primary.always(Reply::status(503).header("retry-after", "7"));
        backup.always(Reply::status(503));
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-backstop-mode"), "simplified");
        let text = answer.text(kind);
        assert!(text.starts_with("Back in 7 seconds: "), "{text}");
        assert!(!answer.headers.contains_key("x-backstop-served-by"));
        let trace = answer.header("x-backstop-trace");
        assert!(trace.contains("backup;"), "{trace}");
        assert_eq!(answer.header("x-backstop-attempts"), "2");

        let error = "simplified = { text = \"Out of office.\", status = 503 }";
        let closed = ClosedPort::new().unwrap();
        let config = config(kind.word(), &closed.base_url(), &closed.base_url());
        let gateway = Gateway::start(&format!("{config}{error}")).await;
        let answer = gateway.ask(kind).await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["message"], "Out of office.");
        assert_eq!(answer.header("x-backstop-attempts"), "2");
    }
}

/// An answer with this text, whole and in one piece, that ended for the reason.
fn ended(kind: Kind, text: &str, reason: &str) -> Reply {
    let openai = |name: &str, message: Value, reason: Option<&str>| json!({"choices": [{"index": 0, name: message, "finish_reason": reason}]});
    let message = json!({"role": "assistant", "content": text});
    let block = |text: &str| json!({"type": "text", "text": text});
    let events = match (kind.dialect, kind.streamed) {
        (Dialect::Anthropic, false) => {
            let body = json!({"type": "message", "content": [block(text)], "stop_reason": reason});
            return Reply::raw(200, body.to_string());
        }
        (_, false) => return Reply::raw(200, openai("message", message, Some(reason)).to_string()),
        (Dialect::Anthropic, true) => vec![
            json!({"type": "message_start", "message": {"type": "message", "content": []}}),
            json!({"type": "content_block_start", "index": 0, "content_block": block("")}),
            json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": text}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": reason}}),
            json!({"type": "message_stop"}),
        ],
        (_, true) => vec![
            openai("delta", message, None),
            openai("delta", json!({}), Some(reason)),
        ],
    };
    let events = events.iter().map(|event| format!("data: {event}\n\n"));
    Reply::raw(200, events.collect::<String>()).header("content-type", "text/event-stream")
}

#[tokio::test]
async fn bad_answers_fail_over_where_that_is_asked_for() {
    let takes = "takes_refused_content = true";
    let all = "bad_answers = [\"empty\", \"malformed_tool_call\", \"refusal\", \"truncated\"]";
    for kind in KINDS {
        let [done, cut, call, refused] = match kind.dialect {
            Dialect::Anthropic => ["end_turn", "max_tokens", "tool_use", "refusal"],
            _ => ["stop", "length", "tool_calls", "content_filter"],
        };
        let cases = [
            (ended(kind, "\n", done), "malformed_response"),
            (ended(kind, "To be or", cut), "malformed_response"),
            (ended(kind, "I look it up.", call), "malformed_response"),
            (ended(kind, "I cannot say.", refused), "content_filtered"),
        ];
        let (primary, backup, gateway) = with(kind, "", takes, "").await;
        for (reply, _) in &cases {
            primary.push(reply.clone());
            assert_eq!(gateway.ask(kind).await.served()[0], "primary", "{reply:?}");
        }
        assert_eq!(backup.log().len(), 0);

        let (primary, backup, gateway) = with(kind, "", takes, all).await;
        for (reply, outcome) in &cases {
            primary.push(reply.clone());
            let answer = gateway.ask(kind).await;
            assert_eq!(answer.text(kind), backup.text(), "{reply:?}");
            let trace = answer.header("x-backstop-trace");
            let failed = format!("primary;failed={outcome}");
            assert!(trace.starts_with(&failed), "{trace}");
        }
        primary.push(ended(kind, "Whole.", done));
        assert_eq!(gateway.ask(kind).await.text(kind), "Whole.");

        // When nobody does better, a refusal is still what a model said.
        for model in [&primary, &backup] {
            model.push(ended(kind, "I cannot say.", refused));
        }
        assert_eq!(gateway.ask(kind).await.text(kind), "I cannot say.");
        for model in [&primary, &backup] {
            model.push(ended(kind, "To be or", cut));
        }
        assert_eq!(gateway.ask(kind).await.status, 502);
    }
}
