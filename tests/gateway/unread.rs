//! Clients that ask and do not read: they are given up, and what they held is free for others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::client::Connection;
use super::frames::{Http2, RST_STREAM};
use super::running::{ASK, ASK_STREAM, CHAT, Gateway, eventually};
use super::script::{DONE, ROLE, STOP, Script, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

const PATH: &str = "/v1/chat/completions";

/// The gateway is full now, and has places again after a while.
fn is_full_and_then_free(gateway: &Gateway) {
    gateway.chat(ASK).assert_error(503, "server_is_overloaded");
    eventually("places to be free", || (gateway.chat(ASK).status == 200).then_some(()));
}

fn few_places(setup: Setup, stall_ms: u32) -> Gateway {
    let toml = format!("server.max_requests = 4\nserver.client_share = 1.0\nserver.stall_timeout_ms = {stall_ms}");
    setup.toml(&toml).start()
}

/// A stream that has begun and goes on for ever.
fn half() -> Script {
    Script::begin([ROLE, &text("half")]).hold()
}

#[test]
fn a_stream_of_http2_that_is_left_unread_is_reset_and_its_place_free() {
    let vendor = Vendor::start("vendor", [half(), half(), half(), half(), Script::Well("again".into())]);
    let gateway = few_places(Setup::new([&vendor]), 3000);
    let mut greedy = Http2::open(gateway.listen, 0);
    for stream in [1, 3, 5, 7] {
        greedy.request(stream, PATH, ASK_STREAM);
    }
    vendor.wait_for(4);
    is_full_and_then_free(&gateway);
    eventually("the vendor's requests to be cancelled", || {
        vendor.received()[..4]
            .iter()
            .all(|request| request.cancelled)
            .then_some(())
    });
    let mut reset: Vec<_> = (0..4).map(|_| greedy.until(RST_STREAM).stream).collect();
    reset.sort_unstable();
    assert_eq!(reset, [1, 3, 5, 7]);
    eventually("the log to say why", || {
        gateway.log().contains("left its answer unread").then_some(())
    });
}

#[test]
fn a_whole_answer_over_http2_holds_its_place_until_it_is_read() {
    let vendor = Vendor::start("vendor", [Script::Well("whole".into())]);
    let gateway = few_places(Setup::new([&vendor]), 3000);
    // One byte of each answer may go out.
    let mut greedy = Http2::open(gateway.listen, 1);
    for stream in [1, 3, 5, 7] {
        greedy.request(stream, PATH, ASK);
    }
    vendor.wait_for(4);
    eventually("the answers to be there", || {
        (gateway.metric("pointsman_requests_in_progress", "") == 0.0).then_some(())
    });
    is_full_and_then_free(&gateway);
    assert!([1, 3, 5, 7].contains(&greedy.until(RST_STREAM).stream));
}

#[test]
fn a_deadline_of_the_whole_answer_holds_for_a_client_that_does_not_read() {
    let vendor = Vendor::start("vendor", [half(), Script::Well("again".into())]);
    let setup = Setup::new([&vendor]).target("vendor", "timeouts = { whole_ms = 500 }");
    let gateway = setup.toml("server.max_requests = 1\nserver.client_share = 1.0").start();
    let mut greedy = Http2::open(gateway.listen, 0);
    greedy.request(1, PATH, ASK_STREAM);
    vendor.wait_for_cancellation();
    eventually("the place to be free", || {
        (gateway.chat(ASK).status == 200).then_some(())
    });
}

/// Whole answers that nobody reads must not fill the machine.
#[test]
fn whole_answers_that_do_not_fit_together_are_given_up() {
    let large = whole(&"x".repeat(700 << 10));
    let vendor = Vendor::start(
        "vendor",
        [
            Script::answer(&large),
            Script::answer(&large),
            Script::Well("small".into()),
        ],
    );
    let setup = Setup::new([&vendor]).toml("server.max_answers_mib = 1\nserver.stall_timeout_ms = 3000");
    let gateway = setup.start();
    let mut greedy = Http2::open(gateway.listen, 0);
    greedy.request(1, PATH, ASK);
    eventually("the answer to be there", || {
        gateway.log().contains("\"outcome\":\"answered\"").then_some(())
    });
    gateway.chat(ASK).assert_error(503, "server_is_overloaded");
    assert_eq!(gateway.target("vendor")["breaker"], "closed", "it is not its fault");
    assert_eq!(gateway.chat(ASK).says(), "small", "small ones fit in");
    vendor.follow(Script::answer(&large));
    eventually("room for another", || (gateway.chat(ASK).status == 200).then_some(()));
}

/// Nor events that come in pieces without end.
#[test]
fn events_that_do_not_fit_together_are_given_up() {
    let event = format!("data: {}", "x".repeat(1500 << 10));
    let begun = Script::begin([ROLE, &text("a"), &event]).hold();
    let vendor = Vendor::start("vendor", [begun, Script::Well("small".into())]);
    let gateway = Setup::new([&vendor]).toml("server.max_answers_mib = 1").start();
    gateway.stream(ASK_STREAM).read_until("\"error\"");
    vendor.wait_for_cancellation();
    assert_eq!(gateway.chat(ASK).says(), "small");
}

/// More than the buffers of both systems take.
const MUCH: usize = 24 << 20;

#[test]
fn a_connection_of_http1_that_is_left_unread_is_closed_and_its_place_free() {
    let frames = vec![text(&"x".repeat(1 << 20)); MUCH >> 20];
    let stream = Script::begin([ROLE]).frames(frames).hold();
    let answer = Script::answer(&whole(&"x".repeat(MUCH)));
    for (ask, script) in [(ASK_STREAM, stream), (ASK, answer)] {
        let vendor = Vendor::start("vendor", [script, Script::Well("again".into())]);
        let setup = Setup::new([&vendor]).toml("server.max_requests = 1\nserver.stall_timeout_ms = 1000");
        let gateway = setup.start();
        let mut greedy = gateway.connect();
        greedy.request(CHAT, &[], ask.as_bytes());
        vendor.wait_for(1);
        eventually("the place to be free", || {
            (gateway.chat(ASK).status == 200).then_some(())
        });
        drop(greedy);
    }
}

/// One that reads slowly is served to the end, however long that takes.
#[test]
fn a_client_that_reads_slowly_gets_all_of_its_answer() {
    let body = whole(&"x".repeat(MUCH));
    let vendor = Vendor::start("vendor", [Script::answer(&body)]);
    let gateway = Setup::new([&vendor]).toml("server.stall_timeout_ms = 2000").start();
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    let head = format!(
        "{CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        ASK.len()
    );
    stream.write_all(&[head.as_bytes(), ASK.as_bytes()].concat()).unwrap();
    let (mut read, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        let now = stream.read(&mut buffer).unwrap();
        if now == 0 {
            break;
        }
        read += now;
        thread::sleep(Duration::from_millis(20));
    }
    assert!(read > body.len(), "{read} of {}", body.len());
}

/// The others on its connection are not its business.
#[test]
fn a_stream_that_is_left_unread_leaves_the_others_alone() {
    let vendor = Vendor::start("vendor", [half(), Script::Well("again".into())]);
    let gateway = few_places(Setup::new([&vendor]), 500);
    let mut client = Http2::open(gateway.listen, 0);
    client.request(1, PATH, ASK_STREAM);
    vendor.wait_for(1);
    assert_eq!(client.until(RST_STREAM).stream, 1);
    client.request(3, PATH, ASK);
    vendor.wait_for(2);
    let window = 100_000u32.to_be_bytes();
    client.frame(super::frames::WINDOW_UPDATE, 0, 3, &window).unwrap();
    let answer = client.until(super::frames::DATA);
    assert_eq!(String::from_utf8_lossy(&answer.payload), whole("again"));
}

#[test]
fn streams_of_one_connection_are_limited() {
    let vendor = Vendor::start("vendor", [half()]);
    let gateway = Setup::new([&vendor]).toml("server.http2_max_streams = 3").start();
    let mut client = Http2::open(gateway.listen, 100_000);
    for stream in [1, 3, 5, 7] {
        client.request(stream, PATH, ASK_STREAM);
    }
    assert_eq!(client.until(RST_STREAM).stream, 7);
    vendor.wait_for(3);
    let mut other: Connection = gateway.connect();
    other.request("GET /v1/models", &[], b"");
    assert_eq!(other.answer().status, 200);
    assert_eq!(vendor.count(), 3);
}

/// The end of a stream comes although the client has to read all of it first.
#[test]
fn answers_over_http2_end_in_order() {
    let vendor = Vendor::start(
        "vendor",
        [
            Script::stream([ROLE, &text("one"), STOP, DONE]),
            Script::answer(&whole(&"x".repeat(40_000))),
        ],
    );
    let gateway = Setup::new([&vendor]).start();
    let mut client = Http2::open(gateway.listen, 65_535);
    for (stream, ask) in [(1, ASK_STREAM), (3, ASK)] {
        client.request(stream, PATH, ask);
        let mut body = Vec::new();
        loop {
            let frame = client.until(super::frames::DATA);
            assert_eq!(frame.stream, stream);
            body.extend(frame.payload);
            if frame.flags & super::frames::END_STREAM != 0 {
                break;
            }
        }
        let ending = if stream == 1 { DONE } else { "\"total_tokens\":5}}" };
        assert!(String::from_utf8_lossy(&body).ends_with(ending));
    }
}
