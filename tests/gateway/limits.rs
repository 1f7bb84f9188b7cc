//! Limits: of a target's requests in progress, of the gateway's, of retries and of those that wait.

use super::guests::guest;
use super::running::{ASK, ASK_STREAM, CHAT, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

/// Answers when the gate is open.
fn waits(gate: &Gate) -> Script {
    Script::Steps(vec![])
        .until(gate)
        .then(Script::answer(&whole("at last")))
}

fn limited(setup: Setup, limit: &str) -> Setup {
    setup.target("first", &format!("concurrency = {{ {limit} }}"))
}

#[test]
fn who_finds_no_place_goes_to_the_next_target() {
    let gate = Gate::default();
    let (first, second) = (Vendor::start("first", [waits(&gate)]), Vendor::well("second"));
    let gateway = limited(Setup::new([&first, &second]), "limit = 1, queue = 0").start();
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], ASK.as_bytes());
    first.wait_for(1);
    for _ in 0..3 {
        assert_eq!(gateway.chat(ASK).says(), "from second");
    }
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
    assert_eq!(gateway.chat(ASK).says(), "at last", "the place is free again");
    assert_eq!(first.count(), 2);
    let told = gateway.target("first");
    assert_eq!(
        (&told["error_rate"], &told["breaker"]),
        (&0.0.into(), &"closed".into()),
        "full is not ill"
    );
}

#[test]
fn where_no_other_target_is_the_client_is_told_to_come_back() {
    let gate = Gate::default();
    let first = Vendor::start("first", [waits(&gate)]);
    let gateway = limited(Setup::new([&first]), "limit = 1").start();
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], ASK.as_bytes());
    first.wait_for(1);
    let answer = gateway.chat(ASK);
    answer.assert_error(503, "server_is_overloaded");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
}

/// A gateway whose one policy picks what its settings say.
fn picking(setup: Setup, settings: &str) -> Setup {
    let setup = setup.plugin("picker", guest("picker")).route("policies = [\"picker\"]");
    setup.toml(&format!("policy.picker.settings = {{ {settings} }}"))
}

/// For a policy, a target without a place is one that failed.
#[test]
fn a_policy_is_asked_about_a_target_without_a_place() {
    let gate = Gate::default();
    let (first, second) = (Vendor::start("first", [waits(&gate)]), Vendor::well("second"));
    let setup = limited(Setup::new([&first, &second]), "limit = 1").route("attempts_detail = true");
    let gateway = picking(setup, "picks = \"first\", when_failed = \"second\"").start();
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], ASK.as_bytes());
    first.wait_for(1);
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from second");
    assert_eq!(answer.header("x-pointsman-attempts"), "1", "one was sent");
    let detail = answer.header("x-pointsman-attempts-detail");
    assert!(
        detail.starts_with("first: turned-away at_its_limit") && detail.contains("second: ok"),
        "{detail}"
    );
    let turned_away = "target=\"first\",outcome=\"turned-away\"";
    assert_eq!(gateway.metric("pointsman_attempts_total", turned_away), 1.0);
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
}

#[test]
fn a_policy_that_insists_on_a_full_target_gets_its_answer() {
    let gate = Gate::default();
    let first = Vendor::start("first", [waits(&gate)]);
    let setup = limited(Setup::new([&first]), "limit = 1");
    let gateway = picking(setup, "picks = \"first\", when_failed = \"first\", wait_ms = 0").start();
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], ASK.as_bytes());
    first.wait_for(1);
    gateway.chat(ASK).assert_error(503, "server_is_overloaded");
    assert_eq!(first.count(), 1);
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
}

/// Whoever stands in line for a target that meanwhile fails goes elsewhere when it is their turn.
#[test]
fn nobody_in_line_calls_a_target_whose_breaker_has_opened() {
    let gate = Gate::default();
    let fails = Script::Steps(vec![])
        .until(&gate)
        .then(Script::status(500, &[], &error_body("server_error")));
    let (first, second) = (Vendor::start("first", [fails]), Vendor::well("second"));
    let setup = limited(Setup::new([&first, &second]), "limit = 1, queue = 2");
    let gateway = setup.toml("breaker.min_attempts = 1\nbreaker.open_ms = 60000").start();
    let mut clients: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.request(CHAT, &[], ASK.as_bytes()));
    first.wait_for(1);
    eventually("the line to be full", || {
        (gateway.chat(ASK).says() == "from second").then_some(())
    });
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().says(), "from second");
    }
    assert_eq!(first.count(), 1, "the others had stood in line");
}

