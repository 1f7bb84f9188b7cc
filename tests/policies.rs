//! Policies from the outside: real Wasm in a real folder, compiled by the real binary. What a policy does wrong costs a
//! decision and nothing else; what an operator does to a file shows in what serves.

#[path = "support/guests.rs"]
mod guests;
#[path = "support/policies.rs"]
mod support;

#[path = "policies/decisions.rs"]
mod decisions;
#[path = "policies/files.rs"]
mod files;
#[path = "policies/refusals.rs"]
mod refusals;
