//! What a guest has of its host while it decides: settings, a log, limits, and the prompt if it was granted.
//!
//! The only place that makes a [`Store`], so that no path forgets a limit.

use std::sync::Arc;

use wasmtime::{ResourceLimiter, Store};

use super::contract::{Level, PromptPolicyImports, prompt, types};
use super::engine::{CORE_INSTANCES, Engine, MEMORIES, TABLE_ELEMENTS, TABLES, TICK};
use super::log::Log;
use super::version::{Input, Prompt};
use crate::config::{Grant, PolicyRules};

/// Bytes that a guest may hand over in one call, an answer included; wasmtime's own limit is 128 MiB.
const CALL_BYTES: usize = 4 << 20;

/// Handles a guest may hold at once. The contract has none and WASI guests hold a few; wasmtime's own limit is 100,000.
const HANDLES: usize = 256;

/// The state of one store.
pub(super) struct Guest {
    rules: Arc<PolicyRules>,
    prompt: Option<Arc<dyn Prompt>>,
    pub(super) log: Log,
    pub(super) limits: Limits,
    /// The only clock: `request.now-ms`.
    pub(super) now_ms: u64,
    /// The only dice, drawn from `request.seed`.
    pub(super) dice: fastrand::Rng,
}

/// Bounds the memory of one store and remembers what became of it.
pub(super) struct Limits {
    memory_bytes: usize,
    /// Bytes of all linear memories.
    pub(super) used_bytes: usize,
    /// The guest asked for more than it may have.
    pub(super) refused: bool,
    /// The guest asked for what it may have, and the system had no more.
    pub(super) starved: bool,
}

impl Guest {
    /// A store for a guest under `rules`. It cannot run before [`Guest::begin`].
    pub(super) fn store(engine: &Engine, rules: &Arc<PolicyRules>) -> Store<Self> {
        let guest = Self {
            rules: Arc::clone(rules),
            prompt: None,
            log: Log::new(rules.log_lines, rules.log_bytes),
            limits: Limits {
                memory_bytes: rules.memory_bytes,
                used_bytes: 0,
                refused: false,
                starved: false,
            },
            now_ms: 0,
            dice: fastrand::Rng::with_seed(0),
        };
        let mut store = Store::new(engine.wasm(), guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(CALL_BYTES);
        store.set_max_component_handles(HANDLES);
        store
    }

    /// Prepares for one decision: starts its deadline and sets its clock, its dice and what it may read.
    pub(super) fn begin(store: &mut Store<Self>, input: &Input<'_>) {
        let guest = store.data_mut();
        // The current tick is already running, so one more makes sure that the guest has its whole deadline.
        let ticks = guest.rules.deadline.div_duration_f64(TICK).ceil() as u64 + 1;
        guest.now_ms = input.request.now_ms;
        guest.dice = fastrand::Rng::with_seed(input.request.seed.into());
        guest.prompt = if guest.rules.grants.contains(&Grant::Prompt) {
            input.prompt.clone()
        } else {
            None
        };
        store.set_epoch_deadline(ticks);
    }

    /// Takes back what only this decision may have, and what it logged.
    pub(super) fn end(store: &mut Store<Self>) -> Log {
        let guest = store.data_mut();
        guest.prompt = None;
        guest.log.take()
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used_bytes + (desired - current);
        let within = used <= self.memory_bytes && maximum.is_none_or(|maximum| desired <= maximum);
        if within {
            self.used_bytes = used;
        } else {
            self.refused = true;
        }
        Ok(within)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Also called after a refusal.
        self.starved |= !self.refused;
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(TABLE_ELEMENTS).min(TABLE_ELEMENTS))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        (CORE_INSTANCES * TABLES) as usize
    }

    fn memories(&self) -> usize {
        MEMORIES as usize
    }
}

impl PromptPolicyImports for Guest {
    fn setting(&mut self, name: String) -> Option<String> {
        self.rules.settings.get(&name).cloned()
    }

    fn log(&mut self, level: Level, message: String) {
        self.log.line(level, &message);
    }
}

impl types::Host for Guest {}

/// Answers with nothing where there is no prompt: a policy that was not granted it is refused long before.
impl prompt::Host for Guest {
    fn last_user_text(&mut self) -> String {
        self.prompt
            .as_ref()
            .map(|prompt| prompt.last_user_text())
            .unwrap_or_default()
    }

    fn messages(&mut self) -> Vec<(String, String)> {
        self.prompt.as_ref().map(|prompt| prompt.messages()).unwrap_or_default()
    }
}
