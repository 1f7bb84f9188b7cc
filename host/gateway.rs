//! The life of a request: all control flow is here, and it reads like the list in the design. What it calls decodes, asks, sends,
//! measures and builds responses, and does not decide.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, request};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout};

use crate::attempt::{Held, Limits, Order, later};
use crate::chain::{self, Pick, Tried};
use crate::connection::Connections;
use crate::decision::{self, Council, Facts, Moment, Say, Verdict};
use crate::door::{self, Errand};
use crate::failure::{Failure, Fallback, Kind};
use crate::health::{Reading, Ticket};
use crate::live::Live;
use crate::models;
use crate::policy::Prompt;
use crate::refusal::{Exhausted, Refusal};
use crate::relay::{self, Body};
use crate::server::Place;
use crate::snapshot::{Client, Route, Snapshot, Target};
use crate::telemetry::Trail;
use crate::wire::{Format, Inquiry};

/// Answers requests. One for each worker, with connections of its own.
pub struct Gateway {
    live: Arc<Live>,
    connections: Arc<Connections>,
}

/// What the client gets when all went well.
enum Reply {
    /// A target's answer.
    Answer(Format, Held),
    /// Something the gateway knows itself.
    Own(Bytes),
}

impl Gateway {
    /// Answers with what is live.
    pub fn new(live: Arc<Live>, connections: Arc<Connections>) -> Self {
        Self { live, connections }
    }

    /// Answers one request, whatever happens. `place` is that among the requests in progress, if there was one left.
    pub async fn answer(&self, request: Request<Incoming>, place: Option<Place>) -> Response<Body> {
        let mut trail = Trail::new(&self.live.telemetry);
        let (head, mut body) = request.into_parts();
        let errand = if place.is_some() {
            door::errand(&head)
        } else {
            Err(Refusal::Busy)
        };
        trail.place = place;
        let format = if let Ok(Errand::Ask(format)) = &errand {
            *format
        } else {
            door::DEFAULT_FORMAT
        };
        let reply = match errand {
            Ok(errand) => self.serve(errand, &head, &mut body, &mut trail).await,
            Err(refusal) => Err(refusal),
        };
        match reply {
            Ok(Reply::Answer(format, held)) => relay::answer(format, held, trail),
            Ok(Reply::Own(bytes)) => relay::own(bytes, trail),
            Err(refusal) => {
                let before = Instant::now();
                Box::pin(door::discard(&head, body)).await;
                trail.elsewhere += before.elapsed();
                relay::refuse(format, &refusal, trail)
            }
        }
    }

    async fn serve(
        &self,
        errand: Errand,
        head: &request::Parts,
        body: &mut Incoming,
        trail: &mut Trail,
    ) -> Result<Reply, Refusal> {
        let snapshot = self.live.snapshot();
        let client = snapshot.client(door::key(&head.headers)).ok_or(Refusal::UnknownKey)?;
        trail.client.clone_from(&client.name);
        let format = match errand {
            Errand::Ask(format) => format,
            Errand::Models => return Ok(Reply::Own(models::list(&snapshot))),
            Errand::Model(id) => {
                return models::one(&snapshot, &id)
                    .map(Reply::Own)
                    .ok_or(Refusal::UnknownModel(id));
            }
        };
        let server = &snapshot.config.server;
        let before = Instant::now();
        let body = door::read(body, server.max_body_bytes, server.body_timeout).await;
        trail.elsewhere += before.elapsed();

        let inquiry = format.read(body?)?;
        trail.model.clone_from(&inquiry.request.model);
        trail.streaming = inquiry.request.streaming;
        let Some(route) = snapshot.route(&inquiry.request.model).cloned() else {
            return Err(Refusal::UnknownModel(inquiry.request.model));
        };
        trail.route.clone_from(&route.rules.model);
        let journey = Journey {
            attributes: attributes(&snapshot, &inquiry, head),
            prompt: Arc::new(BodyPrompt::new(format, &inquiry)),
            seed: fastrand::u32(..),
            content_by: content_by(&snapshot, &route, trail),
            council: Council::default(),
            failed: Vec::new(),
            last: None,
            begun: 0,
            gateway: self,
            snapshot: &snapshot,
            format,
            route,
            client,
            inquiry,
            trail,
        };
        Ok(Reply::Answer(format, journey.run().await?))
    }
}

/// One request on its way from target to target.
struct Journey<'a> {
    gateway: &'a Gateway,
    snapshot: &'a Snapshot,
    format: Format,
    route: Arc<Route>,
    client: Arc<Client>,
    inquiry: Inquiry,
    attributes: Vec<(String, String)>,
    prompt: Arc<dyn Prompt>,
    seed: u32,
    content_by: Instant,
    council: Council,
    failed: Vec<decision::Attempt>,
    /// The last failure, whole: it may be the client's to read.
    last: Option<Failure>,
    /// Attempts that were begun, hedges included.
    begun: u32,
    trail: &'a mut Trail,
}

