//! A client's request, read whole.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::Malformed;
use super::super::json::{Text, is_something, parse, plain, value};
use super::super::others::MAX_OTHERS;
use crate::chat::MAX_NAME;
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};

/// The kind of an opaque block that is a whole message, of a role that only its vendor knows.
pub const MESSAGE: &str = "message";
/// The kind of an opaque block that is an entry of `tool_calls`.
pub const CUSTOM: &str = "custom";

/// Reads a client's request.
pub fn decode(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    let top: Object = parse(body)?;
    let mut conversation = Conversation {
        model: model(&top)?,
        ..Conversation::default()
    };
    let messages = top
        .get("messages")
        .ok_or_else(|| Malformed::field("messages", "you must provide `messages`"))?;
    let messages: Vec<&RawValue> =
        value(messages).ok_or_else(|| Malformed::field("messages", "`messages` must be a list"))?;
    // Once each: a key may come twice.
    let fields: BTreeMap<_, _> = top.0.iter().map(|(name, raw)| (name, *raw)).collect();
    for (name, raw) in fields {
        if raw.get() != "null" && !set(&mut conversation, name, raw) {
            conversation.others.push(name.clone());
        }
    }
    let newer = top.get("max_completion_tokens").and_then(value);
    conversation.max_tokens = newer.or(conversation.max_tokens);
    if top.get("functions").is_some() && top.get("tools").is_none() {
        // An answer in the words of `functions` has room for one call.
        conversation.parallel_tools = Some(false);
    }
    let mut reader = Messages::new(&mut conversation);
    messages.into_iter().try_for_each(|message| reader.read(message))?;
    let others = reader.others;
    conversation.others.extend(others);
    if conversation.others.len() > MAX_OTHERS {
        return Err(Malformed::whole("the request has more than 256 unknown fields"));
    }
    Ok(conversation)
}

fn model<'a>(top: &Object<'a>) -> Result<Cow<'a, str>, Malformed> {
    let raw = top
        .get("model")
        .ok_or_else(|| Malformed::field("model", "you must provide a `model`"))?;
    let Text(model) = value(raw).ok_or_else(|| Malformed::field("model", "`model` must be a string"))?;
    if model.len() > MAX_NAME {
        return Err(Malformed::field("model", "`model` is longer than 256 bytes"));
    }
    Ok(model)
}

/// Takes one field; they come in the order of their names, and the younger of two names for one thing stands behind the older.
/// `false`: it means something, but nothing that a conversation has a place for.
fn set<'a>(conversation: &mut Conversation<'a>, name: &str, raw: &'a RawValue) -> bool {
    match name {
        "model" | "messages" | "stream_options" => true,
        "stream" => put(&mut conversation.streaming, value(raw)),
        "functions" => put(&mut conversation.tools, tools(raw, function_tool)),
        "tools" => put(&mut conversation.tools, tools(raw, tool)),
        "function_call" | "tool_choice" => put(&mut conversation.tool_choice, tool_choice(raw).map(Some)),
        "parallel_tool_calls" => put(&mut conversation.parallel_tools, value(raw)),
        "max_tokens" | "max_completion_tokens" => put(&mut conversation.max_tokens, value(raw)),
        "temperature" => put(&mut conversation.temperature, value(raw)),
        "top_p" => put(&mut conversation.top_p, value(raw)),
        "top_k" => put(&mut conversation.top_k, value(raw)),
        "seed" | "random_seed" => put(&mut conversation.seed, value(raw)),
        "presence_penalty" => put(&mut conversation.presence_penalty, value(raw)),
        "frequency_penalty" => put(&mut conversation.frequency_penalty, value(raw)),
        "stop" if is_something(raw) => put(&mut conversation.stop, stop(raw)),
        "n" => put(&mut conversation.candidates, value(raw)),
        "logprobs" | "top_logprobs" => {
            conversation.logprobs |= !matches!(raw.get(), "false" | "0");
            true
        }
        "response_format" => put(&mut conversation.output, output(raw)),
        "reasoning_effort" => put(
            &mut conversation.effort,
            text(raw).and_then(|name| Effort::named(&name)).map(Some),
        ),
        "safety_identifier" | "user" => put(&mut conversation.user, text(raw).map(Some)),
        "prompt_cache_key" => put(&mut conversation.session, text(raw).map(Some)),
        "metadata" => put(&mut conversation.metadata, metadata(raw)),
        // An empty object asks for it.
        "web_search_options" => false,
        "modalities" => matches!(value::<Vec<Text>>(raw).as_deref(), Some([Text(only)]) if only == "text"),
        "service_tier" => matches!(text(raw).as_deref(), Some("auto" | "default")),
        "verbosity" => text(raw).as_deref() == Some("medium"),
        _ => !is_something(raw),
    }
}

