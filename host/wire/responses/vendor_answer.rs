//! Vendors' answers, read: streams and whole ones.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json::{self, is_something, parse, value};
use super::super::shape::Limits;
use super::super::{Decode, Malformed, openai_chat, sse};
use super::client_request::reasoning_text;
use super::fields::{Fields, behind, list, text};
use super::{ANNOTATION, OF_CALL, REDACTED, outline};
use crate::answer::{Event, Finish, Reason};
use crate::chat::Usage;
use crate::failure::VendorError;

/// Where events go.
type Sink<'s> = &'s mut dyn FnMut(Event<'_>);

/// Reads a whole answer.
pub fn decode(body: &[u8], sink: Sink<'_>) -> Result<(), Malformed> {
    outline::ANSWER.count(body, &Limits::default())?;
    let raw: &RawValue = parse(body)?;
    let response = Response::of(raw).ok_or_else(|| Malformed::whole("the answer is not a response"))?;
    if response.output.is_none() && response.status.is_none() {
        if !response.error.is_some_and(is_something) {
            return Err(Malformed::whole("the answer has neither `output` nor `error`"));
        }
        sink(Event::Error(openai_chat::vendor_error(body)));
        return Ok(());
    }
    let mut stream = Stream::default();
    stream.start(&response, sink);
    match response.status.and_then(text).as_deref() {
        // Begun in the background: it is an answer, but says nothing yet.
        Some("queued" | "in_progress") => {}
        status => stream.end(status.unwrap_or("completed"), &response, sink),
    }
    Ok(())
}

/// What is read of a response object.
#[derive(Deserialize, Default)]
struct Response<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    incomplete_details: Option<&'a RawValue>,
}

impl<'a> Response<'a> {
    fn of(raw: &'a RawValue) -> Option<Self> {
        value(raw)
    }

    fn usage(&self) -> Option<Usage> {
        #[derive(Deserialize)]
        struct Counts {
            input_tokens: Option<f64>,
            output_tokens: Option<f64>,
            input_tokens_details: Option<Details>,
            output_tokens_details: Option<Details>,
        }
        #[derive(Deserialize, Default)]
        struct Details {
            cached_tokens: Option<f64>,
            cache_write_tokens: Option<f64>,
            reasoning_tokens: Option<f64>,
        }
        let counts: Counts = value::<Option<Counts>>(self.usage?)??;
        let input = counts.input_tokens_details.unwrap_or_default();
        let output = counts.output_tokens_details.unwrap_or_default();
        let count = |number: Option<f64>| number.unwrap_or(0.0) as u64;
        Some(Usage {
            input_tokens: count(counts.input_tokens),
            cached_tokens: count(input.cached_tokens),
            cache_write_tokens: count(input.cache_write_tokens),
            output_tokens: count(counts.output_tokens),
            reasoning_tokens: count(output.reasoning_tokens),
        })
    }

    fn failure(&self) -> VendorError {
        let said = self.error.filter(|error| is_something(error));
        said.map(|error| openai_chat::vendor_error(error.get().as_bytes()))
            .unwrap_or_else(|| VendorError {
                code: "server_error".to_owned(),
                message: "the vendor says that its answer failed, and not why".to_owned(),
                ..VendorError::default()
            })
    }
}

/// What is read of one event. Servers leave out indexes and ids.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    item: Option<&'a RawValue>,
    #[serde(borrow, default)]
    item_id: Option<&'a RawValue>,
    #[serde(default)]
    output_index: Option<u64>,
    #[serde(default)]
    content_index: Option<u64>,
    #[serde(default)]
    summary_index: Option<u64>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotation: Option<&'a RawValue>,
}

/// Reads a stream.
#[derive(Default)]
pub struct Stream {
    started: bool,
    ended: bool,
    /// Something of the answer was seen: its end need not be read for it.
    has_items: bool,
    /// The model refused, in words.
    refused: bool,
    open: Option<Open>,
    calls: Vec<OpenCall>,
    /// Notes on the open text, as JSON.
    annotations: Vec<String>,
    /// The item that is open has shown something of its content.
    item_has_content: bool,
    /// The proof behind the next tool call.
    proof: Option<String>,
}

