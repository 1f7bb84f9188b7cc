//! A vendor's answer.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::error_of;
use crate::answer::{Event, Finish, Reason};
use crate::chat::Usage;
use crate::failure::VendorError;
use crate::wire::json::{Text, is_something, parse, value};
use crate::wire::{Decode, Malformed, sse};

/// Reads a stream.
#[derive(Default)]
pub struct Decoder {
    counts: Counts,
    /// What is open, by the vendor's index: blocks may be left open or never be begun.
    open: Vec<(u64, Open)>,
    /// Tool calls so far.
    calls: u32,
}

/// A block that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// Text or reasoning.
    Words,
    /// A tool call of this index.
    Call(u32),
    /// What this format alone knows.
    Foreign,
}

/// Counts of tokens; later ones replace earlier ones, each for itself.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    input: Option<u64>,
    cached: Option<u64>,
    written: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
}

impl Counts {
    /// Whether there was anything to add.
    fn add(&mut self, raw: Option<&RawValue>) -> bool {
        #[derive(Deserialize)]
        struct Fields {
            input_tokens: Option<f64>,
            cache_read_input_tokens: Option<f64>,
            cache_creation_input_tokens: Option<f64>,
            output_tokens: Option<f64>,
            output_tokens_details: Option<Details>,
        }
        #[derive(Deserialize)]
        struct Details {
            #[serde(alias = "reasoning_tokens")]
            thinking_tokens: Option<f64>,
        }
        let Some(fields) = raw.and_then(value::<Fields>) else {
            return false;
        };
        let later = |new: Option<f64>, old: Option<u64>| new.map(|count| count as u64).or(old);
        self.input = later(fields.input_tokens, self.input);
        self.cached = later(fields.cache_read_input_tokens, self.cached);
        self.written = later(fields.cache_creation_input_tokens, self.written);
        self.output = later(fields.output_tokens, self.output);
        let details = fields.output_tokens_details.and_then(|details| details.thinking_tokens);
        self.reasoning = later(details, self.reasoning);
        true
    }

    /// This format counts what came from the cache and went into it beside the input, not in it.
    fn usage(&self) -> Usage {
        let count = |count: Option<u64>| count.unwrap_or_default();
        let (cached, written) = (count(self.cached), count(self.written));
        Usage {
            input_tokens: count(self.input).saturating_add(cached).saturating_add(written),
            cached_tokens: cached,
            cache_write_tokens: written,
            output_tokens: count(self.output),
            reasoning_tokens: count(self.reasoning),
        }
    }
}

/// Any event of a stream.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    index: Option<u64>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl Decode for Decoder {
    fn event(&mut self, event: &sse::Event<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
        let Some(data) = &event.data else { return Ok(()) };
        let frame: Frame<'_> = parse(data)?;
        let index = frame.index.unwrap_or_default();
        match &*frame.r#type.0 {
            "message_start" => self.start(frame.message, sink),
            "content_block_start" => self.begin(index, frame.content_block, sink),
            "content_block_delta" => self.delta(index, frame.delta, sink),
            "content_block_stop" => self.stop(index, sink),
            "message_delta" => {
                if self.counts.add(frame.usage) {
                    sink(Event::Usage(self.counts.usage()));
                }
                finish(frame.delta, sink);
            }
            "message_stop" => sink(Event::End),
            _ if frame.error.is_some_and(is_something) => {
                let error = frame.error.and_then(error_of);
                sink(Event::Error(error.unwrap_or_else(nameless)));
            }
            "error" => sink(Event::Error(nameless())),
            // Pings, and whatever comes to be.
            _ => {}
        }
        Ok(())
    }
}

fn nameless() -> VendorError {
    VendorError {
        message: "an error without words".into(),
        ..VendorError::default()
    }
}

/// A whole answer, also that with which a stream begins.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// A block as an answer has it.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    signature: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    citations: Option<Vec<&'a RawValue>>,
}

impl Decoder {
    fn start(&mut self, message: Option<&RawValue>, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(message) = message.and_then(value::<Message<'_>>) else {
            return;
        };
        let text = |text: Option<Text<'_>>| text.map(|Text(text)| text.into_owned().into());
        sink(Event::Start {
            id: text(message.id),
            model: text(message.model),
        });
        if self.counts.add(message.usage) {
            sink(Event::Usage(self.counts.usage()));
        }
    }

