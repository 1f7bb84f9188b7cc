//! Vendors that refuse what the real ones refuse, with their status, body and words: one validator for each, written from its
//! documentation and from reports of its errors. What a validator has no opinion about, it takes.

mod anthropic;
mod bedrock;
mod gemini;
mod mistral;
mod openai;

use std::collections::HashSet;

use serde_json::{Value, json};

use super::script::Script;
use super::vendor::Received;

/// Why a vendor refuses a request: the status and body of its error.
pub struct Refusal {
    status: u16,
    body: Value,
}

/// What a vendor thinks of a request.
type Verdict = Result<(), Refusal>;

/// A vendor of a target that refuses like the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strict {
    Anthropic,
    Bedrock,
    Gemini,
    Mistral,
    OpenAi,
}

impl Strict {
    pub const ALL: [Strict; 5] = [
        Strict::Anthropic,
        Strict::Bedrock,
        Strict::Gemini,
        Strict::Mistral,
        Strict::OpenAi,
    ];

    /// The name of its row.
    pub fn vendor(self) -> &'static str {
        match self {
            Strict::Anthropic => "anthropic",
            Strict::Bedrock => "bedrock",
            Strict::Gemini => "gemini",
            Strict::Mistral => "mistral",
            Strict::OpenAi => "openai",
        }
    }

    /// A whole answer.
    fn answer(self) -> Value {
        match self {
            Strict::Anthropic => {
                json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": "understood"}], "usage": {"input_tokens": 5, "output_tokens": 2}})
            }
            Strict::Bedrock => {
                json!({"output": {"message": {"role": "assistant", "content": [{"text": "understood"}]}},
                "stopReason": "end_turn", "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7}})
            }
            Strict::Gemini => json!({"candidates": [{"index": 0, "finishReason": "STOP",
                "content": {"role": "model", "parts": [{"text": "understood"}]}}]}),
            Strict::Mistral | Strict::OpenAi => {
                json!({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [{"index": 0,
                "message": {"role": "assistant", "content": "understood"}, "finish_reason": "stop"}]})
            }
        }
    }

    /// Answers what it takes with a text, and refuses the rest.
    pub fn script(self) -> Script {
        Script::of(move |request| match self.check(request) {
            Ok(()) if request.head.line.contains("/responses") => Script::answer(&response().to_string()),
            Ok(()) => Script::answer(&self.answer().to_string()),
            Err(Refusal { status, body }) => Script::status(status, &[], &body.to_string()),
        })
    }

    fn check(self, request: &Received) -> Verdict {
        let body: Value = serde_json::from_slice(&request.body).expect("the gateway sends JSON");
        match self {
            Strict::Anthropic => anthropic::check(&body),
            Strict::Bedrock => bedrock::check(&body),
            Strict::Gemini => gemini::check(&body),
            Strict::Mistral => mistral::check(&body),
            Strict::OpenAi => openai::check(&request.head.line, &body),
        }
    }
}

/// A whole answer in the format of responses.
fn response() -> Value {
    json!({"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": [{"type": "message",
        "id": "msg_1", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "understood", "annotations": []}]}],
        "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}})
}

/// The members of a list; none where there is no list.
fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The first member of a list that was there before.
fn repeated<'v>(ids: impl IntoIterator<Item = &'v str>) -> Option<&'v str> {
    let mut seen = HashSet::new();
    ids.into_iter().find(|id| !seen.insert(*id))
}

/// Whether a text has only letters, digits and `also`, and at least 1 and at most `longest` of them.
fn is_word(text: &str, also: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || also.contains(char))
}
