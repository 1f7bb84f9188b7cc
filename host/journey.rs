//! One request on its way from target to target: asking, trying, falling back. All of the loop's control flow is here; what it calls
//! asks, sends and measures, and does not decide.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::request;
use tokio::time::{Instant, sleep, timeout};

use crate::attempt::{Content, Fair, Held, Limits, Order, later};
use crate::ballast::Room;
use crate::chain::{self, Pick, Tried};
use crate::concurrency::{NoPermit, Permit};
use crate::config::Timeouts;
use crate::connection::Connections;
use crate::decision::{self, Council, Facts, Moment, Say, Verdict};
use crate::exchange::{Continuation, Outgoing, Side, Unable, Wish};
use crate::failure::{Failure, Fallback, Kind};
use crate::health::{Reading, Ticket};
use crate::live::Live;
use crate::policy::Prompt;
use crate::prompt::BodyPrompt;
use crate::reader::Interrupted;
use crate::refusal::{Exhausted, Refusal};
use crate::relay::{Behind, Resumed, Successor};
use crate::reporter::Reporter;
use crate::share::ClientShare;
use crate::snapshot::{Client, Route, Snapshot, Target};
use crate::telemetry::Trail;
use crate::waiting;
use crate::warmth::SessionKey;
use crate::wire::Inquiry;

/// See the module.
pub struct Journey {
    live: Arc<Live>,
    /// Whose share the answer counts to.
    holder: Arc<ClientShare>,
    connections: Arc<Connections>,
    snapshot: Arc<Snapshot>,
    side: Arc<Side>,
    route: Arc<Route>,
    client: Arc<Client>,
    inquiry: Inquiry,
    attributes: Vec<(String, String)>,
    prompt: Arc<dyn Prompt>,
    seed: u32,
    /// Since when content is waited for: since the request came, or since its answer broke off and another target is to go on with it.
    since: Instant,
    content_by: Instant,
    council: Council,
    failed: Vec<decision::Attempt>,
    /// The last failure, whole: it may be the client's to read.
    last: Option<Failure>,
    /// The last answer in which a model refused, and its step: it is the client's if nobody wants another.
    refused: Option<(usize, Held)>,
    /// Why a target could not be asked at all.
    unable: Option<Unable>,
    /// Attempts that were begun, hedges included.
    begun: u32,
    /// How often a target had no place for the request.
    turned_away: usize,
    /// The text of an answer that broke off, which another target is to go on with.
    said: Option<String>,
    /// What is known of the request.
    pub trail: Box<Trail>,
}

/// Where a journey begins.
pub struct Departure<'a> {
    /// What is live.
    pub live: &'a Arc<Live>,
    /// The worker's connections.
    pub connections: &'a Arc<Connections>,
    /// What the request took at the door.
    pub snapshot: Arc<Snapshot>,
    /// The client's side.
    pub side: Side,
    /// What the client asks.
    pub inquiry: Inquiry,
    /// Who asks.
    pub client: Arc<Client>,
    /// The route of the model.
    pub route: Arc<Route>,
    /// The request's head.
    pub head: &'a request::Parts,
}

/// A pick that may be tried now: the right to do so, and what to send.
struct Ready {
    pick: Pick,
    ticket: Ticket,
    permit: Permit,
    outgoing: Outgoing,
}

/// Whose turn it is.
#[expect(clippy::large_enum_variant, reason = "one at a time, and looked at at once")]
enum Turn {
    /// It may be tried now.
    Go(Ready),
    /// Its target had no place for it.
    NoPlace,
}

/// What came of a turn.
#[expect(clippy::large_enum_variant, reason = "one at a time, and looked at at once")]
enum Taken {
    /// An answer, and the step that it is of.
    Answer(usize, Held),
    /// The attempt failed over its key, and its target has another one that is awake: the pick has one more turn, without asking anybody.
    /// Each such attempt puts a key to rest, so that they end with the last one.
    AnotherKey,
    /// No answer, which is noted.
    Nothing,
}

