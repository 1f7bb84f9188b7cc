//! The thread that keeps the policies current. It alone decides what serves; everybody else sends it events.
//!
//! It never looks at the plugin folder, reads a plugin or waits for a compile child itself: those have threads of their own, so that
//! a plugin that takes a minute to compile, or a file system that hangs, delays nothing else.

mod files;
mod loaded;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::folder::{Found, Looker};
use super::lanes::Lanes;
use super::library::{RollbackError, Versions};
use super::load::{Loader, Outcome};
use super::program::Hash;
use super::settings::Settings;
use super::standing::{Standing, Table};
use super::statistics::Trouble;
use super::store::{Served, ServedPolicy};
use super::version::Alarm;

/// Pause between a file event and the look at the folder: one change usually makes several events.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// A file that was written to so recently and looks unfinished is looked at again before anybody is told.
const UNFINISHED: Duration = Duration::from_secs(1);

/// A look at the folder that takes longer than this has met a file system that hangs; nobody waits for it any longer.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// How often loads that are under way are checked for threads that do not come back.
const CHECK: Duration = Duration::from_secs(1);

/// What the thread is told.
pub(super) enum Event {
    /// Something happened in the plugin folder.
    Folder,
    /// What a look at that folder found.
    Looked(PathBuf, io::Result<Found>),
    /// A plugin is being compiled.
    Compiling(String, Hash),
    /// A plugin was tried, which took so long.
    Loaded(String, Outcome, Duration),
    /// A kept version was loaded again, or could not be.
    Returned(String, Hash, Outcome),
    /// A version keeps failing.
    Failing(String, Hash, Trouble),
    Rollback(String, Sender<Result<Hash, RollbackError>>),
    /// The version whose hash begins so is to serve.
    Activate(String, String, Sender<Result<Hash, RollbackError>>),
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
    lanes: Lanes,
    folder: Folder,
    /// Who waits until every policy that a route names has been tried.
    waiting: Vec<Sender<()>>,
    /// What the private folder remembers of what serves.
    remembered: Served,
    /// Something changed since the private folder was brought up to date.
    changed: bool,
}

