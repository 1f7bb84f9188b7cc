//! The last configuration that was live, kept in the state folder, so that a gateway can start while the file is broken. It is the text of
//! the file, which says where secrets are and never what they are.

use std::io;
use std::path::{Path, PathBuf};

use crate::state_folder::Folder;

/// Where it is in the state folder.
const NAME: &str = "last-good.toml";
/// Bytes of a configuration that are read.
const MAX_BYTES: u64 = 4 << 20;

/// Keeps the text of a configuration that is live.
pub fn remember(state: &Folder, text: &str) -> io::Result<()> {
    match state.read(NAME, MAX_BYTES) {
        Ok(kept) if kept == text.as_bytes() => Ok(()),
        _ => state.replace(NAME, text.as_bytes()),
    }
}

/// The text that was kept and where it is; `None` when there is none.
pub fn recall(state: &Path) -> io::Result<Option<(PathBuf, String)>> {
    let path = state.join(NAME);
    if !path.try_exists()? {
        return Ok(None);
    }
    let bytes = Folder::open(state).map_err(io::Error::other)?.read(NAME, MAX_BYTES)?;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok(Some((path, text)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_remembered_is_recalled() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        assert_eq!(recall(&state).unwrap(), None);
        let folder = Folder::open(&state).unwrap();
        for text in ["listen = 1", "listen = 2"] {
            remember(&folder, text).unwrap();
            assert_eq!(recall(&state).unwrap(), Some((state.join(NAME), text.to_owned())));
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let folder = Folder::open(&state).unwrap();
        fs::write(home.path().join("other"), "listen = 1").unwrap();
        std::os::unix::fs::symlink("../other", state.join(NAME)).unwrap();
        assert!(recall(&state).is_err());
        remember(&folder, "listen = 2").unwrap();
        assert_eq!(fs::read_to_string(home.path().join("other")).unwrap(), "listen = 1");
    }
}
