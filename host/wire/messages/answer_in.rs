//! Reading a vendor's answer.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Counts, error_of, outline};
use crate::answer::{Event, Finish, Reason};
use crate::failure::VendorError;
use crate::wire::json::{Text, compact, is_something, members, parse, value};
use crate::wire::kept::{KeptObject, Member};
use crate::wire::shape::Limits;
use crate::wire::{Decode, Malformed, openai_chat, sse};

type Sink<'s> = &'s mut dyn FnMut(Event<'_>);

/// What reads a stream.
#[derive(Default)]
pub struct Decoder {
    answer: Reader,
}

/// An event of a stream. The fields of all events stand beside each other.
#[derive(Deserialize)]
struct Step<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl Decode for Decoder {
    fn event(&mut self, event: &sse::Event<'_>, sink: Sink<'_>) -> Result<(), Malformed> {
        let data = match &event.data {
            Some(data) => data.trim_ascii(),
            None => return Ok(()),
        };
        // Some servers end every stream as OpenAI does.
        if data.is_empty() || data == b"[DONE]" {
            return Ok(());
        }
        outline::ANSWER.count(data, &Limits::default())?;
        let step: Step = parse(data)?;
        if let Some(error) = step.error.filter(|error| is_something(error)) {
            sink(Event::Error(
                error_of(error).unwrap_or_else(|| openai_chat::vendor_error(data)),
            ));
            return Ok(());
        }
        let answer = &mut self.answer;
        let name = String::from_utf8_lossy(event.name);
        match step.r#type.as_ref().map_or(&*name, |kind| &*kind.0) {
            "message_start" => match step.message {
                Some(message) => answer.start_stream(message, sink),
                None => answer.usage(step.usage, sink),
            },
            "content_block_start" => {
                if let Some(block) = step.content_block {
                    answer.begin(step.index, block, sink);
                }
            }
            "content_block_delta" => {
                if let Some(delta) = step.delta {
                    answer.delta(step.index, delta, sink);
                }
            }
            "content_block_stop" => answer.end_block(step.index, sink),
            "message_delta" => {
                answer.usage(step.usage, sink);
                if let Some(stop) = step.delta.and_then(value::<Stop>) {
                    answer.finish(&stop, sink);
                }
            }
            "message_stop" => {
                answer.end_blocks(sink);
                sink(Event::End);
            }
            "error" => sink(Event::Error(openai_chat::vendor_error(data))),
            _ => {}
        }
        Ok(())
    }
}

/// Reads a whole answer.
pub fn whole(body: &[u8], sink: Sink<'_>) -> Result<(), Malformed> {
    outline::ANSWER.count(body, &Limits::default())?;
    let step: Step = parse(body)?;
    let is_error = step.r#type.is_some_and(|kind| kind.0 == "error");
    if is_error || step.error.is_some_and(is_something) {
        let error = step.error.and_then(error_of);
        sink(Event::Error(error.unwrap_or_else(|| openai_chat::vendor_error(body))));
        return Ok(());
    }
    let message: Message = parse(body)?;
    let Some(content) = message.content.and_then(value::<Vec<&RawValue>>) else {
        return Err(Malformed::whole("the answer has no `content`"));
    };
    let mut answer = Reader::default();
    answer.start(&message, sink);
    answer.blocks(&content, sink);
    let stop: Stop = parse(body)?;
    answer.finish(&stop, sink);
    sink(Event::End);
    Ok(())
}

/// A whole answer, or the one that a stream begins with.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    model: Option<Text<'a>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// Why the model stopped.
#[derive(Deserialize)]
struct Stop<'a> {
    #[serde(borrow, default)]
    stop_reason: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_sequence: Option<Text<'a>>,
    #[serde(borrow, default)]
    stop_details: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Details<'a> {
    #[serde(borrow, default)]
    explanation: Option<Text<'a>>,
}

/// The fields of all blocks and deltas that other formats know too.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default)]
    citations: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    citation: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(borrow, default)]
    signature: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<Text<'a>>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    partial_json: Option<Text<'a>>,
}

/// What the blocks of an answer say, as they come.
#[derive(Default)]
struct Reader {
    id: Option<String>,
    has_content: bool,
    counts: Counts,
    open: Vec<(u64, Open)>,
    /// The index of the block that begins without one.
    next: u64,
    calls: u32,
    has_opaque: bool,
}

/// A block that has begun.
enum Open {
    /// Text or thoughts.
    Said,
    /// A call of a tool, with the arguments that it began with; they count if no others come.
    Call { index: u32, input: String },
    /// What only this format knows, and the text of its input.
    Opaque { block: KeptObject, input: String },
}

