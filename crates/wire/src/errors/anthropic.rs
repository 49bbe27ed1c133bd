//! Anthropic Messages, also behind Vertex, OpenRouter and MiniMax.

use super::rule::*;

const ERRORS: &str = "https://docs.anthropic.com/en/api/errors";
const LIMITS: &str = "https://docs.anthropic.com/en/api/rate-limits";
const BILLING: &str = "https://docs.anthropic.com/en/api/rate-limits#spend-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("anthropic: a credit or spend limit", BILLING)
            .on(&[400, 402, 403, 429, NONE])
            .text(&[
                "credit balance is too low",
                "specified api usage limits",
                "you will regain access",
                "workspace has reached",
                "monthly spend limit",
                "usage limits. you will",
                "extra usage is required",
                "out of extra usage",
            ])
            .says(QUOTA_ACCOUNT),
        Rule::new("anthropic: a feature that the plan does not have", ERRORS)
            .on(&[400, 403])
            .text(&[
                "not yet available for this subscription",
                "not available for this subscription",
            ])
            .says(UNSUPPORTED),
        Rule::new("anthropic: the organization is disabled", ERRORS)
            .on(&[400, 401, 403])
            .text(&[
                "organization has been disabled",
                "account has been disabled",
                "organization does not have access",
            ])
            .says(AUTH_ACCOUNT),
        Rule::new("anthropic: overloaded_error", ERRORS)
            .words(&["overloaded_error"])
            .says(BUSY_PROVIDER),
        Rule::new("anthropic: rate_limit_error of the account", LIMITS)
            .words(&["rate_limit_error"])
            .text(&["your account's rate limit"])
            .says(LIMIT_ACCOUNT),
        Rule::new("anthropic: rate_limit_error", LIMITS)
            .words(&["rate_limit_error"])
            .says(LIMIT_MODEL),
        Rule::new("anthropic: billing_error", ERRORS)
            .words(&["billing_error"])
            .says(QUOTA_ACCOUNT),
        Rule::new("anthropic: request_too_large", ERRORS)
            .words(&["request_too_large"])
            .says(TOO_LARGE),
        Rule::new("anthropic: authentication_error", ERRORS)
            .words(&["authentication_error"])
            .says(AUTH_KEY),
        Rule::new("anthropic: permission_error", ERRORS)
            .words(&["permission_error"])
            .says(AUTH_KEY),
        Rule::new("anthropic: not_found_error", ERRORS)
            .words(&["not_found_error"])
            .says(NOT_FOUND),
        Rule::new("anthropic: timeout_error", ERRORS)
            .words(&["timeout_error"])
            .says(SLOW),
        Rule::new("anthropic: api_error", ERRORS)
            .on(&[5, NONE])
            .words(&["api_error"])
            .but_not(&[
                "overloaded",
                "at capacity",
                "context",
                "balance",
                "maximum output",
            ])
            .says(DOWN),
        Rule::new("anthropic: content filtering policy", ERRORS)
            .on(&[400, NONE])
            .text(&["blocked by content filtering policy"])
            .says(FILTERED),
        Rule::new("anthropic: prompt over the window", ERRORS)
            .on(&[400, 413, NONE])
            .text(&[
                "prompt is too long",
                "exceed context limit",
                "context window",
            ])
            .says(CONTEXT),
    ],
    last: &[],
};
