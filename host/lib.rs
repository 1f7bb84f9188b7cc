//! Switchyard: an LLM gateway whose routing is user code.
//!
//! The modules, in reading order: what an operator configures, what a request is, what is known of targets, who decides, how a vendor
//! is reached, what comes back.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod config;
pub mod chat;
pub mod wire;
pub mod failure;
pub mod retry_after;
pub mod breaker;
pub mod quantiles;
pub mod health;
pub mod policy;
pub mod vendor;
pub mod connection;
pub mod sim;
