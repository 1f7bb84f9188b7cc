//! JSON schemas: each vendor takes a subset of its own. A schema is narrowed to the subset: what the subset can say in another way is said
//! so, and what it cannot goes into the description, where the model reads it.
//!
//! Whatever a narrowed schema accepts, the original accepts too, unless [`Narrowed::is_looser`] says otherwise.

use std::collections::HashSet;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::wire::json::tree;

/// Bytes of a schema up to which it is looked at; a larger one goes as it is.
const MAX_BYTES: usize = 256 * 1024;

/// Levels of a schema that are looked at.
const MAX_DEPTH: usize = 64;

/// A schema of the subset.
#[derive(Debug)]
pub(super) struct Narrowed {
    pub(super) schema: Box<RawValue>,
    /// It accepts what the original does not: a keyword went into a description.
    pub(super) is_looser: bool,
}

/// Why there is no schema of the subset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsupported {
    /// It refers to itself, or to something outside itself.
    Reference,
    /// It has more optional members or alternatives than the vendor compiles.
    TooComplex,
}

/// Optional members of objects that Anthropic compiles, in all.
const MAX_OPTIONAL: usize = 24;
/// Alternatives that Anthropic compiles, in all.
const MAX_UNIONS: usize = 16;

/// The formats of strings that Anthropic checks.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "uri",
    "ipv4",
    "ipv6",
    "uuid",
];

/// What says something to people only; left out where the subset does not have it.
const ANNOTATIONS: [&str; 9] = [
    "$schema",
    "$id",
    "$comment",
    "$anchor",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "propertyOrdering",
];

/// A schema for Anthropic's structured output and strict tools, directly or through Bedrock: objects are closed, there are no limits of
/// numbers, lengths and counts, and nothing refers to itself. `Ok(None)`: it goes as it is.
pub(super) fn for_anthropic(schema: &RawValue) -> Result<Option<Narrowed>, Unsupported> {
    let Some(root) = read(schema) else { return Ok(None) };
    if refers_outside_or_to_itself(&root) {
        return Err(Unsupported::Reference);
    }
    let mut narrowing = Narrowing {
        is_looser: false,
        optional: 0,
        unions: 0,
    };
    let narrowed = narrowing.schema(&root, 0);
    if narrowing.optional > MAX_OPTIONAL || narrowing.unions > MAX_UNIONS {
        return Err(Unsupported::TooComplex);
    }
    Ok(changed(&root, &narrowed, narrowing.is_looser))
}

/// A schema for OpenAI's strict mode, if it can be one without loss: every object closed, with all its members required. `None`: it
/// cannot, and only goes where it need not be followed to the letter.
pub(super) fn for_strict_openai(schema: &RawValue) -> Option<Box<RawValue>> {
    let mut root = read(schema)?;
    let is_object = root["type"] == "object" && root.get("anyOf").is_none();
    if !is_object || !close_objects(&mut root, 0) {
        return None;
    }
    serde_json::value::to_raw_value(&root).ok()
}

/// The arguments of a tool: a schema of an object that says so, as every vendor takes it. `None`: it goes as it is.
pub(super) fn of_arguments(schema: &RawValue) -> Option<Box<RawValue>> {
    let root = read(schema)?;
    let members = root.as_object()?;
    let is_object = members.get("type").is_some_and(|kind| kind == "object");
    let lists_members = members.get("properties").is_some_and(Value::is_object);
    if is_object && lists_members {
        return None;
    }
    let mut typed = Map::new();
    typed.insert("type".into(), "object".into());
    typed.insert("properties".into(), json!({}));
    for (key, value) in members {
        let is_kept = match key.as_str() {
            "type" => false,
            "properties" => lists_members,
            _ => true,
        };
        if is_kept {
            typed.insert(key.clone(), value.clone());
        }
    }
    serde_json::value::to_raw_value(&Value::Object(typed)).ok()
}

fn read(schema: &RawValue) -> Option<Value> {
    let text = Some(schema.get()).filter(|text| text.len() <= MAX_BYTES)?;
    tree(text, MAX_VALUES).map(|(schema, _)| schema)
}

