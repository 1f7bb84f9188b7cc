//! What users of other gateways have reported as bugs, and is not told elsewhere.

use std::time::Duration;

use super::heard::Format;
use super::running::{ASK, ASK_STREAM, CHAT, eventually};
use super::script::{Gate, ROLE, Script, error_body, text, whole};
use super::setup::{Setup, ready_made};
use super::vendor::Vendor;

fn limited(seconds: &str) -> Script {
    Script::rate_limited(&[("retry-after", seconds)])
}

/// "Streams that break off are logged as success": the target would be used for ever.
#[test]
fn a_target_that_cuts_all_its_streams_is_left_alone() {
    let first = Vendor::start("first", [Script::begin([ROLE, &text("half")]).pause(50).reset()]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).start();
    for _ in 0..20 {
        gateway.stream(ASK_STREAM).rest();
    }
    assert_eq!(gateway.target("first")["breaker"], "open");
    assert!(first.count() < 10, "{} streams were cut", first.count());
    let cut = gateway.metric("pointsman_requests_total", "outcome=\"cut-off\"");
    assert_eq!(cut, first.count() as f64);
    assert_eq!(
        gateway.metric("pointsman_attempts_total", "target=\"first\",outcome=\"ok\""),
        0.0
    );
}

/// "An error in the second chunk ends the stream with 200 and [DONE]."
#[test]
fn an_error_after_the_first_chunk_reaches_clients_of_every_format() {
    for format in Format::CLIENTS {
        let gate = Gate::default();
        let event = format!("data: {}\n\n", error_body("server_error"));
        let script = Script::begin([ROLE, &text("half")]).until(&gate).frames([event]).end();
        let vendor = Vendor::start("vendor", [script]);
        let gateway = Setup::new([&vendor]).start();
        let mut client = gateway.connect();
        let body = format.body("smart", true, "hello");
        client.request(&format.line("smart", true), &[], body.as_bytes());
        let mut stream = client.stream();
        let begun = stream.bytes_until("half");
        gate.open();
        let heard = format.hear([begun, stream.rest_bytes()].concat());
        assert!(heard.is_cut_off() && heard.says == "half", "{format:?}: {heard:?}");
        assert_eq!(
            gateway.request_line(stream.header("x-request-id"))["outcome"],
            "cut-off"
        );
    }
}

/// "The timeout only starts with the first byte of the answer", and each byte of a head starts it anew.
#[test]
fn a_head_that_drips_does_not_hold_the_timeout_up() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n".to_owned() + &"x-slow: 1\r\n".repeat(60);
    let drip = head
        .split_inclusive('\n')
        .fold(Script::Steps(vec![]), |script, line| script.send(line).pause(50));
    let continued = (0..60).fold(Script::Steps(vec![]), |script, _| {
        script.send("HTTP/1.1 100 Continue\r\n\r\n").pause(50)
    });
    for script in [Script::silence(), drip.hold(), continued.hold()] {
        for ask in [ASK, ASK_STREAM] {
            let (first, second) = (Vendor::start("first", [script.clone()]), Vendor::well("second"));
            let toml = "timeouts = { first_content_ms = 400, whole_content_ms = 400 }";
            let gateway = Setup::new([&first, &second]).target("first", toml).start();
            assert_eq!(gateway.chat(ask).header("x-pointsman-target"), "second");
            first.wait_for_cancellation();
        }
    }
}

/// "The second 429 overwrote the cooldown of the first."
#[test]
fn a_later_failure_does_not_shorten_a_cooldown() {
    for late in [
        limited("1"),
        Script::rate_limited(&[]),
        Script::status(500, &[], &error_body("server_error")),
    ] {
        let gate = Gate::default();
        let late = Script::Steps(vec![]).until(&gate).then(late);
        let (first, second) = (Vendor::start("first", [late, limited("280")]), Vendor::well("second"));
        let gateway = Setup::new([&first, &second]).start();
        let mut slow = gateway.connect();
        slow.request(CHAT, &[], ASK.as_bytes());
        first.wait_for(1);
        assert_eq!(gateway.chat(ASK).says(), "from second");
        gate.open();
        assert_eq!(slow.answer().says(), "from second");
        let cooldown = gateway.target("first")["cooldown_ms"].as_u64().unwrap();
        assert!(cooldown > 200_000, "{cooldown}");
    }
}

/// "When all are limited and nobody says for how long, the client gets a 500."
#[test]
fn a_rate_limit_of_everyone_without_a_wait_is_one_of_the_gateway_with_one() {
    let vendors = ["a", "b", "c"].map(|name| Vendor::start(name, [Script::rate_limited(&[])]));
    let gateway = Setup::new(&vendors).start();
    for format in Format::CLIENTS {
        let answer = gateway.ask(&format.line("smart", false), &[], &format.body("smart", false, "hello"));
        // Those after the first call nobody: all rest because they had said so.
        assert_eq!(answer.status, 429, "{format:?}: {}", answer.text());
        format.assert_error(answer.text());
        assert!(
            answer.header("retry-after").parse::<u64>().unwrap() >= 1,
            "{:?}",
            answer.head
        );
    }
}

/// "The body was a stream and had been read": the second vendor got an empty one.
#[test]
fn the_body_is_not_lost_on_a_fallback() {
    let ask = ASK.replace("hello", &"hello ".repeat(200_000));
    for script in [
        Script::Steps(vec![]).reset(),
        Script::begin([ROLE]).reset(),
        Script::status(500, &[], &error_body("server_error")),
    ] {
        let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
        let gateway = Setup::new([&first, &second]).start();
        assert_eq!(gateway.chat(&ask).says(), "from second");
        assert_eq!(second.only().body(), ask.replace("smart", "second-model"));
        assert_eq!(first.only().body(), ask.replace("smart", "first-model"));
    }
}

/// "After each reload all traffic went to the target that was down."
#[test]
fn a_new_policy_does_not_wipe_cooldowns_and_breakers() {
    let down = Vendor::start("down", [Script::status(500, &[], &error_body("server_error"))]);
    let (busy, well) = (Vendor::start("busy", [limited("280")]), Vendor::well("well"));
    let gateway = Setup::new([&down, &busy, &well])
        .policy("plan-b")
        .toml("breaker.min_attempts = 1\nbreaker.open_ms = 60000")
        .start();
    assert_eq!(gateway.chat(ASK).says(), "from well");
    gateway.plug("plan-b", ready_made("cheapest"));
    let before = gateway.policy("plan-b")["version"].clone();
    eventually("the swap", || {
        gateway.chat(ASK);
        (gateway.policy("plan-b")["version"] != before || gateway.log().matches("policy live").count() > 1)
            .then_some(())
    });
    assert_eq!(gateway.target("down")["breaker"], "open");
    assert!(gateway.target("busy")["cooldown_ms"].as_u64().unwrap() > 200_000);
    assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "1");
    assert_eq!((down.count(), busy.count()), (1, 1));
}

/// "A keep-alive connection that the vendor had closed meanwhile counted as a failure of the vendor."
#[test]
fn a_connection_that_went_stale_is_no_attempt() {
    let vendor = Vendor::start("vendor", [Script::answer(&whole("fine")).close()]);
    let gateway = Setup::new([&vendor]).start();
    for _ in 0..5 {
        let answer = gateway.chat(ASK);
        assert_eq!(
            (answer.says().as_str(), answer.header("x-pointsman-attempts")),
            ("fine", "1")
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(gateway.target("vendor")["error_rate"], 0.0);
}
