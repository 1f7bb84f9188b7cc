//! The gateway at the limit of its file descriptors: that is no vendor's failure, and it is over when the shortage is.

use std::net::TcpStream;

use super::running::{ASK, CHAT, Gateway, eventually};
use super::script::Script;
use super::setup::Setup;
use super::vendor::Vendor;

/// Descriptors that the gateway wants to have left for operators.
const RESERVE: u64 = 16;

fn assert_is_well(gateway: &Gateway, name: &str) {
    let target = gateway.target(name);
    assert_eq!(target["breaker"], "closed", "{target}");
    assert_eq!(target["error_rate"], 0.0, "{target}");
    assert_eq!(target["cooldown_ms"], 0, "{target}");
}

#[test]
fn a_lack_of_descriptors_is_no_vendors_failure_and_ends_at_once() {
    let vendors = [Vendor::well("first"), Vendor::well("named")];
    let named = format!("http://localhost:{}/v1", vendors[1].address.port());
    let gateway = Setup::new(&vendors)
        .base_url("named", &named)
        .toml("attempts.max_idle_connections = 0")
        .start();
    let mut client = gateway.connect();
    let mut ask = || {
        client.request(CHAT, &[], ASK.as_bytes());
        client.answer()
    };
    assert_eq!(ask().says(), "from first");

    gateway.take_descriptors();
    let mut line = None;
    for _ in 0..10 {
        let answer = ask();
        answer.assert_error(503, "server_is_overloaded");
        assert!(
            answer.text().contains("the gateway is at its limit"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.header("retry-after"), "1");
        line = Some(gateway.request_line(answer.header("x-request-id")));
    }
    let attempts = line.unwrap()["attempts"].to_string();
    for name in ["first", "named"] {
        assert!(
            attempts.contains(&format!("{name}: local-limit local_limit")),
            "{attempts}"
        );
    }
    assert_eq!(vendors.each_ref().map(Vendor::count), [1, 0], "nothing was sent");

    gateway.limit_descriptors(1000);
    assert_eq!(ask().says(), "from first");
    for name in ["first", "named"] {
        assert_is_well(&gateway, name);
        let counted = gateway.metric(
            "pointsman_attempts_total",
            &format!("target=\"{name}\",outcome=\"local-limit\""),
        );
        assert_eq!(counted, 10.0, "{name}");
    }
    let log = gateway.log();
    let errors = log.lines().filter(|line| line.contains("ERROR"));
    let errors: Vec<_> = errors
        .filter(|line| line.contains("at a limit of this machine"))
        .collect();
    assert!(
        (1..5).contains(&errors.len()),
        "named, but not once an attempt: {errors:?}"
    );
}

/// A credential that cannot be read for want of a descriptor is not one that the vendor refused.
#[test]
fn a_lack_of_descriptors_is_no_credentials_failure() {
    let vendor = Vendor::well("cloud");
    let servers = Vendor::start(
        "servers",
        [Script::answer(r#"{"access_token": "ya29.x", "expires_in": 3600}"#)],
    );
    let account = format!(
        r#"{{"type": "authorized_user", "client_id": "i", "client_secret": "hush-hush", "refresh_token": "r-r-r-r-r",
            "token_uri": "http://{}/token"}}"#,
        servers.address
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("account.json");
    std::fs::write(&file, account).unwrap();
    let gateway = Setup::new([&vendor])
        .vendor("cloud", "vertex")
        .base_url("cloud", &format!("http://{}/v1/projects/p/locations/l", vendor.address))
        .env("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())
        .start();
    let mut client = gateway.connect();
    client.request(CHAT, &[], b"{}");
    client.answer().assert_error(400, "invalid_request");

    gateway.take_descriptors();
    client.request(CHAT, &[], ASK.as_bytes());
    let answer = client.answer();
    answer.assert_error(503, "server_is_overloaded");
    assert!(
        answer.text().contains("the gateway is at its limit"),
        "{}",
        answer.text()
    );
    gateway.limit_descriptors(1000);
    assert_is_well(&gateway, "cloud");
}

/// Clients that only wait cannot take the descriptors of vendors and operators.
#[test]
fn idle_clients_leave_descriptors_for_vendors_and_operators() {
    let vendors = [Vendor::well("first"), Vendor::well("second")];
    let gateway = Setup::new(&vendors).after_shell("ulimit -n 96").start();
    eventually("the warning", || {
        gateway
            .log()
            .contains("no room for server.max_connections")
            .then_some(())
    });

    let mut client = gateway.connect();
    client.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(client.answer().says(), "from first");
    let _idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(gateway.listen).unwrap()).collect();
    for _ in 0..10 {
        client.request(CHAT, &[], ASK.as_bytes());
        assert_eq!(client.answer().says(), "from first");
        assert_is_well(&gateway, "first");
    }
    let open = gateway.descriptors().len() as u64;
    assert!(open + RESERVE <= 96, "{open} are open");
}

/// Most systems start programs with a soft limit far below the hard one.
#[test]
fn the_soft_limit_is_raised_to_the_hard_one() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .toml("server.max_connections = 100")
        .after_shell("ulimit -S -n 60")
        .start();
    assert!(
        !gateway.log().contains("no room for server.max_connections"),
        "{}",
        gateway.log()
    );
    let _idle: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(gateway.listen).unwrap()).collect();
    assert_eq!(gateway.chat(ASK).says(), "from vendor");
}
