//! Answers, written for clients: streams and whole ones. A whole answer is what its stream would have ended with.

use std::mem;

use serde_json::value::RawValue;

use super::super::json::sized;
use super::super::{Asked, Encode, ErrorBody};
use super::echo::{Echo, Response, one_line};
use super::line::{AnyPart, Done, Item, Known, Line, Part, Summary};
use super::{ANNOTATION, OF_CALL, REDACTED, write_error, write_event};
use crate::answer::{Answer, Event, Finish, Piece, Reason};
use crate::chat::Usage;

/// Writes a whole answer.
pub fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let mut stream = Stream::new(asked);
    stream.is_quiet = true;
    let nowhere = &mut Vec::new();
    stream.start(answer.id.as_deref(), answer.model.as_deref(), nowhere);
    let mut calls = 0;
    for piece in &answer.blocks {
        stream.piece(piece, &mut calls, nowhere);
    }
    stream.usage = answer.usage;
    stream.finish.clone_from(&answer.finish);
    stream.close_all(nowhere);
    sized(&stream.response(stream.ending()), answer.size())
}

/// Writes a stream.
pub struct Stream {
    /// The gateway's id of the request, for what has none.
    name: String,
    id: String,
    model: String,
    echo: Echo,
    started: bool,
    /// Only what the answer ends with counts.
    is_quiet: bool,
    sequence_number: u64,
    /// Items that are complete, by their index; those between that are still open are missing.
    output: Vec<Option<Done>>,
    open: Option<Open>,
    calls: Vec<OpenCall>,
    usage: Option<Usage>,
    finish: Option<Finish<'static>>,
    /// The model refused, in words.
    refused: bool,
}

/// The item that takes more; tool calls aside, there is one.
enum Open {
    Message {
        id: String,
        output_index: usize,
        content: Vec<Part>,
        /// The last part takes more.
        part_is_open: bool,
    },
    Reasoning {
        id: String,
        output_index: usize,
        /// `None` until there is some.
        text: Option<String>,
        proof: Option<String>,
    },
}

/// A tool call. Several may be open at the same time.
struct OpenCall {
    index: u32,
    id: String,
    output_index: usize,
    call_id: String,
    name: String,
    arguments: String,
    is_open: bool,
}

/// How an answer ends.
struct Ending<'a> {
    status: &'static str,
    incomplete: Option<&'static str>,
    error: Option<(&'a str, &'a str)>,
}

const IN_PROGRESS: Ending<'_> = Ending {
    status: "in_progress",
    incomplete: None,
    error: None,
};

impl Encode for Stream {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model } => self.start(id.as_deref(), model.as_deref(), out),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Finish(finish) => self.finish = Some(finish.clone().into_owned()),
            Event::Error(_) => {}
            content => {
                self.start(None, None, out);
                self.content(content, out);
            }
        }
    }

    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        write_error(error, self.next(), out);
        if !self.started {
            return;
        }
        let failed = Ending {
            status: "failed",
            incomplete: None,
            error: Some((failure_code(error), &error.message)),
        };
        let line = Line {
            sequence_number: self.next(),
            response: Some(self.response(failed)),
            ..Line::of("response.failed")
        };
        write_event(line.r#type, &line, out);
    }
}

/// The code of a failed response: clients know few.
fn failure_code<'a>(error: &ErrorBody<'a>) -> &'a str {
    match (error.status, error.code) {
        (_, "context_length_exceeded") => "context_length_exceeded",
        (429, _) => "rate_limit_exceeded",
        (400 | 413 | 422, _) => "invalid_prompt",
        _ => "server_error",
    }
}

impl Stream {
    /// A stream that answers a request.
    pub fn new(asked: &Asked) -> Self {
        Self {
            name: asked.id.clone(),
            id: format!("resp_{}", asked.id),
            model: asked.model.clone(),
            echo: Echo::of(asked),
            started: false,
            is_quiet: false,
            sequence_number: 0,
            output: Vec::new(),
            open: None,
            calls: Vec::new(),
            usage: None,
            finish: None,
            refused: false,
        }
    }

