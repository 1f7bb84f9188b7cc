//! Wire formats: one codec per format, both directions, pure. No I/O here, and no decisions: what a corrupt or missing frame means is
//! the relay's business.

use std::borrow::Cow;

use bytes::Bytes;

use crate::chat;
use crate::failure::VendorError;

pub mod openai_chat;
pub mod sse;

/// The JSON and stream shape of an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// OpenAI chat completions.
    OpenAiChat,
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
    pub param: Option<&'static str>,
    /// What is wrong with it, for whoever sent it.
    pub message: String,
}

/// An error as the client's format tells it.
#[derive(Debug, Clone)]
pub struct ErrorBody<'a> {
    /// The format's own class of errors.
    pub kind: &'a str,
    /// A stable word for programs.
    pub code: &'a str,
    /// The field at fault.
    pub param: Option<&'a str>,
    /// For people.
    pub message: Cow<'a, str>,
}

impl Format {
    /// The path under a vendor's base URL.
    pub const fn path(self) -> &'static str {
        match self {
            Format::OpenAiChat => openai_chat::PATH,
        }
    }

    /// Reads a client's request.
    pub fn read(self, body: Bytes) -> Result<Inquiry, Malformed> {
        match self {
            Format::OpenAiChat => openai_chat::read(body),
        }
    }

    /// The body to send to a vendor of the same format: the client's own bytes, but for the model and what `patch`, a JSON Merge
    /// Patch, lays over them.
    pub fn pass_through(self, inquiry: &Inquiry, model: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
        match self {
            Format::OpenAiChat => openai_chat::pass_through(inquiry, model, patch),
        }
    }

    /// Reads one event of a vendor's stream.
    pub fn frame(self, event: &sse::Event<'_>) -> Result<chat::Frame, Malformed> {
        match self {
            Format::OpenAiChat => openai_chat::frame(event),
        }
    }

    /// Reads a vendor's whole answer.
    pub fn answer(self, body: &[u8]) -> Result<chat::Frame, Malformed> {
        match self {
            Format::OpenAiChat => openai_chat::answer(body),
        }
    }

    /// Reads a vendor's error, whatever its shape.
    pub fn vendor_error(self, body: &[u8]) -> VendorError {
        match self {
            Format::OpenAiChat => openai_chat::vendor_error(body),
        }
    }

    /// Whether a vendor's error has a shape that the client can read.
    pub fn is_error_answer(self, body: &[u8]) -> bool {
        match self {
            Format::OpenAiChat => openai_chat::is_error_answer(body),
        }
    }

    /// Writes an error for the client.
    pub fn error(self, error: &ErrorBody<'_>) -> Bytes {
        match self {
            Format::OpenAiChat => openai_chat::error(error),
        }
    }

    /// Writes an error into a stream that has begun; no end marker follows it.
    pub fn error_event(self, error: &ErrorBody<'_>) -> Bytes {
        match self {
            Format::OpenAiChat => openai_chat::error_event(error),
        }
    }

    /// The (role, text) of every message, oldest first.
    pub fn messages(self, body: &[u8]) -> Vec<(String, String)> {
        match self {
            Format::OpenAiChat => openai_chat::messages(body),
        }
    }
}
