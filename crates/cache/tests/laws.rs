//! The laws of tower, around services that are not always ready, and the laws of bodies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, task::Poll, time::Duration};

use backstop_cache::{
    CacheConfig, CachedFallback, CachedFallbackLayer, Entry, Key, KeySecret, MemoryStore,
    ProducedBy, Store, Tenant,
};
use backstop_core::{BoxError, FrozenRequest, Kind, body::Replayable};
use backstop_testkit::{
    body::{self, Bytewise},
    laws,
};
use backstop_wire::{ClassifyHttp, Dialect, recorder::HttpRecorder};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Full, combinators::UnsyncBoxBody};
use tower::{Layer, ServiceExt, service_fn};

type Asked = Request<Full<Bytes>>;
type Found = fn(&FrozenRequest) -> Option<Tenant>;

const SOMEBODY: Found = |_| Some(Tenant::new(b"somebody"));
const NOBODY: Found = |_| None;

fn question() -> Asked {
    Request::new(r#"{"model":"m","messages":[]}"#.into())
}

fn answer() -> Response<Full<Bytes>> {
    let whole = r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hi"}}]}"#;
    let mut response = Response::new(whole.into());
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

/// A store that forgets at once: the other takes long to make.
#[derive(Clone)]
struct Nowhere;

impl Store for Nowhere {
    async fn get(&self, _: &Key) -> Option<Entry> {
        None
    }

    async fn put(&self, _: Key, _: Entry) {}
}

fn cached<S, St: Store, C>(
    config: CacheConfig,
    store: St,
    tenant: Found,
    classify: C,
    inner: S,
) -> CachedFallback<S, St, HttpRecorder, C, Found, backstop_core::Http, ()> {
    CachedFallbackLayer::new(
        config,
        store,
        KeySecret::from_passphrase("test"),
        [ProducedBy::new("", "m")],
        tenant,
        HttpRecorder::new(Dialect::OpenAiChat).unwrap(),
        classify,
    )
    .unwrap()
    .layer(inner)
}

#[tokio::test(start_paused = true)]
async fn the_laws_of_tower() {
    let mut fresh = CacheConfig::default();
    fresh.fresh_for = Duration::from_secs(60);
    for (config, tenant) in [
        (CacheConfig::default(), SOMEBODY),
        (CacheConfig::default(), NOBODY),
        (fresh, SOMEBODY),
    ] {
        let stack = |inner: laws::Inner<Asked, Response<Full<Bytes>>>| {
            // What is replayed is not of the type that came in.
            let inner = inner.map_request(|request: Request<Replayable<Full<Bytes>>>| {
                request.map(|body| Full::new(body.read()))
            });
            let classify = ClassifyHttp::new(Dialect::OpenAiChat);
            let store = MemoryStore::new(1 << 20, Duration::from_secs(7200));
            cached(config.clone(), store, tenant, classify, inner)
        };
        laws::check(stack, question, answer).await.unwrap();
    }
}

/// The body that is passed on when the model answers with `inner`.
fn wrap(tenant: Found, classify: Bytewise, inner: body::Inner) -> UnsyncBoxBody<Bytes, BoxError> {
    let answer = Arc::new(tokio::sync::Mutex::new(Some(inner)));
    let model = service_fn(move |_: Request<Replayable<Full<Bytes>>>| {
        let answer = Arc::clone(&answer);
        async move {
            let body = answer.lock().await.take();
            body.map(Response::new).ok_or("asked twice")
        }
    });
    let stack = cached(CacheConfig::default(), Nowhere, tenant, classify, model);
    let mut call = tokio_test::task::spawn(stack.oneshot(question()));
    for _ in 0..100 {
        if let Poll::Ready(response) = call.poll() {
            return UnsyncBoxBody::new(response.unwrap().into_body());
        }
    }
    unreachable!("the answer comes")
}

/// An answer that is read as it passes, one that its head decides, a refusal that is passed on, and
/// an answer to nobody.
#[tokio::test(start_paused = true)]
async fn the_laws_of_bodies() {
    for (tenant, classify) in [
        (SOMEBODY, Bytewise::default()),
        (SOMEBODY, Bytewise::decided(Kind::Success)),
        (SOMEBODY, Bytewise::decided(Kind::Rejected)),
        (NOBODY, Bytewise::default()),
    ] {
        body::check(|inner| wrap(tenant, classify, inner))
            .await
            .unwrap();
    }
}
