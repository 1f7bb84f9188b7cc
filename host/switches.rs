//! Operator switches: names that an operator sets during an outage and policies see as `switch.NAME` in the next decision. Kept in the
//! state folder, so that a restart in the middle of an outage does not forget them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// Switches at once.
const MAX_SWITCHES: usize = 256;
/// Bytes of a name and of a value.
const MAX_TEXT: usize = 256;

/// All switches. Reading them costs no lock.
pub struct Switches {
    file: PathBuf,
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
    /// Reads the switches that were set before; a file that cannot be read is told and starts empty.
    pub fn open(state: &Path) -> Self {
        let file = state.join("switches.json");
        let kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice::<BTreeMap<String, String>>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        };
        let kept = kept.unwrap_or_else(|error| {
            tracing::error!(file = %file.display(), %error, "the switches that were set cannot be read: none is set now");
            BTreeMap::new()
        });
        Self {
            file,
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
        let named = |(full, _): &&(String, String)| full.strip_prefix(PREFIX) == Some(name);
        self.current
            .load()
            .iter()
            .find(named)
            .is_some_and(|(_, value)| value == "off")
    }

    /// What is set now, by name.
    pub fn all(&self) -> BTreeMap<String, String> {
        let named = |(name, value): &(String, String)| (name[PREFIX.len()..].to_owned(), value.clone());
        self.current.load().iter().map(named).collect()
    }

    /// Sets a switch, for good.
    pub fn set(&self, name: &str, value: &str) -> Result<(), SwitchError> {
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(is_name_byte) {
            return Err(SwitchError::Name);
        }
        if value.len() > MAX_TEXT || value.contains(char::is_control) {
            return Err(SwitchError::Value);
        }
        self.change(|all| {
            all.insert(name.to_owned(), value.to_owned());
            if all.len() > MAX_SWITCHES {
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
        write(&self.file, &all).map_err(|error| SwitchError::Kept {
            file: self.file.clone(),
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

/// Whole or not at all: a crash in between leaves the old file.
fn write(file: &Path, all: &BTreeMap<String, String>) -> io::Result<()> {
    let new = file.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec_pretty(all)?)?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survive_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let switches = Switches::open(state.path());
        switches.set("openai", "off").unwrap();
        switches.set("gone", "x").unwrap();
        assert!(switches.delete("gone").unwrap());
        assert!(!switches.delete("gone").unwrap());
        let again = Switches::open(state.path());
        assert_eq!(**again.attributes(), [("switch.openai".to_owned(), "off".to_owned())]);
    }

    #[test]
    fn have_sane_names_and_values() {
        let state = tempfile::tempdir().unwrap();
        let switches = Switches::open(state.path());
        assert!(matches!(switches.set("", "x"), Err(SwitchError::Name)));
        assert!(matches!(switches.set("a b", "x"), Err(SwitchError::Name)));
        assert!(matches!(switches.set("a", "line\nbreak"), Err(SwitchError::Value)));
        for number in 0..MAX_SWITCHES {
            switches.set(&number.to_string(), "on").unwrap();
        }
        assert!(matches!(switches.set("one-more", "on"), Err(SwitchError::TooMany)));
        assert_eq!(switches.all().len(), MAX_SWITCHES);
    }

    #[test]
    fn a_broken_file_starts_empty() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("switches.json"), "{").unwrap();
        assert!(Switches::open(state.path()).all().is_empty());
    }
}
