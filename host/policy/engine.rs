//! The one engine of the process: how guests are compiled, where their memory comes from, and the clock that interrupts them.
//!
//! Compilation and execution must agree on every setting that shapes machine code, so both start from [`compile_config`].
//!
//! A pool reserves terabytes of address space and touches little of it. Where a process may not have so much (`ulimit -v`, a kernel
//! with 39-bit addresses), there is a smaller pool for the same machine code; and where not even that fits, memory is allocated for
//! each guest, with machine code that checks each access.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;
use std::time::Duration;

use rustix::process::Resource;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::contract::PromptPolicy;
use super::guest::Guest;
use super::program::one_line;

/// Distance between two ticks of the clock that interrupts guests.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Slots of the pool for each shard. Wasmtime gives each thread one of at most 16 shards, and a decision is cheap only while
/// its policy finds a slot of its own there; this many leave room for a hundred policies and the versions before them.
const SLOTS_PER_SHARD: u32 = 256;

/// Wasmtime's own ceiling on the number of shards.
const MAX_SHARDS: u32 = 16;

/// Bytes at the start of a guest's memory that are reset by writing to them instead of giving them back to the kernel: above
/// the heap of a small guest, so that its decisions need no system call and fault no page, and small enough that a large guest,
/// whose heap is mostly left alone, is not overwritten for nothing.
const KEEP_RESIDENT: usize = 256 << 10;

/// Elements of one table: four times what an interpreter with all its libraries has.
pub(super) const TABLE_ELEMENTS: usize = 1 << 16;

/// Core instances, tables and memories of one guest. A small guest has three, two and one; interpreters that are linked
/// from shared libraries have dozens of instances around one memory.
pub(super) const CORE_INSTANCES: u32 = 100;
pub(super) const TABLES: u32 = 10;
pub(super) const MEMORIES: u32 = 2;

/// Places of the smallest pool: with fewer, memory that is allocated for each guest serves better.
const FEWEST_SLOTS: u32 = 32;

/// Bytes that a guest's memory can grow before it is moved, where it is allocated for each guest.
const GROWTH: u64 = 1 << 20;

/// What lies behind a guest's memory, which decides whether machine code checks each access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Everything that the guest could address is reserved: what is beyond its memory faults by itself.
    Reserved,
    /// Nothing: machine code checks each access.
    Checked,
}

/// Where guests get their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// A pool of so many places, reserved at the start.
    Pool(u32),
    /// The system, for each guest.
    OnDemand,
}

/// Runs guests. Its clock stops when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Engine {
    wasm: wasmtime::Engine,
    layout: Layout,
    /// What every policy may import: the contract.
    contract: Linker<Guest>,
}

