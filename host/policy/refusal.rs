//! Why a plugin file does not serve, told to the operator: what was found, and what to do.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::version::{OUT_OF_MEMORY, PolicyError};

/// Why a plugin file is not served. The compile child sends it as JSON.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Refusal {
    #[error("there is no such file in the plugin folder and no ready-made policy of that name; {0}")]
    Missing(String),
    #[error("the file cannot be read: {0}")]
    Unreadable(String),
    #[error("it is {0} and no regular file; put the plugin itself there, or a link to it")]
    NotRegular(String),
    #[error("the file changed each time it was read; write it beside its name and rename it into place")]
    Restless,
    #[error(
        "the file has {bytes} bytes, at most {limit} are allowed; raise max_file_mib under [policies] or strip the plugin"
    )]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the file is empty")]
    Empty,
    #[error("the file is not WebAssembly but {0}; compile the policy and drop the .wasm file in")]
    NotWasm(String),
    #[error("the file ends in the middle ({0}); copy it again, and rename it into place when it is complete")]
    Truncated(String),
    #[error("the file is not valid WebAssembly: {0}")]
    Invalid(String),
    #[error(
        "the file is a core module without the contract in it; build it with the crate pointsman-policy, or make it a \
         component with `wasm-tools component new`"
    )]
    NoContract,
    #[error(
        "the file is a core module for WASI preview 1; build it for wasm32-unknown-unknown or wasm32-wasip2, or make it a \
         component with `wasm-tools component new --adapt wasi_snapshot_preview1.reactor.wasm`"
    )]
    PreviewOne,
    #[error(
        "imports `{import}`, which is not granted; write grants = [\"{grant}\"] under [policy.{policy}] if it may have it"
    )]
    NotGranted {
        import: String,
        grant: String,
        policy: String,
    },
    #[error("imports `{0}`, which no policy can have: a policy has no network; build it without")]
    Network(String),
    #[error("imports `{0}`, which this gateway does not serve; a policy may import the contract and WASI 0.2")]
    ForbiddenImport(String),
    #[error(
        "speaks `{found}`, this gateway speaks pointsman:policy@{ours}; build it for that version or upgrade the gateway"
    )]
    OtherContract { found: String, ours: String },
    #[error("exports no function `decide`; {0}")]
    WrongWorld(String),
    #[error("does not fit the contract: {0}")]
    Misfit(String),
    #[error("compiling took more than {} s; raise compile_wall_ms under [policies] or make the plugin smaller", .0.as_secs())]
    CompileWall(Duration),
    #[error(
        "compiling took more than {} s of processor time; raise compile_cpu_ms under [policies] or make the plugin smaller",
        .0.as_secs()
    )]
    CompileCpu(Duration),
    #[error("compiling needed more than {} MiB; raise compile_memory_mib under [policies] or make the plugin smaller", .0 >> 20)]
    CompileMemory(u64),
    #[error("the process that compiles was killed by signal {0}")]
    CompileKilled(i32),
    #[error("compiling failed: {0}")]
    CompileFailed(String),
    #[error("the kept copy of this version is missing or damaged; drop its file into the plugin folder again")]
    CopyLost,
    #[error("the compiler could not do its work: {0}")]
    CompilerLost(String),
    #[error("the loader did not come back within {} s; another one has taken its place", .0.as_secs())]
    LoaderLost(Duration),
    #[error("the file was replaced or removed before it was loaded")]
    Outdated,
    #[error("the probe decision failed: {problem}{hint}{}", wrote(.said))]
    Probe {
        problem: String,
        hint: String,
        /// The last lines that the guest wrote.
        said: Vec<String>,
    },
    #[error("{0}")]
    Slow(Slow),
    #[error("{0}")]
    Store(String),
}

