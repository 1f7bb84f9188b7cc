//! The thread that keeps the policies current. It alone decides what serves; everybody else sends it events.
//!
//! It never reads a plugin or waits for a compile child itself: loads run on threads of their own, so that a plugin that takes
//! a minute to compile delays no other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::folder::{self, Fingerprint, Watch};
use super::library::{PolicyState, RollbackError, Versions};
use super::load::{Loader, Loaders, Order, Outcome, Source};
use super::probe::Shape;
use super::program::{Hash, Program};
use super::refusal::Refusal;
use super::statistics::unix_ms;
use super::store::{PassedOver, Served, ServedPolicy};
use super::version::{Alarm, Version};
use crate::config::{CompileLimits, Config, PolicyRules};

/// Pause between a file event and the look at the folder: one change usually makes several events.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A file that was written to so recently and looks unfinished is looked at again before anybody is told.
const UNFINISHED: Duration = Duration::from_secs(1);

/// What the thread is told.
pub(super) enum Event {
    /// Something happened in the plugin folder.
    Folder,
    Loaded(String, Outcome),
    /// An earlier version was loaded again, or could not be.
    Returned(String, Hash, Outcome),
    /// A version keeps failing.
    Failing(String, Hash),
    Rollback(String, Sender<Result<Hash, RollbackError>>),
    /// The configuration changed; answered when every policy that a route names has been tried.
    Reconfigure(Box<Settings>, Sender<()>),
    Close,
}

/// What of the configuration matters here.
pub(super) struct Settings {
    directory: PathBuf,
    poll: Duration,
    max_file_bytes: u64,
    keep_versions: usize,
    limits: CompileLimits,
    defaults: Arc<PolicyRules>,
    rules: BTreeMap<String, Arc<PolicyRules>>,
    /// Policies that a route names.
    named: BTreeSet<String>,
    /// What to ask in a probe.
    shapes: BTreeMap<String, Shape>,
    any_shape: Shape,
}

/// One policy.
#[derive(Default)]
pub(super) struct Policy {
    pub(super) live: Option<Arc<Version>>,
    /// When it began to serve.
    pub(super) since_ms: u64,
    /// Good versions before it, newest first.
    pub(super) earlier: Vec<Hash>,
    passed_over: Option<PassedOver>,
    refused: Option<Refused>,
    /// The file was there once and is not any more.
    gone: bool,
    /// The file as it was last read.
    seen: Option<Fingerprint>,
    /// It comes with the gateway, and no file replaces it.
    ready_made: bool,
    loading: bool,
    /// On the way to an earlier version.
    returning: Option<Returning>,
}

/// A file's content that was refused.
struct Refused {
    hash: Option<Hash>,
    why: String,
}

/// Why a policy goes to an earlier version, and what is left to try.
struct Returning {
    reason: Reason,
    candidates: VecDeque<Hash>,
}

enum Reason {
    /// Nothing serves.
    Nothing,
    /// What serves keeps failing.
    Failing(String),
    /// An operator said so.
    Rollback(Sender<Result<Hash, RollbackError>>),
}

/// The policies, as the admin API sees them.
pub(super) type Table = Arc<Mutex<BTreeMap<String, Row>>>;

/// One policy, as the admin API sees it.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) live: Option<Arc<Version>>,
    pub(super) state: PolicyState,
    pub(super) problem: Option<String>,
    pub(super) since_ms: u64,
    pub(super) earlier: Vec<Hash>,
}

