//! What a policy asks about a request and its failed attempts.

use crate::{Attempt, Failure, Request, Target};

impl Request {
    /// The value of an attribute, such as `header.x-team`; `None` when the request has no such attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        lookup(&self.attributes, name)
    }

    /// Whether the operator has switched off this target or its vendor: `switch.TARGET` or `switch.VENDOR` is `off`.
    pub fn has_switched_off(&self, target: &Target) -> bool {
        self.attributes.iter().any(|(name, value)| {
            value == "off"
                && name
                    .strip_prefix("switch.")
                    .is_some_and(|switch| switch == target.name || switch == target.vendor)
        })
    }
}

/// A request of which nothing is known, with two minutes left: what tests start from.
impl Default for Request {
    fn default() -> Self {
        Self {
            id: String::new(),
            model: String::new(),
            route: String::new(),
            client: String::new(),
            streaming: false,
            uses_tools: false,
            has_images: false,
            input_tokens: 0,
            max_output_tokens: None,
            attributes: Vec::new(),
            now_ms: 0,
            conversation: 0,
            seed: 0,
            elapsed_ms: 0,
            remaining_ms: 120_000,
        }
    }
}

impl Attempt {
    /// Whether no other target could do better: the request itself is at fault or was refused, or the client has
    /// already received part of the answer.
    pub fn is_final(&self) -> bool {
        self.answer_started || matches!(self.failure, Failure::BadRequest | Failure::Refused)
    }

    /// An attempt that failed this way: what tests start from.
    pub fn failed(target: &str, failure: Failure) -> Self {
        Self {
            target: target.into(),
            failure,
            status: None,
            code: String::new(),
            retry_after_ms: None,
            elapsed_ms: 0,
            answer_started: false,
        }
    }
}

/// The value of the first attribute of this name.
pub(crate) fn lookup<'a>(attributes: &'a [(String, String)], name: &str) -> Option<&'a str> {
    attributes
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}
