//! Answers that break off and that another target goes on with, where the route has that and a policy says so.

use std::time::{Duration, Instant};

use super::client::Stream;
use super::guests::guest;
use super::heard::{Format, Heard};
use super::running::Gateway;
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::Vendor;

/// A stream with its usage.
const ASK: &str = r#"{"model":"smart","stream":true,"stream_options":{"include_usage":true},
    "messages":[{"role":"user","content":"hello"}]}"#;

/// A route that may be gone on with, and a policy that then wants this.
fn continuing(setup: Setup, when_started: &str) -> Gateway {
    asking(setup, when_started).route("continuation = true").start()
}

/// A policy that says who is to go on.
fn asking(setup: Setup, when_started: &str) -> Setup {
    let setup = setup
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]")
        .toml("timeouts.between_frames_ms = 300");
    setup.toml(&format!(
        "policy.picker.settings = {{ picks = \"first\", when_started = \"{when_started}\" }}"
    ))
}

/// A part of an answer, and then this.
fn half(gate: &Gate, goes_on: impl FnOnce(Script) -> Script) -> Script {
    goes_on(Script::begin([ROLE, &counted(&text("Once upon "), 3, 2)]).until(gate))
}

/// The rest of the answer, of another vendor.
fn rest(says: &str) -> Script {
    let frames = [ROLE, &text(says), STOP, &usage(7, 4), DONE];
    Script::stream(frames.map(|frame| frame.replace("chatcmpl-1", "chatcmpl-2")))
}

/// A frame that tells the usage so far, as vLLM does when it is asked to.
fn counted(frame: &str, input: u64, output: u64) -> String {
    let usage = format!("\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}},\"choices\"");
    frame.replace("\"choices\"", &usage)
}

/// The frame with the usage of a whole stream.
fn usage(input: u64, output: u64) -> String {
    counted("data: {\"id\":\"chatcmpl-1\",\"choices\":[]}\n\n", input, output)
}

/// Breaks the answer off once the client has what came before.
fn break_off(stream: &mut Stream, gate: &Gate, has: &str) -> Heard {
    hear_on(stream, gate, has, Format::Chat)
}

fn hear_on(stream: &mut Stream, gate: &Gate, has: &str, format: Format) -> Heard {
    let begun = stream.bytes_until(has);
    gate.open();
    format.hear([begun, stream.rest_bytes()].concat())
}

/// The last message of a chat request: (role, text).
fn last_message(vendor: &Vendor) -> (String, String) {
    let body: serde_json::Value = serde_json::from_slice(&vendor.only().body).unwrap();
    let last = body["messages"].as_array().unwrap().last().unwrap().clone();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&last["role"]), text(&last["content"]))
}

/// What a vendor does in the middle of its answer.
type Ending = fn(Script) -> Script;

/// Ways in which an answer breaks off.
fn endings() -> [(&'static str, Ending); 6] {
    [
        ("reset", Script::reset),
        ("close", Script::close),
        ("end", Script::end),
        ("silence", Script::hold),
        ("error", |script| {
            script
                .frames([format!("data: {}\n\n", error_body("server_error"))])
                .end()
        }),
        ("garbage", |script| script.frames(["data: <html>\n\n"]).end()),
    ]
}

#[test]
fn the_clients_stream_goes_on_in_one_piece() {
    for (name, ending) in endings() {
        let gate = Gate::default();
        let first = Vendor::start("first", [half(&gate, ending)]);
        let second = Vendor::start("second", [rest("a time")]);
        let gateway = continuing(Setup::new([&first, &second]), "second");
        let mut stream = gateway.stream(ASK);
        assert_eq!((stream.status, stream.header("x-pointsman-target")), (200, "first"));
        let heard = break_off(&mut stream, &gate, "upon");
        let expected = Heard {
            says: "Once upon a time".into(),
            ids: vec!["chatcmpl-1".into()],
            finishes: vec!["stop".into()],
            ends: 1,
            usage: Some((10, 6)),
            error: None,
        };
        assert_eq!(heard, expected, "{name}");
        assert_eq!(
            last_message(&second),
            ("assistant".into(), "Once upon ".into()),
            "{name}"
        );
        assert!(gateway.target("first")["error_rate"].as_f64().unwrap() > 0.0, "{name}");
        let line = gateway.request_line(stream.header("x-request-id"));
        assert_eq!(line["outcome"], "answered", "{name}: {line}");
        let attempts = line["attempts"].as_str().unwrap();
        assert!(
            attempts.starts_with("first: ") && attempts.contains("second: ok"),
            "{name}: {line}"
        );
        assert!(!attempts.starts_with("first: ok"), "{name}: {line}");
    }
}

/// Mixing vendors' words is nothing that the gateway does of its own accord.
#[test]
fn without_the_policys_word_nobody_goes_on() {
    let gate = Gate::default();
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let second = Vendor::start("second", [rest("a time")]);
    let silent = Setup::new([&first, &second])
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]")
        .toml("policy.picker.settings = { picks = \"first, second\" }");
    for setup in [silent, Setup::new([&first, &second])] {
        let gateway = setup.route("continuation = true").start();
        let heard = break_off(&mut gateway.stream(ASK), &gate, "upon");
        assert!(heard.is_cut_off() && heard.says == "Once upon ", "{heard:?}");
        assert_eq!(second.count(), 0);
    }
}

