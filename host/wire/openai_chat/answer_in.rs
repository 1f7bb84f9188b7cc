//! A vendor's answer, read: whole, or as a stream.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json::{Text, is_something, parse, value};
use super::super::shape::Limits;
use super::super::{Decode, Malformed, sse};
use super::request_in::{Object, thinking};
use super::{DONE, error_of, flat_error, outline, usage};
use crate::answer::{Event, Finish, Reason};
use crate::chat::{FNV_OFFSET, FNV_PRIME};

/// Fields of a message that only this format has. Other opaque pieces are parts of the content.
pub const FIELDS: &[&str] = &["annotations", "audio", "images"];

/// Where events go.
type Sink<'s> = &'s mut dyn FnMut(Event<'_>);

/// Reads a vendor's stream.
#[derive(Default)]
pub struct Decoder {
    started: bool,
    finished: bool,
    calls: Calls,
}

impl Decode for Decoder {
    fn event(&mut self, event: &sse::Event<'_>, sink: Sink<'_>) -> Result<(), Malformed> {
        let Some(data) = &event.data else {
            return Ok(());
        };
        if data.trim_ascii() == DONE {
            sink(Event::End);
            return Ok(());
        }
        self.chunk(data, sink)
    }
}

/// Reads a vendor's whole answer. It has no end marker.
pub fn decode_answer(body: &[u8], sink: Sink<'_>) -> Result<(), Malformed> {
    let mut seen = (false, false);
    let mut watch = |event: Event<'_>| {
        seen.1 |= matches!(event, Event::Error(_));
        sink(event);
    };
    seen.0 = Decoder::default().chunk_with_choices(body, &mut watch)?;
    match seen {
        (false, false) => Err(Malformed::whole("the answer has no `choices`")),
        _ => Ok(()),
    }
}

/// A chunk of a stream or a whole answer: they differ in `delta` and `message`.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    created: Option<&'a RawValue>,
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
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
    /// The stop text that vLLM met, or the number of a token.
    #[serde(borrow, default)]
    stop_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_signature: Option<&'a RawValue>,
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow, default)]
    audio: Option<&'a RawValue>,
    #[serde(borrow, default)]
    images: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Fragment<'a> {
    #[serde(borrow, default)]
    index: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function: Option<&'a RawValue>,
    /// A tool whose input is no JSON.
    #[serde(borrow, default)]
    custom: Option<&'a RawValue>,
    #[serde(borrow, default)]
    extra_content: Option<&'a RawValue>,
}

impl Decoder {
    fn chunk(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), Malformed> {
        self.chunk_with_choices(data, sink).map(drop)
    }

    /// Reads a chunk, and says whether it has `choices`.
    fn chunk_with_choices(&mut self, data: &[u8], sink: Sink<'_>) -> Result<bool, Malformed> {
        outline::ANSWER.count(data, &Limits::default())?;
        let chunk: Chunk = parse(data)?;
        let flat = || match chunk.choices {
            None => flat_error(data),
            Some(_) => None,
        };
        if let Some(error) = chunk.error.and_then(error_of).or_else(flat) {
            sink(Event::Error(error));
            return Ok(false);
        }
        self.start(&chunk, sink);
        for choice in chunk.choices.iter().flatten() {
            if choice.index.unwrap_or(0) == 0 {
                self.choice(choice, sink);
            }
        }
        if let Some(usage) = chunk.usage.and_then(usage) {
            sink(Event::Usage(usage));
        }
        Ok(chunk.choices.is_some())
    }

    /// Azure's first chunk has neither choices nor an id: the answer begins with the next.
    fn start(&mut self, chunk: &Chunk<'_>, sink: Sink<'_>) {
        let id = said(chunk.id);
        let has_choices = chunk.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        if self.started || (id.is_none() && !has_choices) {
            return;
        }
        self.started = true;
        let created = chunk.created.map_or("", RawValue::get);
        self.calls.seed = [id.as_deref().unwrap_or_default(), created].concat();
        sink(Event::Start {
            id,
            model: said(chunk.model),
        });
    }

