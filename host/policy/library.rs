//! All policies: reads the plugin folder, keeps it in sight, and publishes a new version when a file proves itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use super::version::Version;
use crate::config::Config;

/// First argument of the hidden command with which the gateway starts itself to compile a plugin.
pub const COMPILE_COMMAND: &str = "compile-plugin";

/// The whole life of a compile child: sets its own limits, then reads a plugin from standard input and compiles it.
/// `args` are the arguments after [`COMPILE_COMMAND`].
pub fn compile_child_main(_args: &[String]) -> std::process::ExitCode {
    todo!()
}

/// A policy that comes with the gateway: its name and its plugin file.
pub type ReadyMade = (&'static str, &'static [u8]);

/// The version that serves, for every policy that has one. Cheap to clone.
#[derive(Clone, Default)]
pub struct Versions(Arc<BTreeMap<String, Arc<Version>>>);

impl Versions {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// What the plugin folder holds is what serves.
    Live,
    /// The newest file was refused; an earlier version serves, or none.
    Refused,
    /// An operator went back to an earlier version; it serves until the file changes.
    RolledBack,
    /// The newest version kept failing; an earlier one serves, or none.
    SetAside,
    /// The file is gone; its last version serves on.
    FileGone,
}

/// What the admin API tells of a policy.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyStatus {
    /// Name of the policy.
    pub name: String,
    /// Where it stands.
    pub state: PolicyState,
    /// SHA-256 of the plugin file that serves, hexadecimal; `None` when none does.
    pub version: Option<String>,
    /// Since when it serves, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Why the newest file does not serve; `None` when it does.
    pub problem: Option<String>,
    /// Decisions asked of the version that serves.
    pub decisions: u64,
    /// Median time of a decision, microseconds.
    pub p50_us: f64,
    /// 99th percentile of the time of a decision, microseconds.
    pub p99_us: f64,
    /// Decisions that trapped.
    pub traps: u64,
    /// Decisions that ran out of time.
    pub timeouts: u64,
    /// Decisions that were nonsense.
    pub nonsense: u64,
    /// Decisions that were not asked because all instances were busy.
    pub busy: u64,
    /// Log lines that were dropped because a decision wrote too many.
    pub dropped_log_lines: u64,
    /// The last decision that failed.
    pub last_error: Option<LastError>,
    /// Earlier versions that a rollback can go to, newest first: SHA-256, hexadecimal.
    pub earlier: Vec<String>,
}

/// A decision that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastError {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What went wrong.
    pub error: String,
}

/// Something that `switchyard check` has to say about a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyProblem {
    /// Name of the policy.
    pub policy: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// Why the policies could not be opened at all; a policy that cannot be loaded is no reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The private folder cannot be used.
    #[error("the folder {} cannot be used: {reason}", .folder.display())]
    Store {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// The engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0}")]
    Engine(String),
}

/// Why a rollback did not happen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RollbackError {
    /// There is no such policy.
    #[error("there is no policy `{0}`")]
    Unknown(String),
    /// There is nothing to go back to.
    #[error("policy `{0}` has no earlier version")]
    NoEarlier(String),
    /// The earlier version cannot be loaded any more.
    #[error("the earlier version of policy `{policy}` cannot be loaded: {reason}")]
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
    versions: watch::Sender<Versions>,
}

impl Library {
    /// Loads every policy and starts to watch the plugin folder. Returns when all policies that a route names have been tried;
    /// one that cannot be loaded is told in the log and in [`Library::status`], and is missing from [`Library::versions`].
    /// `program` is this binary, which is started again to compile plugins.
    pub fn open(_config: &Config, _ready_made: &'static [ReadyMade], _program: PathBuf) -> Result<Self, OpenError> {
        todo!()
    }

    /// What serves now.
    pub fn versions(&self) -> Versions {
        self.versions.borrow().clone()
    }

    /// Tells of every change of what serves.
    pub fn changes(&self) -> watch::Receiver<Versions> {
        self.versions.subscribe()
    }

    /// What the admin API tells, by name.
    pub fn status(&self) -> Vec<PolicyStatus> {
        todo!()
    }

    /// Makes the previous good version serve until the file changes. Returns the hash of what serves now. Blocks until it does:
    /// milliseconds, or the time of a compilation when the compiled file is lost.
    pub fn rollback(&self, _policy: &str) -> Result<super::Hash, RollbackError> {
        todo!()
    }

    /// Takes over a changed configuration: rules, grants and the plugin folder. Blocks like [`Library::open`].
    pub fn reconfigure(&self, _config: &Config) {
        todo!()
    }

    /// Tries every policy as [`Library::open`] would and tells what is wrong, without serving anything: for `switchyard check`.
    pub fn check(
        _config: &Config,
        _ready_made: &'static [ReadyMade],
        _program: PathBuf,
    ) -> Result<Vec<PolicyProblem>, OpenError> {
        todo!()
    }
}
