//! One loaded version of a policy: asks it and counts what comes of it.

use std::sync::Arc;
use std::time::Duration;

use super::contract::{Attempt, Decision, Request, Target};
use crate::config::PolicyRules;

/// All that one decision is made from.
pub struct Input<'a> {
    /// The client's request.
    pub request: Request<'a>,
    /// The targets that the policy may pick.
    pub targets: &'a [Target<'a>],
    /// The attempts that failed so far, oldest first; empty when the request has just come.
    pub attempts: &'a [Attempt<'a>],
    /// The prompt's text. It is handed on only to a policy that was granted it, and read only if the policy asks.
    pub prompt: Option<Arc<dyn Prompt>>,
}

/// The text of a prompt, decoded only when a policy asks for it.
pub trait Prompt: Send + Sync {
    /// Text of the last user message.
    fn last_user_text(&self) -> String;
    /// Text of every message, oldest first, as (role, text).
    fn messages(&self) -> Vec<(String, String)>;
}

/// Why there is no decision. It costs this decision and nothing else.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// All instances of this policy are at work; nobody queues.
    #[error("all {limit} instances of the policy are busy")]
    Busy {
        /// `max_instances` of the policy.
        limit: usize,
    },
    /// The policy did not answer within its deadline.
    #[error("no decision within {} ms", .deadline.as_millis())]
    Timeout {
        /// `deadline_ms` of the policy.
        deadline: Duration,
    },
    /// The policy trapped or used up a limit; the text says how, without control characters.
    #[error("trapped: {0}")]
    Trap(String),
    /// The policy answered something that the contract forbids.
    #[error("nonsense: {0}")]
    Nonsense(Nonsense),
}

impl PolicyError {
    /// A short name for metrics: `busy`, `timeout`, `trap` or `nonsense`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Timeout { .. } => "timeout",
            Self::Trap(_) => "trap",
            Self::Nonsense(_) => "nonsense",
        }
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Nonsense {
    /// More picks than `max_picks`.
    #[error("{picks} picks, at most {limit} are allowed")]
    TooManyPicks {
        /// How many there were.
        picks: usize,
        /// `max_picks` of the policy.
        limit: usize,
    },
    /// A rejection with a status that is no error.
    #[error("a rejection with status {0}; it must be 400 to 599")]
    RejectionStatus(u16),
    /// A patch that is not a JSON object.
    #[error("the patch of pick {pick} is not a JSON object")]
    Patch {
        /// Index of the pick, from 0.
        pick: usize,
    },
    /// A text that is far longer than it can have reason to be.
    #[error("the {what} of pick {pick} has {bytes} bytes, at most {limit} are allowed")]
    TooLong {
        /// Which text: `target`, `model` or `patch`.
        what: &'static str,
        /// Index of the pick, from 0.
        pick: usize,
        /// Its length.
        bytes: usize,
        /// The most that is allowed.
        limit: usize,
    },
}

/// SHA-256 of a plugin file: the identity of a version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The first 8 hexadecimal digits, as in `plan-b@1a2b3c4d`.
    pub fn short(&self) -> String {
        todo!()
    }
}

/// One loaded version of a policy.
pub struct Version {
    name: String,
    hash: Hash,
    rules: PolicyRules,
}

impl Version {
    /// Name of the policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Hash of the plugin file.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// `NAME@HASH`, such as `plan-b@1a2b3c4d`: for response headers, logs and metrics.
    pub fn label(&self) -> &str {
        todo!()
    }

    /// The rules that this version runs under.
    pub fn rules(&self) -> &PolicyRules {
        &self.rules
    }

    /// Asks the policy. Runs on the calling thread, for at most the policy's deadline and one millisecond.
    pub fn decide(&self, _input: &Input<'_>) -> Result<Decision, PolicyError> {
        todo!()
    }
}
