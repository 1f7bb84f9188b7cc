//! Reading a vendor's answer, stream and whole.

use std::borrow::Cow;

use serde_json::value::{RawValue, to_raw_value};

use super::super::json::{compact, parse, value};
use super::super::kept::{KeptObject, Member};
use super::super::shape::Limits;
use super::super::{Decode, Malformed, eventstream, sse};
use super::{Members, STOP_REASONS, fault, is_server_tool, outline, text, usage, vendor_error};
use crate::answer::{Event, Finish, Reason};

type Sink<'s> = dyn FnMut(Event<'_>) + 's;

/// Reads a stream. Blocks may lack their start, which texts do not have, their end, and their number.
#[derive(Default)]
pub struct Reader {
    has_started: bool,
    /// The text or reasoning that takes more, and the number of its block.
    open: Option<(u64, Kind)>,
    /// Tool calls that take more, and the numbers of their blocks.
    calls: Vec<(u64, u32)>,
    next_call: u32,
    /// Blocks of the vendor's own tools.
    own: Vec<(u64, Own)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Reasoning,
}

/// A block that only this format knows, as far as it has come.
struct Own {
    /// `toolUse`, `toolResult` or `image`.
    what: &'static str,
    /// Its members.
    start: KeptObject,
    /// The arguments of a call: JSON, as text.
    input: String,
    /// What a result holds.
    content: Vec<Box<RawValue>>,
}

