//! Error answers to outcomes.
//!
//! The evidence is weighed in this order, and the first that speaks decides: typed codes in the
//! body (the innermost error of a relayed one first), a provider's own header, well-known phrases
//! under a fitting status, types that only name a class, the status. Rows are in one table per
//! provider family, each beside its source.

mod anthropic;
mod azure;
mod bedrock;
mod cerebras;
mod cloudflare;
mod cohere;
mod deepseek;
mod embedded;
mod envelope;
mod fireworks;
mod generic;
mod github;
mod google;
mod groq;
mod grpc;
mod huggingface;
mod litellm;
mod llamacpp;
mod minimax;
mod mistral;
mod moonshot;
mod nvidia;
mod ollama;
mod openai;
mod openrouter;
mod perplexity;
mod rule;
#[cfg(test)]
mod tests;
mod together;
mod vllm;
mod whole;
mod xai;
mod zai;

use std::{fmt, time::Duration};

use backstop_core::{HintSource, Kind, Outcome, RetryAfter, Scope};
use http::HeaderMap;

use self::{
    envelope::{Envelope, Report, Shape},
    rule::{Family, Rule},
};
use crate::{Provider, headroom, hints, provider};

/// A whole answer that is not a stream. `Debug` shows no header and no byte of the body.
#[derive(Clone, Copy)]
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
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A count only: the bytes are somebody's answer, and headers carry keys.
        f.debug_struct("Answer")
            .field("provider", &self.provider)
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
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
/// });
/// assert_eq!(outcome.kind(), Kind::ContextTooLong);
/// ```
#[must_use]
pub fn classify_answer(answer: &Answer<'_>) -> Outcome {
    let by_trailers = answer
        .trailers
        .is_some_and(|trailers| trailers.contains_key("grpc-status"));
    if (by_trailers || provider::is_grpc(answer.headers))
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
                decide(answer.provider, answer.headers, envelope, 0)
            }
        };
    }
    let envelope = envelope::read(Some(status), answer.body);
    decide(answer.provider, answer.headers, envelope, status)
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
    decide(provider, headers, envelope, 0)
}

/// Weighs the evidence. `status` is 0 inside a stream or a 200.
fn decide(provider: Provider, headers: &HeaderMap, mut envelope: Envelope, status: u16) -> Outcome {
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
    if envelope.reports.is_empty() && status != 0 {
        envelope.reports.push(Report::under(Some(status)));
    }
    let outcome = weigh(provider, headers, &envelope, status);
    with_advice(outcome, headers, &envelope)
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
    let own = family(provider);
    let typed = innermost_first().find_map(|report| {
        let shaped = family(report.family);
        let outcome = first(&[own.rows, shaped.rows, openai::TYPED], report)?;
        Some(at_gateway(outcome, report))
    });
    if let Some(outcome) = typed {
        return outcome;
    }
    if let Some(outcome) = by_header(headers, status) {
        return outcome;
    }
    let phrased = innermost_first()
        .find_map(|report| Some(at_gateway(first(&[generic::PHRASES], report)?, report)));
    let edge = matches!(envelope.shape, Shape::Html | Shape::Text);
    if let Some(outcome) = phrased {
        // A proxy in front of the models does not know of models.
        return if edge && outcome.kind() == Kind::Throttled {
            outcome.with_scope(Scope::Account)
        } else {
            outcome
        };
    }
    if let Some(outcome) = innermost_first().find_map(|report| first(&[own.last], report)) {
        return outcome;
    }
    let classed = innermost_first().find_map(|report| first(&[generic::CLASSES], report));
    if let Some(outcome) = classed
        && (status == 0 || outcome.kind() != Kind::Rejected)
    {
        return outcome;
    }
    let stated = envelope.reports.iter().find_map(|report| report.status);
    match (status, stated) {
        (0, Some(stated)) => generic::by_status(stated),
        (0, None) => rule::DOWN.with_evidence("an error that names no cause"),
        (429, _) if edge => rule::LIMIT_ACCOUNT.with_evidence("status 429 from the edge"),
        (status, _) => generic::by_status(status),
    }
}

/// A gateway that relays that its own account is spent or refused says nothing of the caller's: only
/// the model is out of reach.
fn at_gateway(outcome: Outcome, report: &Report) -> Outcome {
    let of_account = matches!(outcome.kind(), Kind::QuotaExhausted | Kind::Unauthorized);
    if report.relayed && of_account {
        outcome.with_scope(Scope::Model)
    } else {
        outcome
    }
}

