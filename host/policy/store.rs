//! The private folder: plugin files and compiled programs by content, and what served last.
//!
//! ```text
//! STATE/policies/plugins/SHA256.wasm              as it was dropped in
//! STATE/policies/compiled/SHA256-COMPATIBILITY    machine code, for this engine only
//! STATE/policies/served.json                      what served last
//! ```
//!
//! Machine code is loaded from here and from nowhere else. Only the compile child writes it, and nobody but the user that
//! the gateway runs as can enter the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use wasmtime::component::Component;

use super::engine::Engine;
use super::library::PolicyState;
use super::program::Hash;

/// The private folder.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    compatibility: u64,
}

/// What served last, by name of the policy.
pub(super) type Served = BTreeMap<String, ServedPolicy>;

/// What is remembered of one policy over a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ServedPolicy {
    /// What serves.
    pub(super) live: Option<Hash>,
    /// Good versions before it, newest first.
    pub(super) earlier: Vec<Hash>,
    /// The file's content that does not serve although it loads, because it was rolled back or set aside.
    pub(super) passed_over: Option<PassedOver>,
}

/// Content of a file that loads and yet does not serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PassedOver {
    pub(super) hash: Hash,
    pub(super) state: PolicyState,
    pub(super) why: String,
}

/// A file that is complete only once it is kept.
pub(super) struct Draft {
    pub(super) file: File,
    path: PathBuf,
}

impl Store {
    /// Opens the folder below `state`, makes it if it is missing, and refuses it if somebody else could have written there.
    pub(super) fn open(state: &Path, engine: &Engine) -> io::Result<Self> {
        let folder = state.join("policies");
        for folder in [&folder, &folder.join("plugins"), &folder.join("compiled")] {
            private_folder(folder)?;
        }
        Ok(Self {
            folder,
            compatibility: engine.compatibility(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps a plugin file for rollbacks and for the compile child.
    pub(super) fn keep_plugin(&self, hash: Hash, plugin: &[u8]) -> io::Result<PathBuf> {
        let path = self.plugin(hash);
        if !path.exists() {
            let mut draft = self.draft()?;
            draft.file.write_all(plugin)?;
            draft.keep(&path)?;
        }
        Ok(path)
    }

    /// Where a plugin file is kept.
    pub(super) fn plugin(&self, hash: Hash) -> PathBuf {
        self.folder.join("plugins").join(format!("{hash}.wasm"))
    }

    fn compiled(&self, hash: Hash) -> PathBuf {
        self.folder
            .join("compiled")
            .join(format!("{hash}-{:016x}", self.compatibility))
    }

    /// An empty file for the compile child to write to.
    pub(super) fn draft(&self) -> io::Result<Draft> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("draft-{}-{next}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Draft { file, path })
    }

    /// Keeps what the compile child wrote.
    pub(super) fn keep_compiled(&self, hash: Hash, draft: Draft) -> io::Result<()> {
        draft.keep(&self.compiled(hash))
    }

    /// Loads a compiled program; `None` when there is none for this engine, or it does not load and was removed.
    #[allow(unsafe_code, reason = "see the comment inside")]
    pub(super) fn load(&self, engine: &Engine, hash: Hash) -> Option<Component> {
        let path = self.compiled(hash);
        if !path.exists() {
            return None;
        }
        // SAFETY: `deserialize_file` runs whatever machine code the file holds, so the file must come from this engine's own
        // compiler, complete and unchanged. It does: only the compile child of this same binary wrote it, the folder belongs
        // to our user and nobody else may enter it (`private_folder`), the name was given after the last byte had reached the
        // disk (`Draft::keep`), and wasmtime itself checks that version and settings are its own. Nobody writes to a file that
        // has its name; it is only ever replaced or removed, which leaves the mapping of the old one intact.
        match unsafe { Component::deserialize_file(engine.wasm(), &path) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "compiled policy does not load; compiling it again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Reads what served last. Nothing, if that cannot be read: then the files in the plugin folder decide.
    pub(super) fn served(&self) -> Served {
        let path = self.folder.join("served.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "what served last cannot be read; starting without it");
                Served::new()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Served::new(),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "what served last cannot be read; starting without it");
                Served::new()
            }
        }
    }

    /// Remembers what serves.
    pub(super) fn remember(&self, served: &Served) -> io::Result<()> {
        let mut draft = self.draft()?;
        draft.file.write_all(&serde_json::to_vec_pretty(served)?)?;
        draft.keep(&self.folder.join("served.json"))
    }

    /// Removes every plugin and every program that is not `wanted`, and what other engines compiled.
    pub(super) fn prune(&self, wanted: &BTreeSet<Hash>) {
        let names: BTreeSet<_> = wanted
            .iter()
            .flat_map(|hash| [self.plugin(*hash), self.compiled(*hash)])
            .collect();
        for folder in ["plugins", "compiled"] {
            let Ok(entries) = fs::read_dir(self.folder.join(folder)) else {
                continue;
            };
            for path in entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| !names.contains(path))
            {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Draft {
    /// Gives the file its name once all of it is on disk.
    fn keep(self, path: &Path) -> io::Result<()> {
        self.file.sync_data()?;
        fs::rename(&self.path, path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a folder that only our user may enter, or checks that it is one.
fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    let us = rustix::process::geteuid().as_raw();
    if !found.is_dir() {
        return Err(io::Error::other("it is not a folder"));
    }
    if found.uid() != us {
        return Err(io::Error::other(format!(
            "it belongs to user {}, not to user {us} that the gateway runs as",
            found.uid()
        )));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    }
    Ok(())
}
