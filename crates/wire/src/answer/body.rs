use std::time::Duration;

use backstop_core::{Kind, Outcome};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{Dialect, scan::Message};

/// The response that stands for `outcome` in `dialect`.
///
/// The status and the error's type and code are those that the provider itself would use, so that
/// the caller's SDK raises what it would raise. Two differ from what the target may have said: a
/// credential that the target refused is not the caller's, so it becomes 502, and what happened to a
/// caller who has gone away is 499 (nginx), which nobody sees.
///
/// `retry-after` is in seconds, rounded up, when the outcome has a delay. `x-should-retry` is
/// `false`: this side has tried what it could, and the official SDKs would multiply the attempts.
/// The outcome is among the extensions.
#[must_use]
pub fn error_response(dialect: Dialect, outcome: &Outcome) -> Response<Full<Bytes>> {
    let words = Words::new(dialect, outcome);
    let body = match dialect {
        Dialect::BedrockConverse => json!({"message": words.message}),
        _ => words.envelope(dialect),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = words.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert("x-should-retry", HeaderValue::from_static("false"));
    if dialect == Dialect::BedrockConverse {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(words.kind));
    }
    if let Some(hint) = outcome.retry_after() {
        headers.insert(header::RETRY_AFTER, seconds_up(hint.delay).into());
    }
    response.extensions_mut().insert(*outcome);
    response
}

/// The event that ends a stream of `dialect` with the error that `outcome` stands for.
///
/// Its form follows how the dialect streams: a server-sent event, a line for Ollama, an event-stream
/// exception for Bedrock. It is not an end of the answer, and none is made up.
#[must_use]
pub fn error_event(dialect: Dialect, outcome: &Outcome) -> Bytes {
    let words = Words::new(dialect, outcome);
    let mut data = words.envelope(dialect);
    let event = match dialect {
        Dialect::Anthropic => format!("event: error\ndata: {data}\n\n"),
        Dialect::OpenAiResponses => {
            // The event's own fields are flat; the SDKs raise on an `error` object.
            data["type"] = "error".into();
            data["code"] = words.code.into();
            data["message"] = words.message.into();
            data["param"] = Value::Null;
            format!("event: error\ndata: {data}\n\n")
        }
        Dialect::Cohere => {
            let data = json!({
                "type": "message-end",
                "delta": {"finish_reason": "ERROR", "error": words.message},
            });
            format!("event: message-end\ndata: {data}\n\n")
        }
        Dialect::Ollama => format!("{data}\n"),
        Dialect::BedrockConverse => {
            let headers = [
                (":exception-type", &*lower_first(words.kind)),
                (":content-type", "application/json"),
                (":message-type", "exception"),
            ];
            return Message::encode(&headers, data.to_string().as_bytes()).into();
        }
        Dialect::OpenAiChat | Dialect::Gemini => format!("data: {data}\n\n"),
    };
    Bytes::from(event)
}

/// How a dialect words an outcome.
struct Words {
    status: StatusCode,
    /// The error's type, or its status by name for Google.
    kind: &'static str,
    code: &'static str,
    message: &'static str,
    retry_after: Option<Duration>,
}

