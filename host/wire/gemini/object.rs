//! JSON objects whose fields are spelled `likeThis` or `like_this`: Google's servers take both.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

use crate::wire::json::{Text, value};

/// An object's fields in their order, names in camel case.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads an object; `None` when it is something else.
    pub fn of(raw: &'a RawValue) -> Option<Self> {
        raw.get().starts_with('{').then(|| value(raw)).flatten()
    }

    /// The field of a name, in camel case; null counts as absent, and of several the last one counts.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let field = self.0.iter().rev().find(|(known, _)| known == name)?.1;
        (field.get() != "null").then_some(field)
    }

    /// The object in a field.
    pub fn object(&self, name: &str) -> Option<Object<'a>> {
        self.get(name).and_then(Object::of)
    }

    /// The text of a field.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// The number in a field; Google's JSON also takes it as a string.
    pub fn number(&self, name: &str) -> Option<Number> {
        let raw = self.get(name)?;
        value(raw).or_else(|| serde_json::from_str(&text(raw)?).ok())
    }

    /// The number in a field that counts something.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.number(name)?
            .as_f64()
            .filter(|number| *number >= 0.0)
            .map(|number| number as u64)
    }

    /// Whether a field says `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|raw| raw.get() == "true")
    }

    /// The items of a field; a single object counts as a list of one.
    pub fn list(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(list).unwrap_or_default()
    }

    /// The fields.
    pub fn iter(&self) -> impl Iterator<Item = (&Cow<'a, str>, &'a RawValue)> {
        self.0.iter().map(|(name, raw)| (name, *raw))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The items of a list, or the one object that stands in its place.
pub fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    if raw.get().starts_with('{') {
        return Some(vec![raw]);
    }
    value(raw)
}

/// A string's text.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    value::<Text>(raw).map(|text| text.0)
}

/// A name in camel case: `inline_data` becomes `inlineData`.
pub fn camel(name: Cow<'_, str>) -> Cow<'_, str> {
    if !name.trim_start_matches('_').contains('_') {
        return name;
    }
    let mut spelled = String::with_capacity(name.len());
    let mut raised = false;
    for letter in name.chars() {
        if letter == '_' && !spelled.is_empty() {
            raised = true;
        } else if std::mem::take(&mut raised) {
            spelled.push(letter.to_ascii_uppercase());
        } else {
            spelled.push(letter);
        }
    }
    spelled.into()
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Text(name)) = map.next_key()? {
                    fields.push((camel(name), map.next_value()?));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
