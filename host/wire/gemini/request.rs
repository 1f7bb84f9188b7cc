//! Reading a client's request.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde_json::value::RawValue;

use super::object::{Object, camel, list, text};
use super::proof::{self, Proof};
use super::schema::json_schema;
use crate::conversation::{
    Block, Conversation, Effort, Function, Output, Role, Source, Tool, ToolCall, ToolChoice, Turn,
};
use crate::wire::Malformed;
use crate::wire::json::{is_something, members, parse, value};

/// Names of fields that are noted because they cannot be carried; one is enough to say so.
const MAX_OTHERS: usize = 100;

/// Reads a `generateContent` request.
pub fn decode(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    conversation(&parse(body)?)
}

/// Reads a `countTokens` request: contents, or a whole request inside `generateContentRequest`.
pub fn decode_count(body: &[u8]) -> Result<Conversation<'_>, Malformed> {
    let top: Object = parse(body)?;
    conversation(&top.object("generateContentRequest").unwrap_or(top))
}

fn conversation<'a>(top: &Object<'a>) -> Result<Conversation<'a>, Malformed> {
    let Some(contents) = top.get("contents") else {
        return Err(Malformed::field("contents", "you must provide `contents`"));
    };
    let contents =
        list(contents).ok_or_else(|| Malformed::field("contents", "`contents` must be a list of contents"))?;
    let mut reader = Reader::default();
    if let Some(system) = top.get("systemInstruction") {
        reader.conversation.system = match text(system) {
            Some(text) => vec![Block::Text(text)],
            None => reader.content(system, 0, "systemInstruction")?.blocks,
        };
    }
    for (place, content) in contents.into_iter().enumerate() {
        let turn = reader.content(content, place, "contents")?;
        reader.conversation.turns.push(turn);
    }
    for tool in top.list("tools") {
        reader.tool(tool);
    }
    if let Some(config) = top.object("toolConfig") {
        reader.tool_config(&config);
    }
    if let Some(config) = top.object("generationConfig") {
        reader.generation_config(&config);
    }
    reader.rest(top);
    Ok(reader.conversation)
}

#[derive(Default)]
struct Reader<'a> {
    conversation: Conversation<'a>,
    calls: Calls<'a>,
}

impl<'a> Reader<'a> {
    /// Notes a field that cannot be carried.
    fn other(&mut self, name: impl Into<Cow<'a, str>>) {
        let name = name.into();
        let others = &mut self.conversation.others;
        if others.len() < MAX_OTHERS && !others.contains(&name) {
            others.push(name);
        }
    }

