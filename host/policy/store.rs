//! The private folder: plugin files and compiled programs by content, and what served last.
//!
//! ```text
//! STATE/key                                       marks what this gateway compiled: see `seal`
//! STATE/policies/plugins/SHA256.wasm              as it was dropped in
//! STATE/policies/compiled/SHA256-COMPATIBILITY    machine code for this engine only, and behind it the mark
//! STATE/policies/served.json                      what served last
//! ```
//!
//! Machine code is loaded from here and from nowhere else. Only the compile child writes it, and nobody but the user that
//! the gateway runs as can enter the folder. Copies are compared with what they are copies of, and made again where they differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use wasmtime::component::Component;

use super::engine::Engine;
use super::library::PolicyState;
use super::program::{Hash, one_line};
use super::seal::{self, Seal};
use crate::state_folder::Folder;

/// The private folder.
pub(super) struct Store {
    folder: Folder,
    plugins: Folder,
    compiled: Folder,
    seal: Seal,
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
    /// Versions that were deployed before it, newest first.
    pub(super) earlier: Vec<Hash>,
    /// Versions that were deployed after it, newest first.
    pub(super) newer: Vec<Hash>,
    /// Versions among those that nothing goes back to by itself.
    pub(super) retired: BTreeSet<Hash>,
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
pub(super) struct Draft<'a> {
    pub(super) file: File,
    folder: &'a Folder,
    name: String,
}

/// What the name of a draft begins with.
const DRAFT: &str = "draft-";

/// Where it is remembered what served last, and the most bytes of it that are read.
const SERVED: &str = "served.json";
const SERVED_BYTES: u64 = 64 << 20;

/// Bytes of a plugin and of a compiled program that are read: the most that a plugin may have, and a generous multiple.
const PLUGIN_BYTES: u64 = 1 << 30;
const COMPILED_BYTES: u64 = 4 << 30;

