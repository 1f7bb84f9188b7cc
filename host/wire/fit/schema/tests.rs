use proptest::prelude::*;

use super::*;

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn anthropic(schema: &Value) -> (Value, bool) {
    match for_anthropic(&raw(schema)).unwrap() {
        None => (schema.clone(), false),
        Some(narrowed) => (serde_json::from_str(narrowed.schema.get()).unwrap(), narrowed.is_looser),
    }
}

#[test]
fn limits_go_into_the_description() {
    let schema = json!({"type": "object", "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 120, "description": "In years."},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2}},
        "required": ["age", "tags"]});
    let expected = json!({"type": "object", "properties": {
        "age": {"type": "integer", "description": "In years. (minimum: 0; maximum: 120)"},
        "tags": {"type": "array", "items": {"type": "string", "description": "(minLength: 1)"}, "description": "(minItems: 2)"}},
        "required": ["age", "tags"], "additionalProperties": false});
    assert_eq!(anthropic(&schema), (expected, true));
}

#[test]
fn what_the_subset_can_say_is_said_without_loss() {
    let cases = [
        (
            json!({"type": "object", "properties": {}}),
            json!({"type": "object", "properties": {}, "additionalProperties": false}),
        ),
        (
            json!({"properties": {}, "additionalProperties": true}),
            json!({"properties": {}, "type": "object", "additionalProperties": false}),
        ),
        (
            json!({"type": ["string", "null"]}),
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ),
        (
            json!({"type": ["string", "null"], "enum": ["a", null]}),
            json!({"enum": ["a", null]}),
        ),
        (
            json!({"type": "array", "minItems": 1}),
            json!({"type": "array", "minItems": 1, "items": anything()}),
        ),
        (json!({}), anything()),
        (
            json!({"type": "string", "format": "date", "examples": ["x"]}),
            json!({"type": "string", "format": "date"}),
        ),
    ];
    for (schema, expected) in cases {
        assert_eq!(anthropic(&schema).0, expected, "{schema}");
    }
    let wrapped = json!({"type": "object", "properties": {"a": {"allOf": [{"$ref": "#/$defs/a"}], "title": "A"}}, "$defs": {"a": {"type": "null"}}});
    assert_eq!(anthropic(&wrapped).0["properties"]["a"], json!({"$ref": "#/$defs/a"}));
}

#[test]
fn what_refers_to_itself_or_is_too_large_is_not_narrowed() {
    let list = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}});
    assert_eq!(for_anthropic(&raw(&list)).unwrap_err(), Unsupported::Reference);
    assert_eq!(
        for_anthropic(&raw(&json!({"$ref": "https://example.com/s"}))).unwrap_err(),
        Unsupported::Reference
    );
    let twice = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/s"}, "b": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"type": "string"}}});
    assert!(for_anthropic(&raw(&twice)).is_ok());
    let members: Map<String, Value> = (0..25)
        .map(|at| (format!("p{at}"), json!({"type": "string"})))
        .collect();
    let wide = json!({"type": "object", "properties": members});
    assert_eq!(for_anthropic(&raw(&wide)).unwrap_err(), Unsupported::TooComplex);
}

#[test]
fn arguments_are_objects_with_members() {
    let cases = [
        (json!({}), Some(json!({"type": "object", "properties": {}}))),
        (
            json!({"type": "object"}),
            Some(json!({"type": "object", "properties": {}})),
        ),
        (
            json!({"type": null, "properties": {"a": {"const": 1}}}),
            Some(json!({"type": "object", "properties": {"a": {"const": 1}}})),
        ),
        (json!({"type": "object", "properties": {"a": {}}}), None),
    ];
    for (schema, expected) in cases {
        let typed = of_arguments(&raw(&schema)).map(|typed| serde_json::from_str::<Value>(typed.get()).unwrap());
        assert_eq!(typed, expected, "{schema}");
    }
}

