//! Mistral's own API.

use super::rule::*;

const GLOSSARY: &str = "https://docs.mistral.ai/resources/error-glossary";
const LIMITS: &str = "https://docs.mistral.ai/deployment/laplateforme/tier/";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("mistral: the tier's capacity for the model", GLOSSARY)
            .on(&[429, 5, NONE])
            .text(&["service tier capacity exceeded", "tier capacity"])
            .says(BUSY_MODEL),
        Rule::new(
            "mistral: code 3051 or the text of too many tokens",
            GLOSSARY,
        )
        .words(&["3051", "invalid_request_prompt"])
        .text(&[
            "too large for model",
            "maximum context length",
            "too many tokens",
        ])
        .says(CONTEXT),
        Rule::new("mistral: code 1500, no such model", GLOSSARY)
            .words(&["1500", "invalid_model", "unknown_model"])
            .says(NOT_FOUND),
        Rule::new("mistral: a monthly limit", LIMITS)
            .on(&[402, 429])
            .text(&["per month", "monthly"])
            .says(QUOTA_ACCOUNT),
        Rule::new("mistral: limits hold for the workspace", LIMITS)
            .on(&[429])
            .says(LIMIT_ACCOUNT),
    ],
    last: &[],
};
