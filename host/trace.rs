//! Traces: each request as OpenTelemetry's spans, one for the request itself and one for each of its attempts, told to a collector. A
//! request's trail is all that is known here; prompts, answers, keys and vendors' words are not, nor does anything here decide about a
//! request or hold one up.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue, request};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config;
use crate::dialer::Dial;
use crate::exchange::Operation;
use crate::telemetry::{Ended, Outcome, Step, Trail};
use crate::wire::Format;

mod context;
mod exporter;
mod names;
mod otlp;
mod span;

use context::{Parent, SpanId, TRACEPARENT, TRACESTATE, TraceId, traceparent};
use exporter::Exporter;
use span::{Attributes, Side, Span};

/// Who is told of requests; nobody, unless an operator wants it.
pub struct Traces {
    collector: ArcSwapOption<Collector>,
    /// Threads that may still have something to tell.
    exporters: Mutex<Vec<JoinHandle<()>>>,
    dropped: Counter,
}

/// One collector, as it is configured.
struct Collector {
    rules: config::Trace,
    queue: mpsc::Sender<Vec<Span>>,
    dropped: Counter,
}

/// A request that belongs to a trace.
pub struct Traced {
    collector: Arc<Collector>,
    trace: TraceId,
    /// The request's own span.
    span: SpanId,
    parent: Option<SpanId>,
    state: String,
    /// It is told.
    sampled: bool,
    method: String,
    /// Without its query, in which keys may be.
    path: String,
    clock: Clock,
}

/// Tells the wall clock's time of any instant of a request. Read once, so that a clock that is set in between moves no attempt.
struct Clock {
    instant: Instant,
    /// Nanoseconds since 1970.
    unix: u64,
}

impl Traces {
    /// Nobody is told. Counts requests that somebody should have been told of and was not.
    pub fn new(dropped: Counter) -> Self {
        Self {
            collector: ArcSwapOption::empty(),
            exporters: Mutex::default(),
            dropped,
        }
    }

    /// From now on these rules hold. Requests that have begun end where they would have.
    pub fn follow(&self, rules: Option<&config::Trace>, dialer: &Arc<dyn Dial>) {
        let current = self.collector.load();
        if current.as_deref().map(|collector| &collector.rules) == rules {
            return;
        }
        let collector = rules.and_then(|rules| match self.start(rules, dialer.clone()) {
            Ok(collector) => Some(Arc::new(collector)),
            Err(error) => {
                tracing::error!(%error, "no thread to tell traces from: there are none");
                None
            }
        });
        self.collector.store(collector);
    }

    fn start(&self, rules: &config::Trace, dialer: Arc<dyn Dial>) -> std::io::Result<Collector> {
        let (queue, queued) = mpsc::channel(rules.max_queued);
        let exporter = Exporter::new(rules, queued, dialer, self.dropped.clone()).start()?;
        let mut exporters = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        exporters.retain(|exporter| !exporter.is_finished());
        exporters.push(exporter);
        Ok(Collector {
            rules: rules.clone(),
            queue,
            dropped: self.dropped.clone(),
        })
    }

    /// A request has come. `None`: it belongs to no trace that matters here.
    pub fn begin(&self, head: &request::Parts, started: Instant) -> Option<Box<Traced>> {
        let collector = self.collector.load();
        let collector = collector.as_ref()?;
        let parent = Parent::read(&head.headers);
        let sampled = match &parent {
            Some(parent) => parent.sampled,
            None => fastrand::f32() < collector.rules.sample,
        };
        // Vendors are told of a trace that is not recorded, too: that nobody records it.
        if !sampled && !collector.rules.propagate {
            return None;
        }
        Some(Box::new(Traced {
            collector: collector.clone(),
            trace: parent.as_ref().map_or_else(TraceId::random, |parent| parent.trace),
            span: SpanId::random(),
            parent: parent.as_ref().map(|parent| parent.span),
            state: parent.map(|parent| parent.state).unwrap_or_default(),
            sampled,
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            clock: Clock::new(started),
        }))
    }

