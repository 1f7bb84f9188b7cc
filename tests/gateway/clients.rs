//! Clients: their keys, and that they may go away.

use super::running::{ASK, ASK_STREAM, CHAT, Gateway, eventually};
use super::script::{DONE, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::Vendor;

const GATEWAY_KEY: &str = "gw-key-of-team-red-0123456789";
const VENDOR_KEY: &str = "sk-key-of-the-vendor-9876543210";

/// A gateway with keys on both sides that logs all it can.
fn with_keys(vendors: &[&Vendor]) -> Gateway {
    let keys = "[[key]]\nname = \"team-red\"\nsecret = { env = \"RED_KEY\" }\nattributes = { region = \"eu\" }";
    let setup = vendors
        .iter()
        .fold(Setup::new(vendors.iter().copied()), |setup, vendor| {
            setup.target(vendor.name, "api_key = { env = \"VENDOR_KEY\" }")
        });
    setup
        .toml("log.level = \"trace\"")
        .toml(keys)
        .env("RED_KEY", GATEWAY_KEY)
        .env("VENDOR_KEY", VENDOR_KEY)
        .start()
}

#[test]
fn whoever_shows_no_known_key_is_401() {
    let vendor = Vendor::well("vendor");
    let gateway = with_keys(&[&vendor]);
    let wrong = [
        "",
        "Bearer wrong",
        "Bearer ",
        "Basic Z3c6a2V5",
        GATEWAY_KEY,
        "Bearer gw-key-of-team-red-012345678",
    ];
    for value in wrong {
        let answer = gateway.ask(CHAT, &[("authorization", value)], ASK);
        answer.assert_error(401, "invalid_api_key");
    }
    gateway.chat(ASK).assert_error(401, "invalid_api_key");
    gateway
        .ask("GET /v1/models", &[], "")
        .assert_error(401, "invalid_api_key");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn whoever_shows_a_known_key_is_served_and_named() {
    let vendor = Vendor::well("vendor");
    let gateway = with_keys(&[&vendor]);
    let bearer = format!("Bearer {GATEWAY_KEY}");
    for header in [
        ("authorization", bearer.as_str()),
        ("api-key", GATEWAY_KEY),
        ("x-api-key", GATEWAY_KEY),
    ] {
        let answer = gateway.ask(CHAT, &[header], ASK);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            gateway.request_line(answer.header("x-request-id"))["client"],
            "team-red"
        );
    }
    assert_eq!(
        gateway.ask("GET /v1/models", &[("authorization", &bearer)], "").status,
        200
    );
}

/// Neither side sees the other's credential, and nobody else sees either, even where a vendor repeats the key.
#[test]
fn credentials_stay_where_they_belong() {
    let echo =
        format!(r#"{{"error":{{"message":"Incorrect API key: {VENDOR_KEY}","type":"t","code":"{VENDOR_KEY}"}}}}"#);
    let in_stream = Script::begin([ROLE, &text("half")])
        .pause(50)
        .frames([format!("data: {echo}\n\n")])
        .end();
    for (status, script) in [
        (200, Script::status(401, &[], &echo)),
        (200, Script::status(500, &[("x-key", VENDOR_KEY)], &echo)),
        (200, Script::answer(&echo)),
        (400, Script::status(400, &[], &echo)),
        (200, in_stream),
    ] {
        let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
        let gateway = with_keys(&[&first, &second]);
        let answer = gateway.ask(CHAT, &[("authorization", &format!("Bearer {GATEWAY_KEY}"))], ASK_STREAM);
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains(VENDOR_KEY), "{}", answer.text());
        for request in [first.received(), second.received()].concat() {
            assert_eq!(
                request.head.header("authorization"),
                Some(format!("Bearer {VENDOR_KEY}").as_str())
            );
            assert!(!format!("{:?}{}", request.head, request.body()).contains(GATEWAY_KEY));
        }
        gateway.request_line(answer.header("x-request-id"));
        let admin = ["/api/targets", "/api/policies", "/metrics"]
            .map(|path| gateway.admin(&format!("GET {path}")).text().to_owned());
        let told = format!("{:?}{}{}", answer.head, admin.concat(), gateway.log());
        for key in [GATEWAY_KEY, VENDOR_KEY] {
            assert!(
                !told.contains(key),
                "{}",
                told.lines().find(|line| line.contains(key)).unwrap_or_default()
            );
        }
    }
}

/// The model answers for nobody: the vendor should stop.
#[test]
fn a_client_that_goes_away_before_content_cancels_the_request_and_is_nobodys_failure() {
    for ask in [ASK, ASK_STREAM] {
        let (first, second) = (Vendor::start("first", [Script::silence()]), Vendor::well("second"));
        let gateway = Setup::new([&first, &second]).start();
        let mut client = gateway.connect();
        client.request(CHAT, &[], ask.as_bytes());
        first.wait_for(1);
        drop(client);
        first.wait_for_cancellation();
        assert_gone_unblamed(&gateway);
        assert_eq!(second.count(), 0);
    }
}

#[test]
fn a_client_that_goes_away_in_a_stream_cancels_it_and_is_nobodys_failure() {
    let first = Vendor::start("first", [Script::begin([ROLE, &text("half")]).hold()]);
    let gateway = Setup::new([&first]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    drop(stream);
    first.wait_for_cancellation();
    assert_gone_unblamed(&gateway);
}

#[test]
fn a_client_that_goes_away_while_frames_flow_cancels_the_stream() {
    let flood = (0..2000).fold(Script::begin([ROLE]), |script, _| {
        script.frames([&text("more")]).pause(1)
    });
    let first = Vendor::start("first", [flood.frames([STOP, DONE]).end()]);
    let gateway = Setup::new([&first]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("more");
    drop(stream);
    first.wait_for_cancellation();
    assert_gone_unblamed(&gateway);
}

/// Some clients hang up at the end marker, before the vendor does.
#[test]
fn a_client_that_leaves_after_the_whole_answer_was_answered() {
    let first = Vendor::start("first", [Script::begin([ROLE, &text("all"), STOP, DONE]).hold()]);
    let gateway = Setup::new([&first]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until(DONE);
    let id = stream.header("x-request-id").to_owned();
    drop(stream);
    assert_eq!(gateway.request_line(&id)["outcome"], "answered");
}

/// Frames that nobody reads are not piled up: the vendor is made to wait.
#[test]
fn a_client_that_does_not_read_holds_the_vendor_back() {
    let frame = text(&"x".repeat(64 << 10));
    let flood = (0..1000).fold(Script::begin([ROLE]), |script, _| script.frames([&frame]));
    let first = Vendor::start("first", [flood.frames([STOP, DONE]).end()]);
    let gateway = Setup::new([&first]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("x");
    // 64 MiB are on their way; what is read in the end is all of it, and the gateway never held it.
    let sent = eventually("the vendor to be held back", || {
        let before = first.sent();
        std::thread::sleep(std::time::Duration::from_millis(200));
        (before > 0 && first.sent() == before).then_some(before)
    });
    assert!(
        sent < 32 << 20,
        "{sent} bytes were taken from the vendor for a client that does not read"
    );
    assert!(stream.rest().ends_with(DONE));
}

#[test]
fn a_client_that_never_reads_on_is_given_up() {
    let frame = text(&"x".repeat(64 << 10));
    let flood = (0..1000).fold(Script::begin([ROLE]), |script, _| script.frames([&frame]));
    let first = Vendor::start("first", [flood.hold()]);
    let gateway = Setup::new([&first]).toml("server.stall_timeout_ms = 500").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("x");
    first.wait_for_cancellation();
    assert_gone_unblamed(&gateway);
}

#[track_caller]
fn assert_gone_unblamed(gateway: &Gateway) {
    eventually("the attempt to end", || {
        (gateway.target("first")["in_flight"] == 0).then_some(())
    });
    let told = gateway.target("first");
    assert_eq!(
        (&told["error_rate"], &told["breaker"], &told["cooldown_ms"]),
        (&0.0.into(), &"closed".into(), &0.into())
    );
    eventually("the request to be logged", || {
        gateway.log().contains("\"client-gone\"").then_some(())
    });
    assert!(gateway.metric("pointsman_requests_total", "client-gone") >= 1.0);
}

#[test]
fn an_error_of_the_gateway_names_no_vendor() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("secret_internal_code"))]);
    let answer = Setup::new([&first]).start().chat(ASK);
    answer.assert_error(503, "server_is_overloaded");
    assert!(
        !answer.text().contains("127.0.0.1") && !answer.text().contains("secret_internal_code"),
        "{}",
        answer.text()
    );
}
