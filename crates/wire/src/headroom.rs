//! What the headers of an answer say of the limits that are left.

use std::time::{Duration, SystemTime};

use backstop_core::{Allowance, Dimension, Headroom, Window};
use http::HeaderMap;

use crate::{Provider, hints};

/// One limit of which a header states one thing.
#[derive(Clone, Copy, Debug)]
struct Found {
    allowance: Allowance,
}

/// What a header states of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Limit,
    Remaining,
    Reset,
}

/// Reads what is left of each limit from the headers of any answer, good or bad.
///
/// Known are the `x-ratelimit-*` headers of OpenAI and those who copy them, Anthropic's
/// `anthropic-ratelimit-*`, Cohere's trial limits, and the IETF `RateLimit` and
/// `RateLimit-Policy` structured fields (draft-ietf-httpapi-ratelimit-headers) with their older
/// three-header form. Sentinels such as Azure's `-1` are left out. Gives `None` when no header
/// states a limit; nothing is allocated.
///
/// A reset that is given as a date counts from the response's own `date`; without that it is not
/// known.
///
/// ```
/// use backstop_core::{Dimension, Window};
/// use backstop_wire::{Provider, headroom};
///
/// let mut headers = http::HeaderMap::new();
/// headers.insert("x-ratelimit-limit-tokens", "18000".parse()?);
/// headers.insert("x-ratelimit-remaining-tokens", "4500".parse()?);
/// headers.insert("x-ratelimit-reset-tokens", "7.66s".parse()?);
/// let room = headroom::read(Provider::Groq, &headers).unwrap_or_default();
/// assert_eq!(room.lowest_share(), Some(0.25));
/// let tokens = room.iter().next().copied();
/// assert!(tokens.is_some_and(|t| t.dimension == Dimension::Tokens && t.window == Window::Minute));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn read(provider: Provider, headers: &HeaderMap) -> Option<Headroom> {
    read_at(provider, headers, hints::clock(headers))
}

fn read_at(provider: Provider, headers: &HeaderMap, now: Option<SystemTime>) -> Option<Headroom> {
    let mut found: [Option<Found>; Headroom::CAPACITY] = [None; Headroom::CAPACITY];
    let mut provider = Some(provider).filter(|provider| *provider != Provider::Unknown);
    for (name, value) in headers {
        let name = name.as_str();
        if !name.contains("ratelimit") && !name.starts_with("x-trial-endpoint") {
            continue;
        }
        let provider = *provider.get_or_insert_with(|| Provider::from_headers(headers));
        let Some((fact, dimension, window)) = known(provider, name) else {
            continue;
        };
        let Some(text) = value.to_str().ok().map(str::trim) else {
            continue;
        };
        state(&mut found, fact, dimension, window, text, now);
    }
    structured(headers, &mut found);
    let mut room = Headroom::default();
    for entry in found.into_iter().flatten() {
        let allowance = entry.allowance;
        if allowance.limit.is_some() || allowance.remaining.is_some() {
            room.insert(allowance);
        }
    }
    (!room.is_empty()).then_some(room)
}

/// The longest time to the reset of a limit of which nothing is left; the response is a refusal.
///
/// `now` is what the response says that the time is.
pub(crate) fn spent(headers: &HeaderMap, now: Option<SystemTime>) -> Option<Duration> {
    let spent = read_at(Provider::Unknown, headers, now)
        .iter()
        .flat_map(Headroom::iter)
        .filter(|allowance| allowance.remaining == Some(0))
        .filter_map(|allowance| allowance.reset)
        .max();
    // Anthropic's subscriptions say it in words.
    let unified = || {
        let refused = hints::text_of(headers, "anthropic-ratelimit-unified-status")
            .is_some_and(|status| status.eq_ignore_ascii_case("rejected"));
        let reset = hints::text_of(headers, "anthropic-ratelimit-unified-reset")?;
        refused.then(|| time_to_reset(reset, now)).flatten()
    };
    // Cohere and Together state the reset of the one limit that they have, and not what is left.
    let unnamed = || {
        let reset = hints::text_of(headers, "x-ratelimit-reset")?;
        let alone = !headers
            .keys()
            .any(|name| name.as_str().starts_with("x-ratelimit-remaining"));
        alone.then(|| time_to_reset(reset, now)).flatten()
    };
    spent.or_else(unified).or_else(unnamed)
}

