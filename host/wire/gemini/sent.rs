//! Writing a request for a vendor.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use super::NAMES;
use super::part::{Content, Fields, FileData, FunctionCall, FunctionResponse, Part, Response, sign};
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};
use crate::wire::{Call, Encoded, Format, Malformed, Naming, json, signature};

/// Rules for ids of tool calls. Google states none; these hold for all others.
const IDS: Naming = Naming {
    longest: 128,
    also: b"_.:-",
    starts_with_letter: false,
};

/// What Google documents for calls that its models did not make: it takes the place of a signature.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// Writes a request. The model and the wish for a stream are in the path.
pub fn encode(conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
    let writer = Writer::new(conversation, call.client);
    let functions: Vec<_> = conversation.functions().map(declaration).collect();
    let renamed = conversation
        .functions()
        .filter_map(|function| match NAMES.fit(&function.name) {
            Cow::Borrowed(_) => None,
            Cow::Owned(there) => Some((there, function.name.to_string())),
        })
        .collect();
    let body = Body {
        contents: writer.contents()?,
        system_instruction: writer.system(),
        tool_config: tool_config(conversation).filter(|_| !functions.is_empty()),
        tools: writer.tools(functions),
        generation_config: generation_config(conversation),
    };
    let mut bytes = Vec::with_capacity(size(conversation));
    serde_json::to_writer(&mut bytes, &body).map_err(|error| Malformed::whole(error.to_string()))?;
    Ok(Encoded { body: bytes, renamed })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    contents: Vec<Content<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Content<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tools<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<ToolConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation_config: Option<GenerationConfig<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Tools<'a> {
    FunctionDeclarations(Vec<Declaration<'a>>),
    #[serde(untagged)]
    Raw(&'a RawValue),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Declaration<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters_json_schema: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToolConfig<'a> {
    function_calling_config: FunctionCallingConfig<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FunctionCallingConfig<'a> {
    mode: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_function_names: Vec<Cow<'a, str>>,
}

#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<Schema<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<ThinkingConfig>,
}

/// A schema; two are the same if they are spelled the same.
#[derive(Serialize)]
#[serde(transparent)]
struct Schema<'a>(&'a RawValue);

impl PartialEq for Schema<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

#[derive(Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ThinkingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    include_thoughts: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_budget: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_level: Option<&'static str>,
}

fn generation_config<'a>(conversation: &'a Conversation<'_>) -> Option<GenerationConfig<'a>> {
    let (media_type, schema) = match &conversation.output {
        Output::Text => (None, None),
        Output::Json => (Some("application/json"), None),
        Output::Schema { schema, .. } => (Some("application/json"), Some(Schema(schema))),
    };
    let config = GenerationConfig {
        temperature: conversation.temperature.as_ref(),
        top_p: conversation.top_p.as_ref(),
        top_k: conversation.top_k.as_ref(),
        max_output_tokens: conversation.max_tokens,
        stop_sequences: conversation
            .stop
            .iter()
            .map(|text| &**text)
            .filter(|text| !text.is_empty())
            .collect(),
        presence_penalty: conversation.presence_penalty.as_ref(),
        frequency_penalty: conversation.frequency_penalty.as_ref(),
        seed: conversation.seed.as_ref(),
        response_mime_type: media_type,
        response_json_schema: schema,
        thinking_config: thinking_config(conversation),
    };
    (config != GenerationConfig::default()).then_some(config)
}

/// A budget or a level: Google refuses both at once.
fn thinking_config(conversation: &Conversation<'_>) -> Option<ThinkingConfig> {
    let level = match conversation.effort {
        None | Some(Effort::None) => None,
        Some(Effort::Minimal) => Some("MINIMAL"),
        Some(Effort::Low) => Some("LOW"),
        Some(Effort::Medium) => Some("MEDIUM"),
        Some(Effort::High) => Some("HIGH"),
        Some(Effort::XHigh | Effort::Max) => Some("XHIGH"),
    };
    let none = (conversation.effort == Some(Effort::None)).then_some(0);
    let budget = conversation.thinking_budget.or(none);
    let config = ThinkingConfig {
        include_thoughts: conversation.show_reasoning,
        thinking_budget: budget,
        thinking_level: level.filter(|_| budget.is_none()),
    };
    (config != ThinkingConfig::default()).then_some(config)
}

fn tool_config<'a>(conversation: &'a Conversation<'_>) -> Option<ToolConfig<'a>> {
    let fit = |names: &'a [Cow<'_, str>]| names.iter().map(|name| NAMES.fit(name)).collect();
    let (mode, allowed_function_names) = match conversation.tool_choice.as_ref()? {
        ToolChoice::Auto => ("AUTO", Vec::new()),
        ToolChoice::None => ("NONE", Vec::new()),
        ToolChoice::Required => ("ANY", Vec::new()),
        ToolChoice::Named(name) => ("ANY", vec![NAMES.fit(name)]),
        ToolChoice::Allowed { names, required: true } => ("ANY", fit(names)),
        // The one mode that knows names and does not force a call.
        ToolChoice::Allowed { names, required: false } => ("VALIDATED", fit(names)),
    };
    Some(ToolConfig {
        function_calling_config: FunctionCallingConfig {
            mode,
            allowed_function_names,
        },
    })
}

