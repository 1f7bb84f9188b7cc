//! What is read of a request for a chat completion, and what kind of reply it calls for.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::instance::instance;
use super::refusal::Refusal;
use crate::chat::estimated_tokens;

/// Bytes of messages up to which the last one is looked up.
const MAX_READ_MESSAGES: usize = 1024 * 1024;

/// Bytes of a schema up to which an instance of it is made; a larger one gets an empty object.
const MAX_SCHEMA: usize = 256 * 1024;

/// Characters of the echo.
pub(super) const ECHO_CHARS: usize = 60;

/// The most choices that one request may ask for, as at OpenAI.
const MAX_CHOICES: u32 = 128;

/// What is read of a request.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    pub(super) model: String,
    pub(super) streaming: bool,
    pub(super) include_usage: bool,
    pub(super) max_tokens: Option<u64>,
    pub(super) prompt_tokens: u32,
    /// How many answers are wanted, at least 1.
    pub(super) choices: u32,
    pub(super) reply: Reply,
}

/// What kind of reply a request calls for.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// Prose, which repeats the beginning of what the user said last.
    Text(Option<String>),
    /// A JSON document.
    Document(String),
    /// A tool call.
    Call(Call),
}

/// A call of one of the request's tools.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    /// JSON for a function, free text for a custom tool.
    pub(super) input: String,
    pub(super) is_custom: bool,
}

/// A request as it is written. What is not named here may be anything.
#[derive(Deserialize)]
struct Written<'a> {
    model: String,
    #[serde(borrow)]
    messages: &'a RawValue,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u32>,
    #[serde(borrow, default)]
    tools: Option<Vec<Tool<'a>>>,
    tool_choice: Option<ToolChoice>,
    #[serde(borrow)]
    response_format: Option<ResponseFormat<'a>>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(borrow)]
    function: Option<Function<'a>>,
    custom: Option<Named>,
}

#[derive(Deserialize)]
struct Function<'a> {
    name: String,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ToolChoice {
    Mode(String),
    Tool(ChosenTool),
}

#[derive(Deserialize)]
struct ChosenTool {
    function: Option<Named>,
    custom: Option<Named>,
    allowed_tools: Option<AllowedTools>,
}

#[derive(Deserialize)]
struct AllowedTools {
    mode: String,
    tools: Vec<ChosenTool>,
}

#[derive(Deserialize)]
struct ResponseFormat<'a> {
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    json_schema: Option<JsonSchema<'a>>,
}

#[derive(Deserialize)]
struct JsonSchema<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

/// The last thing that the user said.
#[derive(Default)]
pub(super) struct LastUserMessage {
    text: String,
    /// No message follows it: neither an answer nor a tool's result.
    is_last: bool,
}

impl Question {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let written: Written<'_> = serde_json::from_slice(body).map_err(|error| Refusal::unreadable(&error))?;
        let messages = written.messages.get();
        if !messages.starts_with('[') {
            return Err(Refusal::bad_parameter("messages", "`messages` must be a list"));
        }
        let max_tokens = written.max_completion_tokens.or(written.max_tokens);
        if max_tokens == Some(0) {
            return Err(Refusal::bad_parameter("max_tokens", "`max_tokens` must be at least 1"));
        }
        let choices = written.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&choices) {
            let message = format!("`n` must be between 1 and {MAX_CHOICES}");
            return Err(Refusal::bad_parameter("n", message));
        }
        let reply = reply(&written, &LastUserMessage::read(messages))?;
        Ok(Self {
            streaming: written.stream == Some(true),
            include_usage: written.stream_options.and_then(|options| options.include_usage) == Some(true),
            max_tokens,
            prompt_tokens: estimated_tokens(messages.len()),
            choices,
            reply,
            model: written.model,
        })
    }
}

/// A tool call where the request asks for one, else a document where it asks for one, else prose.
fn reply(written: &Written<'_>, last: &LastUserMessage) -> Result<Reply, Refusal> {
    let tools = written.tools.as_deref().unwrap_or_default();
    if let Some(tool) = chosen(tools, written.tool_choice.as_ref(), last)? {
        return Ok(Reply::Call(tool.call()));
    }
    let Some(format) = &written.response_format else {
        return Ok(Reply::Text(last.echo()));
    };
    match (&*format.r#type, &format.json_schema) {
        ("text", _) => Ok(Reply::Text(last.echo())),
        ("json_object", _) => {
            let text = last.echo().unwrap_or_else(|| "simulated".to_owned());
            Ok(Reply::Document(json!({"answer": text}).to_string()))
        }
        ("json_schema", Some(JsonSchema { schema: Some(schema) })) => Ok(Reply::Document(instance_of(Some(schema)))),
        ("json_schema", _) => Err(Refusal::bad_parameter(
            "response_format",
            "Missing required parameter: 'response_format.json_schema.schema'.",
        )),
        _ => Err(Refusal::bad_parameter(
            "response_format",
            "Invalid value for 'response_format.type': supported values are 'text', 'json_object' and 'json_schema'.",
        )),
    }
}

