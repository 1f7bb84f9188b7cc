//! What a codec is: all that the gateway knows of one wire format, in both directions.

use std::borrow::Cow;

use bytes::Bytes;

use super::shape::Outline;
use super::{ErrorBody, Format, Inquiry, Malformed, sse};
use crate::answer::{Answer, Event};
use crate::chat::Frame;
use crate::conversation::Conversation;
use crate::failure::VendorError;

/// One wire format. Everything here is pure.
///
/// Clients' and vendors' bytes are not to be trusted: nothing panics, whatever they are.
pub trait Codec: Sync {
    /// Reads what routing needs of a client's request. Lenient: what a vendor of the same format might understand is not refused.
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed>;

    /// What of a client's request is decoded; `None` where it is kept as it came.
    fn outline(&self) -> Option<&'static Outline>;

    /// Reads a client's request whole. As lenient.
    fn decode_request<'a>(&self, body: &'a [u8]) -> Result<Conversation<'a>, Malformed>;

    /// Writes a request for a vendor. What the format cannot say is left out; [`super::loss`] has decided that it may be. Fails only
    /// where the client's own bytes are at fault, such as arguments of a tool that are no JSON object.
    fn encode_request(&self, conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed>;

    /// Reads one event of a vendor's stream that passes through: what it means to the relay.
    fn frame(&self, decoder: &mut dyn Decode, event: &sse::Event<'_>) -> Result<Frame, Malformed> {
        let mut frame = Frame::default();
        decoder.event(event, &mut |event| frame.note(&event))?;
        Ok(frame)
    }

    /// What reads a vendor's stream.
    fn decoder(&self) -> Box<dyn Decode>;

    /// Reads a vendor's whole answer, as the stream that it would have been. An error in place of an answer is an
    /// [`Event::Error`]; bytes that are neither are malformed.
    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed>;

    /// What a vendor's whole answer that passes through means to the relay.
    fn answer(&self, body: &[u8]) -> Result<Frame, Malformed> {
        let mut frame = Frame::default();
        self.decode_answer(body, &mut |event| frame.note(&event))?;
        frame.end = true;
        Ok(frame)
    }

    /// What writes a stream for a client.
    fn encoder(&self, asked: &Asked) -> Box<dyn Encode>;

    /// Writes a whole answer for a client.
    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8>;

    /// Reads a vendor's error, whatever its shape.
    fn vendor_error(&self, body: &[u8]) -> VendorError;

    /// Whether a vendor's error has a shape that a client of this format can read.
    fn is_error_answer(&self, body: &[u8]) -> bool;

    /// Writes an error for a client.
    fn error(&self, error: &ErrorBody<'_>) -> Bytes;

    /// Whether clients of this format raise a vendor's event that says an error. Where they do not, it is written anew for them.
    fn raises(&self, event: &sse::Event<'_>) -> bool;

    /// Writes an error into a stream that has begun and was not written by [`Codec::encoder`]; no end marker follows it.
    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes;
}

/// Reads a vendor's stream. Bytes of a vendor's are not to be trusted: nothing here panics, and what is kept between events is bounded
/// by what came.
pub trait Decode: Send {
    /// Reads one event of the stream and hands `sink` what it says. Event streams of AWS come as events too, whose name is their
    /// `:event-type` or, for exceptions, `exception:` and the `:exception-type`.
    fn event(&mut self, event: &sse::Event<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed>;
}

/// Writes a stream for a client, framing included.
pub trait Encode: Send {
    /// Appends what an event is in this format; mostly at once, later where the format wants something first. [`Event::End`] comes
    /// last and once: usage that came behind the finish is known by then. [`Event::Error`] never comes here.
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>);

    /// Appends an error, behind which nothing follows.
    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>);
}

/// What an encoder of requests must know beside the conversation.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The format in which the client asked: its signatures are for vendors of that format only.
    pub client: Format,
    /// The vendor's name for the model.
    pub model: &'a str,
    /// A stream is wanted.
    pub streaming: bool,
    /// The most tokens of answer, for formats that must say it, where the client does not.
    pub default_max_tokens: u64,
    /// What is peculiar about the vendor.
    pub dialect: &'a Dialect,
}

