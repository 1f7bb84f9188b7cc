//! Policies: the plugin folder decides, a swap takes effect with the next request, and a broken file changes nothing.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use sha2::{Digest, Sha256};

use super::guests::guest;
use super::running::{ASK, ASK_STREAM, Gateway, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

/// How answers name a version.
fn label(policy: &str, wasm: &[u8]) -> String {
    let hash: String = Sha256::digest(wasm)
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{policy}@{hash}")
}

/// Two targets of which the second is cheaper, and the plugin `plan-b`, which prefers the first. Every other ready-made
/// policy can take its place: the route asks whatever `plan-b.wasm` is.
fn two() -> (Vendor, Vendor, Setup) {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let setup = Setup::new([&first, &second]).policy("plan-b");
    let setup = setup.target("first", "input_price = 10\noutput_price = 10");
    (
        first,
        second,
        setup.target("second", "input_price = 1\noutput_price = 1"),
    )
}

/// Waits until requests are decided by a version; every one of them is answered meanwhile.
#[track_caller]
fn wait_for_version(gateway: &Gateway, label: &str) {
    eventually(&format!("{label} to decide"), || {
        let answer = gateway.chat(ASK);
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.header("x-pointsman-policy") == label).then_some(())
    });
}

/// Waits until the admin listener tells this state of `plan-b`, and gives the problem it tells.
#[track_caller]
fn wait_for_state(gateway: &Gateway, state: &str) -> String {
    eventually(&format!("plan-b to be {state}"), || {
        let told = gateway.policy("plan-b");
        (told["state"] == state).then(|| told["problem"].as_str().unwrap_or_default().to_owned())
    })
}

#[test]
fn a_policy_decides_and_is_named_with_its_reason() {
    let (_first, _second, setup) = two();
    let gateway = setup
        .toml("policy.plan-b.settings = { order = [\"second\", \"first\"] }")
        .start();
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from second");
    assert_eq!(
        answer.header("x-pointsman-policy"),
        label("plan-b", ready_made("plan-b"))
    );
    assert_eq!(answer.header("x-pointsman-reason"), "second is first in order");
    let line = gateway.request_line(answer.header("x-request-id"));
    assert_eq!(
        (&line["policy"], &line["reason"]),
        (
            &answer.header("x-pointsman-policy").into(),
            &"second is first in order".into()
        )
    );
    let told = gateway.policy("plan-b");
    assert_eq!(
        (&told["state"], &told["decisions"], &told["traps"]),
        (&"live".into(), &1.into(), &0.into())
    );
    assert!(gateway.metric("pointsman_policy_decisions", "plan-b") >= 1.0);
}

#[test]
fn a_policy_is_asked_again_after_each_failure() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).policy("plan-b").start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-reason")),
        ("from second", "plan B: first failed")
    );
    assert_eq!(gateway.policy("plan-b")["decisions"], 2);
}

#[test]
fn the_ready_made_policies_need_no_file() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let setup = Setup::new([&first, &second]).route("policies = [\"plan-b\"]");
    let gateway = setup.toml("policy.plan-b.settings = { primary = \"second\" }").start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-policy")),
        ("from second", label("plan-b", ready_made("plan-b")).as_str())
    );
}

#[test]
fn a_new_file_decides_the_next_request_and_open_streams_go_on() {
    let gate = Gate::default();
    let open = Script::begin([ROLE, &text("before")])
        .until(&gate)
        .frames([&text("after"), STOP, DONE])
        .end();
    let first = Vendor::start("first", [open, Script::Well("from first".into())]);
    let second = Vendor::well("second");
    let setup = Setup::new([&first, &second]).policy("plan-b");
    let gateway = setup.target("second", "input_price = 1\noutput_price = 1").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("before");

    gateway.plug("plan-b", ready_made("cheapest"));
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-reason")),
        ("from second", "second is the cheapest")
    );

    gate.open();
    assert!(stream.rest().ends_with(&[&text("after"), STOP, DONE].concat()));
}