/// What the last fragment was a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Open {
    kind: Kind,
    output_index: Option<u64>,
    /// The place within the item.
    part: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Refusal,
    Summary,
    Reasoning,
}

/// A tool call.
struct OpenCall {
    output_index: Option<u64>,
    item_id: Option<String>,
    has_arguments: bool,
    ended: bool,
}

/// Whether an event is a delta that says something, or a part of an image.
pub fn says_something(event: &sse::Event<'_>) -> bool {
    if event.name.ends_with(b".partial_image") {
        return event.data.is_some();
    }
    if !event.name.ends_with(b".delta") {
        return false;
    }
    let line = event.data.as_deref().and_then(|data| parse::<Line>(data).ok());
    line.and_then(|line| line.delta).is_some_and(is_something)
}

/// Whether an event is the response that failed, with which a stream ends.
pub fn is_failed(event: &sse::Event<'_>) -> bool {
    let line = event.data.as_deref().and_then(|data| parse::<Line>(data).ok());
    let named = line.and_then(|line| line.r#type.and_then(text));
    matches!(named.as_deref(), Some("response.failed" | "response.cancelled"))
}

impl Decode for Stream {
    fn event(&mut self, event: &sse::Event<'_>, sink: Sink<'_>) -> Result<(), Malformed> {
        let Some(data) = event.data.as_deref().filter(|data| !data.trim_ascii().is_empty()) else {
            return Ok(());
        };
        // A marker of chat completions', which some servers send here too. An answer ends with its response.
        if data.trim_ascii() == b"[DONE]" {
            let is_whole = self.ended.then_some(());
            return is_whole.ok_or_else(|| Malformed::whole("the stream ends without its response"));
        }
        outline::ANSWER.count(data, &Limits::default())?;
        let line: Line = parse(data)?;
        let named = line.r#type.and_then(text);
        let kind = named
            .as_deref()
            .or(std::str::from_utf8(event.name).ok())
            .unwrap_or_default();
        let has_error = line.response.is_none() && line.error.is_some_and(is_something);
        if has_error || kind == "error" {
            self.fail(openai_chat::vendor_error(data), sink);
            return Ok(());
        }
        self.line(kind, &line, sink);
        Ok(())
    }
}

impl Stream {
    fn line(&mut self, kind: &str, line: &Line<'_>, sink: Sink<'_>) {
        if self.ended {
            return;
        }
        match kind {
            "response.created" | "response.in_progress" | "response.queued" => {
                if let Some(response) = line.response.and_then(Response::of) {
                    self.start(&response, sink);
                }
            }
            "response.output_item.added" => self.item_added(line, sink),
            "response.output_text.delta" => self.more(Kind::Text, line, line.delta, sink),
            "response.output_text.done" => self.rest(Kind::Text, line, line.text, sink),
            "response.refusal.delta" => self.more(Kind::Refusal, line, line.delta, sink),
            "response.refusal.done" => self.rest(Kind::Refusal, line, line.refusal, sink),
            "response.reasoning_summary_text.delta" => self.more(Kind::Summary, line, line.delta, sink),
            "response.reasoning_summary_text.done" => self.rest(Kind::Summary, line, line.text, sink),
            "response.reasoning_text.delta" => self.more(Kind::Reasoning, line, line.delta, sink),
            "response.reasoning_text.done" => self.rest(Kind::Reasoning, line, line.text, sink),
            "response.output_text.annotation.added" => {
                self.annotations
                    .extend(line.annotation.map(|raw| one_line(raw).into_owned()));
            }
            "response.content_part.done" => {
                let is_text = |open: Open| matches!(open.kind, Kind::Text | Kind::Refusal);
                if self.open.is_some_and(is_text) {
                    self.close(sink);
                }
            }
            "response.function_call_arguments.delta" => self.arguments(line, line.delta, sink),
            "response.function_call_arguments.done" => self.arguments_done(line, line.arguments, sink),
            "response.output_item.done" => self.item_done(line, sink),
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled" => {
                let response = line.response.and_then(Response::of).unwrap_or_default();
                self.start(&response, sink);
                let status = kind.trim_start_matches("response.");
                self.end(status, &response, sink);
            }
            _ => {}
        }
    }

    fn start(&mut self, response: &Response<'_>, sink: Sink<'_>) {
        if self.started {
            return;
        }
        self.started = true;
        sink(Event::Start {
            id: response.id.and_then(filled),
            model: response.model.and_then(filled),
        });
    }

    /// The last of an answer; its items too, where the stream had none.
    fn end(&mut self, status: &str, response: &Response<'_>, sink: Sink<'_>) {
        self.close(sink);
        if !self.has_items {
            let items = response.output.and_then(list).unwrap_or_default();
            items.into_iter().for_each(|item| self.item(item, sink));
        }
        self.end_calls(sink);
        if let Some(usage) = response.usage() {
            sink(Event::Usage(usage));
        }
        if matches!(status, "failed" | "cancelled") {
            return self.fail(response.failure(), sink);
        }
        sink(Event::Finish(self.finish(status, response)));
        sink(Event::End);
        self.ended = true;
    }

    fn finish(&self, status: &str, response: &Response<'_>) -> Finish<'static> {
        let why = response.incomplete_details.and_then(Fields::of);
        let why = why.and_then(|why| why.text("reason")).map(Cow::into_owned);
        let reason = match (status, why.as_deref()) {
            ("incomplete", Some("content_filter")) => Reason::Refused,
            ("incomplete", Some("steered" | "max_messages")) => Reason::Stop,
            ("incomplete", _) => Reason::Length,
            _ if self.refused => Reason::Refused,
            _ if !self.calls.is_empty() => Reason::ToolCalls,
            _ => Reason::Stop,
        };
        let raw = if status == "incomplete" { why } else { None };
        Finish {
            reason,
            raw: raw.unwrap_or_else(|| status.to_owned()).into(),
            stop_sequence: None,
        }
    }

    /// A failure is told twice: as an error, and as the response that failed.
    fn fail(&mut self, error: VendorError, sink: Sink<'_>) {
        if !self.ended {
            sink(Event::Error(error));
            self.ended = true;
        }
    }

    fn item_added(&mut self, line: &Line<'_>, sink: Sink<'_>) {
        self.close(sink);
        self.item_has_content = false;
        let Some(fields) = line.item.and_then(Fields::of) else {
            return;
        };
        if fields.text("type").is_some_and(|kind| kind == "function_call") {
            self.call(&fields, line.output_index, sink);
        }
    }

    fn call(&mut self, fields: &Fields<'_>, output_index: Option<u64>, sink: Sink<'_>) {
        self.has_items = true;
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        let item_id = fields.get("id").and_then(filled);
        let id = fields
            .get("call_id")
            .and_then(filled)
            .or_else(|| item_id.clone())
            .unwrap_or_else(|| format!("call_{index}").into());
        sink(Event::ToolStart {
            index,
            id: id.as_ref().into(),
            name: fields.text("name").unwrap_or_default().as_ref().into(),
            signature: self.proof.take().map(Cow::Owned),
        });
        self.calls.push(OpenCall {
            output_index,
            item_id: item_id.map(Cow::into_owned),
            has_arguments: false,
            ended: false,
        });
    }

    /// The call that an event is about. Ids may change between events, so the index counts more; without both it is the last.
    fn call_of(&self, line: &Line<'_>) -> Option<usize> {
        if let Some(index) = line.output_index
            && let Some(at) = self.calls.iter().rposition(|call| call.output_index == Some(index))
        {
            return Some(at);
        }
        let of_item = line.item.and_then(Fields::of).and_then(|fields| fields.text("id"));
        let id = line.item_id.and_then(text).or(of_item).filter(|id| !id.is_empty());
        let by_id = |id: Cow<'_, str>| {
            self.calls
                .iter()
                .rposition(|call| call.item_id.as_deref() == Some(&*id))
        };
        id.and_then(by_id).or_else(|| {
            self.calls
                .iter()
                .rposition(|call| call.output_index.is_none() && !call.ended)
        })
    }

    fn arguments(&mut self, line: &Line<'_>, fragment: Option<&RawValue>, sink: Sink<'_>) {
        let fragment = fragment.and_then(text).unwrap_or_default();
        let Some(at) = self.call_of(line).filter(|_| !fragment.is_empty()) else {
            return;
        };
        let Some(call) = self.calls.get_mut(at).filter(|call| !call.ended) else {
            return;
        };
        call.has_arguments = true;
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        sink(Event::ToolArguments { index, fragment });
    }

    fn arguments_done(&mut self, line: &Line<'_>, whole: Option<&RawValue>, sink: Sink<'_>) {
        let Some(at) = self.call_of(line) else { return };
        if self.calls.get(at).is_some_and(|call| !call.has_arguments) {
            self.arguments(line, whole, sink);
        }
        if let Some(call) = self.calls.get_mut(at)
            && !std::mem::replace(&mut call.ended, true)
        {
            let index = u32::try_from(at).unwrap_or(u32::MAX);
            sink(Event::ToolEnd { index });
        }
    }

    fn end_calls(&mut self, sink: Sink<'_>) {
        for (index, call) in (0..).zip(&mut self.calls) {
            if !std::mem::replace(&mut call.ended, true) {
                sink(Event::ToolEnd { index });
            }
        }
    }

    /// More of a part.
    fn more(&mut self, kind: Kind, line: &Line<'_>, fragment: Option<&RawValue>, sink: Sink<'_>) {
        let Some(fragment) = fragment.and_then(text).filter(|fragment| !fragment.is_empty()) else {
            return;
        };
        let place = Open {
            kind,
            output_index: line.output_index,
            part: line.summary_index.or(line.content_index),
        };
        self.move_to(place, sink);
        self.piece(kind, fragment, sink);
    }

    /// A part that is complete: all of it, where no fragment came.
    fn rest(&mut self, kind: Kind, line: &Line<'_>, whole: Option<&RawValue>, sink: Sink<'_>) {
        let part = line.summary_index.or(line.content_index);
        let is_open = self.open.is_some_and(|open| {
            open.kind == kind && same(open.output_index, line.output_index) && same(open.part, part)
        });
        if !is_open {
            self.more(kind, line, whole, sink);
        }
    }

    fn piece(&mut self, kind: Kind, fragment: Cow<'_, str>, sink: Sink<'_>) {
        self.has_items = true;
        self.item_has_content = true;
        match kind {
            Kind::Text => sink(Event::Text(fragment)),
            Kind::Refusal => {
                self.refused = true;
                sink(Event::Refusal(fragment));
            }
            Kind::Summary | Kind::Reasoning => sink(Event::Reasoning(fragment)),
        }
    }

    /// Parts of text are blocks; parts of one item's reasoning are paragraphs of one block.
    fn move_to(&mut self, place: Open, sink: Sink<'_>) {
        let is_reasoning = |kind| matches!(kind, Kind::Summary | Kind::Reasoning);
        match self.open {
            Some(open) if open.kind == place.kind && same(open.output_index, place.output_index) => {
                if same(open.part, place.part) {
                    return;
                }
                if is_reasoning(place.kind) {
                    sink(Event::Reasoning("\n\n".into()));
                } else {
                    self.close(sink);
                }
            }
            Some(open)
                if is_reasoning(open.kind)
                    && is_reasoning(place.kind)
                    && same(open.output_index, place.output_index) =>
            {
                sink(Event::Reasoning("\n\n".into()));
            }
            Some(_) => self.close(sink),
            None => {}
        }
        self.open = Some(place);
    }

    fn close(&mut self, sink: Sink<'_>) {
        for json in self.annotations.drain(..) {
            sink(Event::Opaque {
                what: ANNOTATION.into(),
                json: json.into(),
            });
        }
        if self.open.take().is_some() {
            sink(Event::BlockEnd);
        }
    }

    fn item_done(&mut self, line: &Line<'_>, sink: Sink<'_>) {
        let Some(raw) = line.item else { return };
        let Some(fields) = Fields::of(raw) else { return };
        let kind = fields.text("type");
        match kind.as_deref() {
            Some("function_call") => match self.call_of(line) {
                Some(_) => self.arguments_done(line, fields.get("arguments"), sink),
                None => self.item(raw, sink),
            },
            Some("message") if self.item_has_content => self.close(sink),
            Some("reasoning") if self.item_has_content => {
                self.prove(&fields, sink);
                self.close(sink);
            }
            _ => self.item(raw, sink),
        }
        self.item_has_content = false;
    }

    /// A whole item.
    fn item(&mut self, raw: &RawValue, sink: Sink<'_>) {
        self.close(sink);
        let Some(fields) = Fields::of(raw) else { return };
        let kind = fields.text("type").unwrap_or_default();
        match &*kind {
            "message" => self.message(&fields, sink),
            "function_call" => {
                self.call(&fields, None, sink);
                let index = u32::try_from(self.calls.len().saturating_sub(1)).unwrap_or(u32::MAX);
                let fragment = fields.text("arguments").unwrap_or_default();
                if !fragment.is_empty() {
                    sink(Event::ToolArguments { index, fragment });
                }
                sink(Event::ToolEnd { index });
                if let Some(call) = self.calls.last_mut() {
                    call.ended = true;
                }
            }
            "reasoning" => {
                let text = reasoning_text(fields.get("summary"), fields.get("content"));
                if !text.is_empty() {
                    self.open = Some(Open::item(Kind::Summary));
                    self.piece(Kind::Summary, text, sink);
                }
                self.prove(&fields, sink);
                self.close(sink);
            }
            _ => {
                self.has_items = true;
                let json = one_line(raw);
                sink(Event::Opaque { what: kind, json });
            }
        }
    }

    fn message(&mut self, fields: &Fields<'_>, sink: Sink<'_>) {
        for part in fields.get("content").and_then(list).unwrap_or_default() {
            let Some(part) = Fields::of(part) else { continue };
            let (kind, said) = match part.text("refusal") {
                Some(refusal) => (Kind::Refusal, Some(refusal)),
                None => (Kind::Text, part.text("text")),
            };
            if let Some(said) = said.filter(|said| !said.is_empty()) {
                self.open = Some(Open::item(kind));
                self.piece(kind, said, sink);
            }
            let notes = part.get("annotations").and_then(list).unwrap_or_default();
            self.annotations
                .extend(notes.into_iter().map(|raw| one_line(raw).into_owned()));
            self.close(sink);
        }
    }

    fn prove(&mut self, fields: &Fields<'_>, sink: Sink<'_>) {
        let Some(proof) = fields.text("encrypted_content").filter(|proof| !proof.is_empty()) else {
            return;
        };
        self.has_items = true;
        if let Some(data) = behind(&proof, REDACTED) {
            sink(Event::Redacted(data));
        } else if let Some(proof) = behind(&proof, OF_CALL) {
            self.proof = Some(proof.into_owned());
            return;
        } else {
            sink(Event::Signature(proof));
        }
        self.open = self.open.or(Some(Open::item(Kind::Summary)));
    }
}

impl Open {
    /// A part whose place does not matter.
    fn item(kind: Kind) -> Self {
        Open {
            kind,
            output_index: None,
            part: None,
        }
    }
}

/// Whether two places are the same, as far as both are known.
fn same(one: Option<u64>, other: Option<u64>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// A text that is not empty.
fn filled(raw: &RawValue) -> Option<Cow<'_, str>> {
    text(raw).filter(|text| !text.is_empty())
}

/// JSON that fits into one line of a stream.
fn one_line(raw: &RawValue) -> Cow<'_, str> {
    let text = raw.get();
    if text.contains(['\n', '\r']) {
        json::compact(text).map_or(Cow::Borrowed(text), Cow::Owned)
    } else {
        Cow::Borrowed(text)
    }
}
