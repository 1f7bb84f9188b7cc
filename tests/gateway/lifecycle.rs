//! From start to end: what a gateway refuses to start with, how a changed configuration takes effect, and how it stops.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use super::running::{ASK, ASK_STREAM, binary, eventually, free_address};
use super::script::{DONE, Gate, ROLE, STOP, Script, text};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

/// Runs the gateway to its end with a configuration in a folder of its own.
fn run(command: &str, config: &str, env: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pointsman.toml"), config).unwrap();
    run_in(folder.path(), command, "pointsman.toml", env)
}

fn run_in(folder: &Path, command: &str, file: &str, env: &[(&str, &str)]) -> Output {
    let mut binary = binary();
    binary
        .current_dir(folder)
        .args([command, "--config", file])
        .envs(env.iter().copied());
    binary.output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const BAD: &str = r#"
listen = "nowhere"
colour = "red"
[[target]]
name = "gpt"
vendor = "opnai"
model = "gpt-5"
[[route]]
model = "smart"
targets = ["gtp"]
"#;

#[test]
fn a_bad_configuration_is_told_at_once_with_lines_and_what_to_write() {
    let output = run("serve", BAD, &[]);
    assert_eq!(output.status.code(), Some(64));
    let errors = errors(&output);
    for (line, word) in [(2, "nowhere"), (3, "colour"), (6, "opnai"), (10, "gtp")] {
        let told = errors
            .lines()
            .find(|told| told.starts_with(&format!("pointsman.toml:{line}:")));
        assert!(
            told.is_some_and(|told| told.contains(word) && told.contains("; ")),
            "line {line} in\n{errors}"
        );
    }
    let checked = run("check", BAD, &[]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(self::errors(&checked).contains(&errors), "{}", self::errors(&checked));
}

#[test]
fn a_configuration_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for (command, code) in [("serve", 64), ("check", 1)] {
        let output = run_in(folder.path(), command, "missing.toml", &[]);
        assert_eq!(output.status.code(), Some(code));
        assert!(errors(&output).contains("missing.toml"), "{}", errors(&output));
    }
}

#[test]
fn a_check_of_a_good_configuration_exits_0() {
    let vendor = Vendor::well("vendor");
    let config = Setup::new([&vendor])
        .route("policies = [\"plan-b\"]")
        .config("127.0.0.1:1", "127.0.0.1:2");
    let output = run("check", &config, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert_eq!(vendor.connections(), 0);
}

/// Without a file there are simulated vendors, and the real one whose key is there.
#[test]
fn a_check_without_a_configuration_exits_0() {
    let folder = tempfile::tempdir().unwrap();
    for (key, targets) in [(None, 3), (Some(("OPENAI_API_KEY", "sk-test")), 4)] {
        let mut check = binary();
        check.current_dir(folder.path()).arg("check").envs(key);
        let output = check.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains(&format!("{targets} targets")), "{told}");
    }
}

#[test]
fn a_check_finds_policies_that_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]).route("policies = [\"mine\", \"missing\"]");
    std::fs::write(
        folder.path().join("pointsman.toml"),
        setup.config("127.0.0.1:1", "127.0.0.1:2"),
    )
    .unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/mine.wasm"), &ready_made("plan-b")[..500]).unwrap();
    let output = run_in(folder.path(), "check", "pointsman.toml", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors(&output).contains("`mine`") && errors(&output).contains("`missing`"),
        "{}",
        errors(&output)
    );
}

#[test]
fn every_example_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut checked = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let comment: Vec<_> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(comment.len() >= 3, "{} says when to take it", path.display());
        // A copy, so that nothing is left beside the example.
        let variables: Vec<_> = text
            .split("env = \"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let env: Vec<_> = variables
            .iter()
            .enumerate()
            .map(|(index, name)| (*name, format!("key-{index}")))
            .collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let output = run("check", &text, &env);
        assert_eq!(output.status.code(), Some(0), "{}: {}", path.display(), errors(&output));
        assert!(
            !errors(&output)
                .lines()
                .any(|line| line.starts_with("warning") && !line.contains("catalog")),
            "{}: {}",
            path.display(),
            errors(&output)
        );
        checked += 1;
    }
    assert!(checked >= 4, "there is an example for each usual start");
}

#[test]
fn a_port_that_is_taken_is_told_and_exits_1() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).workers(2).start();
    let other = TcpListener::bind(free_address()).unwrap();
    let (other, free) = (other.local_addr().unwrap(), free_address());
    // By another gateway, which shares its port among its workers but with nobody else, and by any other program.
    for (listen, admin, taken) in [(gateway.listen, free, gateway.listen), (free, other, other)] {
        let config = Setup::new([&vendor])
            .workers(2)
            .config(&listen.to_string(), &admin.to_string());
        let output = run("serve", &config, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(errors(&output).contains(&taken.to_string()), "{}", errors(&output));
    }
}

#[test]
fn everything_has_help() {
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["--version"],
    ] {
        let output = binary().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
    }
}

/// What a newcomer does first: start it, and paste the line that it prints.
#[test]
fn the_line_that_is_printed_at_the_start_works() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let log = gateway.log();
    let line = log
        .lines()
        .find_map(|line| line.strip_prefix("try: curl -i "))
        .expect("a line to try");
    let (url, rest) = line.split_once(' ').unwrap();
    assert_eq!(url, format!("http://{}/v1/chat/completions", gateway.listen));
    let body = rest.split_once("-d '").unwrap().1.trim_end_matches('\'');
    assert_eq!(gateway.chat(body).says(), "from vendor");
    assert!(log.contains("vendor-model"), "{log}");
}

