//! Answers that are not whole although something says that they are, and errors that a client's SDK would not raise as they come.

use super::heard::Format;
use super::running::{ASK, ASK_STREAM, Gateway};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

/// Words of Mistral's, vLLM's and DeepSeek's for an answer that was broken off.
const BROKEN_OFF: [&str; 3] = ["error", "abort", "insufficient_system_resource"];

/// What a client of a vendor's own format hears, once it has read `has` and the vendor goes on with `then`.
fn hear(format: Format, begun: &[String], has: &str, then: impl FnOnce(Script) -> Script) -> super::heard::Heard {
    let gate = Gate::default();
    let vendor = Vendor::start("vendor", [then(Script::begin(begun).until(&gate))]);
    let gateway = speaking(&vendor, format);
    let mut client = gateway.connect();
    let body = format.body("smart", true, "hello");
    client.request(&format.line("smart", true), &[], body.as_bytes());
    let mut stream = client.stream();
    let read = stream.read_until(has);
    gate.open();
    let heard = format.hear(&(read + &stream.rest()));
    let line = gateway.request_line(stream.header("x-request-id"));
    assert_eq!(line["outcome"], "cut-off", "{line}");
    let well = gateway.metric("pointsman_attempts_total", "target=\"vendor\",outcome=\"ok\"");
    assert_eq!(well, 0.0, "it counts as a failure");
    heard
}

fn speaking(vendor: &Vendor, format: Format) -> Gateway {
    let setup = Setup::new([vendor]).vendor(vendor.name, format.vendor());
    setup
        .target(vendor.name, "api_key = { env = \"VENDOR_KEY\" }")
        .env("VENDOR_KEY", "k")
        .start()
}

#[test]
fn a_reason_that_is_none_falls_back_before_content() {
    for reason in BROKEN_OFF {
        let stop = STOP.replace("\"stop\"", &format!("\"{reason}\""));
        let answer = whole("half").replace("\"stop\"", &format!("\"{reason}\""));
        for (ask, script) in [
            (ASK_STREAM, Script::stream([ROLE, &stop, DONE])),
            (ASK, Script::answer(&answer)),
        ] {
            let (first, second) = (Vendor::start("first", [script]), Vendor::well("second"));
            let gateway = Setup::new([&first, &second]).start();
            assert_eq!(gateway.chat(ask).header("x-pointsman-target"), "second", "{reason}");
        }
    }
}

#[test]
fn a_reason_that_is_none_is_no_end_after_content() {
    for reason in BROKEN_OFF {
        let stop = STOP.replace("\"stop\"", &format!("\"{reason}\""));
        let begun = [ROLE.to_owned(), text("half")];
        let heard = hear(Format::Chat, &begun, "half", |script| {
            script.frames([&stop, DONE]).end()
        });
        assert!(heard.is_cut_off() && heard.says == "half", "{reason}: {heard:?}");
    }
}

/// Old servers put an error's fields where an answer's should be; OpenAI's SDKs look for `error`.
#[test]
fn an_error_without_a_field_of_its_own_is_written_anew() {
    let error = "data: {\"object\":\"error\",\"message\":\"out of memory\",\"type\":\"server_error\",\"code\":500}\n\n";
    let begun = [ROLE.to_owned(), text("half")];
    let heard = hear(Format::Chat, &begun, "half", |script| {
        script.frames([error, DONE]).end()
    });
    assert!(heard.is_cut_off(), "{heard:?}");
    assert_eq!(heard.error.as_deref(), Some("out of memory"), "in the vendor's words");
}

fn message(kind: &str, rest: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n")
}

fn begun_message(id: &str) -> String {
    let message_start = format!(
        ",\"message\":{{\"id\":\"{id}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\
         \"stop_reason\":null,\"stop_sequence\":null,\"usage\":{{\"input_tokens\":3,\"output_tokens\":1}}}}"
    );
    message("message_start", &message_start)
}

fn half_a_message() -> Vec<String> {
    let block = ",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}";
    let delta = ",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"half\"}";
    vec![
        begun_message("msg_1"),
        message("content_block_start", block),
        message("content_block_delta", delta),
    ]
}

/// Anthropic's SDKs go by the names of events.
#[test]
fn an_error_without_a_name_is_written_anew() {
    let error = "data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let heard = hear(Format::Messages, &half_a_message(), "half", |script| {
        script.frames([error]).end()
    });
    assert!(heard.is_cut_off(), "{heard:?}");
    assert_eq!(heard.error.as_deref(), Some("Overloaded"));
}

/// A proxy between vendor and gateway that tried again on its own: what comes is another answer, not more of this one.
#[test]
fn an_answer_that_begins_anew_is_no_end() {
    let heard = hear(Format::Messages, &half_a_message(), "half", |script| {
        script.frames([begun_message("msg_2")]).end()
    });
    assert!(heard.is_cut_off() && heard.says == "half", "{heard:?}");
}

