//! What the gateway understands of requests and answers, whatever their wire format. Plain data.

use crate::answer::{Event, Reason};
use crate::conversation::{Block, Conversation, Role, Turn};
use crate::failure::VendorError;

/// What routing needs of a client's request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The model name the client asked for.
    pub model: String,
    /// The client wants its answer as a stream.
    pub streaming: bool,
    /// Tools are offered to the model.
    pub uses_tools: bool,
    /// Images are among the messages.
    pub has_images: bool,
    /// Estimated size of the prompt, in tokens.
    pub input_tokens: u32,
    /// The most that the client wants back, in tokens.
    pub max_output_tokens: Option<u32>,
    /// Hash of the opening messages, the same for all turns of a conversation; 0 when unknown.
    pub conversation: u32,
    /// What the client itself calls the session, so that turns which share a prompt cache can be kept together.
    pub session: Option<String>,
    /// The request's own metadata, as (name, value).
    pub metadata: Vec<(String, String)>,
    /// How many answers the client wants, where it wants several; 0 otherwise.
    pub answers: u32,
}

/// Tokens of one answer, as the vendor counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The whole prompt, cached parts included.
    pub input_tokens: u64,
    /// The part of the prompt that came from the vendor's cache.
    pub cached_tokens: u64,
    /// The part of the prompt that was written to the vendor's cache.
    pub cache_write_tokens: u64,
    /// The whole answer, reasoning included.
    pub output_tokens: u64,
    /// The part of the answer that was reasoning.
    pub reasoning_tokens: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            reasoning_tokens: self.reasoning_tokens + other.reasoning_tokens,
        }
    }
}

/// What one frame of a stream, or a whole answer, means to the relay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frame {
    /// Text, tool calls or reasoning.
    pub content: bool,
    /// Tokens so far; the last that is seen counts.
    pub usage: Option<Usage>,
    /// The choices that the frame is about, a bit for each index.
    pub choices: u128,
    /// Those of them that the model has finished.
    pub finished: u128,
    /// The format's end marker.
    pub end: bool,
    /// The vendor's error instead of an answer.
    pub error: Option<VendorError>,
    /// The model was stopped by a safety system or refused.
    pub refused: bool,
}

impl Frame {
    /// Whether this commits the answer: a finish without content is an empty answer, which is an answer.
    pub fn commits(&self) -> bool {
        self.content || self.finished != 0
    }

    /// Adds what an event of an answer with one choice means.
    pub fn note(&mut self, event: &Event<'_>) {
        match event {
            Event::Text(text) | Event::Reasoning(text) => self.content |= !text.is_empty(),
            Event::ToolStart { .. } | Event::Redacted(_) | Event::Opaque { .. } => self.content = true,
            Event::Usage(usage) => self.usage = Some(*usage),
            // Not even its own vendor can read what the model said: a failure, not an answer.
            Event::Finish(finish) if finish.reason == Reason::Malformed => {
                self.error = Some(VendorError::unfinished(&finish.raw));
            }
            Event::Finish(finish) => {
                self.choices |= 1;
                self.finished |= 1;
                self.refused |= finish.reason == Reason::Refused;
            }
            Event::Error(error) => self.error = Some(error.clone()),
            Event::End => self.end = true,
            // A refusal's words are no content: whoever is asked about it may want another answer.
            Event::Refusal(_)
            | Event::Start { .. }
            | Event::Signature(_)
            | Event::ToolArguments { .. }
            | Event::ToolEnd { .. }
            | Event::BlockEnd => {}
        }
    }
}

impl Request {
    /// What routing needs of a conversation.
    pub fn of(conversation: &Conversation<'_>) -> Self {
        let mut size = Size::default();
        conversation.system.iter().for_each(|block| size.add(block));
        conversation
            .turns
            .iter()
            .flat_map(|turn| &turn.blocks)
            .for_each(|block| size.add(block));
        let schemas = conversation.functions().map(|function| {
            let description = function.description.as_deref().map_or(0, str::len);
            let parameters = function.parameters.as_ref().map_or(0, |schema| schema.get().len());
            function.name.len() + description + parameters
        });
        let named = conversation.metadata.iter().map(|(name, value)| (&**name, &**value));
        let session = session_of(conversation.session.as_deref(), named, conversation.user.as_deref());
        let metadata = conversation
            .metadata
            .iter()
            .filter(|(name, value)| name.len() <= MAX_METADATA_NAME && value.len() <= MAX_METADATA_VALUE);
        Self {
            model: conversation.model.to_string(),
            streaming: conversation.streaming,
            uses_tools: !conversation.tools.is_empty(),
            has_images: size.has_images,
            input_tokens: estimated_tokens(size.bytes + schemas.sum::<usize>()),
            max_output_tokens: conversation
                .max_tokens
                .map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
            conversation: opening(conversation),
            session,
            answers: conversation
                .candidates
                .and_then(|wanted| u32::try_from(wanted).ok())
                .unwrap_or(0),
            metadata: metadata
                .take(MAX_METADATA)
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
        }
    }
}

