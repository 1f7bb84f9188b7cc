//! What happens to the files in the plugin folder, and what serves then.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::thread;
use std::time::{Duration, Instant};

use pointsman::policy::{Hash, Library, PolicyState, RollbackError};
use sha2::{Digest, Sha256};

use crate::decisions::{wait_until_live, with_section};
use crate::guests::guest;
use crate::support::{Yard, reason, status, wait_for};

fn version(library: &Library) -> Option<Hash> {
    status(library, "hostile").version
}

/// A yard that serves a first version.
fn first() -> (Yard, Library, Option<Hash>) {
    let yard = Yard::new(&["hostile"]);
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    let first = version(&library);
    assert!(first.is_some(), "{:#?}", status(&library, "hostile"));
    (yard, library, first)
}

fn second() -> Vec<u8> {
    with_section(guest("hostile"), "second")
}

/// The hash of a plugin file, as the library tells it.
pub fn hash(plugin: &[u8]) -> String {
    Sha256::digest(plugin)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn a_dropped_file_serves_at_once_and_a_request_keeps_its_version() {
    let (yard, library, first) = first();
    let taken = library.versions();
    let mut changes = library.changes();
    assert!(!changes.has_changed().unwrap());
    let start = Instant::now();
    yard.drop_in("hostile", &second());
    wait_until_live(&library, first);
    println!("from rename to live: {:?}", start.elapsed());
    assert!(changes.has_changed().unwrap());
    assert_eq!(
        Some(changes.borrow_and_update().get("hostile").unwrap().hash()),
        version(&library)
    );
    assert_eq!(Some(taken.get("hostile").unwrap().hash()), first);
    assert_eq!(status(&library, "hostile").earlier, Vec::from_iter(first));
}

#[test]
fn a_broken_file_leaves_what_serves_in_place() {
    let (yard, library, first) = first();
    yard.drop_in("hostile", b"not a policy");
    let refused = wait_for(&library, "hostile", PolicyState::Refused, "text file");
    assert_eq!(refused.version, first);
    assert_eq!(reason(&library, "hostile", "count"), "1");
    // The good file comes back.
    yard.drop_in("hostile", guest("hostile"));
    assert_eq!(wait_for(&library, "hostile", PolicyState::Live, "").version, first);
}

#[test]
fn a_restart_with_a_broken_file_comes_up_with_the_last_good_version() {
    let (yard, library, first) = first();
    drop(library);
    yard.drop_in("hostile", b"not a policy");
    let library = yard.open();
    let refused = status(&library, "hostile");
    assert_eq!((refused.state, refused.version), (PolicyState::Refused, first));
    assert_eq!(reason(&library, "hostile", "count"), "1");
}

#[test]
fn a_deleted_file_serves_on() {
    let (yard, library, first) = first();
    fs::remove_file(yard.file("hostile")).unwrap();
    assert_eq!(
        wait_for(&library, "hostile", PolicyState::FileGone, "gone").version,
        first
    );
    drop(library);
    let library = yard.open();
    let gone = status(&library, "hostile");
    assert_eq!((gone.state, gone.version), (PolicyState::FileGone, first));
    yard.drop_in("hostile", guest("hostile"));
    assert_eq!(wait_for(&library, "hostile", PolicyState::Live, "").version, first);
}

#[test]
fn a_mounted_volume_swaps_its_link() {
    let yard = Yard::new(&["hostile"]);
    let at = |name: &str| yard.plugins().join(name);
    for (folder, plugin) in [("..2023_11_20", guest("hostile").to_vec()), ("..2023_11_21", second())] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(at(folder).join("hostile.wasm"), plugin).unwrap();
    }
    symlink("..2023_11_20", at("..data")).unwrap();
    symlink("..data/hostile.wasm", at("hostile.wasm")).unwrap();
    let library = yard.open();
    let first = version(&library);
    assert!(first.is_some());
    symlink("..2023_11_21", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    wait_until_live(&library, first);
}

#[test]
fn a_file_that_is_written_slowly_is_waited_for() {
    let (yard, library, first) = first();
    let plugin = second();
    let mut file = File::create(yard.file("hostile")).unwrap();
    for part in plugin.chunks(plugin.len() / 8) {
        file.write_all(part).unwrap();
        file.flush().unwrap();
        thread::sleep(Duration::from_millis(60));
        assert_ne!(
            status(&library, "hostile").state,
            PolicyState::Refused,
            "half a file was judged"
        );
    }
    wait_until_live(&library, first);
}

#[test]
fn a_folder_that_comes_later_and_one_that_is_replaced() {
    let mut yard = Yard::new(&["hostile"]);
    yard.config.policies.directory = yard.home.path().join("later");
    let library = yard.open();
    assert_eq!(status(&library, "hostile").version, None);
    let later = yard.plugins().to_owned();
    fs::create_dir(&later).unwrap();
    yard.drop_in("hostile", guest("hostile"));
    let first = wait_for(&library, "hostile", PolicyState::Live, "").version;
    fs::rename(&later, later.with_file_name("old")).unwrap();
    fs::create_dir(&later).unwrap();
    yard.drop_in("hostile", &second());
    wait_until_live(&library, first);
}

#[test]
fn the_same_content_under_another_date_is_no_new_version() {
    let (yard, library, first) = first();
    let since = status(&library, "hostile").since_ms;
    yard.drop_in("hostile", guest("hostile"));
    thread::sleep(Duration::from_millis(300));
    let same = status(&library, "hostile");
    assert_eq!(
        (same.version, same.since_ms, same.state),
        (first, since, PolicyState::Live)
    );
}

#[test]
fn a_rollback_lasts_until_the_file_is_written_again() {
    let (yard, library, first) = first();
    assert_eq!(
        library.rollback("hostile"),
        Err(RollbackError::NoEarlier("hostile".into()))
    );
    assert_eq!(library.rollback("plan-c"), Err(RollbackError::Unknown("plan-c".into())));
    yard.drop_in("hostile", &second());
    let second = wait_until_live(&library, first);
    assert_eq!(library.rollback("hostile").ok(), first);
    let back = status(&library, "hostile");
    assert_eq!((back.state, back.version), (PolicyState::RolledBack, first));
    assert_eq!(back.newer, Vec::from_iter(second), "what was rolled back from is kept");

    // A restart changes nothing, nor do other rights of the file.
    fs::set_permissions(yard.file("hostile"), fs::Permissions::from_mode(0o640)).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(status(&library, "hostile").state, PolicyState::RolledBack);
    drop(library);
    let library = yard.open();
    let back = status(&library, "hostile");
    assert_eq!((back.state, back.version), (PolicyState::RolledBack, first));
    assert_eq!(back.newer, Vec::from_iter(second));

    // The same content, dropped in again: somebody wants it.
    yard.drop_in("hostile", &self::second());
    assert_eq!(wait_until_live(&library, first), second);
}

#[test]
fn every_way_to_write_a_file_again_undoes_a_rollback() {
    let (yard, library, first) = first();
    yard.drop_in("hostile", &second());
    let second = wait_until_live(&library, first);
    let file = yard.file("hostile");
    let touch = || {
        File::options()
            .append(true)
            .open(&file)
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap()
    };
    let delete_and_drop = || {
        fs::remove_file(&file).unwrap();
        wait_for(&library, "hostile", PolicyState::FileGone, "");
        yard.drop_in("hostile", &self::second());
    };
    let ways: [(&str, &dyn Fn()); 4] = [
        ("touch", &touch),
        ("drop", &|| yard.drop_in("hostile", &self::second())),
        ("write in place", &|| fs::write(&file, self::second()).unwrap()),
        ("delete and drop", &delete_and_drop),
    ];
    for (way, write) in ways {
        library.rollback("hostile").unwrap();
        assert_eq!(version(&library), first, "{way}");
        write();
        assert_eq!(wait_until_live(&library, first), second, "{way}");
    }
}

#[test]
fn every_kept_version_can_be_activated() {
    let (yard, library, first) = first();
    yard.drop_in("hostile", &second());
    let second = wait_until_live(&library, first);
    yard.drop_in("hostile", &with_section(guest("hostile"), "third"));
    let third = wait_until_live(&library, second);
    let [first, second, third] = [first, second, third].map(Option::unwrap);

    assert_eq!(library.rollback("hostile"), Ok(second));
    assert_eq!(library.rollback("hostile"), Ok(first));
    assert!(library.rollback("hostile").is_err());
    // Forth again, by the beginning of a hash.
    assert_eq!(library.activate("hostile", &third.short()), Ok(third));
    let forth = status(&library, "hostile");
    assert_eq!(
        (forth.state, forth.version),
        (PolicyState::Live, Some(third)),
        "it is what the file holds"
    );
    assert_eq!(
        library.activate("hostile", &third.to_string()),
        Ok(third),
        "it serves already"
    );
    assert_eq!(library.activate("hostile", &second.to_string()), Ok(second));
    let back = status(&library, "hostile");
    assert_eq!(
        (back.state, back.newer, back.earlier),
        (PolicyState::RolledBack, vec![third], vec![first])
    );

    let (policy, version) = ("hostile".to_owned(), "0000".to_owned());
    assert_eq!(
        library.activate("hostile", "0000"),
        Err(RollbackError::NoVersion {
            policy: policy.clone(),
            version
        })
    );
    let version = String::new();
    assert_eq!(
        library.activate("hostile", ""),
        Err(RollbackError::Ambiguous { policy, version })
    );
    assert_eq!(
        library.activate("plan-c", ""),
        Err(RollbackError::Unknown("plan-c".into()))
    );
}

#[test]
fn a_ready_made_policy_comes_back_when_the_file_in_its_place_is_deleted() {
    let ready_made: &'static [(&str, &[u8])] = Box::leak(Box::new([("hostile", guest("hostile"))]));
    let yard = Yard::new(&["hostile"]);
    let library = yard.open_with(ready_made);
    let own = version(&library);
    yard.drop_in("hostile", &second());
    let file = wait_until_live(&library, own);
    fs::remove_file(yard.file("hostile")).unwrap();
    assert_eq!(wait_until_live(&library, file), own);
    // And the file is there again.
    yard.drop_in("hostile", &second());
    assert_eq!(wait_until_live(&library, own), file);
    // A file that is replaced by deleting it first does not bring the other one back for a moment.
    fs::remove_file(yard.file("hostile")).unwrap();
    wait_for(&library, "hostile", PolicyState::FileGone, "");
    yard.drop_in("hostile", &with_section(guest("hostile"), "third"));
    let third = wait_until_live(&library, file);
    assert_eq!(status(&library, "hostile").earlier.first(), file.as_ref());
    assert_ne!(third, own);
}

#[test]
fn as_many_earlier_versions_are_kept_as_configured() {
    let (yard, library, first) = first();
    let mut live = first;
    for name in ["a", "b", "c", "d", "e"] {
        yard.drop_in("hostile", &with_section(guest("hostile"), name));
        live = wait_until_live(&library, live);
    }
    assert_eq!(status(&library, "hostile").earlier.len(), 3);
    drop(library);
    let kept = |folder: &str| {
        fs::read_dir(yard.config.state.join("policies").join(folder))
            .unwrap()
            .count()
    };
    assert_eq!((kept("plugins"), kept("compiled")), (4, 4));
}

#[test]
fn a_ready_made_policy_serves_until_a_file_replaces_it() {
    let ready_made: &'static [(&str, &[u8])] = Box::leak(Box::new([("hostile", guest("hostile"))]));
    let yard = Yard::new(&["hostile"]);
    let library = yard.open_with(ready_made);
    let first = version(&library);
    assert_eq!(status(&library, "hostile").state, PolicyState::Live);
    yard.drop_in("hostile", &second());
    wait_until_live(&library, first);
    let unnamed = Yard::new(&[]);
    assert!(
        unnamed.open_with(ready_made).status().is_empty(),
        "what no route names is not loaded"
    );
}

#[test]
fn a_start_with_compiled_policies_is_fast() {
    let mut yard = Yard::new(&["hostile"]);
    yard.config.policies.max_unused = 20;
    for n in 0..20 {
        yard.drop_in(&format!("policy-{n}"), &with_section(guest("hostile"), &format!("{n}")));
    }
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    let start = Instant::now();
    while library.versions().iter().count() < 21 {
        assert!(start.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(10));
    }
    drop(library);
    let start = Instant::now();
    let library = yard.open();
    println!("from start to ready: {:?}", start.elapsed());
    assert!(library.versions().get("hostile").is_some());
}

#[test]
fn the_private_folder_is_private() {
    let (yard, library, _) = first();
    let folder = yard.config.state.join("policies");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    drop(library);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    drop(yard.open());
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_compiled_program_that_is_damaged_is_compiled_again() {
    let (yard, library, first) = first();
    drop(library);
    for entry in fs::read_dir(yard.config.state.join("policies/compiled")).unwrap() {
        fs::write(entry.unwrap().path(), b"damaged").unwrap();
    }
    let library = yard.open();
    assert_eq!(
        (version(&library), status(&library, "hostile").state),
        (first, PolicyState::Live)
    );
}

#[test]
fn copies_that_are_damaged_are_made_again() {
    let (mut yard, mut library, first) = first();
    let damages: [fn(&mut Vec<u8>); 3] = [
        |file| file.truncate(file.len() / 2),
        |file| file.clear(),
        |file| file.fill(0),
    ];
    for damage in damages {
        drop(library);
        for folder in ["plugins", "compiled"] {
            for entry in fs::read_dir(yard.config.state.join("policies").join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let mut file = fs::read(&path).unwrap();
                damage(&mut file);
                fs::write(&path, file).unwrap();
            }
        }
        library = yard.open();
        let now = status(&library, "hostile");
        assert_eq!((now.version, now.state, now.problem), (first, PolicyState::Live, None));
        assert_eq!(reason(&library, "hostile", "count"), "1");
    }
    let copy = fs::read_dir(yard.config.state.join("policies/plugins")).unwrap().next();
    assert_eq!(fs::read(copy.unwrap().unwrap().path()).unwrap(), guest("hostile"));

    // A damaged copy of a version whose file is gone cannot be made again, and is not what serves.
    drop(library);
    fs::remove_file(yard.file("hostile")).unwrap();
    for folder in ["plugins", "compiled"] {
        for entry in fs::read_dir(yard.config.state.join("policies").join(folder)).unwrap() {
            fs::write(entry.unwrap().path(), b"damaged").unwrap();
        }
    }
    yard.config.policies.poll = Duration::from_millis(100);
    let library = yard.open();
    assert_eq!(version(&library), None);
    yard.drop_in("hostile", guest("hostile"));
    assert_eq!(wait_for(&library, "hostile", PolicyState::Live, "").version, first);
}

#[test]
fn machine_code_that_this_gateway_did_not_compile_under_its_name_is_not_run() {
    let yard = Yard::new(&["hostile", "picker"]);
    let other = Yard::new(&["hostile"]);
    yard.drop_in("hostile", guest("hostile"));
    yard.drop_in("picker", guest("picker"));
    other.drop_in("hostile", guest("hostile"));
    let versions = ["hostile", "picker"].map(|name| status(&yard.open(), name).version);
    drop(other.open());
    let compiled = |yard: &Yard, version: Option<Hash>| {
        let version = version.unwrap().to_string();
        let files = fs::read_dir(yard.config.state.join("policies/compiled")).unwrap();
        let mut files = files.map(|entry| entry.unwrap().path());
        files
            .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&version))
            .expect("a compiled program")
    };
    let (mine, picker) = (compiled(&yard, versions[0]), compiled(&yard, versions[1]));
    // One of another name, and one that another gateway made of the same plugin.
    for planted in [picker, compiled(&other, versions[0])] {
        let planted = fs::read(planted).unwrap();
        fs::write(&mine, &planted).unwrap();
        let library = yard.open();
        assert_eq!(reason(&library, "hostile", "count"), "1");
        assert_eq!(status(&library, "hostile").version, versions[0]);
        assert_ne!(fs::read(&mine).unwrap(), planted, "it was compiled again");
    }
}

