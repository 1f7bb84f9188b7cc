//! Where one policy stands: what serves, what can serve instead, and what became of its file.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::compile::Cancel;
use super::folder::Fingerprint;
use super::history::History;
use super::library::{Compiling, PolicyState, ProblemDetails, RollbackError};
use super::program::Hash;
use super::retry::Retry;
use super::statistics::{Trouble, unix_ms};
use super::store::{PassedOver, ServedPolicy};
use super::version::Version;

/// Where one policy stands.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) live: Option<Arc<Version>>,
    /// When it began to serve.
    pub(super) since_ms: u64,
    /// What is kept to serve instead.
    pub(super) history: History,
    /// What the file holds, if that is neither live nor refused.
    pub(super) passed_over: Option<PassedOver>,
    /// What the file holds, if that may not serve.
    pub(super) refused: Option<Refused>,
    /// What the file holds, or what comes with the gateway where there is none.
    pub(super) content: Option<Hash>,
    /// The file as it was last read.
    pub(super) seen: Option<Fingerprint>,
    /// It had no file at the last look: one that comes is a deployment.
    pub(super) absent: bool,
    /// Since when the file is gone that what serves came from.
    pub(super) gone: Option<Instant>,
    /// It comes with the gateway, and no file replaces it.
    pub(super) ready_made: bool,
    /// It is to be tried although its file is as it was.
    pub(super) again: bool,
    /// No route uses it, and as many as may be are loaded.
    pub(super) unused: bool,
    /// Its file is being tried.
    pub(super) loading: Option<Loading>,
    /// On the way to another version that is kept.
    pub(super) returning: Option<Returning>,
    /// It keeps failing, which could not be looked after yet.
    pub(super) failing: Option<(Hash, Trouble)>,
    /// When a file that was refused for a passing reason is tried again.
    pub(super) retry: Option<Retry>,
    /// A version that was set aside and is probed until it is well.
    pub(super) comeback: Option<Comeback>,
    /// The version that came back last, and after which pause.
    pub(super) came_back: Option<(Comeback, Instant)>,
}

/// A file, or what comes with the gateway, on its way.
pub(super) struct Loading {
    /// The file as it was when this was ordered; `None` for what comes with the gateway.
    pub(super) file: Option<Fingerprint>,
    /// Somebody put it there: it serves whatever was rolled back or set aside before.
    pub(super) deployment: bool,
    /// A route names it.
    pub(super) used: bool,
    /// The configuration that it is tried under.
    pub(super) configuration: u64,
    pub(super) cancel: Cancel,
    pub(super) compiling: Option<Compiling>,
}

/// A file's content that was refused.
pub(super) struct Refused {
    pub(super) why: String,
    /// The content causes it: it is refused until the file or the configuration changes.
    pub(super) by_content: bool,
    pub(super) details: ProblemDetails,
}

/// Why a policy goes to another version that is kept, and what is left to try.
pub(super) struct Returning {
    pub(super) reason: Reason,
    /// What is being loaded.
    pub(super) trying: Option<Hash>,
    /// What else there is, best first.
    pub(super) candidates: VecDeque<Hash>,
}

/// Why a policy goes to another version that is kept.
pub(super) enum Reason {
    /// Nothing serves.
    Nothing,
    /// What serves keeps failing.
    Failing(Failing),
    /// An operator said so.
    Operator(Sender<Result<Hash, RollbackError>>),
    /// What was set aside is probed.
    Comeback,
}

/// A version that keeps failing.
pub(super) struct Failing {
    pub(super) hash: Hash,
    pub(super) trouble: Trouble,
    pub(super) why: String,
}

/// A version that was set aside and is probed until it is well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comeback {
    pub(super) hash: Hash,
    pub(super) trouble: Trouble,
    pub(super) retry: Retry,
}

