//! What is counted, for Prometheus. Counters are counters, times are histograms in seconds, and what OpenTelemetry's conventions for
//! generative AI have a name for is called that: <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>, with `_` for `.`.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::chat::Usage;
use crate::config;
use crate::failure::Kind;
use crate::telemetry::{Ended, Outcome};

mod definition;
mod live;
mod recent;

pub use definition::{Definition, reference};
pub use live::{LiveState, PolicyMetrics, TargetState, Times, encode_live};
pub use recent::{Recent, Traffic};

/// Everything that is counted as requests go by. The series of a target are resolved when a snapshot is made or it is first used;
/// those of requests and costs are looked up by their labels. Histograms have short locks.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// Requests in progress.
    pub in_progress: Gauge,
    /// What the gateway itself adds until content.
    overhead: Histogram,
    attempts: Family<AttemptLabels, Counter>,
    operations: Operations,
    /// US dollars, for attempts whose tokens and prices are known.
    cost: Family<CostLabels, Dollars>,
    /// Picks of targets that a route does not have.
    pub dropped_picks: Counter,
    /// Hedges that were started.
    pub hedges: Counter,
    /// Hedges that the route's share did not allow.
    pub hedges_denied: Counter,
    /// Reloads of the configuration, by result.
    pub reloads: Family<ReloadLabels, Counter>,
    /// Requests whose trace was not delivered.
    pub trace_dropped: Counter,
    /// Requests of the last hour.
    pub recent: Recent,
}

/// What the conventions measure of each attempt.
#[derive(Debug, Clone)]
struct Operations {
    first_chunk: Family<OperationLabels, Histogram, Buckets>,
    duration: Family<DurationLabels, Histogram, Buckets>,
    tokens: Family<TokenLabels, Histogram, Buckets>,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    target: String,
    outcome: &'static str,
}

/// What the conventions want to know of an attempt, and our name of its target.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    target: String,
    gen_ai_operation_name: &'static str,
    gen_ai_provider_name: &'static str,
    gen_ai_request_model: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DurationLabels {
    #[prometheus(flatten)]
    operation: OperationLabels,
    /// Empty where the attempt did not fail, which Prometheus takes for no label.
    error_type: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    #[prometheus(flatten)]
    operation: OperationLabels,
    gen_ai_token_type: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CostLabels {
    route: String,
    target: String,
    client: String,
}

type Dollars = Counter<f64, AtomicU64>;

/// How a reload ended.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `live` or `refused`.
    pub result: &'static str,
}

/// The metrics of one target.
#[derive(Debug)]
pub struct TargetMetrics {
    ok: Counter,
    failed: [Counter; Kind::ALL.len()],
    abandoned: Counter,
    turned_away: Counter,
    families: Operations,
    target: String,
    provider: &'static str,
    model: String,
    /// By the index of [`OPERATIONS`].
    operations: [OnceLock<OperationMetrics>; OPERATIONS.len()],
}

/// The histograms of one operation of a target, as far as its attempts do not fail.
#[derive(Debug)]
struct OperationMetrics {
    first_chunk: Histogram,
    duration: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
}

/// What a client can want of a model, in the conventions' words where they have one; see [`crate::trace::operation`].
const OPERATIONS: [&str; 3] = ["chat", "embeddings", "count_tokens"];

/// Upper bounds of a histogram's buckets.
#[derive(Debug, Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Seconds, as the conventions advise, and on to five minutes: models that think take longer than they reckon with.
const DURATIONS: Buckets = Buckets(&[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68,
]);
/// Seconds, as the conventions advise, and on to a minute.
const FIRST_CHUNKS: Buckets = Buckets(&[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
]);
/// Tokens, as the conventions advise, up to what a model can take.
const TOKENS: Buckets = Buckets(&[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
]);
/// Seconds, for what the gateway adds: 10 µs to 100 ms.
const OVERHEADS: [f64; 10] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 1e-1];

const OPERATION_LABELS: [&str; 4] = [
    "target",
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
];

