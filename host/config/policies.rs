//! The rules that policies live by: those of all policies, and those of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;

use super::document::Written;
use super::section::Section;
use super::spelling::excerpt;
use super::text;

/// One `[policies]`: what holds for all policies.
#[derive(Debug, Clone, PartialEq)]
pub struct Policies {
    /// The plugin folder; default: `plugins`.
    pub directory: PathBuf,
    /// Lower-case names of request headers that a policy may see, as `header.NAME`; never one that carries a
    /// credential. Default: none.
    pub headers: Vec<String>,
    /// How often the folder is looked through where file events do not arrive; default: 2 s.
    pub poll: Duration,
    /// Bytes of a plugin file; default: 64 MiB.
    pub max_file_bytes: u64,
    /// Earlier versions of each policy that are kept for a rollback; default: 5.
    pub keep_versions: usize,
    /// Plugins that no route uses and that are loaded all the same, when there is time, so that they are ready when a route
    /// names them; default: 16.
    pub max_unused: usize,
    /// Whether the gateway is ready only while each route that names policies has one that serves; default: false.
    pub required: bool,
    /// Limits of the child process that compiles a plugin.
    pub compile: CompileLimits,
    /// Rules of a policy that has no `[policy.NAME]` table, and what such a table starts from.
    pub defaults: PolicyRules,
}

/// Limits of the child process that compiles a plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct CompileLimits {
    /// Bytes of address space; default: 2 GiB.
    pub memory_bytes: u64,
    /// Processor time, at least 1 s; default: 60 s.
    pub cpu: Duration,
    /// Time on the clock, at least 1 s; default: 60 s.
    pub wall: Duration,
}

/// Rules of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyRules {
    /// What the policy reads with `setting(name)`: text as it is, numbers and booleans as text, arrays as values with
    /// commas between them, tables as JSON.
    pub settings: BTreeMap<String, String>,
    /// What it may do beyond deciding; default: nothing.
    pub grants: Vec<Grant>,
    /// Whether decisions share an instance; default: a fresh one for each.
    pub isolation: Isolation,
    /// Time for one decision; default: 5 ms, and more for a guest whose probe shows that it needs more.
    pub deadline: Duration,
    /// Whether an operator wrote the deadline; then it holds for every guest.
    pub deadline_written: bool,
    /// Bytes of memory of one instance; default: 16 MiB.
    pub memory_bytes: usize,
    /// Instances of this policy alive at once; default: 16.
    pub max_instances: usize,
    /// A reused instance is dropped after so many decisions; default: 10,000.
    pub recycle_after: u32,
    /// Log lines of one decision; more are dropped and counted. Default: 16.
    pub log_lines: usize,
    /// Bytes of all log lines of one decision; default: 4 KiB.
    pub log_bytes: usize,
    /// Picks of one decision; an answer with more is nonsense. Default: 64.
    pub max_picks: usize,
}

/// What an operator may allow a policy beyond deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It reads the text of the prompt.
    Prompt,
    /// Its patches may change the prompt.
    PatchPrompt,
}

/// Whether decisions share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// A fresh instance for each decision.
    Fresh,
    /// Instances serve many decisions, one at a time.
    Reuse,
}

/// Request headers that carry a credential, of clients or of proxies. A policy never sees one.
const CREDENTIAL_HEADERS: [&str; 6] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
];

impl Policies {
    /// The defaults, with the plugin folder in the folder `base`.
    pub(super) fn defaults(base: &Path) -> Self {
        Self {
            directory: base.join("plugins"),
            headers: Vec::new(),
            poll: Duration::from_secs(2),
            max_file_bytes: 64 << 20,
            keep_versions: 5,
            max_unused: 16,
            required: false,
            compile: CompileLimits::default(),
            defaults: PolicyRules::default(),
        }
    }