    fn content(&mut self, raw: &'a RawValue, turn: usize, field: &'static str) -> Result<Turn<'a>, Malformed> {
        let content = Object::of(raw)
            .ok_or_else(|| Malformed::field(field, format!("`{field}` must hold objects with `parts`")))?;
        let role = match content.text("role").as_deref() {
            Some("model") => Role::Assistant,
            Some("system") => Role::System,
            _ => Role::User,
        };
        let mut calls = 0;
        let parts = content.list("parts");
        let mut blocks = Vec::with_capacity(parts.len());
        for part in parts {
            let part_object = Object::of(part).ok_or_else(|| {
                Malformed::field(field, "every item of `parts` must be an object, such as {\"text\": …}")
            })?;
            self.part(part, &part_object, (turn, &mut calls), &mut blocks);
        }
        if role == Role::Assistant {
            blocks = joined(blocks);
        }
        Ok(Turn { role, blocks })
    }

    fn part(
        &mut self,
        raw: &'a RawValue,
        part: &Object<'a>,
        (turn, calls): (usize, &mut usize),
        blocks: &mut Vec<Block<'a>>,
    ) {
        let proof = part.text("thoughtSignature").map(proof::read);
        if let Some(call) = part.object("functionCall") {
            let id = format!("call_{turn}_{calls}");
            *calls += 1;
            let signature = match proof {
                Some(Proof::Signature(signature)) => Some(signature),
                _ => None,
            };
            blocks.push(Block::ToolCall(self.calls.call(&call, id, signature)));
        } else if let Some(result) = part.object("functionResponse") {
            let id = format!("call_{turn}_{calls}");
            *calls += 1;
            blocks.push(self.result(&result, id));
        } else if let Some(blob) = part.object("inlineData") {
            blocks.push(inline(&blob).unwrap_or_else(|| opaque("inlineData", raw)));
        } else if let Some(file) = part.object("fileData") {
            blocks.push(stored(&file).unwrap_or_else(|| opaque("fileData", raw)));
        } else if let Some(what) = part.iter().map(|(name, _)| name).find(|name| is_data(name)) {
            blocks.push(opaque(what.clone(), raw));
        } else {
            said(part, proof, blocks);
        }
        if let Some(metadata) = part.get("videoMetadata").filter(|raw| is_something(raw))
            && !matches!(blocks.last(), Some(Block::Opaque { json, .. }) if json.get().contains(metadata.get()))
        {
            self.other("contents.parts.videoMetadata");
        }
    }

    fn result(&mut self, result: &Object<'a>, fallback: String) -> Block<'a> {
        let name = result.text("name").filter(|name| !name.is_empty());
        let id = self.calls.answered(result.text("id"), name.as_deref(), fallback);
        let (text, is_error) = result.get("response").map(response).unwrap_or_default();
        let mut content = vec![Block::Text(text)];
        for raw in result.list("parts") {
            let part = Object::of(raw).unwrap_or_default();
            let blob = part.object("inlineData").and_then(|blob| inline(&blob));
            let file = || part.object("fileData").and_then(|file| stored(&file));
            content.push(
                blob.or_else(file)
                    .unwrap_or_else(|| opaque("functionResponse.parts", raw)),
            );
        }
        for field in ["willContinue", "scheduling"] {
            if result.get(field).is_some_and(is_something) {
                self.other(format!("contents.parts.functionResponse.{field}"));
            }
        }
        Block::ToolResult {
            id,
            name,
            content,
            is_error,
        }
    }

    fn tool(&mut self, raw: &'a RawValue) {
        let Some(tool) = Object::of(raw) else {
            let (what, json) = ("tool".into(), Cow::Borrowed(raw));
            return self.conversation.tools.push(Tool::Opaque { what, json });
        };
        for (name, field) in tool.iter().filter(|(_, field)| field.get() != "null") {
            if name == "functionDeclarations" {
                list(field)
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(Object::of)
                    .for_each(|declared| self.function(&declared));
            } else {
                let json = match tool.len() {
                    1 => Cow::Borrowed(raw),
                    _ => only(name, field).map_or(Cow::Borrowed(raw), Cow::Owned),
                };
                let what = name.clone();
                self.conversation.tools.push(Tool::Opaque { what, json });
            }
        }
    }

    fn function(&mut self, declared: &Object<'a>) {
        let schema = declared.get("parametersJsonSchema").map(Cow::Borrowed);
        let function = Function {
            name: declared.text("name").unwrap_or_default(),
            description: declared.text("description").filter(|text| !text.is_empty()),
            parameters: schema.or_else(|| declared.get("parameters").map(json_schema)),
            strict: None,
        };
        self.conversation.tools.push(Tool::Function(function));
        for field in ["response", "responseJsonSchema", "behavior"] {
            let given = declared.get(field).filter(|raw| is_something(raw));
            if given.is_some_and(|raw| !matches!(raw.get(), "\"BLOCKING\"" | "\"UNSPECIFIED\"")) {
                self.other(format!("tools.functionDeclarations.{field}"));
            }
        }
    }

    fn tool_config(&mut self, config: &Object<'a>) {
        for (name, field) in config.iter() {
            if name != "functionCallingConfig" && is_something(field) {
                self.other(format!("toolConfig.{name}"));
            }
        }
        let Some(calling) = config.object("functionCallingConfig") else {
            return;
        };
        let mut names: Vec<_> = calling
            .list("allowedFunctionNames")
            .into_iter()
            .filter_map(text)
            .collect();
        let mode = calling.text("mode").unwrap_or_default().to_ascii_uppercase();
        self.conversation.tool_choice = match (mode.as_str(), names.len()) {
            ("ANY", 0) => Some(ToolChoice::Required),
            ("ANY", 1) => names.pop().map(ToolChoice::Named),
            ("NONE", _) => Some(ToolChoice::None),
            ("ANY", _) => Some(ToolChoice::Allowed { names, required: true }),
            ("AUTO" | "VALIDATED", 0) => Some(ToolChoice::Auto),
            ("AUTO" | "VALIDATED", _) => Some(ToolChoice::Allowed { names, required: false }),
            _ => None,
        };
    }

    fn generation_config(&mut self, config: &Object<'a>) {
        let conversation = &mut self.conversation;
        conversation.temperature = config.number("temperature");
        conversation.top_p = config.number("topP");
        conversation.top_k = config.number("topK");
        conversation.seed = config.number("seed");
        conversation.presence_penalty = config.number("presencePenalty");
        conversation.frequency_penalty = config.number("frequencyPenalty");
        conversation.max_tokens = config.count("maxOutputTokens");
        conversation.candidates = config.count("candidateCount");
        conversation.stop = match config.get("stopSequences") {
            Some(one) if one.get().starts_with('"') => text(one).into_iter().collect(),
            _ => config.list("stopSequences").into_iter().filter_map(text).collect(),
        };
        conversation.logprobs =
            config.is_true("responseLogprobs") || config.count("logprobs").is_some_and(|most| most > 0);
        self.output(config);
        if let Some(thinking) = config.object("thinkingConfig") {
            self.thinking(&thinking);
        }
        for (name, field) in config.iter() {
            if is_something(field) && !KNOWN_GENERATION.contains(&&**name) && !is_text_only(name, field) {
                self.other(format!("generationConfig.{name}"));
            }
        }
    }

    fn output(&mut self, config: &Object<'a>) {
        let schema = config.get("responseJsonSchema").or(config.get("_responseJsonSchema"));
        let schema = schema.map(Cow::Borrowed);
        let schema = schema.or_else(|| config.get("responseSchema").map(json_schema));
        let media_type = config.text("responseMimeType").unwrap_or_default();
        self.conversation.output = match (&*media_type, schema) {
            ("" | "application/json", Some(schema)) => Output::Schema {
                name: None,
                description: None,
                schema,
                strict: None,
            },
            ("application/json", None) => Output::Json,
            ("" | "text/plain", _) => Output::Text,
            _ => {
                self.other("generationConfig.responseMimeType");
                Output::Text
            }
        };
    }

    fn thinking(&mut self, thinking: &Object<'a>) {
        let conversation = &mut self.conversation;
        if thinking.get("includeThoughts").is_some() {
            conversation.show_reasoning = Some(thinking.is_true("includeThoughts"));
        }
        // A budget of -1 leaves it to the model.
        conversation.thinking_budget = thinking.count("thinkingBudget");
        let level = thinking.text("thinkingLevel").and_then(|level| Effort::named(&level));
        conversation.effort = level.or(conversation.thinking_budget.map(Effort::of_budget));
        for (name, field) in thinking.iter() {
            let known = ["includeThoughts", "thinkingBudget", "thinkingLevel"];
            if is_something(field) && !known.contains(&&**name) {
                self.other(format!("generationConfig.thinkingConfig.{name}"));
            }
        }
    }

    /// The top-level fields that are not the conversation itself.
    fn rest(&mut self, top: &Object<'a>) {
        if top.get("cachedContent").is_some_and(is_something) {
            self.other("cachedContent");
        }
        let labels: BTreeMap<Cow<'a, str>, &'a RawValue> = top.get("labels").and_then(value).unwrap_or_default();
        let labels = labels
            .into_iter()
            .filter_map(|(name, label)| Some((name, text(label)?)));
        self.conversation.metadata = labels.collect();
        for (name, field) in top.iter() {
            let is_default = name == "serviceTier"
                && text(field).is_some_and(|tier| {
                    let tier = tier.to_ascii_lowercase();
                    tier.ends_with("standard") || tier.ends_with("unspecified")
                });
            if is_something(field) && !is_default && !KNOWN_TOP.contains(&&**name) {
                self.other(name.clone());
            }
        }
    }
}

