//! Clients that send without end, in every way that costs them little: others are served meanwhile, and nothing grows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::frames::{
    self, CONTINUATION, DATA, GOAWAY, HEADERS, Http2, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::running::{ASK, CHAT, Gateway};
use super::setup::Setup;
use super::vendor::Vendor;

const PATH: &str = "/v1/chat/completions";
/// Frames of a flood, of which each is tiny.
const MANY: u32 = 20_000;

/// Memory of the gateway in use, in MiB.
fn memory_mib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// Memory that a flood may take: far less than what it would take if anything were kept of each of its frames or bytes.
const SPARE_MIB: u64 = 64;

/// Sends a flood and asks beside it. The gateway may close the connection at any time.
fn survives(gateway: &Gateway, what: &str, flood: impl FnOnce(&mut Http2) -> std::io::Result<()>) {
    let before = memory_mib(gateway);
    let mut client = Http2::open(gateway.listen, 65_535);
    let _ = flood(&mut client);
    assert_eq!(gateway.chat(ASK).status, 200, "{what}");
    let now = memory_mib(gateway);
    assert!(now <= before + SPARE_MIB, "{what}: from {before} to {now} MiB");
}

#[test]
fn floods_of_http2_frames_harm_nobody() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for (kind, stream, payload) in [
        (PING, 0, &[0; 8][..]),
        (SETTINGS, 0, &[]),
        (PRIORITY, 1, &[0, 0, 0, 3, 1]),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        (DATA, 1, &[]),
    ] {
        survives(&gateway, &format!("frames of type {kind}"), |client| {
            client.request(1, PATH, ASK);
            client.send(&frames::frame(kind, 0, stream, payload).repeat(MANY as usize))
        });
    }
}

/// Each stream is over before its answer is there.
#[test]
fn streams_that_are_reset_at_once_are_not_served_without_end() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let resets: Vec<u8> = (1..2 * MANY)
        .step_by(2)
        .flat_map(|stream| {
            let head = frames::frame(HEADERS, frames::END_HEADERS, stream, &frames::head(PATH));
            [head, frames::frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
        })
        .collect();
    let mut is_sent_away = false;
    survives(&gateway, "resets", |client| {
        is_sent_away = client.send(&resets).is_err();
        while let Some(frame) = client.next() {
            is_sent_away |= frame.kind == GOAWAY;
        }
        Ok(())
    });
    assert!(is_sent_away, "the connection goes on");
}

#[test]
fn a_head_without_end_is_given_up_over_http2() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    survives(&gateway, "continuations", |client| {
        client.frame(HEADERS, 0, 1, &frames::head(PATH))?;
        let header = [&[0, 1, b'x', 127, 0x81, 0x01][..], &[b'y'; 256]].concat();
        let frame = frames::frame(CONTINUATION, 0, 1, &header.repeat(50));
        (0..1000).try_for_each(|_| client.send(&frame))
    });
    survives(&gateway, "empty continuations", |client| {
        client.frame(HEADERS, 0, 1, &frames::head(PATH))?;
        client.send(&frames::frame(CONTINUATION, 0, 1, &[]).repeat(MANY as usize))
    });
    // A name in the table once, and then named thousands of times in a few bytes.
    survives(&gateway, "references into the table", |client| {
        let entry = [&[0x40, 1, b'x', 127, 0x81, 0x1d][..], &[b'y'; 4096 - 256]].concat();
        let block = [frames::head(PATH), entry, vec![0xbe; 16_000 - 4096]].concat();
        (1..200)
            .step_by(2)
            .try_for_each(|stream| client.frame(HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, &block))
    });
}

/// Hundreds of clients that send one byte now and then.
#[test]
fn slow_clients_keep_nobody_waiting() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).toml("server.head_timeout_ms = 3000").start();
    let before = memory_mib(&gateway);
    let mut slow: Vec<_> = (0..400).map(|_| TcpStream::connect(gateway.listen).unwrap()).collect();
    let begun = format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\nx-slow: ");
    slow.iter_mut()
        .for_each(|client| client.write_all(begun.as_bytes()).unwrap());
    for _ in 0..10 {
        slow.iter_mut().for_each(|client| {
            let _ = client.write_all(b"y");
        });
        assert_eq!(gateway.chat(ASK).says(), "from vendor");
    }
    assert!(memory_mib(&gateway) <= before + SPARE_MIB);
    for client in &mut slow {
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let closed = client.read(&mut [0; 1024]).map_or_else(
            |error| error.kind() == std::io::ErrorKind::ConnectionReset,
            |read| read == 0,
        );
        assert!(closed, "a head that does not come is given up");
    }
}

/// Extensions of chunks mean nothing, and nobody needs many.
#[test]
fn a_body_of_extensions_is_given_up() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let before = memory_mib(&gateway);
    let mut client = gateway.connect();
    let head = format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1;x=");
    client.send(head.as_bytes()).unwrap();
    let much = vec![b'y'; 1 << 20];
    let sent = (0..64).try_for_each(|_| client.send(&much));
    assert!(sent.is_err(), "the gateway reads it without end");
    assert_eq!(gateway.chat(ASK).status, 200);
    assert!(memory_mib(&gateway) <= before + SPARE_MIB);
}

/// Lists within lists, deeper than any stack.
#[test]
fn nesting_in_requests_and_answers_is_survived() {
    const DEEP: usize = 1_000_000;
    let nested = format!("{}{}", "[".repeat(DEEP), "]".repeat(DEEP));
    let answer = super::script::whole("deep").replace("\"object\"", &format!("\"deep\":{nested},\"object\""));
    let vendor = Vendor::start("vendor", [super::script::Script::answer(&answer)]);
    let gateway = Setup::new([&vendor]).start();
    for body in [
        nested.clone(),
        ASK.replace("\"messages\"", &format!("\"deep\":{nested},\"messages\"")),
        ASK.replace("\"hello\"", &nested),
        "{\"a\":".repeat(DEEP),
    ] {
        for line in [
            CHAT,
            "POST /v1/messages",
            "POST /v1/responses",
            "POST /model/smart/converse",
        ] {
            let status = gateway.ask(line, &[], &body).status;
            assert!(matches!(status, 200 | 400 | 502 | 503), "{status}");
        }
    }
    vendor.follow(super::script::Script::Well("well".into()));
    assert_eq!(gateway.ask("GET /v1/models", &[], "").status, 200);
}
