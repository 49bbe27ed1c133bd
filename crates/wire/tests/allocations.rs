//! What a healthy answer costs: no allocation.

use allocation_counter::measure;
use backstop_core::{Classify, ClassifyStream, End, Progress, Verdict};
use backstop_wire::{AnswerReader, ClassifyHttp, Dialect, FinishReason, scan::Message};
use http::{Request, Response};

const SSE: &str = "text/event-stream; charset=utf-8";

/// A reader for a response with headers as providers send them.
fn reader(dialect: Dialect, content_type: &str) -> AnswerReader {
    let response = Response::builder()
        .header("date", "Thu, 15 Jan 2026 12:00:00 GMT")
        .header("content-type", content_type)
        .header("openai-processing-ms", "420")
        .header("x-ratelimit-limit-requests", "5000")
        .header("x-ratelimit-remaining-requests", "4999")
        .header("x-ratelimit-reset-requests", "12ms")
        .header("x-request-id", "req_1")
        .body(())
        .expect("a response");
    let mut reader = None;
    let head = measure(|| {
        let classify = ClassifyHttp::new(dialect);
        let verdict = Classify::<Request<()>, _>::on_response(&classify, &None, &response);
        if let Verdict::AtEnd(stream) = verdict {
            reader = Some(stream);
        }
        let headroom = Classify::<Request<()>, _>::headroom(&classify, &None, &response);
        assert!(headroom.is_some());
    });
    assert_eq!(head.count_total, 0, "the head of {content_type}");
    reader.expect("the body decides")
}

#[test]
fn a_typical_chunk_of_each_dialect() {
    let bedrock = [
        Message::encode(
            &[
                (":event-type", "contentBlockDelta"),
                (":message-type", "event"),
            ],
            br#"{"contentBlockIndex":0,"delta":{"text":"Hi \u00e9\n"},"p":"abcdefgh"}"#,
        ),
        Message::encode(
            &[(":event-type", "messageStop"), (":message-type", "event")],
            br#"{"stopReason":"end_turn"}"#,
        ),
    ]
    .concat();
    let amazon = "application/vnd.amazon.eventstream";
    let cases: [(Dialect, &str, &[u8]); 8] = [
        (
            Dialect::OpenAiChat,
            SSE,
            include_bytes!("chunks/openai_chat"),
        ),
        (
            Dialect::OpenAiResponses,
            SSE,
            include_bytes!("chunks/openai_responses"),
        ),
        (Dialect::Anthropic, SSE, include_bytes!("chunks/anthropic")),
        (Dialect::Gemini, SSE, include_bytes!("chunks/gemini")),
        (
            Dialect::Gemini,
            "application/json",
            include_bytes!("chunks/gemini_array"),
        ),
        (Dialect::Cohere, SSE, include_bytes!("chunks/cohere")),
        (
            Dialect::Ollama,
            "application/x-ndjson",
            include_bytes!("chunks/ollama"),
        ),
        (Dialect::BedrockConverse, amazon, &bedrock),
    ];
    for (dialect, content_type, chunk) in cases {
        let mut reader = reader(dialect, content_type);
        let cost = measure(|| {
            assert_eq!(reader.on_data(chunk).progress, Progress::End, "{dialect:?}");
            assert!(reader.on_end(End::Clean(None)).is_success());
        });
        assert_eq!(cost.count_total, 0, "{dialect:?}");
        assert_eq!(
            reader.finish_reason(),
            Some(FinishReason::Stop),
            "{dialect:?}"
        );
        if dialect != Dialect::BedrockConverse {
            let usage = reader.usage();
            assert_eq!(
                (usage.input_tokens, usage.output_tokens),
                (Some(9), Some(2)),
                "{dialect:?}"
            );
        }
    }
}

#[test]
fn a_whole_json_answer() {
    let body = br#"{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":[{"index":0,
        "message":{"role":"assistant","content":"Line\n\"quoted\""},"logprobs":null,
        "finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2,
        "prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":null}"#;
    let mut reader = reader(Dialect::OpenAiChat, "application/json");
    let cost = measure(|| {
        assert_eq!(reader.on_data(body).progress, Progress::End);
        assert!(reader.on_end(End::Clean(None)).is_success());
    });
    assert_eq!(cost.count_total, 0);
}