/// What nobody waits for keeps neither memory nor a file open, however much of it there is.
#[test]
fn plugins_that_no_route_uses_are_loaded_up_to_a_limit() {
    let mut yard = Yard::new(&["hostile"]);
    yard.config.policies.max_unused = 2;
    for name in ["a", "b", "c", "d"] {
        yard.drop_in(name, &with_section(guest("hostile"), name));
    }
    yard.drop_in("hostile", guest("hostile"));
    let library = yard.open();
    for name in ["a", "b"] {
        let loaded = wait_for(&library, name, PolicyState::Live, "");
        assert!(loaded.version.is_some() && !loaded.used, "{loaded:#?}");
    }
    for name in ["c", "d"] {
        let unused = wait_for(&library, name, PolicyState::Unused, "");
        assert!(unused.version.is_none(), "{unused:#?}");
    }
    assert!(status(&library, "hostile").used);

    // A route that names one loads it, before anybody is told that the configuration is live.
    yard.config.routes = vec![pointsman::config::Route {
        policies: vec!["hostile".into(), "d".into()],
        ..yard.config.routes[0].clone()
    }];
    library.reconfigure(&yard.config);
    let named = status(&library, "d");
    assert_eq!((named.state, named.used), (PolicyState::Live, true), "{named:#?}");
    assert_eq!(reason(&library, "d", "count"), "1");
}

