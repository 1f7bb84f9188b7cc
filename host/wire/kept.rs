//! A JSON object of which more may come. Its members are kept as they came: taken apart, tiny values would take many times their bytes.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::json::{Text, compact, members, value};
use super::shape::MAX_MEMBERS;

/// See the module. Members beyond [`MAX_MEMBERS`] are left out.
#[derive(Debug, Default)]
pub struct KeptObject(Vec<(String, Member)>);

/// The value of a member.
#[derive(Debug)]
pub enum Member {
    /// A string, which may go on.
    Text(String),
    /// Anything else, on one line.
    Json(Box<RawValue>),
}

impl Member {
    /// A value as it came.
    pub fn of(raw: &RawValue) -> Self {
        match value::<Text>(raw) {
            Some(Text(text)) => Member::Text(text.into_owned()),
            None => Member::Json(one_line(raw.get()).unwrap_or_else(|| raw.to_owned())),
        }
    }

    /// A value that came as text: JSON, or else that text.
    pub fn of_text(text: String) -> Self {
        match one_line(&text) {
            Some(json) => Member::Json(json),
            None => Member::Text(text),
        }
    }
}

impl Member {
    /// Its bytes as JSON, but for what has to be escaped.
    fn size(&self) -> usize {
        match self {
            Member::Text(text) => text.len(),
            Member::Json(raw) => raw.get().len(),
        }
    }
}

fn one_line(text: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(compact(text)?).ok()
}

impl KeptObject {
    /// An object as it came; without members, where it is none.
    pub fn of(raw: &RawValue) -> Self {
        let mut object = Self::default();
        object.extend(raw);
        object
    }

    /// Sets the members of another object.
    pub fn extend(&mut self, raw: &RawValue) {
        members(raw, |name, raw| self.set(&name, Member::of(raw)));
    }

    /// Sets a member, in the place that it has already.
    pub fn set(&mut self, name: &str, value: Member) {
        if let Some((_, place)) = self.0.iter_mut().find(|(known, _)| known == name) {
            *place = value;
        } else if self.0.len() < MAX_MEMBERS {
            self.0.push((name.to_owned(), value));
        }
    }

    /// Sets a member, or appends to the text that it is.
    pub fn append(&mut self, name: &str, value: Member) {
        let known = self.0.iter_mut().find(|(known, _)| known == name);
        match (known.map(|(_, value)| value), value) {
            (Some(Member::Text(text)), Member::Text(more)) => text.push_str(&more),
            (_, value) => self.set(name, value),
        }
    }

    /// The object as JSON, made in one buffer of about its size.
    pub fn to_json(&self) -> String {
        const AROUND: usize = 8;
        let size = |(name, value): &(String, Member)| name.len() + value.size() + AROUND;
        let mut json = Vec::with_capacity(self.0.iter().map(size).sum::<usize>() + AROUND);
        match serde_json::to_writer(&mut json, self).map(|()| String::from_utf8(json)) {
            Ok(Ok(json)) => json,
            // Neither happens: what is kept is text and JSON.
            _ => "{}".to_owned(),
        }
    }

    /// The text of a member.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(known, value)| match value {
            Member::Text(text) if known == name => Some(text.as_str()),
            _ => None,
        })
    }
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Member::Text(text) => serializer.serialize_str(text),
            Member::Json(raw) => raw.serialize(serializer),
        }
    }
}

impl Serialize for KeptObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_kept_replaced_and_appended_to() {
        let raw: &RawValue = serde_json::from_str("{\"a\":\"x\",\"b\":[1,\n 2.50],\"b\":{}}").unwrap();
        let mut object = KeptObject::of(raw);
        object.append("a", Member::Text("\"y".into()));
        object.append("b", Member::of_text("[ 3 ]".into()));
        object.append("c", Member::of_text("[".into()));
        assert_eq!(object.text("a"), Some("x\"y"));
        assert_eq!(object.to_json(), r#"{"a":"x\"y","b":[3],"c":"["}"#);
    }
}
