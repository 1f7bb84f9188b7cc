//! The way of a plugin from bytes to a version that may serve: hash, compile, link, check its grants, probe.
//!
//! Whether it then serves is not decided here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::Component;

use super::compile::{Cancel, Compiler};
use super::engine::Engine;
use super::folder::{self, Fingerprint};
use super::library::ReadyMade;
use super::probe::Shape;
use super::program::{Hash, Program};
use super::refusal::Refusal;
use super::store::Store;
use crate::config::{CompileLimits, PolicyRules, nearest};

/// What every load needs.
pub(super) struct Loader {
    pub(super) engine: Engine,
    pub(super) store: Store,
    pub(super) compiler: Compiler,
    pub(super) ready_made: &'static [ReadyMade],
}

/// Where a plugin comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A file in the plugin folder, of at most so many bytes.
    File(PathBuf, u64),
    /// The gateway itself.
    ReadyMade(&'static [u8]),
    /// The private folder.
    Kept(Hash),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, _) => write!(f, "{}", path.display()),
            Self::ReadyMade(_) => f.write_str("ready-made"),
            Self::Kept(hash) => write!(f, "kept version {hash}"),
        }
    }
}

/// One plugin to load.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) policy: String,
    pub(super) source: Source,
    /// Contents that need no second look.
    pub(super) known: Vec<Hash>,
    pub(super) rules: Arc<PolicyRules>,
    pub(super) limits: CompileLimits,
    pub(super) shape: Shape,
    /// Called when nobody needs it any more.
    pub(super) cancel: Cancel,
}

/// What came of an order.
pub(super) struct Outcome {
    /// The file as it was read.
    pub(super) fingerprint: Option<Fingerprint>,
    /// The content, if it could be read.
    pub(super) hash: Option<Hash>,
    /// `None`: its content is known.
    pub(super) program: Result<Option<Arc<Program>>, Refusal>,
}

impl Outcome {
    /// A plugin that could not even be looked at.
    pub(super) fn refused(refusal: Refusal) -> Self {
        Self {
            fingerprint: None,
            hash: None,
            program: Err(refusal),
        }
    }
}

impl Loader {
    /// The ready-made plugin of that name.
    pub(super) fn ready_made(&self, policy: &str) -> Option<Source> {
        let (_, plugin) = self.ready_made.iter().find(|(name, _)| *name == policy)?;
        Some(Source::ReadyMade(plugin))
    }

    /// Whether this is the content of the ready-made plugin of that name.
    pub(super) fn is_ready_made(&self, policy: &str, hash: Hash) -> bool {
        let plugin = self.ready_made.iter().find(|(name, _)| *name == policy);
        plugin.is_some_and(|(_, plugin)| Hash::of(plugin) == hash)
    }

    /// A policy that a route names is nowhere; `there` is what the plugin folder has.
    pub(super) fn missing<'a>(
        &'a self,
        policy: &str,
        directory: &Path,
        there: impl Iterator<Item = &'a String>,
    ) -> Refusal {
        let ready_made: Vec<&str> = self.ready_made.iter().map(|(name, _)| *name).collect();
        let folder = directory.display();
        let names: Vec<&str> = there.map(String::as_str).chain(ready_made.iter().copied()).collect();
        Refusal::Missing(match (nearest(policy, &names), ready_made.as_slice()) {
            (Some(near), _) => format!("did you mean `{near}`? The plugin folder is {folder}"),
            (None, []) => format!("the plugin folder is {folder}"),
            (None, names) => format!("the plugin folder is {folder}, ready-made are {}", names.join(", ")),
        })
    }

    /// Takes a plugin all the way. Blocks for as long as compiling takes; `compiling` is called before that.
    pub(super) fn load(&self, order: &Order, compiling: &dyn Fn(Hash)) -> Outcome {
        let (fingerprint, hash, plugin) = match &order.source {
            Source::Kept(hash) => (None, Some(*hash), Ok(None)),
            Source::ReadyMade(plugin) => (None, Some(Hash::of(plugin)), Ok(Some(plugin.to_vec()))),
            Source::File(path, max_bytes) => {
                let (fingerprint, plugin) = folder::read(path, *max_bytes);
                (
                    fingerprint,
                    plugin.as_ref().ok().map(|plugin| Hash::of(plugin)),
                    plugin.map(Some),
                )
            }
        };
        let program = match (hash, plugin) {
            (_, Err(refusal)) => Err(refusal),
            (Some(hash), Ok(_)) if order.known.contains(&hash) => Ok(None),
            (Some(hash), Ok(plugin)) => self.try_out(order, hash, plugin.as_deref(), compiling).map(Some),
            (None, Ok(_)) => Err(Refusal::Restless),
        };
        Outcome {
            fingerprint,
            hash,
            program,
        }
    }

    fn try_out(
        &self,
        order: &Order,
        hash: Hash,
        plugin: Option<&[u8]>,
        compiling: &dyn Fn(Hash),
    ) -> Result<Arc<Program>, Refusal> {
        if let Some(plugin) = plugin {
            self.store
                .keep_plugin(hash, plugin)
                .map_err(|error| self.unwritable(&error))?;
        }
        let component = match self.store.load(&self.engine, hash) {
            Some(component) => component,
            None => {
                compiling(hash);
                self.compile(hash, order)?
            }
        };
        let program = Program::link(&self.engine, hash, &component)?;
        program.check_grants(&order.policy, &order.rules)?;
        let measured = order.shape.probe(&order.policy, &program, &order.rules)?;
        let _ = program.measured.set(measured);
        Ok(program)
    }

    fn compile(&self, hash: Hash, order: &Order) -> Result<Component, Refusal> {
        let draft = self.store.draft().map_err(|error| self.unwritable(&error))?;
        let plugin = self.store.plugin(hash).ok_or(Refusal::CopyLost)?;
        self.compiler
            .compile(plugin, &draft.file, &order.limits, &order.cancel)?;
        self.store
            .keep_compiled(hash, draft)
            .map_err(|error| self.unwritable(&error))?;
        let compiled = self.store.load(&self.engine, hash);
        compiled.ok_or_else(|| Refusal::CompileFailed("the compiled program does not load".into()))
    }

    fn unwritable(&self, error: &io::Error) -> Refusal {
        Refusal::Store(format!(
            "the private folder {} cannot be written: {error}",
            self.store.folder().display()
        ))
    }
}
