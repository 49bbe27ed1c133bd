//! Error answers to outcomes.
//!
//! The evidence is weighed in this order, and the first that speaks decides: typed codes in the
//! body (the innermost error of a relayed one first), a provider's own header, well-known phrases
//! under a fitting status, types that only name a class, the status. Rows are in one table per
//! provider family, each beside its source.

mod anthropic;
mod bedrock;
mod embedded;
mod envelope;
mod generic;
mod google;
mod grpc;
mod openai;
mod rule;
mod whole;

use std::time::{Duration, SystemTime};

use backstop_core::{HintSource, Kind, Outcome, RetryAfter, Scope};
use http::HeaderMap;

use self::{
    envelope::{Envelope, Report, Shape},
    rule::Rule,
};
use crate::{Provider, hints, provider};

/// A whole answer that is not a stream.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Whose answer it is.
    pub provider: Provider,
    /// The HTTP status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body, or as much of it as was read.
    pub body: &'a [u8],
    /// The trailers, when there were any.
    pub trailers: Option<&'a HeaderMap>,
    /// When it arrived, for dates in an answer that has no `date` of its own. Without either, a
    /// date is no hint.
    pub received: Option<SystemTime>,
}

/// The longest `retry-after` of a rate limit for which asking the same target again is still
/// advised. Beyond two minutes OpenAI's own client gives up as well (openai-python,
/// `_should_retry`).
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The outcome that a whole answer stands for, whatever its status.
///
/// Allocates nothing for a healthy answer.
///
/// ```
/// use backstop_core::Kind;
/// use backstop_wire::{Provider, errors::{Answer, classify_answer}};
///
/// let outcome = classify_answer(&Answer {
///     provider: Provider::Unknown,
///     status: http::StatusCode::BAD_REQUEST,
///     headers: &http::HeaderMap::new(),
///     body: br#"{"error":{"message":"...","code":"context_length_exceeded"}}"#,
///     trailers: None,
///     received: None,
/// });
/// assert_eq!(outcome.kind(), Kind::ContextTooLong);
/// ```
#[must_use]
pub fn classify_answer(answer: &Answer<'_>) -> Outcome {
    if provider::is_grpc(answer.headers)
        && let Some(outcome) = grpc::classify(answer)
    {
        return outcome;
    }
    let status = answer.status.as_u16();
    if (200..300).contains(&status) {
        return match whole::judge(answer) {
            whole::Judgement::Done(outcome) => outcome,
            whole::Judgement::Error => {
                let envelope = envelope::read(None, answer.body);
                decide(
                    answer.provider,
                    answer.headers,
                    envelope,
                    0,
                    answer.received,
                )
            }
        };
    }
    let envelope = envelope::read(Some(status), answer.body);
    decide(
        answer.provider,
        answer.headers,
        envelope,
        status,
        answer.received,
    )
}

/// The outcome that an error found inside a stream stands for.
///
/// `headers` are those of the response, `event` is the event's name, where the framing has one
/// (for AWS event streams the `:exception-type`), and `payload` its data, usually JSON.
#[must_use]
pub fn classify_stream_error(
    provider: Provider,
    headers: &HeaderMap,
    event: Option<&str>,
    payload: &[u8],
) -> Outcome {
    let mut envelope = envelope::read(None, payload);
    let exception = event.filter(|name| {
        name.ends_with("Exception") || name.ends_with("exception") || provider == Provider::Bedrock
    });
    if let Some(name) = exception {
        if envelope.reports.is_empty() {
            envelope.reports.push(Report::default());
        }
        for report in &mut envelope.reports {
            report.add_word(envelope::exception_name(name));
            report.family = Provider::Bedrock;
        }
    }
    decide(provider, headers, envelope, 0, None)
}

/// Weighs the evidence. `status` is 0 inside a stream or a 200.
fn decide(
    provider: Provider,
    headers: &HeaderMap,
    mut envelope: Envelope,
    status: u16,
    received: Option<SystemTime>,
) -> Outcome {
    let provider = match provider {
        Provider::Unknown => Provider::from_headers(headers),
        known => known,
    };
    if let Some(name) = hints::text_of(headers, "x-amzn-errortype") {
        if envelope.reports.is_empty() {
            let status = Some(status).filter(|status| *status != 0);
            envelope.reports.push(Report::under(status));
        }
        if let Some(report) = envelope.reports.first_mut() {
            report.add_word(envelope::exception_name(name));
            report.family = Provider::Bedrock;
        }
    }
    let outcome = weigh(provider, headers, &envelope, status);
    with_advice(outcome, headers, &envelope, received)
}

