//! What it costs to classify a healthy answer: nothing is allocated.

use std::{hint::black_box, process::ExitCode};

use backstop_benches::{Case, main_with};
use backstop_core::{Classify, ClassifyStream, Verdict};
use backstop_wire::{AnswerReader, ClassifyHttp, Dialect, scan::Message};
use http::{Request, Response};

const SSE: &str = "text/event-stream; charset=utf-8";

fn response(content_type: &str) -> Response<()> {
    let response = Response::builder()
        .header("date", "Thu, 15 Jan 2026 12:00:00 GMT")
        .header("content-type", content_type)
        .header("x-ratelimit-limit-requests", "5000")
        .header("x-ratelimit-remaining-requests", "4999")
        .header("x-ratelimit-reset-requests", "12ms")
        .header("x-request-id", "req_1")
        .body(());
    response.unwrap_or_default()
}

fn reader(dialect: Dialect, response: &Response<()>) -> Option<AnswerReader> {
    let classify = ClassifyHttp::new(dialect);
    match Classify::<Request<()>, _>::on_response(&classify, &None, response) {
        Verdict::AtEnd(reader) => Some(reader),
        Verdict::Now(_) => None,
    }
}

fn head(content_type: &str, calls: u64) {
    let response = response(content_type);
    for _ in 0..calls {
        black_box(reader(Dialect::OpenAiChat, black_box(&response)));
    }
}

/// The same chunk again and again, as a long stream has it.
fn chunk(dialect: Dialect, content_type: &str, chunk: &[u8], calls: u64) {
    let mut reader = reader(dialect, &response(content_type));
    for _ in 0..calls {
        let chunk = black_box(chunk);
        black_box(reader.as_mut().map(|reader| reader.on_data(chunk)));
    }
}

fn json(calls: u64) {
    let response = response("application/json");
    for _ in 0..calls {
        let mut reader = reader(Dialect::OpenAiChat, &response);
        black_box(reader.as_mut().map(|reader| reader.on_data(JSON)));
    }
}

const OPENAI: &[u8] = br#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","service_tier":"default","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"obfuscation":"abc"}

"#;
const RESPONSES: &[u8] = br#"event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"delta":"Hello","logprobs":[],"obfuscation":"abc"}

"#;
const ANTHROPIC: &[u8] = br#"event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

"#;
const GEMINI: &[u8] = br#"data: {"candidates":[{"content":{"parts":[{"text":"Hello"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":9,"totalTokenCount":11,"promptTokensDetails":[{"modality":"TEXT","tokenCount":9}]},"modelVersion":"m"}

"#;
const COHERE: &[u8] = br#"event: content-delta
data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"Hello"}}}}

"#;
const OLLAMA: &[u8] = br#"{"model":"m","created_at":"2026-01-15T12:00:00Z","message":{"role":"assistant","content":"Hello"},"done":false}
"#;
const JSON: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":0}}}"#;

fn bedrock(calls: u64) {
    let message = Message::encode(
        &[
            (":event-type", "contentBlockDelta"),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ],
        br#"{"contentBlockIndex":0,"delta":{"text":"Hello"},"p":"abcdefgh"}"#,
    );
    let amazon = "application/vnd.amazon.eventstream";
    chunk(Dialect::BedrockConverse, amazon, &message, calls);
}

fn main() -> ExitCode {
    let case = |name, run| Case { name, run };
    main_with(
        "wire: classifying a healthy answer",
        &[
            case("head of a 200, JSON", |calls| {
                head("application/json", calls);
            }),
            case("head of a 200, stream", |calls| head(SSE, calls)),
            case("whole JSON answer, head and body", json),
            case("chunk: OpenAI chat", |calls| {
                chunk(Dialect::OpenAiChat, SSE, OPENAI, calls);
            }),
            case("chunk: OpenAI Responses", |calls| {
                chunk(Dialect::OpenAiResponses, SSE, RESPONSES, calls);
            }),
            case("chunk: Anthropic", |calls| {
                chunk(Dialect::Anthropic, SSE, ANTHROPIC, calls);
            }),
            case("chunk: Gemini", |calls| {
                chunk(Dialect::Gemini, SSE, GEMINI, calls);
            }),
            case("chunk: Cohere", |calls| {
                chunk(Dialect::Cohere, SSE, COHERE, calls);
            }),
            case("chunk: Ollama", |calls| {
                chunk(Dialect::Ollama, "application/x-ndjson", OLLAMA, calls);
            }),
            case("chunk: Bedrock ConverseStream", bedrock),
        ],
    )
}
