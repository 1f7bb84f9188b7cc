//! Where one policy stands: what serves, what served before it, and what became of its file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::folder::Fingerprint;
use super::library::{PolicyState, RollbackError};
use super::program::Hash;
use super::statistics::unix_ms;
use super::store::{PassedOver, ServedPolicy};
use super::version::Version;

/// Where one policy stands.
#[derive(Default)]
pub(super) struct Standing {
    pub(super) live: Option<Arc<Version>>,
    /// When it began to serve.
    pub(super) since_ms: u64,
    /// Good versions before it, newest first.
    pub(super) earlier: Vec<Hash>,
    /// What the file holds, if that is neither live nor refused.
    pub(super) passed_over: Option<PassedOver>,
    /// What the file holds, if that may not serve.
    pub(super) refused: Option<Refused>,
    /// The file was there once and is not any more.
    pub(super) gone: bool,
    /// The file as it was last read.
    pub(super) seen: Option<Fingerprint>,
    /// It comes with the gateway, and no file replaces it.
    pub(super) ready_made: bool,
    /// Its file is being tried.
    pub(super) loading: bool,
    /// On the way to an earlier version.
    pub(super) returning: Option<Returning>,
}

/// A file's content that was refused.
pub(super) struct Refused {
    /// None, if it could not be read.
    pub(super) hash: Option<Hash>,
    pub(super) why: String,
}

/// Why a policy goes to an earlier version, and what is left to try.
pub(super) struct Returning {
    pub(super) reason: Reason,
    /// Newest first.
    pub(super) candidates: VecDeque<Hash>,
}

/// Why a policy goes to an earlier version.
pub(super) enum Reason {
    /// Nothing serves.
    Nothing,
    /// What serves keeps failing.
    Failing(String),
    /// An operator said so.
    Rollback(Sender<Result<Hash, RollbackError>>),
}

/// Where all policies stand, as the admin API sees it.
#[derive(Default)]
pub(super) struct Table(Mutex<BTreeMap<String, Row>>);

/// One policy, as the admin API sees it.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) live: Option<Arc<Version>>,
    pub(super) state: PolicyState,
    pub(super) problem: Option<String>,
    pub(super) since_ms: u64,
    pub(super) earlier: Vec<Hash>,
}

impl Standing {
    /// Where it stood before a restart: nothing serves yet.
    pub(super) fn remembered(served: ServedPolicy) -> Self {
        let earlier = served.live.into_iter().chain(served.earlier).collect();
        Self {
            earlier,
            passed_over: served.passed_over,
            ..Self::default()
        }
    }

    /// In one word.
    pub(super) fn state(&self) -> PolicyState {
        match (&self.refused, &self.passed_over) {
            _ if self.gone => PolicyState::FileGone,
            (Some(_), _) => PolicyState::Refused,
            (None, Some(passed_over)) => passed_over.state,
            (None, None) => PolicyState::Live,
        }
    }

    /// Why the file does not serve.
    pub(super) fn problem(&self) -> Option<String> {
        match (&self.refused, &self.passed_over) {
            (Some(refused), _) => Some(refused.why.clone()),
            _ if self.gone => Some("the file is gone; its last version serves on".into()),
            (None, Some(passed_over)) => Some(passed_over.why.clone()),
            (None, None) => None,
        }
    }

    /// What serves.
    pub(super) fn hash(&self) -> Option<Hash> {
        self.live.as_ref().map(|version| version.hash())
    }

    /// What serves, for a sentence.
    pub(super) fn serving(&self) -> &str {
        self.live.as_ref().map_or("nothing", |version| version.label())
    }

    /// Contents of the file that were judged before: what serves, what was refused, what was passed over.
    pub(super) fn known(&self) -> Vec<Hash> {
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

    /// Nothing is under way.
    pub(super) fn settled(&self) -> bool {
        !self.loading && self.returning.is_none()
    }

    /// Everything of it that may be needed again.
    pub(super) fn contents(&self) -> impl Iterator<Item = Hash> {
        let refused = self.refused.as_ref().and_then(|refused| refused.hash);
        let passed_over = self.passed_over.as_ref().map(|passed_over| passed_over.hash);
        self.hash()
            .into_iter()
            .chain(refused)
            .chain(passed_over)
            .chain(self.earlier.iter().copied())
    }

    /// Makes a version live. What served before it is for the caller to put among the earlier ones.
    pub(super) fn serve(&mut self, version: Arc<Version>, keep_versions: usize) {
        let mut seen = BTreeSet::from([version.hash()]);
        self.earlier.retain(|hash| seen.insert(*hash));
        self.earlier.truncate(keep_versions);
        self.live = Some(version);
        self.since_ms = unix_ms();
    }

    /// Remembers that what serves must not come back by itself while the file is the same.
    pub(super) fn pass_over(&mut self, state: PolicyState, why: String) {
        // The file's content stays passed over when a version before it is left, too.
        let hash = self.passed_over.as_ref().map(|before| before.hash).or(self.hash());
        if let Some(hash) = hash {
            self.passed_over = Some(PassedOver { hash, state, why });
        }
    }

    /// What the admin API sees of it.
    pub(super) fn row(&self) -> Row {
        Row {
            live: self.live.clone(),
            state: self.state(),
            problem: self.problem(),
            since_ms: self.since_ms,
            earlier: self.earlier.clone(),
        }
    }

    /// What outlives a restart.
    pub(super) fn served(&self) -> ServedPolicy {
        let (live, earlier) = match self.hash() {
            Some(live) => (Some(live), self.earlier.as_slice()),
            // Not tried yet, or nothing left: what was remembered of it stays.
            None => (self.earlier.first().copied(), self.earlier.get(1..).unwrap_or_default()),
        };
        ServedPolicy {
            live,
            earlier: earlier.to_vec(),
            passed_over: self.passed_over.clone(),
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
