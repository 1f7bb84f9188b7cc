//! Reading a client's request.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::chat::{MAX_NAME, Request};
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};
use crate::wire::json::{Text, is_something, not_json, span, value};
use crate::wire::others::Others;
use crate::wire::{Inquiry, Malformed};

/// Reads what routing needs.
pub fn read(body: Bytes) -> Result<Inquiry, Malformed> {
    let text = utf8(&body)?;
    let top = Fields::parse(text)?;
    let model_spans = top
        .0
        .iter()
        .filter(|(key, _)| key == "model")
        .map(|(_, raw)| span(text, raw.get()))
        .collect();
    let request = Request::of(&conversation(top)?);
    Ok(Inquiry {
        request,
        body,
        model_spans,
    })
}

/// Reads everything.
pub fn decode(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    conversation(Fields::parse(utf8(body)?)?)
}

fn utf8(body: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(body).map_err(|_| Malformed::whole("the request body is not UTF-8"))
}

/// The fields of an object, in order, those with null left out. A key may come twice: the last one counts.
#[derive(Default)]
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|error| not_json(&error))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(key)) = map.next_key()? {
                    let raw: &RawValue = map.next_value()?;
                    if raw.get() != "null" {
                        fields.0.push((key, raw));
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

fn conversation<'a>(top: Fields<'a>) -> Result<Conversation<'a>, Malformed> {
    let mut it = Conversation::default();
    let mut others = Others::default();
    let (mut model, mut messages) = (None, None);
    let mut thinking = Thinking::default();
    for (key, raw) in top.0 {
        match &*key {
            "model" => model = Some(raw),
            "messages" => messages = Some(raw),
            "system" => it.system = system(raw, &mut others)?,
            _ => {
                let mut place = (&mut it, &mut others);
                if top_level(&key, raw, &mut place, &mut thinking).is_none() && is_something(raw) {
                    others.add(key);
                }
            }
        }
    }
    it.model = read_model(model)?;
    let Some(messages) = messages else {
        return Err(Malformed::field("messages", "you must provide `messages`"));
    };
    it.turns = turns(messages, &mut others)?;
    thinking.apply(&mut it);
    it.others = others.into_names();
    Ok(it)
}

fn read_model(model: Option<&RawValue>) -> Result<Cow<'_, str>, Malformed> {
    let Some(model) = model else {
        return Err(Malformed::field("model", "you must provide a `model`"));
    };
    let Some(Text(model)) = value(model) else {
        return Err(Malformed::field("model", "`model` must be a string"));
    };
    if model.len() > MAX_NAME {
        return Err(Malformed::field("model", "`model` is longer than 256 bytes"));
    }
    Ok(model)
}

/// Reads a field that no request must have; `None` when it is nothing that we know.
fn top_level<'a>(
    key: &str,
    raw: &'a RawValue,
    (it, others): &mut (&mut Conversation<'a>, &mut Others<'a>),
    thinking: &mut Thinking,
) -> Option<()> {
    match key {
        "max_tokens" => it.max_tokens = Some(value(raw)?),
        "stream" => it.streaming = value(raw)?,
        "temperature" => it.temperature = Some(value(raw)?),
        "top_p" => it.top_p = Some(value(raw)?),
        "top_k" => it.top_k = Some(value(raw)?),
        "stop_sequences" => {
            let texts: Vec<Text<'a>> = value(raw)?;
            it.stop = texts.into_iter().map(|text| text.0).collect();
        }
        "tools" => {
            let tools: Vec<&'a RawValue> = value(raw)?;
            it.tools = tools.into_iter().map(|raw| tool(raw, others)).collect();
        }
        "tool_choice" => tool_choice(raw, it)?,
        "thinking" => thinking.read(raw)?,
        "output_config" => output_config(raw, it, others, thinking)?,
        "output_format" => it.output = output(raw)?,
        "metadata" => metadata(raw, it)?,
        // Costs and accounting, or the default.
        "cache_control" | "anthropic_version" => {}
        "service_tier" if raw.get() == "\"auto\"" => {}
        "speed" if raw.get() == "\"standard\"" => {}
        _ => return None,
    }
    Some(())
}