impl Reader {
    /// The answer with which a stream begins. It has no content but where all of it is known from the start.
    fn start_stream(&mut self, raw: &RawValue, sink: Sink<'_>) {
        let Some(message) = value::<Message>(raw) else {
            return;
        };
        let is_new = !self.has_content;
        self.start(&message, sink);
        let content = message.content.and_then(value::<Vec<&RawValue>>).unwrap_or_default();
        if is_new && !content.is_empty() {
            self.blocks(&content, sink);
            if let Some(stop) = value::<Stop>(raw) {
                self.finish(&stop, sink);
            }
        }
    }

    fn blocks(&mut self, content: &[&RawValue], sink: Sink<'_>) {
        for block in content {
            self.begin(None, block, sink);
            self.end_block(None, sink);
        }
    }

    fn start(&mut self, message: &Message<'_>, sink: Sink<'_>) {
        if self.has_content {
            if self.id.as_deref() != message.id.as_ref().map(|id| &*id.0) {
                sink(Event::Error(VendorError {
                    retry_after: None,
                    code: "api_error".into(),
                    status: Some(500),
                    message: "the vendor began another answer in the middle of one".into(),
                }));
            }
            return;
        }
        let is_first = self.id.is_none();
        // The usage comes first: there are formats that begin with it.
        self.usage(message.usage, sink);
        if is_first {
            self.id = Some(message.id.as_ref().map_or_else(String::new, |id| id.0.to_string()));
            let some = |text: &Option<Text<'_>>| {
                text.as_ref()
                    .map(|text| text.0.to_string())
                    .filter(|text| !text.is_empty())
            };
            sink(Event::Start {
                id: some(&message.id).map(Into::into),
                model: some(&message.model).map(Into::into),
            });
        }
    }

    fn usage(&mut self, usage: Option<&RawValue>, sink: Sink<'_>) {
        if let Some(Some(counts)) = usage.map(value::<Counts>) {
            self.counts.update(counts);
            sink(Event::Usage(self.counts.usage()));
        }
    }

    fn begin(&mut self, index: Option<u64>, block: &RawValue, sink: Sink<'_>) {
        let index = index.unwrap_or(self.next);
        self.next = index.saturating_add(1);
        self.has_content = true;
        // Where an end is missing, text and thoughts end here; a call may be one of several at a time.
        let unended = |(known, open): &(u64, Open)| *known == index || !matches!(open, Open::Call { .. });
        while let Some(at) = self.open.iter().position(unended) {
            self.end_at(at, sink);
        }
        let Some(fields) = value::<Fields>(block) else {
            return self.begin_opaque(index, block);
        };
        match &*fields.r#type.0 {
            "text" => {
                for citation in fields.citations.iter().flatten() {
                    cite(citation, sink);
                }
                say(&fields.text, Event::Text, sink);
                self.open.push((index, Open::Said));
            }
            "thinking" => {
                say(&fields.thinking, Event::Reasoning, sink);
                say(&fields.signature, Event::Signature, sink);
                self.open.push((index, Open::Said));
            }
            "redacted_thinking" => {
                say(&fields.data, Event::Redacted, sink);
                self.open.push((index, Open::Said));
            }
            "tool_use" => self.begin_call(index, &fields, sink),
            _ => self.begin_opaque(index, block),
        }
    }

    fn begin_call(&mut self, index: u64, fields: &Fields<'_>, sink: Sink<'_>) {
        let call = self.calls;
        self.calls = call.saturating_add(1);
        let id = match &fields.id {
            Some(Text(id)) if !id.is_empty() => Cow::Borrowed(&**id),
            _ => {
                let answer = self.id.as_deref().unwrap_or_default();
                format!("call_{answer}_{call}").into()
            }
        };
        sink(Event::ToolStart {
            index: call,
            id,
            name: fields.name.as_ref().map_or("", |name| &*name.0).into(),
            signature: None,
        });
        let input = fields.input.filter(|input| is_something(input));
        let input = input.map_or_else(String::new, |input| input.get().to_owned());
        self.open.push((index, Open::Call { index: call, input }));
    }

    fn begin_opaque(&mut self, index: u64, block: &RawValue) {
        self.has_opaque = true;
        let block = KeptObject::of(block);
        let input = String::new();
        self.open.push((index, Open::Opaque { block, input }));
    }

    fn delta(&mut self, index: Option<u64>, raw: &RawValue, sink: Sink<'_>) {
        let open = match index {
            Some(index) => self.open.iter_mut().rev().find(|(known, _)| *known == index),
            None => self.open.last_mut(),
        };
        let open = open.map(|(_, open)| open);
        if let Some(Open::Opaque { block, input }) = open {
            return add_to_opaque(block, input, raw);
        }
        let Some(fields) = value::<Fields>(raw) else {
            return;
        };
        match (&*fields.r#type.0, open) {
            ("text_delta", _) => say(&fields.text, Event::Text, sink),
            ("thinking_delta", _) => say(&fields.thinking, Event::Reasoning, sink),
            ("signature_delta", _) => say(&fields.signature, Event::Signature, sink),
            ("citations_delta", _) => {
                if let Some(citation) = fields.citation {
                    cite(citation, sink);
                }
            }
            ("input_json_delta", Some(Open::Call { index, input })) => {
                if let Some(Text(fragment)) = fields.partial_json.filter(|fragment| !fragment.0.is_empty()) {
                    *input = SAID.into();
                    sink(Event::ToolArguments {
                        index: *index,
                        fragment,
                    });
                }
            }
            _ => return,
        }
        self.has_content = true;
    }

    fn end_block(&mut self, index: Option<u64>, sink: Sink<'_>) {
        let at = match index {
            Some(index) => self.open.iter().position(|(known, _)| *known == index),
            None => self.open.len().checked_sub(1),
        };
        if let Some(at) = at {
            self.end_at(at, sink);
        }
    }

    fn end_blocks(&mut self, sink: Sink<'_>) {
        while !self.open.is_empty() {
            self.end_at(0, sink);
        }
    }

    /// Ends the block at a place among the open ones.
    fn end_at(&mut self, at: usize, sink: Sink<'_>) {
        match self.open.remove(at).1 {
            Open::Said => sink(Event::BlockEnd),
            Open::Call { index, input } => {
                if input != SAID {
                    let input = if input.is_empty() { "{}".into() } else { input };
                    sink(Event::ToolArguments {
                        index,
                        fragment: input.into(),
                    });
                }
                sink(Event::ToolEnd { index });
            }
            Open::Opaque { mut block, input } => {
                if let input @ Member::Json(_) = Member::of_text(input) {
                    block.set("input", input);
                }
                sink(Event::Opaque {
                    what: block.text("type").unwrap_or("block").into(),
                    json: block.to_json().into(),
                });
            }
        }
    }

    fn finish(&mut self, stop: &Stop<'_>, sink: Sink<'_>) {
        let Some(Text(raw)) = stop.stop_reason.as_ref().filter(|reason| !reason.0.is_empty()) else {
            return;
        };
        self.end_blocks(sink);
        let reason = match &**raw {
            "stop_sequence" => Reason::StopSequence,
            "max_tokens" => Reason::Length,
            "model_context_window_exceeded" => Reason::ContextWindow,
            "tool_use" => Reason::ToolCalls,
            "refusal" => Reason::Refused,
            // Some servers say nothing else, whatever came. Where the vendor runs tools, calls may have been answered already.
            "end_turn" if self.calls > 0 && !self.has_opaque => Reason::ToolCalls,
            _ => Reason::Stop,
        };
        if reason == Reason::Refused {
            let details = stop.stop_details.and_then(value::<Details>);
            say(&details.and_then(|details| details.explanation), Event::Refusal, sink);
        }
        sink(Event::Finish(Finish {
            reason,
            raw: Cow::Borrowed(raw),
            stop_sequence: stop.stop_sequence.as_ref().map(|text| Cow::Borrowed(&*text.0)),
        }));
    }
}

/// In place of the arguments that a call began with: others have come.
const SAID: &str = " ";

fn say<'t>(text: &'t Option<Text<'_>>, event: fn(Cow<'t, str>) -> Event<'t>, sink: Sink<'_>) {
    if let Some(Text(text)) = text
        && !text.is_empty()
    {
        sink(event(Cow::Borrowed(text)));
    }
}

fn cite(citation: &RawValue, sink: Sink<'_>) {
    if let Some(json) = compact(citation.get()) {
        sink(Event::Opaque {
            what: "citation".into(),
            json: json.into(),
        });
    }
}

/// Adds a delta to a block of which only the rules for deltas are known: `partial_json` is its input in pieces, other texts go on, and
/// other values take the place of what was there.
fn add_to_opaque(block: &mut KeptObject, input: &mut String, delta: &RawValue) {
    members(delta, |name, raw| match (&*name, Member::of(raw)) {
        ("type", _) => {}
        ("partial_json", Member::Text(more)) => input.push_str(&more),
        (name, value) => block.append(name, value),
    });
}
