//! One configuration file while it is read: where its lines begin, what surrounds it, and what was found so far.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::files::NamedFiles;
use super::{Environment, Finding, Source, file};

/// What reading needs to know besides the text's tree, and what it has found.
pub(super) struct Document<'a> {
    file: &'a Path,
    /// The folder that relative paths are relative to.
    pub(super) base: &'a Path,
    pub(super) env: Environment<'a>,
    /// What goes before what the text says.
    pub(super) source: &'a Source,
    /// Byte offsets at which lines begin.
    line_starts: Vec<usize>,
    /// Lines that are not TOML. What they hold was guessed, so nothing else is said about them, nor that anything is
    /// missing.
    broken: RefCell<Vec<usize>>,
    errors: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    files: RefCell<NamedFiles>,
    policy_lines: RefCell<BTreeMap<String, usize>>,
    not_read: RefCell<Vec<String>>,
}

/// What a document leaves when all of it has been read.
pub(super) struct Found {
    pub(super) errors: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
    pub(super) files: NamedFiles,
    pub(super) policy_lines: BTreeMap<String, usize>,
    pub(super) not_read: Vec<String>,
}

/// Something the user wrote, and the line it is on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Written<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        text: &str,
        file: &'a Path,
        base: &'a Path,
        (source, env): (&'a Source, Environment<'a>),
    ) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            file,
            base,
            env,
            source,
            line_starts: std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect(),
            broken: RefCell::default(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            files: RefCell::default(),
            policy_lines: RefCell::default(),
            not_read: RefCell::default(),
        }
    }

    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// The line is not TOML. What was found is `None` where it follows from another line.
    pub(super) fn broken(&self, line: usize, found_and_instead: Option<(String, String)>) {
        self.broken.borrow_mut().push(line);
        if let Some((found, instead)) = found_and_instead {
            self.errors.borrow_mut().push(self.finding(Some(line), found, instead));
        }
    }

    /// What the line holds is wrong.
    pub(super) fn wrong(&self, line: usize, found: impl Into<String>, instead: impl Into<String>) {
        if !self.broken.borrow().contains(&line) {
            self.errors.borrow_mut().push(self.finding(Some(line), found, instead));
        }
    }

    /// Something that should be there is not; `line` is where it belongs, if anywhere in particular.
    pub(super) fn missing(&self, line: Option<usize>, found: impl Into<String>, instead: impl Into<String>) {
        if self.broken.borrow().is_empty() {
            self.errors.borrow_mut().push(self.finding(line, found, instead));
        }
    }

    /// What the line holds is legal but suspicious.
    pub(super) fn suspicious(&self, line: usize, found: impl Into<String>, instead: impl Into<String>) {
        self.warnings
            .borrow_mut()
            .push(self.finding(Some(line), found, instead));
    }

    /// Reads a file that the text names, and remembers what it held.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = file::bytes(path);
        self.files.borrow_mut().insert(path, bytes.as_deref().ok());
        bytes
    }

    /// The text names a policy; the first line that does counts.
    pub(super) fn names_policy(&self, name: &str, line: usize) {
        self.policy_lines.borrow_mut().entry(name.to_owned()).or_insert(line);
    }

    /// A secret or a certificate is left unread, as the source wants it.
    pub(super) fn leaves_unread(&self, what: String) {
        let mut not_read = self.not_read.borrow_mut();
        if !not_read.contains(&what) {
            not_read.push(what);
        }
    }

    /// Everything that was found, in the order of lines.
    pub(super) fn finish(self) -> Found {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        errors.sort_by_key(|finding| finding.line);
        warnings.sort_by_key(|finding| finding.line);
        Found {
            errors,
            warnings,
            files: self.files.into_inner(),
            policy_lines: self.policy_lines.into_inner(),
            not_read: self.not_read.into_inner(),
        }
    }

    /// A finding is one line, whatever the user wrote.
    fn finding(&self, line: Option<usize>, found: impl Into<String>, instead: impl Into<String>) -> Finding {
        let found = found.into().replace(char::is_control, " ");
        Finding {
            file: self.file.to_owned(),
            line,
            found,
            instead: instead.into(),
        }
    }
}
