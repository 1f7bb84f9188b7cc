//! AWS event streams, `application/vnd.amazon.eventstream`: cutting a byte stream into whole messages, reading them as events, and
//! writing them.
//!
//! A message is its own length, that of its headers and a checksum of both, four bytes each; then the headers, the payload, and a
//! checksum of everything before it. [`aws_smithy_eventstream`] knows the details.

use std::borrow::Cow;

use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use serde::Serialize;

use super::{Malformed, sse};

/// Most bytes of headers, as AWS's own SDKs have it.
const MAX_HEADERS: usize = 128 << 10;
/// Most bytes of payload, likewise.
const MAX_PAYLOAD: usize = 24 << 20;
/// Bytes of the lengths and their checksum.
const PRELUDE: usize = 12;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 4;
/// What the name of an exception begins with, as an event.
pub const EXCEPTION: &str = "exception:";

/// Cuts a stream into messages. Bytes go in as they arrive and come out unchanged.
#[derive(Debug, Default)]
pub struct Splitter {
    /// What has arrived of the message that is not complete yet.
    partial: BytesMut,
    /// Something came that is no message: there is nothing to wait for any more.
    is_broken: bool,
}

impl Splitter {
    /// Takes the next bytes and returns all messages that are complete now, as they came, in one piece; empty when there is none.
    /// Bytes that cannot become a message are handed out at once, for [`split_first`] to say so.
    pub fn push(&mut self, bytes: Bytes) -> Bytes {
        if self.is_broken {
            return bytes;
        }
        if self.partial.is_empty() {
            let whole = self.whole(&bytes);
            self.partial.extend_from_slice(bytes.get(whole..).unwrap_or_default());
            return bytes.slice(..whole);
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(&bytes);
        let whole = self.whole(&partial);
        let messages = partial.split_to(whole).freeze();
        self.partial = partial;
        messages
    }

    /// Bytes of the message that is not complete yet.
    pub fn pending(&self) -> usize {
        self.partial.len()
    }

    /// What is left when the stream has ended: a message that was cut.
    pub fn finish(&mut self) -> Bytes {
        self.partial.split().freeze()
    }

    /// The length of the whole messages at the beginning of some bytes.
    fn whole(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..) {
            match message_len(rest) {
                Ok(Some(len)) if len <= rest.len() => at += len,
                Ok(_) => break,
                Err(_) => {
                    self.is_broken = true;
                    return bytes.len();
                }
            }
        }
        at
    }
}

/// Whether some bytes begin with a message; `None`: they are too few to tell.
pub fn begins(bytes: &[u8]) -> Option<bool> {
    match message_len(bytes) {
        Ok(None) => None,
        Ok(Some(_)) => Some(true),
        Err(_) => Some(false),
    }
}

/// The length of the message that some bytes begin with; `None` when they are too few to tell.
fn message_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((prelude, _)) = bytes.split_first_chunk::<PRELUDE>() else {
        return Ok(None);
    };
    let [t0, t1, t2, t3, h0, h1, h2, h3, c0, c1, c2, c3] = *prelude;
    let total = u32::from_be_bytes([t0, t1, t2, t3]) as usize;
    let headers = u32::from_be_bytes([h0, h1, h2, h3]) as usize;
    let payload = total
        .checked_sub(PRELUDE + CHECKSUM)
        .and_then(|rest| rest.checked_sub(headers));
    let fits = headers <= MAX_HEADERS && payload.is_some_and(|payload| payload <= MAX_PAYLOAD);
    let checksum = crc32([t0, t1, t2, t3, h0, h1, h2, h3]);
    if !fits || checksum != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Err(Malformed::whole("the bytes are no message of an AWS event stream"));
    }
    Ok(Some(total))
}

