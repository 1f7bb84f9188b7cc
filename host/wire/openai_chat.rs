//! OpenAI chat completions.
//!
//! Between two sides that speak it, requests and answers pass through as bytes: what is read in this file is only what routing and
//! relaying need, and everything else stays behind [`RawValue`]. The modules below read and write all of it, for translation.
//! Fields are those of OpenAI's API reference, and what servers that speak its format add.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{Text, is_something, members, parse, plain, span, value};
use super::shape::{Limits, Outline};
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, sse};
use crate::answer::{Answer, Event};
use crate::chat::{
    FNV_OFFSET, FNV_PRIME, Frame, HASHED_BYTES, MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, MAX_NAME, Request,
    Usage, estimated_tokens, session_of,
};
use crate::conversation::Conversation;
use crate::failure::VendorError;

mod answer_in;
mod answer_out;
mod outline;
mod request_in;
mod request_out;

/// See the module.
pub struct OpenAiChat;

/// Mistral's, vLLM's and DeepSeek's reasons to finish an answer that was broken off.
const UNFINISHED: [&str; 3] = ["error", "abort", "insufficient_system_resource"];

/// The data of the event that ends a stream.
const DONE: &[u8] = b"[DONE]";

impl Codec for OpenAiChat {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        read(body)
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

    fn frame(&self, _decoder: &mut dyn Decode, event: &sse::Event<'_>) -> Result<Frame, Malformed> {
        frame(event)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::<answer_in::Decoder>::default()
    }

    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        answer_in::decode_answer(body, sink)
    }

    fn answer(&self, body: &[u8]) -> Result<Frame, Malformed> {
        answer(body)
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encode> {
        Box::new(answer_out::Encoder::new(asked))
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        answer_out::encode_answer(answer, asked)
    }

    fn vendor_error(&self, body: &[u8]) -> VendorError {
        vendor_error(body)
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        is_error_answer(body)
    }

    fn error(&self, body: &ErrorBody<'_>) -> Bytes {
        error(body)
    }

    fn error_event(&self, body: &ErrorBody<'_>) -> Bytes {
        error_event(body)
    }

    fn raises(&self, event: &sse::Event<'_>) -> bool {
        raises(event)
    }
}

/// Reads a client's request.
pub fn read(body: Bytes) -> Result<Inquiry, Malformed> {
    let text = std::str::from_utf8(&body).map_err(|_| Malformed::whole("the request body is not UTF-8"))?;
    let top: Top = serde_json::from_str(text).map_err(|error| super::json::not_json(&error))?;
    let model = match top.models.last() {
        Some(raw) => serde_json::from_str::<String>(raw.get())
            .map_err(|_| Malformed::field("model", "`model` must be a string"))?,
        None => return Err(Malformed::field("model", "you must provide a `model`")),
    };
    if model.len() > MAX_NAME {
        return Err(Malformed::field("model", "`model` is longer than 256 bytes"));
    }
    if top.messages.is_none() {
        return Err(Malformed::field("messages", "you must provide `messages`"));
    }
    let model_spans = top.models.iter().map(|raw| span(text, raw.get())).collect();
    let request = top.request(model);
    Ok(Inquiry {
        request,
        body,
        model_spans,
    })
}

/// Reads one event of a stream.
pub fn frame(event: &sse::Event<'_>) -> Result<Frame, Malformed> {
    let Some(data) = &event.data else {
        return Ok(Frame::default());
    };
    if data.trim_ascii() == DONE {
        return Ok(Frame {
            end: true,
            ..Frame::default()
        });
    }
    outline::ANSWER.count(data, &Limits::default())?;
    let chunk: Chunk = parse(data)?;
    let flat = || match chunk.choices {
        None => flat_error(data),
        Some(_) => None,
    };
    let mut frame = Frame {
        usage: chunk.usage.and_then(usage),
        error: chunk.error.and_then(error_of).or_else(flat),
        ..Frame::default()
    };
    for choice in chunk.choices.iter().flatten() {
        let finished = choice.finish_reason.is_some_and(is_something);
        let bit = 1u128.checked_shl(choice.index.unwrap_or(0)).unwrap_or(0);
        frame.choices |= bit;
        frame.finished |= if finished { bit } else { 0 };
        frame.content |= choice.has_content();
        frame.refused |= finished && choice.is_refused();
        frame.error = frame.error.take().or_else(|| choice.unfinished());
    }
    Ok(frame)
}

