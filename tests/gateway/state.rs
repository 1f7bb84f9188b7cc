//! The state folder, the gateway's own binary and the address space: what the gateway stands on, and what becomes of it when
//! somebody takes that away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::guests::guest;
use super::running::{ASK, Gateway, binary, eventually, free_address};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

/// Runs a gateway that must not start, with this state folder.
fn run_with_state(state: &Path) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let vendor = Vendor::well("vendor");
    let config = Setup::new([&vendor]).config(&free_address().to_string(), &free_address().to_string());
    let file = folder.path().join("pointsman.toml");
    fs::write(&file, format!("state = {state:?}\n{config}")).unwrap();
    binary().arg("serve").arg("--config").arg(file).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The name of the policy that decided a request.
fn decided_by(gateway: &Gateway) -> String {
    let answer = gateway.chat(ASK);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-pointsman-policy").to_owned()
}

#[test]
fn a_policy_is_compiled_although_the_binary_was_replaced_or_removed() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("pointsman");
    // Not with `fs::copy`: a process that another test starts meanwhile would have the copy open for writing.
    let copied = Command::new("cp").arg(binary().get_program()).arg(&program).status();
    assert!(copied.unwrap().success());
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).policy("plan-b").program(&program).start();
    let before = decided_by(&gateway);

    let other = home.path().join("other");
    fs::write(&other, "#!/bin/sh\nexit 2\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&other, &program).unwrap();
    gateway.plug("plan-b", ready_made("fastest"));
    let replaced = eventually("a version that was compiled without the binary's name", || {
        Some(decided_by(&gateway)).filter(|now| *now != before)
    });

    fs::remove_file(&program).unwrap();
    gateway.plug("plan-b", ready_made("cheapest"));
    eventually("a version that was compiled without the binary's file", || {
        Some(decided_by(&gateway)).filter(|now| *now != before && *now != replaced)
    });
}

#[test]
fn a_second_gateway_on_a_state_folder_says_so_and_ends() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let state = gateway.path(".pointsman");
    let second = run_with_state(&state);
    assert_eq!(second.status.code(), Some(75), "{}", errors(&second));
    let said = errors(&second);
    assert!(said.contains("in use by another gateway (process "), "{said}");
    assert!(said.contains("a folder of its own with `state"), "{said}");

    // The first one was not disturbed, and keeps what an operator says.
    assert_eq!(gateway.admin_with("PUT /api/switches/vendor", "off").status, 200);
    assert!(fs::read_to_string(state.join("switches.json")).unwrap().contains("off"));
}

#[test]
fn a_state_folder_that_others_can_write_to_is_refused_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let above = home.path().join("shared");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = run_with_state(&above.join("state"));
    assert_eq!(refused.status.code(), Some(1));
    let said = errors(&refused);
    assert!(said.contains(&format!("chmod o-w {}", above.display())), "{said}");
    assert!(!above.join("state").exists(), "nothing is made in it");
}

#[test]
fn a_link_in_the_state_folder_is_not_written_through() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let victim = gateway.path("victim");
    fs::write(&victim, "theirs").unwrap();
    for name in ["switches.json.new", "switches.json"] {
        std::os::unix::fs::symlink(&victim, gateway.path(".pointsman").join(name)).unwrap();
    }
    assert_eq!(gateway.admin_with("PUT /api/switches/vendor", "off").status, 200);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
    let kept = fs::symlink_metadata(gateway.path(".pointsman/switches.json")).unwrap();
    assert!(kept.is_file(), "the link was replaced");
}

#[test]
fn what_killed_compilations_left_is_removed_at_the_start() {
    let vendor = Vendor::well("vendor");
    let mut gateway = Setup::new([&vendor]).policy("plan-b").start();
    let draft = gateway.path(".pointsman/policies/draft-1-0");
    fs::write(&draft, vec![0; 1 << 20]).unwrap();
    gateway.restart();
    assert!(!draft.exists());
    assert!(decided_by(&gateway).starts_with("plan-b@"));
}

#[test]
fn it_starts_and_decides_with_little_address_space() {
    // Two tebibytes are what a pool wants on two cores; one is enough for a smaller pool, and four gibibytes are for none.
    for (kib, what) in [
        (1_u64 << 30, "it has "),
        (4 << 20, "memory is allocated for each decision"),
    ] {
        let vendor = Vendor::well("vendor");
        let gateway = Setup::new([&vendor])
            .policy("plan-b")
            .after_shell(&format!("ulimit -v {kib}"))
            .start();
        let before = decided_by(&gateway);
        assert!(before.starts_with("plan-b@"), "{before}");
        let log = gateway.log();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains("the address space is too small"))
            .collect();
        // With more cores than 16 the smallest step may be enough already; what matters is that it says so once.
        assert!(lines.len() == 1 && lines[0].contains(what), "{log}");

        // It also compiles there, and a policy that fails costs a decision.
        gateway.plug("plan-b", guest("hostile"));
        eventually("the new version to decide", || {
            Some(decided_by(&gateway)).filter(|now| *now != before)
        });
    }
}
