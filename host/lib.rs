//! Pointsman: an LLM gateway whose routing is user code.
//!
//! The modules, in reading order: what an operator configures, what a request is, what is known of targets, who decides, how a vendor
//! is reached, what comes back, and what holds it all together.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod catalog;
pub mod config;
pub mod config_state;

pub mod answer;
pub mod chat;
pub mod conversation;
pub mod wire;

pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod failure;
pub mod header_text;
pub mod health;
pub mod identity;
pub mod keys;
pub mod model_name;
pub mod quantiles;
pub mod retry_after;
pub mod share;
pub mod waiting;
pub mod warmth;

pub mod chain;
pub mod decision;
pub mod policy;
pub mod policy_failure;
pub mod prompt;
pub mod state_folder;
pub mod switches;

pub mod attempt;
pub mod connect_error;
pub mod connection;
pub mod content_encoding;
pub mod credential;
pub mod descriptors;
pub mod dialer;
pub mod exchange;
pub mod local_limit;
pub mod names;
pub mod offload;
pub mod reader;
pub mod reporter;
pub mod signer;
pub mod vendor;

pub mod ballast;
pub mod door;
pub mod log_level;
pub mod metrics;
pub mod origin;
pub mod refusal;
pub mod relay;
pub mod telemetry;
pub mod trace;

mod activity;
pub mod admin;
mod client_stream;
mod framing;
pub mod gateway;
pub mod journey;
pub mod last_good;
pub mod live;
pub mod models;
pub mod place;
pub mod progress;
pub mod reload;
pub mod server;
pub mod sim;
pub mod snapshot;
pub mod tls;
pub mod watch;

mod ready_made {
    include!(concat!(env!("OUT_DIR"), "/ready_made.rs"));
}
pub use ready_made::READY_MADE;
