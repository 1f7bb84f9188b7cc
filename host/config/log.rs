//! What is logged and how.

use super::section::Section;
use super::spelling::excerpt;

/// One `[log]`: what is logged and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// The shape of a line; default: text.
    pub format: LogFormat,
    /// A filter such as `info` or `warn,pointsman::policy=debug`; default: `info`.
    pub level: String,
    /// One line for each request; default: true.
    pub requests: bool,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            requests: true,
        }
    }
}

impl Log {
    /// What a filter is made of, for messages.
    pub const FILTER_WORDS: &str =
        "off, error, warn, info, debug or trace, also for one module as in \"warn,pointsman=debug\"";

    /// Whether this is a list of levels, each for everything or for one module. The log itself would take a misspelled
    /// level for the name of a module.
    pub fn is_filter(text: &str) -> bool {
        let is_level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
        let is_module =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
        text.split(',').all(|directive| match directive.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(directive),
        })
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let format = section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
        let level = section.word("level");
        if let Some(level) = level.filter(|level| !Self::is_filter(level.value)) {
            let fault = format!("is \"{}\"", excerpt(level.value));
            section.wrong(level.line, "level", &fault, format!("write {}", Self::FILTER_WORDS));
        }
        let log = Self {
            format: format.unwrap_or(default.format),
            level: level.map_or(default.level, |level| level.value.to_owned()),
            requests: section.flag("requests").unwrap_or(default.requests),
        };
        section.close();
        log
    }
}