impl Engine {
    /// Reserves as much as there is address space for, and starts the clock.
    pub(super) fn new() -> wasmtime::Result<Self> {
        let largest = Memory::Pool(slots());
        let failure = match Self::with(largest) {
            Ok(engine) => return Ok(engine),
            Err(error) => one_line(&error),
        };
        let mut memory = largest;
        loop {
            memory = memory.smaller();
            match Self::with(memory) {
                Ok(engine) => {
                    let limit = rustix::process::getrlimit(Resource::As)
                        .current
                        .map(|bytes| bytes >> 20);
                    tracing::warn!(
                        limit_mib = limit,
                        failure,
                        "the address space is too small for the usual pool of policies' memory: {memory}; raise `ulimit -v` (LimitAS=) if decisions take too long"
                    );
                    return Ok(engine);
                }
                Err(error) if memory == Memory::OnDemand => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn with(memory: Memory) -> wasmtime::Result<Self> {
        let layout = memory.layout();
        let mut config = compile_config(layout);
        config.allocation_strategy(match memory {
            Memory::Pool(slots) => InstanceAllocationStrategy::Pooling(pool(slots)),
            Memory::OnDemand => InstanceAllocationStrategy::OnDemand,
        });
        let wasm = wasmtime::Engine::new(&config)?;
        let mut contract = Linker::new(&wasm);
        PromptPolicy::add_to_linker::<_, HasSelf<_>>(&mut contract, |guest| guest)?;
        start_clock(&wasm)?;
        Ok(Self { wasm, layout, contract })
    }

    /// What its machine code must be compiled for.
    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn wasm(&self) -> &wasmtime::Engine {
        &self.wasm
    }

    /// A linker that serves the contract, for a program to add what else it imports.
    pub(super) fn linker(&self) -> Linker<Guest> {
        self.contract.clone()
    }

    /// Tells machine code of this engine from any other: its version, its settings and this machine's abilities.
    pub(super) fn compatibility(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.wasm.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }
}

impl Memory {
    /// What needs less address space.
    fn smaller(self) -> Self {
        match self {
            Self::Pool(slots) if slots / 2 >= FEWEST_SLOTS => Self::Pool(slots / 2),
            _ => Self::OnDemand,
        }
    }

    fn layout(self) -> Layout {
        match self {
            Self::Pool(_) => Layout::Reserved,
            Self::OnDemand => Layout::Checked,
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(slots) => write!(f, "it has {slots} places"),
            Self::OnDemand => f.write_str("memory is allocated for each decision, and machine code checks each access"),
        }
    }
}

impl Layout {
    /// As the compile child is told.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Checked => "checked",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Reserved, Self::Checked]
            .into_iter()
            .find(|layout| layout.name() == name)
    }
}

/// All settings that shape machine code, and none that reserves memory: the compile child starts here.
pub(super) fn compile_config(layout: Layout) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .wasm_memory64(false)
        // A decision must be the same on every machine.
        .wasm_relaxed_simd(false)
        .cranelift_nan_canonicalization(true)
        // Only debuggers and profilers would read it.
        .native_unwind_info(false);
    if layout == Layout::Checked {
        config
            .memory_reservation(0)
            .memory_guard_size(0)
            .guard_before_linear_memory(false)
            .memory_reservation_for_growth(GROWTH);
    }
    if !cfg!(debug_assertions) {
        config.generate_address_map(false).wasm_backtrace_max_frames(None);
    }
    config
}

/// Places of the usual pool.
fn slots() -> u32 {
    let parallelism = thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    SLOTS_PER_SHARD * parallelism.min(MAX_SHARDS)
}

fn pool(slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_memories(slots)
        .total_tables(slots * 2)
        .total_core_instances(slots * 4)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_tables_per_module(TABLES)
        .table_elements(TABLE_ELEMENTS)
        // Above this number of idle slots wasmtime would hand a policy's slot to another one, and both would pay for it.
        .max_unused_warm_slots(slots)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        // On wasmtime 48 a page that was swapped out while dirty would not be reset.
        .pagemap_scan(Enabled::No);
    pool
}

/// A thread of its own, because a guest that loops holds the thread it runs on.
fn start_clock(wasm: &wasmtime::Engine) -> wasmtime::Result<()> {
    let engine = wasm.weak();
    thread::Builder::new().name("policy-clock".into()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compile_child_and_the_gateway_agree_on_machine_code() {
        let compatibility = |memory: Memory| {
            let child = wasmtime::Engine::new(&compile_config(memory.layout())).unwrap();
            let mut hasher = DefaultHasher::new();
            child.precompile_compatibility_hash().hash(&mut hasher);
            assert_eq!(hasher.finish(), Engine::with(memory).unwrap().compatibility());
            hasher.finish()
        };
        let small = Memory::Pool(FEWEST_SLOTS);
        assert_eq!(compatibility(Memory::Pool(slots())), compatibility(small));
        assert_ne!(compatibility(small), compatibility(Memory::OnDemand));
    }

    #[test]
    fn the_pool_shrinks_until_there_is_none() {
        let steps = std::iter::successors(Some(Memory::Pool(100)), |memory| {
            (*memory != Memory::OnDemand).then(|| memory.smaller())
        });
        let expected = [Memory::Pool(100), Memory::Pool(50), Memory::OnDemand];
        assert_eq!(steps.collect::<Vec<_>>(), expected);
        for layout in [Layout::Reserved, Layout::Checked] {
            assert_eq!(Layout::from_name(layout.name()), Some(layout));
        }
    }
}
