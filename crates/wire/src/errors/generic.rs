//! What all envelopes share: phrases under a fitting status, types that leave the cause open, and
//! the status itself.

use backstop_core::{Kind, Outcome, Phase, Scope};

use super::{openai::OVERLOADED, rule::*};

const HTTP: &str = "RFC 9110 section 15";
const SEEN: &str = "messages in the providers' error references, docs/wire.md";
const VLLM: &str = "https://github.com/vllm-project/vllm (entrypoints/openai)";
const REPLICATE: &str = "https://replicate.com/docs/reference/http#predictions.create";
const LM_STUDIO: &str = "https://github.com/lmstudio-ai/lmstudio-bug-tracker";
const EDGE: &str = "https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-522/";
const GATEWAY: &str = "RFC 9110 section 15.6.5; https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-524/";
const FASTAPI: &str = "https://fastapi.tiangolo.com/tutorial/handling-errors/";

/// Where a limit or lack of capacity may stand.
const LIMIT: &[u16] = &[402, 403, 408, 429, 498, 5, NONE];
/// Where a fault of the request may stand.
const CLIENT: &[u16] = &[400, 403, 404, 409, 413, 422, 424, 500, NONE];

/// Phrases, most specific first.
pub(super) const PHRASES: &[Rule] = &[
    // Money and quotas under any refusing status; the wording is never a parameter's.
    Rule::new("message: no such version of the model", REPLICATE)
        .on(&[404, 422])
        .text(&[
            "invalid version or not permitted",
            "specified version does not exist",
        ])
        .says(NOT_FOUND),
    Rule::new("message: balance or credit is spent", SEEN)
        .on(&[400, 401, 402, 403, 412, 429, 5, NONE])
        .text(&[
            "credit balance is too low",
            "insufficient balance",
            "insufficient credit",
            "insufficient_quota",
            "insufficient funds",
            "not enough credits",
            "not enough balance",
            "balance is insufficient",
            "account is in good standing",
            "no credits",
            "out of credits",
            "used all available credits",
            "ran out of credits",
            "credits are depleted",
            "credits have been depleted",
            "credits depleted",
            "requires more credits",
            "spending limit",
            "billing hard limit",
            "billing limit",
            "monthly included credits",
            "check your plan and billing details",
            "specified api usage limits",
            "purchase credits",
            "purchase more credits",
            "add credits",
            "budget has been exceeded",
            "exceeded budget",
            "budget exceeded",
            "payment required",
            "please recharge",
            "arrears",
            "overdue",
            "used up your daily free allocation",
            "any credits",
            "credits expired",
        ])
        .says(QUOTA_ACCOUNT),
    Rule::new("message: the key's own limit is spent", SEEN)
        .on(&[402, 403, 429])
        .text(&["key limit exceeded", "key's limit exceeded"])
        .says(QUOTA_KEY),
    Rule::new("message: a quota per day or month is spent", SEEN)
        .on(LIMIT)
        .text(&[
            "daily request limit",
            "tokens per day",
            "requests per day",
            "calls / month",
            "per month",
            "monthly limit",
            "monthly quota",
            "daily limit",
            "daily quota",
            "monthly usage",
            "daily usage",
            "weekly usage",
            "hourly usage limit",
            "session usage limit",
            "weekly limit",
            "usage limit",
            "per 86400s",
            "per-day",
        ])
        .says(QUOTA_ACCOUNT),
    // The window.
    Rule::new("message: more tokens than the model's window", SEEN)
        .on(CLIENT)
        .text(CONTEXT_PHRASES)
        .says(CONTEXT),
    Rule::new("message: max_tokens is below 1 for lack of room", VLLM)
        .on(&[400, 422, NONE])
        .text(&[
            "max_tokens must be at least 1, got -",
            "max_completion_tokens must be at least 1, got -",
        ])
        .says(CONTEXT),
    Rule::new("message: tokens and new tokens exceed the window", SEEN)
        .on(&[400, 403, 413, 422, NONE])
        .and(&["tokens", "max_new_tokens", "must be <="])
        .says(CONTEXT),
    // Bytes.
    Rule::new("message: too many bytes", SEEN)
        .on(&[400, 413, 429, NONE])
        .text(&[
            "request too large",
            "request entity too large",
            "payload too large",
            "request exceeds the maximum size",
            "request size exceeds",
            "request payload size exceeds",
            "request body too large",
            "image exceeds",
            "file too large",
            "pdf pages may be provided",
        ])
        .says(TOO_LARGE),
    // Content.
    Rule::new("message: the content is refused", SEEN)
        .on(&[400, 403, 422, 451, NONE])
        .text(&[
            "content filtering policy",
            "content management policy",
            "content policy",
            "content_policy",
            "usage policy",
            "usage policies",
            "usage guidelines",
            "safety system",
            "flagged as potentially violating",
            "requires moderation",
            "was flagged",
            "blocked by content",
            "blocked by guardrail",
            "guardrail",
            "safety filter",
            "sensitive content",
            "unsafe content",
            "content exists risk",
            "inappropriate content",
        ])
        .says(FILTERED),
    // Models.
    Rule::new("message: no such model", SEEN)
        .on(&[400, 401, 403, 404, 422, 500, 503, NONE])
        .and(&["model"])
        .text(&[
            "does not exist",
            "not found",
            "no such model",
            "unknown model",
            "invalid model",
            "model identifier is invalid",
            "has been decommissioned",
            "has been deprecated",
            "is deprecated",
            "has been retired",
            "is retired",
            "is not a valid model",
            "not allowed to use publisher model",
            "is no longer available",
            "no longer supported",
            "no endpoints found for",
            "is not deployed",
            "could not find model",
            "model not exist",
            "model is not available",
            "model_not_found",
        ])
        .but_not(&["image_url", "file ", "is not ready"])
        .says(NOT_FOUND),
    // Keys.
    Rule::new("message: the key is refused", SEEN)
        .on(&[400, 401, 403, NONE])
        .text(&[
            "incorrect api key",
            "invalid api key",
            "invalid_api_key",
            "api key not valid",
            "api key not found",
            "api key expired",
            "invalid api token",
            "invalid x-api-key",
            "invalid token",
            "invalid credentials",
            "invalid authentication",
            "no auth credentials",
            "missing api key",
            "authorization header",
            "token seems invalid",
            "not authenticated",
            "api key is invalid",
            "api key is missing",
            "unauthorized",
        ])
        .says(AUTH_KEY),
    Rule::new("message: the account is not verified for the model", SEEN)
        .on(&[401, 403, 404])
        .text(&["organization must be verified"])
        .says(AUTH_MODEL),
    Rule::new("message: not served in the caller's place", SEEN)
        .on(&[400, 403, 451])
        .text(&[
            "location is not supported",
            "country, region, or territory not supported",
            "not available in your region",
            "not available in your country",
        ])
        .says(AUTH_ACCOUNT),
    // Features.
    Rule::new("message: the model lacks a feature", SEEN)
        .on(&[400, 404, 405, 415, 422, 500, 501, NONE])
        .text(UNSUPPORTED_PHRASES)
        .says(UNSUPPORTED),
    // A gateway that calls the model's refusal its own failure.
    Rule::new("message: more output tokens than the model allows", SEEN)
        .on(&[5])
        .text(&[
            "maximum output tokens",
            "maximum allowed number of output tokens",
        ])
        .says(WRONG),
    Rule::new("message: the model has crashed", LM_STUDIO)
        .on(&[400, 5, NONE])
        .text(&["model has crashed", "model crashed"])
        .says(DOWN_MODEL),
    Rule::new("message: more memory than there is", SEEN)
        .on(&[5, NONE])
        .text(&["requires more system memory"])
        .says(DOWN_MODEL.with_repeat(false)),
    // Capacity and rates. Not under 400 and 422, where such words are an echo.
    Rule::new("message: still loading", SEEN)
        .on(&[404, 409, 425, 429, 5, NONE])
        .text(&[
            "is currently loading",
            "is loading",
            "loading model",
            "model is being loaded",
            "not yet loaded",
            "is not ready",
            "not ready for inference",
            "still being loaded",
            "warming up",
            "cold start",
        ])
        .says(DOWN_MODEL),
    Rule::new("message: the model lacks capacity", SEEN)
        .on(LIMIT)
        .and(&["model"])
        .text(OVERLOADED)
        .says(BUSY_MODEL),
    Rule::new("message: lacking capacity", SEEN)
        .on(LIMIT)
        .text(OVERLOADED)
        .says(BUSY_PROVIDER),
    Rule::new("message: rate limit of the account", SEEN)
        .on(LIMIT)
        .text(&[
            "your account's rate limit",
            "organization max",
            "max organization",
            "account rate limit",
            "rate limit for your account",
        ])
        .says(LIMIT_ACCOUNT),
    Rule::new("message: rate limit", SEEN)
        .on(LIMIT)
        .text(&[
            "rate limit",
            "rate-limit",
            "ratelimit",
            "rate limited",
            "too many requests",
            "too many tokens",
            "request limit reached",
            "requests per minute",
            "requests per second",
            "tokens per minute",
            "per minute",
            "throttl",
            "too many concurrent",
            "concurrency limit",
        ])
        .says(LIMIT_MODEL),
    Rule::new("message: quota exceeded", SEEN)
        .on(&[402, 403, 412])
        .text(&[
            "quota exceeded",
            "exceeded your quota",
            "exceeded quota",
            "quota has been exceeded",
            "over quota",
        ])
        .says(QUOTA_ACCOUNT),
    // Nobody took the connection, or what was sent on it: unlike after 504 and 524, nothing was
    // being worked on. core reads the statuses of reqwest's errors in the same way.
    Rule::new("status 522: no connection behind the edge", EDGE)
        .on(&[522])
        .says(Outcome::timed_out(Phase::Connect)),
    Rule::new("message: timed out, and a gateway's status", GATEWAY)
        .on(&[504, 524])
        .text(TIMED_OUT)
        .says(NO_HEAD),
    Rule::new("message: timed out", SEEN)
        .on(&[408, 5, NONE])
        .text(TIMED_OUT)
        .says(SLOW),
];

