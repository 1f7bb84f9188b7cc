//! Vendors that misbehave before content: the next target answers, and where there is none, the client gets a clear error.

use std::time::Duration;

use super::running::{ASK, ASK_STREAM};
use super::script::{DONE, ROLE, Script, error_body, text};
use super::setup::Setup;
use super::vendor::Vendor;

/// What a client is told when no target could answer.
const NOBODY: (u16, &str) = (503, "server_is_overloaded");
/// What it is told when none answered in time.
const TOO_LATE: (u16, &str) = (504, "vendor_timeout");

/// A vendor that cannot be reached at all.
#[test]
fn that_refuses_the_connection() {
    is_survived(&Vendor::gone("first"), ASK, "connect", NOBODY);
    is_survived(&Vendor::gone("first"), ASK_STREAM, "connect", NOBODY);
}

#[test]
fn that_does_not_accept_the_connection_in_time() {
    is_survived(&Vendor::full("first"), ASK, "timeout connect_timeout", TOO_LATE);
}

#[test]
fn that_resets_before_the_head() {
    let vendor = does(Script::Steps(vec![]).reset());
    is_survived(&vendor, ASK, "cut-off", NOBODY);
    is_survived(&vendor, ASK_STREAM, "cut-off", NOBODY);
}

#[test]
fn that_resets_after_the_head() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n";
    is_survived(&does(Script::Steps(vec![]).send(head).reset()), ASK, "cut-off", NOBODY);
    is_survived(&does(Script::begin([""; 0]).reset()), ASK_STREAM, "cut-off", NOBODY);
}

#[test]
fn that_closes_in_the_middle_of_a_whole_answer() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\":[";
    is_survived(&does(Script::Steps(vec![]).send(half).close()), ASK, "cut-off", NOBODY);
}

#[test]
fn that_answers_with_html() {
    let vendor = does(Script::other(
        200,
        "text/html",
        &[],
        "<html><body>Please log in</body></html>",
    ));
    is_survived(&vendor, ASK, "bad-response", NOBODY);
    is_survived(&vendor, ASK_STREAM, "bad-response", NOBODY);
}

