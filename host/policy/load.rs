//! The way of a plugin from bytes to a version that may serve: hash, compile, link, check its grants, probe.
//!
//! Whether it then serves is not decided here.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use wasmtime::component::Component;

use super::compile::Compiler;
use super::engine::Engine;
use super::folder::{self, Fingerprint};
use super::library::ReadyMade;
use super::probe::Shape;
use super::program::{Hash, Program};
use super::refusal::Refusal;
use super::store::Store;
use super::version::Version;
use crate::config::{CompileLimits, PolicyRules};

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

/// Something to load, and whom to tell.
struct Job {
    order: Order,
    done: Box<dyn FnOnce(Outcome) + Send>,
}

/// The threads that load plugins. They are all there from the start, so that no reload depends on getting one.
pub(super) struct Loaders {
    plugins: Sender<Job>,
    earlier: Sender<Job>,
}

/// Plugins that are loaded at once.
const LOADS: usize = 2;

impl Loaders {
    pub(super) fn start(loader: &Arc<Loader>) -> io::Result<Self> {
        Ok(Self {
            plugins: start_threads(loader, LOADS)?,
            earlier: start_threads(loader, 1)?,
        })
    }

    /// Loads a plugin, behind those that were ordered before.
    pub(super) fn load(&self, order: Order, done: impl FnOnce(Outcome) + Send + 'static) {
        let _ = self.plugins.send(Job {
            order,
            done: Box::new(done),
        });
    }

    /// Loads an earlier version; that never waits for new ones.
    pub(super) fn go_back(&self, order: Order, done: impl FnOnce(Outcome) + Send + 'static) {
        let _ = self.earlier.send(Job {
            order,
            done: Box::new(done),
        });
    }
}

/// Starts threads that share one queue and end with its sender.
fn start_threads(loader: &Arc<Loader>, count: usize) -> io::Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..count {
        let (loader, jobs) = (Arc::clone(loader), Arc::clone(&jobs));
        let next = move || jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        thread::Builder::new().name("policy-load".into()).spawn(move || {
            while let Ok(Job { order, done }) = next() {
                // A plugin that finds a mistake in this program must not stop those after it.
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| loader.load(&order)));
                done(outcome.unwrap_or_else(|_| Outcome {
                    fingerprint: None,
                    hash: None,
                    program: Err(Refusal::CompileFailed(
                        "a mistake in the gateway; please report it".into(),
                    )),
                }));
            }
        })?;
    }
    Ok(sender)
}

impl Loader {
    /// The ready-made plugin of that name.
    pub(super) fn ready_made(&self, policy: &str) -> Option<Source> {
        let (_, plugin) = self.ready_made.iter().find(|(name, _)| *name == policy)?;
        Some(Source::ReadyMade(plugin))
    }

    /// A policy that a route names is nowhere.
    pub(super) fn missing(&self, directory: &Path) -> Refusal {
        let names: Vec<&str> = self.ready_made.iter().map(|(name, _)| *name).collect();
        let folder = directory.display();
        Refusal::Missing(match names.as_slice() {
            [] => format!("the plugin folder is {folder}"),
            names => format!("the plugin folder is {folder}, ready-made are {}", names.join(", ")),
        })
    }

    /// Takes a plugin all the way. Blocks for as long as compiling takes.
    pub(super) fn load(&self, order: &Order) -> Outcome {
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
            (Some(hash), Ok(plugin)) => self.try_out(order, hash, plugin.as_deref()).map(Some),
            (None, Ok(_)) => Err(Refusal::Restless),
        };
        Outcome {
            fingerprint,
            hash,
            program,
        }
    }

    fn try_out(&self, order: &Order, hash: Hash, plugin: Option<&[u8]>) -> Result<Arc<Program>, Refusal> {
        if let Some(plugin) = plugin {
            self.store
                .keep_plugin(hash, plugin)
                .map_err(|error| self.unwritable(&error))?;
        }
        let component = match self.store.load(&self.engine, hash) {
            Some(component) => component,
            None => self.compile(hash, &order.limits)?,
        };
        let program = Program::link(&self.engine, hash, &component)?;
        program.check_grants(&order.policy, &order.rules)?;
        let version = Version::new(
            &order.policy,
            Arc::clone(&program),
            Arc::clone(&order.rules),
            Box::new(|_| ()),
        );
        order.shape.probe(&version)?;
        Ok(program)
    }

    fn compile(&self, hash: Hash, limits: &CompileLimits) -> Result<Component, Refusal> {
        let draft = self.store.draft().map_err(|error| self.unwritable(&error))?;
        let plugin = self.store.plugin(hash).ok_or(Refusal::CopyLost)?;
        self.compiler.compile(plugin, &draft.file, limits)?;
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