const TIMED_OUT: &[&str] = &[
    "timed out",
    "timeout",
    "time out",
    "deadline expired",
    "deadline exceeded",
];

const CONTEXT_PHRASES: &[&str] = &[
    "maximum context length",
    "`inputs` must have less than",
    "context length exceeded",
    "context_length_exceeded",
    "exceeds the context length",
    "exceeded the context length",
    "exceed context limit",
    "exceeds context limit",
    "exceeds the context window",
    "exceeds context window",
    "exceed the context window",
    "context window exceeds",
    "context window limit",
    "exceeds the available context size",
    "exceed the available context size",
    "context size has been exceeded",
    "context the overflows",
    "context overflow",
    "greater than the context length",
    "longer than the model's context",
    "longer than the maximum model length",
    "longer than the maximum",
    "exceeds the model's context",
    "exceeds model's maximum context",
    "exceeds the maximum context",
    "exceeds the model's maximum",
    "exceeds maximum context",
    "exceeds the maximum number of tokens",
    "maximum number of tokens allowed",
    "exceeds the maximum model length",
    "exceeded model token limit",
    "exceeds the limit of tokens",
    "exceed the maximum number of tokens",
    "maximum model length",
    "maximum prompt length",
    "maximum input length",
    "max input tokens",
    "prompt is too long",
    "prompt too long",
    "prompt exceeds max length",
    "input is too long",
    "inputs are too long",
    "input too long",
    "input length exceeds",
    "input length and",
    "input token count",
    "too many input tokens",
    "too many tokens: ",
    "too large for model with",
    "reduce the length of the messages",
    "reduce the length of your prompt",
    "reduce your prompt",
    "expected maxlength:",
    "token limit exceeded",
    "range of input length should be",
];