/// A guest that needs longer for a decision than it may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Slow {
    pub(super) policy: String,
    /// The fastest of several decisions; `None` when none was ready within `given`.
    pub(super) took: Option<Duration>,
    /// The time that the probe gave it.
    pub(super) given: Duration,
    /// The longest time that a decision may take.
    pub(super) limit: Duration,
    /// Whether that is `deadline_ms`, and not what holds without it.
    pub(super) written: bool,
    /// Whether each decision has an instance of its own.
    pub(super) fresh: bool,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = in_ms(self.limit);
        match self.took {
            Some(took) => write!(f, "the probe decision took {} at best, ", in_ms(took))?,
            None => write!(f, "the probe had no decision within {}, ", in_ms(self.given))?,
        }
        if self.written {
            write!(f, "deadline_ms allows {limit}")?;
        } else {
            write!(f, "at most {limit} are allowed without a deadline_ms")?;
        }
        let policy = &self.policy;
        match self.took {
            Some(took) => write!(f, "; write deadline_ms = {}", room(took).as_millis())?,
            None => write!(f, "; raise deadline_ms")?,
        }
        if self.fresh {
            write!(f, " or isolation = \"reuse\"")?;
        }
        write!(f, " under [policy.{policy}] if it needs longer")
    }
}

/// A guest is given ten times what its probe took, in steps of 5 ms: real requests say more than a probe, and the processor has
/// other work as well.
pub(super) fn room(took: Duration) -> Duration {
    const STEP_MS: u64 = 5;
    let steps = (took * 10).as_millis() as u64 / STEP_MS + 1;
    Duration::from_millis(steps * STEP_MS)
}

/// A duration as operators write it.
pub(super) fn in_ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 && !duration.subsec_micros().is_multiple_of(1000) {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

fn wrote(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; the policy wrote: {}", lines.join(" / ")),
    }
}

impl Refusal {
    /// A probe decision that failed, after the guest had written `said`.
    pub(super) fn probe(policy: &str, error: &PolicyError, said: Vec<String>) -> Self {
        let hint = match error {
            PolicyError::Trap(why) if why.contains(OUT_OF_MEMORY) => {
                format!("; raise memory_mib under [policy.{policy}] if it needs more")
            }
            _ => String::new(),
        };
        Self::Probe {
            problem: error.to_string(),
            hint,
            said,
        }
    }

    /// The last lines that the guest wrote before its probe failed.
    pub(super) fn said(&self) -> &[String] {
        match self {
            Self::Probe { said, .. } => said,
            _ => &[],
        }
    }

    /// Whether it may be over by itself, whatever the plugin's content: a full disk, a busy machine, a compiler that cannot be
    /// started. Such a plugin is tried again; only what the content itself causes is remembered.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreadable(_)
            | Self::Restless
            | Self::CompileWall(_)
            | Self::CompileCpu(_)
            | Self::CompileMemory(_)
            | Self::CompileKilled(_)
            | Self::CompilerLost(_)
            | Self::LoaderLost(_)
            | Self::Outdated
            | Self::Slow(_)
            | Self::Store(_) => true,
            Self::Missing(_)
            | Self::NotRegular(_)
            | Self::TooLarge { .. }
            | Self::Empty
            | Self::NotWasm(_)
            | Self::Truncated(_)
            | Self::Invalid(_)
            | Self::NoContract
            | Self::PreviewOne
            | Self::NotGranted { .. }
            | Self::Network(_)
            | Self::ForbiddenImport(_)
            | Self::OtherContract { .. }
            | Self::WrongWorld(_)
            | Self::Misfit(_)
            | Self::CompileFailed(_)
            | Self::CopyLost
            | Self::Probe { .. } => false,
        }
    }

    /// Whether a file that is still being written looks like this.
    pub(super) fn may_be_unfinished(&self) -> bool {
        matches!(
            self,
            Self::Empty | Self::NotWasm(_) | Self::Truncated(_) | Self::Invalid(_) | Self::Restless
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_guest_is_told_what_it_took_and_what_to_write() {
        let slow = Slow {
            policy: "plan-b".into(),
            took: Some(Duration::from_micros(6_540)),
            given: Duration::from_millis(1005),
            limit: Duration::from_millis(5),
            written: true,
            fresh: true,
        };
        assert_eq!(
            slow.to_string(),
            "the probe decision took 6.5 ms at best, deadline_ms allows 5 ms; write deadline_ms = 70 or isolation = \"reuse\" \
             under [policy.plan-b] if it needs longer"
        );
        let reused = Slow {
            took: None,
            fresh: false,
            written: false,
            limit: Duration::from_millis(100),
            ..slow
        };
        assert_eq!(
            reused.to_string(),
            "the probe had no decision within 1005 ms, at most 100 ms are allowed without a deadline_ms; raise deadline_ms under \
             [policy.plan-b] if it needs longer"
        );
    }
}
