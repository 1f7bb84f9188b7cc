//! Limits of the built-in chain.

use std::time::Duration;

use super::section::Section;

/// One `[attempts]`: limits of the built-in chain, which hold whatever a policy says.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempts {
    /// Attempts of one request, hedges included, 1 to 100; default: 3.
    pub max: u32,
    /// The longest stated wait after which the same target is tried again; default: 2 s.
    pub same_target_wait: Duration,
    /// Bytes of a whole answer, which is held until it is complete; default: 32 MiB.
    pub max_answer_bytes: usize,
    /// Bytes of a stream that are held until content comes; default: 256 KiB.
    pub max_held_bytes: usize,
    /// What part of a target's requests may be retries, 0 to 1, over 10 s; default: 0.2.
    pub retry_share: f32,
    /// Retries that a target may have in any 10 s however few its requests are; default: 3.
    pub retry_floor: u32,
    /// Requests that may wait at once before an attempt; default: 1024.
    pub max_waiting: usize,
    /// Idle connections kept to one vendor address, for each worker; default: 64.
    pub max_idle_connections: usize,
    /// How long an idle connection is kept; default: 60 s.
    pub idle_connection: Duration,
    /// How old a connection may get that takes requests; default: 50 s, so that another address of the vendor's name is followed
    /// within a minute.
    pub connection_age: Duration,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            max: 3,
            same_target_wait: Duration::from_secs(2),
            max_answer_bytes: 32 << 20,
            max_held_bytes: 256 << 10,
            retry_share: 0.2,
            retry_floor: 3,
            max_waiting: 1024,
            max_idle_connections: 64,
            idle_connection: Duration::from_secs(60),
            connection_age: Duration::from_secs(50),
        }
    }
}

impl Attempts {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let attempts = Self {
            max: section.whole("max", 1..=100).unwrap_or(default.max),
            same_target_wait: section
                .millis("same_target_wait_ms", 0..=600_000)
                .unwrap_or(default.same_target_wait),
            max_answer_bytes: section
                .mib("max_answer_mib", 1..=1024)
                .unwrap_or(default.max_answer_bytes),
            max_held_bytes: section
                .kib("max_held_kib", 1..=65_536)
                .unwrap_or(default.max_held_bytes),
            retry_share: section.share("retry_share").unwrap_or(default.retry_share),
            retry_floor: section
                .whole("retry_floor", 0..=1_000_000)
                .unwrap_or(default.retry_floor),
            max_waiting: section
                .whole("max_waiting", 0..=1_000_000)
                .unwrap_or(default.max_waiting),
            max_idle_connections: section
                .whole("max_idle_connections", 0..=10_000)
                .unwrap_or(default.max_idle_connections),
            idle_connection: section
                .millis("idle_connection_ms", 0..=3_600_000)
                .unwrap_or(default.idle_connection),
            connection_age: section
                .millis("connection_age_ms", 0..=86_400_000)
                .unwrap_or(default.connection_age),
        };
        section.close();
        attempts
    }
}
