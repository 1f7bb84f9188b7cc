//! A policy that gave no decision in a request, and how it failed: what answers, logs and traces say of it. What the policy itself said
//! is for operators only.

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFailure {
    /// The policy, as `NAME@HASH`; without a hash where it has no version.
    pub policy: String,
    /// How it failed.
    pub how: HowItFailed,
    /// What was seen, for operators.
    pub detail: String,
}

/// How a policy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HowItFailed {
    /// It trapped or used up a limit.
    Trap,
    /// It did not decide within its deadline.
    Timeout,
    /// It decided something that the contract forbids, or picked nothing but targets that the route does not have.
    Invalid,
    /// There was no instance of it free, or no memory for one.
    Busy,
    /// None of its versions serves.
    Missing,
}

impl HowItFailed {
    /// The name in headers, logs and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid",
            Self::Busy => "busy",
            Self::Missing => "missing",
        }
    }
}

impl PolicyFailure {
    /// As a header says it: `NAME@HASH; failed=trap`.
    pub fn for_header(&self) -> String {
        format!("{}; failed={}", self.policy, self.how.name())
    }

    /// As a log says it, with what was seen.
    pub fn for_log(&self) -> String {
        format!("{} failed ({}): {}", self.policy, self.how.name(), self.detail)
    }
}
