//! Keys, prompts, headers and answers are not in the log, however much is logged.

use backstop_testkit::model::{ClosedPort, Model, Reply};
use http::HeaderValue;

use crate::support::{Gateway, KINDS, config, http1, http2, read};

#[tokio::test]
async fn nothing_secret_is_logged_at_trace() {
    for kind in KINDS {
        let primary = Model::start("primary").await.unwrap();
        let backup = Model::start("backup").await.unwrap();
        let closed = ClosedPort::new().unwrap();
        let keyed = |config: String| {
            config
                .replace(
                    "model = \"large\"",
                    "model = \"large\"\napi_key_env = \"FIRST\"",
                )
                .replace(
                    "model = \"small\"",
                    "model = \"small\"\napi_key_env = \"SECOND\"",
                )
        };
        let env = [
            ("FIRST", "sk-canary-first"),
            ("SECOND", "canary2"),
            ("RUST_LOG", "trace,h2=trace,hyper=trace,hyper_util=trace"),
        ];
        for first in [primary.base_url(), closed.base_url()] {
            let config = keyed(config(kind.word(), &first, &backup.base_url()));
            let mut gateway = Gateway::start_with(&config, &env).await;
            for reply in [
                Reply::healthy().text("canary in the answer"),
                Reply::status(500).header("x-canary", "canary"),
                Reply::raw(400, r#"{"error":{"message":"canary"}}"#),
                Reply::raw(200, "canary"),
                Reply::healthy().text("canary").cut_after(1),
                Reply::reset(),
                Reply::hang(),
            ] {
                primary.push(reply);
                for client in [http1(), http2()] {
                    let body = kind
                        .question("chat")
                        .replace("Hello?", "canary in the prompt");
                    let mut request = kind.request(&gateway, body.into());
                    let uri = format!("{}?key=canary-in-the-query", kind.path());
                    *request.uri_mut() = gateway.url(&uri).parse().unwrap();
                    for name in ["authorization", "x-api-key", "cookie", "x-canary"] {
                        let value = HeaderValue::from_static("Bearer sk-canary-of-the-caller");
                        request.headers_mut().insert(name, value);
                    }
                    read(kind, client.request(request).await.unwrap()).await;
                }
            }
            gateway.send(kind, r#"{"model":"canary"}"#).await;
            gateway.send(kind, "canary").await;
            gateway.terminate();
            let log = gateway.logged("stopped").await;
            // It did log at that level.
            assert!(log.contains("answered"), "{log}");
            for line in log.lines() {
                assert!(!line.contains("canary"), "{line}");
                let is_other = line.contains(" TRACE ") || line.contains(" DEBUG ");
                assert!(!is_other || line.contains("backstop"), "{line}");
            }
        }
    }
}
