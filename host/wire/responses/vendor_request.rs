//! Requests, written for vendors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Number;
use serde_json::value::RawValue;

use super::super::{Call, Encoded, Format, Malformed, Naming, signature};
use super::{PART, write_json};
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};

/// What OpenAI takes as the name of a function or of a schema.
const NAMES: Naming = Naming {
    longest: 64,
    also: b"_-",
    starts_with_letter: false,
};

/// Ids are only too long, never wrong.
const IDS: Naming = Naming {
    longest: 64,
    also: b" !#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    starts_with_letter: false,
};

/// The fewest tokens of answer that OpenAI accepts as a limit.
const MIN_OUTPUT_TOKENS: u64 = 16;

/// Writes a request. The vendor is to keep nothing: what it needs of earlier turns comes with the next request.
pub fn encode(conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
    let mut input = Items::new(call);
    let instructions = input.instructions(conversation);
    conversation.turns.iter().for_each(|turn| input.turn(turn));
    let has_reasoning = input.has_reasoning;
    let wants_reasoning = conversation.effort.is_some_and(|effort| effort != Effort::None)
        || conversation.show_reasoning == Some(true)
        || has_reasoning;
    let tools = tools(conversation, call);
    let has_tools = !tools.is_empty();
    let knows_user = call.dialect.user;
    let body = Body {
        model: call.model,
        instructions,
        input: input.entries,
        tools,
        tool_choice: conversation.tool_choice.as_ref().filter(|_| has_tools).map(choice),
        parallel_tool_calls: conversation.parallel_tools.filter(|_| has_tools),
        max_output_tokens: conversation.max_tokens.map(|most| most.max(MIN_OUTPUT_TOKENS)),
        temperature: conversation.temperature.as_ref(),
        top_p: conversation.top_p.as_ref(),
        text: format(&conversation.output).map(|format| Text { format }),
        reasoning: reasoning(conversation),
        include: wants_reasoning.then_some(["reasoning.encrypted_content"]),
        user: conversation
            .user
            .as_deref()
            .filter(|_| knows_user)
            .map(|user| IDS.fit(user)),
        prompt_cache_key: conversation
            .session
            .as_deref()
            .filter(|_| knows_user)
            .map(|key| IDS.fit(key)),
        metadata: if knows_user {
            pairs(conversation)
        } else {
            BTreeMap::new()
        },
        store: false,
        stream: call.streaming,
    };
    let mut encoded = Encoded {
        body: Vec::with_capacity(size(conversation)),
        renamed: renamed(conversation),
    };
    write_json(&body, &mut encoded.body);
    Ok(encoded)
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<Cow<'a, str>>,
    input: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolEntry<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parallel_tool_calls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_cache_key: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<&'a str, &'a str>,
    store: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Item(Item<'a>),
    /// As the client of the same format wrote it.
    Own(&'a RawValue),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item<'a> {
    Message {
        role: &'static str,
        content: Vec<Part<'a>>,
    },
    Reasoning {
        summary: Vec<Summary<'a>>,
        encrypted_content: Cow<'a, str>,
    },
    FunctionCall {
        call_id: Cow<'a, str>,
        name: Cow<'a, str>,
        arguments: &'a str,
    },
    FunctionCallOutput {
        call_id: Cow<'a, str>,
        output: Outcome<'a>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary_text")]
struct Summary<'a> {
    text: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Known(Known<'a>),
    /// As the client of the same format wrote it.
    Own(&'a RawValue),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Known<'a> {
    InputText {
        text: Cow<'a, str>,
    },
    OutputText {
        text: &'a str,
    },
    InputImage {
        #[serde(skip_serializing_if = "Option::is_none")]
        image_url: Option<Url<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_id: Option<&'a str>,
    },
    InputFile {
        #[serde(skip_serializing_if = "Option::is_none")]
        filename: Option<Cow<'a, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_data: Option<Url<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_url: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        file_id: Option<&'a str>,
    },
}

/// A URL, which may have megabytes of base64 in it.
enum Url<'a> {
    Plain(&'a str),
    Data { media_type: &'a str, data: &'a str },
}

impl fmt::Display for Url<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Url::Plain(url) => f.write_str(url),
            Url::Data { media_type, data } => write!(f, "data:{media_type};base64,{data}"),
        }
    }
}

impl Serialize for Url<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The items of a request.
struct Items<'a> {
    client: Format,
    entries: Vec<Entry<'a>>,
    /// The message that takes more parts, and its role.
    open: Option<(&'static str, Vec<Part<'a>>)>,
    has_reasoning: bool,
}

impl<'a> Items<'a> {
    fn new(call: &Call<'_>) -> Self {
        Self {
            client: call.client,
            entries: Vec::new(),
            open: None,
            has_reasoning: false,
        }
    }

    /// The texts of the system, in one; what else it has becomes the first item, and so does everything where nothing follows, since
    /// the input must not be empty.
    fn instructions(&mut self, conversation: &'a Conversation<'_>) -> Option<Cow<'a, str>> {
        let mut whole: Option<Cow<'a, str>> = None;
        for block in &conversation.system {
            match (block, &mut whole) {
                (Block::Text(text), _) if conversation.turns.is_empty() => self.text("system", text),
                (Block::Text(text), None) => whole = Some(Cow::Borrowed(text)),
                (Block::Text(text), Some(whole)) => {
                    *whole += "\n\n";
                    *whole += &**text;
                }
                _ => self.block("system", block),
            }
        }
        self.close();
        whole
    }

    fn turn(&mut self, turn: &'a Turn<'_>) {
        let role = match turn.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        turn.blocks.iter().for_each(|block| self.block(role, block));
        self.close();
    }

    fn block(&mut self, role: &'static str, block: &'a Block<'_>) {
        match block {
            Block::Text(text) => self.text(role, text),
            // Messages of the model have text only.
            Block::Image(_) | Block::Document { .. } => {
                let role = if role == "assistant" { "user" } else { role };
                media(block).into_iter().for_each(|part| self.say(role, part));
            }
            // The table has refused it.
            Block::Audio(_) => {}
            Block::Reasoning { text, signature } => self.reasoning(text, signature.as_ref()),
            Block::Redacted(data) => self.reasoning("", Some(data)),
            Block::ToolCall(call) => self.call(call),
            Block::ToolResult {
                id, content, is_error, ..
            } => self.item(Item::FunctionCallOutput {
                call_id: IDS.fit(id),
                output: self.result(content, *is_error),
            }),
            Block::Opaque { what, json } if self.client == Format::Responses => match what.strip_prefix(PART) {
                Some(_) => self.say(role, Part::Own(json)),
                None => self.entry(Entry::Own(json)),
            },
            Block::Opaque { .. } => {}
        }
    }

    fn text(&mut self, role: &'static str, text: &'a str) {
        let known = match role {
            "assistant" => Known::OutputText { text },
            _ => Known::InputText { text: text.into() },
        };
        self.say(role, Part::Known(known));
    }

    /// Reasoning that the vendor can check; it takes no other.
    fn reasoning(&mut self, text: &'a str, proof: Option<&Cow<'a, str>>) {
        let own = proof.and_then(|proof| signature::for_vendor(proof, self.client, Format::Responses));
        let Some(encrypted_content) = own else { return };
        self.has_reasoning = true;
        self.item(Item::Reasoning {
            summary: (!text.is_empty()).then_some(Summary { text }).into_iter().collect(),
            encrypted_content,
        });
    }

    fn call(&mut self, call: &'a ToolCall<'_>) {
        let arguments = match &*call.arguments {
            "" => "{}",
            arguments => arguments,
        };
        self.item(Item::FunctionCall {
            call_id: IDS.fit(&call.id),
            name: NAMES.fit(&call.name),
            arguments,
        });
    }

    fn result(&self, content: &'a [Block<'_>], is_error: bool) -> Outcome<'a> {
        let error = if is_error { "Error: " } else { "" };
        match content {
            [] => return Outcome::Text(error.trim_end().into()),
            [Block::Text(text)] if !is_error => return Outcome::Text(Cow::Borrowed(text)),
            [Block::Text(text)] => return Outcome::Text(format!("{error}{text}").into()),
            _ => {}
        }
        let mut parts = Vec::with_capacity(content.len() + 1);
        if is_error {
            parts.push(Part::Known(Known::InputText { text: error.into() }));
        }
        for block in content {
            match block {
                Block::Text(text) => parts.push(Part::Known(Known::InputText {
                    text: Cow::Borrowed(text),
                })),
                Block::Opaque { json, .. } if self.client == Format::Responses => parts.push(Part::Own(json)),
                block => parts.extend(media(block)),
            }
        }
        Outcome::Parts(parts)
    }

    fn say(&mut self, role: &'static str, part: Part<'a>) {
        match &mut self.open {
            Some((open, parts)) if *open == role => parts.push(part),
            _ => {
                self.close();
                self.open = Some((role, vec![part]));
            }
        }
    }

    fn item(&mut self, item: Item<'a>) {
        self.entry(Entry::Item(item));
    }

    fn entry(&mut self, entry: Entry<'a>) {
        self.close();
        self.entries.push(entry);
    }

    fn close(&mut self) {
        if let Some((role, content)) = self.open.take() {
            self.entries.push(Entry::Item(Item::Message { role, content }));
        }
    }
}