impl Words {
    fn new(dialect: Dialect, outcome: &Outcome) -> Self {
        let kind = outcome.kind();
        // Status, then the words of OpenAI (type and code), Anthropic, Google and AWS.
        let (status, openai, code, anthropic, google, aws) = match kind {
            Kind::Throttled => (
                429,
                "rate_limit_error",
                "rate_limit_exceeded",
                "rate_limit_error",
                "RESOURCE_EXHAUSTED",
                "ThrottlingException",
            ),
            Kind::QuotaExhausted => (
                match dialect {
                    Dialect::Anthropic | Dialect::Gemini | Dialect::Cohere => 402,
                    Dialect::BedrockConverse => 400,
                    _ => 429,
                },
                "insufficient_quota",
                "insufficient_quota",
                "billing_error",
                "RESOURCE_EXHAUSTED",
                "ServiceQuotaExceededException",
            ),
            Kind::Overloaded => (
                if matches!(dialect, Dialect::Anthropic) {
                    529
                } else {
                    503
                },
                "server_error",
                "server_is_overloaded",
                "overloaded_error",
                "UNAVAILABLE",
                "ServiceUnavailableException",
            ),
            Kind::TimedOut(_) => (
                504,
                "timeout_error",
                "timeout",
                "timeout_error",
                "DEADLINE_EXCEEDED",
                "ModelTimeoutException",
            ),
            Kind::NotFound => (
                404,
                "invalid_request_error",
                "model_not_found",
                "not_found_error",
                "NOT_FOUND",
                "ResourceNotFoundException",
            ),
            Kind::ContextTooLong => (
                400,
                "invalid_request_error",
                "context_length_exceeded",
                "invalid_request_error",
                "INVALID_ARGUMENT",
                "ValidationException",
            ),
            Kind::ContentFiltered => (
                400,
                "invalid_request_error",
                "content_filter",
                "invalid_request_error",
                "INVALID_ARGUMENT",
                "ValidationException",
            ),
            Kind::TooLarge => (
                413,
                "invalid_request_error",
                "request_too_large",
                "request_too_large",
                "INVALID_ARGUMENT",
                "ValidationException",
            ),
            Kind::Unsupported => (
                400,
                "invalid_request_error",
                "unsupported",
                "invalid_request_error",
                "UNIMPLEMENTED",
                "ValidationException",
            ),
            Kind::Rejected => (
                400,
                "invalid_request_error",
                "invalid_request",
                "invalid_request_error",
                "INVALID_ARGUMENT",
                "ValidationException",
            ),
            Kind::Cancelled => (
                499,
                "server_error",
                "cancelled",
                "api_error",
                "CANCELLED",
                "InternalServerException",
            ),
            // Unavailable, NotProcessed, Unauthorized, Malformed: the gateway got no answer.
            _ => (
                502,
                "server_error",
                "bad_gateway",
                "api_error",
                "UNAVAILABLE",
                "InternalServerException",
            ),
        };
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
            kind: match dialect {
                Dialect::Anthropic => anthropic,
                Dialect::Gemini => google,
                Dialect::BedrockConverse => aws,
                _ => openai,
            },
            code,
            message: message(kind),
            retry_after: outcome.retry_after().map(|hint| hint.delay),
        }
    }

    fn envelope(&self, dialect: Dialect) -> Value {
        let Self {
            status,
            kind,
            code,
            message,
            ..
        } = self;
        match dialect {
            Dialect::Anthropic => {
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Dialect::Gemini => {
                let mut error =
                    json!({"code": status.as_u16(), "message": message, "status": kind});
                if let Some(delay) = self.retry_after {
                    error["details"] = json!([{
                        "@type": "type.googleapis.com/google.rpc.RetryInfo",
                        "retryDelay": format!("{}.{:03}s", delay.as_secs(), delay.subsec_millis()),
                    }]);
                }
                json!({"error": error})
            }
            Dialect::Cohere | Dialect::BedrockConverse => json!({"message": message}),
            Dialect::Ollama => json!({"error": message}),
            Dialect::OpenAiChat | Dialect::OpenAiResponses => {
                json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            }
        }
    }
}

/// What a person is told, in words that dialects without error codes are recognised by.
pub(super) const fn message(kind: Kind) -> &'static str {
    match kind {
        Kind::Throttled => "Rate limit reached. Please try again later.",
        Kind::QuotaExhausted => {
            "The usage limit of the model's account is reached: its quota or credit is spent."
        }
        Kind::Overloaded => "The model is overloaded. Please try again later.",
        Kind::TimedOut(_) => "The request timed out: the model did not answer in time.",
        Kind::NotFound => "The model was not found.",
        Kind::ContextTooLong => "The request exceeds the context window of the model.",
        Kind::ContentFiltered => "The provider's content policy refused the request.",
        Kind::TooLarge => "Request too large: the body exceeds the limit.",
        Kind::Unsupported => "The model does not support what the request asks for.",
        Kind::Rejected => "The request is not valid.",
        Kind::Cancelled => "The call was cancelled.",
        Kind::Unauthorized => "The model refused the gateway's credential.",
        Kind::Malformed => "The model's answer broke off or was not usable.",
        _ => "The model could not be reached or failed.",
    }
}

/// Whole seconds, rounded up: to come back a moment too early is to be refused again.
fn seconds_up(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

/// AWS names an exception with a small first letter when it is in a stream.
fn lower_first(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    name
}