/// The thread's state.
pub(super) struct Keeper {
    loader: Arc<Loader>,
    settings: Settings,
    policies: BTreeMap<String, Policy>,
    versions: watch::Sender<Versions>,
    table: Table,
    events: Receiver<Event>,
    sender: Sender<Event>,
    loaders: Loaders,
    watch: Watch,
    look_at: Instant,
    /// Why the plugin folder could not be read when it was last looked at.
    unreadable: Option<String>,
    /// Who waits until every policy that a route names has been tried.
    waiting: Vec<Sender<()>>,
    /// What the private folder remembers of what serves.
    remembered: Served,
    /// Something changed since the private folder was brought up to date.
    changed: bool,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        let policies = &config.policies;
        let named: BTreeSet<_> = config
            .routes
            .iter()
            .flat_map(|route| route.policies.iter().cloned())
            .collect();
        Self {
            directory: policies.directory.clone(),
            poll: policies.poll,
            max_file_bytes: policies.max_file_bytes,
            keep_versions: policies.keep_versions,
            limits: policies.compile.clone(),
            defaults: Arc::new(policies.defaults.clone()),
            rules: config
                .policy
                .iter()
                .map(|(name, rules)| (name.clone(), Arc::new(rules.clone())))
                .collect(),
            shapes: named
                .iter()
                .map(|name| (name.clone(), Shape::of(config, name)))
                .collect(),
            any_shape: Shape::of(config, ""),
            named,
        }
    }

    pub(super) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    pub(super) fn named(&self) -> &BTreeSet<String> {
        &self.named
    }

    /// The file of a policy.
    pub(super) fn file(&self, policy: &str) -> Source {
        Source::File(folder::path(&self.directory, policy), self.max_file_bytes)
    }

    fn rules(&self, policy: &str) -> &Arc<PolicyRules> {
        self.rules.get(policy).unwrap_or(&self.defaults)
    }

    pub(super) fn order(&self, policy: &str, source: Source, known: Vec<Hash>) -> Order {
        Order {
            policy: policy.into(),
            source,
            known,
            rules: Arc::clone(self.rules(policy)),
            limits: self.limits.clone(),
            shape: self.shapes.get(policy).unwrap_or(&self.any_shape).clone(),
        }
    }
}

impl Policy {
    fn remembered(served: ServedPolicy) -> Self {
        let earlier = served.live.into_iter().chain(served.earlier).collect();
        Self {
            earlier,
            passed_over: served.passed_over,
            ..Self::default()
        }
    }

    fn state(&self) -> PolicyState {
        match (&self.refused, &self.passed_over) {
            _ if self.gone => PolicyState::FileGone,
            (Some(_), _) => PolicyState::Refused,
            (None, Some(passed_over)) => passed_over.state,
            (None, None) => PolicyState::Live,
        }
    }

    fn problem(&self) -> Option<String> {
        match (&self.refused, &self.passed_over) {
            (Some(refused), _) => Some(refused.why.clone()),
            _ if self.gone => Some("the file is gone; its last version serves on".into()),
            (None, Some(passed_over)) => Some(passed_over.why.clone()),
            (None, None) => None,
        }
    }

    fn hash(&self) -> Option<Hash> {
        self.live.as_ref().map(|version| version.hash())
    }

    /// What serves, for a sentence.
    fn serving(&self) -> &str {
        self.live.as_ref().map_or("nothing", |version| version.label())
    }

    /// Contents of the file that were judged before: what serves, what was refused, what was passed over.
    fn known(&self) -> Vec<Hash> {
        let refused = self.refused.as_ref().and_then(|refused| refused.hash);
        // With nothing else to serve, what was passed over gets another chance.
        let anything = self.live.is_some() || !self.earlier.is_empty();
        let passed_over = self
            .passed_over
            .as_ref()
            .filter(|_| anything)
            .map(|passed_over| passed_over.hash);
        self.hash().into_iter().chain(refused).chain(passed_over).collect()
    }

    fn settled(&self) -> bool {
        !self.loading && self.returning.is_none()
    }

    /// Everything of it that may be needed again.
    fn contents(&self) -> impl Iterator<Item = Hash> {
        let refused = self.refused.as_ref().and_then(|refused| refused.hash);
        let passed_over = self.passed_over.as_ref().map(|passed_over| passed_over.hash);
        self.hash()
            .into_iter()
            .chain(refused)
            .chain(passed_over)
            .chain(self.earlier.iter().copied())
    }
}

