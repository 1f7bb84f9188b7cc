//! What is held back although content is there, and refusals, which are asked about before the client hears of them.

use serde_json::{Value, json};

use super::guests::guest;
use super::heard::Format;
use super::recorded::converse_event;
use super::running::{ASK, ASK_STREAM, Gateway};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::Vendor;

/// A stream that dies after so many frames with content.
fn dies_after(frames: usize, ending: fn(Script) -> Script) -> Script {
    let said = (0..frames).map(|index| text(&format!("part {index} ")));
    ending(Script::begin([ROLE]).frames(said).pause(100))
}

fn holding(hold: &str, first: Script) -> (Vendor, Vendor, Gateway) {
    let (first, second) = (Vendor::start("first", [first]), Vendor::well("second"));
    let setup = Setup::new([&first, &second]).route(&format!("hold = {{ {hold} }}"));
    let gateway = setup.toml("timeouts.between_frames_ms = 500").start();
    (first, second, gateway)
}

#[test]
fn a_stream_that_dies_within_what_is_held_falls_back_unseen() {
    let error: fn(Script) -> Script = |script| {
        let event = format!("data: {}\n\n", error_body("server_error"));
        script.frames([event]).end()
    };
    for hold in ["tokens = 5", "ms = 5000", "tokens = 5, ms = 5000"] {
        for ending in [Script::reset, Script::close, Script::end, error] {
            let (_first, _second, gateway) = holding(hold, dies_after(3, ending));
            let mut stream = gateway.stream(ASK_STREAM);
            assert_eq!(stream.header("x-pointsman-target"), "second", "{hold}");
            assert_eq!(
                stream.rest(),
                [ROLE, &text("from second"), STOP, DONE].concat(),
                "{hold}"
            );
            let line = gateway.request_line(stream.header("x-request-id"));
            assert_eq!(line["outcome"], "answered", "{hold}");
            assert!(gateway.target("first")["error_rate"].as_f64().unwrap() > 0.0);
        }
    }
}

#[test]
fn behind_what_is_held_it_is_too_late() {
    let (_first, second, gateway) = holding("tokens = 3", dies_after(3, Script::reset));
    let heard = Format::Chat.hear(gateway.stream(ASK_STREAM).rest());
    assert!(heard.is_cut_off() && heard.says == "part 0 part 1 part 2 ", "{heard:?}");
    assert_eq!(second.count(), 0);
}

/// Whichever comes first ends it.
#[test]
fn what_is_held_goes_out_when_its_time_is_over() {
    for hold in ["ms = 200", "tokens = 100, ms = 200"] {
        let gate = Gate::default();
        let script = Script::begin([ROLE, &text("slow")])
            .until(&gate)
            .frames([STOP, DONE])
            .end();
        let (_first, _second, gateway) = holding(hold, script);
        let mut stream = gateway.stream(ASK_STREAM);
        let begun = stream.read_until("slow");
        gate.open();
        assert_eq!(
            begun + &stream.rest(),
            [ROLE, &text("slow"), STOP, DONE].concat(),
            "{hold}"
        );
    }
}

/// A route that holds for long does not make its targets time out.
#[test]
fn what_is_held_goes_out_before_the_time_for_content_is_over() {
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("slow")])
        .until(&gate)
        .frames([STOP, DONE])
        .end();
    let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
    let gateway = Setup::new([&first, &second])
        .route("hold = { tokens = 100 }")
        .toml("timeouts.first_content_ms = 500")
        .start();
    let mut stream = gateway.stream(ASK_STREAM);
    assert_eq!(stream.header("x-pointsman-target"), "first");
    stream.read_until("slow");
    gate.open();
    stream.rest();
    assert_eq!(second.count(), 0);
}

#[test]
fn an_answer_shorter_than_what_is_held_goes_out_whole() {
    let (_first, second, gateway) = holding("tokens = 100", Script::stream([ROLE, &text("short"), STOP, DONE]));
    let mut stream = gateway.stream(ASK_STREAM);
    assert_eq!(stream.rest(), [ROLE, &text("short"), STOP, DONE].concat());
    assert_eq!(second.count(), 0);
}

#[test]
fn clients_of_other_formats_see_nothing_of_what_was_held_either() {
    for format in Format::CLIENTS {
        let (_first, _second, gateway) = holding("tokens = 5", dies_after(3, Script::reset));
        let mut client = gateway.connect();
        let body = format.body("smart", true, "hello");
        client.request(&format.line("smart", true), &[], body.as_bytes());
        let heard = format.hear(client.stream().rest_bytes());
        assert!(heard.is_all("from second"), "{format:?}: {heard:?}");
    }
}

