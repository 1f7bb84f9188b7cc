//! The state folder: what outlives a restart. Nobody but the gateway's own user may be able to write there, because machine code
//! is run from it; and one gateway uses it at a time, because each keeps the whole of it in memory.
//!
//! The check is that of `sshd` for the files of a user (`StrictModes`), with a sticky folder such as `/tmp` allowed on the way.
//! The folder is reached from `/` one step at a time, each through the handle of the one before and without following links, so
//! that what was checked is what is used. Everything in it is opened through its handle.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

/// The state folder of a gateway that runs. No other gateway can open it meanwhile.
#[derive(Debug)]
pub struct StateFolder {
    folder: Arc<Folder>,
    lock: File,
}

/// A folder that only the gateway's own user can write to, held open.
#[derive(Debug)]
pub struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

/// Why a folder cannot be the state folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another gateway uses it.
    #[error(
        "the state folder {} is in use by another gateway (process {process}); stop that one, or give this one a folder of its \
         own with `state = \"…\"`",
        .folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// Id of the other process, as far as it is known.
        process: String,
    },
    /// It, or a folder above it, belongs to another user.
    #[error(
        "the state folder {} is not safe: {} belongs to user {owner}, not to user {us} that the gateway runs as; change its owner \
         (`chown {us} {}`), or write `state = \"…\"` with a folder that this user owns",
        .folder.display(), .at.display(), .at.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The folder at fault, the same or one above it.
        at: PathBuf,
        /// Id of its owner.
        owner: u32,
        /// Id of the gateway's user.
        us: u32,
    },
    /// It, or a folder above it, can be written to by others.
    #[error(
        "the state folder {} is not safe: {} can write to {}, and so replace what the gateway runs; run `chmod {change} {}`, or \
         write `state = \"…\"` with another folder",
        .folder.display(), .who, .at.display(), .at.display()
    )]
    Writable {
        /// The folder.
        folder: PathBuf,
        /// The folder at fault, the same or one above it.
        at: PathBuf,
        /// Who can write to it.
        who: String,
        /// What takes that away, for `chmod`.
        change: &'static str,
    },
    /// It cannot be opened or made.
    #[error("the state folder {} cannot be used: {}: {error}", .folder.display(), .at.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// The file or folder at fault.
        at: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// The file whose lock stands for the folder; it holds the id of the process that has it.
const LOCK: &str = "lock";

/// Bytes of the lock file that are read.
const LOCK_BYTES: u64 = 32;

impl StateFolder {
    /// Opens the folder, makes it if it is missing, checks it, and keeps every other gateway out of it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let folder = Folder::open(path)?;
        let lock = folder.lock()?;
        Ok(Self {
            folder: Arc::new(folder),
            lock,
        })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }
}

impl Drop for StateFolder {
    fn drop(&mut self) {
        // Not left to the closing of the file: a child that is being started has it open for another moment.
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Opens a folder, makes it if it is missing, and checks it and every folder above it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let unusable = |error: io::Error| StateError::Unusable {
            folder: path.into(),
            at: path.into(),
            error,
        };
        let real = real_path(path).map_err(unusable)?;
        let names: Vec<&OsStr> = real
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let Some((last, above)) = names.split_last() else {
            return Err(unusable(io::Error::other("it is the root of the file system")));
        };
        let us = rustix::process::geteuid().as_raw();
        let mut at = PathBuf::from("/");
        let failed = |at: &Path, error: rustix::io::Errno| StateError::Unusable {
            folder: path.into(),
            at: at.into(),
            error: error.into(),
        };
        let mut handle = rustix::fs::open(&at, STEP, Mode::empty()).map_err(|error| failed(&at, error))?;
        check(path, &at, &stat(&handle).map_err(unusable)?, us, false)?;
        for name in above {
            at.push(name);
            handle = step(&handle, name, STEP).map_err(|error| failed(&at, error))?;
            check(path, &at, &stat(&handle).map_err(unusable)?, us, false)?;
        }
        at.push(last);
        handle = step(&handle, last, FOLDER).map_err(|error| failed(&at, error))?;
        check(path, &at, &stat(&handle).map_err(unusable)?, us, true)?;
        Ok(Self { handle, path: at })
    }

    /// A folder in this one, which nobody else can enter. It is made if it is missing.
    pub fn subfolder(&self, name: &str) -> io::Result<Self> {
        let handle = step(&self.handle, OsStr::new(name), FOLDER)?;
        let found = stat(&handle)?;
        check_owner(&found)?;
        if found.st_mode & 0o077 != 0 {
            rustix::fs::fchmod(&handle, Mode::RWXU)?;
        }
        Ok(Self {
            handle,
            path: self.path.join(name),
        })
    }

