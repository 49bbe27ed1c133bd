use http::HeaderMap;

/// The family whose error bodies and headers a response follows.
///
/// A family is chosen by configuration where it is known; otherwise it is found from the host, the
/// headers or the shape of the error body, and where nothing tells, the rules that all envelopes
/// share still give a sound answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// Not known: the generic rules of all envelopes apply.
    #[default]
    Unknown,
    /// OpenAI, chat completions and Responses.
    OpenAi,
    /// OpenAI models served by Azure, with or without API Management in front.
    Azure,
    /// Anthropic.
    Anthropic,
    /// Google: Gemini API, Vertex AI, Cloud Code.
    Google,
    /// AWS Bedrock.
    Bedrock,
    /// Mistral.
    Mistral,
    /// Cohere.
    Cohere,
    /// Groq.
    Groq,
    /// Together.
    Together,
    /// Fireworks.
    Fireworks,
    /// DeepSeek.
    DeepSeek,
    /// xAI.
    Xai,
    /// OpenRouter.
    OpenRouter,
    /// Perplexity.
    Perplexity,
    /// Cerebras.
    Cerebras,
    /// Hugging Face's hosted inference.
    HuggingFace,
    /// Text Generation Inference.
    Tgi,
    /// vLLM and SGLang.
    Vllm,
    /// llama.cpp's server and LM Studio.
    LlamaCpp,
    /// Ollama, local and cloud.
    Ollama,
    /// NVIDIA NIM and Triton.
    Nvidia,
    /// Cloudflare: the edge and Workers AI.
    Cloudflare,
    /// A LiteLLM proxy.
    LiteLlm,
    /// Moonshot.
    Moonshot,
    /// MiniMax.
    MiniMax,
    /// Z.AI.
    Zai,
    /// GitHub Models.
    GitHub,
    /// A model served over gRPC.
    Grpc,
}

/// Names by which configurations and records call a family, in lower case without separators.
const NAMES: &[(&str, Provider)] = &[
    ("openai", Provider::OpenAi),
    ("azure", Provider::Azure),
    ("azureopenai", Provider::Azure),
    ("anthropic", Provider::Anthropic),
    ("claude", Provider::Anthropic),
    ("google", Provider::Google),
    ("gemini", Provider::Google),
    ("vertex", Provider::Google),
    ("vertexai", Provider::Google),
    ("cloudcode", Provider::Google),
    ("bedrock", Provider::Bedrock),
    ("aws", Provider::Bedrock),
    ("awsbedrock", Provider::Bedrock),
    ("mistral", Provider::Mistral),
    ("cohere", Provider::Cohere),
    ("groq", Provider::Groq),
    ("together", Provider::Together),
    ("togetherai", Provider::Together),
    ("fireworks", Provider::Fireworks),
    ("fireworksai", Provider::Fireworks),
    ("deepseek", Provider::DeepSeek),
    ("xai", Provider::Xai),
    ("openrouter", Provider::OpenRouter),
    ("perplexity", Provider::Perplexity),
    ("cerebras", Provider::Cerebras),
    ("huggingface", Provider::HuggingFace),
    ("hf", Provider::HuggingFace),
    ("tgi", Provider::Tgi),
    ("vllm", Provider::Vllm),
    ("sglang", Provider::Vllm),
    ("llamacpp", Provider::LlamaCpp),
    ("lmstudio", Provider::LlamaCpp),
    ("ollama", Provider::Ollama),
    ("nvidia", Provider::Nvidia),
    ("nvidianim", Provider::Nvidia),
    ("nim", Provider::Nvidia),
    ("triton", Provider::Nvidia),
    ("cloudflare", Provider::Cloudflare),
    ("cloudflareworkersai", Provider::Cloudflare),
    ("workersai", Provider::Cloudflare),
    ("litellm", Provider::LiteLlm),
    ("moonshot", Provider::Moonshot),
    ("kimi", Provider::Moonshot),
    ("minimax", Provider::MiniMax),
    ("zai", Provider::Zai),
    ("zhipu", Provider::Zai),
    ("bigmodel", Provider::Zai),
    ("github", Provider::GitHub),
    ("githubmodels", Provider::GitHub),
    ("grpc", Provider::Grpc),
];

