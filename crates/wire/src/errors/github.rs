//! GitHub Models.

use super::rule::*;

const LIMITS: &str = "https://docs.github.com/en/github-models/use-github-models/prototyping-with-ai-models#rate-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("github: a limit per day", LIMITS)
            .on(&[429, 403])
            .text(&["per 86400s", "bymodelbyday", "byday"])
            .says(QUOTA_MODEL),
        Rule::new(
            "github: a limit per minute or of concurrent requests",
            LIMITS,
        )
        .words(&["ratelimitreached"])
        .says(LIMIT_MODEL),
        Rule::new("github: more tokens than the tier allows", LIMITS)
            .words(&["tokens_limit_reached"])
            .says(CONTEXT),
        Rule::new("github: the model is not offered", LIMITS)
            .words(&["unknown_model", "unavailable_model"])
            .says(NOT_FOUND),
        Rule::new("github: the token lacks the right", LIMITS)
            .words(&["no_access", "unauthorized"])
            .says(AUTH_KEY),
    ],
    last: &[],
};