/// The safety system of a vendor, as it answers whole and in a stream.
fn filtered(ask: &str) -> Script {
    if ask == ASK {
        let body = super::script::whole("x")
            .replace("\"x\"", "null")
            .replace("\"stop\"", "\"content_filter\"");
        Script::answer(&body)
    } else {
        Script::stream([ROLE, &STOP.replace("\"stop\"", "\"content_filter\""), DONE])
    }
}

/// Asks two vendors by a policy that says this about refusals: the target that answered, and what it was asked.
fn refused(ask: &str, second: &Vendor, settings: &str) -> (String, String, Gateway) {
    let first = Vendor::start("first", [filtered(ask)]);
    let setup = Setup::new([&first, second])
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]")
        .toml(&format!("policy.picker.settings = {{ picks = \"first\", {settings} }}"));
    let gateway = setup.start();
    let mut client = gateway.connect();
    client.request(super::running::CHAT, &[], ask.as_bytes());
    let mut stream = client.stream();
    assert_eq!(stream.status, 200);
    let target = stream.header("x-pointsman-target").to_owned();
    let body = if ask == ASK {
        stream.answer().text().to_owned()
    } else {
        stream.rest()
    };
    (target, body, gateway)
}

#[test]
fn a_refusal_falls_back_unseen_where_a_policy_says_so() {
    for ask in [ASK, ASK_STREAM] {
        let second = Vendor::well("second");
        let (target, body, gateway) = refused(ask, &second, "when_refused = \"second\"");
        assert_eq!(target, "second");
        assert!(
            body.contains("from second") && !body.contains("content_filter"),
            "{body}"
        );
        assert_eq!(
            gateway.target("first")["error_rate"],
            0.0,
            "a refusal is no failure of the target"
        );
    }
}

#[test]
fn where_the_policy_passes_the_client_gets_the_refusal() {
    for ask in [ASK, ASK_STREAM] {
        let second = Vendor::well("second");
        let (target, body, gateway) = refused(ask, &second, "when_failed = \"second\"");
        assert_eq!(target, "first");
        assert!(body.contains("content_filter"), "{body}");
        assert_eq!(second.count(), 0);
        let answered = gateway.metric("pointsman_requests_total", "outcome=\"answered\"");
        assert_eq!(answered, 1.0);
    }
}

#[test]
fn where_nobody_else_answers_the_client_gets_the_refusal() {
    for ask in [ASK, ASK_STREAM] {
        for second in [
            Vendor::start("second", [Script::status(500, &[], &error_body("server_error"))]),
            Vendor::gone("second"),
            Vendor::start("second", [filtered(ask)]),
        ] {
            let (_, body, _) = refused(ask, &second, "when_refused = \"second\", when_failed = \"\"");
            assert!(
                body.contains("content_filter") && !body.contains("server_error"),
                "{body}"
            );
        }
    }
}

#[test]
fn without_a_policy_a_refusal_is_an_answer() {
    for ask in [ASK, ASK_STREAM] {
        let (first, second) = (Vendor::start("first", [filtered(ask)]), Vendor::well("second"));
        let gateway = Setup::new([&first, &second]).start();
        let mut client = gateway.connect();
        client.request(super::running::CHAT, &[], ask.as_bytes());
        let stream = client.stream();
        assert_eq!((stream.status, stream.header("x-pointsman-target")), (200, "first"));
        assert_eq!(second.count(), 0);
    }
}

/// What was said before the refusal is with the client, who must get all of it from the same target.
#[test]
fn a_refusal_behind_text_is_the_clients() {
    let script = Script::stream([
        ROLE,
        &text("Well, "),
        &STOP.replace("\"stop\"", "\"content_filter\""),
        DONE,
    ]);
    let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
    let setup = Setup::new([&first, &second])
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]")
        .toml("policy.picker.settings = { picks = \"first\", when_refused = \"second\" }");
    let heard = Format::Chat.hear(setup.start().stream(ASK_STREAM).rest());
    assert_eq!(
        (heard.says.as_str(), heard.finishes),
        ("Well, ", vec!["content_filter".to_owned()])
    );
    assert_eq!(second.count(), 0);
}

