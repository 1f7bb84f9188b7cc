//! Same format on both sides: what the client wrote reaches the vendor, and what the vendor wrote reaches the client.

use super::running::{ASK, ASK_STREAM, CHAT};
use super::script::{DONE, Gate, ROLE, STOP, Script, text, whole};
use super::setup::Setup;
use super::vendor::Vendor;

/// Everything that a reading and writing again would change: unknown fields, spellings of numbers, keys that come twice or
/// only look like `model`, escapes, white space, the order of keys.
const ODD_BODY: &str = r#"{ "messages" : [ {"role":"user","content":"\u0068i \/ \ud83d\ude00 \"model\":\"smart\""} ],
	"temperature":1.0E+0, "top_p":0.10, "seed":12345678901234567890, "n":1e0, "penalty":-0.0, "exact":0.1000000000000000055511,
	"Model":"upper", "model ":"space", "mod\u0065ls":"escaped", "model":"smart", "nested":{"model":"inner","a":1,"a":2},
	"x":null,"x":[], "unknown":{"deep":[[[{"é":"\u00e9"}]]]}, "metadata":{"model":"smart"}, "":"" , "b":true}
"#;

#[test]
fn the_vendor_gets_the_clients_bytes_but_for_the_model() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.chat(ODD_BODY);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        vendor.only().body(),
        ODD_BODY.replacen(r#""model":"smart", "#, r#""model":"vendor-model", "#, 1)
    );
}

#[test]
fn headers_that_switch_a_vendors_features_on_go_to_that_vendor() {
    for (kind, sent) in [("openai", Some("responses=v1")), ("mistral", None)] {
        let vendor = Vendor::well("vendor");
        let key = "api_key = { env = \"VENDOR_KEY\" }";
        let gateway = Setup::new([&vendor])
            .vendor("vendor", kind)
            .target("vendor", key)
            .env("VENDOR_KEY", "key")
            .start();
        let headers = [("openai-beta", "responses=v1"), ("x-other", "1")];
        assert_eq!(gateway.ask(CHAT, &headers, ASK).status, 200);
        let got = vendor.only();
        assert_eq!(got.head.header("openai-beta"), sent, "{kind}");
        assert_eq!(got.head.header("x-other"), None, "{kind}");
    }
}

#[test]
fn a_model_that_is_written_with_escapes_or_twice_is_replaced_everywhere() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    gateway.chat(r#"{"model":"other","messages":[],"mod\u0065l":"\u0073mart"}"#);
    assert_eq!(
        vendor.only().body(),
        r#"{"model":"vendor-model","messages":[],"mod\u0065l":"vendor-model"}"#
    );
}

#[test]
fn a_body_in_many_pieces_reaches_the_vendor_in_one() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let mut connection = gateway.connect();
    connection
        .send(format!("{CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n").as_bytes())
        .unwrap();
    for byte in ASK.bytes() {
        connection
            .send(&[b"1\r\n".as_slice(), &[byte], b"\r\n"].concat())
            .unwrap();
    }
    connection.send(b"0\r\n\r\n").unwrap();
    assert_eq!(connection.answer().says(), "from vendor");
    let received = vendor.only();
    assert_eq!(received.body(), ASK.replace("smart", "vendor-model"));
    assert_eq!(
        received.head.header("content-length"),
        Some(received.body.len().to_string().as_str())
    );
}

/// As curl does with a large body.
#[test]
fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let mut connection = gateway.connect();
    let head = format!(
        "{CHAT} HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        ASK.len()
    );
    connection.send(head.as_bytes()).unwrap();
    assert_eq!(connection.answer().status, 100);
    connection.send(ASK.as_bytes()).unwrap();
    assert_eq!(connection.answer().says(), "from vendor");
}

#[test]
fn a_body_that_is_nested_a_thousand_deep_passes_through() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    for key in ["x", "tools", "metadata", "stop"] {
        let deep = format!(r#","{key}":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
        let body = ASK.strip_suffix('}').unwrap().to_owned() + &deep;
        let answer = gateway.chat(&body);
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
    }
    let deep = format!(
        r#"{{"model":"smart","messages":{}{}}}"#,
        "[".repeat(1000),
        "]".repeat(1000)
    );
    assert_eq!(
        gateway.chat(&deep).status,
        200,
        "what messages mean is the vendor's to say"
    );
}

