//! Clients' requests, read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::super::json::{Text, is_something, parse, span, value};
use super::super::{Inquiry, Malformed};
use super::fields::{Fields, behind, list, text};
use super::{OF_CALL, PART, REDACTED};
use crate::chat::{MAX_NAME, Request};
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};

/// Reads what routing needs of a request.
pub fn read(body: Bytes) -> Result<Inquiry, Malformed> {
    let (request, model_spans) = {
        let top: Fields = parse(&body)?;
        let whole = std::str::from_utf8(&body).unwrap_or_default();
        let spans = top.all("model").map(|raw| span(whole, raw.get())).collect();
        (Request::of(&conversation(&top)?), spans)
    };
    Ok(Inquiry {
        request,
        body,
        model_spans,
    })
}

/// Reads a request whole.
pub fn decode(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    conversation(&parse(body)?)
}

/// State of the vendor's that makes up for `input`.
const INSTEAD_OF_INPUT: [&str; 3] = ["prompt", "conversation", "previous_response_id"];

fn conversation<'a>(top: &Fields<'a>) -> Result<Conversation<'a>, Malformed> {
    let mut conversation = Conversation {
        model: model(top)?,
        ..Conversation::default()
    };
    if let Some(instructions) = top.text("instructions") {
        conversation.system.push(Block::Text(instructions));
    }
    let mut input = Input {
        system: &mut conversation.system,
        turns: &mut conversation.turns,
        proof: None,
    };
    match top.get("input") {
        Some(raw) => input.read(raw)?,
        None if INSTEAD_OF_INPUT.iter().any(|name| top.get(name).is_some()) => {}
        None => {
            return Err(Malformed::field(
                "input",
                "you must provide `input`, a text or a list of items",
            ));
        }
    }
    for (name, raw) in top.iter() {
        let is_known = set(&mut conversation, name, raw);
        if !is_known && is_something(raw) {
            conversation.others.push(name.clone());
        }
    }
    Ok(conversation)
}

fn model<'a>(top: &Fields<'a>) -> Result<Cow<'a, str>, Malformed> {
    let Some(raw) = top.get("model") else {
        return Err(Malformed::field("model", "you must provide a `model`"));
    };
    let model = text(raw).ok_or_else(|| Malformed::field("model", "`model` must be a string"))?;
    if model.len() > MAX_NAME {
        return Err(Malformed::field("model", "`model` is longer than 256 bytes"));
    }
    Ok(model)
}

/// Reads a field other than the input; `false` when it means something that the representation does not have.
fn set<'a>(conversation: &mut Conversation<'a>, name: &str, raw: &'a RawValue) -> bool {
    match name {
        "model" | "input" => true,
        "instructions" => text(raw).is_some(),
        "stream" => is(raw, &mut conversation.streaming),
        "max_output_tokens" => put(raw, &mut conversation.max_tokens),
        "temperature" => put(raw, &mut conversation.temperature),
        "top_p" => put(raw, &mut conversation.top_p),
        "top_logprobs" => {
            conversation.logprobs |= raw.get() != "0";
            true
        }
        "parallel_tool_calls" => put(raw, &mut conversation.parallel_tools),
        "tools" => list(raw)
            .map(|tools| conversation.tools.extend(tools.into_iter().map(tool)))
            .is_some(),
        "tool_choice" => {
            conversation.tool_choice = tool_choice(raw);
            conversation.tool_choice.is_some()
        }
        "text" => text_settings(conversation, raw),
        "reasoning" => reasoning_settings(conversation, raw),
        "include" => include(conversation, raw),
        "metadata" => metadata(raw).map(|pairs| conversation.metadata = pairs).is_some(),
        "safety_identifier" => put_text(raw, &mut conversation.user),
        "user" => conversation.user.is_some() || put_text(raw, &mut conversation.user),
        "prompt_cache_key" => put_text(raw, &mut conversation.session),
        "truncation" => raw.get() == r#""disabled""#,
        "service_tier" => matches!(raw.get(), r#""auto""# | r#""default""#),
        _ => false,
    }
}

fn is(raw: &RawValue, slot: &mut bool) -> bool {
    value(raw).map(|is| *slot = is).is_some()
}

fn put<'a, T: serde::Deserialize<'a>>(raw: &'a RawValue, slot: &mut Option<T>) -> bool {
    *slot = value(raw);
    slot.is_some()
}