/// A pick that may be tried now: the right to do so, and what to send.
struct Ready {
    pick: Pick,
    ticket: Ticket,
    body: Bytes,
}

/// What will be tried, in this order.
struct Plan {
    picks: VecDeque<Pick>,
    /// Made by the built-in chain, which makes it anew after each failure.
    by_chain: bool,
}

/// The prompt of a request, decoded when a policy asks for it.
struct BodyPrompt {
    format: Format,
    body: Bytes,
}

/// Bytes of a prompt's text that a policy can get, the newest: a long prompt must not fill its memory.
const MAX_PROMPT_TEXT: usize = 1024 * 1024;

impl BodyPrompt {
    fn new(format: Format, inquiry: &Inquiry) -> Self {
        let body = inquiry.body.clone();
        Self { format, body }
    }
}

impl Prompt for BodyPrompt {
    fn last_user_text(&self) -> String {
        let users = self.messages().into_iter().rev().find(|(role, _)| role == "user");
        users.map(|(_, text)| text).unwrap_or_default()
    }

    fn messages(&self) -> Vec<(String, String)> {
        let mut messages = self.format.messages(&self.body);
        let mut left = MAX_PROMPT_TEXT;
        for (role, text) in messages.iter_mut().rev() {
            text.truncate(text.floor_char_boundary(left));
            left = left.saturating_sub(text.len() + role.len());
        }
        messages
    }
}