#[test]
fn without_the_routes_word_nobody_goes_on() {
    let gate = Gate::default();
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let second = Vendor::start("second", [rest("a time")]);
    let gateway = asking(Setup::new([&first, &second]), "second").start();
    let heard = break_off(&mut gateway.stream(ASK), &gate, "upon");
    assert!(heard.is_cut_off(), "{heard:?}");
    assert_eq!(second.count(), 0);
}

/// Half a call's arguments are nothing that another model could go on with.
#[test]
fn a_tool_call_in_flight_is_not_gone_on_with() {
    let call = r#"[{"index":0,"id":"call-1","type":"function","function":{"name":"look","arguments":"{\"at\":"}}]"#;
    let call = text("x").replace("\"content\":\"x\"", &format!("\"tool_calls\":{call}"));
    for frames in [vec![call.clone()], vec![text("Let me see. "), call]] {
        let gate = Gate::default();
        let script = Script::begin([ROLE]).frames(frames).until(&gate).reset();
        let first = Vendor::start("first", [script]);
        let second = Vendor::start("second", [rest("a time")]);
        let gateway = continuing(Setup::new([&first, &second]), "second");
        let heard = break_off(&mut gateway.stream(ASK), &gate, "look");
        assert!(heard.is_cut_off() && heard.says.ends_with("look:{\"at\":"), "{heard:?}");
        assert_eq!(second.count(), 0);
    }
}

/// What was thought goes on too; there is nothing yet that a message could begin with.
#[test]
fn an_answer_that_broke_off_while_the_model_thought_begins_anew() {
    let gate = Gate::default();
    let thought = text("hmm").replace("\"content\"", "\"reasoning_content\"");
    let first = Vendor::start("first", [Script::begin([ROLE, &thought]).until(&gate).reset()]);
    let second = Vendor::start("second", [rest("a time")]);
    let gateway = continuing(Setup::new([&first, &second]), "second");
    let heard = break_off(&mut gateway.stream(ASK), &gate, "hmm");
    assert!(heard.is_all("a time"), "{heard:?}");
    assert_eq!(last_message(&second), ("user".into(), "hello".into()));
}

#[test]
fn when_the_next_target_fails_before_content_a_third_goes_on() {
    let gate = Gate::default();
    let failing = Script::status(500, &[], &error_body("server_error"));
    let role_only = Script::begin([ROLE]).reset();
    for fails in [
        failing,
        role_only,
        Script::rate_limited(&[]),
        Script::begin([ROLE]).end(),
    ] {
        let first = Vendor::start("first", [half(&gate, Script::reset)]);
        let second = Vendor::start("second", [fails]);
        let third = Vendor::start("third", [rest("a time")]);
        let gateway = continuing(Setup::new([&first, &second, &third]), "second, third");
        let heard = break_off(&mut gateway.stream(ASK), &gate, "upon");
        assert!(heard.is_all("Once upon a time") && heard.ends == 1, "{heard:?}");
        assert_eq!(last_message(&third), ("assistant".into(), "Once upon ".into()));
        assert_eq!(second.count(), 1);
    }
}