impl Comeback {
    /// The pauses between probes: short after missed deadlines, which a busy machine may have caused; long after traps, which a probe
    /// has passed before. A version that comes back and fails again soon waits twice as long each time.
    pub(super) fn new(hash: Hash, trouble: Trouble, before: Option<Retry>) -> Self {
        let (first, longest) = match trouble {
            Trouble::Timeouts => (Duration::from_secs(1), Duration::from_secs(60)),
            Trouble::Faults => (Duration::from_secs(30), Duration::from_secs(600)),
        };
        let retry = Retry::next(before, first, longest);
        Self { hash, trouble, retry }
    }
}

/// A version that came back and served so long has earned its credit back.
const WELL: Duration = Duration::from_secs(600);

/// Where all policies stand, as the admin API sees it.
#[derive(Default)]
pub(super) struct Table(Mutex<BTreeMap<String, Row>>);

/// One policy, as the admin API sees it.
#[derive(Clone)]
pub(super) struct Row {
    /// A route names it.
    pub(super) used: bool,
    pub(super) live: Option<Arc<Version>>,
    pub(super) state: PolicyState,
    pub(super) problem: Option<String>,
    pub(super) details: Option<ProblemDetails>,
    pub(super) compiling: Option<Compiling>,
    pub(super) since_ms: u64,
    pub(super) earlier: Vec<Hash>,
    pub(super) newer: Vec<Hash>,
}

impl Standing {
    /// Where it stood before a restart: nothing serves yet.
    pub(super) fn remembered(served: ServedPolicy) -> Self {
        Self {
            history: History::new(&served.newer, served.live, &served.earlier, served.retired),
            passed_over: served.passed_over,
            ..Self::default()
        }
    }

    /// In one word.
    pub(super) fn state(&self) -> PolicyState {
        match (&self.refused, &self.passed_over) {
            _ if self.compiling().is_some() => PolicyState::Compiling,
            _ if self.unused => PolicyState::Unused,
            _ if self.gone.is_some() => PolicyState::FileGone,
            (Some(_), _) => PolicyState::Refused,
            (None, Some(passed_over)) => passed_over.state,
            (None, None) => PolicyState::Live,
        }
    }

    /// Why the file does not serve.
    pub(super) fn problem(&self) -> Option<String> {
        match (&self.refused, &self.passed_over) {
            (Some(refused), _) => Some(refused.why.clone()),
            _ if self.gone.is_some() => Some("the file is gone; its last version serves on".into()),
            (None, Some(passed_over)) => Some(passed_over.why.clone()),
            (None, None) => None,
        }
    }

    /// What the problem is about, and when it is looked at again.
    fn details(&self) -> Option<ProblemDetails> {
        let mut details = match (&self.refused, &self.passed_over) {
            (Some(refused), _) => refused.details.clone(),
            (None, Some(passed_over)) => ProblemDetails {
                version: Some(passed_over.hash),
                ..ProblemDetails::default()
            },
            (None, None) => return None,
        };
        let retry = self.retry.or(self.comeback.map(|comeback| comeback.retry));
        details.retry_at_ms = retry.map(|retry| {
            let wait = retry.at.saturating_duration_since(Instant::now());
            unix_ms() + wait.as_millis() as u64
        });
        Some(details)
    }

    fn compiling(&self) -> Option<&Compiling> {
        self.loading.as_ref()?.compiling.as_ref()
    }

    /// What serves.
    pub(super) fn hash(&self) -> Option<Hash> {
        self.live.as_ref().map(|version| version.hash())
    }

    /// What serves, for a sentence.
    pub(super) fn serving(&self) -> &str {
        self.live.as_ref().map_or("nothing", |version| version.label())
    }

    /// Contents of the file that need no second look: what serves, and, unless somebody put the file there again, what was
    /// refused for its content or passed over.
    pub(super) fn known(&self, deployment: bool) -> Vec<Hash> {
        let refused = self.refused.as_ref().filter(|refused| refused.by_content);
        let refused = refused.and_then(|refused| refused.details.version);
        // With nothing else to serve, what was passed over gets another chance.
        let anything = self.live.is_some() || self.candidates().next().is_some();
        let passed_over = self.passed_over.as_ref().filter(|_| anything);
        let judged = refused
            .into_iter()
            .chain(passed_over.map(|passed_over| passed_over.hash));
        self.hash().into_iter().chain(judged.filter(|_| !deployment)).collect()
    }