/// An image or a document as a part of a message.
fn media<'a>(block: &'a Block<'_>) -> Option<Part<'a>> {
    let known = match block {
        Block::Image(source) => Known::InputImage {
            image_url: url(source),
            file_id: stored(source),
        },
        Block::Document {
            source: Source::Text(text),
            ..
        } => Known::InputText {
            text: Cow::Borrowed(text),
        },
        Block::Document { name, source } => Known::InputFile {
            filename: matches!(source, Source::Inline { .. }).then(|| file_name(name.as_deref(), source)),
            file_data: url(source).filter(|url| matches!(url, Url::Data { .. })),
            file_url: match source {
                Source::Url(url) => Some(url),
                _ => None,
            },
            file_id: stored(source),
        },
        _ => return None,
    };
    Some(Part::Known(known))
}

fn url<'a>(source: &'a Source<'_>) -> Option<Url<'a>> {
    match source {
        Source::Inline { media_type, data } => Some(Url::Data { media_type, data }),
        Source::Url(url) => Some(Url::Plain(url)),
        Source::Text(_) | Source::Stored(_) => None,
    }
}

fn stored<'a>(source: &'a Source<'_>) -> Option<&'a str> {
    match source {
        Source::Stored(id) => Some(id),
        _ => None,
    }
}