/// Host names, or the ends of them, by the providers' public API references.
const HOSTS: &[(&str, Provider)] = &[
    ("api.openai.com", Provider::OpenAi),
    ("openai.azure.com", Provider::Azure),
    ("cognitiveservices.azure.com", Provider::Azure),
    ("services.ai.azure.com", Provider::Azure),
    ("azure-api.net", Provider::Azure),
    ("api.anthropic.com", Provider::Anthropic),
    ("generativelanguage.googleapis.com", Provider::Google),
    ("aiplatform.googleapis.com", Provider::Google),
    ("cloudcode-pa.googleapis.com", Provider::Google),
    ("api.mistral.ai", Provider::Mistral),
    ("codestral.mistral.ai", Provider::Mistral),
    ("api.cohere.com", Provider::Cohere),
    ("api.cohere.ai", Provider::Cohere),
    ("api.groq.com", Provider::Groq),
    ("api.together.xyz", Provider::Together),
    ("api.together.ai", Provider::Together),
    ("api.fireworks.ai", Provider::Fireworks),
    ("api.deepseek.com", Provider::DeepSeek),
    ("api.x.ai", Provider::Xai),
    ("openrouter.ai", Provider::OpenRouter),
    ("api.perplexity.ai", Provider::Perplexity),
    ("api.cerebras.ai", Provider::Cerebras),
    ("huggingface.co", Provider::HuggingFace),
    ("huggingface.cloud", Provider::HuggingFace),
    ("integrate.api.nvidia.com", Provider::Nvidia),
    ("api.cloudflare.com", Provider::Cloudflare),
    ("ollama.com", Provider::Ollama),
    ("api.moonshot.ai", Provider::Moonshot),
    ("api.moonshot.cn", Provider::Moonshot),
    ("api.minimax.io", Provider::MiniMax),
    ("api.minimax.chat", Provider::MiniMax),
    ("api.minimaxi.com", Provider::MiniMax),
    ("api.z.ai", Provider::Zai),
    ("open.bigmodel.cn", Provider::Zai),
    ("models.github.ai", Provider::GitHub),
    ("models.inference.ai.azure.com", Provider::GitHub),
];

// === impl Provider ===

