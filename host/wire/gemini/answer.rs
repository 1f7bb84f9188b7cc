//! Reading a vendor's answer: the chunks of a stream, and whole answers, which are one chunk.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::object::{Object, list};
use super::partial::Partial;
use super::reason;
use super::{errors, outline};
use crate::answer::{Event, Finish, Reason};
use crate::chat::Usage;
use crate::wire::json::{compact, is_something, parse};
use crate::wire::shape::Limits;
use crate::wire::{Decode, Malformed, sse};

/// Where events go.
type Sink<'s> = &'s mut dyn FnMut(Event<'_>);

/// Reads a stream.
#[derive(Default)]
pub struct Decoder {
    started: bool,
    /// The answer's name, as far as it can be part of a call's.
    id: String,
    calls: u32,
    open: Open,
    partial: Option<Partial>,
    finish: Option<(String, Reason)>,
}

/// What the last part was, which the next one may continue.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    Text,
    Thought,
}

/// Letters of an answer's name that become part of its calls' names.
const MAX_ID: usize = 40;

impl Decode for Decoder {
    fn event(&mut self, event: &sse::Event<'_>, sink: Sink<'_>) -> Result<(), Malformed> {
        match event.data.as_deref().map(<[u8]>::trim_ascii) {
            // Some proxies end every stream as OpenAI does.
            None | Some(b"" | b"[DONE]") => Ok(()),
            Some(data) => {
                outline::ANSWER.count(data, &Limits::default())?;
                self.chunk(&parse(data)?, sink)
            }
        }
    }
}

/// Reads a whole answer, or the list of chunks that a stream without SSE is.
pub fn decode(body: &[u8], sink: Sink<'_>) -> Result<(), Malformed> {
    outline::ANSWER.count(body, &Limits::default())?;
    let body: &RawValue = parse(body)?;
    let mut decoder = Decoder::default();
    let chunks = list(body).filter(|chunks| !chunks.is_empty());
    for chunk in chunks.ok_or_else(no_answer)? {
        let chunk = Object::of(chunk).ok_or_else(no_answer)?;
        let is_answer = chunk.get("candidates").is_some_and(|raw| raw.get().starts_with('['))
            || ["promptFeedback", "error"].iter().any(|name| chunk.get(name).is_some());
        if !is_answer && !decoder.started {
            return Err(no_answer());
        }
        decoder.chunk(&chunk, sink)?;
    }
    decoder.complete(sink);
    Ok(())
}

fn no_answer() -> Malformed {
    Malformed::whole("the answer has no `candidates`")
}

/// The candidates beside the first, which is all that is translated: (index, finished, has content).
pub fn other_candidates(data: &[u8]) -> Vec<(u32, bool, bool)> {
    let Ok(chunk) = parse::<Object>(data) else {
        return Vec::new();
    };
    let candidates = chunk.list("candidates").into_iter().filter_map(Object::of);
    let read = candidates.map(|candidate| {
        let index = u32::try_from(index(&candidate)).unwrap_or(u32::MAX);
        let parts = candidate.object("content").map(|content| content.list("parts").len());
        (index, finish_reason(&candidate).is_some(), parts.unwrap_or(0) > 0)
    });
    read.filter(|(index, ..)| *index > 0).collect()
}

fn index(candidate: &Object<'_>) -> u64 {
    candidate.count("index").unwrap_or(0)
}

fn finish_reason<'a>(candidate: &Object<'a>) -> Option<Cow<'a, str>> {
    let said = candidate.text("finishReason")?;
    (!said.is_empty() && said != "FINISH_REASON_UNSPECIFIED").then_some(said)
}

impl Decoder {
    fn chunk(&mut self, chunk: &Object<'_>, sink: Sink<'_>) -> Result<(), Malformed> {
        if let Some(error) = chunk.get("error").filter(|raw| is_something(raw)) {
            sink(Event::Error(errors::read(error)));
            return Ok(());
        }
        self.start(chunk, sink);
        let candidates = chunk.list("candidates").into_iter().filter_map(Object::of);
        let first = candidates.into_iter().find(|candidate| index(candidate) == 0);
        if let Some(content) = first.as_ref().and_then(|candidate| candidate.object("content")) {
            for part in content.list("parts") {
                self.part(part, sink)?;
            }
        }
        if let Some(usage) = chunk.object("usageMetadata").and_then(|fields| usage(&fields)) {
            sink(Event::Usage(usage));
        }
        if let Some(reason) = first.as_ref().and_then(finish_reason) {
            self.complete(sink);
            self.finish(&reason, reason::read(&reason, self.calls > 0), sink);
        } else if first.is_none()
            && let Some(feedback) = chunk.object("promptFeedback")
            && let Some(reason) = feedback.text("blockReason").filter(|reason| !reason.is_empty())
        {
            self.finish(&reason, Reason::Refused, sink);
        }
        Ok(())
    }

    fn start(&mut self, chunk: &Object<'_>, sink: Sink<'_>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let named = |name| chunk.text(name).filter(|text| !text.is_empty());
        let id = named("responseId");
        let letters = id.iter().flat_map(|id| id.chars());
        let allowed = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
        self.id = letters.filter(allowed).take(MAX_ID).collect();
        let model = named("modelVersion");
        sink(Event::Start { id, model });
    }