/// Inline files must have a name.
fn file_name<'a>(name: Option<&'a str>, source: &Source<'_>) -> Cow<'a, str> {
    let ending = match source {
        Source::Inline { media_type, .. } => match &**media_type {
            "text/plain" => "txt",
            "text/markdown" => "md",
            "text/csv" => "csv",
            "text/html" => "html",
            "application/json" => "json",
            _ => "pdf",
        },
        _ => "pdf",
    };
    name.map_or_else(|| format!("document.{ending}").into(), Cow::Borrowed)
}

#[derive(Serialize)]
#[serde(untagged)]
enum ToolEntry<'a> {
    Function(FunctionTool<'a>),
    /// As the client of the same format wrote it.
    Own(&'a RawValue),
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
struct FunctionTool<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    parameters: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

fn tools<'a>(conversation: &'a Conversation<'_>, call: &Call<'_>) -> Vec<ToolEntry<'a>> {
    let is_own = call.client == Format::Responses;
    let entry = |tool: &'a Tool<'_>| match tool {
        Tool::Function(function) => Some(ToolEntry::Function(function_tool(function, is_own))),
        Tool::Opaque { json, .. } => is_own.then_some(ToolEntry::Own(json)),
    };
    conversation.tools.iter().filter_map(entry).collect()
}

/// Here functions are strict where nothing is said, and in no other format.
fn function_tool<'a>(function: &'a Function<'_>, is_own: bool) -> FunctionTool<'a> {
    FunctionTool {
        name: NAMES.fit(&function.name),
        description: function.description.as_deref(),
        parameters: function.parameters.as_deref().unwrap_or_else(|| no_parameters()),
        strict: function.strict.or((!is_own).then_some(false)),
    }
}

/// The schema of a function without arguments.
fn no_parameters() -> &'static RawValue {
    serde_json::from_str(r#"{"type":"object","properties":{}}"#).expect("it is JSON")
}

