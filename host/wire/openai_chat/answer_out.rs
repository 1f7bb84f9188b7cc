//! An answer for a client, written: whole, or as a stream.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, Serialize as Derive};
use serde_json::value::RawValue;

use super::super::json::{compact, parse, sized, value};
use super::super::{Asked, Encode, ErrorBody};
use super::answer_in::FIELDS;
use super::error_event;
use super::request_out::ExtraContent;
use crate::answer::{Answer, Event, Piece, Reason};
use crate::chat::Usage;
use crate::conversation::ToolCall;

/// Writes a stream.
pub struct Encoder {
    id: String,
    created: u64,
    model: String,
    wants: Wants,
    started: bool,
    usage: Option<Usage>,
    /// Which calls have begun, by their index, and whether arguments came.
    calls: Vec<(u32, bool)>,
    proof: Proof,
}

/// How much of the reasoning's proof is written. A message has one place for it: that of the first reasoning that has any.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    None,
    Open,
    Written,
}

impl Encoder {
    /// For the answer to a request.
    pub fn new(asked: &Asked) -> Self {
        Self {
            id: own_id(asked),
            created: asked.created,
            model: asked.model.clone(),
            wants: Wants::of(&asked.body),
            started: false,
            usage: None,
            calls: Vec::new(),
            proof: Proof::None,
        }
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if !self.started {
            self.started = true;
            let role = Delta {
                role: Some("assistant"),
                content: Some(Content::Text("")),
                refusal: Some(None),
                ..Delta::default()
            };
            self.delta(role, None, out);
        }
    }

    fn say(&mut self, delta: Delta<'_>, out: &mut Vec<u8>) {
        self.start(out);
        self.delta(delta, None, out);
    }

    fn delta(&self, delta: Delta<'_>, finish_reason: Option<&'static str>, out: &mut Vec<u8>) {
        let choice = ChunkChoice {
            index: 0,
            delta,
            logprobs: (),
            finish_reason,
        };
        self.chunk(&[choice], self.wants.usage.then_some(None), out);
    }