    fn part(&mut self, raw: &RawValue, sink: Sink<'_>) -> Result<(), Malformed> {
        let Some(part) = Object::of(raw) else {
            return Err(Malformed::whole("a part of the answer is no object"));
        };
        let signature = part.text("thoughtSignature").filter(|it| !it.is_empty());
        if let Some(call) = part.object("functionCall") {
            return self.call(&call, signature, sink);
        }
        let text = part.text("text").unwrap_or_default();
        let is_text = part.get("text").is_some() || signature.is_some();
        if is_text {
            if !text.is_empty() || signature.is_some() {
                self.complete(sink);
                self.said(text, part.is_true("thought"), signature, sink);
            }
        } else if let Some((what, _)) = part.iter().find(|(name, it)| *name != "thought" && is_something(it)) {
            self.complete(sink);
            self.switch(Open::Nothing, sink);
            let json = Cow::Borrowed(raw.get());
            let what = Cow::Borrowed(&**what);
            sink(Event::Opaque { what, json });
            sink(Event::BlockEnd);
        }
        Ok(())
    }

    fn said(&mut self, text: Cow<'_, str>, is_thought: bool, signature: Option<Cow<'_, str>>, sink: Sink<'_>) {
        let kind = if is_thought { Open::Thought } else { Open::Text };
        if !text.is_empty() || is_thought {
            self.switch(kind, sink);
        }
        if !text.is_empty() {
            sink(if is_thought {
                Event::Reasoning(text)
            } else {
                Event::Text(text)
            });
        }
        if let Some(signature) = signature {
            if !is_thought {
                self.switch(Open::Nothing, sink);
            }
            sink(Event::Signature(signature));
            sink(Event::BlockEnd);
            self.open = Open::Nothing;
        }
    }

    /// Closes what is open unless the next part continues it.
    fn switch(&mut self, next: Open, sink: Sink<'_>) {
        if self.open != Open::Nothing && self.open != next {
            sink(Event::BlockEnd);
        }
        self.open = next;
    }

    fn call(&mut self, call: &Object<'_>, signature: Option<Cow<'_, str>>, sink: Sink<'_>) -> Result<(), Malformed> {
        let will_continue = call.is_true("willContinue");
        let name = call.text("name").filter(|name| !name.is_empty());
        if let (None, Some(partial)) = (&name, &mut self.partial) {
            partial.add(call)?;
            if !will_continue {
                self.complete(sink);
            }
            return Ok(());
        }
        self.complete(sink);
        let Some(name) = name else { return Ok(()) };
        self.switch(Open::Nothing, sink);
        let index = self.calls;
        self.calls = self.calls.saturating_add(1);
        let id = call.text("id").filter(|id| !id.is_empty());
        let id = id.unwrap_or_else(|| self.call_id(index).into());
        sink(Event::ToolStart {
            index,
            id,
            name,
            signature,
        });
        if will_continue || call.get("partialArgs").is_some() {
            let mut partial = Partial::new(index);
            partial.add(call)?;
            self.partial = Some(partial);
            if !will_continue {
                self.complete(sink);
            }
            return Ok(());
        }
        let args = call.get("args").map_or("{}", RawValue::get);
        // Whole answers are laid out for people; in a stream the same arguments stand on one line.
        let compact = args.contains(['\n', '\r']).then(|| compact(args)).flatten();
        let fragment = compact.map_or(Cow::Borrowed(args), Cow::Owned);
        sink(Event::ToolArguments { index, fragment });
        sink(Event::ToolEnd { index });
        Ok(())
    }

    fn call_id(&self, index: u32) -> String {
        match self.id.as_str() {
            "" => format!("call_{index}"),
            id => format!("call_{id}_{index}"),
        }
    }

    /// Ends a call whose arguments came in pieces: the mark of its end may be missing.
    fn complete(&mut self, sink: Sink<'_>) {
        if let Some(partial) = self.partial.take() {
            let index = partial.index;
            let fragment = partial.json().into();
            sink(Event::ToolArguments { index, fragment });
            sink(Event::ToolEnd { index });
        }
    }

    /// Says the end once, or again where a later chunk says another.
    fn finish(&mut self, raw: &str, reason: Reason, sink: Sink<'_>) {
        let is_new = |(known, before): &(String, Reason)| known != raw || *before != reason;
        if self.finish.as_ref().is_none_or(is_new) {
            self.finish = Some((raw.to_owned(), reason));
            sink(Event::Finish(Finish {
                reason,
                raw: Cow::Borrowed(raw),
                stop_sequence: None,
            }));
        }
    }
}

/// Counts of tokens; `None` where none is given.
fn usage(fields: &Object<'_>) -> Option<Usage> {
    let count = |name| fields.count(name);
    let prompt = count("promptTokenCount");
    let candidates = count("candidatesTokenCount");
    let thoughts = count("thoughtsTokenCount");
    prompt.or(candidates).or(thoughts)?;
    let sum = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
    Some(Usage {
        input_tokens: sum(prompt, count("toolUsePromptTokenCount")),
        cached_tokens: count("cachedContentTokenCount").unwrap_or(0),
        cache_write_tokens: 0,
        output_tokens: sum(candidates, thoughts),
        reasoning_tokens: thoughts.unwrap_or(0),
    })
}
