//! Sessions that clients name: the built-in chain keeps them where their prompt is warm, and policies are told of them.

use super::guests::guest;
use super::heard::Format;
use super::running::{ASK, CHAT, Gateway, eventually};
use super::script::{Script, error_body};
use super::setup::Setup;
use super::vendor::Vendor;

const SESSION: &[(&str, &str)] = &[("x-pointsman-session", "s-1")];

/// Two targets, of which the first fails once: so that a session gets warm at the second.
fn outage() -> (Vendor, Vendor, Gateway) {
    let fails = Script::status(500, &[], &error_body("server_error"));
    let first = Vendor::start("first", [fails, Script::Well("from first".into())]);
    let second = Vendor::well("second");
    let gateway = Setup::new([&first, &second]).start();
    (first, second, gateway)
}

fn with_field(field: &str) -> String {
    ASK.replace("\"messages\"", &format!("{field},\"messages\""))
}

#[test]
fn a_session_stays_where_it_is_warm_after_the_outage() {
    let (first, _second, gateway) = outage();
    for _ in 0..3 {
        assert_eq!(gateway.ask(CHAT, SESSION, ASK).says(), "from second");
    }
    assert_eq!(first.count(), 1);
    assert_eq!(
        gateway.chat(ASK).says(),
        "from first",
        "without a session the order holds"
    );
    let other = [("x-pointsman-session", "s-2")];
    assert_eq!(
        gateway.ask(CHAT, &other, ASK).says(),
        "from first",
        "each session has its own"
    );
    assert_eq!(gateway.ask(CHAT, SESSION, ASK).says(), "from second");
}

