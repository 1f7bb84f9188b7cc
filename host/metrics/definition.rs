//! What each metric is: its name, type, labels and help, in one place for the code that counts and for the reference.

use std::fmt;
use std::fmt::Write as _;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry, Unit};

/// One metric.
#[derive(Debug)]
pub struct Definition {
    /// Its name without what its type and unit put behind it.
    base: &'static str,
    kind: Kind,
    in_seconds: bool,
    labels: &'static [&'static str],
    /// What it counts or measures, without a full stop: the exporter writes one.
    help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Definition {
    /// Something that only grows. Prometheus writes `_total` behind its name.
    pub const fn counter(base: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(base, Kind::Counter, labels, help)
    }

    /// Something that goes up and down.
    pub const fn gauge(base: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(base, Kind::Gauge, labels, help)
    }

    /// How often values of each size occurred.
    pub const fn histogram(base: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(base, Kind::Histogram, labels, help)
    }

    const fn new(base: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Self {
        Self {
            base,
            kind,
            in_seconds: false,
            labels,
            help,
        }
    }

    /// Measured in seconds, which its name ends with.
    pub const fn in_seconds(self) -> Self {
        Self {
            in_seconds: true,
            ..self
        }
    }

    fn unit(&self) -> Option<&'static Unit> {
        static SECONDS: Unit = Unit::Seconds;
        self.in_seconds.then_some(&SECONDS)
    }

    /// The name as Prometheus shows it.
    pub fn name(&self) -> String {
        let mut name = self.base.to_owned();
        if let Some(unit) = self.unit() {
            name += "_";
            name += unit.as_str();
        }
        if self.kind == Kind::Counter {
            name += "_total";
        }
        name
    }

    /// Registers what is counted as requests go by.
    pub fn register(&self, registry: &mut Registry, metric: impl Metric) {
        match self.unit() {
            Some(unit) => registry.register_with_unit(self.base, self.help, unit.clone(), metric),
            None => registry.register(self.base, self.help, metric),
        }
    }

    /// Begins to write what is read off at a scrape.
    pub fn encode<'e>(&'e self, encoder: &'e mut DescriptorEncoder<'_>) -> Result<MetricEncoder<'e>, fmt::Error> {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        encoder.encode_descriptor(self.base, self.help, self.unit(), kind)
    }
}

/// The reference of these metrics as a table in Markdown.
pub fn reference(definitions: &[&Definition]) -> String {
    let mut sorted: Vec<_> = definitions
        .iter()
        .map(|definition| (definition.name(), definition))
        .collect();
    sorted.sort_by(|(left, _), (right, _)| left.cmp(right));
    let mut text = String::from("| metric | type | labels | what it is |\n|---|---|---|---|\n");
    for (name, definition) in sorted {
        let kind = match definition.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<_> = definition.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "| `{name}` | {kind} | {} | {} |",
            labels.join(", "),
            definition.help
        );
    }
    text
}
