//! MiniMax: a code in `base_resp` or in parentheses after the text.

use super::rule::*;

const ERRORS: &str = "https://platform.minimax.io/docs/api-reference/errorcode";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("minimax: 1008, insufficient balance", ERRORS)
            .words(&["1008"])
            .says(QUOTA_ACCOUNT),
        Rule::new("minimax: 1008, insufficient balance, by its text", ERRORS)
            .text(&["insufficient balance", "(1008)"])
            .says(QUOTA_ACCOUNT),
        Rule::new("minimax: 2056, usage limit of the plan", ERRORS)
            .words(&["2056", "1028"])
            .says(QUOTA_ACCOUNT),
        Rule::new(
            "minimax: 2056, usage limit of the plan, by its text",
            ERRORS,
        )
        .text(&["(2056)", "usage limit exceeded"])
        .says(QUOTA_ACCOUNT),
        Rule::new("minimax: 1002, rate limit", ERRORS)
            .words(&["1002", "1039", "1041", "2045"])
            .says(LIMIT_MODEL),
        Rule::new("minimax: 1002, rate limit, by its text", ERRORS)
            .text(&["(1002)", "(1039)", "(1041)", "(2045)"])
            .says(LIMIT_MODEL),
        Rule::new("minimax: 1004 or 2049, the key", ERRORS)
            .words(&["1004", "2049"])
            .says(AUTH_KEY),
        Rule::new("minimax: 1004 or 2049, the key, by its text", ERRORS)
            .text(&["(1004)", "(2049)"])
            .says(AUTH_KEY),
        Rule::new("minimax: 1026 or 1027, sensitive content", ERRORS)
            .words(&["1026", "1027"])
            .says(FILTERED),
        Rule::new(
            "minimax: 1026 or 1027, sensitive content, by its text",
            ERRORS,
        )
        .text(&["(1026)", "(1027)", "sensitive"])
        .says(FILTERED),
        Rule::new("minimax: 1001, timeout", ERRORS)
            .words(&["1001"])
            .says(SLOW),
        Rule::new("minimax: 1001, timeout, by its text", ERRORS)
            .text(&["(1001)"])
            .says(SLOW),
        Rule::new("minimax: 2064 or the server's load", ERRORS)
            .words(&["2064"])
            .says(BUSY_PROVIDER),
        Rule::new("minimax: prompt over the window", ERRORS)
            .text(&["context window exceeds limit", "exceeds the context"])
            .says(CONTEXT),
        Rule::new("minimax: 2013, invalid parameters", ERRORS)
            .words(&["2013", "1042"])
            .says(WRONG),
        Rule::new("minimax: 1000, 1013, 1024 or 1033, a fault", ERRORS)
            .words(&["1000", "1013", "1024", "1033"])
            .says(DOWN),
    ],
    last: &[],
};
