//! Which headers cross the gateway, which way, and where requests do not go.

use backstop_testkit::model::{Model, Reply};
use http::{HeaderName, HeaderValue};

use crate::support::{Gateway, KINDS, config, http1, http2, read, trio};

/// What must never reach a target, by any dialect.
const CANARIES: &[&str] = &[
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "cookie",
    "proxy-authorization",
    "x-amz-security-token",
    "x-amz-date",
    "openai-organization",
    "openai-project",
    "anthropic-organization-id",
    "x-goog-user-project",
    "chatgpt-account-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "forwarded",
    "x-real-ip",
    "baggage",
    "tracestate",
    "traceparent",
    "x-stainless-os",
    "x-stainless-retry-count",
    "x-custom",
    "referer",
    "origin",
    "via",
    "x-hop",
    "accept-language",
    "range",
    "if-none-match",
    "x-http-method-override",
    "user-agent",
    "from",
];

#[tokio::test]
async fn no_header_of_the_callers_reaches_a_target_unless_it_is_listed() {
    for kind in KINDS {
        let (primary, backup, gateway) = trio(kind).await;
        primary.always(Reply::status(503));
        for client in [http1(), http2()] {
            let mut request = kind.request(&gateway, kind.question("chat").into());
            *request.uri_mut() = gateway
                .url(&format!("{}?key=canary", kind.path()))
                .parse()
                .unwrap();
            for name in CANARIES {
                let name = HeaderName::from_static(name);
                request
                    .headers_mut()
                    .insert(name, HeaderValue::from_static("canary"));
            }
            let answer = read(kind, client.request(request).await.unwrap()).await;
            assert_eq!(answer.text(kind), backup.text());
        }
        for model in [&primary, &backup] {
            let exchanges = model.log().exchanges();
            assert!(!exchanges.is_empty());
            for asked in exchanges {
                assert!(!asked.path.contains("canary"), "{}", asked.path);
                for (name, value) in &asked.headers {
                    assert!(
                        !value.as_bytes().windows(6).any(|at| at == b"canary"),
                        "{name}"
                    );
                }
                assert_eq!(asked.headers["accept-encoding"], "identity");
                let host = asked.headers.get("host").unwrap();
                assert_eq!(host.to_str().unwrap(), model.addr().to_string());
            }
        }
    }
}

#[tokio::test]
async fn each_target_is_shown_its_own_key() {
    for (kind, header, expected) in [
        (
            KINDS[0],
            "authorization",
            ["Bearer sk-first", "Bearer sk-second"],
        ),
        (KINDS[2], "x-api-key", ["sk-first", "sk-second"]),
    ] {
        let primary = Model::start("primary").await.unwrap();
        let backup = Model::start("backup").await.unwrap();
        primary.always(Reply::status(500));
        let config = config(kind.word(), &primary.base_url(), &backup.base_url())
            .replace(
                "model = \"large\"",
                "model = \"large\"\napi_key_env = \"FIRST\"",
            )
            .replace(
                "model = \"small\"",
                "model = \"small\"\napi_key_env = \"SECOND\"",
            );
        let env = [("FIRST", "sk-first\n"), ("SECOND", "sk-second")];
        let gateway = Gateway::start_with(&config, &env).await;
        assert_eq!(gateway.ask(kind).await.status, 200);
        let shown = [&primary, &backup].map(|model| model.log().last().unwrap());
        let shown = shown.map(|asked| asked.headers[header].to_str().unwrap().to_owned());
        assert_eq!(shown, expected);
    }
}

#[tokio::test]
async fn what_the_provider_says_to_the_caller_passes_and_the_rest_does_not() {
    for kind in KINDS {
        let (primary, _backup, gateway) = trio(kind).await;
        primary.always(
            Reply::healthy()
                .header("x-request-id", "r-1")
                .header("x-ratelimit-remaining-requests", "7")
                .header("openai-processing-ms", "3")
                .header("set-cookie", "a=b")
                .header("alt-svc", "h3=\":443\"")
                .header("strict-transport-security", "max-age=1")
                .header("x-backstop-mode", "stale")
                .header("x-backstop-served-by", "somebody"),
        );
        for client in [http1(), http2()] {
            let request = kind.request(&gateway, kind.question("chat").into());
            let answer = read(kind, client.request(request).await.unwrap()).await;
            assert_eq!(answer.header("x-request-id"), "r-1");
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), "7");
            assert_eq!(answer.header("openai-processing-ms"), "3");
            for name in ["set-cookie", "alt-svc", "strict-transport-security"] {
                assert!(!answer.headers.contains_key(name), "{name}");
            }
            assert_eq!(answer.served(), ["primary", "primary", "1"]);
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for kind in KINDS {
        let elsewhere = Model::start("elsewhere").await.unwrap();
        let (primary, backup, gateway) = trio(kind).await;
        let location = format!("{}{}", elsewhere.base_url(), kind.path());
        primary.always(Reply::redirect(&location));
        assert_eq!(gateway.ask(kind).await.text(kind), backup.text());
        backup.always(Reply::redirect(&location));
        let answer = gateway.ask(kind).await;
        assert!(!answer.status.is_success());
        assert_eq!(elsewhere.log().len(), 0);
    }
}
