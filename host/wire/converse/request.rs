//! Reading a client's request.

use std::borrow::Cow;
use std::collections::HashSet;

use aws_smithy_types::base64;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::json::{Text, parse, value};
use super::super::{Malformed, signature};
use super::{DOCUMENTS, Members, extension, is_server_tool, text};
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};

/// Reads a request whole.
pub fn decode(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    let top: Members<'_> = parse(body)?;
    let mut reader = Reader::default();
    for (name, raw) in top.iter() {
        reader.field(name.clone(), raw)?;
    }
    if top.get("messages").is_none() {
        return Err(Malformed::field("messages", "you must provide `messages`"));
    }
    Ok(reader.conversation)
}

#[derive(Default)]
struct Reader<'a> {
    conversation: Conversation<'a>,
    /// The names among [`Conversation::others`].
    others: HashSet<Cow<'a, str>>,
}

impl<'a> Reader<'a> {
    fn field(&mut self, name: Cow<'a, str>, raw: &'a RawValue) -> Result<(), Malformed> {
        match &*name {
            "messages" => self.messages(raw)?,
            "system" => self.conversation.system = self.list("system", raw)?,
            "inferenceConfig" => self.inference(&object("inferenceConfig", raw)?),
            "toolConfig" => self.tools(&object("toolConfig", raw)?)?,
            "outputConfig" => self.output(&object("outputConfig", raw)?)?,
            "requestMetadata" => self.metadata(&object("requestMetadata", raw)?),
            "additionalModelRequestFields" => self.additional(&object("additionalModelRequestFields", raw)?),
            "additionalModelResponseFieldPaths" => {
                let paths: Vec<Text<'_>> = value(raw).unwrap_or_default();
                // The stop text is told anyway.
                if !paths.iter().all(|path| path.0.ends_with("/stop_sequence")) {
                    self.other(name);
                }
            }
            "performanceConfig" if says(raw, "latency", "standard") => {}
            "serviceTier" if says(raw, "type", "default") => {}
            _ if matches!(raw.get(), "{}" | "[]") => {}
            _ => self.other(name),
        }
        Ok(())
    }

    fn other(&mut self, name: impl Into<Cow<'a, str>>) {
        let name = name.into();
        if self.others.insert(name.clone()) {
            self.conversation.others.push(name);
        }
    }

    fn messages(&mut self, raw: &'a RawValue) -> Result<(), Malformed> {
        let wrong = |what: &str| Malformed::field("messages", what);
        let list: Vec<&RawValue> = value(raw).ok_or_else(|| wrong("`messages` must be a list"))?;
        let mut turns = Vec::with_capacity(list.len());
        for raw in list {
            let message: Members<'_> = value(raw).ok_or_else(|| wrong("each of `messages` must be an object"))?;
            let role = match message.text("role").as_deref() {
                Some("user") => Role::User,
                Some("assistant") => Role::Assistant,
                Some("system") => Role::System,
                _ => return Err(wrong("a message's `role` must be `user`, `assistant` or `system`")),
            };
            let blocks = match message.get("content") {
                Some(content) => self.list("messages", content)?,
                None => Vec::new(),
            };
            turns.push(Turn { role, blocks });
        }
        self.conversation.turns = turns;
        Ok(())
    }