/// The version that a request took at the door decides its fallback, whatever has been swapped in meanwhile.
#[test]
fn a_request_keeps_its_version_through_all_attempts() {
    let gate = Gate::default();
    let fails = Script::Steps(vec![])
        .until(&gate)
        .then(Script::status(500, &[], &error_body("server_error")));
    let first = Vendor::start("first", [fails, Script::Well("from first".into())]);
    let (second, third) = (Vendor::well("second"), Vendor::well("third"));
    let setup = Setup::new([&first, &second, &third])
        .policy("plan-b")
        .target("third", "input_price = 1\noutput_price = 1");
    let gateway = setup.start();
    let mut client = gateway.connect();
    client.request(super::running::CHAT, &[], ASK.as_bytes());
    first.wait_for(1);
    gateway.plug("plan-b", ready_made("cheapest"));
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
    gate.open();
    let answer = client.answer();
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-reason")),
        ("from second", "plan B: first failed")
    );
    assert_eq!(
        answer.header("x-pointsman-policy"),
        label("plan-b", ready_made("plan-b"))
    );
}

#[test]
fn a_file_that_is_no_policy_leaves_the_old_version_in_place_and_says_why() {
    let (_first, _second, setup) = two();
    let gateway = setup.start();
    let before = label("plan-b", ready_made("plan-b"));
    let truncated = &ready_made("cheapest")[..ready_made("cheapest").len() / 2];
    let no_world = wat::parse_str("(module (func (export \"decide\")))").unwrap();
    let broken: [(&str, &[u8]); 4] = [
        ("text", b"fn decide() {}"),
        ("empty", b""),
        ("truncated", truncated),
        ("another world", &no_world),
    ];
    for (what, bytes) in broken {
        gateway.plug("plan-b", bytes);
        let problem = wait_for_state(&gateway, "refused");
        assert!(problem.len() > 10, "{what}: {problem:?}");
        wait_for_version(&gateway, &before);
        eventually("the log to say so", || gateway.log().contains("plan-b").then_some(()));
        assert!(gateway.metric("pointsman_policy_refused", "plan-b") > 0.0, "{what}");
        gateway.plug("plan-b", ready_made("plan-b"));
        wait_for_state(&gateway, "live");
    }
}

#[test]
fn a_file_of_200_mb_is_refused_unread() {
    let (_first, _second, setup) = two();
    let gateway = setup.start();
    let huge = gateway.path("huge");
    File::create(&huge).unwrap().set_len(200 << 20).unwrap();
    fs::rename(huge, gateway.plugin("plan-b")).unwrap();
    let problem = wait_for_state(&gateway, "refused");
    assert!(
        problem.contains("209715200 bytes") && problem.contains("max_file_mib"),
        "{problem}"
    );
    wait_for_version(&gateway, &label("plan-b", ready_made("plan-b")));
}

#[test]
fn a_file_that_is_deleted_serves_on() {
    let (_first, _second, setup) = two();
    let mut gateway = setup.start();
    gateway.plug("plan-b", ready_made("cheapest"));
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
    fs::remove_file(gateway.plugin("plan-b")).unwrap();
    wait_for_state(&gateway, "file-gone");
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
    gateway.plug("plan-b", ready_made("plan-b"));
    wait_for_version(&gateway, &label("plan-b", ready_made("plan-b")));
    assert!(gateway.is_running());
}

#[test]
fn a_file_that_is_written_slowly_serves_when_it_is_whole() {
    let (_first, _second, setup) = two();
    let gateway = setup.start();
    let (head, rest) = ready_made("cheapest").split_at(1000);
    fs::write(gateway.plugin("plan-b"), head).unwrap();
    for _ in 0..5 {
        assert_eq!(
            gateway.chat(ASK).header("x-pointsman-policy"),
            label("plan-b", ready_made("plan-b"))
        );
    }
    std::io::Write::write_all(
        &mut File::options().append(true).open(gateway.plugin("plan-b")).unwrap(),
        rest,
    )
    .unwrap();
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
}