/// The fields that are read above. A model in the body repeats the one in the path.
const KNOWN_TOP: [&str; 8] = [
    "cachedContent",
    "contents",
    "generationConfig",
    "labels",
    "model",
    "systemInstruction",
    "toolConfig",
    "tools",
];

/// The fields of the generation configuration that are read above, and the resolution of images, which is a hint.
const KNOWN_GENERATION: [&str; 17] = [
    "candidateCount",
    "frequencyPenalty",
    "logprobs",
    "maxOutputTokens",
    "mediaResolution",
    "presencePenalty",
    "_responseJsonSchema",
    "responseJsonSchema",
    "responseLogprobs",
    "responseMimeType",
    "responseSchema",
    "seed",
    "stopSequences",
    "temperature",
    "thinkingConfig",
    "topK",
    "topP",
];

/// `responseModalities: ["TEXT"]` is what every model does.
fn is_text_only(name: &str, field: &RawValue) -> bool {
    let only_text = |kinds: Vec<Cow<'_, str>>| kinds.iter().all(|kind| kind.eq_ignore_ascii_case("text"));
    name == "responseModalities"
        && list(field)
            .is_some_and(|kinds| only_text(kinds.into_iter().map(|it| text(it).unwrap_or_default()).collect()))
}

/// Whether a field of a part is what the part is, rather than something about it.
fn is_data(name: &str) -> bool {
    !matches!(
        name,
        "text" | "thought" | "thoughtSignature" | "videoMetadata" | "mediaResolution" | "partMetadata"
    )
}

