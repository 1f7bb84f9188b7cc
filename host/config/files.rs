//! The files that a configuration names, by what they held when it was read: a reload compares them, so that a key or a certificate
//! that was replaced counts as a change.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::file;

/// Tells one content from another without keeping it. Never printed: short contents could be guessed from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// Files by path, with what they held; `None`: they could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedFiles(BTreeMap<PathBuf, Option<Digest>>);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

impl NamedFiles {
    /// Takes a file with what it held; `None`: it could not be read.
    pub fn insert(&mut self, path: &Path, content: Option<&[u8]>) {
        self.0.insert(path.to_owned(), content.map(Digest::of));
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// The same files with what they hold now.
    pub fn look_again(&self) -> Self {
        let look = |path: &PathBuf| (path.clone(), file::bytes(path).ok().map(|bytes| Digest::of(&bytes)));
        Self(self.0.keys().map(look).collect())
    }

    /// Those that differ from what they were `before`, of which some are new.
    pub fn changed_since(&self, before: &Self) -> Vec<&Path> {
        let changed = self
            .0
            .iter()
            .filter(|(path, digest)| before.0.get(*path) != Some(digest));
        changed.map(|(path, _)| path.as_path()).collect()
    }

    /// Those that were there `before` and cannot be read now.
    pub fn gone_since(&self, before: &Self) -> Vec<&Path> {
        let was_there = |path: &PathBuf| before.0.get(path).is_some_and(Option::is_some);
        let gone = self.0.iter().filter(|(path, now)| now.is_none() && was_there(path));
        gone.map(|(path, _)| path.as_path()).collect()
    }

    /// Takes what these files hold from `others`, where they are there too.
    pub fn take_over(&mut self, others: &Self) {
        for (path, content) in &mut self.0 {
            if let Some(other) = others.0.get(path) {
                *content = *other;
            }
        }
    }
}

impl<P: Into<PathBuf>> FromIterator<P> for NamedFiles {
    /// Files of which nothing is known yet.
    fn from_iter<I: IntoIterator<Item = P>>(paths: I) -> Self {
        Self(paths.into_iter().map(|path| (path.into(), None)).collect())
    }
}