/// Which limit a header speaks of, and what it states.
fn known(provider: Provider, name: &str) -> Option<(Fact, Dimension, Window)> {
    if let Some(rest) = name.strip_prefix("anthropic-ratelimit-") {
        let (dimension, fact) = rest.rsplit_once('-')?;
        let (dimension, _) = dimension_of(dimension)?;
        // Anthropic's limits are per minute, by its reference on rate limits.
        return Some((fact_of(fact)?, dimension, Window::Minute));
    }
    if name == "x-trial-endpoint-call-limit" || name == "x-trial-endpoint-call-remaining" {
        let fact = fact_of(name.rsplit('-').next()?)?;
        return Some((fact, Dimension::Requests, Window::Minute));
    }
    let rest = name
        .strip_prefix("x-ratelimit-")
        .or_else(|| name.strip_prefix("ratelimitbysize-"))
        .or_else(|| name.strip_prefix("ratelimit-"))?;
    let (fact, what) = match rest.split_once('-') {
        Some((fact, what)) => (fact, what),
        None => (rest, ""),
    };
    let fact = fact_of(fact)?;
    let (dimension, window) = if what.is_empty() {
        let size = name.starts_with("ratelimitbysize-");
        let dimension = if size {
            Dimension::Tokens
        } else {
            Dimension::Requests
        };
        (dimension, None)
    } else {
        dimension_of(what)?
    };
    let window = window.unwrap_or(match (provider, dimension) {
        // Groq counts requests by day and tokens by minute, by its reference on rate limits.
        (Provider::Groq, Dimension::Requests) => Window::Day,
        (Provider::Groq | Provider::OpenAi | Provider::Azure, _) => Window::Minute,
        _ => Window::Unknown,
    });
    Some((fact, dimension, window))
}

fn fact_of(word: &str) -> Option<Fact> {
    match word {
        "limit" => Some(Fact::Limit),
        "remaining" => Some(Fact::Remaining),
        "reset" => Some(Fact::Reset),
        _ => None,
    }
}

/// `requests`, `tokens`, `input-tokens`, and with a window: `requests-day`, `tokens-minute`.
fn dimension_of(words: &str) -> Option<(Dimension, Option<Window>)> {
    let (words, window) = match words.rsplit_once('-') {
        Some((first, last)) if window_of(last).is_some() => (first, window_of(last)),
        _ => (words, None),
    };
    let dimension = match words {
        "requests" | "request" | "req" => Dimension::Requests,
        "tokens" | "token" | "tokens-query" => Dimension::Tokens,
        "input-tokens" | "prompt-tokens" | "tokens-prompt" => Dimension::InputTokens,
        "output-tokens" | "completion-tokens" | "tokens-generated" => Dimension::OutputTokens,
        _ => return None,
    };
    Some((dimension, window))
}

fn window_of(word: &str) -> Option<Window> {
    match word {
        "second" => Some(Window::Second),
        "minute" => Some(Window::Minute),
        "hour" => Some(Window::Hour),
        "day" => Some(Window::Day),
        "month" => Some(Window::Month),
        _ => None,
    }
}

/// Adds one fact to the limit that it belongs to.
fn state(
    found: &mut [Option<Found>],
    fact: Fact,
    dimension: Dimension,
    window: Window,
    text: &str,
    now: Option<SystemTime>,
) {
    let same =
        |entry: &Found| entry.allowance.dimension == dimension && entry.allowance.window == window;
    let place = found
        .iter()
        .position(|entry| entry.as_ref().is_some_and(same))
        .or_else(|| found.iter().position(Option::is_none));
    let Some(entry) = place.and_then(|place| found.get_mut(place)) else {
        return;
    };
    let allowance = &mut entry
        .get_or_insert(Found {
            allowance: Allowance {
                dimension,
                window,
                limit: None,
                remaining: None,
                reset: None,
            },
        })
        .allowance;
    match fact {
        // `100, 100;w=60` and `10000;w=60` are older forms of the draft.
        Fact::Limit => allowance.limit = count(text.split([',', ';']).next().unwrap_or_default()),
        Fact::Remaining => allowance.remaining = count(text),
        Fact::Reset => allowance.reset = time_to_reset(text, now),
    }
}

