//! How vendors are reached: names, addresses, how long a connection is kept, and what is said when there is none.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::running::{ASK, CHAT, Gateway, eventually};
use super::script::{Script, error_body};
use super::setup::Setup;
use super::vendor::Vendor;

fn attempts(gateway: &Gateway, id: &str) -> String {
    gateway.request_line(id)["attempts"].as_str().unwrap().to_owned()
}

/// An operator reads in the line of the request what to repair.
#[test]
fn the_log_says_why_a_vendor_could_not_be_reached() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let names = ["refuses", "unknown", "distrusted", "plain", "well"];
    let vendors = names.map(|name| {
        if name == "refuses" {
            Vendor::gone(name)
        } else {
            Vendor::well(name)
        }
    });
    let secure = untrusted(&certificate);
    let gateway = Setup::new(&vendors)
        .base_url("unknown", "http://no-such-host.invalid/v1")
        .base_url("distrusted", &format!("https://localhost:{}/v1", secure.port()))
        .base_url("plain", &format!("https://{}/v1", silent_without_tls()))
        .route("attempts_detail = true\nmax_attempts = 5")
        .toml("attempts.max = 5")
        .start();
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from well");
    let attempts = attempts(&gateway, answer.header("x-request-id"));
    let detail = answer.header("x-pointsman-attempts-detail");
    for (target, code, words) in [
        (
            "refuses",
            "refused",
            format!("(connection refused by {})", vendors[0].address),
        ),
        ("unknown", "dns", "no-such-host.invalid".to_owned()),
        ("distrusted", "tls", "(certificate not trusted: ".to_owned()),
        ("plain", "tls", "the server does not speak TLS".to_owned()),
    ] {
        for told in [&attempts, detail] {
            let of_target = told
                .split("; ")
                .find(|told| told.starts_with(&format!("{target}: connect {code} ")));
            assert!(
                of_target.is_some_and(|told| told.contains(&words)),
                "{target} in {told}"
            );
        }
    }
}

/// What a vendor says of its error is for operators alone.
#[test]
fn the_log_has_the_vendors_words_and_clients_do_not() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("disk; \\u0007full"))]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).route("attempts_detail = true").start();
    let answer = gateway.chat(ASK);
    let attempts = attempts(&gateway, answer.header("x-request-id"));
    assert!(attempts.contains("(the vendor says disk,  full)"), "{attempts}");
    assert!(!answer.header("x-pointsman-attempts-detail").contains("the vendor says"));
}

/// Long words are cut: a line of the log stays one that can be read.
#[test]
fn the_words_in_the_log_are_limited() {
    let first = Vendor::start(
        "first",
        [Script::status(500, &[], &error_body(&"long ".repeat(10_000)))],
    );
    let gateway = Setup::new([&first]).start();
    let answer = gateway.chat(ASK);
    assert!(attempts(&gateway, answer.header("x-request-id")).len() < 400);
}

/// A server whose certificate nobody has signed.
fn untrusted(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    let key = rustls_pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let (listener, config) = (TcpListener::bind("localhost:0").unwrap(), std::sync::Arc::new(config));
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            // It ends with the handshake.
            let _ = std::io::Read::read(&mut stream, &mut [0; 64]);
        }
    });
    address
}

/// A server that answers whatever comes as a web server without TLS does.
fn silent_without_tls() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    address
}

#[test]
fn a_connection_is_kept_until_it_is_too_old() {
    for (age, connections) in [("60_000", 1), ("0", 5)] {
        let vendor = Vendor::well("vendor");
        let gateway = Setup::new([&vendor])
            .toml(&format!("attempts.connection_age_ms = {age}"))
            .start();
        for _ in 0..5 {
            assert_eq!(gateway.chat(ASK).says(), "from vendor");
        }
        assert_eq!(vendor.connections(), connections, "with an age of {age} ms");
    }
}

/// A vendor that fails may be about to move elsewhere.
#[test]
fn a_connection_is_not_kept_behind_a_server_error() {
    let failed = Script::status(500, &[], &error_body("server_error"));
    let limited = Script::status(400, &[], &error_body("bad_tools"));
    let vendor = Vendor::start("vendor", [failed, limited, Script::Well("well".to_owned())]);
    let gateway = Setup::new([&vendor]).start();
    for (status, connections) in [(503, 1), (400, 2), (200, 2)] {
        assert_eq!(gateway.chat(ASK).status, status);
        assert_eq!(vendor.connections(), connections, "after {status}");
    }
}

#[test]
fn a_probe_has_a_connection_of_its_own() {
    let page = Script::other(200, "text/html", &[], "<html>");
    let vendor = Vendor::start("vendor", [page]);
    let gateway = Setup::new([&vendor])
        .toml("breaker.open_ms = 50\nbreaker.max_open_ms = 50")
        .start();
    for _ in 0..5 {
        assert_eq!(gateway.chat(ASK).status, 503);
    }
    assert_eq!(vendor.connections(), 1, "nothing was wrong with the connection");
    vendor.follow(Script::Well("well".to_owned()));
    eventually("the probe", || (gateway.chat(ASK).status == 200).then_some(()));
    assert_eq!(vendor.connections(), 2);
    assert_eq!(gateway.chat(ASK).says(), "well");
    assert_eq!(vendor.connections(), 2, "the probe's connection is kept");
}

