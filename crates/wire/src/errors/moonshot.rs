//! Moonshot.

use super::rule::*;

const ERRORS: &str = "https://platform.moonshot.ai/docs/api/errors";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("moonshot: exceeded_current_quota_error", ERRORS)
            .words(&["exceeded_current_quota_error"])
            .says(QUOTA_ACCOUNT),
        Rule::new("moonshot: engine_overloaded_error", ERRORS)
            .words(&["engine_overloaded_error"])
            .says(BUSY_PROVIDER),
        Rule::new("moonshot: rate_limit_reached_error", ERRORS)
            .words(&["rate_limit_reached_error"])
            .says(LIMIT_ACCOUNT),
        Rule::new("moonshot: the key is refused", ERRORS)
            .words(&["invalid_authentication_error", "incorrect_api_key_error"])
            .says(AUTH_KEY),
        Rule::new("moonshot: resource_not_found_error", ERRORS)
            .words(&["resource_not_found_error"])
            .says(NOT_FOUND),
        Rule::new("moonshot: prompt over the window", ERRORS)
            .on(&[400, NONE])
            .text(&["exceeded model token limit"])
            .says(CONTEXT),
        Rule::new("moonshot: content_filter", ERRORS)
            .words(&["content_filter"])
            .says(FILTERED),
    ],
    last: &[],
};
