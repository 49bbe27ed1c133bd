//! The waits that providers ask for.
//!
//! A hint is what the other side said, unclamped: values of months and of zero are seen in the
//! field. What is negative, not a number, infinite, too large for a [`Duration`] or no time at all
//! is no hint. Dates are taken relative to the response's own `date`, since only that tells the
//! delay that the server meant, whatever our clock says; without it a date is no hint.

use std::time::{Duration, SystemTime};

use backstop_core::{HintSource, RetryAfter};
use http::{HeaderMap, header};

/// The wait that the headers of a failure ask for.
///
/// In order of precedence: `retry-after-ms` and `x-ms-retry-after-ms` (milliseconds),
/// `retry-after` (seconds, a duration or a date), `x-amz-retry-after` and
/// `grpc-retry-pushback-ms` (milliseconds). This is the order in which the providers' own SDKs
/// read them, where they do. The reset of a spent limit is only a hint when nothing else is, and
/// is read from [`headroom`](crate::headroom).
///
/// ```
/// use std::time::Duration;
/// use backstop_wire::hints;
///
/// let mut headers = http::HeaderMap::new();
/// headers.insert("retry-after", "1.5".parse()?);
/// let hint = hints::from_headers(&headers).map(|hint| hint.delay);
/// assert_eq!(hint, Some(Duration::from_millis(1500)));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
#[must_use]
pub fn from_headers(headers: &HeaderMap) -> Option<RetryAfter> {
    let found = |delay, source| Some(RetryAfter { delay, source });
    for name in ["retry-after-ms", "x-ms-retry-after-ms"] {
        if let Some(delay) = text_of(headers, name).and_then(|text| millis(number(text)?)) {
            return found(delay, HintSource::RetryAfterMs);
        }
    }
    if let Some(text) = text_of(headers, header::RETRY_AFTER.as_str()) {
        let now = clock(headers);
        if let Some(delay) = duration_or_seconds(text).or_else(|| until(text, now?)) {
            return found(delay, HintSource::RetryAfter);
        }
    }
    for name in ["x-amz-retry-after", "grpc-retry-pushback-ms"] {
        if let Some(delay) = text_of(headers, name).and_then(|text| millis(number(text)?)) {
            return found(delay, HintSource::Header);
        }
    }
    None
}

/// What `x-should-retry` says, the header by which OpenAI and Anthropic overrule their SDKs.
#[must_use]
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    let text = text_of(headers, "x-should-retry")?;
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The wait that a message asks for in words: "try again in 9m38.016s", "Please retry after 45
/// seconds", "Please retry in 900.2ms".
pub(crate) fn from_text(text: &str) -> Option<Duration> {
    const PHRASES: &[&str] = &[
        "try again in",
        "try again after",
        "retry after",
        "retry in",
        "retry your request after",
        "retry your request in",
        "retry request after",
        "available again in",
        "please wait",
        "wait for",
        "reset after",
        "resets in",
        "reset in",
        "replenished in",
        "retry_after",
        "retry-after",
        "retrydelay",
    ];
    let lower = text.to_ascii_lowercase();
    PHRASES
        .iter()
        .flat_map(|phrase| {
            memchr::memmem::find_iter(lower.as_bytes(), phrase.as_bytes())
                .map(|at| &lower[at + phrase.len()..])
                .take(4)
        })
        .find_map(|rest| {
            let rest = rest.trim_start_matches([' ', ':', '=', '"', '\'', '~', '(']);
            let rest = ["about ", "approximately ", "at least ", "another "]
                .iter()
                .find_map(|word| rest.strip_prefix(word))
                .unwrap_or(rest);
            leading_duration(rest).or_else(|| time_span(rest))
        })
}

/// The wait until a time that a message names: "You will regain access on 2026-02-01 at 00:00 UTC."
///
/// A time without a zone is nobody's, and no hint.
pub(crate) fn from_text_until(text: &str, now: SystemTime) -> Option<Duration> {
    const PHRASES: &[&str] = &[
        "regain access on",
        "regain access at",
        "reset at",
        "resets at",
        "reset on",
        "resets on",
    ];
    let lower = text.to_ascii_lowercase();
    PHRASES.iter().find_map(|phrase| {
        let (_, rest) = lower.split_once(phrase)?;
        let rest = rest.trim_start_matches([' ', ':']);
        let (day, rest) = rest.split_at_checked("2026-02-01".len())?;
        let rest = rest.strip_prefix(" at").unwrap_or(rest);
        let rest = rest.trim_start_matches([' ', 't']);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ':')?;
        let (time, zone) = rest.split_at(end);
        let seconds = if time.len() == "00:00".len() {
            ":00"
        } else {
            ""
        };
        let zone = zone.trim_start();
        if !(zone.starts_with("utc") || zone.starts_with("gmt") || zone.starts_with('z')) {
            return None;
        }
        until(&format!("{day}T{time}{seconds}Z"), now)
    })
}

