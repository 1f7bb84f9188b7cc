//! Asks the policies of a route what to do, and turns their answers into picks of targets that exist.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::breaker::State;
use crate::chain::{Pick, Tried};
use crate::chat;
use crate::config::{OnError, RouteTimeouts};
use crate::failure::{Kind, cut};
use crate::health::Reading;
use crate::metrics::Metrics;
use crate::policy::{self, Action, Decision, Input, PolicyError, Prompt, Version};
use crate::policy_failure::{HowItFailed, PolicyFailure};
use crate::snapshot::{Client, Policy, Route, Target};

/// What does not change while one request is decided about.
pub struct Facts<'a> {
    /// Id of the request.
    pub id: &'a str,
    /// What the client asks.
    pub request: &'a chat::Request,
    /// Who asks.
    pub client: &'a Client,
    /// The route that matched.
    pub route: &'a Route,
    /// Facts by name, but for switches.
    pub attributes: &'a [(String, String)],
    /// The dice of this request.
    pub seed: u32,
    /// The prompt's text, for policies that may read it.
    pub prompt: &'a Arc<dyn Prompt>,
    /// Where dropped picks are counted.
    pub metrics: &'a Metrics,
}

/// What is so at the moment of a decision.
pub struct Moment<'a> {
    /// Health of the route's targets, by index.
    pub readings: &'a [Reading],
    /// The attempts that failed.
    pub attempts: &'a [Attempt],
    /// Operator switches.
    pub switches: &'a [(String, String)],
    /// Since the request came.
    pub elapsed: Duration,
    /// Until the request's deadline.
    pub remaining: Duration,
}

/// An attempt that failed, as policies are told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// What the next choice depends on.
    pub tried: Tried,
    /// HTTP status, when the vendor answered at all.
    pub status: Option<u16>,
    /// The vendor's own code.
    pub code: String,
    /// How long it took.
    pub elapsed: Duration,
    /// The client has a part of its answer already.
    pub answer_started: bool,
}

/// What the policies of a route say together.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What to do.
    pub action: Say,
    /// The policy that said it, as `NAME@HASH`; empty when none said anything.
    pub policy: String,
    /// Why, in its words.
    pub reason: String,
    /// The targets that are left for the built-in chain: all of the route's, or what an earlier policy let through.
    pub candidates: Vec<usize>,
}

/// What to do.
#[derive(Debug, Default)]
pub enum Say {
    /// Try these, in this order.
    Route(Vec<Pick>),
    /// Answer the client with this error.
    Reject(policy::Rejection),
    /// No opinion.
    #[default]
    Pass,
    /// A policy failed on a route that rejects then.
    Broken,
}

/// The policies of one request: one that failed is not asked again.
#[derive(Debug, Default)]
pub struct Council {
    /// By their indexes in the route, and how they failed.
    failed: Vec<(usize, PolicyFailure)>,
}

impl Council {
    /// Whether a policy has failed in this request.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// The policies that failed in this request.
    pub fn failures(&self) -> impl Iterator<Item = &PolicyFailure> {
        self.failed.iter().map(|(_, failure)| failure)
    }

    /// Asks every policy of the route in turn; the picks of one are the targets of the next.
    pub fn ask(&mut self, facts: &Facts<'_>, moment: &Moment<'_>) -> Verdict {
        let mut verdict = Verdict {
            candidates: (0..facts.route.targets.len()).collect(),
            ..Verdict::default()
        };
        for (index, policy) in facts.route.policies.iter().enumerate() {
            let has_failed = self.failed.iter().any(|(failed, _)| *failed == index);
            let taken = if has_failed {
                None
            } else {
                let taken = verdict.ask(policy, facts, moment);
                taken.map_err(|failure| self.failed.push((index, failure))).ok()
            };
            match taken {
                Some(true) => break,
                None if facts.route.rules.on_error == OnError::Reject => {
                    return Verdict {
                        action: Say::Broken,
                        ..verdict
                    };
                }
                Some(false) | None => {}
            }
        }
        verdict
    }
}

impl Verdict {
    /// Asks one policy and takes its decision over; `true` when nobody else is asked.
    fn ask(&mut self, policy: &Policy, facts: &Facts<'_>, moment: &Moment<'_>) -> Result<bool, PolicyFailure> {
        let Some(version) = &policy.version else {
            return Err(PolicyFailure {
                policy: policy.name.clone(),
                how: HowItFailed::Missing,
                detail: "none of its versions serves".to_owned(),
            });
        };
        let decided = decide(version, facts, moment, &self.candidates).map_err(|error| failure(version, &error));
        let taken = decided.and_then(|decision| self.take(decision, version, facts));
        taken.inspect_err(|failure| {
            let (policy, error) = (failure.policy.as_str(), failure.detail.as_str());
            tracing::warn!(target: "pointsman::policy", policy, request = facts.id, error, "the policy gave no decision");
        })
    }

