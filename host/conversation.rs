//! A client's request in the words of no wire format: what the codecs translate between. It borrows from the client's bytes, so that
//! a large image is copied once, into what is sent.
//!
//! A decoder is lenient: what another format could not say either becomes [`Block::Opaque`], [`Tool::Opaque`] or one of
//! [`Conversation::others`], and [`crate::wire::loss`] says what is to be done about it.

use std::borrow::Cow;

use serde_json::Number;
use serde_json::value::RawValue;

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Conversation<'a> {
    /// The model's name; empty where the format has it in the path.
    pub model: Cow<'a, str>,
    /// A stream is wanted; `false` where the format says so in the path.
    pub streaming: bool,
    /// Instructions that stand before the first turn: text, and what the format alone can say.
    pub system: Vec<Block<'a>>,
    /// What was said, oldest first. Neighbours may have the same role: an encoder joins them where its format must alternate.
    pub turns: Vec<Turn<'a>>,
    /// Tools that the model may call.
    pub tools: Vec<Tool<'a>>,
    /// Which of them it must.
    pub tool_choice: Option<ToolChoice<'a>>,
    /// Several calls in one turn are welcome.
    pub parallel_tools: Option<bool>,
    /// The most tokens of answer, reasoning included.
    pub max_tokens: Option<u64>,
    /// Sampling.
    pub temperature: Option<Number>,
    /// Sampling.
    pub top_p: Option<Number>,
    /// Sampling.
    pub top_k: Option<Number>,
    /// Sampling.
    pub seed: Option<Number>,
    /// Sampling.
    pub presence_penalty: Option<Number>,
    /// Sampling.
    pub frequency_penalty: Option<Number>,
    /// Texts at which the model stops.
    pub stop: Vec<Cow<'a, str>>,
    /// Answers that are wanted side by side.
    pub candidates: Option<u64>,
    /// Log probabilities of the answer's tokens are wanted.
    pub logprobs: bool,
    /// The form of the answer's text.
    pub output: Output<'a>,
    /// How hard the model should think.
    pub effort: Option<Effort>,
    /// Tokens of thinking, where the format counts them; `effort` is set beside it.
    pub thinking_budget: Option<u64>,
    /// The reasoning, or a summary of it, is wanted in the answer.
    pub show_reasoning: Option<bool>,
    /// The client's own user, for the vendor's abuse detection.
    pub user: Option<Cow<'a, str>>,
    /// What turns of one session have in common, for prompt caches.
    pub session: Option<Cow<'a, str>>,
    /// The request's metadata, as (name, value).
    pub metadata: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Names of top-level fields, as the client wrote them, that have a value and are nothing of the above.
    pub others: Vec<Cow<'a, str>>,
}

/// What one side said in one go.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// Which side.
    pub role: Role,
    /// What.
    pub blocks: Vec<Block<'a>>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Instructions in the middle of a conversation.
    System,
    /// The client, and the results of tools.
    User,
    /// The model.
    Assistant,
}