/// Where another target can answer, nobody has to stand in line to the end of its time.
#[test]
fn a_line_is_left_when_its_time_is_over() {
    let deadlines = ["", "timeouts.whole_content_ms = 200"];
    for (queue, deadline) in [(", queue_ms = 200", deadlines[0]), ("", deadlines[1])] {
        let first = Vendor::start("first", [Script::begin([ROLE, &text("half")]).hold()]);
        let second = Vendor::well("second");
        let limit = format!("limit = 1, queue = 5{queue}");
        let gateway = limited(Setup::new([&first, &second]), &limit).toml(deadline).start();
        let mut busy = gateway.stream(ASK_STREAM);
        busy.read_until("half");
        assert_eq!(gateway.chat(ASK).says(), "from second", "{queue} {deadline}");
        assert_eq!(first.count(), 1);
    }
}

/// A stream holds its place to its end, and not beyond.
#[test]
fn a_place_is_free_when_its_stream_ends() {
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("half")])
        .until(&gate)
        .frames([STOP, DONE])
        .end();
    let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
    let gateway = limited(Setup::new([&first, &second]), "limit = 1").start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    assert_eq!(gateway.stream(ASK_STREAM).header("x-pointsman-target"), "second");
    gate.open();
    stream.rest();
    eventually("the place to be free", || {
        (gateway.stream(ASK_STREAM).header("x-pointsman-target") == "first").then_some(())
    });
}

#[test]
fn a_place_is_free_when_its_client_goes_away() {
    for script in [Script::begin([ROLE, &text("half")]).hold(), Script::silence()] {
        let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
        let gateway = limited(Setup::new([&first, &second]), "limit = 1").start();
        let mut client = gateway.connect();
        client.request(CHAT, &[], ASK_STREAM.as_bytes());
        first.wait_for(1);
        drop(client);
        first.wait_for_cancellation();
        first.follow(Script::Well("well".into()));
        eventually("the place to be free", || {
            (gateway.stream(ASK_STREAM).header("x-pointsman-target") == "first").then_some(())
        });
    }
}

#[test]
fn a_place_is_free_when_its_attempt_fails() {
    let failing = [
        Script::status(500, &[], &error_body("server_error")),
        Script::begin([ROLE]).reset(),
        Script::begin([ROLE, &text("half")]).pause(100).reset(),
        Script::Well("well".into()),
    ];
    let first = Vendor::start("first", failing);
    let gateway = limited(Setup::new([&first]), "limit = 1").start();
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.request(CHAT, &[], ASK_STREAM.as_bytes());
        let stream = client.stream();
        drop(stream);
        eventually("the attempt to end", || {
            (gateway.target("first")["in_flight"] == 0).then_some(())
        });
    }
    eventually("the place to be free", || {
        (gateway.stream(ASK_STREAM).status == 200).then_some(())
    });
}

#[test]
fn who_stands_in_line_is_served_in_turn_and_who_finds_it_full_is_not() {
    let gate = Gate::default();
    let (first, second) = (Vendor::start("first", [waits(&gate)]), Vendor::well("second"));
    let gateway = limited(Setup::new([&first, &second]), "limit = 1, queue = 2").start();
    let mut clients: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.request(CHAT, &[], ASK.as_bytes()));
    first.wait_for(1);
    eventually("the line to be full", || {
        (gateway.chat(ASK).says() == "from second").then_some(())
    });
    assert_eq!(first.count(), 1, "the others stand in line");
    let told = gateway.target("first");
    assert_eq!((&told["limit"], &told["in_line"]), (&1.into(), &2.into()));
    gate.open();
    for client in &mut clients {
        assert_eq!(client.answer().says(), "at last");
    }
    assert_eq!(first.count(), 3);
}

/// Whoever stands in line too long has no time for content left.
#[test]
fn who_stands_in_line_to_the_end_of_its_time_is_told() {
    let first = Vendor::start("first", [Script::begin([ROLE, &text("half")]).hold()]);
    let setup = limited(Setup::new([&first]), "limit = 1, queue = 5");
    let gateway = setup.toml("timeouts.request_ms = 500").start();
    let mut busy = gateway.stream(ASK_STREAM);
    busy.read_until("half");
    let answer = gateway.chat(ASK);
    assert!(matches!(answer.status, 503 | 504), "{}", answer.text());
    assert_eq!(first.count(), 1);
}

