//! Plugins that must not serve, and what the operator is told about each.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pointsman::policy::{Library, PolicyState};

use crate::guests::guest;
use crate::support::{Yard, program, status, wait_for};

/// Why a plugin is refused when the gateway starts with it.
fn refusal(plugin: &[u8]) -> String {
    let yard = Yard::new(&["p"]);
    yard.drop_in("p", plugin);
    let library = yard.open();
    let status = status(&library, "p");
    assert_eq!((status.state, status.version), (PolicyState::Refused, None));
    assert!(library.versions().get("p").is_none());
    status.problem.unwrap()
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[track_caller]
fn assert_says(problem: &str, what: &str) {
    assert!(problem.contains(what), "`{problem}` does not say `{what}`");
}

#[test]
fn a_text_file() {
    assert_says(
        &refusal(b"#!/usr/bin/env python3\nprint('plan b')\n"),
        "not WebAssembly but a text file",
    );
    assert_says(&refusal(b"(component)"), "text format");
}

#[test]
fn an_empty_file() {
    assert_says(&refusal(b""), "empty");
}

#[test]
fn a_truncated_file() {
    let whole = guest("hostile");
    assert_says(&refusal(&whole[..whole.len() / 2]), "ends in the middle");
    assert_says(&refusal(&whole[..6]), "ends in the middle");
}

#[test]
fn a_broken_file() {
    let mut broken = guest("hostile").to_vec();
    let middle = broken.len() / 2;
    broken[middle..middle + 64].fill(0xff);
    assert_says(&refusal(&broken), "not valid WebAssembly");
}

#[test]
fn a_file_that_is_too_large_is_not_even_read() {
    let yard = Yard::new(&["p"]);
    File::create(yard.file("p")).unwrap().set_len(200 << 20).unwrap();
    let start = Instant::now();
    let library = yard.open();
    assert_says(
        &status(&library, "p").problem.unwrap(),
        "209715200 bytes, at most 67108864",
    );
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_module_without_the_contract() {
    assert_says(&refusal(&wat("(module)")), "without the contract");
}

#[test]
fn a_module_for_the_first_preview_of_wasi() {
    let module = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))))"#;
    assert_says(&refusal(&wat(module)), "WASI preview 1");
}

#[test]
fn the_wrong_world() {
    assert_says(
        &refusal(&wat("(component)")),
        "exports no function `decide`; it exports nothing",
    );
    let other = r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m))
        (func (export "choose") (canon lift (core func $i "f"))))"#;
    assert_says(&refusal(&wat(other)), "it exports `choose`");
    assert_says(
        &refusal(&wat(&other.replace("choose", "decide"))),
        "does not fit the contract",
    );
}

