//! The shapes of a stream's events, and of the items that they build.

#![allow(missing_docs)] // The members have the names of the format's own reference.

use serde::Serialize;
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
