//! Schemas in Google's older dialect, a part of OpenAPI 3.0, as the JSON schema that everyone else reads.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::object::camel;
use crate::wire::json::tree;

/// Numbers that Google's JSON writes as strings.
const COUNTS: [&str; 6] = [
    "maxItems",
    "maxLength",
    "maxProperties",
    "minItems",
    "minLength",
    "minProperties",
];

/// The most values of a schema that is converted, which is taken apart for it. Vendors' own limits are lower.
const MAX_VALUES: usize = 8 * 1024;

/// A schema as JSON schema: types in small letters, `nullable` as a type, counts as numbers. One that already is stays as it is, and so
/// does one that is too large.
pub fn json_schema(raw: &RawValue) -> Cow<'_, RawValue> {
    let Some((old, _)) = tree::<Value>(raw.get(), MAX_VALUES) else {
        return Cow::Borrowed(raw);
    };
    let before = old.to_string();
    let new = converted(old).to_string();
    match (new != before).then(|| RawValue::from_string(new)) {
        Some(Ok(new)) => Cow::Owned(new),
        _ => Cow::Borrowed(raw),
    }
}

/// As deep as the parser goes, which is 128 levels.
fn converted(schema: Value) -> Value {
    let Value::Object(fields) = schema else {
        return schema;
    };
    let mut new = Map::new();
    let mut nullable = false;
    for (name, field) in fields {
        let name = camel(Cow::Owned(name)).into_owned();
        let field = match name.as_str() {
            "nullable" => {
                nullable = field == true;
                continue;
            }
            "propertyOrdering" => continue,
            "type" => match kind(field) {
                Some(kind) => kind,
                None => continue,
            },
            "properties" | "defs" | "$defs" => each(field),
            "items" | "additionalProperties" => converted(field),
            "anyOf" | "prefixItems" => listed(field),
            name if COUNTS.contains(&name) => count(field),
            _ => field,
        };
        new.insert(name, field);
    }
    if nullable {
        allow_null(&mut new);
    }
    Value::Object(new)
}

fn each(fields: Value) -> Value {
    match fields {
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(name, it)| (name, converted(it))).collect()),
        other => other,
    }
}

fn listed(schemas: Value) -> Value {
    match schemas {
        Value::Array(schemas) => Value::Array(schemas.into_iter().map(converted).collect()),
        other => other,
    }
}

/// `STRING` becomes `string`; a type that is left open is none.
fn kind(field: Value) -> Option<Value> {
    match field {
        Value::String(name) if name == "TYPE_UNSPECIFIED" => None,
        Value::String(name) => Some(Value::String(name.to_ascii_lowercase())),
        other => Some(other),
    }
}

fn count(field: Value) -> Value {
    let number = field.as_str().and_then(|text| text.parse::<u64>().ok());
    number.map_or(field, Value::from)
}

fn allow_null(schema: &mut Map<String, Value>) {
    if let Some(kind @ Value::String(_)) = schema.get_mut("type") {
        *kind = Value::Array(vec![kind.take(), "null".into()]);
    }
    if let Some(Value::Array(schemas)) = schema.get_mut("anyOf") {
        schemas.push(serde_json::json!({"type": "null"}));
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(schema: &str) -> String {
        let raw: &RawValue = serde_json::from_str(schema).unwrap();
        json_schema(raw).get().to_owned()
    }

    #[test]
    fn becomes_json_schema() {
        let old = r#"{"type":"OBJECT","properties":{"a_b":{"type":"STRING","nullable":true,"enum":["x"]},
            "c":{"any_of":[{"type":"INTEGER"},{"type":"NUMBER"}]},"d":{"type":"ARRAY","items":{"type":"BOOLEAN"},"minItems":"2"}},
            "required":["a_b"],"propertyOrdering":["c","a_b"]}"#;
        let new = r#"{"type":"object","properties":{"a_b":{"type":["string","null"],"enum":["x",null]},"c":{"anyOf":[{"type":"integer"},{"type":"number"}]},"d":{"type":"array","items":{"type":"boolean"},"minItems":2}},"required":["a_b"]}"#;
        assert_eq!(convert(old), new);
    }

    #[test]
    fn what_is_json_schema_already_keeps_its_spelling() {
        let schema = r#"{ "type": "object", "properties": {"n": {"type": ["integer", "null"], "maximum": 1.50}} }"#;
        assert_eq!(convert(schema), schema);
        assert_eq!(convert("true"), "true");
    }
}