#[test]
fn a_gateway_at_its_limit_says_so_and_when_to_come_back() {
    let gate = Gate::default();
    let first = Vendor::start("first", [waits(&gate)]);
    let gateway = Setup::new([&first]).toml("server.max_requests = 1").start();
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], ASK.as_bytes());
    first.wait_for(1);
    let answer = gateway.chat(ASK);
    answer.assert_error(503, "server_is_overloaded");
    assert_eq!(
        (answer.header("retry-after"), answer.header("retry-after-ms")),
        ("1", "1000")
    );
    assert_eq!(first.count(), 1);
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
    eventually("the gateway to have a place", || {
        (gateway.chat(ASK).status == 200).then_some(())
    });
}

/// Large bodies that all wait for a vendor which hangs must not fill the machine.
#[test]
fn bodies_that_do_not_fit_together_are_told_to_come_back() {
    let gate = Gate::default();
    let first = Vendor::start("first", [waits(&gate)]);
    let gateway = Setup::new([&first]).toml("server.max_bodies_mib = 1").start();
    let large = ASK.replace("hello", &"hello ".repeat(100_000));
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], large.as_bytes());
    first.wait_for(1);
    let answer = gateway.chat(&large);
    answer.assert_error(503, "server_is_overloaded");
    assert_eq!(answer.header("retry-after"), "1");
    let mut chunked = gateway.connect();
    let head = format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    chunked.send((head + &chunk).as_bytes()).unwrap();
    chunked.answer().assert_error(503, "server_is_overloaded");
    assert_eq!(first.count(), 1);
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
    assert_eq!(gateway.chat(ASK).says(), "at last", "small ones fit in");
    eventually("room for another", || {
        (gateway.chat(&large).status == 200).then_some(())
    });
}

/// A stated length is only a promise: room is taken by what has come.
#[test]
fn bodies_that_are_announced_and_do_not_come_take_no_room() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.max_bodies_mib = 32").start();
    let head = format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 33554432\r\n\r\n{{");
    let mut announcing: Vec<_> = (0..40).map(|_| gateway.connect()).collect();
    for client in &mut announcing {
        client.send(head.as_bytes()).unwrap();
    }
    eventually("all heads to be read", || {
        (gateway.metric("pointsman_requests_in_progress", "") >= 40.0).then_some(())
    });
    let large = ASK.replace("hello", &"hello ".repeat(100_000));
    for _ in 0..3 {
        assert_eq!(gateway.chat(&large).says(), "from vendor");
    }
}

/// Two clients, known by their keys.
fn with_two_keys(setup: Setup) -> Setup {
    let key = |name: &str| format!("[[key]]\nname = \"{name}\"\nsecret = {{ env = \"KEY_{name}\" }}\n");
    setup
        .after(&(key("a") + &key("b")))
        .env("KEY_a", "key-a")
        .env("KEY_b", "key-b")
}

const CLIENT_A: (&str, &str) = ("authorization", "Bearer key-a");
const CLIENT_B: (&str, &str) = ("authorization", "Bearer key-b");

#[test]
fn one_client_holds_no_more_than_its_share_of_bodies() {
    let gate = Gate::default();
    let vendor = Vendor::start("vendor", [waits(&gate), Script::Well("at once".into())]);
    let setup = with_two_keys(Setup::new([&vendor]));
    let gateway = setup.toml("server.max_body_mib = 1\nserver.max_bodies_mib = 2").start();
    let large = ASK.replace("hello", &"hello ".repeat(100_000));
    let mut busy = gateway.connect();
    busy.request(CHAT, &[CLIENT_A], large.as_bytes());
    vendor.wait_for(1);
    let refused = gateway.ask(CHAT, &[CLIENT_A], &large);
    refused.assert_error(429, "too_many_requests");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(gateway.ask(CHAT, &[CLIENT_B], &large).says(), "at once");
    assert_eq!(
        gateway.ask(CHAT, &[CLIENT_A], ASK).says(),
        "at once",
        "small ones fit in"
    );
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
    eventually("room for another", || {
        (gateway.ask(CHAT, &[CLIENT_A], &large).status == 200).then_some(())
    });
}

#[test]
fn one_client_holds_no_more_than_its_share_of_places() {
    let gate = Gate::default();
    let vendor = Vendor::start("vendor", [waits(&gate), waits(&gate), Script::Well("at once".into())]);
    let setup = with_two_keys(Setup::new([&vendor])).toml("server.max_requests = 8\nserver.client_share = 0.25");
    let mut gateway = setup.clone().start();
    let mut busy: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut busy {
        client.request(CHAT, &[CLIENT_A], ASK.as_bytes());
    }
    vendor.wait_for(2);
    for _ in 0..10 {
        gateway
            .ask(CHAT, &[CLIENT_A], ASK)
            .assert_error(429, "too_many_requests");
        assert_eq!(gateway.ask(CHAT, &[CLIENT_B], ASK).says(), "at once");
    }
    gateway.configure(setup.toml("attempts.max = 4"));
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads_total", "live") > 0.0).then_some(())
    });
    gateway
        .ask(CHAT, &[CLIENT_A], ASK)
        .assert_error(429, "too_many_requests");
    gate.open();
    busy.iter_mut()
        .for_each(|client| assert_eq!(client.answer().says(), "at last"));
    eventually("a place for the client", || {
        (gateway.ask(CHAT, &[CLIENT_A], ASK).status == 200).then_some(())
    });
}

