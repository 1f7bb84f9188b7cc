//! `serve`: the gateway from start to end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use pointsman::config::Config;
use pointsman::live::{Live, StartError};
use pointsman::policy::running_program;
use pointsman::server::Listener;
use pointsman::state_folder::StateError;
use pointsman::{READY_MADE, admin, descriptors, reload, server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::output::complain;
use super::source::Source;
use super::{greeting, log};

/// Arguments of the command.
#[derive(Args, Default)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
}

/// How long the last traces may take on their way when all requests have ended.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// A configuration that cannot be used (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// Another gateway uses the state folder, which may pass (`EX_TEMPFAIL` of sysexits.h).
const IN_USE: u8 = 75;

/// Exit codes: 0 after a drain, 64 for a bad configuration, 75 when another gateway uses the state folder, 1 for anything else.
pub fn run(arguments: &Arguments) -> ExitCode {
    let config = match arguments.source.load() {
        Ok(config) => config,
        Err(errors) => {
            complain(errors);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match serve(&arguments.source, config) {
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

fn serve(source: &Source, config: Config) -> anyhow::Result<()> {
    let (log, _lines) = log::start(&config.log)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    descriptors::raise_limit();
    let listener = Listener::bind(&config).with_context(|| format!("cannot listen on {}", config.listen))?;
    let operators = admin::bind(&config).with_context(|| format!("cannot listen on {}", config.admin))?;
    let live = Live::open(config, READY_MADE, running_program()?)?;
    let _ = live.log.set(Arc::new(log));
    if let Some(file) = &source.config {
        reload::follow_config(&live, file.clone())?;
    }
    greeting::print(&live, &listener);
    let (stop, stopped) = watch::channel(false);
    let caretaker = caretaker(live.clone(), operators, stop)?;
    server::run(listener, &live, stopped)?;
    live.telemetry.traces.close(LAST_TRACES);
    drop(caretaker);
    tracing::info!("drained");
    Ok(())
}

/// Everything beside requests, on a thread of its own: operators, reloads and signals.
fn caretaker(
    live: Arc<Live>,
    operators: std::net::TcpListener,
    stop: watch::Sender<bool>,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("caretaker".into()).spawn(move || {
        runtime.block_on(async move {
            tokio::spawn(reload::follow_policies(live.clone()));
            tokio::spawn(admin::serve(operators, live.clone()));
            if let Err(error) = asked_to_stop().await {
                tracing::error!(%error, "signals cannot be waited for");
                return std::future::pending().await;
            }
            live.drain();
            let delay = live.snapshot().config.server.drain_delay;
            tracing::info!(
                delay_ms = delay.as_millis() as u64,
                "draining: not ready any more, open requests may finish"
            );
            tokio::time::sleep(delay).await;
            let _ = stop.send(true);
            // Operators can look on while the last streams finish.
            std::future::pending::<()>().await;
        });
    })?;
    Ok(thread)
}

async fn asked_to_stop() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
