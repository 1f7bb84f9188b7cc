//! Routes: which targets and policies serve which requested model names.

use std::sync::Arc;
use std::time::Duration;

use super::document::Written;
use super::names::{self, Names};
use super::section::Section;
use super::spelling::excerpt;
use super::{Attempts, RouteTimeouts, Target, Timeouts};
use crate::wire::loss::Lossy;

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Exact name or a pattern in which `*` stands for anything; unique.
    pub model: String,
    /// In the order of the configuration; at least one, and none twice.
    pub targets: Vec<Arc<Target>>,
    /// Policies by name; each one's picks are the next one's targets.
    pub policies: Vec<String>,
    /// What a request does when its policy failed; default: pass.
    pub on_error: OnError,
    /// How much of a stream is held although content is there, so that it can still fall back; default: nothing.
    pub hold: Option<Hold>,
    /// Another target may go on with an answer that broke off, if a policy says so; default: false.
    pub continuation: bool,
    /// Clients get every attempt in the header `x-pointsman-attempts-detail`; default: false.
    pub attempts_detail: bool,
    /// What is done about what cannot be carried to a vendor of another format; default: as the table of losses says.
    pub lossy: Lossy,
    /// Ceiling on the share of this route's requests that may be hedged, 0 to 1; default: 0.05.
    pub hedge_share: f32,
    /// Deadlines that this route shortens; default: none.
    pub timeouts: RouteTimeouts,
    /// Attempts of one request on this route, 1 to 100; default: that of `[attempts]`.
    pub max_attempts: u32,
}

/// How much of a stream is held although content is there: until one of the two is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Frames with content, which are about as many tokens.
    pub tokens: Option<u32>,
    /// Time since content began.
    pub time: Option<Duration>,
}

impl Hold {
    /// Reads the table; `None` when nothing is to be held.
    fn read(mut section: Section<'_>) -> Option<Self> {
        let tokens = section.whole("tokens", 1..=10_000);
        let time = section.millis("ms", 1..=60_000);
        section.close();
        (tokens.is_some() || time.is_some()).then_some(Self { tokens, time })
    }
}

/// What a request does when its policy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Goes on with the built-in chain.
    Pass,
    /// Is rejected.
    Reject,
}

impl Route {
    /// See [`Route::hedge_share`].
    pub(super) const HEDGE_SHARE: f32 = 0.05;

    /// Whether this route is for a requested model name.
    pub fn matches(&self, model: &str) -> bool {
        pattern_matches(&self.model, model)
    }

    /// Whether this route, standing earlier, takes every request that the pattern of `other` is for. An exact name is
    /// never covered: it goes before all patterns.
    pub(super) fn covers(&self, other: &Self) -> bool {
        // A `*` of the other is matched only by one of ours, which then matches all that the other's stands for.
        other.model.contains('*') && pattern_matches(&self.model, &other.model)
    }

    pub(super) fn read(
        mut section: Section<'_>,
        model: Option<Written<&str>>,
        declared: &Names<'_, Arc<Target>>,
        attempts: &Attempts,
        ceiling: &Timeouts,
    ) -> Option<Self> {
        let on_errors = [("pass", OnError::Pass), ("reject", OnError::Reject)];
        let targets = read_targets(&mut section, declared);
        let policies = read_policies(&mut section);
        let on_error = section.choice("on_error", &on_errors).unwrap_or(OnError::Pass);
        let lossy = [
            ("table", Lossy::Table),
            ("allow", Lossy::Allow),
            ("refuse", Lossy::Refuse),
        ];
        let lossy = section.choice("lossy", &lossy).unwrap_or_default();
        let hold = Hold::read(section.section("hold"));
        let continuation = section.flag("continuation").unwrap_or_default();
        let attempts_detail = section.flag("attempts_detail").unwrap_or_default();
        let hedge_share = section.share("hedge_share").unwrap_or(Self::HEDGE_SHARE);
        let timeouts = RouteTimeouts::read(section.section("timeouts"), ceiling);
        let max_attempts = section.whole("max_attempts", 1..=100).unwrap_or(attempts.max);
        section.close();
        Some(Self {
            model: model?.value.to_owned(),
            targets,
            policies,
            on_error,
            hold,
            continuation,
            attempts_detail,
            lossy,
            hedge_share,
            timeouts,
            max_attempts,
        })
    }

