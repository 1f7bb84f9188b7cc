//! What the gateway understands of requests and answers, whatever their wire format. Plain data.

use crate::failure::VendorError;

/// What routing needs of a client's request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The model name the client asked for.
    pub model: String,
    /// The client wants its answer as a stream.
    pub streaming: bool,
    /// Tools are offered to the model.
    pub uses_tools: bool,
    /// Images are among the messages.
    pub has_images: bool,
    /// Estimated size of the prompt, in tokens.
    pub input_tokens: u32,
    /// The most that the client wants back, in tokens.
    pub max_output_tokens: Option<u32>,
    /// Hash of the opening messages, the same for all turns of a conversation; 0 when unknown.
    pub conversation: u32,
    /// What the client itself calls the session, so that turns which share a prompt cache can be kept together.
    pub session: Option<String>,
    /// The request's own metadata, as (name, value).
    pub metadata: Vec<(String, String)>,
}

/// Tokens of one answer, as the vendor counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The whole prompt, cached parts included.
    pub input_tokens: u64,
    /// The part of the prompt that came from the vendor's cache.
    pub cached_tokens: u64,
    /// The whole answer, reasoning included.
    pub output_tokens: u64,
    /// The part of the answer that was reasoning.
    pub reasoning_tokens: u64,
}

/// What one frame of a stream, or a whole answer, means to the relay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frame {
    /// The first of these commits the answer: text, tool calls, reasoning, or a finish that comes without any.
    pub content: bool,
    /// Tokens so far; the last that is seen counts.
    pub usage: Option<Usage>,
    /// The choices that the frame is about, a bit for each index.
    pub choices: u128,
    /// Those of them that the model has finished.
    pub finished: u128,
    /// The format's end marker.
    pub end: bool,
    /// The vendor's error instead of an answer.
    pub error: Option<VendorError>,
}

/// Rough tokens of a text: four bytes each, which is within a third for English, code and JSON.
pub fn estimated_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}
