//! The versions of one policy that are kept, in the order in which they were deployed. Each of them can serve again.

use std::collections::BTreeSet;

use super::program::Hash;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct History {
    /// Newest deployment first.
    versions: Vec<Hash>,
    /// What serves, or served last.
    current: Option<Hash>,
    /// What an operator went back from, or what kept failing: it serves again when an operator or a new file says so, or when it
    /// proves that it is well, but nothing goes back to it.
    retired: BTreeSet<Hash>,
}

/// Why the beginning of a hash names no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoVersion {
    Unknown,
    /// Several begin with it.
    Ambiguous,
}

impl History {
    /// From what a restart finds: the version that served, those newer and those earlier than it.
    pub(super) fn new(newer: &[Hash], current: Option<Hash>, earlier: &[Hash], retired: BTreeSet<Hash>) -> Self {
        Self {
            versions: newer.iter().chain(&current).chain(earlier).copied().collect(),
            current,
            retired,
        }
    }

    /// What serves, or served last.
    pub(super) fn current(&self) -> Option<Hash> {
        self.current
    }

    /// All of them, newest deployment first.
    pub(super) fn all(&self) -> impl Iterator<Item = Hash> {
        self.versions.iter().copied()
    }

    /// Those that were deployed after what serves, newest first.
    pub(super) fn newer(&self) -> &[Hash] {
        &self.versions[..self.position()]
    }

    /// Those that were deployed before what serves, newest first; all of them when nothing does.
    pub(super) fn earlier(&self) -> &[Hash] {
        let skip = self.position() + usize::from(self.current.is_some());
        self.versions.get(skip..).unwrap_or_default()
    }

    /// What nothing goes back to by itself.
    pub(super) fn retired(&self) -> &BTreeSet<Hash> {
        &self.retired
    }

    /// What to go back to, best first.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = Hash> {
        let earlier = self.earlier().iter().copied();
        earlier.filter(|hash| !self.retired.contains(hash))
    }

    /// The version whose hash begins so.
    pub(super) fn find(&self, beginning: &str) -> Result<Hash, NoVersion> {
        let beginning = beginning.to_ascii_lowercase();
        let mut found = self.all().filter(|hash| hash.to_string().starts_with(&beginning));
        match (found.next(), found.next()) {
            (None, _) => Err(NoVersion::Unknown),
            (Some(hash), None) => Ok(hash),
            (Some(_), Some(_)) => Err(NoVersion::Ambiguous),
        }
    }

    /// A new version serves. What served before comes next, and at most `keep` versions stay besides the new one.
    pub(super) fn deploy(&mut self, hash: Hash, keep: usize) {
        let before = self.current.replace(hash);
        let mut seen = BTreeSet::new();
        let order = [hash].into_iter().chain(before).chain(self.versions.drain(..));
        self.versions = order.filter(|hash| seen.insert(*hash)).take(keep + 1).collect();
        self.retired.remove(&hash);
        self.retired.retain(|hash| self.versions.contains(hash));
    }

    /// A kept version serves. What it takes the place of is retired if it is newer: somebody went back from it.
    pub(super) fn activate(&mut self, hash: Hash) {
        let older = self.earlier().contains(&hash);
        if let Some(before) = self.current.replace(hash)
            && older
        {
            self.retired.insert(before);
        }
        self.retired.remove(&hash);
        if !self.versions.contains(&hash) {
            self.versions.insert(0, hash);
        }
    }

    /// A kept version serves because there is nothing else to.
    pub(super) fn fall_back(&mut self, hash: Hash) {
        self.current = Some(hash);
    }

    /// A version keeps failing.
    pub(super) fn retire(&mut self, hash: Hash) {
        self.retired.insert(hash);
    }

    /// Nothing serves any more, and nothing should.
    pub(super) fn stop(&mut self) {
        self.current = None;
    }

    /// Where what serves stands.
    fn position(&self) -> usize {
        let current = |hash: &Hash| Some(*hash) == self.current;
        self.versions.iter().position(current).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: &str) -> Hash {
        Hash::of(name.as_bytes())
    }

    /// A history in which these were deployed one after another.
    fn deployed(names: &[&str]) -> History {
        let mut history = History::default();
        names.iter().for_each(|name| history.deploy(hash(name), 5));
        history
    }

    fn hashes<const N: usize>(names: [&str; N]) -> [Hash; N] {
        names.map(hash)
    }

    #[test]
    fn a_rollback_can_be_undone() {
        let mut history = deployed(&["a", "b", "c"]);
        assert_eq!(history.earlier(), hashes(["b", "a"]));
        history.activate(hash("b"));
        assert_eq!(
            (history.newer(), history.earlier()),
            (&hashes(["c"])[..], &hashes(["a"])[..])
        );
        history.activate(hash("a"));
        assert_eq!((history.newer(), history.earlier()), (&hashes(["c", "b"])[..], &[][..]));
        history.activate(hash("c"));
        assert_eq!(history.current(), Some(hash("c")));
        assert_eq!(history.earlier(), hashes(["b", "a"]));
    }

    #[test]
    fn nothing_goes_back_to_what_was_rolled_back_from() {
        let mut history = deployed(&["a", "b", "c"]);
        history.activate(hash("b"));
        history.deploy(hash("d"), 5);
        assert_eq!(
            history.earlier(),
            hashes(["b", "c", "a"]),
            "what served before comes next"
        );
        assert!(history.fallbacks().eq(hashes(["b", "a"])));
        assert_eq!(
            history.find(&hash("c").to_string()),
            Ok(hash("c")),
            "but it can be activated"
        );
        history.deploy(hash("c"), 5);
        history.deploy(hash("e"), 5);
        assert!(
            history.fallbacks().eq(hashes(["c", "d", "b", "a"])),
            "deployed again, it counts again"
        );
    }

    #[test]
    fn as_many_are_kept_as_configured() {
        let mut history = deployed(&["a", "b"]);
        history.retire(hash("a"));
        history.deploy(hash("c"), 1);
        assert!(history.all().eq(hashes(["c", "b"])));
        assert!(history.retired().is_empty(), "what is gone is not remembered");
        history.deploy(hash("d"), 0);
        assert!(history.earlier().is_empty());
    }

    #[test]
    fn a_version_is_found_by_the_beginning_of_its_hash() {
        let history = deployed(&["a", "b"]);
        let beginning = &hash("a").to_string()[..8];
        assert_eq!(history.find(&beginning.to_uppercase()), Ok(hash("a")));
        assert_eq!(history.find("no hash"), Err(NoVersion::Unknown));
        assert_eq!(history.find(""), Err(NoVersion::Ambiguous));
    }

    #[test]
    fn a_restart_finds_it_as_it_was() {
        let mut history = deployed(&["a", "b", "c"]);
        history.activate(hash("b"));
        let again = History::new(
            history.newer(),
            history.current(),
            history.earlier(),
            history.retired().clone(),
        );
        assert_eq!(again, history);
        history.stop();
        assert_eq!(
            (history.newer(), history.earlier()),
            (&[][..], &hashes(["c", "b", "a"])[..])
        );
    }
}
