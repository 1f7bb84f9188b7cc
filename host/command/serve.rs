//! `serve`: the gateway from start to end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pointsman::config::{Config, Source};
use pointsman::live::{Live, StartError};
use pointsman::policy::running_program;
use pointsman::state_folder::StateError;
use pointsman::{READY_MADE, descriptors, reload, server};
use tokio::sync::watch;

use super::caretaker::{Caretaker, Duty};
use super::output::complain;
use super::source::{SourceArguments, environment};
use super::{greeting, listen, log};

/// Arguments of the command.
#[derive(Args, Default)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
}

/// How long the last traces may take on their way when all requests have ended.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// A configuration that cannot be used (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// Another gateway uses the state folder, which may pass (`EX_TEMPFAIL` of sysexits.h).
const IN_USE: u8 = 75;

/// What `--help` says of them.
pub const EXIT_CODES: &str = "\
Exit codes: 0 after SIGTERM or SIGINT, when open requests have finished; 64 for a configuration that cannot be used; \
75 when another gateway uses the state folder; 2 for arguments that cannot be used; \
130 or 143 when a second SIGINT or SIGTERM ended it at once; 1 for anything else.";

/// Runs the command; see [`EXIT_CODES`].
pub fn run(arguments: &Arguments) -> ExitCode {
    let source = arguments.source.source();
    let config = match source.read(&environment).finish() {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match serve(source, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("pointsman: {error:#}"));
            match error.downcast_ref() {
                Some(StartError::State(StateError::InUse { .. })) => ExitCode::from(IN_USE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn serve(source: Source, config: Config) -> anyhow::Result<()> {
    let (level, lines) = log::start(&config.log)?;
    let caretaker = Caretaker::start(lines.clone())?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    descriptors::raise_limit();
    let (listener, operators) = listen::bind(&config)?;
    let live = Live::open(config, READY_MADE, running_program()?)?;
    let _ = live.log.set(Arc::new(level));
    live.configuration.go_live(false);
    let reloader = reload::follow(&live, source)?;
    greeting::print(&live, &listener);
    let (stop, stopped) = watch::channel(false);
    caretaker.begin(Duty {
        live: live.clone(),
        operators,
        reloader,
        stop,
    });
    server::run(listener, &live, stopped)?;
    live.telemetry.traces.close(LAST_TRACES);
    tracing::info!("drained");
    lines.flush();
    Ok(())
}
