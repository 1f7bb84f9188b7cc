//! Anthropic messages. Fields are those of Anthropic's API reference and of its SDKs, for both of its API versions, and what other
//! servers that speak the format leave out.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{Text, is_something, parse, value};
use super::shape::Outline;
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, Naming, sse};
use crate::answer::{Answer, Event};
use crate::chat::Usage;
use crate::conversation::Conversation;
use crate::failure::VendorError;

mod answer_in;
mod answer_out;
mod outline;
mod request_in;
mod request_out;
mod shapes;
#[cfg(test)]
mod tests;
mod thinking;

pub(super) use thinking::cannot_think;

/// See the module.
pub struct Messages;

/// Names of tools: `^[a-zA-Z0-9_-]{1,64}$`, which every version of every server takes.
const TOOL_NAMES: Naming = Naming {
    longest: 64,
    also: b"_-",
    starts_with_letter: false,
};

/// Ids of tool calls: `^[a-zA-Z0-9_-]+$`. The length is ours, beyond what any vendor makes.
const CALL_IDS: Naming = Naming {
    longest: 256,
    also: b"_-",
    starts_with_letter: false,
};

impl Codec for Messages {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        request_in::read(body)
    }

    fn outline(&self) -> Option<&'static Outline> {
        Some(&outline::REQUEST)
    }

    fn decode_request<'a>(&self, body: &'a [u8]) -> Result<Conversation<'a>, Malformed> {
        request_in::decode(body)
    }

    fn encode_request(&self, conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
        request_out::encode(conversation, call)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::<answer_in::Decoder>::default()
    }

    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        answer_in::whole(body, sink)
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encode> {
        Box::new(answer_out::Encoder::new(asked))
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        answer_out::whole(answer, asked)
    }

    fn vendor_error(&self, body: &[u8]) -> VendorError {
        parse::<ErrorAnswer>(body)
            .ok()
            .and_then(|answer| error_of(answer.error?))
            .unwrap_or_else(|| super::openai_chat::vendor_error(body))
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        parse::<ErrorAnswer>(body).is_ok_and(|answer| {
            answer.r#type.is_some_and(|kind| kind.0 == "error")
                && answer.error.is_some_and(|error| error.get().starts_with('{'))
        })
    }

    fn error(&self, error: &ErrorBody<'_>) -> Bytes {
        written_error(error).into()
    }

    /// SDKs go by the event's name, and drop one that has none.
    fn raises(&self, event: &sse::Event<'_>) -> bool {
        event.name == b"error" && event.data.as_deref().is_some_and(|data| self.is_error_answer(data))
    }

    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes {
        let mut out = Vec::new();
        write_error_event(error, &mut out);
        out.into()
    }
}

/// Writes the answer of `count_tokens`.
pub fn count_answer(input_tokens: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Count {
        input_tokens: u64,
    }
    serde_json::to_vec(&Count { input_tokens }).unwrap_or_default()
}

/// Reads a vendor's answer of `count_tokens`; `None` when it is another.
pub fn read_count(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Count {
        input_tokens: u64,
    }
    parse::<Count>(body).ok().map(|count| count.input_tokens)
}

/// Types of errors and the statuses that they come with, from Anthropic's error reference.
const ERRORS: [(u16, &str); 11] = [
    (400, "invalid_request_error"),
    (401, "authentication_error"),
    (402, "billing_error"),
    (403, "permission_error"),
    (404, "not_found_error"),
    (409, "conflict_error"),
    (413, "request_too_large"),
    (429, "rate_limit_error"),
    (500, "api_error"),
    (504, "timeout_error"),
    (529, "overloaded_error"),
];

/// The type of an error with a status.
fn error_type(status: u16) -> &'static str {
    let known = ERRORS.iter().find(|(known, _)| *known == status);
    match (known, status) {
        (Some((_, kind)), _) => kind,
        (None, 408) => "timeout_error",
        (None, 503) => "overloaded_error",
        (None, 500..) => "api_error",
        (None, _) => "invalid_request_error",
    }
}

#[derive(Deserialize)]
struct ErrorAnswer<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// An error in Anthropic's shape; `None` when it has another.
fn error_of(raw: &RawValue) -> Option<VendorError> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        r#type: Text<'a>,
        #[serde(borrow, default)]
        message: Option<Text<'a>>,
        #[serde(borrow, default)]
        code: Option<&'a RawValue>,
        #[serde(borrow, default)]
        details: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Details<'a> {
        #[serde(borrow, default)]
        error_code: Option<Text<'a>>,
    }
    let fields: Fields = value(raw)?;
    if fields.code.is_some_and(is_something) {
        return None;
    }
    let kind = fields.r#type.0;
    let code = fields
        .details
        .and_then(value::<Details>)
        .and_then(|details| details.error_code)
        .map(|code| code.0.into_owned())
        .filter(|code| !code.is_empty());
    let status = ERRORS.iter().find(|(_, known)| *known == kind);
    Some(VendorError {
        retry_after: None,
        status: status.map(|(status, _)| *status),
        code: code.unwrap_or_else(|| kind.into_owned()),
        message: fields.message.map(|message| message.0.into_owned()).unwrap_or_default(),
    })
}

fn written_error(error: &ErrorBody<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Outer<'a> {
        r#type: &'static str,
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        r#type: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<Details<'a>>,
    }
    #[derive(Serialize)]
    struct Details<'a> {
        error_code: &'a str,
    }
    let details = Details { error_code: error.code };
    let inner = Inner {
        r#type: error_type(error.status),
        message: &error.message,
        details: Some(details).filter(|details| !details.error_code.is_empty()),
    };
    let outer = Outer {
        r#type: "error",
        error: inner,
    };
    serde_json::to_vec(&outer).unwrap_or_default()
}

fn write_error_event(error: &ErrorBody<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: error\ndata: ");
    out.extend_from_slice(&written_error(error));
    out.extend_from_slice(b"\n\n");
}

/// Counts of tokens as they come: a later object says anew only what has changed. Input tokens are those that are neither read from
/// a cache nor written to it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Counts {
    #[serde(default)]
    input_tokens: Option<f64>,
    #[serde(default)]
    cache_read_input_tokens: Option<f64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<f64>,
    #[serde(default)]
    output_tokens: Option<f64>,
    #[serde(default)]
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct OutputDetails {
    #[serde(default)]
    thinking_tokens: Option<f64>,
}

impl Counts {
    fn update(&mut self, newer: Counts) {
        self.input_tokens = newer.input_tokens.or(self.input_tokens);
        self.cache_read_input_tokens = newer.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens = newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
        self.output_tokens_details = newer.output_tokens_details.or(self.output_tokens_details);
    }

    fn usage(self) -> Usage {
        let count = |number: Option<f64>| number.unwrap_or(0.0) as u64;
        let (cached, written) = (
            count(self.cache_read_input_tokens),
            count(self.cache_creation_input_tokens),
        );
        let details = self.output_tokens_details.and_then(|details| details.thinking_tokens);
        Usage {
            input_tokens: count(self.input_tokens).saturating_add(cached).saturating_add(written),
            cached_tokens: cached,
            cache_write_tokens: written,
            output_tokens: count(self.output_tokens),
            reasoning_tokens: count(details),
        }
    }
}
