//! The policies of a gateway, for the rest of it: what serves, how it fares, and the few things an operator can do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::compile::Compiler;
use super::engine::Engine;
use super::folder::{self, Found};
use super::keeper::{Event, Keeper};
use super::load::Loader;
use super::program::{Hash, one_line};
use super::settings::Settings;
use super::standing::{Row, Table};
use super::statistics::LastError;
use super::store::Store;
use super::version::Version;
use crate::config::Config;
use crate::metrics::Times;

/// A policy that comes with the gateway: its name and its plugin file.
pub type ReadyMade = (&'static str, &'static [u8]);

/// The version that serves, for every policy that has one. Cheap to clone.
#[derive(Clone, Default)]
pub struct Versions(Arc<BTreeMap<String, Arc<Version>>>);

impl Versions {
    pub(super) fn new(versions: BTreeMap<String, Arc<Version>>) -> Self {
        Self(Arc::new(versions))
    }

    /// The version of the policy `name`; `None` when there is none that can serve.
    pub fn get(&self, name: &str) -> Option<&Arc<Version>> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Version>)> {
        self.0.iter().map(|(name, version)| (name.as_str(), version))
    }
}

/// Where a policy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// What the plugin folder holds is what serves.
    Live,
    /// The newest file was refused; an earlier version serves, or none.
    Refused,
    /// An operator wants another version than the file's to serve; it does until the file is written again.
    RolledBack,
    /// A version kept failing; an earlier one serves, or none. It is probed until it is well, unless it trapped and an earlier
    /// one serves.
    SetAside,
    /// The file is gone; its last version serves on.
    FileGone,
    /// The file is being compiled; what served before serves on.
    Compiling,
    /// No route names it, and as many such plugins as `max_unused` says are loaded.
    Unused,
}

/// A plugin that is being compiled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compiling {
    /// SHA-256 of the file.
    pub version: Hash,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// What a problem is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ProblemDetails {
    /// SHA-256 of the file; `None` when it could not be read.
    pub version: Option<Hash>,
    /// When that file was written, milliseconds since the Unix epoch.
    pub file_modified_ms: Option<u64>,
    /// When it was refused, milliseconds since the Unix epoch; 0 when it was not.
    pub at_ms: u64,
    /// The last lines that the guest wrote before it failed.
    pub guest_log: Vec<String>,
    /// When it is tried again, milliseconds since the Unix epoch; `None` when it waits for a change of the file.
    pub retry_at_ms: Option<u64>,
}

/// What the admin API tells of a policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// Name of the policy.
    pub name: String,
    /// Where it stands.
    pub state: PolicyState,
    /// Whether a route names it.
    pub used: bool,
    /// SHA-256 of the plugin file that serves, hexadecimal; `None` when none does.
    pub version: Option<Hash>,
    /// Since when it serves, milliseconds since the Unix epoch; 0 when none does.
    pub since_ms: u64,
    /// Why the newest file does not serve; `None` when it does.
    pub problem: Option<String>,
    /// What that problem is about.
    pub problem_details: Option<ProblemDetails>,
    /// What is being compiled.
    pub compiling: Option<Compiling>,
    /// Time that a decision of the version that serves may take, milliseconds.
    pub deadline_ms: u64,
    /// Where that comes from: `deadline_ms` of the configuration, or what the probe `measured`.
    pub deadline_from: DeadlineFrom,
    /// The fastest of the probe's decisions, microseconds; `None` when nothing serves.
    pub probe_us: Option<f64>,
    /// Decisions asked of the version that serves, all further counts too.
    pub decisions: u64,
    /// Median time of a decision, microseconds.
    pub p50_us: f64,
    /// 99th percentile of the time of a decision, microseconds.
    pub p99_us: f64,
    /// Times of all decisions, for the metrics.
    #[serde(skip)]
    pub times: Times,
    /// Decisions that trapped.
    pub traps: u64,
    /// Decisions that ran out of time.
    pub timeouts: u64,
    /// Decisions that were nonsense.
    pub nonsense: u64,
    /// Decisions that were not asked because all instances were busy.
    pub busy: u64,
    /// Log lines that were dropped because a decision wrote too much.
    pub dropped_log_lines: u64,
    /// The last decision that failed.
    pub last_error: Option<LastError>,
    /// Versions that were deployed before what serves, newest first: a rollback goes to the first of them that was not rolled
    /// back from itself, and each of them can be activated.
    pub earlier: Vec<Hash>,
    /// Versions that were deployed after what serves, newest first; they can be activated.
    pub newer: Vec<Hash>,
}

