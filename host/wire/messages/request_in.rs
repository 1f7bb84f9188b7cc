//! A client's request.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Number;
use serde_json::value::RawValue;

use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};
use crate::wire::Malformed;
use crate::wire::json::{Text, is_something, parse, value};

/// The top level, each field as it came.
#[derive(Deserialize)]
struct Fields<'a>(#[serde(borrow)] std::collections::BTreeMap<Cow<'a, str>, &'a RawValue>);

/// Reads a request.
pub fn decode(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    let Fields(fields) = parse(body)?;
    let mut conversation = Conversation::default();
    let is_there = |name: &str| fields.get(name).is_some_and(|raw| raw.get() != "null");
    if !is_there("model") && !is_there("anthropic_version") {
        return Err(Malformed::field("model", "you must provide a `model`"));
    }
    if !is_there("messages") {
        return Err(Malformed::field("messages", "you must provide `messages`"));
    }
    for (name, raw) in fields {
        if raw.get() != "null" {
            conversation.read(name, raw)?;
        }
    }
    Ok(conversation)
}

impl<'a> Conversation<'a> {
    fn read(&mut self, name: Cow<'a, str>, raw: &'a RawValue) -> Result<(), Malformed> {
        match &*name {
            "model" => {
                let Some(Text(model)) = value(raw) else {
                    return Err(Malformed::field("model", "`model` must be a string"));
                };
                self.model = model;
            }
            "messages" => self.turns = turns(raw)?,
            "system" => self.system = blocks(raw),
            "stream" => self.streaming = raw.get() == "true",
            "max_tokens" => self.max_tokens = value(raw),
            "temperature" => self.temperature = value::<Number>(raw),
            "top_p" => self.top_p = value::<Number>(raw),
            "top_k" => self.top_k = value::<Number>(raw),
            "stop_sequences" => self.stop = texts(raw),
            "tools" => {
                self.tools = value::<Vec<&RawValue>>(raw)
                    .unwrap_or_default()
                    .into_iter()
                    .map(tool)
                    .collect()
            }
            "tool_choice" => self.read_tool_choice(raw),
            "thinking" => self.read_thinking(raw),
            "output_config" => self.read_output(raw),
            "output_format" => self.output = output(raw),
            "metadata" => self.read_metadata(raw),
            // Where the gateway sends a request decides on these; they say nothing of the answer.
            "anthropic_version" | "anthropic_beta" | "cache_control" => {}
            "service_tier" if raw.get() == "\"auto\"" => {}
            "speed" if raw.get() == "\"standard\"" => {}
            _ if is_something(raw) => self.others.push(name),
            _ => {}
        }
        Ok(())
    }

    fn read_tool_choice(&mut self, raw: &'a RawValue) {
        #[derive(Deserialize)]
        struct Choice<'a> {
            #[serde(borrow, default)]
            r#type: Text<'a>,
            #[serde(borrow)]
            name: Option<Text<'a>>,
            disable_parallel_tool_use: Option<bool>,
        }
        let Some(choice) = value::<Choice<'a>>(raw) else { return };
        self.parallel_tools = choice.disable_parallel_tool_use.map(|disabled| !disabled);
        self.tool_choice = match (&*choice.r#type.0, choice.name) {
            ("none", _) => Some(ToolChoice::None),
            ("any", _) => Some(ToolChoice::Required),
            ("tool", Some(Text(name))) => Some(ToolChoice::Named(name)),
            _ => Some(ToolChoice::Auto),
        };
    }

    fn read_thinking(&mut self, raw: &'a RawValue) {
        #[derive(Deserialize)]
        struct Thinking<'a> {
            #[serde(borrow, default)]
            r#type: Text<'a>,
            budget_tokens: Option<u64>,
            #[serde(borrow)]
            display: Option<Text<'a>>,
        }
        let Some(thinking) = value::<Thinking<'a>>(raw) else {
            return;
        };
        self.show_reasoning = thinking.display.map(|Text(display)| display != "omitted");
        match &*thinking.r#type.0 {
            "disabled" => self.effort = Some(Effort::None),
            "enabled" => {
                let budget = thinking.budget_tokens.unwrap_or(Effort::Medium.budget());
                self.thinking_budget = Some(budget);
                self.effort.get_or_insert(Effort::of_budget(budget));
            }
            // How much is the model's to say, or the effort's, which stands elsewhere.
            _ => {
                self.show_reasoning.get_or_insert(true);
            }
        }
    }

    fn read_output(&mut self, raw: &'a RawValue) {
        #[derive(Deserialize)]
        struct Config<'a> {
            #[serde(borrow)]
            effort: Option<Text<'a>>,
            #[serde(borrow)]
            format: Option<&'a RawValue>,
        }
        let Some(config) = value::<Config<'a>>(raw) else { return };
        let effort = config.effort.and_then(|Text(effort)| Effort::named(&effort));
        if self.effort != Some(Effort::None) {
            self.effort = effort.or(self.effort);
        }
        if let Some(format) = config.format {
            self.output = output(format);
        }
    }

    fn read_metadata(&mut self, raw: &'a RawValue) {
        #[derive(Deserialize)]
        struct Metadata<'a> {
            #[serde(borrow)]
            user_id: Option<Text<'a>>,
        }
        let metadata = value::<Metadata<'a>>(raw);
        self.user = metadata.and_then(|metadata| metadata.user_id).map(|Text(user)| user);
    }
}

