//! The command line.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use pointsman::config::{Config, Log, LogFormat};
use pointsman::live::Live;
use pointsman::log_level::LogLevel;
use pointsman::policy::{COMPILE_COMMAND, Library, compile_child_main};
use pointsman::server::Listener;
use pointsman::{READY_MADE, admin, reload, server};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// An LLM gateway whose routing is user code.
///
/// Without a configuration it serves simulated vendors, and every real one whose usual key variable is set.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve requests (what happens without a command, too)
    Serve(Source),
    /// Validate configuration and policies: exits 0 when all is well and 1 when not
    Check(Source),
}

#[derive(Args, Default)]
struct Source {
    /// The configuration file; without one, simulated vendors are served
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How long the last traces may take on their way when all requests have ended.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// A configuration that cannot be used (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    // Not one of clap's commands: it is for this program itself, and nothing may be set up before it has limited itself.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == COMPILE_COMMAND) {
        return compile_child_main(&arguments[1..]);
    }
    match Cli::parse().command.unwrap_or(Command::Serve(Source::default())) {
        Command::Serve(source) => serve(&source),
        Command::Check(source) => check(&source),
    }
}

/// Exit codes: 0 after a drain, 64 for a bad configuration, 1 for anything else.
fn serve(source: &Source) -> ExitCode {
    let config = match load(source) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    match run(source, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pointsman: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check(source: &Source) -> ExitCode {
    let config = match load(source) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    match problems(&config) {
        Ok(problems) if problems.is_empty() => {
            println!(
                "all is well: {} targets, {} routes",
                config.targets.len(),
                config.routes.len()
            );
            ExitCode::SUCCESS
        }
        Ok(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pointsman: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn problems(config: &Config) -> anyhow::Result<Vec<String>> {
    let found = Library::check(config, READY_MADE, std::env::current_exe()?)?;
    Ok(found
        .into_iter()
        .map(|problem| format!("policy `{}`: {}", problem.policy, problem.problem))
        .collect())
}

fn load(source: &Source) -> Result<Config, pointsman::config::ConfigErrors> {
    let env = |name: &str| std::env::var(name).ok();
    match &source.config {
        Some(file) => Config::load(file, &env),
        None => Ok(Config::without_file(Path::new("."), &env)),
    }
}

fn run(source: &Source, config: Config) -> anyhow::Result<()> {
    let (log, _lines) = start_log(&config.log)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let listener = Listener::bind(&config).with_context(|| format!("cannot listen on {}", config.listen))?;
    let operators = admin::bind(&config).with_context(|| format!("cannot listen on {}", config.admin))?;
    let live = Live::open(config, READY_MADE, std::env::current_exe()?)?;
    let _ = live.log.set(Arc::new(log));
    if let Some(file) = &source.config {
        reload::follow_config(&live, file.clone())?;
    }
    greet(&live, &listener);
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

/// What a newcomer needs to see: where it listens, what it serves, and a line that works as printed.
fn greet(live: &Live, listener: &Listener) {
    let snapshot = live.snapshot();
    let config = &snapshot.config;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let address = format!("{scheme}://{}", listener.address());
    println!(
        "pointsman {} on {address}, operators on http://{}",
        env!("CARGO_PKG_VERSION"),
        config.admin
    );
    for target in &config.targets {
        println!("  target {:<16} {} {}", target.name, target.vendor.name, target.model);
    }
    for route in &snapshot.routes {
        let policies: Vec<&str> = route
            .policies
            .iter()
            .map(|policy| policy.version.as_ref().map_or("none", |version| version.label()))
            .collect();
        let decides = if policies.is_empty() {
            "the built-in chain".to_owned()
        } else {
            policies.join(", then ")
        };
        println!("  route  {:<16} decided by {decides}", route.rules.model);
    }
    if let Some(route) = snapshot.routes.iter().find(|route| !route.rules.model.contains('*')) {
        let key = if config.keys.is_empty() {
            ""
        } else {
            " -H 'authorization: Bearer YOUR_GATEWAY_KEY'"
        };
        let body = format!(
            r#"{{"model": "{}", "messages": [{{"role": "user", "content": "Hello"}}]}}"#,
            route.rules.model
        );
        println!("try: curl -i {address}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'");
    }
}

/// Lines that wait to be written; when whoever reads them is slower than that, more are dropped rather than a request held up.
const LOG_LINES: usize = 16_384;

/// Starts the log, whose level can be changed from now on. Lines are written by a thread of their own until the guard is dropped.
fn start_log(log: &Log) -> anyhow::Result<(LogLevel, WorkerGuard)> {
    let filter = tracing_subscriber::EnvFilter::try_new(&log.level)?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    let lines = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES)
        .lossy(true);
    let (writer, guard) = lines.finish(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer);
    let log_with = tracing_subscriber::registry().with(filter);
    match log.format {
        // A line's own `target` is that of a request: not the module's, which would take the same name.
        LogFormat::Json => log_with
            .with(lines.json().flatten_event(true).with_target(false))
            .init(),
        LogFormat::Text => log_with.with(lines).init(),
    }
    let level = LogLevel::new(&log.level, move |filter| {
        handle.reload(filter).map_err(|error| error.to_string())
    });
    Ok((level, guard))
}