/// A whole number, or a decimal one whose whole part counts.
fn count(text: &str) -> Option<u64> {
    let text = text.trim();
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|byte| byte.is_ascii_digit()) => whole,
        Some(_) => return None,
        None => text,
    };
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    whole.parse().ok()
}

/// When a limit is full again: a duration, seconds from now, a date, or an epoch in seconds or
/// milliseconds.
///
/// No reset lies more than thirty years ahead, so a number beyond a thousand million is an epoch
/// (2001 in seconds), and one beyond a million million is an epoch in milliseconds.
pub(crate) fn time_to_reset(text: &str, now: Option<SystemTime>) -> Option<Duration> {
    if let Some(value) = hints::number(text) {
        if value < 1e9 {
            return hints::seconds(value);
        }
        let epoch = if value < 1e12 {
            hints::seconds(value)?
        } else {
            hints::millis(value)?
        };
        let then = SystemTime::UNIX_EPOCH.checked_add(epoch)?;
        return Some(then.duration_since(now?).unwrap_or_default());
    }
    hints::duration(text).or_else(|| hints::until(text, now?))
}

/// The IETF structured fields: `RateLimit: "default";r=50;t=30` with
/// `RateLimit-Policy: "default";q=100;w=60`, and the older `limit=100, remaining=50, reset=30`.
fn structured(headers: &HeaderMap, found: &mut [Option<Found>]) {
    // A list may be spread over several lines (RFC 9651 section 3.1).
    for limit in texts(headers, "ratelimit") {
        if limit.starts_with("limit=") || limit.contains("remaining=") {
            for part in limit.split([',', ';']) {
                if let Some((key, value)) = part.trim().split_once('=')
                    && let Some(fact) = fact_of(key.trim())
                {
                    state(
                        found,
                        fact,
                        Dimension::Requests,
                        Window::Unknown,
                        value,
                        None,
                    );
                }
            }
            continue;
        }
        for item in items(limit) {
            let name = item_name(item);
            let policy = texts(headers, "ratelimit-policy")
                .flat_map(items)
                .find(|policy| item_name(policy) == name);
            add(found, policy_of(name, item, policy));
        }
    }
}

/// The texts of all lines of a header.
fn texts<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    lines.filter_map(|line| line.to_str().ok().map(str::trim))
}

/// The limit that an item of `RateLimit` states, with the item of `RateLimit-Policy` of that name.
fn policy_of(name: &str, item: &str, policy: Option<&str>) -> Allowance {
    let of_policy = |key| policy.and_then(|policy| parameter(policy, key));
    let window = of_policy("w")
        .and_then(count)
        .map_or(Window::Unknown, |secs| match secs {
            1 => Window::Second,
            60 => Window::Minute,
            3600 => Window::Hour,
            86_400 => Window::Day,
            2_419_200..=2_678_400 => Window::Month,
            _ => Window::Unknown,
        });
    let unit = of_policy("qu").unwrap_or(name).as_bytes();
    let named = |word: &str| {
        unit.windows(word.len())
            .any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
    };
    let dimension = if named("input") && named("token") {
        Dimension::InputTokens
    } else if named("output") && named("token") {
        Dimension::OutputTokens
    } else if named("token") {
        Dimension::Tokens
    } else {
        Dimension::Requests
    };
    Allowance {
        dimension,
        window,
        limit: of_policy("q").and_then(count),
        remaining: parameter(item, "r").and_then(count),
        reset: parameter(item, "t").and_then(|text| time_to_reset(text, None)),
    }
}

