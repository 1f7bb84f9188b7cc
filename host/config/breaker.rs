//! When a target is left alone.

use std::time::Duration;

use super::section::Section;

/// One `[breaker]`: when a target is left alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    /// Whether there is one at all; default: true.
    pub enabled: bool,
    /// Share of failures, 0 to 1, that opens it; default: 0.5.
    pub failure_share: f32,
    /// Attempts in the window before a share means anything; default: 5.
    pub min_attempts: u32,
    /// How far back failures count; default: 30 s.
    pub window: Duration,
    /// How long it stays open the first time; doubles at each failed probe. Default: 15 s.
    pub open: Duration,
    /// How long it stays open at most; not less than `open`. Default: 120 s.
    pub max_open: Duration,
    /// How long a target rests whose credentials or quota failed; default: 30 min.
    pub rest: Duration,
    /// The longest time that one answer of a vendor rests a target or key, whatever wait it states; default: 1 h.
    pub max_retry_after: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_share: 0.5,
            min_attempts: 5,
            window: Duration::from_secs(30),
            open: Duration::from_secs(15),
            max_open: Duration::from_secs(120),
            rest: Duration::from_secs(30 * 60),
            max_retry_after: Duration::from_secs(60 * 60),
        }
    }
}

impl Breaker {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let default = Self::default();
        let breaker = Self {
            enabled: section.flag("enabled").unwrap_or(default.enabled),
            failure_share: section
                .number("failure_share", 0.01..=1.0)
                .map_or(default.failure_share, |share| share as f32),
            min_attempts: section
                .whole("min_attempts", 1..=1_000_000)
                .unwrap_or(default.min_attempts),
            window: section.millis("window_ms", 1..=DAY_MS).unwrap_or(default.window),
            open: section.millis("open_ms", 1..=DAY_MS).unwrap_or(default.open),
            max_open: section.millis("max_open_ms", 1..=DAY_MS).unwrap_or(default.max_open),
            rest: section.millis("rest_ms", 1..=7 * DAY_MS).unwrap_or(default.rest),
            max_retry_after: section
                .millis("max_retry_after_ms", 0..=7 * DAY_MS)
                .unwrap_or(default.max_retry_after),
        };
        if breaker.max_open < breaker.open {
            let (open, max_open) = (breaker.open.as_millis(), breaker.max_open.as_millis());
            let line = section.line_of(if section.has("max_open_ms") {
                "max_open_ms"
            } else {
                "open_ms"
            });
            let instead = format!("write at least {open}, or a shorter open_ms");
            section.wrong(
                line,
                "max_open_ms",
                &format!("is {max_open}, less than open_ms"),
                instead,
            );
        }
        section.close();
        breaker
    }
}
