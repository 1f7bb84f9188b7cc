//! `check`: says all that is wrong with a configuration and its policies.

use std::process::ExitCode;

use clap::Args;
use pointsman::READY_MADE;
use pointsman::config::Config;
use pointsman::policy::{Library, running_program};

use super::output::{complain, say};
use super::source::{SourceArguments, environment};

/// Arguments of the command.
#[derive(Args, Default)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> ExitCode {
    let config = match arguments.source.source().read(&environment).finish() {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        complain(format_args!("warning: {warning}"));
    }
    match problems(&config) {
        Ok(problems) if problems.is_empty() => {
            say(format_args!(
                "all is well: {} targets, {} routes",
                config.targets.len(),
                config.routes.len()
            ));
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            problems.iter().for_each(complain);
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(format_args!("pointsman: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn problems(config: &Config) -> anyhow::Result<Vec<String>> {
    let found = Library::check(config, READY_MADE, running_program()?)?;
    Ok(found
        .into_iter()
        .map(|problem| format!("policy `{}`: {}", problem.policy, problem.problem))
        .collect())
}
