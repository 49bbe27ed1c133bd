//! `backstop classify`: says of recorded answers why a model did not answer.
//!
//! Only reads and prints; the verdicts are those of [`backstop_wire`].

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::ExitCode,
};

use backstop_core::{Dimension, HintSource, Kind, Outcome, Scope, Window};
use backstop_wire::{Provider, errors, record::Record};
use clap::Args;

/// What to classify, and for whom.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// JSON lines, one recorded answer each, or one HTTP response as `curl -i` prints it; `-` or
    /// nothing reads stdin.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Whose answers they are, whatever they say themselves: openai, anthropic, google, bedrock, ...
    #[arg(long, value_name = "NAME", value_parser = provider)]
    provider: Option<Provider>,
    /// Explain the verdicts to a person instead of printing JSON.
    #[arg(long)]
    explain: bool,
}

/// What the input held.
#[derive(Debug, Default)]
struct Read {
    answers: u64,
    /// Records that are none.
    broken: u64,
}

/// Prints a verdict for each answer. Fails when the input cannot be read, holds no answer, or one of
/// the records is none; the others are still classified.
pub(crate) fn run(options: &Options) -> ExitCode {
    let input: Box<dyn BufRead> = match &options.file {
        Some(path) if path.as_os_str() != "-" => match File::open(path) {
            Ok(file) => Box::new(BufReader::new(file)),
            Err(error) => {
                complain(&format!("cannot read {}: {error}", path.display()));
                return ExitCode::FAILURE;
            }
        },
        _ => Box::new(io::stdin().lock()),
    };
    match classify(input, &mut io::stdout().lock(), options) {
        Ok(Read { answers: 0, .. }) => {
            complain(
                "no answer to classify: expected one HTTP response as `curl -i` prints it, or a \
                 JSON object with `status`, `headers` and `body` on each line",
            );
            ExitCode::FAILURE
        }
        Ok(Read { broken: 0, .. }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Classifies all of the input.
fn classify(
    mut input: Box<dyn BufRead>,
    output: &mut dyn Write,
    options: &Options,
) -> io::Result<Read> {
    let mut read = Read::default();
    let mut line = Vec::new();
    let mut number = 0_u64;
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let is_response = line.starts_with(b"HTTP/");
        let record = if is_response {
            input.read_to_end(&mut line)?;
            Record::from_response(&line)
        } else {
            Record::from_json(&String::from_utf8_lossy(line.trim_ascii()))
        };
        match record {
            Ok(record) => {
                read.answers += 1;
                let record = match options.provider {
                    Some(provider) => record.with_provider(provider),
                    None => record,
                };
                let outcome = record.classify();
                if options.explain {
                    explain(&record, &outcome, output)?;
                } else {
                    writeln!(output, "{}", record.verdict(&outcome))?;
                }
            }
            Err(error) => {
                read.broken += 1;
                complain(&format!("line {number}: {error}"));
            }
        }
        if is_response {
            break;
        }
    }
    output.flush()?;
    Ok(read)
}

/// A provider that is known: with a slip in its name the verdicts would be those of no provider.
fn provider(name: &str) -> Result<Provider, String> {
    match Provider::from_name(name) {
        Provider::Unknown => {
            let names: Vec<_> = Provider::names().collect();
            Err(format!("expected one of {}", names.join(", ")))
        }
        provider => Ok(provider),
    }
}

/// The verdict in words.
fn explain(record: &Record, outcome: &Outcome, output: &mut dyn Write) -> io::Result<()> {
    let kind = outcome.kind();
    match record.id() {
        Some(id) => writeln!(output, "{id}: {kind}")?,
        None => writeln!(output, "{kind}")?,
    }
    let mut say = |what: &str, text: &str| writeln!(output, "  {what:<12} {text}");
    say("meaning", meaning(kind))?;
    say("because of", outcome.evidence())?;
    if let Some(source) = errors::source_of(outcome.evidence()) {
        say("see", source)?;
    }
    if !outcome.is_success() {
        say("concerns", concern(outcome.scope()))?;
        let wait = outcome.retry_after().map(|hint| {
            let millis = hint.delay.as_secs_f64() * 1000.0;
            format!("{millis:.0} ms, from {}", origin(hint.source))
        });
        say("wait", wait.as_deref().unwrap_or("not stated"))?;
        let yes_no = |advice| if advice { "yes" } else { "no" };
        say("fail over", yes_no(outcome.may_fail_over()))?;
        say("ask again", yes_no(outcome.may_repeat()))?;
    }
    for limit in record.headroom().iter().flat_map(|room| room.iter()) {
        let count = |count: Option<u64>| count.map_or_else(|| "?".into(), |n| n.to_string());
        let reset = limit.reset.map_or_else(String::new, |reset| {
            format!(", full again in {:.3} s", reset.as_secs_f64())
        });
        let text = format!(
            "{} of {} {}{}{reset}",
            count(limit.remaining),
            count(limit.limit),
            unit(limit.dimension),
            period(limit.window),
        );
        say("left", &text)?;
    }
    writeln!(output)
}

fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Success => "a complete answer",
        Kind::Throttled => "a rate limit: the same request succeeds later",
        Kind::QuotaExhausted => "a quota, credit or budget is spent: waiting seconds does not help",
        Kind::Overloaded => "the provider lacks capacity",
        Kind::Unavailable | Kind::NotProcessed => "the provider failed",
        Kind::TimedOut(_) => "it took too long",
        Kind::Unauthorized => "the credential is refused or lacks the right",
        Kind::NotFound => "no such model, deployment or path",
        Kind::ContextTooLong => "the request does not fit the model's context window",
        Kind::ContentFiltered => "the content is refused",
        Kind::TooLarge => "the request is too large",
        Kind::Unsupported => "the target lacks a feature that the request needs",
        Kind::Rejected => "the request itself is wrong",
        Kind::Malformed => "an answer that is none",
        _ => "the caller went away",
    }
}