const UNSUPPORTED_PHRASES: &[&str] = &[
    "is not supported with this model",
    "not supported with this model",
    "not supported by this model",
    "not supported for this model",
    "not supported by the model",
    "is not supported by model",
    "not supported in this model",
    "unsupported parameter",
    "unsupported value",
    "does not support",
    "doesn't support",
    "do not support",
    "don't support",
    "cannot both be specified for this model",
    "unknown variant",
    "unrecognized request argument",
    "modality is not enabled",
    "is not enabled for models/",
    "requires --",
    "only works in",
    "is not enabled for this model",
    "not implemented",
    "unsupported feature",
    "not supported",
    "isn't supported",
    "only supports",
    "only supported by certain models",
    "supports at most",
    "support tool use",
    "support image input",
    "is unsupported",
];

/// Types that name a class and leave the cause to the message.
pub(super) const CLASSES: &[Rule] = &[
    Rule::new("type authentication_error", HTTP)
        .words(&[
            "authentication_error",
            "authenticationerror",
            "unauthenticated",
            "unauthorized",
        ])
        .says(AUTH_KEY),
    Rule::new("type permission_error", HTTP)
        .words(&[
            "permission_error",
            "permission_denied",
            "permissiondenied",
            "forbidden",
            "permissiondeniederror",
            "permission-denied",
            "permission_denied_error",
        ])
        .says(AUTH_KEY),
    Rule::new("type not_found_error", HTTP)
        .words(&["not_found_error", "not_found", "notfounderror", "notfound"])
        .says(NOT_FOUND),
    Rule::new("type rate_limit_error", HTTP)
        .words(&[
            "rate_limit_error",
            "ratelimiterror",
            "too_many_requests_error",
            "too_many_requests",
            "throttling_error",
            "resource_exhausted",
            "rate_limited",
        ])
        .says(LIMIT_MODEL),
    Rule::new("validation of the request", FASTAPI)
        .on(&[400, 422, NONE])
        .words(&[
            "validation_error",
            "validation",
            "invalid_request_error",
            "badrequesterror",
            "bad_request",
            "bad_request_error",
            "invalid_argument",
            "invalid_request",
            "invalid_message",
            "unprocessableentityerror",
            "unprocessable_entity",
        ])
        .says(WRONG),
    Rule::new("type of an overload", HTTP)
        .words(&["overloaded_error", "service_unavailable_overloaded"])
        .says(BUSY_PROVIDER),
    Rule::new("type of a time-out", HTTP)
        .words(&["timeout_error", "deadline_exceeded"])
        .says(SLOW),
    Rule::new("type of a fault at the provider", HTTP)
        .on(&[NONE, 5])
        .words(&[
            "server_error",
            "api_error",
            "internal_server_error",
            "internalservererror",
            "internal_error",
            "internal",
            "unavailable",
            "service_unavailable",
            "service_unavailable_error",
            "unavailable_error",
            "serviceunavailableerror",
            "provider_unavailable",
            "upstream_error",
        ])
        .says(DOWN),
];

