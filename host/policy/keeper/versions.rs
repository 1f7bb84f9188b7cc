//! Which of the versions that are kept serves: after a failure, a rollback or an activation, and when one that was set aside is well
//! again.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::super::history::NoVersion;
use super::super::lanes::{Job, Lane, News};
use super::super::library::{PolicyState, RollbackError};
use super::super::load::{Outcome, Source};
use super::super::program::Hash;
use super::super::refusal::{Refusal, in_ms};
use super::super::retry::Retry;
use super::super::standing::{Comeback, Failing, Reason, Returning};
use super::super::statistics::Trouble;
use super::super::version::Version;
use super::{Event, Keeper};

/// Somebody who waits for another version to serve.
type Operator = Sender<Result<Hash, RollbackError>>;

/// The pause before a policy that has nothing to serve tries its kept versions again, where a passing reason was in their way: the
/// first one, and the longest.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

impl Keeper {
    /// Where nothing serves, the best kept version does.
    pub(super) fn serve_anything(&mut self, name: &str) {
        let Some(policy) = self.policies.get(name) else { return };
        if policy.live.is_none() && policy.returning.is_none() {
            let candidates = policy.candidates().collect();
            self.go_to(name, Reason::Nothing, candidates);
        }
    }

    /// Begins to go to the first of the `candidates` that loads.
    fn go_to(&mut self, name: &str, reason: Reason, candidates: Vec<Hash>) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        policy.returning = Some(Returning {
            reason,
            trying: None,
            candidates: candidates.into(),
        });
        self.try_next(name, None);
    }

    /// Tries the next version, or gives up: `problem` is what was wrong with the last one.
    fn try_next(&mut self, name: &str, problem: Option<Refusal>) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let Some(mut returning) = policy.returning.take() else {
            return;
        };
        if let Some(hash) = returning.candidates.pop_front() {
            returning.trying = Some(hash);
            policy.returning = Some(returning);
            return self.load_kept(name, hash);
        }
        match returning.reason {
            Reason::Nothing => {
                // Its file, and with it all that is kept, is tried again.
                if problem.is_some_and(|problem| problem.is_passing()) {
                    policy.retry = Some(Retry::next(policy.retry, RETRY, LONGEST_RETRY));
                }
            }
            Reason::Failing(failing) => self.set_aside_for_nothing(name, failing),
            Reason::Operator(answer) => {
                let policy = name.to_owned();
                _ = answer.send(Err(match problem {
                    Some(problem) => RollbackError::Refused {
                        policy,
                        reason: problem.to_string(),
                    },
                    None => RollbackError::NoEarlier(policy),
                }));
            }
            Reason::Comeback => self.put_off_comeback(name, problem),
        }
        self.fail_again(name);
    }

    fn load_kept(&mut self, name: &str, hash: Hash) {
        let order = self.settings.order(name, Source::Kept(hash), Vec::new());
        let (sender, name) = (self.sender.clone(), name.to_owned());
        self.lanes.load(Job {
            order,
            lane: Lane::Earlier,
            limit: self.settings.load_limit(),
            tell: Box::new(move |news| {
                if let News::Done(outcome, _) = news {
                    _ = sender.send(Event::Returned(name.clone(), hash, outcome));
                }
            }),
        });
    }

    /// A kept version was loaded, or could not be.
    pub(super) fn returned(&mut self, name: &str, hash: Hash, outcome: Outcome) {
        let rules = Arc::clone(self.settings.rules(name));
        let alarm = self.alarm(name);
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        // Something else may have taken over meanwhile.
        let Some(returning) = policy.returning.as_ref().filter(|way| way.trying == Some(hash)) else {
            return;
        };
        let program = match outcome.program {
            Ok(Some(program)) => program,
            Ok(None) => return,
            Err(refusal) => {
                if !matches!(returning.reason, Reason::Comeback) {
                    tracing::error!(
                        policy = name,
                        version = hash.short(),
                        "a kept version cannot serve: {refusal}"
                    );
                }
                return self.try_next(name, Some(refusal));
            }
        };
        let Some(Returning { reason, .. }) = policy.returning.take() else {
            return;
        };
        let version = Arc::new(Version::new(name, program, rules, alarm));
        let answer = self.take_over(name, &version, reason);
        if let Some(policy) = self.policies.get_mut(name) {
            policy.serve(version);
        }
        self.publish(name);
        if let Some(answer) = answer {
            // An operator who is told that it is done may restart the gateway at once.
            self.tidy();
            _ = answer.send(Ok(hash));
        }
        self.fail_again(name);
    }

    /// Notes why a kept version serves from now on. Returns who waits for it.
    fn take_over(&mut self, name: &str, version: &Version, reason: Reason) -> Option<Operator> {
        let policy = self.policies.get_mut(name)?;
        let (hash, label, before) = (version.hash(), version.label(), policy.serving().to_owned());
        match reason {
            Reason::Nothing => {
                tracing::warn!(policy = name, version = label, "the last good version serves");
                policy.history.fall_back(hash);
                if policy.refused.as_ref().is_none_or(|refused| refused.by_content) {
                    policy.retry = None;
                }
                None
            }
            Reason::Failing(failing) => {
                let why = &failing.why;
                tracing::error!(
                    policy = name,
                    version = label,
                    before,
                    "set aside for its last good version: {why}"
                );
                policy.pass_over(PolicyState::SetAside, failing.why.clone());
                policy.history.retire(failing.hash);
                policy.history.fall_back(hash);
                // A trap is the code's own doing, and there is a better version; a missed deadline may have been the machine's.
                if failing.trouble == Trouble::Timeouts {
                    self.plan_comeback(name, &failing);
                }
                None
            }
            Reason::Operator(answer) => {
                let back = policy.history.earlier().contains(&hash);
                let (what, of) = if back {
                    ("rolled back", "from")
                } else {
                    ("activated", "in place of")
                };
                tracing::warn!(policy = name, version = label, before, "{what}");
                policy.history.activate(hash);
                let content = policy.content;
                policy.is_well();
                policy.failing = None;
                if content != Some(hash) {
                    let why = format!("{what} {of} {before}; it serves until the file is written again");
                    policy.pass_over(PolicyState::RolledBack, why);
                }
                Some(answer)
            }
            Reason::Comeback => {
                self.come_back(name, version);
                None
            }
        }
    }

    /// A version that was set aside has answered its probe. It has little credit.
    fn come_back(&mut self, name: &str, version: &Version) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let before = policy.serving().to_owned();
        let took = version
            .measured()
            .map(|measured| in_ms(measured.took))
            .unwrap_or_default();
        let (label, deadline) = (version.label(), in_ms(version.rules().deadline));
        tracing::warn!(
            policy = name,
            version = label,
            before,
            took,
            deadline,
            "well again after it was set aside, and live"
        );
        version.statistics.start_on_probation();
        let hash = version.hash();
        policy.history.activate(hash);
        if let Some(comeback) = policy.comeback.take() {
            policy.came_back = Some((comeback, std::time::Instant::now()));
        }
        let rolled_back = policy.content.is_some_and(|content| content != hash);
        if rolled_back {
            let why = format!("{label} serves until the file is written again");
            policy.pass_over(PolicyState::RolledBack, why);
        } else {
            policy.passed_over = None;
        }
    }

    /// A version keeps failing.
    pub(super) fn failing(&mut self, name: &str, hash: Hash, trouble: Trouble) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        if policy.returning.is_some() {
            policy.failing = Some((hash, trouble));
            return;
        }
        let Some(live) = policy.live.as_ref().filter(|live| live.hash() == hash) else {
            return;
        };
        let last = live.statistics.last_error().map(|last| last.error).unwrap_or_default();
        let why = format!("{} keeps failing: {last}", live.label());
        let candidates = policy.history.fallbacks().filter(|other| *other != hash).collect();
        self.go_to(name, Reason::Failing(Failing { hash, trouble, why }), candidates);
    }

    /// Looks after a failure that had to wait.
    fn fail_again(&mut self, name: &str) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        if policy.returning.is_none()
            && let Some((hash, trouble)) = policy.failing.take()
        {
            self.failing(name, hash, trouble);
        }
    }

    /// A version keeps failing, and nothing else can serve: the policy is bypassed until it is well again.
    fn set_aside_for_nothing(&mut self, name: &str, failing: Failing) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let (why, version) = (&failing.why, policy.serving());
        tracing::error!(
            policy = name,
            version,
            "set aside, and there is no earlier version: {why}"
        );
        policy.pass_over(PolicyState::SetAside, failing.why.clone());
        policy.live = None;
        policy.history.retire(failing.hash);
        policy.history.stop();
        self.plan_comeback(name, &failing);
        self.publish(name);
    }

    fn plan_comeback(&mut self, name: &str, failing: &Failing) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let comeback = Comeback::new(failing.hash, failing.trouble, policy.last_pause(failing.hash));
        let pause_s = comeback.retry.pause().as_secs();
        tracing::info!(
            policy = name,
            version = failing.hash.short(),
            pause_s,
            "it is probed after a pause"
        );
        policy.comeback = Some(comeback);
    }

    pub(super) fn try_comeback(&mut self, name: &str) {
        if let Some(comeback) = self.policies.get(name).and_then(|policy| policy.comeback) {
            self.go_to(name, Reason::Comeback, vec![comeback.hash]);
        }
    }

    /// What was set aside is not well yet.
    fn put_off_comeback(&mut self, name: &str, problem: Option<Refusal>) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        let Some(Comeback { hash, trouble, retry }) = policy.comeback else {
            return;
        };
        let comeback = Comeback::new(hash, trouble, Some(retry));
        let (version, pause_s) = (hash.short(), comeback.retry.pause().as_secs());
        let problem = problem.map(|problem| problem.to_string()).unwrap_or_default();
        tracing::warn!(policy = name, version, pause_s, "still set aside: {problem}");
        policy.comeback = Some(comeback);
        self.show(name);
    }

    pub(super) fn rollback(&mut self, name: &str, answer: Operator) {
        let Some(policy) = self.policies.get(name) else {
            _ = answer.send(Err(RollbackError::Unknown(name.into())));
            return;
        };
        let candidates = policy.history.fallbacks().collect();
        self.obey(name, candidates, answer);
    }

    pub(super) fn activate(&mut self, name: &str, version: &str, answer: Operator) {
        let (policy, version) = (name.to_owned(), version.to_owned());
        let found = match self.policies.get(name) {
            None => Err(RollbackError::Unknown(policy)),
            Some(standing) => standing.history.find(&version).map_err(|no| match no {
                NoVersion::Unknown => RollbackError::NoVersion { policy, version },
                NoVersion::Ambiguous => RollbackError::Ambiguous { policy, version },
            }),
        };
        match found {
            Err(error) => _ = answer.send(Err(error)),
            Ok(hash) => self.obey(name, vec![hash], answer),
        }
    }

    /// Goes where an operator wants it.
    fn obey(&mut self, name: &str, candidates: Vec<Hash>, answer: Operator) {
        let Some(policy) = self.policies.get_mut(name) else {
            return;
        };
        if let Some(live) = policy.hash().filter(|live| candidates == [*live]) {
            tracing::info!(policy = name, version = live.short(), "activated; it serves already");
            _ = answer.send(Ok(live));
            return;
        }
        // A probe of what was set aside, or a way to anything at all, can wait; another operator's word stands.
        if let Some(returning) = &policy.returning
            && matches!(returning.reason, Reason::Operator(_) | Reason::Failing(_))
        {
            let reason = "it is going to another version already".into();
            let policy = name.into();
            _ = answer.send(Err(RollbackError::Refused { policy, reason }));
            return;
        }
        self.go_to(name, Reason::Operator(answer), candidates);
    }
}
