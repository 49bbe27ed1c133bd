//! Cerebras. The body is not wrapped, and the word quota means a minute.

use super::rule::*;

const ERRORS: &str = "https://inference-docs.cerebras.ai/support/error";
const LIMITS: &str = "https://inference-docs.cerebras.ai/support/rate-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("cerebras: queue_exceeded is capacity", ERRORS)
            .words(&["queue_exceeded", "param:queue"])
            .says(BUSY_MODEL),
        Rule::new("cerebras: a limit per day", LIMITS)
            .on(&[429])
            .text(&["per day", "daily"])
            .says(QUOTA_MODEL),
        Rule::new("cerebras: a limit per minute", LIMITS)
            .words(&[
                "request_quota_exceeded",
                "token_quota_exceeded",
                "too_many_tokens_error",
                "too_many_requests_error",
            ])
            .says(LIMIT_MODEL),
        Rule::new("cerebras: context_length_exceeded", ERRORS)
            .words(&["context_length_exceeded"])
            .says(CONTEXT),
        Rule::new("cerebras: the key is wrong", ERRORS)
            .words(&["wrong_api_key", "invalid_api_key"])
            .says(AUTH_KEY),
    ],
    last: &[Rule::new(
        "cerebras: a 400 without a body is an overlong prompt",
        ERRORS,
    )
    .on(&[400])
    .silent()
    .says(CONTEXT)],
};