#[test]
fn when_the_next_target_breaks_off_too_a_third_goes_on_with_both() {
    let (gate, second_gate) = (Gate::default(), Gate::default());
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let more = Script::begin([ROLE, &counted(&text("a "), 10, 1)])
        .until(&second_gate)
        .close();
    let second = Vendor::start("second", [more]);
    let third = Vendor::start("third", [rest("time")]);
    let gateway = continuing(Setup::new([&first, &second, &third]), "second, third");
    let mut stream = gateway.stream(ASK);
    let mut read = stream.read_until("upon");
    gate.open();
    read += &stream.read_until("\"a \"");
    second_gate.open();
    let heard = Format::Chat.hear(&(read + &stream.rest()));
    assert!(heard.is_all("Once upon a time") && heard.ends == 1, "{heard:?}");
    assert_eq!((heard.usage, heard.ids.len()), (Some((20, 7)), 1));
    assert_eq!(last_message(&third), ("assistant".into(), "Once upon a ".into()));
}

#[test]
fn there_are_no_more_attempts_than_the_limit_says() {
    let gate = Gate::default();
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let second = Vendor::start("second", [rest("a time")]);
    let gateway = continuing(Setup::new([&first, &second]).toml("attempts.max = 1"), "second");
    let heard = break_off(&mut gateway.stream(ASK), &gate, "upon");
    assert!(heard.is_cut_off(), "{heard:?}");
    assert_eq!(second.count(), 0);
}

/// With an error and without an end, each in its own words.
#[test]
fn when_nobody_can_go_on_clients_of_every_format_are_told() {
    for format in Format::CLIENTS {
        let gate = Gate::default();
        let first = Vendor::start("first", [half(&gate, Script::reset)]);
        let second = Vendor::start("second", [Script::status(500, &[], &error_body("server_error"))]);
        let gateway = continuing(Setup::new([&first, &second]), "second");
        let mut client = gateway.connect();
        let body = format.body("smart", true, "hello");
        client.request(&format.line("smart", true), &[], body.as_bytes());
        let mut stream = client.stream();
        let heard = hear_on(&mut stream, &gate, "upon", format);
        assert!(
            heard.is_cut_off() && heard.says == "Once upon ",
            "{format:?}: {heard:?}"
        );
        assert_eq!(second.count(), 1, "{format:?}");
        let line = gateway.request_line(stream.header("x-request-id"));
        assert_eq!(line["outcome"], "cut-off", "{format:?}: {line}");
    }
}

