//! What the gateway tells of a request: one line in the log, metrics and a trace.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::{self, Prices};
use crate::chat::Usage;
use crate::failure::{Failure, Kind};
use crate::metrics::Metrics;
use crate::place::Place;
use crate::policy_failure::PolicyFailure;
use crate::snapshot::Target;
use crate::trace::{Traced, Traces};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The client got its whole answer.
    Ok,
    /// It failed.
    Failed(Kind),
    /// It was cancelled: the client went away or another attempt won.
    Abandoned,
    /// The target was at its limit: nothing was sent.
    TurnedAway,
}

impl Ended {
    /// The name in logs, traces and the client's header.
    pub const fn name(&self) -> &'static str {
        match self {
            Ended::Ok => "ok",
            Ended::Failed(kind) => kind.name(),
            Ended::Abandoned => "abandoned",
            Ended::TurnedAway => "turned-away",
        }
    }
}

/// The tokens of one attempt so far, as the vendor counted them. Noted where the answer is read, which may be cancelled at any
/// moment, and asked for when the request ends: so what a hedge used that lost is known too.
#[derive(Debug, Default)]
pub struct Spent(Mutex<Option<Usage>>);

impl Spent {
    /// The vendor has counted; what it said before no longer holds.
    pub fn note(&self, usage: Usage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
    }

    /// What the vendor has counted so far; `None` before it has.
    pub fn usage(&self) -> Option<Usage> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt of a request, as it is logged.
pub struct Step {
    /// Where it went.
    pub target: Arc<Target>,
    /// How it ended; abandoned until anything else is known.
    pub ended: Ended,
    /// The vendor's status, when it answered.
    pub status: Option<u16>,
    /// The vendor's code or ours.
    pub code: String,
    /// Why it failed, in words.
    why: String,
    /// Its tokens so far.
    pub spent: Arc<Spent>,
    /// What the model costs that it asked for, if known.
    prices: Option<Prices>,
    /// The model that it asks for, where it is another than the target's.
    model: Option<String>,
    /// It goes on with an answer that broke off.
    pub continues: bool,
    /// It was begun beside another one.
    pub hedges: bool,
    /// Another one won.
    pub lost: bool,
    /// How long its first content took, once that is there.
    pub content_after: Option<Duration>,
    /// When it began.
    pub began: Instant,
    /// How long it took, once it has ended.
    took: Option<Duration>,
}

impl Step {
    fn end(&mut self, ended: Ended, failure: Option<&Failure>) {
        self.ended = ended;
        self.took = Some(self.began.elapsed());
        if let Some(failure) = failure {
            self.status = failure.status.or(self.status);
            self.code.clone_from(&failure.code);
            self.why = self.target.redacted(failure.detail.clone());
        }
    }

    /// The model that it asks for.
    pub fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(&self.target.rules.model)
    }

    /// How long it has taken, or did.
    pub fn elapsed(&self) -> Duration {
        self.took.unwrap_or_else(|| self.began.elapsed())
    }

    /// US dollars; `None` when the vendor has not counted or its prices are not known.
    pub fn cost(&self) -> Option<f64> {
        Some(catalog::cost(&self.prices?, &self.spent.usage()?))
    }

    fn count(&self, operation: &str) {
        let metrics = &self.target.metrics;
        metrics.count_attempt(&self.ended);
        if self.ended != Ended::TurnedAway {
            metrics.observe_attempt(operation, &self.ended, self.elapsed());
        }
        if let Some(usage) = self.spent.usage() {
            metrics.observe_tokens(operation, &usage);
        }
    }

    /// The vendor's code or ours, as one word without the key: vendors' words may hold anything, and a log line stays one line.
    pub fn word(&self) -> String {
        const LONGEST: usize = 64;
        let code = self.target.redacted(self.code.clone());
        code.chars().filter(char::is_ascii_graphic).take(LONGEST).collect()
    }