impl Store {
    /// Opens the folder below `state`, makes it if it is missing, and refuses it if somebody else could have written there.
    pub(super) fn open(state: &Path, engine: &Engine) -> io::Result<Self> {
        let state = Folder::open(state).map_err(io::Error::other)?;
        let folder = state.subfolder("policies")?;
        Ok(Self {
            plugins: folder.subfolder("plugins")?,
            compiled: folder.subfolder("compiled")?,
            folder,
            seal: Seal::open(&state)?,
            compatibility: engine.compatibility(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Removes the drafts of a gateway that was killed. Only for the one gateway that uses the folder.
    pub(super) fn sweep(&self) {
        let names = self.folder.names().unwrap_or_default();
        let drafts = names.iter().filter(|name| name.starts_with(DRAFT));
        let swept = drafts.filter(|name| self.folder.remove(name).is_ok()).count();
        if swept > 0 {
            let folder = self.folder().display();
            tracing::info!(%folder, swept, "removed what unfinished compilations of an earlier run left");
        }
    }

    /// Keeps a plugin file for rollbacks and for the compile child. A copy of it that is damaged is replaced.
    pub(super) fn keep_plugin(&self, hash: Hash, plugin: &[u8]) -> io::Result<()> {
        let name = plugin_name(hash);
        match self.plugins.read(&name, plugin.len() as u64) {
            Ok(kept) if kept == plugin => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => {
                let file = self.plugins.path().join(&name);
                tracing::warn!(file = %file.display(), "the kept copy of a plugin is damaged; it is made again");
            }
        }
        let mut draft = self.draft()?;
        draft.file.write_all(plugin)?;
        draft.keep(&self.plugins, &name)
    }

    /// The kept copy of a plugin, at its beginning; `None` if it is missing or damaged, and then it is removed.
    pub(super) fn plugin(&self, hash: Hash) -> Option<File> {
        let name = plugin_name(hash);
        let open = || {
            let mut file = self.plugins.file(&name)?;
            let mut plugin = Vec::new();
            (&file).take(PLUGIN_BYTES).read_to_end(&mut plugin)?;
            file.rewind()?;
            Ok::<_, io::Error>((Hash::of(&plugin) == hash).then_some(file))
        };
        match open() {
            Ok(Some(file)) => return Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(None) | Err(_) => {
                let file = self.plugins.path().join(&name);
                tracing::warn!(file = %file.display(), "the kept copy of a plugin is damaged; it is removed");
                let _ = self.plugins.remove(&name);
            }
        }
        None
    }

    /// An empty file for the compile child to write to.
    pub(super) fn draft(&self) -> io::Result<Draft<'_>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{DRAFT}{}-{next}", std::process::id());
            match self.folder.create(&name) {
                // Left by a process that had the same id, as the first one of a container always has.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => {
                    return Ok(Draft {
                        file: file?,
                        folder: &self.folder,
                        name,
                    });
                }
            }
        }
    }

    /// Marks and keeps what the compile child wrote.
    pub(super) fn keep_compiled(&self, hash: Hash, mut draft: Draft<'_>) -> io::Result<()> {
        let name = self.compiled_name(hash);
        let mut code = Vec::new();
        draft.file.rewind()?;
        (&draft.file).take(COMPILED_BYTES).read_to_end(&mut code)?;
        draft.file.write_all(&self.seal.of(&name, &code))?;
        draft.keep(&self.compiled, &name)
    }

    /// Loads a compiled program; `None` when there is none for this engine, or it is not what this gateway compiled and was removed.
    #[allow(unsafe_code, reason = "see the comment inside")]
    pub(super) fn load(&self, engine: &Engine, hash: Hash) -> Option<Component> {
        let name = self.compiled_name(hash);
        let problem = match self.compiled.read(&name, COMPILED_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(file) => match self.code(&name, &file) {
                None => "it is damaged, or another gateway compiled it".to_owned(),
                // SAFETY: `deserialize` runs whatever machine code the bytes hold, so they must come from this engine's own
                // compiler, complete and unchanged. They do: `code` has checked that they carry the mark that `keep_compiled`
                // makes, under the name of this plugin and this engine, with a key that only our user can read; it marks only
                // what the compile child, this same program, wrote to a file that had just been made in a folder that nobody
                // else can enter (`Folder`). They are read once, so that what was checked is what runs, whatever becomes of
                // the file; and wasmtime itself checks that version and settings are its own.
                Some(code) => match unsafe { Component::deserialize(engine.wasm(), code) } {
                    Ok(component) => return Some(component),
                    Err(error) => one_line(&error),
                },
            },
        };
        let file = self.compiled.path().join(&name);
        tracing::warn!(file = %file.display(), problem, "a compiled policy cannot be loaded; it is compiled again");
        let _ = self.compiled.remove(&name);
        None
    }

    /// The machine code in a file, if this gateway made it under this name.
    fn code<'a>(&self, name: &str, file: &'a [u8]) -> Option<&'a [u8]> {
        let (code, mark) = file.split_last_chunk::<{ seal::BYTES }>()?;
        self.seal.fits(name, code, mark).then_some(code)
    }

    /// Reads what served last. Nothing, if that cannot be read: then the files in the plugin folder decide.
    pub(super) fn served(&self) -> Served {
        let served = match self.folder.read(SERVED, SERVED_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Served::new()),
            Err(error) => Err(error),
        };
        served.unwrap_or_else(|error| {
            let file = self.folder.path().join(SERVED);
            tracing::warn!(file = %file.display(), %error, "what served last cannot be read; starting without it");
            Served::new()
        })
    }

    /// Remembers what serves.
    pub(super) fn remember(&self, served: &Served) -> io::Result<()> {
        self.folder.replace(SERVED, &serde_json::to_vec_pretty(served)?)
    }

    /// Removes every plugin and every program that is not `wanted`, and what other engines compiled.
    pub(super) fn prune(&self, wanted: &BTreeSet<Hash>) {
        let plugins = wanted.iter().map(|hash| plugin_name(*hash)).collect();
        let compiled = wanted.iter().map(|hash| self.compiled_name(*hash)).collect();
        remove_others(&self.plugins, &plugins);
        remove_others(&self.compiled, &compiled);
    }

    fn compiled_name(&self, hash: Hash) -> String {
        format!("{hash}-{:016x}", self.compatibility)
    }
}

fn plugin_name(hash: Hash) -> String {
    format!("{hash}.wasm")
}

fn remove_others(folder: &Folder, wanted: &BTreeSet<String>) {
    let names = folder.names().unwrap_or_default();
    names
        .iter()
        .filter(|name| !wanted.contains(*name))
        .for_each(|name| _ = folder.remove(name));
}

impl Draft<'_> {
    /// Gives the file its name once all of it is on disk.
    fn keep(self, to: &Folder, name: &str) -> io::Result<()> {
        self.file.sync_data()?;
        self.folder.rename(&self.name, to, name)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let _ = self.folder.remove(&self.name);
    }
}
