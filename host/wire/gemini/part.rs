//! Parts, as they are written: in requests and in answers.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

/// A `Content`.
#[derive(Debug, Serialize)]
pub struct Content<'a> {
    /// `user` or `model`; system instructions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// What is said.
    pub parts: Vec<Part<'a>>,
}

/// A `Part`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Part<'a> {
    /// As it came.
    Raw(Cow<'a, RawValue>),
    /// Put together here.
    Made(Box<Fields<'a>>),
}

/// The fields of a part; only a few are there at once.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fields<'a> {
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<Cow<'a, str>>,
    /// The text is a thought.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub thought: bool,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inline_data: Option<Blob<'a>>,
    /// Bytes that are elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_data: Option<FileData<'a>>,
    /// A tool call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall<'a>>,
    /// Its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_response: Option<FunctionResponse<'a>>,
    /// The proof of a thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thought_signature: Option<Cow<'a, str>>,
}

/// A `Blob`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blob<'a> {
    /// MIME type.
    pub mime_type: &'a str,
    /// Base64.
    pub data: &'a str,
}

/// A `FileData`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileData<'a> {
    /// MIME type, where it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<&'static str>,
    /// Where it is.
    pub file_uri: &'a str,
}

/// A `FunctionCall`, whole.
#[derive(Debug, Serialize)]
pub struct FunctionCall<'a> {
    /// The call's name for its result.
    pub id: Cow<'a, str>,
    /// The tool.
    pub name: Cow<'a, str>,
    /// An object.
    pub args: Cow<'a, RawValue>,
}

/// A `FunctionResponse`.
#[derive(Debug, Serialize)]
pub struct FunctionResponse<'a> {
    /// The call.
    pub id: Cow<'a, str>,
    /// The tool.
    pub name: Cow<'a, str>,
    /// What it gave back.
    pub response: Response<'a>,
}

/// What a tool gave back, which is an object always.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Response<'a> {
    /// A text.
    Output(Cow<'a, str>),
    /// Why it failed.
    Error(Cow<'a, str>),
    /// An object of its own.
    #[serde(untagged)]
    Object(Cow<'a, RawValue>),
}

impl<'a> Part<'a> {
    /// Text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::of(Fields {
            text: Some(text.into()),
            ..Fields::default()
        })
    }

    /// A thought.
    pub fn thought(text: impl Into<Cow<'a, str>>, signature: Option<Cow<'a, str>>) -> Self {
        Self::of(Fields {
            text: Some(text.into()),
            thought: true,
            thought_signature: signature,
            ..Fields::default()
        })
    }

    /// A signature without a thought: it belongs to what was said before.
    pub fn signature(signature: Cow<'a, str>) -> Self {
        Self::of(Fields {
            text: Some(Cow::Borrowed("")),
            thought_signature: Some(signature),
            ..Fields::default()
        })
    }

    /// Bytes.
    pub fn inline(mime_type: &'a str, data: &'a str) -> Self {
        Self::of(Fields {
            inline_data: Some(Blob { mime_type, data }),
            ..Fields::default()
        })
    }

    /// A tool call.
    pub fn call(call: FunctionCall<'a>, signature: Option<Cow<'a, str>>) -> Self {
        Self::of(Fields {
            function_call: Some(call),
            thought_signature: signature,
            ..Fields::default()
        })
    }

    /// Any.
    pub fn of(fields: Fields<'a>) -> Self {
        Part::Made(Box::new(fields))
    }
}

/// Appends a signature without a thought: to the text before it, as whole answers have it, or as a part of its own.
pub fn sign<'a>(parts: &mut Vec<Part<'a>>, signature: Cow<'a, str>) {
    match parts.last_mut() {
        Some(Part::Made(last))
            if last.text.as_ref().is_some_and(|text| !text.is_empty())
                && !last.thought
                && last.thought_signature.is_none() =>
        {
            last.thought_signature = Some(signature);
        }
        _ => parts.push(Part::signature(signature)),
    }
}
