//! Bedrock's binary streams, cut at every single byte: as a vendor's towards clients of other formats, and as a client's.

use bytes::Bytes;
use serde_json::{Value, json};
use switchyard::wire::eventstream::{self, Splitter};

use super::heard::Format;
use super::recorded::CALL;
use super::running::Gateway;
use super::script::Script;
use super::setup::Setup;
use super::vendor::{Received, Vendor};

const SAYS: &str = "Hello, wörld";

/// A stream as Bedrock sends it: no start of a text, padding in each payload, usage behind the stop.
fn recorded() -> Vec<Vec<u8>> {
    let frame = |kind: &'static str, mut json: Value| {
        json["p"] = "abcdefgh".into();
        let mut out = Vec::new();
        eventstream::message(kind, json.to_string().into_bytes(), &mut out);
        out
    };
    let (first, second) = SAYS.split_at(SAYS.len() / 2);
    let delta = |index: u32, delta: Value| {
        frame(
            "contentBlockDelta",
            json!({ "contentBlockIndex": index, "delta": delta }),
        )
    };
    let tool = json!({ "toolUse": { "toolUseId": "t1", "name": "look" } });
    vec![
        frame("messageStart", json!({ "role": "assistant" })),
        delta(0, json!({ "text": first })),
        delta(0, json!({ "text": second })),
        frame("contentBlockStop", json!({ "contentBlockIndex": 0 })),
        frame("contentBlockStart", json!({ "contentBlockIndex": 1, "start": tool })),
        delta(1, json!({ "toolUse": { "input": "{\"at\":" } })),
        delta(1, json!({ "toolUse": { "input": "\"sea\"}" } })),
        frame("contentBlockStop", json!({ "contentBlockIndex": 1 })),
        frame("messageStop", json!({ "stopReason": "tool_use" })),
        frame(
            "metadata",
            json!({ "usage": { "inputTokens": 3, "outputTokens": 2, "totalTokens": 5 } }),
        ),
    ]
}

/// What follows `cut ` in a request: how many bytes are to come.
fn at(request: &Received) -> usize {
    let body = String::from_utf8_lossy(&request.body);
    let order = &body[body.find("cut ").expect("an order") + 4..];
    order.split(' ').next().unwrap().parse().unwrap()
}

fn cut(kind: &str, bytes: &[u8]) -> Script {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n");
    Script::Steps(vec![]).send(&head).bytes(bytes.to_vec()).close()
}

fn gateway(vendor: &Vendor, kind: &'static str) -> Gateway {
    let key = "api_key = { env = \"VENDOR_KEY\" }";
    let setup = Setup::new([vendor])
        .vendor(vendor.name, kind)
        .target(vendor.name, key)
        .env("VENDOR_KEY", "k");
    setup.toml("breaker.enabled = false\nlog.requests = false").start()
}

#[test]
fn a_converse_stream_that_is_cut_at_any_byte_is_whole_or_told_to_be_cut() {
    let all = recorded().concat();
    let stop = recorded()[..8].concat().len();
    let script = Script::of(move |request| {
        cut(
            "application/vnd.amazon.eventstream",
            &recorded().concat()[..at(request)],
        )
    });
    let vendor = Vendor::start("bedrock", [script]);
    let gateway = gateway(&vendor, "bedrock");
    let says = format!("{SAYS}{CALL}");
    for client in Format::CLIENTS {
        let mut connection = gateway.connect();
        for at in 0..=all.len() {
            let body = client.body("smart", true, &format!("cut {at} ."));
            connection.request(&client.line("smart", true), &[], body.as_bytes());
            let answer = connection.answer();
            if answer.status != 200 {
                client.assert_error(answer.text());
                assert!(
                    at < all.len(),
                    "{client:?}: all of it came, and the client got {}",
                    answer.text()
                );
                continue;
            }
            let heard = client.hear(answer.text());
            assert!(says.starts_with(&heard.says), "{client:?} at {at}: {heard:?}");
            let is_all = heard.is_all(&says) && heard.ends == client.end_markers();
            let is_told = heard.is_cut_off() || at > stop && is_all;
            assert!(is_told && (at < all.len() || is_all), "{client:?} at {at}: {heard:?}");
        }
    }
}

/// What a client of Converse makes of a stream: its text and calls, how often it stops, and how often it fails.
fn hear(body: &[u8]) -> (String, usize, usize) {
    let (mut says, mut stops, mut failures) = (String::new(), 0, 0);
    let mut splitter = Splitter::default();
    let whole = splitter.push(Bytes::copy_from_slice(body));
    assert_eq!(splitter.pending(), 0, "half a message");
    let mut unread: &[u8] = &whole;
    while let Some((event, rest)) = eventstream::split_first(unread).expect("whole messages") {
        unread = rest;
        assert_eq!(failures, 0, "something follows a failure");
        let json: Value = serde_json::from_slice(event.data.as_deref().unwrap()).unwrap();
        match event.name {
            b"contentBlockDelta" => {
                let text = json["delta"]["text"]
                    .as_str()
                    .or(json["delta"]["toolUse"]["input"].as_str());
                says += text.unwrap_or_default();
            }
            b"contentBlockStart" => says += &format!("{}:", json["start"]["toolUse"]["name"].as_str().unwrap()),
            b"messageStop" => stops += 1,
            name if name.starts_with(b"exception:") => failures += 1,
            _ => {}
        }
    }
    (says, stops, failures)
}

#[test]
fn a_client_of_converse_has_all_of_a_stream_or_an_exception() {
    for (vendor, kind) in [
        (Format::Chat, "openai-compatible"),
        (Format::Messages, "anthropic"),
        (Format::Gemini, "gemini"),
    ] {
        let frames = vendor.frames_with_call(SAYS).concat();
        let all = frames.len();
        let script = Script::of(move |request| cut("text/event-stream", &frames.as_bytes()[..at(request)]));
        let scripted = Vendor::start("vendor", [script]);
        let gateway = gateway(&scripted, kind);
        let mut connection = gateway.connect();
        for at in 0..=all {
            let body = json!({ "messages": [{ "role": "user", "content": [{ "text": format!("cut {at} .") }] }] });
            connection.request("POST /model/smart/converse-stream", &[], body.to_string().as_bytes());
            let answer = connection.answer();
            if answer.status != 200 {
                assert!(
                    answer.json()["message"].is_string() && at < all,
                    "{kind} at {at}: {}",
                    answer.text()
                );
                assert!(!answer.header("x-amzn-errortype").is_empty());
                continue;
            }
            let (says, stops, failures) = hear(&answer.body);
            let whole = format!("{SAYS}{CALL}");
            assert!(whole.starts_with(&says), "{kind} at {at}: {says}");
            let is_all = says == whole && stops == 1 && failures == 0;
            let is_cut = stops == 0 && failures == 1;
            assert!(
                is_all || is_cut && at < all,
                "{kind} at {at}: {says} {stops} {failures}"
            );
        }
    }
}