/// The first evidence that speaks.
fn weigh(provider: Provider, headers: &HeaderMap, envelope: &Envelope, status: u16) -> Outcome {
    let innermost_first = || envelope.reports.iter().rev();
    let first = |tables: &[&'static [Rule]], report: &Report| {
        tables
            .iter()
            .flat_map(|table| table.iter())
            .find_map(|rule| rule.decide(report))
    };
    let typed = innermost_first().find_map(|report| {
        let own = family(provider);
        let shaped = family(report.family);
        first(&[own, shaped, openai::TYPED], report)
    });
    if let Some(outcome) = typed {
        return outcome;
    }
    if let Some(outcome) = by_header(headers, status) {
        return outcome;
    }
    let phrased = innermost_first().find_map(|report| first(&[generic::PHRASES], report));
    let edge = matches!(envelope.shape, Shape::Html | Shape::Text);
    if let Some(outcome) = phrased {
        // A proxy in front of the models does not know of models.
        return if edge && outcome.kind() == Kind::Throttled {
            outcome.with_scope(Scope::Account)
        } else {
            outcome
        };
    }
    let classed = innermost_first().find_map(|report| first(&[generic::CLASSES], report));
    if let Some(outcome) = classed
        && (status == 0 || outcome.kind() != Kind::Rejected)
    {
        return outcome;
    }
    let own = envelope.reports.iter().find_map(|report| report.status);
    match (status, own) {
        (0, Some(own)) => generic::by_status(own),
        (0, None) => rule::DOWN.with_evidence("an error that names no cause"),
        (429, _) if edge => rule::LIMIT_ACCOUNT.with_evidence("status 429 from the edge"),
        (status, _) => generic::by_status(status),
    }
}

/// The rows of a family.
fn family(provider: Provider) -> &'static [Rule] {
    match provider {
        Provider::Anthropic => anthropic::TYPED,
        Provider::Azure => openai::AZURE_TYPED,
        Provider::Google => google::TYPED,
        Provider::Bedrock => bedrock::TYPED,
        _ => &[],
    }
}

/// Where the row is written whose evidence an outcome names; `None` for evidence that is no row's,
/// such as a bare status.
#[must_use]
pub fn source_of(evidence: &str) -> Option<&'static str> {
    [
        anthropic::TYPED,
        openai::AZURE_TYPED,
        google::TYPED,
        bedrock::TYPED,
        openai::TYPED,
        generic::PHRASES,
        generic::CLASSES,
    ]
    .into_iter()
    .flatten()
    .find(|rule| rule.evidence() == evidence)
    .map(|rule| rule.source)
}

/// What a header alone decides.
fn by_header(headers: &HeaderMap, status: u16) -> Option<Outcome> {
    if headers.contains_key("cf-mitigated") {
        // The edge wants to see a browser: nothing to do with the key, and asking again is futile.
        return Some(
            rule::DOWN
                .with_repeat(false)
                .with_evidence("header cf-mitigated"),
        );
    }
    if status == 403 && hints::text_of(headers, "x-amz-retry-after").is_some() {
        return Some(rule::LIMIT_MODEL.with_evidence("header x-amz-retry-after"));
    }
    None
}

/// Adds the wait and the server's own advice.
fn with_advice(
    mut outcome: Outcome,
    headers: &HeaderMap,
    envelope: &Envelope,
    received: Option<SystemTime>,
) -> Outcome {
    if let Some(hint) = hint(headers, envelope, received) {
        outcome = outcome.with_retry_after(hint.delay, hint.source);
        let by_header = matches!(
            hint.source,
            HintSource::RetryAfter | HintSource::RetryAfterMs
        );
        if outcome.kind() == Kind::Throttled && by_header && hint.delay > LONGEST_WAIT {
            outcome = outcome.with_repeat(false);
        }
    }
    if let Some(advice) = envelope.reports.iter().find_map(|report| report.retryable) {
        outcome = outcome.with_repeat(advice);
    }
    match hints::should_retry(headers) {
        Some(false) => outcome.with_repeat(false),
        Some(true) if outcome.kind() != Kind::QuotaExhausted => outcome.with_repeat(true),
        _ => outcome,
    }
}

/// The wait that the answer asks for, by the order of precedence in [`hints`].
fn hint(
    headers: &HeaderMap,
    envelope: &Envelope,
    received: Option<SystemTime>,
) -> Option<RetryAfter> {
    let found = |delay, source| RetryAfter { delay, source };
    let copied = || {
        envelope
            .reports
            .iter()
            .filter_map(|report| report.headers.as_ref())
    };
    hints::from_headers(headers, received)
        .or_else(|| copied().find_map(|headers| hints::from_headers(headers, received)))
        .or_else(|| {
            let delay = envelope.reports.iter().find_map(|report| report.delay)?;
            Some(found(delay, HintSource::Body))
        })
        .or_else(|| {
            let delay = envelope
                .reports
                .iter()
                .find_map(|report| hints::from_text(&report.text))?;
            Some(found(delay, HintSource::Text))
        })
        .or_else(|| {
            let now = hints::clock(headers, received);
            let delay = hints::from_resets(headers, received)
                .or_else(|| copied().find_map(|headers| hints::from_resets(headers, now)))?;
            Some(found(delay, HintSource::Reset))
        })
}
