//! Secrets: where they come from, and that they are never printed. A configuration file says where a secret is, never
//! what it is.

use std::fmt;
use std::path::{Path, PathBuf};

use super::document::{Document, Written};
use super::section::{Section, Value};
use super::spelling::excerpt;

/// How the file says where a secret is.
const INSTEAD: &str = "write { env = \"NAME\" } or { file = \"PATH\" }";

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret read from the environment or a file.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that signs a request.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A text of somebody else's without this secret in it: vendors repeat keys in their errors.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }

    /// Reads what `key = { env = "NAME" }` or `key = { file = "PATH" }` refers to.
    pub(super) fn read(section: &mut Section<'_>, key: &'static str) -> Option<Self> {
        let value = section.value(key)?;
        if !value.value.is_table() {
            Self::written_out(section, key, value);
            return None;
        }
        Self::of(section, key, value)
    }

    /// Reads such a reference where the key is the user's own.
    pub(super) fn of(section: &Section<'_>, key: &str, value: Value<'_>) -> Option<Self> {
        let title = match section.title() {
            "" => excerpt(key),
            table => format!("{} of {table}", excerpt(key)),
        };
        let mut source = section.as_section(key, value, title, INSTEAD.to_owned())?;
        let one = source.has("env") != source.has("file");
        let (variable, path) = (source.word("env"), source.path("file"));
        if !one {
            section.wrong(value.line, key, "must say where the secret is", INSTEAD);
        }
        let from_variable = variable.filter(|_| one).and_then(|name| from_variable(&source, name));
        let from_file = path.filter(|_| one).and_then(|path| from_file(&source, &path));
        source.close();
        from_variable.or(from_file)
    }

    /// The user wrote a secret itself.
    pub(super) fn written_out(section: &Section<'_>, key: &str, value: Value<'_>) {
        let instead = format!("secrets do not belong in this file: {INSTEAD}");
        section.wrong(value.line, key, "is written out", instead);
    }

    /// Reads a list of such references.
    pub(super) fn read_list(section: &mut Section<'_>, key: &'static str) -> Vec<Self> {
        const INSTEAD: &str = "write a list of { env = \"NAME\" } or { file = \"PATH\" }";
        let secret = |mut source: Section<'_>| {
            let (variable, path) = (source.word("env"), source.path("file"));
            if source.has("env") == source.has("file") {
                source.missing("env", INSTEAD);
                return None;
            }
            let secret = variable
                .and_then(|name| from_variable(&source, name))
                .or_else(|| path.and_then(|path| from_file(&source, &path)));
            source.close();
            secret
        };
        section.sections(key).into_iter().filter_map(secret).collect()
    }

    /// Takes what an environment variable or a file holds, unless it is empty or could not stand in a header.
    pub(super) fn checked(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty");
        }
        let fits = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if fits {
            Ok(Self::new(text))
        } else {
            Err("holds a character that a header cannot carry")
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn from_variable(source: &Section<'_>, name: Written<&str>) -> Option<Secret> {
    if source.document.source.without_secrets {
        return Some(made_up(source.document, shown("environment variable", name.value)));
    }
    let text = (source.document.env)(name.value);
    let fault = match text.as_deref().map(Secret::checked) {
        Some(Ok(secret)) => return Some(secret),
        Some(Err(fault)) => fault,
        None => "is not set",
    };
    let (name, line) = (name.value, name.line);
    let (found, instead) = if may_be_secret(name) {
        (
            format!("the environment variable for {} {fault}", source.title()),
            "write the variable's name, not the secret itself",
        )
    } else {
        (
            format!("environment variable `{name}` for {} {fault}", source.title()),
            "set it to the secret alone",
        )
    };
    source.document.wrong(line, found, instead);
    None
}

fn from_file(source: &Section<'_>, path: &Written<PathBuf>) -> Option<Secret> {
    if source.document.source.without_secrets {
        return Some(made_up(
            source.document,
            shown("file", &path.value.display().to_string()),
        ));
    }
    let fault = match read(source.document, &path.value) {
        Ok(secret) => return Some(secret),
        Err(fault) => fault,
    };
    let name = path.value.file_name().unwrap_or_default().to_string_lossy();
    let has_folder = path.value.parent() != Some(source.document.base);
    let found = if may_be_secret(&name) && !has_folder {
        format!("the file for {} {fault}", source.title())
    } else {
        format!("file `{}` for {} {fault}", path.value.display(), source.title())
    };
    source
        .document
        .wrong(path.line, found, "write the path of a file that holds the secret alone");
    None
}

/// A place that is left unread, unless its name may be the secret itself.
fn shown(kind: &str, name: &str) -> String {
    if may_be_secret(name) && !name.contains('/') {
        format!("{kind} of a name that is not shown, as it may be the secret itself")
    } else {
        format!("{kind} {name}")
    }
}

/// Stands for a secret that is not read: another one for each place, as keys of several clients must differ.
fn made_up(document: &Document<'_>, place: String) -> Secret {
    let secret = Secret::new(format!("[{place}]"));
    document.leaves_unread(place);
    secret
}

/// The secret in a file, or what is wrong with the file. Editors end files with a newline, which is not part of the
/// secret.
fn read(document: &Document<'_>, path: &Path) -> Result<Secret, String> {
    let bytes = document
        .read(path)
        .map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
    Secret::checked(text.trim_end()).map_err(str::to_owned)
}

/// Whether a name that refers to nothing may be the secret itself, written in the wrong place; then it must not be
/// repeated. Variables are usually in capitals, and files have an ending or a folder; keys are long and have none of
/// these.
fn may_be_secret(name: &str) -> bool {
    const SHORTEST_KEY: usize = 20;
    name.len() >= SHORTEST_KEY
        && !name.contains('.')
        && name.bytes().any(|byte| byte.is_ascii_lowercase() || byte == b'-')
}
