//! Which whole answers are none, by the configuration's word.

use backstop_core::{Kind, Outcome};
use backstop_wire::Dialect;
use serde_json::Value;

/// What makes an answer a bad one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It says nothing and calls no tool.
    Empty,
    /// It was cut at the limit of tokens.
    Truncated,
    /// The model refused.
    Refused,
    /// It calls a tool with arguments that are not JSON.
    BadToolCall,
}

/// The outcome of a whole answer that has one of `flaws`. Streams are not judged: their beginning
/// is with the caller before their end is known.
pub(crate) fn judge(dialect: Dialect, flaws: &[Flaw], body: &[u8]) -> Option<Outcome> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let flaw = flaws.iter().find(|flaw| match dialect {
        Dialect::Anthropic => flaw.is_in_message(&answer),
        _ => flaw.is_in_completion(&answer),
    })?;
    Some(Outcome::new(Kind::Malformed).with_evidence(flaw.evidence()))
}

impl Flaw {
    /// OpenAI chat completions.
    fn is_in_completion(self, answer: &Value) -> bool {
        let choice = &answer["choices"][0];
        let message = &choice["message"];
        let calls = message["tool_calls"]
            .as_array()
            .map_or(&[][..], |calls| calls);
        match self {
            Self::Empty => calls.is_empty() && is_blank(&message["content"]),
            Self::Truncated => choice["finish_reason"] == "length",
            Self::Refused => {
                choice["finish_reason"] == "content_filter" || !is_blank(&message["refusal"])
            }
            Self::BadToolCall => calls.iter().any(|call| {
                let arguments = call["function"]["arguments"].as_str();
                let parsed = arguments.map(serde_json::from_str::<Value>);
                !matches!(parsed, Some(Ok(Value::Object(_))))
            }),
        }
    }

    /// Anthropic Messages.
    fn is_in_message(self, answer: &Value) -> bool {
        let parts = answer["content"].as_array().map_or(&[][..], |parts| parts);
        let is_call = |part: &&Value| part["type"] == "tool_use";
        match self {
            Self::Empty => {
                let says = |part: &Value| is_call(&part) || !is_blank(&part["text"]);
                !parts.iter().any(says)
            }
            Self::Truncated => answer["stop_reason"] == "max_tokens",
            Self::Refused => answer["stop_reason"] == "refusal",
            Self::BadToolCall => parts
                .iter()
                .filter(is_call)
                .any(|part| !part["input"].is_object()),
        }
    }

    const fn evidence(self) -> &'static str {
        match self {
            Self::Empty => "an empty answer",
            Self::Truncated => "an answer cut at the limit of tokens",
            Self::Refused => "a refusal in place of an answer",
            Self::BadToolCall => "a tool call whose arguments are not JSON",
        }
    }
}

fn is_blank(text: &Value) -> bool {
    text.as_str().is_none_or(|text| text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flaw_is_seen_in_both_dialects_and_nothing_else() {
        let openai = |message: &str, finish: &str| {
            format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{finish}"}}]}}"#)
        };
        let anthropic = |content: &str, stop: &str| {
            format!(r#"{{"content":[{content}],"stop_reason":"{stop}"}}"#)
        };
        let call = |arguments: &str| {
            format!(
                r#"{{"content":null,"tool_calls":[{{"function":{{"arguments":{arguments}}}}}]}}"#
            )
        };
        let said = r#"{"content":"Hello"}"#;
        let text = r#"{"type":"text","text":"Hello"}"#;
        use Dialect::{Anthropic, OpenAiChat};
        for (dialect, body, expected) in [
            (OpenAiChat, openai(said, "stop"), None),
            (
                OpenAiChat,
                openai(r#"{"content":" "}"#, "stop"),
                Some(Flaw::Empty),
            ),
            (OpenAiChat, openai(said, "length"), Some(Flaw::Truncated)),
            (
                OpenAiChat,
                openai(r#"{"content":"x","refusal":"no"}"#, "stop"),
                Some(Flaw::Refused),
            ),
            (OpenAiChat, openai(&call(r#""{}""#), "tool_calls"), None),
            (
                OpenAiChat,
                openai(&call(r#""{""#), "tool_calls"),
                Some(Flaw::BadToolCall),
            ),
            (Anthropic, anthropic(text, "end_turn"), None),
            (Anthropic, anthropic("", "end_turn"), Some(Flaw::Empty)),
            (
                Anthropic,
                anthropic(text, "max_tokens"),
                Some(Flaw::Truncated),
            ),
            (Anthropic, anthropic(text, "refusal"), Some(Flaw::Refused)),
            (
                Anthropic,
                anthropic(r#"{"type":"tool_use","input":{}}"#, "tool_use"),
                None,
            ),
            (
                Anthropic,
                anthropic(r#"{"type":"tool_use","input":"{"}"#, "tool_use"),
                Some(Flaw::BadToolCall),
            ),
        ] {
            for flaw in [
                Flaw::Empty,
                Flaw::Truncated,
                Flaw::Refused,
                Flaw::BadToolCall,
            ] {
                let judged = judge(dialect, &[flaw], body.as_bytes());
                assert_eq!(judged.is_some(), expected == Some(flaw), "{flaw:?} {body}");
            }
        }
        assert_eq!(judge(OpenAiChat, &[Flaw::Empty], b"data: {}"), None);
    }
}