    /// Takes one policy's decision over; `true` when nobody else is asked. Picks that are all unknown are no decision.
    fn take(&mut self, decision: Decision, version: &Version, facts: &Facts<'_>) -> Result<bool, PolicyFailure> {
        let label = version.label().to_owned();
        let action = match decision.action {
            Action::Pass => return Ok(false),
            Action::Reject(rejection) => Say::Reject(rejection),
            Action::Route(picks) => {
                let wanted = picks.len();
                let picks = self.known(picks, &label, facts);
                if wanted > 0 && picks.is_empty() {
                    return Err(PolicyFailure {
                        policy: label,
                        how: HowItFailed::Invalid,
                        detail: "none of its picks is a target that it was offered".to_owned(),
                    });
                }
                let mut candidates: Vec<usize> = Vec::with_capacity(picks.len());
                picks.iter().for_each(|pick| {
                    if !candidates.contains(&pick.target) {
                        candidates.push(pick.target);
                    }
                });
                self.candidates = candidates;
                Say::Route(picks)
            }
        };
        let ends = matches!(action, Say::Reject(_));
        (self.action, self.policy, self.reason) = (action, label, decision.reason);
        Ok(ends)
    }

    /// The picks of targets that this policy was offered. What an earlier policy said about the same target holds on where this
    /// one says nothing.
    fn known(&self, picks: Vec<policy::Pick>, label: &str, facts: &Facts<'_>) -> Vec<Pick> {
        let earlier: &[Pick] = if let Say::Route(picks) = &self.action {
            picks
        } else {
            &[]
        };
        let resolve = |pick: policy::Pick| {
            let named = |index: &usize| facts.route.targets[*index].rules.name == pick.target;
            let Some(target) = self.candidates.iter().copied().find(named) else {
                facts.metrics.dropped_picks.inc();
                let (request, pick) = (facts.id, cut(&pick.target, 64));
                tracing::warn!(target: "pointsman::policy", policy = label, request, ?pick, "a pick is no target of this route: dropped");
                return None;
            };
            let before = earlier
                .iter()
                .find(|earlier| earlier.target == target)
                .cloned()
                .unwrap_or_default();
            Some(Pick::from_policy(target, pick, before))
        };
        picks.into_iter().filter_map(resolve).collect()
    }
}

impl Pick {
    fn from_policy(target: usize, pick: policy::Pick, before: Pick) -> Self {
        let ms = |value: Option<u32>| value.map(|ms| Duration::from_millis(ms.into()));
        Self {
            target,
            model: pick.model.or(before.model),
            deadlines: RouteTimeouts {
                connect: ms(pick.connect_ms).or(before.deadlines.connect),
                first_content: ms(pick.first_content_ms).or(before.deadlines.first_content),
                whole_content: None,
                between_frames: ms(pick.between_frames_ms).or(before.deadlines.between_frames),
                whole: ms(pick.whole_ms).or(before.deadlines.whole),
                request: None,
            },
            hedge_after: ms(pick.hedge_after_ms).or(before.hedge_after),
            wait: ms(pick.wait_ms).or(before.wait),
            patch: pick.patch.or(before.patch),
        }
    }
}

/// Bytes of a header that policies may see; a longer one is not shown to them.
const MAX_HEADER: usize = 1024;

/// Facts by name that do not change while a request is decided about: those of its `headers` (name, and what policies call it) that
/// policies may see, its metadata and its session.
pub fn attributes(
    headers: &[(String, String)],
    request: &chat::Request,
    head: &http::request::Parts,
) -> Vec<(String, String)> {
    let header = |(name, attribute): &(String, String)| {
        let value = head.headers.get(name)?.to_str().ok()?;
        (value.len() <= MAX_HEADER).then(|| (attribute.clone(), value.to_owned()))
    };
    let metadata = request.metadata.iter();
    let session = request.session.iter();
    headers
        .iter()
        .filter_map(header)
        .chain(metadata.map(|(name, value)| (format!("metadata.{name}"), value.clone())))
        .chain(session.map(|session| ("session".to_owned(), session.clone())))
        .collect()
}

/// Bytes of what a policy said that a request's log line repeats.
const MAX_DETAIL: usize = 300;

fn failure(version: &Version, error: &PolicyError) -> PolicyFailure {
    PolicyFailure {
        policy: version.label().to_owned(),
        how: match error {
            PolicyError::Busy { .. } | PolicyError::NoMemory => HowItFailed::Busy,
            PolicyError::Timeout { .. } => HowItFailed::Timeout,
            PolicyError::Trap(_) => HowItFailed::Trap,
            PolicyError::Nonsense(_) => HowItFailed::Invalid,
        },
        detail: cut(&error.to_string(), MAX_DETAIL),
    }
}