static REQUESTS: Definition = Definition::counter(
    "pointsman_requests",
    &["route", "outcome"],
    "Requests that have ended, by how they did: `answered`, `refused`, `cut-off` or `client-gone`",
);
static IN_PROGRESS: Definition = Definition::gauge(
    "pointsman_requests_in_progress",
    &[],
    "Requests in progress, streams included",
);
static OVERHEAD: Definition = Definition::histogram(
    "pointsman_overhead",
    &[],
    "Time that the gateway itself added to a request before the first content",
)
.in_seconds();
static ATTEMPTS: Definition = Definition::counter(
    "pointsman_attempts",
    &["target", "outcome"],
    "Attempts that have ended, by how they did: `ok`, `abandoned`, `turned-away` or the kind of failure",
);
static FIRST_CHUNK: Definition = Definition::histogram(
    "gen_ai_client_operation_time_to_first_chunk",
    &OPERATION_LABELS,
    "Time from the start of an attempt to the first content of its stream",
)
.in_seconds();
static DURATION: Definition = Definition::histogram(
    "gen_ai_client_operation_duration",
    &[
        "target",
        "gen_ai_operation_name",
        "gen_ai_provider_name",
        "gen_ai_request_model",
        "error_type",
    ],
    "Time from the start of an attempt to the end of its answer; `error_type` is empty where it did not fail",
)
.in_seconds();
static TOKEN_USAGE: Definition = Definition::histogram(
    "gen_ai_client_token_usage",
    &[
        "target",
        "gen_ai_operation_name",
        "gen_ai_provider_name",
        "gen_ai_request_model",
        "gen_ai_token_type",
    ],
    "Tokens of an attempt as the vendor counted them; `gen_ai_token_type` is `input` or `output`",
);
static COST: Definition = Definition::counter(
    "pointsman_cost_usd",
    &["route", "target", "client"],
    "US dollars that attempts cost, where their tokens and prices are known",
);
static DROPPED_PICKS: Definition = Definition::counter(
    "pointsman_policy_dropped_picks",
    &[],
    "Picks of targets that the route does not have",
);
static HEDGES: Definition = Definition::counter("pointsman_hedges", &[], "Hedges that were started");
static HEDGES_DENIED: Definition = Definition::counter(
    "pointsman_hedges_denied",
    &[],
    "Hedges that were not started because the route's share was used up",
);
static RELOADS: Definition = Definition::counter(
    "pointsman_config_reloads",
    &["result"],
    "Reloads of the configuration, `live` or `refused`",
);
static TRACE_DROPPED: Definition = Definition::counter(
    "pointsman_trace_dropped",
    &[],
    "Requests whose trace was not delivered to the collector",
);

/// Every metric there is.
pub fn definitions() -> Vec<&'static Definition> {
    let counted = [
        &REQUESTS,
        &IN_PROGRESS,
        &OVERHEAD,
        &ATTEMPTS,
        &FIRST_CHUNK,
        &DURATION,
        &TOKEN_USAGE,
        &COST,
        &DROPPED_PICKS,
        &HEDGES,
        &HEDGES_DENIED,
        &RELOADS,
        &TRACE_DROPPED,
    ];
    counted.into_iter().chain(live::definitions()).collect()
}

impl Default for Metrics {
    fn default() -> Self {
        let operations = Operations {
            first_chunk: Family::new_with_constructor(FIRST_CHUNKS),
            duration: Family::new_with_constructor(DURATIONS),
            tokens: Family::new_with_constructor(TOKENS),
        };
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            in_progress: Gauge::default(),
            overhead: Histogram::new(OVERHEADS),
            attempts: Family::default(),
            operations,
            cost: Family::default(),
            dropped_picks: Counter::default(),
            hedges: Counter::default(),
            hedges_denied: Counter::default(),
            reloads: Family::default(),
            trace_dropped: Counter::default(),
            recent: Recent::default(),
        };
        // A counter that is there from the start shows its first step as one.
        for result in ["live", "refused"] {
            let _ = metrics.reloads.get_or_create(&ReloadLabels { result });
        }
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        REQUESTS.register(registry, self.requests.clone());
        IN_PROGRESS.register(registry, self.in_progress.clone());
        OVERHEAD.register(registry, self.overhead.clone());
        ATTEMPTS.register(registry, self.attempts.clone());
        FIRST_CHUNK.register(registry, self.operations.first_chunk.clone());
        DURATION.register(registry, self.operations.duration.clone());
        TOKEN_USAGE.register(registry, self.operations.tokens.clone());
        COST.register(registry, self.cost.clone());
        DROPPED_PICKS.register(registry, self.dropped_picks.clone());
        HEDGES.register(registry, self.hedges.clone());
        HEDGES_DENIED.register(registry, self.hedges_denied.clone());
        RELOADS.register(registry, self.reloads.clone());
        TRACE_DROPPED.register(registry, self.trace_dropped.clone());
    }

    /// A request has ended with this status.
    pub fn count_request(&self, route: &str, outcome: Outcome, status: u16) {
        self.recent.count(outcome == Outcome::CutOff || status >= 500);
        let (route, outcome) = (route.to_owned(), outcome.name());
        self.requests.get_or_create(&RequestLabels { route, outcome }).inc();
    }

    /// What the gateway itself added to a request.
    pub fn observe_overhead(&self, overhead: Duration) {
        self.overhead.observe(overhead.as_secs_f64());
    }

    /// What an attempt cost.
    pub fn count_cost(&self, route: &str, target: &str, client: &str, dollars: f64) {
        let (route, target, client) = (route.to_owned(), target.to_owned(), client.to_owned());
        let labels = CostLabels { route, target, client };
        self.cost.get_or_create(&labels).inc_by(dollars);
    }

    /// Prometheus' text format, without its end marker.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &self.registry);
        text
    }

    /// The metrics of a target.
    pub fn target(&self, rules: &config::Target) -> TargetMetrics {
        let attempt = |outcome| {
            let target = rules.name.clone();
            self.attempts.get_or_create(&AttemptLabels { target, outcome }).clone()
        };
        TargetMetrics {
            ok: attempt("ok"),
            failed: Kind::ALL.map(|kind| attempt(kind.name())),
            abandoned: attempt("abandoned"),
            turned_away: attempt("turned-away"),
            families: self.operations.clone(),
            target: rules.name.clone(),
            provider: rules.vendor.provider(),
            model: rules.model.clone(),
            operations: Default::default(),
        }
    }
}