    /// Where it is, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file. It must be a regular one of ours.
    pub fn file(&self, name: &str) -> io::Result<File> {
        self.regular(name, OFlags::RDONLY)
    }

    /// Reads a file of at most so many bytes.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("it has more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Makes a file that is not there yet.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Puts these bytes in the place of a file, whole or not at all; they outlive a power failure once this returns.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        // One that was left by a gateway that was killed, or a link that somebody made of it.
        self.remove(&new)?;
        let mut file = self.create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.rename(&new, self, name)?;
        rustix::fs::fsync(&self.handle)?;
        Ok(())
    }

    /// Moves a file to another name, or to another folder of the same file system.
    pub fn rename(&self, name: &str, to: &Self, new_name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, name, &to.handle, new_name)?)
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The names of everything in it that is text.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Opens a file without following a link and without waiting for what is no file, then looks at what was opened.
    fn regular(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file.into(),
            Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a link, not a file")),
            Err(error) => return Err(error.into()),
        };
        let found = stat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        check_owner(&found)?;
        if found.st_mode & 0o077 != 0 {
            rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        }
        Ok(file)
    }

    fn lock(&self) -> Result<File, StateError> {
        let unusable = |error| StateError::Unusable {
            folder: self.path.clone(),
            at: self.path.join(LOCK),
            error,
        };
        let mut file = self.regular(LOCK, OFlags::RDWR | OFlags::CREATE).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {
                // Only for the sentence that the next one reads.
                let _ = file.set_len(0);
                let _ = write!(file, "{}", std::process::id());
            }
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                let _ = (&file).take(LOCK_BYTES).read_to_string(&mut process);
                return Err(StateError::InUse {
                    folder: self.path.clone(),
                    process: process.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => {
                let folder = self.path.display();
                tracing::warn!(%folder, %error, "the state folder cannot be locked: a second gateway would not be kept out of it");
            }
        }
        Ok(file)
    }
}

/// How a folder on the way is opened: only to go on from there, which needs no right to read it.
#[cfg(target_os = "linux")]
const STEP: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const STEP: OFlags = FOLDER;
/// How a folder is opened in which files are opened.
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a folder in a folder; makes it, for us alone, if it is missing.
fn step(handle: &OwnedFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::openat(handle, name, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {}
        opened => return opened,
    }
    match rustix::fs::mkdirat(handle, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    rustix::fs::openat(handle, name, flags, Mode::empty())
}

/// The path without links, as far as it exists.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let mut existing = std::path::absolute(path)?;
    let mut missing: Vec<OsString> = Vec::new();
    loop {
        match fs::canonicalize(&existing) {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |real, name| real.join(name))),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let Some(name) = existing.file_name().map(OsStr::to_owned) else {
                    return Err(error);
                };
                missing.push(name);
                existing.pop();
            }
        }
    }
}

fn stat(handle: impl std::os::fd::AsFd) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(handle)?)
}

fn check_owner(found: &Stat) -> io::Result<()> {
    let us = rustix::process::geteuid().as_raw();
    if found.st_uid == us {
        return Ok(());
    }
    let owner = found.st_uid;
    Err(io::Error::other(format!(
        "it belongs to user {owner}, not to user {us} that the gateway runs as"
    )))
}

/// Refuses a folder that somebody else could have put there or can write to. `is_last`: it is the state folder itself.
fn check(folder: &Path, at: &Path, found: &Stat, us: u32, is_last: bool) -> Result<(), StateError> {
    const STICKY: u32 = 0o1000;
    let mode = found.st_mode;
    if found.st_uid != us && (is_last || found.st_uid != 0) {
        return Err(StateError::Foreign {
            folder: folder.into(),
            at: at.into(),
            owner: found.st_uid,
            us,
        });
    }
    // In a sticky folder only the owner of an entry can replace it, and the owner of the next one is checked like this one's.
    if mode & STICKY != 0 && !is_last {
        return Ok(());
    }
    let writable = |who: String, change| StateError::Writable {
        folder: folder.into(),
        at: at.into(),
        who,
        change,
    };
    if mode & 0o002 != 0 {
        return Err(writable("every user".into(), "o-w"));
    }
    if mode & 0o020 != 0 && !is_ours_alone(found.st_gid, us) {
        return Err(writable(format!("the group {}", found.st_gid), "g-w"));
    }
    Ok(())
}

/// Whether no other user is in a group, as far as the files of this machine say: the group that many systems make for each user
/// (whose folders are then made with mode 775), and the one that an orchestrator gives to a container's volumes.
fn is_ours_alone(group: u32, us: u32) -> bool {
    let is_ours = rustix::process::getegid().as_raw() == group
        || rustix::process::getgroups().is_ok_and(|groups| groups.iter().any(|ours| ours.as_raw() == group));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    is_ours && has_no_other_member(&read("/etc/passwd"), &read("/etc/group"), group, us)
}

