//! NVIDIA NIM (problem+json) and Triton.

use super::rule::*;

const NIM: &str = "https://docs.api.nvidia.com/nim/reference";
const TRITON: &str = "https://github.com/triton-inference-server/server (docs/protocol)";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("nim: the worker's own request limit", NIM)
            .on(&[429, 5, NONE])
            .text(&[
                "worker local total request limit",
                "resourceexhausted",
                "total request limit reached",
            ])
            .says(BUSY_MODEL),
        Rule::new("nim: credits are spent or expired", NIM)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        Rule::new("nim: the function is not active", NIM)
            .on(&[400, 5])
            .text(&[
                "degraded function",
                "function cannot be invoked",
                "is inactive",
            ])
            .says(DOWN_MODEL),
        Rule::new("nim: no such function", NIM)
            .on(&[404])
            .text(&["function"])
            .says(NOT_FOUND),
        Rule::new("triton: the model is not ready", TRITON)
            .on(&[400, 404, 5, NONE])
            .text(&["is not ready", "not ready"])
            .says(DOWN_MODEL),
        Rule::new("triton: no such model", TRITON)
            .on(&[400, 404, NONE])
            .text(&["unknown model", "is not found", "no version is available"])
            .says(NOT_FOUND),
        Rule::new("triton: the queue is full", TRITON)
            .on(&[429, 5, NONE])
            .text(&[
                "exceeds maximum queue size",
                "max_queue_size",
                "queue size",
                "queue is full",
            ])
            .says(BUSY_MODEL),
        Rule::new("triton: the request timed out in the queue", TRITON)
            .on(&[5, NONE])
            .text(&["request timeout expired", "timeout expired"])
            .says(SLOW_MODEL),
    ],
    last: &[],
};
