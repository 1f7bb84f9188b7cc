//! The JSON of answers as it is written.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::answer::Piece;
use crate::chat::Usage;
use crate::wire::json;

/// The raw text of an object.
pub fn object(json: &str) -> Option<&RawValue> {
    serde_json::from_str::<&RawValue>(json)
        .ok()
        .filter(|raw| raw.get().starts_with('{'))
}

/// A whole answer, or the one that a stream begins with.
#[derive(Serialize)]
pub struct Message<'a> {
    pub id: &'a str,
    pub r#type: &'static str,
    pub role: &'static str,
    pub model: &'a str,
    pub content: Vec<Block<'a>>,
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_details: Option<Details<'a>>,
    pub usage: UsageOut,
}

/// Why the model will not answer.
#[derive(Serialize)]
pub struct Details<'a> {
    pub r#type: &'static str,
    pub category: Option<&'static str>,
    pub explanation: &'a str,
}

/// A block of an answer.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        citations: Option<Vec<&'a RawValue>>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
    #[serde(untagged)]
    Raw(&'a RawValue),
}

impl<'a> Block<'a> {
    /// A text with what it cites, if there is anything of either.
    pub fn text(text: &'a str, citations: &mut Vec<&'a RawValue>) -> Option<Self> {
        let citations = Some(std::mem::take(citations)).filter(|citations| !citations.is_empty());
        (!text.is_empty() || citations.is_some()).then_some(Block::Text { text, citations })
    }

    /// A piece of a whole answer, but for what the answer's end says.
    pub fn of(piece: &'a Piece) -> Option<Self> {
        Some(match piece {
            Piece::Text(text) => Block::Text { text, citations: None },
            Piece::Refusal(_) => return None,
            Piece::Reasoning { text, signature: None } if text.is_empty() => return None,
            Piece::Reasoning { text, signature } => Block::Thinking {
                thinking: text,
                signature: signature.as_deref().unwrap_or_default(),
            },
            Piece::Redacted(data) => Block::RedactedThinking { data },
            Piece::ToolCall(call) => Block::ToolUse {
                id: &call.id,
                name: &call.name,
                input: json::object(&call.arguments).or_else(|| unread(&call.arguments))?,
            },
            Piece::Opaque { json, .. } => Block::Raw(object(json)?),
        })
    }
}

/// Arguments that are no object, as a member of one: the client can see what the model wrote.
fn unread(arguments: &str) -> Option<Cow<'static, RawValue>> {
    #[derive(Serialize)]
    struct Unread<'a> {
        invalid_arguments: &'a str,
    }
    let unread = Unread {
        invalid_arguments: arguments,
    };
    serde_json::value::to_raw_value(&unread).ok().map(Cow::Owned)
}

/// Tokens: those of the input that are neither read from a cache nor written to it stand apart.
#[derive(Serialize, Default)]
pub struct UsageOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_creation_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read_input_tokens: Option<u64>,
    pub output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens_details: Option<OutputDetails>,
}

/// Parts of the output.
#[derive(Serialize)]
pub struct OutputDetails {
    pub thinking_tokens: u64,
}

impl UsageOut {
    /// What the vendor counted.
    pub fn of(usage: Usage) -> Self {
        let fresh = usage.input_tokens.saturating_sub(usage.cached_tokens);
        let thinking_tokens = usage.reasoning_tokens;
        Self {
            input_tokens: Some(fresh.saturating_sub(usage.cache_write_tokens)),
            cache_creation_input_tokens: Some(usage.cache_write_tokens),
            cache_read_input_tokens: Some(usage.cached_tokens),
            output_tokens: usage.output_tokens,
            output_tokens_details: (thinking_tokens > 0).then_some(OutputDetails { thinking_tokens }),
        }
    }
}

/// An event of a stream.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Step<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: u32, content_block: Block<'a> },
    ContentBlockDelta { index: u32, delta: Delta<'a> },
    ContentBlockStop { index: u32 },
    MessageDelta { delta: StopOut<'a>, usage: UsageOut },
    MessageStop {},
}

/// How a stream ends.
#[derive(Serialize)]
pub struct StopOut<'a> {
    pub stop_reason: &'static str,
    pub stop_sequence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_details: Option<Details<'a>>,
}

/// More of a block.
#[derive(Serialize)]
#[serde(tag = "type")]
pub enum Delta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "citations_delta")]
    Citations { citation: &'a RawValue },
}

impl Step<'_> {
    fn name(&self) -> &'static str {
        match self {
            Step::MessageStart { .. } => "message_start",
            Step::ContentBlockStart { .. } => "content_block_start",
            Step::ContentBlockDelta { .. } => "content_block_delta",
            Step::ContentBlockStop { .. } => "content_block_stop",
            Step::MessageDelta { .. } => "message_delta",
            Step::MessageStop {} => "message_stop",
        }
    }
}

/// Appends an event with its name.
pub fn write(out: &mut Vec<u8>, step: &Step<'_>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(step.name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    // A vector takes everything, and nothing in a step can fail.
    let _ = serde_json::to_writer(&mut *out, step);
    out.extend_from_slice(b"\n\n");
}
