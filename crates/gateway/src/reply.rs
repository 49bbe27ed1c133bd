//! What the gateway itself answers, in the caller's dialect, and what it adds to and takes from
//! the answers of targets.

use axum::{body::Body, response::Response};
use backstop_core::{Served, Trace};
use backstop_wire::{Dialect, request::BadBody};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, PROXY_AUTHENTICATE, SET_COOKIE,
        STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
};
use serde_json::{Value, json};

const SERVED_BY: HeaderName = HeaderName::from_static("x-backstop-served-by");
const MODE: HeaderName = HeaderName::from_static("x-backstop-mode");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-backstop-attempts");
const TRACE: HeaderName = HeaderName::from_static(Trace::HEADER);

/// Why a request was refused before any target was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The body is no JSON object with a `model`.
    Body(BadBody),
    /// The body broke off.
    BrokenOff,
    /// The body is larger than allowed.
    TooLarge { limit: usize },
    /// The body is too large to be kept, and what was read of it names no model.
    LateModel { limit: usize },
    /// The body is compressed.
    Encoded,
    /// The body did not come.
    TooSlow,
    /// No such model.
    UnknownModel(String),
    /// The model speaks another dialect.
    OtherDialect { model: String, dialect: Dialect },
    /// No such path, or not this way.
    NoRoute(StatusCode),
}

impl Refusal {
    /// The response in `dialect`.
    pub(crate) fn response(&self, dialect: Dialect) -> Response {
        let (status, code, param) = match self {
            Self::Body(BadBody::NotAnObject | BadBody::Unfinished) => {
                (StatusCode::BAD_REQUEST, None, None)
            }
            Self::Body(_) | Self::LateModel { .. } => {
                (StatusCode::BAD_REQUEST, None, Some("model"))
            }
            Self::BrokenOff => (StatusCode::BAD_REQUEST, None, None),
            Self::TooLarge { .. } => (
                StatusCode::PAYLOAD_TOO_LARGE,
                Some("request_too_large"),
                None,
            ),
            Self::Encoded => (StatusCode::UNSUPPORTED_MEDIA_TYPE, None, None),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, None, None),
            Self::UnknownModel(_) => (
                StatusCode::NOT_FOUND,
                Some("model_not_found"),
                Some("model"),
            ),
            Self::OtherDialect { .. } => (StatusCode::BAD_REQUEST, None, Some("model")),
            Self::NoRoute(status) => (*status, None, None),
        };
        let message = self.message();
        let body = match dialect {
            Dialect::Anthropic => {
                let kind = match status {
                    StatusCode::NOT_FOUND => "not_found_error",
                    StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
                    _ => "invalid_request_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            _ => json!({"error": {
                "message": message,
                "type": "invalid_request_error",
                "param": param,
                "code": code,
            }}),
        };
        let mut response = json_response(status, &body);
        let headers = response.headers_mut();
        headers.insert("x-should-retry", HeaderValue::from_static("false"));
        response
    }

    /// What the log says of it: nothing that the caller wrote.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::UnknownModel(_) => "the model does not exist".to_owned(),
            _ => self.message(),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Body(why) => why.to_string(),
            Self::BrokenOff => "the request body broke off".to_owned(),
            Self::LateModel { limit } => format!(
                "in a request body of more than {limit} bytes, `model` must come within the first \
                 {limit}"
            ),
            Self::TooLarge { limit } => {
                format!("the request body is larger than the {limit} bytes that `max_body` allows")
            }
            Self::Encoded => "compressed request bodies are not supported".to_owned(),
            Self::TooSlow => "the request body did not arrive in time".to_owned(),
            Self::UnknownModel(model) => {
                format!("the model `{model}` does not exist, /v1/models lists those that do")
            }
            Self::OtherDialect { model, dialect } => {
                let path = match dialect {
                    Dialect::Anthropic => "/v1/messages",
                    _ => "/v1/chat/completions",
                };
                format!("the model `{model}` is served at {path}")
            }
            Self::NoRoute(StatusCode::METHOD_NOT_ALLOWED) => {
                "this path does not take this method, the header `allow` says which it takes"
                    .to_owned()
            }
            Self::NoRoute(_) => "there is nothing at this path, ask at /v1/chat/completions or \
                                 /v1/messages"
                .to_owned(),
        }
    }
}

/// A response with a JSON body.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Takes from an answer's head what was meant for this gateway alone, and says who answered and
/// what was decided.
///
/// What the provider says of limits, retries and the request's id stays: SDKs read it.
pub(crate) fn dress(headers: &mut HeaderMap, served: Option<&Served>, trace: Option<&Trace>) {
    let listed: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-backstop-"))
        .cloned()
        .collect();
    for name in listed.iter().chain(&own) {
        headers.remove(name);
    }
    for name in [
        // One connection's (RFC 9110 section 7.6.1). The length follows from the body.
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        PROXY_AUTHENTICATE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        CONTENT_LENGTH,
        // The provider's dealings with whoever connects to it, and promises about its own host.
        SET_COOKIE,
        STRICT_TRANSPORT_SECURITY,
        HeaderName::from_static("alt-svc"),
    ] {
        headers.remove(name);
    }
    if let Some(served) = served {
        // The configuration only takes names that fit; what no target gave has none.
        match HeaderValue::from_str(&served.target) {
            Ok(target) if !target.is_empty() => {
                headers.insert(SERVED_BY, target);
            }
            _ => {}
        }
        headers.insert(MODE, HeaderValue::from_static(served.mode.as_str()));
        headers.insert(ATTEMPTS, served.attempts.into());
    }
    if let Some(trace) = trace {
        headers.insert(TRACE, trace.to_header_value());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use backstop_core::Mode;

    use super::*;

    #[test]
    fn only_what_is_the_callers_business_passes() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("set-cookie", "__cf=1"),
            ("alt-svc", "h3"),
            ("strict-transport-security", "max-age=1"),
            ("x-backstop-served-by", "an upstream that is a gateway too"),
            ("x-backstop-more", "1"),
            ("x-request-id", "r"),
            ("retry-after", "7"),
            ("x-ratelimit-remaining-requests", "3"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let served = Served::new(Arc::from("b"), Mode::Failover, 2);
        dress(&mut headers, Some(&served), None);
        let mut left: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "retry-after: 7",
                "x-backstop-attempts: 2",
                "x-backstop-mode: failover",
                "x-backstop-served-by: b",
                "x-ratelimit-remaining-requests: 3",
                "x-request-id: r",
            ]
        );
    }
}