impl Provider {
    /// The family that a configuration or a record calls by this name, else
    /// [`Unknown`](Self::Unknown).
    ///
    /// Case and the separators `-`, `_`, `.` and space do not matter.
    ///
    /// ```
    /// use backstop_wire::Provider;
    ///
    /// assert_eq!(Provider::from_name("Azure-OpenAI"), Provider::Azure);
    /// assert_eq!(Provider::from_name("my own model"), Provider::Unknown);
    /// ```
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let plain = |name: &str| {
            name.bytes()
                .filter(|byte| !matches!(byte, b'-' | b'_' | b'.' | b' '))
                .map(|byte| byte.to_ascii_lowercase())
                .collect::<Vec<_>>()
        };
        let name = plain(name);
        NAMES
            .iter()
            .find(|(known, _)| known.as_bytes() == name)
            .map_or(Self::Unknown, |(_, provider)| *provider)
    }

    /// A name of each family that [`from_name`](Self::from_name) knows; some have more.
    pub fn names() -> impl Iterator<Item = &'static str> {
        // Those of one family stand together, the best known first.
        NAMES
            .chunk_by(|(_, one), (_, next)| one == next)
            .filter_map(|family| family.first().map(|(name, _)| *name))
    }

    /// The family that is reached at a host, else [`Unknown`](Self::Unknown).
    ///
    /// ```
    /// use backstop_wire::Provider;
    ///
    /// assert_eq!(Provider::from_host("api.groq.com"), Provider::Groq);
    /// let bedrock = Provider::from_host("bedrock-runtime.eu-west-1.amazonaws.com");
    /// assert_eq!(bedrock, Provider::Bedrock);
    /// assert_eq!(Provider::from_host("api.groq.com.example"), Provider::Unknown);
    /// ```
    #[must_use]
    pub fn from_host(host: &str) -> Self {
        let host = host.trim_end_matches('.');
        let host = host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(host, |(host, _)| host);
        let ends_with = |end: &str| {
            host.len() >= end.len()
                && host.is_char_boundary(host.len() - end.len())
                && host[host.len() - end.len()..].eq_ignore_ascii_case(end)
        };
        // Regional hosts put the region before the name: `europe-west4-aiplatform.googleapis.com`.
        let inside = |end: &str| {
            ends_with(end)
                && host
                    .as_bytes()
                    .get(..host.len() - end.len())
                    .is_some_and(|before| matches!(before.last(), None | Some(b'.' | b'-')))
        };
        if host.len() >= 8 && host.as_bytes()[..7].eq_ignore_ascii_case(b"bedrock") {
            return if ends_with(".amazonaws.com") || ends_with(".amazonaws.com.cn") {
                Self::Bedrock
            } else {
                Self::Unknown
            };
        }
        HOSTS
            .iter()
            .find(|(known, _)| inside(known))
            .map_or(Self::Unknown, |(_, provider)| *provider)
    }

    /// The family that the headers of a response give away, else [`Unknown`](Self::Unknown).
    ///
    /// Only headers that one family sends are looked at; a gateway that forwards a provider's
    /// headers forwards its errors as well.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        const SIGNS: &[(&str, Provider)] = &[
            ("x-amzn-errortype", Provider::Bedrock),
            ("x-amzn-bedrock-input-token-count", Provider::Bedrock),
            ("anthropic-organization-id", Provider::Anthropic),
            ("anthropic-ratelimit-requests-limit", Provider::Anthropic),
            ("anthropic-ratelimit-unified-status", Provider::Anthropic),
            ("apim-request-id", Provider::Azure),
            ("x-ms-region", Provider::Azure),
            ("openai-processing-ms", Provider::OpenAi),
            ("openai-version", Provider::OpenAi),
            ("openai-organization", Provider::OpenAi),
            ("x-groq-region", Provider::Groq),
            ("x-litellm-version", Provider::LiteLlm),
            ("x-litellm-call-id", Provider::LiteLlm),
            ("x-trial-endpoint-call-limit", Provider::Cohere),
            ("x-ratelimit-limit-requests-day", Provider::Cerebras),
            ("x-ratelimit-remaining-tokens-minute", Provider::Cerebras),
            ("grpc-status", Provider::Grpc),
        ];
        if is_grpc(headers) {
            return Self::Grpc;
        }
        // A response has fewer headers than there are signs, and this is done for each.
        let mut signs = SIGNS;
        for name in headers.keys() {
            let found = signs.iter().position(|(sign, _)| *sign == name.as_str());
            signs = found.map_or(signs, |first| &signs[..=first]);
        }
        match signs.last() {
            Some((sign, provider)) if headers.contains_key(*sign) => *provider,
            _ => Self::Unknown,
        }
    }
}

/// Whether the response is gRPC, so that its status is in the trailers.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn every_host_and_name_is_found() {
        for (host, provider) in HOSTS {
            assert_eq!(Provider::from_host(host), *provider, "{host}");
            let with_port = format!("{}:443", host.to_uppercase());
            assert_eq!(Provider::from_host(&with_port), *provider, "{host}");
            assert_eq!(
                Provider::from_host(&format!("evil{host}")),
                Provider::Unknown
            );
        }
        for (name, provider) in NAMES {
            assert_eq!(Provider::from_name(name), *provider, "{name}");
        }
        let families: Vec<_> = Provider::names().map(Provider::from_name).collect();
        for (at, provider) in families.iter().enumerate() {
            assert!(!families[..at].contains(provider), "{provider:?} twice");
        }
        assert_eq!(
            Provider::from_host("europe-west4-aiplatform.googleapis.com"),
            Provider::Google
        );
        assert_eq!(
            Provider::from_host("mine.openai.azure.com."),
            Provider::Azure
        );
        for host in ["", "bedrock", "bedrock.example", "localhost:8000", "ü"] {
            assert_eq!(Provider::from_host(host), Provider::Unknown, "{host}");
        }
    }

    #[test]
    fn headers_that_one_family_sends_give_it_away() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("retry-after", HeaderValue::from_static("1"));
        assert_eq!(Provider::from_headers(&headers), Provider::Unknown);
        headers.insert("x-groq-region", HeaderValue::from_static("eu"));
        assert_eq!(Provider::from_headers(&headers), Provider::Groq);
        headers.insert(
            "content-type",
            HeaderValue::from_static("application/grpc+proto"),
        );
        assert_eq!(Provider::from_headers(&headers), Provider::Grpc);
    }
}