fn declaration<'a>(function: &'a Function<'_>) -> Declaration<'a> {
    Declaration {
        name: NAMES.fit(&function.name),
        description: function.description.as_deref(),
        parameters_json_schema: function.parameters.as_deref(),
    }
}

struct Writer<'c, 'a> {
    conversation: &'c Conversation<'a>,
    client: Format,
    /// The tool of each call, for results that do not say it.
    tools: HashMap<&'c str, &'c str>,
}

/// One content that is being gathered from neighbours of one role: Google wants the results of tools first, and all together.
#[derive(Default)]
struct Gathered<'c> {
    results: Vec<Part<'c>>,
    media: Vec<Part<'c>>,
    rest: Vec<Part<'c>>,
    called: bool,
}

impl<'c, 'a> Writer<'c, 'a> {
    fn new(conversation: &'c Conversation<'a>, client: Format) -> Self {
        let blocks = conversation.turns.iter().flat_map(|turn| &turn.blocks);
        let tools = blocks.filter_map(|block| match block {
            Block::ToolCall(call) => Some((&*call.id, &*call.name)),
            _ => None,
        });
        Self {
            conversation,
            client,
            tools: tools.collect(),
        }
    }

    /// All instructions, wherever they stand: there is one place for them.
    fn system(&self) -> Option<Content<'c>> {
        let turns = self.conversation.turns.iter().filter(|turn| turn.role == Role::System);
        let blocks = self
            .conversation
            .system
            .iter()
            .chain(turns.flat_map(|turn| &turn.blocks));
        let parts: Vec<_> = blocks.filter_map(|block| self.said(block)).collect();
        (!parts.is_empty()).then_some(Content { role: None, parts })
    }

    fn contents(&self) -> Result<Vec<Content<'c>>, Malformed> {
        let mut contents: Vec<(Role, Gathered<'c>)> = Vec::new();
        for turn in self.conversation.turns.iter().filter(|turn| turn.role != Role::System) {
            match contents.last_mut() {
                Some((role, gathered)) if *role == turn.role => self.gather(turn, gathered)?,
                _ => {
                    let mut gathered = Gathered::default();
                    self.gather(turn, &mut gathered)?;
                    if !gathered.is_empty() {
                        contents.push((turn.role, gathered));
                    }
                }
            }
        }
        let written = contents.into_iter().map(|(role, mut gathered)| {
            let mut parts = gathered.results;
            parts.append(&mut gathered.media);
            parts.append(&mut gathered.rest);
            let role = if role == Role::Assistant { "model" } else { "user" };
            Content {
                role: Some(role),
                parts,
            }
        });
        Ok(written.collect())
    }

    fn gather(&self, turn: &'c Turn<'a>, into: &mut Gathered<'c>) -> Result<(), Malformed> {
        for block in &turn.blocks {
            match block {
                Block::ToolCall(call) => {
                    let part = self.call(call, into.called)?;
                    into.called = true;
                    into.rest.push(part);
                }
                Block::ToolResult {
                    id,
                    name,
                    content,
                    is_error,
                } => {
                    let name = name.as_deref().or_else(|| self.tools.get(&**id).copied());
                    into.results.push(self.result(id, name, content, *is_error));
                    let media = content.iter().filter(|block| !matches!(block, Block::Text(_)));
                    into.media.extend(media.filter_map(|block| self.said(block)));
                }
                Block::Reasoning { text, signature } => {
                    let own = signature.as_deref().and_then(|it| self.own(it));
                    match own {
                        Some(signature) if text.is_empty() => sign(&mut into.rest, signature),
                        // Thoughts without a proof help only the vendor whose they are.
                        None if self.client != Format::Gemini || text.is_empty() => {}
                        own => into.rest.push(Part::thought(&**text, own)),
                    }
                }
                other => into.rest.extend(self.said(other)),
            }
        }
        Ok(())
    }

    fn own(&self, proof: &'c str) -> Option<Cow<'c, str>> {
        signature::for_vendor(&Cow::Borrowed(proof), self.client, Format::Gemini)
    }

    fn call(&self, call: &'c ToolCall<'a>, others_before: bool) -> Result<Part<'c>, Malformed> {
        let args = json::object(&call.arguments).ok_or_else(|| {
            let message = format!("the arguments of tool call `{}` are not a JSON object", call.id);
            Malformed::field("messages", message)
        })?;
        let own = call.signature.as_deref().and_then(|proof| self.own(proof));
        let signature = own.or_else(|| (!others_before).then_some(Cow::Borrowed(NO_SIGNATURE)));
        let written = FunctionCall {
            id: IDS.fit(&call.id),
            name: NAMES.fit(&call.name),
            args,
        };
        Ok(Part::call(written, signature))
    }

    fn result(&self, id: &'c str, name: Option<&'c str>, content: &'c [Block<'a>], is_error: bool) -> Part<'c> {
        let texts = content.iter().filter_map(|block| match block {
            Block::Text(text) => Some(&**text),
            _ => None,
        });
        let text = match *texts.collect::<Vec<_>>() {
            [] => Cow::Borrowed(""),
            [one] => Cow::Borrowed(one),
            ref several => Cow::Owned(several.join("\n")),
        };
        let response = if is_error {
            Response::Error(text)
        } else {
            match as_object(&text) {
                Some(object) => Response::Object(object),
                None => Response::Output(text),
            }
        };
        Part::of(Fields {
            function_response: Some(FunctionResponse {
                id: IDS.fit(id),
                name: NAMES.fit(name.unwrap_or("tool")),
                response,
            }),
            ..Fields::default()
        })
    }

    /// What either side says that is neither a call, nor a result, nor a thought.
    fn said(&self, block: &'c Block<'a>) -> Option<Part<'c>> {
        match block {
            Block::Text(text) => (!text.is_empty()).then(|| Part::text(&**text)),
            Block::Image(source) | Block::Audio(source) | Block::Document { source, .. } => self.media(source),
            Block::Opaque { json, .. } => (self.client == Format::Gemini).then(|| Part::Raw(Cow::Borrowed(&**json))),
            Block::Reasoning { .. } | Block::Redacted(_) | Block::ToolCall(_) | Block::ToolResult { .. } => None,
        }
    }

    fn media(&self, source: &'c Source<'a>) -> Option<Part<'c>> {
        match source {
            Source::Inline { media_type, data } => Some(Part::inline(media_type, data)),
            Source::Text(text) => (!text.is_empty()).then(|| Part::text(&**text)),
            // Google takes URLs that it can reach itself: only its own clients know which.
            Source::Url(uri) | Source::Stored(uri) => (self.client == Format::Gemini).then(|| {
                Part::of(Fields {
                    file_data: Some(FileData {
                        mime_type: media_type_of(uri),
                        file_uri: uri,
                    }),
                    ..Fields::default()
                })
            }),
        }
    }

    fn tools(&self, functions: Vec<Declaration<'c>>) -> Vec<Tools<'c>> {
        let mut tools = Vec::new();
        if !functions.is_empty() {
            tools.push(Tools::FunctionDeclarations(functions));
        }
        let own = self.conversation.tools.iter().filter_map(|tool| match tool {
            Tool::Opaque { json, .. } => Some(Tools::Raw(json)),
            Tool::Function(_) => None,
        });
        if self.client == Format::Gemini {
            tools.extend(own);
        }
        tools
    }
}