/// Where a deadline comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadlineFrom {
    /// `deadline_ms` of the configuration.
    Configuration,
    /// What the probe measured, or the default of 5 ms where that is enough.
    Measured,
}

/// A policy that was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedPolicy {
    /// Name of the policy; empty for the plugin folder as a whole.
    pub policy: String,
    /// The file, or that it is ready-made; `None`: it is nowhere.
    pub from: Option<String>,
    /// What is wrong, and what to do; `None`: it can serve.
    pub problem: Option<String>,
}

/// Why the policies could not be opened at all; a policy that cannot be loaded is no reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The private folder cannot be used.
    #[error("the state folder {} cannot be used for policies: {error}", .folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
    /// There are no more threads.
    #[error("no thread to keep the policies current: {0}")]
    Thread(io::Error),
}

/// Why a rollback or an activation did not happen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RollbackError {
    /// There is no such policy.
    #[error("there is no policy `{0}`")]
    Unknown(String),
    /// There is nothing to go back to.
    #[error("policy `{0}` has no earlier version")]
    NoEarlier(String),
    /// There is no such version.
    #[error("policy `{policy}` has no version `{version}`; /api/policies lists those that are kept")]
    NoVersion {
        /// Name of the policy.
        policy: String,
        /// What was asked for.
        version: String,
    },
    /// There are several.
    #[error("several versions of policy `{policy}` begin with `{version}`; write more of the hash")]
    Ambiguous {
        /// Name of the policy.
        policy: String,
        /// What was asked for.
        version: String,
    },
    /// The version cannot be loaded any more.
    #[error("the kept version of policy `{policy}` cannot be loaded: {reason}")]
    Refused {
        /// Name of the policy.
        policy: String,
        /// Why.
        reason: String,
    },
    /// The library is being closed.
    #[error("the gateway is closing")]
    Closed,
}

/// All policies of a gateway. Dropping it ends its threads.
pub struct Library {
    versions: watch::Receiver<Versions>,
    table: Arc<Table>,
    events: Sender<Event>,
    keeper: Option<JoinHandle<()>>,
}

impl Library {
    /// Loads every policy and starts to watch the plugin folder. Returns when all policies that a route names have been tried;
    /// one that cannot be loaded is told in the log and in [`Library::status`], and is missing from [`Library::versions`].
    /// `program` is this binary, which is started again to compile plugins.
    pub fn open(config: &Config, ready_made: &'static [ReadyMade], program: PathBuf) -> Result<Self, OpenError> {
        let loader = loader(config, ready_made, program)?;
        loader.store.sweep();
        let (publisher, versions) = watch::channel(Versions::default());
        let table: Arc<Table> = Arc::default();
        let (events, inbox) = mpsc::channel();
        let outbox = (publisher, Arc::clone(&table));
        let keeper =
            Keeper::new(loader, Settings::of(config), outbox, (events.clone(), inbox)).map_err(OpenError::Thread)?;
        let (ready, tried) = mpsc::channel();
        let keeper = thread::Builder::new()
            .name("policy-keeper".into())
            .spawn(move || keeper.run(ready));
        let library = Self {
            versions,
            table,
            events,
            keeper: Some(keeper.map_err(OpenError::Thread)?),
        };
        let _ = tried.recv();
        Ok(library)
    }

    /// What serves now.
    pub fn versions(&self) -> Versions {
        self.versions.borrow().clone()
    }

    /// Tells of every change of what serves, from now on.
    pub fn changes(&self) -> watch::Receiver<Versions> {
        let mut changes = self.versions.clone();
        changes.mark_unchanged();
        changes
    }

    /// What the admin API tells, by name.
    pub fn status(&self) -> Vec<PolicyStatus> {
        self.table
            .rows()
            .into_iter()
            .map(|(name, row)| status(name, row))
            .collect()
    }

    /// Makes the previous good version serve until the file is written again. Returns the hash of what serves now. Blocks until it does:
    /// milliseconds, or the time of a compilation when the compiled program is lost.
    pub fn rollback(&self, policy: &str) -> Result<Hash, RollbackError> {
        let (answer, answered) = mpsc::channel();
        let _ = self.events.send(Event::Rollback(policy.into(), answer));
        answered.recv().unwrap_or(Err(RollbackError::Closed))
    }