/// A piece of a turn.
#[derive(Debug, Clone)]
pub enum Block<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A picture.
    Image(Source<'a>),
    /// Sound.
    Audio(Source<'a>),
    /// A document such as a PDF.
    Document {
        /// What it is called.
        name: Option<Cow<'a, str>>,
        /// Where it is.
        source: Source<'a>,
    },
    /// What the model thought.
    Reasoning {
        /// The text, or a summary; may be empty.
        text: Cow<'a, str>,
        /// The vendor's proof that it is its own; see [`crate::wire::signature`].
        signature: Option<Cow<'a, str>>,
    },
    /// What the model thought, for its vendor's eyes only.
    Redacted(Cow<'a, str>),
    /// The model calls a tool.
    ToolCall(ToolCall<'a>),
    /// What a tool gave back.
    ToolResult {
        /// The call.
        id: Cow<'a, str>,
        /// The tool, where the format says it; the call says it elsewhere.
        name: Option<Cow<'a, str>>,
        /// Texts, images and documents.
        content: Vec<Block<'a>>,
        /// The tool failed.
        is_error: bool,
    },
    /// What the client's format alone can say.
    Opaque {
        /// What it is, in the words of its format: `web_search_call`.
        what: Cow<'a, str>,
        /// As it came.
        json: Cow<'a, RawValue>,
    },
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall<'a> {
    /// The call's name for its result.
    pub id: Cow<'a, str>,
    /// The tool.
    pub name: Cow<'a, str>,
    /// JSON, as text: an object, if the model did well; empty for one without members.
    pub arguments: Cow<'a, str>,
    /// The vendor's proof of the thought behind the call; see [`crate::wire::signature`].
    pub signature: Option<Cow<'a, str>>,
}

/// Where the bytes of an image, a sound or a document are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<'a> {
    /// Here.
    Inline {
        /// MIME type, such as `image/png`.
        media_type: Cow<'a, str>,
        /// Base64.
        data: Cow<'a, str>,
    },
    /// Here, as text.
    Text(Cow<'a, str>),
    /// Where everyone can get them.
    Url(Cow<'a, str>),
    /// In the vendor's own store, where only that vendor finds them.
    Stored(Cow<'a, str>),
}

impl<'a> Source<'a> {
    /// What a URL says: a `data:` URL with base64 has its bytes with it.
    pub fn of_url(url: Cow<'a, str>) -> Self {
        let parts = |url: &str| -> Option<(usize, usize)> {
            let rest = url.get(..5)?.eq_ignore_ascii_case("data:").then(|| &url[5..])?;
            let (head, _) = rest.split_once(',')?;
            let media_type = head.strip_suffix(";base64")?;
            Some((
                media_type.split(';').next().unwrap_or_default().len(),
                5 + head.len() + 1,
            ))
        };
        let Some((media_type, data)) = parts(&url) else {
            return Source::Url(url);
        };
        match url {
            Cow::Borrowed(url) => Source::Inline {
                media_type: Cow::Borrowed(&url[5..5 + media_type]),
                data: Cow::Borrowed(&url[data..]),
            },
            Cow::Owned(url) => Source::Inline {
                media_type: Cow::Owned(url[5..5 + media_type].to_owned()),
                data: Cow::Owned(url[data..].to_owned()),
            },
        }
    }
}

/// A tool that the model may call.
#[derive(Debug, Clone)]
pub enum Tool<'a> {
    /// The client runs it.
    Function(Function<'a>),
    /// The vendor runs it, or only this format knows it.
    Opaque {
        /// Its type, in the words of its format.
        what: Cow<'a, str>,
        /// As it came.
        json: Cow<'a, RawValue>,
    },
}

/// A tool that the client runs.
#[derive(Debug, Clone)]
pub struct Function<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// What it is for.
    pub description: Option<Cow<'a, str>>,
    /// JSON schema of its arguments; `None`: it has none.
    pub parameters: Option<Cow<'a, RawValue>>,
    /// Arguments must follow the schema.
    pub strict: Option<bool>,
}

/// Whether and which tools the model calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice<'a> {
    /// As it sees fit.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(Cow<'a, str>),
    /// Any of these.
    Allowed {
        /// The tools.
        names: Vec<Cow<'a, str>>,
        /// At least one of them.
        required: bool,
    },
}

/// The form of an answer's text.
#[derive(Debug, Clone, Default)]
pub enum Output<'a> {
    /// Any.
    #[default]
    Text,
    /// JSON.
    Json,
    /// JSON that follows a schema.
    Schema {
        /// The schema's name, where the format has one.
        name: Option<Cow<'a, str>>,
        /// What it is for.
        description: Option<Cow<'a, str>>,
        /// JSON schema.
        schema: Cow<'a, RawValue>,
        /// It must be followed.
        strict: Option<bool>,
    },
}

/// How hard a model should think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Not at all.
    None,
    /// As little as it can.
    Minimal,
    /// Less than usual.
    Low,
    /// As usual.
    Medium,
    /// More than usual.
    High,
    /// Much more.
    XHigh,
    /// As much as it can.
    Max,
}

impl Effort {
    /// The effort's name, which the formats share.
    pub const fn name(self) -> &'static str {
        match self {
            Effort::None => "none",
            Effort::Minimal => "minimal",
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::XHigh => "xhigh",
            Effort::Max => "max",
        }
    }

    /// The effort of a name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        const ALL: [Effort; 7] = [
            Effort::None,
            Effort::Minimal,
            Effort::Low,
            Effort::Medium,
            Effort::High,
            Effort::XHigh,
            Effort::Max,
        ];
        ALL.into_iter().find(|effort| name.eq_ignore_ascii_case(effort.name()))
    }

    /// The effort that a number of thinking tokens stands for. The steps are those at which vendors' own converters switch.
    pub const fn of_budget(tokens: u64) -> Self {
        match tokens {
            0 => Effort::None,
            1..=1024 => Effort::Minimal,
            1025..=4096 => Effort::Low,
            4097..=12288 => Effort::Medium,
            12289..=24576 => Effort::High,
            24577..=49152 => Effort::XHigh,
            _ => Effort::Max,
        }
    }

    /// Thinking tokens that stand for an effort, the other way round.
    pub const fn budget(self) -> u64 {
        match self {
            Effort::None => 0,
            Effort::Minimal => 1024,
            Effort::Low => 4096,
            Effort::Medium => 8192,
            Effort::High => 16384,
            Effort::XHigh => 32768,
            Effort::Max => 65536,
        }
    }
}

