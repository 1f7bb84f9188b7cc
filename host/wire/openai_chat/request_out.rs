//! A request for a vendor, written.

use std::borrow::Cow;
use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::super::{Call, Encoded, Format, Malformed, Naming, signature};
use super::request_in::{CUSTOM, MESSAGE};
use crate::conversation::{Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolChoice, Turn};

/// Names of tools and schemas.
const NAMES: Naming = Naming {
    longest: 64,
    also: b"_-",
    starts_with_letter: false,
};

/// Ids of tool calls: OpenAI takes 40 bytes.
const IDS: Naming = Naming {
    longest: 40,
    also: b"_-.:",
    starts_with_letter: false,
};

/// The user's name and the key for the prompt cache: OpenAI takes 64 bytes of anything.
const USERS: Naming = NAMES;

/// The schema's name, which is required, where the client's format has none.
const SCHEMA: &str = "answer";

/// Room for what is written beside the conversation's own texts.
const OVERHEAD: usize = 1024;

/// Writes a request.
pub fn encode(conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
    let mut encoded = Encoded {
        body: Vec::with_capacity(OVERHEAD + size(conversation)),
        renamed: renamed(conversation),
    };
    let body = Body {
        conversation,
        call,
        messages: Messages::of(conversation, call),
    };
    serde_json::to_writer(&mut encoded.body, &body).map_err(|error| Malformed::whole(error.to_string()))?;
    Ok(encoded)
}

fn renamed(conversation: &Conversation<'_>) -> Vec<(String, String)> {
    let fitted = conversation
        .functions()
        .filter_map(|function| match NAMES.fit(&function.name) {
            Cow::Owned(name) => Some((name, function.name.to_string())),
            Cow::Borrowed(_) => None,
        });
    fitted.collect()
}

/// Bytes of the conversation's texts and pictures, roughly.
fn size(conversation: &Conversation<'_>) -> usize {
    let turns = conversation.turns.iter().flat_map(|turn| &turn.blocks);
    let blocks = turns.chain(&conversation.system).map(block_size);
    let schemas = conversation.functions().map(|function| {
        let parameters = function.parameters.as_ref().map_or(0, |schema| schema.get().len());
        parameters + function.description.as_deref().map_or(0, str::len) + 128
    });
    blocks.sum::<usize>() + schemas.sum::<usize>()
}

fn block_size(block: &Block<'_>) -> usize {
    const FRAME: usize = 96;
    let own = match block {
        Block::Text(text) | Block::Reasoning { text, .. } => text.len() + text.len() / 16,
        Block::Image(source) | Block::Audio(source) | Block::Document { source, .. } => match source {
            Source::Inline { data: text, .. } | Source::Text(text) | Source::Url(text) | Source::Stored(text) => {
                text.len()
            }
        },
        Block::ToolCall(call) => call.arguments.len() + call.arguments.len() / 8,
        Block::ToolResult { content, .. } => content.iter().map(block_size).sum(),
        Block::Redacted(_) => 0,
        Block::Opaque { json, .. } => json.get().len(),
    };
    own + FRAME
}

/// The body.
struct Body<'c, 'a> {
    conversation: &'c Conversation<'a>,
    call: &'c Call<'c>,
    messages: Vec<Message<'c>>,
}

impl Serialize for Body<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", self.call.model)?;
        map.serialize_entry("messages", &self.messages)?;
        self.stream(&mut map)?;
        self.sampling(&mut map)?;
        self.tools(&mut map)?;
        self.form(&mut map)?;
        self.user(&mut map)?;
        map.end()
    }
}

