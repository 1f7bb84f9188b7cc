//! What the codecs share of reading JSON that others wrote.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Malformed;

/// A string that is borrowed where it has no escapes, also inside an `Option` or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Reads JSON. Raw values are checked for UTF-8 one by one when they come from bytes: from text, that is done once for all.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::whole("it is not UTF-8"))?;
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

/// Bytes that are not the JSON that a format asks for.
pub fn not_json(error: &serde_json::Error) -> Malformed {
    Malformed::whole(format!("the body is not the JSON that is expected: {error}"))
}

/// A value of a type; `None` when it is of another.
pub fn value<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// A string's text, nothing for null, and anything else as it is written.
pub fn plain(raw: &RawValue) -> String {
    match raw.get() {
        "null" => String::new(),
        text => value(raw).unwrap_or_else(|| text.to_owned()),
    }
}

/// Whether a value says something: null, false, "", [] and {} do not.
pub fn is_something(raw: &RawValue) -> bool {
    !matches!(raw.get(), "null" | "false" | "\"\"" | "[]" | "{}")
}

/// Where a part of a text stands in it.
pub fn span(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

/// JSON text without line breaks and spaces between its tokens, as the events of a stream need it; `None` when it is no JSON.
pub fn compact(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(value.to_string())
}

/// The arguments of a tool call as an object, for formats that want one: nothing becomes `{}`, and `None` is what is no object.
pub fn object(arguments: &str) -> Option<Cow<'_, RawValue>> {
    let text = match arguments.trim() {
        "" => "{}",
        text => text,
    };
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    text.starts_with('{').then_some(Cow::Borrowed(raw))
}