/// How clients of a format name a session: in a header, or in fields of their own.
const NAMES: [(Format, &str); 14] = [
    (Format::Chat, ""),
    (Format::Chat, r#""prompt_cache_key":"NAME""#),
    (Format::Chat, r#""user":"NAME""#),
    (Format::Chat, r#""user":"someone","prompt_cache_key":"NAME""#),
    (Format::Responses, ""),
    (Format::Chat, r#""user":"someone","metadata":{"session_id":"NAME"}"#),
    (Format::Gemini, r#""labels":{"session_id":"NAME"}"#),
    (Format::Converse, r#""requestMetadata":{"session_id":"NAME"}"#),
    (Format::Responses, r#""prompt_cache_key":"NAME""#),
    (Format::Responses, r#""user":"NAME""#),
    (Format::Messages, ""),
    (Format::Messages, r#""metadata":{"user_id":"NAME"}"#),
    (Format::Gemini, ""),
    (Format::Converse, ""),
];

/// Asks in a session, or in none; whoever answers, and what a policy was told.
fn ask(gateway: &Gateway, (format, field): (Format, &str), streaming: bool, name: Option<&str>) -> (String, String) {
    let mut body = format.body("smart", streaming, "hello");
    let mut headers = Vec::new();
    match name {
        Some(name) if field.is_empty() => headers.push(("x-pointsman-session", name)),
        Some(name) => body = format!("{{{},{}", field.replace("NAME", name), &body[1..]),
        None => {}
    }
    let answer = gateway.ask(&format.line("smart", streaming), &headers, &body);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let told = |name| answer.header(name).to_owned();
    (told("x-pointsman-target"), told("x-pointsman-reason"))
}

#[test]
fn clients_of_every_format_have_names_for_a_session() {
    for (named, streaming) in NAMES.into_iter().flat_map(|named| [(named, false), (named, true)]) {
        let (_first, _second, gateway) = outage();
        for _ in 0..3 {
            assert_eq!(ask(&gateway, named, streaming, Some("s-1")).0, "second", "{named:?}");
        }
        assert_eq!(ask(&gateway, named, streaming, Some("s-2")).0, "first", "{named:?}");
        assert_eq!(ask(&gateway, named, streaming, None).0, "first", "{named:?}");
        assert_eq!(ask(&gateway, named, streaming, Some("s-1")).0, "second", "{named:?}");
    }
}

/// A session is the same whatever it is called in.
#[test]
fn a_session_stays_where_it_is_warm_when_its_client_speaks_otherwise() {
    let (_first, _second, gateway) = outage();
    for named in NAMES {
        assert_eq!(ask(&gateway, named, false, Some("s-1")).0, "second", "{named:?}");
    }
}

/// The same name in the header and in the body is the same session; the header goes first.
#[test]
fn the_header_goes_before_the_body() {
    let (_first, _second, gateway) = outage();
    let ask = with_field(r#""prompt_cache_key":"s-2""#);
    assert_eq!(gateway.ask(CHAT, SESSION, &ask).says(), "from second");
    assert_eq!(gateway.ask(CHAT, SESSION, ASK).says(), "from second");
    assert_eq!(gateway.chat(&ask).says(), "from first");
}

#[test]
fn a_warm_target_that_fails_is_left() {
    let (first, second, gateway) = outage();
    assert_eq!(gateway.ask(CHAT, SESSION, ASK).says(), "from second");
    second.follow(Script::status(500, &[], &error_body("server_error")));
    let answer = gateway.ask(CHAT, SESSION, ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from first", "2")
    );
    second.follow(Script::Well("from second".into()));
    assert_eq!(
        gateway.ask(CHAT, SESSION, ASK).says(),
        "from first",
        "now it is warm there"
    );
    assert_eq!(first.count(), 3);
}

#[test]
fn sessions_of_the_same_name_of_other_clients_are_others() {
    let (first, second) = (
        Vendor::start(
            "first",
            [
                Script::status(500, &[], &error_body("server_error")),
                Script::Well("from first".into()),
            ],
        ),
        Vendor::well("second"),
    );
    let keys = "[[key]]\nname = \"a\"\nsecret = { env = \"A\" }\n[[key]]\nname = \"b\"\nsecret = { env = \"B\" }";
    let gateway = Setup::new([&first, &second])
        .toml(keys)
        .env("A", "gw-a")
        .env("B", "gw-b")
        .start();
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        gateway.ask(CHAT, &[SESSION[0], ("authorization", &bearer)], ASK).says()
    };
    assert_eq!(ask("gw-a"), "from second");
    assert_eq!(ask("gw-b"), "from first");
    assert_eq!(ask("gw-a"), "from second");
}

#[test]
fn sessions_stay_warm_through_a_reload() {
    let (first, second) = (
        Vendor::start(
            "first",
            [
                Script::status(500, &[], &error_body("server_error")),
                Script::Well("from first".into()),
            ],
        ),
        Vendor::well("second"),
    );
    let setup = Setup::new([&first, &second]);
    let mut gateway = setup.clone().start();
    assert_eq!(gateway.ask(CHAT, SESSION, ASK).says(), "from second");
    gateway.configure(setup.toml("attempts.max = 2"));
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads", "live") > 0.0).then_some(())
    });
    assert_eq!(gateway.ask(CHAT, SESSION, ASK).says(), "from second");
}

#[test]
fn policies_are_told_the_session() {
    let vendor = Vendor::well("vendor");
    let setup = Setup::new([&vendor])
        .plugin("picker", guest("picker"))
        .route("policies = [\"picker\"]");
    let gateway = setup
        .toml("policy.picker.settings = { picks = \"vendor\", tell = \"session\" }")
        .start();
    for named in NAMES {
        assert_eq!(ask(&gateway, named, false, None).1, "nothing", "{named:?}");
        assert_eq!(ask(&gateway, named, false, Some("s-9")).1, "s-9", "{named:?}");
    }
}

#[test]
fn the_attempts_are_told_in_detail_only_where_the_route_says_so() {
    for (toml, told) in [
        ("", false),
        ("attempts_detail = false", false),
        ("attempts_detail = true", true),
    ] {
        let fails = Script::status(500, &[], &error_body("server_error"));
        let (first, second) = (Vendor::start("first", [fails]), Vendor::well("second"));
        let gateway = Setup::new([&first, &second]).route(toml).start();
        let answer = gateway.chat(ASK);
        let detail = answer.header("x-pointsman-attempts-detail");
        assert_eq!(!detail.is_empty(), told, "{toml}: {detail}");
        if told {
            assert!(detail.starts_with("first: server-error 500 server_error "), "{detail}");
            assert!(detail.contains("; second: ok"), "{detail}");
        }
    }
    let first = Vendor::start("first", [Script::status(500, &[], &error_body("server_error"))]);
    let gateway = Setup::new([&first]).route("attempts_detail = true").start();
    let answer = gateway.chat(ASK);
    assert!(
        answer
            .header("x-pointsman-attempts-detail")
            .starts_with("first: server-error")
    );
}
