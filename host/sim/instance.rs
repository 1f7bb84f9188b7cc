//! Makes a JSON value that a JSON Schema accepts, so that an application gets the shape that it asked for.
//!
//! The same schema always makes the same value. What it understands: types, `properties`, `required`, `items`, `prefixItems`, `enum`,
//! `const`, `default`, `examples`, local `$ref`s, `anyOf`, `oneOf`, `allOf`, limits of numbers, lengths and counts, `pattern`, and the
//! usual formats of strings. `not` and conditions are ignored.

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Number, Value, json};

/// Depth up to which optional properties and items are made.
const OPTIONAL_DEPTH: usize = 6;

/// Depth at which everything ends.
const MAX_DEPTH: usize = 48;

/// Values of one instance: a schema of a few bytes can ask for any number of items.
const MAX_VALUES: usize = 4096;

/// Characters of a string that a schema wants long.
const MAX_CHARS: usize = 4096;

/// A value that `schema` accepts.
pub(super) fn instance(schema: &Value) -> Value {
    let mut maker = Maker { root: schema, made: 0 };
    maker.value(
        schema,
        Place {
            name: "value",
            index: 0,
            depth: 0,
        },
    )
}

struct Maker<'s> {
    root: &'s Value,
    made: usize,
}

/// Where in the instance a value stands.
#[derive(Clone, Copy)]
struct Place<'s> {
    /// The name of its property, or of its array's.
    name: &'s str,
    /// Its index in its array: items differ, for some arrays want them unique.
    index: usize,
    depth: usize,
}

impl<'s> Maker<'s> {
    fn value(&mut self, schema: &'s Value, place: Place<'s>) -> Value {
        self.made += 1;
        let schema = self.resolved(schema);
        if place.depth > MAX_DEPTH || self.made > MAX_VALUES * 2 {
            return Value::Null;
        }
        if let Some(value) = stated(schema, place.index) {
            return value.clone();
        }
        let alternatives = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
        if let Some(alternatives) = alternatives {
            return self.alternative(alternatives, place);
        }
        match kind(schema) {
            "object" => self.object(schema, place),
            "array" => self.array(schema, place),
            "integer" => integer(schema, place.index),
            "number" => number(schema, place.index),
            "boolean" => json!(place.index.is_multiple_of(2)),
            "null" => Value::Null,
            _ => json!(string(schema, place)),
        }
    }

    /// Follows references within the document.
    fn resolved(&self, mut schema: &'s Value) -> &'s Value {
        for _ in 0..MAX_DEPTH {
            let Some(pointer) = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) else {
                break;
            };
            let Some(found) = self.root.pointer(pointer) else { break };
            schema = found;
        }
        schema
    }

    /// The first alternative that is more than null; deep inside, the simplest, so that recursion ends.
    fn alternative(&mut self, alternatives: &'s [Value], place: Place<'s>) -> Value {
        let simplest = |schema: &&Value| match kind(self.resolved(schema)) {
            "null" => 0,
            "object" | "array" => 2,
            _ => 1,
        };
        let chosen = if place.depth < OPTIONAL_DEPTH {
            let is_null = |schema: &&Value| kind(self.resolved(schema)) == "null";
            alternatives.iter().find(|schema| !is_null(schema))
        } else {
            alternatives.iter().min_by_key(simplest)
        };
        chosen.map_or(Value::Null, |schema| self.value(schema, place))
    }

