//! The plugin folder: what lies there, and whether it changed.
//!
//! Editors, rsync, `mv` and mounted volumes all replace files differently. So nothing is concluded from file events but that
//! it is time to look; and what a look finds is compared by fingerprint, through symbolic links.

use std::collections::BTreeMap;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::OFlags;

use super::program::line_of;
use super::refusal::Refusal;

/// Files that are looked at in the folder, and those that are ignored and told of.
const MAX_FILES: usize = 10_000;
const MAX_IGNORED: usize = 100;

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
        SystemTime::now().duration_since(UNIX_EPOCH + self.since_epoch()?).ok()
    }

    /// When the content was last written, milliseconds since the Unix epoch.
    pub(super) fn modified_ms(&self) -> Option<u64> {
        u64::try_from(self.since_epoch()?.as_millis()).ok()
    }

    fn since_epoch(&self) -> Option<Duration> {
        let (seconds, nanoseconds) = self.modified;
        Some(Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?))
    }

    /// Whether somebody put a file there since `before`: another file, or another date. A change of nothing but the file's owner,
    /// rights or links is none.
    pub(super) fn is_deployment_since(&self, before: &Self) -> bool {
        let written = |found: &Self| (found.device, found.inode, found.size, found.modified);
        written(self) != written(before)
    }
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The policies that have a file.
    pub(super) policies: BTreeMap<String, Fingerprint>,
    /// Names that end like a plugin's and are none, with the reason.
    pub(super) ignored: BTreeMap<String, String>,
}

/// The path of a policy's file.
pub(super) fn path(directory: &Path, policy: &str) -> PathBuf {
    directory.join(format!("{policy}.wasm"))
}

/// Looks through the folder. One that does not exist holds nothing.
pub(super) fn look(directory: &Path) -> io::Result<Found> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        entries => entries?,
    };
    let mut found = Found::default();
    for entry in entries {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(plugin_name) else {
            continue;
        };
        match name.policy {
            _ if found.policies.len() >= MAX_FILES => found.ignore(name.shown, "there are too many plugins"),
            None => found.ignore(
                name.shown,
                "the name of a policy has letters, digits, `-`, `_` and `.` only, and its file ends in `.wasm`",
            ),
            // Follows links. A link to nothing is a file that is not there.
            Some(policy) => match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => _ = found.policies.insert(policy, Fingerprint::of(&metadata)),
                Ok(metadata) => {
                    let why = format!("it is {} and no regular file", kind(metadata.file_type()));
                    found.ignore(name.shown, &why);
                }
                Err(_) => {}
            },
        }
    }
    Ok(found)
}

impl Found {
    fn ignore(&mut self, name: String, why: &str) {
        if self.ignored.len() < MAX_IGNORED {
            self.ignored.insert(name, why.into());
        }
    }
}

/// A name that ends like a plugin's.
struct PluginName {
    /// As a line of the log can have it.
    shown: String,
    /// The policy; `None` when the name is not one that a policy can have.
    policy: Option<String>,
}

/// Names of policies end in response headers and metrics, so they are plain; what begins with a point is somebody's temporary
/// file.
fn plugin_name(file: &std::ffi::OsStr) -> Option<PluginName> {
    let shown = line_of(&file.to_string_lossy());
    let is_plugin = shown.to_ascii_lowercase().ends_with(".wasm") && !shown.starts_with('.');
    let plain = |name: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !name.is_empty() && name.bytes().all(is_plain)
    };
    let policy = file.to_str().and_then(|name| name.strip_suffix(".wasm"));
    is_plugin.then(|| PluginName {
        shown,
        policy: policy.filter(plain).map(str::to_owned),
    })
}

/// What a file is that is not regular.
fn kind(found: FileType) -> &'static str {
    match found {
        found if found.is_dir() => "a folder",
        found if found.is_fifo() => "a named pipe",
        found if found.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Reads a file whole, and again if it changed meanwhile. The size is checked before the first byte is read.
pub(super) fn read(path: &Path, max_bytes: u64) -> (Option<Fingerprint>, Result<Vec<u8>, Refusal>) {
    let mut last = None;
    for _ in 0..READS {
        match read_once(path, max_bytes) {
            // Somebody replaced it meanwhile.
            (found, None) => last = found.or(last),
            (found, Some(read)) => return (found, read),
        }
        thread::sleep(PAUSE);
    }
    (last, Err(Refusal::Restless))
}

/// Reads a file. There is no result when it was not the same file before and after.
fn read_once(path: &Path, max_bytes: u64) -> (Option<Fingerprint>, Option<Result<Vec<u8>, Refusal>>) {
    let (file, found) = match open(path) {
        Ok(opened) => opened,
        Err(refusal) => return (None, Some(Err(refusal))),
    };
    if found.size > max_bytes {
        let (bytes, limit) = (found.size, max_bytes);
        return (Some(found), Some(Err(Refusal::TooLarge { bytes, limit })));
    }
    let mut bytes = Vec::with_capacity(found.size as usize);
    // One that grows meanwhile is not followed.
    let read = file.take(found.size).read_to_end(&mut bytes);
    let is_same = fs::metadata(path).is_ok_and(|after| Fingerprint::of(&after) == found);
    let result = match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(unreadable(&error)),
    };
    (Some(found), is_same.then_some(result))
}