/// A Go-style duration as a whole: `1s`, `6m0s`, `59.97ms`, `1h2m3.5s`; also words, `45 seconds`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (delay, rest) = parts(text)?;
    rest.trim().is_empty().then_some(delay)
}

/// A number of seconds, or a duration with units.
pub(crate) fn duration_or_seconds(text: &str) -> Option<Duration> {
    number(text).and_then(seconds).or_else(|| duration(text))
}

/// A finite number of seconds that is not negative and fits.
pub(crate) fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

/// A finite number of milliseconds that is not negative and fits.
pub(crate) fn millis(value: f64) -> Option<Duration> {
    seconds(value / 1000.0)
}

/// A protobuf duration: seconds and nanoseconds.
pub(crate) fn seconds_and_nanos(whole: f64, nanos: f64) -> Option<Duration> {
    seconds(whole + nanos / 1e9)
}

/// A decimal number, as the SDKs read it: with a fraction, a sign or an exponent, but none of the
/// words that floating point has. What is too large is infinite, which no wait and no count is.
pub(crate) fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b".+-eE".contains(&byte));
    if !plain {
        return None;
    }
    text.parse().ok()
}

/// The time from `now` to a date; a date in the past is no wait at all.
pub(crate) fn until(text: &str, now: SystemTime) -> Option<Duration> {
    let then = date(text.trim())?;
    Some(then.duration_since(now).unwrap_or_default())
}

/// What the response says that the time is.
pub(crate) fn clock(headers: &HeaderMap) -> Option<SystemTime> {
    date(text_of(headers, header::DATE.as_str())?)
}

/// The value of a header, when it is text.
pub(crate) fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A date in any of HTTP's three forms (RFC 9110 section 5.6.7), in RFC 3339 or, for the numeric
/// zones that some servers write, in RFC 2822.
pub(crate) fn date(text: &str) -> Option<SystemTime> {
    if let Ok(time) = httpdate::parse_http_date(text) {
        return Some(time);
    }
    let text = &text.replace("UTC", "GMT");
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.into());
    }
    static RFC2822: jiff::fmt::rfc2822::DateTimeParser = jiff::fmt::rfc2822::DateTimeParser::new();
    RFC2822.parse_timestamp(text).ok().map(SystemTime::from)
}

/// A duration at the start of a text, where at least one unit is named.
fn leading_duration(text: &str) -> Option<Duration> {
    parts(text).map(|(delay, _)| delay)
}

/// Numbers with units, summed, and what follows them.
fn parts(text: &str) -> Option<(Duration, &str)> {
    let mut rest = text;
    let mut sum: Option<Duration> = None;
    loop {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let Some(value) = number(rest[..digits].trim_end_matches('.')) else {
            break;
        };
        let after = rest[digits..].trim_start();
        let word = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let Some(unit) = unit(&after[..word]) else {
            break;
        };
        let part = seconds(value * unit)?;
        sum = Some(sum.unwrap_or_default().checked_add(part)?);
        rest = &after[word..];
        let next = rest.trim_start_matches([' ', ',']);
        let next = next.strip_prefix("and ").unwrap_or(next);
        if next.starts_with(|c: char| c.is_ascii_digit()) {
            rest = next;
        } else {
            break;
        }
    }
    sum.map(|sum| (sum, rest))
}

