//! Z.AI: a four-digit code.

use super::rule::*;

const CODES: &str = "https://docs.z.ai/api-reference/api-code";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("z.ai: 1302 or 1303, concurrency or rate of the key", CODES)
            .words(&["1302", "1303"])
            .says(LIMIT_KEY),
        Rule::new("z.ai: 1305 or 1312, high load on the model", CODES)
            .words(&["1305", "1312"])
            .says(BUSY_MODEL),
        Rule::new("z.ai: 1113 or 1309, balance or plan", CODES)
            .words(&["1113", "1309"])
            .says(QUOTA_ACCOUNT),
        Rule::new(
            "z.ai: 1304, 1308 or 1310, calls of the plan are spent",
            CODES,
        )
        .words(&["1304", "1308", "1310"])
        .says(QUOTA_ACCOUNT),
        Rule::new("z.ai: 1311 or 1220, the plan lacks the model", CODES)
            .words(&["1311", "1220"])
            .says(AUTH_ACCOUNT),
        Rule::new("z.ai: 1000 to 1004, the key", CODES)
            .words(&["1000", "1001", "1002", "1003", "1004"])
            .says(AUTH_KEY),
        Rule::new(
            "z.ai: 1110 to 1112, 1120, 1121 or 1313, the account is locked",
            CODES,
        )
        .words(&["1110", "1111", "1112", "1120", "1121", "1313"])
        .says(AUTH_ACCOUNT),
        Rule::new(
            "z.ai: 1211, 1221 or 1222, no such model or interface",
            CODES,
        )
        .words(&["1211", "1221", "1222"])
        .says(NOT_FOUND),
        Rule::new("z.ai: 1212, the model lacks the method", CODES)
            .words(&["1212"])
            .says(UNSUPPORTED),
        Rule::new("z.ai: 1261, prompt over the window", CODES)
            .words(&["1261"])
            .says(CONTEXT),
        Rule::new("z.ai: 1300 or 1301, content", CODES)
            .words(&["1300", "1301"])
            .says(FILTERED),
        Rule::new("z.ai: 1210, 1213, 1214 or 1215, parameters", CODES)
            .words(&["1210", "1213", "1214", "1215"])
            .says(WRONG),
        Rule::new("z.ai: 1230 or 1234, a fault", CODES)
            .words(&["1200", "1230", "1234", "500"])
            .says(DOWN),
        Rule::new("z.ai: 1231, the same request is under way", CODES)
            .words(&["1231"])
            .says(CLASH),
    ],
    last: &[],
};
