//! An answer for a client.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Messages;
use crate::answer::{Answer, Event, Finish, Piece, Reason};
use crate::chat::Usage;
use crate::wire::{Asked, Codec, Encode, ErrorBody, json};

/// Writes a stream. One block is open at a time: what belongs to another while a tool call is open waits until that is closed.
pub struct Encoder {
    id: String,
    model: String,
    started: bool,
    /// The index of the next block.
    next: u32,
    open: Option<Open>,
    waiting: VecDeque<Event<'static>>,
    finish: Option<Finish<'static>>,
    usage: Usage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    /// The call of this index, and whether some of its arguments have been written.
    Call(u32, bool),
    Foreign,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Frame<'a> {
    MessageStart { message: Message<'a> },
    ContentBlockStart { index: u32, content_block: Block<'a> },
    ContentBlockDelta { index: u32, delta: Delta<'a> },
    ContentBlockStop { index: u32 },
    MessageDelta { delta: Ending<'a>, usage: Counts },
    MessageStop,
}

impl Frame<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Frame::MessageStart { .. } => "message_start",
            Frame::ContentBlockStart { .. } => "content_block_start",
            Frame::ContentBlockDelta { .. } => "content_block_delta",
            Frame::ContentBlockStop { .. } => "content_block_stop",
            Frame::MessageDelta { .. } => "message_delta",
            Frame::MessageStop => "message_stop",
        }
    }
}

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    stop_reason: Option<&'a str>,
    stop_sequence: Option<&'a str>,
    usage: Counts,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block<'a> {
    Own(Own<'a>),
    Foreign(&'a RawValue),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Own<'a> {
    Text {
        text: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        citations: Vec<&'a RawValue>,
    },
    Thinking {
        thinking: &'a str,
        signature: &'a str,
    },
    RedactedThinking {
        data: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Delta<'a> {
    Own(OwnDelta<'a>),
    Foreign(&'a RawValue),
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum OwnDelta<'a> {
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: &'a str },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: &'a str },
    #[serde(rename = "citations_delta")]
    Citation { citation: &'a RawValue },
}

#[derive(Serialize)]
struct Ending<'a> {
    stop_reason: &'a str,
    stop_sequence: Option<&'a str>,
}

/// This format counts what came from the cache and went into it beside the input, not in it.
#[derive(Serialize, Default)]
struct Counts {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    output_tokens: u64,
}

impl From<Usage> for Counts {
    fn from(usage: Usage) -> Self {
        let beside = usage.cached_tokens.saturating_add(usage.cache_write_tokens);
        Self {
            input_tokens: usage.input_tokens.saturating_sub(beside),
            cache_creation_input_tokens: usage.cache_write_tokens,
            cache_read_input_tokens: usage.cached_tokens,
            output_tokens: usage.output_tokens,
        }
    }
}

impl Encoder {
    /// The encoder of the answer to a request.
    pub fn new(asked: &Asked) -> Self {
        Self {
            id: own_id(asked),
            model: asked.model.clone(),
            started: false,
            next: 0,
            open: None,
            waiting: VecDeque::new(),
            finish: None,
            usage: Usage::default(),
        }
    }

    fn start(&mut self, id: Option<&str>, model: Option<&str>, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let message = Message {
            id: id.filter(|id| !id.is_empty()).unwrap_or(&self.id),
            r#type: "message",
            role: "assistant",
            model: model.filter(|model| !model.is_empty()).unwrap_or(&self.model),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: self.usage.into(),
        };
        write(&Frame::MessageStart { message }, out);
    }

    /// Opens a block of this kind, after closing another; does nothing where one of it is open.
    fn open(&mut self, kind: Open, content_block: Block<'_>, out: &mut Vec<u8>) {
        self.close(out);
        let index = self.next;
        write(&Frame::ContentBlockStart { index, content_block }, out);
        self.open = Some(kind);
    }

    fn words(&mut self, kind: Open, out: &mut Vec<u8>) {
        if self.open == Some(kind) {
            return;
        }
        let block = match kind {
            Open::Thinking => Own::Thinking {
                thinking: "",
                signature: "",
            },
            _ => Own::Text {
                text: "",
                citations: Vec::new(),
            },
        };
        self.open(kind, Block::Own(block), out);
    }

    fn delta(&self, delta: OwnDelta<'_>, out: &mut Vec<u8>) {
        self.any_delta(Delta::Own(delta), out);
    }

    fn any_delta(&self, delta: Delta<'_>, out: &mut Vec<u8>) {
        let index = self.next;
        write(&Frame::ContentBlockDelta { index, delta }, out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open.take() else { return };
        // SDKs parse what was streamed: a call without arguments has an empty fragment.
        if matches!(open, Open::Call(_, false)) {
            self.delta(OwnDelta::Input { partial_json: "" }, out);
        }
        let index = self.next;
        write(&Frame::ContentBlockStop { index }, out);
        self.next += 1;
    }

    /// Whether an event has to wait until the open call is closed.
    fn must_wait(&self, event: &Event<'_>) -> bool {
        let Some(Open::Call(open, _)) = self.open else {
            return false;
        };
        match event {
            Event::ToolArguments { index, .. } | Event::ToolEnd { index } => *index != open,
            Event::Usage(_) | Event::Finish(_) | Event::Start { .. } | Event::End | Event::Error(_) => false,
            Event::BlockEnd => false,
            _ => true,
        }
    }

    /// Closes what is open and writes what has waited for it, until nothing does.
    fn settle(&mut self, out: &mut Vec<u8>) {
        self.close(out);
        while !self.waiting.is_empty() {
            self.replay(out);
            self.close(out);
        }
    }

    fn replay(&mut self, out: &mut Vec<u8>) {
        for event in std::mem::take(&mut self.waiting) {
            self.event(&event, out);
        }
    }

    fn opaque(&mut self, what: &str, json: &str, out: &mut Vec<u8>) {
        // The lines of an event must not break in the middle.
        let Some(raw) = json::compact(json).and_then(|text| RawValue::from_string(text).ok()) else {
            return;
        };
        match what {
            "citation" => {
                self.words(Open::Text, out);
                self.delta(OwnDelta::Citation { citation: &raw }, out);
            }
            "delta" if self.open == Some(Open::Foreign) => self.any_delta(Delta::Foreign(&raw), out),
            "delta" => {}
            _ => self.open(Open::Foreign, Block::Foreign(&raw), out),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.start(None, None, out);
        self.settle(out);
        let finish = self.finish.take().unwrap_or_default();
        let delta = Ending {
            stop_reason: stop_reason(&finish),
            stop_sequence: finish.stop_sequence.as_deref(),
        };
        let usage = self.usage.into();
        write(&Frame::MessageDelta { delta, usage }, out);
        write(&Frame::MessageStop, out);
    }
}

impl Encode for Encoder {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model } => return self.start(id.as_deref(), model.as_deref(), out),
            Event::Usage(usage) => {
                self.usage = *usage;
                return;
            }
            Event::Error(_) => return,
            _ => {}
        }
        self.start(None, None, out);
        if self.must_wait(event) {
            self.waiting.push_back(event.clone().into_owned());
            return;
        }
        match event {
            Event::Text(text) | Event::Refusal(text) => {
                self.words(Open::Text, out);
                self.delta(OwnDelta::Text { text }, out);
            }
            Event::Reasoning(thinking) => {
                self.words(Open::Thinking, out);
                self.delta(OwnDelta::Thinking { thinking }, out);
            }
            Event::Signature(signature) => {
                self.words(Open::Thinking, out);
                self.delta(OwnDelta::Signature { signature }, out);
            }
            Event::Redacted(data) => {
                self.open(Open::Foreign, Block::Own(Own::RedactedThinking { data }), out);
                self.close(out);
            }
            Event::ToolStart { index, id, name, .. } => {
                let input = json::object("").unwrap_or_default();
                let block = Own::ToolUse { id, name, input };
                self.open(Open::Call(*index, false), Block::Own(block), out);
            }
            Event::ToolArguments { index, fragment } => {
                if let Some(Open::Call(open, _)) = self.open
                    && open == *index
                {
                    self.open = Some(Open::Call(open, true));
                    self.delta(OwnDelta::Input { partial_json: fragment }, out);
                }
            }
            Event::ToolEnd { index } => {
                if matches!(self.open, Some(Open::Call(open, _)) if open == *index) {
                    self.close(out);
                    self.replay(out);
                }
            }
            Event::BlockEnd if !matches!(self.open, Some(Open::Call(..))) => self.close(out),
            Event::Opaque { what, json } => self.opaque(what, json, out),
            Event::Finish(finish) => {
                self.settle(out);
                self.finish = Some(finish.clone().into_owned());
            }
            Event::End => self.end(out),
            Event::BlockEnd | Event::Start { .. } | Event::Usage(_) | Event::Error(_) => {}
        }
    }

    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&Messages.error_event(error));
    }
}

fn write(frame: &Frame<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(frame.name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut *out, frame).expect("strings and numbers serialise");
    out.extend_from_slice(b"\n\n");
}

fn own_id(asked: &Asked) -> String {
    format!("msg_{}", asked.id.trim_start_matches("req_"))
}

/// The reason in this format's words: those of a vendor of this format as they came.
fn stop_reason<'a>(finish: &'a Finish<'_>) -> &'a str {
    match finish.reason {
        Reason::Stop if finish.raw == "pause_turn" => "pause_turn",
        Reason::StopSequence if finish.stop_sequence.is_some() => "stop_sequence",
        Reason::Stop | Reason::StopSequence | Reason::Malformed => "end_turn",
        Reason::Length => "max_tokens",
        Reason::ContextWindow => "model_context_window_exceeded",
        Reason::ToolCalls => "tool_use",
        Reason::Refused => "refusal",
    }
}

/// Writes a whole answer.
pub fn whole(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let foreign: Vec<Option<&RawValue>> = answer
        .blocks
        .iter()
        .map(|piece| match piece {
            Piece::Opaque { json, .. } => serde_json::from_str(json).ok(),
            _ => None,
        })
        .collect();
    let mut content: Vec<Block<'_>> = Vec::with_capacity(answer.blocks.len());
    for (piece, raw) in answer.blocks.iter().zip(foreign) {
        match (piece, raw) {
            (Piece::Opaque { what, .. }, Some(raw)) if what == "citation" => match content.last_mut() {
                Some(Block::Own(Own::Text { citations, .. })) => citations.push(raw),
                _ => content.push(Block::Own(Own::Text {
                    text: "",
                    citations: vec![raw],
                })),
            },
            (Piece::Opaque { what, .. }, Some(raw)) if what != "delta" => content.push(Block::Foreign(raw)),
            (piece, _) => content.extend(own(piece).map(Block::Own)),
        }
    }
    let own_id = own_id(asked);
    let unfinished = Finish::default();
    let finish = answer.finish.as_ref().unwrap_or(&unfinished);
    let message = Message {
        id: answer.id.as_deref().filter(|id| !id.is_empty()).unwrap_or(&own_id),
        r#type: "message",
        role: "assistant",
        model: answer
            .model
            .as_deref()
            .filter(|model| !model.is_empty())
            .unwrap_or(&asked.model),
        content,
        stop_reason: Some(stop_reason(finish)),
        stop_sequence: finish.stop_sequence.as_deref(),
        usage: answer.usage.unwrap_or_default().into(),
    };
    serde_json::to_vec(&message).expect("strings and numbers serialise")
}

fn own(piece: &Piece) -> Option<Own<'_>> {
    Some(match piece {
        Piece::Text(text) | Piece::Refusal(text) => Own::Text {
            text,
            citations: Vec::new(),
        },
        Piece::Reasoning { text, signature } => Own::Thinking {
            thinking: text,
            signature: signature.as_deref().unwrap_or_default(),
        },
        Piece::Redacted(data) => Own::RedactedThinking { data },
        Piece::ToolCall(call) => Own::ToolUse {
            id: &call.id,
            name: &call.name,
            input: json::object_or_text(&call.arguments),
        },
        Piece::Opaque { .. } => return None,
    })
}
