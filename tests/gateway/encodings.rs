//! Answers that come compressed, or without the type of their content, from what stands before a vendor.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::heard::Format;
use super::running::{ASK, ASK_STREAM, CHAT};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

fn gzip(plain: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn deflate(plain: &str) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// An answer whose body is these bytes.
fn encoded(status: u16, encoding: &str, body: &[u8]) -> Script {
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Script::Steps(vec![]).send(&head).bytes(body.to_vec())
}

/// A stream whose frames are compressed, each so that it can be read when it is there.
fn encoded_stream(frames: &[String], between: &Gate) -> Script {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut script = Script::Steps(vec![]).send(head);
    for frame in frames {
        encoder.write_all(frame.as_bytes()).unwrap();
        encoder.flush().unwrap();
        script = script.frames([std::mem::take(encoder.get_mut())]).until(between);
    }
    script.frames([encoder.finish().unwrap()]).end()
}

fn frames() -> [String; 4] {
    [ROLE.to_owned(), text("in pieces"), STOP.to_owned(), DONE.to_owned()]
}

#[test]
fn a_compressed_answer_is_read() {
    for (encoding, body) in [("gzip", gzip(&whole("small"))), ("deflate", deflate(&whole("small")))] {
        let vendor = Vendor::start("vendor", [encoded(200, encoding, &body)]);
        let gateway = Setup::new([&vendor]).start();
        let answer = gateway.chat(ASK);
        assert_eq!(answer.says(), "small", "{encoding}");
        assert!(answer.head.header("content-encoding").is_none());
        assert_eq!(gateway.chat(ASK).says(), "small", "and again");
        assert_eq!(vendor.connections(), 1, "its connection is kept");
    }
}

#[test]
fn a_compressed_answer_is_translated() {
    let vendor = Vendor::start("vendor", [encoded(200, "gzip", &gzip(&whole("small")))]);
    let gateway = Setup::new([&vendor]).start();
    let ask = r#"{"model":"smart","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
    let answer = gateway.ask("POST /v1/messages", &[], ask);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["content"][0]["text"], "small");
}

/// The vendor sends each frame only when the one before has arrived.
#[test]
fn a_compressed_stream_is_read_event_by_event() {
    let gate = Gate::default();
    let first = format!("{ROLE}{}", text("in pieces"));
    let rest = format!("{STOP}{DONE}");
    let vendor = Vendor::start("vendor", [encoded_stream(&[first, rest], &gate)]);
    let gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    assert!(stream.head.header("content-encoding").is_none());
    stream.read_until("in pieces");
    gate.open();
    assert!(stream.rest().contains("[DONE]"));
}

#[test]
fn compressed_errors_are_understood() {
    for (status, code, known_as) in [
        (429, "insufficient_quota", "out-of-quota 429 insufficient_quota"),
        (
            400,
            "context_length_exceeded",
            "context-too-long 400 context_length_exceeded",
        ),
        (503, "server_is_overloaded", "overloaded 503 server_is_overloaded"),
    ] {
        let first = Vendor::start("first", [encoded(status, "gzip", &gzip(&error_body(code)))]);
        let second = Vendor::well("second");
        let gateway = Setup::new([&first, &second])
            .target("first", "context_window = 100")
            .target("second", "context_window = 1000")
            .start();
        let answer = gateway.chat(ASK);
        assert_eq!(answer.says(), "from second", "{code}");
        let line = gateway.request_line(answer.header("x-request-id"));
        let attempts = line["attempts"].as_str().unwrap();
        assert!(attempts.contains(known_as), "{attempts}");
        assert!(attempts.contains(&format!("(the vendor says {code})")), "{attempts}");
    }
}

#[test]
fn a_compressed_error_of_the_clients_is_its_own_to_read() {
    let vendor = Vendor::start("vendor", [encoded(400, "gzip", &gzip(&error_body("bad_tools")))]);
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.chat(ASK);
    assert_eq!(answer.status, 400);
    assert!(answer.head.header("content-encoding").is_none());
    assert_eq!(answer.json()["error"]["message"], "the vendor says bad_tools");
}

#[test]
fn an_encoding_that_is_not_known_is_named_and_nothing_of_it_shown() {
    let bytes = b"\x28\xb5\x2f\xfd\x04\x00\x01\x02\x03";
    for (status, outcome) in [(200, "bad-response encoded"), (429, "rate-limited 429 encoded")] {
        let first = Vendor::start("first", [encoded(status, "zstd", bytes)]);
        let second = Vendor::well("second");
        let gateway = Setup::new([&first, &second]).start();
        let answer = gateway.chat(ASK);
        assert_eq!(answer.says(), "from second");
        let line = gateway.request_line(answer.header("x-request-id"));
        let attempts = line["attempts"].as_str().unwrap();
        assert!(attempts.contains(outcome), "{attempts}");
        assert!(
            attempts.contains("content-encoding zstd is not supported"),
            "{attempts}"
        );
    }
    let only = Vendor::start("only", [encoded(400, "zstd", bytes)]);
    let answer = Setup::new([&only]).start().chat(ASK);
    answer.assert_error(400, "invalid_request");
    assert_eq!(
        answer.json()["error"]["message"],
        "content-encoding zstd is not supported"
    );
}

