//! The names that tables of one kind declare: each is spelled well and declared once, and whoever refers to one is told
//! when there is none.

use std::collections::BTreeMap;

use super::document::{Document, Written};
use super::section::Section;
use super::spelling::{excerpt, suggest};

/// All names of one kind.
pub(super) struct Names<'a, T> {
    /// What they are names of, such as `target`.
    kind: &'static str,
    /// The line that declares each, and what it stands for: `None` when that is wrong, which has been reported.
    declared: BTreeMap<&'a str, (usize, Option<T>)>,
}

impl<'a, T> Names<'a, T> {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            declared: BTreeMap::new(),
        }
    }

    /// Takes a name; reports when it is taken.
    pub(super) fn declare(&mut self, document: &Document<'_>, name: Written<&'a str>, stands_for: Option<T>) {
        if let Some((line, _)) = self.declared.get(name.value) {
            let found = format!("the {} `{}` is already on line {line}", self.kind, excerpt(name.value));
            document.wrong(name.line, found, "write another name, or remove one of the two");
            return;
        }
        self.declared.insert(name.value, (name.line, stands_for));
    }

    /// What a name stands for; reports when it is nobody's.
    pub(super) fn find(&self, section: &Section<'_>, name: Written<&str>) -> Option<&T> {
        if let Some((_, stands_for)) = self.declared.get(name.value) {
            return stands_for.as_ref();
        }
        let known: Vec<_> = self.declared.keys().copied().collect();
        let found = format!("unknown {} `{}` in {}", self.kind, excerpt(name.value), section.title());
        let instead = suggest(name.value, &known, &format!("known {}s", self.kind));
        section.document.missing(Some(name.line), found, instead);
        None
    }

    /// The line that declares a name.
    pub(super) fn line(&self, name: &str) -> Option<usize> {
        self.declared.get(name).map(|(line, _)| *line)
    }
}

/// The `name` of a table; reports when it is missing or misspelled.
pub(super) fn read<'a>(section: &mut Section<'a>) -> Option<Written<&'a str>> {
    let name = section.required("name")?;
    if name.value.len() > MAX_BYTES || !name.value.bytes().all(|byte| is_plain(byte) || b".:/".contains(&byte)) {
        let instead = format!("write at most {MAX_BYTES} letters, digits, - _ . : and /");
        section.wrong(name.line, "name", &format!("is \"{}\"", excerpt(name.value)), instead);
        return None;
    }
    Some(name)
}

/// Whether this can be the name of a policy, which is also that of a file: letters, digits, `-` and `_`.
pub(super) fn is_policy(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_BYTES && name.bytes().all(is_plain)
}

/// Names stand in headers, metrics and file names: long enough for anybody, short enough for all of these.
const MAX_BYTES: usize = 64;

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_".contains(&byte)
}