#[test]
fn simulated_vendors_answer_whole_and_in_streams() {
    let sim = "[[target]]\nname = \"toy\"\nvendor = \"sim\"\nmodel = \"toy-1\"\n\
               sim = { latency_ms = 1, first_token_ms = 1, tokens_per_second = 10000, tokens = 20 }\n\
               [[route]]\nmodel = \"play\"\ntargets = [\"toy\"]";
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).after(sim).start();
    let answer = gateway.chat(&ASK.replace("smart", "play"));
    assert!(
        answer.says().contains("toy"),
        "it says which target answered: {}",
        answer.text()
    );
    assert_eq!(answer.json()["usage"]["completion_tokens"], 20);
    let stream = gateway.chat(&ASK_STREAM.replace("smart", "play"));
    assert!(
        stream.text().contains("toy") && stream.text().ends_with(DONE),
        "{}",
        stream.text()
    );
}

#[test]
fn what_is_read_only_at_the_start_is_told_when_it_changes() {
    let vendor = Vendor::well("vendor");
    let mut gateway = Setup::new([&vendor]).start();
    gateway.configure(Setup::new([&vendor]).workers(7));
    eventually("the log to say so", || {
        gateway.log().contains("at the next start").then_some(())
    });
    assert_eq!(gateway.chat(ASK).says(), "from vendor");
}

#[test]
fn a_changed_configuration_serves_the_next_request() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let mut gateway = Setup::new([&first]).start();
    assert_eq!(gateway.chat(ASK).says(), "from first");
    gateway.configure(Setup::new([&second]));
    eventually("the new target to answer", || {
        (gateway.chat(ASK).says() == "from second").then_some(())
    });
}

#[test]
fn a_broken_configuration_changes_nothing_and_is_told() {
    let vendor = Vendor::well("vendor");
    let mut gateway = Setup::new([&vendor]).start();
    gateway.configure(Setup::new([&vendor]).route("colour = \"red\""));
    eventually("the log to say so", || gateway.log().contains("colour").then_some(()));
    assert_eq!(gateway.chat(ASK).says(), "from vendor");
    assert!(gateway.metric("pointsman_config_reloads_total", "refused") >= 1.0);
    gateway.configure(Setup::new([&vendor]).target("vendor", "attributes = { better = true }"));
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads_total", "live") >= 1.0).then_some(())
    });
}

#[test]
fn an_open_stream_survives_a_changed_configuration() {
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("before")])
        .until(&gate)
        .frames([&text("after"), STOP, DONE])
        .end();
    let (first, second) = (
        Vendor::start("first", [script, Script::Well("old".into())]),
        Vendor::well("second"),
    );
    let mut gateway = Setup::new([&first]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");
    gateway.configure(Setup::new([&second]));
    eventually("the new target to answer", || {
        (gateway.chat(ASK).says() == "from second").then_some(())
    });
    gate.open();
    assert!(stream.rest().ends_with(&[&text("after"), STOP, DONE].concat()));
}

#[test]
fn a_drain_turns_readiness_red_first_and_lets_open_streams_finish() {
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("before")])
        .until(&gate)
        .frames([&text("after"), STOP, DONE])
        .end();
    let vendor = Vendor::start("vendor", [script, Script::Well("still here".into())]);
    let mut gateway = Setup::new([&vendor]).toml("server.drain_delay_ms = 1500").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");

    gateway.terminate();
    eventually("readiness to turn red", || {
        (gateway.admin("GET /readyz").status == 503).then_some(())
    });
    assert_eq!(gateway.admin("GET /healthz").status, 200);
    assert_eq!(
        gateway.chat(ASK).says(),
        "still here",
        "who has not heard of it yet is served"
    );
    eventually("the listener to close", || {
        std::net::TcpStream::connect(gateway.listen).is_err().then_some(())
    });
    assert!(gateway.is_running(), "the stream is still open");

    gate.open();
    assert!(stream.rest().ends_with(&[&text("after"), STOP, DONE].concat()));
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn idle_connections_do_not_hold_a_drain_up() {
    let vendor = Vendor::well("vendor");
    let mut gateway = Setup::new([&vendor]).start();
    let mut idle = gateway.connect();
    idle.request(super::running::CHAT, &[], ASK.as_bytes());
    idle.answer();
    gateway.terminate();
    idle.wait_until_closed();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
}

#[test]
fn a_stream_that_does_not_finish_within_the_drain_is_cut_off() {
    let vendor = Vendor::start("vendor", [Script::begin([ROLE, &text("before")]).hold()]);
    let mut gateway = Setup::new([&vendor]).toml("server.drain_ms = 200").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");
    gateway.terminate();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    vendor.wait_for_cancellation();
}

/// Workers of their own, or one runtime that shares all work: a client sees no difference.
#[test]
fn both_runtimes_serve_and_drain() {
    for runtime in ["per-core", "shared"] {
        let vendor = Vendor::well("vendor");
        let toml = format!("server.runtime = \"{runtime}\"");
        let mut gateway = Setup::new([&vendor]).toml(&toml).workers(3).start();
        for _ in 0..10 {
            assert_eq!(gateway.chat(ASK).says(), "from vendor");
        }
        gateway.terminate();
        assert_eq!(gateway.wait_for_exit().code(), Some(0));
    }
}