/// Reads a whole answer.
pub fn answer(body: &[u8]) -> Result<Frame, Malformed> {
    outline::ANSWER.count(body, &Limits::default())?;
    let answer: Chunk = parse(body)?;
    let error = answer.error.and_then(error_of).or_else(|| match &answer.choices {
        None => flat_error(body),
        Some(choices) => choices.iter().find_map(Choice::unfinished),
    });
    if answer.choices.is_none() && error.is_none() {
        return Err(Malformed::whole("the answer has no `choices`"));
    }
    Ok(Frame {
        content: answer.choices.iter().flatten().any(Choice::has_content),
        end: true,
        usage: answer.usage.and_then(usage),
        error,
        refused: answer.choices.iter().flatten().any(Choice::is_refused),
        ..Frame::default()
    })
}

/// Reads an error: OpenAI's shape, the flat ones of Mistral and FastAPI, a bare string, or no JSON at all.
pub fn vendor_error(body: &[u8]) -> VendorError {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        error: Option<&'a RawValue>,
    }
    let nested = serde_json::from_slice::<Outer>(body)
        .ok()
        .and_then(|outer| outer.error)
        .and_then(error_of);
    nested.or_else(|| read_error(body)).unwrap_or_else(|| VendorError {
        message: String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_TEXT)]).into_owned(),
        ..VendorError::default()
    })
}

/// Bytes of an error that is not JSON which are kept for the log.
const MAX_ERROR_TEXT: usize = 200;

/// Whether a vendor's error can be a client's: an object, as SDKs expect.
pub fn is_error_answer(body: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(body).is_ok_and(|fields| !fields.is_empty())
}

/// Writes an error.
pub fn error(error: &ErrorBody<'_>) -> Bytes {
    #[derive(Serialize)]
    struct Outer<'a> {
        error: Inner<'a>,
    }
    #[derive(Serialize)]
    struct Inner<'a> {
        message: &'a str,
        r#type: &'a str,
        param: Option<&'a str>,
        code: &'a str,
    }
    let inner = Inner {
        message: &error.message,
        r#type: error.kind,
        param: error.param,
        code: error.code,
    };
    serde_json::to_vec(&Outer { error: inner })
        .expect("strings serialise")
        .into()
}

/// Writes an error into a stream.
pub fn error_event(body: &ErrorBody<'_>) -> Bytes {
    [b"data: ", error(body).as_ref(), b"\n\n"].concat().into()
}

/// Whether OpenAI's SDKs raise an event: they do where its data has an `error`, in chat completions and in responses.
pub fn raises(event: &sse::Event<'_>) -> bool {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
    }
    let outer = event.data.as_deref().and_then(|data| parse::<Outer>(data).ok());
    outer.and_then(|outer| outer.error).is_some_and(is_something)
}

/// The top level of a request. A key may come twice, as JSON allows and vendors read differently: each place of `model` is kept.
#[derive(Default)]
struct Top<'a> {
    models: Vec<&'a RawValue>,
    messages: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    functions: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    session: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
    answers: Option<&'a RawValue>,
}

impl<'a> Top<'a> {
    fn set(&mut self, key: &str, value: &'a RawValue) {
        let slot = match key {
            "model" => return self.models.push(value),
            "messages" => &mut self.messages,
            "stream" => &mut self.stream,
            "tools" => &mut self.tools,
            "functions" => &mut self.functions,
            "max_tokens" => &mut self.max_tokens,
            "max_completion_tokens" => &mut self.max_completion_tokens,
            "metadata" => &mut self.metadata,
            "prompt_cache_key" => &mut self.session,
            "user" => &mut self.user,
            "n" => &mut self.answers,
            _ => return,
        };
        *slot = Some(value);
    }