/// What will be tried, in this order.
struct Plan {
    picks: VecDeque<Pick>,
    /// Made by the built-in chain, which makes it anew after each failure.
    by_chain: bool,
}

impl Journey {
    /// A request sets out.
    pub fn new(departure: Departure<'_>, trail: Box<Trail>) -> Self {
        let Departure {
            snapshot,
            side,
            inquiry,
            client,
            route,
            head,
            ..
        } = departure;
        let prompt = BodyPrompt::new(side.format, inquiry.body.clone());
        Self {
            attributes: decision::attributes(&snapshot.headers, &inquiry.request, head),
            prompt: Arc::new(prompt),
            seed: fastrand::u32(..),
            since: trail.started,
            content_by: content_by(&snapshot, &route, trail.started),
            council: Council::default(),
            failed: Vec::new(),
            last: None,
            refused: None,
            unable: None,
            begun: 0,
            turned_away: 0,
            said: None,
            live: departure.live.clone(),
            holder: trail
                .place
                .as_ref()
                .map(|place| place.client().clone())
                .unwrap_or_default(),
            connections: departure.connections.clone(),
            snapshot,
            side: Arc::new(side),
            route,
            client,
            inquiry,
            trail,
        }
    }

    /// Asks what to do, tries it, and asks again after each failure, until there is content or nothing left.
    pub async fn run(&mut self) -> Result<Held, Refusal> {
        self.route.hedges.count_request();
        let mut plan = self.plan(None)?;
        while let Some(turn) = self.next(&mut plan).await {
            match self.take(turn, &mut plan).await {
                // Without a policy nobody would want another answer than a refusal.
                Taken::Answer(_, held) if !held.refused || self.route.policies.is_empty() => return Ok(held),
                Taken::Answer(step, held) => self.keep_refused(step, held),
                Taken::AnotherKey => continue,
                Taken::Nothing => {}
            }
            plan = self.plan(Some(plan))?;
        }
        if let Some((step, held)) = self.refused.take() {
            self.trail.win(step);
            return Ok(held);
        }
        Err(self.exhausted())
    }

    /// The client has a part of an answer that then broke off. Only a policy can want another target to go on with it: the built-in
    /// chain never does.
    async fn resume(&mut self, failure: Failure, said: String) -> Result<Held, Failure> {
        if let Some(step) = self.trail.answering() {
            self.trail.end_answer(Some(&failure));
            let elapsed = self.trail.steps[step].elapsed();
            let target = self.index_of(&self.trail.steps[step].target);
            self.note(target, &failure, elapsed, true);
        }
        self.since = Instant::now();
        self.content_by = content_by(&self.snapshot, &self.route, self.since);
        self.said = Some(said);
        self.last = Some(failure.clone());
        let mut plan = self.plan_to_resume(None);
        while let Some(planned) = &mut plan {
            let Some(turn) = self.next(planned).await else { break };
            let taken = self.take(turn, planned).await;
            // The client has no use for a refusal in the middle of its answer.
            self.refused = None;
            match taken {
                Taken::Answer(_, held) if !held.refused => return Ok(held),
                Taken::Answer(_, held) => self.note_refused(&held),
                Taken::AnotherKey => continue,
                Taken::Nothing => {}
            }
            plan = self.plan_to_resume(plan);
        }
        Err(self.last.take().unwrap_or(failure))
    }

    /// Takes a turn: makes the attempt, where its target had a place for it.
    async fn take(&mut self, turn: Turn, plan: &mut Plan) -> Taken {
        let Turn::Go(ready) = turn else { return Taken::Nothing };
        let pick = ready.pick.clone();
        if let Some((step, held)) = self.attempt(ready, plan).await {
            return Taken::Answer(step, held);
        }
        if !self.may_try_another_key(&pick) {
            return Taken::Nothing;
        }
        plan.picks.push_front(Pick {
            wait: Some(Duration::ZERO),
            ..pick
        });
        Taken::AnotherKey
    }