    fn chunk(&self, choices: &[ChunkChoice<'_>], usage: Option<Option<UsageOut>>, out: &mut Vec<u8>) {
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        out.extend_from_slice(b"data: ");
        // Memory and strings: it cannot fail.
        let _ = serde_json::to_writer(&mut *out, &chunk);
        out.extend_from_slice(b"\n\n");
    }

    fn arguments(&mut self, index: u32, fragment: &str, out: &mut Vec<u8>) {
        if let Some((_, has_arguments)) = self.calls.iter_mut().rev().find(|(call, _)| *call == index) {
            *has_arguments = true;
        }
        let call = CallDelta {
            index,
            function: Called {
                name: None,
                arguments: fragment,
            },
            ..CallDelta::default()
        };
        self.call(call, out);
    }

    /// Ends a call. Clients read arguments as JSON, so there must be some.
    fn close(&mut self, index: u32, out: &mut Vec<u8>) {
        let call = self.calls.iter().rev().find(|(call, _)| *call == index);
        if call.is_some_and(|(_, has_arguments)| !has_arguments) {
            self.arguments(index, "{}", out);
        }
    }

    fn close_all(&mut self, out: &mut Vec<u8>) {
        for (index, has_arguments) in std::mem::take(&mut self.calls) {
            if !has_arguments {
                self.arguments(index, "{}", out);
            }
        }
    }

    fn tool(&mut self, index: u32, id: &str, name: &str, signature: Option<&str>, out: &mut Vec<u8>) {
        self.calls.push((index, false));
        let call = CallDelta {
            index,
            id: Some(id),
            r#type: Some("function"),
            function: Called {
                name: Some(name),
                arguments: "",
            },
            extra_content: signature.map(|proof| ExtraContent::signed(proof.into())),
        };
        self.call(call, out);
    }

    fn call(&mut self, call: CallDelta<'_>, out: &mut Vec<u8>) {
        if !self.wants.function_call {
            let delta = Delta {
                tool_calls: &[call],
                ..Delta::default()
            };
            self.say(delta, out);
        } else if call.index == 0 {
            let delta = Delta {
                function_call: Some(call.function),
                ..Delta::default()
            };
            self.say(delta, out);
        }
    }

    fn opaque(&mut self, what: &str, json: &str, out: &mut Vec<u8>) {
        // A line break would end the event.
        let json = match json.contains(['\n', '\r']) {
            true => compact(json).map(Cow::Owned),
            false => Some(Cow::Borrowed(json)),
        };
        let raw = json
            .as_deref()
            .and_then(|json| serde_json::from_str::<&RawValue>(json).ok());
        let Some(raw) = raw else {
            return;
        };
        let part = [ContentPart::Raw(raw)];
        let delta = match FIELDS.iter().find(|field| **field == what) {
            Some(field) => Delta {
                fields: vec![(field, raw)],
                ..Delta::default()
            },
            None => Delta {
                content: Some(Content::Parts(&part)),
                ..Delta::default()
            },
        };
        self.say(delta, out);
    }
}

impl Encode for Encoder {
    fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if self.proof == Proof::Open && !matches!(event, Event::Signature(_) | Event::Usage(_)) {
            self.proof = Proof::Written;
        }
        match event {
            Event::Start { id, model } => {
                if !self.started {
                    self.id = id.as_deref().map_or(std::mem::take(&mut self.id), Into::into);
                    self.model = model.as_deref().map_or(std::mem::take(&mut self.model), Into::into);
                }
                self.start(out);
            }
            Event::Text(text) => self.say(
                Delta {
                    content: Some(Content::Text(text)),
                    ..Delta::default()
                },
                out,
            ),
            Event::Refusal(text) => self.say(
                Delta {
                    refusal: Some(Some(text)),
                    ..Delta::default()
                },
                out,
            ),
            Event::Reasoning(text) => self.say(
                Delta {
                    reasoning_content: Some(text),
                    ..Delta::default()
                },
                out,
            ),
            Event::Signature(proof) if self.proof != Proof::Written => {
                self.proof = Proof::Open;
                self.say(
                    Delta {
                        reasoning_signature: Some(proof),
                        ..Delta::default()
                    },
                    out,
                );
            }
            Event::ToolStart {
                index,
                id,
                name,
                signature,
            } => self.tool(*index, id, name, signature.as_deref(), out),
            Event::ToolArguments { index, fragment } => self.arguments(*index, fragment, out),
            Event::ToolEnd { index } => self.close(*index, out),
            Event::Opaque { what, json } => self.opaque(what, json, out),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Finish(finish) => {
                self.start(out);
                self.close_all(out);
                self.delta(Delta::default(), Some(self.wants.word(finish.reason)), out);
            }
            Event::End => {
                self.start(out);
                if let Some(usage) = self.usage.filter(|_| self.wants.usage) {
                    self.chunk(&[], Some(Some(usage.into())), out);
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            Event::Signature(_) | Event::Redacted(_) | Event::BlockEnd | Event::Error(_) => {}
        }
    }

    fn error(&mut self, error: &ErrorBody<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&error_event(error));
    }
}

/// Writes a whole answer.
pub fn encode_answer(answer: &Answer, asked: &Asked) -> Vec<u8> {
    let wants = Wants::of(&asked.body);
    let mut message = Message::of(&answer.blocks);
    let reason = match &answer.finish {
        Some(finish) => finish.reason,
        None if message.tool_calls.is_empty() => Reason::Stop,
        None => Reason::ToolCalls,
    };
    if wants.function_call {
        let calls = std::mem::take(&mut message.tool_calls);
        message.function_call = calls.into_iter().next().map(|call| call.function);
    }
    let own_id = own_id(asked);
    let whole = Whole {
        id: answer.id.as_deref().unwrap_or(&own_id),
        object: "chat.completion",
        created: asked.created,
        model: answer.model.as_deref().unwrap_or(&asked.model),
        choices: [Choice {
            index: 0,
            message,
            logprobs: (),
            finish_reason: wants.word(reason),
        }],
        usage: answer.usage.map(Into::into),
    };
    sized(&whole, answer.size())
}

fn own_id(asked: &Asked) -> String {
    format!("chatcmpl-{}", asked.id)
}

/// What the client's body says of the form of its answer.
#[derive(Clone, Copy, Default)]
struct Wants {
    /// A chunk with the usage, and `usage` in every other.
    usage: bool,
    /// Calls as `function_call`, which is older than `tool_calls` and knows one call only.
    function_call: bool,
}

impl Wants {
    fn of(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Top<'a> {
            #[serde(borrow, default)]
            stream_options: Option<&'a RawValue>,
            #[serde(borrow, default)]
            functions: Option<&'a RawValue>,
            #[serde(borrow, default)]
            tools: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Options {
            #[serde(default)]
            include_usage: Option<bool>,
        }
        let Ok(top) = parse::<Top>(body) else {
            return Self::default();
        };
        let options: Option<Options> = top.stream_options.and_then(value);
        Self {
            usage: options.and_then(|options| options.include_usage).unwrap_or(false),
            function_call: top.functions.is_some() && top.tools.is_none(),
        }
    }

