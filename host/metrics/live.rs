//! Metrics that are read off policies and targets at the moment of a scrape.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::registry::Registry;

use super::definition::Definition;

/// What is at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct LiveState {
    /// Every policy.
    pub policies: Vec<PolicyMetrics>,
    /// Every target that a route has.
    pub targets: Vec<TargetState>,
    /// The newest configuration file was refused.
    pub config_refused: bool,
}

/// What became of the decisions of the version of a policy that serves.
#[derive(Debug, Clone, Default)]
pub struct PolicyMetrics {
    /// Name of the policy.
    pub policy: String,
    /// Short hash of the version; empty where none serves.
    pub version: String,
    /// Decisions by outcome.
    pub decisions: [(&'static str, u64); 5],
    /// Times of decisions.
    pub times: Times,
    /// Log lines beyond a decision's limit.
    pub dropped_log_lines: u64,
    /// The newest file does not serve.
    pub refused: bool,
}

/// How long something took, for a histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times {
    /// Seconds, all together.
    pub sum: f64,
    /// How often.
    pub count: u64,
    /// Upper bounds in seconds, and how often the time was between the bound before and this one; the last is infinite.
    pub buckets: Vec<(f64, u64)>,
}

/// A target at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct TargetState {
    /// Name of the target.
    pub target: String,
    /// The breaker is open or half-open.
    pub breaker_open: bool,
    /// A switch of the target or its vendor is off.
    pub switched_off: bool,
    /// How long until it may be tried.
    pub cooldown: Duration,
    /// Attempts in progress.
    pub in_flight: u32,
}

const POLICY: [&str; 2] = ["policy", "version"];
const TARGET: [&str; 1] = ["target"];

static DECISIONS: Definition = Definition::counter(
    "pointsman_policy_decisions",
    &["policy", "version", "outcome"],
    "Decisions of the version that serves, by how they ended: `ok`, `trap`, `timeout`, `invalid`, or `busy` where no instance was free",
);
static DECISION_DURATION: Definition = Definition::histogram(
    "pointsman_policy_decision_duration",
    &POLICY,
    "Time of a decision of the version that serves",
)
.in_seconds();
static DROPPED_LOG_LINES: Definition = Definition::counter(
    "pointsman_policy_dropped_log_lines",
    &POLICY,
    "Log lines of the version that serves that were beyond a decision's limit",
);
static POLICY_REFUSED: Definition = Definition::gauge(
    "pointsman_policy_refused",
    &POLICY,
    "1 where the newest file of the policy does not serve",
);
static BREAKER_OPEN: Definition = Definition::gauge(
    "pointsman_target_breaker_open",
    &TARGET,
    "1 while the breaker of the target is open or half-open",
);
static SWITCHED_OFF: Definition = Definition::gauge(
    "pointsman_target_switched_off",
    &TARGET,
    "1 while a switch of the target or its vendor is off",
);
static COOLDOWN: Definition = Definition::gauge(
    "pointsman_target_cooldown",
    &TARGET,
    "Time until the target may be tried again, 0 where it may be now",
)
.in_seconds();
static IN_FLIGHT: Definition = Definition::gauge(
    "pointsman_target_in_flight",
    &TARGET,
    "Attempts in progress at the target",
);
static CONFIG_REFUSED: Definition = Definition::gauge(
    "pointsman_config_refused",
    &[],
    "1 where the newest configuration file was refused and the one before is live",
);
static BUILD: Definition = Definition::gauge(
    "pointsman_build_info",
    &["build_version"],
    "1, with the version of the gateway",
);

/// The metrics of this file.
pub(super) fn definitions() -> [&'static Definition; 10] {
    [
        &DECISIONS,
        &DECISION_DURATION,
        &DROPPED_LOG_LINES,
        &POLICY_REFUSED,
        &BREAKER_OPEN,
        &SWITCHED_OFF,
        &COOLDOWN,
        &IN_FLIGHT,
        &CONFIG_REFUSED,
        &BUILD,
    ]
}

/// Writes these metrics behind the others, and the end marker.
pub fn encode_live(text: &mut String, state: LiveState) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(state));
    // Writing into a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(text, &registry);
}

impl Collector for LiveState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_decisions(&mut encoder)?;
        self.encode_policies(&mut encoder)?;
        self.encode_targets(&mut encoder)?;
        let mut refused = CONFIG_REFUSED.encode(&mut encoder)?;
        refused.encode_gauge(&u32::from(self.config_refused))?;
        let mut build = BUILD.encode(&mut encoder)?;
        let labels = [("build_version", env!("CARGO_PKG_VERSION"))];
        build.encode_family(&labels)?.encode_gauge(&1_u32)
    }
}

impl LiveState {
    fn encode_decisions(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut decisions = DECISIONS.encode(encoder)?;
        for policy in &self.policies {
            for (outcome, count) in &policy.decisions {
                let [name, version] = policy.labels();
                let labels = [name, version, ("outcome", outcome)];
                let mut metric = decisions.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, u64, u64>(count, None)?;
            }
        }
        let mut durations = DECISION_DURATION.encode(encoder)?;
        for policy in &self.policies {
            let (labels, times) = (policy.labels(), &policy.times);
            let mut metric = durations.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(times.sum, times.count, &times.buckets, None)?;
        }
        Ok(())
    }

    fn encode_policies(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut dropped = DROPPED_LOG_LINES.encode(encoder)?;
        for policy in &self.policies {
            let labels = policy.labels();
            let mut metric = dropped.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, u64>(&policy.dropped_log_lines, None)?;
        }
        let mut refused = POLICY_REFUSED.encode(encoder)?;
        for policy in &self.policies {
            let labels = policy.labels();
            refused
                .encode_family(&labels)?
                .encode_gauge(&u32::from(policy.refused))?;
        }
        Ok(())
    }

    fn encode_targets(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Column = (&'static Definition, fn(&TargetState) -> f64);
        let columns: [Column; 4] = [
            (&BREAKER_OPEN, |target| f64::from(u8::from(target.breaker_open))),
            (&SWITCHED_OFF, |target| f64::from(u8::from(target.switched_off))),
            (&COOLDOWN, |target| target.cooldown.as_secs_f64()),
            (&IN_FLIGHT, |target| target.in_flight.into()),
        ];
        for (definition, value) in columns {
            let mut metric = definition.encode(encoder)?;
            for target in &self.targets {
                let labels = [("target", target.target.as_str())];
                metric.encode_family(&labels)?.encode_gauge(&value(target))?;
            }
        }
        Ok(())
    }
}

impl PolicyMetrics {
    fn labels(&self) -> [(&str, &str); 2] {
        [("policy", &self.policy), ("version", &self.version)]
    }
}