impl<'a> Conversation<'a> {
    /// The name of the tool that a call was for, for formats whose results must say it.
    pub fn tool_of(&self, id: &str) -> Option<&str> {
        self.turns
            .iter()
            .flat_map(|turn| &turn.blocks)
            .find_map(|block| match block {
                Block::ToolCall(call) if call.id == id => Some(&*call.name),
                _ => None,
            })
    }

    /// All functions among the tools.
    pub fn functions(&self) -> impl Iterator<Item = &Function<'a>> {
        self.tools.iter().filter_map(|tool| match tool {
            Tool::Function(function) => Some(function),
            Tool::Opaque { .. } => None,
        })
    }

    /// Whether a call of a tool or a result is among the turns.
    pub fn has_tool_history(&self) -> bool {
        let is_tool = |block: &Block<'_>| matches!(block, Block::ToolCall(_) | Block::ToolResult { .. });
        self.turns.iter().flat_map(|turn| &turn.blocks).any(is_tool)
    }
}

/// Two blocks are the same if they say the same; raw JSON is compared as text.
impl PartialEq for Block<'_> {
    fn eq(&self, other: &Self) -> bool {
        use Block::{Audio, Document, Image, Opaque, Reasoning, Redacted, Text, ToolCall, ToolResult};
        match (self, other) {
            (Text(a), Text(b)) | (Redacted(a), Redacted(b)) => a == b,
            (Image(a), Image(b)) | (Audio(a), Audio(b)) => a == b,
            (Document { name, source }, Document { name: n, source: s }) => (name, source) == (n, s),
            (Reasoning { text, signature }, Reasoning { text: t, signature: s }) => (text, signature) == (t, s),
            (ToolCall(a), ToolCall(b)) => a == b,
            (
                ToolResult {
                    id,
                    name,
                    content,
                    is_error,
                },
                ToolResult {
                    id: i,
                    name: n,
                    content: c,
                    is_error: e,
                },
            ) => (id, name, content, is_error) == (i, n, c, e),
            (Opaque { what, json }, Opaque { what: w, json: j }) => what == w && json.get() == j.get(),
            _ => false,
        }
    }
}