/// Opens a regular file, through links. What is not one is not opened where that can be seen before; where it takes the name in that
/// very moment, the handle shows it, and a pipe does not hold us up.
fn open(path: &Path) -> Result<(File, Fingerprint), Refusal> {
    let regular = |found: &Metadata| match found.file_type() {
        kind if kind.is_file() => Ok(()),
        other => Err(Refusal::NotRegular(kind(other).into())),
    };
    regular(&fs::metadata(path).map_err(|error| unreadable(&error))?)?;
    let (file, found) = open_without_waiting(path).map_err(|error| unreadable(&error))?;
    regular(&found)?;
    Ok((file, Fingerprint::of(&found)))
}

fn open_without_waiting(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    Ok((file, found))
}

fn unreadable(error: &io::Error) -> Refusal {
    Refusal::Unreadable(error.to_string())
}

/// Looks at the plugin folder on a thread of its own: a file system that hangs must not hold up whoever decides what serves.
pub(super) struct Looker(Sender<PathBuf>);

impl Looker {
    /// `event` is called for every event in the folder, `looked` for every look.
    pub(super) fn start(
        event: impl Fn() + Send + 'static,
        looked: impl Fn(PathBuf, io::Result<Found>) + Send + 'static,
    ) -> io::Result<Self> {
        let (looks, wanted) = mpsc::channel::<PathBuf>();
        thread::Builder::new().name("policy-look".into()).spawn(move || {
            let mut watch = Watch::new(event);
            for directory in wanted {
                watch.aim(&directory);
                let found = look(&directory);
                looked(directory, found);
            }
        })?;
        Ok(Self(looks))
    }

    /// Asks for a look.
    pub(super) fn look(&self, directory: &Path) {
        let _ = self.0.send(directory.into());
    }
}

/// Tells of events in the plugin folder, where the system has such a thing.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// The folder that is watched: another one may have taken its name.
    watched: Option<(PathBuf, u64, u64)>,
    /// The folder that could not be watched, which is told once.
    unwatched: Option<(PathBuf, u64, u64)>,
}

impl Watch {
    /// Calls `event` for every event. Without events, the folder is looked through every now and then all the same.
    fn new(event: impl Fn() + Send + 'static) -> Self {
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
            unwatched: None,
        }
    }

    /// Watches whatever folder has this name now.
    fn aim(&mut self, directory: &Path) {
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
                Err(error) if self.unwatched != found => {
                    let folder = directory.display();
                    tracing::warn!(%folder, %error, "the plugin folder cannot be watched; it is looked through now and then instead");
                    self.unwatched = found;
                }
                Err(_) => {}
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
        let name = |name: &str| plugin_name(name.as_ref()).map(|name| name.policy);
        assert_eq!(name("plan-b.wasm"), Some(Some("plan-b".into())));
        assert_eq!(name("plan_b.2.wasm"), Some(Some("plan_b.2".into())));
        for ignored in ["plan b.wasm", "plän.wasm", "plan-b.WASM"] {
            assert_eq!(name(ignored), Some(None), "{ignored}");
        }
        for other in [".plan-b.wasm", ".wasm", "plan-b.wasm.tmp", "plan-b.wat"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn what_looks_like_a_plugin_and_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plan b.wasm"), "").unwrap();
        fs::create_dir(folder.path().join("folder.wasm")).unwrap();
        let found = look(folder.path()).unwrap();
        assert!(found.policies.is_empty());
        assert!(found.ignored["plan b.wasm"].starts_with("the name of a policy"));
        assert!(found.ignored["folder.wasm"].starts_with("it is a folder"));
    }

    /// A pipe that takes the name between the look and the opening would hang whoever opens it, for nobody writes to it.
    #[test]
    fn a_pipe_is_opened_without_waiting_and_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe.wasm");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let (_, found) = open_without_waiting(&path).unwrap();
        assert!(found.file_type().is_fifo());
        let refused = read(&path, 100).1;
        assert_eq!(refused, Err(Refusal::NotRegular("a named pipe".into())));
        assert!(look(folder.path()).unwrap().ignored["pipe.wasm"].contains("named pipe"));
    }

    #[test]
    fn a_change_of_rights_is_no_deployment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        let found = || look(folder.path()).unwrap().policies["a"];
        fs::write(&path, "1").unwrap();
        let first = found();
        thread::sleep(Duration::from_millis(20));
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, rights).unwrap();
        let second = found();
        assert!(second != first && !second.is_deployment_since(&first));
        fs::write(&path, "1").unwrap();
        assert!(found().is_deployment_since(&second), "the same content, written again");
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert!(look(&folder.path().join("none")).unwrap().policies.is_empty());
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
        let look = || look(folder.path()).unwrap().policies["a"];
        let before = look();
        symlink("two", at("..next")).unwrap();
        fs::rename(at("..next"), at("..data")).unwrap();
        assert_ne!(look(), before);
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
