//! AWS Bedrock Converse and ConverseStream.
//!
//! The model is in the path, as is whether a stream is wanted. Streams are AWS event streams, see [`super::eventstream`]; they have no
//! end marker. Fields are those of the service model in AWS's own SDKs, `bedrock-runtime` of 2023-09-30. What is a blob there is
//! base64 in JSON.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{Text, value};
use super::shape::Outline;
use super::{
    Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, Naming, eventstream, openai_chat, sse,
};
use crate::answer::{Answer, Event, Reason};
use crate::chat::{Request, Usage};
use crate::conversation::Conversation;
use crate::failure::VendorError;

mod answer;
mod call;
mod outline;
mod request;
mod writer;

/// See the module.
pub struct Converse;

impl Codec for Converse {
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
        call::encode(conversation, call)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::<answer::Reader>::default()
    }

    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        answer::decode(body, sink)
    }

    fn encoder(&self, _asked: &Asked) -> Box<dyn Encode> {
        Box::<writer::Writer>::default()
    }

    fn encode_answer(&self, answer: &Answer, _asked: &Asked) -> Vec<u8> {
        writer::encode(answer)
    }

    fn vendor_error(&self, body: &[u8]) -> VendorError {
        vendor_error(body)
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        let members: Option<Members<'_>> = serde_json::from_slice(body).ok();
        members.is_some_and(|members| members.get("message").or(members.get("Message")).is_some())
    }

    fn error(&self, error: &ErrorBody<'_>) -> Bytes {
        said(&error.message).into()
    }

    /// What a vendor says may have to be redacted, which no message outlives: its checksums would be wrong.
    fn raises(&self, _: &sse::Event<'_>) -> bool {
        false
    }

    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes {
        let mut out = Vec::new();
        write_exception(error, &mut out);
        out.into()
    }
}

/// Names of tools.
const TOOL: Naming = Naming {
    longest: 64,
    also: b"_-",
    starts_with_letter: false,
};
/// Ids of their calls.
const TOOL_USE_ID: Naming = Naming {
    longest: 64,
    also: b"_.:-",
    starts_with_letter: false,
};

/// Formats of documents, with their MIME types.
const DOCUMENTS: [(&str, &str); 9] = [
    ("pdf", "application/pdf"),
    ("csv", "text/csv"),
    ("doc", "application/msword"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    ("xls", "application/vnd.ms-excel"),
    (
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    ("html", "text/html"),
    ("txt", "text/plain"),
    ("md", "text/markdown"),
];

/// The words for why a model stopped. The first of a reason is the one that is written.
const STOP_REASONS: [(&str, Reason); 9] = [
    ("end_turn", Reason::Stop),
    ("stop_sequence", Reason::StopSequence),
    ("max_tokens", Reason::Length),
    ("model_context_window_exceeded", Reason::ContextWindow),
    ("tool_use", Reason::ToolCalls),
    ("content_filtered", Reason::Refused),
    ("guardrail_intervened", Reason::Refused),
    ("malformed_model_output", Reason::Malformed),
    ("malformed_tool_use", Reason::Malformed),
];

/// Exceptions of the service, with their HTTP statuses.
const EXCEPTIONS: [(&str, u16); 12] = [
    ("AccessDeniedException", 403),
    ("ConflictException", 400),
    ("InternalServerException", 500),
    ("ModelErrorException", 424),
    ("ModelNotReadyException", 429),
    ("ModelStreamErrorException", 424),
    ("ModelTimeoutException", 408),
    ("ResourceNotFoundException", 404),
    ("ServiceQuotaExceededException", 400),
    ("ServiceUnavailableException", 503),
    ("ThrottlingException", 429),
    ("ValidationException", 400),
];

/// The exception that goes with an HTTP status: the value of the header `x-amzn-errortype`, without which SDKs of AWS know none.
pub fn error_type(status: u16) -> &'static str {
    match status {
        401 | 403 => "AccessDeniedException",
        402 => "ServiceQuotaExceededException",
        404 => "ResourceNotFoundException",
        408 | 504 => "ModelTimeoutException",
        424 => "ModelErrorException",
        429 => "ThrottlingException",
        400..500 => "ValidationException",
        503 | 529 => "ServiceUnavailableException",
        _ => "InternalServerException",
    }
}

/// The exception of a stream that goes with an HTTP status: streams know five.
fn exception_type(status: u16) -> &'static str {
    match status {
        408 | 424 | 504 => "modelStreamErrorException",
        429 => "throttlingException",
        400..500 => "validationException",
        503 | 529 => "serviceUnavailableException",
        _ => "internalServerException",
    }
}

