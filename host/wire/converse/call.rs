//! Writing a request for a vendor.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use aws_smithy_types::base64;
use serde::{Serialize, Serializer};
use serde_json::Number;
use serde_json::value::RawValue;

use super::super::{Call, Encoded, Format, Malformed, json, signature};
use super::{DOCUMENTS, TOOL, TOOL_USE_ID, extension};
use crate::conversation::{Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice};

/// Writes a request. The model, and whether a stream is wanted, are in the path.
pub fn encode(conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
    let mut draft = Draft {
        conversation,
        client: call.client,
        by_budget: call.dialect.thinking_budget,
        renamed: Vec::new(),
        labels: HashMap::new(),
    };
    let body = Body {
        messages: draft.messages()?,
        system: draft.system(),
        inference_config: inference(conversation),
        tool_config: draft.tool_config(),
        output_config: draft.output(),
        additional_model_request_fields: draft.additional(),
        request_metadata: draft.metadata(),
    };
    let mut bytes = Vec::with_capacity(size(conversation));
    serde_json::to_writer(&mut bytes, &body).expect("texts, numbers and JSON serialise");
    Ok(Encoded {
        body: bytes,
        renamed: draft.renamed,
    })
}

/// What the first message says where the conversation begins with the model, which the format does not allow.
const BEGIN: &str = "Begin.";
/// The schema of a tool that is known by its calls only.
const ANY_OBJECT: &str = r#"{"type":"object","additionalProperties":true}"#;
/// The schema of a tool without arguments.
const NO_ARGUMENTS: &str = r#"{"type":"object","properties":{}}"#;
/// Most bytes of a document's name, less room for a number behind it.
const MAX_LABEL: usize = 180;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'c> {
    messages: Vec<Message<'c>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Content<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inference_config: Option<Inference<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_model_request_fields: Option<Additional<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_metadata: Option<Pairs<'c>>,
}

