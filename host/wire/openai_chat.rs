//! OpenAI chat completions.
//!
//! Requests and answers pass through as bytes, so what is read here is only what routing and relaying need; everything else stays
//! behind [`RawValue`]. Fields are those of OpenAI's API reference, and what servers that speak
//! its format add.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::{Text, is_something, parse, plain, span, value};
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, sse};
use crate::answer::{Answer, Event};
use crate::chat::{
    FNV_OFFSET, FNV_PRIME, Frame, HASHED_BYTES, MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_VALUE, MAX_NAME, Request,
    Usage, estimated_tokens,
};
use crate::conversation::Conversation;
use crate::failure::VendorError;

/// See the module.
pub struct OpenAiChat;

/// The data of the event that ends a stream.
const DONE: &[u8] = b"[DONE]";

impl Codec for OpenAiChat {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        read(body)
    }

    fn decode_request<'a>(&self, _body: &'a [u8]) -> Result<Conversation<'a>, Malformed> {
        unimplemented!()
    }

    fn encode_request(&self, _conversation: &Conversation<'_>, _call: &Call<'_>) -> Result<Encoded, Malformed> {
        unimplemented!()
    }

    fn frame(&self, _decoder: &mut dyn Decode, event: &sse::Event<'_>) -> Result<Frame, Malformed> {
        frame(event)
    }

    fn decoder(&self) -> Box<dyn Decode> {
        unimplemented!()
    }

    fn decode_answer(&self, _body: &[u8], _sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        unimplemented!()
    }

    fn answer(&self, body: &[u8]) -> Result<Frame, Malformed> {
        answer(body)
    }

    fn encoder(&self, _asked: &Asked) -> Box<dyn Encode> {
        unimplemented!()
    }

    fn encode_answer(&self, _answer: &Answer, _asked: &Asked) -> Vec<u8> {
        unimplemented!()
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
    let chunk: Chunk = parse(data)?;
    let mut frame = Frame {
        usage: chunk.usage.and_then(usage),
        error: chunk.error.and_then(error_of),
        ..Frame::default()
    };
    for choice in chunk.choices.iter().flatten() {
        let finished = choice.finish_reason.is_some_and(is_something);
        let bit = 1u128.checked_shl(choice.index.unwrap_or(0)).unwrap_or(0);
        frame.choices |= bit;
        frame.finished |= if finished { bit } else { 0 };
        // A finish without content is an empty answer, which is an answer.
        frame.content |= finished || choice.has_content();
    }
    Ok(frame)
}

