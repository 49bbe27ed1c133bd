//! What a request asks of a model.

use backstop_failover::guards::Needs;
use backstop_wire::request::MemberScanner;

/// What a body in OpenAI's or Anthropic's dialect needs: tools, eyes, or an answer by a schema.
///
/// Images are recognised by the names of their parts, which nothing but a string that is exactly
/// such a name can be taken for: inside a longer text quotes are escaped.
pub(crate) fn of(body: &[u8]) -> Needs {
    let mut needs = Needs::default();
    let mut scanner = MemberScanner::new(&["tools", "response_format", "output_format"]);
    if scanner.feed(body).is_err() {
        return needs;
    }
    for member in scanner.found() {
        let value = body.get(member.value.clone()).unwrap_or_default();
        match member.key {
            // An empty array, or null.
            0 if value.len() > 4 => needs = needs.tools(),
            0 => {}
            _ if holds(value, "\"json_schema\"") => needs = needs.json_schema(),
            _ => {}
        }
    }
    if ["\"image_url\"", "\"image\"", "\"input_image\""]
        .iter()
        .any(|part| holds(body, part))
    {
        needs = needs.vision();
    }
    needs
}

fn holds(text: &[u8], what: &str) -> bool {
    memchr::memmem::find(text, what.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_the_body_asks_for() {
        let none = Needs::default();
        for (body, expected) in [
            (
                r#"{"messages":[{"content":"\"image\" tools json_schema"}]}"#,
                none,
            ),
            (r#"{"tools":[],"response_format":{"type":"text"}}"#, none),
            (r#"{"tools":null}"#, none),
            (r#"{"tools":[{"type":"function"}]}"#, none.tools()),
            (
                r#"{"response_format":{"type" : "json_schema"}}"#,
                none.json_schema(),
            ),
            (
                r#"{"messages":[{"content":[{"type":"image_url"}]}]}"#,
                none.vision(),
            ),
            (
                r#"{"messages":[{"content":[{"type": "image"}]}]}"#,
                none.vision(),
            ),
            ("no JSON", none),
        ] {
            assert_eq!(of(body.as_bytes()), expected, "{body}");
        }
    }
}