#[derive(Serialize)]
struct Message<'c> {
    role: &'static str,
    content: Vec<Content<'c>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Content<'c> {
    Text(&'c str),
    Image(Media<'c>),
    Audio(Media<'c>),
    Document(Document<'c>),
    #[serde(rename_all = "camelCase")]
    ToolUse {
        tool_use_id: Cow<'c, str>,
        name: Cow<'c, str>,
        input: Cow<'c, RawValue>,
    },
    #[serde(rename_all = "camelCase")]
    ToolResult {
        tool_use_id: Cow<'c, str>,
        content: Vec<Content<'c>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
    },
    #[serde(rename = "reasoningContent")]
    Reasoning(Reasoning<'c>),
    #[serde(untagged)]
    Opaque(&'c RawValue),
}

#[derive(Serialize)]
struct Media<'c> {
    format: Cow<'c, str>,
    source: Held<'c>,
}

#[derive(Serialize)]
struct Document<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'static str>,
    name: String,
    source: Held<'c>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Held<'c> {
    Bytes(Cow<'c, str>),
    Text(&'c str),
    S3Location { uri: &'c str },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Reasoning<'c> {
    ReasoningText {
        text: &'c str,
        #[serde(skip_serializing_if = "Option::is_none")]
        signature: Option<Cow<'c, str>>,
    },
    RedactedContent(Cow<'c, str>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inference<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'c Number>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'c str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'c> {
    tools: Vec<OfferedTool<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'c>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum OfferedTool<'c> {
    #[serde(rename_all = "camelCase")]
    ToolSpec {
        name: Cow<'c, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'c str>,
        input_schema: Schema<'c>,
        #[serde(skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
    #[serde(untagged)]
    Opaque(&'c RawValue),
}

#[derive(Serialize)]
struct Schema<'c> {
    json: Cow<'c, RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Choice<'c> {
    Any {},
    Tool { name: Cow<'c, str> },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutputConfig<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text_format: Option<TextFormat<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
}

#[derive(Serialize)]
struct TextFormat<'c> {
    r#type: &'static str,
    structure: Structure<'c>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Structure<'c> {
    JsonSchema {
        /// JSON, as text.
        schema: &'c str,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'c str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'c str>,
    },
}

/// Names and values. Of a name that comes twice, the last value counts.
struct Pairs<'c>(Vec<(&'c str, &'c str)>);

impl<'c> Pairs<'c> {
    fn of(pairs: &'c [(Cow<'_, str>, Cow<'_, str>)]) -> Self {
        let mut kept: Vec<(&str, &str)> = Vec::with_capacity(pairs.len());
        let mut places = HashMap::new();
        for (name, value) in pairs {
            let place = *places.entry(&**name).or_insert(kept.len());
            match kept.get_mut(place) {
                Some(pair) => pair.1 = value,
                None => kept.push((name, value)),
            }
        }
        Self(kept)
    }
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[derive(Serialize)]
struct Additional<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'c Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
}

#[derive(Serialize)]
struct Thinking {
    r#type: &'static str,
    budget_tokens: u64,
}

/// A request that is being written.
struct Draft<'c> {
    conversation: &'c Conversation<'c>,
    client: Format,
    /// The model knows thinking budgets and no efforts.
    by_budget: bool,
    /// Tools that go by another name there.
    renamed: Vec<(String, String)>,
    /// Names of documents, which must not come twice, and how often each was wanted.
    labels: HashMap<String, usize>,
}

impl<'c> Draft<'c> {
    /// What the client's format says and this one does too: they are the same.
    fn is_own(&self) -> bool {
        self.client == Format::Converse
    }

    fn messages(&mut self) -> Result<Vec<Message<'c>>, Malformed> {
        let mut messages: Vec<Message<'_>> = Vec::new();
        let conversation = self.conversation;
        for turn in &conversation.turns {
            let role = match turn.role {
                Role::Assistant => "assistant",
                Role::System | Role::User => "user",
            };
            let mut content = Vec::with_capacity(turn.blocks.len());
            for block in &turn.blocks {
                let is_hoisted = turn.role == Role::System && matches!(block, Block::Text(_));
                if !is_hoisted {
                    self.block(block, &mut content)?;
                }
            }
            match messages.last_mut() {
                _ if content.is_empty() => {}
                Some(last) if last.role == role => last.content.append(&mut content),
                _ => messages.push(Message { role, content }),
            }
        }
        for message in messages.iter_mut().filter(|message| message.role == "user") {
            // Results answer the calls right before them, and nothing may stand in between.
            message
                .content
                .sort_by_key(|block| !matches!(block, Content::ToolResult { .. }));
        }
        if messages.first().is_none_or(|first| first.role != "user") {
            let content = vec![Content::Text(BEGIN)];
            messages.insert(0, Message { role: "user", content });
        }
        Ok(messages)
    }

    /// Instructions, those inside the conversation last.
    fn system(&self) -> Vec<Content<'c>> {
        let inside = self.conversation.turns.iter().filter(|turn| turn.role == Role::System);
        let inside = inside
            .flat_map(|turn| &turn.blocks)
            .filter(|block| matches!(block, Block::Text(_)));
        let blocks = self.conversation.system.iter().chain(inside);
        let content = blocks.filter_map(|block| match block {
            Block::Text(text) => said(text),
            Block::Opaque { json, .. } if self.is_own() => Some(Content::Opaque(json)),
            _ => None,
        });
        content.collect()
    }

    fn block(&mut self, block: &'c Block<'c>, into: &mut Vec<Content<'c>>) -> Result<(), Malformed> {
        let content = match block {
            Block::Text(text) => said(text),
            Block::Image(source) => self.image(source),
            Block::Audio(source) => self.audio(source),
            Block::Document { name, source } => self.document(name.as_deref(), source),
            Block::Reasoning { text, signature } => self.reasoning(text, signature.as_ref()),
            Block::Redacted(data) => self.redacted(data),
            Block::ToolCall(call) => Some(tool_use(call)?),
            Block::ToolResult {
                id, content, is_error, ..
            } => {
                let sounds = content.iter().filter_map(|block| match block {
                    Block::Audio(source) => self.audio(source),
                    _ => None,
                });
                into.extend(sounds);
                Some(self.tool_result(id, content, *is_error))
            }
            Block::Opaque { json, .. } if self.is_own() => Some(Content::Opaque(json)),
            Block::Opaque { .. } => None,
        };
        into.extend(content);
        Ok(())
    }

    fn tool_result(&mut self, id: &'c str, blocks: &'c [Block<'c>], is_error: bool) -> Content<'c> {
        let content = blocks.iter().filter_map(|block| match block {
            Block::Text(text) => said(text),
            Block::Image(source) => self.image(source),
            Block::Document { name, source } => self.document(name.as_deref(), source),
            Block::Opaque { json, .. } if self.is_own() => Some(Content::Opaque(json)),
            _ => None,
        });
        Content::ToolResult {
            tool_use_id: TOOL_USE_ID.fit(id),
            content: content.collect(),
            // Only some models know the status, and success goes without saying.
            status: is_error.then_some("error"),
        }
    }

    fn image(&self, source: &'c Source<'c>) -> Option<Content<'c>> {
        let format = match source {
            Source::Inline { media_type, .. } => match &**media_type {
                "image/jpeg" | "image/jpg" => "jpeg",
                "image/png" => "png",
                "image/gif" => "gif",
                "image/webp" => "webp",
                _ => return None,
            },
            Source::Stored(uri) => extension(uri)?,
            Source::Text(_) | Source::Url(_) => return None,
        };
        Some(Content::Image(Media {
            format: format.into(),
            source: self.held(source)?,
        }))
    }

    fn audio(&self, source: &'c Source<'c>) -> Option<Content<'c>> {
        let format = match source {
            Source::Inline { media_type, .. } => match media_type.split_once('/')?.1 {
                "mpeg" => "mp3",
                "x-wav" | "wave" => "wav",
                other => other,
            },
            Source::Stored(uri) => extension(uri)?,
            Source::Text(_) | Source::Url(_) => return None,
        };
        Some(Content::Audio(Media {
            format: format.into(),
            source: self.held(source)?,
        }))
    }

    fn document(&mut self, name: Option<&'c str>, source: &'c Source<'c>) -> Option<Content<'c>> {
        let of_name = |name: &str| {
            let ending = extension(name)?;
            DOCUMENTS
                .iter()
                .find(|(format, _)| *format == ending)
                .map(|(format, _)| *format)
        };
        let format = match source {
            Source::Inline { media_type, .. } => {
                let row = DOCUMENTS.iter().find(|(_, known)| known == media_type);
                let text = || media_type.starts_with("text/").then_some("txt");
                row.map(|(format, _)| *format).or_else(|| of_name(name?)).or_else(text)
            }
            Source::Text(_) => Some("txt"),
            Source::Stored(uri) => of_name(uri),
            Source::Url(_) => None,
        };
        let source = self.held(source)?;
        let name = self.label(name.unwrap_or_default());
        Some(Content::Document(Document { format, name, source }))
    }

    fn held(&self, source: &'c Source<'c>) -> Option<Held<'c>> {
        match source {
            Source::Inline { data, .. } => Some(Held::Bytes(Cow::Borrowed(data))),
            Source::Text(text) if self.is_own() => Some(Held::Text(text)),
            // All models that read documents take bytes, and not all take text.
            Source::Text(text) => Some(Held::Bytes(base64::encode(text.as_bytes()).into())),
            Source::Stored(uri) if self.is_own() => Some(Held::S3Location { uri }),
            Source::Stored(_) | Source::Url(_) => None,
        }
    }

    /// A document's name as the format wants it: letters, digits, hyphens, brackets and single spaces, and no other document's.
    fn label(&mut self, name: &str) -> String {
        let stem = match extension(name) {
            Some(ending) => name.strip_suffix(ending).unwrap_or(name),
            None => name,
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-()[]".contains(c);
        let mut label = String::new();
        for word in stem.split(|c| !allowed(c)).filter(|word| !word.is_empty()) {
            let gap = if label.is_empty() { "" } else { " " };
            label.push_str(gap);
            label.push_str(word);
        }
        label.truncate(MAX_LABEL);
        let label = match label.trim() {
            "" => "document",
            label => label,
        };
        let mut candidate = label.to_owned();
        while self.labels.contains_key(&candidate) {
            let wanted = self.labels.entry(label.to_owned()).or_insert(1);
            *wanted += 1;
            candidate = format!("{label} {wanted}");
        }
        self.labels.insert(candidate.clone(), 1);
        candidate
    }

    /// Reasoning goes back to those who signed it. Models that do not sign take theirs back from clients of this format.
    fn reasoning(&self, text: &'c str, proof: Option<&'c Cow<'c, str>>) -> Option<Content<'c>> {
        let signature = match proof {
            Some(proof) => Some(signature::for_vendor(proof, self.client, Format::Converse)?),
            None if self.is_own() => None,
            None => return None,
        };
        Some(Content::Reasoning(Reasoning::ReasoningText { text, signature }))
    }

    fn redacted(&self, data: &'c Cow<'c, str>) -> Option<Content<'c>> {
        let data = signature::for_vendor(data, self.client, Format::Converse)?;
        Some(Content::Reasoning(Reasoning::RedactedContent(data)))
    }

    fn tool_config(&mut self) -> Option<ToolConfig<'c>> {
        let conversation = self.conversation;
        let has_history = conversation.has_tool_history();
        let choice = conversation.tool_choice.as_ref();
        if choice == Some(&ToolChoice::None) && !has_history {
            return None;
        }
        let names = match choice {
            Some(ToolChoice::Allowed { names, .. }) => Some(names.iter().map(|name| &**name).collect::<HashSet<_>>()),
            _ => None,
        };
        let is_allowed = |name: &str| names.as_ref().is_none_or(|names| names.contains(name));
        let mut tools = Vec::with_capacity(conversation.tools.len());
        for tool in &conversation.tools {
            match tool {
                Tool::Function(function) if is_allowed(&function.name) => tools.push(self.tool(function)),
                Tool::Opaque { json, .. } if self.is_own() => tools.push(OfferedTool::Opaque(json)),
                Tool::Function(_) | Tool::Opaque { .. } => {}
            }
        }
        if tools.is_empty() {
            let tools = self.tools_of_history();
            return (!tools.is_empty()).then_some(ToolConfig {
                tools,
                tool_choice: None,
            });
        }
        let tool_choice = match choice {
            Some(ToolChoice::Named(name)) => Some(Choice::Tool { name: TOOL.fit(name) }),
            Some(ToolChoice::Allowed { names, required: true }) => match &names[..] {
                [name] => Some(Choice::Tool { name: TOOL.fit(name) }),
                _ => Some(Choice::Any {}),
            },
            Some(ToolChoice::Required) => Some(Choice::Any {}),
            // Not all models know a choice, and this is what they do without.
            Some(ToolChoice::Auto | ToolChoice::None | ToolChoice::Allowed { .. }) | None => None,
        };
        Some(ToolConfig { tools, tool_choice })
    }

    fn tool(&mut self, function: &'c Function<'c>) -> OfferedTool<'c> {
        OfferedTool::ToolSpec {
            name: self.name(&function.name),
            description: function.description.as_deref().filter(|text| !text.trim().is_empty()),
            input_schema: Schema {
                json: match &function.parameters {
                    Some(schema) => Cow::Borrowed(schema),
                    None => constant(NO_ARGUMENTS),
                },
            },
            strict: function.strict.filter(|strict| *strict),
        }
    }

    /// The format wants the tools declared that a conversation has used.
    fn tools_of_history(&mut self) -> Vec<OfferedTool<'c>> {
        let mut names = HashSet::new();
        let mut tools = Vec::new();
        for block in self.conversation.turns.iter().flat_map(|turn| &turn.blocks) {
            let name = match block {
                Block::ToolCall(call) => &*call.name,
                Block::ToolResult { id, name, .. } if tools.is_empty() => {
                    let named = name.as_deref().or_else(|| self.conversation.tool_of(id));
                    named.unwrap_or("tool")
                }
                _ => continue,
            };
            if names.insert(name) {
                tools.push(OfferedTool::ToolSpec {
                    name: self.name(name),
                    description: None,
                    input_schema: Schema {
                        json: constant(ANY_OBJECT),
                    },
                    strict: None,
                });
            }
        }
        tools
    }

    /// A tool's name there, remembered where it is another.
    fn name(&mut self, name: &'c str) -> Cow<'c, str> {
        let fitted = TOOL.fit(name);
        if fitted != name {
            self.renamed.push((fitted.clone().into_owned(), name.to_owned()));
        }
        fitted
    }

    fn output(&self) -> Option<OutputConfig<'c>> {
        let structure = match &self.conversation.output {
            // There is no JSON of any form: the model was told to answer with it.
            Output::Text | Output::Json => None,
            Output::Schema {
                name,
                description,
                schema,
                ..
            } => Some(Structure::JsonSchema {
                schema: schema.get(),
                name: name.as_deref(),
                description: description.as_deref(),
            }),
        };
        let text_format = structure.map(|structure| TextFormat {
            r#type: "json_schema",
            structure,
        });
        let effort = match self.conversation.effort {
            _ if self.has_budget() => None,
            // Models do not think unless they are told to.
            None | Some(Effort::None) => None,
            // The least that the format has.
            Some(Effort::Minimal) => Some(Effort::Low.name()),
            Some(effort) => Some(effort.name()),
        };
        (text_format.is_some() || effort.is_some()).then_some(OutputConfig { text_format, effort })
    }

    /// How much to think is said in the words of the model: by the client in this format, or since the model knows no other.
    fn has_budget(&self) -> bool {
        self.conversation.thinking_budget.is_some() && (self.is_own() || self.by_budget)
    }

    /// What the client said in this format in the words of the model.
    fn additional(&self) -> Option<Additional<'c>> {
        let thinking = |budget_tokens| Thinking {
            r#type: "enabled",
            budget_tokens,
        };
        let additional = Additional {
            top_k: self.conversation.top_k.as_ref().filter(|_| self.is_own()),
            thinking: self
                .conversation
                .thinking_budget
                .filter(|_| self.has_budget())
                .map(thinking),
        };
        let says_something = additional.top_k.is_some() || additional.thinking.is_some();
        says_something.then_some(additional)
    }

    /// Metadata of other formats may hold what the vendor's log of requests does not take.
    fn metadata(&self) -> Option<Pairs<'c>> {
        let metadata = &self.conversation.metadata;
        (self.is_own() && !metadata.is_empty()).then(|| Pairs::of(metadata))
    }
}

/// Text, unless it is blank, which the format rejects.
fn said<'c>(text: &'c str) -> Option<Content<'c>> {
    (!text.trim().is_empty()).then_some(Content::Text(text))
}

fn tool_use<'c>(call: &'c ToolCall<'c>) -> Result<Content<'c>, Malformed> {
    let no_object = || {
        let message = format!("the arguments of tool call `{}` are not a JSON object", call.id);
        Malformed::field("messages", message)
    };
    Ok(Content::ToolUse {
        tool_use_id: TOOL_USE_ID.fit(&call.id),
        name: TOOL.fit(&call.name),
        input: json::object(&call.arguments).ok_or_else(no_object)?,
    })
}

fn inference<'c>(conversation: &'c Conversation<'c>) -> Option<Inference<'c>> {
    let is_too_hot = |number: &&Number| number.as_f64().is_some_and(|number| number > 1.0);
    let temperature = conversation.temperature.as_ref();
    let stops = conversation.stop.iter().map(|text| &**text);
    let inference = Inference {
        max_tokens: conversation.max_tokens,
        temperature: match temperature.filter(is_too_hot) {
            Some(_) => Some(Number::from(1)),
            None => temperature.cloned(),
        },
        top_p: conversation.top_p.as_ref(),
        stop_sequences: stops.filter(|text| !text.is_empty()).collect(),
    };
    let says_something = inference.max_tokens.is_some()
        || inference.temperature.is_some()
        || inference.top_p.is_some()
        || !inference.stop_sequences.is_empty();
    says_something.then_some(inference)
}

/// JSON that is written above.
fn constant(json: &'static str) -> Cow<'static, RawValue> {
    Cow::Borrowed(serde_json::from_str(json).expect("it is JSON"))
}

/// Room for a body: its texts, and a little for what stands between them.
fn size(conversation: &Conversation<'_>) -> usize {
    let sources = |source: &Source<'_>| match source {
        Source::Inline { data, .. } => data.len(),
        Source::Text(text) => text.len() * 4 / 3,
        Source::Url(_) | Source::Stored(_) => 0,
    };
    let flat = |block: &Block<'_>| match block {
        Block::Text(text) => text.len(),
        Block::Image(source) | Block::Audio(source) | Block::Document { source, .. } => sources(source),
        Block::Reasoning { text, signature } => text.len() + signature.as_deref().map_or(0, str::len),
        Block::Redacted(data) => data.len(),
        Block::ToolCall(call) => call.arguments.len(),
        Block::Opaque { json, .. } => json.get().len(),
        Block::ToolResult { .. } => 0,
    };
    let block = |block: &Block<'_>| match block {
        Block::ToolResult { content, .. } => content.iter().map(flat).sum(),
        block => flat(block),
    };
    let turns = conversation.turns.iter().flat_map(|turn| &turn.blocks);
    let blocks = conversation.system.iter().chain(turns).map(|it| block(it) + 64);
    let schemas = conversation.functions().map(|function| {
        let schema = function.parameters.as_ref().map_or(0, |schema| schema.get().len());
        schema + function.description.as_deref().map_or(0, str::len) + 128
    });
    let pairs = conversation
        .metadata
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let stops = conversation.stop.iter().map(|text| text.len());
    512 + blocks.sum::<usize>() + schemas.sum::<usize>() + pairs.chain(stops).sum::<usize>()
}
