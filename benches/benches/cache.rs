//! The cached-response fallback with the cache on: a miss that is stored, and a fresh hit.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up cannot go on"
)]

use std::{hint::black_box, process::ExitCode, sync::Arc, time::Duration};

use backstop_benches::{Case, block_on, main_with};
use backstop_cache::{
    CacheConfig, CachedFallbackLayer, KeySecret, MemoryStore, ProducedBy, Tenant,
};
use backstop_core::{
    BoxError, ClassifyErrors, Directives, FrozenRequest, Recorder, Replayed, Simplified, Typed,
    body::Replayable,
};
use backstop_wire::{ClassifyHttp, Dialect, recorder::HttpRecorder};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Records strings as they are.
#[derive(Clone, Copy)]
struct Plain;

impl Recorder<Arc<String>, String> for Plain {
    type Call = ();
    type Recording = String;

    fn on_request(&self, _: &Arc<String>) -> Option<()> {
        Some(())
    }

    fn directives(&self, (): &()) -> Directives {
        Directives::default()
    }

    fn may_share(&self, (): &()) -> bool {
        true
    }

    fn identity(&self, request: &Arc<String>) -> Option<Vec<u8>> {
        Some(request.as_bytes().to_vec())
    }

    fn on_response(&self, (): &(), head: &String) -> Result<String, &'static str> {
        Ok(head.clone())
    }

    fn record(&self, recording: &String, _: &[u8]) -> Result<Bytes, &'static str> {
        Ok(Bytes::from(recording.clone()))
    }

    fn replay(&self, (): &(), record: &[u8], _: Replayed) -> Option<(String, Bytes)> {
        Some((String::from_utf8(record.to_vec()).ok()?, Bytes::new()))
    }

    fn simplified(&self, (): &(), text: &Simplified<'_>) -> (String, Bytes) {
        (text.text.to_owned(), Bytes::new())
    }
}

async fn echo(request: String) -> Result<String, BoxError> {
    Ok(request)
}

fn config() -> CacheConfig {
    let mut config = CacheConfig::default();
    config.fresh_for = Duration::from_secs(3600);
    config
}

fn store() -> MemoryStore {
    MemoryStore::new(64 << 20, Duration::from_secs(3600))
}

fn prompt(call: u64) -> String {
    format!("prompt number {call}")
}

fn typed_bare(calls: u64) {
    block_on(async {
        let mut service = service_fn(echo);
        for call in 0..calls {
            black_box(
                service
                    .ready()
                    .await
                    .unwrap()
                    .call(prompt(call))
                    .await
                    .unwrap(),
            );
            tokio::task::yield_now().await;
        }
    });
}

fn typed(calls: u64, prompt_of: fn(u64) -> String) {
    block_on(async {
        let layer = CachedFallbackLayer::new(
            config(),
            store(),
            KeySecret::from_passphrase("bench"),
            [ProducedBy::new("", "m")],
            |_: &Arc<String>| Some(Tenant::new(b"tenant")),
            Plain,
            ClassifyErrors,
        )
        .unwrap()
        .protocol::<Typed>();
        let mut service = layer.layer(service_fn(echo));
        for call in 0..calls {
            black_box(
                service
                    .ready()
                    .await
                    .unwrap()
                    .call(prompt_of(call))
                    .await
                    .unwrap(),
            );
            // The write happens off the caller's path; it is part of the cost all the same.
            tokio::task::yield_now().await;
        }
    });
}

fn typed_miss(calls: u64) {
    typed(calls, prompt);
}

fn typed_hit(calls: u64) {
    typed(calls, |_| prompt(0));
}

fn resilience(calls: u64, prompt_of: fn(u64) -> String) {
    block_on(async {
        let layer = tower_resilience_cache::CacheLayer::builder()
            .max_size(100_000)
            .ttl(Duration::from_secs(3600))
            .key_extractor(|request: &String| request.clone())
            .build()
            .unwrap();
        let mut service = layer.layer(service_fn(echo));
        for call in 0..calls {
            black_box(
                service
                    .ready()
                    .await
                    .unwrap()
                    .call(prompt_of(call))
                    .await
                    .unwrap(),
            );
            tokio::task::yield_now().await;
        }
    });
}

fn resilience_miss(calls: u64) {
    resilience(calls, prompt);
}

fn resilience_hit(calls: u64) {
    resilience(calls, |_| prompt(0));
}

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn request(call: u64) -> Request<Full<Bytes>> {
    let body = format!(
        r#"{{"model":"chat","messages":[{{"role":"user","content":"prompt number {call}"}}]}}"#
    );
    Request::post("/v1/chat/completions")
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}

fn answer() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn http_bare(calls: u64) {
    block_on(async {
        let mut service = service_fn(async |_: Request<Full<Bytes>>| Ok::<_, BoxError>(answer()));
        for call in 0..calls {
            let response = service
                .ready()
                .await
                .unwrap()
                .call(request(call))
                .await
                .unwrap();
            black_box(response.into_body().collect().await.unwrap());
            tokio::task::yield_now().await;
        }
    });
}

fn http(calls: u64, number: fn(u64) -> u64) {
    block_on(async {
        let layer = CachedFallbackLayer::new(
            config(),
            store(),
            KeySecret::from_passphrase("bench"),
            [ProducedBy::new("", "m")],
            |_: &FrozenRequest| Some(Tenant::new(b"tenant")),
            HttpRecorder::new(Dialect::OpenAiChat).unwrap(),
            ClassifyHttp::new(Dialect::OpenAiChat),
        )
        .unwrap();
        let model =
            service_fn(async |_: Request<Replayable<Full<Bytes>>>| Ok::<_, BoxError>(answer()));
        let mut service = layer.layer(model);
        for call in 0..calls {
            let response = service
                .ready()
                .await
                .unwrap()
                .call(request(number(call)))
                .await
                .unwrap();
            black_box(response.into_body().collect().await.unwrap());
            tokio::task::yield_now().await;
        }
    });
}

fn http_miss(calls: u64) {
    http(calls, |call| call);
}

fn http_hit(calls: u64) {
    http(calls, |_| 0);
}

fn main() -> ExitCode {
    main_with(
        "cache: fresh answers kept for an hour (each case includes making the request)",
        &[
            Case {
                name: "typed, no cache",
                run: typed_bare,
            },
            Case {
                name: "typed, miss then store",
                run: typed_miss,
            },
            Case {
                name: "typed, hit",
                run: typed_hit,
            },
            Case {
                name: "tower-resilience-cache, miss then store",
                run: resilience_miss,
            },
            Case {
                name: "tower-resilience-cache, hit",
                run: resilience_hit,
            },
            Case {
                name: "http chat, no cache",
                run: http_bare,
            },
            Case {
                name: "http chat, miss then store",
                run: http_miss,
            },
            Case {
                name: "http chat, hit",
                run: http_hit,
            },
        ],
    )
}
