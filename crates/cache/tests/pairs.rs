//! A hundred thousand pairs of a tenant and a body, in random order: who gets whose answer.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_types,
    reason = "a test fails by panicking, and its lock is never held across an await"
)]

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use backstop_cache::{
    CacheConfig, CachedFallbackLayer, KeySecret, MemoryStore, ProducedBy, Tenant,
};
use backstop_core::{BoxError, FrozenRequest, body::Replayable};
use backstop_wire::{ClassifyHttp, Dialect, recorder::HttpRecorder};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

const PAIRS: usize = 100_000;
/// They are asked for by so many threads, each with a cache of its own.
const THREADS: usize = 4;
/// Few enough that most pairs come again, many enough that most are new for a long time.
const TENANTS: usize = 25;
const MEANINGS: usize = 100;

/// A body that means this, written in a way of its own: in another order of keys, with other white
/// space, streamed or not.
fn body(meaning: usize, random: &mut fastrand::Rng) -> (String, bool) {
    let stream = random.bool();
    let mut members = vec![
        ("model", "\"chat\"".to_owned()),
        // Meanings differ in the text, in a number, or in a field that nobody knows.
        (
            "messages",
            json!([{"role": "user", "content": format!("say {}", meaning / 8)}]).to_string(),
        ),
        ("temperature", format!("0.{}", 1 + meaning % 2)),
        ("n", "1".to_owned()),
        (
            "unknown",
            json!({"a": meaning / 2 % 2, "b": []}).to_string(),
        ),
        ("top_p", ["1", "0.5"][meaning / 4 % 2].to_owned()),
    ];
    if stream || random.bool() {
        members.push(("stream", stream.to_string()));
    }
    random.shuffle(&mut members);
    let space = [" ", "", "\n", "\t "];
    let mut text = String::from("{");
    for (place, (name, value)) in members.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let [before, after] = [0; 2].map(|_| *random.choice(space.iter()).unwrap());
        text += &format!("{comma}{before}\"{name}\"{after}:{before}{value}{after}");
    }
    (text + "}", stream)
}

fn request(tenant: usize, body: String) -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", format!("Bearer {tenant}"))
        .body(Full::new(body.into()))
        .unwrap()
}

/// The text of an answer, streamed or not.
fn text(body: &[u8], stream: bool) -> String {
    let body = std::str::from_utf8(body).unwrap();
    if !stream {
        let body: Value = serde_json::from_str(body).unwrap();
        let text = body["choices"][0]["message"]["content"].as_str().unwrap();
        return text.to_owned();
    }
    body.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect()
}

#[test]
fn none_gets_a_foreign_answer_and_all_that_were_kept_are_given() {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_time().start_paused(true).build().unwrap();
                runtime.block_on(ask_for_pairs(thread as u64, PAIRS / THREADS));
            });
        }
    });
}

async fn ask_for_pairs(seed: u64, pairs: usize) {
    // What the model says; it is down when there is nothing.
    let says = Arc::new(Mutex::new(None::<String>));
    let model = {
        let says = Arc::clone(&says);
        service_fn(move |_: Request<Replayable<Full<Bytes>>>| {
            let says = says.lock().unwrap().take();
            async move {
                let response = Response::builder().header("content-type", "application/json");
                let Some(says) = says else {
                    let down = json!({"error": {"message": "down", "type": "server_error"}});
                    let down = Full::new(Bytes::from(down.to_string()));
                    return Ok::<_, BoxError>(response.status(503).body(down)?);
                };
                let message = json!({"role": "assistant", "content": says});
                let whole = json!({
                    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                });
                Ok(response.body(Full::new(Bytes::from(whole.to_string())))?)
            }
        })
    };
    let tenant = |request: &FrozenRequest| {
        let key = request.parts().headers.get("authorization")?;
        Some(Tenant::new(key.as_bytes()))
    };
    let stack = CachedFallbackLayer::new(
        CacheConfig::default(),
        MemoryStore::new(1 << 28, Duration::from_secs(7200)),
        KeySecret::from_passphrase("test"),
        [ProducedBy::new("", "m")],
        tenant,
        HttpRecorder::new(Dialect::OpenAiChat).unwrap(),
        ClassifyHttp::new(Dialect::OpenAiChat),
    )
    .unwrap()
    .layer(model);

    let mut random = fastrand::Rng::with_seed(seed);
    let mut kept = HashMap::new();
    let mut bodies = HashSet::new();
    let (mut hits, mut misses) = (0, 0);
    for number in 0..pairs {
        let pair = (random.usize(..TENANTS), random.usize(..MEANINGS));
        let (body, stream) = body(pair.1, &mut random);
        bodies.insert(body.clone());
        // A model that is streamed from is no concern here: how answers are kept is another test's.
        let is_up = !stream && random.u8(..4) == 0;
        if is_up {
            let said = format!("{number} for {} on {}", pair.0, pair.1);
            *says.lock().unwrap() = Some(said);
        }
        let response = stack.clone().oneshot(request(pair.0, body)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if is_up {
            kept.insert(pair, text(&body, false));
            // It is kept after its end, off the caller's path.
            tokio::time::sleep(Duration::from_nanos(1)).await;
            continue;
        }
        match kept.get(&pair) {
            Some(said) => {
                assert_eq!(head.status, 200, "{pair:?} was kept");
                assert_eq!(text(&body, stream), *said);
                hits += 1;
            }
            None => {
                assert_eq!(head.status, 503, "{pair:?} was never answered");
                misses += 1;
            }
        }
    }
    assert!(hits > pairs / 4 && misses > pairs / 20, "{hits} {misses}");
    assert!(bodies.len() > pairs / 4, "{}", bodies.len());
}
