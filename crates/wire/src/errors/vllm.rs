//! vLLM and SGLang.

use super::rule::*;

const VLLM: &str = "https://github.com/vllm-project/vllm (vllm/entrypoints/openai)";
const SGLANG: &str = "https://github.com/sgl-project/sglang (managers/tokenizer_manager.py)";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("vllm: prompt over the window", VLLM)
            .on(&[400, 413, 422, NONE])
            .text(&[
                "maximum context length",
                "context length is only",
                "maximum model length",
                "maximum input length",
                "longer than the model's context length",
                "exceeds the model's maximum context",
                "longer than the maximum",
            ])
            .says(CONTEXT),
        Rule::new("vllm: max_tokens below 1 for lack of room", VLLM)
            .on(&[400, 422, NONE])
            .text(&["must be at least 1, got -"])
            .says(CONTEXT),
        Rule::new("vllm: a part that the server was not started with", VLLM)
            .on(&[400, 404, 501, NONE])
            .text(&[
                "requires --",
                "to be set",
                "is not supported",
                "does not support",
                "not a multimodal model",
                // Of images, videos and the like.
                "at most 0 ",
                "(s) may be provided in one",
                "chat template",
            ])
            .says(UNSUPPORTED),
        Rule::new("vllm: a model that is not served", VLLM)
            .on(&[404, NONE])
            .words(&["notfounderror"])
            .says(NOT_FOUND),
        Rule::new("sglang: the queue is full", SGLANG)
            .on(&[503, 429, NONE])
            .text(&["queue is full"])
            .says(BUSY_PROVIDER),
        Rule::new("sglang: aborted by the server", SGLANG)
            .words(&["abort"])
            .says(DOWN),
        Rule::new("vllm: the engine is dead", VLLM)
            .on(&[5, NONE])
            .text(&[
                "enginecore",
                "engine is dead",
                "background loop",
                "enginedead",
            ])
            .says(DOWN),
    ],
    last: &[],
};