#[test]
fn strict_mode_is_for_closed_objects_with_all_members() {
    let closed = json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]});
    let strict: Value = serde_json::from_str(for_strict_openai(&raw(&closed)).unwrap().get()).unwrap();
    assert_eq!(strict["additionalProperties"], false);
    for schema in [
        json!({"type": "object", "properties": {"a": {"type": "string"}}}),
        json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}),
        json!({"type": "object", "properties": {"a": {"oneOf": []}}, "required": ["a"]}),
        json!({"type": "object", "properties": {}, "required": [], "additionalProperties": {"type": "string"}}),
        json!({"type": "array", "items": {"type": "string"}}),
        json!({"type": "object"}),
    ] {
        assert!(for_strict_openai(&raw(&schema)).is_none(), "{schema}");
    }
}

/// Schemas of the keywords that applications use.
fn schemas() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["string", "integer", "number", "boolean", "null"]);
    let leaf = prop_oneof![
        kind.clone().prop_map(|kind| json!({"type": kind})),
        (0_i64..3, 0_i64..4).prop_map(|(least, most)| json!({"type": "integer", "minimum": least, "maximum": most})),
        (0_usize..3).prop_map(|least| json!({"type": "string", "minLength": least})),
        Just(json!({"enum": ["a", 1, null]})),
        Just(json!({"type": ["string", "null"]})),
        Just(json!({"type": ["integer", "null"], "minimum": 1})),
        Just(json!({"type": ["object", "null"], "properties": {"a": {"type": "null"}}})),
        Just(json!({"const": 1})),
        Just(json!({"enum": [{"a": 1}, "b"]})),
        Just(json!({})),
        Just(json!(true)),
        Just(json!({"maximum": 2})),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        let members = prop::collection::btree_map(name.clone(), inner.clone(), 0..3);
        let required = prop::collection::btree_set(name, 0..2);
        prop_oneof![
            (members, required, prop::option::of(any::<bool>())).prop_map(|(members, required, open)| {
                let mut schema = json!({"type": "object", "properties": members, "required": required});
                if let Some(open) = open {
                    schema["additionalProperties"] = open.into();
                }
                schema
            }),
            (inner.clone(), 0_usize..3)
                .prop_map(|(items, least)| json!({"type": "array", "items": items, "minItems": least})),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|all| json!({"anyOf": all})),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|all| json!({"oneOf": all})),
            inner.prop_map(|values| json!({"type": "object", "additionalProperties": values})),
        ]
    })
}

fn instances() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1_i64..4).prop_map(Value::from),
        prop::sample::select(vec!["", "a", "bb"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        prop_oneof![
            prop::collection::btree_map(name, inner.clone(), 0..3).prop_map(|members| json!(members)),
            prop::collection::vec(inner, 0..3).prop_map(Value::from),
        ]
    })
}

/// Whether a schema accepts an instance, for the keywords that these tests use.
fn is_valid(schema: &Value, instance: &Value) -> bool {
    accepts(schema, schema, instance)
}

fn accepts(root: &Value, schema: &Value, instance: &Value) -> bool {
    let Some(members) = schema.as_object() else {
        return schema == true;
    };
    members
        .iter()
        .all(|(key, value)| keyword_accepts(root, members, (key, value), instance))
}