impl Body<'_, '_> {
    fn stream<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if !self.call.streaming {
            return Ok(());
        }
        map.serialize_entry("stream", &true)?;
        if self.call.dialect.stream_options {
            map.serialize_entry("stream_options", &StreamOptions { include_usage: true })?;
        }
        Ok(())
    }

    fn sampling<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let conversation = self.conversation;
        entry(map, self.call.dialect.max_tokens, &conversation.max_tokens)?;
        entry(map, "temperature", &conversation.temperature)?;
        entry(map, "top_p", &conversation.top_p)?;
        entry(map, self.call.dialect.seed, &conversation.seed)?;
        entry(map, "presence_penalty", &conversation.presence_penalty)?;
        entry(map, "frequency_penalty", &conversation.frequency_penalty)?;
        if !conversation.stop.is_empty() {
            map.serialize_entry("stop", &conversation.stop)?;
        }
        Ok(())
    }

    fn tools<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let is_own = self.call.client == Format::OpenAiChat;
        let tools = self.conversation.tools.iter().filter_map(|tool| match tool {
            Tool::Function(function) => Some(ToolOut::Function {
                r#type: "function",
                function: function_out(function),
            }),
            Tool::Opaque { json, .. } => is_own.then_some(ToolOut::Raw(json)),
        });
        let tools: Vec<_> = tools.collect();
        if tools.is_empty() {
            return Ok(());
        }
        map.serialize_entry("tools", &tools)?;
        if let Some(choice) = &self.conversation.tool_choice {
            map.serialize_entry("tool_choice", &self.tool_choice(choice))?;
        }
        if self.call.dialect.parallel_tool_calls {
            entry(map, "parallel_tool_calls", &self.conversation.parallel_tools)?;
        }
        Ok(())
    }

    fn tool_choice<'s>(&'s self, choice: &'s ToolChoice<'_>) -> Choice<'s> {
        let word = |required: bool| if required { self.call.dialect.required } else { "auto" };
        match choice {
            ToolChoice::Auto => Choice::Word("auto"),
            ToolChoice::None => Choice::Word("none"),
            ToolChoice::Required => Choice::Word(word(true)),
            ToolChoice::Named(name) => Choice::Named(named(name)),
            ToolChoice::Allowed { names, required } => Choice::Allowed {
                r#type: "allowed_tools",
                allowed_tools: Allowed {
                    mode: word(*required),
                    tools: names.iter().map(|name| named(name)).collect(),
                },
            },
        }
    }

    /// The form of the answer, and how hard to think about it.
    fn form<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match &self.conversation.output {
            Output::Text => {}
            Output::Json => map.serialize_entry("response_format", &ResponseFormat::JsonObject {})?,
            Output::Schema {
                name,
                description,
                schema,
                strict,
            } => {
                let json_schema = JsonSchema {
                    name: NAMES.fit(name.as_deref().unwrap_or(SCHEMA)),
                    description: description.as_deref(),
                    schema,
                    strict: *strict,
                };
                map.serialize_entry("response_format", &ResponseFormat::JsonSchema { json_schema })?;
            }
        }
        let budget = self.conversation.thinking_budget.map(Effort::of_budget);
        match self.conversation.effort.or(budget) {
            Some(effort) if self.call.dialect.effort => map.serialize_entry("reasoning_effort", effort.name()),
            _ => Ok(()),
        }
    }

    /// Whom it is for. Not `metadata`: OpenAI takes it only with answers that are to be stored.
    fn user<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if !self.call.dialect.user {
            return Ok(());
        }
        let fit = |name: &Cow<'_, str>| match name.len() > USERS.longest {
            true => USERS.fit(name).into_owned(),
            false => name.to_string(),
        };
        entry(map, "user", &self.conversation.user.as_ref().map(fit))?;
        entry(map, "prompt_cache_key", &self.conversation.session.as_ref().map(fit))
    }
}

fn entry<M: SerializeMap, T: Serialize>(map: &mut M, name: &'static str, value: &Option<T>) -> Result<(), M::Error> {
    value.as_ref().map_or(Ok(()), |value| map.serialize_entry(name, value))
}

fn function_out<'c>(function: &'c Function<'_>) -> FunctionOut<'c> {
    FunctionOut {
        name: NAMES.fit(&function.name),
        description: function.description.as_deref(),
        parameters: match &function.parameters {
            Some(schema) => Parameters::Schema(schema),
            None => Parameters::None {
                r#type: "object",
                properties: Empty {},
            },
        },
        strict: function.strict,
    }
}

fn named(name: &str) -> Named<'_> {
    Named {
        r#type: "function",
        function: Name { name: NAMES.fit(name) },
    }
}

/// Makes messages of turns.
struct Messages<'c> {
    call: &'c Call<'c>,
    written: Vec<Message<'c>>,
}

