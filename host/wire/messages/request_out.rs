//! A request for a vendor.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use super::{CALL_IDS, TOOL_NAMES, own_signature};
use crate::conversation::{Block, Conversation, Effort, Output, Role, Source, Tool, ToolChoice, Turn};
use crate::wire::{Call, Encoded, Malformed, json};

#[derive(Serialize)]
struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    anthropic_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Part<'a>>,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Declared<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'a Number>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    stop_sequences: &'a [Cow<'a, str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata<'a>>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Vec<Part<'a>>,
}

/// A block of content.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text {
        text: &'a str,
    },
    Image {
        source: Place<'a>,
    },
    Document {
        source: Place<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
    },
    Thinking {
        thinking: &'a str,
        signature: Cow<'a, str>,
    },
    RedactedThinking {
        data: Cow<'a, str>,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        input: Cow<'a, RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        content: Vec<Part<'a>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Place<'a> {
    Base64 { media_type: &'a str, data: &'a str },
    Text { media_type: &'static str, data: &'a str },
    Url { url: &'a str },
}

#[derive(Serialize)]
struct Declared<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    input_schema: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    strict: Option<bool>,
}

#[derive(Serialize)]
struct Choice<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Serialize)]
struct Thinking {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_tokens: Option<u64>,
}

#[derive(Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Schema<'a>>,
}

#[derive(Serialize)]
struct Schema<'a> {
    r#type: &'static str,
    schema: &'a RawValue,
}

#[derive(Serialize)]
struct Metadata<'a> {
    user_id: &'a str,
}

/// The least that a vendor takes as a budget of thinking.
const MIN_BUDGET: u64 = 1024;

/// Writes a request.
pub fn encode(conversation: &Conversation<'_>, call: &Call<'_>) -> Result<Encoded, Malformed> {
    let messages = messages(conversation, call)?;
    let (thinking, max_tokens) = thinking(conversation, call);
    let is_thinking = thinking.as_ref().is_some_and(|thinking| thinking.r#type != "disabled");
    let in_path = call.dialect.body_version.is_some();
    let tools = tools(conversation);
    let request = Request {
        anthropic_version: call.dialect.body_version,
        model: (!in_path).then_some(call.model),
        max_tokens,
        stream: (!in_path && call.streaming).then_some(true),
        system: system(conversation),
        tool_choice: tool_choice(conversation, is_thinking).filter(|_| !tools.is_empty()),
        messages,
        tools,
        thinking,
        output_config: output_config(conversation, call),
        // Whoever thinks takes no temperature.
        temperature: conversation
            .temperature
            .as_ref()
            .filter(|_| !is_thinking)
            .map(at_most_one),
        top_p: conversation.top_p.as_ref().filter(|_| !is_thinking),
        top_k: conversation.top_k.as_ref().filter(|_| !is_thinking),
        stop_sequences: &conversation.stop,
        metadata: conversation.user.as_deref().map(|user_id| Metadata { user_id }),
    };
    let mut body = Vec::with_capacity(json::roughly(conversation));
    serde_json::to_writer(&mut body, &request).map_err(|error| json::not_json(&error))?;
    let renamed = conversation.functions().filter_map(|function| {
        let there = TOOL_NAMES.fit(&function.name);
        (there != function.name).then(|| (there.into_owned(), function.name.to_string()))
    });
    Ok(Encoded {
        renamed: renamed.collect(),
        body,
    })
}

fn at_most_one(temperature: &Number) -> Number {
    if temperature.as_f64().is_some_and(|value| value > 1.0) {
        Number::from(1)
    } else {
        temperature.clone()
    }
}

/// Instructions: those before the first turn, and those between turns, which this format has nowhere else for.
fn system<'a>(conversation: &'a Conversation<'_>) -> Vec<Part<'a>> {
    let between = conversation.turns.iter().filter(|turn| turn.role == Role::System);
    let blocks = conversation.system.iter().chain(between.flat_map(|turn| &turn.blocks));
    blocks.filter_map(text).collect()
}

/// A text that is not blank: the vendor refuses others.
fn text<'a>(block: &'a Block<'_>) -> Option<Part<'a>> {
    match block {
        Block::Text(text) if !text.trim().is_empty() => Some(Part::Text { text }),
        _ => None,
    }
}

fn messages<'a>(conversation: &'a Conversation<'_>, call: &Call<'_>) -> Result<Vec<Message<'a>>, Malformed> {
    let mut messages: Vec<Message<'a>> = Vec::with_capacity(conversation.turns.len());
    for turn in conversation.turns.iter().filter(|turn| turn.role != Role::System) {
        let role = if turn.role == Role::Assistant {
            "assistant"
        } else {
            "user"
        };
        let parts = parts(turn, call)?;
        match messages.last_mut() {
            Some(last) if last.role == role => last.content.extend(parts),
            _ => messages.push(Message { role, content: parts }),
        }
    }
    messages.retain(|message| !message.content.is_empty());
    for message in &mut messages {
        // Results of tools go first.
        message
            .content
            .sort_by_key(|part| !matches!(part, Part::ToolResult { .. }) && message.role == "user");
    }
    Ok(messages)
}