/// As mounted volumes replace all their files at once.
#[test]
fn a_swapped_link_is_a_new_file() {
    let (_first, _second, setup) = two();
    let gateway = setup.start();
    let at = |name: &str| gateway.path(&format!("plugins/{name}"));
    for (folder, wasm) in [("..one", ready_made("plan-b")), ("..two", ready_made("cheapest"))] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(at(folder).join("plan-b.wasm"), wasm).unwrap();
    }
    symlink("..one", at("..data")).unwrap();
    symlink("..data/plan-b.wasm", at("..link")).unwrap();
    fs::rename(at("..link"), gateway.plugin("plan-b")).unwrap();
    wait_for_version(&gateway, &label("plan-b", ready_made("plan-b")));
    symlink("..two", at("..next")).unwrap();
    fs::rename(at("..next"), at("..data")).unwrap();
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
}

#[test]
fn a_rollback_brings_the_version_before_and_holds_until_the_file_changes() {
    let (_first, _second, setup) = two();
    let mut gateway = setup.start();
    let nothing = gateway.admin("POST /api/policies/plan-b/rollback");
    assert_eq!(nothing.status, 409, "{}", nothing.text());
    assert_eq!(gateway.admin("POST /api/policies/nobody/rollback").status, 404);

    gateway.plug("plan-b", ready_made("cheapest"));
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
    let done = gateway.admin("POST /api/policies/plan-b/rollback");
    assert_eq!(done.status, 200, "{}", done.text());
    let before = label("plan-b", ready_made("plan-b"));
    assert!(
        done.json()["version"]
            .as_str()
            .unwrap()
            .starts_with(&before["plan-b@".len()..])
    );
    assert_eq!(
        gateway.chat(ASK).header("x-pointsman-policy"),
        before,
        "the next request obeys"
    );
    wait_for_state(&gateway, "rolled-back");

    gateway.restart();
    assert_eq!(
        gateway.chat(ASK).header("x-pointsman-policy"),
        before,
        "a restart remembers"
    );
    gateway.plug("plan-b", ready_made("canary"));
    wait_for_state(&gateway, "live");
}

#[test]
fn any_kept_version_can_be_activated_by_its_hash() {
    let (_first, _second, setup) = two();
    let mut gateway = setup.start();
    gateway.plug("plan-b", ready_made("cheapest"));
    let (old, new) = (
        label("plan-b", ready_made("plan-b")),
        label("plan-b", ready_made("cheapest")),
    );
    wait_for_version(&gateway, &new);
    let activate = |gateway: &Gateway, version: &str| {
        let body = format!("{{\"version\": \"{version}\"}}");
        gateway.admin_with("POST /api/policies/plan-b/activate", &body)
    };
    let decides = |gateway: &Gateway| gateway.chat(ASK).header("x-pointsman-policy").to_owned();
    assert_eq!(gateway.admin("POST /api/policies/plan-b/rollback").status, 200);
    assert_eq!(decides(&gateway), old);

    // What was rolled back from is listed, over a restart too, and comes back; as answers and logs name it, or by a few digits.
    gateway.restart();
    let newer = gateway.policy("plan-b")["newer"][0].as_str().unwrap().to_owned();
    assert!(newer.starts_with(&new["plan-b@".len()..]), "{newer}");
    let done = activate(&gateway, &new);
    assert_eq!(
        (done.status, done.json()["version"].as_str()),
        (200, Some(newer.as_str()))
    );
    assert_eq!(decides(&gateway), new, "the next request obeys");
    wait_for_state(&gateway, "live");
    assert_eq!(activate(&gateway, &old["plan-b@".len()..][..6]).status, 200);
    assert_eq!(decides(&gateway), old);
    let problem = wait_for_state(&gateway, "rolled-back");
    assert!(problem.contains("rolled back from"), "{problem}");

    for (version, status) in [("00000000", 404), ("", 409)] {
        let refused = activate(&gateway, version);
        assert_eq!(refused.status, status, "{}", refused.text());
    }
    for body in ["", "{}", "newest", "{\"version\": 7}"] {
        let refused = gateway.admin_with("POST /api/policies/plan-b/activate", body);
        assert_eq!(refused.status, 400, "{}", refused.text());
    }
    let nobody = gateway.admin_with("POST /api/policies/nobody/activate", "{\"version\": \"00\"}");
    assert_eq!(nobody.status, 404);
    assert_eq!(decides(&gateway), old, "what was refused changes nothing");
    // Somebody drops the newer file in again: that is a deployment.
    gateway.plug("plan-b", ready_made("cheapest"));
    wait_for_version(&gateway, &new);
}

