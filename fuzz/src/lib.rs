//! What the targets have in common.

use backstop_core::{ClassifyStream, End, Outcome, Progress, Step};
use backstop_wire::{Dialect, Framing, Provider, StreamReader};

/// The dialect that a byte of the input stands for.
pub fn dialect(selector: u8) -> Dialect {
    match selector % 7 {
        0 => Dialect::OpenAiChat,
        1 => Dialect::OpenAiResponses,
        2 => Dialect::Anthropic,
        3 => Dialect::Gemini,
        4 => Dialect::Cohere,
        5 => Dialect::Ollama,
        _ => Dialect::BedrockConverse,
    }
}

/// Reads a stream in pieces, and says what it made of it.
pub fn read(
    dialect: Dialect,
    framing: Framing,
    stream: &[u8],
    size: usize,
) -> (Progress, Option<Outcome>, Outcome) {
    let mut reader = StreamReader::new(dialect, framing);
    let mut merged = Step::default();
    for chunk in stream.chunks(size) {
        let step = reader.on_data(chunk);
        if merged.failed.is_none() {
            merged.progress = merged.progress.max(step.progress);
            merged.failed = step.failed;
        } else {
            assert_eq!(step, Step::default(), "nothing follows a failure");
        }
    }
    let outcome = reader.on_end(End::Clean(None));
    if let Some(failed) = merged.failed {
        assert_eq!(outcome, failed);
    }
    (merged.progress, merged.failed, outcome)
}

/// The provider that a byte of the input stands for.
pub fn provider(selector: u8) -> Provider {
    const NAMES: [&str; 28] = [
        "unknown",
        "openai",
        "azure",
        "anthropic",
        "gemini",
        "bedrock",
        "mistral",
        "cohere",
        "groq",
        "together",
        "fireworks",
        "deepseek",
        "xai",
        "openrouter",
        "perplexity",
        "cerebras",
        "huggingface",
        "tgi",
        "vllm",
        "llamacpp",
        "ollama",
        "nvidia",
        "cloudflare",
        "litellm",
        "moonshot",
        "minimax",
        "zai",
        "grpc",
    ];
    Provider::from_name(NAMES[usize::from(selector) % NAMES.len()])
}
