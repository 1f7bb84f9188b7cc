//! Writing a request for a vendor.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::thinking::{OutputConfig, Sampling, Thinking, thinking};
use super::{CALL_IDS, TOOL_NAMES};
use crate::conversation::{Block, Conversation, Function, Role, Source, Tool, ToolCall, ToolChoice};
use crate::wire::{Call, Encoded, Format, Malformed, json, signature};

/// Writes a request.
pub fn encode(conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
    let writer = Writer { client: call.client };
    let mut system = writer.system(conversation);
    let mut messages = writer.messages(conversation)?;
    if messages.is_empty() {
        messages.extend(Message::of_user(std::mem::take(&mut system)));
    }
    let (thinking, max_tokens) = thinking(conversation, call);
    let is_thinking = thinking.as_ref().is_some_and(Thinking::is_on);
    let mut renamed = Vec::new();
    let tools = writer.tools(conversation, &mut renamed);
    let body = Body {
        anthropic_version: call.dialect.body_version,
        model: call.dialect.body_version.is_none().then_some(call.model),
        max_tokens,
        stream: (call.streaming && call.dialect.body_version.is_none()).then_some(true),
        system: Content::of(system),
        messages,
        tool_choice: tool_choice(conversation, &tools),
        tools,
        output_config: OutputConfig::of(conversation, call, is_thinking),
        thinking,
        sampling: Sampling::of(conversation, is_thinking),
        stop_sequences: conversation
            .stop
            .iter()
            .map(|text| &**text)
            .filter(|text| !is_blank(text))
            .collect(),
        metadata: metadata(conversation),
    };
    let mut out = Vec::with_capacity(size(conversation));
    serde_json::to_writer(&mut out, &body).map_err(|error| json::not_json(&error))?;
    Ok(Encoded { body: out, renamed })
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Bytes that the body has room for from the start: a little more than all that is large in it.
fn size(conversation: &Conversation<'_>) -> usize {
    fn of_source(source: &Source<'_>) -> usize {
        match source {
            Source::Inline { data, .. } => data.len(),
            Source::Text(text) | Source::Url(text) | Source::Stored(text) => text.len(),
        }
    }
    fn of_block(block: &Block<'_>) -> usize {
        64 + match block {
            Block::Text(text) | Block::Redacted(text) => text.len(),
            Block::Image(source) | Block::Audio(source) | Block::Document { source, .. } => of_source(source),
            Block::Reasoning { text, signature } => text.len() + signature.as_ref().map_or(0, |proof| proof.len()),
            Block::ToolCall(call) => 64 + call.name.len() + call.arguments.len(),
            Block::ToolResult { content, .. } => 64 + content.iter().map(of_block).sum::<usize>(),
            Block::Opaque { json, .. } => json.get().len(),
        }
    }
    let turns = conversation.turns.iter().flat_map(|turn| &turn.blocks);
    let blocks = conversation.system.iter().chain(turns).map(of_block).sum::<usize>();
    let tools = conversation.tools.iter().map(|tool| match tool {
        Tool::Function(function) => {
            let schema = function.parameters.as_ref().map_or(0, |schema| schema.get().len());
            128 + schema + function.description.as_ref().map_or(0, |text| text.len())
        }
        Tool::Opaque { json, .. } => json.get().len(),
    });
    let sum = blocks + tools.sum::<usize>() + 512;
    // Line breaks and quotes grow when they are escaped.
    sum + sum / 16
}

#[derive(Serialize)]
struct Body<'b> {
    #[serde(skip_serializing_if = "Option::is_none")]
    anthropic_version: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'b str>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<Content<'b>>,
    messages: Vec<Message<'b>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolOut<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<ChoiceOut<'b>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'b>>,
    #[serde(flatten)]
    sampling: Sampling<'b>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'b>>,
}

#[derive(Serialize)]
struct Message<'b> {
    role: &'static str,
    content: Content<'b>,
}

impl<'b> Message<'b> {
    fn of_user(parts: Vec<Part<'b>>) -> Option<Self> {
        let content = Content::of(parts)?;
        Some(Self { role: "user", content })
    }
}

