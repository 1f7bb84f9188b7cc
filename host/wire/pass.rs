//! Passing a request through: the client's own bytes, with another model.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::json::{Text, not_json};
use super::{Inquiry, Malformed};

/// The client's bytes with another model, and a merge patch laid over them where there is one.
pub fn through(inquiry: &Inquiry, model: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
    let body = with_model(inquiry, model);
    let Some(patch) = patch else { return Ok(body) };
    let mut patch: Map<String, Value> = serde_json::from_str(patch).map_err(|error| not_json(&error))?;
    patch.retain(|key, _| !NOT_FOR_PATCHES.contains(&key.as_str()));
    merged(&body, &patch)
}

/// The same for vendors that have the model and whether it is a stream in the path, and want `anthropic_version` in the body.
pub fn without_model(inquiry: &Inquiry, version: &str, patch: Option<&str>) -> Result<Bytes, Malformed> {
    let body = through(inquiry, &inquiry.request.model, patch)?;
    let path = [
        ("model", Value::Null),
        ("stream", Value::Null),
        ("anthropic_version", version.into()),
    ];
    merged(
        &body,
        &path.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
    )
}

/// Fields that a patch leaves alone: a pick names its model, and the client reads a stream only where it asked for one.
const NOT_FOR_PATCHES: [&str; 2] = ["model", "stream"];

fn with_model(inquiry: &Inquiry, model: &str) -> Bytes {
    if inquiry.request.model == model {
        return inquiry.body.clone();
    }
    let body = &inquiry.body;
    let name = serde_json::Value::from(model).to_string();
    let mut out = Vec::with_capacity(body.len() + name.len() * inquiry.model_spans.len());
    let mut from = 0;
    for span in &inquiry.model_spans {
        out.extend_from_slice(&body[from..span.start]);
        out.extend_from_slice(name.as_bytes());
        from = span.end;
    }
    out.extend_from_slice(&body[from..]);
    out.into()
}

/// A body with a JSON Merge Patch (RFC 7396) laid over it. What the patch does not name stays as it is written, however deep it is
/// nested: it is neither decoded nor copied more than once.
fn merged(body: &[u8], patch: &Map<String, Value>) -> Result<Bytes, Malformed> {
    let text = std::str::from_utf8(body).map_err(|_| Malformed::whole("it is not UTF-8"))?;
    let mut out = Vec::with_capacity(body.len() + 256);
    merge_object(Some(text), patch, &mut out).map_err(|error| not_json(&error))?;
    Ok(out.into())
}

/// Writes an object with a patch laid over it; without one, what the patch makes of nothing.
fn merge_object(object: Option<&str>, patch: &Map<String, Value>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.push(b'{');
    let mut merge = Merge {
        patch,
        found: HashSet::new(),
        is_first: true,
        out,
    };
    if let Some(object) = object {
        let mut json = serde_json::Deserializer::from_str(object);
        json.deserialize_map(&mut merge)?;
        json.end()?;
    }
    merge.add_missing()?;
    out.push(b'}');
    Ok(())
}

/// Writes the fields of one object as they are read.
struct Merge<'p, 'o> {
    patch: &'p Map<String, Value>,
    /// Fields of the patch that the object has.
    found: HashSet<&'p str>,
    is_first: bool,
    out: &'o mut Vec<u8>,
}

impl<'p> Merge<'p, '_> {
    /// Writes a field of the object. One that stands there twice is patched twice, since readers differ in which one counts.
    fn field(&mut self, name: &str, raw: &RawValue) -> serde_json::Result<()> {
        let patch: &'p Map<String, Value> = self.patch;
        match patch.get_key_value(name) {
            None => {
                self.name(name)?;
                self.out.extend_from_slice(raw.get().as_bytes());
                Ok(())
            }
            Some((name, value)) => {
                self.found.insert(name);
                self.patched(name, Some(raw), value)
            }
        }
    }

    fn add_missing(&mut self) -> serde_json::Result<()> {
        let patch: &'p Map<String, Value> = self.patch;
        for (name, value) in patch {
            if !self.found.contains(name.as_str()) {
                self.patched(name, None, value)?;
            }
        }
        Ok(())
    }

    fn patched(&mut self, name: &str, raw: Option<&RawValue>, value: &Value) -> serde_json::Result<()> {
        if value.is_null() {
            return Ok(());
        }
        self.name(name)?;
        match value {
            Value::Object(patch) => {
                let object = raw.map(RawValue::get).filter(|text| text.starts_with('{'));
                merge_object(object, patch, self.out)
            }
            value => serde_json::to_writer(&mut *self.out, value),
        }
    }

    fn name(&mut self, name: &str) -> serde_json::Result<()> {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        serde_json::to_writer(&mut *self.out, name)?;
        self.out.push(b':');
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Merge<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = fields.next_key()? {
            let raw: &RawValue = fields.next_value()?;
            self.field(&name, raw).map_err(serde::de::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(body: &str, patch: &str) -> String {
        let patch = serde_json::from_str(patch).unwrap();
        String::from_utf8(merged(body.as_bytes(), &patch).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_patch_is_merged_as_the_standard_says() {
        // The examples of RFC 7396 whose patch is an object.
        for (body, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#),
        ] {
            assert_eq!(patched(body, patch), expected, "{body} with {patch}");
        }
        assert!(merged(b"[1]", &Map::new()).is_err() && merged(b"{} {}", &Map::new()).is_err());
    }

    #[test]
    fn what_a_patch_does_not_name_stays_as_it_is_written() {
        let deep = format!("{}1.50{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(r#"{{"zz" : {deep}, "n": 1e400, "t": {{"a":  1}}, "s":"\u00e9"}}"#);
        let expected = format!(r#"{{"zz":{deep},"n":1e400,"t":{{"a":1,"b":2}},"s":"\u00e9","x":true}}"#);
        assert_eq!(patched(&body, r#"{"t":{"b":2},"x":true}"#), expected);
    }

    #[test]
    fn a_field_that_stands_there_twice_is_patched_twice() {
        assert_eq!(
            patched(r#"{"a":1,"\u0061":2,"b":3}"#, r#"{"a":0}"#),
            r#"{"a":0,"a":0,"b":3}"#
        );
        assert_eq!(patched(r#"{"a":1,"a":2}"#, r#"{"a":null}"#), "{}");
    }
}
