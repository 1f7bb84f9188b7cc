//! The command line.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use command::{check, serve};
use pointsman::policy::{COMPILE_COMMAND, compile_child_main};

/// An LLM gateway whose routing is user code.
///
/// Without a configuration it serves simulated vendors, and every real one whose usual key variable is set.
#[derive(Parser)]
#[command(version = env!("POINTSMAN_VERSION"))]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests (what happens without a command, too)
    #[command(after_help = serve::EXIT_CODES)]
    Serve(serve::Arguments),
    /// Say all that is wrong with configuration and policies, without serving anything
    #[command(after_help = check::EXIT_CODES)]
    Check(check::Arguments),
}

fn main() -> ExitCode {
    // Not one of clap's commands: it is for this program itself, and nothing may be set up before it has limited itself.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == COMPILE_COMMAND) {
        return compile_child_main(&arguments[1..]);
    }
    match Cli::parse().command.unwrap_or(Command::Serve(Default::default())) {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
    }
}