#[test]
fn the_client_gets_the_vendors_whole_answer_byte_for_byte() {
    let odd =
        "{\n \"choices\" : [{\"message\":{\"content\":\"\\u0068i\"},\"n\":1.50}],\"x\":1e2,\"x\":2,\"usage\":null}\r\n";
    let vendor = Vendor::start("vendor", [Script::answer(odd)]);
    let gateway = Setup::new([&vendor]).start();
    let answer = gateway.chat(ASK);
    assert_eq!((answer.status, answer.text()), (200, odd));
    assert_eq!(answer.header("content-type"), "application/json");
}

#[test]
fn the_client_gets_the_vendors_frames_byte_for_byte() {
    let odd = "data: {\"choices\":[{\"delta\":{\"content\":\"\\u0068i\"},\"n\":1.50}],\"obfuscation\":\"zzz\"}\n\n";
    let frames = [
        ROLE,
        ": ping\n\n",
        odd,
        &text("é😀"),
        STOP,
        "data: {\"choices\":[],\"usage\":null}\n\n",
        DONE,
    ];
    let vendor = Vendor::start("vendor", [Script::stream(frames)]);
    let gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    assert_eq!(
        (stream.status, stream.header("content-type")),
        (200, "text/event-stream; charset=utf-8")
    );
    assert_eq!(stream.rest(), frames.concat());
}

#[test]
fn frames_with_crlf_line_ends_pass_through() {
    let frames = [ROLE, &text("one"), &text("two"), STOP, DONE].map(|frame| frame.replace('\n', "\r\n"));
    let vendor = Vendor::start("vendor", [Script::stream(&frames)]);
    let gateway = Setup::new([&vendor]).start();
    assert_eq!(gateway.stream(ASK_STREAM).rest(), frames.concat());
}

#[test]
fn frames_that_arrive_byte_by_byte_pass_through() {
    let frames = [ROLE, &text("é😀"), STOP, DONE];
    let vendor = Vendor::start("vendor", [Script::byte_by_byte(frames)]);
    let gateway = Setup::new([&vendor]).start();
    assert_eq!(gateway.stream(ASK_STREAM).rest(), frames.concat());
}

#[test]
fn the_last_frame_may_come_without_its_blank_line() {
    let frames = [&text("one"), STOP, "data: [DONE]"];
    let vendor = Vendor::start("vendor", [Script::stream(frames)]);
    let gateway = Setup::new([&vendor]).start();
    // Clients would drop it without.
    assert_eq!(gateway.stream(ASK_STREAM).rest(), frames.concat() + "\n\n");
}

#[test]
fn a_stream_that_finished_but_has_no_done_gets_one() {
    let frames = [&text("one"), STOP];
    let vendor = Vendor::start("vendor", [Script::stream(frames)]);
    let gateway = Setup::new([&vendor]).start();
    assert_eq!(gateway.stream(ASK_STREAM).rest(), frames.concat() + DONE);
}

#[test]
fn each_frame_goes_out_when_it_comes() {
    let gate = Gate::default();
    let script = Script::begin([ROLE, &text("first")])
        .until(&gate)
        .frames([&text("second"), STOP, DONE])
        .end();
    let vendor = Vendor::start("vendor", [script]);
    let gateway = Setup::new([&vendor]).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("first");
    gate.open();
    assert_eq!(stream.rest(), [&text("second"), STOP, DONE].concat());
}

#[test]
fn the_vendor_sees_its_own_headers_and_none_of_the_clients() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let headers = [
        ("authorization", "Bearer client-secret"),
        ("cookie", "a=b"),
        ("x-anything", "1"),
    ];
    gateway.ask(CHAT, &headers, ASK);
    let head = vendor.only().head;
    assert_eq!(head.line, "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(head.header("host"), Some(vendor.address.to_string().as_str()));
    assert_eq!(head.header("content-type"), Some("application/json"));
    for (name, _) in headers {
        assert_eq!(head.header(name), None);
    }
}

#[test]
fn one_connection_serves_many_requests_on_both_sides() {
    let vendor = Vendor::well("vendor");
    let gateway = Setup::new([&vendor]).start();
    let mut connection = gateway.connect();
    for _ in 0..3 {
        connection.request(CHAT, &[], ASK.as_bytes());
        let answer = connection.answer();
        assert_eq!((answer.status, answer.text()), (200, whole("from vendor").as_str()));
    }
    assert_eq!(vendor.connections(), 1);
}