#[test]
fn that_answers_with_json_that_is_no_answer() {
    is_survived(&does(Script::answer("{}")), ASK, "bad-response", NOBODY);
    is_survived(&does(Script::answer(r#"{"choices":["#)), ASK, "bad-response", NOBODY);
    is_survived(&does(Script::answer("{}")), ASK_STREAM, "bad-response", NOBODY);
}

#[test]
fn that_speaks_no_http() {
    let vendor = does(Script::Steps(vec![]).send("SSH-2.0-OpenSSH_9.2p1\r\n\r\n").close());
    is_survived(&vendor, ASK, "bad-response", NOBODY);
}

#[test]
fn that_redirects() {
    let vendor = does(Script::status(302, &[("location", "https://elsewhere.invalid/")], ""));
    is_survived(&vendor, ASK, "bad-response 302", NOBODY);
}

#[test]
fn that_fails_with_an_error_status() {
    for (status, code, failure) in [
        (500, "server_error", "server-error 500"),
        (502, "bad_gateway", "server-error 502"),
        (503, "server_is_overloaded", "overloaded 503"),
        (529, "overloaded_error", "overloaded 529"),
        (409, "conflict", "server-error 409"),
    ] {
        let vendor = does(Script::status(status, &[], &error_body(code)));
        is_survived(&vendor, ASK, failure, NOBODY);
    }
    for status in [408, 504] {
        is_survived(
            &does(Script::status(status, &[], &error_body("slow"))),
            ASK_STREAM,
            "timeout",
            TOO_LATE,
        );
    }
}

#[test]
fn that_says_its_error_with_status_200() {
    let vendor = does(Script::answer(&error_body("server_is_overloaded")));
    is_survived(&vendor, ASK, "overloaded", NOBODY);
    is_survived(&vendor, ASK_STREAM, "overloaded", NOBODY);
}

#[test]
fn that_sends_an_error_event_as_the_first_frame() {
    let event = format!("data: {}\n\n", error_body("server_is_overloaded"));
    is_survived(
        &does(Script::stream([event.as_str()])),
        ASK_STREAM,
        "overloaded",
        NOBODY,
    );
    is_survived(&does(Script::stream([ROLE, &event])), ASK_STREAM, "overloaded", NOBODY);
}

#[test]
fn that_never_answers() {
    is_survived(&does(Script::silence()), ASK, "timeout", TOO_LATE);
    is_survived(&does(Script::silence()), ASK_STREAM, "timeout", TOO_LATE);
}

/// Neither a role nor pings are content: nothing has been committed to.
#[test]
fn that_never_sends_its_first_token() {
    is_survived(&does(Script::begin([""; 0]).hold()), ASK_STREAM, "timeout", TOO_LATE);
    is_survived(
        &does(Script::begin([ROLE, ": ping\n\n", ": ping\n\n"]).hold()),
        ASK_STREAM,
        "timeout",
        TOO_LATE,
    );
}

#[test]
fn that_dies_after_the_role() {
    is_survived(&does(Script::begin([ROLE]).reset()), ASK_STREAM, "cut-off", NOBODY);
    is_survived(&does(Script::begin([ROLE]).close()), ASK_STREAM, "cut-off", NOBODY);
    is_survived(&does(Script::stream([ROLE])), ASK_STREAM, "cut-off", NOBODY);
}

#[test]
fn that_ends_a_stream_without_content() {
    is_survived(&does(Script::stream([DONE])), ASK_STREAM, "cut-off", NOBODY);
}

#[test]
fn that_sends_a_frame_that_is_no_json() {
    is_survived(
        &does(Script::stream(["data: {\"choices\":[\n\n"])),
        ASK_STREAM,
        "bad-response",
        NOBODY,
    );
}

#[test]
fn that_breaks_the_framing_of_its_stream() {
    is_survived(
        &does(Script::begin([ROLE]).send("not a chunk\r\n").hold()),
        ASK_STREAM,
        "cut-off",
        NOBODY,
    );
}

#[test]
fn that_sends_more_than_is_held() {
    let role = ROLE.repeat(10);
    is_survived(&does(Script::begin([&role]).hold()), ASK_STREAM, "bad-response", NOBODY);
    let huge = format!(r#"{{"choices":[],"x":"{}"}}"#, "x".repeat(2 << 20));
    is_survived(&does(Script::answer(&huge)), ASK, "bad-response", NOBODY);
}

/// The first content of a whole answer comes with its last.
#[test]
fn that_is_slow_with_a_whole_answer_may_have_more_time_than_for_a_first_token() {
    let slow = Script::Well("slow".to_owned()).steps(false);
    let vendor = Vendor::start("first", [Script::Steps(slow).after(Duration::from_millis(700))]);
    let limits = "timeouts.first_content_ms = 200\ntimeouts.whole_content_ms = 20000";
    let gateway = Setup::new([&vendor]).toml(limits).start();
    assert_eq!(gateway.chat(ASK).says(), "slow");
    gateway.chat(ASK_STREAM).assert_error(504, "vendor_timeout");
}

/// The client's time is limited, however many targets there are.
#[test]
fn all_of_them_together_get_no_more_than_the_requests_time() {
    let vendors = ["a", "b", "c"].map(|name| Vendor::start(name, [Script::silence()]));
    let gateway = Setup::new(&vendors).toml("timeouts.request_ms = 300").start();
    gateway.chat(ASK).assert_error(504, "vendor_timeout");
    assert_eq!(vendors.each_ref().map(Vendor::count), [1, 0, 0]);
}

#[test]
fn there_are_no_more_attempts_than_the_limit_says() {
    let vendors = ["a", "b", "c", "d"].map(|name| Vendor::start(name, [Script::status(500, &[], "")]));
    let gateway = Setup::new(&vendors).start();
    let answer = gateway.chat(ASK);
    answer.assert_error(503, "server_is_overloaded");
    assert_eq!(answer.header("x-pointsman-attempts"), "3");
    assert_eq!(vendors.each_ref().map(Vendor::count), [1, 1, 1, 0]);
}

/// A kept connection that the vendor closed meanwhile is nobody's failure.
#[test]
fn that_closes_idle_connections_does_not_fail() {
    let well = Script::Well("fine".to_owned());
    let closing = Script::Steps(well.clone().steps(false)).close();
    let vendor = Vendor::start("first", [closing, well]);
    let gateway = Setup::new([&vendor]).start();
    for _ in 0..2 {
        let answer = gateway.chat(ASK);
        assert_eq!((answer.status, answer.header("x-pointsman-attempts")), (200, "1"));
    }
}

/// A vendor called `first` that always does this.
fn does(script: Script) -> Vendor {
    Vendor::start("first", [script])
}

/// Whoever asks gets the answer of the next target, or, where there is none, this error; and the log says what happened.
#[track_caller]
fn is_survived(first: &Vendor, ask: &str, failure: &str, alone: (u16, &str)) {
    let second = Vendor::well("second");
    let limits = "timeouts.connect_ms = 300\ntimeouts.first_content_ms = 400\nattempts.max_answer_mib = 1\nattempts.max_held_kib = 1";
    let gateway = Setup::new([first, &second]).toml(limits).start();
    let stream = gateway.stream(ask);
    assert_eq!((stream.status, stream.header("x-pointsman-target")), (200, "second"));
    assert_eq!(stream.header("x-pointsman-attempts"), "2");
    let id = stream.header("x-request-id").to_owned();
    if ask == ASK_STREAM {
        let mut stream = stream;
        let frames = stream.rest();
        assert!(
            frames.contains(&text("from second")) && frames.ends_with(DONE),
            "{frames}"
        );
    } else {
        assert_eq!(stream.answer().says(), "from second");
    }
    let line = gateway.request_line(&id);
    let attempts = line["attempts"].as_str().unwrap();
    assert!(attempts.starts_with(&format!("first: {failure} ")), "{attempts}");
    assert_eq!(line["outcome"], "answered");

    let gateway = Setup::new([first]).toml(limits).start();
    let answer = gateway.stream(ask).answer();
    answer.assert_error(alone.0, alone.1);
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(
        answer
            .header("retry-after")
            .parse::<u64>()
            .is_ok_and(|seconds| seconds >= 1)
    );
    let line = gateway.request_line(answer.header("x-request-id"));
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"refused".into(), &alone.0.into())
    );
}
