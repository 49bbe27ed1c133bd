//! Answers given before, through the official SDKs, and what replicas tell each other by Redis.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use backstop_testkit::model::{Model, Reply};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::{APIS, Api, Gateway, PATIENCE, Sdk, Target};

/// An answer with text, a tool call and usage.
fn whole(api: Api) -> Reply {
    let body = match api {
        Api::OpenAi => json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000,
            "model": "model-of-primary",
            "choices": [{
                "index": 0, "finish_reason": "tool_calls", "logprobs": null,
                "message": {
                    "role": "assistant", "content": "Let me look: Grüße, \"quoted\".", "refusal": null,
                    "tool_calls": [{
                        "id": "call_1", "type": "function",
                        "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"},
                    }],
                },
            }],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }),
        Api::Anthropic => json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "model-of-primary",
            "content": [
                {"type": "text", "text": "Let me look: Grüße, \"quoted\"."},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 11, "output_tokens": 7},
        }),
    };
    Reply::raw(200, body.to_string()).header("content-type", "application/json")
}

/// The same as a stream, with the call's arguments in two pieces.
fn whole_stream(api: Api) -> Reply {
    let events = match api {
        Api::OpenAi => {
            let chunk = |delta: Value, finish: Value| {
                json!({
                    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
                    "model": "model-of-primary", "usage": null,
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
                })
            };
            let mut usage = chunk(json!({}), Value::Null);
            usage["choices"] = json!([]);
            usage["usage"] =
                json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
            let call = |call: Value| json!({ "tool_calls": [call] });
            let begins = json!({
                "index": 0, "id": "call_1", "type": "function",
                "function": {"name": "weather", "arguments": "{\"city\": "},
            });
            let goes_on = json!({"index": 0, "function": {"arguments": "\"Oslo\"}"}});
            vec![
                chunk(json!({"role": "assistant", "content": ""}), Value::Null),
                chunk(json!({"content": "Let me look: "}), Value::Null),
                chunk(json!({"content": "Grüße, \"quoted\"."}), Value::Null),
                chunk(call(begins), Value::Null),
                chunk(call(goes_on), Value::Null),
                chunk(json!({}), json!("tool_calls")),
                usage,
            ]
        }
        Api::Anthropic => vec![
            json!({"type": "message_start", "message": {
                "id": "msg_1", "type": "message", "role": "assistant", "model": "model-of-primary",
                "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 11, "output_tokens": 1},
            }}),
            json!({"type": "content_block_start", "index": 0,
                "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": "Let me look: "}}),
            json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": "Grüße, \"quoted\"."}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_start", "index": 1, "content_block":
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}}),
            json!({"type": "content_block_delta", "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": "{\"city\": "}}),
            json!({"type": "content_block_delta", "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": "\"Oslo\"}"}}),
            json!({"type": "content_block_stop", "index": 1}),
            json!({"type": "message_delta", "delta":
                {"stop_reason": "tool_use", "stop_sequence": null}, "usage": {"output_tokens": 7}}),
            json!({"type": "message_stop"}),
        ],
    };
    let mut body = String::new();
    for event in events {
        if let Some(name) = event["type"].as_str() {
            body += &format!("event: {name}\n");
        }
        body += &format!("data: {event}\n\n");
    }
    if api == Api::OpenAi {
        body += "data: [DONE]\n\n";
    }
    Reply::raw(200, body).header("content-type", "text/event-stream")
}

fn question(api: Api, gateway: &Gateway, key: &str, stream: bool) -> Value {
    json!({
        "api": api.as_str(), "base_url": format!("http://{}/v1", gateway.addr), "key": key,
        "model": "chat", "prompt": "What is the weather in Oslo?", "stream": stream,
    })
}