    /// Makes the kept version whose hash begins with `version` serve, newer or earlier than what serves, until the file is written
    /// again. Returns and blocks like [`Library::rollback`].
    pub fn activate(&self, policy: &str, version: &str) -> Result<Hash, RollbackError> {
        let (answer, answered) = mpsc::channel();
        let event = Event::Activate(policy.into(), version.into(), answer);
        let _ = self.events.send(event);
        answered.recv().unwrap_or(Err(RollbackError::Closed))
    }

    /// Looks through the plugin folder, without waiting for what comes of it.
    pub fn look(&self) {
        let _ = self.events.send(Event::Folder);
    }

    /// Takes over a changed configuration: rules, grants and the plugin folder. Blocks like [`Library::open`].
    pub fn reconfigure(&self, config: &Config) {
        let (answer, answered) = mpsc::channel();
        let _ = self
            .events
            .send(Event::Reconfigure(Box::new(Settings::of(config)), answer));
        let _ = answered.recv();
    }

    /// Tries every policy as [`Library::open`] would, without serving anything: for `pointsman check`.
    pub fn check(
        config: &Config,
        ready_made: &'static [ReadyMade],
        program: PathBuf,
    ) -> Result<Vec<CheckedPolicy>, OpenError> {
        let loader = loader(config, ready_made, program)?;
        let settings = Settings::of(config);
        let mut checked = Vec::new();
        let files = folder::look(&settings.directory).unwrap_or_else(|error| {
            let problem = format!(
                "the plugin folder {} cannot be read: {error}",
                settings.directory.display()
            );
            checked.push(CheckedPolicy {
                policy: String::new(),
                from: Some(settings.directory.display().to_string()),
                problem: Some(problem),
            });
            Found::default()
        });
        let files = files.policies;
        let policies: BTreeSet<_> = files.keys().chain(&settings.named).collect();
        for policy in policies {
            let file = files.contains_key(policy).then(|| settings.file(policy));
            let source = file.or_else(|| loader.ready_made(policy));
            let from = source.as_ref().map(ToString::to_string);
            let tried = match source {
                Some(source) => loader
                    .load(&settings.order(policy, source, Vec::new()), &|_| ())
                    .program
                    .map(drop),
                None => Err(loader.missing(policy, &settings.directory, files.keys())),
            };
            checked.push(CheckedPolicy {
                policy: policy.clone(),
                from,
                problem: tried.err().map(|refusal| refusal.to_string()),
            });
        }
        Ok(checked)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Close);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn loader(config: &Config, ready_made: &'static [ReadyMade], program: PathBuf) -> Result<Loader, OpenError> {
    let engine = Engine::new().map_err(|error| OpenError::Engine(one_line(&error)))?;
    let store = Store::open(&config.state, &engine).map_err(|error| unusable(&config.state, error))?;
    let layout = engine.layout();
    Ok(Loader {
        engine,
        store,
        compiler: Compiler { program, layout },
        ready_made,
    })
}

fn unusable(folder: &Path, error: io::Error) -> OpenError {
    OpenError::Store {
        folder: folder.into(),
        error,
    }
}

fn status(name: String, row: Row) -> PolicyStatus {
    use std::sync::atomic::Ordering::Relaxed;
    let statistics = row
        .live
        .as_ref()
        .map(|live| Arc::clone(&live.statistics))
        .unwrap_or_default();
    let (decisions, p50_us, p99_us) = statistics.times();
    let rules = row.live.as_ref().map(|live| live.rules());
    let measured = row.live.as_ref().and_then(|live| live.measured());
    PolicyStatus {
        name,
        state: row.state,
        used: row.used,
        version: row.live.as_ref().map(|live| live.hash()),
        since_ms: if row.live.is_some() { row.since_ms } else { 0 },
        problem: row.problem,
        problem_details: row.details,
        compiling: row.compiling,
        deadline_ms: rules.map_or(0, |rules| rules.deadline.as_millis() as u64),
        deadline_from: match rules {
            Some(rules) if rules.deadline_written => DeadlineFrom::Configuration,
            _ => DeadlineFrom::Measured,
        },
        probe_us: measured.map(|measured| (measured.took.as_secs_f64() * 1e7).round() / 10.0),
        decisions,
        p50_us,
        p99_us,
        times: statistics.histogram(),
        traps: statistics.traps.load(Relaxed),
        timeouts: statistics.timeouts.load(Relaxed),
        nonsense: statistics.nonsense.load(Relaxed),
        busy: statistics.busy.load(Relaxed),
        dropped_log_lines: statistics.dropped_log_lines.load(Relaxed),
        last_error: statistics.last_error(),
        earlier: row.earlier,
        newer: row.newer,
    }
}