    /// Nothing more will come: tells the rest, as far as that is possible in so much time.
    pub fn close(&self, within: Duration) {
        const LOOK: Duration = Duration::from_millis(5);
        self.collector.store(None);
        let until = Instant::now() + within;
        let exporters = self.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        while exporters.iter().any(|exporter| !exporter.is_finished()) && Instant::now() < until {
            thread::sleep(LOOK);
        }
    }
}

impl Traced {
    /// The trace's name, for logs.
    pub fn id(&self) -> TraceId {
        self.trace
    }

    /// What a vendor is told of the trace with an attempt; nothing, unless the operator wants it.
    pub fn propagated(&self, step: usize) -> Vec<(HeaderName, HeaderValue)> {
        if !self.collector.rules.propagate {
            return Vec::new();
        }
        let parent = traceparent(self.trace, self.span.child(step), self.sampled);
        let state = HeaderValue::from_str(&self.state)
            .ok()
            .filter(|state| !state.is_empty());
        let state = state.map(|state| (TRACESTATE, state));
        [(TRACEPARENT, parent)].into_iter().chain(state).collect()
    }

    /// The request has ended.
    pub fn tell(&self, trail: &Trail) {
        if !self.sampled {
            return;
        }
        match self.collector.queue.try_reserve() {
            Ok(place) => place.send(self.spans(trail)),
            Err(_) => {
                self.collector.dropped.inc();
            }
        }
    }

    fn spans(&self, trail: &Trail) -> Vec<Span> {
        let steps = trail.steps.iter().enumerate();
        let attempts = steps.map(|(number, step)| self.attempt(trail, number, step));
        let mut spans: Vec<_> = attempts.collect();
        spans.push(self.request(trail));
        spans
    }

    fn request(&self, trail: &Trail) -> Span {
        let mut attributes = Attributes::default();
        attributes.text(names::GEN_AI_OPERATION_NAME, trail.operation);
        attributes.text(names::GEN_AI_REQUEST_MODEL, &trail.model);
        attributes.flag(names::GEN_AI_REQUEST_STREAM, trail.streaming);
        attributes.text(names::HTTP_REQUEST_METHOD, &self.method);
        attributes.text(names::URL_PATH, &self.path);
        if trail.status > 0 {
            attributes.count(names::HTTP_RESPONSE_STATUS_CODE, trail.status.into());
        }
        let error = failed(trail);
        attributes.text(names::ERROR_TYPE, error.as_deref().unwrap_or_default());
        if let Some(step) = trail.target() {
            attributes.text(names::GEN_AI_PROVIDER_NAME, step.target.rules.vendor.provider());
            attributes.text("pointsman.target", &step.target.rules.name);
        }
        attributes.text("pointsman.request_id", &trail.id);
        attributes.text("pointsman.client", &trail.client);
        attributes.text("pointsman.route", &trail.route);
        attributes.text("pointsman.policy", &trail.policy);
        attributes.text("pointsman.reason", &trail.why());
        attributes.text("pointsman.policy_error", &trail.policy_errors());
        attributes.text("pointsman.outcome", trail.outcome.name());
        attributes.count("pointsman.attempts", trail.sent() as u64);
        let goes_on = |step: &Step| step.continues && step.content_after.is_some();
        attributes.flag("pointsman.continued", trail.steps.iter().any(goes_on));
        attributes.count("pointsman.overhead_us", trail.overhead.as_micros() as u64);
        attributes.texts("pointsman.warnings", &trail.warnings);
        tell_usage(&mut attributes, trail.usage);
        attributes.number("pointsman.cost_usd", trail.cost());
        // Names are few: what a client asks for that is not there is not among them.
        let name = match (trail.operation, trail.route.as_str()) {
            ("", _) => self.method.clone(),
            (operation, "") => operation.to_owned(),
            (operation, _) => format!("{operation} {}", span::clipped(&trail.model)),
        };
        // What the client did wrong is no failure of a server.
        let is_failure = trail.outcome == Outcome::CutOff || trail.status >= 500;
        Span {
            trace: self.trace,
            id: self.span,
            parent: self.parent,
            has_remote_parent: self.parent.is_some(),
            state: self.state.clone(),
            name,
            side: Side::Server,
            start: self.clock.unix(trail.started),
            end: self.clock.unix(Instant::now()),
            attributes,
            error: error.filter(|_| is_failure),
        }
    }

