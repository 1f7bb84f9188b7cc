//! The level of the gateway's own log: what the configuration says, and what an operator has set for a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

use crate::config;

/// Puts a filter into effect.
type Apply = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// See the module.
pub struct LogLevel {
    apply: Apply,
    state: Mutex<State>,
}

struct State {
    configured: String,
    changed: Option<Changed>,
    /// Changes so far: one that ends must not end a later one.
    changes: u64,
}

#[derive(Clone)]
struct Changed {
    filter: String,
    until: Instant,
}

/// The level at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentLevel {
    /// The filter that holds.
    pub filter: String,
    /// The filter of the configuration.
    pub configured: String,
    /// How long an operator's change still holds; `None` where there is none.
    pub remaining: Option<Duration>,
}

/// Why the level was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// It is not a filter.
    #[error("`{0}` is not a level; write {how}", how = config::Log::FILTER_WORDS)]
    Filter(String),
    /// The log cannot change its level.
    #[error("the log cannot change its level: {0}")]
    Apply(String),
}

impl LogLevel {
    /// Bytes of a filter that an operator sets.
    pub const MAX_FILTER: usize = 256;

    /// The log has started with the configuration's filter, and this changes it.
    pub fn new(configured: &str, apply: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static) -> Self {
        let state = State {
            configured: configured.to_owned(),
            changed: None,
            changes: 0,
        };
        Self {
            apply: Box::new(apply),
            state: Mutex::new(state),
        }
    }

    /// What holds now.
    pub fn current(&self) -> CurrentLevel {
        let state = self.state();
        let changed = state.changed.clone();
        let remaining = changed
            .as_ref()
            .map(|changed| changed.until.saturating_duration_since(Instant::now()));
        CurrentLevel {
            filter: changed.map_or_else(|| state.configured.clone(), |changed| changed.filter),
            configured: state.configured.clone(),
            remaining,
        }
    }

    /// Sets another filter for a time. Must be called on a Tokio runtime, which ends it.
    pub fn set_for(self: &Arc<Self>, filter: &str, time: Duration) -> Result<(), LogLevelError> {
        if filter.len() > Self::MAX_FILTER || !config::Log::is_filter(filter) {
            let shown = filter.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(LogLevelError::Filter(shown));
        }
        let mut state = self.state();
        // Written before the change, which may silence it.
        tracing::info!(
            level = filter,
            for_s = time.as_secs(),
            "the log's level changes for a time"
        );
        self.apply(filter)?;
        let until = Instant::now() + time;
        state.changed = Some(Changed {
            filter: filter.to_owned(),
            until,
        });
        state.changes += 1;
        let (log, change) = (Arc::downgrade(self), state.changes);
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            if let Some(log) = log.upgrade() {
                log.end(Some(change));
            }
        });
        Ok(())
    }

    /// Goes back to the configuration's filter. Whether another one was set.
    pub fn reset(&self) -> bool {
        self.end(None)
    }

    /// The configuration has changed. What an operator has set for a time holds on.
    pub fn configure(&self, filter: &str) {
        let mut state = self.state();
        if state.configured == filter {
            return;
        }
        filter.clone_into(&mut state.configured);
        if state.changed.is_none()
            && let Err(error) = self.apply(filter)
        {
            tracing::error!(%error, "the log's level stays as it was");
        }
    }

    /// Ends the change of this number, or whichever holds.
    fn end(&self, change: Option<u64>) -> bool {
        let mut state = self.state();
        let is_current = change.is_none_or(|change| change == state.changes);
        if !is_current || state.changed.take().is_none() {
            return false;
        }
        let level = state.configured.clone();
        let applied = self.apply(&level);
        drop(state);
        match applied {
            Ok(()) => tracing::info!(level, "the log is back at the level of the configuration"),
            Err(error) => tracing::error!(%error, "the log's level stays as it was"),
        }
        true
    }

    fn apply(&self, filter: &str) -> Result<(), LogLevelError> {
        let parsed = EnvFilter::try_new(filter).map_err(|_| LogLevelError::Filter(filter.to_owned()))?;
        (self.apply)(parsed).map_err(LogLevelError::Apply)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (Arc<LogLevel>, Arc<Mutex<String>>) {
        let applied = Arc::new(Mutex::new("info".to_owned()));
        let seen = applied.clone();
        let log = LogLevel::new("info", move |filter| {
            *seen.lock().unwrap() = filter.to_string();
            Ok(())
        });
        (Arc::new(log), applied)
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_by_itself() {
        let (log, applied) = log();
        log.set_for("debug", minutes(5)).unwrap();
        assert_eq!(*applied.lock().unwrap(), "debug");
        assert_eq!(log.current().remaining, Some(minutes(5)));
        tokio::time::sleep(minutes(4)).await;
        assert_eq!(log.current().filter, "debug");
        tokio::time::sleep(minutes(2)).await;
        assert_eq!(*applied.lock().unwrap(), "info");
        assert_eq!(log.current().remaining, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_change_outlives_the_end_of_an_earlier_one() {
        let (log, applied) = log();
        log.set_for("debug", minutes(1)).unwrap();
        log.set_for("warn", minutes(10)).unwrap();
        tokio::time::sleep(minutes(5)).await;
        assert_eq!(*applied.lock().unwrap(), "warn");
        assert!(log.reset() && !log.reset());
        assert_eq!(*applied.lock().unwrap(), "info");
    }

    #[tokio::test(start_paused = true)]
    async fn the_configuration_waits_for_the_end_of_a_change() {
        let (log, applied) = log();
        log.configure("warn");
        assert_eq!(*applied.lock().unwrap(), "warn");
        log.set_for("debug", minutes(1)).unwrap();
        log.configure("error");
        assert_eq!(*applied.lock().unwrap(), "debug");
        tokio::time::sleep(minutes(2)).await;
        assert_eq!(*applied.lock().unwrap(), "error");
    }

    #[tokio::test]
    async fn a_slip_is_refused() {
        let (log, applied) = log();
        for slip in ["debgu", "", "a=b=c", "debug,", &"x=debug,".repeat(100)] {
            assert!(
                matches!(log.set_for(slip, minutes(1)), Err(LogLevelError::Filter(_))),
                "{slip}"
            );
        }
        assert_eq!(*applied.lock().unwrap(), "info");
    }
}
