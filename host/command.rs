//! The commands: one file for each, and what they share.

pub mod check;
pub mod serve;

mod caretaker;
mod greeting;
mod listen;
mod log;
mod output;
mod signals;
mod source;
mod start;
