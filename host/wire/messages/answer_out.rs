//! Writing an answer for a client.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::shapes::{Block, Delta, Details, Message, Step, StopOut, UsageOut, object, write};
use super::write_error_event;
use crate::answer::{Answer, Event, Finish, Piece, Reason};
use crate::chat::Usage;
use crate::wire::{Asked, Encode, ErrorBody, json};

/// What writes a stream. One block is open at a time: what belongs to another, while a call of a tool is open and incomplete, waits.
pub struct Encoder {
    id: String,
    model: String,
    has_begun: bool,
    next: u32,
    open: Open,
    waiting: VecDeque<Waiting>,
    usage: Option<Usage>,
    ending: Ending,
}

/// The block that is open.
enum Open {
    None,
    Text,
    Thinking { signature: String },
    Call(OpenCall),
}

/// A call that is being written.
struct OpenCall {
    index: u32,
    arguments: Progress,
}

/// What waits for the open call's end.
enum Waiting {
    Call {
        index: u32,
        id: String,
        name: String,
        arguments: String,
        has_ended: bool,
    },
    Other(Event<'static>),
}

impl Encoder {
    /// Writes the answer to a request.
    pub fn new(asked: &Asked) -> Self {
        Self {
            id: id_of(asked),
            model: asked.model.clone(),
            has_begun: false,
            next: 0,
            open: Open::None,
            waiting: VecDeque::new(),
            usage: None,
            ending: Ending::default(),
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let message = Message {
            id: &self.id,
            r#type: "message",
            role: "assistant",
            model: &self.model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            stop_details: None,
            usage: UsageOut::of(self.usage.unwrap_or_default()),
        };
        write(out, &Step::MessageStart { message });
    }

    /// Writes an event, or keeps it until the open call is complete.
    fn take(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::ToolArguments { index, fragment } => self.arguments(*index, fragment, out),
            Event::ToolEnd { index } => self.end_call(*index, out),
            event => {
                if let Open::Call(call) = &self.open {
                    if !call.arguments.is_complete() || !self.waiting.is_empty() {
                        return self.waiting.push_back(Waiting::of(event));
                    }
                    self.close(out);
                }
                self.write(event, out);
            }
        }
    }

    fn arguments(&mut self, index: u32, fragment: &str, out: &mut Vec<u8>) {
        match &mut self.open {
            Open::Call(call) if call.index == index => {
                if fragment.is_empty() {
                    return;
                }
                call.arguments.add(fragment);
                let is_complete = call.arguments.is_complete();
                self.delta(Delta::InputJson { partial_json: fragment }, out);
                if is_complete && !self.waiting.is_empty() {
                    self.close(out);
                    self.go_on(out);
                }
            }
            _ => {
                for waiting in &mut self.waiting {
                    match waiting {
                        Waiting::Call {
                            index: known,
                            arguments,
                            ..
                        } if *known == index => arguments.push_str(fragment),
                        _ => {}
                    }
                }
            }
        }
    }

    fn end_call(&mut self, index: u32, out: &mut Vec<u8>) {
        match &self.open {
            Open::Call(call) if call.index == index => {
                self.close(out);
                self.go_on(out);
            }
            _ => {
                for waiting in &mut self.waiting {
                    match waiting {
                        Waiting::Call {
                            index: known,
                            has_ended,
                            ..
                        } if *known == index => *has_ended = true,
                        _ => {}
                    }
                }
            }
        }
    }

    /// Writes what has waited, up to the next call that is incomplete.
    fn go_on(&mut self, out: &mut Vec<u8>) {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting {
                Waiting::Other(event) => self.write(&event, out),
                Waiting::Call {
                    index,
                    id,
                    name,
                    arguments,
                    has_ended,
                } => {
                    self.close(out);
                    self.start_call(index, &id, &name, out);
                    self.arguments_so_far(&arguments, out);
                    let is_complete = matches!(&self.open, Open::Call(call) if call.arguments.is_complete());
                    let is_done = has_ended || (is_complete && !self.waiting.is_empty());
                    if !is_done {
                        return;
                    }
                    self.close(out);
                }
            }
        }
    }

    fn arguments_so_far(&mut self, arguments: &str, out: &mut Vec<u8>) {
        if arguments.is_empty() {
            return;
        }
        if let Open::Call(call) = &mut self.open {
            call.arguments.add(arguments);
        }
        self.delta(
            Delta::InputJson {
                partial_json: arguments,
            },
            out,
        );
    }

