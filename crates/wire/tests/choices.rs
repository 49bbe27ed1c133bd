//! Answers of several choices: a stream that is cut is never taken for a whole one.

use std::num::NonZeroU32;

use backstop_core::{Classify, ClassifyStream, End, Kind, Progress, Verdict};
use backstop_wire::{ClassifyHttp, Dialect, Provider, request::RequestFacts};
use http::{Request, Response};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::json;

/// A request and the beginning of an answer to it.
struct Cut<'a> {
    classify: ClassifyHttp,
    /// The request's body, if it was read.
    request: Option<&'a str>,
    content_type: &'a str,
    answer: &'a [u8],
}

impl Cut<'_> {
    /// How far it got, and what is made of it when the connection ends there.
    fn read(&self, cuts: &[Index]) -> (Progress, Kind) {
        let mut request = Request::new(());
        if let Some(body) = self.request {
            let facts = RequestFacts::find(body.as_bytes()).expect("JSON");
            request.extensions_mut().insert(facts);
        }
        let mut response = Response::new(());
        let content_type = self.content_type.parse().expect("a header value");
        response.headers_mut().insert("content-type", content_type);
        let call = Classify::<_, Response<()>>::on_request(&self.classify, &request);
        let verdict = Classify::<Request<()>, _>::on_response(&self.classify, &call, &response);
        let mut reader = match verdict {
            Verdict::AtEnd(reader) => reader,
            Verdict::Now(_) => unreachable!("the body decides"),
        };
        let length = self.answer.len();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
        cuts.extend([0, length]);
        cuts.sort_unstable();
        let mut progress = Progress::None;
        for cut in cuts.windows(2) {
            let step = reader.on_data(&self.answer[cut[0]..cut[1]]);
            progress = progress.max(step.progress);
        }
        (progress, reader.on_end(End::Clean(None)).kind())
    }
}

/// The events of a stream.
#[derive(Clone, Debug)]
struct Script {
    choices: u32,
    events: Vec<serde_json::Value>,
}

/// The events of `choices` choices, in any order that keeps those of each.
fn script(choices: impl Strategy<Value = u32>) -> impl Strategy<Value = Script> {
    choices
        .prop_flat_map(|choices| {
            let texts = vec(0..3_usize, choices as usize);
            let order = prop_oneof![
                Just(None),
                vec(any::<Index>(), 4 * choices as usize).prop_map(Some),
            ];
            (Just(choices), texts, order)
        })
        .prop_map(|(choices, texts, order)| {
            // Each has its role or first text, and its end.
            let mut left: Vec<(usize, usize)> = texts
                .iter()
                .enumerate()
                .map(|(index, texts)| (index, texts + 2))
                .collect();
            let mut order = order.into_iter().flatten();
            let mut events = Vec::new();
            while !left.is_empty() {
                // Without an order one comes after the other.
                let next = order.next().map_or(0, |next| next.index(left.len()));
                let (index, events_left) = &mut left[next];
                *events_left -= 1;
                let (delta, reason) = match *events_left {
                    0 => (json!({}), Some("stop")),
                    _ => (json!({"content": "a"}), None),
                };
                events.push(json!({"choices": [
                    {"index": index, "delta": delta, "finish_reason": reason},
                ]}));
                if *events_left == 0 {
                    left.remove(next);
                }
            }
            Script { choices, events }
        })
}