    /// Whether the attempt failed over its key and the pick has one more turn with another one. Each key has at most one turn in a
    /// request, and none has the last attempt where another target could have it.
    fn may_try_another_key(&self, pick: &Pick) -> bool {
        let is_keys = self.last.as_ref().is_some_and(|failure| failure.another_key);
        let is_picks = |attempt: &&decision::Attempt| attempt.tried.target == pick.target;
        if !is_keys || self.failed.last().filter(is_picks).is_none() {
            return false;
        }
        let turns = self.failed.iter().filter(is_picks).count();
        let is_last_attempt = self.begun + 1 >= self.route.rules.max_attempts;
        turns < self.target(pick).signer.count() && !(is_last_attempt && self.has_fresh_target())
    }

    /// Whether the route has a target that this request has not tried and that may be tried now.
    fn has_fresh_target(&self) -> bool {
        let now = Instant::now();
        let is_fresh = |index: usize| self.failed.iter().all(|attempt| attempt.tried.target != index);
        let is_well = |index: usize| !self.is_switched_off(index) && !self.route.targets[index].health.rests(now);
        (0..self.route.targets.len()).any(|index| is_fresh(index) && is_well(index))
    }

    /// What a policy wants, if it wants to go on; where it then has no opinion, that goes on.
    fn plan_to_resume(&mut self, before: Option<Plan>) -> Option<Plan> {
        let readings = self.readings();
        let mut verdict = self.ask(&readings);
        match std::mem::take(&mut verdict.action) {
            Say::Route(picks) => {
                self.note_decision(verdict);
                Some(Plan {
                    picks: picks.into(),
                    by_chain: false,
                })
            }
            Say::Pass => before.filter(|_| !self.council.has_failed()),
            Say::Reject(_) | Say::Broken => None,
        }
    }

    /// A model refused: the policies are asked as after a failure, and the refusal is kept for the client.
    fn keep_refused(&mut self, step: usize, held: Held) {
        self.note_refused(&held);
        self.refused = Some((step, held));
    }

    fn note_refused(&mut self, held: &Held) {
        let refused = Failure {
            status: Some(200),
            ..Failure::on_the_wire(Kind::Refused, "refused", "the model refused")
        };
        let target = self.index_of(&held.target);
        self.note(target, &refused, held.started.elapsed(), false);
        self.last = None;
    }

    /// Asks the policies. `before` is what was planned when the last attempt failed.
    fn plan(&mut self, before: Option<Plan>) -> Result<Plan, Refusal> {
        // What the client did wrong stays wrong everywhere: nobody is asked.
        if let Some(failure) = self.last.take_if(|failure| failure.kind == Kind::BadRequest) {
            return Err(Refusal::Vendor(Box::new(failure)));
        }
        let readings = self.readings();
        let mut verdict = self.ask(&readings);
        let (action, candidates) = (
            std::mem::take(&mut verdict.action),
            std::mem::take(&mut verdict.candidates),
        );
        self.note_decision(verdict);
        match action {
            Say::Reject(rejection) => Err(Refusal::Rejected(rejection)),
            Say::Broken => Err(Refusal::PolicyFailed),
            Say::Route(picks) => Ok(Plan {
                picks: picks.into(),
                by_chain: false,
            }),
            Say::Pass => self.go_on(before, &candidates, &readings),
        }
    }

    /// Notes which policy decided and why. Where one has failed and no other decided, what was decided before holds no longer.
    fn note_decision(&mut self, verdict: Verdict) {
        if !verdict.policy.is_empty() || self.council.has_failed() {
            self.trail.policy = verdict.policy;
            self.trail.reason = verdict.reason;
        }
    }