    /// Writes an event that no open call is in the way of.
    fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Text(text) if !text.is_empty() => {
                self.open_text(out);
                self.delta(Delta::Text { text }, out);
            }
            Event::Reasoning(thinking) if !thinking.is_empty() => {
                self.open_thinking(out);
                self.delta(Delta::Thinking { thinking }, out);
            }
            Event::Signature(more) if !more.is_empty() => {
                self.open_thinking(out);
                if let Open::Thinking { signature } = &mut self.open {
                    signature.push_str(more);
                }
            }
            Event::Redacted(data) => self.whole_block(Block::RedactedThinking { data }, out),
            Event::ToolStart { index, id, name, .. } => {
                self.close(out);
                self.start_call(*index, id, name, out);
            }
            Event::Opaque { what, json } => self.opaque(what, json, out),
            Event::BlockEnd => self.close(out),
            _ => {}
        }
    }

    fn open_text(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.open, Open::Text) {
            self.close(out);
            self.open = Open::Text;
            self.start_block(
                Block::Text {
                    text: "",
                    citations: None,
                },
                out,
            );
        }
    }

    fn open_thinking(&mut self, out: &mut Vec<u8>) {
        if !matches!(self.open, Open::Thinking { .. }) {
            self.close(out);
            self.open = Open::Thinking {
                signature: String::new(),
            };
            let empty = Block::Thinking {
                thinking: "",
                signature: "",
            };
            self.start_block(empty, out);
        }
    }

    fn start_call(&mut self, index: u32, id: &str, name: &str, out: &mut Vec<u8>) {
        self.ending.has_calls = true;
        self.open = Open::Call(OpenCall {
            index,
            arguments: Progress::default(),
        });
        let input = Cow::Borrowed(RawValue::NULL);
        let input = json::object("").unwrap_or(input);
        self.start_block(Block::ToolUse { id, name, input }, out);
    }

    fn opaque(&mut self, what: &str, json: &str, out: &mut Vec<u8>) {
        let compact = json::compact(json).filter(|json| json.starts_with('{'));
        let Some(raw) = compact.and_then(|json| RawValue::from_string(json).ok()) else {
            return;
        };
        if what == CITATION {
            self.open_text(out);
            self.delta(Delta::Citations { citation: &raw }, out);
        } else {
            self.ending.has_opaque = true;
            self.whole_block(Block::Raw(&raw), out);
        }
    }

    fn whole_block(&mut self, block: Block<'_>, out: &mut Vec<u8>) {
        self.close(out);
        self.start_block(block, out);
        self.stop_block(out);
    }

    fn start_block(&mut self, content_block: Block<'_>, out: &mut Vec<u8>) {
        let index = self.next;
        write(out, &Step::ContentBlockStart { index, content_block });
    }

    fn delta(&self, delta: Delta<'_>, out: &mut Vec<u8>) {
        let index = self.next;
        write(out, &Step::ContentBlockDelta { index, delta });
    }

    fn stop_block(&mut self, out: &mut Vec<u8>) {
        write(out, &Step::ContentBlockStop { index: self.next });
        self.next = self.next.saturating_add(1);
    }

    /// Closes the open block.
    fn close(&mut self, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.open, Open::None) {
            Open::None => return,
            Open::Text => {}
            // SDKs take the last delta for the whole signature.
            Open::Thinking { signature } if !signature.is_empty() => {
                self.delta(Delta::Signature { signature: &signature }, out);
            }
            Open::Thinking { .. } => {}
            Open::Call(call) if call.arguments.is_empty() => {
                self.delta(Delta::InputJson { partial_json: "" }, out);
            }
            Open::Call(_) => {}
        }
        self.stop_block(out);
    }

    /// Closes everything: no call goes on.
    fn close_all(&mut self, out: &mut Vec<u8>) {
        loop {
            self.close(out);
            if self.waiting.is_empty() {
                return;
            }
            self.go_on(out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close_all(out);
        let stop = self.ending.stop();
        let usage = self.usage.map_or_else(UsageOut::default, UsageOut::of);
        let delta = StopOut {
            stop_reason: stop.reason,
            stop_sequence: stop.sequence,
            stop_details: stop.details,
        };
        write(out, &Step::MessageDelta { delta, usage });
        write(out, &Step::MessageStop {});
    }
}

impl Encode for Encoder {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Usage(usage) => return self.usage = Some(*usage),
            Event::Refusal(more) => return self.ending.refusal.push_str(more),
            Event::Error(_) => return,
            Event::Start { id, model } if !self.has_begun => {
                let some =
                    |text: &Option<Cow<'_, str>>| text.as_deref().filter(|text| !text.is_empty()).map(Into::into);
                self.id = some(id).unwrap_or(std::mem::take(&mut self.id));
                self.model = some(model).unwrap_or(std::mem::take(&mut self.model));
            }
            _ => {}
        }
        self.begin(out);
        match event {
            Event::Start { .. } => {}
            Event::Finish(finish) => {
                self.close_all(out);
                self.ending.finish = Some(finish.clone().into_owned());
            }
            Event::End => self.end(out),
            event => self.take(event, out),
        }
    }

    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        write_error_event(error, out);
    }
}