/// The most values of a schema that is taken apart: each of them takes some hundred bytes.
const MAX_VALUES: usize = 8 * 1024;

fn changed(root: &Value, narrowed: &Value, is_looser: bool) -> Option<Narrowed> {
    if root == narrowed {
        return None;
    }
    let schema = serde_json::value::to_raw_value(narrowed).ok()?;
    Some(Narrowed { schema, is_looser })
}

struct Narrowing {
    is_looser: bool,
    optional: usize,
    unions: usize,
}

impl Narrowing {
    fn schema(&mut self, schema: &Value, depth: usize) -> Value {
        let Some(members) = schema.as_object().filter(|_| depth < MAX_DEPTH) else {
            // `true` accepts everything.
            self.is_looser |= schema != true;
            return anything();
        };
        if let Some(reference) = members.get("$ref").or_else(|| only_reference(members)) {
            return json!({"$ref": reference});
        }
        let mut narrowed = Map::new();
        let mut moved = Vec::new();
        for (key, value) in members {
            self.keyword(key, value, members, depth, (&mut narrowed, &mut moved));
        }
        self.shape(members, &mut narrowed);
        describe(&mut narrowed, &moved);
        self.is_looser |= !moved.is_empty();
        Value::Object(narrowed)
    }

    /// Takes over one keyword, as it is or in another way, or notes that it has to go into the description.
    fn keyword(
        &mut self,
        key: &str,
        value: &Value,
        all: &Map<String, Value>,
        depth: usize,
        (narrowed, moved): (&mut Map<String, Value>, &mut Vec<String>),
    ) {
        let mut keep = |value: Value| _ = narrowed.insert(key.to_owned(), value);
        match key {
            "description" | "title" | "default" | "const" if is_simple(value) => keep(value.clone()),
            "enum" if value.as_array().is_some_and(|values| values.iter().all(is_simple)) => keep(value.clone()),
            "default" => {}
            "type" if value.is_string() => keep(value.clone()),
            "type" => self.types(value, all, narrowed),
            "properties" | "$defs" | "definitions" => keep(self.each(value, depth)),
            "items" if !all.contains_key("prefixItems") && value.is_object() => keep(self.schema(value, depth + 1)),
            "anyOf" => keep(self.alternatives(value, depth)),
            "oneOf" if !all.contains_key("anyOf") => {
                // At most one alternative of these may hold; of those, any number.
                moved.push(stated(key, &json!("exactly one of the alternatives")));
                narrowed.insert("anyOf".to_owned(), self.alternatives(value, depth));
            }
            "format" if FORMATS.iter().any(|format| value == format) => keep(value.clone()),
            "minItems" if value == 0 || value == 1 => keep(value.clone()),
            "required" => keep(self.required(value, all, moved)),
            "additionalProperties" if value.is_boolean() => {}
            key if ANNOTATIONS.contains(&key) => {}
            _ => moved.push(stated(key, value)),
        }
    }

    /// Several types are alternatives.
    fn types(&mut self, types: &Value, all: &Map<String, Value>, narrowed: &mut Map<String, Value>) {
        let types = types.as_array().map(Vec::as_slice).unwrap_or_default();
        let values = all
            .get("enum")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .chain(all.get("const"));
        if all.contains_key("enum") || all.contains_key("const") || all.contains_key("anyOf") {
            // The values or the alternatives say it, as far as they are of these types.
            let is_of_types = |value: &Value| types.iter().any(|kind| is_of_type(value, kind));
            self.is_looser |= all.contains_key("anyOf") || !values.into_iter().all(is_of_types);
            return;
        }
        let nested = ["properties", "items", "required", "format", "minItems"];
        let is_nested = types.iter().any(|kind| kind == "object" || kind == "array")
            || nested.iter().any(|key| all.contains_key(*key));
        match types {
            [one] => _ = narrowed.insert("type".into(), one.clone()),
            types if is_nested => {
                // The members of one of the types cannot stand beside the others: the first one that is not null is enough.
                let first = types.iter().find(|kind| *kind != "null");
                narrowed.insert("type".into(), first.cloned().unwrap_or_else(|| json!("null")));
            }
            types => {
                self.unions += 1;
                let alternatives: Vec<Value> = types.iter().map(|kind| json!({"type": kind})).collect();
                narrowed.insert("anyOf".into(), alternatives.into());
            }
        }
    }