/// The first start of a newcomer, with what the build places in the plugin folder.
#[test]
fn plugins_that_no_route_uses_are_quiet() {
    let vendor = Vendor::well("vendor");
    let mut setup = Setup::new([&vendor]).policy("plan-b").toml("log.level = \"debug\"");
    // So few that the machine's limit of descriptors is no reason for a warning.
    setup = setup.toml("server.max_connections = 100");
    for name in ["canary", "cheapest", "fastest", "residency"] {
        setup = setup.plugin(name, ready_made(name));
    }
    let gateway = setup.start();
    eventually("all of them to be ready", || {
        let ready = |name| {
            gateway
                .told_of_policy(name)
                .is_some_and(|told| told["version"].is_string())
        };
        ["canary", "cheapest", "fastest", "residency"]
            .into_iter()
            .all(ready)
            .then_some(())
    });
    assert_eq!(gateway.policy("canary")["used"], false);
    assert_eq!(gateway.policy("plan-b")["used"], true);
    let loud = |line: &&str| ["\"ERROR\"", "\"WARN\""].iter().any(|level| line.contains(level));
    let log = gateway.log();
    let loud: Vec<&str> = log.lines().filter(loud).collect();
    assert!(loud.is_empty(), "{loud:#?}");
    let live: Vec<&str> = log.lines().filter(|line| line.contains("policy live")).collect();
    assert_eq!(live.len(), 1, "{live:#?}");
}

