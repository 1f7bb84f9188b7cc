//! Clients of one format and vendors of another: what goes there, what comes back, and what is said of what cannot.

use super::running::{ASK, CHAT};
use super::script::{Script, error_body};
use super::setup::Setup;
use super::vendor::Vendor;

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"from Claude"}],
    "stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}"#;

/// A gateway whose one target speaks Anthropic messages.
fn claude(vendor: &Vendor, route: &str) -> Setup {
    let key = "api_key = { env = \"CLAUDE_KEY\" }";
    Setup::new([vendor])
        .vendor(vendor.name, "anthropic")
        .target(vendor.name, key)
        .model(vendor.name, "claude-3-5-haiku")
        .env("CLAUDE_KEY", "key-of-claude")
        .route(route)
}

#[test]
fn a_chat_client_is_answered_by_a_vendor_of_messages() {
    let vendor = Vendor::start("claude", [Script::answer(MESSAGE)]);
    let gateway = claude(&vendor, "").start();
    let body = r#"{"model":"smart","seed":7,"temperature":1.5,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hello"}]}"#;
    let answer = gateway.chat(body);
    assert_eq!(answer.says(), "from Claude");
    assert_eq!(answer.json()["usage"]["total_tokens"], 7);
    let all = answer.head.headers.iter();
    let warnings: Vec<&str> = all
        .filter(|(name, _)| name == "x-pointsman-warnings")
        .map(|(_, value)| value.as_str())
        .collect();
    assert!(
        warnings.iter().any(|warning| warning.starts_with("seed: ")),
        "{warnings:?}"
    );
    assert!(
        warnings.iter().any(|warning| warning.starts_with("temperature: ")),
        "{warnings:?}"
    );
    let sent = vendor.only();
    assert_eq!(sent.head.header("x-api-key"), Some("key-of-claude"));
    assert_eq!(sent.head.header("anthropic-version"), Some("2023-06-01"));
    let sent: serde_json::Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(sent["system"], "be brief");
    assert_eq!((&sent["temperature"], sent.get("seed")), (&1.into(), None));
}

#[test]
fn what_nobody_can_serve_is_refused_by_the_name_of_its_field() {
    let vendor = Vendor::start("claude", [Script::answer(MESSAGE)]);
    let gateway = claude(&vendor, "").start();
    let answer = gateway.chat(r#"{"model":"smart","n":3,"messages":[{"role":"user","content":"hello"}]}"#);
    answer.assert_error(400, "unsupported_parameter");
    assert_eq!(answer.json()["error"]["param"], "n");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn a_target_that_cannot_serve_a_request_is_skipped_for_one_that_can() {
    let (first, second) = (
        Vendor::start("claude", [Script::answer(MESSAGE)]),
        Vendor::well("second"),
    );
    let setup = Setup::new([&first, &second]).vendor("claude", "anthropic");
    let gateway = setup
        .target("claude", "api_key = { env = \"K\" }")
        .env("K", "k")
        .start();
    let answer = gateway.chat(r#"{"model":"smart","n":3,"messages":[{"role":"user","content":"hello"}]}"#);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from second", "1")
    );
    assert_eq!(first.count(), 0);
}

#[test]
fn a_route_may_allow_every_loss_or_none() {
    let three = r#"{"model":"smart","n":3,"messages":[{"role":"user","content":"hello"}]}"#;
    let seeded = r#"{"model":"smart","seed":3,"messages":[{"role":"user","content":"hello"}]}"#;
    let vendor = Vendor::start("claude", [Script::answer(MESSAGE)]);
    let allowing = claude(&vendor, "lossy = \"allow\"").start().chat(three);
    assert_eq!(allowing.says(), "from Claude");
    assert!(allowing.header("x-pointsman-warnings").starts_with("n: "));
    let vendor = Vendor::start("claude", [Script::answer(MESSAGE)]);
    let refusing = claude(&vendor, "lossy = \"refuse\"").start().chat(seeded);
    refusing.assert_error(400, "unsupported_parameter");
}

/// Each in the words of its client, and the gateway's own credentials are not the client's business.
#[test]
fn errors_come_in_the_clients_format() {
    let ask = r#"{"model":"smart","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
    let told = |script: Script| {
        let vendor = Vendor::start("vendor", [script]);
        let answer = Setup::new([&vendor]).start().ask("POST /v1/messages", &[], ask);
        (
            answer.status,
            answer.json()["error"]["type"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let error = |status, code: &str| Script::status(status, &[], &error_body(code));
    assert_eq!(
        told(error(400, "invalid_value")),
        (400, "invalid_request_error".to_owned())
    );
    assert_eq!(
        told(error(429, "rate_limit_exceeded")),
        (429, "rate_limit_error".to_owned())
    );
    assert_eq!(told(error(500, "server_error")), (529, "overloaded_error".to_owned()));
    assert_eq!(told(error(401, "invalid_api_key")), (502, "api_error".to_owned()));
}

#[test]
fn a_clients_own_version_passes_through() {
    let vendor = Vendor::start("claude", [Script::answer(MESSAGE)]);
    let gateway = claude(&vendor, "").start();
    let headers = [
        ("anthropic-version", "2026-10-21"),
        ("anthropic-beta", "a,b"),
        ("x-api-key", "the client's"),
    ];
    let ask = r#"{"model":"smart","max_tokens":9,"odd":[1.50],"messages":[{"role":"user","content":"hello"}]}"#;
    let answer = gateway.ask("POST /v1/messages?beta=true", &headers, ask);
    assert_eq!(answer.text(), MESSAGE, "the vendor's own bytes");
    let sent = vendor.only();
    assert_eq!(
        (
            sent.head.header("anthropic-version"),
            sent.head.header("anthropic-beta")
        ),
        (Some("2026-10-21"), Some("a,b"))
    );
    assert_eq!(sent.head.header("x-api-key"), Some("key-of-claude"));
    assert_eq!(sent.body(), ask.replace("smart", "claude-3-5-haiku"));
}

#[test]
fn the_id_of_an_access_key_alone_opens_nothing_where_its_secret_is_known() {
    let vendor = Vendor::well("vendor");
    let key =
        "[[key]]\nname = \"team\"\naccess_key_id = \"AKIAEXAMPLE\"\nsecret_access_key = { env = \"AWS_SECRET\" }\n";
    let gateway = Setup::new([&vendor]).after(key).env("AWS_SECRET", "secret").start();
    let forged = "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20261124/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=00";
    for authorization in ["Bearer AKIAEXAMPLE", forged] {
        let answer = gateway.ask(
            CHAT,
            &[("authorization", authorization), ("x-amz-date", "20261124T000000Z")],
            ASK,
        );
        answer.assert_error(403, "invalid_signature");
    }
    assert_eq!(vendor.count(), 0);
}
