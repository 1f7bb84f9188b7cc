//! The configuration: what the program uses, after loading. Nothing here is optional that a default could fill, no path
//! is relative, no name refers to nothing, and no number is outside its range.
//!
//! What the user wrote exists only while it is read: as a `document` of `section`s, which know lines and spelling.
//! Each noun of the configuration is one file below with its type, its defaults and how it is read; `read` puts them
//! together, and `check` looks at what only the whole can know. All that is wrong is reported at once, each with its
//! line and what to write instead.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod attempts;
mod breaker;
mod check;
mod demo;
mod document;
mod file;
mod files;
mod finding;
mod key;
mod log;
mod names;
mod operators;
mod policies;
mod read;
mod route;
mod secret;
mod section;
mod server;
mod sim;
mod source;
mod spelling;
mod syntax;
mod target;
mod text;
mod timeouts;
mod trace;

#[cfg(test)]
mod tests;

pub use attempts::Attempts;
pub use breaker::Breaker;
pub use files::{Digest, NamedFiles};
pub use finding::{ConfigErrors, Finding};
pub use key::GatewayKey;
pub use log::{Log, LogFormat};
pub use operators::Operators;
pub use policies::{CompileLimits, Grant, Isolation, Policies, PolicyRules};
pub use route::{Hold, OnError, Route};
pub use secret::Secret;
pub use server::{Runtime, Server, TlsFiles};
pub use sim::{Sim, SimError};
pub use source::{Reading, Source};
pub(crate) use spelling::{nearest, suggest};
pub use target::Target;
pub use timeouts::{RouteTimeouts, Timeouts};
pub use trace::Trace;

/// Looks a variable up in the environment; a parameter, so that tests need not change the process's own.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything an operator can decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from; `None` when the gateway runs without one.
    pub file: Option<PathBuf>,
    /// Address for clients; default: 127.0.0.1:8080.
    pub listen: SocketAddr,
    /// Address for operators: health, metrics, admin API; default: 127.0.0.1:8081.
    pub admin: SocketAddr,
    /// Who may use that address.
    pub operators: Operators,
    /// Private folder for compiled policies, last good versions and switches; default: `.pointsman` beside the file.
    pub state: PathBuf,
    /// Limits and manners of the listener for clients.
    pub server: Server,
    /// What is logged and how.
    pub log: Log,
    /// Who is told of requests as traces; default: nobody.
    pub trace: Option<Trace>,
    /// What holds for all policies.
    pub policies: Policies,
    /// Deadlines of an attempt that targets and routes start from.
    pub timeouts: Timeouts,
    /// Limits of the built-in chain.
    pub attempts: Attempts,
    /// When a target is left alone.
    pub breaker: Breaker,
    /// PEM file with certificate authorities to trust for vendors besides the well-known ones; default: none.
    pub ca_file: Option<PathBuf>,
    /// Keys that clients must show; without any, everybody may call.
    pub keys: Vec<GatewayKey>,
    /// Rules of every policy that has a `[policy.NAME]` table; see [`Config::rules`].
    pub policy: BTreeMap<String, PolicyRules>,
    /// In the order of the file; at least one.
    pub targets: Vec<Arc<Target>>,
    /// In the order of the file; at least one.
    pub routes: Vec<Route>,
    /// The files that it names, as they were when it was read.
    pub files: NamedFiles,
    /// What is legal but suspicious, in the order of lines; for the log.
    pub warnings: Vec<Finding>,
}

impl Config {
    /// Reads the file at `path`. Relative paths in it are relative to its folder.
    pub fn load(path: &Path, env: Environment<'_>) -> Result<Self, ConfigErrors> {
        let source = Source {
            file: Some(path.to_owned()),
            ..Source::default()
        };
        source.read(env).finish()
    }

    /// Reads the `text` of a file. `file` is what the findings call it; relative paths are relative to the folder
    /// `base`.
    pub fn parse(text: &str, file: &Path, base: &Path, env: Environment<'_>) -> Result<Self, ConfigErrors> {
        read::config(text, file, &absolute(base), (&Source::default(), env)).finish()
    }

    /// What is served without a file: simulated vendors, and every real one whose usual key variable is set. The plugin
    /// folder and the state folder are in `base`.
    pub fn without_file(base: &Path, env: Environment<'_>) -> Self {
        demo::config(&absolute(base), &Source::default(), env)
    }

    /// The route that serves a requested model name: the one of exactly that name, else the first pattern that matches.
    pub fn route_for(&self, model: &str) -> Option<&Route> {
        let exact = self.routes.iter().find(|route| route.model == model);
        exact.or_else(|| self.routes.iter().find(|route| route.matches(model)))
    }

    /// The rules of a policy: those of its own table, else those of all policies.
    pub fn rules(&self, policy: &str) -> &PolicyRules {
        self.policy.get(policy).unwrap_or(&self.policies.defaults)
    }

    /// All defaults: what a file that says nothing would mean, which serves nobody.
    fn defaults(base: &Path) -> Self {
        Self {
            file: None,
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            admin: (Ipv4Addr::LOCALHOST, 8081).into(),
            operators: Operators::default(),
            state: base.join(".pointsman"),
            server: Server::default(),
            log: Log::default(),
            trace: None,
            policies: Policies::defaults(base),
            timeouts: Timeouts::default(),
            attempts: Attempts::default(),
            breaker: Breaker::default(),
            ca_file: None,
            keys: Vec::new(),
            policy: BTreeMap::new(),
            targets: Vec::new(),
            routes: Vec::new(),
            files: NamedFiles::default(),
            warnings: Vec::new(),
        }
    }
}

/// The path from the root. It fails only for an empty path or a working folder that is gone; then the path itself has
/// to do.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