fn system<'a>(raw: &'a RawValue, others: &mut Others<'a>) -> Result<Vec<Block<'a>>, Malformed> {
    let content: Content<'a> =
        value(raw).ok_or_else(|| Malformed::field("system", "`system` must be a string or a list of text blocks"))?;
    Ok(content.blocks(others))
}

fn turns<'a>(raw: &'a RawValue, others: &mut Others<'a>) -> Result<Vec<Turn<'a>>, Malformed> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        role: &'a RawValue,
        #[serde(borrow, default)]
        content: Content<'a>,
    }
    if !raw.get().starts_with('[') {
        return Err(Malformed::field("messages", "`messages` must be a list"));
    }
    let messages: Vec<Message<'a>> = serde_json::from_str(raw.get()).map_err(|error| {
        let message =
            "each of `messages` must be an object with a `role` and a `content`, a string or a list of blocks";
        Malformed::field("messages", format!("{message}: {error}"))
    })?;
    let turn = |message: Message<'a>| {
        let Some(Text(role)) = value(message.role) else {
            return Err(Malformed::field("messages", "`role` must be a string"));
        };
        let mut blocks = message.content.blocks(others);
        let role = match &*role {
            "assistant" => Role::Assistant,
            "system" => Role::System,
            "user" => Role::User,
            _ => {
                blocks.push(Block::Opaque {
                    what: format!("message of role `{role}`").into(),
                    json: Cow::Borrowed(message.role),
                });
                Role::User
            }
        };
        Ok(Turn { role, blocks })
    };
    messages.into_iter().map(turn).collect()
}

/// What stands where blocks are expected: a string is one block of text.
#[derive(Default)]
enum Content<'a> {
    #[default]
    None,
    Text(Cow<'a, str>),
    Blocks(Vec<&'a RawValue>),
}

impl<'a> Content<'a> {
    fn blocks(self, others: &mut Others<'a>) -> Vec<Block<'a>> {
        self.blocks_in(Place::Message, others)
    }

    fn blocks_in(self, place: Place, others: &mut Others<'a>) -> Vec<Block<'a>> {
        match self {
            Content::None => Vec::new(),
            Content::Text(text) if text.is_empty() => Vec::new(),
            Content::Text(text) => vec![Block::Text(text)],
            Content::Blocks(list) => {
                let mut blocks = Vec::with_capacity(list.len());
                list.into_iter()
                    .for_each(|raw| add_block(raw, place, &mut blocks, others));
                blocks
            }
        }
    }
}

/// Where blocks stand: results of tools have text, images and documents only, and no results in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Message,
    Result,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of blocks")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Content<'de>, E> {
                Ok(Content::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content<'de>, E> {
                Ok(Content::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Content<'de>, E> {
                Ok(Content::None)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content<'de>, A::Error> {
                let mut blocks = Vec::new();
                while let Some(raw) = list.next_element()? {
                    blocks.push(raw);
                }
                Ok(Content::Blocks(blocks))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// The fields of all blocks that we know. Each of them may be of another type than it should: then the block is opaque.
#[derive(Deserialize)]
struct BlockFields<'a> {
    #[serde(borrow, default)]
    r#type: Option<Text<'a>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
    #[serde(borrow, default)]
    title: Option<&'a RawValue>,
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    citations: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, default)]
    signature: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_use_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    is_error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    toolset_name: Option<&'a RawValue>,
}

fn text_of(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    raw.and_then(value::<Text>).map(|text| text.0)
}

fn add_block<'a>(raw: &'a RawValue, place: Place, blocks: &mut Vec<Block<'a>>, others: &mut Others<'a>) {
    let fields: Option<BlockFields<'a>> = value(raw);
    let kind = fields.as_ref().and_then(|fields| fields.r#type.clone());
    let block = fields.and_then(|fields| block(fields, place, blocks, others));
    blocks.push(block.unwrap_or_else(|| Block::Opaque {
        what: kind.map_or(Cow::Borrowed("block"), |kind| kind.0),
        json: Cow::Borrowed(raw),
    }));
}

/// A block that other formats know too.
fn block<'a>(
    fields: BlockFields<'a>,
    place: Place,
    before: &mut Vec<Block<'a>>,
    others: &mut Others<'a>,
) -> Option<Block<'a>> {
    if fields.toolset_name.is_some_and(is_something) {
        return None;
    }
    let kind = fields.r#type.as_ref()?;
    if place == Place::Result && !matches!(&*kind.0, "text" | "image" | "document") {
        return None;
    }
    Some(match &*kind.0 {
        "text" => Block::Text(text_of(fields.text)?),
        "image" => Block::Image(source(fields.source?)?),
        "document" => {
            let source = source(fields.source?)?;
            if fields.citations.is_some_and(wants_citations) {
                others.add("citations".into());
            }
            before.extend(
                text_of(fields.context)
                    .filter(|context| !context.is_empty())
                    .map(Block::Text),
            );
            Block::Document {
                name: text_of(fields.title).filter(|title| !title.is_empty()),
                source,
            }
        }
        "thinking" => Block::Reasoning {
            text: text_of(fields.thinking)?,
            signature: text_of(fields.signature).filter(|signature| !signature.is_empty()),
        },
        "redacted_thinking" => Block::Redacted(text_of(fields.data)?),
        "tool_use" => Block::ToolCall(ToolCall {
            id: text_of(fields.id)?,
            name: text_of(fields.name)?,
            arguments: fields.input.map_or("", RawValue::get).into(),
            signature: None,
        }),
        "tool_result" => Block::ToolResult {
            id: text_of(fields.tool_use_id)?,
            name: None,
            content: match fields.content {
                Some(content) => value::<Content<'a>>(content)?.blocks_in(Place::Result, others),
                None => Vec::new(),
            },
            is_error: fields.is_error.is_some_and(|raw| raw.get() == "true"),
        },
        _ => return None,
    })
}

