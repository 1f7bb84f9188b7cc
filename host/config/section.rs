//! One table of the file while it is read. It knows which keys were asked for, so that closing it reports all others,
//! and it reports what has the wrong type or is out of range. Reading goes on after an error: the caller gets `None`
//! and fills in a default, and the document remembers that loading has failed.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Written};
use super::spelling::{excerpt, suggest};

/// A table, and what may be asked of it.
pub(super) struct Section<'a> {
    pub(super) document: &'a Document<'a>,
    /// The line of its header.
    pub(super) line: usize,
    /// As the user knows it, such as `[server]`; empty for the top of the file.
    title: String,
    /// `None` when the user did not write it.
    table: Option<&'a DeTable<'a>>,
    /// The keys this kind of table can have, as far as they have been asked for.
    known: Vec<&'static str>,
}

/// A value of any type, before anything is known about it.
pub(super) type Value<'a> = Written<&'a DeValue<'a>>;

/// A value whose key is the user's own.
pub(super) type Entry<'a> = (Written<&'a str>, Value<'a>);

/// The keys at the top of the file. Written below a table's header they belong to that table, which is TOML's oldest
/// trap.
const TOP_KEYS: [&str; 7] = [
    "listen",
    "admin",
    "admin_hosts",
    "admin_token",
    "admin_open_metrics",
    "state",
    "ca_file",
];