/// What is known of the plugin folder, besides its policies.
struct Folder {
    looker: Looker,
    /// When the next look is.
    look_at: Instant,
    /// Since when there is no answer to a look.
    looking: Option<Instant>,
    /// Another look was asked for meanwhile.
    look_again: bool,
    /// Why it could not be read when it was last looked at.
    unreadable: Option<String>,
    /// What lies there, and is ignored.
    ignored: BTreeSet<String>,
    /// The policies with a file, at the last look.
    files: BTreeSet<String>,
    /// Plugins that are not loaded because no route uses them.
    unused: usize,
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
        let loads = Arc::clone(&loader);
        Ok(Self {
            lanes: Lanes::start(move |order, compiling| loads.load(order, compiling))?,
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
            folder: Folder::new(&sender)?,
            sender,
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
                    self.events.recv_timeout(self.idle())
                }
            };
            match event {
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return self.tidy(),
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.do_what_is_due();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Folder => self.look_within(DEBOUNCE),
            Event::Looked(folder, found) => self.looked(&folder, found),
            Event::Compiling(name, hash) => self.compiling(&name, hash),
            Event::Loaded(name, outcome, took) => self.loaded(&name, outcome, took),
            Event::Returned(name, hash, outcome) => self.returned(&name, hash, outcome),
            Event::Failing(name, hash, trouble) => self.failing(&name, hash, trouble),
            Event::Rollback(name, answer) => self.rollback(&name, answer),
            Event::Activate(name, version, answer) => self.activate(&name, &version, answer),
            Event::Reconfigure(settings, answer) => self.reconfigure(*settings, answer),
            Event::Close => {}
        }
    }

    /// How long nothing is due.
    fn idle(&self) -> Duration {
        let policies = self.policies.values();
        let tries = policies.clone().flat_map(|policy| {
            let comeback = policy.comeback.filter(|_| policy.returning.is_none());
            policy
                .retry
                .filter(|_| policy.settled())
                .into_iter()
                .chain(comeback.map(|comeback| comeback.retry))
        });
        let under_way = self.folder.looking.is_some() || policies.clone().any(|policy| !policy.settled());
        let check = under_way.then(|| Instant::now() + CHECK);
        let next = tries.map(|retry| retry.at).chain(check).chain([self.folder.look_at]);
        next.min()
            .unwrap_or_else(Instant::now)
            .saturating_duration_since(Instant::now())
    }

    fn do_what_is_due(&mut self) {
        self.lanes.replace_lost();
        if self.folder.looking.is_some_and(|since| since.elapsed() > LOOK_LIMIT) {
            self.no_look();
        }
        if self.folder.look_at <= Instant::now() {
            self.look();
        }
        let mut retries = false;
        let mut comebacks = Vec::new();
        for (name, policy) in &mut self.policies {
            if policy.settled()
                && let Some(retry) = policy.retry.as_mut().filter(|retry| retry.is_due())
            {
                // What comes of it sets the next one.
                retry.put_off();
                policy.again = true;
                retries = true;
            }
            if policy.returning.is_none() && policy.comeback.is_some_and(|comeback| comeback.retry.is_due()) {
                comebacks.push(name.clone());
            }
        }
        comebacks.iter().for_each(|name| self.try_comeback(name));
        if retries {
            self.look();
        }
    }

    fn answer_waiting(&mut self) {
        let settled = |name| self.policies.get(name).is_none_or(Standing::settled);
        if !self.waiting.is_empty() && self.folder.is_looked_at() && self.settings.named.iter().all(settled) {
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

    /// Other rules: what serves goes on under them, if it may; what was refused or set aside gets another chance.
    fn reconfigure(&mut self, settings: Settings, answer: Sender<()>) {
        let before = std::mem::replace(&mut self.settings, settings);
        self.configuration += 1;
        self.folder.unreadable = None;
        if before.directory != self.settings.directory {
            self.folder.move_to_another(&self.sender);
        }
        let names: Vec<String> = self.policies.keys().cloned().collect();
        for name in names {
            let rules = Arc::clone(self.settings.rules(&name));
            let alarm = self.alarm(&name);
            let Some(policy) = self.policies.get_mut(&name) else {
                continue;
            };
            policy.again |= policy.refused.take().is_some();
            policy.retry = None;
            if let Some(comeback) = &mut policy.comeback
                && before.rules(&name) != &rules
            {
                comeback.retry.at = Instant::now();
            }
            let Some(live) = policy.live.clone().filter(|live| *live.configured() != *rules) else {
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

    fn alarm(&self, name: &str) -> Alarm {
        let (sender, name) = (self.sender.clone(), name.to_owned());
        Box::new(move |hash, trouble| _ = sender.send(Event::Failing(name.clone(), hash, trouble)))
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
            let used = self.settings.named.contains(name);
            self.table.put(name, policy.row(used));
        }
    }
}

impl Folder {
    fn new(sender: &Sender<Event>) -> io::Result<Self> {
        Ok(Self {
            looker: Self::looker(sender)?,
            look_at: Instant::now(),
            looking: None,
            look_again: false,
            unreadable: None,
            ignored: BTreeSet::new(),
            files: BTreeSet::new(),
            unused: 0,
        })
    }

    fn looker(sender: &Sender<Event>) -> io::Result<Looker> {
        let (events, looks) = (sender.clone(), sender.clone());
        Looker::start(
            move || _ = events.send(Event::Folder),
            move |folder, found| _ = looks.send(Event::Looked(folder, found)),
        )
    }

    /// The folder was looked at, or does not let itself be looked at.
    fn is_looked_at(&self) -> bool {
        self.looking.is_none() || self.unreadable.is_some()
    }

    /// Another folder need not wait for one that hangs.
    fn move_to_another(&mut self, sender: &Sender<Event>) {
        if self.looking.take().is_some() {
            match Self::looker(sender) {
                Ok(looker) => self.looker = looker,
                Err(error) => tracing::error!(%error, "no thread to look at the plugin folder with"),
            }
        }
        self.ignored.clear();
    }
}
