//! `/api/overview`: what is broken, in one call. It reads what the other endpoints show in full and keeps what an operator asks first
//! during an outage: which targets are out of service and why, which routes have no way out, and what fails right now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::reply::Reply;
use super::{switches, targets};
use crate::breaker::State;
use crate::live::Live;
use crate::metrics::Traffic;
use crate::policy::{PolicyState, PolicyStatus};
use crate::snapshot::{Route, Target};

/// See the module.
#[derive(Debug, Serialize)]
struct Overview {
    /// All problems, or that there are none.
    summary: String,
    ok: bool,
    /// A sentence each, the worst first.
    problems: Vec<String>,
    /// `ready` or `draining`.
    state: &'static str,
    /// By what they are: `ok`, `half-open`, `open`, `rate-limited`, `resting` or `off`.
    targets: BTreeMap<&'static str, Vec<TargetRow>>,
    routes_without_way_out: Vec<RouteRow>,
    policies: Vec<PolicyRow>,
    switches: BTreeMap<String, String>,
    configuration: ConfigurationRow,
    requests_in_progress: i64,
    last_minute: Traffic,
    last_hour: Traffic,
}

#[derive(Debug, Clone, Serialize)]
struct TargetRow {
    name: String,
    vendor: &'static str,
    #[serde(skip)]
    state: TargetState,
    cooldown_ms: u64,
    error_rate: f32,
    last_error: Option<targets::LastError>,
}

/// What a target is, for whoever wants to send a request there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    Ok,
    /// The breaker lets one request through to try it.
    HalfOpen,
    Open,
    RateLimited,
    /// It waits for another reason, such as a key that was refused.
    Resting,
    /// A switch is off.
    Off,
}

/// A route that answers nobody right now.
#[derive(Debug, Serialize)]
struct RouteRow {
    model: String,
    /// What each of its targets is.
    targets: BTreeMap<String, &'static str>,
}

/// A policy that a route names.
#[derive(Debug, Serialize)]
struct PolicyRow {
    name: String,
    state: PolicyState,
    version: Option<String>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct ConfigurationRow {
    file: Option<String>,
    /// `live`, or `refused` where the newest file is not and the one before is.
    state: &'static str,
    /// Milliseconds since the Unix epoch.
    live_since_ms: u64,
    /// The gateway started with the last configuration that was live, since the file could not be used.
    is_last_good: bool,
    refused_at_ms: Option<u64>,
    errors: Vec<String>,
}

/// Names that a sentence lists.
const MAX_NAMED: usize = 5;

/// What is broken.
pub fn show(live: &Live) -> Reply {
    let now = Instant::now();
    let targets: Vec<TargetRow> = targets::routed(live)
        .values()
        .map(|target| TargetRow::of(live, target, now))
        .collect();
    let recent = &live.telemetry.metrics.recent;
    let mut overview = Overview {
        summary: String::new(),
        ok: true,
        problems: Vec::new(),
        state: if live.is_ready() { "ready" } else { "draining" },
        routes_without_way_out: routes_without_way_out(live, &targets),
        policies: policies(live),
        switches: live.switches.all(),
        configuration: ConfigurationRow::of(live),
        requests_in_progress: live.telemetry.metrics.in_progress.get(),
        last_minute: recent.within(Duration::from_secs(60)),
        last_hour: recent.within(Duration::from_secs(3600)),
        targets: BTreeMap::new(),
    };
    overview.problems = overview.problems(&targets);
    overview.ok = overview.problems.is_empty();
    overview.summary = overview.summary(&targets);
    for target in targets {
        overview.targets.entry(target.state.name()).or_default().push(target);
    }
    Reply::ok(&overview)
}

impl Overview {
    fn summary(&self, targets: &[TargetRow]) -> String {
        if self.ok {
            let (targets, policies) = (targets.len(), self.policies.len());
            return format!("all is well: targets in service: {targets}, policies: {policies}");
        }
        self.problems.join("; ")
    }

    fn problems(&self, targets: &[TargetRow]) -> Vec<String> {
        let problems = [
            (self.state == "draining").then(|| "the gateway is draining and takes no new requests".to_owned()),
            self.dead_routes(),
            out_of_service(targets),
            self.failing_policies(),
            self.configuration.problem(),
            self.failed_requests(),
        ];
        problems.into_iter().flatten().collect()
    }

    fn dead_routes(&self) -> Option<String> {
        let models = self.routes_without_way_out.iter().map(|route| route.model.clone());
        Some(format!("no target of these routes is available: {}", listed(models)?))
    }

    fn failing_policies(&self) -> Option<String> {
        let failing = self.policies.iter().filter(|policy| policy.is_failing());
        Some(format!("policies: {}", listed(failing.map(PolicyRow::describe))?))
    }

