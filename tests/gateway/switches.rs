//! What operators type to take a target out: a slip is refused in words and never looks like success.

use serde_json::{Value, json};

use super::client::Answer;
use super::running::{ASK, Gateway, eventually};
use super::setup::Setup;
use super::vendor::Vendor;

fn put(gateway: &Gateway, name: &str, value: &str) -> Answer {
    gateway.admin_with(&format!("PUT /api/switches/{name}"), value)
}

fn error(answer: &Answer) -> String {
    answer.json()["error"].as_str().expect("an error in words").to_owned()
}

#[test]
fn a_switch_says_what_it_affects() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).vendor("second", "vllm").start();
    let answer = put(&gateway, "first", "off");
    assert_eq!(answer.status, 200);
    let expected = json!({"switch": "first", "value": "off", "affects": ["first"], "routes_without_target": []});
    assert_eq!(answer.json(), expected);
    let all = put(&gateway, "vllm", "off").json();
    assert_eq!(all["affects"], json!(["second"]));
    assert_eq!(all["routes_without_target"], json!(["smart"]), "nothing is left");
    eventually("the log to say so", || {
        let log = gateway.log();
        let is_said = log.contains("a switch was set") && log.contains("\"affects\":\"second\"");
        is_said.then_some(())
    });
    let back = gateway.admin("DELETE /api/switches/vllm").json();
    assert_eq!((&back["value"], &back["affects"]), (&Value::Null, &json!(["second"])));
    assert_eq!(gateway.chat(ASK).says(), "from second");
}

#[test]
fn a_mistyped_value_is_refused_and_leaves_the_target_out() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    assert_eq!(put(&gateway, "first", "off").status, 200);
    for slip in ["of", "0", "false", "disabled", "", "\"off"] {
        let answer = put(&gateway, "first", slip);
        assert_eq!(answer.status, 400, "{slip}: {}", answer.text());
        assert_eq!(gateway.target("first")["switched_off"], true, "{slip}");
    }
    assert!(error(&put(&gateway, "first", "of")).contains("did you mean `off`?"));
    assert_eq!(gateway.chat(ASK).says(), "from second");
}

#[test]
fn the_case_of_letters_and_quotes_do_not_matter() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for written in ["OFF", "Off", "\"off\"", "'off'", " off\n"] {
        let answer = put(&gateway, "vendor", written);
        assert_eq!(
            (answer.status, &answer.json()["value"]),
            (200, &"off".into()),
            "{written}"
        );
        assert_eq!(gateway.chat(ASK).status, 503, "{written}");
        assert_eq!(put(&gateway, "vendor", "ON").json()["value"], "on");
        assert_eq!(gateway.chat(ASK).status, 200);
    }
}

#[test]
fn an_unknown_name_is_refused_unless_the_operator_insists() {
    let vendor = Vendor::well("gpt-main");
    let gateway = Setup::new([&vendor]).start();
    let slip = put(&gateway, "gpt-mian", "off");
    assert_eq!(slip.status, 404);
    let said = error(&slip);
    assert!(
        said.contains("did you mean `gpt-main`?") && said.contains("?anyway"),
        "{said}"
    );
    let nowhere = error(&put(&gateway, "openai", "off"));
    assert!(nowhere.contains("`openai-compatible`"), "{nowhere}");
    assert_eq!(gateway.admin("GET /api/switches").json(), json!({}));

    let own = put(&gateway, "night-mode?anyway", "10%");
    assert_eq!((own.status, &own.json()["affects"]), (200, &json!([])));
    assert_eq!(put(&gateway, "night-mode", "20%").status, 200, "it is there by now");
    let slip = put(&gateway, "gpt-main?anyway", "of");
    assert_eq!(slip.status, 400, "a target's value is checked in any case");
    let near = gateway.admin("DELETE /api/switches/nigth-mode");
    assert_eq!(near.status, 404);
    assert!(error(&near).contains("did you mean `night-mode`?"));
}

#[test]
fn a_switch_that_cannot_be_is_refused() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for (name, value, status) in [
        ("a%20b?anyway", "off", 400),
        ("a?anyway", "two\nlines", 400),
        ("a?anyway", &"x".repeat(300), 400),
        ("a?anyway", &"x".repeat(5000), 413),
    ] {
        assert_eq!(put(&gateway, name, value).status, status, "{name}");
    }
    assert_eq!(gateway.admin("GET /api/switches").json(), json!({}));
}

#[test]
fn junk_never_stands_in_the_way_of_an_outage() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    for number in 0..256 {
        assert_eq!(put(&gateway, &format!("junk-{number}?anyway"), "x").status, 200);
    }
    assert_eq!(put(&gateway, "one-more?anyway", "x").status, 409);
    assert_eq!(put(&gateway, "first", "off").status, 200);
    assert_eq!(put(&gateway, "openai-compatible", "on").status, 200);
    assert_eq!(gateway.chat(ASK).says(), "from second");
}

#[test]
fn targets_show_their_switches() {
    let (first, second) = (Vendor::well("first"), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    put(&gateway, "openai-compatible", "off");
    put(&gateway, "first", "on");
    let target = gateway.target("first");
    assert_eq!(target["switches"], json!({"first": "on", "openai-compatible": "off"}));
    assert_eq!(target["switched_off"], true);
    gateway.admin("DELETE /api/switches/openai-compatible");
    assert_eq!(gateway.target("first")["switched_off"], false);
    assert_eq!(gateway.target("second")["switches"], json!({}));
}

#[test]
fn a_target_with_a_slash_in_its_name_has_a_switch() {
    let vendor = Vendor::well("eu/gpt");
    let gateway = Setup::new([&vendor]).start();
    for name in ["eu/gpt", "eu%2Fgpt"] {
        let answer = put(&gateway, name, "off");
        assert_eq!(answer.json()["affects"], json!(["eu/gpt"]), "{name}");
        assert_eq!(gateway.chat(ASK).status, 503);
        assert_eq!(gateway.admin(&format!("DELETE /api/switches/{name}")).status, 200);
        assert_eq!(gateway.chat(ASK).status, 200);
    }
}