/// Adds a limit. Of two that count the same over the same time, or over times that have no name, the
/// scarcer stays: half of one and half of the other would be neither.
fn add(found: &mut [Option<Found>], allowance: Allowance) {
    let same = |known: &Allowance| {
        known.dimension == allowance.dimension && known.window == allowance.window
    };
    let known = found
        .iter()
        .position(|entry| entry.is_some_and(|found| same(&found.allowance)));
    let place = match known {
        Some(place) => found.get_mut(place),
        None => found.iter_mut().find(|entry| entry.is_none()),
    };
    if let Some(place) = place
        && place.is_none_or(|known| is_scarcer(&allowance, &known.allowance))
    {
        *place = Some(Found { allowance });
    }
}

/// Whether less is left of `one` than of `other`, as a share where both are known.
fn is_scarcer(one: &Allowance, other: &Allowance) -> bool {
    match (one.share(), other.share(), one.remaining, other.remaining) {
        (Some(one), Some(other), ..) if one < other => true,
        (Some(one), Some(other), ..) if one > other => false,
        (None, _, Some(one), Some(other)) | (_, None, Some(one), Some(other)) if one != other => {
            one < other
        }
        (_, _, Some(_), Some(_)) => one.reset > other.reset,
        (_, _, one, _) => one.is_some(),
    }
}

/// The items of a structured-field list.
fn items(list: &str) -> impl Iterator<Item = &str> {
    split(list, ',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn item_name(item: &str) -> &str {
    let name = split(item, ';').next().unwrap_or_default();
    name.trim().trim_matches('"')
}

fn parameter<'a>(item: &'a str, key: &str) -> Option<&'a str> {
    split(item, ';')
        .skip(1)
        .filter_map(|part| part.trim().split_once('='))
        .find(|(found, _)| found.trim() == key)
        .map(|(_, value)| value.trim().trim_matches('"'))
}