fn wants_citations(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Citations {
        #[serde(default)]
        enabled: bool,
    }
    value::<Citations>(raw).is_some_and(|citations| citations.enabled)
}

fn source<'a>(raw: &'a RawValue) -> Option<Source<'a>> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        r#type: Text<'a>,
        #[serde(borrow, default)]
        media_type: Option<Text<'a>>,
        #[serde(borrow, default)]
        data: Option<Text<'a>>,
        #[serde(borrow, default)]
        url: Option<Text<'a>>,
        #[serde(borrow, default)]
        file_id: Option<Text<'a>>,
        #[serde(borrow, default)]
        content: Content<'a>,
    }
    let fields: Fields<'a> = value(raw)?;
    Some(match &*fields.r#type.0 {
        "base64" => Source::Inline {
            media_type: fields.media_type?.0,
            data: fields.data?.0,
        },
        "text" => Source::Text(fields.data?.0),
        "url" => Source::of_url(fields.url?.0),
        "file" => Source::Stored(fields.file_id?.0),
        "content" => Source::Text(only_text(fields.content)?),
        _ => return None,
    })
}

/// Text, if there is nothing else.
fn only_text(content: Content<'_>) -> Option<Cow<'_, str>> {
    let mut texts = Vec::new();
    for block in content.blocks(&mut Others::default()) {
        match block {
            Block::Text(text) => texts.push(text),
            _ => return None,
        }
    }
    Some(match texts.len() {
        1 => texts.swap_remove(0),
        _ => texts.join("\n").into(),
    })
}

/// Fields of a tool of the client's that mean nothing to its answer.
const TOOL_COSTS: [&str; 2] = ["cache_control", "eager_input_streaming"];

fn tool<'a>(raw: &'a RawValue, others: &mut Others<'a>) -> Tool<'a> {
    let opaque = |what: Cow<'a, str>| Tool::Opaque {
        what,
        json: Cow::Borrowed(raw),
    };
    let Some(Fields(fields)) = value::<Fields<'a>>(raw) else {
        return opaque("tool".into());
    };
    let field = |name: &str| fields.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw);
    let kind = text_of(field("type")).unwrap_or("custom".into());
    if kind != "custom" {
        return opaque(kind);
    }
    let Some(name) = text_of(field("name")) else {
        return opaque("tool".into());
    };
    for (key, raw) in &fields {
        let known = ["type", "name", "description", "input_schema", "strict"];
        let is_default =
            key == "allowed_callers" && value::<Vec<Text>>(raw).is_some_and(|all| all == [Text("direct".into())]);
        if !known.contains(&&**key) && !TOOL_COSTS.contains(&&**key) && !is_default && is_something(raw) {
            others.add(format!("tools.{key}").into());
        }
    }
    Tool::Function(Function {
        name,
        description: text_of(field("description")),
        parameters: field("input_schema").map(Cow::Borrowed),
        strict: field("strict").and_then(value),
    })
}

