//! The plugin folder: what lies there, and whether it changed.
//!
//! Editors, rsync, `mv` and mounted volumes all replace files differently. So nothing is concluded from file events but that
//! it is time to look; and what a look finds is compared by fingerprint, through symbolic links.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::refusal::Refusal;

/// How often a file is read again because it changed meanwhile, and the pause before that.
const READS: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Tells one content of a path from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Unlike `modified`, nobody can set this one back.
    changed: (i64, i64),
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Time since the content was last written; none if that lies in the future.
    pub(super) fn age(&self) -> Option<Duration> {
        let (seconds, nanoseconds) = self.modified;
        let modified = UNIX_EPOCH + Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
        SystemTime::now().duration_since(modified).ok()
    }
}

/// The path of a policy's file.
pub(super) fn path(directory: &Path, policy: &str) -> PathBuf {
    directory.join(format!("{policy}.wasm"))
}

/// The policies that have a file in the folder. A folder that does not exist holds none.
pub(super) fn look(directory: &Path) -> io::Result<BTreeMap<String, Fingerprint>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = policy_name(&path) else { continue };
        // Follows links. A link to nothing is a file that is not there, and so is a folder or a pipe.
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.is_file()
        {
            found.insert(name, Fingerprint::of(&metadata));
        }
    }
    Ok(found)
}

/// The policy that a path is the file of. Names end in response headers and metrics, so they are plain; what begins with a
/// point is somebody's temporary file.
fn policy_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".wasm")?;
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (plain && !name.is_empty() && !name.starts_with('.')).then(|| name.into())
}

/// Reads a file whole, and again if it changed meanwhile. The size is checked before the first byte is read.
pub(super) fn read(path: &Path, max_bytes: u64) -> (Option<Fingerprint>, Result<Vec<u8>, Refusal>) {
    let mut last = None;
    for _ in 0..READS {
        let unreadable = |error: io::Error| Err(Refusal::Unreadable(error.to_string()));
        let before = match fingerprint(path) {
            Ok(before) => before,
            Err(error) => return (None, unreadable(error)),
        };
        if before.size > max_bytes {
            return (
                Some(before),
                Err(Refusal::TooLarge {
                    bytes: before.size,
                    limit: max_bytes,
                }),
            );
        }
        match (read_once(path, before.size), fingerprint(path)) {
            (Ok(bytes), Ok(after)) if before == after => return (Some(before), Ok(bytes)),
            (Err(error), Ok(after)) if before == after => return (Some(before), unreadable(error)),
            _ => last = Some(before),
        }
        thread::sleep(PAUSE);
    }
    (last, Err(Refusal::Restless))
}

fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    Ok(Fingerprint::of(&fs::metadata(path)?))
}

fn read_once(path: &Path, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size as usize);
    // One that grows meanwhile is not followed.
    File::open(path)?.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Tells of events in the plugin folder, where the system has such a thing.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// The folder that is watched: another one may have taken its name.
    watched: Option<(PathBuf, u64, u64)>,
}

impl Watch {
    /// Calls `event` for every event. Without events, the folder is looked through every now and then all the same.
    pub(super) fn new(event: impl Fn() + Send + 'static) -> Self {
        let watcher = notify::recommended_watcher(move |found: notify::Result<notify::Event>| {
            // Our own look opens the folder; that must not be a reason to look again.
            if !found.is_ok_and(|found| is_read(found.kind)) {
                event();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "no file events; the plugin folder is looked through now and then instead");
        }
        Self {
            watcher: watcher.ok(),
            watched: None,
        }
    }

    /// Watches whatever folder has this name now.
    pub(super) fn aim(&mut self, directory: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        let found = fs::metadata(directory)
            .ok()
            .map(|found| (directory.to_owned(), found.dev(), found.ino()));
        if found == self.watched {
            return;
        }
        if let Some((old, ..)) = self.watched.take() {
            let _ = watcher.unwatch(&old);
        }
        if found.is_some() {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => self.watched = found,
                Err(error) => {
                    tracing::warn!(folder = %directory.display(), %error, "the plugin folder cannot be watched")
                }
            }
        }
    }
}

fn is_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn only_plain_names_are_policies() {
        let name = |path: &str| policy_name(Path::new(path));
        assert_eq!(name("/p/plan-b.wasm").as_deref(), Some("plan-b"));
        assert_eq!(name("/p/plan_b.2.wasm").as_deref(), Some("plan_b.2"));
        for other in [
            "/p/.plan-b.wasm",
            "/p/.wasm",
            "/p/plan b.wasm",
            "/p/plän.wasm",
            "/p/plan-b.wasm.tmp",
            "/p/plan-b.wat",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(look(&folder.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("one")).unwrap();
        fs::create_dir(at("two")).unwrap();
        fs::write(at("one/a.wasm"), "1").unwrap();
        fs::write(at("two/a.wasm"), "2").unwrap();
        symlink("one", at("..data")).unwrap();
        symlink("..data/a.wasm", at("a.wasm")).unwrap();
        let before = look(folder.path()).unwrap();
        symlink("two", at("..next")).unwrap();
        fs::rename(at("..next"), at("..data")).unwrap();
        assert_ne!(look(folder.path()).unwrap()["a"], before["a"]);
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.wasm");
        File::create(&path).unwrap().set_len(200 << 20).unwrap();
        let (fingerprint, read) = read(&path, 64 << 20);
        assert!(fingerprint.is_some());
        assert_eq!(
            read,
            Err(Refusal::TooLarge {
                bytes: 200 << 20,
                limit: 64 << 20
            })
        );
    }

    #[test]
    fn a_file_that_is_replaced_while_it_is_read_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        let stop = AtomicBool::new(false);
        fs::write(&path, "a".repeat(1 << 20)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for letter in ["b", "c", "d"]
                    .into_iter()
                    .cycle()
                    .take_while(|_| !stop.load(Ordering::Relaxed))
                {
                    // In place, as some editors do, and with another length each time.
                    fs::write(&path, letter.repeat((1 << 20) + letter.as_bytes()[0] as usize)).unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            for _ in 0..20 {
                match read(&path, 4 << 20).1 {
                    Ok(bytes) => assert!(bytes.iter().all(|byte| *byte == bytes[0]), "two contents were mixed"),
                    Err(refusal) => assert_eq!(refusal, Refusal::Restless),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