    fn choice(&mut self, choice: &Choice<'_>, sink: Sink<'_>) {
        if let Some(delta) = choice.delta.as_ref().or(choice.message.as_ref()) {
            self.delta(delta, sink);
        }
        let Some(reason) = said(choice.finish_reason).filter(|_| !self.finished) else {
            return;
        };
        self.finished = true;
        self.calls.start_all(sink);
        sink(Event::Finish(self.finish(reason, said(choice.stop_reason))));
    }

    fn finish<'a>(&self, raw: Cow<'a, str>, met: Option<Cow<'a, str>>) -> Finish<'a> {
        let reason = match &*raw {
            "length" | "max_tokens" => Reason::Length,
            "model_length" => Reason::ContextWindow,
            "tool_calls" | "function_call" => Reason::ToolCalls,
            "content_filter" => Reason::Refused,
            broken if super::UNFINISHED.contains(&broken) => Reason::Malformed,
            _ if !self.calls.known.is_empty() => Reason::ToolCalls,
            _ if met.is_some() => Reason::StopSequence,
            _ => Reason::Stop,
        };
        Finish {
            reason,
            raw,
            stop_sequence: met.filter(|_| reason == Reason::StopSequence),
        }
    }

    fn delta(&mut self, delta: &Delta<'_>, sink: Sink<'_>) {
        if let Some(text) = said(delta.reasoning_content).or_else(|| said(delta.reasoning)) {
            sink(Event::Reasoning(text));
        }
        if let Some(proof) = said(delta.reasoning_signature) {
            sink(Event::Signature(proof));
        }
        if let Some(raw) = delta.content {
            content(raw, sink);
        }
        if let Some(text) = said(delta.refusal) {
            sink(Event::Refusal(text));
        }
        for (what, raw) in FIELDS.iter().zip([delta.annotations, delta.audio, delta.images]) {
            if let Some(raw) = raw.filter(|raw| is_something(raw)) {
                sink(opaque(what, raw));
            }
        }
        let fragments = delta.tool_calls.and_then(value::<Vec<&RawValue>>);
        for raw in fragments.iter().flatten() {
            self.calls.fragment(raw, sink);
        }
        if let Some(function) = delta.function_call.and_then(value) {
            self.calls.add(Some(0), None, &function, None, sink);
        }
    }
}

/// A string that says something.
fn said(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let Text(text) = value(raw?)?;
    (!text.is_empty()).then_some(text)
}

fn opaque<'a>(what: &'a str, raw: &'a RawValue) -> Event<'a> {
    Event::Opaque {
        what: what.into(),
        json: raw.get().into(),
    }
}

/// Content: a string, or, of Mistral, a list of parts.
fn content(raw: &RawValue, sink: Sink<'_>) {
    if raw.get().starts_with('"') {
        if let Some(text) = said(Some(raw)) {
            sink(Event::Text(text));
        }
        return;
    }
    for raw in value::<Vec<&RawValue>>(raw).into_iter().flatten() {
        let part: Object = value(raw).unwrap_or_default();
        let kind = part.text("type").unwrap_or_default();
        match (&*kind, part.text("text"), part.get("thinking").and_then(thinking)) {
            ("text", Some(text), _) => {
                if !text.is_empty() {
                    sink(Event::Text(text));
                }
            }
            ("thinking", _, Some(text)) => {
                if !text.is_empty() {
                    sink(Event::Reasoning(text));
                }
                if let Some(proof) = part.text("signature") {
                    sink(Event::Signature(proof));
                }
            }
            _ => sink(opaque(&kind, raw)),
        }
    }
}

/// The tool calls of an answer.
#[derive(Default)]
struct Calls {
    /// All, in the order in which they came; their place is their index in events.
    known: Vec<Known>,
    /// The latest call of each of the vendor's indices.
    by_index: BTreeMap<u64, usize>,
    /// The call of each of the vendor's ids.
    by_id: BTreeMap<String, usize>,
    /// Ids as events say them.
    given: BTreeSet<String>,
    /// What ids are made of where the vendor gives none.
    seed: String,
}

/// What is known of a call.
struct Known {
    id: String,
    /// Arguments that came before the name, which a call begins with.
    waiting: Option<String>,
    signature: Option<String>,
}