#[test]
fn imports_that_nobody_may_have() {
    let importing = |name: &str| refusal(&wat(&format!(r#"(component (import "{name}" (instance)))"#)));
    assert_says(
        &importing("wasi:http/outgoing-handler@0.2.0"),
        "a policy has no network",
    );
    assert_says(
        &importing("wasi:nn/tensor@0.2.0-rc"),
        "which this gateway does not serve",
    );
    assert_says(
        &importing("pointsman:policy/types@0.9.0"),
        "this gateway speaks pointsman:policy@0.1.0",
    );
}

#[test]
fn a_policy_that_fails_its_probe() {
    for (what, problem) in [
        (
            "loop",
            "the probe had no decision within 1100 ms, deadline_ms allows 100 ms; raise deadline_ms or isolation = \"reuse\" under \
             [policy.hostile]",
        ),
        ("trap", "the probe decision failed: trapped"),
        (
            "reject-200",
            "the probe decision failed: nonsense: a rejection with status 200",
        ),
        ("allocate", "16 MiB of memory; raise memory_mib under [policy.hostile]"),
    ] {
        let mut yard = Yard::new(&["hostile"]);
        yard.rules("hostile").settings.insert("do".into(), what.into());
        yard.drop_in("hostile", guest("hostile"));
        assert_says(&status(&yard.open(), "hostile").problem.unwrap(), problem);
    }
}

#[test]
fn a_policy_that_wants_more_memory_than_it_may_have_at_once() {
    let mut yard = Yard::new(&["hostile"]);
    yard.rules("hostile").memory_bytes = 1 << 15;
    yard.drop_in("hostile", guest("hostile"));
    assert_says(&status(&yard.open(), "hostile").problem.unwrap(), "memory");
}

/// A module with so much in one function that compiling it takes minutes.
fn endless() -> Vec<u8> {
    let block = "(local.set 0 (i32.add (local.get 0) (i32.mul (local.get 1) (i32.load (local.get 0)))))";
    let mut text = String::from(r#"(component (core module (memory 1) "#);
    for function in 0..60 {
        text += &format!("(func (export \"f{function}\") (param i32 i32)");
        (0..20_000).for_each(|_| text += block);
        text += ")";
    }
    wat(&(text + "))"))
}

#[test]
fn compiling_takes_forever() {
    let mut yard = Yard::new(&["other"]);
    yard.config.policies.compile.wall = Duration::from_secs(4);
    yard.drop_in("other", guest("hostile"));
    let library = yard.open();
    yard.drop_in("endless", &endless());
    std::thread::sleep(Duration::from_millis(300));
    // Another policy is reloaded meanwhile.
    let before = status(&library, "other").version;
    let start = Instant::now();
    yard.drop_in("other", &crate::decisions::with_section(guest("hostile"), "x"));
    while status(&library, "other").version == before {
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "one compilation held up another"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    wait_for(
        &library,
        "endless",
        PolicyState::Refused,
        "compiling took more than 4 s",
    );
}

#[test]
fn compiling_needs_too_much_memory() {
    let mut yard = Yard::new(&["p"]);
    yard.config.policies.compile.memory_bytes = 300 << 20;
    yard.drop_in("p", &endless());
    assert_says(
        &status(&yard.open(), "p").problem.unwrap(),
        "compiling needed more than 300 MiB",
    );
}

#[test]
fn compiling_takes_too_much_processor_time() {
    let mut yard = Yard::new(&["p"]);
    yard.config.policies.compile.cpu = Duration::from_secs(1);
    yard.drop_in("p", &endless());
    assert_says(
        &status(&yard.open(), "p").problem.unwrap(),
        "compiling took more than 1 s of processor time",
    );
}

#[test]
fn the_compile_child_gets_no_environment() {
    let yard = Yard::new(&["p"]);
    yard.drop_in("p", guest("hostile"));
    let (seen, script) = (yard.home.path().join("seen"), yard.home.path().join("program"));
    let program = program();
    let text = format!(
        "#!/bin/sh\nenv > {}\nexec {} \"$@\"\n",
        seen.display(),
        program.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let library = Library::open(&yard.config, &[], script).unwrap();
    assert!(library.versions().get("p").is_some(), "{:#?}", library.status());
    let seen = fs::read_to_string(seen).unwrap();
    let names: Vec<&str> = seen.lines().filter_map(|line| line.split('=').next()).collect();
    assert!(names.contains(&"MALLOC_ARENA_MAX") && std::env::var("HOME").is_ok());
    // The shell adds the last three.
    let given = ["MALLOC_ARENA_MAX", "RAYON_NUM_THREADS", "PWD", "SHLVL", "_", "OLDPWD"];
    assert!(names.iter().all(|name| given.contains(name)), "{names:?}");
}

#[test]
fn a_policy_that_is_nowhere() {
    let yard = Yard::new(&["plan-c"]);
    let library = yard.open_with(&[("plan-b", b"")]);
    let status = status(&library, "plan-c");
    assert_eq!(status.state, PolicyState::Refused);
    assert_says(&status.problem.unwrap(), "did you mean `plan-b`?");
    let yard = Yard::new(&["mine"]);
    let problem = crate::support::status(&yard.open_with(&[("plan-b", b"")]), "mine").problem;
    assert_says(&problem.unwrap(), "ready-made are plan-b");
}

#[test]
fn check_tells_all_of_it_and_serves_nothing() {
    let yard = Yard::new(&["nowhere", "good"]);
    yard.drop_in("good", guest("hostile"));
    yard.drop_in("text", b"hello");
    let checked = Library::check(&yard.config, &[], program()).unwrap();
    let outcomes: Vec<_> = checked
        .iter()
        .map(|one| (one.policy.as_str(), one.problem.is_some()))
        .collect();
    assert_eq!(
        outcomes,
        [("good", false), ("nowhere", true), ("text", true)],
        "{checked:?}"
    );
    assert!(!yard.config.state.join("policies/served.json").exists());
}

/// A program that cannot compile as long as the file `broken` is there, and then is the gateway's own.
fn sometimes_broken(yard: &Yard) -> (std::path::PathBuf, std::path::PathBuf) {
    let (broken, script) = (yard.home.path().join("broken"), yard.home.path().join("program"));
    let text = format!(
        "#!/bin/sh\n[ -e {} ] && kill -9 $$\nexec {} \"$@\"\n",
        broken.display(),
        program().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(&broken, "").unwrap();
    (broken, script)
}

/// Only what the content itself causes is remembered by it.
#[test]
fn what_was_refused_for_a_passing_reason_is_tried_again() {
    let yard = Yard::new(&["p"]);
    let (broken, script) = sometimes_broken(&yard);
    yard.drop_in("p", guest("hostile"));
    let library = Library::open(&yard.config, &[], script).unwrap();
    let refused = status(&library, "p");
    assert_eq!(refused.state, PolicyState::Refused);
    assert_says(&refused.problem.unwrap(), "killed by signal 9");
    assert!(refused.problem_details.unwrap().retry_at_ms.is_some());
    fs::remove_file(broken).unwrap();
    // Nobody touches anything.
    assert!(wait_for(&library, "p", PolicyState::Live, "").version.is_some());
}

#[test]
fn what_was_refused_for_a_passing_reason_is_tried_again_at_once_when_it_is_touched() {
    let yard = Yard::new(&["p"]);
    let (broken, script) = sometimes_broken(&yard);
    yard.drop_in("p", guest("hostile"));
    let library = Library::open(&yard.config, &[], script).unwrap();
    // Let it fail a few times, so that the pauses are longer than what follows.
    let retry = |library: &Library| status(library, "p").problem_details.unwrap().retry_at_ms.unwrap();
    let first = retry(&library);
    while retry(&library) == first {
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(broken).unwrap();
    let start = Instant::now();
    yard.drop_in("p", guest("hostile"));
    wait_for(&library, "p", PolicyState::Live, "");
    println!("from touch to live: {:?}", start.elapsed());
}

#[test]
fn a_disk_that_was_full_does_not_poison_a_plugin() {
    let yard = Yard::new(&["p"]);
    let library = yard.open();
    // The private folder does not take the plugin, as on a full disk.
    let name = format!("policies/plugins/{}.wasm", crate::files::hash(guest("hostile")));
    let in_the_way = yard.config.state.join(name);
    fs::create_dir_all(in_the_way.join("something")).unwrap();
    yard.drop_in("p", guest("hostile"));
    wait_for(&library, "p", PolicyState::Refused, "cannot be written");
    fs::remove_dir_all(in_the_way).unwrap();
    assert!(wait_for(&library, "p", PolicyState::Live, "").version.is_some());
}

#[test]
fn a_problem_says_which_file_it_is_about() {
    let yard = Yard::new(&["p"]);
    yard.drop_in("p", guest("hostile"));
    let library = yard.open();
    let good = status(&library, "p").version;
    yard.drop_in("p", b"not a policy");
    let refused = wait_for(&library, "p", PolicyState::Refused, "text file");
    let details = refused.problem_details.unwrap();
    assert!(details.version.is_some() && details.version != good, "{details:?}");
    let written = fs::metadata(yard.file("p")).unwrap().modified().unwrap();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(details.file_modified_ms.map(u128::from), Some(written));
    assert!(u128::from(details.at_ms) >= written);
    assert_eq!(details.retry_at_ms, None, "the content causes it");
    // The same file once more is another problem.
    std::thread::sleep(Duration::from_millis(20));
    yard.drop_in("p", b"not a policy");
    let start = Instant::now();
    while status(&library, "p").problem_details.unwrap().at_ms == details.at_ms {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As languages write why they end: `console is not defined`.
#[test]
fn the_guests_own_words_are_told_with_its_refusal() {
    let mut yard = Yard::new(&["hostile"]);
    yard.rules("hostile")
        .settings
        .insert("do".into(), "log-and-trap".into());
    yard.drop_in("hostile", guest("hostile"));
    let refused = status(&yard.open(), "hostile");
    assert_says(&refused.problem.unwrap(), "the policy wrote: console is not defined");
    assert_eq!(refused.problem_details.unwrap().guest_log, ["console is not defined"]);
}

#[test]
fn a_compile_is_seen_while_it_runs_and_cancelled_when_its_file_is_replaced() {
    let yard = Yard::new(&["p"]);
    yard.drop_in("p", guest("hostile"));
    let library = yard.open();
    let good = status(&library, "p").version;
    yard.drop_in("p", &endless());
    let compiling = wait_for(&library, "p", PolicyState::Compiling, "");
    assert_eq!(compiling.version, good, "what served before serves on");
    let seen = compiling.compiling.unwrap();
    assert!(Some(seen.version) != good && seen.since_ms > 0);

    let start = Instant::now();
    yard.drop_in("p", &crate::decisions::with_section(guest("hostile"), "fixed"));
    while status(&library, "p").version == good {
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "the outdated compile takes minutes"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    let fixed = wait_for(&library, "p", PolicyState::Live, "");
    assert_eq!(fixed.compiling, None);
    // And one whose file is gone.
    yard.drop_in("p", &endless());
    wait_for(&library, "p", PolicyState::Compiling, "");
    fs::remove_file(yard.file("p")).unwrap();
    assert_eq!(
        wait_for(&library, "p", PolicyState::FileGone, "").version,
        fixed.version
    );
}

/// Plugins that no route uses have no claim on what a fix needs.
#[test]
fn slow_plugins_that_no_route_uses_hold_up_no_fix() {
    let yard = Yard::new(&["p"]);
    yard.drop_in("p", guest("hostile"));
    let library = yard.open();
    let before = status(&library, "p").version;
    let bomb = endless();
    for n in 0..12 {
        yard.drop_in(
            &format!("bomb-{n}"),
            &crate::decisions::with_section(&bomb, &format!("{n}")),
        );
    }
    wait_for(&library, "bomb-0", PolicyState::Compiling, "");
    let start = Instant::now();
    yard.drop_in("p", &crate::decisions::with_section(guest("hostile"), "fixed"));
    while status(&library, "p").version == before {
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:#?}",
            status(&library, "p")
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    println!(
        "from rename to live, behind twelve slow compiles: {:?}",
        start.elapsed()
    );
}
