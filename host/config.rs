//! What the program uses: the configuration after loading. Nothing here is optional that a default could fill, no path is
//! relative, no name refers to nothing.
//!
//! What the user wrote is read in [`read`], which knows lines and spelling; this module must not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod read;
mod section;

pub use read::{ConfigError, ConfigErrors};

/// Everything an operator can decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from; `None` when the gateway runs without one.
    pub file: Option<PathBuf>,
    /// Address for clients.
    pub listen: SocketAddr,
    /// Address for operators: health, metrics, admin API.
    pub admin: SocketAddr,
    /// Private folder for compiled policies, last good versions and switches.
    pub state: PathBuf,
    pub server: Server,
    pub log: Log,
    pub policies: Policies,
    pub timeouts: Timeouts,
    pub attempts: Attempts,
    pub breaker: Breaker,
    /// PEM file with certificate authorities to trust for vendors besides the well-known ones.
    pub ca_file: Option<PathBuf>,
    /// Keys that clients must show; without any, everybody may call.
    pub keys: Vec<GatewayKey>,
    /// Rules of every policy that has a `[policy.NAME]` table.
    pub policy: BTreeMap<String, PolicyRules>,
    pub targets: Vec<Arc<Target>>,
    pub routes: Vec<Route>,
}

/// Limits and manners of the listener for clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Worker threads.
    pub workers: usize,
    pub runtime: Runtime,
    pub tls: Option<TlsFiles>,
    /// Connections open at once; more wait to be accepted.
    pub max_connections: usize,
    /// Requests in progress at once; more are answered 503.
    pub max_requests: usize,
    /// Bytes of a request's body; more is answered 413.
    pub max_body_bytes: usize,
    /// Bytes of a request's head; more is answered 431.
    pub max_head_bytes: usize,
    /// Time for the head of a request to arrive.
    pub head_timeout: Duration,
    /// Time for the whole body of a request to arrive; then 408.
    pub body_timeout: Duration,
    /// How long open requests may finish after SIGTERM.
    pub drain: Duration,
    /// How long readiness is red before the listener closes.
    pub drain_delay: Duration,
}

/// How requests are spread over cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// One single-threaded runtime and one listener for each worker.
    PerCore,
    /// One runtime whose workers share all work.
    Shared,
}

/// Certificate chain and private key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// A filter such as `info` or `warn,switchyard::policy=debug`.
    pub level: String,
    /// One line for each request.
    pub requests: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What holds for all policies.
#[derive(Debug, Clone, PartialEq)]
pub struct Policies {
    /// The plugin folder.
    pub directory: PathBuf,
    /// Lower-case names of request headers that a policy may see, as `header.NAME`.
    pub headers: Vec<String>,
    /// How often the folder is looked through where file events do not arrive.
    pub poll: Duration,
    /// Bytes of a plugin file.
    pub max_file_bytes: u64,
    /// Earlier versions of each policy that are kept for a rollback.
    pub keep_versions: usize,
    pub compile: CompileLimits,
    /// Rules of a policy that has no `[policy.NAME]` table.
    pub defaults: PolicyRules,
}

/// Limits of the child process that compiles a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileLimits {
    pub memory_bytes: u64,
    pub cpu: Duration,
    pub wall: Duration,
}

/// Rules of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyRules {
    /// What the policy reads with `setting(name)`: text as it is, numbers and booleans as text, arrays as values with commas
    /// between them, tables as JSON.
    pub settings: BTreeMap<String, String>,
    pub grants: Vec<Grant>,
    pub isolation: Isolation,
    /// Time for one decision.
    pub deadline: Duration,
    /// Memory of one instance.
    pub memory_bytes: usize,
    /// Instances of this policy alive at once.
    pub max_instances: usize,
    /// A reused instance is dropped after so many decisions.
    pub recycle_after: u32,
    /// Log lines of one decision; more are dropped and counted.
    pub log_lines: usize,
    /// Bytes of all log lines of one decision.
    pub log_bytes: usize,
    /// Picks of one decision; an answer with more is nonsense.
    pub max_picks: usize,
}

/// What an operator may allow a policy beyond deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The text of the prompt.
    Prompt,
}