/// Names under which metadata tells a session, the first before the others.
const SESSION_NAMES: [&str; 2] = ["session_id", "session"];

/// The session of a request: what the format has a field for, or else what its metadata calls so, or else its user, who at least is the
/// same in all of them.
pub fn session_of<'a>(
    stated: Option<&str>,
    metadata: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    user: Option<&str>,
) -> Option<String> {
    let named = |wanted: &&str| {
        metadata
            .clone()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value)
    };
    let session = stated.or_else(|| SESSION_NAMES.iter().find_map(named)).or(user);
    session
        .filter(|name| !name.is_empty() && name.len() <= MAX_NAME)
        .map(Into::into)
}

/// Pairs of metadata that are read, and bytes of a name and a value: what OpenAI allows. Policies get them, and a client must
/// not be able to fill a policy's memory.
pub const MAX_METADATA: usize = 16;
/// See [`MAX_METADATA`].
pub const MAX_METADATA_NAME: usize = 64;
/// See [`MAX_METADATA`].
pub const MAX_METADATA_VALUE: usize = 512;
/// Bytes of a model's name, and of a session's.
pub const MAX_NAME: usize = 256;

/// How much there is to read for a model.
#[derive(Default)]
struct Size {
    bytes: usize,
    has_images: bool,
}

impl Size {
    fn add(&mut self, block: &Block<'_>) {
        match block {
            Block::Text(text) => self.bytes += text.len(),
            Block::Image(_) => self.has_images = true,
            Block::Reasoning { text, .. } => self.bytes += text.len(),
            Block::ToolCall(call) => self.bytes += call.name.len() + call.arguments.len(),
            Block::ToolResult { content, .. } => content.iter().for_each(|block| self.add(block)),
            Block::Audio(_) | Block::Document { .. } | Block::Redacted(_) | Block::Opaque { .. } => {}
        }
    }
}

/// Bytes of each opening message that make the conversation's hash: its beginning tells conversations apart.
pub const HASHED_BYTES: usize = 1024;
/// FNV-1a, 32 bits: stable over versions and machines, so that gateways side by side agree.
pub const FNV_OFFSET: u32 = 0x811c_9dc5;
/// See [`FNV_OFFSET`].
pub const FNV_PRIME: u32 = 0x0100_0193;

/// The hash of everything up to the first words of the user, which all turns of a conversation share.
fn opening(conversation: &Conversation<'_>) -> u32 {
    let system = Turn {
        role: Role::System,
        blocks: conversation.system.clone(),
    };
    let mut hash = 0;
    for turn in std::iter::once(&system).chain(&conversation.turns) {
        if turn.blocks.is_empty() {
            continue;
        }
        let start = if hash == 0 { FNV_OFFSET } else { hash };
        let texts = turn.blocks.iter().filter_map(|block| match block {
            Block::Text(text) => Some(text.as_bytes()),
            _ => None,
        });
        let text = texts.flatten().take(HASHED_BYTES);
        hash = std::iter::once(&(turn.role as u8))
            .chain(text)
            .fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
            .max(1);
        if turn.role == Role::User {
            break;
        }
    }
    hash
}

/// The (role, text) of every message of a conversation, oldest first.
pub fn texts(conversation: &Conversation<'_>) -> Vec<(String, String)> {
    let text = |blocks: &[Block<'_>]| {
        let texts = blocks.iter().filter_map(|block| match block {
            Block::Text(text) => Some(&**text),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    };
    let tool_result = |blocks: &[Block<'_>]| {
        blocks.iter().find_map(|block| match block {
            Block::ToolResult { content, .. } => Some(text(content)),
            _ => None,
        })
    };
    let mut texts = Vec::new();
    if !conversation.system.is_empty() {
        texts.push(("system".to_owned(), text(&conversation.system)));
    }
    for turn in &conversation.turns {
        let role = match turn.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        match tool_result(&turn.blocks) {
            Some(result) => texts.push(("tool".to_owned(), result)),
            None => texts.push((role.to_owned(), text(&turn.blocks))),
        }
    }
    texts
}

/// Rough tokens of a text: four bytes each, which is within a third for English, code and JSON.
pub fn estimated_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(4)).unwrap_or(u32::MAX)
}
