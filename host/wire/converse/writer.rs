//! Writing an answer for a client, stream and whole.

use std::borrow::Cow;

use aws_smithy_types::base64;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::json::{sized, value};
use super::super::{Encode, ErrorBody, eventstream, signature};
use super::{Members, STOP_REASONS, write_exception};
use crate::answer::{Answer, Event, Finish, Piece};
use crate::chat::Usage;

/// Writes a stream. Blocks come one after the other: what is said while a tool call is open that was not said to be complete waits
/// until the model has finished.
#[derive(Default)]
pub struct Writer {
    has_started: bool,
    /// The number of the open block, or of the next one.
    index: u64,
    open: Option<Open>,
    /// What waits.
    later: Answer,
    has_finished: bool,
    called: bool,
    usage: Usage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Reasoning,
    Call(u32),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockStart<'a> {
    content_block_index: u64,
    start: Start<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Start<'a> {
    #[serde(rename_all = "camelCase")]
    ToolUse {
        tool_use_id: &'a str,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#type: Option<Cow<'a, str>>,
    },
    #[serde(rename_all = "camelCase")]
    ToolResult {
        tool_use_id: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        r#type: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<Cow<'a, str>>,
    },
    Image {
        format: Cow<'a, str>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockDelta<'a> {
    content_block_index: u64,
    delta: Delta<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Delta<'a> {
    Text(&'a str),
    ReasoningContent(Thought<'a>),
    ToolUse { input: &'a str },
    Citation(&'a RawValue),
    ToolResult(&'a RawValue),
    Image { source: &'a RawValue },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Thought<'a> {
    Text(&'a str),
    Signature(&'a str),
    RedactedContent(Cow<'a, str>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BlockStop {
    content_block_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stop<'a> {
    stop_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_model_response_fields: Option<Fields<'a>>,
}

#[derive(Serialize)]
struct Fields<'a> {
    delta: StopSequence<'a>,
}

#[derive(Serialize)]
struct StopSequence<'a> {
    stop_sequence: &'a str,
}

#[derive(Serialize)]
struct Metadata {
    usage: Tokens,
    metrics: Metrics,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_input_tokens: Option<u64>,
}

/// Clients want to find it; the time that the vendor took is not known here.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    latency_ms: u64,
}

impl Tokens {
    fn of(usage: Usage) -> Self {
        let cached = usage.cached_tokens.saturating_add(usage.cache_write_tokens);
        let some = |count: u64| (count > 0).then_some(count);
        Self {
            input_tokens: usage.input_tokens.saturating_sub(cached),
            output_tokens: usage.output_tokens,
            total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
            cache_read_input_tokens: some(usage.cached_tokens),
            cache_write_input_tokens: some(usage.cache_write_tokens),
        }
    }
}

impl<'a> Stop<'a> {
    fn of(finish: &'a Finish<'_>) -> Self {
        let mut rows = STOP_REASONS.iter().filter(|(_, reason)| *reason == finish.reason);
        let own_word = rows.clone().find(|(word, _)| *word == finish.raw);
        let field = |text: &'a str| Fields {
            delta: StopSequence { stop_sequence: text },
        };
        Self {
            stop_reason: own_word.or(rows.next()).map_or("end_turn", |(word, _)| word),
            additional_model_response_fields: finish.stop_sequence.as_deref().map(field),
        }
    }
}

impl Encode for Writer {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Usage(usage) => self.usage = *usage,
            Event::Finish(finish) => self.finish(finish, out),
            Event::End => {
                // A vendor that said no reason has still come to its end.
                let word = if self.called { "tool_use" } else { "end_turn" };
                let row = STOP_REASONS.iter().find(|(known, _)| *known == word);
                let reason = row.map(|(_, reason)| *reason).unwrap_or_default();
                self.finish(
                    &Finish {
                        reason,
                        ..Finish::default()
                    },
                    out,
                );
                let metadata = Metadata {
                    usage: Tokens::of(self.usage),
                    metrics: Metrics::default(),
                };
                write("metadata", &metadata, out);
            }
            Event::Error(_) => {}
            _ if self.has_finished => {}
            Event::Start { .. } => self.start(out),
            event => {
                self.start(out);
                if self.must_wait(event) {
                    self.later.add(event);
                } else {
                    self.content(event, out);
                }
            }
        }
    }

    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        write_exception(error, out);
    }
}

impl Writer {
    fn start(&mut self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct MessageStart {
            role: &'static str,
        }
        if !std::mem::replace(&mut self.has_started, true) {
            write("messageStart", &MessageStart { role: "assistant" }, out);
        }
    }

    /// Whether something is said while a tool call is open, and not of it, or while something waits already.
    fn must_wait(&self, event: &Event<'_>) -> bool {
        let is_of_open = match (self.open, event) {
            (Some(Open::Call(open)), Event::ToolArguments { index, .. } | Event::ToolEnd { index }) => open == *index,
            (Some(Open::Call(_)), _) => false,
            _ => self.later.blocks.is_empty(),
        };
        !is_of_open
    }

    fn is_open(&self, call: u32) -> bool {
        self.open == Some(Open::Call(call))
    }

    fn content(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Text(text) | Event::Refusal(text) if !text.is_empty() => {
                self.lean(Open::Text, out);
                self.delta(Delta::Text(text), out);
            }
            Event::Reasoning(text) if !text.is_empty() => {
                self.lean(Open::Reasoning, out);
                self.delta(Delta::ReasoningContent(Thought::Text(text)), out);
            }
            Event::Signature(proof) if !proof.is_empty() => {
                self.lean(Open::Reasoning, out);
                self.delta(Delta::ReasoningContent(Thought::Signature(proof)), out);
            }
            Event::Redacted(data) => {
                self.close(out);
                self.delta(Delta::ReasoningContent(Thought::RedactedContent(in_base64(data))), out);
                self.stop(out);
            }
            Event::ToolStart { index, id, name, .. } => {
                self.close(out);
                let start = Start::ToolUse {
                    tool_use_id: id,
                    name,
                    r#type: None,
                };
                self.block_start(start, out);
                self.open = Some(Open::Call(*index));
                self.called = true;
            }
            Event::ToolArguments { index, fragment } if self.is_open(*index) && !fragment.is_empty() => {
                self.delta(Delta::ToolUse { input: fragment }, out);
            }
            Event::ToolEnd { index } if self.is_open(*index) => self.close(out),
            Event::BlockEnd if !matches!(self.open, Some(Open::Call(_))) => self.close(out),
            Event::Opaque { what, json } => {
                if let Ok(raw) = serde_json::from_str(json) {
                    self.opaque(what, raw, out);
                }
            }
            _ => {}
        }
    }

    /// A block that only this format knows.
    fn opaque(&mut self, what: &str, raw: &RawValue, out: &mut Vec<u8>) {
        if what == "citation" {
            self.lean(Open::Text, out);
            return self.delta(Delta::Citation(raw), out);
        }
        let block = value::<Members<'_>>(raw).and_then(|block| block.get(what));
        let Some(block) = block.and_then(value::<Members<'_>>) else {
            return;
        };
        self.close(out);
        match what {
            "toolUse" => {
                let start = Start::ToolUse {
                    tool_use_id: &block.text("toolUseId").unwrap_or_default(),
                    name: &block.text("name").unwrap_or_default(),
                    r#type: block.text("type"),
                };
                self.block_start(start, out);
                let input = block.get("input").map_or("{}", RawValue::get);
                self.delta(Delta::ToolUse { input }, out);
            }
            "toolResult" => {
                let start = Start::ToolResult {
                    tool_use_id: block.text("toolUseId").unwrap_or_default(),
                    r#type: block.text("type"),
                    status: block.text("status"),
                };
                self.block_start(start, out);
                if let Some(content) = block.get("content") {
                    self.delta(Delta::ToolResult(content), out);
                }
            }
            "image" => {
                let format = block.text("format").unwrap_or_default();
                self.block_start(Start::Image { format }, out);
                if let Some(source) = block.get("source") {
                    self.delta(Delta::Image { source }, out);
                }
            }
            // Streams of this format have no other.
            _ => return,
        }
        self.stop(out);
    }

    fn finish(&mut self, finish: &Finish<'_>, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.has_finished, true) {
            return;
        }
        self.start(out);
        self.close(out);
        for piece in std::mem::take(&mut self.later).blocks {
            self.piece(&piece, out);
            self.close(out);
        }
        write("messageStop", &Stop::of(finish), out);
    }

    /// What has waited.
    fn piece(&mut self, piece: &Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Text(text) | Piece::Refusal(text) => self.content(&Event::Text(text.into()), out),
            Piece::Reasoning { text, signature } => {
                self.content(&Event::Reasoning(text.into()), out);
                self.content(&Event::Signature(signature.as_deref().unwrap_or_default().into()), out);
            }
            Piece::Redacted(data) => self.content(&Event::Redacted(data.into()), out),
            Piece::ToolCall(call) => {
                let start = Event::ToolStart {
                    index: 0,
                    id: Cow::Borrowed(&*call.id),
                    name: Cow::Borrowed(&*call.name),
                    signature: None,
                };
                self.content(&start, out);
                let arguments = Event::ToolArguments {
                    index: 0,
                    fragment: Cow::Borrowed(&*call.arguments),
                };
                self.content(&arguments, out);
            }
            Piece::Opaque { what, json } => {
                let opaque = Event::Opaque {
                    what: what.into(),
                    json: json.into(),
                };
                self.content(&opaque, out);
            }
        }
    }

    fn lean(&mut self, kind: Open, out: &mut Vec<u8>) {
        if self.open != Some(kind) {
            self.close(out);
            self.open = Some(kind);
        }
    }

    fn block_start(&mut self, start: Start<'_>, out: &mut Vec<u8>) {
        let start = BlockStart {
            content_block_index: self.index,
            start,
        };
        write("contentBlockStart", &start, out);
    }

    fn delta(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        let delta = BlockDelta {
            content_block_index: self.index,
            delta,
        };
        write("contentBlockDelta", &delta, out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            self.stop(out);
        }
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        let stop = BlockStop {
            content_block_index: self.index,
        };
        write("contentBlockStop", &stop, out);
        self.index += 1;
    }
}

fn write(event: &'static str, payload: &impl Serialize, out: &mut Vec<u8>) {
    let payload = serde_json::to_vec(payload).expect("texts, numbers and JSON serialise");
    eventstream::message(event, payload, out);
}

/// What only its vendor can read is base64 here; what comes from another format may be anything.
fn in_base64(data: &str) -> Cow<'_, str> {
    if data.starts_with(signature::MARK) {
        base64::encode(data).into()
    } else {
        data.into()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    output: Output<'a>,
    #[serde(flatten)]
    stop: Stop<'a>,
    usage: Tokens,
    metrics: Metrics,
}

#[derive(Serialize)]
struct Output<'a> {
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Vec<Content<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Content<'a> {
    Text(&'a str),
    #[serde(rename = "reasoningContent")]
    Reasoning(Reasoning<'a>),
    #[serde(rename_all = "camelCase")]
    ToolUse {
        tool_use_id: &'a str,
        name: &'a str,
        input: Cow<'a, RawValue>,
    },
    #[serde(rename = "citationsContent")]
    Cited {
        content: Vec<Content<'a>>,
        citations: Vec<&'a RawValue>,
    },
    #[serde(untagged)]
    Opaque(&'a RawValue),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Reasoning<'a> {
    ReasoningText {
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        signature: Option<&'a str>,
    },
    RedactedContent(Cow<'a, str>),
}

/// Writes a whole answer.
pub fn encode(answer: &Answer) -> Vec<u8> {
    let nothing = Finish::default();
    let mut content = Vec::with_capacity(answer.blocks.len());
    for piece in &answer.blocks {
        add(piece, &mut content);
    }
    let whole = Whole {
        output: Output {
            message: Message {
                role: "assistant",
                content,
            },
        },
        stop: Stop::of(answer.finish.as_ref().unwrap_or(&nothing)),
        usage: Tokens::of(answer.usage.unwrap_or_default()),
        metrics: Metrics::default(),
    };
    sized(&whole, answer.size())
}

fn add<'a>(piece: &'a Piece, content: &mut Vec<Content<'a>>) {
    let block = match piece {
        Piece::Text(text) | Piece::Refusal(text) if text.is_empty() => return,
        Piece::Text(text) | Piece::Refusal(text) => Content::Text(text),
        Piece::Reasoning { text, signature } => Content::Reasoning(Reasoning::ReasoningText {
            text,
            signature: signature.as_deref(),
        }),
        Piece::Redacted(data) => Content::Reasoning(Reasoning::RedactedContent(in_base64(data))),
        Piece::ToolCall(call) => Content::ToolUse {
            tool_use_id: &call.id,
            name: &call.name,
            input: input(&call.arguments),
        },
        Piece::Opaque { what, json } => {
            let Ok(raw) = serde_json::from_str(json) else { return };
            if what == "citation" {
                return cite(raw, content);
            }
            Content::Opaque(raw)
        }
    };
    content.push(block);
}

/// Adds a citation to the text before it.
fn cite<'a>(citation: &'a RawValue, content: &mut Vec<Content<'a>>) {
    match content.last_mut() {
        Some(Content::Cited { citations, .. }) => return citations.push(citation),
        Some(last @ Content::Text(_)) => {
            let text = std::mem::replace(last, Content::Text(""));
            *last = Content::Cited {
                content: vec![text],
                citations: vec![citation],
            };
            return;
        }
        _ => {}
    }
    content.push(Content::Cited {
        content: Vec::new(),
        citations: vec![citation],
    });
}

/// Arguments as JSON: what a model made that is none, as a text.
fn input(arguments: &str) -> Cow<'_, RawValue> {
    let text = if arguments.trim().is_empty() { "{}" } else { arguments };
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => Cow::Borrowed(raw),
        Err(_) => Cow::Owned(serde_json::value::to_raw_value(arguments).expect("a string serialises")),
    }
}
