//! The mark by which a gateway knows the machine code that it compiled itself: a keyed hash of it and of its name, with a key that
//! is made at the first start and never leaves the state folder.
//!
//! It keeps out what comes into the folder by another way than through this gateway: a file that was copied from another machine or
//! restored from a backup, that another user left while the folder was his, that is damaged, or that has another plugin's name. It
//! cannot keep out who runs as the gateway's own user or as root: he reads the key, and could as well replace the gateway.

use std::io;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::state_folder::Folder;

/// Bytes of the key and of a mark.
pub(super) const BYTES: usize = 32;

/// Where the key is kept.
const FILE: &str = "key";

/// Marks bytes and knows them again.
pub(super) struct Seal(Hmac<Sha256>);

impl Seal {
    /// Reads the key, or makes it. One that is damaged is replaced: then everything is compiled once more.
    pub(super) fn open(folder: &Folder) -> io::Result<Self> {
        let kept = match folder.read(FILE, BYTES as u64) {
            Ok(key) => key,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "the key of the state folder cannot be read; a new one is made");
                Vec::new()
            }
        };
        let key = if kept.len() == BYTES { kept } else { new_key(folder)? };
        let mac = Hmac::new_from_slice(&key).map_err(io::Error::other)?;
        Ok(Self(mac))
    }

    /// The mark of bytes under a name.
    pub(super) fn of(&self, name: &str, bytes: &[u8]) -> [u8; BYTES] {
        self.over(name, bytes).finalize().into_bytes().into()
    }

    /// Whether a mark is that of these bytes under this name.
    pub(super) fn fits(&self, name: &str, bytes: &[u8], mark: &[u8]) -> bool {
        self.over(name, bytes).verify_slice(mark).is_ok()
    }

    fn over(&self, name: &str, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name.as_bytes());
        mac.update(bytes);
        mac
    }
}

fn new_key(folder: &Folder) -> io::Result<Vec<u8>> {
    let mut key = vec![0; BYTES];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random
        .fill(&mut key)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    folder.replace(FILE, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_fits_its_own_bytes_name_and_folder_only() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |home: &tempfile::TempDir| Seal::open(&Folder::open(home.path()).unwrap()).unwrap();
        let mark = open(&home).of("a", b"code");
        let again = open(&home);
        assert!(again.fits("a", b"code", &mark), "the key outlives a restart");
        assert!(!again.fits("b", b"code", &mark) && !again.fits("a", b"c0de", &mark));
        assert!(
            !again.fits("ac", b"ode", &mark),
            "a name does not run on into the bytes"
        );
        assert!(!again.fits("a", b"code", &[]) && !open(&other).fits("a", b"code", &mark));
        std::fs::write(home.path().join(FILE), "short").unwrap();
        assert!(!open(&home).fits("a", b"code", &mark), "a damaged key is replaced");
    }
}