/// The marker of chat completions means nothing in a stream of responses.
#[test]
fn a_foreign_end_marker_is_no_end() {
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\
                   \"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"in_progress\",\"output\":[]}}\n\n";
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\
                 \"item_id\":\"i\",\"output_index\":0,\"content_index\":0,\"delta\":\"half\"}\n\n";
    let begun = [created.to_owned(), delta.to_owned()];
    let heard = hear(Format::Responses, &begun, "half", |script| script.frames([DONE]).end());
    assert!(heard.is_cut_off() && heard.says == "half", "{heard:?}");
}

/// Google's streams break with an error that is no event.
#[test]
fn a_bare_error_is_one() {
    let frame = "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"half\"}]},\"index\":0}],\
                 \"responseId\":\"r\",\"modelVersion\":\"m\"}\r\n\r\n";
    let error = "{\n  \"error\": {\n    \"code\": 429,\n    \"message\": \"quota\",\n    \"status\": \"RESOURCE_EXHAUSTED\"\n  }\n}\n";
    let heard = hear(Format::Gemini, &[frame.to_owned()], "half", |script| {
        script.frames([error]).end()
    });
    assert!(heard.is_cut_off(), "{heard:?}");
    assert_eq!(heard.error.as_deref(), Some("quota"));

    // Before content, it is the rate limit that it says.
    let (first, second) = (
        Vendor::start("first", [Script::begin([error]).end()]),
        Vendor::well("second"),
    );
    let setup = Setup::new([&first, &second]).vendor("first", "gemini");
    let gateway = setup
        .target("first", "api_key = { env = \"VENDOR_KEY\" }")
        .env("VENDOR_KEY", "k")
        .route("attempts_detail = true")
        .start();
    let body = Format::Gemini.body("smart", true, "hello");
    let answer = gateway.ask(&Format::Gemini.line("smart", true), &[], &body);
    let detail = answer.header("x-pointsman-attempts-detail");
    assert!(detail.starts_with("first: rate-limited"), "{detail}");
}

/// One of two answers that were asked for has ended, and the other has not even begun.
#[test]
fn one_of_several_answers_is_not_all_of_them() {
    let script = Script::begin([ROLE, &text("first of two"), STOP]).pause(100).reset();
    let vendor = Vendor::start("vendor", [script]);
    let gateway = Setup::new([&vendor]).start();
    let ask = ASK_STREAM.replace("\"stream\":true", "\"stream\":true,\"n\":2");
    let rest = gateway.stream(&ask).rest();
    assert!(rest.contains("answer_cut_off") && !rest.contains("[DONE]"), "{rest}");
}

/// Whoever reads to the end of the stream, as Anthropic's SDKs do, is not held up by a vendor that does not close it.
#[test]
fn a_vendor_that_does_not_hang_up_holds_nobody_up() {
    let frames = [ROLE, &text("all of it"), STOP, DONE];
    let at_once = Script::begin([frames.concat()]).hold();
    let slowly = Script::begin([ROLE, &text("all of it")])
        .pause(300)
        .frames([STOP, DONE])
        .hold();
    for script in [at_once, slowly] {
        let vendor = Vendor::start("vendor", [script]);
        let gateway = Setup::new([&vendor]).start();
        let began = std::time::Instant::now();
        let heard = Format::Chat.hear(gateway.stream(ASK_STREAM).rest());
        assert!(heard.is_all("all of it") && heard.ends == 1, "{heard:?}");
        // The time between frames is a minute.
        assert!(began.elapsed() < std::time::Duration::from_secs(30));
    }
}

/// What passes through is not rewritten where that would lose some of it, even where another target could otherwise go on.
#[test]
fn several_answers_stay_several_where_an_answer_may_be_gone_on_with() {
    let other = |frame: &str| frame.replace("\"index\":0", "\"index\":1");
    let frames = [
        ROLE.to_owned(),
        text("one"),
        other(&text("two")),
        STOP.to_owned(),
        other(STOP),
        DONE.to_owned(),
    ];
    let vendor = Vendor::start("vendor", [Script::stream(&frames)]);
    let setup = Setup::new([&vendor]).policy("plan-b").route("continuation = true");
    let gateway = setup.start();
    let ask = ASK_STREAM.replace("\"stream\":true", "\"stream\":true,\"n\":2");
    assert_eq!(gateway.stream(&ask).rest(), frames.concat());
}

/// Some dozens of attempts fit into the header that tells them.
#[test]
fn a_long_trail_is_told_whole() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let fails = || Script::status(500, &[], &error_body("a_code_of_some_length_that_a_vendor_made_up"));
    let vendors = names.map(|name| Vendor::start(name, [fails()]));
    let gateway = Setup::new(&vendors)
        .route("attempts_detail = true\nmax_attempts = 8")
        .start();
    let answer = gateway.chat(ASK);
    let detail = answer.header("x-pointsman-attempts-detail");
    for name in names {
        assert!(detail.contains(&format!("{name}: server-error 500")), "{detail}");
    }
}
