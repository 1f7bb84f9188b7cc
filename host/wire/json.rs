//! What the codecs share of reading JSON that others wrote.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
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
    let mut message = "the body is not the JSON that is expected: ".to_owned();
    // A text where none is expected is repeated in the error, however long it is.
    let mut bounded = Bounded {
        text: &mut message,
        left: MAX_ERROR,
    };
    if write!(bounded, "{error}").is_err() {
        message.push('…');
    }
    Malformed::whole(message)
}

/// Bytes of a parser's error that are repeated.
const MAX_ERROR: usize = 200;

/// Takes text up to a limit.
struct Bounded<'t> {
    text: &'t mut String,
    left: usize,
}

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let fits = &more[..more.floor_char_boundary(self.left)];
        self.text.push_str(fits);
        self.left -= fits.len();
        if fits.len() == more.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
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

/// JSON of about so many bytes, in one piece from the start.
pub fn sized(value: &impl serde::Serialize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    // A vector takes everything; what cannot be written is nothing.
    if serde_json::to_writer(&mut out, value).is_err() {
        out.clear();
    }
    out
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
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut compact = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => rest = behind,
            b'"' => {
                let end = 1 + string_end(behind);
                let (string, behind) = rest.split_at(end);
                compact.extend_from_slice(string);
                rest = behind;
            }
            _ => {
                compact.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(compact).ok()
}

/// Bytes of a string up to and with its last quote; the first one is not among them.
fn string_end(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'"', b'\\', &text[at..]) {
        at += found + 1;
        if text[at - 1] == b'"' {
            return at;
        }
        at = (at + 1).min(text.len());
    }
    text.len()
}

/// Hands over the members of an object one after the other, so that however many there are, no list of them is in memory. `None` when
/// it is no object.
pub fn members<'a>(raw: &'a RawValue, each: impl FnMut(Cow<'a, str>, &'a RawValue)) -> Option<()> {
    struct Each<F>(F);
    impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Each<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(Text(name)) = map.next_key()? {
                let raw = map.next_value()?;
                (self.0)(name, raw);
            }
            Ok(())
        }
    }
    if !raw.get().starts_with('{') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    deserializer.deserialize_map(Each(each)).ok()
}

/// An object with other values for some of its members, each in its place or at the end; the rest stays as it is written. `None` when it
/// is no object.
pub fn with_members(raw: &RawValue, changed: &[(&str, Cow<'_, RawValue>)]) -> Option<String> {
    let mut out = Vec::with_capacity(raw.get().len() + 64);
    let mut member = |name: &str, value: &RawValue| {
        out.push(if out.is_empty() { b'{' } else { b',' });
        // A vector takes everything, and a string can be written.
        let _ = serde_json::to_writer(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    };
    let mut is_there = vec![false; changed.len()];
    members(raw, |name, value| {
        match changed.iter().position(|(known, _)| *known == name) {
            Some(at) => {
                is_there[at] = true;
                member(&name, &changed[at].1);
            }
            None => member(&name, value),
        }
    })?;
    for ((name, value), _) in changed.iter().zip(is_there).filter(|(_, is_there)| !is_there) {
        member(name, value);
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    String::from_utf8(out).ok()
}

/// JSON that is taken apart, and of how many values it consists at most; `None` when it is of another type, or of more values than
/// `most`: each of them takes some hundred bytes.
pub fn tree<'a, T: Deserialize<'a>>(text: &'a str, most: usize) -> Option<(T, usize)> {
    let bytes = text.as_bytes();
    let (mut values, mut at) = (1, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at += string_end(&bytes[at..]),
            b',' | b'[' | b'{' => values += 1,
            _ => {}
        }
        if values > most {
            return None;
        }
    }
    Some((serde_json::from_str(text).ok()?, values))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_takes_out_what_stands_between_tokens_only() {
        let text = "{ \"a b\\\" \\\\\" : [ 1.50 ,\n\"\\n \" ] }";
        assert_eq!(compact(text).unwrap(), r#"{"a b\" \\":[1.50,"\n "]}"#);
        assert_eq!(compact("{"), None);
        assert_eq!(compact("[1,"), None);
    }

    #[test]
    fn members_are_replaced_and_the_rest_stays() {
        let raw: &RawValue = serde_json::from_str(r#"{"a":1, "b":[ 2 ],"a":3}"#).unwrap();
        let new: &RawValue = serde_json::from_str("7").unwrap();
        let changed = [("a", Cow::Borrowed(new)), ("c", Cow::Borrowed(new))];
        assert_eq!(with_members(raw, &changed).unwrap(), r#"{"a":7,"b":[ 2 ],"a":7,"c":7}"#);
        let empty: &RawValue = serde_json::from_str("{}").unwrap();
        assert_eq!(with_members(empty, &[]).unwrap(), "{}");
        assert_eq!(with_members(new, &changed), None);
    }

    #[test]
    fn an_error_repeats_little_of_what_was_sent() {
        let text = format!("\"{}\"", "ä".repeat(10_000));
        let error = serde_json::from_str::<u8>(&text).unwrap_err();
        let message = not_json(&error).message;
        assert!(message.len() < 300 && message.ends_with('…'), "{message}");
    }

    #[test]
    fn what_is_taken_apart_is_bounded() {
        let list = |items: usize| format!("[{}]", vec![r#"",,\\\"""#; items].join(","));
        assert_eq!(tree::<Vec<String>>(&list(9), 10).map(|(_, values)| values), Some(10));
        assert!(tree::<Vec<String>>(&list(10), 10).is_none());
    }
}