/// Whether decisions share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A fresh instance for each decision.
    Fresh,
    /// Instances serve many decisions, one at a time.
    Reuse,
}

/// Deadlines of an attempt; a target, a route or a pick may shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_content: Duration,
    pub between_frames: Duration,
    /// From the request's arrival until content.
    pub request: Duration,
    /// From the start of an attempt until its answer is complete; `Duration::MAX` is no limit.
    pub whole: Duration,
}

/// Limits of the built-in chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempts {
    /// Attempts of one request, hedges included.
    pub max: u32,
    /// The longest stated wait after which the same target is tried again.
    pub same_target_wait: Duration,
    /// Bytes of a whole answer, which is held until it is complete.
    pub max_answer_bytes: usize,
    /// Bytes of a stream that are held until content comes.
    pub max_held_bytes: usize,
    /// Idle connections kept to one vendor address, for each worker.
    pub max_idle_connections: usize,
    /// How long an idle connection is kept.
    pub idle_connection: Duration,
}

/// When a target is left alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breaker {
    pub enabled: bool,
    /// Share of failures that opens it.
    pub failure_share: f32,
    /// Attempts in the window before a share means anything.
    pub min_attempts: u32,
    pub window: Duration,
    /// How long it stays open the first time; doubles at each failed probe.
    pub open: Duration,
    pub max_open: Duration,
    /// How long at most a target rests whose credential or quota failed. It is probed meanwhile: first after `max_open`, then at
    /// doubling intervals up to this.
    pub rest: Duration,
    /// The longest Retry-After that is believed.
    pub max_retry_after: Duration,
}

/// One `[[key]]`: what a client shows, and what policies are told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayKey {
    pub name: String,
    pub secret: Secret,
    pub attributes: Vec<(String, String)>,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret read from the environment or a file.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that signs a request.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One `[[target]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub name: String,
    /// Name of the vendor's row in [`crate::vendor`].
    pub vendor: &'static crate::vendor::Vendor,
    pub model: String,
    /// Where the vendor is: scheme, host, port and the path before the format's own path, without a slash at the end.
    pub base_url: http::Uri,
    pub api_key: Option<Secret>,
    pub context_window: Option<u32>,
    /// US dollars for a million tokens.
    pub input_price: Option<f64>,
    pub output_price: Option<f64>,
    pub attributes: Vec<(String, String)>,
    pub timeouts: Timeouts,
    /// How a simulated vendor behaves; `None` for real ones.
    pub sim: Option<Sim>,
}

/// A simulated vendor's behaviour.
#[derive(Debug, Clone, PartialEq)]
pub struct Sim {
    /// Before the answer's head.
    pub latency: Duration,
    /// Between the head and the first token.
    pub first_token: Duration,
    pub tokens_per_second: f64,
    /// Tokens of an answer.
    pub tokens: u32,
    /// Share of requests that fail, by kind.
    pub errors: Vec<(SimError, f64)>,
}

/// How a simulated vendor fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimError {
    /// This HTTP status, with the vendor's error body.
    Status(u16),
    /// Closes the connection before an answer.
    Reset,
    /// Never answers.
    Hang,
    /// Stops in the middle of a stream.
    Cut,
}

/// One `[[route]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Exact name or a pattern in which `*` stands for anything.
    pub model: String,
    /// In the order of the configuration.
    pub targets: Vec<Arc<Target>>,
    /// Policies by name; each one's picks are the next one's targets.
    pub policies: Vec<String>,
    pub on_error: OnError,
    /// Ceiling on the share of this route's requests that may be hedged.
    pub hedge_share: f32,
    pub timeouts: RouteTimeouts,
    /// Attempts of one request on this route.
    pub max_attempts: u32,
}

/// Deadlines that a route shortens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteTimeouts {
    pub connect: Option<Duration>,
    pub first_content: Option<Duration>,
    pub between_frames: Option<Duration>,
    pub request: Option<Duration>,
    pub whole: Option<Duration>,
}

/// What a request does when its policy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Goes on with the built-in chain.
    Pass,
    /// Is rejected.
    Reject,
}
