//! Switchyard: an LLM gateway whose routing is user code.
//!
//! The modules, in reading order: what an operator configures, what a request is, what is known of targets, who decides, how a vendor
//! is reached, what comes back, and what holds it all together.
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
pub mod switches;
pub mod chain;
pub mod decision;

pub mod vendor;
pub mod connection;
pub mod attempt;

pub mod refusal;
pub mod door;
pub mod relay;
pub mod telemetry;

pub mod snapshot;
pub mod live;
pub mod reload;
pub mod models;
pub mod gateway;
mod tls;
pub mod server;
pub mod admin;
pub mod sim;

mod ready_made {
    include!(concat!(env!("OUT_DIR"), "/ready_made.rs"));
}
pub use ready_made::READY_MADE;