    fn failed_requests(&self) -> Option<String> {
        let Traffic { requests, failed } = self.last_minute;
        (failed > 0).then(|| format!("{failed} of {requests} requests failed in the last minute"))
    }
}

fn out_of_service(targets: &[TargetRow]) -> Option<String> {
    let out: Vec<_> = targets.iter().filter(|target| !target.state.is_available()).collect();
    let (count, all) = (out.len(), targets.len());
    let names = listed(out.into_iter().map(TargetRow::describe))?;
    Some(format!("{count} of {all} targets are out of service: {names}"))
}

impl TargetRow {
    fn of(live: &Live, target: &Target, now: Instant) -> Self {
        let reading = target.health.read(now);
        let resting = target.signer.resting(now);
        let has_no_key = resting > 0 && resting >= target.rules.api_keys.len();
        let state = match reading.state {
            _ if switches::is_off(&live.switches, &target.rules) => TargetState::Off,
            _ if reading.limited => TargetState::RateLimited,
            State::Open => TargetState::Open,
            State::HalfOpen => TargetState::HalfOpen,
            State::Closed if has_no_key || !reading.cooldown.is_zero() => TargetState::Resting,
            State::Closed => TargetState::Ok,
        };
        Self {
            name: target.rules.name.clone(),
            vendor: target.rules.vendor.name,
            state,
            cooldown_ms: reading.cooldown.as_millis() as u64,
            error_rate: reading.error_rate,
            last_error: targets::LastError::of(target),
        }
    }

    fn describe(&self) -> String {
        let (name, state) = (&self.name, self.state.name());
        match self.last_error.as_ref().filter(|_| self.state != TargetState::Off) {
            Some(error) => format!("{name} ({state}, {error})"),
            None => format!("{name} ({state})"),
        }
    }
}

impl TargetState {
    const fn name(self) -> &'static str {
        match self {
            TargetState::Ok => "ok",
            TargetState::HalfOpen => "half-open",
            TargetState::Open => "open",
            TargetState::RateLimited => "rate-limited",
            TargetState::Resting => "resting",
            TargetState::Off => "off",
        }
    }

    const fn is_available(self) -> bool {
        matches!(self, TargetState::Ok | TargetState::HalfOpen)
    }
}

fn routes_without_way_out(live: &Live, targets: &[TargetRow]) -> Vec<RouteRow> {
    let states: BTreeMap<&str, TargetState> = targets
        .iter()
        .map(|target| (target.name.as_str(), target.state))
        .collect();
    let state = |target: &Target| states.get(target.rules.name.as_str()).copied();
    let snapshot = live.snapshot();
    let is_dead = |route: &&Arc<Route>| {
        let mut states = route.targets.iter().filter_map(|target| state(target));
        !states.any(TargetState::is_available)
    };
    let row = |route: &Arc<Route>| {
        let of = |target: &Arc<Target>| Some((target.rules.name.clone(), state(target)?.name()));
        RouteRow {
            model: route.rules.model.clone(),
            targets: route.targets.iter().filter_map(of).collect(),
        }
    };
    snapshot.routes.iter().filter(is_dead).map(row).collect()
}

fn policies(live: &Live) -> Vec<PolicyRow> {
    let row = |status: PolicyStatus| PolicyRow {
        name: status.name,
        state: status.state,
        version: status.version.map(|hash| hash.short()),
        problem: status.problem,
    };
    let status = live.library.status().into_iter();
    status.filter(|status| status.used).map(row).collect()
}

impl PolicyRow {
    /// It does not decide as its newest file says, and no operator wanted that.
    fn is_failing(&self) -> bool {
        let is_wanted = matches!(
            self.state,
            PolicyState::Live | PolicyState::RolledBack | PolicyState::Compiling
        );
        self.version.is_none() || !is_wanted
    }

    fn describe(&self) -> String {
        let decides = match &self.version {
            Some(version) => format!("{version} decides"),
            None => "no version decides".to_owned(),
        };
        let problem = self.problem.as_deref().unwrap_or("no plugin is there");
        format!("{} ({decides}; {problem})", self.name)
    }
}

impl ConfigurationRow {
    fn of(live: &Live) -> Self {
        let standing = live.configuration.get();
        let refused = standing.refused;
        let file = live
            .snapshot()
            .config
            .file
            .as_ref()
            .map(|file| file.display().to_string());
        Self {
            file,
            state: if refused.is_some() { "refused" } else { "live" },
            live_since_ms: standing.since_ms,
            is_last_good: standing.is_last_good,
            refused_at_ms: refused.as_ref().map(|refused| refused.at_ms),
            errors: refused.map(|refused| refused.errors).unwrap_or_default(),
        }
    }

    fn problem(&self) -> Option<String> {
        let first = self.errors.first()?;
        Some(format!(
            "the configuration on disk is refused and the one before is live: {first}"
        ))
    }
}

/// A few names of many; `None` where there are none.
fn listed(names: impl IntoIterator<Item = String>) -> Option<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    let more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_stays_short() {
        let names = |count: usize| listed((0..count).map(|number| format!("t{number}")));
        assert_eq!(names(0), None);
        assert_eq!(names(2).as_deref(), Some("t0, t1"));
        assert_eq!(names(7).as_deref(), Some("t0, t1, t2, t3, t4, and 2 more"));
    }
}
