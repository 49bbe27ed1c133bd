//! DeepSeek.

use super::rule::*;

const ERRORS: &str = "https://api-docs.deepseek.com/quick_start/error_codes";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("deepseek: insufficient balance", ERRORS)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        Rule::new(
            "deepseek: a part of OpenAI's API that it does not know",
            ERRORS,
        )
        .on(&[400, 422])
        .text(&["unknown variant", "unknown field"])
        .says(UNSUPPORTED),
        Rule::new("deepseek: the service is busy", ERRORS)
            .on(&[5, 429, NONE])
            .text(&["too busy", "is busy", "overloaded"])
            .says(BUSY_PROVIDER),
        Rule::new("deepseek: content is refused", ERRORS)
            .on(&[400, NONE])
            .text(&["content exists risk"])
            .says(FILTERED),
    ],
    last: &[Rule::new("deepseek: status 503, overloaded", ERRORS)
        .on(&[503])
        .says(BUSY_PROVIDER)],
};