impl Decode for Reader {
    fn event(&mut self, event: &sse::Event<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        let data = match &event.data {
            Some(data) if !data.trim_ascii().is_empty() => &**data,
            _ => b"{}",
        };
        if let Some(kind) = event.name.strip_prefix(eventstream::EXCEPTION.as_bytes()) {
            let members = serde_json::from_slice::<Members<'_>>(data).unwrap_or_default();
            let kind = match kind {
                b"" => members.text("__type").unwrap_or_default(),
                kind => String::from_utf8_lossy(kind),
            };
            sink(Event::Error(fault(&kind, &members)));
            return Ok(());
        }
        outline::ANSWER.count(data, &Limits::default())?;
        match event.name {
            b"messageStart" => self.start(sink),
            b"contentBlockStart" => self.block_start(&parse(data)?, sink),
            b"contentBlockDelta" => self.delta(&parse(data)?, sink)?,
            b"contentBlockStop" => self.block_stop(&parse(data)?, sink),
            b"messageStop" => {
                let stop: Members<'_> = parse(data)?;
                self.close_all(sink);
                finish(&stop, sink);
            }
            b"metadata" => {
                let metadata: Members<'_> = parse(data)?;
                count(&metadata, sink);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Reader {
    fn start(&mut self, sink: &mut Sink<'_>) {
        if !std::mem::replace(&mut self.has_started, true) {
            sink(Event::Start { id: None, model: None });
        }
    }

    fn block_start(&mut self, event: &Members<'_>, sink: &mut Sink<'_>) {
        self.start(sink);
        let index = index(event).unwrap_or_else(|| self.unnumbered());
        let Some(start) = event.get("start").and_then(value::<Members<'_>>) else {
            return;
        };
        self.close(sink);
        let Some((kind, inner)) = start.kind() else { return };
        let members: Members<'_> = value(inner).unwrap_or_default();
        match &**kind {
            "toolUse" if !is_server_tool(&members) => {
                let call = self.call(&members, sink);
                self.calls.push((index, call));
            }
            "toolUse" => self.own.push((index, Own::new("toolUse", inner))),
            "toolResult" => self.own.push((index, Own::new("toolResult", inner))),
            "image" => self.own.push((index, Own::new("image", inner))),
            _ => {}
        }
    }

    /// The number of a block that has none: one that no vendor counts up to.
    fn unnumbered(&self) -> u64 {
        u64::MAX - u64::from(self.next_call)
    }

    /// Begins a tool call.
    fn call(&mut self, members: &Members<'_>, sink: &mut Sink<'_>) -> u32 {
        let index = self.next_call;
        self.next_call += 1;
        let id = members.text("toolUseId").filter(|id| !id.is_empty());
        sink(Event::ToolStart {
            index,
            id: id.unwrap_or_else(|| format!("call_{index}").into()),
            name: members.text("name").unwrap_or_default(),
            signature: None,
        });
        index
    }

    fn delta(&mut self, event: &Members<'_>, sink: &mut Sink<'_>) -> Result<(), Malformed> {
        self.start(sink);
        let index = index(event);
        let Some(delta) = event.get("delta").and_then(value::<Members<'_>>) else {
            return Ok(());
        };
        for (kind, raw) in delta.iter() {
            match &**kind {
                "text" => {
                    if let Some(text) = text(raw).filter(|text| !text.is_empty()) {
                        self.lean(index, Kind::Text, sink);
                        sink(Event::Text(text));
                    }
                }
                "reasoningContent" => self.thought(index, &value(raw).unwrap_or_default(), sink),
                "toolUse" => self.arguments(index, &value(raw).unwrap_or_default(), sink)?,
                "citation" => {
                    self.lean(index, Kind::Text, sink);
                    sink(citation(raw));
                }
                "toolResult" => {
                    let more: Vec<&RawValue> = value(raw).unwrap_or_default();
                    if let Some(own) = self.own(index) {
                        own.content.extend(more.into_iter().map(ToOwned::to_owned));
                    }
                }
                "image" => {
                    if let Some(own) = self.own(index) {
                        own.start.extend(raw);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn thought(&mut self, index: Option<u64>, thought: &Members<'_>, sink: &mut Sink<'_>) {
        if let Some(text) = thought.text("text").filter(|text| !text.is_empty()) {
            self.lean(index, Kind::Reasoning, sink);
            sink(Event::Reasoning(text));
        }
        if let Some(proof) = thought.text("signature").filter(|proof| !proof.is_empty()) {
            self.lean(index, Kind::Reasoning, sink);
            sink(Event::Signature(proof));
        }
        if let Some(data) = thought.text("redactedContent") {
            self.close(sink);
            sink(Event::Redacted(data));
        }
    }

    fn arguments(&mut self, index: Option<u64>, more: &Members<'_>, sink: &mut Sink<'_>) -> Result<(), Malformed> {
        let fragment = more.text("input").unwrap_or_default();
        if let Some(own) = self.own(index) {
            own.input.push_str(&fragment);
            return Ok(());
        }
        let mut calls = self.calls.iter().rev();
        let call = match index {
            Some(index) => calls.find(|(known, _)| *known == index),
            None => calls.next(),
        };
        match call {
            Some(_) if fragment.is_empty() => {}
            Some((_, index)) => sink(Event::ToolArguments {
                index: *index,
                fragment,
            }),
            None => return Err(Malformed::whole("the arguments of a tool call came without its name")),
        }
        Ok(())
    }

    fn own(&mut self, index: Option<u64>) -> Option<&mut Own> {
        let mut own = self.own.iter_mut().rev();
        let found = match index {
            Some(index) => own.find(|(known, _)| *known == index),
            None => own.next(),
        };
        found.map(|(_, own)| own)
    }

    fn block_stop(&mut self, event: &Members<'_>, sink: &mut Sink<'_>) {
        let index = index(event);
        let is_it = |known: u64| index.is_none_or(|index| index == known);
        if let Some(at) = self.own.iter().rposition(|(known, _)| is_it(*known)) {
            let (_, own) = self.own.remove(at);
            return own.tell(sink);
        }
        if let Some(at) = self.calls.iter().rposition(|(known, _)| is_it(*known)) {
            let (_, index) = self.calls.remove(at);
            return sink(Event::ToolEnd { index });
        }
        if self.open.is_some_and(|(known, _)| is_it(known)) {
            self.close(sink);
        }
    }

    /// Makes a block take more, and closes the one before where its end is missing.
    fn lean(&mut self, index: Option<u64>, kind: Kind, sink: &mut Sink<'_>) {
        let index = index.or(self.open.map(|(index, _)| index)).unwrap_or(0);
        if self.open.is_some_and(|open| open != (index, kind)) {
            self.close(sink);
        }
        self.open = Some((index, kind));
    }

    fn close(&mut self, sink: &mut Sink<'_>) {
        if self.open.take().is_some() {
            sink(Event::BlockEnd);
        }
    }

    fn close_all(&mut self, sink: &mut Sink<'_>) {
        self.start(sink);
        self.close(sink);
        for (_, index) in std::mem::take(&mut self.calls) {
            sink(Event::ToolEnd { index });
        }
        for (_, own) in std::mem::take(&mut self.own) {
            own.tell(sink);
        }
    }
}

impl Own {
    fn new(what: &'static str, start: &RawValue) -> Self {
        Self {
            what,
            start: KeptObject::of(start),
            input: String::new(),
            content: Vec::new(),
        }
    }

    /// The block as a whole answer would have it.
    fn tell(mut self, sink: &mut Sink<'_>) {
        match self.what {
            "toolUse" => {
                let input = if self.input.is_empty() { "{}".into() } else { self.input };
                self.start.set("input", Member::of_text(input));
            }
            "toolResult" => {
                if let Ok(content) = to_raw_value(&self.content) {
                    self.start.set("content", Member::of(&content));
                }
            }
            _ => {}
        }
        sink(Event::Opaque {
            what: self.what.into(),
            json: format!("{{\"{}\":{}}}", self.what, self.start.to_json()).into(),
        });
    }
}

fn index(event: &Members<'_>) -> Option<u64> {
    event.get("contentBlockIndex").and_then(value)
}

fn citation(raw: &RawValue) -> Event<'_> {
    Event::Opaque {
        what: "citation".into(),
        json: raw.get().into(),
    }
}

/// Why the model stopped, where it says so.
fn finish(message: &Members<'_>, sink: &mut Sink<'_>) {
    let Some(raw) = message.text("stopReason") else { return };
    let row = STOP_REASONS.iter().find(|(word, _)| *word == raw);
    sink(Event::Finish(Finish {
        reason: row.map_or(Reason::Stop, |(_, reason)| *reason),
        stop_sequence: stop_sequence(message),
        raw,
    }));
}

/// The stop text that was met, which clients ask for by the name that it has in answers of Anthropic's.
fn stop_sequence<'a>(message: &Members<'a>) -> Option<Cow<'a, str>> {
    let fields: Members<'_> = value(message.get("additionalModelResponseFields")?)?;
    let delta: Option<Members<'_>> = fields.get("delta").and_then(value);
    fields
        .text("stop_sequence")
        .or_else(|| delta.and_then(|delta| delta.text("stop_sequence")))
}

fn count(message: &Members<'_>, sink: &mut Sink<'_>) {
    if let Some(usage) = message.get("usage").and_then(usage) {
        sink(Event::Usage(usage));
    }
}

/// Reads a whole answer.
pub fn decode(body: &[u8], sink: &mut Sink<'_>) -> Result<(), Malformed> {
    outline::ANSWER.count(body, &Limits::default())?;
    let answer: Members<'_> = parse(body)?;
    let message = answer.get("output").and_then(value::<Members<'_>>);
    let message = message.and_then(|output| output.get("message"));
    let Some(message) = message.and_then(value::<Members<'_>>) else {
        let says_error = ["message", "Message", "__type", "error", "Output"];
        if answer.get("output").is_none() && says_error.iter().any(|name| answer.get(name).is_some()) {
            sink(Event::Error(vendor_error(body)));
            return Ok(());
        }
        return Err(Malformed::whole("the answer has no `output.message`"));
    };
    let blocks: Vec<&RawValue> = match message.get("content") {
        Some(content) => {
            value(content).ok_or_else(|| Malformed::whole("the answer's `content` is no list of blocks"))?
        }
        None => Vec::new(),
    };
    let mut reader = Reader::default();
    reader.start(sink);
    for raw in blocks {
        reader.block(raw, sink);
    }
    finish(&answer, sink);
    count(&answer, sink);
    Ok(())
}

impl Reader {
    /// One block of a whole answer, as the stream that it would have been.
    fn block(&mut self, raw: &RawValue, sink: &mut Sink<'_>) {
        let block: Members<'_> = value(raw).unwrap_or_default();
        let Some((kind, inner)) = block.kind() else { return };
        let members: Members<'_> = value(inner).unwrap_or_default();
        match &**kind {
            "text" => {
                if let Some(text) = text(inner).filter(|text| !text.is_empty()) {
                    sink(Event::Text(text));
                    sink(Event::BlockEnd);
                }
            }
            "reasoningContent" => {
                let spoken: Option<Members<'_>> = members.get("reasoningText").and_then(value);
                self.thought(None, &spoken.unwrap_or(members), sink);
                self.close(sink);
            }
            "toolUse" if !is_server_tool(&members) => {
                let index = self.call(&members, sink);
                if let Some(input) = members.get("input") {
                    sink(Event::ToolArguments {
                        index,
                        fragment: in_one_line(input.get()),
                    });
                }
                sink(Event::ToolEnd { index });
            }
            "citationsContent" => {
                let list = |name| members.get(name).and_then(value::<Vec<&RawValue>>).unwrap_or_default();
                let texts = list("content").into_iter().filter_map(value::<Members<'_>>);
                texts
                    .filter_map(|block| block.text("text"))
                    .for_each(|text| sink(Event::Text(text)));
                list("citations").into_iter().for_each(|raw| sink(citation(raw)));
                sink(Event::BlockEnd);
            }
            _ => sink(Event::Opaque {
                what: kind.clone(),
                json: in_one_line(raw.get()),
            }),
        }
    }
}

/// JSON without line breaks between its tokens.
fn in_one_line(json: &str) -> Cow<'_, str> {
    if json.contains('\n') {
        compact(json).map_or(Cow::Borrowed(json), Cow::Owned)
    } else {
        json.into()
    }
}
