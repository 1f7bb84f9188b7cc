//! Which version of a policy was live when, as far as a client can know, and whether every request was decided by a
//! version that was live when it came in.
//!
//! A client sees three moments of a version: its file is renamed into place (it cannot have been live before), a first
//! answer names it (it has been live since before that moment, so its predecessor is gone), and the same for its
//! successor. The gateway took the request at some moment between `sent` and `head`. So version k may have decided a
//! request exactly if
//!
//! ```text
//! renamed(k) <= head    and    sent <= proven(k + 1)
//! ```
//!
//! Anything else is a violation, without false alarms: a version from the future, or an old one although a newer one
//! had already been seen before the request was sent, on whichever connection. Where only one version meets the rule,
//! the request was *decisive*: any other version would have been noticed.
//!
//! Versions may share a token (two files swapped back and forth). Then an answer proves version k only if its request
//! was sent after k - 1 had been proven, so that a late answer of k - 2, which has the same token, proves nothing.

use std::time::Instant;

/// The moments of one version.
struct Version {
    token: String,
    /// Just before its file was renamed into place.
    renamed: Instant,
    /// The first answer by it was read; `None` until then.
    proven: Option<Instant>,
}

/// One answered request.
pub struct Sighting {
    pub sent: Instant,
    pub head: Instant,
    /// `x-pointsman-policy`; empty when the answer had none.
    pub token: String,
}

/// Versions in the order of their renames, and everything that was seen.
pub struct History {
    versions: Vec<Version>,
    sightings: Vec<Sighting>,
}

/// What the check found.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    pub violations: u64,
    pub first_violation: Option<String>,
    /// Requests that only one version was allowed to decide.
    pub decisive: u64,
}

impl History {
    /// `token` is live now and has been since before the first request.
    pub fn new(token: String, now: Instant) -> Self {
        Self {
            versions: vec![Version {
                token,
                renamed: now,
                proven: Some(now),
            }],
            sightings: Vec::new(),
        }
    }

    /// A file is about to be renamed into place.
    pub fn rename(&mut self, token: String, now: Instant) {
        self.versions.push(Version {
            token,
            renamed: now,
            proven: None,
        });
    }

    /// Note an answer; true if it is the first that proves the newest version live.
    pub fn saw(&mut self, sighting: Sighting) -> bool {
        let proves = self.proves_newest(&sighting);
        if proves && let Some(newest) = self.versions.last_mut() {
            newest.proven = Some(sighting.head);
        }
        self.sightings.push(sighting);
        proves
    }

    fn proves_newest(&self, sighting: &Sighting) -> bool {
        let [.., previous, newest] = &self.versions[..] else {
            return false;
        };
        newest.proven.is_none()
            && newest.token == sighting.token
            && newest.renamed <= sighting.head
            && previous.proven.is_some_and(|proven| proven <= sighting.sent)
    }

    /// How long the newest version took from its rename to the first answer by it.
    pub fn newest_took(&self) -> Option<std::time::Duration> {
        let newest = self.versions.last()?;
        Some(newest.proven? - newest.renamed)
    }

    pub fn sightings(&self) -> usize {
        self.sightings.len()
    }

    /// Hold every request against the rule above.
    pub fn check(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for sighting in &self.sightings {
            let allowed = self.allowed(sighting);
            if allowed.len() == 1 {
                verdict.decisive += 1;
            }
            if !allowed.iter().any(|version| version.token == sighting.token) {
                verdict.violations += 1;
                verdict
                    .first_violation
                    .get_or_insert_with(|| self.describe(sighting, allowed));
            }
        }
        verdict
    }

    /// The versions that may have decided a request. Both moments only grow from version to version, so they stand
    /// together.
    fn allowed(&self, sighting: &Sighting) -> &[Version] {
        let end = self
            .versions
            .partition_point(|version| version.renamed <= sighting.head);
        let gone = |next: &Version| next.proven.is_some_and(|proven| proven < sighting.sent);
        let start = self.versions[1..].partition_point(gone);
        &self.versions[start..end]
    }

    fn describe(&self, sighting: &Sighting, allowed: &[Version]) -> String {
        let began = self.versions[0].renamed;
        format!(
            "sent at {:?}, answered at {:?} by `{}`, live were {:?}",
            sighting.sent - began,
            sighting.head - began,
            sighting.token,
            allowed.iter().map(|version| version.token.as_str()).collect::<Vec<_>>()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A history whose clock is written as milliseconds.
    struct Story {
        began: Instant,
        history: History,
    }

    impl Story {
        fn new(token: &str) -> Self {
            let began = Instant::now();
            Self {
                began,
                history: History::new(token.to_owned(), began),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.began + Duration::from_millis(ms)
        }

        fn rename(&mut self, token: &str, ms: u64) {
            self.history.rename(token.to_owned(), self.at(ms));
        }

        fn saw(&mut self, token: &str, sent: u64, head: u64) -> bool {
            let sighting = Sighting {
                sent: self.at(sent),
                head: self.at(head),
                token: token.to_owned(),
            };
            self.history.saw(sighting)
        }

        fn violations(&self) -> u64 {
            self.history.check().violations
        }
    }

    #[test]
    fn a_swap_in_order_is_fine_and_checked() {
        let mut story = Story::new("a");
        story.saw("a", 1, 2);
        story.rename("b", 10);
        assert!(
            !story.saw("a", 11, 12),
            "the old version may go on until the new one is seen"
        );
        assert!(story.saw("b", 13, 14));
        assert!(!story.saw("b", 15, 16), "proven once");
        assert_eq!(story.history.newest_took(), Some(Duration::from_millis(4)));
        assert_eq!(
            story.history.check(),
            Verdict {
                violations: 0,
                first_violation: None,
                decisive: 2
            }
        );
    }

    #[test]
    fn a_request_that_overlaps_the_swap_may_go_either_way() {
        let mut story = Story::new("a");
        story.rename("b", 10);
        story.saw("b", 11, 12);
        story.saw("a", 9, 30);
        story.saw("b", 5, 30);
        assert_eq!(story.violations(), 0);
    }

    #[test]
    fn an_old_version_after_the_new_one_was_seen_is_a_violation() {
        let mut story = Story::new("a");
        story.rename("b", 10);
        story.saw("b", 11, 12);
        story.saw("a", 13, 14);
        let verdict = story.history.check();
        assert_eq!(verdict.violations, 1);
        assert_eq!(
            verdict.first_violation.as_deref(),
            Some(r#"sent at 13ms, answered at 14ms by `a`, live were ["b"]"#)
        );
    }

    #[test]
    fn a_version_before_its_rename_or_never_renamed_is_a_violation() {
        let mut story = Story::new("a");
        story.saw("b", 1, 2);
        story.saw("", 3, 4);
        story.rename("b", 10);
        assert_eq!(story.violations(), 2);
    }

    #[test]
    fn two_versions_back_is_a_violation_even_during_a_swap() {
        let mut story = Story::new("a");
        story.rename("b", 10);
        story.saw("b", 11, 12);
        story.rename("c", 20);
        story.saw("a", 21, 22);
        assert_eq!(story.violations(), 1);
    }

    #[test]
    fn a_late_answer_of_the_same_token_proves_nothing() {
        let mut story = Story::new("a");
        story.rename("b", 10);
        story.saw("b", 11, 12);
        story.rename("a", 20);
        assert!(!story.saw("a", 9, 21), "sent while the first `a` was live");
        story.saw("b", 22, 23);
        assert!(story.saw("a", 24, 25));
        assert_eq!(story.violations(), 0);
    }
}