impl Gathered<'_> {
    fn is_empty(&self) -> bool {
        self.results.is_empty() && self.media.is_empty() && self.rest.is_empty()
    }
}

/// A text that is a JSON object.
fn as_object<'c>(text: &Cow<'c, str>) -> Option<Cow<'c, RawValue>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    match text {
        Cow::Borrowed(text) => json::object(text),
        Cow::Owned(text) => json::object(text).map(|raw| Cow::Owned(raw.into_owned())),
    }
}

/// The media type that the end of an address tells.
fn media_type_of(uri: &str) -> Option<&'static str> {
    let (_, ending) = uri.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "webp" => Some("image/webp"),
        "gif" => Some("image/gif"),
        "heic" => Some("image/heic"),
        "pdf" => Some("application/pdf"),
        "txt" => Some("text/plain"),
        "mp3" => Some("audio/mp3"),
        "wav" => Some("audio/wav"),
        _ => None,
    }
}

/// About the bytes that a conversation takes, so that large ones are written without growing.
fn size(conversation: &Conversation<'_>) -> usize {
    let turns = conversation.turns.iter().flat_map(|turn| &turn.blocks);
    let blocks = conversation.system.iter().chain(turns).map(size_of);
    let schemas = conversation.functions().map(|function| {
        let parameters = function.parameters.as_ref().map_or(0, |schema| schema.get().len());
        parameters + function.description.as_deref().map_or(0, str::len) + 100
    });
    1024 + blocks.sum::<usize>() + schemas.sum::<usize>()
}

fn size_of(block: &Block<'_>) -> usize {
    const AROUND: usize = 100;
    let source = |source: &Source<'_>| match source {
        Source::Inline { data, .. } => data.len(),
        Source::Text(text) | Source::Url(text) | Source::Stored(text) => text.len(),
    };
    AROUND
        + match block {
            Block::Text(text) | Block::Redacted(text) => text.len() + text.len() / 16,
            Block::Image(it) | Block::Audio(it) | Block::Document { source: it, .. } => source(it),
            Block::Reasoning { text, signature } => text.len() + signature.as_deref().map_or(0, str::len),
            Block::ToolCall(call) => call.arguments.len() + call.signature.as_deref().map_or(0, str::len),
            Block::ToolResult { content, .. } => content.iter().map(size_of).sum(),
            Block::Opaque { json, .. } => json.get().len(),
        }
}
