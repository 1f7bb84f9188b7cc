//! The thread that keeps the policies current. It alone decides what serves; everybody else sends it events.
//!
//! It never reads a plugin or waits for a compile child itself: loads run on threads of their own, so that a plugin that takes
//! a minute to compile delays no other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::folder::{self, Watch};
use super::library::{PolicyState, RollbackError, Versions};
use super::load::{Loader, Loaders, Outcome, Source};
use super::program::{Hash, Program};
use super::refusal::Refusal;
use super::settings::Settings;
use super::standing::{Reason, Refused, Returning, Standing, Table};
use super::store::{Served, ServedPolicy};
use super::version::{Alarm, Version};

/// Pause between a file event and the look at the folder: one change usually makes several events.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A file that was written to so recently and looks unfinished is looked at again before anybody is told.
const UNFINISHED: Duration = Duration::from_secs(1);

/// What the thread is told.
pub(super) enum Event {
    /// Something happened in the plugin folder.
    Folder,
    /// A plugin was tried, under the configuration of that number.
    Loaded(String, Outcome, u64),
    /// An earlier version was loaded again, or could not be.
    Returned(String, Hash, Outcome),
    /// A version keeps failing.
    Failing(String, Hash),
    Rollback(String, Sender<Result<Hash, RollbackError>>),
    /// The configuration changed; answered when every policy that a route names has been tried.
    Reconfigure(Box<Settings>, Sender<()>),
    Close,
}

/// The thread's state.
pub(super) struct Keeper {
    loader: Arc<Loader>,
    settings: Settings,
    /// How many configurations there have been.
    configuration: u64,
    policies: BTreeMap<String, Standing>,
    versions: watch::Sender<Versions>,
    table: Arc<Table>,
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

impl Keeper {
    pub(super) fn new(
        loader: Loader,
        settings: Settings,
        (versions, table): (watch::Sender<Versions>, Arc<Table>),
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> io::Result<Self> {
        let remembered = loader.store.served();
        let loader = Arc::new(loader);
        let looker = sender.clone();
        Ok(Self {
            loaders: Loaders::start(&loader)?,
            loader,
            settings,
            configuration: 0,
            policies: remembered
                .clone()
                .into_iter()
                .map(|(name, served)| (name, Standing::remembered(served)))
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
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return self.tidy(),
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => self.look(),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Folder => self.look_within(DEBOUNCE),
            Event::Loaded(name, outcome, configuration) => self.loaded(&name, outcome, configuration),
            Event::Returned(name, hash, outcome) => self.returned(&name, hash, outcome),
            Event::Failing(name, hash) => self.failing(&name, hash),
            Event::Rollback(name, answer) => self.rollback(&name, answer),
            Event::Reconfigure(settings, answer) => self.reconfigure(*settings, answer),
            Event::Close => {}
        }
    }

    fn answer_waiting(&mut self) {
        let settled = |name| self.policies.get(name).is_none_or(Standing::settled);
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
        if self.policies.values().all(Standing::settled) {
            self.loader
                .store
                .prune(&self.policies.values().flat_map(Standing::contents).collect());
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
            self.table.remove(name);
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
        let configuration = self.configuration;
        self.loaders.load(order, move |outcome| {
            _ = sender.send(Event::Loaded(told, outcome, configuration))
        });
    }

    /// A file, or what comes with the gateway, went all the way or was refused.
    fn loaded(&mut self, name: &str, outcome: Outcome, configuration: u64) {
        let Outcome {
            fingerprint,
            hash,
            program,
        } = outcome;
        let starting = !self.waiting.is_empty();
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        policy.loading = false;
        if let Err(refusal) = &program {
            if configuration != self.configuration {
                // The rules it was tried under are not those of now.
                policy.ready_made = false;
                return self.look();
            }
            let unfinished = refusal.may_be_unfinished() && !starting;
            if let Some(wait) = fingerprint
                .and_then(|found| UNFINISHED.checked_sub(found.age()?))
                .filter(|_| unfinished)
            {
                tracing::debug!(policy = name, %refusal, "the plugin file may be unfinished; it is looked at again");
                return self.look_within(wait.max(DEBOUNCE));
            }
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
        self.configuration += 1;
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
        let live = |(name, policy): (&String, &Standing)| Some((name.clone(), Arc::clone(policy.live.as_ref()?)));
        self.versions
            .send_replace(Versions::new(self.policies.iter().filter_map(live).collect()));
        self.changed = true;
    }

    fn served(&self) -> Served {
        let all = self
            .policies
            .iter()
            .map(|(name, policy)| (name.clone(), policy.served()));
        all.filter(|(_, served)| *served != ServedPolicy::default()).collect()
    }

    /// Updates what the admin API sees.
    fn show(&mut self, name: &str) {
        if let Some(policy) = self.policies.get(name) {
            self.table.put(name, policy.row());
        }
    }
}
