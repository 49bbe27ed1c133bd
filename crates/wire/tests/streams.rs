//! Recorded streams: the same verdict however they are cut, and some verdict for every prefix.

use std::{env, fs, io, path::PathBuf};

use backstop_core::{BoxError, ClassifyStream, End, Outcome, Progress, Step};
use backstop_wire::{AnswerReader, ClassifyHttp, Dialect};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

/// A stream as it was recorded, and what it is known to be.
struct Recorded {
    id: String,
    dialect: Dialect,
    content_type: String,
    body: Vec<u8>,
    /// Words of [`backstop_core::Kind`], the first of which is meant and the others are as good.
    kinds: Vec<String>,
    commits: Option<bool>,
    /// After how many bytes the first content has come.
    first_content: Option<usize>,
}

/// What a reader made of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    progress: Progress,
    failed: Option<Outcome>,
    outcome: Outcome,
}

impl Recorded {
    /// Reads a record of this repository, or of the corpus that some machines have beside it.
    fn new(record: &Value) -> Self {
        let text = |key: &str| record[key].as_str();
        let (provider, api) = match text("api").unwrap_or_default().split_once('/') {
            Some((provider, api)) if record["provider"].is_null() => (provider, api),
            _ => (
                text("provider").unwrap_or_default(),
                text("api").unwrap_or_default(),
            ),
        };
        let dialect = match provider {
            "anthropic" => Dialect::Anthropic,
            "gemini" => Dialect::Gemini,
            "cohere" => Dialect::Cohere,
            "bedrock" => Dialect::BedrockConverse,
            "ollama" if !api.starts_with("v1/") => Dialect::Ollama,
            _ if api.starts_with("responses") => Dialect::OpenAiResponses,
            _ => Dialect::OpenAiChat,
        };
        let default_type = match dialect {
            Dialect::Ollama => "application/x-ndjson",
            Dialect::BedrockConverse => "application/vnd.amazon.eventstream",
            _ => "text/event-stream",
        };
        let content_type = record["headers"]["content-type"].as_str();
        let expected = &record["expected"];
        let kinds = match expected["kind"].as_str() {
            Some(kind) => vec![kind.to_owned()],
            None => vec!["success".to_owned()],
        };
        let alternatives = expected["alt_kinds"].as_array().into_iter().flatten();
        Self {
            id: text("id").unwrap_or_default().to_owned(),
            dialect,
            content_type: content_type.unwrap_or(default_type).to_owned(),
            body: match text("body_b64") {
                Some(encoded) => STANDARD.decode(encoded).expect("base64"),
                None => text("body").unwrap_or_default().as_bytes().to_vec(),
            },
            kinds: kinds
                .into_iter()
                .chain(alternatives.filter_map(|kind| kind.as_str().map(str::to_owned)))
                .collect(),
            // An empty answer commits all the same, by its end.
            commits: record["content_before_error"]
                .as_bool()
                .or(record["has_content"].as_bool())
                .filter(|content| *content || expected["kind"] != "success"),
            first_content: record["event_end_byte"]
                .as_u64()
                .and_then(|bytes| usize::try_from(bytes).ok()),
        }
    }

    fn reader(&self) -> AnswerReader {
        let content_type = HeaderValue::from_str(&self.content_type).expect("a header value");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
        ClassifyHttp::new(self.dialect).reader(StatusCode::OK, &headers)
    }

    fn read<'a>(&self, chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
        let mut reader = self.reader();
        let mut merged = Step::default();
        for chunk in chunks {
            let step = reader.on_data(chunk);
            if merged.failed.is_none() {
                merged.progress = merged.progress.max(step.progress);
                merged.failed = step.failed;
            } else {
                assert_eq!(step, Step::default(), "nothing follows a failure");
            }
        }
        Seen {
            progress: merged.progress,
            failed: merged.failed,
            outcome: reader.on_end(End::Clean(None)),
        }
    }

    fn check(&self) {
        let Self { id, body, .. } = self;
        let whole = self.read([&body[..]]);
        let kind = whole.outcome.kind().as_str();
        assert!(
            self.kinds.iter().any(|expected| expected == kind),
            "{id}: {kind} for {:?}, because of {}",
            self.kinds,
            whole.outcome.evidence()
        );
        if let Some(commits) = self.commits {
            assert_eq!(
                whole.progress >= Progress::Token,
                commits,
                "{id}: {whole:?}"
            );
        }
        assert_eq!(self.read(body.chunks(1)), whole, "{id}, byte by byte");
        // A prime stride, so that cuts of every kind are met without the square of the time.
        for cut in (0..=body.len()).step_by(7) {
            let (left, right) = body.split_at(cut);
            assert_eq!(self.read([left, right]), whole, "{id} cut at {cut}");
            self.check_prefix(left);
        }
        for cut in 0..=body.len() {
            // Whatever it is, it commits no sooner than the whole does, and fails in the same way.
            let prefix = self.read([&body[..cut]]);
            assert!(prefix.progress <= whole.progress, "{id}, the first {cut}");
            assert!(
                prefix.failed.is_none() || prefix.failed == whole.failed,
                "{id}, the first {cut}"
            );
        }
        if self.first_content.is_some() {
            let mut reader = self.reader();
            let first = body
                .iter()
                .position(|byte| reader.on_data(&[*byte]).commits());
            assert_eq!(first.map(|at| at + 1), self.first_content, "{id}");
        }
    }

    /// However a prefix ends, it is a success only if the proper end was in it, and a failure stays
    /// what it was.
    fn check_prefix(&self, prefix: &[u8]) {
        let error: BoxError = io::Error::from(io::ErrorKind::ConnectionReset).into();
        for end in [End::Error(&*error), End::Dropped] {
            let mut reader = self.reader();
            let step = reader.on_data(prefix);
            let outcome = reader.on_end(end);
            match step.failed {
                Some(failed) => assert_eq!(outcome, failed, "{}", self.id),
                None => assert_eq!(
                    outcome.is_success(),
                    step.progress == Progress::End,
                    "{}: {outcome}",
                    self.id
                ),
            }
        }
    }
}

fn records(text: &str) -> impl Iterator<Item = Value> {
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).expect("a record"))
}

#[test]
fn streams_written_from_the_documentation() {
    let mut count = 0;
    for record in records(include_str!("streams.jsonl")) {
        Recorded::new(&record).check();
        count += 1;
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn streams_of_the_shared_corpus() {
    let named = env::var_os("BACKSTOP_SHARED").map(PathBuf::from);
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let above = manifest.ancestors().skip(1);
    let folder = named
        .into_iter()
        .chain(above.map(|folder| folder.join("shared")))
        .map(|folder| folder.join("wire"))
        .find(|folder| folder.is_dir());
    let Some(folder) = folder else {
        println!("no shared corpus on this machine");
        return;
    };
    let read = |name| fs::read_to_string(folder.join(name)).expect("a corpus");
    for record in records(&read("success_streams.jsonl")) {
        Recorded::new(&record).check();
    }
    for record in records(&read("failures.jsonl")) {
        if record["stream"] == true && record["status"] == 200 {
            Recorded::new(&record).check();
        }
    }
}