/// Vendors of all formats, named `first-FORMAT` and `second-FORMAT`, and a gateway that asks those which a request names.
fn all_formats() -> (Vec<Vendor>, Vec<Vendor>, Gateway) {
    let names = |names: [&'static str; 5]| names.map(Vendor::well).into_iter().collect::<Vec<_>>();
    let firsts = names([
        "first-chat",
        "first-messages",
        "first-gemini",
        "first-converse",
        "first-responses",
    ]);
    let seconds = names([
        "second-chat",
        "second-messages",
        "second-gemini",
        "second-converse",
        "second-responses",
    ]);
    let mut setup = Setup::new(firsts.iter().chain(&seconds));
    for vendors in [&firsts, &seconds] {
        for (vendor, format) in vendors.iter().zip(Format::VENDORS) {
            setup = setup.speaks(vendor.name, format);
        }
    }
    let shown = "policies.headers = [\"x-picks\", \"x-when-started\"]\nbreaker.enabled = false";
    let gateway = asking(setup, "")
        .toml(shown)
        .route("continuation = true\nlossy = \"allow\"")
        .start();
    (firsts, seconds, gateway)
}

/// The tokens that a vendor has counted with the first half of its answer, which it sends here.
fn first_half(format: Format) -> (Vec<Vec<u8>>, (u64, u64)) {
    let (mut frames, half) = format.first_half("Once upon a sad tale");
    frames.push(half);
    match format {
        Format::Chat => {
            let half = frames.pop().unwrap();
            frames.push(counted(std::str::from_utf8(&half).unwrap(), 3, 2).into_bytes());
            (frames, (3, 2))
        }
        Format::Messages => (frames, (3, 1)),
        Format::Gemini | Format::GeminiArray => (frames, (3, 2)),
        Format::Converse | Format::Responses => (frames, (0, 0)),
    }
}

/// All of an answer, with 3 and 2 tokens.
fn all_of(format: Format, says: &str) -> Script {
    let mut frames = format.frames(says);
    if format == Format::Chat {
        frames.insert(frames.len() - 1, usage(3, 2).into_bytes());
    }
    format.stream(frames)
}

/// Whatever the client speaks, whoever began, and whoever goes on: one stream in good order, with one name and all tokens.
#[test]
fn targets_of_all_formats_go_on_with_each_other() {
    let (firsts, seconds, gateway) = all_formats();
    for client in Format::CLIENTS {
        let reachable = |vendors: &'_ [Vendor]| -> Vec<usize> {
            let places = (0..vendors.len()).filter(|place| Format::VENDORS[*place].is_spoken_to(client));
            places.collect()
        };
        for began in reachable(&firsts) {
            for goes_on in reachable(&seconds) {
                let (first, second) = (&firsts[began], &seconds[goes_on]);
                let who = format!("{} and {} to {client:?}", first.name, second.name);
                let gate = Gate::default();
                let (frames, counted) = first_half(Format::VENDORS[began]);
                first.follow(Format::VENDORS[began].begin(frames).until(&gate).reset());
                second.follow(all_of(Format::VENDORS[goes_on], "a time"));
                let asked = [("x-picks", first.name), ("x-when-started", second.name)];
                let body = client.body("smart", true, "hello");
                // Of chat, only whoever asks is told the tokens.
                let body = if client == Format::Chat {
                    body.replace(
                        "\"stream\":true",
                        "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
                    )
                } else {
                    body
                };
                let mut connection = gateway.connect();
                connection.request(&client.line("smart", true), &asked, body.as_bytes());
                let mut stream = connection.stream();
                let begun = stream.bytes_until("Once upon");
                gate.open();
                let all = [begun, stream.rest_bytes()].concat();
                let text = || String::from_utf8_lossy(&all);
                let heard = client.hear(&all);
                assert!(heard.is_all("Once upon a time"), "{who}: {heard:?} of {}", text());
                assert_eq!(heard.ids.len(), client.names(), "{who}: {heard:?}");
                assert_eq!(heard.ends, client.end_markers(), "{who}: {heard:?}");
                let sum = (counted.0 + 3, counted.1 + 2);
                assert_eq!(heard.usage, Some(sum), "{who}: {}", text());
                client.assert_orderly(&all);
                let asked = second.received().pop().unwrap().body();
                assert!(asked.contains("Once upon"), "{who}: {asked}");
            }
        }
    }
}

/// The time until content begins anew: what the first target took with its answer is not the second's.
#[test]
fn an_answer_that_breaks_off_later_than_the_request_may_take_is_gone_on_with() {
    let drip = (0..12).fold(
        Script::begin([ROLE, &counted(&text("Once upon "), 3, 2)]),
        |script, _| script.pause(100).frames([": ping\n\n"]),
    );
    let first = Vendor::start("first", [drip.reset()]);
    let second = Vendor::start("second", [rest("a time").after(Duration::from_millis(200))]);
    let setup = Setup::new([&first, &second]).toml("timeouts.request_ms = 700\ntimeouts.first_content_ms = 700");
    let gateway = continuing(setup, "second");
    let begin = Instant::now();
    let heard = Format::Chat.hear(gateway.stream(ASK).rest());
    assert!(
        begin.elapsed() > Duration::from_millis(700),
        "it was too late for this test"
    );
    assert!(heard.is_all("Once upon a time") && heard.ends == 1, "{heard:?}");
}