/// Reads a whole answer.
pub fn answer(body: &[u8]) -> Result<Frame, Malformed> {
    let answer: Chunk = parse(body)?;
    let error = answer.error.and_then(error_of);
    if answer.choices.is_none() && error.is_none() {
        return Err(Malformed::whole("the answer has no `choices`"));
    }
    Ok(Frame {
        content: error.is_none(),
        end: true,
        usage: answer.usage.and_then(usage),
        error,
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
            _ => return,
        };
        *slot = Some(value);
    }

    fn request(&self, model: String) -> Request {
        let messages = self.messages.map(Messages::scan).unwrap_or_default();
        let tools = self.tools.or(self.functions).filter(|raw| is_something(raw));
        Request {
            model,
            streaming: self.stream.is_some_and(|raw| raw.get() == "true"),
            uses_tools: tools.is_some(),
            has_images: messages.has_images,
            input_tokens: estimated_tokens(messages.text_bytes + tools.map_or(0, |raw| raw.get().len())),
            max_output_tokens: self.max_completion_tokens.or(self.max_tokens).and_then(value),
            conversation: messages.conversation,
            session: self
                .session
                .or(self.user)
                .and_then(value)
                .filter(|name: &String| name.len() <= MAX_NAME),
            metadata: self.metadata.map(metadata).unwrap_or_default(),
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
    let all: BTreeMap<String, String> = value(raw).unwrap_or_default();
    let fits = |(name, value): &(String, String)| name.len() <= MAX_METADATA_NAME && value.len() <= MAX_METADATA_VALUE;
    all.into_iter().filter(fits).take(MAX_METADATA).collect()
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

    fn open(&mut self, role: &str, text: &str) {
        if self.opened {
            return;
        }
        self.opened = role == "user";
        let hash = if self.conversation == 0 {
            FNV_OFFSET
        } else {
            self.conversation
        };
        let length = (text.len() as u32).to_le_bytes();
        let hash = [
            role.as_bytes(),
            &length,
            &text.as_bytes()[..text.len().min(HASHED_BYTES)],
        ]
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
            let texts = message
                .content
                .map(|content| Content::read(content, self.0))
                .unwrap_or_default();
            let arguments = message.tool_calls.map_or(0, |raw| raw.get().len());
            self.0.text_bytes += texts.len() + arguments;
            self.0.open(&message.role, &texts);
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

/// A message's content: a string, or a list of parts.
struct Content;

impl Content {
    fn read<'a>(raw: &'a RawValue, messages: &mut Messages) -> Cow<'a, str> {
        #[derive(Deserialize)]
        struct Part<'a> {
            #[serde(borrow, default)]
            r#type: Cow<'a, str>,
            #[serde(borrow, default)]
            text: Option<Cow<'a, str>>,
        }
        if raw.get().starts_with('"') {
            return serde_json::from_str::<Text>(raw.get())
                .map(|text| text.0)
                .unwrap_or_default();
        }
        let parts: Vec<Part> = serde_json::from_str(raw.get()).unwrap_or_default();
        messages.has_images |= parts.iter().any(|part| part.r#type == "image_url");
        parts
            .into_iter()
            .filter_map(|part| part.text)
            .collect::<String>()
            .into()
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
    fn has_content(&self) -> bool {
        self.delta.as_ref().is_some_and(|delta| {
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
    Some(Usage {
        input_tokens: count(fields.prompt_tokens),
        cached_tokens: count(prompt.cached_tokens),
        cache_write_tokens: count(prompt.cache_write_tokens),
        output_tokens: count(fields.completion_tokens),
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
        code,
        status: number.ok().filter(|status| (400..600).contains(status)),
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::super::pass::through as pass_through;
    use super::*;

    fn texts(body: &[u8]) -> Vec<(String, String)> {
        OpenAiChat
            .decode_request(body)
            .map(|conversation| crate::chat::texts(&conversation))
            .unwrap_or_default()
    }
    use proptest::prelude::*;

    fn inquiry(body: &str) -> Inquiry {
        read(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn event(data: &str) -> Result<Frame, Malformed> {
        let bytes = format!("data: {data}\n\n");
        frame(&sse::events(bytes.as_bytes()).next().unwrap())
    }

    /// Unknown fields, odd spellings of numbers, keys that only look like `model`, and escapes.
    const ODD: &str = r#" {"m":"model", "mod\u0065l" : "sm\u0061rt","temperature":1.0e+00,"seed":12345678901234567890123,
        "x":{"model":"inner"},"messages":[{"role":"user","content":"say \"model\":\"x\" \ud83d\ude00"}],"unknown":[1.50,-0]} "#;

    #[test]
    fn only_the_model_changes() {
        let asked = inquiry(ODD);
        assert_eq!(asked.request.model, "smart");
        let sent = pass_through(&asked, "gpt-5", None).unwrap();
        assert_eq!(sent, ODD.replace(r#""sm\u0061rt""#, r#""gpt-5""#));
        assert_eq!(
            pass_through(&asked, "smart", None).unwrap(),
            ODD,
            "the same name needs no change at all"
        );
    }

    #[test]
    fn a_repeated_model_is_replaced_everywhere_and_the_last_one_counts() {
        let asked = inquiry(r#"{"model":"a","messages":[],"model":"b"}"#);
        assert_eq!(asked.request.model, "b");
        assert_eq!(
            pass_through(&asked, "c", None).unwrap(),
            r#"{"model":"c","messages":[],"model":"c"}"#
        );
    }

    #[test]
    fn a_model_name_with_quotes_stays_json() {
        let asked = inquiry(r#"{"model":"a","messages":[]}"#);
        let sent = pass_through(&asked, "odd\"name", None).unwrap();
        assert_eq!(sent, r#"{"model":"odd\"name","messages":[]}"#);
    }

    #[test]
    fn a_patch_is_laid_over_the_body_and_numbers_keep_their_spelling() {
        let asked = inquiry(r#"{"model":"a","messages":[],"temperature":1.50,"tools":[{}],"o":{"a":1,"b":2}}"#);
        let sent = pass_through(&asked, "b", Some(r#"{"tools":null,"max_tokens":5,"o":{"a":null}}"#)).unwrap();
        assert_eq!(
            sent,
            r#"{"model":"b","messages":[],"temperature":1.50,"o":{"b":2},"max_tokens":5}"#
        );
    }

    #[test]
    fn a_patch_changes_neither_the_model_nor_whether_it_is_a_stream() {
        let asked = inquiry(r#"{"model":"a","messages":[]}"#);
        let sent = pass_through(&asked, "b", Some(r#"{"model":null,"stream":true,"n":1}"#)).unwrap();
        assert_eq!(sent, r#"{"model":"b","messages":[],"n":1}"#);
    }

    #[test]
    fn reads_what_routing_needs() {
        let request = inquiry(
            r#"{"model":"m","stream":true,"max_tokens":9,"max_completion_tokens":7,"tools":[{"type":"function"}],
            "metadata":{"team":"red"},"prompt_cache_key":"s1","messages":[{"role":"system","content":"be brief"},
            {"role":"user","content":[{"type":"text","text":"what is this?"},{"type":"image_url","image_url":{"url":"u"}}]}]}"#,
        )
        .request;
        assert!(request.streaming && request.uses_tools && request.has_images);
        assert_eq!(request.max_output_tokens, Some(7));
        assert_eq!(request.metadata, [("team".to_owned(), "red".to_owned())]);
        assert_eq!(request.session.as_deref(), Some("s1"));
        assert_eq!(request.input_tokens, estimated_tokens(8 + 13 + 21));
    }

    #[test]
    fn all_turns_of_a_conversation_have_one_hash() {
        let turn = |rest: &str| {
            let opening = r#"{"role":"system","content":"s"},{"role":"user","content":"first"}"#;
            inquiry(&format!(r#"{{"model":"m","messages":[{opening}{rest}]}}"#))
                .request
                .conversation
        };
        let first = turn("");
        assert_ne!(first, 0);
        assert_eq!(
            first,
            turn(r#",{"role":"assistant","content":"a"},{"role":"user","content":"second"}"#)
        );
        let other = inquiry(r#"{"model":"m","messages":[{"role":"user","content":"else"}]}"#)
            .request
            .conversation;
        assert_ne!(first, other);
    }

    #[test]
    fn says_what_is_wrong_with_a_request() {
        let message = |body: &'static str| read(Bytes::from_static(body.as_bytes())).unwrap_err();
        assert_eq!(message("{}").param.as_deref(), Some("model"));
        assert_eq!(
            message(r#"{"model":7,"messages":[]}"#).message,
            "`model` must be a string"
        );
        assert_eq!(message(r#"{"model":"m"}"#).param.as_deref(), Some("messages"));
        assert!(message("hello").message.starts_with("the body is not the JSON"));
        assert!(
            read(Bytes::from_static(b"{\"model\":\"\xff\"}"))
                .unwrap_err()
                .message
                .contains("UTF-8")
        );
    }

    #[test]
    fn knows_content_from_what_comes_before_it() {
        for before in [
            r#"{"choices":[{"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}"#,
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            r#"{"choices":[{"delta":{"content":null}}],"usage":null}"#,
        ] {
            assert!(!event(before).unwrap().content, "{before}");
        }
        for content in [
            r#"{"choices":[{"delta":{"content":"Hi"}}]}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#,
            r#"{"choices":[{"delta":{"content":[{"type":"thinking"}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        ] {
            assert!(event(content).unwrap().content, "{content}");
        }
    }

    #[test]
    fn sees_errors_ends_and_usage_in_a_stream() {
        assert!(event("[DONE]").unwrap().end);
        let error = event(r#"{"error":{"message":"no","type":"server_error","code":null}}"#)
            .unwrap()
            .error
            .unwrap();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("server_error", "no"));
        let counted = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,
            "prompt_tokens_details":{"cached_tokens":4}}}"#;
        let usage = Usage {
            input_tokens: 9,
            cached_tokens: 4,
            cache_write_tokens: 0,
            output_tokens: 3,
            reasoning_tokens: 0,
        };
        assert_eq!(event(&counted.replace('\n', "")).unwrap().usage, Some(usage));
        assert!(event("{\"choices\":[").is_err());
        assert_eq!(
            frame(&sse::events(b": ping\n\n").next().unwrap()).unwrap(),
            Frame::default()
        );
    }

    #[test]
    fn an_answer_without_choices_is_none() {
        assert!(answer(b"<html>").is_err());
        assert!(answer(b"{}").is_err());
        assert!(answer(br#"{"error":"boom"}"#).unwrap().error.is_some());
        assert!(
            answer(br#"{"choices":[{"message":{"content":"x"}}],"error":null}"#)
                .unwrap()
                .error
                .is_none()
        );
    }

    #[test]
    fn reads_errors_of_every_shape() {
        let read = |body: &str| {
            let error = vendor_error(body.as_bytes());
            (error.code, error.message)
        };
        let pair = |code: &str, message: &str| (code.to_owned(), message.to_owned());
        assert_eq!(
            read(r#"{"error":{"message":"m","type":"t","code":"c"}}"#),
            pair("c", "m")
        );
        assert_eq!(
            read(r#"{"error":{"message":"m","type":"BadRequestError","code":400}}"#),
            pair("BadRequestError", "m")
        );
        assert_eq!(
            read(r#"{"object":"error","message":"m","type":"invalid_model","code":"1500"}"#),
            pair("invalid_model", "m")
        );
        assert_eq!(read(r#"{"detail":"Invalid API Key"}"#), pair("", "Invalid API Key"));
        assert_eq!(read(r#"{"error":"gone"}"#), pair("", "gone"));
        assert_eq!(read("<html>oops"), pair("", "<html>oops"));
    }

    #[test]
    fn gives_the_text_of_messages_to_those_who_may_read_it() {
        let body = br#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[
            {"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]},{"role":"assistant","content":null}]}"#;
        let expected = [("system", "s"), ("user", "a\nb"), ("assistant", "")];
        assert_eq!(
            texts(body),
            expected.map(|(role, text)| (role.to_owned(), text.to_owned()))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(Bytes::copy_from_slice(&bytes));
            let _ = answer(&bytes);
            let _ = vendor_error(&bytes);
            let _ = texts(&bytes);
        }

        /// Any JSON around it: what is sent differs from what came only in the model.
        #[test]
        fn any_body_passes_through(before in "[a-z]{1,8}", text in "\\PC{0,40}", number in any::<f64>()) {
            let text = serde_json::Value::from(text).to_string();
            let body = format!(r#"{{"{before}_":{text},"model":"a","messages":[{{"role":"user","content":{text}}}],"n":{number:?}}}"#);
            prop_assume!(number.is_finite());
            let sent = pass_through(&inquiry(&body), "bb", None).unwrap();
            prop_assert_eq!(sent, body.replacen(r#""model":"a""#, r#""model":"bb""#, 1));
        }
    }
}