fn renamed(conversation: &Conversation<'_>) -> Vec<(String, String)> {
    let fitted = conversation
        .functions()
        .map(|function| (NAMES.fit(&function.name), &function.name));
    fitted
        .filter(|(there, here)| there != *here)
        .map(|(there, here)| (there.into_owned(), here.to_string()))
        .collect()
}

#[derive(Serialize)]
#[serde(untagged)]
enum Choice<'a> {
    Word(&'static str),
    Named(NamedTool<'a>),
    Allowed(AllowedTools<'a>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "function")]
struct NamedTool<'a> {
    name: Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "allowed_tools")]
struct AllowedTools<'a> {
    mode: &'static str,
    tools: Vec<NamedTool<'a>>,
}

fn choice<'a>(choice: &'a ToolChoice<'_>) -> Choice<'a> {
    let named = |name: &'a str| NamedTool { name: NAMES.fit(name) };
    match choice {
        ToolChoice::Auto => Choice::Word("auto"),
        ToolChoice::None => Choice::Word("none"),
        ToolChoice::Required => Choice::Word("required"),
        ToolChoice::Named(name) => Choice::Named(named(name)),
        ToolChoice::Allowed { names, required } => Choice::Allowed(AllowedTools {
            mode: if *required { "required" } else { "auto" },
            tools: names.iter().map(|name| named(name)).collect(),
        }),
    }
}

#[derive(Serialize)]
struct Text<'a> {
    format: TextFormat<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TextFormat<'a> {
    JsonObject,
    JsonSchema {
        name: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<&'a str>,
        schema: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
}

fn format<'a>(output: &'a Output<'_>) -> Option<TextFormat<'a>> {
    match output {
        Output::Text => None,
        Output::Json => Some(TextFormat::JsonObject),
        Output::Schema {
            name,
            description,
            schema,
            strict,
        } => Some(TextFormat::JsonSchema {
            name: NAMES.fit(name.as_deref().unwrap_or("answer")),
            description: description.as_deref(),
            schema,
            strict: *strict,
        }),
    }
}

#[derive(Serialize)]
struct Reasoning {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'static str>,
}

fn reasoning(conversation: &Conversation<'_>) -> Option<Reasoning> {
    let reasoning = Reasoning {
        effort: conversation.effort.map(Effort::name),
        summary: (conversation.show_reasoning == Some(true)).then_some("auto"),
    };
    (reasoning.effort.is_some() || reasoning.summary.is_some()).then_some(reasoning)
}

fn pairs<'a>(conversation: &'a Conversation<'_>) -> BTreeMap<&'a str, &'a str> {
    let pairs = conversation.metadata.iter();
    pairs.map(|(name, value)| (&**name, &**value)).collect()
}

/// About as many bytes as the body will have, so that a large image is copied once.
fn size(conversation: &Conversation<'_>) -> usize {
    /// Bytes around a block or a tool.
    const AROUND: usize = 128;
    let turns = conversation.turns.iter().flat_map(|turn| &turn.blocks);
    let blocks = conversation.system.iter().chain(turns);
    let tools = conversation.functions().map(|function| {
        let description = function.description.as_deref().map_or(0, str::len);
        AROUND + description + function.parameters.as_ref().map_or(0, |schema| schema.get().len())
    });
    let blocks: usize = blocks.map(|block| AROUND + size_of(block)).sum();
    4 * AROUND + blocks + blocks / 16 + tools.sum::<usize>()
}

fn size_of(block: &Block<'_>) -> usize {
    let of_source = |source: &Source<'_>| match source {
        Source::Inline { data, .. } => data.len(),
        Source::Text(text) | Source::Url(text) | Source::Stored(text) => text.len(),
    };
    match block {
        Block::Text(text) | Block::Redacted(text) => text.len(),
        Block::Image(source) | Block::Audio(source) | Block::Document { source, .. } => of_source(source),
        Block::Reasoning { text, signature } => text.len() + signature.as_deref().map_or(0, str::len),
        Block::ToolCall(call) => call.arguments.len() + call.name.len(),
        Block::ToolResult { content, .. } => content.iter().map(size_of).sum(),
        Block::Opaque { json, .. } => json.get().len(),
    }
}
