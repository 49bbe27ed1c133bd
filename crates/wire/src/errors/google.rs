//! Google: Gemini API, Vertex AI, Cloud Code. There are no limit headers; all is in `details`.

use super::rule::*;

const ERRORS: &str = "https://ai.google.dev/gemini-api/docs/troubleshooting";
const LIMITS: &str = "https://ai.google.dev/gemini-api/docs/rate-limits";
const BILLING: &str = "https://ai.google.dev/gemini-api/docs/billing";
const VERTEX: &str =
    "https://cloud.google.com/vertex-ai/generative-ai/docs/provisioned-throughput/error-code-429";
const CLI: &str = "https://github.com/google-gemini/gemini-cli (packages/core, googleQuotaErrors)";
const INFO: &str = "https://github.com/googleapis/googleapis (google/api/error_reason.proto)";
const CODES: &str = "https://github.com/googleapis/googleapis (google/rpc/code.proto)";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("google: no capacity for the model", CLI)
            .words(&["model_capacity_exhausted", "model_capacity_exceeded"])
            .says(BUSY_MODEL),
        Rule::new("google: no capacity for the model, by its text", CLI)
            .on(&[429, 503, NONE])
            .text(&["no capacity available"])
            .says(BUSY_MODEL),
        Rule::new("google: reason of spent credits or disabled billing", CLI)
            .words(&[
                "insufficient_g1_credits_balance",
                "billing_disabled",
                "billingdisabled",
            ])
            .says(QUOTA_ACCOUNT),
        Rule::new("google: reason QUOTA_EXHAUSTED", CLI)
            .words(&["quota_exhausted"])
            .says(QUOTA_MODEL),
        Rule::new("google: prepaid credit is spent", ERRORS)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        Rule::new(
            "google: prepaid credit or the spend cap is spent, by its text",
            BILLING,
        )
        .on(&[402, 429, NONE])
        .text(&["credits are depleted", "spending cap", "spend cap"])
        .says(QUOTA_ACCOUNT),
        Rule::new("google: a quota per day or longer is violated", LIMITS)
            .words(&["quota:day", "quota:month"])
            .says(QUOTA_MODEL),
        Rule::new("google: a quota of zero", CLI)
            .on(&[429, NONE])
            .words(&["quota:zero"])
            .says(QUOTA_MODEL),
        Rule::new("google: a limit of zero", CLI)
            .on(&[429, NONE])
            .text(&["limit: 0\n", "limit: 0,", "limit: 0 ", "limit: 0."])
            .says(QUOTA_MODEL),
        Rule::new("google: a quota per minute is violated", LIMITS)
            .words(&["quota:minute", "quota:second", "quota:hour"])
            .says(LIMIT_MODEL),
        Rule::new("google: reason RATE_LIMIT_EXCEEDED", INFO)
            .words(&["rate_limit_exceeded"])
            .says(LIMIT_MODEL),
        Rule::new("google: reason of a refused key", INFO)
            .words(&[
                "api_key_invalid",
                "api_key_expired",
                "api_key_service_blocked",
                "api_key_http_referrer_blocked",
                "api_key_ip_address_blocked",
                "api_key_android_app_blocked",
                "api_key_ios_app_blocked",
                "access_token_expired",
                "access_token_scope_insufficient",
                "access_token_type_unsupported",
                "credentials_missing",
                "session_cookie_invalid",
                "session_cookie_expired",
            ])
            .says(AUTH_KEY),
        Rule::new("google: reason of an account without the right", INFO)
            .words(&[
                "validation_required",
                "consumer_suspended",
                "consumer_invalid",
                "account_state_invalid",
                "service_disabled",
                "tos_violation",
                "user_project_denied",
                "resource_usage_restriction_violated",
                "location_policy_violated",
                "org_restriction_violation",
                "security_policy_violated",
            ])
            .says(AUTH_ACCOUNT),
        Rule::new("google: key refused, by its text", ERRORS)
            .on(&[400, 401, 403])
            .text(&[
                "api key not valid",
                "api key expired",
                "api key not found",
                "api key was reported as leaked",
                "valid api key",
            ])
            .says(AUTH_KEY),
        Rule::new("google: the API is not enabled for the project", ERRORS)
            .on(&[403])
            .text(&["has not been used in project", "it is disabled"])
            .says(AUTH_ACCOUNT),
        Rule::new("google: billing is not enabled, by its text", ERRORS)
            .on(&[400, 403, 429])
            .text(&["requires billing", "billing is disabled", "billing account"])
            .says(QUOTA_ACCOUNT),
        Rule::new("google: location not served", ERRORS)
            .on(&[400, 403])
            .text(&[
                "location is not supported",
                "free tier is not available",
                "has been suspended",
            ])
            .says(AUTH_ACCOUNT),
        Rule::new("google: model not enabled for the project", VERTEX)
            .on(&[400, 403, 404])
            .text(&["not allowed to use publisher model", "publisher model"])
            .says(NOT_FOUND),
        Rule::new("google: quota per day, by its text", LIMITS)
            .on(&[429, NONE])
            .text(&["perday", "per_day", "per day", "daily"])
            .says(QUOTA_MODEL),
        Rule::new("google: status DEADLINE_EXCEEDED", CODES)
            .words(&["deadline_exceeded"])
            .says(SLOW),
        Rule::new(
            "google: a deadline that expired under another status",
            ERRORS,
        )
        .on(&[5, NONE])
        .text(&["deadline expired", "deadline exceeded"])
        .says(SLOW),
        Rule::new("google: status CANCELLED", CODES)
            .words(&["cancelled"])
            .says(DOWN),
        Rule::new("google: the model is overloaded", ERRORS)
            .on(&[429, 5, NONE])
            .text(&["overloaded", "high demand", "at capacity"])
            .says(BUSY_MODEL),
        Rule::new("google: status RESOURCE_EXHAUSTED", LIMITS)
            .on(&[429, NONE])
            .words(&["resource_exhausted"])
            .says(LIMIT_MODEL),
        Rule::new("google: the text of any exceeded quota", LIMITS)
            .on(&[429, NONE])
            .text(&["exceeded your current quota", "quota exceeded"])
            .says(LIMIT_MODEL),
        Rule::new("google: status UNAUTHENTICATED", CODES)
            .words(&["unauthenticated"])
            .says(AUTH_KEY),
        Rule::new("google: status ABORTED", CODES)
            .words(&["aborted"])
            .says(CLASH),
        Rule::new("google: status UNIMPLEMENTED", CODES)
            .words(&["unimplemented"])
            .says(UNSUPPORTED),
        Rule::new("google: the prompt is refused", ERRORS)
            .words(&["prohibited_content", "safety", "blocklist"])
            .says(FILTERED),
    ],
    last: &[],
};
