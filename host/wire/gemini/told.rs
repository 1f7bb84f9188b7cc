//! Writing an answer for a client: chunks of a stream, and whole answers, which are one chunk.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Serialize;
use serde_json::value::RawValue;

use super::part::{Content, FunctionCall, Part, sign};
use super::{errors, proof, reason};
use crate::answer::{Answer, Event, Finish, Piece, Reason};
use crate::chat::Usage;
use crate::wire::{Asked, Encode, ErrorBody, json};

/// Writes a stream.
pub struct Encoder {
    framing: Framing,
    id: String,
    model: String,
    /// Chunks have been written.
    begun: bool,
    /// The last that was said was a thought, to which a signature belongs.
    in_thought: bool,
    calls: VecDeque<Buffered>,
    /// A call was left out because its arguments are no object.
    has_lost_call: bool,
    finish: Option<Finish<'static>>,
    usage: Option<Usage>,
}

/// How the chunks of a stream are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, where the client asked for `alt=sse`.
    Events,
    /// One JSON array.
    Array,
}

/// A tool call that is being gathered: here they are whole.
struct Buffered {
    index: u32,
    id: String,
    name: String,
    signature: Option<String>,
    arguments: String,
    has_ended: bool,
    /// Bytes of the arguments that were no object when they were last looked at.
    looked_at: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    candidates: [Candidate<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_metadata: Option<UsageMetadata>,
    model_version: &'a str,
    response_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    index: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cached_content_token_count: u64,
    candidates_token_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    thoughts_token_count: u64,
    total_token_count: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<Usage> for UsageMetadata {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_token_count: usage.input_tokens,
            cached_content_token_count: usage.cached_tokens,
            candidates_token_count: usage.output_tokens.saturating_sub(usage.reasoning_tokens),
            thoughts_token_count: usage.reasoning_tokens,
            total_token_count: usage.input_tokens.saturating_add(usage.output_tokens),
        }
    }
}

/// The `finishReason`: a call that was left out is what Google calls malformed, unless the limit of tokens cut it.
fn finish_reason<'a>(finish: &'a Finish<'_>, has_lost_call: bool) -> &'a str {
    match finish.reason {
        Reason::Stop | Reason::StopSequence | Reason::ToolCalls if has_lost_call => "MALFORMED_FUNCTION_CALL",
        _ => reason::write(finish),
    }
}

/// A tool call with arguments that are an object; on one line, as events need it.
fn call<'a>(id: &'a str, name: &'a str, arguments: &'a str, signature: Option<&'a str>) -> Option<Part<'a>> {
    let mut args = json::object(arguments)?;
    if has_lines(args.get()) {
        args = Cow::Owned(RawValue::from_string(json::compact(args.get())?).ok()?);
    }
    let written = FunctionCall {
        id: id.into(),
        name: name.into(),
        args,
    };
    Some(Part::call(written, signature.map(proof::write)))
}

fn has_lines(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// A part that only this format has.
fn own(json: &str) -> Option<Part<'_>> {
    if has_lines(json) {
        let raw = RawValue::from_string(json::compact(json)?).ok()?;
        return Some(Part::Raw(Cow::Owned(raw)));
    }
    let raw: &RawValue = serde_json::from_str(json).ok()?;
    raw.get().starts_with('{').then_some(Part::Raw(Cow::Borrowed(raw)))
}

/// Writes a whole answer.
pub fn encode(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let mut parts = Vec::with_capacity(answer.blocks.len());
    let mut has_lost_call = false;
    for piece in &answer.blocks {
        match piece {
            Piece::Text(text) | Piece::Refusal(text) if text.is_empty() => {}
            Piece::Text(text) | Piece::Refusal(text) => parts.push(Part::text(text)),
            Piece::Reasoning { text, signature } => {
                let signature = signature.as_deref().filter(|it| !it.is_empty()).map(proof::write);
                match signature {
                    Some(signature) if text.is_empty() => sign(&mut parts, signature),
                    None if text.is_empty() => {}
                    signature => parts.push(Part::thought(text, signature)),
                }
            }
            Piece::Redacted(data) => parts.push(Part::signature(proof::write_redacted(data).into())),
            Piece::ToolCall(it) => match call(&it.id, &it.name, &it.arguments, it.signature.as_deref()) {
                Some(part) => parts.push(part),
                None => has_lost_call = true,
            },
            Piece::Opaque { json, .. } => parts.extend(own(json)),
        }
    }
    let finish = answer.finish.as_ref();
    let chunk = Chunk {
        candidates: [last(parts, finish, has_lost_call)],
        usage_metadata: answer.usage.map(Into::into),
        model_version: answer.model.as_deref().unwrap_or(&asked.model),
        response_id: answer.id.as_deref().unwrap_or(&asked.id),
    };
    json::sized(&chunk, answer.size())
}

/// The candidate that says why the model stopped. It has content, as clients expect, unless a safety system took it.
fn last<'a>(mut parts: Vec<Part<'a>>, finish: Option<&'a Finish<'_>>, has_lost_call: bool) -> Candidate<'a> {
    let is_refused = finish.is_some_and(|finish| finish.reason == Reason::Refused);
    if parts.is_empty() && !is_refused {
        parts.push(Part::text(""));
    }
    let role = Some("model");
    Candidate {
        content: (!parts.is_empty()).then_some(Content { role, parts }),
        finish_reason: finish.map(|finish| finish_reason(finish, has_lost_call)),
        index: 0,
    }
}

