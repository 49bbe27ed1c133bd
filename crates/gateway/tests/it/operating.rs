//! What an operator sees of the targets.

use std::time::Duration;

use backstop_testkit::model::{ClosedPort, Model, Reply};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::sleep;

use crate::support::{Gateway, KINDS, config, full, http1, trio};

/// What the path answers: the status and the first model, if it is shown.
async fn shown(gateway: &Gateway) -> (u16, Value) {
    let request = http::Request::get(gateway.url("/backstop/targets"));
    let response = http1().request(request.body(full("")).unwrap()).await;
    let (head, body) = response.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let model = body.pointer("/models/0").cloned();
    (head.status.as_u16(), model.unwrap_or_default())
}

#[tokio::test]
async fn the_state_of_the_targets_is_shown_where_the_operator_lets_it() {
    let kind = KINDS[1];
    let (_primary, _backup, silent) = trio(kind).await;
    assert_eq!(shown(&silent).await.0, 404);

    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let config = config(kind.word(), &primary.base_url(), &backup.base_url());
    let config = config.replace("model = \"small\"", "model = \"small\"\nmax_concurrent = 9");
    let gateway = Gateway::start(&format!("show_targets = true\n{config}")).await;
    let (status, model) = shown(&gateway).await;
    assert_eq!((status, &model["name"]), (200, &"chat".into()));
    assert_eq!(model["budget_left"], 1.0);
    for (place, name) in ["primary", "backup"].into_iter().enumerate() {
        let target = &model["targets"][place];
        assert_eq!(target["name"], name);
        assert_eq!(target["state"], "healthy");
        assert_eq!(target["share"], 1.0);
        assert_eq!(target["seconds_since_last_success"], Value::Null);
    }
    assert_eq!(model["targets"][0]["in_flight"], Value::Null);
    assert_eq!(model["targets"][1]["in_flight"], 0);

    // The one that answers shows it, and only that one.
    gateway.ask(kind).await;
    let since = |model: &Value, place: usize| {
        model["targets"][place]["seconds_since_last_success"].as_f64()
    };
    let (_, model) = shown(&gateway).await;
    let first = since(&model, 0).unwrap();
    assert!((0.0..20.0).contains(&first), "{model}");
    assert_eq!(since(&model, 1), None);
    sleep(Duration::from_millis(100)).await;
    let (_, model) = shown(&gateway).await;
    assert!(since(&model, 0).unwrap() >= first + 0.1, "{model}");

    // Faults that eject it; then the other one is limited.
    primary.always(Reply::status(500));
    for _ in 0..5 {
        assert_eq!(gateway.ask(kind).await.text(kind), backup.text());
    }
    backup.push(Reply::status(429).header("retry-after", "30"));
    gateway.ask(kind).await;
    let (_, model) = shown(&gateway).await;
    let [faulting, limited] = [&model["targets"][0], &model["targets"][1]];
    assert_eq!(faulting["state"], "faulting", "{model}");
    assert_eq!(faulting["share"], 0.0);
    assert_eq!(faulting["times_ejected"], 1);
    assert!(faulting["ejected_seconds_left"].as_f64().unwrap() > 0.0);
    assert_eq!(limited["state"], "throttled", "{model}");
    assert_eq!(limited["limits"][0]["stated"], true);
    let left = limited["limits"][0]["seconds_left"].as_f64().unwrap();
    assert!((0.0..=30.0).contains(&left), "{model}");
    assert!(since(&model, 1).is_some(), "{model}");
}

#[tokio::test]
async fn the_log_says_why_the_primary_did_not_answer_and_why_a_request_was_refused() {
    let kind = KINDS[1];
    let (primary, _backup, mut gateway) = trio(kind).await;
    gateway.ask(kind).await;
    let log = gateway.logged("answered").await;
    assert!(!log.contains("trace="), "{log}");
    primary.push(Reply::status(401));
    gateway.ask(kind).await;
    gateway.logged("trace=\"primary;failed=auth").await;
    gateway.send(kind, r#"{"model":"none"}"#).await;
    gateway.logged("why=\"the model does not exist\"").await;
    let request = http::Request::get(gateway.url("/v1/nothing"));
    let request = request.body(full("")).unwrap();
    http1().request(request).await.unwrap();
    gateway.logged("why=\"there is nothing at this path").await;
}

#[tokio::test]
async fn the_log_says_why_a_target_could_not_be_reached() {
    let kind = KINDS[1];
    let closed = ClosedPort::new().unwrap();
    let nowhere = "http://no-such-host.invalid/v1";
    let config = config(kind.word(), nowhere, &closed.base_url());
    let mut gateway = Gateway::start(&config).await;
    assert_eq!(gateway.ask(kind).await.status, 502);
    let log = gateway.logged("answered").await;
    for (target, why) in [("primary", "dns error: "), ("backup", "Connection refused")] {
        let said = format!("no connection target={target} why=");
        let line = log.lines().find(|line| line.contains(&said));
        assert!(line.is_some_and(|line| line.contains(why)), "{log}");
    }
}

#[tokio::test]
async fn the_log_says_that_an_answer_broke_off_after_it_had_begun() {
    let kind = KINDS[0];
    let (primary, _backup, mut gateway) = trio(kind).await;
    primary.push(Reply::healthy().cut_after(2));
    gateway.ask(kind).await;
    let line = gateway.logged("an answer failed after it had begun").await;
    assert!(line.contains("target=primary"), "{line}");
}
