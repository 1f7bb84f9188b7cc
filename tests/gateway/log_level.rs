//! The level of the log, changed while the gateway runs.

use serde_json::{Value, json};

use super::running::{ASK, Gateway, eventually};
use super::setup::Setup;
use super::vendor::Vendor;

fn put(gateway: &Gateway, body: &str) -> (u16, Value) {
    let answer = gateway.admin_with("PUT /api/log", body);
    (answer.status, answer.json())
}

fn debug_lines(gateway: &Gateway) -> usize {
    gateway.log().matches("\"level\":\"DEBUG\"").count()
}

#[test]
fn an_operator_changes_the_level_for_a_time() {
    // Nothing listens there: why it cannot be reached is told at debug.
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .base_url("vendor", "http://127.0.0.1:1/v1")
        .start();
    let before = json!({"level": "info", "configured": "info", "for_s": null});
    assert_eq!(gateway.admin("GET /api/log").json(), before);
    gateway.chat(ASK);
    assert_eq!(debug_lines(&gateway), 0);

    let (status, changed) = put(&gateway, r#"{"level":"debug","for_s":300}"#);
    assert_eq!(
        (status, &changed["level"], &changed["for_s"]),
        (200, &json!("debug"), &json!(300))
    );
    gateway.chat(ASK);
    eventually("a line at debug", || (debug_lines(&gateway) > 0).then_some(()));

    assert_eq!(gateway.admin("DELETE /api/log").json(), before);
    eventually("the log to say so", || {
        gateway
            .log()
            .contains("back at the level of the configuration")
            .then_some(())
    });
}

#[test]
fn a_changed_level_goes_back_by_itself() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    assert_eq!(put(&gateway, r#"{"level":"error","for_s":1}"#).0, 200);
    eventually("the level of the configuration", || {
        (gateway.admin("GET /api/log").json()["level"] == "info").then_some(())
    });
    let answer = gateway.chat(ASK);
    gateway.request_line(answer.header("x-request-id"));
}

#[test]
fn what_is_no_level_is_refused() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for slip in ["debgu", "", "{\"level\":\"debug\",\"for_s\":0}", "{", "pointsman=loud"] {
        let (status, answer) = put(&gateway, slip);
        assert_eq!(status, 400, "{slip}");
        assert!(answer["error"].as_str().unwrap().contains("write "), "{slip}: {answer}");
    }
    assert_eq!(gateway.admin("GET /api/log").json()["level"], "info");
}

#[test]
fn a_level_in_a_changed_configuration_is_live() {
    let vendor = Vendor::well("vendor");
    let mut gateway = Setup::new([&vendor]).start();
    gateway.configure(Setup::new([&vendor]).toml("log.level = \"debug\""));
    eventually("the new level", || {
        (gateway.admin("GET /api/log").json()["configured"] == "debug").then_some(())
    });
    assert_eq!(gateway.admin("GET /api/log").json()["level"], "debug");
}