/// Whether there was something to put.
fn put<T>(place: &mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            *place = value;
            true
        }
        None => false,
    }
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    value::<Text>(raw).map(|text| text.0)
}

fn stop(raw: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    let many = || value::<Vec<Text>>(raw).map(|texts| texts.into_iter().map(|text| text.0).collect());
    text(raw).map(|one| vec![one]).or_else(many)
}

fn metadata(raw: &RawValue) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    let pairs: Object = value(raw)?;
    let pair = |(name, raw): (_, &'_ RawValue)| (name, plain(raw).into());
    Some(pairs.0.into_iter().map(pair).collect())
}

fn output(raw: &RawValue) -> Option<Output<'_>> {
    let format: Object = value(raw)?;
    match &*format.text("type")? {
        "text" => Some(Output::Text),
        // llama.cpp takes a schema here.
        "json_object" => Some(format.get("schema").map_or(Output::Json, |schema| Output::Schema {
            name: None,
            description: None,
            schema: Cow::Borrowed(schema),
            strict: None,
        })),
        "json_schema" => {
            let named = format.object("json_schema")?;
            let Some(schema) = named.get("schema") else {
                return Some(Output::Json);
            };
            Some(Output::Schema {
                name: named.text("name"),
                description: named.text("description"),
                schema: Cow::Borrowed(schema),
                strict: named.get("strict").and_then(value),
            })
        }
        _ => None,
    }
}

fn tools<'a>(raw: &'a RawValue, read: impl Fn(&'a RawValue) -> Option<Tool<'a>>) -> Option<Vec<Tool<'a>>> {
    let opaque = |raw: &'a RawValue| Tool::Opaque {
        what: kind(raw),
        json: Cow::Borrowed(raw),
    };
    let list: Vec<&RawValue> = value(raw)?;
    let read = list.into_iter().map(|raw| read(raw).unwrap_or_else(|| opaque(raw)));
    Some(read.collect())
}

/// What a thing says that it is.
fn kind(raw: &RawValue) -> Cow<'_, str> {
    value::<Object>(raw)
        .and_then(|object| object.text("type"))
        .unwrap_or(Cow::Borrowed("unknown"))
}

fn tool(raw: &RawValue) -> Option<Tool<'_>> {
    let tool: Object = value(raw)?;
    match tool.text("type").as_deref() {
        Some("function") | None => function_tool(tool.get("function")?),
        Some(_) => None,
    }
}

fn function_tool(raw: &RawValue) -> Option<Tool<'_>> {
    let function: Object = value(raw)?;
    Some(Tool::Function(Function {
        name: function.text("name")?,
        description: function.text("description"),
        parameters: function.get("parameters").map(Cow::Borrowed),
        strict: function.get("strict").and_then(value),
    }))
}

fn tool_choice(raw: &RawValue) -> Option<ToolChoice<'_>> {
    if let Some(word) = text(raw) {
        return match &*word {
            "auto" => Some(ToolChoice::Auto),
            "none" => Some(ToolChoice::None),
            "required" | "any" => Some(ToolChoice::Required),
            _ => None,
        };
    }
    let choice: Object = value(raw)?;
    match choice.text("type").as_deref() {
        Some("function") => Some(ToolChoice::Named(function_name(&choice)?)),
        // `function_call`, which is older.
        None => Some(ToolChoice::Named(choice.text("name")?)),
        Some("allowed_tools") => {
            let allowed = choice.object("allowed_tools")?;
            let tools: Vec<Object> = value(allowed.get("tools")?)?;
            Some(ToolChoice::Allowed {
                names: tools.iter().map(function_name).collect::<Option<_>>()?,
                required: allowed.text("mode").as_deref() == Some("required"),
            })
        }
        Some(_) => None,
    }
}

fn function_name<'a>(tool: &Object<'a>) -> Option<Cow<'a, str>> {
    tool.object("function")
        .and_then(|function| function.text("name"))
        .or_else(|| tool.text("name"))
}

/// Reads the messages, one after the other.
struct Messages<'c, 'a> {
    conversation: &'c mut Conversation<'a>,
    /// Names of fields that nothing is made of.
    others: BTreeSet<Cow<'a, str>>,
    /// Calls that had no id, those of `function_call` above all: how many, and the last id of each tool.
    unnamed: (usize, BTreeMap<Cow<'a, str>, String>),
}

/// Fields of messages that are read, and those that only repeat what an answer said or concern costs.
const READ: &[&str] = &[
    "annotations",
    "audio",
    "cache_control",
    "content",
    "function_call",
    "id",
    "name",
    "prompt_cache_breakpoint",
    "reasoning",
    "reasoning_content",
    "reasoning_signature",
    "refusal",
    "role",
    "tool_call_id",
    "tool_calls",
];

impl<'c, 'a> Messages<'c, 'a> {
    fn new(conversation: &'c mut Conversation<'a>) -> Self {
        Self {
            conversation,
            others: BTreeSet::new(),
            unnamed: (0, BTreeMap::new()),
        }
    }