impl<'c> Messages<'c> {
    fn of(conversation: &'c Conversation<'_>, call: &'c Call<'c>) -> Vec<Message<'c>> {
        let mut messages = Self {
            call,
            written: Vec::with_capacity(conversation.turns.len() + 1),
        };
        messages.system(&conversation.system);
        // Neighbours of one role: all calls belong in one message, and all results behind it before anything else.
        for run in conversation.turns.chunk_by(|one, next| one.role == next.role) {
            match run.first().map(|turn| turn.role) {
                Some(Role::System) => run.iter().for_each(|turn| messages.system(&turn.blocks)),
                Some(Role::User) => messages.user(run),
                Some(Role::Assistant) => messages.assistant(run),
                None => {}
            }
        }
        messages.written
    }

    fn system(&mut self, blocks: &'c [Block<'_>]) {
        let parts = self.parts(blocks);
        if !parts.is_empty() {
            self.say("system", joined(parts, "\n\n"));
        }
    }

    fn say(&mut self, role: &'static str, content: Content<'c>) {
        self.written.push(Message::Said(Said {
            role,
            content: Some(content),
            ..Said::default()
        }));
    }

    fn user(&mut self, run: &'c [Turn<'_>]) {
        let results = || run.iter().flat_map(|turn| &turn.blocks);
        let has_results = results().any(|block| matches!(block, Block::ToolResult { .. }));
        if !has_results {
            return run
                .iter()
                .for_each(|turn| self.user_message(self.parts(&turn.blocks), turn));
        }
        let mut shown = Vec::new();
        results().for_each(|block| self.result(block, &mut shown));
        for turn in run {
            shown.extend(self.parts(&turn.blocks));
        }
        if !shown.is_empty() {
            self.say("user", one_or_many(shown));
        }
        run.iter().for_each(|turn| self.raw_messages(turn));
    }

    fn user_message(&mut self, parts: Vec<Part<'c>>, turn: &'c Turn<'_>) {
        let is_raw = |block: &Block<'_>| matches!(block, Block::Opaque { what, .. } if what == MESSAGE);
        if !parts.is_empty() {
            self.say("user", one_or_many(parts));
        } else if turn.blocks.is_empty() {
            self.say("user", Content::Text(Cow::Borrowed("")));
        }
        if turn.blocks.iter().any(is_raw) {
            self.raw_messages(turn);
        }
    }

    /// Messages that only vendors of this format know.
    fn raw_messages(&mut self, turn: &'c Turn<'_>) {
        for block in &turn.blocks {
            match block {
                Block::Opaque { what, json } if what == MESSAGE && self.is_own() => {
                    self.written.push(Message::Raw(json));
                }
                _ => {}
            }
        }
    }

    /// Writes a tool's result. What only users may show is left for the message behind it.
    fn result(&mut self, block: &'c Block<'_>, shown: &mut Vec<Part<'c>>) {
        let Block::ToolResult {
            id, content, is_error, ..
        } = block
        else {
            return;
        };
        let (texts, others): (Vec<_>, Vec<_>) = self.parts(content).into_iter().partition(|part| part.text().is_some());
        shown.extend(others);
        let content = match joined(texts, "\n") {
            Content::Text(text) if *is_error => Content::Text(format!("Error: {text}").into()),
            content => content,
        };
        self.written.push(Message::Said(Said {
            role: "tool",
            tool_call_id: Some(IDS.fit(id)),
            content: Some(content),
            ..Said::default()
        }));
    }

    fn assistant(&mut self, run: &'c [Turn<'_>]) {
        let blocks = || run.iter().flat_map(|turn| &turn.blocks);
        let mut said = Said {
            role: "assistant",
            ..Said::default()
        };
        let mut parts = Vec::new();
        for block in blocks() {
            match block {
                Block::ToolCall(call) => said.tool_calls.push(self.tool_call(call)),
                Block::Opaque { what, json } if what == CUSTOM && self.is_own() => {
                    said.tool_calls.push(CallOut::Raw(json));
                }
                Block::Audio(Source::Stored(id)) if self.is_own() => said.audio = Some(Id { id }),
                Block::Reasoning { text, signature } => self.reason(&mut said, text, signature.as_ref()),
                block => parts.extend(self.part(block)),
            }
        }
        if !parts.is_empty() || said.tool_calls.is_empty() {
            said.content = Some(joined(parts, ""));
        }
        self.written.push(Message::Said(said));
        let mut shown = Vec::new();
        blocks().for_each(|block| self.result(block, &mut shown));
        if !shown.is_empty() {
            self.say("user", one_or_many(shown));
        }
    }

    fn reason(&self, said: &mut Said<'c>, text: &'c str, proof: Option<&Cow<'c, str>>) {
        let Some(field) = self.call.dialect.reasoning else {
            return;
        };
        if !text.is_empty() {
            let before = said.reasoning.take().map(|(_, before)| before);
            said.reasoning = Some((
                field,
                before.map_or(Cow::Borrowed(text), |before| (before + text).into_owned().into()),
            ));
        }
        let proof = proof.and_then(|proof| signature::for_vendor(proof, self.call.client, Format::OpenAiChat));
        said.reasoning_signature = said.reasoning_signature.take().or(proof);
    }

    fn tool_call(&self, call: &'c crate::conversation::ToolCall<'_>) -> CallOut<'c> {
        let proof = call.signature.as_ref();
        let proof = proof.and_then(|proof| signature::for_vendor(proof, self.call.client, Format::OpenAiChat));
        CallOut::Function(ToolCallOut {
            id: IDS.fit(&call.id),
            r#type: "function",
            function: Called {
                name: NAMES.fit(&call.name),
                arguments: match call.arguments.trim() {
                    "" => "{}",
                    arguments => arguments,
                },
            },
            extra_content: proof.map(ExtraContent::signed),
        })
    }

    fn is_own(&self) -> bool {
        self.call.client == Format::OpenAiChat
    }

    fn parts(&self, blocks: &'c [Block<'_>]) -> Vec<Part<'c>> {
        blocks.iter().filter_map(|block| self.part(block)).collect()
    }

    fn part(&self, block: &'c Block<'_>) -> Option<Part<'c>> {
        match block {
            Block::Text(text) => Some(Part::of_text(Cow::Borrowed(text))),
            Block::Image(source) => image(source),
            Block::Audio(source) => audio(source),
            Block::Document { name, source } => self.document(name.as_deref(), source),
            Block::Opaque { what, json } if self.is_own() && what != MESSAGE && what != CUSTOM => Some(Part::Raw(json)),
            Block::Opaque { .. }
            | Block::Reasoning { .. }
            | Block::Redacted(_)
            | Block::ToolCall(_)
            | Block::ToolResult { .. } => None,
        }
    }

    fn document(&self, name: Option<&'c str>, source: &'c Source<'_>) -> Option<Part<'c>> {
        let file = |file| Some(Part::File { r#type: "file", file });
        match source {
            Source::Text(text) => Some(Part::of_text(match name {
                Some(name) => format!("{name}\n\n{text}").into(),
                None => Cow::Borrowed(text),
            })),
            Source::Inline { media_type, data } => file(File {
                filename: Some(name.unwrap_or(match &**media_type {
                    "application/pdf" => "document.pdf",
                    "text/plain" => "document.txt",
                    _ => "document",
                })),
                file_data: Some(DataUrl { media_type, data }),
                file_id: None,
            }),
            Source::Stored(id) if self.is_own() => file(File {
                filename: name,
                file_data: None,
                file_id: Some(id),
            }),
            Source::Stored(_) | Source::Url(_) => None,
        }
    }
}

fn image<'c>(source: &'c Source<'_>) -> Option<Part<'c>> {
    let url = match source {
        Source::Inline { media_type, data } => Url::Data(DataUrl { media_type, data }),
        Source::Url(url) => Url::Url(url),
        // A drawing in SVG, say.
        Source::Text(text) => return Some(Part::of_text(Cow::Borrowed(text))),
        Source::Stored(_) => return None,
    };
    Some(Part::Image {
        r#type: "image_url",
        image_url: ImageUrl { url },
    })
}

fn audio<'c>(source: &'c Source<'_>) -> Option<Part<'c>> {
    let Source::Inline { media_type, data } = source else {
        return None;
    };
    let format = match &**media_type {
        "audio/mpeg" => "mp3",
        "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => "wav",
        other => other.strip_prefix("audio/").unwrap_or(other),
    };
    Some(Part::Audio {
        r#type: "input_audio",
        input_audio: InputAudio { data, format },
    })
}

/// Content that many servers want as one string: what is text only becomes one.
fn joined<'c>(parts: Vec<Part<'c>>, between: &str) -> Content<'c> {
    if let [Part::Text { text, .. }] = &parts[..] {
        return Content::Text(text.clone());
    }
    let texts: Option<Vec<&str>> = parts.iter().map(Part::text).collect();
    match texts {
        Some(texts) => Content::Text(texts.join(between).into()),
        None => Content::Parts(parts),
    }
}