fn put_text<'a>(raw: &'a RawValue, slot: &mut Option<Cow<'a, str>>) -> bool {
    *slot = text(raw);
    slot.is_some()
}

fn metadata(raw: &RawValue) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    let fields = Fields::of(raw)?;
    let pairs = fields
        .iter()
        .map(|(name, value)| Some((name.clone(), text(value)?)))
        .collect::<Option<Vec<_>>>()?;
    let sorted: BTreeMap<_, _> = pairs.into_iter().collect();
    Some(sorted.into_iter().collect())
}

fn text_settings<'a>(conversation: &mut Conversation<'a>, raw: &'a RawValue) -> bool {
    let Some(fields) = Fields::of(raw) else {
        return false;
    };
    for (name, raw) in fields.iter() {
        let is_known = match &**name {
            "format" => output(raw).map(|output| conversation.output = output).is_some(),
            "verbosity" => raw.get() == r#""medium""#,
            _ => !is_something(raw),
        };
        if !is_known {
            conversation.others.push(format!("text.{name}").into());
        }
    }
    true
}

fn output(raw: &RawValue) -> Option<Output<'_>> {
    let fields = Fields::of(raw)?;
    match &*fields.text("type")? {
        "text" => Some(Output::Text),
        "json_object" => Some(Output::Json),
        "json_schema" => Some(Output::Schema {
            name: fields.text("name"),
            description: fields.text("description"),
            schema: Cow::Borrowed(fields.get("schema")?),
            strict: fields.value("strict"),
        }),
        _ => None,
    }
}

fn reasoning_settings<'a>(conversation: &mut Conversation<'a>, raw: &'a RawValue) -> bool {
    let Some(fields) = Fields::of(raw) else {
        return false;
    };
    for (name, raw) in fields.iter() {
        let is_known = match &**name {
            "effort" => {
                conversation.effort = text(raw).and_then(|name| Effort::named(&name));
                conversation.effort.is_some()
            }
            "summary" | "generate_summary" => {
                conversation.show_reasoning = Some(is_something(raw) && raw.get() != r#""none""#);
                true
            }
            "context" => raw.get() == r#""auto""#,
            "mode" => raw.get() == r#""standard""#,
            _ => !is_something(raw),
        };
        if !is_known {
            conversation.others.push(format!("reasoning.{name}").into());
        }
    }
    true
}

/// Proofs of reasoning are always in the answer; log probabilities have a field; the rest is of hosted tools.
fn include(conversation: &mut Conversation<'_>, raw: &RawValue) -> bool {
    let Some(wanted) = value::<Vec<Text>>(raw) else {
        return false;
    };
    let has = |name: &str| wanted.iter().filter(|wanted| wanted.0 == name).count();
    let logprobs = has("message.output_text.logprobs");
    conversation.logprobs |= logprobs > 0;
    has("reasoning.encrypted_content") + logprobs == wanted.len()
}

fn tool(raw: &RawValue) -> Tool<'_> {
    let fields = Fields::of(raw).unwrap_or_default();
    let what = fields.text("type").unwrap_or_default();
    match (&*what, fields.text("name")) {
        ("function", Some(name)) => Tool::Function(Function {
            name,
            description: fields.text("description"),
            parameters: fields.get("parameters").map(Cow::Borrowed),
            strict: fields.value("strict"),
        }),
        _ => Tool::Opaque {
            what,
            json: Cow::Borrowed(raw),
        },
    }
}

fn tool_choice(raw: &RawValue) -> Option<ToolChoice<'_>> {
    if let Some(word) = text(raw) {
        return match &*word {
            "auto" => Some(ToolChoice::Auto),
            "none" => Some(ToolChoice::None),
            "required" => Some(ToolChoice::Required),
            _ => None,
        };
    }
    let fields = Fields::of(raw)?;
    match &*fields.text("type")? {
        "function" => fields.text("name").map(ToolChoice::Named),
        "allowed_tools" => {
            let named = |raw| {
                let fields = Fields::of(raw)?;
                (fields.text("type")? == "function").then(|| fields.text("name"))?
            };
            let tools = list(fields.get("tools")?)?;
            Some(ToolChoice::Allowed {
                names: tools.into_iter().map(named).collect::<Option<_>>()?,
                required: fields.text("mode").is_some_and(|mode| mode == "required"),
            })
        }
        _ => None,
    }
}

/// The items of a request, becoming turns.
struct Input<'c, 'a> {
    system: &'c mut Vec<Block<'a>>,
    turns: &'c mut Vec<Turn<'a>>,
    /// The proof behind the next tool call.
    proof: Option<Cow<'a, str>>,
}

