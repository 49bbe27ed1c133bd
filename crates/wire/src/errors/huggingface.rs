//! Hugging Face's router and inference, and Text Generation Inference.

use super::rule::*;

const HF: &str = "https://huggingface.co/docs/inference-providers/pricing";
const GATED: &str = "https://huggingface.co/docs/hub/models-gated";
const LIMITS: &str = "https://huggingface.co/docs/hub/rate-limits";
const TGI: &str = "https://github.com/huggingface/text-generation-inference (router/src/infer)";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("hugging face: the model is loading", HF)
            .on(&[503, NONE])
            .words(&["estimated_time"])
            .says(DOWN_MODEL),
        Rule::new("hugging face: monthly credits are spent", HF)
            .on(&[402])
            .says(QUOTA_ACCOUNT),
        Rule::new("hugging face: a gated model", GATED)
            .on(&[401, 403])
            .text(&["not in the authorized list", "gated repo"])
            .says(AUTH_MODEL),
        Rule::new("hugging face: the limit of an account or address", LIMITS)
            .on(&[429])
            .text(&["use a hf access token", "log in or use"])
            .says(LIMIT_ACCOUNT),
        Rule::new("tgi: overloaded", TGI)
            .on(&[429, 424, 5, 422, NONE])
            .words(&["overloaded"])
            .says(BUSY_PROVIDER),
        Rule::new("tgi: overloaded, by its text", TGI)
            .on(&[429, 5, NONE])
            .text(&["model is overloaded", "is too busy", "overloaded"])
            .says(BUSY_PROVIDER),
        Rule::new("tgi: tokens over the window", TGI)
            .on(&[422, 413, 400, NONE])
            .and(&["token"])
            .text(&[
                "tokens + `max_new_tokens` must be <=",
                "`inputs` must have less than",
                "must be <=",
            ])
            .says(CONTEXT),
        Rule::new("tgi: more new tokens than the server allows", TGI)
            .on(&[422, NONE])
            .and(&["inputs"])
            .text(&["must have less than"])
            .says(CONTEXT),
        Rule::new("tgi: the generation crashed", TGI)
            .words(&["generation"])
            .says(DOWN_MODEL),
        Rule::new("tgi: the generation is incomplete", TGI)
            .words(&["incomplete_generation"])
            .says(DOWN),
        Rule::new("tgi: the model was cut off", TGI)
            .on(&[5, NONE])
            .text(&["request failed during generation", "incomplete generation"])
            .says(DOWN),
        Rule::new("tgi: validation", TGI)
            .on(&[422, NONE])
            .words(&["validation"])
            .but_not(&["tokens"])
            .says(WRONG),
    ],
    last: &[Rule::new("tgi: status 424, the generation crashed", TGI)
        .on(&[424])
        .says(DOWN_MODEL)],
};

/// A server of Text Generation Inference: whoever runs it has one model, so its 429 is capacity.
pub(super) const TGI_FAMILY: Family = Family {
    rows: FAMILY.rows,
    last: &[
        Rule::new("tgi: status 429, overloaded", TGI)
            .on(&[429])
            .says(BUSY_PROVIDER),
        Rule::new("tgi: status 424, the generation crashed", TGI)
            .on(&[424])
            .says(DOWN_MODEL),
    ],
};