/// SDKs keep the parts of a streamed answer as they came: neighbours that are fragments of one text or thought become one.
fn joined(blocks: Vec<Block<'_>>) -> Vec<Block<'_>> {
    let mut joined: Vec<Block<'_>> = Vec::with_capacity(blocks.len());
    for block in blocks {
        match (joined.last_mut(), block) {
            (_, Block::Text(more)) if more.is_empty() => {}
            (Some(Block::Text(text)), Block::Text(more)) => text.to_mut().push_str(&more),
            (
                Some(Block::Reasoning {
                    text,
                    signature: signature @ None,
                }),
                Block::Reasoning {
                    text: more,
                    signature: proof,
                },
            ) => {
                text.to_mut().push_str(&more);
                *signature = proof;
            }
            (_, block) => joined.push(block),
        }
    }
    joined
}

fn said<'a>(part: &Object<'a>, proof: Option<Proof<'a>>, blocks: &mut Vec<Block<'a>>) {
    let text = part.text("text");
    let signature = match proof {
        Some(Proof::Redacted(data)) => return blocks.push(Block::Redacted(data)),
        Some(Proof::Signature(signature)) => Some(signature),
        None => None,
    };
    if part.is_true("thought") {
        let text = text.unwrap_or_default();
        return blocks.push(Block::Reasoning { text, signature });
    }
    // An empty text that carries a signature is there for it only.
    blocks.extend(
        text.filter(|text| !text.is_empty() || signature.is_none())
            .map(Block::Text),
    );
    if signature.is_some() {
        let text = Cow::Borrowed("");
        blocks.push(Block::Reasoning { text, signature });
    }
}

fn opaque<'a>(what: impl Into<Cow<'a, str>>, raw: &'a RawValue) -> Block<'a> {
    Block::Opaque {
        what: what.into(),
        json: Cow::Borrowed(raw),
    }
}

/// A `Blob`: bytes in base64. No other format has videos.
fn inline<'a>(blob: &Object<'a>) -> Option<Block<'a>> {
    let media_type = blob.text("mimeType")?;
    let data = standard(blob.text("data")?);
    let name = blob.text("displayName");
    media(&media_type.clone(), name, Source::Inline { media_type, data })
}

