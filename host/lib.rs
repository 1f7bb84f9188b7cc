//! Switchyard: an LLM gateway whose routing is user code.
//!
//! The modules, in reading order: what an operator configures, what comes in, what decides, where it goes, what comes back.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod config;
pub mod chat;
pub mod failure;
pub mod retry_after;
pub mod breaker;
pub mod quantiles;
pub mod health;
pub mod vendor;
pub mod wire;
