//! The log of a command.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use pointsman::config::{Log, LogFormat};
use pointsman::log_level::LogLevel;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that wait to be written; when whoever reads them is slower than that, more are dropped rather than a request held up.
const LOG_LINES: usize = 16_384;

/// The lines that wait to be written. The last clone that is dropped writes them.
#[derive(Clone)]
pub struct Lines(Arc<Mutex<Option<WorkerGuard>>>);

impl Lines {
    /// Writes all lines so far, as far as somebody takes them, and none from then on.
    pub fn flush(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Starts the log, whose level can be changed from now on. Lines are written by a thread of their own.
pub fn start(log: &Log) -> anyhow::Result<(LogLevel, Lines)> {
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
    Ok((level, Lines(Arc::new(Mutex::new(Some(guard))))))
}
