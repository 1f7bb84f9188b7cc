//! One span: something that took time, with what is known of it. Plain data, which is written by [`super::otlp`].

use super::context::{SpanId, TraceId};

/// See the module.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace that it belongs to.
    pub trace: TraceId,
    /// Its own name.
    pub id: SpanId,
    /// What it is a part of.
    pub parent: Option<SpanId>,
    /// That is another process's.
    pub has_remote_parent: bool,
    /// What other systems on the way had to say; empty when nothing.
    pub state: String,
    /// What is done.
    pub name: String,
    /// Which side of a call it is.
    pub side: Side,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970, not before the start.
    pub end: u64,
    /// What else is known.
    pub attributes: Attributes,
    /// It failed; why, in a few words.
    pub error: Option<String>,
}

/// A side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who is called.
    Server,
    /// Who calls.
    Client,
}

/// Facts by name.
#[derive(Debug, Clone, Default)]
pub struct Attributes(Vec<(&'static str, Value)>);

/// A fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A number with a fraction.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Several texts.
    Texts(Vec<String>),
}

/// Characters of a text that are told: clients and vendors may write anything of any length.
const MAX_TEXT: usize = 256;

impl Attributes {
    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        self.0.iter()
    }

    /// A text, as long as it may be; nothing where it is empty.
    pub fn text(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.0.push((name, Value::Text(clipped(text))));
        }
    }

    /// Texts; nothing where there are none.
    pub fn texts(&mut self, name: &'static str, texts: &[String]) {
        if !texts.is_empty() {
            let texts = texts.iter().map(|text| clipped(text)).collect();
            self.0.push((name, Value::Texts(texts)));
        }
    }

    /// A whole number.
    pub fn count(&mut self, name: &'static str, count: u64) {
        self.0.push((name, Value::Count(count)));
    }

    /// A number, if it is known.
    pub fn number(&mut self, name: &'static str, number: Option<f64>) {
        if let Some(number) = number.filter(|number| number.is_finite()) {
            self.0.push((name, Value::Number(number)));
        }
    }

    /// Something that is mostly not so, where it is.
    pub fn flag(&mut self, name: &'static str, flag: bool) {
        if flag {
            self.0.push((name, Value::Flag(true)));
        }
    }
}

/// The beginning of a text, without what is not to be printed.
pub fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}