    fn ask(&mut self, readings: &[Reading]) -> Verdict {
        let now = Instant::now();
        let switches = self.live.switches.attributes();
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
            elapsed: now - self.trail.started,
            remaining: self.content_by.saturating_duration_since(now),
        };
        let verdict = self.council.ask(&facts, &moment);
        if self.council.has_failed() {
            self.trail.policy_failures = self.council.failures().cloned().collect();
        }
        verdict
    }

    /// No policy has an opinion: the plan that was made goes on, or the built-in chain decides.
    fn go_on(&mut self, before: Option<Plan>, candidates: &[usize], readings: &[Reading]) -> Result<Plan, Refusal> {
        if let Some(failure) = self.last.take_if(|failure| failure.kind.fallback() == Fallback::Never) {
            return Err(Refusal::Vendor(Box::new(failure)));
        }
        let is_refused = self
            .failed
            .last()
            .is_some_and(|attempt| attempt.tried.kind == Kind::Refused);
        if is_refused && self.refused.is_some() {
            return Ok(Plan {
                picks: VecDeque::new(),
                by_chain: false,
            });
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
                let allowed = self.warm_first(allowed);
                Ok(Plan {
                    picks: chain::order(&allowed, &tried, readings, longest).into(),
                    by_chain: true,
                })
            }
        }
    }

    /// The candidates, the one before all others in whose prompt cache the session is.
    fn warm_first(&self, mut candidates: Vec<usize>) -> Vec<usize> {
        let warm = self.session().and_then(|key| self.live.warm.warm(key, Instant::now()));
        let is_warm = |index: &usize| {
            warm.as_ref()
                .is_some_and(|warm| self.route.targets[*index].label == *warm)
        };
        if let Some(place) = candidates.iter().position(is_warm) {
            candidates[..=place].rotate_right(1);
        }
        candidates
    }

    /// The session that the client names, if it does.
    fn session(&self) -> Option<SessionKey> {
        let session = self.inquiry.request.session.as_deref()?;
        Some(self.live.warm.key(&self.route.rules.model, &self.client.name, session))
    }

    /// An operator took the target or its vendor out. Policies see it and decide; the built-in chain obeys.
    fn is_switched_off(&self, index: usize) -> bool {
        let rules = &self.route.targets[index].rules;
        self.live.switches.is_off(&rules.name) || self.live.switches.is_off(rules.vendor.name)
    }

    /// The next pick that may be tried now, or whose target had no place for it; what may not be tried is passed over.
    async fn next(&mut self, plan: &mut Plan) -> Option<Turn> {
        loop {
            let mut now = Instant::now();
            let (pick, outgoing) = self.next_allowed(plan, now).await?;
            if pick.wait.is_some_and(|wait| !wait.is_zero()) {
                if !self.wait(&pick).await {
                    continue;
                }
                now = Instant::now();
            }
            let permit = match self.target(&pick).limit.try_acquire() {
                Some(permit) => permit,
                // Nobody stands in line at a target that rests.
                None if self.target(&pick).health.rests(now) => continue,
                None => {
                    let permit = self.stand_in_line(&pick, now).await;
                    // It may have failed for others meanwhile.
                    now = Instant::now();
                    match permit {
                        Some(permit) => permit,
                        None => return Some(Turn::NoPlace),
                    }
                }
            };
            let Ok(ticket) = self.target(&pick).health.admit(now) else {
                continue;
            };
            if self.may_load(&pick, now) {
                return Some(Turn::Go(Ready {
                    pick,
                    ticket,
                    permit,
                    outgoing,
                }));
            }
        }
    }

    /// Stands in line at a target: no longer than the request would wait for content there, so that others have their turn.
    async fn stand_in_line(&mut self, pick: &Pick, since: Instant) -> Option<Permit> {
        let (_, timeouts) = self.timeouts(pick);
        let longest = timeouts.content(self.inquiry.request.streaming);
        let target = self.target(pick).clone();
        let until = later(since, target.rules.concurrency.patience.min(longest));
        let permit = target.limit.acquire(until.min(self.content_by)).await;
        let waited = since.elapsed();
        self.trail.elsewhere += waited;
        permit.map_err(|why| self.turn_away(pick, &why, waited)).ok()
    }

    /// The deadlines of an attempt: the operator's, and as short as the pick makes them.
    fn timeouts(&self, pick: &Pick) -> (Timeouts, Timeouts) {
        let target = &self.target(pick).rules;
        let operators = target.timeouts.shortened(&self.route.rules.timeouts);
        (operators, operators.shortened(&pick.deadlines))
    }

    /// Waits as long as the pick wants; `false` where there is no time or no place for it.
    async fn wait(&mut self, pick: &Pick) -> bool {
        let wait = waiting::jittered(pick.wait.unwrap_or_default(), self.seed.wrapping_add(self.begun));
        if Instant::now() + wait >= self.content_by {
            return false;
        }
        let Some(_seat) = self.live.waiting.enter() else {
            return false;
        };
        sleep(wait).await;
        self.trail.elsewhere += wait;
        true
    }

    /// Whether the target can bear this attempt: its first of a request always, another one within its budget.
    fn may_load(&self, pick: &Pick, now: Instant) -> bool {
        let budget = &self.target(pick).budget;
        if self.failed.iter().any(|attempt| attempt.tried.target == pick.target) {
            return budget.take_retry(now);
        }
        budget.note_request(now);
        true
    }

    /// A target had no place for the request: for whoever is asked next, it is overloaded.
    fn turn_away(&mut self, pick: &Pick, why: &NoPermit, waited: Duration) {
        self.turned_away += 1;
        let failure = Failure::on_the_wire(Kind::Overloaded, "at_its_limit", why.to_string());
        let target = self.target(pick).clone();
        self.trail.turn_away(&target, &failure, waited);
        self.note(pick.target, &failure, waited, false);
    }

    /// The next pick that the host lets through: within the limits of the request, not on a target that failed in it already unless
    /// the pick says to wait for it, and not where a too long prompt would not fit either.
    async fn next_allowed(&mut self, plan: &mut Plan, now: Instant) -> Option<(Pick, Outgoing)> {
        // A policy may insist on a target that is full: once for each target is enough.
        let is_over = self.begun >= self.route.rules.max_attempts || self.turned_away > self.route.targets.len();
        if is_over || now >= self.content_by {
            return None;
        }
        while let Some(pick) = plan.picks.pop_front() {
            if self.may_try(&pick) {
                match self.outgoing(&pick).await {
                    Ok(outgoing) => return Some((pick, outgoing)),
                    // The first reason is told, if no target can be asked at all.
                    Err(unable) => {
                        self.unable.get_or_insert(unable);
                    }
                }
            }
        }
        None
    }

    fn may_try(&self, pick: &Pick) -> bool {
        let window = |index: usize| self.route.targets[index].rules.context_window;
        let fits = |tried: &Tried| tried.kind != Kind::ContextTooLong || chain::may_follow(tried, pick.target, window);
        let is_fresh = || self.failed.iter().all(|attempt| attempt.tried.target != pick.target);
        self.failed.iter().all(|attempt| fits(&attempt.tried)) && (pick.wait.is_some() || is_fresh())
    }

    /// What to send for a pick.
    async fn outgoing(&mut self, pick: &Pick) -> Result<Outgoing, Unable> {
        let target = self.target(pick).clone();
        let wish = Wish {
            id: self.trail.id.clone(),
            model: pick.model.as_ref().unwrap_or(&target.rules.model).clone(),
            patch: pick.patch.as_deref().map(Into::into),
            lossy: self.route.rules.lossy,
            continuation: match &self.said {
                Some(said) => Continuation::Of(said.clone()),
                None if self.may_be_continued() => Continuation::Possible,
                None => Continuation::Never,
            },
        };
        match self.outgoing_as(&target, &wish).await {
            Err(unable) if wish.patch.is_some() => self.without_patch(&target, wish, unable).await,
            outgoing => outgoing,
        }
    }

    /// What to send when it cannot be sent with the policy's patch. The client has not asked for the patch, so that it is left out
    /// where the request is fine without it.
    async fn without_patch(&mut self, target: &Arc<Target>, wish: Wish, unable: Unable) -> Result<Outgoing, Unable> {
        let wish = Wish { patch: None, ..wish };
        let outgoing = self.outgoing_as(target, &wish).await?;
        let (request, policy, target) = (&self.trail.id, &self.trail.policy, &target.rules.name);
        tracing::warn!(target: "pointsman::policy", policy, request, to = target, "a pick's patch cannot be laid over the request and is left out: {unable}");
        Ok(outgoing)
    }

    /// The request as a target gets it, made away from the worker's thread where that takes long.
    async fn outgoing_as(&mut self, target: &Arc<Target>, wish: &Wish) -> Result<Outgoing, Unable> {
        if !self.side.takes_long(&self.inquiry, target, wish) {
            return self.side.outgoing(&self.inquiry, target, wish);
        }
        let (side, inquiry) = (self.side.clone(), self.inquiry.clone());
        let (target, wish) = (target.clone(), wish.clone());
        let offload = self.live.offload.clone();
        let work = move || side.outgoing(&inquiry, &target, &wish);
        offload.run(self.inquiry.body.len(), work).await
    }

    /// Notes a failure for whoever is asked next.
    fn note(&mut self, target: usize, failure: &Failure, elapsed: Duration, answer_started: bool) {
        self.failed.push(decision::Attempt {
            tried: Tried {
                target,
                kind: failure.kind,
                retry_after: failure.retry_after,
            },
            status: failure.status,
            code: failure.code.clone(),
            elapsed,
            answer_started,
        });
    }

    /// Makes one attempt, with a hedge beside it if the pick wants one. `None`: it failed, and the failure is noted.
    async fn attempt(&mut self, ready: Ready, plan: &mut Plan) -> Option<(usize, Held)> {
        let before = self.trail.steps.len();
        let held = match ready.pick.hedge_after {
            Some(after) => Box::pin(self.race(ready, after, plan)).await,
            None => {
                let (target, step, order) = self.order(ready);
                let result = order.run(&self.connections).await;
                self.settle(target, step, result)
            }
        };
        self.trail.waited_for(before);
        held
    }

    /// Two attempts at once: the first content wins, the other is cancelled.
    async fn race(&mut self, ready: Ready, after: Duration, plan: &mut Plan) -> Option<(usize, Held)> {
        let connections = self.connections.clone();
        let (target, step, order) = self.order(ready);
        let mut first = std::pin::pin!(order.run(&connections));
        if let Ok(result) = timeout(after, &mut first).await {
            return self.settle(target, step, result);
        }
        let (beside, ended) = beside(self.hedge(target, plan), first.as_mut()).await;
        let beside = match (beside, ended) {
            (Some(beside), None) => beside,
            (beside, ended) => {
                // What was to be sent took so long to make that the first attempt has ended, or there is nothing to send.
                beside.into_iter().for_each(|ready| self.give_back(ready, plan));
                let result = match ended {
                    Some(result) => result,
                    None => first.await,
                };
                return self.settle(target, step, result);
            }
        };
        self.trail.metrics().hedges.inc();
        let (hedge_target, hedge_step, order) = self.order(beside);
        self.trail.steps[hedge_step].hedges = true;
        let mut second = std::pin::pin!(order.run(&connections));
        let (is_first, result) = tokio::select! {
            result = &mut first => (true, result),
            result = &mut second => (false, result),
        };
        let (ended, other) = ((target, step), (hedge_target, hedge_step));
        let (ended, other) = if is_first { (ended, other) } else { (other, ended) };
        let held = self.settle(ended.0, ended.1, result);
        match held {
            // That one refuses says nothing about the other.
            Some((step, held)) if held.refused => self.keep_refused(step, held),
            // What is the client's fault is its fault everywhere: the other one need not find that out too.
            held if held.is_some() || self.is_clients_fault() => {
                self.trail.lose(other.1);
                return held;
            }
            _ => {}
        }
        let result = if is_first { second.await } else { first.await };
        self.settle(other.0, other.1, result)
    }

    /// The pick to start beside another, if the route's share of hedges allows one.
    async fn hedge(&mut self, first: usize, plan: &mut Plan) -> Option<Ready> {
        let now = Instant::now();
        let mut passed_over = Vec::new();
        let ready = loop {
            let Some((pick, outgoing)) = self.next_allowed(plan, now).await else {
                break None;
            };
            let target = self.target(&pick);
            match target.health.admit(now).ok().zip(target.limit.try_acquire()) {
                Some((ticket, permit)) => {
                    break Some(Ready {
                        pick,
                        ticket,
                        permit,
                        outgoing,
                    });
                }
                None => passed_over.push(pick),
            }
        };
        // They may have their turn when this attempt has failed.
        passed_over
            .into_iter()
            .rev()
            .for_each(|pick| plan.picks.push_front(pick));
        let ready = ready?;
        if self.may_hedge(first, &ready.pick, now) {
            return Some(ready);
        }
        self.trail.metrics().hedges_denied.inc();
        plan.picks.push_front(ready.pick);
        None
    }

    /// Gives back what was to be a hedge: its pick may have its turn later.
    fn give_back(&mut self, ready: Ready, plan: &mut Plan) {
        self.route.hedges.give_back();
        plan.picks.push_front(ready.pick);
    }

    /// Whether the route's share allows one more hedge, and its target can bear it.
    fn may_hedge(&self, first: usize, pick: &Pick, now: Instant) -> bool {
        let hedges = &self.route.hedges;
        if !hedges.take(self.route.rules.hedge_share) {
            return false;
        }
        // Beside itself, a target is loaded with the same once more.
        let may_load = if pick.target == first {
            self.target(pick).budget.take_retry(now)
        } else {
            self.may_load(pick, now)
        };
        if !may_load {
            hedges.give_back();
        }
        may_load
    }

    /// An attempt begins: its target, its step in the trail, and what to do.
    fn order(&mut self, ready: Ready) -> (usize, usize, Order) {
        self.begun += 1;
        let Ready {
            pick,
            ticket,
            permit,
            mut outgoing,
        } = ready;
        let target = self.target(&pick).clone();
        let limits = &self.snapshot.config.attempts;
        let (operators, timeouts) = self.timeouts(&pick);
        let streaming = self.inquiry.request.streaming;
        let model = pick.model.as_deref().unwrap_or(&target.rules.model);
        let step = self.trail.begin(&target, model);
        if let Some(trace) = &self.trail.trace {
            outgoing.headers.extend(trace.propagated(step));
        }
        let order = Order {
            spent: self.trail.steps[step].spent.clone(),
            client: self.side.format,
            outgoing,
            reporter: Reporter {
                key: target.signer.turn(),
                started: self.trail.steps[step].began,
                target: target.clone(),
                ticket,
                permit,
            },
            streaming,
            answers: self.inquiry.request.answers,
            content_by: self.content_by.min(later(self.since, timeouts.request)),
            fair: Fair::of(&timeouts, &operators, &pick, streaming, || {
                target.health.usual(streaming)
            }),
            timeouts,
            own_model: model != target.rules.model,
            hold: self.route.rules.hold,
            goes_on: self.said.is_some(),
            offload: self.live.offload.clone(),
            limits: Limits {
                answer_bytes: limits.max_answer_bytes,
                held_bytes: limits.max_held_bytes,
            },
            room: Room::new(self.live.answers.clone(), self.holder.clone()),
        };
        (pick.target, step, order)
    }

    /// Whether an answer that breaks off may be gone on with.
    fn may_be_continued(&self) -> bool {
        self.route.rules.continuation && self.inquiry.request.streaming && !self.route.policies.is_empty()
    }

    /// What stands behind the answer: all of this where another target may have to go on with it.
    pub fn behind(mut self) -> Behind {
        // Nobody asks for it any more, and it holds a place at its target.
        self.refused = None;
        if self.may_be_continued() {
            Behind::Successor(Box::new(self))
        } else {
            Behind::Trail(self.trail)
        }
    }

    /// Notes how an attempt ended.
    fn settle(&mut self, target: usize, step: usize, result: Result<Held, Failure>) -> Option<(usize, Held)> {
        let failure = match result {
            Ok(held) => {
                self.trail.win(step);
                if let Some(session) = self.session() {
                    self.live.warm.note(session, &held.target.label, Instant::now());
                }
                return Some((step, held));
            }
            Err(failure) => failure,
        };
        if failure.kind == Kind::LocalLimit {
            let was_retry = self.failed.iter().any(|attempt| attempt.tried.target == target);
            let budget = &self.route.targets[target].budget;
            budget.give_back(was_retry, Instant::now());
        }
        let elapsed = self.trail.fail(step, &failure);
        let (request, name) = (self.trail.id.as_str(), self.route.targets[target].rules.name.as_str());
        let (failed, detail) = (failure.kind.name(), failure.detail.as_str());
        tracing::debug!(request, target = name, failure = failed, detail, "an attempt failed");
        self.note(target, &failure, elapsed, false);
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
        match self.unable.take_if(|_| self.begun == 0) {
            Some(Unable::Lost(field, why)) => return Refusal::CannotBeCarried { field, why },
            Some(Unable::Malformed(malformed)) => return Refusal::Malformed(malformed),
            Some(Unable::NoApi) => return Refusal::NoApi,
            None => {}
        }
        let readings = self.readings();
        let soonest = readings.iter().map(|reading| reading.cooldown).min();
        let mut resting = readings.iter().filter(|reading| !reading.cooldown.is_zero()).peekable();
        let kinds: Vec<Kind> = self.failed.iter().map(|attempt| attempt.tried.kind).collect();
        let is_known = !kinds.is_empty() || resting.peek().is_some();
        let all_limited = kinds.iter().all(|kind| *kind == Kind::RateLimited) && resting.all(|reading| reading.limited);
        Refusal::Exhausted(Exhausted {
            kinds,
            limited: is_known && all_limited,
            retry_after: soonest.unwrap_or_default().max(Duration::from_secs(1)),
        })
    }

    fn readings(&self) -> Vec<Reading> {
        let now = Instant::now();
        self.route
            .targets
            .iter()
            .map(|target| target.health.read(now))
            .collect()
    }

    fn index_of(&self, target: &Arc<Target>) -> usize {
        let is_it = |known: &Arc<Target>| Arc::ptr_eq(known, target);
        self.route.targets.iter().position(is_it).unwrap_or_default()
    }

    fn target(&self, pick: &Pick) -> &Arc<Target> {
        &self.route.targets[pick.target]
    }
}

