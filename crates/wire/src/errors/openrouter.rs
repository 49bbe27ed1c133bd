//! OpenRouter. `error_type` and `availability.code` are its stable fields; the provider's own error is in
//! `metadata.raw`.

use super::rule::*;

const ERRORS: &str = "https://openrouter.ai/docs/api/reference/errors-and-debugging";
const TYPES: &str = "https://openrouter.ai/docs/client-sdks/python/components/apierrortype";
const LIMITS: &str = "https://openrouter.ai/docs/api/reference/limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("openrouter: daily limit of free models", LIMITS)
            .on(&[429, NONE])
            .text(&["free-models-per-day", "per-day", "per day"])
            .says(QUOTA_ACCOUNT),
        Rule::new("openrouter: limit of free models per minute", LIMITS)
            .on(&[429, NONE])
            .text(&["free-models-per-min"])
            .says(LIMIT_ACCOUNT),
        Rule::new("openrouter: in-flight budget", LIMITS)
            .words(&["limit_source:openrouter_in_flight_budget"])
            .says(LIMIT_ACCOUNT),
        Rule::new("openrouter: the key's own limit", LIMITS)
            .on(&[402, 403, 429])
            .text(&[
                "settings/keys",
                "key limit exceeded",
                "key's limit",
                "key with a higher",
            ])
            .says(QUOTA_KEY),
        Rule::new("openrouter: a token budget", TYPES)
            .words(&["token_limit_exceeded"])
            .says(QUOTA_KEY),
        Rule::new("openrouter: credits are spent", ERRORS)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        Rule::new("openrouter: moderation or guardrail", ERRORS)
            .on(&[403, 400, NONE])
            .words(&["moderation", "content_policy_violation", "refusal"])
            .says(FILTERED),
        Rule::new("openrouter: moderation or guardrail, by its text", ERRORS)
            .on(&[403])
            .text(&["requires moderation", "was flagged", "guardrail"])
            .says(FILTERED),
        Rule::new("openrouter: no provider is left by the data policy", ERRORS)
            .words(&[
                "privacy_restricted",
                "constraint_filtered",
                "no_endpoints",
                "no_allowed_providers",
            ])
            .says(NOT_FOUND),
        Rule::new("openrouter: no provider of the model is there", ERRORS)
            .on(&[503])
            .text(&[
                "no allowed providers",
                "no available model provider",
                "no providers",
            ])
            .says(DOWN_MODEL),
        Rule::new("openrouter: model_not_found", ERRORS)
            .words(&["model_not_found"])
            .says(NOT_FOUND),
        Rule::new("openrouter: context_length_exceeded", TYPES)
            .words(&["context_length_exceeded"])
            .says(CONTEXT),
        Rule::new("openrouter: string_too_long", TYPES)
            .words(&["string_too_long"])
            .says(CONTEXT),
        Rule::new("openrouter: payload_too_large", TYPES)
            .words(&["payload_too_large", "image_too_large"])
            .says(TOO_LARGE),
        Rule::new("openrouter: payment_required", TYPES)
            .words(&["payment_required"])
            .says(QUOTA_ACCOUNT),
        Rule::new("openrouter: authentication", TYPES)
            .words(&["authentication"])
            .says(AUTH_KEY),
        Rule::new("openrouter: permission_denied", TYPES)
            .words(&["permission_denied"])
            .says(AUTH_KEY),
        Rule::new("openrouter: not_found", TYPES)
            .words(&["not_found"])
            .says(NOT_FOUND),
        Rule::new("openrouter: provider_overloaded", TYPES)
            .words(&["provider_overloaded"])
            .says(BUSY_MODEL),
        Rule::new("openrouter: provider_unavailable", TYPES)
            .words(&["provider_unavailable"])
            .says(DOWN),
        Rule::new("openrouter: timeout", TYPES)
            .words(&["timeout"])
            .says(SLOW),
        Rule::new("openrouter: rate_limit_exceeded", TYPES)
            .words(&["rate_limit_exceeded"])
            .says(LIMIT_MODEL),
        Rule::new(
            "openrouter: invalid_prompt, a message that is malformed",
            TYPES,
        )
        .words(&["invalid_prompt"])
        .says(WRONG),
        Rule::new("openrouter: an image or a format", TYPES)
            .words(&[
                "invalid_image",
                "image_too_small",
                "unsupported_image_format",
                "image_not_found",
                "image_download_failed",
            ])
            .says(WRONG),
        Rule::new("openrouter: no endpoint fits the request", ERRORS)
            .on(&[404])
            .text(&["no endpoints found that support"])
            .says(UNSUPPORTED),
        Rule::new("openrouter: no provider is available", ERRORS)
            .on(&[503])
            .text(&["no available model provider", "no instances available"])
            .says(DOWN_MODEL),
    ],
    last: &[],
};
