//! Anthropic messages, in both API versions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{is_something, parse, plain, span, value};
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Format, Inquiry, Malformed, Naming, openai_chat};
use crate::answer::{Answer, Event};
use crate::chat::{MAX_NAME, Request};
use crate::conversation::Conversation;
use crate::failure::VendorError;

mod answer_in;
mod answer_out;
mod request_in;
mod request_out;
#[cfg(test)]
mod tests;

/// See the module.
pub struct Messages;

/// Names of tools: `^[a-zA-Z0-9_-]{1,64}$`.
const TOOL_NAMES: Naming = Naming {
    longest: 64,
    also: b"_-",
    starts_with_letter: false,
};

/// Ids of calls: `^[a-zA-Z0-9_-]+$`, of a length that no vendor exceeds.
const CALL_IDS: Naming = Naming {
    longest: 64,
    also: b"_-",
    starts_with_letter: false,
};

impl Codec for Messages {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        #[derive(Deserialize)]
        struct Top<'a> {
            #[serde(borrow)]
            model: Option<&'a RawValue>,
        }
        let text = std::str::from_utf8(&body).map_err(|_| Malformed::whole("the request body is not UTF-8"))?;
        let conversation = self.decode_request(&body)?;
        if conversation.model.len() > MAX_NAME {
            return Err(Malformed::field("model", "`model` is longer than 256 bytes"));
        }
        let request = Request::of(&conversation);
        let top: Top<'_> = parse(&body)?;
        let model_spans = top.model.iter().map(|raw| span(text, raw.get())).collect();
        drop(conversation);
        Ok(Inquiry {
            request,
            body,
            model_spans,
        })
    }

    fn decode_request<'a>(&self, body: &'a [u8]) -> Result<Conversation<'a>, Malformed> {
        request_in::decode(body)
    }

    fn encode_request(&self, conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
        request_out::encode(conversation, call)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::new(answer_in::Decoder::default())
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
        #[derive(Deserialize)]
        struct Outer<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        let outer = serde_json::from_slice::<Outer<'_>>(body).ok();
        outer
            .and_then(|outer| error_of(outer.error?))
            .unwrap_or_else(|| openai_chat::OpenAiChat.vendor_error(body))
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Outer<'a> {
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        let outer = serde_json::from_slice::<Outer<'_>>(body).ok();
        outer.is_some_and(|outer| outer.error.is_some_and(|error| error.get().starts_with('{')))
    }

    fn error(&self, error: &ErrorBody<'_>) -> Bytes {
        #[derive(Serialize)]
        struct Outer<'a> {
            r#type: &'static str,
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            r#type: &'static str,
            message: &'a str,
        }
        let inner = Inner {
            r#type: error_type(error.status),
            message: &error.message,
        };
        let outer = Outer {
            r#type: "error",
            error: inner,
        };
        serde_json::to_vec(&outer).expect("strings serialise").into()
    }

    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes {
        [b"event: error\ndata: ", self.error(error).as_ref(), b"\n\n"]
            .concat()
            .into()
    }
}

/// The type of an error, as Anthropic's API names them for each status.
const fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        408 | 504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// An `error` object: its type, or the finer code that some have.
fn error_of(raw: &RawValue) -> Option<VendorError> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        r#type: Option<&'a RawValue>,
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
        #[serde(borrow, default)]
        details: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Details {
        error_code: Option<String>,
    }
    let fields: Fields<'_> = value(raw)?;
    let text = |raw: Option<&RawValue>| raw.filter(|raw| is_something(raw)).map(plain).unwrap_or_default();
    let kind = text(fields.r#type);
    if kind.is_empty() && fields.message.is_none() {
        return None;
    }
    let code = fields
        .details
        .and_then(value::<Details>)
        .and_then(|details| details.error_code);
    Some(VendorError {
        status: status_of(&kind),
        code: code.unwrap_or(kind),
        message: text(fields.message),
    })
}

/// The status that goes with a type of error, for those that come inside a stream.
fn status_of(kind: &str) -> Option<u16> {
    Some(match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "api_error" => 500,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}

/// Whether a signature is one of this format's, for a client of another.
fn own_signature<'a>(signature: &std::borrow::Cow<'a, str>, client: Format) -> Option<std::borrow::Cow<'a, str>> {
    super::signature::for_vendor(signature, client, Format::Messages)
}