/// The parts of a structured field between separators that are not in a quoted string (RFC 9651
/// section 3.3.3).
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        c == separator && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    /// Dimension, window, limit, remaining and reset in milliseconds of each limit.
    type Row = (Dimension, Window, Option<u64>, Option<u64>, Option<u64>);

    fn rows(provider: Provider, pairs: &[(&'static str, &str)]) -> Vec<Row> {
        let mut rows: Vec<Row> = read(provider, &headers(pairs))
            .iter()
            .flat_map(Headroom::iter)
            .map(|limit| {
                let millis = |reset: Duration| u64::try_from(reset.as_millis()).unwrap();
                let reset = limit.reset.map(millis);
                (
                    limit.dimension,
                    limit.window,
                    limit.limit,
                    limit.remaining,
                    reset,
                )
            })
            .collect();
        rows.sort_by_key(|row| format!("{row:?}"));
        rows
    }

    use Dimension::{InputTokens, OutputTokens, Requests, Tokens};

    #[test]
    fn openai_counts_by_minute_and_groq_counts_requests_by_day() {
        let pairs = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        let of = |window| {
            [
                (Requests, window, Some(60), Some(59), Some(1000)),
                (
                    Tokens,
                    Window::Minute,
                    Some(150_000),
                    Some(149_984),
                    Some(360_000),
                ),
            ]
        };
        assert_eq!(rows(Provider::OpenAi, &pairs), of(Window::Minute));
        assert_eq!(rows(Provider::Groq, &pairs), of(Window::Day));
    }

    #[test]
    fn anthropic_has_four_dimensions_with_dates() {
        let pairs = [
            ("date", "Thu, 05 Mar 2026 10:00:00 GMT"),
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-03-05T10:00:01Z"),
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            (
                "anthropic-ratelimit-input-tokens-reset",
                "2026-03-05T11:00:13+01:00",
            ),
            ("anthropic-ratelimit-output-tokens-remaining", "8000"),
            ("anthropic-ratelimit-tokens-limit", "48000"),
        ];
        let minute = Window::Minute;
        assert_eq!(
            rows(Provider::Anthropic, &pairs),
            [
                (InputTokens, minute, Some(40_000), Some(0), Some(13_000)),
                (OutputTokens, minute, None, Some(8000), None),
                (Requests, minute, Some(50), Some(49), Some(1000)),
                (Tokens, minute, Some(48_000), None, None),
            ]
        );
        let now = hints::clock(&headers(&pairs));
        assert_eq!(spent(&headers(&pairs), now), Some(Duration::from_secs(13)));
    }

    #[test]
    fn cerebras_names_its_windows() {
        let pairs = [
            ("x-ratelimit-limit-requests-day", "1000"),
            ("x-ratelimit-remaining-requests-day", "999"),
            ("x-ratelimit-reset-requests-day", "33011.5"),
            ("x-ratelimit-limit-tokens-minute", "60000"),
            ("x-ratelimit-remaining-tokens-minute", "0"),
            ("x-ratelimit-reset-tokens-minute", "11.25"),
        ];
        assert_eq!(
            rows(Provider::Unknown, &pairs),
            [
                (
                    Requests,
                    Window::Day,
                    Some(1000),
                    Some(999),
                    Some(33_011_500)
                ),
                (Tokens, Window::Minute, Some(60_000), Some(0), Some(11_250)),
            ]
        );
    }

    #[test]
    fn every_family_states_its_limits_in_its_own_way() {
        let date = ("date", "Thu, 05 Mar 2026 10:00:00 GMT");
        let (minute, unknown) = (Window::Minute, Window::Unknown);
        for (provider, pairs, expected) in [
            // Sentinels stand for what Azure does not know.
            (
                Provider::Azure,
                &[
                    ("x-ratelimit-remaining-requests", "-1"),
                    ("x-ratelimit-remaining-tokens", "119000"),
                    ("x-ratelimit-limit-tokens", "120000"),
                    ("x-ratelimit-reset-tokens", "37"),
                ][..],
                vec![(Tokens, minute, Some(120_000), Some(119_000), Some(37_000))],
            ),
            (
                Provider::Mistral,
                &[
                    ("ratelimitbysize-limit", "500000"),
                    ("ratelimitbysize-remaining", "499000"),
                    ("ratelimitbysize-reset", "12"),
                    ("ratelimitbysize-query-cost", "7"),
                    ("x-ratelimit-limit-req-minute", "60"),
                    ("x-ratelimit-remaining-req-minute", "59"),
                    ("x-ratelimit-limit-tokens-month", "1000000000"),
                    ("x-ratelimit-remaining-tokens-month", "999999999"),
                ],
                vec![
                    (Requests, minute, Some(60), Some(59), None),
                    (
                        Tokens,
                        Window::Month,
                        Some(1_000_000_000),
                        Some(999_999_999),
                        None,
                    ),
                    (Tokens, unknown, Some(500_000), Some(499_000), Some(12_000)),
                ],
            ),
            (
                Provider::Cohere,
                &[
                    ("x-trial-endpoint-call-limit", "40"),
                    ("x-trial-endpoint-call-remaining", "39"),
                    ("x-endpoint-monthly-call-limit", "1000"),
                ],
                vec![(Requests, minute, Some(40), Some(39), None)],
            ),
            (
                Provider::Together,
                &[
                    ("x-ratelimit-limit", "10"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "3"),
                ],
                vec![(Requests, unknown, Some(10), Some(0), Some(3000))],
            ),
            (
                Provider::Fireworks,
                &[
                    ("x-ratelimit-limit-requests", "600"),
                    ("x-ratelimit-remaining-requests", "599"),
                    ("x-ratelimit-limit-tokens-prompt", "60000"),
                    ("x-ratelimit-remaining-tokens-prompt", "59000"),
                    ("x-ratelimit-limit-tokens-generated", "6000"),
                    ("x-ratelimit-remaining-tokens-generated", "5900"),
                    ("x-ratelimit-over-limit", "no"),
                ],
                vec![
                    (InputTokens, unknown, Some(60_000), Some(59_000), None),
                    (OutputTokens, unknown, Some(6000), Some(5900), None),
                    (Requests, unknown, Some(600), Some(599), None),
                ],
            ),
            (
                Provider::Xai,
                &[
                    ("x-ratelimit-limit-requests", "480"),
                    ("x-ratelimit-remaining-requests", "479"),
                    ("x-ratelimit-limit-tokens", "2000000"),
                    ("x-ratelimit-remaining-tokens", "1999000"),
                ],
                vec![
                    (Requests, unknown, Some(480), Some(479), None),
                    (Tokens, unknown, Some(2_000_000), Some(1_999_000), None),
                ],
            ),
            // Milliseconds since the epoch.
            (
                Provider::OpenRouter,
                &[
                    date,
                    ("x-ratelimit-limit", "20"),
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "1772704845000"),
                ],
                vec![(Requests, unknown, Some(20), Some(0), Some(45_000))],
            ),
            (
                Provider::LiteLlm,
                &[
                    ("x-ratelimit-limit-requests", "100"),
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-limit-tokens", "1000"),
                    ("x-ratelimit-remaining-tokens", "900"),
                ],
                vec![
                    (Requests, unknown, Some(100), Some(0), None),
                    (Tokens, unknown, Some(1000), Some(900), None),
                ],
            ),
            // Subscriptions speak of a share, not of a number.
            (
                Provider::Anthropic,
                &[
                    date,
                    ("anthropic-ratelimit-unified-status", "allowed"),
                    ("anthropic-ratelimit-unified-reset", "1772704845"),
                ],
                vec![],
            ),
            // These have no such headers.
            (Provider::Google, &[date], vec![]),
            (
                Provider::Bedrock,
                &[("x-amzn-requestid", "0"), ("x-amz-retry-after", "7")],
                vec![],
            ),
            (Provider::DeepSeek, &[date], vec![]),
            (Provider::Nvidia, &[("nvcf-status", "fulfilled")], vec![]),
        ] {
            assert_eq!(rows(provider, pairs), expected, "{provider:?}");
        }
    }

    #[test]
    fn names_that_copies_of_openais_headers_have() {
        let unknown = Window::Unknown;
        for (name, dimension, window) in [
            ("x-ratelimit-remaining-prompt-tokens", InputTokens, unknown),
            (
                "x-ratelimit-remaining-completion-tokens",
                OutputTokens,
                unknown,
            ),
            (
                "x-ratelimit-remaining-requests-hour",
                Requests,
                Window::Hour,
            ),
        ] {
            let expected = [(dimension, window, None, Some(3), None)];
            assert_eq!(rows(Provider::Unknown, &[(name, "3")]), expected, "{name}");
        }
    }

    #[test]
    fn a_subscription_of_anthropics_that_is_spent_waits_for_its_reset() {
        let pairs = |status| {
            headers(&[
                ("date", "Thu, 05 Mar 2026 10:00:00 GMT"),
                ("anthropic-ratelimit-unified-status", status),
                ("anthropic-ratelimit-unified-reset", "1772704845"),
            ])
        };
        let wait = |status| spent(&pairs(status), hints::clock(&pairs(status)));
        assert_eq!(wait("rejected"), Some(Duration::from_secs(45)));
        assert_eq!(wait("allowed"), None);
    }

    #[test]
    fn the_fields_of_the_ietf_in_all_their_drafts() {
        let unknown = Window::Unknown;
        for (pairs, expected) in [
            (
                &[
                    ("ratelimit", "\"burst\";r=5;t=1, \"daily\";r=50;t=3600"),
                    (
                        "ratelimit-policy",
                        "\"burst\";q=10;w=60,\"daily\";q=100;w=86400",
                    ),
                ][..],
                vec![
                    (Requests, Window::Day, Some(100), Some(50), Some(3_600_000)),
                    (Requests, Window::Minute, Some(10), Some(5), Some(1000)),
                ],
            ),
            (
                &[
                    ("ratelimit", "tokens;r=7"),
                    ("ratelimit-policy", "tokens;q=9;w=1;qu=\"output-tokens\""),
                ],
                vec![(OutputTokens, Window::Second, Some(9), Some(7), None)],
            ),
            (
                &[("ratelimit", "limit=10, remaining=3, reset=4")],
                vec![(Requests, unknown, Some(10), Some(3), Some(4000))],
            ),
            (
                &[("ratelimit", "remaining=3, limit=10")],
                vec![(Requests, unknown, Some(10), Some(3), None)],
            ),
            (
                &[
                    ("ratelimit", "input-tokens;r=7, month;r=8"),
                    ("ratelimit-policy", "input-tokens;w=3600, month;w=2592000"),
                ],
                vec![
                    (InputTokens, Window::Hour, None, Some(7), None),
                    (Requests, Window::Month, None, Some(8), None),
                ],
            ),
            (
                &[
                    ("ratelimit-limit", "10, 10;w=60"),
                    ("ratelimit-remaining", "3"),
                    ("ratelimit-reset", "4"),
                ],
                vec![(Requests, unknown, Some(10), Some(3), Some(4000))],
            ),
        ] {
            assert_eq!(rows(Provider::Unknown, pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn several_policies_are_kept_apart() {
        let unknown = Window::Unknown;
        for (pairs, expected) in [
            // A list over two lines.
            (
                &[
                    ("ratelimit", "\"burst\";r=5;t=1"),
                    ("ratelimit", "\"daily\";r=0;t=3600"),
                    ("ratelimit-policy", "\"burst\";q=10;w=60"),
                    ("ratelimit-policy", "\"daily\";q=100;w=86400"),
                ][..],
                vec![
                    (Requests, Window::Day, Some(100), Some(0), Some(3_600_000)),
                    (Requests, Window::Minute, Some(10), Some(5), Some(1000)),
                ],
            ),
            // Two windows without a name: the scarcer, and not half of each.
            (
                &[
                    ("ratelimit", "\"a\";r=0;t=10, \"b\";r=50;t=300"),
                    ("ratelimit-policy", "\"a\";q=10;w=10, \"b\";q=100;w=300"),
                ],
                vec![(Requests, unknown, Some(10), Some(0), Some(10_000))],
            ),
            (
                &[("ratelimit", "\"b\";r=50;t=300, \"a\";r=0, \"c\";t=9")],
                vec![(Requests, unknown, None, Some(0), None)],
            ),
            // Shares count, where they are known, and not what is left of them.
            (
                &[
                    ("ratelimit", "a;r=30;t=1, b;r=50;t=2"),
                    ("ratelimit-policy", "a;q=60;w=2, b;q=1000;w=3"),
                ],
                vec![(Requests, unknown, Some(1000), Some(50), Some(2000))],
            ),
            // As long as nothing is left of one, of two that are spent the later reset.
            (
                &[("ratelimit", "a;r=0;t=1, b;r=0;t=7, c;r=0;t=2")],
                vec![(Requests, unknown, None, Some(0), Some(7000))],
            ),
            // Separators in a name.
            (
                &[
                    ("ratelimit", r#""per day, \"all\"; r=9";r=7;t=4"#),
                    ("ratelimit-policy", r#""per day, \"all\"; r=9";q=9;w=86400"#),
                ],
                vec![(Requests, Window::Day, Some(9), Some(7), Some(4000))],
            ),
        ] {
            assert_eq!(rows(Provider::Unknown, pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_known() {
        for text in [
            "-1",
            "",
            "many",
            "1e400",
            "0x1",
            "1.x",
            "99999999999999999999999",
        ] {
            let pairs = [
                ("x-ratelimit-limit-tokens", text),
                ("x-ratelimit-remaining-tokens", text),
                ("x-ratelimit-reset-tokens", "0"),
            ];
            assert_eq!(rows(Provider::Azure, &pairs), [], "{text}");
        }
    }

    #[test]
    fn one_limit_that_states_its_reset_alone_is_spent() {
        let date = ("date", "Thu, 05 Mar 2026 10:00:00 GMT");
        for (reset, expected) in [
            ("1772704845", Some(45)),
            ("1772704845000", Some(45)),
            ("45", Some(45)),
            ("1772704700", Some(0)),
        ] {
            let map = headers(&[date, ("x-ratelimit-reset", reset)]);
            let wait = spent(&map, hints::clock(&map));
            assert_eq!(wait, expected.map(Duration::from_secs), "{reset}");
        }
        let left = headers(&[("x-ratelimit-reset", "45"), ("x-ratelimit-remaining", "2")]);
        assert_eq!(spent(&left, None), None);
    }
}
