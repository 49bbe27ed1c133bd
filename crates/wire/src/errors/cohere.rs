//! Cohere.

use super::rule::*;

const ERRORS: &str = "https://docs.cohere.com/reference/errors";
const LIMITS: &str = "https://docs.cohere.com/docs/rate-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("cohere: monthly calls of a trial key", LIMITS)
            .on(&[429, NONE])
            .text(&["/ month", "per month", "monthly"])
            .says(QUOTA_ACCOUNT),
        Rule::new("cohere: status 498, invalid token", ERRORS)
            .on(&[498])
            .says(AUTH_KEY),
        Rule::new("cohere: limits hold for the key", LIMITS)
            .on(&[429])
            .text(&[
                "/ minute",
                "per minute",
                "trial key",
                "too many requests",
                "rate limit",
                "calls",
            ])
            .says(LIMIT_KEY),
        Rule::new("cohere: too many tokens", ERRORS)
            .on(&[400, 422, NONE])
            .text(&[
                "too many tokens",
                "number of tokens in the prompt",
                "cannot exceed",
            ])
            .says(CONTEXT),
        Rule::new("cohere: a limit of the production key's spend", ERRORS)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        Rule::new("cohere: blocked content", ERRORS)
            .on(&[400, 403, NONE])
            .text(&["blocked output", "blocked input", "our safety"])
            .says(FILTERED),
    ],
    last: &[
        Rule::new("cohere: limits hold for the key, by the status", LIMITS)
            .on(&[429])
            .says(LIMIT_KEY),
    ],
};
