//! Every spelling of "come back later" that vendors use, as one duration.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The wait that an answer's headers state, if any: the most precise header wins.
///
/// `retry-after-ms` and `x-ms-retry-after-ms` are milliseconds; `retry-after` is seconds or an HTTP date. `now` is that of the
/// vendor's [`clock`], here and below.
pub fn stated(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    ["retry-after-ms", "x-ms-retry-after-ms"]
        .into_iter()
        .find_map(|name| text(name).and_then(milliseconds))
        .or_else(|| text("retry-after").and_then(|value| seconds_or_date(value, now)))
}

/// The vendor's clock, by which the dates in its answer are to be read: ours may be an hour off.
pub fn clock(headers: &HeaderMap) -> SystemTime {
    let stated = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let parsed = stated.and_then(|date| httpdate::parse_http_date(date).ok());
    parsed.unwrap_or_else(SystemTime::now)
}

/// The rate limits that vendors tell: how much there is, how much is left, and when it is full again. OpenAI's and those of whoever
/// speaks like it, and Anthropic's.
const LIMITS: [[&str; 3]; 6] = [
    [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ],
    [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ],
    [
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ],
    [
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ],
    [
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ],
    [
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ],
];

/// The wait until a used-up rate limit is full again, from the resets of the limits with nothing remaining; only meaningful on a 429.
pub fn until_reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let used_up = LIMITS
        .into_iter()
        .filter(|[_, remaining, _]| number(headers, remaining) == Some(0.0));
    used_up.filter_map(|[.., reset]| reset_of(headers, reset, now)).max()
}

/// The share of the vendor's rate limit that is left, 0 to 1, and how long that is true; `None` when the vendor does not say.
pub fn headroom(headers: &HeaderMap, now: SystemTime) -> Option<(f32, Duration)> {
    // Most vendors say nothing of it.
    let tells = |name: &HeaderName| name.as_str().contains("ratelimit-");
    if !headers.keys().any(tells) {
        return None;
    }
    let share = |[limit, remaining, reset]: [&str; 3]| {
        let limit = number(headers, limit).filter(|limit| *limit > 0.0)?;
        let share = (number(headers, remaining)? / limit).clamp(0.0, 1.0);
        Some((share as f32, reset_of(headers, reset, now).unwrap_or(UNSTATED_RESET)))
    };
    LIMITS.into_iter().filter_map(share).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// How long a share is believed whose vendor does not say when it is full again: limits are mostly by the minute.
const UNSTATED_RESET: Duration = Duration::from_secs(60);

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// A reset: OpenAI tells how long it takes, Anthropic when it is.
fn reset_of(headers: &HeaderMap, name: &str, now: SystemTime) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    go_duration(text).or_else(|| {
        let at = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
        Some(SystemTime::from(at).duration_since(now).unwrap_or_default())
    })
}

fn milliseconds(text: &str) -> Option<Duration> {
    seconds(text.parse::<f64>().ok()? / 1000.0)
}

fn seconds_or_date(text: &str, now: SystemTime) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(number) => seconds(number),
        // A date in the past means: now.
        Err(_) => httpdate::parse_http_date(text)
            .ok()
            .map(|at| at.duration_since(now).unwrap_or_default()),
    }
}

fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

/// A duration as Go prints it, which is how OpenAI writes resets: `1s`, `6m0s`, `120ms`, `1h2m3.5s`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    seconds(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn anthropic_says_when_its_limits_are_full_again() {
        let limits = headers(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "1970-01-01T00:00:30Z"),
            ("anthropic-ratelimit-input-tokens-limit", "1000"),
            ("anthropic-ratelimit-input-tokens-remaining", "500"),
            ("anthropic-ratelimit-input-tokens-reset", "1970-01-01T00:01:00Z"),
        ]);
        assert_eq!(until_reset(&limits, NOW), Some(Duration::from_secs(30)));
        assert_eq!(headroom(&limits, NOW), Some((0.0, Duration::from_secs(30))));
        let past = NOW + Duration::from_secs(40);
        assert_eq!(until_reset(&limits, past), Some(Duration::ZERO));
    }

    #[test]
    fn milliseconds_win_over_seconds() {
        let both = headers(&[("retry-after", "2"), ("retry-after-ms", "1250")]);
        assert_eq!(stated(&both, NOW), Some(Duration::from_millis(1250)));
        assert_eq!(
            stated(&headers(&[("x-ms-retry-after-ms", "30")]), NOW),
            Some(Duration::from_millis(30))
        );
    }

    #[test]
    fn seconds_may_have_a_fraction_and_dates_may_be_past() {
        assert_eq!(
            stated(&headers(&[("retry-after", "1.5")]), NOW),
            Some(Duration::from_millis(1500))
        );
        let in_a_minute = httpdate::fmt_http_date(NOW + Duration::from_secs(60));
        assert_eq!(
            stated(&headers(&[("retry-after", &in_a_minute)]), NOW),
            Some(Duration::from_secs(60))
        );
        let later = NOW + Duration::from_secs(3600);
        assert_eq!(
            stated(&headers(&[("retry-after", &in_a_minute)]), later),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_vendors_clock_is_its_own() {
        let hour_ahead = SystemTime::now() + Duration::from_secs(3600);
        let date = |at: SystemTime| httpdate::fmt_http_date(at);
        let answer = headers(&[
            ("date", &date(hour_ahead)),
            ("retry-after", &date(hour_ahead + Duration::from_secs(30))),
        ]);
        assert_eq!(stated(&answer, clock(&answer)), Some(Duration::from_secs(30)));
        for broken in ["", "yesterday", "Mon, 99 Nov 2026 00:00:00 GMT"] {
            let ours = clock(&headers(&[("date", broken)]));
            assert!(ours.elapsed().unwrap() < Duration::from_secs(60), "{broken:?}");
        }
    }

    #[test]
    fn nonsense_is_no_statement() {
        for value in ["-1", "soon", "", "inf", "NaN", "1e400"] {
            assert_eq!(stated(&headers(&[("retry-after", value)]), NOW), None, "{value:?}");
        }
    }

    #[test]
    fn only_a_used_up_limit_makes_a_wait() {
        let pairs = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-remaining-tokens", "10"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        assert_eq!(until_reset(&headers(&pairs), NOW), Some(Duration::from_millis(120)));
    }

    #[test]
    fn headroom_is_the_scarcer_limit() {
        let pairs = [
            ("x-ratelimit-limit-requests", "100"),
            ("x-ratelimit-remaining-requests", "90"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "250"),
            ("x-ratelimit-reset-tokens", "1m30s"),
        ];
        assert_eq!(headroom(&headers(&pairs), NOW), Some((0.25, Duration::from_secs(90))));
        assert_eq!(headroom(&HeaderMap::new(), NOW), None);
    }

    proptest! {
        #[test]
        fn go_durations_never_panic(text in "\\PC{0,24}") {
            let _ = go_duration(&text);
        }

        #[test]
        fn go_durations_read_what_go_prints(minutes in 0u64..600, seconds in 0u64..60) {
            prop_assert_eq!(go_duration(&format!("{minutes}m{seconds}s")), Some(Duration::from_secs(minutes * 60 + seconds)));
        }
    }
}
