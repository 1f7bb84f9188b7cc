//! Who may use the listener for operators: no web page in an operator's browser, and from elsewhere only who shows the token.

use super::running::{ASK, Gateway, binary, eventually, free_address};
use super::setup::Setup;
use super::vendor::Vendor;

const TOKEN: &str = "token-of-operators";
const BEARER: (&str, &str) = ("authorization", "Bearer token-of-operators");

fn start(vendor: &Vendor) -> Gateway {
    Setup::new([vendor]).policy("plan-b").start()
}

fn with_token(vendor: &Vendor) -> Setup {
    Setup::new([vendor])
        .toml("admin_token = { env = \"OPERATORS\" }")
        .env("OPERATORS", TOKEN)
}

/// The status of a request with the listener's own host and these headers.
fn status(gateway: &Gateway, line: &str, headers: &[(&str, &str)], body: &str) -> u16 {
    let host = gateway.admin.to_string();
    let headers = [&[("host", host.as_str())], headers].concat();
    gateway.admin_as(&headers, line, body).status
}

/// A page whose name leads to this machine reads and writes as if it were from here, but its name is not one of ours.
#[test]
fn a_name_that_leads_here_is_not_ours() {
    let vendor = Vendor::well("vendor");
    let gateway = start(&vendor);
    let port = gateway.admin.port();
    for host in [
        "evil.example".to_owned(),
        format!("evil.example:{port}"),
        format!("127.0.0.1.evil.example:{port}"),
    ] {
        let page = [
            ("host", host.as_str()),
            ("origin", &format!("http://{host}")),
            ("sec-fetch-site", "same-origin"),
        ];
        for line in [
            "GET /api/targets",
            "GET /metrics",
            "GET /nothing",
            "PUT /api/switches/vendor",
            "POST /api/policies/plan-b/rollback",
        ] {
            let body = if line.starts_with("PUT") { "off" } else { "" };
            let answer = gateway.admin_as(&page, line, body);
            assert_eq!(answer.status, 421, "{host} {line}");
            assert!(answer.text().contains("admin_hosts"), "{}", answer.text());
        }
    }
    assert_eq!(gateway.chat(ASK).says(), "from vendor", "nothing was switched");
    for host in [
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        "[::1]".to_owned(),
    ] {
        let answer = gateway.admin_as(&[("host", &host)], "GET /api/targets", "");
        assert_eq!(answer.status, 200, "{host}");
    }
}

/// What browsers send without asking first: forms and simple requests, of any page to any address.
#[test]
fn a_page_of_another_site_changes_nothing() {
    let vendor = Vendor::well("vendor");
    let gateway = start(&vendor);
    let own = format!("http://{}", gateway.admin);
    let pages = [
        &[("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")][..],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1:3000"), ("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "http://evil.example"), ("content-type", "text/plain")],
    ];
    for page in pages {
        for (line, body) in [
            ("PUT /api/switches/vendor", "off"),
            ("DELETE /api/switches/vendor", ""),
            ("POST /api/policies/plan-b/rollback", ""),
            ("PUT /api/log", "off"),
            ("OPTIONS /api/switches/vendor", ""),
        ] {
            assert_eq!(status(&gateway, line, page, body), 403, "{page:?} {line}");
        }
    }
    assert_eq!(gateway.chat(ASK).says(), "from vendor", "nothing was switched");
    for own in [
        &[("origin", own.as_str()), ("sec-fetch-site", "same-origin")][..],
        &[("sec-fetch-site", "none")],
        &[],
    ] {
        assert_eq!(status(&gateway, "PUT /api/switches/vendor", own, "on"), 200, "{own:?}");
    }
}

#[test]
fn no_page_may_read_an_answer() {
    let vendor = Vendor::well("vendor");
    let gateway = start(&vendor);
    let host = gateway.admin.to_string();
    for line in ["GET /api/targets", "GET /metrics", "OPTIONS /api/targets"] {
        let answer = gateway.admin_as(&[("host", &host), ("origin", "http://evil.example")], line, "");
        assert_eq!(answer.header("access-control-allow-origin"), "", "{line}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{line}");
    }
}

#[test]
fn a_request_names_one_host() {
    let vendor = Vendor::well("vendor");
    let gateway = start(&vendor);
    for hosts in [
        &[("host", "127.0.0.1"), ("host", "evil.example")][..],
        &[("host", "a,b")],
        &[("host", "a@127.0.0.1")],
    ] {
        assert_eq!(gateway.admin_as(hosts, "GET /api/targets", "").status, 400, "{hosts:?}");
    }
}