/// A vendor's name, of which a test says what it means. Only the gateway sees that, in a mount namespace of its own.
struct Name {
    folder: tempfile::TempDir,
}

impl Name {
    /// `None`: this machine does not allow such namespaces.
    fn new(address: &str, name_server: &str) -> Option<Self> {
        let allowed = Command::new("unshare").args(["-rm", "true"]).status();
        if !allowed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this machine does not allow a mount namespace");
            return None;
        }
        let name = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        name.move_to(address);
        fs::write(name.path("resolv.conf"), format!("nameserver {name_server}\n")).unwrap();
        Some(name)
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.folder.path().join(file)
    }

    /// From now on the name means this address. The file stays the same one, for it is what is mounted.
    fn move_to(&self, address: &str) {
        fs::write(self.path("hosts"), format!("{address} vendor.test\n")).unwrap();
    }

    fn wrap(&self, setup: Setup) -> Setup {
        let mounted = |file: &str| format!("mount --bind {} /etc/{file}", shown(&self.path(file)));
        let inside = format!(
            "{} && {} && exec \"$0\" \"$@\"",
            mounted("hosts"),
            mounted("resolv.conf")
        );
        setup.after_shell(&format!("exec unshare -rm sh -c '{inside}' \"$0\" \"$@\""))
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Two vendors at two addresses with one port, as one name has them before and after it moves.
fn two_places(before: Script, after: Script) -> (Vendor, Vendor) {
    loop {
        let first = Vendor::start_at("first", "127.0.0.2:0".parse().unwrap(), [before.clone()]);
        let there = SocketAddr::from(([127, 0, 0, 3], first.address.port()));
        if TcpListener::bind(there).is_ok() {
            return (first, Vendor::start_at("second", there, [after]));
        }
    }
}

/// A name that moves is followed although the old address goes on answering, well or not.
#[test]
fn a_name_that_moves_is_followed() {
    let well = |says: &str| Script::Well(says.to_owned());
    let drained = Script::status(503, &[], &error_body("server_is_overloaded"));
    for (before, settings) in [
        (well("old"), "attempts.connection_age_ms = 500"),
        (drained, "breaker.open_ms = 200\nbreaker.max_open_ms = 200"),
    ] {
        let Some(name) = Name::new("127.0.0.2", "127.0.0.1") else {
            return;
        };
        let (first, second) = two_places(before, well("new"));
        let base_url = format!("http://vendor.test:{}/v1", first.address.port());
        let setup = Setup::new([&first]).base_url("first", &base_url).toml(settings);
        let gateway = name.wrap(setup).start();
        gateway.chat(ASK);
        assert_eq!(first.count(), 1);
        name.move_to("127.0.0.3");
        eventually("the new address", || {
            thread::sleep(Duration::from_millis(50));
            let answer = gateway.chat(ASK);
            (answer.status == 200 && answer.says() == "new").then_some(())
        });
        assert!(second.count() > 0);
    }
}

/// A name whose servers never answer costs its own target its deadline, and nobody else anything; nor does it hold up the end.
#[test]
fn a_name_without_an_answer_delays_no_other_vendor_and_not_the_end() {
    let Ok(_silent) = UdpSocket::bind("127.0.0.99:53") else {
        eprintln!("skipped: this user may not listen where name servers do");
        return;
    };
    let Some(name) = Name::new("127.0.0.1", "127.0.0.99") else {
        return;
    };
    let (slow, well) = (Vendor::well("slow"), Vendor::well("well"));
    let setup = Setup::new([&slow, &well])
        .base_url("slow", "http://never-answered.test/v1")
        .base_url("well", &format!("http://vendor.test:{}/v1", well.address.port()))
        .target("slow", "timeouts = { connect_ms = 1000 }");
    let mut gateway = name.wrap(setup).start();
    let first = gateway.chat(ASK);
    assert_eq!(first.says(), "from well");
    let line = attempts(&gateway, first.header("x-request-id"));
    assert!(
        line.contains("slow: timeout dns_timeout") && line.contains("never-answered.test"),
        "{line}"
    );

    let mut clients: Vec<_> = (0..300).map(|_| gateway.connect()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.request(CHAT, &[], ASK.as_bytes()));
    for mut client in clients {
        assert_eq!(client.answer().says(), "from well");
    }
    assert_eq!(gateway.target("well")["breaker"], "closed");
    assert!(threads(&gateway) < 30, "{} threads", threads(&gateway));

    gateway.terminate();
    let began = Instant::now();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    // A lookup takes the system ten seconds and more.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

fn threads(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/task", gateway.id())).unwrap().count()
}

/// `localhost` is often two addresses, of which a vendor has one.
#[test]
fn a_name_with_two_addresses_is_reached_where_one_answers() {
    let Some(name) = Name::new("127.0.0.2", "127.0.0.1") else {
        return;
    };
    let vendor = Vendor::well("vendor");
    fs::write(
        name.path("hosts"),
        "::1 vendor.test\n127.0.0.2 vendor.test\n127.0.0.1 vendor.test\n",
    )
    .unwrap();
    let base_url = format!("http://vendor.test:{}/v1", vendor.address.port());
    let gateway = name.wrap(Setup::new([&vendor]).base_url("vendor", &base_url)).start();
    assert_eq!(gateway.chat(ASK).says(), "from vendor");
}
