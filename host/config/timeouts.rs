//! Deadlines of an attempt, and those that a target or a route shortens.

use std::time::Duration;

use super::section::Section;

/// One `[timeouts]`: deadlines of an attempt; a target, a route or a pick may shorten them. All are at least 1 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of an attempt until there is a connection; default: 5 s.
    pub connect: Duration,
    /// From the start of an attempt until its first content; default: 30 s.
    pub first_content: Duration,
    /// The same for an answer that is not streamed, whose first content comes with its last; default: `first_content` where
    /// that is written, else 60 s, which leaves a plan B half of the default `request`.
    pub whole_content: Duration,
    /// From one frame of a stream to the next; default: 60 s.
    pub between_frames: Duration,
    /// From the request's arrival until content; default: 120 s.
    pub request: Duration,
    /// From the start of an attempt until its answer is complete; default: `Duration::MAX`, which is no limit.
    pub whole: Duration,
}

/// Deadlines that a target or a route shortens; none is longer than the one it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTimeouts {
    /// See [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// See [`Timeouts::first_content`].
    pub first_content: Option<Duration>,
    /// See [`Timeouts::whole_content`].
    pub whole_content: Option<Duration>,
    /// See [`Timeouts::between_frames`].
    pub between_frames: Option<Duration>,
    /// See [`Timeouts::request`].
    pub request: Option<Duration>,
    /// See [`Timeouts::whole`].
    pub whole: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_content: Duration::from_secs(30),
            whole_content: Duration::from_secs(60),
            between_frames: Duration::from_secs(60),
            request: Duration::from_secs(120),
            whole: Duration::MAX,
        }
    }
}

impl Timeouts {
    /// These deadlines, each as short as `by` says if it says so.
    pub fn shortened(self, by: &RouteTimeouts) -> Self {
        let least = |deadline: Duration, by: Option<Duration>| by.map_or(deadline, |by| by.min(deadline));
        Self {
            connect: least(self.connect, by.connect),
            first_content: least(self.first_content, by.first_content),
            whole_content: least(self.whole_content, by.whole_content.or(by.first_content)),
            between_frames: least(self.between_frames, by.between_frames),
            request: least(self.request, by.request),
            whole: least(self.whole, by.whole),
        }
    }

    /// From the start of an attempt until its content: the first of a stream, or all of an answer that comes whole.
    pub fn content(&self, streaming: bool) -> Duration {
        let first = if streaming {
            self.first_content
        } else {
            self.whole_content
        };
        first.min(self.whole)
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let written = RouteTimeouts::read_keys(&mut section);
        let timeouts = Self {
            connect: written.connect.unwrap_or(default.connect),
            first_content: written.first_content.unwrap_or(default.first_content),
            whole_content: written
                .whole_content
                .or(written.first_content)
                .unwrap_or(default.whole_content),
            between_frames: written.between_frames.unwrap_or(default.between_frames),
            request: written.request.unwrap_or(default.request),
            whole: written.whole.unwrap_or(default.whole),
        };
        if timeouts.first_content > timeouts.request {
            let (longer, shorter) = (timeouts.first_content.as_millis(), timeouts.request.as_millis());
            let found = format!("first_content_ms is {longer}, but request_ms ends the request after {shorter}");
            section.document.suspicious(
                section.line_of("first_content_ms"),
                found,
                "shorten the one or raise the other",
            );
        }
        section.close();
        timeouts
    }
}

impl RouteTimeouts {
    /// Reads the `timeouts` of a target or a route; what is longer than `ceiling` is an error.
    pub(super) fn read(mut section: Section<'_>, ceiling: &Timeouts) -> Self {
        let written = Self::read_keys(&mut section);
        let pairs = [
            ("connect_ms", written.connect, ceiling.connect),
            ("first_content_ms", written.first_content, ceiling.first_content),
            ("whole_content_ms", written.whole_content, ceiling.whole_content),
            ("between_frames_ms", written.between_frames, ceiling.between_frames),
            ("request_ms", written.request, ceiling.request),
            ("whole_ms", written.whole, ceiling.whole),
        ];
        for (key, written, ceiling) in pairs {
            if let Some(written) = written.filter(|written| *written > ceiling) {
                let fault = format!(
                    "is {}, more than the {} of [timeouts]",
                    written.as_millis(),
                    ceiling.as_millis()
                );
                section.wrong(section.line_of(key), key, &fault, "write less here or raise it there");
            }
        }
        section.close();
        written
    }

    fn read_keys(section: &mut Section<'_>) -> Self {
        Self {
            connect: section.millis("connect_ms", 1..=600_000),
            first_content: section.millis("first_content_ms", 1..=3_600_000),
            whole_content: section.millis("whole_content_ms", 1..=3_600_000),
            between_frames: section.millis("between_frames_ms", 1..=3_600_000),
            request: section.millis("request_ms", 1..=3_600_000),
            whole: section.millis("whole_ms", 1..=86_400_000),
        }
    }
}
