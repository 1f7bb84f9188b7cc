//! The listener for operators: what is there, with which methods.

use super::client::Connection;
use super::running::Gateway;
use super::setup::Setup;
use super::vendor::Vendor;

/// Asks with HEAD and then with GET on the same connection: the second answer is only found where the first had no body.
#[track_caller]
fn assert_head_works(gateway: &Gateway, path: &str) {
    let mut connection = Connection::open(gateway.admin);
    let host = gateway.admin.to_string();
    let host = [("host", host.as_str())];
    connection.request(&format!("HEAD {path}"), &host, b"");
    let (status, head) = connection.answer_to_head();
    connection.request(&format!("GET {path}"), &host, b"");
    let whole = connection.answer();
    assert_eq!((status, whole.status), (200, 200), "{path}");
    assert_eq!(head.header("content-type"), whole.head.header("content-type"), "{path}");
    assert!(!whole.body.is_empty(), "{path}");
}

#[test]
fn head_works_wherever_get_does() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let index = gateway.admin("GET /api").json();
    let rows = index.as_array().unwrap();
    let paths: Vec<_> = rows
        .iter()
        .filter(|row| row["method"] == "GET")
        .map(|row| row["path"].as_str().unwrap())
        .collect();
    assert!(
        paths.contains(&"/healthz") && paths.contains(&"/api/targets"),
        "{index}"
    );
    for path in paths {
        assert_head_works(&gateway, path);
    }
}

#[test]
fn it_says_what_there_is() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    assert_eq!(gateway.admin("GET /healthz").text(), "ok");
    assert_eq!(gateway.admin("GET /readyz/?x=1").text(), "ready");
    assert_eq!(gateway.admin("GET /api/policies").json(), serde_json::json!([]));
    let unknown = gateway.admin("GET /nothing");
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("/api/targets"), "{}", unknown.text());
    let elsewhere = gateway.admin("POST /v1/chat/completions");
    assert_eq!(elsewhere.status, 404, "clients are served elsewhere");
}

#[test]
fn a_wrong_method_is_answered_with_the_right_ones() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for (line, allowed) in [
        ("POST /api/targets", "GET, HEAD"),
        ("DELETE /healthz", "GET, HEAD"),
        ("GET /api/policies/plan-b/rollback", "POST"),
        ("POST /api/switches/vendor", "PUT, DELETE"),
    ] {
        let answer = gateway.admin(line);
        assert_eq!((answer.status, answer.header("allow")), (405, allowed), "{line}");
    }
}
