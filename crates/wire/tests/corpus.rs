//! Recorded failures of many providers, judged by the library.

use std::{env, fs, path::PathBuf};

use backstop_wire::{Provider, record::Record};
use serde_json::Value;

/// How many of the records agree with what is expected of them.
#[derive(Debug, Default)]
struct Score {
    records: u32,
    kind: u32,
    kind_or_alternative: u32,
    retry_after: u32,
    scope: u32,
    failover: u32,
    same_target_retry: u32,
    wrong: Vec<String>,
}

impl Score {
    fn share(&self, agreeing: u32) -> f64 {
        f64::from(agreeing) / f64::from(self.records.max(1))
    }

    fn add(&mut self, record: &Value, verdict: &Value) {
        let expected = &record["expected"];
        let kind = verdict["kind"] == expected["kind"];
        let alternative = expected["alt_kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.contains(&verdict["kind"]));
        let retry_after = match (
            verdict["retry_after_ms"].as_i64(),
            expected["retry_after_ms"].as_i64(),
        ) {
            (Some(given), Some(wanted)) => (given - wanted).abs() <= 1,
            (given, wanted) => given == wanted,
        };
        let same = |key: &str| u32::from(verdict[key] == expected[key]);
        self.records += 1;
        self.kind += u32::from(kind);
        self.kind_or_alternative += u32::from(kind || alternative);
        self.retry_after += u32::from(retry_after);
        self.scope += same("scope");
        self.failover += same("failover");
        self.same_target_retry += same("same_target_retry");
        let all = kind
            && retry_after
            && ["scope", "failover", "same_target_retry"]
                .iter()
                .all(|key| same(key) == 1);
        if !all {
            let id = &record["id"];
            self.wrong
                .push(format!("{id}: expected {expected}, got {verdict}"));
        }
    }
}

fn score(text: &str) -> Score {
    score_as(text, |record| record)
}

fn score_as(text: &str, change: impl Fn(Record) -> Record) -> Score {
    let mut score = Score::default();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let record = change(Record::from_json(line).expect("a record"));
        let verdict = record.verdict(&record.classify());
        let line: Value = serde_json::from_str(line).expect("JSON");
        score.add(&line, &serde_json::from_str(&verdict).expect("JSON"));
    }
    score
}

/// The folder of background material, when this machine has it: `BACKSTOP_SHARED`, or `shared`
/// beside the repository or above it.
fn shared() -> Option<PathBuf> {
    let named = env::var_os("BACKSTOP_SHARED").map(PathBuf::from);
    let above = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let above = above
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("shared"));
    named
        .into_iter()
        .chain(above)
        .map(|folder| folder.join("wire"))
        .find(|folder| folder.is_dir())
}

/// The floors that the project sets itself for records that it did not write.
#[test]
fn agrees_with_the_shared_corpus() {
    let Some(folder) = shared() else {
        println!("no shared corpus on this machine");
        return;
    };
    let text = fs::read_to_string(folder.join("failures.jsonl")).expect("the corpus");
    let score = score(&text);
    println!("{score:#?}");
    assert!(score.share(score.kind) >= 0.97);
    assert!(score.share(score.kind_or_alternative) >= 0.99);
    assert!(score.share(score.retry_after) >= 0.98);
    assert!(score.share(score.scope) >= 0.95);
    assert!(score.share(score.failover) >= 0.95);
    assert!(score.share(score.same_target_retry) >= 0.95);
}

/// Whose answer it is must help, and must not be needed.
#[test]
fn an_unknown_provider_gets_a_sound_answer() {
    let Some(folder) = shared() else {
        println!("no shared corpus on this machine");
        return;
    };
    let text = fs::read_to_string(folder.join("failures.jsonl")).expect("the corpus");
    let score = score_as(&text, |record| record.with_provider(Provider::Unknown));
    println!("{score:#?}");
    assert!(score.share(score.kind) >= 0.95);
    assert!(score.share(score.retry_after) >= 0.98);
    assert!(score.share(score.scope) >= 0.90);
    assert!(score.share(score.failover) >= 0.95);
}

#[test]
fn agrees_with_its_own_corpus_in_every_field() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files = 0;
    for file in fs::read_dir(folder).expect("the corpus") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("text");
        let score = score(&text);
        assert!(score.wrong.is_empty(), "{:#?}", score.wrong);
        assert!(score.records > 0);
        files += 1;
    }
    assert!(files >= 10);
}

/// What is printed names evidence; it must not be a way out for what was said to a model.
#[test]
fn verdicts_quote_nothing() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for file in fs::read_dir(folder).expect("the corpus") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("text");
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).expect("JSON");
            let marked = line.replace("...", "a-secret");
            let verdict = Record::from_json(&marked).expect("a record");
            let verdict = verdict.verdict(&verdict.classify());
            assert!(!verdict.contains("a-secret"), "{}", record["id"]);
        }
    }
}