    fn each(&mut self, schemas: &Value, depth: usize) -> Value {
        let members = schemas.as_object().into_iter().flatten();
        let narrowed = members.map(|(name, schema)| (name.clone(), self.schema(schema, depth + 1)));
        Value::Object(narrowed.collect())
    }

    fn alternatives(&mut self, schemas: &Value, depth: usize) -> Value {
        self.unions += 1;
        let schemas = schemas.as_array().into_iter().flatten();
        Value::Array(schemas.map(|schema| self.schema(schema, depth + 1)).collect())
    }

    /// A member that must be there and is not among the properties cannot be there at all in a closed object.
    fn required(&mut self, required: &Value, all: &Map<String, Value>, moved: &mut Vec<String>) -> Value {
        let names = required.as_array().map(Vec::as_slice).unwrap_or_default();
        let is_known = |name: &&Value| {
            name.as_str()
                .is_some_and(|name| all.get("properties").is_some_and(|all| all.get(name).is_some()))
        };
        let known: Vec<Value> = names.iter().filter(is_known).cloned().collect();
        if known.len() < names.len() {
            moved.push(stated("required", required));
        }
        Value::Array(known)
    }

    /// Says the type where only its keywords do, and closes objects.
    fn shape(&mut self, all: &Map<String, Value>, narrowed: &mut Map<String, Value>) {
        let has = |key: &str| all.contains_key(key);
        let is_said = ["type", "anyOf", "enum", "const"]
            .iter()
            .any(|key| narrowed.contains_key(*key));
        if !is_said {
            let kind = if has("properties") || has("required") || has("additionalProperties") {
                "object"
            } else if has("items") || has("prefixItems") {
                "array"
            } else if ["minLength", "maxLength", "pattern", "format"].into_iter().any(has) {
                "string"
            } else if [
                "minimum",
                "maximum",
                "exclusiveMinimum",
                "exclusiveMaximum",
                "multipleOf",
            ]
            .into_iter()
            .any(has)
            {
                "number"
            } else {
                narrowed.insert("anyOf".into(), any_types());
                return;
            };
            narrowed.insert("type".into(), kind.into());
        }
        if narrowed.get("type").is_some_and(|kind| kind == "object") {
            narrowed.insert("additionalProperties".into(), false.into());
            let members = narrowed
                .get("properties")
                .and_then(Value::as_object)
                .map_or(0, Map::len);
            let required = narrowed.get("required").and_then(Value::as_array).map_or(0, Vec::len);
            self.optional += members.saturating_sub(required);
        }
        if narrowed.get("type").is_some_and(|kind| kind == "array") && !narrowed.contains_key("items") {
            narrowed.insert("items".into(), anything());
        }
    }
}

/// A schema that only wraps a reference, as generators of schemas write one that has a description.
fn only_reference(members: &Map<String, Value>) -> Option<&Value> {
    let [only] = members.get("allOf")?.as_array()?.as_slice() else {
        return None;
    };
    let is_rest_annotation = members
        .keys()
        .all(|key| matches!(&**key, "allOf" | "description" | "title" | "default"));
    only.get("$ref").filter(|_| is_rest_annotation)
}

/// Accepts less than everything, but something of every simple type.
fn anything() -> Value {
    json!({"anyOf": any_types()})
}

fn any_types() -> Value {
    json!([{"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"}])
}

fn is_of_type(value: &Value, kind: &Value) -> bool {
    match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Number(number) => kind == "number" || (kind == "integer" && number.as_i64().is_some()),
        Value::String(_) => kind == "string",
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object",
    }
}

