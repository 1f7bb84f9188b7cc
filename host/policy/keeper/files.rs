//! What lies in the plugin folder, and what is to be loaded of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::folder::{Fingerprint, Found};
use super::super::lanes::{Job, Lane, News};
use super::super::load::Source;
use super::super::standing::Loading;
use super::{Event, Keeper, LOOK_LIMIT};

/// A file that is gone may be about to be replaced: so long, the version that came from it serves on, whatever else there is.
const GONE: Duration = Duration::from_secs(1);

/// What a look at a file means.
enum Change {
    /// It is as it was.
    None,
    /// It is to be tried, but nobody put it there since it was last tried.
    Again,
    /// Somebody put it there.
    Deployment,
}

impl Keeper {
    pub(super) fn look_within(&mut self, wait: Duration) {
        self.folder.look_at = self.folder.look_at.min(Instant::now() + wait);
    }

    /// Asks for a look at the folder.
    pub(super) fn look(&mut self) {
        let folder = &mut self.folder;
        folder.look_at = Instant::now() + self.settings.poll;
        if folder.looking.is_some() {
            folder.look_again = true;
            return;
        }
        folder.looking = Some(Instant::now());
        folder.looker.look(&self.settings.directory);
    }

    /// A look takes too long. Whoever waits for it is told that the folder cannot be read; the look may come back yet.
    pub(super) fn no_look(&mut self) {
        if self.folder.unreadable.is_none() {
            self.cannot_read(format!("it does not answer within {} s", LOOK_LIMIT.as_secs()));
        }
    }

    /// Compares the folder with what is known of it.
    pub(super) fn looked(&mut self, folder: &Path, found: io::Result<Found>) {
        if *folder != self.settings.directory {
            return;
        }
        self.folder.looking = None;
        match found {
            Ok(found) => self.compare(&found),
            Err(error) => self.cannot_read(error.to_string()),
        }
        if std::mem::take(&mut self.folder.look_again) {
            self.look();
        }
    }

    fn compare(&mut self, found: &Found) {
        if self.folder.unreadable.take().is_some() {
            tracing::info!(folder = %self.settings.directory.display(), "the plugin folder can be read again");
        }
        self.tell_ignored(&found.ignored);
        self.folder.files = found.policies.keys().cloned().collect();
        let spare = self.settings.max_unused;
        let unnamed = found
            .policies
            .keys()
            .filter(|name| !self.settings.named.contains(*name));
        let unloaded: BTreeSet<&String> = unnamed.skip(spare).collect();
        self.tell_unused(unloaded.len());
        for (name, fingerprint) in &found.policies {
            if unloaded.contains(name) {
                self.unload(name);
            } else {
                self.with_file(name, *fingerprint);
            }
        }
        for name in self.names() {
            if !found.policies.contains_key(&name) {
                self.without_file(&name);
            }
        }
    }

    /// What serves serves on. What does not serve yet may have served before, or come with the gateway.
    fn cannot_read(&mut self, problem: String) {
        let told = self.folder.unreadable.replace(problem.clone());
        let is_new = told.as_ref() != Some(&problem);
        if is_new {
            let folder = self.settings.directory.display();
            tracing::error!(%folder, error = problem, "the plugin folder cannot be read; what serves serves on");
        }
        for name in self.names() {
            let policy = self.policies.entry(name.clone()).or_default();
            if policy.live.is_some() || !policy.settled() || !(is_new || policy.again) {
                continue;
            }
            policy.again = false;
            if policy.candidates().next().is_some() {
                self.serve_anything(&name);
            } else {
                self.without_file(&name);
            }
        }
    }

    /// The policies that are known, and those that routes name.
    fn names(&self) -> BTreeSet<String> {
        self.settings
            .named
            .iter()
            .chain(self.policies.keys())
            .cloned()
            .collect()
    }

    fn tell_ignored(&mut self, ignored: &BTreeMap<String, String>) {
        for (file, why) in ignored {
            if !self.folder.ignored.contains(file) {
                tracing::warn!(file, "a file in the plugin folder is ignored: {why}");
            }
        }
        self.folder.ignored = ignored.keys().cloned().collect();
    }

    fn tell_unused(&mut self, count: usize) {
        if self.folder.unused != count && count > 0 {
            let max_unused = self.settings.max_unused;
            tracing::info!(
                count,
                max_unused,
                "plugins that no route uses are not loaded until one names them"
            );
        }
        self.folder.unused = count;
    }