impl Keeper {
    pub(super) fn new(
        loader: Loader,
        settings: Settings,
        (versions, table): (watch::Sender<Versions>, Table),
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> io::Result<Self> {
        let remembered = loader.store.served();
        let loader = Arc::new(loader);
        let looker = sender.clone();
        Ok(Self {
            loaders: Loaders::start(&loader)?,
            loader,
            settings,
            policies: remembered
                .clone()
                .into_iter()
                .map(|(name, served)| (name, Policy::remembered(served)))
                .collect(),
            versions,
            table,
            events,
            sender,
            watch: Watch::new(move || _ = looker.send(Event::Folder)),
            look_at: Instant::now(),
            unreadable: None,
            waiting: Vec::new(),
            remembered,
            changed: false,
        })
    }

    /// Runs until it is told to close. `ready` is told when every policy that a route names has been tried.
    pub(super) fn run(mut self, ready: Sender<()>) {
        self.waiting.push(ready);
        self.look();
        loop {
            self.answer_waiting();
            let event = match self.events.try_recv() {
                Ok(event) => Ok(event),
                Err(_) => {
                    self.tidy();
                    let wait = self.look_at.saturating_duration_since(Instant::now());
                    self.events.recv_timeout(wait)
                }
            };
            match event {
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Folder => self.look_within(DEBOUNCE),
            Event::Loaded(name, outcome) => self.loaded(&name, outcome),
            Event::Returned(name, hash, outcome) => self.returned(&name, hash, outcome),
            Event::Failing(name, hash) => self.failing(&name, hash),
            Event::Rollback(name, answer) => self.rollback(&name, answer),
            Event::Reconfigure(settings, answer) => self.reconfigure(*settings, answer),
            Event::Close => {}
        }
    }

    fn answer_waiting(&mut self) {
        let settled = |name| self.policies.get(name).is_none_or(Policy::settled);
        if !self.waiting.is_empty() && self.settings.named.iter().all(settled) {
            self.waiting.drain(..).for_each(|waiting| _ = waiting.send(()));
        }
    }

    /// Brings the private folder up to date, while there is nothing else to do.
    fn tidy(&mut self) {
        if !self.changed {
            return;
        }
        let served = self.served();
        if served != self.remembered {
            match self.loader.store.remember(&served) {
                Ok(()) => self.remembered = served,
                Err(error) => {
                    tracing::error!(%error, "what serves cannot be remembered; a restart may bring back another version");
                }
            }
        }
        // What is being loaded is not in the table yet, and must not be taken away.
        if self.policies.values().all(Policy::settled) {
            self.loader
                .store
                .prune(&self.policies.values().flat_map(Policy::contents).collect());
            self.changed = false;
        }
    }

    fn look_within(&mut self, wait: Duration) {
        self.look_at = self.look_at.min(Instant::now() + wait);
    }

    /// Compares the folder with what is known of it.
    fn look(&mut self) {
        self.look_at = Instant::now() + self.settings.poll;
        self.watch.aim(&self.settings.directory);
        let mut unreadable = None;
        let files = folder::look(&self.settings.directory).unwrap_or_else(|error| {
            // To the policies it is as if their files were gone: what serves serves on.
            let problem = error.to_string();
            if self.unreadable.as_ref() != Some(&problem) {
                let folder = self.settings.directory.display();
                tracing::error!(%folder, %error, "the plugin folder cannot be read; what serves serves on");
            }
            unreadable = Some(problem);
            BTreeMap::new()
        });
        self.unreadable = unreadable;
        for (name, fingerprint) in &files {
            let policy = self.policies.entry(name.clone()).or_default();
            policy.ready_made = false;
            if !policy.loading && (policy.gone || policy.seen != Some(*fingerprint)) {
                policy.gone = false;
                let known = policy.known();
                self.order(name, self.settings.file(name), known);
            }
        }
        let names = self
            .settings
            .named
            .iter()
            .chain(self.policies.keys())
            .cloned()
            .collect::<BTreeSet<_>>();
        for name in names.iter().filter(|name| !files.contains_key(*name)) {
            self.without_file(name);
        }
    }

    /// A policy has no file. What serves stays; what does not exist yet may come with the gateway, or have served before.
    fn without_file(&mut self, name: &str) {
        let named = self.settings.named.contains(name);
        let policy = self.policies.entry(name.into()).or_default();
        if policy.live.is_some() {
            if !policy.ready_made && !policy.gone {
                policy.gone = true;
                policy.seen = None;
                tracing::warn!(
                    policy = name,
                    serving = policy.serving(),
                    "the plugin file is gone; its last version serves on"
                );
                self.show(name);
            }
            return;
        }
        if !policy.settled() {
            return;
        }
        if !named {
            self.policies.remove(name);
            self.table
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .remove(name);
            return;
        }
        match self.loader.ready_made(name) {
            // Tried, and found wanting: it is the same until the gateway is upgraded.
            Some(_) if policy.ready_made => {}
            Some(source) => {
                policy.ready_made = true;
                let known = policy.known();
                self.order(name, source, known);
            }
            None => {
                policy.gone = !policy.earlier.is_empty();
                let why = self.loader.missing(&self.settings.directory);
                self.refuse(name, None, &why);
            }
        }
    }

    fn order(&mut self, name: &str, source: Source, known: Vec<Hash>) {
        if let Some(policy) = self.policies.get_mut(name) {
            policy.loading = true;
        }
        let (sender, told) = (self.sender.clone(), name.to_owned());
        let order = self.settings.order(name, source, known);
        self.loaders
            .load(order, move |outcome| _ = sender.send(Event::Loaded(told, outcome)));
    }

    /// A file, or what comes with the gateway, went all the way or was refused.
    fn loaded(
        &mut self,
        name: &str,
        Outcome {
            fingerprint,
            hash,
            program,
        }: Outcome,
    ) {
        let starting = !self.waiting.is_empty();
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        policy.loading = false;
        if let Err(refusal) = &program
            && refusal.may_be_unfinished()
            && let Some(wait) = fingerprint.and_then(|found| UNFINISHED.checked_sub(found.age()?))
            && !starting
        {
            tracing::debug!(policy = name, %refusal, "the plugin file may be unfinished; it is looked at again");
            return self.look_within(wait.max(DEBOUNCE));
        }
        policy.seen = fingerprint;
        match (program, hash) {
            (Ok(Some(program)), _) => {
                policy.passed_over = None;
                self.go_live(name, program);
            }
            (Ok(None), Some(hash)) => self.known_content(name, hash),
            (Err(refusal), hash) => self.refuse(name, hash, &refusal),
            (Ok(None), None) => {}
        }
        // The file may have changed meanwhile.
        self.look_within(Duration::ZERO);
    }

    /// The file has a content that was judged before.
    fn known_content(&mut self, name: &str, hash: Hash) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        if policy.hash() == Some(hash) {
            policy.refused = None;
            policy.passed_over = None;
        } else if policy
            .passed_over
            .as_ref()
            .is_some_and(|passed_over| passed_over.hash == hash)
        {
            policy.refused = None;
        }
        if policy.live.is_none() && policy.returning.is_none() {
            self.go_back(name, Reason::Nothing);
        }
        self.show(name);
    }

    fn refuse(&mut self, name: &str, hash: Option<Hash>, refusal: &Refusal) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let why = refusal.to_string();
        // Said once for each content.
        if policy
            .refused
            .as_ref()
            .is_none_or(|before| before.why != why || before.hash != hash)
        {
            let version = hash.map(|hash| hash.short()).unwrap_or_default();
            tracing::error!(
                policy = name,
                version,
                serving = policy.serving(),
                "plugin refused: {why}"
            );
        }
        policy.refused = Some(Refused { hash, why });
        if policy.live.is_none() && policy.returning.is_none() {
            self.go_back(name, Reason::Nothing);
        }
        self.show(name);
    }

