//! `/api/overview`: one call that says what is broken.

use serde_json::{Value, json};

use super::running::{ASK, Gateway, eventually};
use super::script::{Script, error_body};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

fn overview(gateway: &Gateway) -> Value {
    let answer = gateway.admin("GET /api/overview");
    assert_eq!(answer.status, 200);
    answer.json()
}

/// A request, counted.
fn ask(gateway: &Gateway) -> u16 {
    let answer = gateway.chat(ASK);
    gateway.request_line(answer.header("x-request-id"));
    answer.status
}

fn summary(overview: &Value) -> &str {
    overview["summary"].as_str().unwrap()
}

#[test]
fn where_nothing_is_broken_it_says_so() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).policy("plan-b").start();
    for _ in 0..3 {
        assert_eq!(ask(&gateway), 200);
    }
    let overview = overview(&gateway);
    assert_eq!((&overview["ok"], &overview["problems"]), (&json!(true), &json!([])));
    assert!(summary(&overview).starts_with("all is well"), "{overview}");
    assert_eq!(overview["targets"]["ok"][0]["name"], "first");
    assert_eq!(overview["targets"]["ok"][1]["last_error"], Value::Null);
    assert_eq!(overview["policies"][0]["name"], "plan-b");
    let configuration = &overview["configuration"];
    assert_eq!(
        (&configuration["state"], &configuration["is_last_good"]),
        (&json!("live"), &json!(false))
    );
    assert!(configuration["live_since_ms"].as_u64().unwrap() > 1_600_000_000_000);
    for time in ["last_minute", "last_hour"] {
        assert_eq!(overview[time], json!({"requests": 3, "failed": 0}), "{time}");
    }
}

#[test]
fn targets_that_fail_are_named_with_their_last_error() {
    let gone = Vendor::gone("gone");
    let broken = Vendor::start("broken", [Script::status(500, &[], &error_body("out_of_order"))]);
    let gateway = Setup::new([&gone, &broken]).start();
    for _ in 0..6 {
        ask(&gateway);
    }
    let overview = overview(&gateway);
    assert_eq!(overview["ok"], false);
    let open = overview["targets"]["open"].as_array().unwrap();
    let row = |name: &str| open.iter().find(|row| row["name"] == name).unwrap();
    let words = row("gone")["last_error"]["words"].as_str().unwrap();
    assert!(words.contains("refused"), "{words}");
    assert_eq!(row("broken")["last_error"]["kind"], "server-error");
    assert_eq!(row("broken")["last_error"]["code"], "out_of_order");
    assert!(row("broken")["cooldown_ms"].as_u64().unwrap() > 0);
    assert!(row("broken")["last_error"]["at_ms"].as_u64().unwrap() > 1_600_000_000_000);
    let dead = &overview["routes_without_way_out"];
    let expected = json!([{"model": "smart", "targets": {"broken": "open", "gone": "open"}}]);
    assert_eq!(*dead, expected);
    let minute = &overview["last_minute"];
    assert!(minute["failed"].as_u64().unwrap() >= 1, "{minute}");
    let summary = summary(&overview);
    for part in [
        "no target of these routes is available: smart",
        "2 of 2 targets",
        "requests failed in the last minute",
    ] {
        assert!(summary.contains(part), "{part}: {summary}");
    }
    assert_eq!(
        gateway.target("gone")["last_error"]["words"],
        words,
        "the list of targets has it, too"
    );
}

#[test]
fn what_an_operator_switched_off_is_off() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    gateway.admin_with("PUT /api/switches/first", "off");
    let half = overview(&gateway);
    assert_eq!(half["targets"]["off"][0]["name"], "first");
    assert_eq!(half["routes_without_way_out"], json!([]));
    assert_eq!(half["switches"], json!({"first": "off"}));
    gateway.admin_with("PUT /api/switches/openai-compatible", "off");
    let none = overview(&gateway);
    assert_eq!(
        none["routes_without_way_out"][0]["targets"],
        json!({"first": "off", "second": "off"})
    );
}

#[test]
fn a_policy_and_a_configuration_that_are_refused_are_named() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]).policy("plan-b");
    let mut gateway = setup.clone().start();
    gateway.plug("plan-b", b"not a plugin");
    let refused = eventually("the policy to be refused", || {
        let overview = overview(&gateway);
        (overview["policies"][0]["state"] == "refused").then_some(overview)
    });
    assert!(summary(&refused).contains("policies: plan-b ("), "{refused}");
    gateway.plug("plan-b", ready_made("plan-b"));
    gateway.configure(setup.clone().toml("lisen = 1"));
    let refused = eventually("the configuration to be refused", || {
        let overview = overview(&gateway);
        (overview["configuration"]["state"] == "refused").then_some(overview)
    });
    let error = refused["configuration"]["errors"][0].as_str().unwrap();
    assert!(
        error.contains("lisen") && summary(&refused).contains(error),
        "{refused}"
    );
    gateway.configure(setup);
    eventually("all to be well again", || {
        (overview(&gateway)["ok"] == true).then_some(())
    });
}

#[test]
fn a_vendors_words_are_shown_without_the_key() {
    const KEY: &str = "sk-vendor-0123456789";
    let error = format!(r#"{{"error":{{"message":"bad key {KEY}","code":"c_{KEY}","type":"x"}}}}"#);
    let vendor = Vendor::start("vendor", [Script::status(401, &[], &error)]);
    let setup = Setup::new([&vendor]).target("vendor", "api_key = { env = \"VENDOR\" }");
    let gateway = setup.env("VENDOR", KEY).start();
    ask(&gateway);
    let answer = gateway.admin("GET /api/overview");
    assert!(answer.text().contains("unauthorized"), "{}", answer.text());
    for line in ["GET /api/overview", "GET /api/targets"] {
        assert!(!gateway.admin(line).text().contains(KEY), "{line}");
    }
}