impl<'a> Input<'_, 'a> {
    fn read(&mut self, raw: &'a RawValue) -> Result<(), Malformed> {
        if let Some(text) = text(raw) {
            self.add(Role::User, vec![Block::Text(text)]);
            return Ok(());
        }
        let items = list(raw).ok_or_else(|| Malformed::field("input", "`input` must be a text or a list of items"))?;
        for (at, item) in items.into_iter().enumerate() {
            self.item(item)
                .ok_or_else(|| Malformed::field("input", format!("`input[{at}]` must be an object")))?;
        }
        Ok(())
    }

    /// Reads one item; `None` when it is no object.
    fn item(&mut self, raw: &'a RawValue) -> Option<()> {
        let fields = Fields::of(raw)?;
        let kind = fields.text("type");
        let blocks = match kind.as_deref() {
            None | Some("message") => message(&fields),
            Some("function_call") => self.call(&fields).map(|call| (Role::Assistant, vec![call])),
            Some("function_call_output") => result(&fields).map(|result| (Role::User, vec![result])),
            Some("reasoning") => Some((Role::Assistant, self.reasoning(&fields).into_iter().collect())),
            _ => None,
        };
        let (role, blocks) = blocks.unwrap_or_else(|| {
            let untyped = if fields.get("role").is_some() {
                "message"
            } else {
                "item_reference"
            };
            let what = kind.unwrap_or(Cow::Borrowed(untyped));
            opaque_item(what, raw)
        });
        self.add(role, blocks);
        Some(())
    }

    /// Items of one go make one turn: what the model said and did, and the results of its tools.
    fn add(&mut self, role: Role, blocks: Vec<Block<'a>>) {
        if blocks.is_empty() {
            return;
        }
        if role == Role::System && self.turns.is_empty() {
            self.system.extend(blocks);
            return;
        }
        let is_result = |block: Option<&Block<'_>>| matches!(block, Some(Block::ToolResult { .. }));
        match self.turns.last_mut() {
            Some(last)
                if last.role == role
                    && (role == Role::Assistant || is_result(last.blocks.last()) && is_result(blocks.first())) =>
            {
                last.blocks.extend(blocks);
            }
            _ => self.turns.push(Turn { role, blocks }),
        }
    }

    fn call(&mut self, fields: &Fields<'a>) -> Option<Block<'a>> {
        let arguments = fields
            .get("arguments")
            .map(|raw| text(raw).unwrap_or(Cow::Borrowed(raw.get())));
        Some(Block::ToolCall(ToolCall {
            id: fields.text("call_id")?,
            name: fields.text("name")?,
            arguments: arguments.unwrap_or_default(),
            signature: self.proof.take(),
        }))
    }

    fn reasoning(&mut self, fields: &Fields<'a>) -> Option<Block<'a>> {
        let proof = fields.text("encrypted_content").filter(|proof| !proof.is_empty());
        if let Some(proof) = &proof {
            if let Some(data) = behind(proof, REDACTED) {
                return Some(Block::Redacted(data));
            }
            if let Some(proof) = behind(proof, OF_CALL) {
                self.proof = Some(proof);
                return None;
            }
        }
        let text = reasoning_text(fields.get("summary"), fields.get("content"));
        (proof.is_some() || !text.is_empty()).then_some(Block::Reasoning { text, signature: proof })
    }
}

/// The text of a reasoning item: its summary and what it shows of the reasoning itself, with blank lines between the parts.
pub fn reasoning_text<'a>(summary: Option<&'a RawValue>, content: Option<&'a RawValue>) -> Cow<'a, str> {
    let parts = [summary, content].into_iter().flatten().filter_map(list).flatten();
    let mut texts = parts
        .filter_map(|part| Fields::of(part)?.text("text"))
        .filter(|text| !text.is_empty());
    let Some(mut whole) = texts.next() else {
        return Cow::Borrowed("");
    };
    for text in texts {
        whole += "\n\n";
        whole += text;
    }
    whole
}

/// An item that only this format knows. Items that clients make are named for what they answer or refer to.
fn opaque_item<'a>(what: Cow<'a, str>, raw: &'a RawValue) -> (Role, Vec<Block<'a>>) {
    let is_clients = what.ends_with("_output")
        || what.ends_with("_response")
        || matches!(
            &*what,
            "message" | "item_reference" | "compaction_trigger" | "additional_tools"
        );
    let role = if is_clients { Role::User } else { Role::Assistant };
    let json = Cow::Borrowed(raw);
    (role, vec![Block::Opaque { what, json }])
}

