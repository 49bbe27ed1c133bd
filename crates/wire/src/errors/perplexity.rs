//! Perplexity.

use super::rule::*;

const ERRORS: &str = "https://docs.perplexity.ai/guides/perplexity-sdk-error-handling";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("perplexity: invalid_model", ERRORS)
            .words(&["invalid_model"])
            .says(NOT_FOUND),
        Rule::new("perplexity: the rate of requests", ERRORS)
            .words(&["request_rate_limit_exceeded"])
            .says(LIMIT_MODEL),
        Rule::new("perplexity: quota of the account", ERRORS)
            .words(&["insufficient_quota", "quota_exceeded"])
            .says(QUOTA_ACCOUNT),
        Rule::new("perplexity: a message of the wrong form", ERRORS)
            .on(&[400, 422])
            .words(&["invalid_message", "bad_request", "invalid_parameter"])
            .but_not(&["context", "token"])
            .says(WRONG),
    ],
    last: &[],
};