    fn request(&self, model: String) -> Request {
        let messages = self.messages.map(Messages::scan).unwrap_or_default();
        let tools = self.tools.or(self.functions).filter(|raw| is_something(raw));
        let metadata = self.metadata.map(metadata).unwrap_or_default();
        let text = |raw: Option<&'a RawValue>| raw.and_then(value::<Text>).map(|text| text.0);
        let named = metadata.iter().map(|(name, value)| (&**name, &**value));
        let session = session_of(text(self.session).as_deref(), named, text(self.user).as_deref());
        Request {
            model,
            streaming: self.stream.is_some_and(|raw| raw.get() == "true"),
            uses_tools: tools.is_some(),
            has_images: messages.has_images,
            input_tokens: estimated_tokens(messages.text_bytes + tools.map_or(0, |raw| raw.get().len())),
            max_output_tokens: self.max_completion_tokens.or(self.max_tokens).and_then(value),
            conversation: messages.conversation,
            session,
            metadata,
            answers: self.answers.and_then(value).unwrap_or(0),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Top<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;
        impl<'de> Visitor<'de> for TopVisitor {
            type Value = Top<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
                let mut top = Top::default();
                while let Some(Text(key)) = map.next_key()? {
                    top.set(&key, map.next_value()?);
                }
                Ok(top)
            }
        }
        deserializer.deserialize_map(TopVisitor)
    }
}

fn metadata(raw: &RawValue) -> Vec<(String, String)> {
    let mut first = BTreeMap::new();
    let mut is_text = true;
    let read = members(raw, |name, raw| {
        let Some(Text(text)) = value(raw) else {
            is_text = false;
            return;
        };
        // The last of a name counts, also where it is too long to be read.
        let fits = name.len() <= MAX_METADATA_NAME && text.len() <= MAX_METADATA_VALUE;
        match fits {
            true => first.insert(name.into_owned(), text.into_owned()),
            false => first.remove(&*name),
        };
        if first.len() > MAX_METADATA {
            first.pop_last();
        }
    });
    match read {
        Some(()) if is_text => first.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// What is read of the messages of a request.
#[derive(Default)]
struct Messages {
    text_bytes: usize,
    has_images: bool,
    conversation: u32,
    /// A user has spoken: what follows is not the opening any more.
    opened: bool,
}

impl Messages {
    /// Reads leniently: what does not look like messages is the vendor's to refuse.
    fn scan(raw: &RawValue) -> Self {
        let mut messages = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        if MessageList(&mut messages).deserialize(&mut deserializer).is_err() {
            messages.text_bytes = raw.get().len();
        }
        messages
    }

    fn open(&mut self, role: &str, said: &Said<'_>) {
        if self.opened {
            return;
        }
        self.opened = role == "user";
        let hash = if self.conversation == 0 {
            FNV_OFFSET
        } else {
            self.conversation
        };
        let length = (said.bytes as u32).to_le_bytes();
        let beginning = said.beginning.as_bytes();
        let beginning = &beginning[..beginning.len().min(HASHED_BYTES)];
        let hash = [role.as_bytes(), &length, beginning]
            .into_iter()
            .flatten()
            .fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME));
        self.conversation = hash.max(1);
    }
}

struct MessageList<'m>(&'m mut Messages);

impl<'de> DeserializeSeed<'de> for MessageList<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MessageList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(message) = list.next_element::<Message>()? {
            let said = message.content.map(Said::of).unwrap_or_default();
            let arguments = message.tool_calls.map_or(0, |raw| raw.get().len());
            self.0.text_bytes += said.bytes + arguments;
            self.0.has_images |= said.has_images;
            self.0.open(&message.role, &said);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

/// What is read of a message's content, a string or a list of parts: no more than the conversation's hash wants is kept of a list.
#[derive(Default)]
struct Said<'a> {
    /// Bytes of all texts.
    bytes: usize,
    /// The first bytes of them, at least as many as are hashed.
    beginning: Cow<'a, str>,
    has_images: bool,
}

impl<'a> Said<'a> {
    fn of(raw: &'a RawValue) -> Self {
        if raw.get().starts_with('"') {
            let text = value::<Text>(raw).unwrap_or_default().0;
            return Self {
                bytes: text.len(),
                beginning: text,
                has_images: false,
            };
        }
        let mut said = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        match Parts(&mut said).deserialize(&mut deserializer) {
            Ok(()) => said,
            Err(_) => Self::default(),
        }
    }

    fn part(&mut self, part: &Part<'_>) {
        self.has_images |= part.r#type == "image_url";
        let Some(Text(text)) = &part.text else { return };
        self.bytes += text.len();
        let left = HASHED_BYTES.saturating_sub(self.beginning.len());
        if left > 0 {
            self.beginning.to_mut().push_str(&text[..text.ceil_char_boundary(left)]);
        }
    }
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
}