    /// A list of blocks. AWS knows no bare string in its place, but what is meant is plain.
    fn list(&mut self, field: &'static str, raw: &'a RawValue) -> Result<Vec<Block<'a>>, Malformed> {
        if let Some(text) = text(raw) {
            return Ok(vec![Block::Text(text)]);
        }
        let wrong = || Malformed::field(field, format!("the content of `{field}` must be a list of blocks"));
        let list: Vec<&RawValue> = value(raw).ok_or_else(wrong)?;
        let mut blocks = Vec::with_capacity(list.len());
        for raw in list {
            let members = value(raw).ok_or_else(wrong)?;
            self.block(raw, &members, &mut blocks);
        }
        Ok(blocks)
    }

    /// One block; what is not understood is kept as it came.
    fn block(&mut self, raw: &'a RawValue, block: &Members<'a>, into: &mut Vec<Block<'a>>) {
        let Some((kind, inner)) = block.kind() else { return };
        let known = match &**kind {
            "text" => text(inner).map(Block::Text),
            // It changes what the request costs, and nothing else.
            "cachePoint" => return,
            "toolUse" => tool_use(inner),
            "toolResult" => self.tool_result(inner),
            "reasoningContent" => reasoning(inner),
            "citationsContent" => match self.cited(inner) {
                Some(texts) => return into.extend(texts),
                None => None,
            },
            _ => self.media(kind, inner),
        };
        into.push(known.unwrap_or_else(|| Block::Opaque {
            what: kind.clone(),
            json: Cow::Borrowed(raw),
        }));
    }

    fn tool_result(&mut self, raw: &'a RawValue) -> Option<Block<'a>> {
        let result: Members<'_> = value(raw)?;
        // A client's tool has none or this one, as AWS writes it; `web_search_tool_result` and its like are results of the vendor's own.
        if result.text("type").is_some_and(|kind| kind != "tool_result") {
            return None;
        }
        let list: Vec<&RawValue> = match result.get("content") {
            Some(content) => value(content)?,
            None => Vec::new(),
        };
        let mut content = Vec::with_capacity(list.len());
        for raw in list {
            let block: Members<'_> = value(raw)?;
            let (kind, inner) = block.kind()?;
            let known = match &**kind {
                "text" => text(inner).map(Block::Text),
                "json" => Some(Block::Text(Cow::Borrowed(inner.get()))),
                _ => self.media(kind, inner),
            };
            content.push(known.unwrap_or_else(|| Block::Opaque {
                what: kind.clone(),
                json: Cow::Borrowed(raw),
            }));
        }
        Some(Block::ToolResult {
            id: result.text("toolUseId")?,
            name: None,
            content,
            is_error: result.text("status").as_deref() == Some("error"),
        })
    }

    /// The texts of an answer that cited its sources.
    fn cited(&mut self, raw: &'a RawValue) -> Option<Vec<Block<'a>>> {
        let cited: Members<'_> = value(raw)?;
        let texts = texts(cited.get("content")?)?;
        if cited.get("citations").is_some_and(|citations| citations.get() != "[]") {
            self.other("messages.citationsContent.citations");
        }
        Some(texts.into_iter().map(Block::Text).collect())
    }

    /// An image, a sound or a document.
    fn media(&mut self, kind: &str, raw: &'a RawValue) -> Option<Block<'a>> {
        if !matches!(kind, "image" | "audio" | "document") {
            return None;
        }
        let media: Members<'_> = value(raw)?;
        let source: Members<'_> = value(media.get("source")?)?;
        let format = media.text("format").unwrap_or_default();
        let media_type = match kind {
            "document" => document_type(&format).into(),
            _ => format!("{kind}/{format}").into(),
        };
        let (held, inner) = source.kind()?;
        let source = match &**held {
            "bytes" => Source::Inline {
                media_type,
                data: text(inner)?,
            },
            "s3Location" => stored(inner, &format)?,
            "text" if kind == "document" => Source::Text(text(inner)?),
            "content" if kind == "document" => Source::Text(texts(inner)?.join("\n").into()),
            _ => return None,
        };
        Some(match kind {
            "image" => Block::Image(source),
            "audio" => Block::Audio(source),
            _ => {
                self.note_document(&media);
                let name = media.text("name");
                Block::Document { name, source }
            }
        })
    }

    /// Notes what is said of a document that no other format can say.
    fn note_document(&mut self, document: &Members<'a>) {
        if document.text("context").is_some_and(|context| !context.is_empty()) {
            self.other("messages.document.context");
        }
        if document.get("citations").is_some_and(|raw| !says_false(raw, "enabled")) {
            self.other("messages.document.citations");
        }
    }

    fn inference(&mut self, fields: &Members<'a>) {
        for (name, raw) in fields.iter() {
            let conversation = &mut self.conversation;
            let is_read = match &**name {
                "maxTokens" => read(raw, &mut conversation.max_tokens),
                "temperature" => read(raw, &mut conversation.temperature),
                "topP" => read(raw, &mut conversation.top_p),
                "stopSequences" => match value::<Vec<Text<'_>>>(raw) {
                    Some(texts) => {
                        conversation.stop = texts.into_iter().map(|text| text.0).collect();
                        true
                    }
                    None => false,
                },
                _ => false,
            };
            if !is_read {
                self.other(format!("inferenceConfig.{name}"));
            }
        }
    }

    fn tools(&mut self, config: &Members<'a>) -> Result<(), Malformed> {
        let wrong = |what: &str| Malformed::field("toolConfig", what);
        let list: Vec<&RawValue> = match config.get("tools") {
            Some(tools) => value(tools).ok_or_else(|| wrong("`tools` must be a list"))?,
            None => Vec::new(),
        };
        for raw in list {
            let tool: Members<'_> = value(raw).ok_or_else(|| wrong("each of `tools` must be an object"))?;
            let Some((kind, inner)) = tool.kind() else { continue };
            let known = match &**kind {
                "cachePoint" => continue,
                "toolSpec" => function(inner).map(Tool::Function),
                _ => None,
            };
            self.conversation.tools.push(known.unwrap_or_else(|| Tool::Opaque {
                what: kind.clone(),
                json: Cow::Borrowed(raw),
            }));
        }
        let Some(choice) = config.get("toolChoice") else {
            return Ok(());
        };
        let members: Option<Members<'_>> = value(choice);
        let kind = members.as_ref().and_then(Members::kind);
        self.conversation.tool_choice = match kind {
            Some((kind, _)) if kind == "auto" => Some(ToolChoice::Auto),
            Some((kind, _)) if kind == "any" => Some(ToolChoice::Required),
            Some((kind, inner)) if kind == "tool" => {
                let named = value::<Members<'_>>(inner).and_then(|tool| tool.text("name"));
                Some(ToolChoice::Named(named.ok_or_else(|| {
                    wrong("`toolChoice.tool` must have the `name` of a tool")
                })?))
            }
            _ => {
                self.other("toolConfig.toolChoice");
                None
            }
        };
        Ok(())
    }

    fn output(&mut self, config: &Members<'a>) -> Result<(), Malformed> {
        for (name, raw) in config.iter() {
            match &**name {
                "effort" => match text(raw).as_deref().and_then(Effort::named) {
                    Some(effort) => self.conversation.effort = self.conversation.effort.or(Some(effort)),
                    None => self.other("outputConfig.effort"),
                },
                "textFormat" => match schema(raw)? {
                    Some(output) => self.conversation.output = output,
                    None => self.other("outputConfig.textFormat"),
                },
                _ => self.other(format!("outputConfig.{name}")),
            }
        }
        Ok(())
    }

    fn metadata(&mut self, fields: &Members<'a>) {
        let texts = fields.iter().filter_map(|(name, raw)| Some((name.clone(), text(raw)?)));
        self.conversation.metadata = texts.collect();
    }

    /// What models take beside the fields of the format: the parameters of Claude are known.
    fn additional(&mut self, fields: &Members<'a>) {
        for (name, raw) in fields.iter() {
            let is_read = match &**name {
                "top_k" => read(raw, &mut self.conversation.top_k),
                "thinking" | "reasoning_config" => self.thinking(raw).is_some(),
                _ => false,
            };
            if !is_read {
                self.other("additionalModelRequestFields");
            }
        }
    }

    fn thinking(&mut self, raw: &'a RawValue) -> Option<()> {
        let thinking: Members<'_> = value(raw)?;
        let is_more = |(name, _): (&Cow<'_, str>, _)| !matches!(&**name, "type" | "budget_tokens");
        if thinking.iter().any(is_more) {
            return None;
        }
        match &*thinking.text("type")? {
            "disabled" => self.conversation.effort = Some(Effort::None),
            "enabled" => {
                let budget: u64 = value(thinking.get("budget_tokens")?)?;
                self.conversation.thinking_budget = Some(budget);
                self.conversation.effort = Some(Effort::of_budget(budget));
            }
            _ => return None,
        }
        Some(())
    }
}

fn object<'a>(field: &'static str, raw: &'a RawValue) -> Result<Members<'a>, Malformed> {
    value(raw).ok_or_else(|| Malformed::field(field, format!("`{field}` must be an object")))
}

/// Reads a value into its place; `false` when it is of another type.
fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue, place: &mut Option<T>) -> bool {
    *place = value(raw);
    place.is_some()
}

/// Whether an object has a member that is this text.
fn says(raw: &RawValue, name: &str, expected: &str) -> bool {
    value::<Members<'_>>(raw).is_some_and(|object| object.text(name).as_deref() == Some(expected))
}

fn says_false(raw: &RawValue, name: &str) -> bool {
    value::<Members<'_>>(raw).is_some_and(|object| object.get(name).is_some_and(|raw| raw.get() == "false"))
}

/// The texts of a list of blocks that hold nothing else.
fn texts(raw: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    let list: Vec<Members<'_>> = value(raw)?;
    list.iter().map(|block| block.text("text")).collect()
}

fn tool_use(raw: &RawValue) -> Option<Block<'_>> {
    let call: Members<'_> = value(raw)?;
    if is_server_tool(&call) {
        return None;
    }
    Some(Block::ToolCall(ToolCall {
        id: call.text("toolUseId")?,
        name: call.text("name")?,
        arguments: Cow::Borrowed(call.get("input").map_or("", RawValue::get)),
        signature: None,
    }))
}

