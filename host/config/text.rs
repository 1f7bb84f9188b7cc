//! Values as policies read them: everything is text. Attributes are single values; settings may also be arrays and
//! tables.

use toml::de::{DeInteger, DeTable, DeValue};

use super::section::{Entry, Section, Value};

/// The `attributes` of a section, in the order of lines.
pub(super) fn attributes(section: &mut Section<'_>) -> Vec<(String, String)> {
    let entries = section.entries("attributes");
    let attribute = |(name, value): Entry<'_>| {
        let text = scalar(value.value);
        if text.is_none() {
            section.wrong_type(name.value, value, "write a text, a number, true or false".to_owned());
        }
        Some((name.value.to_owned(), text?))
    };
    entries.into_iter().filter_map(attribute).collect()
}

/// A setting: single values as they are, arrays of them with commas between, all else as compact JSON.
pub(super) fn setting(section: &Section<'_>, name: &str, value: Value<'_>) -> Option<String> {
    if let Some(text) = scalar(value.value) {
        return Some(text);
    }
    if let Some(items) = scalars(value.value) {
        if items.iter().any(|item| item.contains(',')) {
            let instead = "write elements without commas: the policy gets them with commas between";
            section.wrong(value.line, name, "has an element with a comma in it", instead);
        }
        return Some(items.join(","));
    }
    let json = json(value.value);
    if json.is_none() {
        section.wrong(
            value.line,
            name,
            "holds a number that JSON has not",
            "write a smaller one",
        );
    }
    json.map(|json| json.to_string())
}

/// An array of single values as texts; `None` for all else.
fn scalars(value: &DeValue<'_>) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| scalar(item.get_ref())).collect()
}

/// A single value as text; `None` for arrays, tables and dates.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(decimal(number)),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// A whole number in decimal, whatever base it was written in.
fn decimal(number: &DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

/// A value as JSON; `None` when it holds a number that JSON has not.
fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok()?.into(),
        DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(items) => items
            .iter()
            .map(|item| json(item.get_ref()))
            .collect::<Option<Vec<_>>>()?
            .into(),
        DeValue::Table(table) => serde_json::Value::Object(object(table)?),
    })
}

fn object(table: &DeTable<'_>) -> Option<serde_json::Map<String, serde_json::Value>> {
    table
        .iter()
        .map(|(name, value)| Some((name.get_ref().to_string(), json(value.get_ref())?)))
        .collect()
}