/// Without keys a client is an address.
#[test]
fn one_address_holds_no_more_than_its_share_of_places() {
    let gate = Gate::default();
    let vendor = Vendor::start("vendor", [waits(&gate), Script::Well("at once".into())]);
    let gateway = Setup::new([&vendor]).toml("server.max_requests = 2").start();
    let mut busy = gateway.connect();
    busy.request(CHAT, &[], ASK.as_bytes());
    vendor.wait_for(1);
    gateway.chat(ASK).assert_error(429, "too_many_requests");
    gate.open();
    assert_eq!(busy.answer().says(), "at last");
}

/// Requests that are refused do not keep others out while what is left of their bodies is read.
#[test]
fn a_refused_request_gives_its_place_back() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.max_requests = 1").start();
    let mut refused = gateway.connect();
    let head = format!("{CHAT}/nowhere HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{{");
    refused.send(head.as_bytes()).unwrap();
    eventually("the request to be refused", || {
        (gateway.metric("pointsman_requests_in_progress", "") >= 1.0).then_some(())
    });
    assert_eq!(gateway.chat(ASK).says(), "from vendor");
    assert_eq!(refused.answer().status, 404);
}

/// Retries are what a target that fails can bear least. Fallbacks are none: each target's first attempt of a request is free.
#[test]
fn no_more_of_a_targets_load_than_its_share_is_retries() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let second = Vendor::start("second", [Script::status(500, &[], &error_body("server_error"))]);
    let setup = picking(
        Setup::new([&first, &second]),
        "picks = \"first, second\", when_failed = \"first\", wait_ms = 0",
    );
    let setup = setup.toml("breaker.enabled = false\nattempts.retry_share = 0.0\nattempts.retry_floor = 2");
    let gateway = setup.start();
    for _ in 0..10 {
        assert_eq!(gateway.chat(ASK).status, 503);
    }
    assert_eq!(first.count(), 10 + 2, "two retries, and then none");
}

#[test]
fn a_fallback_is_no_retry() {
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second])
        .toml("breaker.enabled = false\nattempts.retry_share = 0.0\nattempts.retry_floor = 0")
        .start();
    for _ in 0..10 {
        assert_eq!(gateway.chat(ASK).says(), "from second");
    }
    assert_eq!((first.count(), second.count()), (10, 10));
}

/// In an outage all wait at the same time: those who find no seat fail at once.
#[test]
fn no_more_than_so_many_wait_at_once() {
    let limited = Script::rate_limited(&[("retry-after-ms", "1500")]);
    let first = Vendor::start(
        "first",
        [limited.clone(), limited.clone(), Script::Well("after all".into())],
    );
    let gateway = Setup::new([&first]).toml("attempts.max_waiting = 0").start();
    let answer = gateway.chat(ASK);
    answer.assert_error(429, "rate_limit_exceeded");
    assert_eq!(first.count(), 1, "there is no seat to wait on");

    let first = Vendor::start("first", [limited, Script::Well("after all".into())]);
    let gateway = Setup::new([&first]).toml("attempts.max_waiting = 1").start();
    assert_eq!(gateway.chat(ASK).says(), "after all");
}