fn write_exception(error: &ErrorBody<'_>, out: &mut Vec<u8>) {
    eventstream::exception(exception_type(error.status), said(&error.message), out);
}

/// `{"message": ...}`
fn said(message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Said<'a> {
        message: &'a str,
    }
    serde_json::to_vec(&Said { message }).expect("a string serialises")
}

/// Reads an error. Its type is in a header where the body does not repeat it as `__type`.
fn vendor_error(body: &[u8]) -> VendorError {
    let Ok(members) = serde_json::from_slice::<Members<'_>>(body) else {
        return openai_chat::vendor_error(body);
    };
    let inner = members.get("Output").and_then(value::<Members<'_>>);
    let members = inner.unwrap_or(members);
    let Some(kind) = members.text("__type") else {
        return match members.text("message").or(members.text("Message")) {
            Some(message) if members.get("error").is_none() && members.get("code").is_none() => VendorError {
                message: message.into_owned(),
                ..VendorError::default()
            },
            _ => openai_chat::vendor_error(body),
        };
    };
    fault(&kind, &members)
}

/// An exception of a type and with a payload. The type may have a namespace before it and a URL behind it.
fn fault(kind: &str, members: &Members<'_>) -> VendorError {
    let kind = kind.rsplit('#').next().unwrap_or_default();
    let kind = kind.split(':').next().unwrap_or_default();
    let row = EXCEPTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind));
    let original = members.get("originalStatusCode").and_then(value::<u16>);
    let message = members
        .text("message")
        .or(members.text("Message"))
        .or(members.text("originalMessage"));
    VendorError {
        retry_after: None,
        code: row.map_or(kind, |(name, _)| name).to_owned(),
        status: original
            .filter(|status| (400..600).contains(status))
            .or(row.map(|(_, status)| *status)),
        message: message.unwrap_or_default().into_owned(),
    }
}

/// Counts of tokens. What does not look like counts is none: an answer is not worse for it.
fn usage(raw: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fields {
        input_tokens: Option<f64>,
        output_tokens: Option<f64>,
        cache_read_input_tokens: Option<f64>,
        cache_write_input_tokens: Option<f64>,
    }
    let fields: Fields = value(raw)?;
    let count = |number: Option<f64>| number.unwrap_or(0.0) as u64;
    let cached_tokens = count(fields.cache_read_input_tokens);
    let cache_write_tokens = count(fields.cache_write_input_tokens);
    Some(Usage {
        input_tokens: count(fields.input_tokens)
            .saturating_add(cached_tokens)
            .saturating_add(cache_write_tokens),
        cached_tokens,
        cache_write_tokens,
        output_tokens: count(fields.output_tokens),
        reasoning_tokens: 0,
    })
}

/// The members of a JSON object, as they came.
#[derive(Default)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// A member that is not null; the last, where a name comes twice.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.iter().rev().find(|(known, _)| *known == name).map(|(_, raw)| raw)
    }

    /// A member that is a string.
    fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// All members that are not null.
    fn iter(&self) -> impl DoubleEndedIterator<Item = (&Cow<'a, str>, &'a RawValue)> {
        let members = self.0.iter().filter(|(_, raw)| raw.get() != "null");
        members.map(|(name, raw)| (name, *raw))
    }

    /// What a union holds: its first member, and the name of it.
    fn kind(&self) -> Option<(&Cow<'a, str>, &'a RawValue)> {
        // Not in the service model, but in use.
        self.iter().find(|(name, _)| *name != "type")
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(Text(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A string, borrowed where it has no escapes.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    value::<Text<'_>>(raw).map(|text| text.0)
}

/// Whether a call is of one of the vendor's own tools. AWS gives the calls of clients' tools a type as well (`tool_use`), which its service
/// model does not list.
fn is_server_tool(call: &Members<'_>) -> bool {
    call.text("type").is_some_and(|kind| kind == "server_tool_use")
}

/// The ending of a file's name, without its dot.
fn extension(name: &str) -> Option<&str> {
    let (stem, ending) = name.rsplit_once('.')?;
    let is_ending = (1..=5).contains(&ending.len()) && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_ending && !stem.is_empty()).then_some(ending)
}

#[cfg(test)]
mod tests;