    /// Why it failed, in words that fit into a list of attempts.
    fn words(&self) -> String {
        const LONGEST: usize = 200;
        let clean = |c: char| match c {
            ';' => ',',
            c if c.is_control() => ' ',
            c => c,
        };
        self.why.chars().map(clean).take(LONGEST).collect()
    }

    /// Whether its words are the gateway's own and tell a client what to ask its operator about.
    fn is_of_connection(&self) -> bool {
        matches!(self.ended, Ended::Failed(Kind::Connect | Kind::LocalLimit))
    }

    fn describe(&self, with_words: bool) -> String {
        let ended = self.ended.name();
        let status = self.status.map(|status| format!(" {status}")).unwrap_or_default();
        let code = self.word();
        let code = if code.is_empty() {
            String::new()
        } else {
            format!(" {code}")
        };
        let words = Some(self.words()).filter(|words| with_words && !words.is_empty());
        let words = words.map(|words| format!(" ({words})")).unwrap_or_default();
        format!(
            "{}: {ended}{status}{code} {}ms{words}",
            self.target.rules.name,
            self.elapsed().as_millis()
        )
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client got a whole answer of a vendor's.
    Answered,
    /// The client got an error.
    Refused,
    /// The client got a part of an answer and an error.
    CutOff,
    /// The client went away.
    ClientGone,
}

impl Outcome {
    /// The name in logs, metrics and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Refused => "refused",
            Outcome::CutOff => "cut-off",
            Outcome::ClientGone => "client-gone",
        }
    }
}

/// What is known of one request, from the door to its end. Told when it is dropped; a request that nobody finished is one whose
/// client went away.
pub struct Trail {
    /// The request's id.
    pub id: String,
    /// When it arrived.
    pub started: Instant,
    /// Name of the client's gateway key.
    pub client: String,
    /// What it wants of a model, in OpenTelemetry's words; empty before it is known.
    pub operation: &'static str,
    /// The model the client asked for.
    pub model: String,
    /// Name of the route; empty before it is known.
    pub route: String,
    /// The client wants a stream.
    pub streaming: bool,
    /// Status of the answer.
    pub status: u16,
    /// The policy that decided, as `NAME@HASH`; empty when the built-in chain did.
    pub policy: String,
    /// Why, in the policy's words.
    pub reason: String,
    /// The policies that failed.
    pub policy_failures: Vec<PolicyFailure>,
    /// What the request lost on its way to the vendor that answers.
    pub warnings: Vec<String>,
    /// The client is told of every attempt.
    pub tells_attempts: bool,
    /// Every attempt, in the order of their beginnings.
    pub steps: Vec<Step>,
    /// Index of the step whose answer the client gets.
    answering: Option<usize>,
    /// Tokens of the answer.
    pub usage: Option<Usage>,
    /// Time that the client or a vendor took until content: what is left is ours.
    pub elsewhere: Duration,
    /// The gateway's own time until content.
    pub overhead: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// For operators: what the client was told and why.
    pub error: String,
    /// Its place among the requests in progress.
    pub place: Option<Place>,
    /// The trace that it belongs to, if any.
    pub trace: Option<Box<Traced>>,
    telemetry: Arc<Telemetry>,
}

/// Where trails end.
pub struct Telemetry {
    /// What is counted.
    pub metrics: Metrics,
    /// One line a request.
    pub log_requests: std::sync::atomic::AtomicBool,
    /// Spans of a request and its attempts.
    pub traces: Traces,
}