fn turns(raw: &RawValue) -> Result<Vec<Turn<'_>>, Malformed> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow, default)]
        role: Text<'a>,
        #[serde(borrow)]
        content: Option<&'a RawValue>,
    }
    let wrong = || {
        Malformed::field(
            "messages",
            "`messages` must be a list of objects with `role` and `content`",
        )
    };
    let messages: Vec<Message<'_>> = value(raw).ok_or_else(wrong)?;
    let turn = |message: Message<'_>| Turn {
        role: match &*message.role.0 {
            "assistant" => Role::Assistant,
            "system" | "developer" => Role::System,
            _ => Role::User,
        },
        blocks: Vec::new(),
    };
    let mut turns = Vec::with_capacity(messages.len());
    for message in messages {
        let content = message.content;
        let mut turn: Turn<'_> = turn(message);
        turn.blocks = content.map(blocks).unwrap_or_default();
        turns.push(turn);
    }
    Ok(turns)
}

/// Content: a string, or a list of blocks.
fn blocks(raw: &RawValue) -> Vec<Block<'_>> {
    if let Some(Text(text)) = value(raw) {
        return vec![Block::Text(text)];
    }
    let all: Vec<&RawValue> = value(raw).unwrap_or_default();
    all.into_iter().map(block).collect()
}

fn texts(raw: &RawValue) -> Vec<Cow<'_, str>> {
    let texts: Vec<Text<'_>> = value(raw).unwrap_or_default();
    texts.into_iter().map(|Text(text)| text).collect()
}

#[derive(Deserialize)]
struct Fieldset<'a> {
    #[serde(borrow, default)]
    r#type: Text<'a>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    title: Option<&'a RawValue>,
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
    tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    is_error: Option<bool>,
}

/// One block; what is not understood is kept as it is.
pub fn block(raw: &RawValue) -> Block<'_> {
    let Some(fields) = value::<Fieldset<'_>>(raw) else {
        return opaque("block", raw);
    };
    understood(fields).unwrap_or_else(|what| opaque(what, raw))
}

fn opaque<'a>(what: impl Into<Cow<'a, str>>, raw: &'a RawValue) -> Block<'a> {
    Block::Opaque {
        what: what.into(),
        json: Cow::Borrowed(raw),
    }
}

fn understood(fields: Fieldset<'_>) -> Result<Block<'_>, Cow<'_, str>> {
    let what = fields.r#type.0;
    let block = match &*what {
        "text" => fields.text.map(|Text(text)| Block::Text(text)),
        "image" => fields.source.and_then(source).map(Block::Image),
        "document" => fields.source.and_then(source).map(|source| Block::Document {
            name: fields.title.and_then(value).map(|Text(title)| title),
            source,
        }),
        "thinking" => Some(Block::Reasoning {
            text: fields.thinking.map(|Text(text)| text).unwrap_or_default(),
            signature: fields
                .signature
                .map(|Text(proof)| proof)
                .filter(|proof| !proof.is_empty()),
        }),
        "redacted_thinking" => fields.data.map(|Text(data)| Block::Redacted(data)),
        "tool_use" => match (fields.id, fields.name) {
            (Some(Text(id)), Some(Text(name))) => Some(Block::ToolCall(ToolCall {
                id,
                name,
                arguments: Cow::Borrowed(fields.input.map_or("{}", RawValue::get)),
                signature: fields.signature.map(|Text(proof)| proof),
            })),
            _ => None,
        },
        "tool_result" => fields.tool_use_id.map(|Text(id)| Block::ToolResult {
            id,
            name: None,
            content: fields.content.map(blocks).unwrap_or_default(),
            is_error: fields.is_error.unwrap_or_default(),
        }),
        _ => None,
    };
    block.ok_or(what)
}

fn source(raw: &RawValue) -> Option<Source<'_>> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, default)]
        r#type: Text<'a>,
        #[serde(borrow)]
        media_type: Option<Text<'a>>,
        #[serde(borrow)]
        data: Option<Text<'a>>,
        #[serde(borrow)]
        url: Option<Text<'a>>,
        #[serde(borrow)]
        file_id: Option<Text<'a>>,
    }
    let fields: Fields<'_> = value(raw)?;
    Some(match &*fields.r#type.0 {
        "base64" => Source::Inline {
            media_type: fields.media_type?.0,
            data: fields.data?.0,
        },
        "text" => Source::Text(fields.data?.0),
        "url" => Source::of_url(fields.url?.0),
        "file" => Source::Stored(fields.file_id?.0),
        _ => return None,
    })
}

fn tool(raw: &RawValue) -> Tool<'_> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        r#type: Option<Text<'a>>,
        #[serde(borrow)]
        name: Option<Text<'a>>,
        #[serde(borrow)]
        description: Option<Text<'a>>,
        #[serde(borrow)]
        input_schema: Option<&'a RawValue>,
        strict: Option<bool>,
    }
    let what = match value::<Fields<'_>>(raw) {
        Some(Fields {
            r#type,
            name: Some(Text(name)),
            description,
            input_schema,
            strict,
        }) if r#type.as_ref().is_none_or(|Text(kind)| kind == "custom") => {
            return Tool::Function(Function {
                name,
                description: description.map(|Text(text)| text),
                parameters: input_schema.map(Cow::Borrowed),
                strict,
            });
        }
        Some(fields) => fields.r#type.map(|Text(kind)| kind).unwrap_or_default(),
        None => Cow::Borrowed("tool"),
    };
    Tool::Opaque {
        what,
        json: Cow::Borrowed(raw),
    }
}

fn output(raw: &RawValue) -> Output<'_> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        schema: Option<&'a RawValue>,
    }
    match value::<Fields<'_>>(raw).and_then(|fields| fields.schema) {
        Some(schema) => Output::Schema {
            name: None,
            description: None,
            schema: Cow::Borrowed(schema),
            strict: Some(true),
        },
        None => Output::Text,
    }
}