fn parts<'a>(turn: &'a Turn<'_>, call: &Call<'_>) -> Result<Vec<Part<'a>>, Malformed> {
    let mut parts = Vec::with_capacity(turn.blocks.len());
    for block in &turn.blocks {
        match block {
            Block::ToolCall(tool_call) => {
                let Some(input) = json::object(&tool_call.arguments) else {
                    let message = format!("the arguments of tool call `{}` are not a JSON object", tool_call.id);
                    return Err(Malformed::field("messages", message));
                };
                parts.push(Part::ToolUse {
                    id: CALL_IDS.fit(&tool_call.id),
                    name: TOOL_NAMES.fit(&tool_call.name),
                    input,
                });
            }
            Block::ToolResult {
                id, content, is_error, ..
            } => parts.push(Part::ToolResult {
                tool_use_id: CALL_IDS.fit(id),
                content: content.iter().filter_map(|block| plain(block, call)).collect(),
                is_error: *is_error,
            }),
            other => parts.extend(plain(other, call)),
        }
    }
    Ok(parts)
}

/// A block that is neither a call nor a result.
fn plain<'a>(block: &'a Block<'_>, call: &Call<'_>) -> Option<Part<'a>> {
    match block {
        Block::Image(source) => place(source).map(|source| Part::Image { source }),
        Block::Document { name, source } => place(source).map(|source| Part::Document {
            source,
            title: name.as_deref(),
        }),
        Block::Reasoning {
            text,
            signature: Some(signature),
        } => own_signature(signature, call.client).map(|signature| Part::Thinking {
            thinking: text,
            signature,
        }),
        Block::Redacted(data) => own_signature(data, call.client).map(|data| Part::RedactedThinking { data }),
        other => text(other),
    }
}

fn place<'a>(source: &'a Source<'_>) -> Option<Place<'a>> {
    Some(match source {
        Source::Inline { media_type, data } => Place::Base64 { media_type, data },
        Source::Text(data) => Place::Text {
            media_type: "text/plain",
            data,
        },
        Source::Url(url) => Place::Url { url },
        Source::Stored(_) => return None,
    })
}

/// A schema of anything, for tools without parameters.
const NO_PARAMETERS: &str = r#"{"type":"object","properties":{}}"#;