fn reasoning(raw: &RawValue) -> Option<Block<'_>> {
    let reasoning: Members<'_> = value(raw)?;
    if let Some(data) = reasoning.text("redactedContent") {
        return Some(Block::Redacted(unwrapped(data)));
    }
    let spoken: Members<'_> = value(reasoning.get("reasoningText")?)?;
    Some(Block::Reasoning {
        text: spoken.text("text").unwrap_or_default(),
        signature: spoken.text("signature"),
    })
}

/// Redacted reasoning of another vendor went out as base64, since what stands here must be that.
fn unwrapped(data: Cow<'_, str>) -> Cow<'_, str> {
    if !data.starts_with(signature::MARK_IN_BASE64) {
        return data;
    }
    let text = base64::decode(&data)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match text {
        Some(text) if text.starts_with(signature::MARK) => text.into(),
        _ => data,
    }
}

/// A place in S3. One that says more than its name, an owner or another format, is kept as it came.
fn stored<'a>(raw: &'a RawValue, format: &str) -> Option<Source<'a>> {
    let place: Members<'_> = value(raw)?;
    let uri = place.text("uri")?;
    let says_all = place.get("bucketOwner").is_none() && extension(&uri) == Some(format);
    says_all.then_some(Source::Stored(uri))
}

fn document_type(format: &str) -> &'static str {
    let row = DOCUMENTS.iter().find(|(name, _)| *name == format);
    row.map_or("application/octet-stream", |(_, media_type)| media_type)
}

