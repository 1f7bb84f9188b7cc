//! Arguments of a tool call that come in pieces, each with its place: Vertex sends them so to those who ask for it.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::object::Object;
use crate::wire::Malformed;
use crate::wire::json::tree;

/// A tool call that is not complete yet.
#[derive(Debug)]
pub struct Partial {
    /// Which tool call of the answer.
    pub index: u32,
    arguments: Value,
    /// Values that the arguments consist of, at most.
    values: usize,
}

/// Values that arguments in pieces may consist of: each takes some hundred bytes until the call is complete.
const MAX_VALUES: usize = 8 * 1024;
/// Levels of a place; JSON parsers go no deeper than 128.
const MAX_LEVELS: usize = 100;
/// Items of a list that may be left out before one that is there.
const MAX_GAP: usize = 100;

#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Field(Cow<'a, str>),
    Item(usize),
}

impl Partial {
    /// A call without arguments.
    pub fn new(index: u32) -> Self {
        Self {
            index,
            arguments: Value::Object(Map::new()),
            values: 0,
        }
    }

    /// Adds what a `functionCall` says: `args` in one piece, or `partialArgs`.
    pub fn add(&mut self, call: &Object<'_>) -> Result<(), Malformed> {
        let whole = call
            .get("args")
            .and_then(|args| tree(args.get(), MAX_VALUES.saturating_sub(self.values)));
        if let (Some((Value::Object(fields), values)), Value::Object(arguments)) = (whole, &mut self.arguments) {
            arguments.extend(fields);
            self.values += values;
        }
        for piece in call.list("partialArgs") {
            let piece = Object::of(piece).unwrap_or_default();
            let path = piece.text("jsonPath").unwrap_or_default();
            let steps = steps(&path).ok_or_else(|| Malformed::whole("a piece of a tool call has no place"))?;
            self.set(&steps, &piece)?;
        }
        Ok(())
    }

    /// The arguments.
    pub fn json(&self) -> String {
        self.arguments.to_string()
    }

    fn set(&mut self, steps: &[Step<'_>], piece: &Object<'_>) -> Result<(), Malformed> {
        let mut place = &mut self.arguments;
        for step in steps {
            place = entered(place, step, &mut self.values)?;
            if self.values > MAX_VALUES {
                return Err(Malformed::whole("the arguments of a tool call in pieces are too many"));
            }
        }
        if let Some(more) = piece.text("stringValue") {
            match place {
                Value::String(text) => text.push_str(&more),
                other => *other = Value::String(more.into_owned()),
            }
        } else if let Some(number) = piece.number("numberValue") {
            *place = Value::Number(whole(number));
        } else if piece.get("boolValue").is_some() {
            *place = Value::Bool(piece.is_true("boolValue"));
        }
        Ok(())
    }
}

/// Google's JSON has all numbers as doubles: `3.0` was a 3.
fn whole(number: Number) -> Number {
    let text = number.as_str();
    match text.strip_suffix(".0").and_then(|text| text.parse::<i64>().ok()) {
        Some(whole) => whole.into(),
        None => number,
    }
}

/// The place of a step inside another, made where it is not there yet.
fn entered<'v>(place: &'v mut Value, step: &Step<'_>, values: &mut usize) -> Result<&'v mut Value, Malformed> {
    match step {
        Step::Field(name) => {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            let fields = place.as_object_mut().ok_or_else(misplaced)?;
            *values += usize::from(!fields.contains_key(&**name));
            Ok(fields.entry(name.as_ref()).or_insert(Value::Null))
        }
        Step::Item(index) => {
            if !place.is_array() {
                *place = Value::Array(Vec::new());
            }
            let items = place.as_array_mut().ok_or_else(misplaced)?;
            if *index > items.len() + MAX_GAP {
                return Err(misplaced());
            }
            if *index >= items.len() {
                *values += index + 1 - items.len();
                items.resize(index + 1, Value::Null);
            }
            items.get_mut(*index).ok_or_else(misplaced)
        }
    }
}

fn misplaced() -> Malformed {
    Malformed::whole("a piece of a tool call is out of place")
}

/// The steps of a JSON path such as `$.a[0]['b']`; `None` when it is something else.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if steps.len() == MAX_LEVELS {
            return None;
        }
        let step;
        if let Some(field) = rest.strip_prefix('.') {
            let end = field.find(['.', '[']).unwrap_or(field.len());
            step = Step::Field(field[..end].into());
            rest = &field[end..];
        } else {
            let inside = rest.strip_prefix('[')?;
            let quote = inside.chars().next().filter(|first| matches!(first, '\'' | '"'));
            (step, rest) = match quote {
                Some(quote) => quoted(&inside[1..], quote)?,
                None => {
                    let (index, rest) = inside.split_once(']')?;
                    (Step::Item(index.parse().ok()?), rest)
                }
            };
        }
        steps.push(step);
    }
    Some(steps)
}

/// A name in quotes, up to its bracket.
fn quoted(text: &str, quote: char) -> Option<(Step<'_>, &str)> {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.push(letters.next()?.1),
            _ if letter == quote => {
                let rest = text[at + 1..].strip_prefix(']')?;
                return Some((Step::Field(name.into()), rest));
            }
            _ => name.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_places() {
        let field = |name: &'static str| Step::Field(name.into());
        assert_eq!(
            steps("$.recipe.ingredients[12].name"),
            Some(vec![
                field("recipe"),
                field("ingredients"),
                Step::Item(12),
                field("name")
            ])
        );
        assert_eq!(steps(r#"$['a.b']["c\"d"]"#), Some(vec![field("a.b"), field("c\"d")]));
        assert_eq!(steps("$"), Some(vec![]));
        for wrong in [
            "",
            "a",
            "$[",
            "$[x]",
            "$['a'",
            "$['a'x",
            "$x",
            &format!("${}", "[0]".repeat(101)),
        ] {
            assert_eq!(steps(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn puts_pieces_together() {
        let mut partial = Partial::new(0);
        let mut add = |call: &str| {
            let raw: &serde_json::value::RawValue = serde_json::from_str(call).unwrap();
            partial.add(&Object::of(raw).unwrap())
        };
        add(r#"{"partialArgs":[{"jsonPath":"$.a[1].b","stringValue":"x","willContinue":true}]}"#).unwrap();
        add(r#"{"partialArgs":[{"jsonPath":"$.a[1].b","stringValue":"y"},{"jsonPath":"$.n","numberValue":3.0}]}"#)
            .unwrap();
        add(r#"{"partialArgs":[{"jsonPath":"$.t","boolValue":true},{"jsonPath":"$.z","nullValue":"NULL_VALUE"}]}"#)
            .unwrap();
        assert!(add(r#"{"partialArgs":[{"jsonPath":"$.a[4000000000]","stringValue":""}]}"#).is_err());
        assert_eq!(partial.json(), r#"{"a":[null,{"b":"xy"}],"n":3,"t":true,"z":null}"#);
    }
}