/// A message; `None` when it is none that is known.
fn message<'a>(fields: &Fields<'a>) -> Option<(Role, Vec<Block<'a>>)> {
    let role = match &*fields.text("role")? {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" | "developer" => Role::System,
        _ => return None,
    };
    let content = match fields.get("content") {
        Some(content) if role == Role::System => instructions(content)?,
        Some(content) => blocks(content)?,
        None => Vec::new(),
    };
    Some((role, content))
}

fn result<'a>(fields: &Fields<'a>) -> Option<Block<'a>> {
    let content = match fields.get("output") {
        Some(output) => blocks(output).unwrap_or_else(|| vec![Block::Text(Cow::Borrowed(output.get()))]),
        None => Vec::new(),
    };
    Some(Block::ToolResult {
        id: fields.text("call_id")?,
        name: None,
        content,
        is_error: false,
    })
}

/// A text, or a list of parts; `None` when it is neither.
fn blocks(raw: &RawValue) -> Option<Vec<Block<'_>>> {
    if let Some(text) = text(raw) {
        return Some(vec![Block::Text(text)]);
    }
    Some(list(raw)?.into_iter().map(part).collect())
}

/// The same of instructions, which are text everywhere else.
fn instructions(raw: &RawValue) -> Option<Vec<Block<'_>>> {
    if let Some(text) = text(raw) {
        return Some(vec![Block::Text(text)]);
    }
    let text_or_own = |raw| match part(raw) {
        text @ (Block::Text(_) | Block::Opaque { .. }) => text,
        _ => own_part("", raw),
    };
    Some(list(raw)?.into_iter().map(text_or_own).collect())
}

/// A part of a message that only this format knows.
fn own_part<'a>(what: &str, raw: &'a RawValue) -> Block<'a> {
    Block::Opaque {
        what: format!("{PART}{what}").into(),
        json: Cow::Borrowed(raw),
    }
}

fn part(raw: &RawValue) -> Block<'_> {
    let fields = Fields::of(raw).unwrap_or_default();
    let what = fields.text("type").unwrap_or_default();
    let block = match &*what {
        "input_text" | "output_text" | "text" => fields.text("text").map(Block::Text),
        "refusal" => fields.text("refusal").or_else(|| fields.text("text")).map(Block::Text),
        "input_image" => image(&fields).map(Block::Image),
        "input_file" => document(&fields),
        "input_audio" => audio(&fields).map(Block::Audio),
        _ => None,
    };
    block.unwrap_or_else(|| own_part(&what, raw))
}

fn image<'a>(fields: &Fields<'a>) -> Option<Source<'a>> {
    let url = fields.text("image_url").map(Source::of_url);
    url.or_else(|| fields.text("file_id").map(Source::Stored))
}

/// A file: bytes as a `data:` URL or bare base64, a URL, or the id of a stored one.
fn document<'a>(fields: &Fields<'a>) -> Option<Block<'a>> {
    let name = fields.text("filename");
    let data = fields.text("file_data").map(|data| match Source::of_url(data) {
        Source::Url(data) => Source::Inline {
            media_type: media_type_of(name.as_deref()).into(),
            data,
        },
        inline => inline,
    });
    let source = data
        .or_else(|| fields.text("file_url").map(Source::of_url))
        .or_else(|| fields.text("file_id").map(Source::Stored))?;
    Some(Block::Document { name, source })
}

/// The type of a file that is known by its name only.
fn media_type_of(name: Option<&str>) -> &'static str {
    let ending = name.and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending);
    match ending {
        Some("txt") => "text/plain",
        Some("md") => "text/markdown",
        Some("csv") => "text/csv",
        Some("html") => "text/html",
        Some("json") => "application/json",
        _ => "application/pdf",
    }
}

fn audio<'a>(fields: &Fields<'a>) -> Option<Source<'a>> {
    let fields = Fields::of(fields.get("input_audio")?)?;
    let media_type = match &*fields.text("format")? {
        "mp3" => Cow::Borrowed("audio/mpeg"),
        "wav" => Cow::Borrowed("audio/wav"),
        other => Cow::Owned(format!("audio/{other}")),
    };
    let data = fields.text("data")?;
    Some(Source::Inline { media_type, data })
}