/// The policy that a route uses does not wait for hundreds that none uses, and these keep no file open.
#[test]
fn hundreds_of_plugins_hold_up_no_start() {
    let vendor = Vendor::well("vendor");
    let mut setup = Setup::new([&vendor]).policy("plan-b");
    for number in 0..500 {
        // The same policy with another content: a section of its own.
        let name = format!("{number:03}");
        let section = [&[0, 4, 3][..], name.as_bytes()].concat();
        let plugin = [ready_made("plan-b"), &section].concat();
        setup = setup.plugin(&format!("other-{name}"), &plugin);
    }
    let start = std::time::Instant::now();
    let gateway = setup.start();
    println!("ready after {:?}", start.elapsed());
    let states = |gateway: &Gateway| -> Vec<String> {
        let all = gateway.admin("GET /api/policies").json();
        let rows = all.as_array().unwrap().iter();
        rows.map(|row| row["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        gateway.chat(ASK).header("x-pointsman-policy"),
        label("plan-b", ready_made("plan-b"))
    );
    // As many as max_unused says are loaded behind it.
    let of = |state: &str| states(&gateway).iter().filter(|found| *found == state).count();
    eventually("some of them to be loaded", || (of("live") == 17).then_some(()));
    assert_eq!(of("unused"), 484);
    let descriptors = gateway.descriptors().len();
    println!("{descriptors} descriptors");
    assert!(descriptors < 150, "{descriptors} descriptors");
}

/// Missed deadlines take a policy out until it is well again; nobody has to touch its file.
#[test]
fn a_policy_that_missed_its_deadlines_comes_back_when_its_settings_are_mended() {
    let vendor = Vendor::well("gpt");
    let setup = Setup::new([&vendor])
        .plugin("hostile", guest("hostile"))
        .route("policies = [\"hostile\"]");
    let loops = setup
        .clone()
        .toml("policy.hostile = { settings = { do = \"loop\" }, deadline_ms = 10 }");
    let mut gateway = setup.clone().start();
    let version = gateway.chat(ASK).header("x-pointsman-policy").to_owned();
    assert!(version.starts_with("hostile@"), "{version}");
    gateway.configure(loops);
    eventually("the policy to be set aside", || {
        assert_eq!(gateway.chat(ASK).status, 200);
        (gateway.policy("hostile")["state"] == "set-aside").then_some(())
    });
    let told = gateway.policy("hostile");
    assert!(
        told["version"].is_null() && told["problem_details"]["retry_at_ms"].is_u64(),
        "{told}"
    );
    // It is probed, and not well yet.
    eventually("a probe", || gateway.log().contains("still set aside").then_some(()));
    gateway.configure(setup);
    wait_for_version(&gateway, &version);
    assert_eq!(gateway.policy("hostile")["state"], "live");
    assert!(gateway.log().contains("well again"));
}

#[test]
fn a_plugin_under_a_wrong_name_is_told() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).policy("plan-b").start();
    gateway.plug("plan_b", guest("hostile"));
    gateway.plug("plan b", ready_made("plan-b"));
    for words in [
        "is plan-b.wasm meant?",
        "`plan-b`",
        "plan b.wasm",
        "is ignored: the name of a policy",
    ] {
        eventually(words, || gateway.log().contains(words).then_some(()));
    }
    let missing = Setup::new([&vendor]).route("policies = [\"planb\"]").start();
    let problem = missing.policy("planb")["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("did you mean `plan-b`?"), "{problem}");
}

/// What a guest writes before its probe fails is what its author needs to read, and where the operator looks.
#[test]
fn a_refusal_has_the_guests_own_words() {
    let (_first, _second, setup) = two();
    let gateway = setup.toml("policy.plan-b.settings = { do = \"log-and-trap\" }").start();
    gateway.plug("plan-b", guest("hostile"));
    let problem = wait_for_state(&gateway, "refused");
    assert!(
        problem.contains("the policy wrote: console is not defined"),
        "{problem}"
    );
    let details = &gateway.policy("plan-b")["problem_details"];
    let hash = label("plan-b", guest("hostile"));
    assert!(
        details["version"]
            .as_str()
            .unwrap()
            .starts_with(&hash["plan-b@".len()..])
    );
    assert_eq!(details["guest_log"], serde_json::json!(["console is not defined"]));
    assert!(details["file_modified_ms"].as_u64() <= details["at_ms"].as_u64());
    let refused = gateway.log();
    let refused = refused
        .lines()
        .find(|line| line.contains("plugin refused"))
        .expect("a line");
    assert!(
        refused.contains("console is not defined") && refused.contains(&hash["plan-b@".len()..]),
        "{refused}"
    );
}

#[test]
fn the_log_says_what_became_of_each_file() {
    let (_first, _second, setup) = two();
    let gateway = setup.start();
    let says = |words: &str, times: usize| {
        eventually(words, || {
            let log = gateway.log();
            (log.lines().filter(|line| line.contains(words)).count() == times).then_some(())
        });
    };
    gateway.plug("plan-b", ready_made("cheapest"));
    says("\"compiling\"", 2);
    says("\"policy live\"", 2);
    gateway.plug("plan-b", ready_made("cheapest"));
    says("its content serves already", 1);
    assert_eq!(gateway.admin("POST /api/policies/plan-b/rollback").status, 200);
    says("\"rolled back\"", 1);
    gateway.plug("plan-b", ready_made("cheapest"));
    says("\"policy live again\"", 1);
    for times in [1, 2] {
        gateway.plug("plan-b", b"no policy");
        says("plugin refused", times);
    }
    fs::remove_file(gateway.plugin("plan-b")).unwrap();
    says("the plugin file is gone", 1);
    says("back to the ready-made policy", 1);
    wait_for_version(&gateway, &label("plan-b", ready_made("plan-b")));
}

#[test]
fn a_restart_with_a_broken_file_comes_up_with_what_served_last() {
    let (_first, _second, setup) = two();
    let mut gateway = setup.start();
    gateway.plug("plan-b", ready_made("cheapest"));
    wait_for_version(&gateway, &label("plan-b", ready_made("cheapest")));
    gateway.plug("plan-b", b"not a policy");
    wait_for_state(&gateway, "refused");
    gateway.restart();
    assert_eq!(
        gateway.chat(ASK).header("x-pointsman-policy"),
        label("plan-b", ready_made("cheapest"))
    );
    assert!(!wait_for_state(&gateway, "refused").is_empty());
}

#[test]
fn a_policy_that_is_not_there_leaves_the_built_in_chain() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).route("policies = [\"missing\"]").start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-policy")),
        ("from vendor", "missing; failed=missing")
    );
    assert_eq!(answer.header("x-pointsman-reason"), "missing failed (missing)");
    let log = gateway.log();
    assert!(
        log.contains("decided by the built-in chain (without missing: ") && log.contains("no such file"),
        "the greeting says so: {log}"
    );
    let ready = gateway.admin("GET /readyz");
    assert_eq!(
        (ready.status, ready.text()),
        (200, "ready\nroute smart: no version of missing serves")
    );
    assert!(
        gateway.policy("missing")["problem"]
            .as_str()
            .unwrap()
            .contains("no such file")
    );
}