impl Trail {
    /// A request has come.
    pub fn new(telemetry: &Arc<Telemetry>) -> Box<Self> {
        telemetry.metrics.in_progress.inc();
        // It is handed on often, and large.
        Box::new(Self {
            id: format!("req_{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..)),
            started: Instant::now(),
            client: String::new(),
            operation: "",
            model: String::new(),
            route: String::new(),
            streaming: false,
            status: 0,
            policy: String::new(),
            reason: String::new(),
            policy_failures: Vec::new(),
            warnings: Vec::new(),
            tells_attempts: false,
            steps: Vec::new(),
            answering: None,
            usage: None,
            elsewhere: Duration::ZERO,
            overhead: Duration::ZERO,
            outcome: Outcome::ClientGone,
            error: String::new(),
            place: None,
            trace: None,
            telemetry: telemetry.clone(),
        })
    }

    /// The moment at which the client gets its answer's head.
    pub fn commit(&mut self, status: u16) {
        self.status = status;
        self.overhead = self.started.elapsed().saturating_sub(self.elsewhere);
        self.telemetry.metrics.observe_overhead(self.overhead);
    }

    /// The attempt whose answer the client gets; the last one where none does.
    pub fn target(&self) -> Option<&Step> {
        self.answering.map_or(self.steps.last(), |index| self.steps.get(index))
    }

    /// The index of the attempt whose answer the client gets.
    pub fn answering(&self) -> Option<usize> {
        self.answering
    }

    /// What the request cost so far in US dollars, failed attempts and hedges included as far as their vendors counted.
    /// `None` when that is not known of the attempt whose answer the client gets, or of any when it gets none.
    pub fn cost(&self) -> Option<f64> {
        if let Some(index) = self.answering {
            self.steps.get(index)?.cost()?;
        }
        let costs = self.steps.iter().filter_map(Step::cost);
        // A billionth of a dollar is less than any token; what is behind it is noise.
        costs
            .reduce(|sum, cost| sum + cost)
            .map(|sum| (sum * 1e9).round() / 1e9)
    }

    /// An attempt begins, which asks for this model; the index of its step.
    pub fn begin(&mut self, target: &Arc<Target>, model: &str) -> usize {
        let (ended, began) = (Ended::Abandoned, Instant::now());
        let (prices, spent) = (target.rules.prices_of(model), Arc::default());
        let own_model = Some(model).filter(|model| *model != target.rules.model);
        let broke_off = |step: &Step| step.content_after.is_some() && matches!(step.ended, Ended::Failed(_));
        let continues = self.steps.iter().any(broke_off);
        let (target, code) = (target.clone(), String::new());
        self.steps.push(Step {
            target,
            ended,
            status: None,
            code,
            why: String::new(),
            spent,
            prices,
            model: own_model.map(str::to_owned),
            continues,
            hedges: false,
            lost: false,
            content_after: None,
            began,
            took: None,
        });
        self.steps.len() - 1
    }

    /// Others took the time since the first of the steps from this one on began; all of them have ended.
    pub fn waited_for(&mut self, from: usize) {
        let ends = self.steps[from..].iter().map(|step| step.began + step.elapsed());
        if let (Some(first), Some(last)) = (self.steps.get(from), ends.max()) {
            self.elsewhere += last - first.began;
        }
    }

    /// An attempt has failed. How long it took.
    pub fn fail(&mut self, step: usize, failure: &Failure) -> Duration {
        let step = &mut self.steps[step];
        step.end(Ended::Failed(failure.kind), Some(failure));
        step.elapsed()
    }

    /// A target had no place for the request, which stood in line there for so long.
    pub fn turn_away(&mut self, target: &Arc<Target>, failure: &Failure, waited: Duration) {
        let step = self.begin(target, &target.rules.model);
        let step = &mut self.steps[step];
        step.end(Ended::TurnedAway, Some(failure));
        step.took = Some(waited);
    }

    /// Attempts that were sent.
    pub fn sent(&self) -> usize {
        let is_sent = |step: &&Step| step.ended != Ended::TurnedAway;
        self.steps.iter().filter(is_sent).count()
    }

    /// An attempt has content: the client gets its answer.
    pub fn win(&mut self, step: usize) {
        self.answering = Some(step);
        self.steps[step].status = Some(200);
        self.steps[step].end(Ended::Ok, None);
        self.steps[step].content_after = self.steps[step].took;
    }

    /// An attempt lost against its hedge.
    pub fn lose(&mut self, step: usize) {
        self.steps[step].end(Ended::Abandoned, None);
        self.steps[step].lost = true;
    }

    /// The answer has come to its end, or broke.
    pub fn end_answer(&mut self, failure: Option<&Failure>) {
        let ended = failure.map_or(Ended::Ok, |failure| Ended::Failed(failure.kind));
        let Some(index) = self.answering else { return };
        let step = &mut self.steps[index];
        step.end(ended, failure);
        if let Some(failure) = failure {
            self.error = step.target.redacted(failure.detail.clone());
        }
    }

    /// The client went away in the middle of the answer.
    pub fn abandon_answer(&mut self) {
        if let Some(index) = self.answering {
            self.steps[index].end(Ended::Abandoned, None);
        }
    }

    /// The metrics that this trail ends in.
    pub fn metrics(&self) -> &Metrics {
        &self.telemetry.metrics
    }

    fn count(&self) {
        let metrics = &self.telemetry.metrics;
        metrics.in_progress.dec();
        metrics.count_request(&self.route, self.outcome, self.status);
        for step in &self.steps {
            step.count(self.operation);
            if let Some(dollars) = step.cost() {
                metrics.count_cost(&self.route, &step.target.rules.name, &self.client, dollars);
            }
        }
    }

    /// Every attempt, in a line, for a client: what vendors say of their errors is not for it.
    pub fn attempts(&self) -> String {
        let describe = |step: &Step| step.describe(step.is_of_connection());
        let attempts: Vec<String> = self.steps.iter().map(describe).collect();
        attempts.join("; ")
    }

    /// Every attempt, in a line, for operators: why each failed, too.
    fn attempts_with_reasons(&self) -> String {
        let attempts: Vec<String> = self.steps.iter().map(|step| step.describe(true)).collect();
        attempts.join("; ")
    }

    /// The policies that failed, with how, and the one that decided: `NAME@HASH; failed=trap, NAME@HASH`. Empty where no policy did
    /// either.
    pub fn policies(&self) -> String {
        let failed = self.policy_failures.iter().map(PolicyFailure::for_header);
        let decided = Some(self.policy.clone()).filter(|policy| !policy.is_empty());
        failed.chain(decided).collect::<Vec<_>>().join(", ")
    }

    /// Why it was decided so: in the policy's words or, where a policy failed and no other decided, that it did.
    pub fn why(&self) -> String {
        match self.policy_failures.last() {
            Some(failure) if self.policy.is_empty() => {
                format!("{} failed ({})", failure.policy, failure.how.name())
            }
            _ => self.reason.clone(),
        }
    }

    /// What was seen of the policies that failed, for operators; empty where none did.
    pub fn policy_errors(&self) -> String {
        let failed = self.policy_failures.iter().map(PolicyFailure::for_log);
        failed.collect::<Vec<_>>().join("; ")
    }

    fn log(&self) {
        let usage = self.usage.unwrap_or_default();
        tracing::info!(
            target: "pointsman::request",
            id = self.id,
            client = self.client,
            model = self.model,
            route = self.route,
            streaming = self.streaming,
            outcome = self.outcome.name(),
            status = self.status,
            target = self.target().map_or("", |step| step.target.rules.name.as_str()),
            policy = self.policy,
            reason = self.why(),
            policy_error = self.policy_errors(),
            attempts = self.attempts_with_reasons(),
            input_tokens = usage.input_tokens,
            output_tokens = usage.output_tokens,
            cost_usd = self.cost(),
            trace_id = self.trace.as_ref().map(|trace| tracing::field::display(trace.id())),
            overhead_us = self.overhead.as_micros() as u64,
            elapsed_ms = self.started.elapsed().as_millis() as u64,
            warnings = self.warnings.join("; "),
            error = self.error,
            "request"
        );
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.count();
        if self.telemetry.log_requests.load(std::sync::atomic::Ordering::Relaxed) {
            self.log();
        }
        if let Some(trace) = self.trace.take() {
            trace.tell(self);
        }
    }
}