/// What a message or a result says: a string where it is one text.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'b> {
    Text(&'b str),
    Parts(Vec<Part<'b>>),
}

impl<'b> Content<'b> {
    fn of(parts: Vec<Part<'b>>) -> Option<Self> {
        match &*parts {
            [] => None,
            [Part::Text { text }] => Some(Content::Text(text)),
            _ => Some(Content::Parts(parts)),
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'b> {
    Text {
        text: &'b str,
    },
    Image {
        source: Bytes<'b>,
    },
    Document {
        source: Bytes<'b>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'b str>,
    },
    Thinking {
        thinking: &'b str,
        signature: Cow<'b, str>,
    },
    RedactedThinking {
        data: Cow<'b, str>,
    },
    ToolUse {
        id: Cow<'b, str>,
        name: Cow<'b, str>,
        input: Cow<'b, RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'b, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<Content<'b>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    #[serde(untagged)]
    Raw(&'b RawValue),
}

/// The source of an image or a document.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Bytes<'b> {
    Base64 {
        media_type: &'b str,
        data: &'b str,
    },
    Text {
        media_type: &'static str,
        data: Cow<'b, str>,
    },
    Url {
        url: &'b str,
    },
    File {
        file_id: &'b str,
    },
}

/// Image types that Anthropic takes.
const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// What writes blocks.
struct Writer {
    client: Format,
}

impl Writer {
    /// Instructions, wherever in the conversation they stand.
    fn system<'b>(&self, conversation: &'b Conversation<'_>) -> Vec<Part<'b>> {
        let hoisted = conversation.turns.iter().filter(|turn| turn.role == Role::System);
        let hoisted = hoisted.flat_map(|turn| &turn.blocks);
        let blocks = conversation.system.iter().chain(hoisted);
        let parts = blocks.filter_map(|block| match block {
            Block::Text(text) => (!is_blank(text)).then_some(Part::Text { text }),
            Block::Opaque { json, .. } => self.raw(json).map(Part::Raw),
            _ => None,
        });
        parts.collect()
    }

    /// The turns, with neighbours of one role joined, and the results of tools first in each.
    fn messages<'b>(&self, conversation: &'b Conversation<'_>) -> Result<Vec<Message<'b>>, Malformed> {
        let mut joined: Vec<(&'static str, Vec<Part<'b>>)> = Vec::new();
        for turn in conversation.turns.iter().filter(|turn| turn.role != Role::System) {
            let role = match turn.role {
                Role::Assistant => "assistant",
                _ => "user",
            };
            let mut parts = Vec::with_capacity(turn.blocks.len());
            for block in &turn.blocks {
                parts.extend(self.part(block)?);
            }
            match joined.last_mut() {
                _ if parts.is_empty() => {}
                Some((last, before)) if *last == role => before.append(&mut parts),
                _ => joined.push((role, parts)),
            }
        }
        for (_, parts) in joined.iter_mut().filter(|(role, _)| *role == "user") {
            parts.sort_by_key(|part| !matches!(part, Part::ToolResult { .. }));
        }
        if let Some(("assistant", parts)) = joined.last_mut()
            && let Some(Part::Text { text }) = parts.last_mut()
        {
            // A beginning of the answer must not end with a space.
            *text = text.trim_end();
        }
        let messages = joined.into_iter().filter_map(|(role, parts)| {
            let content = Content::of(parts)?;
            Some(Message { role, content })
        });
        Ok(messages.collect())
    }

    fn part<'b>(&self, block: &'b Block<'_>) -> Result<Option<Part<'b>>, Malformed> {
        Ok(match block {
            Block::ToolCall(call) => Some(tool_use(call)?),
            Block::ToolResult {
                id, content, is_error, ..
            } => {
                let mut parts = Vec::with_capacity(content.len());
                for block in content {
                    let belongs = |part: &Part<'_>| {
                        matches!(
                            part,
                            Part::Text { .. } | Part::Image { .. } | Part::Document { .. } | Part::Raw(_)
                        )
                    };
                    parts.extend(self.leaf(block).filter(belongs));
                }
                Some(Part::ToolResult {
                    tool_use_id: CALL_IDS.fit(id),
                    content: Content::of(parts),
                    is_error: *is_error,
                })
            }
            block => self.leaf(block),
        })
    }

    /// A block that has no blocks in it.
    fn leaf<'b>(&self, block: &'b Block<'_>) -> Option<Part<'b>> {
        Some(match block {
            Block::Text(text) if is_blank(text) => return None,
            Block::Text(text) => Part::Text { text },
            Block::Image(source) => Part::Image {
                source: self.image(source)?,
            },
            Block::Document { name, source } => Part::Document {
                source: self.document(source)?,
                title: name.as_deref(),
            },
            Block::Reasoning { text, signature } => Part::Thinking {
                thinking: text,
                signature: self.own(signature.as_ref()?)?,
            },
            Block::Redacted(data) => Part::RedactedThinking { data: self.own(data)? },
            Block::Opaque { json, .. } => Part::Raw(self.raw(json)?),
            Block::Audio(_) | Block::ToolCall(_) | Block::ToolResult { .. } => return None,
        })
    }

    fn own<'b>(&self, proof: &Cow<'b, str>) -> Option<Cow<'b, str>> {
        signature::for_vendor(proof, self.client, Format::Messages).filter(|proof| !proof.is_empty())
    }

    /// A block in the words of the client's format, if that is this one.
    fn raw<'b>(&self, json: &'b RawValue) -> Option<&'b RawValue> {
        (self.client == Format::Messages && json.get().starts_with('{')).then_some(json)
    }

    fn image<'b>(&self, source: &'b Source<'_>) -> Option<Bytes<'b>> {
        match source {
            Source::Inline { media_type, data } if IMAGES.contains(&&**media_type) => {
                Some(Bytes::Base64 { media_type, data })
            }
            Source::Inline { .. } | Source::Text(_) => None,
            Source::Url(url) => Some(Bytes::Url { url }),
            Source::Stored(id) => self.stored(id),
        }
    }

    fn document<'b>(&self, source: &'b Source<'_>) -> Option<Bytes<'b>> {
        match source {
            Source::Inline { media_type, data } => match plain_text(media_type, data) {
                Some(text) => Some(Bytes::of_text(text.into())),
                None => Some(Bytes::Base64 { media_type, data }),
            },
            Source::Text(text) => Some(Bytes::of_text(Cow::Borrowed(text))),
            Source::Url(url) => Some(Bytes::Url { url }),
            Source::Stored(id) => self.stored(id),
        }
    }

    fn stored<'b>(&self, file_id: &'b str) -> Option<Bytes<'b>> {
        (self.client == Format::Messages).then_some(Bytes::File { file_id })
    }

    fn tools<'b>(&self, conversation: &'b Conversation<'_>, renamed: &mut Vec<(String, String)>) -> Vec<ToolOut<'b>> {
        let names = match &conversation.tool_choice {
            Some(ToolChoice::Allowed { names, .. }) => Some(names.iter().map(|name| &**name).collect::<HashSet<_>>()),
            _ => None,
        };
        let allowed = |name: &str| names.as_ref().is_none_or(|names| names.contains(name));
        let mut tools = Vec::with_capacity(conversation.tools.len());
        for tool in &conversation.tools {
            match tool {
                Tool::Function(function) if allowed(&function.name) => {
                    let out = FunctionOut::of(function);
                    note(&out.name, &function.name, renamed);
                    tools.push(ToolOut::Function(out));
                }
                Tool::Function(_) => {}
                Tool::Opaque { json, .. } => tools.extend(self.raw(json).map(ToolOut::Raw)),
            }
        }
        if tools.is_empty() && self.client != Format::Messages {
            tools.extend(tools_of_history(conversation).map(ToolOut::Function));
        }
        tools
    }
}

