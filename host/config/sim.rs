//! How a simulated vendor behaves.

use std::time::Duration;

use super::section::Section;
use super::spelling::excerpt;

/// The `sim` of a target: a simulated vendor's behaviour.
#[derive(Debug, Clone, PartialEq)]
pub struct Sim {
    /// Before the answer's head; default: 20 ms.
    pub latency: Duration,
    /// Between the head and the first token; default: 100 ms.
    pub first_token: Duration,
    /// Pace of the answer, 0.1 to 1,000,000; default: 100.
    pub tokens_per_second: f64,
    /// Tokens of an answer; default: 64.
    pub tokens: u32,
    /// Share of requests that fail, by kind; no two of the same kind, and at most 1 together. Default: none.
    pub errors: Vec<(SimError, f64)>,
}

/// How a simulated vendor fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimError {
    /// This HTTP status, 400 to 599, with the vendor's error body.
    Status(u16),
    /// Closes the connection before an answer.
    Reset,
    /// Never answers.
    Hang,
    /// Stops in the middle of a stream.
    Cut,
}

impl Default for Sim {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(20),
            first_token: Duration::from_millis(100),
            tokens_per_second: 100.0,
            tokens: 64,
            errors: Vec::new(),
        }
    }
}

impl Sim {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let sim = Self {
            latency: section.millis("latency_ms", 0..=3_600_000).unwrap_or(default.latency),
            first_token: section
                .millis("first_token_ms", 0..=3_600_000)
                .unwrap_or(default.first_token),
            tokens_per_second: section
                .number("tokens_per_second", 0.1..=1e6)
                .unwrap_or(default.tokens_per_second),
            tokens: section.whole("tokens", 1..=1_000_000).unwrap_or(default.tokens),
            errors: read_errors(&mut section),
        };
        section.close();
        sim
    }
}

impl SimError {
    fn named(name: &str) -> Option<Self> {
        match name {
            "reset" => Some(Self::Reset),
            "hang" => Some(Self::Hang),
            "cut" => Some(Self::Cut),
            _ if name.len() == 3 => name
                .parse()
                .ok()
                .filter(|status| (400..600).contains(status))
                .map(Self::Status),
            _ => None,
        }
    }
}

fn read_errors(section: &mut Section<'_>) -> Vec<(SimError, f64)> {
    let mut errors = Vec::new();
    let entries = section.entries("errors");
    for (name, value) in entries {
        let kind = SimError::named(name.value);
        if kind.is_none() {
            let fault = format!("holds `{}`, which is no way to fail", excerpt(name.value));
            section.wrong(
                name.line,
                "errors",
                &fault,
                "write a status from 400 to 599, reset, hang or cut",
            );
        }
        let share = section.as_number(name.value, value, 0.0..=1.0);
        errors.extend(kind.zip(share));
    }
    let sum: f64 = errors.iter().map(|(_, share)| share).sum();
    // Shares are decimal fractions, whose sum may be off by as much as a float is precise.
    if sum > 1.0 + 1e-9 {
        let line = section.line_of("errors");
        section.wrong(
            line,
            "errors",
            &format!("has shares that sum up to {sum:.2}"),
            "write shares that sum up to at most 1",
        );
    }
    errors
}