fn keyword_accepts(root: &Value, all: &Map<String, Value>, (key, value): (&str, &Value), instance: &Value) -> bool {
    let list = || value.as_array().into_iter().flatten();
    let number = |compare: fn(f64, f64) -> bool| {
        let (Some(is), Some(limit)) = (instance.as_f64(), value.as_f64()) else {
            return true;
        };
        compare(is, limit)
    };
    match key {
        "type" if value.is_string() => is_of_type(instance, value),
        "type" => list().any(|kind| is_of_type(instance, kind)),
        "enum" => list().any(|value| value == instance),
        "const" => value == instance,
        "minimum" => number(|is, limit| is >= limit),
        "maximum" => number(|is, limit| is <= limit),
        "minLength" => instance
            .as_str()
            .is_none_or(|text| text.chars().count() as u64 >= value.as_u64().unwrap()),
        "minItems" => instance
            .as_array()
            .is_none_or(|items| items.len() as u64 >= value.as_u64().unwrap()),
        "items" => instance
            .as_array()
            .into_iter()
            .flatten()
            .all(|item| accepts(root, value, item)),
        "required" => instance
            .as_object()
            .is_none_or(|object| list().all(|name| object.contains_key(name.as_str().unwrap()))),
        "properties" => {
            let object = instance.as_object().into_iter().flatten();
            object
                .filter_map(|(name, member)| Some((value.get(name)?, member)))
                .all(|(schema, member)| accepts(root, schema, member))
        }
        "additionalProperties" => {
            let is_named = |name: &str| {
                all.get("properties")
                    .is_some_and(|properties| properties.get(name).is_some())
            };
            let object = instance.as_object().into_iter().flatten();
            object
                .filter(|(name, _)| !is_named(name))
                .all(|(_, member)| accepts(root, value, member))
        }
        "anyOf" => list().any(|schema| accepts(root, schema, instance)),
        "oneOf" => list().filter(|schema| accepts(root, schema, instance)).count() == 1,
        "description" | "default" => true,
        _ => panic!("{key} is not expected"),
    }
}

/// Whether Anthropic takes it: what its errors say, and its SDK knows.
fn is_in_subset(schema: &Value) -> bool {
    let Some(members) = schema.as_object() else {
        return false;
    };
    const KNOWN: [&str; 14] = [
        "$ref",
        "$defs",
        "type",
        "anyOf",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "format",
        "description",
        "default",
    ];
    let is_known = members.keys().all(|key| KNOWN.contains(&key.as_str()));
    let is_closed = schema["type"] != "object" || schema["additionalProperties"] == false;
    let has_type = ["type", "anyOf", "enum", "const", "$ref"]
        .iter()
        .any(|key| members.contains_key(*key));
    let is_one_type = schema.get("type").is_none_or(Value::is_string);
    let values = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .chain(schema.get("const"));
    let are_simple = values.into_iter().all(is_simple);
    let all = |key: &str| {
        schema[key]
            .as_object()
            .into_iter()
            .flat_map(Map::values)
            .all(is_in_subset)
    };
    let any_of = schema["anyOf"].as_array().into_iter().flatten().all(is_in_subset);
    let items = schema.get("items").is_none_or(is_in_subset);
    let is_counted = schema.get("minItems").is_none_or(|least| least == 0 || least == 1);
    is_known && is_closed && has_type && is_one_type && are_simple && all("properties") && any_of && items && is_counted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_comes_out_is_in_the_subset(schema in schemas()) {
        if let Ok(Some(narrowed)) = for_anthropic(&raw(&schema)) {
            let narrowed: Value = serde_json::from_str(narrowed.schema.get()).unwrap();
            prop_assert!(is_in_subset(&narrowed), "{} of {}", narrowed, schema);
            prop_assert!(for_anthropic(&raw(&narrowed)).unwrap().is_none(), "{} changes again", narrowed);
        }
    }

    #[test]
    fn what_a_narrowed_schema_accepts_the_original_accepts(schema in schemas(), instance in instances()) {
        if let Ok(Some(narrowed)) = for_anthropic(&raw(&schema)) && !narrowed.is_looser {
            let narrowed: Value = serde_json::from_str(narrowed.schema.get()).unwrap();
            if is_valid(&narrowed, &instance) {
                prop_assert!(is_valid(&schema, &instance), "{} by {} and not by {}", instance, narrowed, schema);
            }
        }
    }

    #[test]
    fn strict_mode_accepts_no_more(schema in schemas(), instance in instances()) {
        if let Some(strict) = for_strict_openai(&raw(&schema)) {
            let strict: Value = serde_json::from_str(strict.get()).unwrap();
            if is_valid(&strict, &instance) {
                prop_assert!(is_valid(&schema, &instance), "{} by {} and not by {}", instance, strict, schema);
            }
        }
    }
}