    /// What can serve when nothing does, best first.
    pub(super) fn candidates(&self) -> impl Iterator<Item = Hash> {
        let last = self
            .history
            .current()
            .filter(|hash| !self.history.retired().contains(hash));
        let refused = self.refused.as_ref().filter(|refused| refused.by_content);
        let refused = refused.and_then(|refused| refused.details.version);
        let all = last.into_iter().chain(self.history.fallbacks());
        all.filter(move |hash| Some(*hash) != refused)
    }

    /// Nothing is under way.
    pub(super) fn settled(&self) -> bool {
        self.loading.is_none() && self.returning.is_none()
    }

    /// Everything of it that may be needed again.
    pub(super) fn contents(&self) -> impl Iterator<Item = Hash> {
        let refused = self.refused.as_ref().and_then(|refused| refused.details.version);
        let passed_over = self.passed_over.as_ref().map(|passed_over| passed_over.hash);
        let comeback = self.comeback.map(|comeback| comeback.hash);
        self.hash()
            .into_iter()
            .chain(refused)
            .chain(passed_over)
            .chain(comeback)
            .chain(self.history.all())
    }

    /// A version serves from now on.
    pub(super) fn serve(&mut self, version: Arc<Version>) {
        self.live = Some(version);
        self.since_ms = unix_ms();
        self.unused = false;
    }

    /// Whatever was wrong is over: what the file holds serves.
    pub(super) fn is_well(&mut self) {
        self.refused = None;
        self.passed_over = None;
        self.retry = None;
        self.comeback = None;
        self.came_back = None;
    }

    /// Remembers that the file's content must not come back by itself.
    pub(super) fn pass_over(&mut self, state: PolicyState, why: String) {
        let before = self.passed_over.as_ref().map(|before| before.hash);
        if let Some(hash) = self.content.or(before).or(self.hash()) {
            self.passed_over = Some(PassedOver { hash, state, why });
        }
    }

    /// The pause before the last comeback of a version, if it has not been well for long since.
    pub(super) fn last_pause(&self, hash: Hash) -> Option<Retry> {
        let (comeback, at) = self.came_back.as_ref()?;
        (comeback.hash == hash && at.elapsed() < WELL).then_some(comeback.retry)
    }

    /// What the admin API sees of it.
    pub(super) fn row(&self, used: bool) -> Row {
        Row {
            used,
            live: self.live.clone(),
            state: self.state(),
            problem: self.problem(),
            details: self.details(),
            compiling: self.compiling().cloned(),
            since_ms: self.since_ms,
            earlier: self.history.earlier().to_vec(),
            newer: self.history.newer().to_vec(),
        }
    }

    /// What outlives a restart. A version that was set aside for missed deadlines gets a new chance then: another machine, or
    /// another hour.
    pub(super) fn served(&self) -> ServedPolicy {
        let late = self.comeback.filter(|comeback| comeback.trouble == Trouble::Timeouts);
        let kept = |hash: &Hash| late.is_none_or(|late| late.hash != *hash);
        ServedPolicy {
            live: self.history.current(),
            earlier: self.history.earlier().to_vec(),
            newer: self.history.newer().to_vec(),
            retired: self.history.retired().iter().copied().filter(kept).collect(),
            passed_over: self
                .passed_over
                .clone()
                .filter(|passed_over| passed_over.state != PolicyState::SetAside || late.is_none()),
        }
    }
}

impl Table {
    pub(super) fn put(&self, policy: &str, row: Row) {
        self.lock().insert(policy.into(), row);
    }

    pub(super) fn remove(&self, policy: &str) {
        self.lock().remove(policy);
    }

    pub(super) fn rows(&self) -> BTreeMap<String, Row> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