/// What says nothing of its encoding but is no text is no message either.
#[test]
fn bytes_that_are_no_text_are_nobodys_message() {
    let body = gzip(&error_body("bad_tools"));
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let vendor = Vendor::start("vendor", [Script::Steps(vec![]).send(&head).bytes(body)]);
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.chat(ASK);
    answer.assert_error(400, "invalid_request");
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("bytes that are not text"), "{message}");
    let line = gateway.request_line(answer.header("x-request-id")).to_string();
    assert!(!line.contains('\u{fffd}') && !line.contains("\\u001f"), "{line}");
}

#[test]
fn what_a_small_body_grows_to_is_limited() {
    let huge = format!(r#"{{"choices":[],"x":"{}"}}"#, "x".repeat(8 << 20));
    let body = gzip(&huge);
    assert!(body.len() < 100_000);
    let first = Vendor::start("first", [encoded(200, "gzip", &body)]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second])
        .toml("attempts.max_answer_mib = 1")
        .start();
    let answer = gateway.chat(ASK);
    assert_eq!(answer.says(), "from second");
    let line = gateway.request_line(answer.header("x-request-id"));
    let attempts = line["attempts"].as_str().unwrap();
    assert!(attempts.contains("bad-response answer_too_large"), "{attempts}");
}

fn stream_of_type(content_type: Option<&str>, frames: &[String]) -> Script {
    let content_type = content_type
        .map(|name| format!("content-type: {name}\r\n"))
        .unwrap_or_default();
    let head = format!("HTTP/1.1 200 OK\r\n{content_type}transfer-encoding: chunked\r\n\r\n");
    Script::Steps(vec![]).send(&head).frames(frames).end()
}

#[test]
fn a_stream_without_its_type_is_known_by_its_first_bytes() {
    for content_type in [
        None,
        Some("text/plain; charset=utf-8"),
        Some("application/octet-stream"),
    ] {
        let vendor = Vendor::start("vendor", [stream_of_type(content_type, &frames())]);
        let gateway = Setup::new([&vendor]).start();
        let mut stream = gateway.stream(ASK_STREAM);
        assert_eq!(stream.header("content-type"), "text/event-stream", "{content_type:?}");
        let all = stream.rest();
        assert!(
            all.contains("in pieces") && all.contains("[DONE]"),
            "{content_type:?}: {all}"
        );
    }
}

/// The first bytes may come one by one.
#[test]
fn the_first_bytes_of_a_stream_are_waited_for() {
    let bytes: Vec<String> = frames().concat().chars().map(String::from).collect();
    let vendor = Vendor::start("vendor", [stream_of_type(None, &bytes)]);
    let gateway = Setup::new([&vendor]).start();
    assert!(gateway.stream(ASK_STREAM).rest().contains("in pieces"));
}

#[test]
fn what_is_no_stream_is_none_whatever_its_type() {
    for (content_type, body, code) in [
        (
            Some("text/plain"),
            "upstream connect error".to_owned(),
            "bad-response not_a_stream",
        ),
        (None, whole("not a stream"), "bad-response not_a_stream"),
        (None, String::new(), "bad-response not_a_stream"),
        (
            Some("application/octet-stream"),
            error_body("server_is_overloaded"),
            "overloaded server_is_overloaded",
        ),
        (Some("text/html"), "data: 1\n\n".to_owned(), "bad-response not_a_stream"),
    ] {
        let frames: Vec<String> = Some(body).into_iter().filter(|body| !body.is_empty()).collect();
        let first = Vendor::start("first", [stream_of_type(content_type, &frames)]);
        let second = Vendor::well("second");
        let gateway = Setup::new([&first, &second]).start();
        let mut stream = gateway.stream(ASK_STREAM);
        let id = stream.header("x-request-id").to_owned();
        assert!(stream.rest().contains("from second"), "{content_type:?}");
        let line = gateway.request_line(&id);
        let attempts = line["attempts"].as_str().unwrap();
        assert!(attempts.contains(code), "{attempts}");
        if code.ends_with("not_a_stream") {
            let shown = content_type.unwrap_or("none");
            assert!(attempts.contains(&format!("`{shown}` came")), "{attempts}");
        }
    }
}

/// AWS's own framing is known by its checksum.
#[test]
fn a_stream_of_aws_messages_is_known_by_its_first_bytes() {
    let format = Format::Converse;
    let script = Script::begin_as("application/octet-stream", format.frames("in pieces")).end();
    let vendor = Vendor::start("vendor", [script]);
    let gateway = Setup::new([&vendor]).speaks("vendor", format).start();
    let mut connection = gateway.connect();
    connection.request(CHAT, &[], ASK_STREAM.as_bytes());
    let all = connection.stream().rest();
    assert!(all.contains("in p") && all.contains("[DONE]"), "{all}");
}

/// An operator reads what it was: a web page, mostly.
#[test]
fn what_is_no_answer_is_logged_with_its_type() {
    let first = Vendor::start("first", [Script::other(200, "text/html", &[], "<html>busy</html>")]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).start();
    let answer = gateway.chat(ASK);
    let line = gateway.request_line(answer.header("x-request-id"));
    let attempts = line["attempts"].as_str().unwrap();
    assert!(attempts.contains("bad-response not_an_answer"), "{attempts}");
    assert!(attempts.contains("(content type `text/html`)"), "{attempts}");
}