fn note(there: &str, here: &str, renamed: &mut Vec<(String, String)>) {
    if there != here {
        renamed.push((there.to_owned(), here.to_owned()));
    }
}

fn tool_use<'b>(call: &'b ToolCall<'_>) -> Result<Part<'b>, Malformed> {
    let Some(input) = json::object(&call.arguments) else {
        let id = &call.id;
        let message = format!("the arguments of tool call `{id}` are not a JSON object");
        return Err(Malformed::field("messages", message));
    };
    Ok(Part::ToolUse {
        id: CALL_IDS.fit(&call.id),
        name: TOOL_NAMES.fit(&call.name),
        input,
    })
}

impl<'b> Bytes<'b> {
    fn of_text(data: Cow<'b, str>) -> Self {
        Bytes::Text {
            media_type: "text/plain",
            data,
        }
    }
}

/// The text of a document that came as base64: Anthropic takes nothing but PDF in that form.
fn plain_text(media_type: &str, data: &str) -> Option<String> {
    if !media_type.starts_with("text/") {
        return None;
    }
    let mut bytes = Vec::with_capacity(data.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0);
    for byte in data.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}

#[derive(Serialize)]
#[serde(untagged)]
enum ToolOut<'b> {
    Function(FunctionOut<'b>),
    Raw(&'b RawValue),
}

#[derive(Serialize)]
struct FunctionOut<'b> {
    name: Cow<'b, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'b str>,
    input_schema: Schema<'b>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
}