    /// Reads the pattern, and whether it is one.
    pub(super) fn read_model<'a>(section: &mut Section<'a>) -> Option<Written<&'a str>> {
        let model = section.required("model")?;
        let instead = "write a model name, in which `*` stands for anything";
        if model
            .value
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || "?[]{}".contains(c))
            || model.value.contains("**")
        {
            section.wrong(
                model.line,
                "model",
                &format!("is \"{}\"", excerpt(model.value)),
                instead,
            );
            return None;
        }
        Some(model)
    }
}

fn read_targets(section: &mut Section<'_>, declared: &Names<'_, Arc<Target>>) -> Vec<Arc<Target>> {
    if !section.has("targets") {
        section.missing("targets", "write targets = [\"…\"] with names of [[target]] tables");
    }
    let Some(names) = section.texts("targets") else {
        return Vec::new();
    };
    if names.is_empty() {
        let line = section.line_of("targets");
        section.wrong(line, "targets", "is empty", "write the name of at least one [[target]]");
    }
    let mut targets = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if names[..index].iter().any(|earlier| earlier.value == name.value) {
            section.wrong(
                name.line,
                "targets",
                &format!("has `{}` twice", excerpt(name.value)),
                "write it once",
            );
        }
        targets.extend(declared.find(section, *name).cloned());
    }
    targets
}

fn read_policies(section: &mut Section<'_>) -> Vec<String> {
    let mut policies = Vec::new();
    for name in section.texts("policies").unwrap_or_default() {
        if !names::is_policy(name.value) {
            let fault = format!("has \"{}\", which is not the name of a policy", excerpt(name.value));
            section.wrong(
                name.line,
                "policies",
                &fault,
                "write letters, digits, - and _, such as \"plan-b\" for plan-b.wasm",
            );
        } else if policies.iter().any(|earlier| earlier == name.value) {
            section.wrong(
                name.line,
                "policies",
                &format!("has `{}` twice", name.value),
                "write it once",
            );
        }
        section.document.names_policy(name.value, name.line);
        policies.push(name.value.to_owned());
    }
    policies
}

/// Whether a pattern, in which `*` stands for any text, matches all of a text. What lies between two `*` is looked for
/// from the left and never again, so a hostile name costs no more than its length times the pattern's.
fn pattern_matches(pattern: &str, text: &str) -> bool {
    let Some((prefix, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = text.strip_prefix(prefix).and_then(|text| text.strip_suffix(suffix));
    let Some(mut inner) = inner else { return false };
    for part in middle.split('*') {
        let Some(at) = inner.find(part) else { return false };
        inner = &inner[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::pattern_matches;

    /// The definition: slow, but plain.
    fn matches_by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| matches_by_definition(rest, &text[at..])),
            Some((first, rest)) => text.first() == Some(first) && matches_by_definition(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_follows_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,12}") {
            let expected = matches_by_definition(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(pattern_matches(&pattern, &text), expected);
        }
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "gpt-5"),
            ("gpt-*", "gpt-5"),
            ("gpt-*", "gpt-"),
            ("*-mini", "gpt-5-mini"),
            ("gpt-*-mini", "gpt-5-mini"),
            ("a*b*c", "abc"),
            ("a*b*c", "a.b.b.c"),
            ("*/llama-*", "meta/llama-4"),
            ("smart", "smart"),
            ("*é*", "café au lait"),
        ] {
            assert!(pattern_matches(pattern, text), "{pattern} should match {text}");
        }
    }

    #[test]
    fn everything_else_stands_for_itself() {
        for (pattern, text) in [
            ("gpt-*", "gpt5"),
            ("gpt-*", "a-gpt-5"),
            ("*-mini", "gpt-5-mini-2"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("a*bb*bc", "abbc"),
            ("smart", "smarter"),
            ("smart", "Smart"),
            ("gpt.5", "gpt-5"),
            ("", "a"),
        ] {
            assert!(!pattern_matches(pattern, text), "{pattern} should not match {text}");
        }
    }
}
