//! The policy runtime: loads policies, asks them, replaces them while the gateway runs.
//!
//! It owns everything about WebAssembly and the plugin folder. It must not know requests on the wire, vendors, or what becomes
//! of a decision: picks that name unknown targets are the gateway's business. WebAssembly's runtime is imported nowhere else.
//!
//! In reading order: the contract as types, the engine that runs guests, what a decision is and what can go wrong with it,
//! one loaded version of a policy, and the library that keeps all of them current.

mod answer;
mod bulk;
mod compile;
mod contract;
mod engine;
mod folder;
mod guest;
mod history;
mod keeper;
mod lanes;
mod library;
mod load;
mod log;
mod probe;
mod program;
mod refusal;
mod retry;
mod seal;
mod settings;
mod standing;
mod statistics;
mod store;
mod version;
mod wasi;

pub use answer::Nonsense;
pub use compile::{COMPILE_COMMAND, compile_child_main, running_program};
pub use contract::{
    Action, Attempt, Attribute, Breaker, Decision, Failure, Health, Level, Pick, Rejection, Request, Target,
};
pub use library::{
    CheckedPolicy, Compiling, DeadlineFrom, Library, OpenError, PolicyState, PolicyStatus, ProblemDetails, ReadyMade,
    RollbackError, Versions,
};
pub use program::{Hash, NotAHash};
pub use statistics::LastError;
pub use version::{Input, PolicyError, Prompt, Version};
