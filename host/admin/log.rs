//! `/api/log`: the level of the log, which an operator changes for a time.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use super::body;
use super::reply::Reply;
use crate::live::Live;
use crate::log_level::{LogLevel, LogLevelError};

/// How long a change holds where the operator does not say.
const DEFAULT_TIME: Duration = Duration::from_secs(600);
/// How long a change may hold: what is wanted for longer belongs into the configuration.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// The level that holds.
pub fn show(live: &Live) -> Reply {
    match live.log.get() {
        Some(log) => describe(log),
        None => missing(),
    }
}

/// Changes the level for a time, after which it goes back by itself.
pub async fn change(live: &Live, body: Incoming) -> Reply {
    let Some(log) = live.log.get() else { return missing() };
    let wanted = match body::text(body).await.map(|text| Wanted::read(&text)) {
        Ok(Ok(wanted)) => wanted,
        Ok(Err(error)) => return Reply::problem(StatusCode::BAD_REQUEST, &error),
        Err(reply) => return reply,
    };
    match log.set_for(&wanted.level, wanted.time) {
        Ok(()) => describe(log),
        Err(error @ LogLevelError::Filter(_)) => Reply::problem(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error @ LogLevelError::Apply(_)) => Reply::problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Goes back to the level of the configuration at once.
pub fn reset(live: &Live) -> Reply {
    match live.log.get() {
        Some(log) => {
            log.reset();
            describe(log)
        }
        None => missing(),
    }
}

fn describe(log: &Arc<LogLevel>) -> Reply {
    let current = log.current();
    Reply::ok(&json!({
        "level": current.filter,
        "configured": current.configured,
        // How long until it goes back; null where nothing was changed.
        "for_s": current.remaining.map(|time| time.as_secs_f64().ceil() as u64),
    }))
}

fn missing() -> Reply {
    Reply::problem(
        StatusCode::NOT_FOUND,
        "this gateway's log has no level that can be changed",
    )
}

/// What an operator wants.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    level: String,
    time: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    level: String,
    for_s: Option<u64>,
}

impl Wanted {
    /// Reads `debug`, or JSON that says for how long.
    fn read(text: &str) -> Result<Self, String> {
        if !text.starts_with('{') {
            return Ok(Self {
                level: text.trim_matches('"').to_owned(),
                time: DEFAULT_TIME,
            });
        }
        let written: Written = serde_json::from_str(text)
            .map_err(|error| format!("{error}; write {{\"level\": \"debug\", \"for_s\": 300}}, or just debug"))?;
        let seconds = written.for_s.unwrap_or(DEFAULT_TIME.as_secs());
        let max = MAX_TIME.as_secs();
        if !(1..=max).contains(&seconds) {
            return Err(format!("for_s is {seconds}; write a whole number from 1 to {max}"));
        }
        Ok(Self {
            level: written.level,
            time: Duration::from_secs(seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_written_in_two_ways() {
        let read = |text| Wanted::read(text).map(|wanted| (wanted.level, wanted.time.as_secs()));
        assert_eq!(read("debug"), Ok(("debug".to_owned(), 600)));
        assert_eq!(read("\"debug\""), Ok(("debug".to_owned(), 600)));
        assert_eq!(
            read(r#"{"level":"warn,pointsman=debug","for_s":60}"#),
            Ok(("warn,pointsman=debug".to_owned(), 60))
        );
        assert_eq!(read(r#"{"level":"debug"}"#), Ok(("debug".to_owned(), 600)));
        for wrong in [
            r#"{"level":"debug","for_s":0}"#,
            r#"{"level":"debug","for_s":86401}"#,
            r#"{"level":"debug","for_s":-1}"#,
            r#"{"level":"debug","fro_s":1}"#,
            r#"{"for_s":1}"#,
            "{",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