    fn read(&mut self, raw: &'a RawValue) -> Result<(), Malformed> {
        let message: Object =
            value(raw).ok_or_else(|| Malformed::field("messages", "each of `messages` must be an object"))?;
        let role = message.get("role").map(plain).unwrap_or_default();
        self.note_others(&message, &role);
        match role.as_str() {
            "system" | "developer" => {
                let blocks = content(&message)?;
                if self.conversation.turns.is_empty() {
                    self.conversation.system.extend(blocks);
                } else {
                    self.push(Role::System, blocks);
                }
            }
            "user" => {
                let blocks = content(&message)?;
                self.push(Role::User, blocks);
            }
            "assistant" => {
                let blocks = self.assistant(&message)?;
                self.push(Role::Assistant, blocks);
            }
            "tool" | "function" => {
                let result = self.result(&message)?;
                self.push(Role::User, vec![result]);
            }
            _ => self.push(
                Role::User,
                vec![Block::Opaque {
                    what: MESSAGE.into(),
                    json: Cow::Borrowed(raw),
                }],
            ),
        }
        Ok(())
    }

    fn push(&mut self, role: Role, blocks: Vec<Block<'a>>) {
        self.conversation.turns.push(Turn { role, blocks });
    }

    /// Notes what a message says beside what is read of it.
    fn note_others(&mut self, message: &Object<'a>, role: &str) {
        for (name, raw) in &message.0 {
            let is_name_of_speaker = name == "name" && !matches!(role, "tool" | "function");
            if (is_name_of_speaker || !READ.contains(&&**name)) && is_something(raw) {
                // One too many is enough to refuse the request.
                if self.others.len() <= MAX_OTHERS {
                    self.others.insert(format!("messages[].{name}").into());
                }
            }
        }
    }

    fn assistant(&mut self, message: &Object<'a>) -> Result<Vec<Block<'a>>, Malformed> {
        let mut blocks = Vec::new();
        let signature = message.text("reasoning_signature");
        let reasoning = message
            .text("reasoning_content")
            .or_else(|| message.text("reasoning"))
            .unwrap_or_default();
        if !reasoning.is_empty() || signature.is_some() {
            blocks.push(Block::Reasoning {
                text: reasoning,
                signature,
            });
        }
        let is_said = |block: &Block<'_>| !matches!(block, Block::Text(text) if text.is_empty());
        blocks.extend(content(message)?.into_iter().filter(is_said));
        blocks.extend(message.text("refusal").filter(|text| !text.is_empty()).map(Block::Text));
        if let Some(id) = message.object("audio").and_then(|audio| audio.text("id")) {
            blocks.push(Block::Audio(Source::Stored(id)));
        }
        for raw in message.list("tool_calls") {
            blocks.push(self.call(raw));
        }
        if let Some(function) = message.object("function_call") {
            let call = self.function_call(&function, None);
            blocks.push(Block::ToolCall(call));
        }
        Ok(blocks)
    }

    fn call(&mut self, raw: &'a RawValue) -> Block<'a> {
        let opaque = || Block::Opaque {
            what: CUSTOM.into(),
            json: Cow::Borrowed(raw),
        };
        let Some(call) = value::<Object>(raw) else {
            return opaque();
        };
        let Some(function) = call.object("function") else {
            return opaque();
        };
        let id = call.text("id").filter(|id| !id.is_empty());
        let mut read = self.function_call(&function, id);
        let google = call.object("extra_content").and_then(|extra| extra.object("google"));
        read.signature = google.and_then(|google| google.text("thought_signature"));
        Block::ToolCall(read)
    }

    fn function_call(&mut self, function: &Object<'a>, id: Option<Cow<'a, str>>) -> ToolCall<'a> {
        let name = function.text("name").unwrap_or_default();
        let id = id.unwrap_or_else(|| {
            let (count, ids) = &mut self.unnamed;
            let id = format!("call_{count}");
            *count += 1;
            ids.insert(name.clone(), id.clone());
            id.into()
        });
        // Some clients write the object itself.
        let arguments = function
            .get("arguments")
            .map(|raw| text(raw).unwrap_or(Cow::Borrowed(raw.get())));
        ToolCall {
            id,
            name,
            arguments: arguments.unwrap_or_default(),
            signature: None,
        }
    }

    fn result(&self, message: &Object<'a>) -> Result<Block<'a>, Malformed> {
        let name = message.text("name");
        let of_name = || Some(self.unnamed.1.get(name.as_ref()?)?.clone().into());
        let id = message.text("tool_call_id").or_else(of_name);
        Ok(Block::ToolResult {
            id: id.unwrap_or_default(),
            content: content(message)?,
            name,
            is_error: false,
        })
    }
}

/// A message's content: a string, or a list of parts.
fn content<'a>(message: &Object<'a>) -> Result<Vec<Block<'a>>, Malformed> {
    let Some(raw) = message.get("content") else {
        return Ok(Vec::new());
    };
    if let Some(text) = text(raw) {
        return Ok(vec![Block::Text(text)]);
    }
    let parts: Vec<&RawValue> = value(raw).ok_or_else(|| {
        Malformed::field(
            "messages",
            "the `content` of a message must be a string or a list of parts",
        )
    })?;
    let read = |raw: &'a RawValue| {
        part(raw).unwrap_or_else(|| Block::Opaque {
            what: kind(raw),
            json: Cow::Borrowed(raw),
        })
    };
    Ok(parts.into_iter().map(read).collect())
}