impl Successor for Journey {
    fn trail(&mut self) -> &mut Trail {
        &mut self.trail
    }

    fn go_on(
        mut self: Box<Self>,
        failure: Failure,
        interrupted: Interrupted,
    ) -> Pin<Box<dyn Future<Output = Resumed> + Send>> {
        let said = interrupted.said().to_owned();
        Box::pin(async move {
            let outcome = match self.resume(failure, said).await {
                Ok(Held {
                    content: Content::Stream(flow),
                    started,
                    ..
                }) => Ok((flow, started)),
                Ok(_) => Err(Failure::on_the_wire(Kind::BadResponse, "not_a_stream", "")),
                Err(failure) => Err(failure),
            };
            Resumed {
                successor: self,
                interrupted,
                outcome,
            }
        })
    }
}

/// When the request as a whole must have content, for which it has waited since then.
fn content_by(snapshot: &Snapshot, route: &Route, since: Instant) -> Instant {
    let timeouts = snapshot.config.timeouts.shortened(&route.rules.timeouts);
    later(since, timeouts.request)
}

/// Waits for a future while another goes on, which may end meanwhile.
async fn beside<T, R>(first: impl Future<Output = T>, mut other: Pin<&mut impl Future<Output = R>>) -> (T, Option<R>) {
    let mut first = std::pin::pin!(first);
    let mut ended = None;
    loop {
        tokio::select! {
            biased;
            done = &mut first => return (done, ended),
            result = &mut other, if ended.is_none() => ended = Some(result),
        }
    }
}