/// The tool to call. A model may choose where the client leaves it the choice; this one calls the tool that the user's last words name,
/// and it calls none once results have come.
fn chosen<'t, 'a>(
    tools: &'t [Tool<'a>],
    choice: Option<&ToolChoice>,
    last: &LastUserMessage,
) -> Result<Option<&'t Tool<'a>>, Refusal> {
    let wrong = |message: String| Refusal::bad_parameter("tool_choice", message);
    let all = tools.iter().collect::<Vec<_>>();
    match choice {
        None => by_mode("auto", &all, last),
        Some(_) if tools.is_empty() => Err(wrong(
            "'tool_choice' is only allowed when 'tools' are specified.".to_owned(),
        )),
        Some(ToolChoice::Mode(mode)) => by_mode(mode, &all, last),
        Some(ToolChoice::Tool(ChosenTool {
            allowed_tools: Some(allowed),
            ..
        })) => {
            let is_allowed = |tool: &&&Tool<'_>| allowed.tools.iter().any(|chosen| chosen.name() == Some(tool.name()));
            let allowed_tools: Vec<_> = all.iter().filter(is_allowed).copied().collect();
            by_mode(&allowed.mode, &allowed_tools, last)
        }
        Some(ToolChoice::Tool(chosen)) => {
            let name = chosen.name().unwrap_or_default();
            let found = all.into_iter().find(|tool| tool.name() == name);
            found
                .map(Some)
                .ok_or_else(|| wrong(format!("Invalid value for 'tool_choice': no tool is named '{name}'.")))
        }
    }
}

fn by_mode<'t, 'a>(
    mode: &str,
    tools: &[&'t Tool<'a>],
    last: &LastUserMessage,
) -> Result<Option<&'t Tool<'a>>, Refusal> {
    let named = || tools.iter().find(|tool| last.names(tool.name())).copied();
    match mode {
        "none" => Ok(None),
        "auto" => Ok(named().filter(|_| last.is_last)),
        "required" => Ok(named().or_else(|| tools.first().copied())),
        _ => Err(Refusal::bad_parameter(
            "tool_choice",
            "Invalid value for 'tool_choice': supported values are 'none', 'auto' and 'required'.",
        )),
    }
}

/// An instance of a schema, as JSON.
fn instance_of(schema: Option<&&RawValue>) -> String {
    let readable = schema.filter(|schema| schema.get().len() <= MAX_SCHEMA);
    let schema: Option<Value> = readable.and_then(|schema| serde_json::from_str(schema.get()).ok());
    schema.map_or_else(|| "{}".to_owned(), |schema| instance(&schema).to_string())
}

impl Tool<'_> {
    fn name(&self) -> &str {
        let function = self.function.as_ref().map(|function| &*function.name);
        let custom = self.custom.as_ref().map(|custom| &*custom.name);
        function.or(custom).unwrap_or_default()
    }

    fn call(&self) -> Call {
        let is_custom = self.function.is_none();
        let parameters = self.function.as_ref().and_then(|function| function.parameters.as_ref());
        Call {
            name: self.name().to_owned(),
            input: if is_custom {
                "sample input".to_owned()
            } else {
                instance_of(parameters)
            },
            is_custom,
        }
    }
}

impl ChosenTool {
    fn name(&self) -> Option<&str> {
        let named = self.function.as_ref().or(self.custom.as_ref())?;
        Some(&named.name)
    }
}

impl LastUserMessage {
    /// Empty where nobody said anything that can be read.
    pub(super) fn read(messages: &str) -> Self {
        Self::find(messages).unwrap_or_default()
    }

    fn find(messages: &str) -> Option<Self> {
        if messages.len() > MAX_READ_MESSAGES {
            return None;
        }
        let messages: Vec<Message<'_>> = serde_json::from_str(messages).ok()?;
        let place = messages.iter().rposition(|message| message.role == "user")?;
        let content = messages[place].content?.get();
        let text = serde_json::from_str::<String>(content).ok().or_else(|| {
            let parts: Vec<Part<'_>> = serde_json::from_str(content).ok()?;
            parts.into_iter().find_map(|part| part.text).map(Cow::into_owned)
        })?;
        Some(Self {
            text: text.trim().to_owned(),
            is_last: place + 1 == messages.len(),
        })
    }

    /// Its beginning.
    pub(super) fn echo(&self) -> Option<String> {
        let mut chars = self.text.chars();
        let mut echo: String = chars.by_ref().take(ECHO_CHARS).collect();
        if chars.next().is_some() {
            echo.push('…');
        }
        Some(echo).filter(|echo| !echo.is_empty())
    }

    fn names(&self, tool: &str) -> bool {
        !tool.is_empty() && self.text.contains(tool)
    }
}