/// How many seconds a unit is.
fn unit(word: &str) -> Option<f64> {
    Some(match word {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

/// A .NET time span, `[d.]hh:mm:ss[.fff]`, as Azure's API Management writes it.
fn time_span(text: &str) -> Option<Duration> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
        .unwrap_or(text.len());
    let text = text[..end].trim_end_matches('.');
    let mut fields = text.split(':');
    let (hours, minutes, secs) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() {
        return None;
    }
    let (days, hours) = hours.split_once('.').unwrap_or(("0", hours));
    let (minutes, secs) = (number(minutes)?, number(secs)?);
    if minutes >= 60.0 || secs >= 60.0 {
        return None;
    }
    seconds(number(days)? * 86_400.0 + number(hours)? * 3600.0 + minutes * 60.0 + secs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn delay(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        from_headers(&headers(pairs)).map(|hint| hint.delay)
    }

    const DATE: (&str, &str) = ("date", "Fri, 27 Feb 2026 23:59:50 GMT");

    #[test]
    fn all_forms_of_a_date_count_from_the_response() {
        for date in [
            "Sat, 28 Feb 2026 00:00:20 GMT",
            "Saturday, 28-Feb-26 00:00:20 GMT",
            "Sat Feb 28 00:00:20 2026",
            "Sat, 28 Feb 2026 01:00:20 +0100",
            "Sat, 28 Feb 2026 00:00:20 UTC",
            "2026-02-28T00:00:20Z",
        ] {
            let hint = delay(&[DATE, ("retry-after", date)]);
            assert_eq!(hint, Some(Duration::from_secs(30)), "{date}");
            assert_eq!(delay(&[("retry-after", date)]), None, "{date}");
        }
    }

    #[test]
    fn a_hint_that_is_none_gives_way_to_the_next() {
        let retry_after = ("retry-after", "2");
        for broken in ["", "nan", "inf", "-1", "1e999", "soon", "1,5"] {
            let hint = delay(&[("retry-after-ms", broken), retry_after]);
            assert_eq!(hint, Some(Duration::from_secs(2)), "{broken}");
        }
        let of = |pairs: &[_]| from_headers(&headers(pairs)).map(|hint| hint.source);
        assert_eq!(of(&[retry_after]), Some(HintSource::RetryAfter));
        assert_eq!(
            of(&[("retry-after", "x"), ("x-amz-retry-after", "9")]),
            Some(HintSource::Header)
        );
        assert_eq!(
            of(&[retry_after, ("x-ms-retry-after-ms", "9")]),
            Some(HintSource::RetryAfterMs)
        );
    }

    #[test]
    fn of_two_headers_the_first_in_order_decides() {
        for pair in [
            ["retry-after-ms", "x-ms-retry-after-ms"],
            ["x-amz-retry-after", "grpc-retry-pushback-ms"],
        ] {
            let hint = delay(&[(pair[0], "5"), (pair[1], "9")]);
            assert_eq!(hint, Some(Duration::from_millis(5)), "{pair:?}");
        }
        assert_eq!(delay(&[("retry-after", "5s or so")]), None);
    }

    #[test]
    fn phrases() {
        let millis = Duration::from_millis;
        for (text, expected) in [
            ("Please try again in 9m38.016s.", Some(millis(578_016))),
            ("Please retry after 45 seconds.", Some(millis(45_000))),
            (
                "Please retry in 900.2ms.",
                Some(Duration::from_micros(900_200)),
            ),
            ("try again in 1 hour and 2 minutes", Some(millis(3_720_000))),
            (
                "Quota will be replenished in 1.02:03:04.",
                Some(millis(93_784_000)),
            ),
            (
                "Try again in a while, that is: try again in about 5 minutes",
                Some(millis(300_000)),
            ),
            ("try again in 2 days", Some(millis(172_800_000))),
            ("try again in a moment", None),
            ("Please try again later.", None),
            ("retry after 5", None),
            ("try again in 5 apples", None),
            ("try again in 99999999999999999999999999999 days", None),
            ("wait for 10:99:00", None),
        ] {
            assert_eq!(from_text(text), expected, "{text}");
        }
    }

    #[test]
    fn times_in_words() {
        let now = date("2026-01-31T23:00:00Z").unwrap();
        let hour = Some(Duration::from_secs(3_600));
        for (text, expected) in [
            ("You will regain access on 2026-02-01 at 00:00 UTC.", hour),
            ("Your quota resets at 2026-02-01T00:00:00Z", hour),
            ("It will reset at: 2026-02-01 00:00:00 GMT.", hour),
            (
                "You will regain access on 2026-01-01 at 00:00 UTC.",
                Some(Duration::ZERO),
            ),
            ("Your limit will reset at 2026-02-01 00:00:00", None),
            ("Your limit will reset at 2026-02-01 00:00:00 CET", None),
            ("You will regain access on 2026-02-31 at 00:00 UTC.", None),
            ("You will regain access on the first.", None),
            ("resets at", None),
            ("resets on \u{20ac}\u{20ac}\u{20ac}\u{20ac}", None),
        ] {
            assert_eq!(from_text_until(text, now), expected, "{text}");
        }
    }

    #[test]
    fn should_retry_is_a_word() {
        assert_eq!(
            should_retry(&headers(&[("x-should-retry", "TRUE")])),
            Some(true)
        );
        assert_eq!(
            should_retry(&headers(&[("x-should-retry", "false")])),
            Some(false)
        );
        assert_eq!(should_retry(&headers(&[("x-should-retry", "1")])), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn go_durations(hours in 0_u64..1000, minutes in 0_u64..60, millis in 0_u64..60_000) {
            let secs = millis / 1000;
            let text = format!("{hours}h{minutes}m{secs}.{:03}s", millis % 1000);
            let expected = Duration::from_secs(hours * 3600 + minutes * 60) + Duration::from_millis(millis);
            let given = duration(&text).unwrap();
            prop_assert!(given.abs_diff(expected) < Duration::from_micros(1), "{given:?}");
        }

        #[test]
        fn any_header_is_a_wait_or_none(value in "\\PC{0,30}") {
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                for name in ["retry-after", "retry-after-ms", "x-amz-retry-after"] {
                    let mut map = headers(&[DATE]);
                    map.insert(name, value.clone());
                    let text = value.to_str().unwrap_or_default();
                    let hint = from_headers(&map);
                    prop_assert!(hint.is_none() || text.bytes().any(|b| b.is_ascii_digit()));
                }
            }
            let _ = from_text(&format!("try again in {value}"));
            let _ = from_text_until(&format!("resets at {value}"), SystemTime::UNIX_EPOCH);
        }
    }
}