    /// Too many plugins that no route uses: this one keeps neither memory nor a file open.
    fn unload(&mut self, name: &str) {
        let policy = self.policies.entry(name.into()).or_default();
        if let Some(loading) = &policy.loading {
            loading.cancel.cancel();
        }
        if policy.unused {
            return;
        }
        policy.unused = true;
        policy.again = true;
        policy.retry = None;
        policy.comeback = None;
        if policy.live.take().is_some() {
            self.publish(name);
        } else {
            self.show(name);
        }
    }

    /// A policy has a file.
    fn with_file(&mut self, name: &str, file: Fingerprint) {
        let used = self.settings.named.contains(name);
        let policy = self.policies.entry(name.into()).or_default();
        if let Some(loading) = &policy.loading {
            // What is on its way is not what is there, or does not go the way that it should.
            if loading.file != Some(file) || loading.used != used {
                loading.cancel.cancel();
            }
            return;
        }
        let change = match policy.seen {
            _ if policy.absent => Change::Deployment,
            None => Change::Again,
            Some(seen) if file.is_deployment_since(&seen) => Change::Deployment,
            Some(seen) if policy.again || seen != file => Change::Again,
            Some(_) => Change::None,
        };
        let deployment = match change {
            Change::None => return,
            Change::Again => false,
            Change::Deployment => true,
        };
        policy.ready_made = false;
        self.order(name, self.settings.file(name), Some(file), deployment);
    }

    /// A policy has no file. What serves stays for now; what does not exist yet may come with the gateway, or have served before.
    fn without_file(&mut self, name: &str) {
        let used = self.settings.named.contains(name);
        let policy = self.policies.entry(name.into()).or_default();
        if let Some(loading) = policy.loading.as_ref().filter(|loading| loading.file.is_some()) {
            loading.cancel.cancel();
        }
        if !policy.settled() {
            return;
        }
        let was_absent = std::mem::replace(&mut policy.absent, true);
        policy.unused = false;
        if policy.live.is_some() && !policy.ready_made && !self.is_gone_for_good(name) {
            return;
        }
        if !used {
            self.forget(name);
            return;
        }
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        match self.loader.ready_made(name) {
            // Tried already: it is the same until the gateway is upgraded.
            Some(_) if policy.ready_made && !policy.again => {}
            Some(source) => {
                let deployment = policy.gone.is_some();
                policy.ready_made = true;
                if deployment {
                    tracing::info!(policy = name, "its file is gone: back to the ready-made policy");
                }
                self.order(name, source, None, deployment);
            }
            None if policy.live.is_some() || was_absent && !policy.again => {}
            None => self.is_missing(name),
        }
    }

    /// The file is gone that what serves came from. Returns whether it has been gone for long enough to serve something else.
    fn is_gone_for_good(&mut self, name: &str) -> bool {
        let Some(policy) = self.policies.get_mut(name) else {
            return false;
        };
        if let Some(since) = policy.gone {
            return since.elapsed() >= GONE;
        }
        policy.gone = Some(Instant::now());
        tracing::warn!(
            policy = name,
            serving = policy.serving(),
            "the plugin file is gone; its last version serves on"
        );
        self.show(name);
        self.look_within(GONE);
        false
    }

    /// Neither a route nor a file speaks of it any more.
    fn forget(&mut self, name: &str) {
        if let Some(policy) = self.policies.remove(name) {
            self.table.remove(name);
            if policy.live.is_some() {
                tracing::info!(policy = name, "a policy without a file that no route uses is unloaded");
                self.publish(name);
            }
            self.changed = true;
        }
    }

    /// A route names a policy that is nowhere; it may have served before.
    fn is_missing(&mut self, name: &str) {
        let why = self
            .loader
            .missing(name, &self.settings.directory, self.folder.files.iter());
        if let Some(policy) = self.policies.get_mut(name) {
            policy.again = false;
            let served_before = policy.candidates().next().is_some();
            policy.gone = served_before.then(Instant::now);
        }
        self.refuse(name, None, &why);
    }

    /// Loads a file, or what comes with the gateway.
    fn order(&mut self, name: &str, source: Source, file: Option<Fingerprint>, deployment: bool) {
        let used = self.settings.named.contains(name);
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let order = self.settings.order(name, source, policy.known(deployment));
        policy.loading = Some(Loading {
            file,
            deployment,
            used,
            configuration: self.configuration,
            cancel: order.cancel.clone(),
            compiling: None,
        });
        let (sender, name) = (self.sender.clone(), name.to_owned());
        self.lanes.load(Job {
            order,
            lane: if used { Lane::Used } else { Lane::Unused },
            limit: self.settings.load_limit(),
            tell: Box::new(move |news| {
                let name = name.clone();
                _ = sender.send(match news {
                    News::Compiling(hash) => Event::Compiling(name, hash),
                    News::Done(outcome, took) => Event::Loaded(name, outcome, took),
                });
            }),
        });
    }
}
