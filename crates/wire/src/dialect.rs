/// The API that a request and its answer speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// OpenAI chat completions, and the many who speak it.
    OpenAiChat,
    /// OpenAI Responses.
    OpenAiResponses,
    /// Anthropic Messages.
    Anthropic,
    /// Gemini `generateContent` and `streamGenerateContent`.
    Gemini,
    /// Cohere chat, version 2.
    Cohere,
    /// Ollama's own chat API.
    Ollama,
    /// AWS Bedrock `Converse` and `ConverseStream`.
    BedrockConverse,
}
