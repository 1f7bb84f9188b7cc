//! The shapes of a stream's events, and of the items that they build.

#![allow(missing_docs)] // The members have the names of the format's own reference.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::echo::Response;

/// One event. Each kind has its own members.
#[derive(Serialize)]
pub struct Line<'a> {
    pub r#type: &'static str,
    pub sequence_number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotation: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<[(); 0]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<AnyPart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<&'a Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Response<'a>>,
}

impl Line<'_> {
    /// An event of a kind, empty.
    pub fn of(name: &'static str) -> Self {
        Line {
            r#type: name,
            sequence_number: 0,
            item_id: None,
            output_index: None,
            content_index: None,
            summary_index: None,
            annotation_index: None,
            delta: None,
            text: None,
            refusal: None,
            arguments: None,
            annotation: None,
            logprobs: None,
            part: None,
            item: None,
            response: None,
        }
    }
}

/// An item of an answer.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Item<'a> {
    Known(Known<'a>),
    /// As its vendor wrote it.
    Own(&'a RawValue),
}

/// An item that other formats can say too.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Known<'a> {
    Message {
        id: &'a str,
        status: &'static str,
        role: &'static str,
        content: &'a [Part],
    },
    Reasoning {
        id: &'a str,
        summary: &'a [Summary<'a>],
        encrypted_content: Option<&'a str>,
    },
    FunctionCall {
        id: &'a str,
        status: &'static str,
        arguments: &'a str,
        call_id: &'a str,
        name: &'a str,
    },
}

/// An item that is complete: what an answer ends with has all of them once more.
pub enum Done {
    /// As its vendor wrote it.
    Own(Box<RawValue>),
    Message {
        id: String,
        status: &'static str,
        content: Vec<Part>,
    },
    Reasoning {
        id: String,
        text: Option<String>,
        proof: Option<String>,
    },
    Call {
        id: String,
        call_id: String,
        name: String,
        arguments: String,
    },
}

impl Done {
    /// Hands over the item as it is written.
    pub fn with_item<R>(&self, write: impl FnOnce(&Item<'_>) -> R) -> R {
        match self {
            Done::Own(raw) => write(&Item::Own(raw)),
            Done::Message { id, status, content } => write(&Item::Known(Known::Message {
                id,
                status,
                role: "assistant",
                content,
            })),
            Done::Reasoning { id, text, proof } => {
                let summary = text.as_deref().map(Summary::of);
                write(&Item::Known(Known::Reasoning {
                    id,
                    summary: summary.as_slice(),
                    encrypted_content: proof.as_deref(),
                }))
            }
            Done::Call {
                id,
                call_id,
                name,
                arguments,
            } => write(&Item::Known(Known::FunctionCall {
                id,
                status: "completed",
                arguments,
                call_id,
                name,
            })),
        }
    }
}

impl Serialize for Done {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_item(|item| item.serialize(serializer))
    }
}

/// A part of a message or of a summary.
#[derive(Serialize)]
#[serde(untagged)]
pub enum AnyPart<'a> {
    Content(&'a Part),
    Summary(Summary<'a>),
}

/// A part of a message.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    OutputText {
        annotations: Vec<Box<RawValue>>,
        logprobs: [(); 0],
        text: String,
    },
    Refusal {
        refusal: String,
    },
}

impl Part {
    /// Notes on it.
    pub fn annotations(&self) -> &[Box<RawValue>] {
        match self {
            Part::OutputText { annotations, .. } => annotations,
            Part::Refusal { .. } => &[],
        }
    }
}

/// A part of a summary of reasoning.
#[derive(Serialize)]
#[serde(tag = "type", rename = "summary_text")]
pub struct Summary<'a> {
    pub text: &'a str,
}

impl<'a> Summary<'a> {
    /// A part with a text.
    pub fn of(text: &'a str) -> Self {
        Self { text }
    }
}
