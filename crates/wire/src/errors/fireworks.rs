//! Fireworks.

use super::rule::*;

const ERRORS: &str = "https://docs.fireworks.ai/guides/inference-error-codes";
const LIMITS: &str = "https://docs.fireworks.ai/guides/quotas_usage/rate-limits";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("fireworks: suspended or over the spend limit", ERRORS)
            .on(&[412, 403, 402])
            .text(&[
                "suspended",
                "spending limit",
                "spend limit",
                "past invoices",
                "unpaid",
            ])
            .says(QUOTA_ACCOUNT),
        Rule::new(
            "fireworks: the limits of serverless use, per minute",
            LIMITS,
        )
        .on(&[429])
        .text(&["contact fireworks to explore dedicated capacity"])
        .says(LIMIT_MODEL),
        Rule::new("fireworks: not deployed", ERRORS)
            .on(&[404])
            .says(NOT_FOUND),
        Rule::new("fireworks: overloaded deployment", ERRORS)
            .on(&[503, 429])
            .text(&[
                "deployment is overloaded",
                "overloaded",
                "scaling up",
                "no healthy",
            ])
            .says(BUSY_MODEL),
        Rule::new("fireworks: the deployment scales from zero", ERRORS)
            .words(&["deployment_scaling_up"])
            .says(DOWN_MODEL),
    ],
    last: &[
        Rule::new("fireworks: status 412, the account is suspended", ERRORS)
            .on(&[412])
            .says(QUOTA_ACCOUNT),
    ],
};