fn concern(scope: Scope) -> &'static str {
    match scope {
        Scope::Request => "this request only",
        Scope::Model => "this model with this credential",
        Scope::Credential => "everything that uses the credential",
        Scope::Account => "the whole account",
        _ => "the whole provider",
    }
}

fn origin(source: HintSource) -> &'static str {
    match source {
        HintSource::RetryAfterMs => "retry-after-ms",
        HintSource::RetryAfter => "retry-after",
        HintSource::Header => "a header of the provider",
        HintSource::Body => "a typed field of the body",
        HintSource::Text => "a phrase in the message",
        HintSource::Reset => "the reset of a spent limit",
        _ => "memory",
    }
}

fn unit(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Requests => "requests",
        Dimension::InputTokens => "input tokens",
        Dimension::OutputTokens => "output tokens",
        _ => "tokens",
    }
}

fn period(window: Window) -> &'static str {
    match window {
        Window::Second => " per second",
        Window::Minute => " per minute",
        Window::Hour => " per hour",
        Window::Day => " per day",
        Window::Month => " per month",
        _ => "",
    }
}

#[expect(clippy::print_stderr, reason = "this is for a person")]
fn complain(what: &str) {
    eprintln!("error: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output_of(input: &'static [u8], explain: bool) -> (String, u64) {
        let options = Options {
            file: None,
            provider: Some(Provider::Anthropic),
            explain,
        };
        let mut output = Vec::new();
        let read = classify(Box::new(input), &mut output, &options).unwrap();
        (String::from_utf8(output).unwrap(), read.broken)
    }

    #[test]
    fn a_verdict_is_one_line_of_json_and_a_broken_record_does_not_stop_the_others() {
        let input = b"{\"id\":\"a\",\"status\":529}\n\nnot a record\n{\"id\":7,\"status\":401}\n";
        let (output, broken) = output_of(input, false);
        let kinds: Vec<(serde_json::Value, String)> = output
            .lines()
            .map(|line| {
                let verdict: serde_json::Value = serde_json::from_str(line).unwrap();
                (
                    verdict["id"].clone(),
                    verdict["kind"].as_str().unwrap().into(),
                )
            })
            .collect();
        let expected = [("\"a\"", "overloaded"), ("7", "auth")]
            .map(|(id, kind)| (serde_json::from_str(id).unwrap(), kind.to_owned()));
        assert_eq!(kinds, expected);
        assert_eq!(broken, 1);
    }

    #[test]
    fn a_raw_response_is_explained() {
        let input = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2 429 \r\nretry-after: 13\r\n\
            anthropic-ratelimit-requests-limit: 50\r\n\
            anthropic-ratelimit-requests-remaining: 49\r\n\r\n\
            {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"secret\"}}";
        let (output, broken) = output_of(input, true);
        assert_eq!(broken, 0);
        for line in [
            "rate_limited",
            "  wait         13000 ms, from retry-after",
            "  left         49 of 50 requests per minute",
        ] {
            assert!(output.lines().any(|found| found == line), "{output}");
        }
        assert!(!output.contains("secret"), "{output}");
    }
}
