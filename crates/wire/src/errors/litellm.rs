//! A LiteLLM proxy. `code` is the status as a string; provider errors are printed inside `message`.

use super::rule::*;

const PROXY: &str = "https://docs.litellm.ai/docs/proxy/users";
const ERRORS: &str = "https://docs.litellm.ai/docs/exception_mapping";
const ROUTER: &str = "https://docs.litellm.ai/docs/routing#cooldowns";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("litellm: a budget of key, user or team", PROXY)
            .words(&["budget_exceeded"])
            .says(QUOTA_KEY),
        Rule::new("litellm: a budget, by its text", PROXY)
            .on(&[400, 429, NONE])
            .text(&[
                "budget has been exceeded",
                "exceededbudget",
                "over budget",
                "crossed budget",
            ])
            .says(QUOTA_KEY),
        Rule::new("litellm: all deployments are cooling down", ROUTER)
            .on(&[429, 5, NONE])
            .text(&["no deployments available", "no healthy deployments"])
            .says(BUSY_MODEL),
        Rule::new("litellm: no deployment serves the model", ROUTER)
            .on(&[400, 404])
            .text(&["no healthy deployments", "no deployments available"])
            .says(NOT_FOUND),
        Rule::new("litellm: the gateway's own limit", PROXY)
            .on(&[429])
            .text(&[
                "limit type:",
                "rate limit exceeded for api_key",
                "for api_key",
                "max parallel request",
                "crossed tpm",
                "max rpm",
            ])
            .says(LIMIT_KEY),
        Rule::new("litellm: the key may not use the model", PROXY)
            .words(&[
                "key_model_access_denied",
                "team_model_access_denied",
                "user_model_access_denied",
            ])
            .says(AUTH_KEY),
        Rule::new("litellm: ContextWindowExceededError", ERRORS)
            .text(&["contextwindowexceedederror"])
            .says(CONTEXT),
        Rule::new("litellm: ContentPolicyViolationError", ERRORS)
            .text(&["contentpolicyviolationerror"])
            .says(FILTERED),
        Rule::new("litellm: an unknown model name", PROXY)
            .on(&[400, 404])
            .text(&["invalid model name passed in"])
            .says(NOT_FOUND),
        Rule::new("litellm: Timeout", ERRORS)
            .text(&["litellm.timeout"])
            .says(SLOW),
        Rule::new("litellm: UnsupportedParamsError", ERRORS)
            .text(&["unsupportedparamserror"])
            .says(UNSUPPORTED),
        Rule::new("litellm: expired or unknown key", PROXY)
            .words(&["expired_key", "token_not_found_in_db"])
            .says(AUTH_KEY),
        Rule::new("litellm: no_db_connection", PROXY)
            .words(&["no_db_connection"])
            .says(DOWN),
    ],
    last: &[],
};
