//! OpenAI's vocabulary, which most others borrow.

use super::rule::*;

const DASHSCOPE: &str = "https://www.alibabacloud.com/help/en/model-studio/error-code";
const CODES: &str = "https://platform.openai.com/docs/guides/error-codes/api-errors";
const RESPONSES: &str =
    "https://platform.openai.com/docs/api-reference/responses/object (error.code)";
const LIMITS: &str = "https://platform.openai.com/docs/guides/rate-limits";
const AZURE: &str = "https://learn.microsoft.com/azure/ai-services/openai/quotas-limits";
const PROXY: &str = "https://docs.litellm.ai/docs/proxy/users";
const PARAMETERS: &str = "the providers' API references; docs/wire.md";
const GROQ: &str = "https://console.groq.com/docs/errors";

/// Codes and types that speak for themselves under every OpenAI-compatible roof.
pub(super) const TYPED: &[Rule] = &[
    Rule::new("code insufficient_quota", CODES)
        .words(&["insufficient_quota"])
        .says(QUOTA_ACCOUNT),
    Rule::new("code of a proxy's budget for the key", PROXY)
        .words(&["budget_exceeded"])
        .says(QUOTA_KEY),
    Rule::new("code for a spent budget or inactive billing", CODES)
        .words(&[
            "billing_hard_limit_reached",
            "billing_not_active",
            "billing_error",
            "insufficient_balance",
            "insufficient_credits",
            "insufficient_funds",
            "insufficient_user_quota",
            // IBM watsonx: https://cloud.ibm.com/apidocs/watsonx-ai.
            "token_quota_reached",
            "quota_exhausted",
            "out_of_credits",
            "payment_required",
            "usage_limit_reached",
            "usage_limit_exceeded",
            "usage_not_included",
            "credits_exhausted",
            "quota_exceeded",
            "not_enough_balance",
            "arrearage",
        ])
        .says(QUOTA_ACCOUNT),
    Rule::new(
        "rate-limit code, request larger than the limit itself",
        LIMITS,
    )
    .on(&[429, 413, NONE])
    .words(&["rate_limit_exceeded", "tokens", "requests"])
    .text(&["request too large", "please reduce your message size"])
    .says(TOO_LARGE),
    Rule::new(
        "status 413 with a rate-limit code: the request exceeds the limit itself",
        GROQ,
    )
    .on(&[413])
    .words(&["rate_limit_exceeded", "tokens"])
    .says(TOO_LARGE),
    Rule::new("rate-limit code, limit per day", LIMITS)
        .words(&[
            "rate_limit_exceeded",
            "rate_limit_error",
            "tokens",
            "requests",
        ])
        .text(&["(rpd)", "(tpd)", "per day", "per month", "daily limit"])
        .says(QUOTA_MODEL),
    Rule::new("rate-limit code, but the text says capacity", CODES)
        .on(&[429, 5, NONE])
        .words(&["rate_limit_exceeded", "too_many_requests", "429"])
        .text(OVERLOADED)
        .says(BUSY_MODEL),
    Rule::new("code rate_limit_exceeded", CODES)
        .words(&[
            "rate_limit_exceeded",
            "rate_limit_reached",
            "rate_limit_reached_error",
            "ratelimitreached",
            "model_rate_limit",
            "slow_down",
        ])
        .says(LIMIT_MODEL),
    Rule::new("code context_length_exceeded", CODES)
        .words(&[
            "context_length_exceeded",
            "context_window_exceeded",
            "model_context_window_exceeded",
            "max_context_length_exceeded",
            "exceed_context_size_error",
            "exceed_context_size",
            "tokens_limit_reached",
            "prompt_too_long",
        ])
        .says(CONTEXT),
    Rule::new("code of a free allowance that is spent", DASHSCOPE)
        .words(&["allocationquota.freetieronly"])
        .says(QUOTA_MODEL),
    Rule::new("code of a refused content", CODES)
        .words(&[
            "content_policy_violation",
            "content_filter",
            "content_filtered",
            "content_blocked",
            "content_filter_error",
            "moderation_blocked",
            "responsibleaipolicyviolation",
            "invalid_prompt",
            "bio_policy",
            "cyber_policy",
            "image_content_policy_violation",
            "safety_violation",
            "moderation",
            "prompt_blocked",
            "data_inspection_failed",
            // Volcengine.
            "sensitivecontentdetected",
            "inputtextsensitivecontentdetected",
            "outputtextsensitivecontentdetected",
        ])
        .says(FILTERED),
    Rule::new("code model_not_found", CODES)
        .words(&[
            "model_not_found",
            "model_not_available",
            "invalid_model",
            "invalid_model_error",
            "model_decommissioned",
            "model_deprecated",
            "model_not_supported",
            "unknown_model",
            "unsupported_model",
            "model_terminated",
            "resource_not_found_error",
        ])
        .says(NOT_FOUND),
    Rule::new("code DeploymentNotFound", AZURE)
        .words(&["deploymentnotfound", "deploymentnotready", "modelnotfound"])
        .says(NOT_FOUND),
    Rule::new("code unsupported_country_region_territory", CODES)
        .words(&["unsupported_country_region_territory"])
        .says(AUTH_ACCOUNT),
    Rule::new(
        "code of an account that is closed or has no such right",
        CODES,
    )
    .words(&[
        "account_deactivated",
        "account_suspended",
        "access_terminated",
        "organization_deactivated",
        "invalid_organization",
        "mismatched_organization",
    ])
    .says(AUTH_ACCOUNT),
    Rule::new("code invalid_api_key", CODES)
        .words(&[
            "invalid_api_key",
            "invalid_authentication",
            "invalid_authentication_error",
            "authentication_error",
            "authenticationerror",
            "auth_error",
            "missing_api_key",
            "wrong_api_key",
            "expired_api_key",
            "api_key_invalid",
            "token_expired",
            "ip_not_authorized",
            "insufficient_permissions",
            "unauthorized",
        ])
        .but_not(&["model"])
        .says(AUTH_KEY),
    Rule::new("code of a parameter that the model lacks", CODES)
        .words(&[
            "unsupported_parameter",
            "unsupported_value",
            "unsupported_feature",
            "not_supported_error",
            "unsupported_endpoint",
            "unsupported_media_type",
            "unsupported_file",
            "operationnotsupported",
        ])
        .says(UNSUPPORTED),
    Rule::new(
        "code tool_use_failed: the model wrote a bad tool call",
        GROQ,
    )
    .words(&[
        "tool_use_failed",
        "json_validate_failed",
        "output_parse_failed",
    ])
    .says(NONSENSE_REQUEST),
    Rule::new(
        "a parameter of another provider's API that is not known here",
        PARAMETERS,
    )
    .on(&[400, 422, NONE])
    .words(KNOWN_PARAMETERS)
    .text(&[
        "extra inputs are not permitted",
        "unknown parameter",
        "unrecognized request argument",
        "unsupported parameter",
        "unknown field",
        "unexpected keyword",
    ])
    .says(UNSUPPORTED),
    Rule::new("code of a value that validation refused", CODES)
        .on(&[4, NONE])
        .words(&[
            "invalid_value",
            "invalid_type",
            "missing_required_parameter",
            "unknown_parameter",
            "string_above_max_length",
            "string_below_min_length",
            "array_above_max_length",
            "array_below_min_length",
            "integer_above_max_value",
            "integer_below_min_value",
            "decimal_above_max_value",
            "decimal_below_min_value",
            "invalid_function_parameters",
            "invalid_json",
            "invalid_json_schema",
            "invalid_encrypted_content",
            "invalid_message",
            "invalid_image",
            "invalid_image_format",
            "invalid_image_url",
            "invalid_base64_image",
            "empty_array",
            "empty_image_file",
            "image_parse_error",
            "image_file_not_found",
            "failed_to_download_image",
            "unsupported_image_media_type",
            "extra_forbidden",
            "previous_response_not_found",
            "data_residency_mismatch",
        ])
        .says(WRONG),
    Rule::new("code of too many bytes", RESPONSES)
        .words(&[
            "image_too_large",
            "image_file_too_large",
            "request_too_large",
            "payload_too_large",
            "request_entity_too_large",
            "file_too_large",
        ])
        .says(TOO_LARGE),
    Rule::new("code of a lock or a conflict", CODES)
        .words(&[
            "conversation_locked",
            "conflict",
            "conflict_error",
            "lock_timeout",
        ])
        .says(CLASH),
    Rule::new("code of lacking capacity for the model", CODES)
        .words(&[
            "queue_exceeded",
            "model_overloaded",
            "capacity_exceeded",
            "service_tier_capacity_exceeded",
            "model_at_capacity",
            "flex_capacity_exceeded",
            "resource_unavailable",
            "no_capacity",
        ])
        .says(BUSY_MODEL),
    Rule::new("code of lacking capacity", CODES)
        .words(&[
            "overloaded_error",
            "overloaded",
            "server_overloaded",
            // Volcengine: https://www.volcengine.com/docs/82379/1299023.
            "serveroverloaded",
            "service_overloaded",
            "over_capacity",
            "server_busy",
            "server_is_overloaded",
            "provider_overloaded",
            "engine_overloaded",
            "engine_overloaded_error",
        ])
        .says(BUSY_PROVIDER),
    Rule::new("code of a time-out at the provider", CODES)
        .words(&[
            "timeout_error",
            "request_timeout",
            "timeout",
            "gateway_timeout",
            "vector_store_timeout",
            "deadline_exceeded",
            "operation_timeout",
            "model_timeout",
        ])
        .says(SLOW),
];