impl Journey<'_> {
    /// Asks what to do, tries it, and asks again after each failure, until there is content or nothing left.
    async fn run(mut self) -> Result<Held, Refusal> {
        self.route.hedges.count_request();
        let mut plan = self.plan(None)?;
        while let Some(ready) = self.next(&mut plan).await {
            if let Some(held) = self.attempt(ready, &mut plan).await {
                return Ok(held);
            }
            plan = self.plan(Some(plan))?;
        }
        Err(self.exhausted())
    }

    /// Asks the policies. `before` is what was planned when the last attempt failed.
    fn plan(&mut self, before: Option<Plan>) -> Result<Plan, Refusal> {
        // What the client did wrong stays wrong everywhere: nobody is asked.
        if let Some(failure) = self.last.take_if(|failure| failure.kind == Kind::BadRequest) {
            return Err(Refusal::Vendor(Box::new(failure)));
        }
        let readings = self.readings();
        let verdict = self.ask(&readings);
        if !verdict.policy.is_empty() {
            self.trail.policy = verdict.policy;
            self.trail.reason = verdict.reason;
        }
        match verdict.action {
            Say::Reject(rejection) => Err(Refusal::Rejected(rejection)),
            Say::Broken => Err(Refusal::PolicyFailed),
            Say::Route(picks) => Ok(Plan {
                picks: picks.into(),
                by_chain: false,
            }),
            Say::Pass => self.go_on(before, &verdict.candidates, &readings),
        }
    }

    fn ask(&mut self, readings: &[Reading]) -> Verdict {
        let elapsed = self.trail.started.elapsed();
        let switches = self.gateway.live.switches.attributes();
        let facts = Facts {
            id: &self.trail.id,
            request: &self.inquiry.request,
            client: &self.client,
            route: &self.route,
            attributes: &self.attributes,
            seed: self.seed,
            prompt: &self.prompt,
            metrics: self.trail.metrics(),
        };
        let moment = Moment {
            readings,
            attempts: &self.failed,
            switches: &switches,
            elapsed,
            remaining: self.content_by.saturating_duration_since(Instant::now()),
        };
        self.council.ask(&facts, &moment)
    }

    /// No policy has an opinion: the plan that was made goes on, or the built-in chain decides.
    fn go_on(&mut self, before: Option<Plan>, candidates: &[usize], readings: &[Reading]) -> Result<Plan, Refusal> {
        if let Some(failure) = self.last.take_if(|failure| failure.kind.fallback() == Fallback::Never) {
            return Err(Refusal::Vendor(Box::new(failure)));
        }
        match before {
            Some(plan) if !plan.by_chain && !self.council.has_failed() => Ok(plan),
            _ => {
                let tried: Vec<Tried> = self.failed.iter().map(|attempt| attempt.tried).collect();
                let allowed: Vec<usize> = candidates
                    .iter()
                    .copied()
                    .filter(|index| !self.is_switched_off(*index))
                    .collect();
                let longest = self.snapshot.config.attempts.same_target_wait;
                Ok(Plan {
                    picks: chain::order(&allowed, &tried, readings, longest).into(),
                    by_chain: true,
                })
            }
        }
    }

    /// An operator took the target or its vendor out. Policies see it and decide; the built-in chain obeys.
    fn is_switched_off(&self, index: usize) -> bool {
        let rules = &self.route.targets[index].rules;
        self.gateway.live.switches.is_off(&rules.name) || self.gateway.live.switches.is_off(rules.vendor.name)
    }

    /// The next pick that may be tried.
    async fn next(&mut self, plan: &mut Plan) -> Option<Ready> {
        loop {
            let (pick, body) = self.next_allowed(plan)?;
            if let Some(wait) = pick.wait.filter(|wait| !wait.is_zero()) {
                if Instant::now() + wait >= self.content_by {
                    continue;
                }
                sleep(wait).await;
                self.trail.elsewhere += wait;
            }
            if let Ok(ticket) = self.target(&pick).health.admit(std::time::Instant::now()) {
                return Some(Ready { pick, ticket, body });
            }
        }
    }

    /// The next pick that the host lets through: within the limits of the request, not on a target that failed in it already unless
    /// the pick says to wait for it, and not where a too long prompt would not fit either.
    fn next_allowed(&self, plan: &mut Plan) -> Option<(Pick, Bytes)> {
        if self.begun >= self.route.rules.max_attempts || Instant::now() >= self.content_by {
            return None;
        }
        let window = |index: usize| self.route.targets[index].rules.context_window;
        let fits = |pick: &Pick| {
            let too_long = self
                .failed
                .iter()
                .filter(|attempt| attempt.tried.kind == Kind::ContextTooLong);
            let mut too_long = too_long.map(|attempt| attempt.tried);
            too_long.all(|tried| chain::may_follow(&tried, pick.target, window))
        };
        let fresh = |pick: &Pick| self.failed.iter().all(|attempt| attempt.tried.target != pick.target);
        while let Some(pick) = plan.picks.pop_front() {
            if fits(&pick)
                && (pick.wait.is_some() || fresh(&pick))
                && let Some(body) = self.body(&pick)
            {
                return Some((pick, body));
            }
        }
        None
    }

    /// What to send for a pick; `None` when its patch cannot be laid over this body.
    fn body(&self, pick: &Pick) -> Option<Bytes> {
        let model = pick.model.as_deref().unwrap_or(&self.target(pick).rules.model);
        let body = self.format.pass_through(&self.inquiry, model, pick.patch.as_deref());
        let (request, policy) = (self.trail.id.as_str(), self.trail.policy.as_str());
        body.inspect_err(
            |error| tracing::warn!(request, policy, %error, "a pick's patch does not fit the body: dropped"),
        )
        .ok()
    }

    /// Makes one attempt, with a hedge beside it if the pick wants one. `None`: it failed, and the failure is noted.
    async fn attempt(&mut self, ready: Ready, plan: &mut Plan) -> Option<Held> {
        let began = Instant::now();
        let held = match ready.pick.hedge_after {
            Some(after) => Box::pin(self.race(ready, after, plan)).await,
            None => {
                let (target, step, order) = self.order(ready);
                let result = order.run(&self.gateway.connections).await;
                self.settle(target, step, result)
            }
        };
        self.trail.elsewhere += began.elapsed();
        held
    }

    /// Two attempts at once: the first content wins, the other is cancelled.
    async fn race(&mut self, ready: Ready, after: Duration, plan: &mut Plan) -> Option<Held> {
        let connections = self.gateway.connections.clone();
        let (target, step, order) = self.order(ready);
        let mut first = std::pin::pin!(order.run(&connections));
        if let Ok(result) = timeout(after, &mut first).await {
            return self.settle(target, step, result);
        }
        let Some(beside) = self.hedge(plan) else {
            let result = first.await;
            return self.settle(target, step, result);
        };
        let (hedge_target, hedge_step, order) = self.order(beside);
        let mut second = std::pin::pin!(order.run(&connections));
        let (is_first, result) = tokio::select! {
            result = &mut first => (true, result),
            result = &mut second => (false, result),
        };
        let (ended, other) = ((target, step), (hedge_target, hedge_step));
        let (ended, other) = if is_first { (ended, other) } else { (other, ended) };
        let held = self.settle(ended.0, ended.1, result);
        // What is the client's fault is its fault everywhere: the other one need not find that out too.
        if held.is_some() || self.is_clients_fault() {
            self.trail.lose(other.1);
            return held;
        }
        let result = if is_first { second.await } else { first.await };
        self.settle(other.0, other.1, result)
    }

    /// The pick to start beside another, if the route's share of hedges allows one.
    fn hedge(&mut self, plan: &mut Plan) -> Option<Ready> {
        let (pick, ticket, body) = loop {
            let (pick, body) = self.next_allowed(plan)?;
            if let Ok(ticket) = self.target(&pick).health.admit(std::time::Instant::now()) {
                break (pick, ticket, body);
            }
        };
        if self.route.hedges.take(self.route.rules.hedge_share) {
            self.trail.metrics().hedges.inc();
            return Some(Ready { pick, ticket, body });
        }
        self.trail.metrics().hedges_denied.inc();
        plan.picks.push_front(pick);
        None
    }

    /// An attempt begins: its target, its step in the trail, and what to do.
    fn order(&mut self, ready: Ready) -> (usize, usize, Order) {
        self.begun += 1;
        let Ready { pick, ticket, body } = ready;
        let target = self.target(&pick).clone();
        let limits = &self.snapshot.config.attempts;
        let timeouts = target
            .rules
            .timeouts
            .shortened(&self.route.rules.timeouts)
            .shortened(&pick.deadlines);
        let model = pick.model.as_deref().unwrap_or(&target.rules.model);
        let step = self.trail.begin(&target, model);
        let order = Order {
            spent: self.trail.steps[step].spent.clone(),
            body,
            ticket,
            streaming: self.inquiry.request.streaming,
            content_by: self.content_by.min(later(self.trail.started.into(), timeouts.request)),
            timeouts,
            limits: Limits {
                answer_bytes: limits.max_answer_bytes,
                held_bytes: limits.max_held_bytes,
            },
            target,
        };
        (pick.target, step, order)
    }

    /// Notes how an attempt ended.
    fn settle(&mut self, target: usize, step: usize, result: Result<Held, Failure>) -> Option<Held> {
        let failure = match result {
            Ok(held) => {
                self.trail.win(step);
                return Some(held);
            }
            Err(failure) => failure,
        };
        let elapsed = self.trail.fail(step, &failure);
        let (request, name) = (self.trail.id.as_str(), self.route.targets[target].rules.name.as_str());
        let (failed, detail) = (failure.kind.name(), failure.detail.as_str());
        tracing::debug!(request, target = name, failure = failed, detail, "an attempt failed");
        self.failed.push(decision::Attempt {
            tried: Tried {
                target,
                kind: failure.kind,
                retry_after: failure.retry_after,
            },
            status: failure.status,
            code: failure.code.clone(),
            elapsed,
        });
        self.last = Some(failure);
        None
    }

    fn is_clients_fault(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|failure| failure.kind == Kind::BadRequest)
    }

    fn exhausted(&mut self) -> Refusal {
        // Too long for every window: the vendor's words tell the client by how much.
        let is_clients = |failure: &mut Failure| matches!(failure.kind, Kind::ContextTooLong | Kind::Refused);
        if let Some(failure) = self.last.take_if(is_clients) {
            return Refusal::Vendor(Box::new(failure));
        }
        let soonest = self
            .readings()
            .iter()
            .map(|reading| reading.cooldown)
            .min()
            .unwrap_or_default();
        Refusal::Exhausted(Exhausted {
            kinds: self.failed.iter().map(|attempt| attempt.tried.kind).collect(),
            retry_after: soonest.max(Duration::from_secs(1)),
        })
    }

    fn readings(&self) -> Vec<Reading> {
        let now = std::time::Instant::now();
        self.route
            .targets
            .iter()
            .map(|target| target.health.read(now))
            .collect()
    }

    fn target(&self, pick: &Pick) -> &Arc<Target> {
        &self.route.targets[pick.target]
    }
}

/// When the request as a whole must have content.
fn content_by(snapshot: &Snapshot, route: &Route, trail: &Trail) -> Instant {
    let timeouts = snapshot.config.timeouts.shortened(&route.rules.timeouts);
    later(trail.started.into(), timeouts.request)
}

/// Bytes of a header that policies may see; a longer one is not shown to them.
const MAX_HEADER: usize = 1024;

/// Facts by name that do not change while the request is decided about.
fn attributes(snapshot: &Snapshot, inquiry: &Inquiry, head: &request::Parts) -> Vec<(String, String)> {
    let header = |(name, attribute): &(String, String)| {
        let value = head
            .headers
            .get(name)?
            .to_str()
            .ok()
            .filter(|value| value.len() <= MAX_HEADER)?;
        Some((attribute.clone(), value.to_owned()))
    };
    let metadata = inquiry
        .request
        .metadata
        .iter()
        .map(|(name, value)| (format!("metadata.{name}"), value.clone()));
    let session = inquiry
        .request
        .session
        .iter()
        .map(|session| ("session".to_owned(), session.clone()));
    snapshot
        .headers
        .iter()
        .filter_map(header)
        .chain(metadata)
        .chain(session)
        .collect()
}