fn function(raw: &RawValue) -> Option<Function<'_>> {
    let spec: Members<'_> = value(raw)?;
    let schema = spec.get("inputSchema").and_then(value::<Members<'_>>);
    Some(Function {
        name: spec.text("name")?,
        description: spec.text("description"),
        parameters: schema.and_then(|schema| schema.get("json")).map(Cow::Borrowed),
        strict: spec.get("strict").and_then(value),
    })
}

fn schema(raw: &RawValue) -> Result<Option<Output<'_>>, Malformed> {
    let inner = |raw, name| value::<Members<'_>>(raw).and_then(|object| object.get(name));
    let Some(definition) = inner(raw, "structure").and_then(|raw| inner(raw, "jsonSchema")) else {
        return Ok(None);
    };
    let Some(definition) = value::<Members<'_>>(definition) else {
        return Ok(None);
    };
    let schema = definition
        .text("schema")
        .and_then(|text| RawValue::from_string(text.into_owned()).ok())
        .ok_or_else(|| Malformed::field("outputConfig", "`jsonSchema.schema` must be a JSON schema, as a string"))?;
    Ok(Some(Output::Schema {
        name: definition.text("name"),
        description: definition.text("description"),
        schema: Cow::Owned(schema),
        strict: None,
    }))
}