fn tool_choice<'a>(raw: &'a RawValue, it: &mut Conversation<'a>) -> Option<()> {
    #[derive(Deserialize)]
    struct Choice<'a> {
        #[serde(borrow)]
        r#type: Text<'a>,
        #[serde(borrow, default)]
        name: Option<Text<'a>>,
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    }
    let choice: Choice<'a> = value(raw)?;
    it.tool_choice = Some(match &*choice.r#type.0 {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" => ToolChoice::Required,
        "tool" => ToolChoice::Named(choice.name?.0),
        _ => return None,
    });
    it.parallel_tools = choice.disable_parallel_tool_use.map(|disabled| !disabled);
    Some(())
}

fn metadata<'a>(raw: &'a RawValue, it: &mut Conversation<'a>) -> Option<()> {
    let Fields(fields) = value(raw)?;
    for (key, raw) in fields {
        match text_of(Some(raw)) {
            Some(user) if key == "user_id" => it.user = Some(user),
            Some(text) => it.metadata.push((key, text)),
            None => {}
        }
    }
    Some(())
}

/// How the client wants the model to think: two fields say it together.
#[derive(Default)]
struct Thinking {
    /// `thinking`, as an effort; `None`: the field says nothing.
    mode: Option<Effort>,
    budget: Option<u64>,
    show: Option<bool>,
    /// `output_config.effort`.
    effort: Option<Effort>,
}

impl Thinking {
    fn read(&mut self, raw: &RawValue) -> Option<()> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            r#type: Text<'a>,
            #[serde(default)]
            budget_tokens: Option<u64>,
            #[serde(borrow, default)]
            display: Option<Text<'a>>,
        }
        let fields: Fields = value(raw)?;
        self.show = match fields.display.as_ref().map(|display| &*display.0) {
            Some("summarized") => Some(true),
            Some("omitted") => Some(false),
            _ => None,
        };
        self.mode = Some(match &*fields.r#type.0 {
            "disabled" => Effort::None,
            "enabled" => {
                self.budget = fields.budget_tokens;
                self.show = self.show.or(Some(true));
                fields.budget_tokens.map_or(Effort::High, Effort::of_budget)
            }
            // The effort where nothing is said.
            "adaptive" => Effort::High,
            "between_tools" => Effort::Low,
            _ => return None,
        });
        Some(())
    }

    fn apply(self, it: &mut Conversation<'_>) {
        it.effort = match self.mode {
            Some(Effort::None) => self.mode,
            mode => self.effort.or(mode),
        };
        it.thinking_budget = self.budget;
        it.show_reasoning = self.show;
    }
}

fn output_config<'a>(
    raw: &'a RawValue,
    it: &mut Conversation<'a>,
    others: &mut Others<'a>,
    thinking: &mut Thinking,
) -> Option<()> {
    let Fields(fields) = value(raw)?;
    for (key, raw) in fields {
        let known = match &*key {
            "effort" => text_of(Some(raw))
                .and_then(|name| Effort::named(&name))
                .map(|effort| thinking.effort = Some(effort)),
            "format" => output(raw).map(|output| it.output = output),
            _ => None,
        };
        if known.is_none() && is_something(raw) {
            others.add(format!("output_config.{key}").into());
        }
    }
    Some(())
}

fn output<'a>(raw: &'a RawValue) -> Option<Output<'a>> {
    #[derive(Deserialize)]
    struct Format<'a> {
        #[serde(borrow)]
        r#type: Text<'a>,
        #[serde(borrow)]
        schema: &'a RawValue,
    }
    let format: Format<'a> = value(raw)?;
    (format.r#type.0 == "json_schema").then_some(Output::Schema {
        name: None,
        description: None,
        schema: Cow::Borrowed(format.schema),
        strict: None,
    })
}