#[test]
fn names_of_the_configuration_are_ours_at_once() {
    let vendor = Vendor::well("vendor");
    let mut gateway = start(&vendor);
    let named = [("host", "ops.example"), ("origin", "https://ops.example")];
    let put = |gateway: &Gateway| gateway.admin_as(&named, "PUT /api/switches/vendor", "on").status;
    assert_eq!(put(&gateway), 421);
    gateway.configure(
        Setup::new([&vendor])
            .policy("plan-b")
            .toml("admin_hosts = [\"ops.example\"]"),
    );
    eventually("the name to be known", || (put(&gateway) == 200).then_some(()));
}

#[test]
fn probes_are_answered_under_any_name() {
    let vendor = Vendor::well("vendor");
    let gateway = with_token(&vendor).public_admin().start();
    for line in ["GET /healthz", "GET /readyz", "HEAD /healthz"] {
        let mut connection = super::client::Connection::open(gateway.admin);
        connection.request(line, &[("host", "some-service")], b"");
        assert_eq!(connection.answer_to_head().0, 200, "{line}");
    }
}

#[test]
fn where_other_machines_reach_it_a_token_is_needed() {
    let vendor = Vendor::well("vendor");
    let gateway = with_token(&vendor).public_admin().start();
    for wrong in [
        &[][..],
        &[("authorization", "Bearer token-of-operator")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic token-of-operators")],
        &[("authorization", TOKEN)],
        &[BEARER, ("authorization", "Bearer x")],
    ] {
        for (line, body) in [
            ("GET /api/targets", ""),
            ("GET /metrics", ""),
            ("PUT /api/switches/vendor", "off"),
            ("GET /nothing", ""),
        ] {
            let host = gateway.admin.to_string();
            let headers = [&[("host", host.as_str())], wrong].concat();
            let answer = gateway.admin_as(&headers, line, body);
            assert_eq!(answer.status, 401, "{wrong:?} {line}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
        }
    }
    assert_eq!(gateway.chat(ASK).says(), "from vendor", "nothing was switched");
    assert_eq!(status(&gateway, "GET /api/targets", &[BEARER], ""), 200);
    assert_eq!(
        status(
            &gateway,
            "GET /metrics",
            &[("authorization", "bearer token-of-operators")],
            ""
        ),
        200
    );
    assert_eq!(status(&gateway, "PUT /api/switches/vendor", &[BEARER], "off"), 200);
    assert_eq!(gateway.chat(ASK).status, 503);
    let page = [BEARER, ("origin", "http://evil.example")];
    assert_eq!(status(&gateway, "DELETE /api/switches/vendor", &page, ""), 403);
    assert!(!gateway.log().contains(TOKEN));
}

#[test]
fn metrics_are_open_where_the_operator_says_so() {
    let vendor = Vendor::well("vendor");
    let gateway = with_token(&vendor).toml("admin_open_metrics = true").start();
    assert_eq!(
        gateway
            .admin_as(&[("host", "pointsman.svc")], "GET /metrics", "")
            .status,
        200
    );
    assert_eq!(gateway.admin("GET /api/targets").status, 401);
}

#[test]
fn a_reload_without_the_token_opens_nothing() {
    let vendor = Vendor::well("vendor");
    let mut gateway = with_token(&vendor).public_admin().start();
    assert_eq!(status(&gateway, "GET /api/targets", &[BEARER], ""), 200);
    // On loopback the token is not needed, but the listener stays where it is until the next start.
    gateway.configure(Setup::new([&vendor]));
    eventually("the reload", || {
        (status(&gateway, "GET /api/targets", &[BEARER], "") == 403).then_some(())
    });
    assert_eq!(status(&gateway, "PUT /api/switches/vendor", &[], "off"), 403);
}

#[test]
fn it_does_not_start_where_everybody_could_use_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pointsman.toml");
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor]).public_admin();
    std::fs::write(
        &file,
        setup.config(&free_address().to_string(), &free_address().to_string()),
    )
    .unwrap();
    let mut serve = binary();
    let ended = serve.arg("serve").arg("--config").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(64), "{said}");
    assert!(said.contains("pointsman.toml:2: `admin` is 0.0.0.0:"), "{said}");
    assert!(said.contains("write admin_token = { env = \"NAME\" }"), "{said}");
}
