//! AWS Bedrock: exceptions of bedrock-runtime by `x-amzn-errortype`, `__type` or the frame's
//! `:exception-type`.

use super::rule::*;

const ACCESS: &str = "https://docs.aws.amazon.com/bedrock/latest/userguide/model-access.html";
const API: &str = "https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_Errors";
const COMMON: &str = "https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html";
const HELP: &str =
    "https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("bedrock: throttled, daily tokens", HELP)
            .words(&[
                "throttlingexception",
                "throttling",
                "toomanyrequestsexception",
            ])
            .text(&["per day", "daily"])
            .says(QUOTA_MODEL),
        Rule::new("bedrock: ThrottlingException", API)
            .words(&[
                "throttlingexception",
                "throttling",
                "throttledexception",
                "requestthrottledexception",
                "requestthrottled",
                "toomanyrequestsexception",
                "requestlimitexceeded",
                "bandwidthlimitexceeded",
                "limitexceededexception",
                "slowdown",
                "prioritylimitexceeded",
            ])
            .says(LIMIT_MODEL),
        Rule::new("bedrock: ModelNotReadyException", API)
            .words(&["modelnotreadyexception"])
            .says(DOWN_MODEL),
        Rule::new("bedrock: ServiceQuotaExceededException", API)
            .words(&["servicequotaexceededexception"])
            .says(QUOTA_ACCOUNT),
        Rule::new("bedrock: ModelTimeoutException", API)
            .words(&["modeltimeoutexception"])
            .says(SLOW_MODEL),
        Rule::new("bedrock: ModelErrorException over the window", HELP)
            .words(&["modelerrorexception", "modelstreamerrorexception"])
            .text(&["too long", "too many input tokens", "context"])
            .says(CONTEXT),
        Rule::new("bedrock: ModelErrorException", API)
            .words(&["modelerrorexception", "modelstreamerrorexception"])
            .says(DOWN_MODEL),
        Rule::new("bedrock: model lacks capacity", HELP)
            .words(&["serviceunavailableexception", "serviceunavailable"])
            .text(&["capacity", "too many connections", "high demand"])
            .says(BUSY_MODEL),
        Rule::new("bedrock: ServiceUnavailableException", API)
            .words(&["serviceunavailableexception", "serviceunavailable"])
            .says(DOWN),
        Rule::new("bedrock: InternalServerException", API)
            .words(&[
                "internalserverexception",
                "internalfailure",
                "internalservererror",
            ])
            .says(DOWN),
        Rule::new("bedrock: no such model or a retired one", HELP)
            .words(&["resourcenotfoundexception"])
            .says(NOT_FOUND),
        Rule::new("bedrock: model access is not granted", HELP)
            .words(&["accessdeniedexception"])
            .and(&["model"])
            .text(&["don't have access to the model", "access to the model"])
            .says(AUTH_MODEL),
        Rule::new("bedrock: the marketplace subscription is not paid", ACCESS)
            .on(&[403])
            .text(&["invalid_payment_instrument", "valid payment instrument"])
            .says(QUOTA_ACCOUNT),
        Rule::new("bedrock: AccessDeniedException", API)
            .words(&["accessdeniedexception", "accessdenied", "notauthorized"])
            .says(AUTH_KEY),
        Rule::new("bedrock: the token or signature is refused", COMMON)
            .words(&[
                "expiredtokenexception",
                "expiredtoken",
                "requestexpired",
                "unrecognizedclientexception",
                "invalidsignatureexception",
                "signaturedoesnotmatch",
                "incompletesignature",
                "incompletesignatureexception",
                "invalidclienttokenid",
                "missingauthenticationtoken",
                "missingauthenticationtokenexception",
                "unauthorizedexception",
                "optinrequired",
            ])
            .says(AUTH_KEY),
        Rule::new("bedrock: ConflictException", API)
            .words(&["conflictexception"])
            .says(CLASH),
        Rule::new("bedrock: more output tokens than the model allows", HELP)
            .words(&["validationexception", "validationerror"])
            .text(&[
                "maximum tokens you requested exceeds the model limit",
                "maximum tokens you requested exceed the model limit",
            ])
            .says(WRONG),
        Rule::new("bedrock: ValidationException over the window", HELP)
            .words(&["validationexception", "validationerror"])
            .text(&[
                "input is too long",
                "too many input tokens",
                "expected maxlength:",
                "exceeds the maximum length",
                "prompt is too long",
                "input tokens exceeds",
                "exceed context limit",
                "maximum context length",
                "exceeds the model",
                "context window",
                "context length",
            ])
            .says(CONTEXT),
        Rule::new("bedrock: the model id is not served on demand", HELP)
            .words(&["validationexception", "validationerror"])
            .text(&[
                "on-demand throughput isn't supported",
                "model identifier is invalid",
                "retry your request with the id or arn of an inference profile",
                "model id",
            ])
            .but_not(&["doesn't support", "does not support"])
            .says(NOT_FOUND),
        Rule::new("bedrock: the account may not run the operation", HELP)
            .words(&["validationexception", "validationerror"])
            .text(&["operation not allowed"])
            .says(AUTH_ACCOUNT),
        Rule::new("bedrock: the model lacks the feature", HELP)
            .words(&["validationexception", "validationerror"])
            .text(&[
                "doesn't support",
                "does not support",
                "not supported",
                "isn't supported",
            ])
            .says(UNSUPPORTED),
        Rule::new("bedrock: content is refused", HELP)
            .words(&["validationexception", "validationerror"])
            .text(&[
                "content filter",
                "content policy",
                "guardrail",
                "blocked by",
            ])
            .says(FILTERED),
        Rule::new("bedrock: ValidationException", API)
            .words(&[
                "validationexception",
                "validationerror",
                "malformedquerystring",
            ])
            .says(WRONG),
    ],
    last: &[],
};