/// Words for lacking capacity.
pub(super) const OVERLOADED: &[&str] = &[
    "overloaded",
    "at capacity",
    "over capacity",
    "no capacity",
    "out of capacity",
    "capacity exceeded",
    "insufficient capacity",
    "experiencing high demand",
    "experiencing high traffic",
    "experiencing high load",
    "high traffic right now",
    "high demand",
    "heavy load",
    "high volume of requests",
    "under high load",
    "queue is full",
    "queue full",
    "server is busy",
    "server busy",
    "servers are busy",
    "service is busy",
    "too busy",
    "is busy",
    "resource exhausted. please try again later",
    "maximum pending requests exceeded",
    "total request limit reached",
    "max queue size",
    "engine is currently",
];

/// Parameters that some provider's API has: where one is not known, another provider may take it.
const KNOWN_PARAMETERS: &[&str] = &[
    "param:audio",
    "param:cache_control",
    "param:frequency_penalty",
    "param:functions",
    "param:function_call",
    "param:guided_json",
    "param:logit_bias",
    "param:logprobs",
    "param:max_completion_tokens",
    "param:max_output_tokens",
    "param:metadata",
    "param:min_p",
    "param:modalities",
    "param:n",
    "param:parallel_tool_calls",
    "param:prediction",
    "param:presence_penalty",
    "param:prompt_cache_key",
    "param:reasoning",
    "param:reasoning_effort",
    "param:repetition_penalty",
    "param:response_format",
    "param:seed",
    "param:service_tier",
    "param:stop",
    "param:stop_sequences",
    "param:store",
    "param:stream_options",
    "param:system",
    "param:temperature",
    "param:thinking",
    "param:tool_choice",
    "param:tools",
    "param:top_k",
    "param:top_logprobs",
    "param:top_p",
    "param:user",
    "param:verbosity",
    "param:web_search_options",
];
