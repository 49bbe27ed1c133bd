//! llama.cpp's server and LM Studio.

use super::rule::*;

const SERVER: &str =
    "https://github.com/ggml-org/llama.cpp (tools/server/server.cpp, format_error_response)";
const LMS: &str = "https://github.com/lmstudio-ai/lmstudio-bug-tracker";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("llama.cpp: context size exceeded, also as 500", SERVER)
            .on(&[400, 500, NONE])
            .words(&["exceed_context_size_error"])
            .says(CONTEXT),
        Rule::new("llama.cpp: context size exceeded, by its text", SERVER)
            .on(&[400, 500, NONE])
            .text(&[
                "context size has been exceeded",
                "exceeds the available context size",
                "is too large to process",
                "context size exceeded",
                "larger than the max context size",
                "the prompt exceeds",
            ])
            .says(CONTEXT),
        Rule::new("lm studio: context overflow", LMS)
            .on(&[400, 500, NONE])
            .text(&[
                "context length",
                "context the overflows",
                "context overflow",
                "tokens to keep from the initial prompt",
            ])
            .says(CONTEXT),
        Rule::new("lm studio: the model is not loaded", LMS)
            .on(&[400, 404, NONE])
            .text(&[
                "no models loaded",
                "failed to load model",
                "model not found",
                "model unloaded",
            ])
            .says(NOT_FOUND),
        Rule::new("llama.cpp: all slots are in use", SERVER)
            .on(&[503, 429, NONE])
            .text(&["no slot available", "slot unavailable"])
            .says(BUSY_PROVIDER),
        Rule::new("llama.cpp: loading", SERVER)
            .on(&[503])
            .words(&["unavailable_error"])
            .says(DOWN),
        Rule::new("llama.cpp: not_supported_error", SERVER)
            .words(&["not_supported_error"])
            .says(UNSUPPORTED),
        Rule::new("llama.cpp: authentication_error", SERVER)
            .words(&["authentication_error"])
            .says(AUTH_KEY),
    ],
    last: &[],
};