impl Encoder {
    /// A stream that has not begun.
    pub fn new(framing: Framing, asked: &Asked) -> Self {
        Self {
            framing,
            id: asked.id.clone(),
            model: asked.model.clone(),
            begun: false,
            in_thought: false,
            calls: VecDeque::new(),
            has_lost_call: false,
            finish: None,
            usage: None,
        }
    }

    fn part(&mut self, part: Part<'_>, out: &mut Vec<u8>) {
        let content = Content {
            role: Some("model"),
            parts: vec![part],
        };
        let candidate = Candidate {
            content: Some(content),
            finish_reason: None,
            index: 0,
        };
        self.open(out);
        self.chunk(candidate, None, out);
        self.close(out);
    }

    fn chunk(&self, candidate: Candidate<'_>, usage: Option<Usage>, out: &mut Vec<u8>) {
        let chunk = Chunk {
            candidates: [candidate],
            usage_metadata: usage.map(Into::into),
            model_version: &self.model,
            response_id: &self.id,
        };
        let from = out.len();
        if serde_json::to_writer(&mut *out, &chunk).is_err() {
            out.truncate(from);
        }
    }

    /// What stands before a chunk.
    fn open(&mut self, out: &mut Vec<u8>) {
        let before: &[u8] = match (self.framing, self.begun) {
            (Framing::Events, _) => b"data: ",
            (Framing::Array, false) => b"[",
            (Framing::Array, true) => b",\r\n",
        };
        out.extend_from_slice(before);
        self.begun = true;
    }

    /// What stands behind a chunk.
    fn close(&self, out: &mut Vec<u8>) {
        if self.framing == Framing::Events {
            out.extend_from_slice(b"\r\n\r\n");
        }
    }

    /// Writes the calls that are complete, in their order: those that have ended, and those whose arguments cannot go on.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while self.calls.front_mut().is_some_and(Buffered::is_complete) {
            self.write_first(out);
        }
    }

    fn write_first(&mut self, out: &mut Vec<u8>) {
        let Some(first) = self.calls.pop_front() else { return };
        match call(&first.id, &first.name, &first.arguments, first.signature.as_deref()) {
            Some(part) => self.part(part, out),
            None => self.has_lost_call = true,
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        while !self.calls.is_empty() {
            self.write_first(out);
        }
        let finish = self.finish.take();
        self.open(out);
        let candidate = last(Vec::new(), finish.as_ref(), self.has_lost_call);
        self.chunk(candidate, self.usage, out);
        self.close(out);
        if self.framing == Framing::Array {
            out.push(b']');
        }
    }
}

impl Buffered {
    fn is_complete(&mut self) -> bool {
        if self.has_ended {
            return true;
        }
        if self.looked_at == self.arguments.len() {
            return false;
        }
        self.looked_at = self.arguments.len();
        json::object(&self.arguments).is_some()
    }
}

impl Encode for Encoder {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model } => {
                let keep = |known: &mut String, new: &Option<Cow<'_, str>>| {
                    if let Some(new) = new {
                        *known = new.to_string();
                    }
                };
                keep(&mut self.id, id);
                keep(&mut self.model, model);
            }
            Event::ToolStart {
                index,
                id,
                name,
                signature,
            } => {
                self.flush(out);
                self.in_thought = false;
                self.calls.push_back(Buffered {
                    index: *index,
                    id: id.to_string(),
                    name: name.to_string(),
                    signature: signature.as_deref().map(Into::into),
                    arguments: String::new(),
                    has_ended: false,
                    looked_at: 0,
                });
            }
            Event::ToolArguments { index, fragment } => {
                if let Some(call) = self.calls.iter_mut().rev().find(|call| call.index == *index) {
                    call.arguments.push_str(fragment);
                }
            }
            Event::ToolEnd { index } => {
                if let Some(call) = self.calls.iter_mut().rev().find(|call| call.index == *index) {
                    call.has_ended = true;
                }
                self.flush(out);
            }
            Event::BlockEnd => self.in_thought = false,
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Finish(finish) => {
                while !self.calls.is_empty() {
                    self.write_first(out);
                }
                self.finish = Some(finish.clone().into_owned());
            }
            Event::End => self.end(out),
            Event::Error(_) => {}
            said => {
                self.flush(out);
                self.said(said, out);
            }
        }
    }

    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        self.open(out);
        out.extend_from_slice(&errors::write(error));
        self.close(out);
        if self.framing == Framing::Array {
            out.push(b']');
        }
    }
}

impl Encoder {
    /// Writes what is no call.
    fn said(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let was_thought = std::mem::replace(&mut self.in_thought, matches!(event, Event::Reasoning(_)));
        let part = match event {
            Event::Text(text) | Event::Refusal(text) if !text.is_empty() => Part::text(&**text),
            Event::Reasoning(text) if !text.is_empty() => Part::thought(&**text, None),
            Event::Signature(proof) if proof.is_empty() => return,
            Event::Signature(proof) if was_thought => Part::thought("", Some(proof::write(proof))),
            Event::Signature(proof) => Part::signature(proof::write(proof)),
            Event::Redacted(data) => Part::signature(proof::write_redacted(data).into()),
            Event::Opaque { json, .. } => match own(json) {
                Some(part) => part,
                None => return,
            },
            _ => return,
        };
        self.part(part, out);
    }
}
