//! OpenAI responses: items instead of messages, and a stream of named events that carries the whole answer once more at its end.
//!
//! Requests and answers are translated without the state that the vendor could keep: what a client wants of earlier turns is in its
//! request. Fields are those of OpenAI's API reference and SDKs, and what servers that speak the format leave out.

use bytes::Bytes;
use serde::Serialize;

use super::shape::Outline;
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, openai_chat, sse};
use crate::answer::{Answer, Event};
use crate::chat::Frame;
use crate::conversation::Conversation;
use crate::failure::VendorError;

mod client_answer;
mod client_request;
mod echo;
mod fields;
mod line;
mod outline;
mod vendor_answer;
mod vendor_request;

#[cfg(test)]
mod tests;

/// See the module.
pub struct Responses;

/// What the encrypted content of a reasoning item begins with, where it is reasoning for its vendor's eyes only.
const REDACTED: &str = "redacted.";

/// What the encrypted content of a reasoning item begins with, where it is the proof behind the tool call that follows: calls have no
/// field of their own for it.
const OF_CALL: &str = "call.";

/// What an opaque block is called, where it is a part of a message and not an item: this, and its type.
const PART: &str = "content.";

/// What an opaque piece of an answer is called, where it is a note on the text before it, such as a citation.
const ANNOTATION: &str = "annotation";

impl Codec for Responses {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        client_request::read(body)
    }

    fn outline(&self) -> Option<&'static Outline> {
        Some(&outline::REQUEST)
    }

    fn decode_request<'a>(&self, body: &'a [u8]) -> Result<Conversation<'a>, Malformed> {
        client_request::decode(body)
    }

    fn encode_request(&self, conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
        vendor_request::encode(conversation, call)
    }

    /// Hosted tools stream what only this format can say: that is content too, long before the item is complete.
    fn frame(&self, decoder: &mut dyn Decode, event: &sse::Event<'_>) -> Result<Frame, Malformed> {
        let mut frame = Frame::default();
        decoder.event(event, &mut |event| frame.note(&event))?;
        frame.content = frame.content || vendor_answer::says_something(event);
        Ok(frame)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::new(vendor_answer::Stream::default())
    }

    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        vendor_answer::decode(body, sink)
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encode> {
        Box::new(client_answer::Stream::new(asked))
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        client_answer::encode(answer, asked)
    }

    fn vendor_error(&self, body: &[u8]) -> VendorError {
        openai_chat::vendor_error(body)
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        openai_chat::is_error_answer(body)
    }

    fn error(&self, error: &ErrorBody<'_>) -> Bytes {
        openai_chat::error(error)
    }

    /// A response that failed is the vendor's last word in this format, and an answer of its own kind.
    fn raises(&self, event: &sse::Event<'_>) -> bool {
        openai_chat::raises(event) || vendor_answer::is_failed(event)
    }

    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes {
        let mut out = Vec::new();
        write_error(error, 0, &mut out);
        out.into()
    }
}

/// Appends the event of an error. SDKs raise it for its `error` object.
fn write_error(error: &ErrorBody<'_>, sequence_number: u64, out: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Outer<'a> {
        r#type: &'static str,
        sequence_number: u64,
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        r#type: &'a str,
        code: &'a str,
        message: &'a str,
        param: Option<&'a str>,
    }
    let inner = Inner {
        r#type: error.kind,
        code: error.code,
        message: &error.message,
        param: error.param,
    };
    let outer = Outer {
        r#type: "error",
        sequence_number,
        error: inner,
    };
    write_event("error", &outer, out);
}

/// Appends one event of a stream.
fn write_event(name: &str, data: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    write_json(data, out);
    out.extend_from_slice(b"\n\n");
}

/// Appends JSON.
fn write_json(data: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, data).expect("strings, numbers and raw JSON serialise into memory");
}