/// What vendors of one format do differently. The row of a vendor has one; a format reads what concerns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// OpenAI chat: `max_completion_tokens` or `max_tokens`.
    pub max_tokens: &'static str,
    /// OpenAI chat: `seed` or `random_seed`.
    pub seed: &'static str,
    /// OpenAI chat: the word for "some tool": `required` or `any`.
    pub required: &'static str,
    /// OpenAI chat: the field of reasoning in the history of assistants; `None`: leave it out.
    pub reasoning: Option<&'static str>,
    /// OpenAI chat: it knows `stream_options`.
    pub stream_options: bool,
    /// OpenAI chat: it knows `user`, `prompt_cache_key` and `metadata`.
    pub user: bool,
    /// OpenAI chat: it knows `parallel_tool_calls`.
    pub parallel_tool_calls: bool,
    /// OpenAI chat: it knows `reasoning_effort`.
    pub effort: bool,
    /// Anthropic messages: the model takes its effort as a thinking budget, not as `output_config.effort`.
    pub thinking_budget: bool,
    /// Anthropic messages: `anthropic_version` of the body, where the vendor wants it there and the model and `stream` not.
    pub body_version: Option<&'static str>,
}

/// The dialect that the others differ from.
pub const PLAIN: Dialect = Dialect {
    max_tokens: "max_tokens",
    seed: "seed",
    required: "required",
    reasoning: None,
    stream_options: true,
    user: false,
    parallel_tool_calls: true,
    effort: true,
    thinking_budget: false,
    body_version: None,
};

/// A request, ready for a vendor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The body.
    pub body: Vec<u8>,
    /// Tools that go by another name there, as (name there, name here).
    pub renamed: Vec<(String, String)>,
}

/// What an encoder of answers must know of the request that is answered.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The gateway's id of the request, for formats whose answers must have an id and vendors that gave none.
    pub id: String,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model's name, as the client asked for it.
    pub model: String,
    /// The client's body, for formats whose answers repeat it.
    pub body: Bytes,
}

/// Rules for names of tools, and for ids of their calls.
#[derive(Debug, Clone, Copy)]
pub struct Naming {
    /// Most bytes.
    pub longest: usize,
    /// Whether a byte may be there, beside ASCII letters and digits.
    pub also: &'static [u8],
    /// Whether the first byte must be a letter or `_`.
    pub starts_with_letter: bool,
}

impl Naming {
    fn allows(&self, name: &str) -> bool {
        let first = name.bytes().next();
        (1..=self.longest).contains(&name.len())
            && name.bytes().all(|byte| self.allows_byte(byte))
            && (!self.starts_with_letter || first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_'))
    }

    fn allows_byte(&self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || self.also.contains(&byte)
    }

    /// The name itself, if it is allowed; otherwise one that is, always the same for the same name and, but for a collision of 64
    /// bits, never that of another.
    pub fn fit<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.allows(name) {
            return Cow::Borrowed(name);
        }
        let suffix = format!("_{:016x}", hash(name.as_bytes()));
        let mut fitted = String::with_capacity(self.longest.min(1 + name.len() + suffix.len()));
        if self.starts_with_letter && !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            fitted.push('_');
        }
        let room = self.longest - suffix.len() - fitted.len();
        let clean = |byte: u8| if self.allows_byte(byte) { byte as char } else { '_' };
        fitted.extend(name.bytes().take(room).map(clean));
        fitted.push_str(&suffix);
        fitted.into()
    }
}

/// FNV-1a, 64 bits: the same on every machine and in every version, since what is made of it comes back in later turns.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes
        .iter()
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_get_one_that_does() {
        let naming = Naming {
            longest: 24,
            also: b"_-",
            starts_with_letter: true,
        };
        assert_eq!(naming.fit("get_weather-2"), "get_weather-2");
        let fitted = naming.fit("1 very long näme of a tool").into_owned();
        assert!(naming.allows(&fitted), "{fitted}");
        assert_eq!(naming.fit("1 very long näme of a tool"), fitted);
        assert_ne!(naming.fit("1 very long näme of a tooL"), fitted);
        assert!(naming.allows(&naming.fit("")));
    }
}
