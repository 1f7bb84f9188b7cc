//! `serve`: the gateway from start to end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::FalseyValueParser;
use pointsman::config::{ConfigErrors, Source};
use pointsman::live::{Live, StartError};
use pointsman::policy::running_program;
use pointsman::state_folder::StateError;
use pointsman::{READY_MADE, catalog, descriptors, reload, server};
use tokio::sync::watch;

use super::caretaker::{Caretaker, Duty};
use super::output::complain;
use super::source::SourceArguments;
use super::start::Start;
use super::{greeting, listen, log};

/// Arguments of the command.
#[derive(Args, Default)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Where the configuration on disk cannot be used, start with the last one that was live, which the state folder keeps
    #[arg(long, env = "POINTSMAN_LAST_GOOD", value_parser = FalseyValueParser::new())]
    last_good: bool,
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
    let start = match Start::read(&source, arguments.last_good) {
        Ok(start) => start,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match serve(source, start) {
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

fn serve(source: Source, start: Start) -> anyhow::Result<()> {
    let Start { config, text, refused } = start;
    let (level, lines) = log::start(&config.log)?;
    let caretaker = Caretaker::start(lines.clone())?;
    if let Some(errors) = &refused {
        tracing::error!(
            "the configuration on disk cannot be used, and the last one that was live is served; mend it, or a start without \
             --last-good fails:\n{errors}"
        );
    }
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(outdated) = catalog::outdated(SystemTime::now()) {
        tracing::warn!("{outdated}");
    }
    descriptors::raise_limit();
    let (listener, operators) = listen::bind(&config)?;
    let live = Live::open(config, READY_MADE, running_program()?)?;
    let _ = live.log.set(Arc::new(level));
    text.iter().for_each(|text| live.remember_config(text));
    stand(&live, refused);
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

/// Says where the configuration on disk stands towards the one that is served.
fn stand(live: &Live, refused: Option<ConfigErrors>) {
    let is_last_good = refused.is_some();
    if let Some(ConfigErrors(errors)) = refused {
        live.configuration
            .refuse(errors.iter().map(ToString::to_string).collect());
    }
    live.configuration.go_live(is_last_good);
}