impl<'a> Section<'a> {
    /// The whole file.
    pub(super) fn top(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            document,
            line: 1,
            title: String::new(),
            table: Some(table),
            known: Vec::new(),
        }
    }

    /// The section as the user knows it, such as `[server]`.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Whether the user wrote this table at all.
    pub(super) fn is_written(&self) -> bool {
        self.table.is_some()
    }

    /// What the user wrote for a key, if anything. Everything below asks through this, which makes the key known.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.know(key);
        let value = self.table?.get(key)?;
        Some(self.written(value))
    }

    /// A text, as it is.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Written<&'a str>> {
        let value = self.value(key)?;
        self.as_text(key, value)
    }

    /// A text that may not be empty.
    pub(super) fn word(&mut self, key: &'static str) -> Option<Written<&'a str>> {
        let text = self.text(key)?;
        if text.value.trim().is_empty() {
            self.wrong(text.line, key, "is empty", format!("write {key} = \"…\""));
            return None;
        }
        Some(text)
    }

    /// A text that must be there and may not be empty.
    pub(super) fn required(&mut self, key: &'static str) -> Option<Written<&'a str>> {
        if !self.has(key) {
            self.know(key);
            self.missing(key, format!("write {key} = \"…\""));
            return None;
        }
        self.word(key)
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Option<Vec<Written<&'a str>>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value.value else {
            self.wrong_type(key, value, format!("write {key} = [\"…\"]"));
            return None;
        };
        Some(
            items
                .iter()
                .filter_map(|item| self.as_text(key, self.written(item)))
                .collect(),
        )
    }

    /// A whole number within a range; `N` must have room for all of it.
    pub(super) fn whole<N: TryFrom<u64>>(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<N> {
        let value = self.value(key)?;
        let instead = format!("write a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(written) = value.value else {
            self.wrong_type(key, value, instead);
            return None;
        };
        let number = u64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(value.line, key, &format!("is {written}"), instead);
        }
        number.and_then(|number| N::try_from(number).ok())
    }

    /// A duration in milliseconds within a range.
    pub(super) fn millis(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Duration> {
        self.whole(key, range).map(Duration::from_millis)
    }

    /// A size that is written in KiB, in bytes.
    pub(super) fn kib<N: TryFrom<u64>>(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<N> {
        self.whole::<u64>(key, range)
            .and_then(|kib| N::try_from(kib << 10).ok())
    }

    /// A size that is written in MiB, in bytes.
    pub(super) fn mib<N: TryFrom<u64>>(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<N> {
        self.whole::<u64>(key, range)
            .and_then(|mib| N::try_from(mib << 20).ok())
    }

    /// A number within a range, with or without a fraction.
    pub(super) fn number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(key)?;
        self.as_number(key, value, range)
    }

    /// A share, from 0 to 1.
    pub(super) fn share(&mut self, key: &'static str) -> Option<f32> {
        self.number(key, 0.0..=1.0).map(|share| share as f32)
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.value.as_bool();
        if flag.is_none() {
            self.wrong_type(key, value, "write true or false".to_owned());
        }
        flag
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        self.as_choice(key, text, choices)
    }

    /// Any number of a few words.
    pub(super) fn choices<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<Vec<T>> {
        let texts = self.texts(key)?;
        Some(
            texts
                .into_iter()
                .filter_map(|text| self.as_choice(key, text, choices))
                .collect(),
        )
    }

    /// A path; relative ones begin at the folder of the file.
    pub(super) fn path(&mut self, key: &'static str) -> Option<Written<PathBuf>> {
        let text = self.word(key)?;
        Some(Written {
            value: self.document.base.join(text.value),
            line: text.line,
        })
    }

    /// The path of a PEM file, and what it holds; `None` instead of that if there is something wrong with it, which is reported, or
    /// if it is not to be read.
    pub(super) fn pem_file(
        &mut self,
        key: &'static str,
        fault: fn(&[u8]) -> Option<String>,
    ) -> Option<(PathBuf, Option<Vec<u8>>)> {
        let Written { value: path, line } = self.path(key)?;
        if self.document.source.without_secrets {
            self.document.leaves_unread(format!("file {}", path.display()));
            return Some((path, None));
        }
        let read = self.document.read(&path);
        let read = read.map_err(|error| format!("cannot be read: {error}"));
        let checked = read.and_then(|bytes| fault(&bytes).map_or(Ok(bytes), Err));
        if let Err(fault) = &checked {
            let fault = format!("is `{}`, which {fault}", path.display());
            self.wrong(line, key, &fault, "write the path of a PEM file");
        }
        Some((path, checked.ok()))
    }

    /// A table under this one. What the user did not write is a section without keys.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let (title, instead) = if self.title.is_empty() {
            (format!("[{key}]"), format!("write [{key}] and its keys below"))
        } else {
            (format!("{key} of {}", self.title), format!("write {key} = {{ … }}"))
        };
        let absent = self.child(title.clone(), self.line);
        let Some(value) = self.value(key) else { return absent };
        self.as_section(key, value, title, instead).unwrap_or(absent)
    }

    /// The `[[key]]` tables of the top of the file.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let (title, instead) = (format!("[[{key}]]"), format!("write [[{key}]] and its keys below"));
        let DeValue::Array(items) = value.value else {
            self.wrong_type(key, value, instead);
            return Vec::new();
        };
        let section = |item| self.as_section(key, self.written(item), title.clone(), instead.clone());
        items.iter().filter_map(section).collect()
    }

    /// The `[key.NAME]` tables of the top of the file, by name.
    pub(super) fn named_sections(&mut self, key: &'static str) -> Vec<(Written<&'a str>, Section<'a>)> {
        let entries = self.entries(key);
        let named = |(name, value): Entry<'a>| {
            let title = format!("[{key}.{}]", excerpt(name.value));
            let instead = format!("write {title} and its keys below");
            Some((name, self.as_section(name.value, value, title, instead)?))
        };
        entries.into_iter().filter_map(named).collect()
    }

    /// The entries of a table whose keys are the user's own, in the order of lines.
    pub(super) fn entries(&mut self, key: &'static str) -> Vec<Entry<'a>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value.value else {
            self.wrong_type(key, value, format!("write {key} = {{ … }}"));
            return Vec::new();
        };
        let entry = |(name, value): (&'a Spanned<Cow<'a, str>>, &'a _)| {
            let line = self.document.line(name.span().start);
            (
                Written {
                    value: name.get_ref().as_ref(),
                    line,
                },
                self.written(value),
            )
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries.into_iter().map(entry).collect()
    }

    /// The line of a key, or that of the table when the user did not write the key.
    pub(super) fn line_of(&self, key: &str) -> usize {
        self.table
            .and_then(|table| table.get(key))
            .map_or(self.line, |value| self.document.line(value.span().start))
    }

    /// Whether the user wrote a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// What the user wrote for `key` is wrong: "`key` in [table] FAULT; INSTEAD".
    pub(super) fn wrong(&self, line: usize, key: &str, fault: &str, instead: impl Into<String>) {
        self.document
            .wrong(line, format!("`{}`{} {fault}", excerpt(key), self.place()), instead);
    }

    /// The user should have written `key`.
    pub(super) fn missing(&self, key: &str, instead: impl Into<String>) {
        self.document
            .missing(Some(self.line), format!("`{key}` is missing{}", self.place()), instead);
    }

    /// A value that must be a text.
    pub(super) fn as_text(&self, key: &str, value: Value<'a>) -> Option<Written<&'a str>> {
        let text = value.value.as_str();
        if text.is_none() {
            self.wrong_type(key, value, "write a text in quotes".to_owned());
        }
        Some(Written {
            value: text?,
            line: value.line,
        })
    }

    /// A value that must be a number within a range.
    pub(super) fn as_number(&self, key: &str, value: Value<'a>, range: RangeInclusive<f64>) -> Option<f64> {
        let instead = format!("write a number from {} to {}", range.start(), range.end());
        let written = match value.value {
            DeValue::Float(float) => float.as_str().to_owned(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
            _ => {
                self.wrong_type(key, value, instead);
                return None;
            }
        };
        let number = written.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(value.line, key, &format!("is {written}"), instead);
        }
        number
    }

    /// Reports a value whose type is not the one that `instead` asks for.
    pub(super) fn wrong_type(&self, key: &str, value: Value<'a>, instead: String) {
        self.wrong(value.line, key, &format!("is {}", describe(value.value)), instead);
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn close(self) {
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let found = format!("unknown key `{}`{}", excerpt(name), self.place());
            let instead = if TOP_KEYS.contains(&name) && !self.title.is_empty() {
                "write it above the first table".to_owned()
            } else {
                suggest(name, &self.known, "known keys")
            };
            self.document
                .wrong(self.document.line(key.span().start), found, instead);
        }
    }

    fn know(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    fn as_choice<T: Copy>(&self, key: &str, text: Written<&str>, choices: &[(&str, T)]) -> Option<T> {
        let choice = choices.iter().find(|(word, _)| *word == text.value);
        if choice.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.wrong(
                text.line,
                key,
                &format!("is \"{}\"", excerpt(text.value)),
                format!("write {}", words.join(" or ")),
            );
        }
        choice.map(|(_, value)| *value)
    }

    /// A value that must be a table, as a section of its own.
    pub(super) fn as_section(
        &self,
        key: &str,
        value: Value<'a>,
        title: String,
        instead: String,
    ) -> Option<Section<'a>> {
        let table = value.value.as_table();
        if table.is_none() {
            self.wrong_type(key, value, instead);
        }
        Some(Section {
            table: Some(table?),
            ..self.child(title, value.line)
        })
    }

    fn child(&self, title: String, line: usize) -> Section<'a> {
        Section {
            document: self.document,
            line,
            title,
            table: None,
            known: Vec::new(),
        }
    }

    fn written(&self, value: &'a Spanned<DeValue<'a>>) -> Value<'a> {
        Written {
            value: value.get_ref(),
            line: self.document.line(value.span().start),
        }
    }

    fn place(&self) -> String {
        if self.title.is_empty() {
            String::new()
        } else {
            format!(" in {}", self.title)
        }
    }
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
