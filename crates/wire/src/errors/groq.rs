//! Groq.

use super::rule::*;

const ERRORS: &str = "https://console.groq.com/docs/errors";
const LIMITS: &str = "https://console.groq.com/docs/rate-limits";
const TIERS: &str = "https://console.groq.com/docs/flex-processing";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("groq: one request exceeds the limit itself", LIMITS)
            .on(&[413, NONE])
            .words(&["rate_limit_exceeded", "tokens"])
            .text(&["request too large", "reduce your message size"])
            .says(TOO_LARGE),
        Rule::new("groq: requests or tokens per day", LIMITS)
            .on(&[429, NONE])
            .text(&["(rpd)", "(tpd)", "(asd)", "per day"])
            .says(QUOTA_MODEL),
        Rule::new("groq: flex capacity", TIERS)
            .words(&["capacity_exceeded"])
            .says(BUSY_MODEL),
        Rule::new("groq: over capacity", ERRORS)
            .on(&[498, 5])
            .text(&["over capacity", "over_capacity"])
            .says(BUSY_MODEL),
        Rule::new("groq: the organization or key is restricted", ERRORS)
            .words(&["organization_restricted"])
            .says(AUTH_ACCOUNT),
        Rule::new("groq: spend limit", LIMITS)
            .words(&["blocked_api_access", "spend_limit_reached"])
            .says(QUOTA_ACCOUNT),
        Rule::new("groq: the model is blocked for the project", ERRORS)
            .words(&[
                "model_permission_blocked_org",
                "model_permission_blocked_project",
            ])
            .says(AUTH_MODEL),
        Rule::new("groq: terms of the model are not accepted", ERRORS)
            .words(&["model_terms_required"])
            .says(AUTH_ACCOUNT),
        Rule::new("groq: the model is retired", ERRORS)
            .words(&["model_decommissioned"])
            .says(NOT_FOUND),
        Rule::new("groq: the model wrote a bad tool call or bad JSON", ERRORS)
            .words(&[
                "tool_use_failed",
                "json_validate_failed",
                "output_parse_failed",
            ])
            .says(NONSENSE_REQUEST),
    ],
    last: &[
        Rule::new("groq: status 498, flex capacity", TIERS)
            .on(&[498])
            .says(BUSY_MODEL),
        Rule::new("groq: status 424, a dependency failed", ERRORS)
            .on(&[424])
            .says(DOWN),
    ],
};
