//! Together.

use super::rule::*;

const ERRORS: &str = "https://docs.together.ai/docs/error-codes";
const LIMITS: &str = "https://docs.together.ai/docs/rate-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new(
            "together: input and new tokens over the window under a 403",
            ERRORS,
        )
        .on(&[400, 403, 413, 422, NONE])
        .and(&["token"])
        .text(&[
            "max_new_tokens",
            "maximum context length",
            "tokens + ",
            "context length",
            "token count",
        ])
        .says(CONTEXT),
        Rule::new("together: spend limit", ERRORS)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        // The type of what an account may do in a minute is that of what it has paid for.
        Rule::new("together: a rate limit of the type credit_limit", LIMITS)
            .on(&[429, NONE])
            .words(&["credit_limit"])
            .text(&["rate limiting", "rate limited", "rate limit"])
            .says(LIMIT_MODEL),
        Rule::new("together: credit limit", ERRORS)
            .words(&["credit_limit", "insufficient_credits"])
            .says(QUOTA_ACCOUNT),
        Rule::new("together: the model's rate limit", LIMITS)
            .words(&[
                "model_rate_limit",
                "dynamic_request_limited",
                "dynamic_token_limited",
            ])
            .says(LIMIT_MODEL),
        Rule::new("together: overloaded", ERRORS)
            .on(&[5, NONE])
            .text(&["overloaded", "engine overloaded"])
            .says(BUSY_PROVIDER),
    ],
    last: &[Rule::new(
        "together: status 403, input and new tokens over the window",
        ERRORS,
    )
    .on(&[403])
    .says(CONTEXT)],
};