fn is_simple(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

/// A keyword as a description says it.
fn stated(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{key}: {text}"),
        value => format!("{key}: {value}"),
    }
}

fn describe(narrowed: &mut Map<String, Value>, moved: &[String]) {
    if moved.is_empty() {
        return;
    }
    let said = narrowed.get("description").and_then(Value::as_str).unwrap_or_default();
    let separator = if said.is_empty() { "" } else { " " };
    let description = format!("{said}{separator}({})", moved.join("; "));
    narrowed.insert("description".into(), description.into());
}

/// Whether a reference leads out of the schema or back to a schema that it is in.
fn refers_outside_or_to_itself(root: &Value) -> bool {
    let mut path = Vec::new();
    let mut done = HashSet::new();
    is_circular(root, root, &mut path, &mut done, 0)
}

/// `path`: the references that led here. `done`: those that lead to nothing circular.
fn is_circular<'s>(
    root: &'s Value,
    schema: &'s Value,
    path: &mut Vec<&'s str>,
    done: &mut HashSet<&'s str>,
    depth: usize,
) -> bool {
    if depth > MAX_DEPTH {
        return true;
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        let Some(target) = target.filter(|_| !path.contains(&reference)) else {
            return true;
        };
        if !done.contains(reference) {
            path.push(reference);
            if is_circular(root, target, path, done, depth + 1) {
                return true;
            }
            path.pop();
            done.insert(reference);
        }
        return false;
    }
    let parts: Box<dyn Iterator<Item = &Value>> = match schema {
        Value::Object(members) => {
            // Definitions matter where something refers to them.
            let is_used = |(key, _): &(&String, &Value)| {
                !matches!(
                    &***key,
                    "$defs" | "definitions" | "enum" | "const" | "default" | "examples"
                )
            };
            Box::new(members.iter().filter(is_used).map(|(_, part)| part))
        }
        Value::Array(parts) => Box::new(parts.iter()),
        _ => return false,
    };
    parts
        .into_iter()
        .any(|part| is_circular(root, part, path, done, depth + 1))
}

/// Keywords of OpenAI's strict mode that hold schemas; others that it does not have make the answer `false`.
const STRICT: [&str; 22] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "enum",
    "const",
    "description",
    "title",
    "$ref",
    "$defs",
    "definitions",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
];

/// Closes every object; `false` where strict mode would still refuse the schema.
fn close_objects(schema: &mut Value, depth: usize) -> bool {
    let Some(members) = schema.as_object_mut().filter(|_| depth < MAX_DEPTH) else {
        return false;
    };
    members.retain(|key, _| !ANNOTATIONS.contains(&key.as_str()));
    let is_said = ["type", "anyOf", "$ref", "enum", "const"]
        .iter()
        .any(|key| members.contains_key(*key));
    if !is_said || !members.keys().all(|key| STRICT.contains(&key.as_str())) {
        return false;
    }
    let is_object = members
        .get("type")
        .is_some_and(|kind| kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&json!("object"))));
    if is_object {
        let required: HashSet<&str> = members
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let all_required = members
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|properties| {
                properties.keys().all(|name| required.contains(&**name)) && required.len() == properties.len()
            });
        let is_open = members.get("additionalProperties").is_some_and(Value::is_object);
        if !all_required || is_open {
            return false;
        }
        members.insert("additionalProperties".into(), false.into());
    }
    let is_array = members.get("type").is_some_and(|kind| kind == "array");
    if is_array && !members.contains_key("items") {
        return false;
    }
    members.iter_mut().all(|(key, value)| match &**key {
        "items" => close_objects(value, depth + 1),
        "properties" | "$defs" | "definitions" => value
            .as_object_mut()
            .is_some_and(|all| all.values_mut().all(|schema| close_objects(schema, depth + 1))),
        "anyOf" => value
            .as_array_mut()
            .is_some_and(|all| all.iter_mut().all(|schema| close_objects(schema, depth + 1))),
        _ => true,
    })
}

#[cfg(test)]
mod tests;
