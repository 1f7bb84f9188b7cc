//! How a request says how hard the model is to think, and what depends on it.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use crate::conversation::{Block, Conversation, Effort, Output, Role, ToolChoice, Turn};
use crate::wire::{Call, Format, signature};

/// What the model is told of how to think.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Thinking {
    Enabled {
        budget_tokens: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        display: Option<&'static str>,
    },
    Adaptive {
        #[serde(skip_serializing_if = "Option::is_none")]
        display: Option<&'static str>,
    },
    Disabled {},
}

impl Thinking {
    /// Whether the model thinks.
    pub fn is_on(&self) -> bool {
        matches!(self, Thinking::Adaptive { .. } | Thinking::Enabled { .. })
    }
}

/// The effort that a conversation asks for, in one way or the other.
fn effort(conversation: &Conversation<'_>) -> Option<Effort> {
    conversation
        .effort
        .or_else(|| conversation.thinking_budget.map(Effort::of_budget))
}

/// The smallest thinking budget that Anthropic takes.
const MIN_BUDGET: u64 = 1024;

/// How the model is to think, and the limit of tokens that has room for it.
pub fn thinking(conversation: &Conversation<'_>, call: &Call<'_>) -> (Option<Thinking>, u64) {
    let max_tokens = conversation.max_tokens.unwrap_or(call.default_max_tokens);
    let Some(effort) = effort(conversation) else {
        return (None, max_tokens);
    };
    if effort == Effort::None || cannot_think(conversation, call.client) {
        return (Some(Thinking::Disabled {}), max_tokens);
    }
    let display = conversation
        .show_reasoning
        .map(|show| if show { "summarized" } else { "omitted" });
    if !call.dialect.thinking_budget {
        return (Some(Thinking::Adaptive { display }), max_tokens);
    }
    let budget = match conversation.thinking_budget {
        Some(budget) if budget < max_tokens => budget,
        // A quarter is left for what is said.
        budget => budget.unwrap_or(effort.budget()).min(max_tokens - max_tokens / 4),
    };
    let budget_tokens = budget.max(MIN_BUDGET);
    let max_tokens = match budget_tokens < max_tokens {
        true => max_tokens,
        false => max_tokens.max(1).saturating_add(budget_tokens),
    };
    (Some(Thinking::Enabled { budget_tokens, display }), max_tokens)
}

/// Whether Anthropic would refuse to let the model think: it must call a tool, or it is in the middle of a turn with calls of tools
/// whose first thought is not there. `client` is the format that the client speaks.
pub fn cannot_think(conversation: &Conversation<'_>, client: Format) -> bool {
    let must_call = matches!(
        conversation.tool_choice,
        Some(ToolChoice::Required | ToolChoice::Named(_) | ToolChoice::Allowed { required: true, .. })
    );
    (must_call && !conversation.tools.is_empty()) || lacks_thought(conversation, client)
}

/// Whether the last turn has begun with calls of tools and without a thought that Anthropic would know as its own.
fn lacks_thought(conversation: &Conversation<'_>, client: Format) -> bool {
    let has_result = |turn: &Turn<'_>| {
        turn.blocks
            .iter()
            .any(|block| matches!(block, Block::ToolResult { .. }))
    };
    let spoken = || conversation.turns.iter().filter(|turn| turn.role != Role::System);
    // What the client says behind the results goes with them.
    let asks = |turn: &Turn<'_>| turn.role == Role::User && !has_result(turn);
    let is_open = spoken()
        .rev()
        .take_while(|turn| turn.role == Role::User)
        .any(has_result);
    if !is_open {
        return false;
    }
    let behind: Vec<&Turn<'_>> = spoken()
        .rev()
        .skip_while(|turn| asks(turn))
        .take_while(|turn| !asks(turn))
        .collect();
    let first = behind.iter().rev().find(|turn| turn.role == Role::Assistant);
    !first.is_some_and(|turn| begins_with_thought(turn, client))
}

fn begins_with_thought(turn: &Turn<'_>, client: Format) -> bool {
    let is_own = |proof: &Cow<'_, str>| signature::for_vendor(proof, client, Format::Messages).is_some();
    for block in &turn.blocks {
        match block {
            Block::Reasoning { signature, .. } if signature.as_ref().is_some_and(is_own) => return true,
            Block::Redacted(data) if is_own(data) => return true,
            // Foreign thoughts and empty texts are not sent.
            Block::Reasoning { .. } | Block::Redacted(_) => {}
            Block::Text(text) if text.trim().is_empty() => {}
            _ => return false,
        }
    }
    false
}

/// The effort, and the form of the answer's text.
#[derive(Serialize)]
pub struct OutputConfig<'b> {
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<FormatOut<'b>>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FormatOut<'b> {
    JsonSchema { schema: Cow<'b, RawValue> },
}

impl<'b> OutputConfig<'b> {
    /// Of a conversation.
    pub fn of(conversation: &'b Conversation<'_>, call: &Call<'_>, is_thinking: bool) -> Option<Self> {
        let effort = effort(conversation).filter(|effort| *effort != Effort::None && !call.dialect.thinking_budget);
        let most = if is_thinking { Effort::Max } else { MOST_THOUGHTLESS };
        let effort = effort.map(|effort| effort.clamp(Effort::Low, most).name());
        let schema = match &conversation.output {
            // There is no JSON of any form: the model was told to answer with it.
            Output::Text | Output::Json => None,
            Output::Schema { schema, .. } => Some(Cow::Borrowed(&**schema)),
        };
        let format = schema.map(|schema| FormatOut::JsonSchema { schema });
        (effort.is_some() || format.is_some()).then_some(Self { effort, format })
    }
}

/// The highest effort of a model that does not think: more would be asked of its thoughts.
const MOST_THOUGHTLESS: Effort = Effort::High;

/// The parameters of sampling that a model takes, which are few while it thinks.
#[derive(Serialize)]
pub struct Sampling<'b> {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<Cow<'b, Number>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'b Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'b Number>,
}

impl<'b> Sampling<'b> {
    /// Of a conversation.
    pub fn of(conversation: &'b Conversation<'_>, is_thinking: bool) -> Self {
        let temperature = conversation.temperature.as_ref().filter(|_| !is_thinking);
        let top_p = conversation.top_p.as_ref().filter(|top_p| {
            let top_p = top_p.as_f64().unwrap_or(1.0);
            // Some models take one of the two only, and 1 says nothing.
            (top_p != 1.0 || temperature.is_none()) && (!is_thinking || top_p >= MIN_THINKING_TOP_P)
        });
        Self {
            temperature: temperature.map(|temperature| match temperature.as_f64() {
                Some(number) if number > 1.0 => Cow::Owned(1.into()),
                _ => Cow::Borrowed(temperature),
            }),
            top_p,
            top_k: conversation.top_k.as_ref().filter(|_| !is_thinking),
        }
    }
}

/// The smallest `top_p` that Anthropic takes from a model that thinks.
const MIN_THINKING_TOP_P: f64 = 0.95;
