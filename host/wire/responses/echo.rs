//! The response object that a client gets: what was asked, repeated, and what was answered.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::super::Asked;
use super::super::json::{compact, parse};
use super::fields::{Fields, list};
use super::line::Done;
use crate::chat::Usage;

/// What a response repeats of its request, and does not change while it is answered.
pub struct Echo {
    created_at: u64,
    /// Names and values, each of one line.
    repeated: Vec<(&'static str, Box<RawValue>)>,
}

/// Fields that a response repeats, and what stands there where the request has none: the API's own defaults.
const REPEATED: [(&str, &str); 18] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("previous_response_id", "null"),
    ("prompt_cache_key", "null"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("safety_identifier", "null"),
    ("service_tier", r#""default""#),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", r#""disabled""#),
    ("user", "null"),
];

impl Echo {
    /// Reads the request. One that cannot be read is repeated as if it had said nothing.
    pub fn of(asked: &Asked) -> Self {
        let request: Fields = parse(&asked.body).unwrap_or_default();
        let repeat = |(name, default): (&'static str, &str)| {
            let said = request.get(name).and_then(|raw| repeated(name, raw));
            let otherwise = || RawValue::from_string(default.to_owned()).ok();
            Some((name, said.or_else(otherwise)?))
        };
        Self {
            created_at: asked.created,
            repeated: REPEATED.into_iter().filter_map(repeat).collect(),
        }
    }
}

/// A value as a response repeats it.
fn repeated(name: &str, raw: &RawValue) -> Option<Box<RawValue>> {
    match name {
        "tools" => {
            let tools = list(raw)?;
            to_raw_value(&tools.into_iter().map(tool).collect::<Vec<_>>()).ok()
        }
        "text" => {
            let fields = Fields::of(raw)?;
            if fields.get("format").is_some() {
                return Some(one_line(raw));
            }
            #[derive(Serialize)]
            struct Text<'a> {
                format: &'a RawValue,
                verbosity: Option<&'a RawValue>,
            }
            to_raw_value(&Text {
                format: serde_json::from_str(r#"{"type":"text"}"#).ok()?,
                verbosity: fields.get("verbosity"),
            })
            .ok()
        }
        // The words for how a tier is chosen are not names of one.
        "service_tier" if raw.get() == r#""auto""# => None,
        _ => Some(one_line(raw)),
    }
}

/// A tool with the members that SDKs want to be there.
fn tool(raw: &RawValue) -> Box<RawValue> {
    let fields = Fields::of(raw).unwrap_or_default();
    let is_function = fields.text("type").is_some_and(|kind| kind == "function");
    if !is_function || (fields.get("parameters").is_some() && fields.get("strict").is_some()) {
        return one_line(raw);
    }
    #[derive(Serialize)]
    struct Function<'a> {
        r#type: &'static str,
        name: Cow<'a, str>,
        description: Option<Cow<'a, str>>,
        parameters: Option<&'a RawValue>,
        strict: bool,
    }
    let parameters = fields.get("parameters").map(one_line);
    let function = Function {
        r#type: "function",
        name: fields.text("name").unwrap_or_default(),
        description: fields.text("description"),
        parameters: parameters.as_deref(),
        strict: fields.value("strict").unwrap_or(false),
    };
    to_raw_value(&function).unwrap_or_else(|_| raw.to_owned())
}

/// JSON that fits into one line of a stream.
pub fn one_line(raw: &RawValue) -> Box<RawValue> {
    let text = raw.get();
    let compact = text.contains(['\n', '\r']).then(|| compact(text)).flatten();
    let compact = compact.and_then(|text| RawValue::from_string(text).ok());
    compact.unwrap_or_else(|| raw.to_owned())
}

/// A response object.
pub struct Response<'a> {
    /// What it repeats.
    pub echo: &'a Echo,
    /// Its name.
    pub id: &'a str,
    /// Who answers.
    pub model: &'a str,
    /// How far it is: `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: &'static str,
    /// Why it is incomplete.
    pub incomplete: Option<&'static str>,
    /// Why it failed: a code and words.
    pub error: Option<(&'a str, &'a str)>,
    /// What it says.
    pub output: &'a [Option<Done>],
    /// Tokens.
    pub usage: Option<Usage>,
}

impl Serialize for Response<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Incomplete {
            reason: &'static str,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            code: &'a str,
            message: &'a str,
        }
        let error = self.error.map(|(code, message)| Error { code, message });
        let output: Vec<&Done> = self.output.iter().flatten().collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", self.id)?;
        map.serialize_entry("object", "response")?;
        map.serialize_entry("created_at", &self.echo.created_at)?;
        map.serialize_entry("status", self.status)?;
        map.serialize_entry("background", &false)?;
        map.serialize_entry("error", &error)?;
        map.serialize_entry(
            "incomplete_details",
            &self.incomplete.map(|reason| Incomplete { reason }),
        )?;
        map.serialize_entry("model", self.model)?;
        map.serialize_entry("output", &output)?;
        // Nobody keeps it, whatever was asked.
        map.serialize_entry("store", &false)?;
        for (name, raw) in &self.echo.repeated {
            map.serialize_entry(name, raw)?;
        }
        map.serialize_entry("usage", &self.usage.map(Counts::of))?;
        map.end()
    }
}

#[derive(Serialize)]
struct Counts {
    input_tokens: u64,
    input_tokens_details: Input,
    output_tokens: u64,
    output_tokens_details: Output,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Input {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Serialize)]
struct Output {
    reasoning_tokens: u64,
}

impl Counts {
    fn of(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            input_tokens_details: Input {
                cached_tokens: usage.cached_tokens,
                cache_write_tokens: usage.cache_write_tokens,
            },
            output_tokens: usage.output_tokens,
            output_tokens_details: Output {
                reasoning_tokens: usage.reasoning_tokens,
            },
            total_tokens: usage.input_tokens.saturating_add(usage.output_tokens),
        }
    }
}