    /// A new version takes over.
    fn go_live(&mut self, name: &str, program: Arc<Program>) {
        let rules = Arc::clone(self.settings.rules(name));
        // They may have changed since it was ordered.
        if let Err(refusal) = program.check_grants(name, &rules) {
            return self.refuse(name, Some(program.hash), &refusal);
        }
        let version = Arc::new(Version::new(name, program, rules, self.alarm(name)));
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let before = policy.live.take();
        tracing::info!(
            policy = name,
            version = version.label(),
            before = before.as_ref().map(|v| v.label()),
            "policy live"
        );
        if let Some(Returning {
            reason: Reason::Rollback(answer),
            ..
        }) = policy.returning.take()
        {
            let reason = "the plugin file changed meanwhile, and what is new serves".into();
            let _ = answer.send(Err(RollbackError::Refused {
                policy: name.into(),
                reason,
            }));
        }
        policy.earlier.splice(..0, before.map(|before| before.hash()));
        policy.refused = None;
        policy.serve(version, self.settings.keep_versions);
        self.publish(name);
    }

    fn alarm(&self, name: &str) -> Alarm {
        let (sender, name) = (self.sender.clone(), name.to_owned());
        Box::new(move |hash| _ = sender.send(Event::Failing(name.clone(), hash)))
    }