/// Asks until the kept answer is there: it is written after the answer has ended.
async fn stale(sdk: &mut Sdk, question: &Value) -> Value {
    let start = Instant::now();
    loop {
        let answer = sdk.tell(question).await;
        if answer["headers"]["x-backstop-mode"] == "stale" {
            return answer;
        }
        assert!(
            Instant::now() - start < PATIENCE / 3,
            "no kept answer: {answer}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

const IN_MEMORY: &str = r#"
cache = true

[cache]
store = "memory"
tenant = { header = "authorization" }
stale_if_error = "60s"
tool_calls = true
"#;

#[tokio::test]
async fn a_kept_answer_is_whole_to_the_sdks_as_json_and_as_stream() {
    let mut sdk = Sdk::run("whole.py");
    for (api, kept_as_stream) in APIS.into_iter().flat_map(|api| [(api, false), (api, true)]) {
        let primary = Model::start("primary").await.unwrap();
        let targets = [Target::new("primary", &primary)];
        let gateway = Gateway::start_with(api, &targets, IN_MEMORY, &[]).await;

        primary.push(if kept_as_stream {
            whole_stream(api)
        } else {
            whole(api)
        });
        let asked = question(api, &gateway, "tenant-a", kept_as_stream);
        let first = sdk.tell(&asked).await;
        assert_eq!(first["headers"]["x-backstop-mode"], "primary", "{first}");
        assert_eq!(first["text"], "Let me look: Grüße, \"quoted\".");
        assert_eq!(first["calls"][0][1], "weather");
        assert!(first["usage"].is_array(), "{first}");
        primary.always(Reply::status(503));
        for stream in [false, true] {
            let kept = stale(&mut sdk, &question(api, &gateway, "tenant-a", stream)).await;
            let headers = &kept["headers"];
            assert_eq!(headers["x-backstop-served-by"], "primary");
            assert_eq!(
                headers["cache-status"],
                "backstop; hit; detail=stale-if-error"
            );
            assert!(headers["age"].as_str().unwrap().parse::<u64>().unwrap() < 60);
            for part in ["text", "calls", "finish", "usage"] {
                assert_eq!(kept[part], first[part], "{part}, streamed: {stream}");
            }
        }
        let foreign = sdk
            .tell(&question(api, &gateway, "tenant-b", kept_as_stream))
            .await;
        assert_eq!(foreign["status"], 503, "another tenant: {foreign}");
    }
}

#[tokio::test]
async fn the_operators_text_is_an_answer_to_the_sdks() {
    let mut sdk = Sdk::run("whole.py");
    for api in APIS {
        let primary = Model::start("primary").await.unwrap();
        primary.always(Reply::status(503));
        let targets = [Target::new("primary", &primary)];
        let config = "simplified = \"We are down ({outcome}).\"\n";
        let gateway = Gateway::start_with(api, &targets, config, &[]).await;
        for stream in [false, true] {
            let answer = sdk.tell(&question(api, &gateway, "tenant-a", stream)).await;
            assert_eq!(
                answer["headers"]["x-backstop-mode"], "simplified",
                "{answer}"
            );
            assert_eq!(answer["finish"], "simplified");
            let text = answer["text"].as_str().unwrap();
            assert!(text.starts_with("We are down ("), "{text}");
        }
    }
}

/// A redis-server of the test's own; killed when dropped.
struct Redis {
    server: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port().to_string();
        drop(free);
        let folder = tempfile::tempdir().unwrap();
        let server = Command::new("redis-server")
            .args([
                "--port",
                &port,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
            ])
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test installs it)");
        let address = format!("127.0.0.1:{port}");
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        Self {
            server,
            url: format!("redis://{address}"),
            _folder: folder,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

const IN_REDIS: &str = r#"
cache = true

[cache]
store = "redis"
redis_url_env = "REDIS_URL"
secret_env = "CACHE_SECRET"
tenant = { header = "authorization" }
tool_calls = true
on_limits = true

[shared]
redis_url_env = "REDIS_URL"
"#;

#[tokio::test]
async fn replicas_share_answers_and_limits_and_go_on_without_redis() {
    let api = Api::OpenAi;
    let redis = Redis::start().await;
    let mut sdk = Sdk::run("whole.py");
    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let targets = [
        Target::new("primary", &primary),
        Target::new("backup", &backup),
    ];
    let environment = [
        ("REDIS_URL", &*redis.url),
        ("CACHE_SECRET", "a secret of the fleet"),
    ];
    let one = Gateway::start_with(api, &targets, IN_REDIS, &environment).await;
    let other = Gateway::start_with(api, &targets, IN_REDIS, &environment).await;

    primary.push(whole(api));
    let first = sdk.tell(&question(api, &one, "tenant-a", false)).await;
    assert_eq!(first["headers"]["x-backstop-mode"], "primary", "{first}");

    // One replica is told to stay away; the other stays away as well.
    primary.push(Reply::status(429).header("retry-after", "30"));
    let rescued = sdk.tell(&question(api, &one, "tenant-a", false)).await;
    assert_eq!(
        rescued["headers"]["x-backstop-mode"], "failover",
        "{rescued}"
    );
    let asked = primary.log().len();
    sleep(Duration::from_secs(1)).await;
    let spared = sdk.tell(&question(api, &other, "tenant-a", false)).await;
    assert_eq!(spared["headers"]["x-backstop-mode"], "failover", "{spared}");
    assert_eq!(
        primary.log().len(),
        asked,
        "the other replica asked all the same"
    );

    // What one was answered, the other can serve.
    backup.always(Reply::status(503));
    let kept = stale(&mut sdk, &question(api, &other, "tenant-a", true)).await;
    assert_eq!(kept["text"], first["text"]);

    // Without Redis: no kept answer, and no trouble either.
    drop(redis);
    backup.always(Reply::healthy());
    // That the backup was overloaded is remembered for a second.
    sleep(Duration::from_millis(1500)).await;
    for gateway in [&one, &other] {
        let answer = sdk.tell(&question(api, gateway, "tenant-c", false)).await;
        assert_eq!(answer["text"], backup.text(), "{answer}");
    }
}