impl Script {
    /// The first `events` events as a stream.
    fn stream(&self, events: usize) -> String {
        let events = self.events.iter().take(events);
        events.map(|event| format!("data: {event}\n\n")).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_stream_is_whole_before_all_choices_are(
        script in script(2..4_u32),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let request = json!({"model": "m", "n": script.choices}).to_string();
        for provider in [Provider::Unknown, Provider::OpenAi] {
            for events in 0..=script.events.len() {
                let answer = script.stream(events);
                let (progress, kind) = Cut {
                    classify: ClassifyHttp::new(Dialect::OpenAiChat).provider(provider),
                    request: Some(&request),
                    content_type: "text/event-stream",
                    answer: answer.as_bytes(),
                }
                .read(&cuts);
                let is_whole = events == script.events.len();
                prop_assert_eq!(kind == Kind::Success, is_whole, "after {} events", events);
                prop_assert_eq!(progress == Progress::End, is_whole);
            }
        }
    }

    #[test]
    fn where_nobody_knows_how_many_there_must_be_the_word_of_the_provider_counts(
        script in script(1..4_u32),
        cuts in vec(any::<Index>(), 0..12),
    ) {
        for events in 0..=script.events.len() {
            for done in [false, true] {
                let mut answer = script.stream(events);
                if done {
                    answer.push_str("data: [DONE]\n\n");
                }
                let read = |provider| Cut {
                    classify: ClassifyHttp::new(Dialect::OpenAiChat).provider(provider),
                    request: None,
                    content_type: "text/event-stream",
                    answer: answer.as_bytes(),
                }
                .read(&cuts);
                let has_content = events > 0;
                let (_, kind) = read(Provider::Groq);
                prop_assert_eq!(kind == Kind::Success, done && has_content);
                // A single choice that is over is believed of others, and no more than that.
                let (_, kind) = read(Provider::Unknown);
                let only_one_is_over = script.events[..events].iter().all(|event| {
                    event["choices"][0]["index"] == 0
                }) && script.events[..events].iter().any(|event| {
                    event["choices"][0]["finish_reason"] == "stop"
                });
                prop_assert_eq!(
                    kind == Kind::Success,
                    (done && has_content) || only_one_is_over
                );
            }
        }
    }

    #[test]
    fn a_gemini_array_is_whole_with_its_bracket_and_all_candidates(
        candidates in 1..4_u32,
        cuts in vec(any::<Index>(), 0..12),
    ) {
        let candidate = |index, reason: Option<&str>| json!({"candidates": [{
            "index": index,
            "content": {"parts": [{"text": "a"}]},
            "finishReason": reason,
        }]});
        let events: Vec<_> = (0..candidates)
            .flat_map(|index| [candidate(index, None), candidate(index, Some("STOP"))])
            .collect();
        let request = json!({"generationConfig": {"candidateCount": candidates}}).to_string();
        let whole = serde_json::to_string(&events).unwrap();
        let sse: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        for (content_type, answer, ends) in [
            ("application/json", &whole, whole.len()),
            // The last event counts without the empty line after it.
            ("text/event-stream", &sse, sse.len() - 2),
        ] {
            for length in 0..=answer.len() {
                let (_, kind) = Cut {
                    classify: ClassifyHttp::new(Dialect::Gemini),
                    request: Some(&request),
                    content_type,
                    answer: &answer.as_bytes()[..length],
                }
                .read(&cuts);
                prop_assert_eq!(kind == Kind::Success, length >= ends, "{} bytes", length);
            }
        }
    }
}

fn choice(index: u32, reason: Option<&str>) -> String {
    let choice = json!({"index": index, "delta": {"content": "a"}, "finish_reason": reason});
    format!("data: {}\n\n", json!({"choices": [choice]}))
}

fn read(n: Option<u32>, answer: &str) -> (Progress, Kind) {
    let classify = ClassifyHttp::new(Dialect::OpenAiChat);
    let mut reader = classify
        .reader(
            http::StatusCode::OK,
            &http::HeaderMap::from_iter([(
                http::header::CONTENT_TYPE,
                http::HeaderValue::from_static("text/event-stream"),
            )]),
        )
        .choices(n.and_then(NonZeroU32::new));
    let step = reader.on_data(answer.as_bytes());
    (step.progress, reader.on_end(End::Clean(None)).kind())
}

#[test]
fn more_choices_than_can_be_kept_account_of_end_with_done() {
    for (n, with_done_only) in [(128, false), (129, true), (5000, true)] {
        let mut answer: String = (0..n).map(|index| choice(index, Some("stop"))).collect();
        let kind = if with_done_only {
            (Progress::Token, Kind::Malformed)
        } else {
            (Progress::End, Kind::Success)
        };
        assert_eq!(read(Some(n), &answer), kind, "{n}");
        answer.push_str("data: [DONE]\n\n");
        assert_eq!(read(Some(n), &answer), (Progress::End, Kind::Success));
    }
    // 127 of 128.
    let answer: String = (0..127).map(|index| choice(index, Some("stop"))).collect();
    assert_eq!(read(Some(128), &answer), (Progress::Token, Kind::Malformed));
}

#[test]
fn a_candidate_that_cannot_be_kept_account_of_is_never_over() {
    let last = r#"{"index":0,"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}"#;
    let more = r#"{"index":200,"content":{"parts":[{"text":"b"}]}}"#;
    let cut = Cut {
        classify: ClassifyHttp::new(Dialect::Gemini),
        request: None,
        content_type: "text/event-stream",
        answer: &format!("data: {{\"candidates\":[{more},{last}]}}\n\n").into_bytes(),
    };
    assert_eq!(cut.read(&[]), (Progress::Token, Kind::Malformed));
}

#[test]
fn what_looked_like_the_end_is_none_when_another_choice_begins() {
    let first = choice(0, Some("stop"));
    assert_eq!(read(None, &first), (Progress::End, Kind::Success));
    let both = first + &choice(1, None);
    assert_eq!(read(None, &both).1, Kind::Malformed);
    let over = both + &choice(1, Some("stop"));
    assert_eq!(read(None, &over).1, Kind::Malformed, "a third may follow");
    assert_eq!(read(None, &(over + "data: [DONE]\n\n")).1, Kind::Success);
}

#[test]
fn a_server_that_gives_fewer_choices_and_says_that_it_is_done_is_believed() {
    let answer = choice(0, Some("stop")) + "data: [DONE]\n\n";
    assert_eq!(read(Some(2), &answer), (Progress::End, Kind::Success));
}

#[test]
fn native_streams_have_one_choice() {
    for answer in [
        "data: {\"token\":{\"text\":\"a\"},\"generated_text\":null}\n\n\
         data: {\"token\":{\"text\":\"b\"},\"generated_text\":\"ab\"}\n\n",
        "data: {\"content\":\"a\",\"stop\":false}\n\ndata: {\"content\":\"\",\"stop\":true}\n\n",
    ] {
        for n in [None, Some(1)] {
            assert_eq!(read(n, answer), (Progress::End, Kind::Success), "{answer}");
        }
    }
}
