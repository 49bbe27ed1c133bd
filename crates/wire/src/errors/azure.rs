//! OpenAI models behind Azure, with or without API Management in front.

use super::rule::*;

const QUOTAS: &str = "https://learn.microsoft.com/azure/ai-services/openai/quotas-limits";
const FILTER: &str = "https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter";
const APIM: &str = "https://learn.microsoft.com/azure/api-management/quota-policy";
const NETWORK: &str =
    "https://learn.microsoft.com/azure/ai-services/cognitive-services-virtual-networks";
const DEPLOY: &str = "https://learn.microsoft.com/azure/ai-services/openai/how-to/create-resource";

const VERSIONS: &str =
    "https://learn.microsoft.com/azure/ai-services/openai/api-version-deprecation";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("azure: high demand under a 429 is capacity", QUOTAS)
            .on(&[429, 5, NONE])
            .text(&[
                "experiencing high demand",
                "system is currently experiencing",
                "no capacity",
            ])
            .says(BUSY_MODEL),
        Rule::new("azure: content management policy", FILTER)
            .on(&[4, NONE])
            .words(&["content_filter", "responsibleaipolicyviolation"])
            .says(FILTERED),
        Rule::new("azure: content management policy, by its text", FILTER)
            .on(&[4, NONE])
            .text(&["content management policy", "content filtering policies"])
            .says(FILTERED),
        Rule::new("azure: quota policy of API Management", APIM)
            .on(&[403, 429])
            .text(&[
                "out of call volume quota",
                "out of bandwidth quota",
                "quota will be replenished",
            ])
            .says(QUOTA_KEY),
        Rule::new("azure: the resource's network rules", NETWORK)
            .on(&[403])
            .text(&[
                "virtual network/firewall rules",
                "public access is disabled",
                "not from an approved private endpoint",
            ])
            .says(AUTH_ACCOUNT),
        Rule::new("azure: no such deployment", DEPLOY)
            .words(&["deploymentnotfound", "deploymentnotready", "modelnotfound"])
            .says(NOT_FOUND),
        Rule::new("azure: the operation is not served by the model", DEPLOY)
            .words(&["operationnotsupported"])
            .says(UNSUPPORTED),
        Rule::new("azure: the API version does not serve the model", VERSIONS)
            .on(&[400, 404])
            .text(&[
                "enabled only for api versions",
                "enabled only for api-versions",
            ])
            .says(UNSUPPORTED),
        Rule::new(
            "azure: limit of the subscription, not of a deployment",
            QUOTAS,
        )
        .words(&["insufficient_quota", "quotaexceeded"])
        .says(QUOTA_ACCOUNT),
    ],
    last: &[],
};
