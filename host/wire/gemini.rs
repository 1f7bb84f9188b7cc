//! Gemini `generateContent`, of Google AI Studio and of Vertex AI.
//!
//! The model and whether a stream is wanted stand in the path. Fields may be spelled `likeThis` and `like_this`. What a thought or a
//! tool call was signed with is base64 here; see `proof`. Tool calls may come without ids: those of a request get `call_TURN_N`, those
//! of an answer `call_ANSWER_N`.

use bytes::Bytes;

use super::shape::Outline;
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, Naming, sse};
use crate::answer::{Answer, Event};
use crate::chat::{Frame, Request};
use crate::conversation::Conversation;
use crate::failure::VendorError;

mod answer;
pub mod embeddings;
mod errors;
mod object;
mod outline;
mod part;
mod partial;
mod proof;
mod reason;
mod request;
mod schema;
mod sent;
#[cfg(test)]
mod tests;
mod told;

pub use errors::DAILY_QUOTA;

/// See the module.
pub struct Gemini;

/// Rules for names of tools, as Google's reference states them.
const NAMES: Naming = Naming {
    longest: 128,
    also: b"_.:-",
    starts_with_letter: true,
};

impl Codec for Gemini {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        let request = Request::of(&request::decode(&body)?);
        Ok(Inquiry {
            request,
            body,
            model_spans: Vec::new(),
        })
    }

    fn outline(&self) -> Option<&'static Outline> {
        Some(&outline::REQUEST)
    }

    fn decode_request<'a>(&self, body: &'a [u8]) -> Result<Conversation<'a>, Malformed> {
        request::decode(body)
    }

    fn encode_request(&self, conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
        sent::encode(conversation, call)
    }

    fn frame(&self, decoder: &mut dyn Decode, event: &sse::Event<'_>) -> Result<Frame, Malformed> {
        let mut frame = Frame::default();
        decoder.event(event, &mut |event| frame.note(&event))?;
        // Several candidates pass through only, so the decoder does not know them.
        for (index, is_finished, has_content) in event.data.as_deref().map(answer::other_candidates).unwrap_or_default()
        {
            let bit = 1u128.checked_shl(index).unwrap_or(0);
            frame.choices |= bit;
            frame.finished |= if is_finished { bit } else { 0 };
            frame.content |= has_content || is_finished;
        }
        Ok(frame)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::new(answer::Decoder::default())
    }

    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        answer::decode(body, sink)
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encode> {
        Box::new(told::Encoder::new(told::Framing::Events, asked))
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        told::encode(answer, asked)
    }

    fn vendor_error(&self, body: &[u8]) -> VendorError {
        errors::vendor(body)
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        errors::is_readable(body)
    }

    fn error(&self, error: &ErrorBody<'_>) -> Bytes {
        errors::write(error).into()
    }

    fn raises(&self, event: &sse::Event<'_>) -> bool {
        event.data.as_deref().is_some_and(errors::is_readable)
    }

    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes {
        [b"data: ", errors::write(error).as_slice(), b"\r\n\r\n"]
            .concat()
            .into()
    }
}

impl Gemini {
    /// What writes a stream for a client that asked without `alt=sse`: one JSON array, an item for each chunk.
    pub fn array_encoder(asked: &Asked) -> Box<dyn Encode> {
        Box::new(told::Encoder::new(told::Framing::Array, asked))
    }
}

/// Reads a `countTokens` request, whose contents may stand inside a `generateContentRequest`.
pub fn decode_count_request(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    request::decode_count(body)
}

/// Writes the answer to a `countTokens` request.
pub fn count_answer(total: u64) -> Vec<u8> {
    format!("{{\"totalTokens\":{total}}}").into_bytes()
}

/// Reads a vendor's answer to a `countTokens` request.
pub fn read_count(body: &[u8]) -> Option<u64> {
    super::json::parse::<object::Object>(body).ok()?.count("totalTokens")
}
