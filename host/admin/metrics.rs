//! `/metrics`: what was counted, and what policies and targets are at this moment.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::reply::Reply;
use crate::breaker::State;
use crate::live::Live;
use crate::policy::PolicyStatus;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PolicyLabels {
    policy: String,
    version: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HealthLabels {
    target: String,
}

/// Everything in Prometheus' text format.
pub fn show(live: &Live) -> Reply {
    let mut text = live.telemetry.metrics.encode();
    // What is read off the policies and targets at this moment.
    let mut registry = Registry::default();
    register_policies(&mut registry, &live.library.status());
    register_targets(&mut registry, live);
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    Reply::new(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text,
    )
}

fn register_policies(registry: &mut Registry, policies: &[PolicyStatus]) {
    let mut column = |name: &str, help: &str, value: fn(&PolicyStatus) -> f64| {
        let family = Family::<PolicyLabels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for status in policies {
            let version = status.version.map_or_else(String::new, |hash| hash.short());
            family
                .get_or_create(&PolicyLabels {
                    policy: status.name.clone(),
                    version,
                })
                .set(value(status));
        }
        registry.register(name, help, family);
    };
    column(
        "pointsman_policy_decisions",
        "Decisions of the version that serves",
        |s| s.decisions as f64,
    );
    column("pointsman_policy_traps", "Decisions that trapped", |s| s.traps as f64);
    column("pointsman_policy_timeouts", "Decisions that ran out of time", |s| {
        s.timeouts as f64
    });
    column(
        "pointsman_policy_nonsense",
        "Decisions that the contract forbids",
        |s| s.nonsense as f64,
    );
    column(
        "pointsman_policy_busy",
        "Decisions for which no instance was free",
        |s| s.busy as f64,
    );
    column(
        "pointsman_policy_dropped_log_lines",
        "Log lines beyond a decision's limit",
        |s| s.dropped_log_lines as f64,
    );
    column("pointsman_policy_refused", "Whether the newest file was refused", |s| {
        f64::from(u8::from(s.problem.is_some()))
    });
    column(
        "pointsman_policy_decision_p50_microseconds",
        "Median time of a decision",
        |s| s.p50_us,
    );
    column(
        "pointsman_policy_decision_p99_microseconds",
        "99th percentile of a decision",
        |s| s.p99_us,
    );
}

fn register_targets(registry: &mut Registry, live: &Live) {
    let (open, in_flight) = (
        Family::<HealthLabels, Gauge>::default(),
        Family::<HealthLabels, Gauge>::default(),
    );
    for target in live.snapshot().routes.iter().flat_map(|route| &route.targets) {
        let labels = HealthLabels {
            target: target.rules.name.clone(),
        };
        let reading = target.health.read(Instant::now());
        open.get_or_create(&labels)
            .set(i64::from(reading.state != State::Closed));
        in_flight.get_or_create(&labels).set(reading.in_flight.into());
    }
    registry.register(
        "pointsman_target_breaker_open",
        "1 while the breaker is not closed",
        open,
    );
    registry.register("pointsman_target_in_flight", "Attempts under way", in_flight);
}