/// How a vendor of each format says that it refused, whole and in a stream.
fn refusals(format: Format) -> [Script; 2] {
    match format {
        Format::Chat => [filtered(ASK), filtered(ASK_STREAM)],
        Format::Messages => {
            let [start, stop] = [0, 1].map(|place| format.frames("x").remove(place * 7));
            let delta =
                b"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"refusal\"},\
                         \"usage\":{\"output_tokens\":0}}\n\n";
            let mut whole: serde_json::Value = serde_json::from_str(&format.whole("x")).unwrap();
            whole["stop_reason"] = "refusal".into();
            whole["content"] = serde_json::json!([]);
            let whole = whole.to_string();
            [Script::answer(&whole), Script::stream([start, delta.to_vec(), stop])]
        }
        Format::Converse => {
            let whole = format
                .whole("x")
                .replace(r#"[{"text":"x"}]"#, "[]")
                .replace("end_turn", "guardrail_intervened");
            assert!(whole.contains(r#""content":[]"#), "{whole}");
            let start = format.frames("x").remove(0);
            let stop = converse_event("messageStop", json!({ "stopReason": "content_filtered" }));
            [Script::answer(&whole), format.stream([start, stop])]
        }
        // As its safety system says it: the model's own refusals are words.
        Format::Responses => {
            let ended = format.whole("x").replace("\"completed\"", "\"incomplete\"").replace(
                "\"object\":",
                "\"incomplete_details\":{\"reason\":\"content_filter\"},\"object\":",
            );
            let mut ended: Value = serde_json::from_str(&ended).unwrap();
            ended["output"] = json!([]);
            let start = format.frames("x").remove(0);
            let end = json!({ "type": "response.incomplete", "response": ended });
            let end = format!("event: response.incomplete\ndata: {end}\n\n").into_bytes();
            [Script::answer(&ended.to_string()), format.stream([start, end])]
        }
        Format::Gemini | Format::GeminiArray => {
            let blocked = r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":3},"responseId":"r"}"#;
            [
                Script::answer(blocked),
                Script::stream([format!("data: {blocked}\n\n")]),
            ]
        }
    }
}

#[test]
fn refusals_of_every_format_are_asked_about() {
    for format in Format::VENDORS {
        // A client of the same format, whose answer passes through, and where there can be one of another.
        let clients = [format, Format::Chat].into_iter();
        for client in clients.filter(|client| format.is_spoken_to(*client)) {
            for (script, streaming) in refusals(format).into_iter().zip([false, true]) {
                let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
                let setup = Setup::new([&first, &second]).speaks("first", format);
                let setup = setup.plugin("picker", guest("picker")).route("policies = [\"picker\"]");
                let settings = "picks = \"first\", when_refused = \"second\"";
                let gateway = setup
                    .route("attempts_detail = true")
                    .toml(&format!("policy.picker.settings = {{ {settings} }}"))
                    .start();
                let body = client.body("smart", streaming, "hello");
                let answer = gateway.ask(&client.line("smart", streaming), &[], &body);
                let who = format!("{format:?} to {client:?}, streaming: {streaming}");
                let says = if streaming {
                    client.hear(&answer.body).says
                } else {
                    client.said(answer.text()).expect("an answer")
                };
                assert_eq!(says, "from second", "{who}");
                let detail = answer.header("x-pointsman-attempts-detail");
                assert_eq!(answer.header("x-pointsman-attempts"), "2", "{who}: {detail}");
                assert_eq!(gateway.target("first")["error_rate"], 0.0, "{who}");
            }
        }
    }
}

/// A refusal may also come as an error.
#[test]
fn a_refusal_with_an_error_status_is_asked_about_too() {
    let words = error_body("content_filter");
    for (settings, target) in [
        ("when_refused = \"second\"", "second"),
        ("when_failed = \"second\"", "first"),
    ] {
        let refuses = Script::status(400, &[], &words);
        let (first, second) = (Vendor::start("first", [refuses]), Vendor::well("second"));
        let setup = Setup::new([&first, &second])
            .plugin("picker", guest("picker"))
            .route("policies = [\"picker\"]")
            .toml(&format!("policy.picker.settings = {{ picks = \"first\", {settings} }}"));
        let answer = setup.start().chat(ASK);
        assert_eq!(answer.header("x-pointsman-target"), target, "{}", answer.text());
        assert_eq!(answer.status, if target == "first" { 400 } else { 200 });
        assert_eq!(answer.text() == words, target == "first", "{}", answer.text());
    }
}

/// What is held is not committed to because its vendor falls silent.
#[test]
fn a_stream_that_falls_silent_within_what_is_held_falls_back_unseen() {
    let (_first, _second, gateway) = holding("tokens = 50", dies_after(3, Script::hold));
    let stream = gateway.stream(ASK_STREAM);
    assert_eq!(stream.header("x-pointsman-target"), "second");
}
