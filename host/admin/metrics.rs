//! `/metrics`: what was counted, and what policies and targets are at this moment.

use http::StatusCode;
use tokio::time::Instant;

use super::reply::Reply;
use super::{switches, targets};
use crate::breaker::State;
use crate::live::Live;
use crate::metrics::{LiveState, PolicyMetrics, TargetState, encode_live};
use crate::policy::PolicyStatus;
use crate::snapshot::Target;

/// Everything in Prometheus' text format.
pub fn show(live: &Live) -> Reply {
    let mut text = live.telemetry.metrics.encode();
    let state = LiveState {
        policies: live.library.status().into_iter().map(policy).collect(),
        targets: targets::routed(live)
            .values()
            .map(|found| target(live, found))
            .collect(),
        config_refused: live.refused_config().is_some(),
    };
    encode_live(&mut text, state);
    Reply::new(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text,
    )
}

fn policy(status: PolicyStatus) -> PolicyMetrics {
    let failed = status.traps + status.timeouts + status.nonsense;
    PolicyMetrics {
        version: status.version.map_or_else(String::new, |hash| hash.short()),
        decisions: [
            ("ok", status.decisions.saturating_sub(failed)),
            ("trap", status.traps),
            ("timeout", status.timeouts),
            ("invalid", status.nonsense),
            ("busy", status.busy),
        ],
        times: status.times,
        dropped_log_lines: status.dropped_log_lines,
        refused: status.problem.is_some(),
        policy: status.name,
    }
}

fn target(live: &Live, target: &Target) -> TargetState {
    let reading = target.health.read(Instant::now());
    TargetState {
        target: target.rules.name.clone(),
        breaker_open: reading.state != State::Closed,
        switched_off: switches::is_off(&live.switches, &target.rules),
        cooldown: reading.cooldown,
        in_flight: reading.in_flight,
    }
}
