//! Every way in which an answer fails, in every format of a vendor: told apart, told to whoever asks, and never passed off as an answer.
//! Before content the next target answers unseen; behind it the client of any format has what came and an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use pointsman::wire::eventstream;
use serde_json::json;

use super::client::Stream;
use super::heard::Format;
use super::recorded::converse_event;
use super::running::{Gateway, eventually};
use super::script::{Gate, Script, error_body};
use super::setup::Setup;
use super::vendor::Vendor;

/// What the vendor says; all of it, or the first half.
const SAYS: &str = "halfrest";
const HALF: &str = "half";

/// What a vendor does, and what is known of it then.
struct Fault {
    what: &'static str,
    script: Script,
    /// The kind of the failure, and its code.
    kind: &'static str,
    code: &'static str,
    /// The vendor would go on for ever: it must be told that nobody listens any more.
    goes_on: bool,
}

fn ends(what: &'static str, script: Script, known_as: &'static str) -> Fault {
    let (kind, code) = known_as.split_once(' ').expect("a kind and a code");
    Fault {
        what,
        script,
        kind,
        code,
        goes_on: false,
    }
}

fn goes_on(what: &'static str, script: Script, known_as: &'static str) -> Fault {
    Fault {
        goes_on: true,
        ..ends(what, script.hold(), known_as)
    }
}