/// Without asking the policy once more, which names each target once only.
#[test]
fn a_key_that_is_limited_while_going_on_gives_way_to_the_next() {
    let limited = Script::status(429, &[("retry-after", "60")], &error_body("rate_limit_exceeded"));
    for refusal in [limited, Script::status(401, &[], &error_body("invalid_api_key"))] {
        let gate = Gate::default();
        let first = Vendor::start("first", [half(&gate, Script::reset)]);
        let second = Vendor::start(
            "second",
            [Script::of(move |request| match request.head.header("authorization") {
                Some("Bearer key-0") => refusal.clone(),
                _ => rest("a time"),
            })],
        );
        let keys = "api_keys = [{ env = \"KEY_0\" }, { env = \"KEY_1\" }]";
        let setup = Setup::new([&first, &second])
            .target("second", keys)
            .env("KEY_0", "key-0")
            .env("KEY_1", "key-1");
        let gateway = continuing(setup, "second");
        let heard = break_off(&mut gateway.stream(ASK), &gate, "upon");
        assert!(heard.is_all("Once upon a time") && heard.ends == 1, "{heard:?}");
        assert_eq!(second.count(), 2);
        assert_eq!(gateway.target("second")["breaker"], "closed");
    }
}

#[test]
fn a_client_that_goes_away_while_another_is_asked_cancels_it() {
    let gate = Gate::default();
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let second = Vendor::start("second", [Script::silence()]);
    let gateway = continuing(Setup::new([&first, &second]), "second");
    let mut stream = gateway.stream(ASK);
    stream.read_until("upon");
    gate.open();
    second.wait_for(1);
    let id = stream.header("x-request-id").to_owned();
    drop(stream);
    second.wait_for_cancellation();
    assert_eq!(gateway.request_line(&id)["outcome"], "client-gone");
    assert_eq!(gateway.target("second")["in_flight"], 0);
}

#[test]
fn a_finished_answer_is_not_gone_on_with() {
    let gate = Gate::default();
    let script = half(&gate, |script| script.frames([STOP]).reset());
    let first = Vendor::start("first", [script]);
    let second = Vendor::start("second", [rest("a time")]);
    let gateway = continuing(Setup::new([&first, &second]), "second");
    let heard = break_off(&mut gateway.stream(ASK), &gate, "upon");
    assert!(heard.is_all("Once upon ") && heard.ends == 1, "{heard:?}");
    assert_eq!(second.count(), 0);
}

/// A model that must answer in JSON begins a new document: half a document before it would make the whole none.
#[test]
fn half_a_document_is_not_gone_on_with() {
    let gate = Gate::default();
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let second = Vendor::start("second", [rest("a time")]);
    let gateway = continuing(Setup::new([&first, &second]), "second");
    let ask = ASK.replace("\"model\"", "\"response_format\":{\"type\":\"json_object\"},\"model\"");
    let heard = break_off(&mut gateway.stream(&ask), &gate, "upon");
    assert!(heard.is_cut_off(), "{heard:?}");
    assert_eq!(second.count(), 0);
}

/// The client gets no more than it asked for, and nothing twice.
#[test]
fn what_was_said_counts_against_the_limit_of_the_answer() {
    let gate = Gate::default();
    let first = Vendor::start("first", [half(&gate, Script::reset)]);
    let second = Vendor::start("second", [Script::stream(Format::Messages.frames(" a time"))]);
    let setup = Setup::new([&first, &second])
        .vendor("second", "anthropic")
        .target("second", "api_key = { env = \"VENDOR_KEY\" }")
        .env("VENDOR_KEY", "k");
    let gateway = continuing(setup, "second");
    let ask = ASK.replace("\"model\"", "\"max_tokens\":100,\"model\"");
    let heard = break_off(&mut gateway.stream(&ask), &gate, "upon");
    assert!(heard.is_all("Once upon a time"), "one space: {heard:?}");
    let sent: serde_json::Value = serde_json::from_slice(&second.only().body).unwrap();
    assert_eq!(sent["max_tokens"], 97, "three were spent");
    assert_eq!(
        gateway.metric(
            "gen_ai_client_token_usage_sum",
            "target=\"first\",gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"openai-compatible\",\
             gen_ai_request_model=\"first-model\",gen_ai_token_type=\"output\""
        ),
        2.0
    );
}
