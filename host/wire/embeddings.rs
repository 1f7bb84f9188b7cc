//! OpenAI embeddings. Vendors that speak it get the client's bytes; Gemini gets a translation.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{is_something, parse, span, value};
use super::openai_chat::OpenAiChat;
use super::shape::Outline;
use super::{Asked, Call, Codec, Decode, Encode, Encoded, ErrorBody, Inquiry, Malformed, sse};
use crate::answer::{Answer, Event};
use crate::chat::{Frame, MAX_NAME, Request, Usage, estimated_tokens};
use crate::conversation::Conversation;
use crate::failure::VendorError;

/// See the module. Errors are those of [`OpenAiChat`]; there are no streams.
pub struct Embeddings;

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<&'a RawValue>,
}

impl Codec for Embeddings {
    fn read(&self, body: Bytes) -> Result<Inquiry, Malformed> {
        let text = std::str::from_utf8(&body).map_err(|_| Malformed::whole("the request body is not UTF-8"))?;
        let top: Top<'_> = parse(body.as_ref())?;
        let Some(raw) = top.model.filter(|raw| is_something(raw)) else {
            return Err(Malformed::field("model", "you must provide a `model`"));
        };
        let Some(model) = value::<String>(raw).filter(|name| name.len() <= MAX_NAME) else {
            return Err(Malformed::field(
                "model",
                "`model` must be a string of at most 256 bytes",
            ));
        };
        let Some(input) = top.input else {
            return Err(Malformed::field("input", "you must provide an `input`"));
        };
        let request = Request {
            model,
            input_tokens: estimated_tokens(input.get().len()),
            session: top.user.and_then(value).filter(|name: &String| name.len() <= MAX_NAME),
            ..Request::default()
        };
        let model_spans = vec![span(text, raw.get())];
        Ok(Inquiry {
            request,
            body,
            model_spans,
        })
    }

    fn outline(&self) -> Option<&'static Outline> {
        None
    }

    fn decode_request<'a>(&self, _: &'a [u8]) -> Result<Conversation<'a>, Malformed> {
        Ok(Conversation::default())
    }

    fn encode_request(&self, _: &Conversation<'_>, _: &Call<'_>) -> Result<Encoded, Malformed> {
        Err(Malformed::whole("embeddings are no conversation"))
    }

    fn decoder(&self) -> Box<dyn Decode> {
        OpenAiChat.decoder()
    }

    fn decode_answer(&self, body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        let frame = self.answer(body)?;
        frame.usage.into_iter().for_each(|usage| sink(Event::Usage(usage)));
        frame.error.into_iter().for_each(|error| sink(Event::Error(error)));
        Ok(())
    }

    fn answer(&self, body: &[u8]) -> Result<Frame, Malformed> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            #[serde(borrow)]
            usage: Option<&'a RawValue>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Counts {
            prompt_tokens: Option<f64>,
        }
        let answer: Answer<'_> = parse(body)?;
        let error = answer.error.filter(|raw| is_something(raw));
        if answer.data.is_none() && error.is_none() {
            return Err(Malformed::whole("the answer has no `data`"));
        }
        let counts = answer.usage.and_then(value::<Counts>);
        Ok(Frame {
            content: error.is_none(),
            end: true,
            usage: counts.map(|counts| Usage {
                input_tokens: counts.prompt_tokens.unwrap_or_default() as u64,
                ..Usage::default()
            }),
            error: error.map(|_| OpenAiChat.vendor_error(body)),
            ..Frame::default()
        })
    }

    fn encoder(&self, asked: &Asked) -> Box<dyn Encode> {
        OpenAiChat.encoder(asked)
    }

    fn encode_answer(&self, answer: &Answer, asked: &Asked) -> Vec<u8> {
        OpenAiChat.encode_answer(answer, asked)
    }

    fn vendor_error(&self, body: &[u8]) -> VendorError {
        OpenAiChat.vendor_error(body)
    }

    fn is_error_answer(&self, body: &[u8]) -> bool {
        OpenAiChat.is_error_answer(body)
    }

    fn error(&self, error: &ErrorBody<'_>) -> Bytes {
        OpenAiChat.error(error)
    }

    fn raises(&self, event: &sse::Event<'_>) -> bool {
        OpenAiChat.raises(event)
    }

    fn error_event(&self, error: &ErrorBody<'_>) -> Bytes {
        OpenAiChat.error_event(error)
    }
}