impl<'b> FunctionOut<'b> {
    fn of(function: &'b Function<'_>) -> Self {
        Self {
            name: TOOL_NAMES.fit(&function.name),
            description: function.description.as_deref().filter(|text| !is_blank(text)),
            input_schema: Schema(function.parameters.as_deref()),
            strict: function.strict == Some(true),
        }
    }
}

/// The tools of a conversation's calls: Anthropic refuses calls in a conversation without tools.
fn tools_of_history<'b>(conversation: &'b Conversation<'_>) -> impl Iterator<Item = FunctionOut<'b>> {
    let blocks = conversation.turns.iter().flat_map(|turn| &turn.blocks);
    let called = blocks.filter_map(|block| match block {
        Block::ToolCall(call) => Some(&*call.name),
        _ => None,
    });
    let mut seen = HashSet::new();
    called.filter(move |name| seen.insert(*name)).map(|name| FunctionOut {
        name: TOOL_NAMES.fit(name),
        description: None,
        input_schema: Schema(None),
        strict: false,
    })
}

/// The schema of a tool's arguments, which must say that it is of an object.
struct Schema<'b>(Option<&'b RawValue>);

impl Serialize for Schema<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Deserialize)]
        struct Typed<'a> {
            #[serde(borrow, default)]
            r#type: Option<&'a RawValue>,
        }
        let Some(schema) = self.0.filter(|schema| schema.get().starts_with('{')) else {
            let mut map = serializer.serialize_map(Some(2))?;
            map.serialize_entry("type", "object")?;
            map.serialize_entry("properties", &Empty {})?;
            return map.end();
        };
        if json::value::<Typed>(schema).is_none_or(|schema| schema.r#type.is_some()) {
            return schema.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", "object")?;
        let mut written = Ok(());
        json::members(schema, |name, member| {
            if name != "type" && written.is_ok() {
                written = map.serialize_entry(&name, member);
            }
        });
        written?;
        map.end()
    }
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ChoiceOut<'b> {
    Auto {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    },
    Any {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    },
    Tool {
        name: Cow<'b, str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    },
    None {},
}

fn tool_choice<'b>(conversation: &'b Conversation<'_>, tools: &[ToolOut<'b>]) -> Option<ChoiceOut<'b>> {
    if tools.is_empty() {
        return None;
    }
    if conversation.tools.is_empty() {
        // Only the tools of the history.
        return Some(ChoiceOut::None {});
    }
    let disable_parallel_tool_use = conversation.parallel_tools == Some(false);
    let named = |name: &'b str| ChoiceOut::Tool {
        name: TOOL_NAMES.fit(name),
        disable_parallel_tool_use,
    };
    Some(match &conversation.tool_choice {
        None if !disable_parallel_tool_use => return None,
        Some(ToolChoice::None) => ChoiceOut::None {},
        Some(ToolChoice::Named(name)) => named(name),
        Some(ToolChoice::Allowed { names, required: true }) if names.len() == 1 => named(names.first()?),
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => ChoiceOut::Any {
            disable_parallel_tool_use,
        },
        None | Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => ChoiceOut::Auto {
            disable_parallel_tool_use,
        },
    })
}

#[derive(Serialize)]
struct Metadata<'b> {
    user_id: &'b str,
}

/// Bytes of a user's name that Anthropic takes.
const MAX_USER: usize = 256;

fn metadata<'b>(conversation: &'b Conversation<'_>) -> Option<Metadata<'b>> {
    let user = conversation.user.as_deref()?;
    (!user.is_empty() && user.len() <= MAX_USER).then_some(Metadata { user_id: user })
}