    /// SDKs know these words only.
    fn word(self, reason: Reason) -> &'static str {
        match reason {
            Reason::Stop | Reason::StopSequence | Reason::Malformed => "stop",
            Reason::Length | Reason::ContextWindow => "length",
            Reason::ToolCalls if self.function_call => "function_call",
            Reason::ToolCalls => "tool_calls",
            Reason::Refused => "content_filter",
        }
    }
}

#[derive(Derive)]
struct Chunk<'e> {
    id: &'e str,
    object: &'static str,
    created: u64,
    model: &'e str,
    choices: &'e [ChunkChoice<'e>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageOut>>,
}

#[derive(Derive)]
struct ChunkChoice<'e> {
    index: u32,
    delta: Delta<'e>,
    logprobs: (),
    finish_reason: Option<&'static str>,
}

/// What a chunk adds to the message. Fields that are `Some(None)` are null.
#[derive(Default)]
struct Delta<'e> {
    role: Option<&'static str>,
    content: Option<Content<'e>>,
    refusal: Option<Option<&'e str>>,
    reasoning_content: Option<&'e str>,
    reasoning_signature: Option<&'e str>,
    tool_calls: &'e [CallDelta<'e>],
    function_call: Option<Called<'e>>,
    fields: Vec<(&'static str, &'e RawValue)>,
}

impl Serialize for Delta<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "role", &self.role)?;
        entry(&mut map, "content", &self.content)?;
        entry(&mut map, "refusal", &self.refusal)?;
        entry(&mut map, "reasoning_content", &self.reasoning_content)?;
        entry(&mut map, "reasoning_signature", &self.reasoning_signature)?;
        if !self.tool_calls.is_empty() {
            map.serialize_entry("tool_calls", self.tool_calls)?;
        }
        entry(&mut map, "function_call", &self.function_call)?;
        for (field, raw) in &self.fields {
            map.serialize_entry(field, raw)?;
        }
        map.end()
    }
}

fn entry<M: SerializeMap, T: Serialize>(map: &mut M, name: &'static str, value: &Option<T>) -> Result<(), M::Error> {
    value.as_ref().map_or(Ok(()), |value| map.serialize_entry(name, value))
}

#[derive(Derive)]
#[serde(untagged)]
enum Content<'e> {
    Text(&'e str),
    Parts(&'e [ContentPart<'e>]),
}

#[derive(Derive)]
#[serde(untagged)]
enum ContentPart<'e> {
    Text { r#type: &'static str, text: &'e str },
    Raw(&'e RawValue),
}

#[derive(Derive, Default)]
struct CallDelta<'e> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Called<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<ExtraContent<'e>>,
}

#[derive(Derive, Default)]
struct Called<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'e str>,
    arguments: &'e str,
}

#[derive(Derive)]
struct Whole<'e> {
    id: &'e str,
    object: &'static str,
    created: u64,
    model: &'e str,
    choices: [Choice<'e>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageOut>,
}

#[derive(Derive)]
struct Choice<'e> {
    index: u32,
    message: Message<'e>,
    logprobs: (),
    finish_reason: &'static str,
}

