//! What becomes of a file that was loaded, or could not be.

use std::sync::Arc;
use std::time::Duration;

use super::super::library::{Compiling, PolicyState, ProblemDetails, RollbackError};
use super::super::load::Outcome;
use super::super::program::{Hash, Program};
use super::super::refusal::{Refusal, in_ms, room};
use super::super::retry::Retry;
use super::super::standing::{Loading, Reason, Refused, Returning};
use super::super::statistics::unix_ms;
use super::super::version::Version;
use super::{DEBOUNCE, Keeper, UNFINISHED};
use crate::config::nearest;

/// The pause before a plugin that was refused for a passing reason is tried again: the first one, and the longest.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// What takes long is tried again so many times later than that: at most a tenth of one processor goes into trying.
const RETRY_SHARE: u32 = 10;

impl Keeper {
    /// A plugin was never loaded before.
    pub(super) fn compiling(&mut self, name: &str, hash: Hash) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let serving = policy.serving().to_owned();
        if let Some(loading) = &mut policy.loading {
            tracing::info!(policy = name, version = hash.short(), serving, "compiling");
            loading.compiling = Some(Compiling {
                version: hash,
                since_ms: unix_ms(),
            });
            self.show(name);
        }
    }

    /// A file, or what comes with the gateway, went all the way or was refused.
    pub(super) fn loaded(&mut self, name: &str, outcome: Outcome, took: Duration) {
        let starting = !self.waiting.is_empty();
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let Some(loading) = policy.loading.take() else { return };
        if let Err(refusal) = &outcome.program {
            // The file, or the rules that it was tried under, are not those of now.
            if *refusal == Refusal::Outdated || loading.configuration != self.configuration {
                if let Some(compiling) = &loading.compiling {
                    let version = compiling.version.short();
                    tracing::info!(
                        policy = name,
                        version,
                        "no longer compiling: the file or the configuration changed"
                    );
                }
                policy.ready_made = false;
                policy.again |= loading.file.is_none();
                self.show(name);
                return self.look();
            }
            let unfinished = refusal.may_be_unfinished() && !starting;
            if let Some(wait) = outcome
                .fingerprint
                .and_then(|found| UNFINISHED.checked_sub(found.age()?))
                .filter(|_| unfinished)
            {
                tracing::debug!(policy = name, %refusal, "the plugin file may be unfinished; it is looked at again");
                return self.look_within(wait.max(DEBOUNCE));
            }
        }
        self.judge(name, &loading, outcome, took);
        // The file may have changed meanwhile.
        self.look_within(Duration::ZERO);
    }

    fn judge(&mut self, name: &str, loading: &Loading, outcome: Outcome, took: Duration) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        policy.seen = outcome.fingerprint;
        policy.content = outcome.hash.or(policy.content);
        policy.again = false;
        if loading.file.is_some() {
            policy.absent = false;
        }
        if loading.file.is_some() || outcome.program.is_ok() {
            policy.gone = None;
        }
        if loading.deployment {
            // Whatever was said of this content before, somebody wants it now.
            policy.refused = None;
            policy.retry = None;
        }
        match (outcome.program, outcome.hash) {
            (Ok(Some(program)), _) => self.go_live(name, program),
            (Ok(None), Some(hash)) => self.known_content(name, hash, loading.deployment && loading.file.is_some()),
            (Err(refusal), hash) => {
                self.refuse(name, hash, &refusal);
                self.try_again_later(name, &refusal, took);
            }
            (Ok(None), None) => {}
        }
    }

    /// The file has a content that was judged before.
    fn known_content(&mut self, name: &str, hash: Hash, written: bool) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        if policy.hash() == Some(hash) {
            if written {
                let serving = policy.serving();
                tracing::info!(
                    policy = name,
                    serving,
                    "the plugin file was written again; its content serves already"
                );
            }
            policy.is_well();
            self.changed = true;
        } else if policy
            .passed_over
            .as_ref()
            .is_some_and(|passed_over| passed_over.hash == hash)
        {
            policy.refused = None;
        }
        self.serve_anything(name);
        self.show(name);
    }

    pub(super) fn refuse(&mut self, name: &str, hash: Option<Hash>, refusal: &Refusal) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let why = refusal.to_string();
        // Said once for each content, and again when somebody puts it there again.
        if policy
            .refused
            .as_ref()
            .is_none_or(|before| before.why != why || before.details.version != hash)
        {
            let version = hash.map(|hash| hash.short()).unwrap_or_default();
            tracing::error!(
                policy = name,
                version,
                serving = policy.serving(),
                "plugin refused: {why}"
            );
        }
        policy.refused = Some(Refused {
            why,
            by_content: !refusal.is_passing(),
            details: ProblemDetails {
                version: hash,
                file_modified_ms: policy.seen.and_then(|seen| seen.modified_ms()),
                at_ms: unix_ms(),
                guest_log: refusal.said().to_vec(),
                retry_at_ms: None,
            },
        });
        self.serve_anything(name);
        self.show(name);
    }

    /// What was refused for a passing reason is tried again after a pause.
    fn try_again_later(&mut self, name: &str, refusal: &Refusal, took: Duration) {
        let Some(policy) = self.policies.get_mut(name).filter(|_| refusal.is_passing()) else {
            return;
        };
        let retry = Retry::next(policy.retry, RETRY.max(took * RETRY_SHARE), LONGEST_RETRY);
        policy.retry = Some(retry);
        tracing::info!(
            policy = name,
            pause_s = retry.pause().as_secs(),
            "the plugin is tried again after a pause"
        );
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
        self.tell_live(name, &version);
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        if let Some(Returning {
            reason: Reason::Operator(answer),
            ..
        }) = policy.returning.take()
        {
            let reason = "the plugin file changed meanwhile, and what is new serves".into();
            let _ = answer.send(Err(RollbackError::Refused {
                policy: name.into(),
                reason,
            }));
        }
        policy.history.deploy(version.hash(), self.settings.keep_versions);
        policy.failing = None;
        policy.is_well();
        policy.serve(version);
        self.publish(name);
    }

    fn tell_live(&self, name: &str, version: &Version) {
        let Some(policy) = self.policies.get(name) else { return };
        let (label, deadline) = (version.label(), in_ms(version.rules().deadline));
        let took = version
            .measured()
            .map(|measured| in_ms(measured.took))
            .unwrap_or_default();
        let before = policy.live.as_ref().map(|before| before.label());
        let returns = policy
            .passed_over
            .as_ref()
            .filter(|passed_over| passed_over.hash == version.hash());
        if !self.settings.named.contains(name) {
            return self.tell_unused_policy(name, version);
        }
        match returns.map(|passed_over| passed_over.state) {
            None => tracing::info!(policy = name, version = label, before, took, deadline, "policy live"),
            Some(state) => {
                let was = if state == PolicyState::RolledBack {
                    "rolled back"
                } else {
                    "set aside"
                };
                tracing::info!(
                    policy = name,
                    version = label,
                    before,
                    took,
                    deadline,
                    was,
                    "policy live again"
                );
            }
        }
        let written = version.configured().deadline_written;
        if let Some(measured) = version.measured()
            && written
            && measured.took * 2 > version.rules().deadline
        {
            let enough = room(measured.took).as_millis();
            tracing::warn!(
                policy = name,
                "a decision takes {took} of the {deadline} that deadline_ms allows, so that a busy machine makes it miss that; \
                 write deadline_ms = {enough} or isolation = \"reuse\" under [policy.{name}]"
            );
        }
    }

    /// A plugin that no route uses is ready for one. What comes with the gateway lies in the folder for everybody, and is not
    /// spoken of.
    fn tell_unused_policy(&self, name: &str, version: &Version) {
        let label = version.label();
        if self.loader.is_ready_made(name, version.hash()) {
            return tracing::debug!(policy = name, version = label, "ready, and no route uses it");
        }
        let named: Vec<&str> = self.settings.named.iter().map(String::as_str).collect();
        match nearest(name, &named) {
            Some(near) => tracing::warn!(
                policy = name,
                version = label,
                "ready, but no route uses it; routes name `{near}`: is {near}.wasm meant?"
            ),
            None => tracing::info!(policy = name, version = label, "ready, and no route uses it"),
        }
    }
}