    fn attempt(&self, trail: &Trail, number: usize, step: &Step) -> Span {
        let (rules, model) = (&step.target.rules, step.model());
        let mut attributes = Attributes::default();
        attributes.text(names::GEN_AI_OPERATION_NAME, trail.operation);
        attributes.text(names::GEN_AI_PROVIDER_NAME, rules.vendor.provider());
        attributes.text(names::GEN_AI_REQUEST_MODEL, model);
        attributes.flag(names::GEN_AI_REQUEST_STREAM, trail.streaming);
        let content_after = step.content_after.filter(|_| trail.streaming);
        let content_after = content_after.map(|after| after.as_secs_f64());
        attributes.number(names::GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, content_after);
        attributes.text(names::SERVER_ADDRESS, &step.target.endpoint.host);
        attributes.count(names::SERVER_PORT, step.target.endpoint.port.into());
        if let Some(status) = step.status {
            attributes.count(names::HTTP_RESPONSE_STATUS_CODE, status.into());
        }
        let ended = step.ended.name();
        let has_failed = matches!(step.ended, Ended::Failed(_) | Ended::TurnedAway);
        let error = has_failed.then(|| ended.to_owned());
        attributes.text(names::ERROR_TYPE, error.as_deref().unwrap_or_default());
        attributes.text("pointsman.target", &rules.name);
        attributes.text("pointsman.outcome", ended);
        attributes.text("pointsman.code", &step.word());
        attributes.count("pointsman.attempt", number as u64 + 1);
        attributes.flag("pointsman.answers", trail.answering() == Some(number));
        attributes.flag("pointsman.continues", step.continues);
        attributes.flag("pointsman.hedge", step.hedges);
        attributes.flag("pointsman.lost", step.lost);
        tell_usage(&mut attributes, step.spent.usage());
        attributes.number("pointsman.cost_usd", step.cost());
        let began = step.began;
        Span {
            trace: self.trace,
            id: self.span.child(number),
            parent: Some(self.span),
            has_remote_parent: false,
            state: self.state.clone(),
            name: format!("{} {}", trail.operation, span::clipped(model)),
            side: Side::Client,
            start: self.clock.unix(began),
            end: self.clock.unix(began + step.elapsed()),
            attributes,
            error,
        }
    }
}

impl Clock {
    fn new(instant: Instant) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let then = now.saturating_sub(instant.elapsed());
        Self {
            instant,
            unix: nanoseconds(then),
        }
    }

    fn unix(&self, instant: Instant) -> u64 {
        self.unix + nanoseconds(instant.saturating_duration_since(self.instant))
    }
}

/// Those of five centuries fit.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// What OpenTelemetry calls what a client wants; where it has no word, ours.
pub fn operation(operation: Operation, format: Format) -> &'static str {
    match (operation, format) {
        (Operation::Count, _) => "count_tokens",
        (Operation::Answer, Format::Embeddings | Format::GeminiEmbeddings) => "embeddings",
        (Operation::Answer, _) => "chat",
    }
}

/// Why the client got no whole answer, as a word or a status; `None` where it did, or did not wait for it.
fn failed(trail: &Trail) -> Option<String> {
    let last = trail.target().map(|step| &step.ended);
    match (trail.outcome, last) {
        (Outcome::Answered | Outcome::ClientGone, _) => None,
        (_, Some(Ended::Failed(kind))) => Some(kind.name().to_owned()),
        (Outcome::CutOff, _) => Some("cut-off".to_owned()),
        (Outcome::Refused, _) => Some(trail.status.to_string()),
    }
}

fn tell_usage(attributes: &mut Attributes, usage: Option<crate::chat::Usage>) {
    let Some(usage) = usage else { return };
    attributes.count(names::GEN_AI_USAGE_INPUT_TOKENS, usage.input_tokens);
    attributes.count(names::GEN_AI_USAGE_OUTPUT_TOKENS, usage.output_tokens);
    for (name, tokens) in [
        (names::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, usage.cached_tokens),
        (
            names::GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS,
            usage.cache_write_tokens,
        ),
        (names::GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, usage.reasoning_tokens),
    ] {
        if tokens > 0 {
            attributes.count(name, tokens);
        }
    }
}