    pub(super) fn read(mut section: Section<'_>) -> Self {
        let default = Self::defaults(section.document.base);
        let policies = Self {
            directory: section.path("directory").map_or(default.directory, |path| path.value),
            headers: read_headers(&mut section),
            poll: section.millis("poll_ms", 1..=3_600_000).unwrap_or(default.poll),
            max_file_bytes: section.mib("max_file_mib", 1..=1024).unwrap_or(default.max_file_bytes),
            keep_versions: section
                .whole("keep_versions", 0..=1000)
                .unwrap_or(default.keep_versions),
            max_unused: section.whole("max_unused", 0..=10_000).unwrap_or(default.max_unused),
            required: section.flag("required").unwrap_or(default.required),
            compile: CompileLimits::read(&mut section),
            defaults: PolicyRules::read_limits(&mut section, default.defaults),
        };
        section.close();
        policies
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            cpu: Duration::from_secs(60),
            wall: Duration::from_secs(60),
        }
    }
}

impl CompileLimits {
    fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            memory_bytes: section
                .mib("compile_memory_mib", 64..=1_048_576)
                .unwrap_or(default.memory_bytes),
            cpu: section
                .millis("compile_cpu_ms", 1000..=3_600_000)
                .unwrap_or(default.cpu),
            wall: section
                .millis("compile_wall_ms", 1000..=3_600_000)
                .unwrap_or(default.wall),
        }
    }
}

impl Default for PolicyRules {
    fn default() -> Self {
        Self {
            settings: BTreeMap::new(),
            grants: Vec::new(),
            isolation: Isolation::Fresh,
            deadline: Duration::from_millis(5),
            deadline_written: false,
            memory_bytes: 16 << 20,
            max_instances: 16,
            recycle_after: 10_000,
            log_lines: 16,
            log_bytes: 4 << 10,
            max_picks: 64,
        }
    }
}

impl PolicyRules {
    /// Reads a `[policy.NAME]`, which starts from the rules of all policies.
    pub(super) fn read(mut section: Section<'_>, default: Self) -> Self {
        let settings = section.entries("settings");
        let setting = |(name, value): (Written<&str>, _)| {
            Some((name.value.to_owned(), text::setting(&section, name.value, value)?))
        };
        let settings = settings.into_iter().filter_map(setting).collect();
        let isolations = [("fresh", Isolation::Fresh), ("reuse", Isolation::Reuse)];
        let rules = Self {
            settings,
            grants: section
                .choices(
                    "grants",
                    &[("prompt", Grant::Prompt), ("patch-prompt", Grant::PatchPrompt)],
                )
                .unwrap_or_default(),
            isolation: section.choice("isolation", &isolations).unwrap_or(default.isolation),
            ..Self::read_limits(&mut section, default)
        };
        section.close();
        rules
    }

    fn read_limits(section: &mut Section<'_>, default: Self) -> Self {
        let written = section.millis("deadline_ms", 1..=10_000);
        Self {
            deadline: written.unwrap_or(default.deadline),
            deadline_written: written.is_some() || default.deadline_written,
            memory_bytes: section.mib("memory_mib", 1..=4096).unwrap_or(default.memory_bytes),
            max_instances: section
                .whole("max_instances", 1..=10_000)
                .unwrap_or(default.max_instances),
            recycle_after: section
                .whole("recycle_after", 1..=1_000_000_000)
                .unwrap_or(default.recycle_after),
            log_lines: section.whole("log_lines", 0..=10_000).unwrap_or(default.log_lines),
            log_bytes: section.kib("log_kib", 0..=1024).unwrap_or(default.log_bytes),
            max_picks: section.whole("max_picks", 1..=1024).unwrap_or(default.max_picks),
            ..default
        }
    }
}

fn read_headers(section: &mut Section<'_>) -> Vec<String> {
    let mut headers = Vec::new();
    for Written { value: written, line } in section.texts("headers").unwrap_or_default() {
        let Ok(name) = HeaderName::from_bytes(written.as_bytes()) else {
            let fault = format!("holds `{}`, which is not the name of a header", excerpt(written));
            section.wrong(line, "headers", &fault, "write names such as \"x-team\"");
            continue;
        };
        if CREDENTIAL_HEADERS.contains(&name.as_str()) {
            let fault = format!("holds `{name}`, which carries a credential");
            section.wrong(line, "headers", &fault, "leave it out: policies never see credentials");
        }
        headers.push(name.as_str().to_owned());
    }
    headers
}