/// Content of users, whose parts stay apart.
fn one_or_many(parts: Vec<Part<'_>>) -> Content<'_> {
    match <[_; 1]>::try_from(parts) {
        Ok([Part::Text { text, .. }]) => Content::Text(text),
        Ok([part]) => Content::Parts(vec![part]),
        Err(parts) => Content::Parts(parts),
    }
}

#[derive(serde::Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum ToolOut<'c> {
    Function {
        r#type: &'static str,
        function: FunctionOut<'c>,
    },
    Raw(&'c RawValue),
}

#[derive(serde::Serialize)]
struct FunctionOut<'c> {
    name: Cow<'c, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'c str>,
    parameters: Parameters<'c>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Parameters<'c> {
    Schema(&'c RawValue),
    None { r#type: &'static str, properties: Empty },
}

#[derive(serde::Serialize)]
struct Empty {}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Choice<'c> {
    Word(&'static str),
    Named(Named<'c>),
    Allowed {
        r#type: &'static str,
        allowed_tools: Allowed<'c>,
    },
}

#[derive(serde::Serialize)]
struct Allowed<'c> {
    mode: &'static str,
    tools: Vec<Named<'c>>,
}

#[derive(serde::Serialize)]
struct Named<'c> {
    r#type: &'static str,
    function: Name<'c>,
}

#[derive(serde::Serialize)]
struct Name<'c> {
    name: Cow<'c, str>,
}

#[derive(serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseFormat<'c> {
    JsonObject {},
    JsonSchema { json_schema: JsonSchema<'c> },
}

#[derive(serde::Serialize)]
struct JsonSchema<'c> {
    name: Cow<'c, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'c str>,
    schema: &'c RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Message<'c> {
    Said(Said<'c>),
    Raw(&'c RawValue),
}

/// A message; its fields are those of all roles.
#[derive(Default)]
struct Said<'c> {
    role: &'static str,
    tool_call_id: Option<Cow<'c, str>>,
    content: Option<Content<'c>>,
    /// The field's name, and the text.
    reasoning: Option<(&'static str, Cow<'c, str>)>,
    reasoning_signature: Option<Cow<'c, str>>,
    audio: Option<Id<'c>>,
    tool_calls: Vec<CallOut<'c>>,
}

impl Serialize for Said<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("role", self.role)?;
        entry(&mut map, "tool_call_id", &self.tool_call_id)?;
        entry(&mut map, "content", &self.content)?;
        if let Some((field, text)) = &self.reasoning {
            map.serialize_entry(field, text)?;
        }
        entry(&mut map, "reasoning_signature", &self.reasoning_signature)?;
        entry(&mut map, "audio", &self.audio)?;
        if !self.tool_calls.is_empty() {
            map.serialize_entry("tool_calls", &self.tool_calls)?;
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Content<'c> {
    Text(Cow<'c, str>),
    Parts(Vec<Part<'c>>),
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Part<'c> {
    Text {
        r#type: &'static str,
        text: Cow<'c, str>,
    },
    Image {
        r#type: &'static str,
        image_url: ImageUrl<'c>,
    },
    Audio {
        r#type: &'static str,
        input_audio: InputAudio<'c>,
    },
    File {
        r#type: &'static str,
        file: File<'c>,
    },
    Raw(&'c RawValue),
}

impl<'c> Part<'c> {
    fn of_text(text: Cow<'c, str>) -> Self {
        Part::Text { r#type: "text", text }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Part::Text { text, .. } => Some(text),
            _ => None,
        }
    }
}

#[derive(serde::Serialize)]
struct ImageUrl<'c> {
    url: Url<'c>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Url<'c> {
    Data(DataUrl<'c>),
    Url(&'c str),
}

#[derive(serde::Serialize)]
struct InputAudio<'c> {
    data: &'c str,
    format: &'c str,
}

#[derive(serde::Serialize)]
struct File<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'c str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_data: Option<DataUrl<'c>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_id: Option<&'c str>,
}

/// Bytes as a `data:` URL, which is never in memory but in the body.
struct DataUrl<'c> {
    media_type: &'c str,
    data: &'c str,
}

impl fmt::Display for DataUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "data:{};base64,{}", self.media_type, self.data)
    }
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(serde::Serialize)]
struct Id<'c> {
    id: &'c str,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum CallOut<'c> {
    Function(ToolCallOut<'c>),
    Raw(&'c RawValue),
}

#[derive(serde::Serialize)]
struct ToolCallOut<'c> {
    id: Cow<'c, str>,
    r#type: &'static str,
    function: Called<'c>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_content: Option<ExtraContent<'c>>,
}

#[derive(serde::Serialize)]
struct Called<'c> {
    name: Cow<'c, str>,
    arguments: &'c str,
}

/// Where Google's own OpenAI interface has the proof of a call's thought.
#[derive(serde::Serialize)]
pub struct ExtraContent<'c> {
    google: Google<'c>,
}

#[derive(serde::Serialize)]
struct Google<'c> {
    thought_signature: Cow<'c, str>,
}

impl<'c> ExtraContent<'c> {
    /// With a proof.
    pub fn signed(thought_signature: Cow<'c, str>) -> Self {
        Self {
            google: Google { thought_signature },
        }
    }
}
