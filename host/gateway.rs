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
use crate::snapshot::{Client, Route, Snapshot, Target};
use crate::telemetry::{Ended, Step, Trail};
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

    /// Answers one request, whatever happens.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let mut trail = Trail::new(&self.live.telemetry);
        let (head, body) = request.into_parts();
        let errand = door::errand(&head);
        let format = if let Ok(Errand::Ask(format)) = &errand {
            *format
        } else {
            door::DEFAULT_FORMAT
        };
        let reply = match errand {
            Ok(errand) => self.serve(errand, &head, body, &mut trail).await,
            Err(refusal) => Err(refusal),
        };
        match reply {
            Ok(Reply::Answer(format, held)) => relay::answer(format, held, trail),
            Ok(Reply::Own(bytes)) => relay::own(bytes, trail),
            Err(refusal) => relay::refuse(format, &refusal, trail),
        }
    }

    async fn serve(
        &self,
        errand: Errand,
        head: &request::Parts,
        body: Incoming,
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
        let body = door::read(body, server.max_body_bytes, server.body_timeout).await?;
        trail.elsewhere += before.elapsed();

        let inquiry = format.read(body)?;
        trail.model.clone_from(&inquiry.request.model);
        trail.streaming = inquiry.request.streaming;
        let Some(route) = snapshot.route(&inquiry.request.model).cloned() else {
            return Err(Refusal::UnknownModel(inquiry.request.model));
        };
        trail.route.clone_from(&route.rules.model);
        let journey = Journey::new(self, &snapshot, (format, route, client, inquiry), head, trail);
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

impl Prompt for BodyPrompt {
    fn last_user_text(&self) -> String {
        let messages = self.format.messages(&self.body);
        messages
            .into_iter()
            .rev()
            .find(|(role, _)| role == "user")
            .map(|(_, text)| text)
            .unwrap_or_default()
    }

    fn messages(&self) -> Vec<(String, String)> {
        self.format.messages(&self.body)
    }
}

impl<'a> Journey<'a> {
    fn new(
        gateway: &'a Gateway,
        snapshot: &'a Snapshot,
        (format, route, client, inquiry): (Format, Arc<Route>, Arc<Client>, Inquiry),
        head: &request::Parts,
        trail: &'a mut Trail,
    ) -> Self {
        let time = snapshot.config.timeouts.shortened(&route.rules.timeouts).request;
        Self {
            attributes: attributes(snapshot, &inquiry, head),
            prompt: Arc::new(BodyPrompt {
                format,
                body: inquiry.body.clone(),
            }),
            seed: fastrand::u32(..),
            content_by: later(trail.started.into(), time),
            council: Council::default(),
            failed: Vec::new(),
            last: None,
            begun: 0,
            gateway,
            snapshot,
            format,
            route,
            client,
            inquiry,
            trail,
        }
    }

    /// Asks what to do, tries it, and asks again after each failure, until there is content or nothing left.
    async fn run(mut self) -> Result<Held, Refusal> {
        self.route.hedges.count_request();
        let mut plan = self.plan(None)?;
        while let Some((pick, ticket)) = self.next(&mut plan).await {
            if let Some(held) = self.attempt(pick, ticket, &mut plan).await? {
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

    /// The next pick that may be tried, with the right to do so.
    async fn next(&mut self, plan: &mut Plan) -> Option<(Pick, Ticket)> {
        loop {
            let pick = self.next_allowed(plan)?;
            if let Some(wait) = pick.wait.filter(|wait| !wait.is_zero()) {
                if Instant::now() + wait >= self.content_by {
                    continue;
                }
                sleep(wait).await;
                self.trail.elsewhere += wait;
            }
            if let Ok(ticket) = self.target(&pick).health.admit(std::time::Instant::now()) {
                return Some((pick, ticket));
            }
        }
    }

    /// The next pick that the host lets through: within the limits of the request, not on a target that failed in it already unless
    /// the pick says to wait for it, and not where a too long prompt would not fit either.
    fn next_allowed(&mut self, plan: &mut Plan) -> Option<Pick> {
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
            if fits(&pick) && (pick.wait.is_some() || fresh(&pick)) {
                return Some(pick);
            }
        }
        None
    }

    /// Makes one attempt, with a hedge beside it if the pick wants one. `None`: it failed, and the failure is noted.
    async fn attempt(&mut self, pick: Pick, ticket: Ticket, plan: &mut Plan) -> Result<Option<Held>, Refusal> {
        let order = self.order(&pick, ticket)?;
        let began = Instant::now();
        let held = match pick.hedge_after {
            Some(after) => self.race(&pick, order, after, plan).await?,
            None => {
                let result = order.run(&self.gateway.connections).await;
                self.settle(pick.target, began, result)
            }
        };
        self.trail.elsewhere += began.elapsed();
        Ok(held)
    }

    /// Two attempts at once: the first content wins, the other is cancelled.
    async fn race(
        &mut self,
        pick: &Pick,
        order: Order,
        after: Duration,
        plan: &mut Plan,
    ) -> Result<Option<Held>, Refusal> {
        let connections = self.gateway.connections.clone();
        let began = Instant::now();
        let mut first = std::pin::pin!(order.run(&connections));
        if let Ok(result) = timeout(after, &mut first).await {
            return Ok(self.settle(pick.target, began, result));
        }
        let Some((beside, ticket)) = self.hedge(plan) else {
            let result = first.await;
            return Ok(self.settle(pick.target, began, result));
        };
        let (hedged, order) = (Instant::now(), self.order(&beside, ticket)?);
        let mut second = std::pin::pin!(order.run(&connections));
        let (target, result, other) = tokio::select! {
            result = &mut first => (pick.target, result, beside.target),
            result = &mut second => (beside.target, result, pick.target),
        };
        let since = |index: usize| if index == pick.target { began } else { hedged };
        if let Some(held) = self.settle(target, since(target), result) {
            self.abandon(other, since(other));
            return Ok(Some(held));
        }
        let result = if target == pick.target {
            second.await
        } else {
            first.await
        };
        Ok(self.settle(other, since(other), result))
    }

    /// The pick to start beside another, if the route's share of hedges allows one.
    fn hedge(&mut self, plan: &mut Plan) -> Option<(Pick, Ticket)> {
        loop {
            let pick = self.next_allowed(plan)?;
            let Ok(ticket) = self.target(&pick).health.admit(std::time::Instant::now()) else {
                continue;
            };
            if self.route.hedges.take(self.route.rules.hedge_share) {
                self.trail.metrics().hedges.inc();
                return Some((pick, ticket));
            }
            self.trail.metrics().hedges_denied.inc();
            plan.picks.push_front(pick);
            return None;
        }
    }

    fn order(&mut self, pick: &Pick, ticket: Ticket) -> Result<Order, Refusal> {
        self.begun += 1;
        let target = self.target(pick);
        let rules = &target.rules;
        let model = pick.model.as_deref().unwrap_or(&rules.model);
        let body = self.format.pass_through(&self.inquiry, model, pick.patch.as_deref())?;
        let limits = &self.snapshot.config.attempts;
        Ok(Order {
            body,
            ticket,
            streaming: self.inquiry.request.streaming,
            timeouts: rules
                .timeouts
                .shortened(&self.route.rules.timeouts)
                .shortened(&pick.deadlines),
            content_by: self.content_by,
            limits: Limits {
                answer_bytes: limits.max_answer_bytes,
                held_bytes: limits.max_held_bytes,
            },
            target: target.clone(),
        })
    }

    /// Notes how an attempt ended.
    fn settle(&mut self, target: usize, began: Instant, result: Result<Held, Failure>) -> Option<Held> {
        let elapsed = began.elapsed();
        let state = &self.route.targets[target];
        match result {
            Ok(held) => {
                let (target, status) = (state.clone(), Some(200));
                self.trail.steps.push(Step {
                    target,
                    ended: Ended::Ok,
                    status,
                    code: String::new(),
                    elapsed,
                });
                Some(held)
            }
            Err(failure) => {
                let id = self.trail.id.as_str();
                let (name, kind) = (state.rules.name.as_str(), failure.kind.name());
                tracing::debug!(
                    request = id,
                    target = name,
                    failure = kind,
                    detail = failure.detail,
                    "an attempt failed"
                );
                self.trail.steps.push(Step::failed(state, &failure, elapsed));
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
        }
    }

    /// Notes an attempt that lost against its hedge.
    fn abandon(&mut self, target: usize, began: Instant) {
        let (target, elapsed) = (self.route.targets[target].clone(), began.elapsed());
        self.trail.steps.push(Step {
            target,
            ended: Ended::Abandoned,
            status: None,
            code: String::new(),
            elapsed,
        });
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

/// Facts by name that do not change while the request is decided about.
fn attributes(snapshot: &Snapshot, inquiry: &Inquiry, head: &request::Parts) -> Vec<(String, String)> {
    let header = |(name, attribute): &(String, String)| {
        let value = head.headers.get(name)?.to_str().ok()?;
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