#[test]
fn a_gateway_that_requires_policies_is_not_ready_without_them() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]).route("policies = [\"late\"]");
    let mut gateway = setup.clone().start();
    gateway.configure(setup.toml("policies.required = true"));
    let refused = eventually("the gateway not to be ready", || {
        Some(gateway.admin("GET /readyz")).filter(|answer| answer.status == 503)
    });
    assert_eq!(refused.text(), "not ready\nroute smart: no version of late serves");
    gateway.plug("late", ready_made("plan-b"));
    eventually("the gateway to be ready", || {
        (gateway.admin("GET /readyz").text() == "ready").then_some(())
    });
}

/// The one that failed is named beside the one that decided.
#[test]
fn the_policy_that_failed_is_named_beside_the_one_that_decided() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let setup = Setup::new([&first, &second])
        .plugin("cheapest", ready_made("cheapest"))
        .route("policies = [\"missing\", \"cheapest\"]");
    let gateway = setup.start();
    let answer = gateway.chat(ASK);
    let decided = label("cheapest", ready_made("cheapest"));
    assert_eq!(
        answer.header("x-pointsman-policy"),
        format!("missing; failed=missing, {decided}")
    );
    assert!(!answer.header("x-pointsman-reason").contains("failed"));
    let line = gateway.request_line(answer.header("x-request-id"));
    assert_eq!(line["policy"], decided);
    assert!(
        line["policy_error"]
            .as_str()
            .unwrap()
            .starts_with("missing failed (missing)")
    );
    assert!(
        gateway
            .log()
            .contains(&format!("decided by {decided} (without missing: "))
    );
    assert_eq!(gateway.admin("GET /readyz").text(), "ready");
}

#[test]
fn a_policy_that_is_not_there_rejects_where_the_route_says_so_until_it_comes() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second])
        .route("policies = [\"late\"]\non_error = \"reject\"")
        .start();
    gateway.chat(ASK).assert_error(503, "policy_failed");
    assert_eq!((first.count(), second.count()), (0, 0));
    gateway.plug("late", ready_made("plan-b"));
    eventually("the policy to decide", || {
        (gateway.chat(ASK).status == 200).then_some(())
    });
}

#[test]
fn the_settings_of_a_policy_follow_the_configuration() {
    let (_first, _second, setup) = two();
    let mut gateway = setup.clone().start();
    assert_eq!(gateway.chat(ASK).says(), "from first");
    gateway.configure(setup.toml("policy.plan-b.settings = { primary = \"second\" }"));
    eventually("the new settings to decide", || {
        (gateway.chat(ASK).says() == "from second").then_some(())
    });
}