fn raw(text: &'static str) -> &'static RawValue {
    serde_json::from_str(text).expect("a constant is JSON; a test says so")
}

fn tools<'a>(conversation: &'a Conversation<'_>) -> Vec<Declared<'a>> {
    let is_allowed = |name: &str| match &conversation.tool_choice {
        Some(ToolChoice::Allowed { names, .. }) => names.iter().any(|allowed| allowed == name),
        _ => true,
    };
    let declared = |tool: &'a Tool<'_>| match tool {
        Tool::Function(function) if is_allowed(&function.name) => Some(Declared {
            name: TOOL_NAMES.fit(&function.name),
            description: function.description.as_deref().filter(|text| !text.is_empty()),
            input_schema: function.parameters.as_deref().unwrap_or_else(|| raw(NO_PARAMETERS)),
            strict: function.strict.filter(|strict| *strict),
        }),
        _ => None,
    };
    conversation.tools.iter().filter_map(declared).collect()
}

fn tool_choice<'a>(conversation: &'a Conversation<'_>, is_thinking: bool) -> Option<Choice<'a>> {
    let disable = conversation.parallel_tools.filter(|parallel| !parallel).map(|_| true);
    let (kind, name) = match &conversation.tool_choice {
        // Whoever thinks cannot be made to call a tool.
        _ if is_thinking && disable.is_none() => return None,
        _ if is_thinking => ("auto", None),
        None if disable.is_none() => return None,
        None | Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => ("auto", None),
        Some(ToolChoice::None) => ("none", None),
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => ("any", None),
        Some(ToolChoice::Named(name)) => ("tool", Some(TOOL_NAMES.fit(name))),
    };
    Some(Choice {
        r#type: kind,
        name,
        disable_parallel_tool_use: disable.filter(|_| kind != "none"),
    })
}

/// The thinking that is asked for, and the most tokens with it.
fn thinking(conversation: &Conversation<'_>, call: &Call<'_>) -> (Option<Thinking>, u64) {
    let max_tokens = conversation.max_tokens.unwrap_or(call.default_max_tokens).max(1);
    let of = |kind, budget_tokens| {
        Some(Thinking {
            r#type: kind,
            budget_tokens,
        })
    };
    let must_call = matches!(
        conversation.tool_choice,
        Some(ToolChoice::Required | ToolChoice::Named(_))
    );
    match conversation.effort {
        None => (None, max_tokens),
        Some(Effort::None) => (of("disabled", None), max_tokens),
        // In the middle of a tool loop the vendor wants the thinking back that began it; without it, and where a tool must be
        // called, there is none.
        Some(_) if must_call || lacks_thinking(conversation, call) => (of("disabled", None), max_tokens),
        Some(effort) if call.dialect.thinking_budget => {
            let budget = conversation.thinking_budget.unwrap_or(effort.budget()).max(MIN_BUDGET);
            let raised = max_tokens.max(budget.saturating_add(MIN_BUDGET));
            (of("enabled", Some(budget)), raised)
        }
        Some(_) => (of("adaptive", None), max_tokens),
    }
}

/// Whether the conversation ends in results of calls whose own thinking is not there.
fn lacks_thinking(conversation: &Conversation<'_>, call: &Call<'_>) -> bool {
    let is_result = |block: &Block<'_>| matches!(block, Block::ToolResult { .. });
    let ends_in_results = conversation
        .turns
        .last()
        .is_some_and(|turn| turn.blocks.iter().any(is_result));
    let is_ours = |block: &Block<'_>| match block {
        Block::Reasoning {
            signature: Some(signature),
            ..
        } => own_signature(signature, call.client).is_some(),
        Block::Redacted(data) => own_signature(data, call.client).is_some(),
        _ => false,
    };
    let assistants = conversation
        .turns
        .iter()
        .rev()
        .find(|turn| turn.role == Role::Assistant);
    ends_in_results && !assistants.is_some_and(|turn| turn.blocks.iter().any(is_ours))
}

/// A schema of any object.
const ANY_OBJECT: &str = r#"{"type":"object","additionalProperties":true}"#;

fn output_config<'a>(conversation: &'a Conversation<'_>, call: &Call<'_>) -> Option<OutputConfig<'a>> {
    let schema = match &conversation.output {
        Output::Text => None,
        Output::Json => Some(raw(ANY_OBJECT)),
        Output::Schema { schema, .. } => Some(&**schema),
    };
    let effort = match conversation.effort {
        Some(Effort::None) | None => None,
        Some(_) if call.dialect.thinking_budget => None,
        Some(Effort::Minimal | Effort::Low) => Some("low"),
        Some(effort) => Some(effort.name()),
    };
    let config = OutputConfig {
        effort,
        format: schema.map(|schema| Schema {
            r#type: "json_schema",
            schema,
        }),
    };
    (config.effort.is_some() || config.format.is_some()).then_some(config)
}