/// The outcome that a status stands for when nothing else tells.
pub(super) const fn by_status(status: u16) -> Outcome {
    match status {
        400 | 405 | 406 | 411 | 412 | 416 | 417 | 422 | 428 => {
            WRONG.with_evidence("status of a wrong request")
        }
        // 498 is an invalid token where it comes without more (Esri, Cohere).
        401 | 407 | 498 => AUTH_KEY.with_evidence("status 401"),
        402 => QUOTA_ACCOUNT.with_evidence("status 402"),
        403 => AUTH_KEY.with_evidence("status 403"),
        404 | 410 => NOT_FOUND.with_evidence("status 404"),
        408 => SLOW.with_evidence("status 408"),
        409 => CLASH.with_evidence("status 409"),
        413 | 414 | 431 => TOO_LARGE.with_evidence("status 413"),
        415 => UNSUPPORTED.with_evidence("status 415"),
        421 | 423..=426 => DOWN_MODEL.with_evidence("status of a request that came too early"),
        429 => LIMIT_MODEL.with_evidence("status 429"),
        451 => AUTH_ACCOUNT.with_evidence("status 451"),
        // nginx: the other side closed before the answer.
        499 => DOWN.with_scope(Scope::Request).with_evidence("status 499"),
        501 | 505 => UNSUPPORTED.with_evidence("status 501"),
        504 | 524 => NO_HEAD.with_evidence("status of a gateway's time-out"),
        598 | 599 => SLOW.with_evidence("status of a proxy's time-out"),
        // Anthropic's, and others after it.
        529 => BUSY_PROVIDER.with_evidence("status 529"),
        401..=499 => WRONG.with_evidence("status of a wrong request"),
        500..=599 => DOWN.with_evidence("status of a failing server"),
        _ => Outcome::new(Kind::Malformed).with_evidence("status that no answer has"),
    }
}
