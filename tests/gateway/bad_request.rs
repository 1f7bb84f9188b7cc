//! Clients that ask for what is not there, or ask badly: a clear error in OpenAI's shape, and no vendor is bothered.

use super::running::{ASK, ASK_STREAM, CHAT, Gateway, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, text};
use super::setup::Setup;
use super::vendor::Vendor;

#[test]
fn a_body_that_is_no_request_is_400() {
    let (vendor, gateway) = one();
    for body in [
        "hello",
        "{",
        "[]",
        "null",
        "\"text\"",
        "{\"model\":\"smart\",\"messages\":[]",
        "\u{feff}{}",
    ] {
        gateway.chat(body).assert_error(400, "invalid_request");
    }
    let mut connection = gateway.connect();
    connection.request(
        CHAT,
        &[],
        b"{\"model\":\"smart\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}",
    );
    connection.answer().assert_error(400, "invalid_request");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn no_body_at_all_is_400() {
    let (_vendor, gateway) = one();
    gateway
        .ask(CHAT, &[("content-length", "0")], "")
        .assert_error(400, "invalid_request");
}

#[test]
fn a_body_without_what_routing_needs_is_400_and_says_what() {
    let (_vendor, gateway) = one();
    for (body, param) in [
        (r#"{"messages":[]}"#, "model"),
        (r#"{"model":7,"messages":[]}"#, "model"),
        (r#"{"model":null,"messages":[]}"#, "model"),
        (r#"{"model":"smart"}"#, "messages"),
    ] {
        let answer = gateway.chat(body);
        answer.assert_error(400, "invalid_request");
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
}

#[test]
fn a_body_of_33_mib_is_413_and_need_not_even_come() {
    let (vendor, gateway) = one();
    let mut connection = gateway.connect();
    let told = (33 << 20).to_string();
    connection
        .send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {told}\r\n\r\n").as_bytes())
        .unwrap();
    connection.answer().assert_error(413, "request_too_large");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn a_body_that_turns_out_to_be_33_mib_is_413() {
    let (vendor, gateway) = one();
    let mut connection = gateway.connect();
    connection
        .send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes())
        .unwrap();
    let mebibyte = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    // The gateway may close the connection as soon as it has seen enough.
    let _ = (0..33).try_for_each(|_| connection.send(&mebibyte));
    connection.answer().assert_error(413, "request_too_large");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn a_body_that_is_sent_whole_and_too_large_is_413() {
    let (_vendor, gateway) = one();
    let mut connection = gateway.connect();
    let body = vec![b' '; 33 << 20];
    let head = format!(
        "{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // A client that sends all of it before it reads must be able to read why.
    let _ = connection.send(head.as_bytes()).and_then(|()| connection.send(&body));
    connection.answer().assert_error(413, "request_too_large");
}

#[test]
fn a_large_body_within_the_limit_passes_through() {
    let (vendor, gateway) = one();
    let body = ASK.replace("hello", &"x".repeat(8 << 20));
    assert_eq!(gateway.chat(&body).status, 200);
    assert_eq!(
        vendor.only().body.len(),
        body.len() - "smart".len() + "vendor-model".len()
    );
}

#[test]
fn a_body_that_comes_too_slowly_is_408() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.body_timeout_ms = 300").start();
    let mut connection = gateway.connect();
    connection
        .send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{").as_bytes())
        .unwrap();
    connection.answer().assert_error(408, "request_timeout");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn a_head_that_comes_too_slowly_ends_the_connection() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.head_timeout_ms = 300").start();
    let mut connection = gateway.connect();
    connection.send(format!("{CHAT} HTTP/1.1\r\nhost").as_bytes()).unwrap();
    connection.wait_until_closed();
}

/// A body that trickles is not waited for to the end of its time.
#[test]
fn a_body_below_the_least_rate_is_408() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor])
        .toml("server.body_timeout_ms = 600000\nserver.body_grace_ms = 300\nserver.min_body_rate = 100000")
        .start();
    let mut slow = gateway.connect();
    slow.send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n").as_bytes())
        .unwrap();
    for _ in 0..40 {
        let _ = slow.send(b" ");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    slow.answer().assert_error(408, "request_timeout");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.head_timeout_ms = 300").start();
    gateway.connect().wait_until_closed();
}

#[test]
fn a_connection_that_is_idle_between_requests_is_closed_later() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.idle_timeout_ms = 300").start();
    let mut connection = gateway.connect();
    connection.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(connection.answer().status, 200);
    connection.wait_until_closed();
}

#[test]
fn a_body_that_is_cut_off_bothers_nobody() {
    let (vendor, gateway) = one();
    let mut connection = gateway.connect();
    connection
        .send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{").as_bytes())
        .unwrap();
    connection.stop_sending();
    connection.wait_until_closed();
    assert_eq!(gateway.chat(ASK).status, 200);
    assert_eq!(vendor.count(), 1);
}

#[test]
fn a_compressed_body_is_415() {
    let (vendor, gateway) = one();
    gateway
        .ask(CHAT, &[("content-encoding", "gzip")], ASK)
        .assert_error(415, "unsupported_encoding");
    assert_eq!(vendor.count(), 0);
}

#[test]
fn an_unknown_path_is_404() {
    let (_vendor, gateway) = one();
    for line in [
        "GET /",
        "POST /v1/chat",
        "GET /v1/modelss",
        "GET /metrics",
        "PUT /api/switches/a",
        "GET /healthz",
    ] {
        gateway.ask(line, &[], "").assert_error(404, "unknown_url");
    }
}

#[test]
fn an_unknown_model_is_404() {
    let (_vendor, gateway) = one();
    let answer = gateway.chat(&ASK.replace("smart", "gpt-17"));
    answer.assert_error(404, "model_not_found");
    assert_eq!(answer.json()["error"]["param"], "model");
    gateway
        .ask("GET /v1/models/gpt-17", &[], "")
        .assert_error(404, "model_not_found");
}

#[test]
fn a_wrong_method_is_405_and_says_which_is_right() {
    let (_vendor, gateway) = one();
    for (line, allowed) in [
        ("GET /v1/chat/completions", "POST"),
        ("POST /v1/models", "GET, HEAD"),
        ("DELETE /v1/models/smart", "GET, HEAD"),
    ] {
        let answer = gateway.ask(line, &[], "");
        answer.assert_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allowed);
    }
}

/// Only what a `GET` would say about its body.
#[test]
fn head_works_wherever_get_does() {
    let (_vendor, gateway) = one();
    for (path, status) in [
        ("/v1/models", 200),
        ("/v1/models/smart", 200),
        ("/v1beta/models", 200),
        ("/v1/models/gpt-17", 404),
        ("/v1/chat/completions", 405),
    ] {
        let whole = gateway.ask(&format!("GET {path}"), &[], "");
        let mut connection = gateway.connect();
        connection.request(&format!("HEAD {path}"), &[], b"");
        let head = connection.stream();
        assert_eq!((head.status, whole.status), (status, status), "{path}");
        assert_eq!(head.header("content-length"), whole.body.len().to_string(), "{path}");
        assert_eq!(head.header("content-type"), "application/json", "{path}");
        let mut connection = gateway.connect();
        connection.request(&format!("HEAD {path}"), &[("connection", "close")], b"");
        assert_eq!(connection.rest_after_head(), b"", "{path}");
    }
}

/// What RFC 9112 lets a server refuse: proxies read it differently, and so a request could be hidden in another one.
#[test]
fn a_head_that_is_read_in_two_ways_is_400() {
    let (vendor, gateway) = one();
    let length = format!("content-length: {}", ASK.len());
    for (head, body) in [
        (format!("{CHAT} HTTP/1.1\nhost: localhost\n{length}\n\n"), ASK),
        (format!("{CHAT} HTTP/1.1\r\nhost: localhost\n{length}\r\n\r\n"), ASK),
        (format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\n"), ASK),
        (
            format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "0\r\n\r\n",
        ),
        (
            format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
            "0\r\n\r\n",
        ),
    ] {
        let hidden = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut whole = gateway.connect();
        whole.send(format!("{head}{body}{hidden}").as_bytes()).unwrap();
        assert_eq!(whole.answer().status, 400, "{head:?}");
        whole.wait_until_closed();
        let mut behind = gateway.connect();
        behind.request("GET /v1/models", &[], b"");
        assert_eq!(behind.answer().status, 200);
        let _ = head.bytes().try_for_each(|byte| behind.send(&[byte]));
        assert_eq!(behind.answer().status, 400, "{head:?} byte by byte");
    }
    assert_eq!(vendor.count(), 0);
}

/// Which is not the case of what is only unusual.
#[test]
fn unusual_requests_that_mean_one_thing_are_answered() {
    let (_vendor, gateway) = one();
    let mut connection = gateway.connect();
    let chunked = format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: Chunked\r\n\r\n");
    let body = ASK.replace("hello", "a\\nb");
    let (first, second) = body.split_at(20);
    let pieces = format!(
        "{:x};a=b\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\nx-sum: 1\r\n\r\n",
        first.len(),
        second.len()
    );
    let length = format!("content-length: {}\r\n", ASK.len() + 2);
    let plain = format!("\r\n{CHAT} HTTP/1.1\r\nhost: localhost\r\n{length}{length}\r\n{ASK}\n\n");
    for request in [chunked.clone() + &pieces, plain.clone(), chunked + &pieces + &plain] {
        connection.send(request.as_bytes()).unwrap();
        assert_eq!(connection.answer().says(), "from vendor");
    }
    assert_eq!(connection.answer().says(), "from vendor");
}

#[test]
fn a_huge_head_is_431() {
    let (_vendor, gateway) = one();
    let mut connection = gateway.connect();
    let huge = "x".repeat(100 << 10);
    let _ = connection.send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\nx-huge: {huge}\r\n\r\n").as_bytes());
    assert_eq!(connection.answer().status, 431);
    assert_eq!(gateway.chat(ASK).status, 200);
}

#[test]
fn a_head_with_too_many_headers_is_431() {
    let (_vendor, gateway) = one();
    let mut connection = gateway.connect();
    let many: String = (0..500).map(|number| format!("x-{number}: 1\r\n")).collect();
    let _ = connection.send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\n{many}\r\n").as_bytes());
    assert_eq!(connection.answer().status, 431);
}

#[test]
fn a_connection_goes_on_after_an_error() {
    let (_vendor, gateway) = one();
    let mut connection = gateway.connect();
    connection.request(CHAT, &[], b"{}");
    connection.answer().assert_error(400, "invalid_request");
    connection.request("GET /nowhere", &[], b"");
    connection.answer().assert_error(404, "unknown_url");
    connection.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(connection.answer().says(), "from vendor");
}

#[test]
fn more_connections_at_once_than_allowed_wait_for_their_turn() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.max_connections = 1").start();
    let mut first = gateway.connect();
    first.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(first.answer().status, 200);
    let mut second = gateway.connect();
    second.request(CHAT, &[], ASK.as_bytes());
    first.request(CHAT, &[], ASK.as_bytes());
    assert_eq!(first.answer().status, 200);
    assert_eq!(vendor.count(), 2, "the second connection is not served yet");
    drop(first);
    assert_eq!(second.answer().status, 200);
}

#[test]
fn what_is_no_http_ends_the_connection_and_nothing_else() {
    let (_vendor, gateway) = one();
    let mut connection = gateway.connect();
    let _ = connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
    connection.wait_until_closed();
    assert_eq!(gateway.chat(ASK).status, 200);
}

/// A stream is a request in progress for as long as it flows.
#[test]
fn more_requests_at_once_than_allowed_are_503() {
    let gate = Gate::default();
    let stream = Script::begin([ROLE, &text("open")])
        .until(&gate)
        .frames([STOP, DONE])
        .end();
    let vendor = Vendor::start("vendor", [stream, Script::Well("next".into())]);
    let gateway = Setup::new([&vendor]).toml("server.max_requests = 1").start();
    let mut first = gateway.stream(ASK_STREAM);
    first.read_until("open");
    let answer = gateway.chat(ASK);
    answer.assert_error(503, "server_is_overloaded");
    assert_eq!(answer.header("retry-after"), "1");
    gate.open();
    first.rest();
    eventually("a place to be free", || (gateway.chat(ASK).status == 200).then_some(()));
}

/// A gateway in front of a vendor that has no part in the story.
fn one() -> (Vendor, Gateway) {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    (vendor, gateway)
}