fn has_no_other_member(users: &str, groups: &str, group: u32, us: u32) -> bool {
    let mut ours = None;
    for user in users.lines() {
        // NAME:PASSWORD:USER:GROUP:…
        let mut fields = user.split(':');
        let (name, _) = (fields.next(), fields.next());
        let mut number = || fields.next().and_then(|field| field.parse::<u32>().ok());
        let (Some(id), primary) = (number(), number()) else {
            continue;
        };
        if id == us {
            ours = name;
        } else if id != 0 && primary == Some(group) {
            return false;
        }
    }
    // NAME:PASSWORD:GROUP:MEMBER,MEMBER
    let is_it = |line: &&str| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(group);
    let members = groups
        .lines()
        .filter(is_it)
        .filter_map(|line| line.split(':').nth(3))
        .flat_map(|members| members.split(','))
        .filter(|member| !member.is_empty());
    members
        .into_iter()
        .all(|member| member == "root" || Some(member) == ours)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_missing_folder_is_made_for_us_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/state");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(folder.path(), fs::canonicalize(&path).unwrap());
        assert_eq!((mode(&home.path().join("a")), mode(&path)), (0o700, 0o700));
        folder.replace("x.json", b"{}").unwrap();
        assert_eq!(folder.read("x.json", 2).unwrap(), b"{}");
        assert!(folder.read("x.json", 1).is_err(), "more than is wanted is not read");
        assert_eq!(folder.names().unwrap(), ["x.json"]);
        assert_eq!(mode(&path.join("x.json")), 0o600);
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused_with_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("above/state");
        fs::create_dir_all(&state).unwrap();
        for (at, bits) in [("above/state", 0o777), ("above", 0o757), ("above/state", 0o1777)] {
            let at = home.path().join(at);
            set_mode(&at, bits);
            let error = Folder::open(&state).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod o-w {}", at.display())), "{error}");
            set_mode(&at, 0o755);
        }
        set_mode(&home.path().join("above"), 0o1777);
        Folder::open(&state).expect("a sticky folder on the way is like /tmp");
    }

    #[test]
    fn what_is_no_folder_and_what_belongs_to_another_user_is_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        assert!(Folder::open(&home.path().join("file")).is_err());
        assert!(Folder::open(&home.path().join("file/state")).is_err());
        let us = rustix::process::geteuid().as_raw();
        let error = check(Path::new("/s"), Path::new("/s"), &stat_of("/", 0o700), us + 1, true).unwrap_err();
        assert!(error.to_string().contains(&format!("chown {} /s", us + 1)), "{error}");
        assert!(check(Path::new("/s"), Path::new("/"), &stat_of("/", 0o755), us + 1, false).is_ok());
    }

    fn stat_of(path: &str, mode: u32) -> Stat {
        let mut found = rustix::fs::stat(path).unwrap();
        found.st_uid = 0;
        found.st_mode = mode as _;
        found
    }

    #[test]
    fn links_and_devices_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(&home.path().join("state")).unwrap();
        let (outside, inside) = (home.path().join("outside"), home.path().join("state"));
        fs::write(&outside, "theirs").unwrap();
        symlink(&outside, inside.join("switches.json.new")).unwrap();
        symlink(&outside, inside.join("switches.json")).unwrap();
        assert!(
            folder
                .read("switches.json", 100)
                .unwrap_err()
                .to_string()
                .contains("a link")
        );
        folder.replace("switches.json", b"ours").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"theirs");
        assert_eq!(folder.read("switches.json", 100).unwrap(), b"ours");
        symlink(home.path(), inside.join("policies")).unwrap();
        assert!(folder.subfolder("policies").is_err());
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.join("fifo"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(folder.read("fifo", 100).is_err(), "and nobody waits for a writer");
        assert!(folder.create("fifo").is_err());
    }

    #[test]
    fn a_second_gateway_is_kept_out_until_the_first_ends() {
        let home = tempfile::tempdir().unwrap();
        let first = StateFolder::open(home.path()).unwrap();
        let error = StateFolder::open(home.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        StateFolder::open(home.path()).unwrap();
    }

    #[test]
    fn a_group_of_one_is_told_from_a_group_of_many() {
        let users = "root:x:0:0::/:/bin/sh\nana:x:1000:1000::/:/bin/sh\nbob:x:1001:100::/:/bin/sh\n";
        let groups = "root:x:0:\nana:x:1000:\nusers:x:100:\nteam:x:200:ana,bob\nwork:x:300:ana\n";
        let alone = |group| has_no_other_member(users, groups, group, 1000);
        assert!(alone(1000) && alone(300), "a group of her own");
        assert!(alone(2000), "a group that only a volume has");
        assert!(!alone(100) && !alone(200), "bob is in these");
    }
}