    /// Begins to go to the newest earlier version that still loads.
    fn go_back(&mut self, name: &str, reason: Reason) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let candidates = policy
            .earlier
            .iter()
            .copied()
            .filter(|hash| Some(*hash) != policy.hash())
            .collect();
        policy.returning = Some(Returning { reason, candidates });
        self.try_next(name, None);
    }

    /// Tries the next earlier version, or gives up: `problem` is what was wrong with the last one.
    fn try_next(&mut self, name: &str, problem: Option<Refusal>) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let Some(mut returning) = policy.returning.take() else {
            return;
        };
        if let Some(hash) = returning.candidates.pop_front() {
            policy.returning = Some(returning);
            let order = self.settings.order(name, Source::Kept(hash), Vec::new());
            let (sender, name) = (self.sender.clone(), name.to_owned());
            return self.loaders.go_back(order, move |outcome| {
                _ = sender.send(Event::Returned(name, hash, outcome))
            });
        }
        match returning.reason {
            Reason::Nothing => {}
            Reason::Failing(why) => {
                tracing::error!(
                    policy = name,
                    version = policy.serving(),
                    "set aside, and there is no earlier version: {why}"
                );
                policy.pass_over(PolicyState::SetAside, why);
                policy.live = None;
                policy.earlier.clear();
                self.publish(name);
            }
            Reason::Rollback(answer) => {
                let policy = name.to_owned();
                _ = answer.send(Err(match problem {
                    Some(problem) => RollbackError::Refused {
                        policy,
                        reason: problem.to_string(),
                    },
                    None => RollbackError::NoEarlier(policy),
                }));
            }
        }
    }

    /// An earlier version was loaded, or could not be.
    fn returned(&mut self, name: &str, hash: Hash, outcome: Outcome) {
        let rules = Arc::clone(self.settings.rules(name));
        let alarm = self.alarm(name);
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let program = match outcome.program {
            // Something newer took over meanwhile.
            _ if policy.returning.is_none() => return,
            Ok(Some(program)) => program,
            Ok(None) => return,
            Err(refusal) => {
                tracing::error!(
                    policy = name,
                    version = hash.short(),
                    "an earlier version cannot serve either: {refusal}"
                );
                return self.try_next(name, Some(refusal));
            }
        };
        let Some(Returning { reason, candidates }) = policy.returning.take() else {
            return;
        };
        let version = Arc::new(Version::new(name, program, rules, alarm));
        let before = policy.serving().to_owned();
        let label = version.label();
        match &reason {
            Reason::Nothing => tracing::warn!(policy = name, version = label, "the last good version serves"),
            Reason::Failing(why) => {
                tracing::error!(
                    policy = name,
                    version = label,
                    before,
                    "set aside for its last good version: {why}"
                );
                policy.pass_over(PolicyState::SetAside, why.clone());
            }
            Reason::Rollback(_) => {
                tracing::warn!(policy = name, version = label, before, "rolled back");
                let why = format!("rolled back from {before}; it serves until the file changes");
                policy.pass_over(PolicyState::RolledBack, why);
            }
        }
        policy.earlier = candidates.into();
        policy.serve(version, self.settings.keep_versions);
        self.publish(name);
        if let Reason::Rollback(answer) = reason {
            // An operator who is told that it is done may restart the gateway at once.
            self.tidy();
            _ = answer.send(Ok(hash));
        }
    }

    fn failing(&mut self, name: &str, hash: Hash) {
        let Some(policy) = self.policies.get(name) else { return };
        let Some(live) = policy
            .live
            .as_ref()
            .filter(|live| live.hash() == hash && policy.returning.is_none())
        else {
            return;
        };
        let last = live.statistics.last_error().map(|last| last.error).unwrap_or_default();
        let why = format!("{} keeps failing: {last}", live.label());
        self.go_back(name, Reason::Failing(why));
    }

    fn rollback(&mut self, name: &str, answer: Sender<Result<Hash, RollbackError>>) {
        match self.policies.get(name) {
            None => _ = answer.send(Err(RollbackError::Unknown(name.into()))),
            Some(policy) if policy.returning.is_some() => {
                let reason = "it is going back to an earlier version already".into();
                _ = answer.send(Err(RollbackError::Refused {
                    policy: name.into(),
                    reason,
                }));
            }
            Some(_) => self.go_back(name, Reason::Rollback(answer)),
        }
    }

    /// Other rules: what serves goes on under them, if it may; what was refused gets another chance.
    fn reconfigure(&mut self, settings: Settings, answer: Sender<()>) {
        self.settings = settings;
        let names: Vec<String> = self.policies.keys().cloned().collect();
        for name in names {
            let rules = Arc::clone(self.settings.rules(&name));
            let alarm = self.alarm(&name);
            let Some(policy) = self.policies.get_mut(&name) else {
                continue;
            };
            if policy.refused.take().is_some() {
                policy.seen = None;
                policy.ready_made = false;
            }
            let Some(live) = policy.live.clone().filter(|live| *live.rules() != *rules) else {
                continue;
            };
            match live.check_grants(&rules) {
                Ok(()) => policy.live = Some(Arc::new(live.under(rules, alarm))),
                Err(refusal) => {
                    policy.live = None;
                    self.refuse(&name, Some(live.hash()), &refusal);
                }
            }
            self.publish(&name);
        }
        self.waiting.push(answer);
        self.look();
    }

    /// Lets everybody know what serves, and remembers it.
    fn publish(&mut self, name: &str) {
        self.show(name);
        let live = |(name, policy): (&String, &Policy)| Some((name.clone(), Arc::clone(policy.live.as_ref()?)));
        self.versions
            .send_replace(Versions::new(self.policies.iter().filter_map(live).collect()));
        self.changed = true;
    }

    fn served(&self) -> Served {
        let served = |policy: &Policy| match policy.hash() {
            Some(live) => ServedPolicy {
                live: Some(live),
                earlier: policy.earlier.clone(),
                passed_over: policy.passed_over.clone(),
            },
            // Not tried yet, or nothing left: what was remembered of it stays.
            None => ServedPolicy {
                live: policy.earlier.first().copied(),
                earlier: policy.earlier.iter().skip(1).copied().collect(),
                passed_over: policy.passed_over.clone(),
            },
        };
        let all = self
            .policies
            .iter()
            .map(|(name, policy)| (name.clone(), served(policy)));
        all.filter(|(_, served)| *served != ServedPolicy::default()).collect()
    }

    /// Updates what the admin API sees.
    fn show(&mut self, name: &str) {
        let Some(policy) = self.policies.get(name) else { return };
        let row = Row {
            live: policy.live.clone(),
            state: policy.state(),
            problem: policy.problem(),
            since_ms: policy.since_ms,
            earlier: policy.earlier.clone(),
        };
        self.table
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .insert(name.into(), row);
    }
}

impl Policy {
    fn serve(&mut self, version: Arc<Version>, keep_versions: usize) {
        let mut seen = BTreeSet::from([version.hash()]);
        self.earlier.retain(|hash| seen.insert(*hash));
        self.earlier.truncate(keep_versions);
        self.live = Some(version);
        self.since_ms = unix_ms();
    }

    /// Remembers that what serves must not come back by itself while the file is the same.
    fn pass_over(&mut self, state: PolicyState, why: String) {
        // The file's content stays passed over when a version before it is left, too.
        let hash = self.passed_over.as_ref().map(|before| before.hash).or(self.hash());
        if let Some(hash) = hash {
            self.passed_over = Some(PassedOver { hash, state, why });
        }
    }
}
