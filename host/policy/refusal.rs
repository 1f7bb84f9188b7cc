//! Why a plugin file does not serve, told to the operator: what was found, and what to do.

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
    #[error("the probe decision failed: {problem}{hint}")]
    Probe { problem: String, hint: String },
    #[error("the kept copy of this version is missing or damaged; drop its file into the plugin folder again")]
    CopyLost,
    #[error("{0}")]
    Store(String),
}

impl Refusal {
    /// A probe decision that failed.
    pub(super) fn probe(policy: &str, error: &PolicyError) -> Self {
        let hint = match error {
            PolicyError::Timeout { .. } => {
                format!("; raise deadline_ms or write isolation = \"reuse\" under [policy.{policy}] if it needs longer")
            }
            PolicyError::Trap(why) if why.contains(OUT_OF_MEMORY) => {
                format!("; raise memory_mib under [policy.{policy}] if it needs more")
            }
            _ => String::new(),
        };
        Self::Probe {
            problem: error.to_string(),
            hint,
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