impl TargetMetrics {
    /// An attempt has ended.
    pub fn count_attempt(&self, ended: &Ended) {
        match ended {
            Ended::Ok => self.ok.inc(),
            Ended::Failed(kind) => self.failed[*kind as usize].inc(),
            Ended::Abandoned => self.abandoned.inc(),
            Ended::TurnedAway => self.turned_away.inc(),
        };
    }

    /// An attempt that was sent has taken so long.
    pub fn observe_attempt(&self, operation: &str, ended: &Ended, took: Duration) {
        let Some(index) = index_of(operation) else { return };
        let seconds = took.as_secs_f64();
        match ended {
            Ended::Failed(kind) => {
                let labels = DurationLabels {
                    operation: self.labels(index),
                    error_type: kind.name(),
                };
                self.families.duration.get_or_create(&labels).observe(seconds);
            }
            _ => self.of(index).duration.observe(seconds),
        }
    }

    /// The first content of a stream came after so long.
    pub fn observe_first_chunk(&self, after: Duration) {
        self.of(0).first_chunk.observe(after.as_secs_f64());
    }

    /// What the vendor counted of an attempt.
    pub fn observe_tokens(&self, operation: &str, usage: &Usage) {
        let Some(index) = index_of(operation) else { return };
        let metrics = self.of(index);
        metrics.input_tokens.observe(usage.input_tokens as f64);
        metrics.output_tokens.observe(usage.output_tokens as f64);
    }

    fn of(&self, operation: usize) -> &OperationMetrics {
        self.operations[operation].get_or_init(|| {
            let labels = self.labels(operation);
            let tokens = |gen_ai_token_type| {
                let labels = TokenLabels {
                    operation: labels.clone(),
                    gen_ai_token_type,
                };
                self.families.tokens.get_or_create(&labels).clone()
            };
            let well = DurationLabels {
                operation: labels.clone(),
                error_type: "",
            };
            OperationMetrics {
                first_chunk: self.families.first_chunk.get_or_create(&labels).clone(),
                duration: self.families.duration.get_or_create(&well).clone(),
                input_tokens: tokens("input"),
                output_tokens: tokens("output"),
            }
        })
    }

    fn labels(&self, operation: usize) -> OperationLabels {
        OperationLabels {
            target: self.target.clone(),
            gen_ai_operation_name: OPERATIONS[operation],
            gen_ai_provider_name: self.provider,
            gen_ai_request_model: self.model.clone(),
        }
    }
}

fn index_of(operation: &str) -> Option<usize> {
    OPERATIONS.iter().position(|known| *known == operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the reference is kept.
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/metrics.md");
    /// Set to write the reference anew.
    const WRITE: &str = "WRITE_REFERENCE";

    #[test]
    fn the_reference_says_what_the_code_does() {
        let text = std::fs::read_to_string(FILE).unwrap();
        let start = text.find("| metric |").expect("a table");
        let (before, table) = text.split_at(start);
        let expected = reference(&definitions());
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(FILE, format!("{before}{expected}")).unwrap();
            return;
        }
        assert_eq!(
            table, expected,
            "set {WRITE}=1 and run this test again to write the reference"
        );
    }

    /// Prometheus' rules: <https://prometheus.io/docs/practices/naming/>.
    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut names: Vec<_> = definitions().iter().map(|definition| definition.name()).collect();
        for name in &names {
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(name.bytes().all(is_plain), "{name}");
            let is_small = |part: &str| ["us", "ms", "microseconds", "milliseconds"].contains(&part);
            assert!(!name.split('_').any(is_small), "{name} is not in a base unit");
            let units = ["seconds", "bytes"].into_iter().filter(|unit| name.contains(unit));
            for unit in units {
                let ends = name.trim_end_matches("_total").ends_with(unit);
                assert!(ends, "the unit ends {name}");
            }
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "every name is there once");
    }

    #[test]
    fn a_failed_attempt_is_timed_apart() {
        let metrics = Metrics::default();
        let config = config::Config::without_file(std::path::Path::new("."), &|_| None);
        let target = metrics.target(&config.targets[0]);
        target.observe_attempt("chat", &Ended::Ok, Duration::from_millis(15));
        target.observe_attempt("chat", &Ended::Failed(Kind::ServerError), Duration::from_millis(15));
        target.observe_attempt("", &Ended::Ok, Duration::from_millis(15));
        let text = metrics.encode();
        for error in ["", "server-error"] {
            let is_there = text.lines().any(|line| {
                line.starts_with("gen_ai_client_operation_duration_seconds_count{")
                    && line.contains(&format!("error_type=\"{error}\""))
                    && line.contains("gen_ai_operation_name=\"chat\"")
                    && line.ends_with(" 1")
            });
            assert!(is_there, "{error}: {text}");
        }
    }
}
