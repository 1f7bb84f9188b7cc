//! Clients that end their side of the connection once they have asked: those that wait get their answer, those that are gone cancel it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::net::TcpStream;
use std::time::Duration;

use super::running::{ASK, ASK_STREAM, CHAT, Gateway};
use super::script::{DONE, Gate, ROLE, STOP, Script, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

fn asks(gateway: &Gateway, version: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    let request = format!("{CHAT} {version}\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Everything that comes, without interim responses and what is left out of a chunk's size.
fn rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    rest.replace("HTTP/1.1 100 Continue\r\n\r\n", "")
}

#[test]
fn a_client_that_sends_nothing_more_gets_its_answer() {
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let gate = Gate::default();
        let answer = Script::answer(&whole("at last"));
        let vendor = Vendor::start("vendor", [Script::Steps(vec![]).until(&gate).pause(1000).then(answer)]);
        let gateway = Setup::new([&vendor]).start();
        let client = asks(&gateway, version, ASK);
        client.shutdown(Shutdown::Write).unwrap();
        vendor.wait_for(1);
        gate.open();
        let answer = rest(client);
        assert!(answer.starts_with(&format!("{version} 200")), "{answer}");
        assert!(answer.ends_with(&whole("at last")), "{answer}");
        assert!(!vendor.only().cancelled);
    }
}

#[test]
fn a_client_that_sends_nothing_more_gets_its_whole_stream() {
    let script = Script::begin([ROLE, &text("half")])
        .pause(700)
        .frames([text("other half"), STOP.into()]);
    let vendor = Vendor::start("vendor", [script.pause(700).frames([DONE]).end()]);
    let gateway = Setup::new([&vendor]).start();
    let client = asks(&gateway, "HTTP/1.1", ASK_STREAM);
    client.shutdown(Shutdown::Write).unwrap();
    // Read as any client would.
    let mut stream = super::client::Connection::over(client).stream();
    while stream.status == 100 {
        stream = stream.next_head();
    }
    assert_eq!(
        stream.rest(),
        [ROLE, &text("half"), &text("other half"), STOP, DONE].concat()
    );
}

#[test]
fn pipelined_requests_before_the_end_are_all_answered() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let mut client = asks(&gateway, "HTTP/1.1", ASK);
    let models = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(models.repeat(2).as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(client).matches("HTTP/1.1 200").count(), 3);
}

/// Its system refuses what is sent to it.
#[test]
fn a_client_that_is_gone_cancels_its_request() {
    let begun = Script::begin([ROLE, &text("half")]).hold();
    for (script, body) in [
        (Script::silence(), ASK),
        (Script::silence(), ASK_STREAM),
        (begun, ASK_STREAM),
    ] {
        let vendor = Vendor::start("vendor", [script]);
        let gateway = Setup::new([&vendor]).start();
        let client = asks(&gateway, "HTTP/1.1", body);
        vendor.wait_for(1);
        drop(client);
        vendor.wait_for_cancellation();
    }
}
