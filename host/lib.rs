//! Switchyard: an LLM gateway whose routing is user code.
//!
//! The modules, in reading order: what an operator configures, what comes in, what decides, where it goes, what comes back.
#![warn(missing_docs)]

pub mod config;
pub mod policy;
pub mod vendor;
pub mod wire;
