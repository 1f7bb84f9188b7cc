//! Vendors that fail once content is with the client: it is too late for another target, and never is half an answer passed
//! off as a whole one.

use super::running::ASK_STREAM;
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::Vendor;

#[test]
fn a_stream_that_is_reset_ends_with_an_error() {
    ends_with_an_error(Script::reset);
}

#[test]
fn a_stream_that_is_closed_ends_with_an_error() {
    ends_with_an_error(Script::close);
}

#[test]
fn a_stream_that_ends_orderly_before_the_answer_does_ends_with_an_error() {
    ends_with_an_error(Script::end);
}

#[test]
fn a_stream_that_stops_inside_a_frame_ends_with_an_error() {
    ends_with_an_error(|script| script.frames(["data: {\"choices\":[{\"del"]).end());
}

#[test]
fn a_stream_that_turns_into_garbage_ends_with_an_error() {
    ends_with_an_error(|script| script.frames(["data: <html>\n\n", STOP, DONE]).end());
}

#[test]
fn a_stream_that_breaks_its_framing_ends_with_an_error() {
    ends_with_an_error(|script| script.send("no chunk\r\n").hold());
}

#[test]
fn a_stream_that_falls_silent_ends_with_an_error() {
    ends_with_an_error(Script::hold);
}

/// Without chunks, the end of a stream is the end of its connection.
#[test]
fn a_stream_whose_content_and_end_come_at_once_ends_with_an_error() {
    let script = Script::Steps(vec![]).send(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n",
    );
    let vendor = Vendor::start("first", [script.close()]);
    let frames = Setup::new([&vendor]).start().stream(ASK_STREAM).rest();
    assert!(
        frames.contains("half") && frames.contains("answer_cut_off") && !frames.contains("[DONE]"),
        "{frames}"
    );
}

/// Nothing has gone out yet, so it is not too late.
#[test]
fn an_error_that_arrives_together_with_the_first_content_is_survived() {
    let event = format!("data: {}\n\n", error_body("server_error"));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let first = Script::Steps(vec![])
        .send(&[head, ROLE, &text("half"), &event].concat())
        .close();
    let (first, second) = (Vendor::start("first", [first]), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    assert_eq!(stream.header("x-pointsman-target"), "second");
    assert_eq!(stream.rest(), [ROLE, &text("from second"), STOP, DONE].concat());
}

/// The vendor's own words are as good as ours: SDKs raise at either.
#[test]
fn the_vendors_error_inside_a_stream_passes_through() {
    let event = format!("data: {}\n\n", error_body("server_error"));
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("half")]).until(&gate).frames([&event]).end();
    let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
    let gateway = Setup::new([&first, &second]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    gate.open();
    assert_eq!(stream.rest(), event);
    assert_eq!(second.count(), 0);
    let line = gateway.request_line(stream.header("x-request-id"));
    assert_eq!(line["outcome"], "cut-off");
    assert!(
        line["attempts"].as_str().unwrap().starts_with("first: server-error"),
        "{line}"
    );
}

/// An end marker behind an error would tell some clients that the answer is whole.
#[test]
fn nothing_follows_the_vendors_error() {
    let event = format!("data: {}\n\n", error_body("server_error"));
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("half")])
        .until(&gate)
        .frames([event.clone() + STOP + DONE])
        .end();
    let vendor = Vendor::start("first", [script]);
    let gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    gate.open();
    assert_eq!(stream.rest(), event);
}

/// What was fine before the garbage is not lost, in the middle of an answer and behind its finish.
#[test]
fn the_frames_before_garbage_go_out_even_when_all_arrive_at_once() {
    for (more, whole) in [(text("more"), false), (text("more") + STOP, true)] {
        let gate = Gate::default();
        let script = Script::begin([ROLE, &text("half")])
            .until(&gate)
            .frames([more.clone() + "data: garbage\n\n" + DONE]);
        let vendor = Vendor::start("first", [script.end()]);
        let gateway = Setup::new([&vendor]).start();
        let mut stream = gateway.stream(ASK_STREAM);
        stream.read_until("half");
        gate.open();
        let rest = stream.rest();
        assert!(rest.starts_with(&more), "{rest}");
        assert_eq!(rest[more.len()..].contains("answer_cut_off"), !whole, "{rest}");
        assert!(!rest.contains("garbage") && rest.contains("[DONE]") == whole, "{rest}");
    }
}

#[test]
fn a_stream_that_takes_too_long_as_a_whole_ends_with_an_error() {
    let drip = (0..50).fold(Script::begin([ROLE, &text("half")]), |script, _| {
        script.frames([": ping\n\n"]).pause(50)
    });
    let first = Vendor::start("first", [drip.hold()]);
    let gateway = Setup::new([&first]).target("first", "timeouts.whole_ms = 500").start();
    let rest = gateway.stream(ASK_STREAM).rest();
    assert!(rest.contains("answer_cut_off") && !rest.contains("[DONE]"), "{rest}");
}

/// A break after the model has finished takes nothing from anybody.
#[test]
fn a_stream_that_breaks_after_its_finish_is_whole() {
    let vendor = Vendor::start("first", [Script::begin([ROLE, &text("all"), STOP]).reset()]);
    let gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    let frames = stream.rest();
    assert!(frames.contains("all") && !frames.contains("answer_cut_off"), "{frames}");
    assert_eq!(
        gateway.request_line(stream.header("x-request-id"))["outcome"],
        "answered"
    );
}

/// When half of the answer is with the client and then this happens, it gets an error event and no end marker.
#[track_caller]
fn ends_with_an_error(goes_on: impl FnOnce(Script) -> Script) {
    let gate = Gate::default();
    let script = goes_on(Script::begin([ROLE, &text("half")]).until(&gate));
    let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
    let gateway = Setup::new([&first, &second])
        .toml("timeouts.between_frames_ms = 300")
        .start();
    let mut stream = gateway.stream(ASK_STREAM);
    assert_eq!((stream.status, stream.header("x-pointsman-target")), (200, "first"));
    stream.read_until("half");
    gate.open();
    let rest = stream.rest();
    let event = rest.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
    let event: serde_json::Value = serde_json::from_str(event.unwrap_or(&rest)).expect(&rest);
    assert_eq!(event["error"]["code"], "answer_cut_off", "{rest}");
    assert!(
        event["error"]["message"].is_string() && event["error"]["type"].is_string(),
        "{rest}"
    );
    assert_eq!(second.count(), 0, "the answer of another vendor must not be mixed in");

    let line = gateway.request_line(stream.header("x-request-id"));
    assert_eq!(line["outcome"], "cut-off");
    assert!(gateway.target("first")["error_rate"].as_f64().unwrap() > 0.0);
}
