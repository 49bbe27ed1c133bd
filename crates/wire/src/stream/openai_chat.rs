//! OpenAI chat completions and those who speak it: Azure, Groq, DeepSeek, Mistral, xAI, OpenRouter,
//! Together, Fireworks, TGI, vLLM, SGLang, llama.cpp, LM Studio, Ollama's `/v1`. Also the native
//! streams of TGI (`/generate_stream`) and llama.cpp (`/completion`), which have no `choices`.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat-streaming>, and per field below.

use super::{Choices, Facts, Failure, FinishReason, Mark, Silence};
use crate::{Provider, json::Value};

/// `data: [DONE]`.
pub(super) fn done(facts: &Facts) -> Mark {
    // Some servers never state a finish reason.
    Mark::end(facts.content, facts.verdict(false, Silence::IsNoAnswer))
}

pub(super) fn read(value: Value<'_>, provider: Provider, facts: &mut Facts) -> Mark {
    // Google's compatible endpoint wraps an error in an array; a string is somebody's complaint.
    if let Some(first) = value.elements().next() {
        return if first.get("error").is_some() {
            Mark::ERROR
        } else {
            Mark::FOREIGN
        };
    }
    if !value.is_object() {
        return Mark::FOREIGN;
    }
    let mut seen = Seen::default();
    let mut is_error = false;
    let (mut has_choices, mut has_message) = (false, false);
    for (key, value) in value.members() {
        match key {
            b"choices" => {
                has_choices = true;
                for choice in value.elements() {
                    is_error |= seen.choice(choice, facts);
                }
            }
            b"usage" => {
                facts
                    .usage
                    .read(value, b"prompt_tokens", b"completion_tokens");
            }
            // An object, or as a string (xAI, Ollama).
            b"error" => is_error |= !value.is_empty(),
            // Mistral, older vLLM and SGLang: flat, without an `error` key.
            b"object" | b"type" => is_error |= value.text() == Some(b"error"),
            // Groq's metadata.
            b"x_groq" => is_error |= value.get("error").is_some_and(|error| !error.is_empty()),
            // MiniMax.
            b"base_resp" => {
                let code = value.get("status_code");
                is_error |= code.is_some_and(|code| code.number() != Some(0));
            }
            // Cloudflare.
            b"success" => is_error |= value.is_false(),
            // Cerebras, FastAPI.
            b"message" | b"detail" => has_message = !value.is_empty(),
            // TGI's native stream.
            b"token" => {
                let special = value.get("special").is_some_and(Value::is_true);
                seen.content |= !special && value.get("text").is_some_and(Value::is_text);
            }
            b"generated_text" if value.text().is_some() => {
                facts.finish(FinishReason::Stop);
                facts.choice(0, true);
                seen.finished = true;
            }
            // llama.cpp's native stream.
            b"content" => seen.content |= value.is_text(),
            b"stop" if value.is_true() => {
                facts.finish(FinishReason::Stop);
                facts.choice(0, true);
                seen.finished = true;
            }
            _ => {}
        }
    }
    if is_error || (has_message && !has_choices && !seen.content && !seen.finished) {
        return Mark::content(seen.content).with(Failure::Told);
    }
    let only_one = |choices: &Choices| choices.is_one() && !documents_done(provider);
    if seen.finished && facts.choices.are_over(only_one) {
        let silence = facts.verdict(seen.content, Silence::IsNoAnswer);
        return Mark::end(seen.content, silence);
    }
    Mark::content(seen.content)
}

/// Whether the provider's reference says that a stream is terminated by `[DONE]`.
///
/// All have taken the sentence over from
/// <https://platform.openai.com/docs/api-reference/chat/create#chat-create-stream>:
/// <https://console.groq.com/docs/api-reference>, <https://docs.mistral.ai/api>,
/// <https://api-docs.deepseek.com/api/create-chat-completion>,
/// <https://docs.together.ai/reference/chat-completions-1>,
/// <https://docs.fireworks.ai/api-reference/post-chatcompletions>,
/// <https://docs.x.ai/docs/api-reference>. Others left it out for a time, such as Text Generation
/// Inference (<https://github.com/huggingface/text-generation-inference/pull/2221>).
const fn documents_done(provider: Provider) -> bool {
    matches!(
        provider,
        Provider::OpenAi
            | Provider::Azure
            | Provider::Groq
            | Provider::Mistral
            | Provider::DeepSeek
            | Provider::Together
            | Provider::Fireworks
            | Provider::Xai
    )
}

#[derive(Default)]
struct Seen {
    content: bool,
    finished: bool,
}

impl Seen {
    /// Reads one choice, and says whether it is an error.
    fn choice(&mut self, choice: Value<'_>, facts: &mut Facts) -> bool {
        let mut index = 0;
        let mut finished = false;
        let mut is_error = false;
        for (key, value) in choice.members() {
            match key {
                b"index" => index = value.number().unwrap_or(0),
                b"delta" | b"message" => self.content |= has_content(value),
                // Legacy completions.
                b"text" => self.content |= value.is_text(),
                b"finish_reason" => {
                    if let Some(reason) = value.text().filter(|reason| !reason.is_empty()) {
                        finished = true;
                        facts.finish(finish_reason(reason));
                    }
                }
                // OpenRouter.
                b"error" => is_error |= !value.is_empty(),
                _ => {}
            }
        }
        facts.choice(index, finished);
        self.finished |= finished;
        is_error
    }
}

fn has_content(delta: Value<'_>) -> bool {
    delta.members().any(|(key, value)| match key {
        // `content` is an array of parts for Mistral's reasoning models. DeepSeek and many others
        // say `reasoning_content`, OpenRouter and Groq `reasoning`.
        b"content" | b"refusal" | b"reasoning_content" | b"reasoning" => {
            value.is_text() || (value.is_array() && !value.is_empty())
        }
        b"tool_calls" | b"function_call" | b"audio" | b"images" | b"reasoning_details" => {
            !value.is_empty()
        }
        _ => false,
    })
}

pub(crate) fn finish_reason(reason: &[u8]) -> FinishReason {
    match reason {
        b"stop" | b"eos" | b"eos_token" | b"stop_sequence" | b"end_turn" => FinishReason::Stop,
        b"length" | b"max_tokens" | b"model_length" => FinishReason::Length,
        b"tool_calls" | b"function_call" | b"tool_use" => FinishReason::ToolCalls,
        // `sensitive` is Z.AI's.
        b"content_filter" | b"sensitive" => FinishReason::ContentFilter,
        b"refusal" => FinishReason::Refusal,
        // Z.AI.
        b"model_context_window_exceeded" => FinishReason::ContextWindow,
        // DeepSeek.
        b"insufficient_system_resource" => FinishReason::Overloaded,
        // OpenRouter and Mistral; Z.AI; SGLang and vLLM.
        b"error" | b"network_error" | b"abort" => FinishReason::Error,
        _ => FinishReason::Other,
    }
}
