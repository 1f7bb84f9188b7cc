//! Wire formats: one codec per format, both directions, pure. No I/O here, and no decisions: what a corrupt or missing frame means is
//! the relay's business.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, StatusCode};

use crate::chat;

mod codec;
pub mod converse;
pub mod embeddings;
pub mod eventstream;
pub mod fit;
pub mod gemini;
pub mod json;
mod kept;
pub mod loss;
pub mod messages;
#[cfg(test)]
mod metamorphic;
pub mod openai_chat;
mod others;
mod pass;
pub mod responses;
pub mod shape;
pub mod signature;
pub mod sse;

pub use codec::{Asked, Call, Codec, Decode, Dialect, Encode, Encoded, Naming, PLAIN};

/// The JSON and stream shape of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// OpenAI chat completions.
    OpenAiChat,
    /// OpenAI responses.
    Responses,
    /// Anthropic messages.
    Messages,
    /// Gemini `generateContent`.
    Gemini,
    /// Bedrock Converse.
    Converse,
    /// OpenAI embeddings.
    Embeddings,
    /// Gemini `batchEmbedContents`; no client speaks it.
    GeminiEmbeddings,
}

/// A client's request, read: what routing needs, and the bytes as they came.
#[derive(Debug, Clone)]
pub struct Inquiry {
    /// What it asks.
    pub request: chat::Request,
    /// The body, untouched.
    pub body: Bytes,
    /// Where in `body` the model's name stands; more than once where a client repeats the key.
    pub(crate) model_spans: Vec<std::ops::Range<usize>>,
}

/// Bytes that are not what the format asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Malformed {
    /// The field that is wrong, where one is.
    pub param: Option<Cow<'static, str>>,
    /// What is wrong with it, for whoever sent it.
    pub message: String,
}

/// An error as the client's format tells it.
#[derive(Debug, Clone)]
pub struct ErrorBody<'a> {
    /// The HTTP status that goes with it.
    pub status: u16,
    /// The class, in OpenAI's words; other formats have their own for the same statuses.
    pub kind: &'a str,
    /// A stable word for programs.
    pub code: &'a str,
    /// The field at fault.
    pub param: Option<&'a str>,
    /// For people.
    pub message: Cow<'a, str>,
}

impl Format {
    /// A letter that stands for it where space is short.
    pub const fn letter(self) -> char {
        match self {
            Format::OpenAiChat => 'c',
            Format::Responses => 's',
            Format::Messages => 'm',
            Format::Gemini => 'g',
            Format::Converse => 'b',
            Format::Embeddings => 'e',
            Format::GeminiEmbeddings => 'f',
        }
    }

    /// The content type of its streams.
    pub const fn stream_type(self) -> &'static str {
        match self {
            Format::Converse => "application/vnd.amazon.eventstream",
            _ => "text/event-stream",
        }
    }

    /// Whether a body that begins with these bytes is one of its streams; `None`: they are too few to tell.
    pub fn begins_as_stream(self, bytes: &[u8]) -> Option<bool> {
        match self {
            Format::Converse => eventstream::begins(bytes),
            _ => sse::begins(bytes),
        }
    }

    /// What ends its streams, where something does that says nothing else.
    pub const fn end_marker(self) -> &'static [u8] {
        match self {
            Format::OpenAiChat => b"data: [DONE]\n\n",
            Format::Messages => b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            _ => b"",
        }
    }

    /// The status that its clients know for what happened: Anthropic has one of its own for being overloaded.
    pub fn status(self, status: StatusCode) -> StatusCode {
        match self {
            Format::Messages if status == StatusCode::SERVICE_UNAVAILABLE => {
                StatusCode::from_u16(529).unwrap_or(status)
            }
            _ => status,
        }
    }

    /// A header that goes with an error, where the format has one.
    pub fn error_header(self, status: u16) -> Option<(HeaderName, &'static str)> {
        let name = HeaderName::from_static("x-amzn-errortype");
        (self == Format::Converse).then(|| (name, converse::error_type(status)))
    }

    /// Of the text with which an answer is to begin, what a vendor is not sent: Anthropic's takes no white space at the end.
    pub fn not_repeated(self, said: &str) -> &str {
        match self {
            Format::Messages => &said[said.trim_end().len()..],
            _ => "",
        }
    }

    /// Whether its answers are embeddings.
    pub const fn is_embeddings(self) -> bool {
        matches!(self, Format::Embeddings | Format::GeminiEmbeddings)
    }

    /// Whether a client's request in this format can be a vendor's in another.
    pub fn is_translated_into(self, vendor: Format) -> bool {
        self.is_embeddings() == vendor.is_embeddings()
    }

    /// Its codec.
    pub fn codec(self) -> &'static dyn Codec {
        match self {
            Format::OpenAiChat => &openai_chat::OpenAiChat,
            Format::Messages => &messages::Messages,
            Format::Embeddings => &embeddings::Embeddings,
            // Errors are the same; nothing else of it is asked for.
            Format::Gemini | Format::GeminiEmbeddings => &gemini::Gemini,
            Format::Converse => &converse::Converse,
            Format::Responses => &responses::Responses,
        }
    }

    /// Bytes of a request from which on it takes long to read what routing needs: mostly that means to decode it.
    pub const fn large(self) -> usize {
        match self {
            Format::OpenAiChat | Format::Embeddings => 64 << 10,
            _ => 16 << 10,
        }
    }

    /// Refuses a client's request that consists of more items than the limits allow. What reading it takes of memory depends on them.
    pub fn count_items(self, body: &[u8], limits: &shape::Limits) -> Result<(), Malformed> {
        self.outline().map_or(Ok(()), |outline| outline.count(body, limits))
    }

    /// Refuses a client's request at the first message, part, tool or other item that is of a wrong type.
    pub fn check_items(self, body: &[u8]) -> Result<(), Malformed> {
        self.outline().map_or(Ok(()), |outline| outline.check(body))
    }

    /// The body to send to a vendor of the same format: the client's own bytes, but for the model and what `patch`, a JSON Merge
    /// Patch, lays over them.
    pub fn pass_through(self, inquiry: &Inquiry, model: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
        pass::through(inquiry, model, patch)
    }

    /// The same for vendors that have the model in the path and a version in the body.
    pub fn pass_without_model(self, inquiry: &Inquiry, version: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
        pass::without_model(inquiry, version, patch)
    }
}

impl std::ops::Deref for Format {
    type Target = dyn Codec;

    fn deref(&self) -> &Self::Target {
        self.codec()
    }
}

impl Malformed {
    /// Bytes that are wrong as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        Self {
            param: None,
            message: message.into(),
        }
    }

    /// One field that is wrong.
    pub fn field(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            message: message.into(),
        }
    }
}
