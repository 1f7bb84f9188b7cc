//! Operator switches: names that an operator sets during an outage and policies see as `switch.NAME` in the next decision. Kept in the
//! state folder, so that a restart in the middle of an outage does not forget them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::state_folder::Folder;

/// Switches at once, besides those of the configuration's targets and vendors, which are always let in.
const MAX_SWITCHES: usize = 256;
/// Bytes of a name and of a value.
const MAX_TEXT: usize = 256;

/// Where they are kept.
const FILE: &str = "switches.json";
/// Where a file goes that cannot be read, so that the next switch does not overwrite what is in it.
const UNREADABLE: &str = "switches.json.unreadable";
/// Bytes of the file: more than all switches can have.
const FILE_BYTES: u64 = 1 << 20;

/// All switches. Reading them costs no lock.
pub struct Switches {
    folder: Arc<Folder>,
    current: ArcSwap<Attributes>,
    /// Writers stand in line: a file must hold what memory holds.
    writing: Mutex<()>,
}

/// Switches as policies see them: (`switch.NAME`, value).
pub type Attributes = Vec<(String, String)>;

/// Why a switch was not set.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The name cannot be one.
    #[error("a switch's name is 1 to {MAX_TEXT} letters, digits, `-`, `_` or `.`")]
    Name,
    /// The value is too long or not text.
    #[error("a switch's value is at most {MAX_TEXT} bytes of text without control characters")]
    Value,
    /// There are too many.
    #[error("there are {MAX_SWITCHES} switches already; delete one first")]
    TooMany,
    /// It could not be kept.
    #[error("{} cannot be written: {error}", .file.display())]
    Kept {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Switches {
    /// Reads the switches that were set before. A file that cannot be read is logged and set aside, and none is set.
    pub fn open(folder: Arc<Folder>) -> Self {
        let kept = match folder.read(FILE, FILE_BYTES) {
            Ok(bytes) => serde_json::from_slice::<BTreeMap<String, String>>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        let kept = kept.unwrap_or_else(|error| {
            let file = folder.path().join(FILE);
            tracing::error!(file = %file.display(), %error, "the switches cannot be read: none is set now; the file is kept as {UNREADABLE}");
            if let Err(error) = folder.rename(FILE, &folder, UNREADABLE) {
                tracing::error!(file = %file.display(), %error, "the file cannot be renamed");
            }
            BTreeMap::new()
        });
        Self {
            folder,
            current: ArcSwap::from_pointee(attributes(&kept)),
            writing: Mutex::default(),
        }
    }

    /// What is set now.
    pub fn attributes(&self) -> arc_swap::Guard<Arc<Attributes>> {
        self.current.load()
    }

    /// Whether a switch takes something out: its value is `off`.
    pub fn is_off(&self, name: &str) -> bool {
        self.with_value(name, |value| value.eq_ignore_ascii_case("off"))
            .unwrap_or_default()
    }

    /// The value of a switch, where it is set.
    pub fn value(&self, name: &str) -> Option<String> {
        self.with_value(name, str::to_owned)
    }

    fn with_value<T>(&self, name: &str, read: impl FnOnce(&str) -> T) -> Option<T> {
        let all = self.current.load();
        let mut all = all.iter();
        let found = all.find(|(full, _)| full.strip_prefix(PREFIX) == Some(name));
        found.map(|(_, value)| read(value))
    }

    /// What is set now, by name.
    pub fn all(&self) -> BTreeMap<String, String> {
        let named = |(name, value): &(String, String)| (name[PREFIX.len()..].to_owned(), value.clone());
        self.current.load().iter().map(named).collect()
    }

    /// Sets a switch, for good. Those that are `known`, which the configuration bounds, are set even where a list full of others has
    /// no room left: they take a target out during an outage.
    pub fn set(&self, name: &str, value: &str, known: impl Fn(&str) -> bool) -> Result<(), SwitchError> {
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = !name.is_empty() && name.len() <= MAX_TEXT && name.bytes().all(is_name_byte);
        // Names of targets have been checked, and have characters that other switches have not.
        if !is_name && !known(name) {
            return Err(SwitchError::Name);
        }
        if value.len() > MAX_TEXT || value.contains(char::is_control) {
            return Err(SwitchError::Value);
        }
        self.change(|all| {
            let is_new = all.insert(name.to_owned(), value.to_owned()).is_none();
            let others = all.keys().filter(|name| !known(name)).count();
            if is_new && !known(name) && others > MAX_SWITCHES {
                Err(SwitchError::TooMany)
            } else {
                Ok(())
            }
        })
    }

    /// Forgets a switch. Whether it was set.
    pub fn delete(&self, name: &str) -> Result<bool, SwitchError> {
        let mut was_set = false;
        self.change(|all| {
            was_set = all.remove(name).is_some();
            Ok(())
        })?;
        Ok(was_set)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<(), SwitchError>,
    ) -> Result<(), SwitchError> {
        let _line = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.all();
        change(&mut all)?;
        let kept = serde_json::to_vec_pretty(&all)
            .map_err(io::Error::from)
            .and_then(|bytes| self.folder.replace(FILE, &bytes));
        kept.map_err(|error| SwitchError::Kept {
            file: self.folder.path().join(FILE),
            error,
        })?;
        self.current.store(Arc::new(attributes(&all)));
        Ok(())
    }
}

const PREFIX: &str = "switch.";

fn attributes(all: &BTreeMap<String, String>) -> Attributes {
    all.iter()
        .map(|(name, value)| (format!("{PREFIX}{name}"), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(state: &tempfile::TempDir) -> Switches {
        Switches::open(Arc::new(Folder::open(state.path()).unwrap()))
    }

    #[test]
    fn survive_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let switches = open(&state);
        switches.set("openai", "off", |_| true).unwrap();
        switches.set("gone", "x", |_| false).unwrap();
        assert!(switches.delete("gone").unwrap());
        assert!(!switches.delete("gone").unwrap());
        let again = open(&state);
        assert_eq!(**again.attributes(), [("switch.openai".to_owned(), "off".to_owned())]);
    }

    #[test]
    fn have_sane_names_and_values() {
        let state = tempfile::tempdir().unwrap();
        let switches = open(&state);
        let set = |name: &str, value: &str| switches.set(name, value, |_| false);
        assert!(matches!(set("", "x"), Err(SwitchError::Name)));
        assert!(matches!(set("a b", "x"), Err(SwitchError::Name)));
        assert!(matches!(set("eu/gpt", "x"), Err(SwitchError::Name)));
        assert!(matches!(set("a", "line\nbreak"), Err(SwitchError::Value)));
        switches.set("eu/gpt", "off", |name| name == "eu/gpt").unwrap();
        assert!(switches.is_off("eu/gpt"), "a target's name may have a slash");
    }

    #[test]
    fn a_list_full_of_others_leaves_room_for_a_target() {
        let state = tempfile::tempdir().unwrap();
        let switches = open(&state);
        let known = |name: &str| name == "gpt";
        for number in 0..MAX_SWITCHES {
            switches.set(&number.to_string(), "on", known).unwrap();
        }
        assert!(matches!(
            switches.set("one-more", "on", known),
            Err(SwitchError::TooMany)
        ));
        switches.set("gpt", "off", known).unwrap();
        switches.set("7", "off", known).unwrap();
        assert!(switches.is_off("gpt") && switches.is_off("7"));
        assert_eq!(switches.all().len(), MAX_SWITCHES + 1);
    }

    #[test]
    fn a_broken_file_starts_empty_and_is_not_overwritten() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("switches.json"), "{").unwrap();
        let switches = open(&state);
        assert!(switches.all().is_empty());
        switches.set("openai", "off", |_| true).unwrap();
        assert_eq!(std::fs::read(state.path().join(UNREADABLE)).unwrap(), b"{");
    }
}