/// The checksum of a message's lengths, without which lengths that are none would be waited for: CRC-32 of IEEE 802.3.
fn crc32(bytes: [u8; 8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (if crc & 1 == 1 { 0xedb8_8320 } else { 0 });
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// The first of some messages as an event, and the bytes behind it; `None` when there is nothing left.
///
/// The event's name is the message's `:event-type` or, for exceptions, [`EXCEPTION`] and the `:exception-type`; its data is the
/// payload. The name of an exception that is not among [`EXCEPTIONS`], and of an error, is [`EXCEPTION`] alone: its data is
/// `{"__type": the type or code, "message": what is said}`.
pub fn split_first(bytes: &[u8]) -> Result<Option<(sse::Event<'_>, &[u8])>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let cut = || Malformed::whole("the event stream ends in the middle of a message");
    let len = message_len(bytes)?.ok_or_else(cut)?;
    let (frame, rest) = bytes.split_at_checked(len).ok_or_else(cut)?;
    let message = read_message_from(frame)
        .map_err(|error| Malformed::whole(format!("a message of the event stream cannot be read: {error}")))?;
    Ok(Some((event(&message, frame), rest)))
}

/// Exceptions that a stream may bring.
pub const EXCEPTIONS: [&str; 8] = [
    "exception:internalServerException",
    "exception:modelErrorException",
    "exception:modelNotReadyException",
    "exception:modelStreamErrorException",
    "exception:modelTimeoutException",
    "exception:serviceUnavailableException",
    "exception:throttlingException",
    "exception:validationException",
];

fn event<'a>(message: &Message, frame: &'a [u8]) -> sse::Event<'a> {
    let payload = frame
        .len()
        .checked_sub(CHECKSUM + message.payload().len())
        .and_then(|start| frame.get(start..frame.len() - CHECKSUM))
        .unwrap_or_default();
    let known = |kind: &str| {
        EXCEPTIONS
            .iter()
            .find(|name| name.strip_prefix(EXCEPTION) == Some(kind))
    };
    match header(message, ":message-type") {
        Some("exception") => {
            let kind = header(message, ":exception-type").unwrap_or_default();
            match known(kind) {
                Some(name) => named(name.as_bytes(), Cow::Borrowed(payload)),
                None => named(EXCEPTION.as_bytes(), fault(kind, &said(payload))),
            }
        }
        Some("error") => {
            let code = header(message, ":error-code").unwrap_or_default();
            let text = header(message, ":error-message").unwrap_or_default();
            named(EXCEPTION.as_bytes(), fault(code, text))
        }
        _ => {
            let kind = header(message, ":event-type").unwrap_or_default();
            // The headers were copied when they were read: the same bytes stand in the message.
            let name = memmem::find(frame, kind.as_bytes())
                .and_then(|at| frame.get(at..at + kind.len()))
                .unwrap_or_default();
            named(name, Cow::Borrowed(payload))
        }
    }
}

fn named<'a>(name: &'a [u8], data: Cow<'a, [u8]>) -> sse::Event<'a> {
    sse::Event { name, data: Some(data) }
}

fn header<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    let found = message.headers().iter().find(|header| header.name().as_str() == name)?;
    found.value().as_string().ok().map(|value| value.as_str())
}

/// The message of an exception's payload; the payload itself where it has none.
fn said(payload: &[u8]) -> Cow<'_, str> {
    #[derive(serde::Deserialize)]
    struct Said {
        #[serde(alias = "Message")]
        message: String,
    }
    match serde_json::from_slice::<Said>(payload) {
        Ok(said) => said.message.into(),
        Err(_) => String::from_utf8_lossy(payload),
    }
}

fn fault(kind: &str, message: &str) -> Cow<'static, [u8]> {
    #[derive(Serialize)]
    struct Fault<'a> {
        __type: &'a str,
        message: &'a str,
    }
    let fault = Fault { __type: kind, message };
    serde_json::to_vec(&fault).unwrap_or_default().into()
}

/// Writes an event with a payload of JSON.
pub fn message(event_type: &'static str, payload: Vec<u8>, out: &mut Vec<u8>) {
    write("event", ":event-type", event_type, payload, out);
}

/// Writes an exception with a payload of JSON. Nothing follows it.
pub fn exception(exception_type: &'static str, payload: Vec<u8>, out: &mut Vec<u8>) {
    write("exception", ":exception-type", exception_type, payload, out);
}

fn write(message_type: &'static str, header: &'static str, name: &'static str, payload: Vec<u8>, out: &mut Vec<u8>) {
    let text = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(payload)
        .add_header(text(header, name))
        .add_header(text(":content-type", "application/json"))
        .add_header(text(":message-type", message_type));
    write_message_to(&message, out).expect("names are short, and a payload is less than 4 GiB");
}

#[cfg(test)]
mod tests;
