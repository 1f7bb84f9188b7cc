//! Why a model stopped, in Google's words.

use crate::answer::{Finish, Reason};

/// The words, as far as they are not about an end like any other.
const REASONS: [(&str, Reason); 18] = [
    ("MAX_TOKENS", Reason::Length),
    ("CONTINUATION", Reason::Length),
    ("SAFETY", Reason::Refused),
    ("RECITATION", Reason::Refused),
    ("BLOCKLIST", Reason::Refused),
    ("PROHIBITED_CONTENT", Reason::Refused),
    ("SPII", Reason::Refused),
    ("IMAGE_SAFETY", Reason::Refused),
    ("IMAGE_PROHIBITED_CONTENT", Reason::Refused),
    ("IMAGE_RECITATION", Reason::Refused),
    ("MODEL_ARMOR", Reason::Refused),
    ("ESCALATION", Reason::Refused),
    ("PUP_LIMITED_DISABLED", Reason::Refused),
    ("MALFORMED_FUNCTION_CALL", Reason::Malformed),
    ("MALFORMED_RESPONSE", Reason::Malformed),
    ("UNEXPECTED_TOOL_CALL", Reason::Malformed),
    ("TOO_MANY_TOOL_CALLS", Reason::Malformed),
    ("MISSING_THOUGHT_SIGNATURE", Reason::Malformed),
];

/// The words for an end like any other.
const PLAIN: [&str; 5] = ["STOP", "OTHER", "LANGUAGE", "NO_IMAGE", "IMAGE_OTHER"];

/// What a `finishReason` means. Google says `STOP` also where the model waits for tools.
pub fn read(raw: &str, has_calls: bool) -> Reason {
    match REASONS.iter().find(|(word, _)| *word == raw) {
        Some((_, reason)) => *reason,
        None if has_calls => Reason::ToolCalls,
        None => Reason::Stop,
    }
}

/// The `finishReason` for a client: Google's own word, where it came from Google.
pub fn write<'a>(finish: &'a Finish<'_>) -> &'a str {
    let raw = &*finish.raw;
    let is_known = PLAIN.contains(&raw) || REASONS.iter().any(|(word, _)| *word == raw);
    if is_known && read(raw, finish.reason == Reason::ToolCalls) == finish.reason {
        return raw;
    }
    match finish.reason {
        Reason::Stop | Reason::StopSequence | Reason::ToolCalls => "STOP",
        Reason::Length | Reason::ContextWindow => "MAX_TOKENS",
        Reason::Refused => "SAFETY",
        Reason::Malformed => "MALFORMED_RESPONSE",
    }
}