struct Parts<'s, 'a>(&'s mut Said<'a>);

impl<'de> DeserializeSeed<'de> for Parts<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Parts<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of parts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(part) = list.next_element::<Part>()? {
            self.0.part(&part);
        }
        Ok(())
    }
}

/// A chunk of a stream or a whole answer: they differ in `delta` and `message`.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    message: Option<Delta<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow, default)]
    audio: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
}

impl Choice<'_> {
    /// A safety system stopped the model.
    fn is_refused(&self) -> bool {
        self.finish_reason
            .is_some_and(|reason| reason.get() == r#""content_filter""#)
    }

    /// The model broke off.
    fn unfinished(&self) -> Option<VendorError> {
        let reason: Text = value(self.finish_reason?)?;
        UNFINISHED
            .contains(&&*reason.0)
            .then(|| VendorError::unfinished(&reason.0))
    }

    fn has_content(&self) -> bool {
        self.delta.iter().chain(&self.message).any(|delta| {
            let fields = [
                delta.content,
                delta.tool_calls,
                delta.reasoning_content,
                delta.reasoning,
            ];
            let rarer = [delta.refusal, delta.function_call, delta.audio];
            fields.into_iter().chain(rarer).flatten().any(is_something)
        })
    }
}

/// Counts of tokens. What does not look like counts is none: an answer is not worse for it.
fn usage(raw: &RawValue) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Fields {
        prompt_tokens: Option<f64>,
        completion_tokens: Option<f64>,
        total_tokens: Option<f64>,
        prompt_tokens_details: Option<Details>,
        completion_tokens_details: Option<Details>,
    }
    #[derive(Deserialize, Default)]
    struct Details {
        cached_tokens: Option<f64>,
        cache_write_tokens: Option<f64>,
        reasoning_tokens: Option<f64>,
    }
    let fields: Fields = value::<Option<Fields>>(raw)??;
    let prompt = fields.prompt_tokens_details.unwrap_or_default();
    let count = |number: Option<f64>| number.unwrap_or(0.0) as u64;
    // xAI and Gemini leave reasoning out of the answer's tokens, but not out of the total.
    let (input, output) = (count(fields.prompt_tokens), count(fields.completion_tokens));
    let rest = count(fields.total_tokens).saturating_sub(input);
    Some(Usage {
        input_tokens: input,
        cached_tokens: count(prompt.cached_tokens),
        cache_write_tokens: count(prompt.cache_write_tokens),
        output_tokens: output.max(rest),
        reasoning_tokens: count(fields.completion_tokens_details.unwrap_or_default().reasoning_tokens),
    })
}

/// The error in an `error` field; `None` where the field says that there is none.
fn error_of(raw: &RawValue) -> Option<VendorError> {
    if !is_something(raw) {
        return None;
    }
    if let Some(message) = value::<String>(raw) {
        return Some(VendorError {
            message,
            ..VendorError::default()
        });
    }
    Some(read_error(raw.get().as_bytes()).unwrap_or_default())
}

/// An error in place of an answer that is not in a field of its own, as old servers and Mistral have it: its `object` is `error`.
#[cold]
fn flat_error(body: &[u8]) -> Option<VendorError> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, default)]
        object: Text<'a>,
    }
    let kind: Kind = serde_json::from_slice(body).ok()?;
    (kind.object.0 == "error").then(|| read_error(body)).flatten()
}

fn read_error(body: &[u8]) -> Option<VendorError> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
        #[serde(borrow, default)]
        detail: Option<&'a RawValue>,
        #[serde(borrow, default)]
        r#type: Option<&'a RawValue>,
        #[serde(borrow, default)]
        code: Option<&'a RawValue>,
    }
    let fields: Fields = serde_json::from_slice(body).ok()?;
    let text = |raw: Option<&RawValue>| raw.map(plain).unwrap_or_default();
    let (code, kind) = (text(fields.code), text(fields.r#type));
    // A number as the code repeats the status; the type then says more.
    let number = code.parse::<u16>();
    let code = if code.is_empty() || (number.is_ok() && !kind.is_empty()) {
        kind
    } else {
        code
    };
    let message = text(fields.message.or(fields.detail));
    Some(VendorError {
        retry_after: None,
        code,
        status: number.ok().filter(|status| (400..600).contains(status)),
        message,
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod translation_tests;
