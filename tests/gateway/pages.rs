//! Web pages and host names: a page in somebody's browser must not spend the operator's money, unless the configuration lets it.

use super::client::Answer;
use super::running::{ASK, CHAT, Gateway};
use super::setup::Setup;
use super::vendor::Vendor;

const KEY: &str = "[[key]]\nname = \"team\"\nsecret = { env = \"KEY\" }\n";

/// A request with these lines in its head, of which none is added.
fn raw(gateway: &Gateway, line: &str, headers: &str, body: &str) -> Answer {
    let mut connection = gateway.connect();
    let length = body.len();
    let request = format!("{line} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n{body}");
    connection.send(request.as_bytes()).unwrap();
    connection.answer()
}

#[test]
fn without_keys_a_page_of_another_origin_cannot_call() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for sender in [
        "origin: http://evil.example",
        "origin: null",
        "origin: http://localhost:3000",
        "origin: http://evil.example\r\ncontent-type: text/plain\r\nsec-fetch-site: cross-site",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
    ] {
        let answer = raw(&gateway, CHAT, &format!("host: localhost\r\n{sender}\r\n"), ASK);
        answer.assert_error(403, "origin_not_allowed");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
    assert_eq!(vendor.count(), 0);
    let own = format!("host: {0}\r\norigin: http://{0}\r\n", gateway.listen);
    assert_eq!(raw(&gateway, CHAT, &own, ASK).status, 200);
}

#[test]
fn without_keys_a_foreign_name_on_loopback_is_421() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example"] {
        raw(&gateway, CHAT, &format!("host: {host}\r\n"), ASK).assert_error(421, "unknown_host");
    }
    assert_eq!(vendor.count(), 0);
    for host in ["localhost:1", "[::1]:8080", "127.0.0.1", "192.0.2.7"] {
        assert_eq!(
            raw(&gateway, CHAT, &format!("host: {host}\r\n"), ASK).status,
            200,
            "{host}"
        );
    }
}

#[test]
fn hosts_and_origins_of_the_configuration_may_call_and_read() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]).toml("server.hosts = [\"*.corp\"]\nserver.origins = [\"https://app.example\"]");
    let gateway = setup.start();
    let app = "host: llm.corp\r\norigin: https://app.example\r\nsec-fetch-site: cross-site\r\n";
    let answer = raw(&gateway, CHAT, app, ASK);
    assert_eq!(answer.says(), "from vendor");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("vary"), "origin");
    let errors = raw(&gateway, CHAT, app, "{}");
    assert_eq!(
        (errors.status, errors.header("access-control-allow-origin")),
        (400, "https://app.example")
    );

    let asks = "access-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type\r\n";
    let preflight = raw(&gateway, "OPTIONS /v1/chat/completions", &format!("{app}{asks}"), "");
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-headers")),
        (204, "authorization,content-type")
    );
    assert!(preflight.header("access-control-allow-methods").contains("POST"));
    let other = format!("host: llm.corp\r\norigin: https://other.example\r\n{asks}");
    raw(&gateway, "OPTIONS /v1/chat/completions", &other, "").assert_error(403, "origin_not_allowed");
    raw(&gateway, CHAT, "host: llm.other\r\n", ASK).assert_error(421, "unknown_host");
    assert_eq!(vendor.count(), 1);
}

/// A page that shows a key has been given it.
#[test]
fn with_keys_the_key_decides() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).after(KEY).env("KEY", "secret").start();
    let page = "host: llm.example\r\norigin: https://app.example\r\n";
    raw(&gateway, CHAT, page, ASK).assert_error(401, "invalid_api_key");
    let answer = raw(&gateway, CHAT, &format!("{page}authorization: Bearer secret\r\n"), ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("access-control-allow-origin")),
        ("from vendor", "")
    );
}

#[test]
fn a_request_names_one_host() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for headers in [
        "",
        "host: localhost\r\nhost: localhost\r\n",
        "host: localhost\r\nHost: other\r\n",
    ] {
        raw(&gateway, CHAT, headers, ASK).assert_error(400, "invalid_host");
    }
    assert_eq!(vendor.count(), 0);
    let mut old = gateway.connect();
    let request = format!("{CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{ASK}", ASK.len());
    old.send(request.as_bytes()).unwrap();
    assert_eq!(old.answer().says(), "from vendor", "HTTP/1.0 needs none");
}

#[test]
fn lists_are_live_after_a_reload() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]);
    let mut gateway = setup.clone().start();
    let page = "host: localhost\r\norigin: https://app.example\r\n";
    raw(&gateway, CHAT, page, ASK).assert_error(403, "origin_not_allowed");
    gateway.configure(setup.toml("server.origins = [\"*\"]"));
    super::running::eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads_total", "live") > 0.0).then_some(())
    });
    assert_eq!(raw(&gateway, CHAT, page, ASK).status, 200);
    assert!(!gateway.log().contains("takes effect at the next start"));
}