    fn start(&mut self, id: Option<&str>, model: Option<&str>, out: &mut Vec<u8>) {
        if mem::replace(&mut self.started, true) {
            return;
        }
        let keep = |said: Option<&str>, slot: &mut String| {
            if let Some(said) = said.filter(|said| !said.is_empty()) {
                said.clone_into(slot);
            }
        };
        keep(id, &mut self.id);
        keep(model, &mut self.model);
        self.write_response("response.created", IN_PROGRESS, out);
        self.write_response("response.in_progress", IN_PROGRESS, out);
    }

    fn content(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Text(more) => self.text(more, out),
            Event::Refusal(more) => self.refusal(more, out),
            Event::Reasoning(more) => self.reasoning(more, out),
            Event::Signature(proof) => self.prove(proof, out),
            Event::Redacted(data) => self.proof_item(REDACTED, data, out),
            Event::BlockEnd => self.close_block(out),
            Event::ToolStart {
                index,
                id,
                name,
                signature,
            } => {
                if let Some(proof) = signature {
                    self.proof_item(OF_CALL, proof, out);
                }
                self.call(*index, id, name, out);
            }
            Event::ToolArguments { index, fragment } => self.arguments(*index, fragment, out),
            Event::ToolEnd { index } => {
                if let Some(at) = self.open_call(*index) {
                    self.close_call(at, out);
                }
            }
            Event::Opaque { what, json } => self.opaque(what, json, out),
            Event::End => {
                self.close_all(out);
                let ending = self.ending();
                let name = match ending.status {
                    "incomplete" => "response.incomplete",
                    "failed" => "response.failed",
                    _ => "response.completed",
                };
                let sequence_number = self.sequence_number;
                let line = Line {
                    sequence_number,
                    response: Some(self.response(ending)),
                    ..Line::of(name)
                };
                write_event(name, &line, out);
            }
            Event::Start { .. } | Event::Usage(_) | Event::Finish(_) | Event::Error(_) => {}
        }
    }

    /// One piece of a whole answer, as the events that it would have been.
    fn piece(&mut self, piece: &Piece, calls: &mut u32, out: &mut Vec<u8>) {
        let is_note = matches!(piece, Piece::Opaque { what, .. } if what == ANNOTATION);
        if !is_note {
            self.close_block(out);
        }
        match piece {
            Piece::Text(text) => self.text(text, out),
            Piece::Refusal(text) => self.refusal(text, out),
            Piece::Reasoning { text, signature } => {
                self.reasoning(text, out);
                if let Some(proof) = signature {
                    self.prove(proof, out);
                }
            }
            Piece::Redacted(data) => self.proof_item(REDACTED, data, out),
            Piece::ToolCall(call) => {
                if let Some(proof) = &call.signature {
                    self.proof_item(OF_CALL, proof, out);
                }
                self.call(*calls, &call.id, &call.name, out);
                self.arguments(*calls, &call.arguments, out);
                *calls += 1;
            }
            Piece::Opaque { what, json } => self.opaque(what, json, out),
        }
    }

    fn text(&mut self, more: &str, out: &mut Vec<u8>) {
        if more.is_empty() {
            return;
        }
        let empty = || Part::OutputText {
            annotations: Vec::new(),
            logprobs: [],
            text: String::new(),
        };
        let is_text = |part: &Part| matches!(part, Part::OutputText { .. });
        self.part(is_text, empty, out);
        let Some(Open::Message { content, .. }) = &mut self.open else {
            return;
        };
        if let Some(Part::OutputText { text, .. }) = content.last_mut() {
            text.push_str(more);
        }
        self.write_part(Some(more), out, |_, line| Line {
            r#type: "response.output_text.delta",
            logprobs: Some([]),
            ..line
        });
    }

    fn refusal(&mut self, more: &str, out: &mut Vec<u8>) {
        if more.is_empty() {
            return;
        }
        self.refused = true;
        let empty = || Part::Refusal { refusal: String::new() };
        let is_refusal = |part: &Part| matches!(part, Part::Refusal { .. });
        self.part(is_refusal, empty, out);
        let Some(Open::Message { content, .. }) = &mut self.open else {
            return;
        };
        if let Some(Part::Refusal { refusal }) = content.last_mut() {
            refusal.push_str(more);
        }
        self.write_part(Some(more), out, |_, line| Line {
            r#type: "response.refusal.delta",
            ..line
        });
    }

    /// Sees to it that a part of a kind is open, in a message.
    fn part(&mut self, is_kind: impl Fn(&Part) -> bool, empty: impl Fn() -> Part, out: &mut Vec<u8>) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.close_item(false, out);
            let (id, output_index) = self.place("msg");
            let item = Item::Known(Known::Message {
                id: &id,
                status: "in_progress",
                role: "assistant",
                content: &[],
            });
            self.write_item("response.output_item.added", output_index, &item, out);
            self.open = Some(Open::Message {
                id,
                output_index,
                content: Vec::new(),
                part_is_open: false,
            });
        }
        let Some(Open::Message {
            content, part_is_open, ..
        }) = &self.open
        else {
            return;
        };
        if *part_is_open && content.last().is_some_and(is_kind) {
            return;
        }
        self.close_part(out);
        if let Some(Open::Message {
            content, part_is_open, ..
        }) = &mut self.open
        {
            content.push(empty());
            *part_is_open = true;
        }
        self.write_part(None, out, |part, line| Line {
            r#type: "response.content_part.added",
            part: Some(AnyPart::Content(part)),
            ..line
        });
    }

    /// Writes an event about the last part of the message.
    fn write_part(
        &mut self,
        delta: Option<&str>,
        out: &mut Vec<u8>,
        event: impl for<'a> Fn(&'a Part, Line<'a>) -> Line<'a>,
    ) {
        let sequence_number = self.next();
        let Some(Open::Message {
            id,
            output_index,
            content,
            ..
        }) = &self.open
        else {
            return;
        };
        let Some(part) = content.last() else { return };
        let line = Line {
            sequence_number,
            item_id: Some(id),
            output_index: Some(*output_index),
            content_index: Some(content.len() - 1),
            delta,
            ..Line::of("")
        };
        self.write(&event(part, line), out);
    }

    fn close_part(&mut self, out: &mut Vec<u8>) {
        let Some(Open::Message { part_is_open, .. }) = &mut self.open else {
            return;
        };
        if !mem::take(part_is_open) {
            return;
        }
        self.write_part(None, out, |part, line| match part {
            Part::OutputText { text, .. } => Line {
                r#type: "response.output_text.done",
                text: Some(text),
                logprobs: Some([]),
                ..line
            },
            Part::Refusal { refusal } => Line {
                r#type: "response.refusal.done",
                refusal: Some(refusal),
                ..line
            },
        });
        self.write_part(None, out, |part, line| Line {
            r#type: "response.content_part.done",
            part: Some(AnyPart::Content(part)),
            ..line
        });
    }

    fn reasoning(&mut self, more: &str, out: &mut Vec<u8>) {
        if more.is_empty() {
            return;
        }
        self.open_reasoning(out);
        let Some(Open::Reasoning { text, .. }) = &mut self.open else {
            return;
        };
        let is_new = text.is_none();
        text.get_or_insert_default();
        if is_new {
            self.write_summary(None, out, |_, line| Line {
                r#type: "response.reasoning_summary_part.added",
                part: Some(AnyPart::Summary(Summary::of(""))),
                ..line
            });
        }
        if let Some(Open::Reasoning { text: Some(text), .. }) = &mut self.open {
            text.push_str(more);
        }
        self.write_summary(Some(more), out, |_, line| Line {
            r#type: "response.reasoning_summary_text.delta",
            ..line
        });
    }

    fn open_reasoning(&mut self, out: &mut Vec<u8>) {
        if matches!(self.open, Some(Open::Reasoning { .. })) {
            return;
        }
        self.close_item(false, out);
        let (id, output_index) = self.place("rs");
        let item = Item::Known(Known::Reasoning {
            id: &id,
            summary: &[],
            encrypted_content: None,
        });
        self.write_item("response.output_item.added", output_index, &item, out);
        self.open = Some(Open::Reasoning {
            id,
            output_index,
            text: None,
            proof: None,
        });
    }

    /// Writes an event about the summary.
    fn write_summary(
        &mut self,
        delta: Option<&str>,
        out: &mut Vec<u8>,
        event: impl for<'a> Fn(&'a str, Line<'a>) -> Line<'a>,
    ) {
        let sequence_number = self.next();
        let Some(Open::Reasoning {
            id, output_index, text, ..
        }) = &self.open
        else {
            return;
        };
        let line = Line {
            sequence_number,
            item_id: Some(id),
            output_index: Some(*output_index),
            summary_index: Some(0),
            delta,
            ..Line::of("")
        };
        self.write(&event(text.as_deref().unwrap_or_default(), line), out);
    }

    fn prove(&mut self, more: &str, out: &mut Vec<u8>) {
        self.open_reasoning(out);
        if let Some(Open::Reasoning { proof, .. }) = &mut self.open {
            proof.get_or_insert_default().push_str(more);
        }
    }

    /// An item that is nothing but a proof.
    fn proof_item(&mut self, prefix: &str, proof: &str, out: &mut Vec<u8>) {
        self.close_item(false, out);
        self.prove(&format!("{prefix}{proof}"), out);
        self.close_item(false, out);
    }

    fn call(&mut self, index: u32, call_id: &str, name: &str, out: &mut Vec<u8>) {
        self.close_item(false, out);
        let (id, output_index) = self.place("fc");
        let item = Item::Known(Known::FunctionCall {
            id: &id,
            status: "in_progress",
            arguments: "",
            call_id,
            name,
        });
        self.write_item("response.output_item.added", output_index, &item, out);
        self.calls.push(OpenCall {
            index,
            id,
            output_index,
            call_id: call_id.to_owned(),
            name: name.to_owned(),
            arguments: String::new(),
            is_open: true,
        });
    }

    fn open_call(&self, index: u32) -> Option<usize> {
        self.calls.iter().rposition(|call| call.index == index && call.is_open)
    }

    fn arguments(&mut self, index: u32, fragment: &str, out: &mut Vec<u8>) {
        let sequence_number = self.sequence_number;
        let Some(at) = self.open_call(index).filter(|_| !fragment.is_empty()) else {
            return;
        };
        let Some(call) = self.calls.get_mut(at) else { return };
        call.arguments.push_str(fragment);
        let Some(call) = self.calls.get(at) else { return };
        let line = Line {
            sequence_number,
            item_id: Some(&call.id),
            output_index: Some(call.output_index),
            delta: Some(fragment),
            ..Line::of("response.function_call_arguments.delta")
        };
        self.write(&line, out);
        self.sequence_number += 1;
    }

    fn close_call(&mut self, at: usize, out: &mut Vec<u8>) {
        let Some(call) = self.calls.get(at) else { return };
        if call.arguments.is_empty() {
            // A call without arguments has an empty object of them.
            self.arguments(call.index, "{}", out);
        }
        let Some(call) = self.calls.get_mut(at) else { return };
        call.is_open = false;
        let call = OpenCall {
            id: mem::take(&mut call.id),
            call_id: mem::take(&mut call.call_id),
            name: mem::take(&mut call.name),
            arguments: mem::take(&mut call.arguments),
            ..*call
        };
        let line = Line {
            sequence_number: self.next(),
            item_id: Some(&call.id),
            output_index: Some(call.output_index),
            arguments: Some(&call.arguments),
            ..Line::of("response.function_call_arguments.done")
        };
        self.write(&line, out);
        let done = Done::Call {
            id: call.id,
            arguments: call.arguments,
            call_id: call.call_id,
            name: call.name,
        };
        self.item_done(call.output_index, done, out);
    }

    fn opaque(&mut self, what: &str, json: &str, out: &mut Vec<u8>) {
        let Ok(raw) = serde_json::from_str::<&RawValue>(json) else {
            return;
        };
        let raw = one_line(raw);
        if what == ANNOTATION {
            return self.annotate(raw, out);
        }
        self.close_item(false, out);
        let (_, output_index) = self.place("");
        self.write_item("response.output_item.added", output_index, &Item::Own(&raw), out);
        self.item_done(output_index, Done::Own(raw), out);
    }

    /// Puts a note on the open text.
    fn annotate(&mut self, raw: Box<RawValue>, out: &mut Vec<u8>) {
        let Some(Open::Message { content, .. }) = &mut self.open else {
            return;
        };
        let Some(Part::OutputText { annotations, .. }) = content.last_mut() else {
            return;
        };
        annotations.push(raw);
        self.write_part(None, out, |part, line| Line {
            r#type: "response.output_text.annotation.added",
            annotation: part.annotations().last().map(|raw| &**raw),
            annotation_index: Some(part.annotations().len().saturating_sub(1)),
            ..line
        });
    }

    /// Ends a part of a message, or the reasoning.
    fn close_block(&mut self, out: &mut Vec<u8>) {
        match self.open {
            Some(Open::Reasoning { .. }) => self.close_item(false, out),
            Some(Open::Message { .. }) => self.close_part(out),
            None => {}
        }
    }

    /// Ends the item that takes more; `is_cut`: the answer ends with it, and too early.
    fn close_item(&mut self, is_cut: bool, out: &mut Vec<u8>) {
        self.close_part(out);
        if let Some(Open::Reasoning { text: Some(_), .. }) = &self.open {
            self.write_summary(None, out, |text, line| Line {
                r#type: "response.reasoning_summary_text.done",
                text: Some(text),
                ..line
            });
            self.write_summary(None, out, |text, line| Line {
                r#type: "response.reasoning_summary_part.done",
                part: Some(AnyPart::Summary(Summary::of(text))),
                ..line
            });
        }
        match self.open.take() {
            Some(Open::Message {
                id,
                output_index,
                content,
                ..
            }) => {
                let status = if is_cut { "incomplete" } else { "completed" };
                self.item_done(output_index, Done::Message { id, status, content }, out);
            }
            Some(Open::Reasoning {
                id,
                output_index,
                text,
                proof,
            }) => {
                self.item_done(output_index, Done::Reasoning { id, text, proof }, out);
            }
            None => {}
        }
    }

    fn close_all(&mut self, out: &mut Vec<u8>) {
        let is_cut = self.ending().incomplete.is_some();
        self.close_item(is_cut, out);
        for at in 0..self.calls.len() {
            if self.calls.get(at).is_some_and(|call| call.is_open) {
                self.close_call(at, out);
            }
        }
    }

    /// A refusal in words is a complete answer; one without is none.
    fn ending(&self) -> Ending<'static> {
        let reason = self.finish.as_ref().map(|finish| finish.reason).unwrap_or_default();
        let incomplete = match reason {
            Reason::Length | Reason::ContextWindow => Some("max_output_tokens"),
            Reason::Refused if !self.refused => Some("content_filter"),
            _ => None,
        };
        let is_malformed = reason == Reason::Malformed;
        Ending {
            status: match incomplete {
                Some(_) => "incomplete",
                None if is_malformed => "failed",
                None => "completed",
            },
            incomplete,
            error: is_malformed.then_some(("server_error", "the model made an answer that cannot be read")),
        }
    }

    fn response<'a>(&'a self, ending: Ending<'a>) -> Response<'a> {
        Response {
            echo: &self.echo,
            id: &self.id,
            model: &self.model,
            status: ending.status,
            incomplete: ending.incomplete,
            error: ending.error,
            output: &self.output,
            usage: self.usage,
        }
    }

    fn next(&mut self) -> u64 {
        let number = self.sequence_number;
        self.sequence_number += 1;
        number
    }

    /// The id and the index of a new item.
    fn place(&mut self, kind: &str) -> (String, usize) {
        let output_index = self.output.len();
        self.output.push(None);
        (format!("{kind}_{}_{output_index}", self.name), output_index)
    }

    fn write_response(&mut self, name: &'static str, ending: Ending<'_>, out: &mut Vec<u8>) {
        let sequence_number = self.next();
        let line = Line {
            sequence_number,
            response: Some(self.response(ending)),
            ..Line::of(name)
        };
        self.write(&line, out);
    }

    fn write_item(&mut self, name: &'static str, output_index: usize, item: &Item<'_>, out: &mut Vec<u8>) {
        let line = Line {
            sequence_number: self.next(),
            output_index: Some(output_index),
            item: Some(item),
            ..Line::of(name)
        };
        self.write(&line, out);
    }

    fn item_done(&mut self, output_index: usize, done: Done, out: &mut Vec<u8>) {
        done.with_item(|item| self.write_item("response.output_item.done", output_index, item, out));
        if let Some(slot) = self.output.get_mut(output_index) {
            *slot = Some(done);
        }
    }

    fn write(&self, line: &Line<'_>, out: &mut Vec<u8>) {
        if !self.is_quiet {
            write_event(line.r#type, line, out);
        }
    }
}