/// Policies may be chained: a company's rule before a team's.
#[test]
fn the_picks_of_one_policy_are_the_targets_of_the_next() {
    let vendors = ["us-cheap", "eu-dear", "eu-cheap"].map(Vendor::well);
    let setup = Setup::new(&vendors)
        .target(
            "us-cheap",
            "attributes = { region = \"us\" }\ninput_price = 0.1\noutput_price = 0.1",
        )
        .target(
            "eu-dear",
            "attributes = { region = \"eu\" }\ninput_price = 9\noutput_price = 9",
        )
        .target(
            "eu-cheap",
            "attributes = { region = \"eu\" }\ninput_price = 1\noutput_price = 1",
        )
        .plugin("residency", ready_made("residency"))
        .plugin("cheapest", ready_made("cheapest"))
        .route("policies = [\"residency\", \"cheapest\"]")
        .toml("policy.residency.settings = { default = \"eu\" }");
    let answer = setup.start().chat(ASK);
    assert_eq!(answer.says(), "from eu-cheap");
    assert_eq!(
        answer.header("x-pointsman-policy"),
        label("cheapest", ready_made("cheapest"))
    );
}

#[test]
fn many_swaps_under_load_fail_no_request() {
    let (_first, _second, setup) = two();
    let gateway = setup.start();
    let versions = [ready_made("plan-b"), ready_made("cheapest")];
    let labels = versions.map(|wasm| label("plan-b", wasm));
    let swapping = std::sync::atomic::AtomicBool::new(true);
    let answered = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut answered = 0;
            while swapping.load(std::sync::atomic::Ordering::Relaxed) {
                let answer = gateway.chat(ASK);
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert!(
                    labels.iter().any(|label| label == answer.header("x-pointsman-policy")),
                    "{:?}",
                    answer.head
                );
                answered += 1;
            }
            answered
        });
        for round in 1..=10 {
            gateway.plug("plan-b", versions[round % 2]);
            wait_for_version(&gateway, &labels[round % 2]);
        }
        swapping.store(false, std::sync::atomic::Ordering::Relaxed);
        client.join().unwrap()
    });
    assert!(answered > 0);
}

/// What has failed, and how, in the words of the contract.
#[test]
fn a_policy_is_told_how_each_attempt_failed() {
    let page = Script::other(200, "text/html", &[], "<html>busy</html>");
    let refusal = STOP.replace("\"stop\"", "\"content_filter\"");
    let limited = Script::rate_limited(&[("retry-after", "60")]);
    let fails = Script::status(500, &[], &error_body("server_error"));
    let too_long = Script::status(400, &[], &error_body("context_length_exceeded"));
    for (vendor, told) in [
        (Vendor::gone("first"), "Connect:refused"),
        (Vendor::full("first"), "Timeout:connect_timeout"),
        (
            Vendor::start("first", [Script::silence()]),
            "Timeout:first_content_timeout",
        ),
        (Vendor::start("first", [limited]), "RateLimited:rate_limit_exceeded"),
        (Vendor::start("first", [fails]), "ServerError:server_error"),
        (
            Vendor::start("first", [too_long]),
            "ContextTooLong:context_length_exceeded",
        ),
        (Vendor::start("first", [page]), "BadResponse:not_a_stream"),
        (
            Vendor::start("first", [Script::begin([ROLE]).reset()]),
            "CutOff:cut_off",
        ),
        (
            Vendor::start("first", [Script::begin([ROLE]).end()]),
            "CutOff:empty_stream",
        ),
        (
            Vendor::start("first", [Script::stream([ROLE, &refusal, DONE])]),
            "Refused:refused",
        ),
    ] {
        let second = Vendor::well("second");
        let setup = Setup::new([&vendor, &second])
            .plugin("picker", guest("picker"))
            .route("policies = [\"picker\"]")
            .target("first", "context_window = 10")
            .target("second", "context_window = 20")
            .toml("timeouts = { connect_ms = 300, first_content_ms = 400 }")
            .toml("policy.picker.settings = { picks = \"first\", when_failed = \"second\", when_refused = \"second\", tell = \"attempts\" }");
        let gateway = setup.start();
        let stream = gateway.stream(ASK_STREAM);
        assert_eq!(stream.header("x-pointsman-target"), "second", "{told}");
        assert_eq!(stream.header("x-pointsman-reason"), format!("first:Failure::{told}"));
    }
}
