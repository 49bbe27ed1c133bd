//! Ollama, local and cloud: `error` is a string.

use super::rule::*;

const SERVER: &str = "https://github.com/ollama/ollama (server/routes.go, server/sched.go)";
const CLOUD: &str = "https://docs.ollama.com/cloud";

pub(super) const FAMILY: Family = Family {
    rows: &[
        Rule::new("ollama: too many pending requests", SERVER)
            .on(&[503, NONE])
            .text(&["maximum pending requests exceeded", "server busy"])
            .says(BUSY_PROVIDER),
        Rule::new("ollama: cloud overloaded", CLOUD)
            .on(&[429, 5, NONE])
            .text(&["overloaded"])
            .says(BUSY_PROVIDER),
        Rule::new("ollama: a usage limit of the plan", CLOUD)
            .on(&[402, 403, 429, NONE])
            .text(&["usage limit", "upgrade for higher limits", "reached your"])
            .says(QUOTA_ACCOUNT),
        Rule::new("ollama: a limit of concurrent requests", CLOUD)
            .on(&[429, NONE])
            .text(&["too many concurrent", "concurrency"])
            .says(LIMIT_ACCOUNT),
        Rule::new("ollama: more memory than there is", SERVER)
            .on(&[5, NONE])
            .text(&[
                "requires more system memory",
                "out of memory",
                "cudamalloc failed",
                "not enough memory",
                "unable to allocate",
            ])
            .says(DOWN_MODEL.with_repeat(false)),
        Rule::new("ollama: the plan lacks the model", CLOUD)
            .on(&[401, 403])
            .text(&["requires a subscription"])
            .says(AUTH_ACCOUNT),
        Rule::new("ollama: no such model", SERVER)
            .on(&[400, 404, 500, NONE])
            .text(&[
                "not found, try pulling",
                "try pulling it first",
                "file does not exist",
            ])
            .says(NOT_FOUND),
        Rule::new("ollama: no such model, by its text", SERVER)
            .on(&[404, NONE])
            .and(&["model", "not found"])
            .says(NOT_FOUND),
        Rule::new("ollama: the model lacks a feature", SERVER)
            .on(&[400, 500, 501, NONE])
            .text(&["does not support", "doesn't support"])
            .says(UNSUPPORTED),
        Rule::new("ollama: input over the window", SERVER)
            .on(&[400, 500, NONE])
            .text(&[
                "exceeds the context length",
                "exceeds maximum context length",
                "exceed the context",
                "input length exceeds",
            ])
            .says(CONTEXT),
        Rule::new("ollama: the cloud's 4xx inside a 500", CLOUD)
            .on(&[500, NONE])
            .text(&[
                "exceeds model's maximum output tokens",
                "400 bad request",
                "invalid request",
                "invalid value",
            ])
            .says(WRONG),
        Rule::new("ollama: the cloud's 401 inside a 500", CLOUD)
            .on(&[500])
            .text(&["401 unauthorized"])
            .says(AUTH_KEY),
        Rule::new("ollama: the runner died", SERVER)
            .on(&[5, NONE])
            .text(&[
                "model runner has unexpectedly stopped",
                "runner process has terminated",
                "an error was encountered while running",
            ])
            .says(DOWN),
        Rule::new("ollama: the runner did not start in time", SERVER)
            .on(&[5, NONE])
            .text(&["timed out waiting for llama runner"])
            .says(SLOW),
    ],
    last: &[],
};
