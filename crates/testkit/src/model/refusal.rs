use http::{HeaderMap, HeaderValue, StatusCode, header::HeaderName};
use serde_json::{Value, json};

use super::Api;

/// A refusal or a failure, in the shape in which each provider reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// 400: the request makes no sense.
    Invalid,
    /// 401: the key is wrong.
    Unauthorized,
    /// 403: the key may not use the model.
    Forbidden,
    /// 404: there is no such model.
    UnknownModel,
    /// 413: the request is too large.
    TooLarge,
    /// 422: a field has a wrong value.
    Unprocessable,
    /// 429: too many requests or tokens just now.
    RateLimited,
    /// 429 (OpenAI) or 400 (Anthropic): the account is out of money.
    QuotaExhausted,
    /// 500: the provider failed.
    ServerError,
    /// 503: the provider cannot take the request.
    Unavailable,
    /// 529 (Anthropic) or 503 (OpenAI): the provider has too much to do.
    Overloaded,
    /// 400: the prompt is longer than the model's context window.
    ContextTooLong,
    /// 400: the prompt was refused by a content filter.
    ContentFiltered,
}

impl Refusal {
    /// The refusal that a status usually stands for, if there is one.
    #[must_use]
    pub const fn of_status(status: u16) -> Option<Self> {
        Some(match status {
            400 => Self::Invalid,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::UnknownModel,
            413 => Self::TooLarge,
            422 => Self::Unprocessable,
            429 => Self::RateLimited,
            500 => Self::ServerError,
            503 => Self::Unavailable,
            529 => Self::Overloaded,
            _ => return None,
        })
    }

    /// The status with which a provider of this API reports it.
    #[must_use]
    pub fn status(self, api: Api) -> StatusCode {
        let status = match (self, api) {
            (Self::QuotaExhausted, Api::OpenAi) | (Self::RateLimited, _) => 429,
            (
                Self::Invalid | Self::ContextTooLong | Self::ContentFiltered | Self::QuotaExhausted,
                _,
            ) => 400,
            (Self::Unauthorized, _) => 401,
            (Self::Forbidden, _) => 403,
            (Self::UnknownModel, _) => 404,
            (Self::TooLarge, _) => 413,
            (Self::Unprocessable, _) => 422,
            (Self::ServerError, _) => 500,
            (Self::Overloaded, Api::Anthropic) => 529,
            (Self::Unavailable | Self::Overloaded, _) => 503,
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The headers that tell it apart, beside the usual ones.
    pub(super) fn headers(self, api: Api) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let should_retry = match self {
            Self::RateLimited | Self::ServerError | Self::Unavailable | Self::Overloaded => "true",
            _ => return headers,
        };
        if api == Api::Anthropic {
            headers.insert(
                HeaderName::from_static("x-should-retry"),
                HeaderValue::from_static(should_retry),
            );
        }
        headers
    }

    /// The body that a provider of this API sends for it.
    pub(super) fn body(self, api: Api) -> Value {
        match api {
            Api::OpenAi => {
                let (kind, param, code, message) = self.openai();
                json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
            }
            Api::Anthropic => {
                let (kind, message) = self.anthropic();
                json!({
                    "type": "error",
                    "error": {"type": kind, "message": message},
                    "request_id": "req_scripted",
                })
            }
        }
    }

    fn openai(
        self,
    ) -> (
        &'static str,
        Option<&'static str>,
        Option<&'static str>,
        &'static str,
    ) {
        match self {
            Self::Invalid => (
                "invalid_request_error",
                Some("messages"),
                None,
                "Invalid type for 'messages': expected an array of objects, but got a string instead.",
            ),
            Self::Unauthorized => (
                "invalid_request_error",
                None,
                Some("invalid_api_key"),
                "Incorrect API key provided.",
            ),
            Self::Forbidden => (
                "invalid_request_error",
                None,
                Some("unsupported_country_region_territory"),
                "Country, region, or territory not supported",
            ),
            Self::UnknownModel => (
                "invalid_request_error",
                None,
                Some("model_not_found"),
                "The model does not exist or you do not have access to it.",
            ),
            Self::TooLarge => (
                "invalid_request_error",
                None,
                None,
                "The request is too large.",
            ),
            Self::Unprocessable => (
                "invalid_request_error",
                Some("temperature"),
                None,
                "Invalid 'temperature': decimal above maximum value.",
            ),
            Self::RateLimited => (
                "tokens",
                None,
                Some("rate_limit_exceeded"),
                "Rate limit reached for the model on tokens per min (TPM): Limit 30000, Used 30000, Requested 12.",
            ),
            Self::QuotaExhausted => (
                "insufficient_quota",
                None,
                Some("insufficient_quota"),
                "You exceeded your current quota, please check your plan and billing details.",
            ),
            Self::ServerError => (
                "server_error",
                None,
                None,
                "The server had an error while processing your request. Sorry about that!",
            ),
            Self::Unavailable | Self::Overloaded => (
                "server_error",
                None,
                None,
                "The engine is currently overloaded, please try again later",
            ),
            Self::ContextTooLong => (
                "invalid_request_error",
                Some("messages"),
                Some("context_length_exceeded"),
                "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens. Please reduce the length of the messages.",
            ),
            Self::ContentFiltered => (
                "invalid_request_error",
                Some("prompt"),
                Some("content_filter"),
                "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.",
            ),
        }
    }

    fn anthropic(self) -> (&'static str, &'static str) {
        match self {
            Self::Invalid => (
                "invalid_request_error",
                "messages: Input should be a valid list",
            ),
            Self::Unauthorized => ("authentication_error", "invalid x-api-key"),
            Self::Forbidden => (
                "permission_error",
                "Your API key does not have permission to use the specified resource.",
            ),
            Self::UnknownModel => ("not_found_error", "model: not found"),
            Self::TooLarge => (
                "request_too_large",
                "Request exceeds the maximum allowed number of bytes.",
            ),
            Self::Unprocessable => (
                "invalid_request_error",
                "temperature: Input should be less than or equal to 1",
            ),
            Self::RateLimited => (
                "rate_limit_error",
                "This request would exceed the rate limit for your organization of 30,000 input tokens per minute.",
            ),
            Self::QuotaExhausted => (
                "invalid_request_error",
                "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.",
            ),
            Self::ServerError => ("api_error", "Internal server error"),
            Self::Unavailable => ("api_error", "Service temporarily unavailable"),
            Self::Overloaded => ("overloaded_error", "Overloaded"),
            Self::ContextTooLong => (
                "invalid_request_error",
                "prompt is too long: 200251 tokens > 200000 maximum",
            ),
            Self::ContentFiltered => (
                "invalid_request_error",
                "Output blocked by content filtering policy",
            ),
        }
    }
}
