//! What a guest writes during one decision: capped in lines and bytes, held until the decision is over.

use std::mem;

use super::contract::Level;
use super::program::line_of;

/// The log of one decision.
#[derive(Debug, Default)]
pub(super) struct Log {
    lines: Vec<(Level, String)>,
    /// Text without its line end yet, from a guest's standard output and standard error.
    partial: [String; 2],
    /// What may still be written.
    lines_left: usize,
    bytes_left: usize,
    max_lines: usize,
    max_bytes: usize,
    dropped: u64,
}

/// A stream of a WASI guest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stdio {
    /// Standard output, logged at `debug`.
    Output,
    /// Standard error, where languages put the reason of a crash: logged at `warn`.
    Error,
}

impl Stdio {
    fn level(self) -> Level {
        match self {
            Self::Output => Level::Debug,
            Self::Error => Level::Warn,
        }
    }
}

impl Log {
    pub(super) fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self {
            lines_left: max_lines,
            bytes_left: max_bytes,
            max_lines,
            max_bytes,
            ..Self::default()
        }
    }

    /// Adds a line, cut where the bytes end; drops it when lines or bytes are used up.
    pub(super) fn line(&mut self, level: Level, text: &str) {
        if self.lines_left == 0 || self.bytes_left == 0 {
            self.dropped += 1;
            return;
        }
        let cut = text.floor_char_boundary(self.bytes_left);
        if cut < text.len() {
            self.dropped += 1;
            self.bytes_left = 0;
        } else {
            self.bytes_left -= cut;
        }
        self.lines_left -= 1;
        self.lines.push((level, escaped(&text[..cut])));
    }

    /// Adds what a WASI guest wrote to one of its streams.
    pub(super) fn write(&mut self, stream: Stdio, bytes: &[u8]) {
        let mut text = mem::take(&mut self.partial[stream as usize]);
        // A partial line is capped too; what is beyond the cap could never be logged.
        let room = self.max_bytes.saturating_sub(text.len()).min(bytes.len());
        self.dropped += u64::from(room < bytes.len());
        text.push_str(&String::from_utf8_lossy(&bytes[..room]));
        let rest = match text.rfind('\n') {
            Some(end) => {
                text[..end].lines().for_each(|line| self.line(stream.level(), line));
                text.split_off(end + 1)
            }
            None => text,
        };
        self.partial[stream as usize] = rest;
    }

    /// The finished log; this one starts over.
    pub(super) fn take(&mut self) -> Self {
        for stream in [Stdio::Output, Stdio::Error] {
            let rest = mem::take(&mut self.partial[stream as usize]);
            if !rest.is_empty() {
                self.line(stream.level(), &rest);
            }
        }
        let next = Self::new(self.max_lines, self.max_bytes);
        mem::replace(self, next)
    }

    /// Lines that did not fit, whole or in part.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The last `count` lines, those of errors and warnings if there are any: where languages say why a program ended.
    pub(super) fn last_words(&self, count: usize) -> Vec<String> {
        let is_loud = |level: &Level| matches!(level, Level::Warn | Level::Error);
        let any_loud = self.lines.iter().any(|(level, _)| is_loud(level));
        let lines = self.lines.iter().filter(|(level, _)| !any_loud || is_loud(level));
        let mut words: Vec<String> = lines.rev().take(count).map(|(_, line)| line_of(line)).collect();
        words.reverse();
        words
    }

    /// Writes the lines to the gateway's own log at `debug`, whatever level the guest gave them.
    pub(super) fn emit_quietly(&self, version: &str, request: &str) {
        for (_, line) in &self.lines {
            tracing::debug!(target: "pointsman::policy", policy = version, request, "{line}");
        }
    }

    /// Writes the lines to the gateway's own log.
    pub(super) fn emit(&self, version: &str, request: &str) {
        for (level, line) in &self.lines {
            match level {
                Level::Debug => tracing::debug!(target: "pointsman::policy", policy = version, request, "{line}"),
                Level::Info => tracing::info!(target: "pointsman::policy", policy = version, request, "{line}"),
                Level::Warn => tracing::warn!(target: "pointsman::policy", policy = version, request, "{line}"),
                Level::Error => tracing::error!(target: "pointsman::policy", policy = version, request, "{line}"),
            }
        }
        if self.dropped > 0 {
            let dropped = self.dropped;
            tracing::warn!(target: "pointsman::policy", policy = version, request, dropped, "log lines dropped");
        }
    }
}

/// A guest's text with its control characters escaped, so that it cannot forge a line or steer a terminal.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &Log) -> Vec<&str> {
        log.lines.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn lines_beyond_the_cap_are_dropped_and_counted() {
        let mut log = Log::new(2, 100);
        ["one", "two", "three", "four"]
            .iter()
            .for_each(|text| log.line(Level::Info, text));
        assert_eq!(texts(&log), ["one", "two"]);
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn a_line_is_cut_at_a_character_when_the_bytes_end() {
        let mut log = Log::new(10, 4);
        log.line(Level::Info, "aäää");
        log.line(Level::Info, "more");
        assert_eq!(texts(&log), ["aä"]);
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn the_last_words_are_warnings_where_there_are_any() {
        let mut log = Log::new(10, 1000);
        log.line(Level::Info, "reading settings");
        assert_eq!(log.last_words(2), ["reading settings"]);
        ["Traceback", "line 3", "ValueError"]
            .iter()
            .for_each(|text| log.line(Level::Error, text));
        log.line(Level::Debug, "leaving");
        assert_eq!(log.last_words(2), ["line 3", "ValueError"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\nb\u{1b}[31m\u{202e}"), "a\\nb\\u{1b}[31m\u{202e}");
    }

    #[test]
    fn streams_are_logged_by_line() {
        let mut log = Log::new(10, 100);
        log.write(Stdio::Error, b"Trace");
        log.write(Stdio::Output, b"hello\n");
        log.write(Stdio::Error, b"back\nValueError");
        let done = log.take();
        assert_eq!(texts(&done), ["hello", "Traceback", "ValueError"]);
        assert!(texts(&log).is_empty());
    }
}