impl Calls {
    fn fragment(&mut self, raw: &RawValue, sink: Sink<'_>) {
        let Some(fragment) = value::<Fragment>(raw) else {
            return;
        };
        let google = fragment
            .extra_content
            .and_then(value::<Object>)
            .and_then(|extra| extra.object("google"));
        let proof = google.and_then(|google| google.text("thought_signature"));
        let called = fragment.function.or(fragment.custom).and_then(value);
        self.add(
            fragment.index.and_then(value),
            said(fragment.id),
            &called.unwrap_or_default(),
            proof,
            sink,
        );
    }

    fn add(
        &mut self,
        index: Option<u64>,
        id: Option<Cow<'_, str>>,
        function: &Object<'_>,
        signature: Option<Cow<'_, str>>,
        sink: Sink<'_>,
    ) {
        let name = function.text("name").filter(|name| !name.is_empty());
        let at = match self.place(index, id.as_deref(), name.is_some()) {
            Some(at) => at,
            None => self.begin(index, id.as_deref()),
        };
        let Some(call) = self.known.get_mut(at) else {
            return;
        };
        if call.waiting.is_some() {
            call.signature = call.signature.take().or(signature.map(Cow::into_owned));
            if let Some(name) = name {
                call.start(at, &name, sink);
            }
        }
        let arguments = function.get("arguments").or_else(|| function.get("input"));
        // Some servers write the object itself.
        let fragment = arguments.map(|raw| value::<Text>(raw).map_or(Cow::Borrowed(raw.get()), |text| text.0));
        match (&mut call.waiting, fragment.filter(|fragment| !fragment.is_empty())) {
            (_, None) => {}
            (Some(waiting), Some(fragment)) => waiting.push_str(&fragment),
            (None, Some(fragment)) => sink(Event::ToolArguments {
                index: event_index(at),
                fragment,
            }),
        }
    }

    /// The call that a fragment belongs to; `None`: it begins one. Servers leave the index out, or give all calls the same one, or
    /// leave the id out.
    fn place(&self, index: Option<u64>, id: Option<&str>, is_named: bool) -> Option<usize> {
        let of_id = id.and_then(|id| self.by_id.get(id).copied());
        let Some(index) = index else {
            let latest = self.known.len().checked_sub(1);
            return of_id.or_else(|| latest.filter(|_| id.is_none() && !is_named));
        };
        let at = *self.by_index.get(&index)?;
        let is_another = id.is_some() && of_id != Some(at) && is_named && self.has_begun(at);
        (!is_another).then_some(at)
    }

    fn has_begun(&self, at: usize) -> bool {
        self.known.get(at).is_some_and(|call| call.waiting.is_none())
    }

    fn begin(&mut self, index: Option<u64>, id: Option<&str>) -> usize {
        let at = self.known.len();
        let own = id.filter(|id| !self.given.contains(*id)).map(str::to_owned);
        let given = own.unwrap_or_else(|| self.made_up(at));
        self.given.insert(given.clone());
        self.known.push(Known {
            id: given,
            waiting: Some(String::new()),
            signature: None,
        });
        if let Some(index) = index {
            self.by_index.insert(index, at);
        }
        if let Some(id) = id {
            self.by_id.insert(id.to_owned(), at);
        }
        at
    }

    /// An id for a call that has none: always the same for the same answer, and not that of another answer's call.
    fn made_up(&self, at: usize) -> String {
        let hash = self.seed.bytes().fold(FNV_OFFSET, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME)
        });
        format!("call_{hash:08x}_{at}")
    }

    /// Begins the calls whose name never came.
    fn start_all(&mut self, sink: Sink<'_>) {
        for (at, call) in self.known.iter_mut().enumerate() {
            if call.waiting.is_some() {
                call.start(at, "", sink);
            }
        }
    }
}

impl Known {
    fn start(&mut self, at: usize, name: &str, sink: Sink<'_>) {
        sink(Event::ToolStart {
            index: event_index(at),
            id: Cow::Borrowed(&self.id),
            name: name.into(),
            signature: self.signature.as_deref().map(Cow::Borrowed),
        });
        if let Some(fragment) = self.waiting.take().filter(|fragment| !fragment.is_empty()) {
            sink(Event::ToolArguments {
                index: event_index(at),
                fragment: fragment.into(),
            });
        }
    }
}

fn event_index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