    fn begin(&mut self, index: u64, raw: Option<&RawValue>, sink: &mut dyn FnMut(Event<'_>)) {
        self.stop(index, sink);
        let Some((raw, block)) = raw.and_then(|raw| Some((raw, value::<Block<'_>>(raw)?))) else {
            return;
        };
        let open = self.head(raw, &block, sink);
        self.open.push((index, open));
    }

    /// The beginning of a block, with what it brings along.
    fn head(&mut self, raw: &RawValue, block: &Block<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Open {
        match &*block.r#type.0 {
            "text" => words(&block.text, Event::Text, sink),
            "thinking" => {
                words(&block.thinking, Event::Reasoning, sink);
                words(&block.signature, Event::Signature, sink);
            }
            "redacted_thinking" => words(&block.data, Event::Redacted, sink),
            "tool_use" => {
                let index = self.calls;
                self.calls += 1;
                let named = |text: &Option<Text<'_>>| text.as_ref().map(|Text(text)| text.clone().into_owned());
                sink(Event::ToolStart {
                    index,
                    id: named(&block.id)
                        .filter(|id| !id.is_empty())
                        .unwrap_or_else(|| format!("call_{index}"))
                        .into(),
                    name: named(&block.name).unwrap_or_default().into(),
                    signature: named(&block.signature).map(Cow::Owned),
                });
                return Open::Call(index);
            }
            what => {
                sink(Event::Opaque {
                    what: what.into(),
                    json: raw.get().into(),
                });
                return Open::Foreign;
            }
        }
        for citation in block.citations.iter().flatten() {
            cite(citation, sink);
        }
        Open::Words
    }

    fn delta(&mut self, index: u64, raw: Option<&RawValue>, sink: &mut dyn FnMut(Event<'_>)) {
        #[derive(Deserialize)]
        struct Delta<'a> {
            #[serde(borrow)]
            text: Option<Text<'a>>,
            #[serde(borrow)]
            thinking: Option<Text<'a>>,
            #[serde(borrow)]
            signature: Option<Text<'a>>,
            #[serde(borrow)]
            partial_json: Option<Text<'a>>,
            #[serde(borrow)]
            citation: Option<&'a RawValue>,
        }
        let Some(delta) = raw.and_then(value::<Delta<'_>>) else {
            return;
        };
        words(&delta.text, Event::Text, sink);
        words(&delta.thinking, Event::Reasoning, sink);
        words(&delta.signature, Event::Signature, sink);
        if let Some(citation) = delta.citation {
            cite(citation, sink);
        }
        let open = self.open.iter().rev().find(|(known, _)| *known == index);
        match (delta.partial_json, open) {
            (Some(Text(fragment)), Some((_, Open::Call(index)))) if !fragment.is_empty() => {
                sink(Event::ToolArguments {
                    index: *index,
                    fragment,
                });
            }
            (Some(_), Some((_, Open::Foreign))) => sink(Event::Opaque {
                what: "delta".into(),
                json: raw.map_or("{}", RawValue::get).into(),
            }),
            _ => {}
        }
    }

    fn stop(&mut self, index: u64, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(place) = self.open.iter().position(|(known, _)| *known == index) else {
            return;
        };
        match self.open.swap_remove(place).1 {
            Open::Words | Open::Foreign => sink(Event::BlockEnd),
            Open::Call(index) => sink(Event::ToolEnd { index }),
        }
    }
}

fn words<'a>(text: &'a Option<Text<'_>>, event: impl Fn(Cow<'a, str>) -> Event<'a>, sink: &mut dyn FnMut(Event<'_>)) {
    if let Some(Text(text)) = text
        && !text.is_empty()
    {
        sink(event(Cow::Borrowed(text)));
    }
}

fn cite(citation: &RawValue, sink: &mut dyn FnMut(Event<'_>)) {
    sink(Event::Opaque {
        what: "citation".into(),
        json: citation.get().into(),
    });
}

/// Why the model stopped, in a whole answer or the last part of a stream.
fn finish(raw: Option<&RawValue>, sink: &mut dyn FnMut(Event<'_>)) {
    #[derive(Deserialize)]
    struct Ending<'a> {
        #[serde(borrow)]
        stop_reason: Option<Text<'a>>,
        #[serde(borrow)]
        stop_sequence: Option<Text<'a>>,
    }
    let Some(ending) = raw.and_then(value::<Ending<'_>>) else {
        return;
    };
    let Some(Text(raw)) = ending.stop_reason else { return };
    let reason = match &*raw {
        "stop_sequence" => Reason::StopSequence,
        "max_tokens" => Reason::Length,
        "model_context_window_exceeded" => Reason::ContextWindow,
        "tool_use" => Reason::ToolCalls,
        "refusal" => Reason::Refused,
        // `end_turn`, `pause_turn`, and whatever comes to be.
        _ => Reason::Stop,
    };
    sink(Event::Finish(Finish {
        reason,
        raw,
        stop_sequence: ending.stop_sequence.map(|Text(text)| text),
    }));
}

/// Reads a whole answer, as the stream that it would have been.
pub fn whole(body: &[u8], sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Malformed> {
    let message: Message<'_> = parse(body)?;
    if let Some(error) = message.error.filter(|error| is_something(error)) {
        sink(Event::Error(error_of(error).unwrap_or_else(nameless)));
        return Ok(());
    }
    let Some(content) = message.content else {
        return Err(Malformed::whole("the answer has no `content`"));
    };
    let text = |text: Option<Text<'_>>| text.map(|Text(text)| text.into_owned().into());
    sink(Event::Start {
        id: text(message.id),
        model: text(message.model),
    });
    let mut decoder = Decoder::default();
    for (index, raw) in content.into_iter().enumerate() {
        let index = index as u64;
        decoder.begin(index, Some(raw), sink);
        let input = value::<Block<'_>>(raw).and_then(|block| block.input);
        if let (Some(input), Some((_, Open::Call(call)))) = (input, decoder.open.last()) {
            sink(Event::ToolArguments {
                index: *call,
                fragment: input.get().into(),
            });
        }
        decoder.stop(index, sink);
    }
    if decoder.counts.add(message.usage) {
        sink(Event::Usage(decoder.counts.usage()));
    }
    let whole: &RawValue = parse(body)?;
    finish(Some(whole), sink);
    sink(Event::End);
    Ok(())
}
