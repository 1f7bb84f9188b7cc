//! The commands: one file for each, and what they share.

pub mod check;
pub mod serve;

mod greeting;
mod log;
mod output;
mod source;