/// A whole message.
#[derive(Default)]
struct Message<'e> {
    /// Texts, and parts that are none.
    parts: Vec<ContentPart<'e>>,
    refusal: Option<String>,
    reasoning: String,
    signature: Option<&'e str>,
    tool_calls: Vec<WholeCall<'e>>,
    function_call: Option<Called<'e>>,
    fields: Vec<(&'static str, Vec<&'e RawValue>)>,
}

#[derive(Derive)]
struct WholeCall<'e> {
    id: &'e str,
    r#type: &'static str,
    function: Called<'e>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<ExtraContent<'e>>,
}

impl<'e> Message<'e> {
    fn of(pieces: &'e [Piece]) -> Self {
        let mut message = Self::default();
        pieces.iter().for_each(|piece| message.add(piece));
        message
    }

    fn add(&mut self, piece: &'e Piece) {
        match piece {
            Piece::Text(text) => self.parts.push(ContentPart::Text { r#type: "text", text }),
            Piece::Refusal(text) => self.refusal.get_or_insert_default().push_str(text),
            Piece::Reasoning { text, signature } => {
                self.reasoning.push_str(text);
                self.signature = self.signature.or(signature.as_deref());
            }
            Piece::Redacted(_) => {}
            Piece::ToolCall(call) => self.tool_calls.push(whole_call(call)),
            Piece::Opaque { what, json } => {
                let Ok(raw) = serde_json::from_str::<&RawValue>(json) else {
                    return;
                };
                match FIELDS.iter().find(|field| *field == what) {
                    Some(field) => self.field(field, raw),
                    None => self.parts.push(ContentPart::Raw(raw)),
                }
            }
        }
    }

    /// A field that a stream has in pieces. Lists are joined; of anything else, the first piece stands for all.
    fn field(&mut self, name: &'static str, raw: &'e RawValue) {
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, pieces)) => pieces.push(raw),
            None => self.fields.push((name, vec![raw])),
        }
    }

    fn content(&self) -> Option<WholeContent<'_>> {
        let texts: Option<Vec<&str>> = self.parts.iter().map(ContentPart::text).collect();
        match texts {
            Some(texts) if texts.is_empty() => None,
            Some(texts) => Some(WholeContent::Text(match texts[..] {
                [only] => Cow::Borrowed(only),
                _ => texts.concat().into(),
            })),
            None => Some(WholeContent::Parts(&self.parts)),
        }
    }
}

fn whole_call<'e>(call: &'e ToolCall<'static>) -> WholeCall<'e> {
    WholeCall {
        id: &call.id,
        r#type: "function",
        function: Called {
            name: Some(&call.name),
            arguments: match &*call.arguments {
                "" => "{}",
                arguments => arguments,
            },
        },
        extra_content: call
            .signature
            .as_deref()
            .map(|proof| ExtraContent::signed(proof.into())),
    }
}

#[derive(Derive)]
#[serde(untagged)]
enum WholeContent<'e> {
    Text(Cow<'e, str>),
    Parts(&'e [ContentPart<'e>]),
}

impl ContentPart<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            ContentPart::Text { text, .. } => Some(text),
            ContentPart::Raw(_) => None,
        }
    }
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", "assistant")?;
        map.serialize_entry("content", &self.content())?;
        map.serialize_entry("refusal", &self.refusal)?;
        if !self.reasoning.is_empty() {
            map.serialize_entry("reasoning_content", &self.reasoning)?;
        }
        entry(&mut map, "reasoning_signature", &self.signature)?;
        if !self.tool_calls.is_empty() {
            map.serialize_entry("tool_calls", &self.tool_calls)?;
        }
        entry(&mut map, "function_call", &self.function_call)?;
        for (field, pieces) in &self.fields {
            let lists: Option<Vec<Vec<&RawValue>>> = pieces.iter().map(|raw| value(raw)).collect();
            match (lists, pieces.first()) {
                (Some(lists), _) => map.serialize_entry(field, &lists.concat())?,
                (None, first) => map.serialize_entry(field, &first)?,
            }
        }
        map.end()
    }
}

#[derive(Derive)]
struct UsageOut {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Derive)]
struct PromptDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Derive)]
struct CompletionDetails {
    reasoning_tokens: u64,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.input_tokens,
            completion_tokens: usage.output_tokens,
            total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: usage.cache_write_tokens,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning_tokens,
            },
        }
    }
}