    fn object(&mut self, schema: &'s Value, place: Place<'s>) -> Value {
        let mut object = Map::new();
        let parts = schema["allOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        let parts: Vec<&Value> = parts.iter().map(|part| self.resolved(part)).collect();
        for part in parts.into_iter().chain([schema]) {
            let Some(properties) = part["properties"].as_object() else {
                continue;
            };
            let required = part["required"].as_array().map(Vec::as_slice).unwrap_or_default();
            for (name, property) in properties {
                let is_required = required.iter().any(|required| required == name.as_str());
                if is_required || (place.depth < OPTIONAL_DEPTH && self.made < MAX_VALUES) {
                    let inside = Place {
                        name,
                        index: place.index,
                        depth: place.depth + 1,
                    };
                    object.insert(name.clone(), self.value(property, inside));
                }
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &'s Value, place: Place<'s>) -> Value {
        let first = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
        let usual = usize::from(place.depth < OPTIONAL_DEPTH);
        let wanted = count(schema, "minItems").unwrap_or(usual).max(first.len());
        let wanted = wanted.min(count(schema, "maxItems").unwrap_or(usize::MAX));
        let mut items = Vec::new();
        while items.len() < wanted && self.made < MAX_VALUES {
            let item = first.get(items.len()).unwrap_or(&schema["items"]);
            let inside = Place {
                name: place.name,
                index: items.len(),
                depth: place.depth + 1,
            };
            items.push(self.value(item, inside));
        }
        Value::Array(items)
    }
}

/// A value that the schema itself states.
fn stated(schema: &Value, index: usize) -> Option<&Value> {
    let values = schema["enum"].as_array().filter(|values| !values.is_empty());
    let example = || schema["examples"].as_array().and_then(|examples| examples.first());
    let one_of = values.map(|values| &values[index % values.len()]);
    schema
        .get("const")
        .or(one_of)
        .or_else(|| schema.get("default"))
        .or_else(example)
}

/// The type that is made of it.
fn kind(schema: &Value) -> &str {
    let types = schema["type"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut types = types.iter().filter_map(Value::as_str);
    let listed = types.clone().find(|kind| *kind != "null").or_else(|| types.next());
    if let Some(kind) = schema["type"].as_str().or(listed) {
        return kind;
    }
    let has = |key: &str| schema.get(key).is_some();
    if has("properties") || has("allOf") {
        "object"
    } else if has("items") || has("prefixItems") {
        "array"
    } else if has("minimum") || has("maximum") {
        "number"
    } else if schema.get("const").is_some_and(Value::is_null) {
        "null"
    } else {
        "string"
    }
}

fn count(schema: &Value, key: &str) -> Option<usize> {
    Some(usize::try_from(schema[key].as_u64()?).unwrap_or(usize::MAX))
}

fn integer(schema: &Value, index: usize) -> Value {
    json!(within(schema, index).ceil() as i64)
}

fn number(schema: &Value, index: usize) -> Value {
    let number = Number::from_f64(within(schema, index));
    number.map_or_else(|| json!(0), Value::Number)
}

/// A number within the limits; later items of an array get larger ones while the limits allow.
fn within(schema: &Value, index: usize) -> f64 {
    let limit = |key: &str| schema[key].as_f64();
    let step = limit("multipleOf").filter(|step| *step > 0.0).unwrap_or(1.0);
    let above = limit("exclusiveMinimum").map(|least| (least / step).floor() * step + step);
    let least = limit("minimum").map(|least| (least / step).ceil() * step);
    let below = limit("exclusiveMaximum").map(|most| (most / step).ceil() * step - step);
    let most = limit("maximum").map(|most| (most / step).floor() * step);
    let most = most.into_iter().chain(below).fold(f64::INFINITY, f64::min);
    let least = least.into_iter().chain(above).fold(f64::NEG_INFINITY, f64::max);
    let first = if least.is_finite() { least } else { step.min(most) };
    let later = first + index as f64 * step;
    let wanted = if later <= most { later } else { first };
    // Limits that no multiple fits between, such as 0 < x < 1 with a step of 1.
    let (low, high) = (limit("exclusiveMinimum"), limit("exclusiveMaximum"));
    match (low, high) {
        (Some(low), Some(high)) if wanted <= low || wanted >= high => f64::midpoint(low, high),
        _ => wanted,
    }
}

fn string(schema: &Value, place: Place<'_>) -> String {
    if let Some(value) = schema["format"].as_str().and_then(formatted) {
        return value.to_owned();
    }
    let matched = schema["pattern"].as_str().and_then(|pattern| {
        let hir = regex_syntax::parse(pattern).ok()?;
        let mut text = String::new();
        write_match(&hir, &mut text);
        Some(text)
    });
    if let Some(text) = matched {
        return text;
    }
    let mut text = match place.index {
        0 => format!("sample {}", place.name),
        index => format!("sample {} {}", place.name, index + 1),
    };
    let least = count(schema, "minLength").unwrap_or(0).min(MAX_CHARS);
    let most = count(schema, "maxLength").unwrap_or(usize::MAX);
    text.extend(std::iter::repeat_n('x', least.saturating_sub(text.chars().count())));
    text.chars().take(most).collect()
}

/// An example of a format that the JSON Schema specification names.
fn formatted(format: &str) -> Option<&'static str> {
    Some(match format {
        "date-time" => "2026-01-01T12:00:00Z",
        "date" => "2026-01-01",
        "time" => "12:00:00Z",
        "duration" => "PT1H",
        "email" | "idn-email" => "user@example.com",
        "hostname" | "idn-hostname" => "example.com",
        "ipv4" => "192.0.2.1",
        "ipv6" => "2001:db8::1",
        "uri" | "url" | "iri" => "https://example.com/",
        "uri-reference" | "iri-reference" => "/example",
        "uuid" => "123e4567-e89b-42d3-a456-426614174000",
        _ => return None,
    })
}

/// Writes a short text that a pattern matches.
fn write_match(hir: &Hir, text: &mut String) {
    if text.len() > MAX_CHARS {
        return;
    }
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => text.extend(member(class)),
        HirKind::Repetition(repetition) => {
            // One of what may be left out reads better than nothing.
            let times = repetition.min.max(u32::from(repetition.max != Some(0)));
            (0..times.min(MAX_CHARS as u32)).for_each(|_| write_match(&repetition.sub, text));
        }
        HirKind::Capture(capture) => write_match(&capture.sub, text),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write_match(part, text)),
        HirKind::Alternation(alternatives) => {
            if let Some(first) = alternatives.first() {
                write_match(first, text);
            }
        }
    }
}

/// A member of a class: a letter or a digit where it has one.
fn member(class: &Class) -> Option<char> {
    let ranges: Vec<(char, char)> = match class {
        Class::Unicode(class) => class.iter().map(|range| (range.start(), range.end())).collect(),
        Class::Bytes(class) => class
            .iter()
            .map(|range| (range.start() as char, range.end() as char))
            .collect(),
    };
    let has = |wanted: char| ranges.iter().any(|(start, end)| (*start..=*end).contains(&wanted));
    let usual = ['a', 'A', '1', '-', ' '].into_iter().find(|wanted| has(*wanted));
    usual.or_else(|| ranges.first().map(|(start, _)| *start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_schema_gets_an_instance() {
        let cases = [
            (json!({"type": "string"}), json!("sample value")),
            (json!({"type": "string", "maxLength": 3}), json!("sam")),
            (json!({"type": "string", "minLength": 14}), json!("sample valuexx")),
            (json!({"type": "string", "format": "date"}), json!("2026-01-01")),
            (
                json!({"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"}),
                json!("AAA-11"),
            ),
            (json!({"type": "integer", "minimum": 7}), json!(7)),
            (
                json!({"type": "integer", "exclusiveMinimum": 7, "multipleOf": 5}),
                json!(10),
            ),
            (json!({"type": "integer", "maximum": -3}), json!(-3)),
            (
                json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
                json!(0.5),
            ),
            (json!({"type": ["null", "boolean"]}), json!(true)),
            (json!({"enum": ["b", "a"]}), json!("b")),
            (json!({"const": 4}), json!(4)),
            (json!({"anyOf": [{"type": "null"}, {"type": "integer"}]}), json!(1)),
            (json!({"type": "object"}), json!({})),
            (
                json!({"type": "array", "items": {"type": "string"}, "minItems": 2}),
                json!(["sample value", "sample value 2"]),
            ),
            (
                json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}),
                json!([1, "sample value 2"]),
            ),
            (
                json!({"allOf": [{"$ref": "#/$defs/a"}], "properties": {"b": {"type": "null"}},
                       "$defs": {"a": {"properties": {"a": {"type": "boolean"}}}}}),
                json!({"a": true, "b": null}),
            ),
        ];
        for (schema, expected) in cases {
            assert_eq!(instance(&schema).to_string(), expected.to_string(), "{schema}");
        }
    }

    #[test]
    fn recursion_ends() {
        let list = json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {
                "type": "object",
                "required": ["value", "next"],
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
            }},
        });
        let text = instance(&list).to_string();
        assert!(
            text.ends_with(&format!("null{}", "}".repeat(text.matches('{').count()))),
            "{text}"
        );
        // Nothing fits a node that always needs another one.
        instance(&json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}));
        instance(&json!({"$ref": "#"}));
    }

    #[test]
    fn a_small_schema_makes_no_huge_instance() {
        let items = json!({"type": "array", "minItems": 1_000_000_000, "items":
            {"type": "array", "minItems": 1_000_000_000, "items": {"type": "string", "minLength": 10}}});
        assert!(instance(&items).to_string().len() < 1_000_000);
        let pattern = json!({"type": "string", "pattern": "((a{100}){100}){100}"});
        assert!(instance(&pattern).to_string().len() < 10_000);
    }
}
