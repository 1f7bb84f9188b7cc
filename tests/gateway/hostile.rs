//! Bad policies: one may loop, trap or talk nonsense, and the request is answered all the same, or rejected where the route
//! says so. The guest does what its setting `do` says; with none it picks all targets, and so it gets past the probe.

use super::guests::guest;
use super::running::{ASK, Gateway, eventually};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

/// A gateway whose one policy, `hostile`, has begun well and now does this.
fn doing(what: &str, setup: Setup) -> Gateway {
    let setup = setup
        .plugin("hostile", guest("hostile"))
        .route("policies = [\"hostile\"]");
    let mut gateway = setup.clone().start();
    let answer = gateway.chat(ASK);
    assert!(
        answer.header("x-pointsman-policy").starts_with("hostile@"),
        "{}",
        answer.text()
    );
    let settings = format!("policy.hostile = {{ settings = {{ do = \"{what}\" }}, deadline_ms = 100 }}");
    gateway.configure(setup.toml(&settings));
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads_total", "live") > 0.0).then_some(())
    });
    gateway
}

/// A request is answered by the built-in chain, and the admin listener counts what the policy did.
#[track_caller]
fn is_survived(what: &str, counter: &str) {
    let (first, second) = (Vendor::well("gpt"), Vendor::well("second"));
    let gateway = doing(what, Setup::new([&first, &second]));
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from gpt", "{what}");
    let how = match counter {
        "traps" => "trap",
        "timeouts" => "timeout",
        "nonsense" => "invalid",
        other => panic!("{other} is no way to fail"),
    };
    let named = answer.header("x-pointsman-policy");
    let label = named.strip_suffix(&format!("; failed={how}")).unwrap_or_default();
    assert!(label.starts_with("hostile@"), "{what}: {named}");
    assert_eq!(
        answer.header("x-pointsman-reason"),
        format!("{label} failed ({how})"),
        "{what}"
    );
    let line = gateway.request_line(answer.header("x-request-id"));
    let logged = line["policy_error"].as_str().unwrap();
    assert!(
        logged.starts_with(&format!("{label} failed ({how}): ")) && line["policy"] == "",
        "{what}: {line}"
    );
    let told = gateway.policy("hostile");
    assert_eq!(told[counter], 1, "{what}: {told}");
    assert!(
        told["last_error"]["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{told}"
    );
    eventually("the log to say so", || {
        gateway.log().contains("the policy gave no decision").then_some(())
    });
    assert!(gateway.log().len() < 64 << 10, "what a policy says is limited");
}

#[test]
fn a_policy_that_traps_costs_one_decision() {
    is_survived("trap", "traps");
}

#[test]
fn a_policy_that_panics_costs_one_decision() {
    is_survived("panic", "traps");
}

#[test]
fn a_policy_that_recurses_costs_one_decision() {
    is_survived("recurse", "traps");
}

#[test]
fn a_policy_that_allocates_without_end_costs_one_decision() {
    is_survived("allocate", "traps");
}

#[test]
fn a_policy_that_loops_costs_one_decision() {
    is_survived("loop", "timeouts");
}

#[test]
fn a_policy_with_ten_thousand_picks_costs_one_decision() {
    is_survived("many-picks", "nonsense");
}

#[test]
fn a_policy_that_rejects_with_200_costs_one_decision() {
    is_survived("reject-200", "nonsense");
}

#[test]
fn a_policy_with_a_patch_that_is_none_costs_one_decision() {
    is_survived("bad-patch", "nonsense");
}

/// Whoever names nobody that exists has decided nothing.
#[test]
fn a_policy_that_picks_only_unknown_targets_leaves_the_built_in_chain() {
    let vendor = Vendor::well("gpt");
    let gateway = doing("unknown-target", Setup::new([&vendor]));
    assert_eq!(gateway.chat(ASK).says(), "from gpt");
    assert!(gateway.metric("pointsman_policy_dropped_picks_total", "") >= 1.0);
    eventually("the log to say so", || gateway.log().contains("nobody").then_some(()));
}

#[test]
fn a_policy_that_logs_a_megabyte_is_cut_short() {
    for what in ["log-megabyte", "log-lines"] {
        let vendor = Vendor::well("gpt");
        let gateway = doing(what, Setup::new([&vendor]));
        let answer = gateway.chat(ASK);
        assert_eq!(answer.says(), "from gpt");
        gateway.request_line(answer.header("x-request-id"));
        assert!(gateway.log().len() < 64 << 10, "{what}: {} bytes", gateway.log().len());
        assert!(
            gateway.policy("hostile")["dropped_log_lines"].as_u64().unwrap() > 0,
            "{what}"
        );
    }
}

#[test]
fn a_policy_cannot_forge_log_lines_nor_headers() {
    let vendor = Vendor::well("gpt");
    let gateway = doing("log-forged", Setup::new([&vendor]));
    gateway.chat(ASK);
    assert!(!gateway.log().contains('\u{1b}'));
    assert!(!gateway.log().lines().any(|line| line.starts_with("two")));

    let gateway = doing("reject-429", Setup::new([&vendor]));
    let answer = gateway.chat(ASK);
    answer.assert_error(429, "rejected_by_policy");
    assert_eq!(
        answer.json()["error"]["message"].as_str().unwrap().find(['\r', '\n']),
        None
    );
}

#[test]
fn where_the_route_says_so_a_failing_policy_rejects() {
    for what in ["trap", "loop", "many-picks", "unknown-target"] {
        let vendor = Vendor::well("gpt");
        let gateway = doing(what, Setup::new([&vendor]).route("on_error = \"reject\""));
        assert_eq!(vendor.count(), 1, "while it was fine");
        let answer = gateway.chat(ASK);
        answer.assert_error(503, "policy_failed");
        assert_eq!(answer.header("x-should-retry"), "false");
        assert_eq!(vendor.count(), 1, "{what}");
    }
}

#[test]
fn one_policy_that_fails_does_not_stop_the_other() {
    let (first, second) = (Vendor::well("gpt"), Vendor::well("second"));
    let setup = Setup::new([&first, &second])
        .plugin("hostile", guest("hostile"))
        .plugin("plan-b", ready_made("plan-b"));
    let setup = setup
        .route("policies = [\"hostile\", \"plan-b\"]")
        .toml("policy.plan-b.settings = { primary = \"second\" }");
    let mut gateway = setup.clone().start();
    gateway.configure(setup.toml("policy.hostile.settings = { do = \"trap\" }"));
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads_total", "live") > 0.0).then_some(())
    });
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from second");
    let named = answer.header("x-pointsman-policy");
    let (failed, decided) = named.split_once(", ").unwrap_or_default();
    assert!(
        failed.starts_with("hostile@") && failed.ends_with("; failed=trap") && decided.starts_with("plan-b@"),
        "{named}"
    );
}