/// The rows of each family.
const FAMILIES: &[(Provider, Family)] = &[
    (Provider::Anthropic, anthropic::FAMILY),
    (Provider::Azure, azure::FAMILY),
    (Provider::Bedrock, bedrock::FAMILY),
    (Provider::Cerebras, cerebras::FAMILY),
    (Provider::Cloudflare, cloudflare::FAMILY),
    (Provider::Cohere, cohere::FAMILY),
    (Provider::DeepSeek, deepseek::FAMILY),
    (Provider::Fireworks, fireworks::FAMILY),
    (Provider::GitHub, github::FAMILY),
    (Provider::Google, google::FAMILY),
    (Provider::Groq, groq::FAMILY),
    (Provider::HuggingFace, huggingface::FAMILY),
    (Provider::LiteLlm, litellm::FAMILY),
    (Provider::LlamaCpp, llamacpp::FAMILY),
    (Provider::MiniMax, minimax::FAMILY),
    (Provider::Mistral, mistral::FAMILY),
    (Provider::Moonshot, moonshot::FAMILY),
    (Provider::Nvidia, nvidia::FAMILY),
    (Provider::Ollama, ollama::FAMILY),
    (Provider::OpenRouter, openrouter::FAMILY),
    (Provider::Perplexity, perplexity::FAMILY),
    (Provider::Tgi, huggingface::TGI_FAMILY),
    (Provider::Together, together::FAMILY),
    (Provider::Vllm, vllm::FAMILY),
    (Provider::Xai, xai::FAMILY),
    (Provider::Zai, zai::FAMILY),
];

/// The rows of a family; none for those that have only the shared ones.
fn family(provider: Provider) -> Family {
    const NONE: Family = Family {
        rows: &[],
        last: &[],
    };
    FAMILIES
        .iter()
        .find(|(known, _)| *known == provider)
        .map_or(NONE, |(_, family)| *family)
}

/// Where the row is written whose evidence an outcome names; `None` for evidence that is no row's,
/// such as a bare status.
#[must_use]
pub fn source_of(evidence: &str) -> Option<&'static str> {
    all_rows()
        .find(|rule| rule.evidence() == evidence)
        .map(|rule| rule.source)
}

fn all_rows() -> impl Iterator<Item = &'static Rule> {
    let families = FAMILIES
        .iter()
        .flat_map(|(_, family)| [family.rows, family.last]);
    families
        .chain([openai::TYPED, generic::PHRASES, generic::CLASSES])
        .flatten()
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
fn with_advice(mut outcome: Outcome, headers: &HeaderMap, envelope: &Envelope) -> Outcome {
    if let Some(hint) = hint(outcome.kind(), headers, envelope) {
        outcome = outcome.with_retry_after(hint.delay, hint.source);
        let by_header = matches!(
            hint.source,
            HintSource::RetryAfter | HintSource::RetryAfterMs
        );
        if outcome.kind() == Kind::Throttled && by_header && hint.delay > LONGEST_WAIT {
            outcome = outcome.with_repeat(false);
        }
    }
    let stated = || envelope.reports.iter().find_map(|report| report.retryable);
    match hints::should_retry(headers).or_else(stated) {
        Some(false) => outcome.with_repeat(false),
        Some(true) if outcome.kind() != Kind::QuotaExhausted => outcome.with_repeat(true),
        _ => outcome,
    }
}

/// The wait that the answer asks for: by header, by typed field, in words, by the reset of a spent
/// limit.
fn hint(kind: Kind, headers: &HeaderMap, envelope: &Envelope) -> Option<RetryAfter> {
    let found = |delay, source| RetryAfter { delay, source };
    let reports = || envelope.reports.iter();
    let copied = || reports().filter_map(|report| report.headers.as_ref());
    // Words of a validation error are the request's, and a limit that is spent while something
    // else is wrong is not waited for.
    let transient = matches!(
        kind,
        Kind::Throttled
            | Kind::QuotaExhausted
            | Kind::Overloaded
            | Kind::Unavailable
            | Kind::TimedOut(_)
    );
    let limited = matches!(
        kind,
        Kind::Throttled | Kind::QuotaExhausted | Kind::Overloaded
    );
    let typed = || {
        let now = hints::clock(headers);
        let until = |report: &Report| headroom::time_to_reset(report.until.as_deref()?, now);
        let delay = reports()
            .find_map(|report| report.delay)
            .or_else(|| reports().find_map(until))?;
        Some(found(delay, HintSource::Body))
    };
    let said = || {
        let delay = reports().find_map(|report| {
            hints::from_text(&report.text)
                .or_else(|| hints::from_text_until(&report.text, hints::clock(headers)?))
        })?;
        Some(found(delay, HintSource::Text))
    };
    let reset = || {
        let now = hints::clock(headers);
        let delay = headroom::spent(headers, now)
            .or_else(|| copied().find_map(|headers| headroom::spent(headers, now)))?;
        Some(found(delay, HintSource::Reset))
    };
    hints::from_headers(headers)
        .or_else(|| copied().find_map(hints::from_headers))
        .or_else(typed)
        .or_else(|| if transient { said() } else { None })
        .or_else(|| if limited { reset() } else { None })
}
