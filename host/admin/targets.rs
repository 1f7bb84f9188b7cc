//! `/api/targets`: what is known of each target right now.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::reply::Reply;
use super::switches;
use crate::breaker::State;
use crate::config::suggest;
use crate::live::Live;
use crate::snapshot::Target;

/// All targets that a route has, by name.
pub fn list(live: &Live) -> Reply {
    let targets: Vec<Value> = routed(live).values().map(|target| describe(live, target)).collect();
    Reply::ok(&targets)
}

/// Ends every wait and rest of a target and its keys, so that the next request asks it.
pub fn reset(live: &Live, name: &str) -> Reply {
    let snapshot = live.snapshot();
    let Some(target) = snapshot.target(name) else {
        let names: Vec<&str> = snapshot
            .config
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect();
        let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
        let near = suggest(name, &names, "targets");
        return Reply::problem(StatusCode::NOT_FOUND, &format!("there is no target `{shown}`; {near}"));
    };
    target.reset();
    tracing::info!(target = name, "an operator reset the health of a target");
    Reply::ok(&describe(live, target))
}

/// The targets that routes have, each once.
pub fn routed(live: &Live) -> BTreeMap<String, Arc<Target>> {
    let snapshot = live.snapshot();
    let targets = snapshot.routes.iter().flat_map(|route| &route.targets);
    targets
        .map(|target| (target.rules.name.clone(), target.clone()))
        .collect()
}

/// Why an attempt at a target failed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When, milliseconds since the Unix epoch.
    at_ms: u64,
    /// The kind of failure, as logs and metrics name it.
    kind: &'static str,
    /// The vendor's code or ours; may be empty.
    code: String,
    /// What was seen, in words; may be empty.
    words: String,
}

/// Characters of a text of a vendor's that operators are shown.
const MAX_SHOWN: usize = 200;

impl LastError {
    /// `None` where none has failed.
    pub fn of(target: &Target) -> Option<Self> {
        let failure = target.health.last_failure()?;
        // Vendors repeat keys, and write whatever they like.
        let shown = |text: String| -> String {
            let text = target.redacted(text);
            text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
        };
        let since = failure.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Self {
            at_ms: since.as_millis() as u64,
            kind: failure.kind.name(),
            code: shown(failure.code),
            words: shown(failure.words),
        })
    }
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = if self.words.is_empty() { &self.code } else { &self.words };
        match detail.is_empty() {
            true => f.write_str(self.kind),
            false => write!(f, "{}: {detail}", self.kind),
        }
    }
}

/// The breaker's state in one word.
pub fn breaker(state: State) -> &'static str {
    match state {
        State::Closed => "closed",
        State::HalfOpen => "half-open",
        State::Open => "open",
    }
}

fn describe(live: &Live, target: &Target) -> Value {
    let now = Instant::now();
    let reading = target.health.read(now);
    let load = target.limit.load();
    json!({
        "name": target.rules.name,
        "vendor": target.rules.vendor.name,
        "model": target.rules.model,
        // What operators have switched, of the target's name and its vendor's.
        "switches": switches::of(&live.switches, &target.rules),
        "switched_off": switches::is_off(&live.switches, &target.rules),
        "breaker": breaker(reading.state),
        "last_error": LastError::of(target),
        "cooldown_ms": reading.cooldown.as_millis() as u64,
        "error_rate": reading.error_rate,
        "in_flight": reading.in_flight,
        "first_token_p50_ms": reading.first_token_p50_ms,
        "first_token_p95_ms": reading.first_token_p95_ms,
        "headroom": reading.headroom,
        // Of a target without a limit nothing is counted here.
        "limit": load.limit,
        "in_line": load.waiting,
        "keys_resting": target.signer.resting(now),
    })
}