#[test]
fn a_policy_that_keeps_failing_is_set_aside_for_its_last_good_version() {
    let (first, second) = (Vendor::well("gpt"), Vendor::well("second"));
    let setup = Setup::new([&first, &second])
        .plugin("mine", ready_made("plan-b"))
        .route("policies = [\"mine\"]");
    let mut gateway = setup.clone().start();
    let good = gateway.chat(ASK).header("x-pointsman-policy").to_owned();
    gateway.plug("mine", guest("hostile"));
    eventually("the new version", || {
        (gateway.chat(ASK).header("x-pointsman-policy") != good).then_some(())
    });
    gateway.configure(setup.toml("policy.mine.settings = { do = \"trap\" }"));
    eventually("the version before to serve again", || {
        let answer = gateway.chat(ASK);
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.header("x-pointsman-policy") == good).then_some(())
    });
    let told = gateway.policy("mine");
    assert_eq!(told["state"], "set-aside");
    assert!(!told["problem"].as_str().unwrap().is_empty());
}

#[test]
fn a_policy_that_fails_from_the_first_is_refused_and_the_gateway_starts() {
    for what in ["trap", "loop", "allocate"] {
        let vendor = Vendor::well("gpt");
        let setup = Setup::new([&vendor])
            .plugin("hostile", guest("hostile"))
            .route("policies = [\"hostile\"]");
        let toml = format!("policy.hostile = {{ settings = {{ do = \"{what}\" }}, deadline_ms = 50 }}");
        let gateway = setup.toml(&toml).start();
        assert_eq!(gateway.chat(ASK).says(), "from gpt");
        let told = gateway.policy("hostile");
        assert_eq!(
            (&told["state"], &told["version"]),
            (&"refused".into(), &serde_json::Value::Null),
            "{told}"
        );
        assert!(!told["problem"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_policy_that_imports_what_it_may_not_is_refused_until_it_is_granted() {
    let vendor = Vendor::well("gpt");
    let setup = Setup::new([&vendor])
        .plugin("curious", guest("curious"))
        .route("policies = [\"curious\"]");
    let mut gateway = setup.clone().start();
    assert_eq!(gateway.chat(ASK).says(), "from gpt");
    let told = gateway.policy("curious");
    assert_eq!(told["state"], "refused");
    assert!(told["problem"].as_str().unwrap().contains("grants"), "{told}");

    gateway.configure(setup.toml("policy.curious.grants = [\"prompt\"]"));
    eventually("the policy to serve", || {
        (gateway.policy("curious")["state"] == "live").then_some(())
    });
    assert_eq!(gateway.chat(ASK).status, 200);
    assert!(gateway.policy("curious")["decisions"].as_u64().unwrap() > 0);
}