fn decide(
    version: &Version,
    facts: &Facts<'_>,
    moment: &Moment<'_>,
    candidates: &[usize],
) -> Result<Decision, PolicyError> {
    let attributes = pairs(
        facts
            .attributes
            .iter()
            .chain(&facts.client.attributes)
            .chain(moment.switches),
    );
    let labels: Vec<Vec<policy::Attribute<'_>>> = candidates
        .iter()
        .map(|index| pairs(&facts.route.targets[*index].rules.attributes))
        .collect();
    let targets: Vec<policy::Target<'_>> = candidates
        .iter()
        .zip(&labels)
        .map(|(index, labels)| told(&facts.route.targets[*index], labels, &moment.readings[*index]))
        .collect();
    let attempts: Vec<policy::Attempt<'_>> = moment
        .attempts
        .iter()
        .map(|attempt| attempt.told(facts.route))
        .collect();
    let input = Input {
        request: request(facts, moment, &attributes),
        targets: &targets,
        attempts: &attempts,
        prompt: Some(facts.prompt.clone()),
    };
    version.decide(&input)
}

fn request<'a>(facts: &Facts<'a>, moment: &Moment<'_>, attributes: &'a [policy::Attribute<'a>]) -> policy::Request<'a> {
    let asked = facts.request;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    policy::Request {
        id: facts.id,
        model: &asked.model,
        route: &facts.route.rules.model,
        client: &facts.client.name,
        streaming: asked.streaming,
        uses_tools: asked.uses_tools,
        has_images: asked.has_images,
        input_tokens: asked.input_tokens,
        max_output_tokens: asked.max_output_tokens,
        attributes,
        now_ms: now.as_millis() as u64,
        conversation: asked.conversation,
        seed: facts.seed,
        elapsed_ms: milliseconds(moment.elapsed),
        remaining_ms: milliseconds(moment.remaining),
    }
}

fn pairs<'a>(attributes: impl IntoIterator<Item = &'a (String, String)>) -> Vec<policy::Attribute<'a>> {
    attributes
        .into_iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn told<'a>(target: &'a Target, attributes: &'a [policy::Attribute<'a>], reading: &Reading) -> policy::Target<'a> {
    let rules = &target.rules;
    policy::Target {
        name: &rules.name,
        vendor: rules.vendor.name,
        model: &rules.model,
        context_window: rules.context_window,
        input_price: rules.prices.map(|prices| prices.input),
        output_price: rules.prices.map(|prices| prices.output),
        attributes,
        health: policy::Health {
            breaker: match reading.state {
                State::Closed => policy::Breaker::Closed,
                State::HalfOpen => policy::Breaker::HalfOpen,
                State::Open => policy::Breaker::Open,
            },
            // Rounded up: a policy that waits so long finds the target ready.
            cooldown_ms: milliseconds(reading.cooldown + Duration::from_micros(999)),
            error_rate: reading.error_rate,
            in_flight: reading.in_flight,
            first_token_p50_ms: reading.first_token_p50_ms,
            first_token_p95_ms: reading.first_token_p95_ms,
            headroom: reading.headroom,
        },
    }
}

impl Attempt {
    fn told<'a>(&'a self, route: &'a Route) -> policy::Attempt<'a> {
        policy::Attempt {
            target: &route.targets[self.tried.target].rules.name,
            failure: self.tried.kind.into(),
            status: self.status,
            code: &self.code,
            retry_after_ms: self.tried.retry_after.map(milliseconds),
            elapsed_ms: milliseconds(self.elapsed),
            answer_started: self.answer_started,
        }
    }
}

impl From<Kind> for policy::Failure {
    fn from(kind: Kind) -> Self {
        match kind {
            // The contract has no case for the gateway's own limits; the code says `local_limit`.
            Kind::Connect | Kind::LocalLimit => Self::Connect,
            Kind::Timeout => Self::Timeout,
            Kind::RateLimited => Self::RateLimited,
            Kind::Overloaded => Self::Overloaded,
            Kind::Unauthorized => Self::Unauthorized,
            Kind::OutOfQuota => Self::OutOfQuota,
            Kind::ContextTooLong => Self::ContextTooLong,
            Kind::Refused => Self::Refused,
            Kind::BadRequest => Self::BadRequest,
            Kind::ServerError => Self::ServerError,
            Kind::BadResponse => Self::BadResponse,
            Kind::CutOff => Self::CutOff,
        }
    }
}

fn milliseconds(duration: Duration) -> u32 {
    duration.as_millis().min(u32::MAX.into()) as u32
}