impl Waiting {
    fn of(event: &Event<'_>) -> Self {
        let owned = |text: &Cow<'_, str>| Cow::Owned(text.to_string());
        Waiting::Other(match event {
            Event::ToolStart { index, id, name, .. } => {
                return Waiting::Call {
                    index: *index,
                    id: id.to_string(),
                    name: name.to_string(),
                    arguments: String::new(),
                    has_ended: false,
                };
            }
            Event::Text(text) => Event::Text(owned(text)),
            Event::Reasoning(text) => Event::Reasoning(owned(text)),
            Event::Signature(text) => Event::Signature(owned(text)),
            Event::Redacted(text) => Event::Redacted(owned(text)),
            Event::Opaque { what, json } => Event::Opaque {
                what: owned(what),
                json: owned(json),
            },
            _ => Event::BlockEnd,
        })
    }
}

/// How far an object has come whose JSON arrives in pieces.
#[derive(Default)]
struct Progress {
    depth: usize,
    has_begun: bool,
    has_closed: bool,
    in_string: bool,
    is_escaped: bool,
}

impl Progress {
    fn add(&mut self, fragment: &str) {
        self.has_begun |= !fragment.is_empty();
        for byte in fragment.bytes() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    self.has_closed = self.depth == 0;
                }
                _ => {}
            }
        }
    }

    fn is_empty(&self) -> bool {
        !self.has_begun
    }

    fn is_complete(&self) -> bool {
        self.has_closed && self.depth == 0 && !self.in_string
    }
}

/// What is known of an answer's end before it is there.
#[derive(Default)]
struct Ending {
    finish: Option<Finish<'static>>,
    refusal: String,
    has_calls: bool,
    has_opaque: bool,
}

/// An answer's end in the words of this format.
struct Stop<'a> {
    reason: &'static str,
    sequence: Option<&'a str>,
    details: Option<Details<'a>>,
}

impl Ending {
    fn stop(&self) -> Stop<'_> {
        let finish = self.finish.as_ref();
        let sequence = finish.and_then(|finish| finish.stop_sequence.as_deref());
        let reason = match finish.map(|finish| finish.reason).unwrap_or_default() {
            Reason::Refused => "refusal",
            Reason::Stop | Reason::StopSequence if !self.refusal.is_empty() => "refusal",
            Reason::ToolCalls => "tool_use",
            Reason::Stop if self.has_calls && !self.has_opaque => "tool_use",
            Reason::StopSequence if sequence.is_some() => "stop_sequence",
            Reason::Stop if finish.is_some_and(|finish| finish.raw == "pause_turn") => "pause_turn",
            Reason::Stop | Reason::StopSequence | Reason::Malformed => "end_turn",
            Reason::Length => "max_tokens",
            Reason::ContextWindow => "model_context_window_exceeded",
        };
        Stop {
            reason,
            sequence: sequence.filter(|_| reason == "stop_sequence"),
            details: (!self.refusal.is_empty()).then_some(Details {
                r#type: "refusal",
                category: None,
                explanation: &self.refusal,
            }),
        }
    }
}

/// Writes a whole answer.
pub fn whole(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let mut ending = Ending {
        finish: answer.finish.clone(),
        ..Ending::default()
    };
    let mut content = Vec::with_capacity(answer.blocks.len());
    let mut citations = Vec::new();
    for piece in &answer.blocks {
        match piece {
            Piece::Opaque { what, json } if what == CITATION => citations.extend(object(json)),
            Piece::Refusal(text) => ending.refusal.push_str(text),
            Piece::Text(text) => content.extend(Block::text(text, &mut citations)),
            piece => {
                content.extend(Block::text("", &mut citations));
                ending.has_calls |= matches!(piece, Piece::ToolCall(_));
                ending.has_opaque |= matches!(piece, Piece::Opaque { .. });
                content.extend(Block::of(piece));
            }
        }
    }
    content.extend(Block::text("", &mut citations));
    let id = answer.id.clone().filter(|id| !id.is_empty());
    let model = answer.model.as_deref().filter(|model| !model.is_empty());
    let stop = ending.stop();
    let message = Message {
        id: &id.unwrap_or_else(|| id_of(asked)),
        r#type: "message",
        role: "assistant",
        model: model.unwrap_or(&asked.model),
        content,
        stop_reason: Some(stop.reason),
        stop_sequence: stop.sequence,
        stop_details: stop.details,
        usage: UsageOut::of(answer.usage.unwrap_or_default()),
    };
    json::sized(&message, answer.size())
}

/// The id of an answer whose vendor gave it none.
fn id_of(asked: &Asked) -> String {
    format!("msg_{}", asked.id)
}

/// What the source of a part of a text is called among the events.
const CITATION: &str = "citation";