impl Format {
    /// What keeps a stream alive and says nothing: a ping or what comes nearest to it, and an empty delta.
    fn pings(self) -> [(&'static str, Vec<u8>); 2] {
        let event = |kind: &str, data: &str| format!("event: {kind}\ndata: {data}\n\n").into_bytes();
        let emptied = || {
            String::from_utf8(self.first_half(SAYS).1)
                .unwrap()
                .replace(HALF, "")
                .into_bytes()
        };
        let (ping, empty) = match self {
            Format::Converse => {
                let delta = json!({ "contentBlockIndex": 0, "delta": { "text": "" } });
                let start = json!({ "role": "assistant" });
                (
                    converse_event("messageStart", start),
                    converse_event("contentBlockDelta", delta),
                )
            }
            Format::Messages => (event("ping", r#"{"type":"ping"}"#), emptied()),
            Format::Responses => {
                let progress = r#"{"type":"response.in_progress","response":{"id":"resp_1","status":"in_progress"}}"#;
                (event("response.in_progress", progress), emptied())
            }
            Format::Chat | Format::Gemini | Format::GeminiArray => (b": ping\n\n".to_vec(), emptied()),
        };
        [("a drip of pings", ping), ("a drip of empty deltas", empty)]
    }

    /// The events by which the vendor says that it fails, and what is known of each.
    fn errors(self) -> [(Vec<u8>, &'static str); 2] {
        let event = |kind: &str, data: &str| format!("event: {kind}\ndata: {data}\n\n").into_bytes();
        let data = |data: &str| format!("data: {data}\n\n").into_bytes();
        let exception = |kind: &'static str| {
            let mut event = Vec::new();
            eventstream::exception(kind, br#"{"message":"broken"}"#.to_vec(), &mut event);
            event
        };
        match self {
            Format::Chat => [
                (
                    data(&error_body("server_is_overloaded")),
                    "overloaded server_is_overloaded",
                ),
                (
                    data(r#"{"error":{"message":"broken","type":"server_error","param":null,"code":null}}"#),
                    "server-error server_error",
                ),
            ],
            Format::Messages => [
                (
                    event(
                        "error",
                        r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#,
                    ),
                    "overloaded overloaded_error",
                ),
                (
                    event(
                        "error",
                        r#"{"type":"error","error":{"type":"api_error","message":"broken"}}"#,
                    ),
                    "server-error api_error",
                ),
            ],
            Format::Responses => [
                (
                    event(
                        "error",
                        r#"{"type":"error","code":"server_is_overloaded","message":"busy","param":null,"sequence_number":9}"#,
                    ),
                    "overloaded server_is_overloaded",
                ),
                (
                    event(
                        "response.failed",
                        r#"{"type":"response.failed","sequence_number":9,"response":{"id":"resp_1","object":"response",
                        "status":"failed","error":{"code":"server_error","message":"broken"},"output":[]}}"#
                            .replace('\n', "")
                            .as_str(),
                    ),
                    "server-error server_error",
                ),
            ],
            Format::Gemini | Format::GeminiArray => [
                (
                    data(r#"{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}"#),
                    "overloaded UNAVAILABLE",
                ),
                (
                    data(r#"{"error":{"code":500,"message":"broken","status":"INTERNAL"}}"#),
                    "server-error INTERNAL",
                ),
            ],
            Format::Converse => [
                (
                    exception("serviceUnavailableException"),
                    "overloaded ServiceUnavailableException",
                ),
                (
                    exception("modelStreamErrorException"),
                    "server-error ModelStreamErrorException",
                ),
            ],
        }
    }

    /// A frame with content whose JSON is torn in the middle, as whole as a frame as any other.
    fn torn(self) -> Vec<u8> {
        if self == Format::Converse {
            let mut event = Vec::new();
            eventstream::message("contentBlockDelta", br#"{"delta":{"te"#.to_vec(), &mut event);
            return event;
        }
        let content = self.first_half(SAYS).1;
        [&content[..content.len() - 6], b"\n\n"].concat()
    }

    /// A whole answer that is an error, whatever its status says.
    fn error_answer(self) -> String {
        match self {
            Format::Chat | Format::Responses => error_body("server_is_overloaded"),
            Format::Messages => r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#.to_owned(),
            Format::Gemini | Format::GeminiArray => {
                r#"{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}"#.to_owned()
            }
            Format::Converse => r#"{"__type":"ServiceUnavailableException","message":"busy"}"#.to_owned(),
        }
    }

    /// How streams fail before content.
    fn faults_before_content(self) -> Vec<Fault> {
        let (start, _) = self.first_half(SAYS);
        let nothing = [[0; 0]; 0];
        let behind = |frame: Vec<u8>| self.begin([start.clone(), vec![frame]].concat());
        let begun = || self.begin(&start);
        let typed = |content_type, body| Script::other(200, content_type, &[], body);
        let mut faults = vec![
            goes_on(
                "a torn frame first",
                self.begin([self.torn()]),
                "bad-response not_a_frame",
            ),
            goes_on(
                "a torn frame behind the start",
                behind(self.torn()),
                "bad-response not_a_frame",
            ),
            goes_on("silence", self.begin(nothing), "timeout first_content_timeout"),
            goes_on("silence behind the start", begun(), "timeout first_content_timeout"),
            ends("a page", typed("text/html", "<html>"), "bad-response not_a_stream"),
            ends(
                "no stream",
                typed("application/json", "{}"),
                "bad-response not_a_stream",
            ),
            ends("nothing", typed(self.stream_type(), ""), "cut-off empty_stream"),
            ends("an end", self.stream(nothing), "cut-off empty_stream"),
            ends("an end behind the start", begun().end(), "cut-off empty_stream"),
            ends("a close behind the start", begun().close(), "cut-off cut_off"),
            ends("a reset behind the start", begun().reset(), "cut-off cut_off"),
        ];
        for (error, known_as) in self.errors() {
            faults.push(ends("an error first", self.stream([&error]), known_as));
            faults.push(ends("an error behind the start", behind(error).end(), known_as));
        }
        // Longer than the time for content, and each shorter.
        for (what, ping) in self.pings() {
            let drip = (0..100).fold(begun(), |script, _| script.pause(20).frames([&ping]));
            faults.push(goes_on(what, drip, "timeout first_content_timeout"));
        }
        faults
    }

    /// How whole answers fail.
    fn faults_of_whole_answers(self) -> Vec<Fault> {
        let typed = |content_type, body| Script::other(200, content_type, &[], body);
        let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{";
        let half = || Script::Steps(vec![]).send(half);
        vec![
            ends("an error", Script::answer(&self.error_answer()), self.errors()[0].1),
            ends("nothing", typed("application/json", ""), "bad-response not_an_answer"),
            ends("a page", typed("text/html", "<html>"), "bad-response not_an_answer"),
            ends("no answer", Script::answer("{}"), "bad-response not_an_answer"),
            ends("a close", half().close(), "cut-off cut_off"),
            ends("a reset", half().reset(), "cut-off cut_off"),
            goes_on("silence", half(), "timeout first_content_timeout"),
        ]
    }

    /// How streams fail behind content, which is with the client when the gate is open.
    fn faults_after_content(self, gate: &Gate) -> Vec<Fault> {
        let (start, content) = self.first_half(SAYS);
        let begun = || self.begin(&start).frames([&content]).until(gate);
        let [(error, known_as), (other, other_known_as)] = self.errors();
        vec![
            ends("an error", begun().frames([error]).end(), known_as),
            ends("another error", begun().frames([other]).end(), other_known_as),
            goes_on(
                "a torn frame",
                begun().frames([self.torn()]),
                "bad-response not_a_frame",
            ),
            goes_on("silence", begun(), "timeout between_frames_timeout"),
            ends("an end", begun().end(), "cut-off no_end"),
            ends("a close", begun().close(), "cut-off cut_off"),
            ends("a reset", begun().reset(), "cut-off cut_off"),
        ]
    }

    /// All clients of a vendor.
    fn all_clients(self) -> Vec<Format> {
        let clients = Format::CLIENTS.into_iter();
        clients.filter(|client| self.is_spoken_to(*client)).collect()
    }

    /// One whose answer passes through, and where there can be one, another.
    fn two_clients(self) -> Vec<Format> {
        let other = if self == Format::Messages {
            Format::Chat
        } else {
            Format::Messages
        };
        let clients = [self, other].into_iter();
        clients.filter(|client| self.is_spoken_to(*client)).collect()
    }
}

/// A gateway with a route to each vendor's format, named as that, on which another target stands by.
fn gateway() -> (Vec<Vendor>, Gateway) {
    let names = ["Chat", "Messages", "Gemini", "Converse", "Responses"];
    let mut vendors: Vec<Vendor> = names.map(Vendor::well).into_iter().collect();
    vendors.push(Vendor::well("second"));
    let mut setup = Setup::new(&vendors);
    for (format, name) in Format::VENDORS.into_iter().zip(names) {
        let route = "attempts_detail = true\nlossy = \"allow\"\n";
        let route = format!("[[route]]\nmodel = \"{name}\"\ntargets = [\"{name}\", \"second\"]\n{route}");
        setup = setup.speaks(name, format).after(&route);
    }
    let deadlines = "timeouts.first_content_ms = 400\ntimeouts.between_frames_ms = 400";
    let gateway = setup.toml("breaker.enabled = false").toml(deadlines).start();
    (vendors, gateway)
}

/// What is checked: a vendor and its fault, and how a client asks.
struct Case<'a> {
    gateway: &'a Gateway,
    vendor: &'a Vendor,
    fault: Fault,
    gate: Gate,
    client: Format,
    streaming: bool,
}

/// Checks all faults of every vendor, those of each vendor in a thread of its own; one that is not as it should be hides no other.
fn check_all(
    streaming: bool,
    clients: fn(Format) -> Vec<Format>,
    faults: fn(Format, &Gate) -> Vec<Fault>,
    check: fn(&Case<'_>),
) {
    let (vendors, gateway) = gateway();
    let gateway = &gateway;
    let of_vendor = |format: Format, vendor: &Vendor| {
        let mut wrong = Vec::new();
        for client in clients(format) {
            for place in 0..faults(format, &Gate::default()).len() {
                let gate = Gate::default();
                let fault = faults(format, &gate).remove(place);
                let who = format!("{} to {client:?}: {}", vendor.name, fault.what);
                let case = Case {
                    gateway,
                    vendor,
                    fault,
                    gate,
                    client,
                    streaming,
                };
                if catch_unwind(AssertUnwindSafe(|| check(&case))).is_err() {
                    wrong.push(who);
                }
            }
        }
        wrong
    };
    let wrong = thread::scope(|scope| {
        let of_vendor = &of_vendor;
        let pairs = Format::VENDORS.into_iter().zip(&vendors);
        let threads: Vec<_> = pairs
            .map(|(format, vendor)| scope.spawn(move || of_vendor(format, vendor)))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.collect::<Vec<_>>().concat()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

impl Case<'_> {
    /// How many attempts at the vendor have failed like this.
    fn counted(&self) -> f64 {
        let labels = format!("target=\"{}\",outcome=\"{}\"", self.vendor.name, self.fault.kind);
        self.gateway.metric("pointsman_attempts_total", &labels)
    }

    /// Asks the vendor, which does what it should not.
    fn ask(&self) -> Stream {
        self.vendor.follow(self.fault.script.clone());
        let mut connection = self.gateway.connect();
        let body = self.client.body(self.vendor.name, self.streaming, "hello");
        let line = self.client.line(self.vendor.name, self.streaming);
        connection.request(&line, &[], body.as_bytes());
        connection.stream()
    }

    /// That the first attempt is known to have failed, and how.
    fn assert_is_known(&self, attempts: &str) {
        let Fault { kind, code, .. } = self.fault;
        let (name, first) = (self.vendor.name, attempts.split(';').next().unwrap_or_default());
        let is_known = first.starts_with(&format!("{name}: {kind} ")) && first.contains(&format!(" {code} "));
        assert!(is_known, "expected {kind} {code}: {attempts}");
    }

    /// That the failure is the target's, and that the vendor is told where it would go on.
    fn assert_is_counted(&self, before: f64) {
        eventually("the failure to be counted", || {
            (self.counted() == before + 1.0).then_some(())
        });
        assert!(self.gateway.target(self.vendor.name)["error_rate"].as_f64().unwrap() > 0.0);
        if self.fault.goes_on {
            self.vendor.wait_for_cancellation();
        }
    }

    fn falls_back_unseen(&self) {
        let before = self.counted();
        let mut stream = self.ask();
        let detail = stream.header("x-pointsman-attempts-detail").to_owned();
        assert_eq!(stream.status, 200, "{detail}");
        if self.streaming {
            let heard = self.client.hear(stream.rest_bytes());
            let is_all = heard.is_all("from second") && heard.ends == self.client.end_markers();
            assert!(is_all, "{detail}: {heard:?}");
        } else {
            let answer = stream.answer();
            let said = self.client.said(answer.text());
            assert_eq!(said.as_deref(), Some("from second"), "{}", answer.text());
        }
        self.assert_is_known(&detail);
        assert!(detail.contains("; second: ok"), "{detail}");
        self.assert_is_counted(before);
    }

    fn is_cut_off(&self) {
        let before = self.counted();
        let mut stream = self.ask();
        let begun = stream.bytes_until(HALF);
        self.gate.open();
        let all = [begun, stream.rest_bytes()].concat();
        let heard = self.client.hear(&all);
        let is_told = heard.is_cut_off() && heard.says == HALF;
        assert!(is_told, "{heard:?} of {}", String::from_utf8_lossy(&all));
        let line = self.gateway.request_line(stream.header("x-request-id"));
        assert_eq!(line["outcome"], "cut-off", "{line}");
        let attempts = line["attempts"].as_str().unwrap_or_default();
        self.assert_is_known(attempts);
        assert!(!attempts.contains("second"), "{attempts}");
        self.assert_is_counted(before);
    }
}

#[test]
fn before_content_the_next_target_answers_unseen() {
    check_all(
        true,
        Format::two_clients,
        |format, _| format.faults_before_content(),
        |case| case.falls_back_unseen(),
    );
}

#[test]
fn for_a_whole_answer_that_is_none_the_next_target_answers_unseen() {
    check_all(
        false,
        Format::two_clients,
        |format, _| format.faults_of_whole_answers(),
        |case| case.falls_back_unseen(),
    );
}

#[test]
fn behind_content_the_client_has_what_came_and_an_error() {
    check_all(true, Format::all_clients, Format::faults_after_content, |case| {
        case.is_cut_off()
    });
}