/// Base64 in the alphabet that all other formats want: Google's SDKs write the one for URLs.
fn standard(data: Cow<'_, str>) -> Cow<'_, str> {
    if memchr::memchr2(b'-', b'_', data.as_bytes()).is_none() {
        return data;
    }
    let mut standard = data.replace('-', "+").replace('_', "/");
    while !standard.len().is_multiple_of(4) {
        standard.push('=');
    }
    standard.into()
}

/// A `FileData`: in Google's own stores, or anywhere.
fn stored<'a>(file: &Object<'a>) -> Option<Block<'a>> {
    let uri = file.text("fileUri")?;
    let is_web = uri.starts_with("https://") || uri.starts_with("http://");
    let source = if is_web && !uri.starts_with(FILES_API) {
        Source::Url(uri)
    } else {
        Source::Stored(uri)
    };
    media(&file.text("mimeType")?, file.text("displayName"), source)
}

/// Where files that were uploaded to Google are.
const FILES_API: &str = "https://generativelanguage.googleapis.com/";

fn media<'a>(media_type: &str, name: Option<Cow<'a, str>>, source: Source<'a>) -> Option<Block<'a>> {
    let kind = media_type.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match kind.as_str() {
        "image" => Some(Block::Image(source)),
        "audio" => Some(Block::Audio(source)),
        "application" | "text" => Some(Block::Document { name, source }),
        _ => None,
    }
}

/// What a tool gave back, as text, and whether it failed: `output` and `error` are Google's words for either, and anything else
/// is the result as it is.
fn response(raw: &RawValue) -> (Cow<'_, str>, bool) {
    let plain = |raw| text(raw).unwrap_or(Cow::Borrowed(raw.get()));
    let (mut count, mut last) = (0, None);
    members(raw, |name, raw| {
        count += 1;
        last = Some((camel(name), raw));
    });
    match last.filter(|(_, raw)| count == 1 && raw.get() != "null") {
        Some((name, output)) if name == "output" => (plain(output), false),
        Some((name, error)) if name == "error" => (plain(error), true),
        _ => (plain(raw), false),
    }
}

/// An object with one field.
fn only(name: &str, field: &RawValue) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(&BTreeMap::from([(name, field)])).ok()
}

/// The tool calls of a conversation: which id is whose. Ids are optional here.
#[derive(Default)]
struct Calls<'a> {
    known: HashSet<Cow<'a, str>>,
    answered: HashSet<Cow<'a, str>>,
    /// Calls by their tool's name, oldest first.
    open: HashMap<Cow<'a, str>, VecDeque<Cow<'a, str>>>,
}

impl<'a> Calls<'a> {
    fn call(&mut self, call: &Object<'a>, id: String, signature: Option<Cow<'a, str>>) -> ToolCall<'a> {
        let id = call.text("id").filter(|id| !id.is_empty()).unwrap_or(id.into());
        let name = call.text("name").unwrap_or_default();
        self.known.insert(id.clone());
        self.open.entry(name.clone()).or_default().push_back(id.clone());
        ToolCall {
            id,
            name,
            arguments: call
                .get("args")
                .map_or(Cow::Borrowed(""), |args| Cow::Borrowed(args.get())),
            signature,
        }
    }

    /// The call that a result is for: the one it names, or the first one of its tool without a result.
    fn answered(&mut self, id: Option<Cow<'a, str>>, name: Option<&str>, fallback: String) -> Cow<'a, str> {
        let id = id.filter(|id| !id.is_empty());
        if let Some(id) = id.as_ref().filter(|id| self.known.contains(*id)) {
            self.answered.insert(id.clone());
            return id.clone();
        }
        let open = name.and_then(|name| self.open.get_mut(name));
        let found =
            open.and_then(|calls| std::iter::from_fn(|| calls.pop_front()).find(|call| !self.answered.contains(call)));
        found.or(id).unwrap_or(fallback.into())
    }
}
