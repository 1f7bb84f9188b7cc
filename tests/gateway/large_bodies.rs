//! Large bodies of tiny values: whoever sends one is answered in little memory, and so is everybody else meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Resource, Rlimit, prlimit};

use super::client::Answer;
use super::heard::Format;
use super::running::{ASK, CHAT, Gateway};
use super::script::Script;
use super::setup::Setup;
use super::vendor::Vendor;

const MIB: usize = 1 << 20;

/// A request of about so many bytes whose parts are all the same.
fn parts(part: &str, bytes: usize) -> String {
    let parts = vec![part; bytes / (part.len() + 1)].join(",");
    format!(r#"{{"model":"smart","messages":[{{"role":"user","content":[{parts}]}}]}}"#)
}

/// A vendor that answers in the format of [`translating`].
fn vendor() -> Vendor {
    let answer = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"well"}],
        "stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":2}}"#;
    Vendor::start("vendor", [Script::of(move |_| Script::answer(answer))])
}

fn send(gateway: &Gateway, body: &str) -> Answer {
    gateway.ask(CHAT, &[], body)
}

/// A gateway whose one target speaks another format than its clients.
fn translating(vendor: &Vendor) -> Setup {
    Setup::new([vendor]).speaks(vendor.name, Format::Messages)
}

#[test]
fn the_first_part_that_is_none_is_named() {
    let vendor = vendor();
    let gateway = translating(&vendor).start();
    for (body, wrong) in [
        (
            r#"[{"role":"user","content":[{"type":"text","text":"a"},1,2]}]"#,
            "`messages[0].content[1]`",
        ),
        (r#"["hello",1]"#, "`messages[0]`"),
        (
            r#"[{"role":"assistant","tool_calls":[7]}]"#,
            "`messages[0].tool_calls[0]`",
        ),
    ] {
        let answer = send(&gateway, &format!(r#"{{"model":"smart","messages":{body}}}"#));
        assert_eq!(answer.status, 400, "{}", answer.text());
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(wrong), "{error}");
        assert_eq!(error["param"], "messages");
    }
    assert_eq!(vendor.count(), 0);
}

#[test]
fn a_request_of_too_many_items_is_refused_and_the_setting_raises_the_limit() {
    let vendor = Vendor::well("vendor");
    let many = parts(r#"{"type":"text","text":"a"}"#, 200 << 10);
    let gateway = Setup::new([&vendor]).start();
    let answer = send(&gateway, &many);
    answer.assert_error(400, "invalid_request");
    assert!(answer.text().contains("more than 4096"), "{}", answer.text());
    let gateway = Setup::new([&vendor]).toml("server.max_items = 10000").start();
    assert_eq!(send(&gateway, &many).says(), "from vendor");
}

/// One worker: a request that held it would hold the other client, too.
#[test]
fn others_are_answered_while_bodies_of_tiny_values_are_refused() {
    let vendor = vendor();
    let gateway = translating(&vendor).workers(1).start();
    let warm = gateway.peak_memory();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut answered = 0;
            while !is_over.load(Ordering::Relaxed) || answered == 0 {
                assert_eq!(gateway.ask(CHAT, &[], ASK).status, 200);
                answered += 1;
            }
            answered
        });
        for _ in 0..8 {
            assert_eq!(send(&gateway, &parts("1", MIB)).status, 400);
            assert_eq!(send(&gateway, &parts("{}", MIB)).status, 400);
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(honest.join().unwrap() > 0);
    });
    let taken = gateway.peak_memory() - warm;
    assert!(
        taken < 24 * MIB,
        "{taken} bytes for bodies of 1 MiB, one after the other"
    );
}

/// What the gateway may have of memory in a small container. A limit on writable memory stands for it: it needs no rights.
#[test]
fn bodies_of_tiny_values_do_not_kill_a_gateway_of_1_gib() {
    let vendor = vendor();
    let mut gateway = translating(&vendor).workers(1).start();
    let limit = Rlimit {
        current: Some(1 << 30),
        maximum: Some(1 << 30),
    };
    if let Err(error) = prlimit(Some(gateway.pid()), Resource::Data, limit) {
        eprintln!("skipped: the memory of a process cannot be limited here: {error}");
        return;
    }
    let text = r#"{"type":"text","text":"a"}"#;
    thread::scope(|scope| {
        for part in ["1", "{}", text, "\"\""] {
            let gateway = &gateway;
            scope.spawn(move || assert_eq!(send(gateway, &parts(part, 31 * MIB)).status, 400, "{part}"));
        }
    });
    let numbers = vec!["1"; 15 * MIB].join(",");
    let call =
        format!(r#"{{"id":"c","type":"function","function":{{"name":"f","arguments":"{{\"a\":[{numbers}]}}"}}}}"#);
    let body = format!(r#"{{"model":"smart","messages":[{{"role":"assistant","tool_calls":[{call}]}}]}}"#);
    assert_eq!(send(&gateway, &body).status, 200, "what is well-formed is translated");
    assert_eq!(send(&gateway, ASK).status, 200);
    assert!(gateway.is_running());
    assert!(gateway.peak_memory() < 700 * MIB, "{}", gateway.peak_memory());
}
