//! xAI: `code` and `error` are prose.

use super::rule::*;

const ERRORS: &str = "https://docs.x.ai/docs/key-information/debugging";
const LIMITS: &str = "https://docs.x.ai/docs/key-information/consumption-and-rate-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("xai: credits are spent", LIMITS)
            .on(&[4, NONE])
            .text(&[
                "used all available credits",
                "monthly spending limit",
                "run out of credits",
                "ran out of credits",
                "doesn't have any credits",
                "does not have any credits",
                "don't have any credits",
                "no credits",
                "purchase more credits",
                "purchase credits",
                "add credits",
                "credits or licenses",
            ])
            .says(QUOTA_ACCOUNT),
        Rule::new("xai: key refused under a 400", ERRORS)
            .on(&[400, 401, 403])
            .text(&[
                "incorrect api key",
                "invalid api key",
                "api key is currently blocked",
                "api key is blocked",
                "api key is disabled",
                "no api key provided",
            ])
            .says(AUTH_KEY),
        Rule::new("xai: the account may not use the model", ERRORS)
            .on(&[403])
            .text(&["access to the model", "access to this model"])
            .says(AUTH_MODEL),
        Rule::new("xai: the team is blocked", ERRORS)
            .on(&[401, 403])
            .text(&["team is blocked", "team has been blocked"])
            .says(AUTH_ACCOUNT),
        Rule::new("xai: no such model", ERRORS)
            .on(&[400, 404])
            .and(&["does not exist"])
            .text(&["the model"])
            .says(NOT_FOUND),
        Rule::new("xai: content is refused", ERRORS)
            .on(&[400, 403, NONE])
            .text(&["content violates", "usage guidelines", "safety check"])
            .says(FILTERED),
        Rule::new("xai: prompt over the window", ERRORS)
            .on(&[400, 413, NONE])
            .text(&["maximum prompt length", "maximum context length"])
            .says(CONTEXT),
        Rule::new("xai: at capacity", ERRORS)
            .on(&[429, 5, NONE])
            .text(&["at capacity", "high load", "high demand"])
            .says(BUSY_MODEL),
        Rule::new("xai: unavailable, also under a 200", ERRORS)
            .on(&[5, NONE])
            .text(&["currently unavailable", "temporarily unavailable"])
            .says(DOWN),
    ],
    last: &[],
};