/// A named pipe that takes the place of a plugin while it is read would hang whoever opens it.
#[test]
fn a_pipe_in_place_of_a_plugin_hangs_nothing() {
    let (yard, library, first) = first();
    let pipe = yard.home.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    for round in 0..200 {
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        yard.drop_in("hostile", &with_section(guest("hostile"), &format!("{round}")));
        thread::sleep(Duration::from_millis(round % 5));
        fs::rename(&pipe, yard.file("hostile")).unwrap();
    }
    let before = version(&library);
    assert!(before.is_some() && first.is_some());
    yard.drop_in("hostile", &second());
    let start = Instant::now();
    let second = hash(&second());
    while version(&library).map(|hash| hash.to_string()) != Some(second.clone()) {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{:#?}",
            status(&library, "hostile")
        );
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_link_to_something_that_is_no_file_is_ignored() {
    let (yard, library, first) = first();
    symlink("/dev/zero", yard.file("zero")).unwrap();
    symlink("/dev/zero", yard.plugins().join("link")).unwrap();
    fs::rename(yard.plugins().join("link"), yard.file("hostile")).unwrap();
    assert_eq!(wait_for(&library, "hostile", PolicyState::FileGone, "").version, first);
    yard.drop_in("hostile", &second());
    wait_until_live(&library, first);
    assert!(library.status().iter().all(|status| status.name != "zero"));
}
