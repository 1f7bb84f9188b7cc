//! Watches folders for changes. Editors, rsync, `mv` and mounted volumes all replace files differently, so an event says only that it
//! is time to look. Where the system has no events to give, that is said once, and whoever watches looks now and then instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};

/// Watches a set of folders.
pub struct Watch {
    /// What is in the folders, for the log.
    what: &'static str,
    /// `None`: this system has no events.
    watcher: Option<Box<dyn Watcher + Send>>,
    /// Folders without links in their paths, and which folder has the path: another one may have taken its name.
    watched: BTreeMap<PathBuf, Identity>,
    is_warned: bool,
}

/// Device and inode.
type Identity = (u64, u64);

/// How many links a path may lead through, as on Linux.
const MAX_LINKS: usize = 40;

impl Watch {
    /// Calls `event` for every event in the folders that are watched from then on.
    pub fn new(what: &'static str, event: impl Fn() + Send + 'static) -> Self {
        let watcher = notify::recommended_watcher(move |found: notify::Result<notify::Event>| {
            // Our own look opens files and folders; that must not be a reason to look again.
            if !found.is_ok_and(|found| is_read(found.kind)) {
                event();
            }
        });
        match watcher {
            Ok(watcher) => Self::with(what, Some(Box::new(watcher))),
            Err(error) => {
                let mut watch = Self::with(what, None);
                watch.warn(&error);
                watch
            }
        }
    }

    fn with(what: &'static str, watcher: Option<Box<dyn Watcher + Send>>) -> Self {
        Self {
            what,
            watcher,
            watched: BTreeMap::new(),
            is_warned: false,
        }
    }

    /// Watches these folders and no others, as far as they exist. Cheap where nothing has changed.
    pub fn aim(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeMap<_, _> = folders.iter().filter_map(|folder| identify(folder)).collect();
        self.watched.retain(|path, identity| {
            let is_wanted = wanted.get(path) == Some(identity);
            if !is_wanted {
                // It may be gone, and its watch with it.
                let _ = watcher.unwatch(path);
            }
            is_wanted
        });
        let mut failed = None;
        for (path, identity) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.watched.insert(path, identity),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            self.warn(&error);
        }
    }

    /// Once: it is looked again all the time.
    fn warn(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.is_warned, true) {
            tracing::warn!(%error, "no file events for {}; it is looked at every few seconds instead", self.what);
        }
    }
}

/// The folders in which a change can change what a path leads to: that of the file, and those of all links on the way.
pub fn folders_of(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let mut paths = vec![path.to_owned()];
    let mut links = 0;
    while let Some(path) = paths.pop() {
        folders.extend(path.parent().map(Path::to_owned));
        for part in path.ancestors() {
            let Some(parent) = part.parent() else { continue };
            let Ok(target) = fs::read_link(part) else { continue };
            links += 1;
            folders.insert(parent.to_owned());
            if links <= MAX_LINKS {
                paths.push(parent.join(target));
            }
        }
    }
    folders
}

fn identify(folder: &Path) -> Option<(PathBuf, Identity)> {
    // An empty path is the folder that the process works in.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let path = folder.canonicalize().ok()?;
    let found = fs::metadata(&path).ok()?;
    Some((path, (found.dev(), found.ino())))
}

fn is_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::time::Duration;

    use notify::{Config, Error, ErrorKind, EventHandler, WatcherKind};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// A system whose watches are all taken.
    struct Exhausted;

    impl Watcher for Exhausted {
        fn new<F: EventHandler>(_: F, _: Config) -> notify::Result<Self> {
            Ok(Self)
        }

        fn watch(&mut self, _: &Path, _: RecursiveMode) -> notify::Result<()> {
            Err(Error::new(ErrorKind::MaxFilesWatch))
        }

        fn unwatch(&mut self, _: &Path) -> notify::Result<()> {
            Err(Error::watch_not_found())
        }

        fn kind() -> WatcherKind {
            WatcherKind::NullWatcher
        }
    }

    /// Takes the log's lines.
    #[derive(Clone)]
    struct Lines(mpsc::Sender<String>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn it_is_said_once_that_there_are_no_watches_left() {
        let folder = tempfile::tempdir().unwrap();
        let folders = BTreeSet::from([folder.path().to_owned()]);
        let (sender, lines) = mpsc::channel();
        let log = tracing_subscriber::fmt().with_writer(Lines(sender)).finish();
        tracing::subscriber::with_default(log, || {
            let mut watch = Watch::with("the files of this test", Some(Box::new(Exhausted)));
            for _ in 0..5 {
                watch.aim(&folders);
            }
        });
        let lines: Vec<_> = lines.iter().collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("the files of this test"), "{lines:?}");
    }

    #[test]
    fn a_change_in_any_folder_on_the_way_is_an_event() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for folder in ["volume", "volume/..one", "volume/..two", "elsewhere"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("volume/..one/key"), "1").unwrap();
        fs::write(at("volume/..two/key"), "2").unwrap();
        symlink("..one", at("volume/..data")).unwrap();
        symlink("..data/key", at("volume/key")).unwrap();
        symlink(at("volume"), at("elsewhere/link")).unwrap();
        let (sender, events) = mpsc::channel();
        let mut watch = Watch::new("the files of this test", move || _ = sender.send(()));
        watch.aim(&folders_of(&at("elsewhere/link/key")));
        assert!(watch.watched.len() >= 3, "{:?}", watch.watched);
        let arrives = |what: &str| {
            let first = events.recv_timeout(Duration::from_secs(30));
            assert_eq!(first, Ok(()), "no event for {what}");
            while events.recv_timeout(Duration::from_millis(100)).is_ok() {}
        };
        symlink("..two", at("volume/..next")).unwrap();
        fs::rename(at("volume/..next"), at("volume/..data")).unwrap();
        arrives("a swapped link of a mounted volume");
        watch.aim(&folders_of(&at("elsewhere/link/key")));
        fs::write(at("volume/..two/key"), "3").unwrap();
        arrives("a file that is written in place behind the links");
        symlink(at("volume/..one"), at("elsewhere/next")).unwrap();
        fs::rename(at("elsewhere/next"), at("elsewhere/link")).unwrap();
        arrives("a link in the middle of the path");
    }

    #[test]
    fn another_folder_of_the_same_name_is_watched_anew() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("keys")).unwrap();
        let folders = BTreeSet::from([at("keys"), at("missing")]);
        let (sender, events) = mpsc::channel();
        let mut watch = Watch::new("the files of this test", move || _ = sender.send(()));
        watch.aim(&folders);
        fs::rename(at("keys"), at("old")).unwrap();
        fs::create_dir(at("keys")).unwrap();
        watch.aim(&folders);
        while events.recv_timeout(Duration::from_millis(100)).is_ok() {}
        fs::write(at("keys/key"), "1").unwrap();
        assert_eq!(events.recv_timeout(Duration::from_secs(30)), Ok(()));
    }

    #[test]
    fn links_in_a_circle_end() {
        let home = tempfile::tempdir().unwrap();
        symlink("b", home.path().join("a")).unwrap();
        symlink("a", home.path().join("b")).unwrap();
        assert!(folders_of(&home.path().join("a")).contains(home.path()));
    }
}
