//! Cloudflare: the edge in front of many providers, and Workers AI.

use super::rule::*;

const EDGE: &str = "https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/";
const AI: &str = "https://developers.cloudflare.com/workers-ai/platform/errors/";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("workers ai: 5007 or 3042, no such model", AI)
            .words(&["5007", "3042"])
            .says(NOT_FOUND),
        Rule::new("workers ai: 3040, out of capacity", AI)
            .words(&["3040"])
            .says(BUSY_MODEL),
        Rule::new("workers ai: 3036 or 4006, daily neurons are spent", AI)
            .words(&["3036", "4006"])
            .says(QUOTA_ACCOUNT),
        Rule::new("workers ai: 3006, request too large", AI)
            .words(&["3006"])
            .says(TOO_LARGE),
        Rule::new("workers ai: 3007 or 3008, timeout", AI)
            .words(&["3007", "3008"])
            .says(SLOW),
        Rule::new("workers ai: 3023, the account is blocked", AI)
            .words(&["3023"])
            .says(AUTH_ACCOUNT),
        Rule::new(
            "workers ai: 5018, 3041 or 5016, the model is not granted",
            AI,
        )
        .words(&["5018", "3041", "5016"])
        .says(AUTH_ACCOUNT),
        Rule::new("workers ai: 5005, no such feature", AI)
            .words(&["5005", "5019"])
            .says(UNSUPPORTED),
        Rule::new("workers ai: 5004 or 3003, invalid request", AI)
            .words(&["5004", "3003", "3039", "5006"])
            .says(WRONG),
        Rule::new("workers ai: 10000, authentication", AI)
            .words(&["10000", "9109", "1001"])
            .says(AUTH_KEY),
        Rule::new("cloudflare: error 1015, rate limit of the address", EDGE)
            .text(&[
                "error code: 1015",
                "error 1015",
                "you are being rate limited",
            ])
            .says(LIMIT_ACCOUNT),
        Rule::new("cloudflare: error 1020 or 1010, blocked at the edge", EDGE)
            .on(&[403])
            .text(&[
                "error code: 1020",
                "error code: 1010",
                "error code: 1009",
                "error code: 1006",
                "just a moment",
                "attention required",
                "you have been blocked",
            ])
            .says(DOWN.with_repeat(false)),
    ],
    last: &[],
};