/// A part of a message's content; `None`: it is none that others know.
fn part(raw: &RawValue) -> Option<Block<'_>> {
    if let Some(text) = text(raw) {
        return Some(Block::Text(text));
    }
    let part: Object = value(raw)?;
    match part.text("type").as_deref() {
        Some("text") | None => part.text("text").map(Block::Text),
        Some("refusal") => part.text("refusal").map(Block::Text),
        Some("image_url") => {
            let url = part.text("image_url").or_else(|| part.object("image_url")?.text("url"));
            url.map(|url| Block::Image(Source::of_url(url)))
        }
        Some("input_audio") => match part.text("input_audio") {
            // Mistral takes a URL.
            Some(url) => Some(Block::Audio(Source::of_url(url))),
            None => audio(&part.object("input_audio")?),
        },
        Some("file") => file(&part),
        Some("document_url") => Some(Block::Document {
            name: part.text("document_name"),
            source: Source::of_url(part.text("document_url")?),
        }),
        Some("thinking") => Some(Block::Reasoning {
            text: thinking(part.get("thinking")?)?,
            signature: part.text("signature"),
        }),
        Some(_) => None,
    }
}

/// Mistral's thinking: a list of texts. `None`: it is more than that.
pub fn thinking(raw: &RawValue) -> Option<Cow<'_, str>> {
    if let Some(text) = text(raw) {
        return Some(text);
    }
    let parts: Vec<Object> = value(raw)?;
    let texts: Vec<_> = parts.iter().map(|part| part.text("text")).collect::<Option<_>>()?;
    Some(match <[_; 1]>::try_from(texts) {
        Ok([only]) => only,
        Err(texts) => texts.concat().into(),
    })
}

fn audio<'a>(part: &Object<'a>) -> Option<Block<'a>> {
    let media_type = match &*part.text("format")? {
        "wav" => Cow::Borrowed("audio/wav"),
        "mp3" => Cow::Borrowed("audio/mp3"),
        other => format!("audio/{other}").into(),
    };
    let data = part.text("data")?;
    Some(Block::Audio(Source::Inline { media_type, data }))
}

fn file<'a>(part: &Object<'a>) -> Option<Block<'a>> {
    let file = part.object("file");
    // Mistral has the fields in the part itself.
    let field = |name| match &file {
        Some(file) => file.text(name),
        None => part.text(name),
    };
    let name = field("filename").or_else(|| field("file_name"));
    let source = match (field("file_data"), field("file_id")) {
        (Some(data), _) => match Source::of_url(data) {
            // Some clients leave the beginning of the data URL out.
            Source::Url(data) if !data.contains(':') => Source::Inline {
                media_type: Cow::Borrowed("application/pdf"),
                data,
            },
            source => source,
        },
        (None, Some(id)) => Source::Stored(id),
        (None, None) => return None,
    };
    Some(Block::Document { name, source })
}

/// A JSON object's fields, as they came. A key may come twice, as JSON allows: the last one counts.
#[derive(Default)]
pub struct Object<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// A field that is not null.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.0.iter().rev().find(|(key, _)| key == name)?;
        (raw.get() != "null").then_some(*raw)
    }

    /// A string.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// An object.
    pub fn object(&self, name: &str) -> Option<Object<'a>> {
        self.get(name).and_then(value)
    }

    /// What is in a list; nothing, if it is none.
    pub fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(value).unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Text(key)) = map.next_key()? {
                    fields.push((key, map.next_value()?));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}
