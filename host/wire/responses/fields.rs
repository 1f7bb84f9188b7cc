//! A JSON object whose members are read one by one, as far as they are known.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::json::{Text, value};

/// The members of an object in their order. A name may come twice, as JSON allows: the last counts.
#[derive(Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The members of a value; `None` when it is no object.
    pub fn of(raw: &'a RawValue) -> Option<Self> {
        value(raw)
    }

    /// All values of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a RawValue> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, raw)| *raw)
    }

    /// The value of a name; `None` when it is missing or null.
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.0.iter().rev().find(|(known, _)| known == name)?;
        (raw.get() != "null").then_some(raw)
    }

    /// The value of a name, where it is of a type.
    pub fn value<T: Deserialize<'a>>(&self, name: &str) -> Option<T> {
        self.get(name).and_then(value)
    }

    /// The text of a name, where it is one.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// The members that are not null, each name once.
    pub fn iter(&self) -> impl Iterator<Item = (&Cow<'a, str>, &'a RawValue)> {
        let mut seen = HashSet::new();
        let last = self.0.iter().rev().filter(move |(name, _)| seen.insert(name));
        let mut members: Vec<_> = last.filter(|(_, raw)| raw.get() != "null").collect();
        members.reverse();
        members.into_iter().map(|(name, raw)| (name, *raw))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(Text(name)) = map.next_key()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A string's text.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    value::<Text>(raw).map(|text| text.0)
}

/// A list's values.
pub fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    value(raw)
}

/// What stands behind a prefix.
pub fn behind<'a>(text: &Cow<'a, str>, prefix: &str) -> Option<Cow<'a, str>> {
    match text {
        Cow::Borrowed(text) => text.strip_prefix(prefix).map(Cow::Borrowed),
        Cow::Owned(text) => text.strip_prefix(prefix).map(|rest| Cow::Owned(rest.to_owned())),
    }
}
