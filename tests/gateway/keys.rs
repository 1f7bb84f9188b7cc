//! Several keys of one target: each rests for itself, and the target is well while one of them is.

use super::running::{ASK, ASK_STREAM, eventually};
use super::script::{DONE, Gate, ROLE, STOP, Script, error_body, text};
use super::setup::Setup;
use super::vendor::{Received, Vendor};

const SECRETS: [&str; 3] = ["sk-alpha-11111", "sk-beta-222222", "sk-gamma-33333"];

/// The key that a request came with.
fn key(request: &Received) -> String {
    let header = request.head.header("authorization").unwrap_or_default();
    header.trim_start_matches("Bearer ").to_owned()
}

fn keys(vendor: &Vendor) -> Vec<String> {
    vendor.received().iter().map(key).collect()
}

/// A vendor that answers each key in its own way; the answer says which it was.
fn by_key(name: &'static str, answers: impl Fn(usize) -> Option<Script> + Send + Sync + 'static) -> Vendor {
    Vendor::start(
        name,
        [Script::of(move |request| {
            let place = SECRETS
                .iter()
                .position(|secret| *secret == key(request))
                .expect("a known key");
            answers(place).unwrap_or_else(|| Script::Well(format!("key {place}")))
        })],
    )
}

fn limited(seconds: &str) -> Script {
    Script::rate_limited(&[("retry-after", seconds)])
}

fn unauthorised() -> Script {
    Script::status(401, &[], &error_body("invalid_api_key"))
}

/// A target with so many keys.
fn with_keys(setup: Setup, target: &str, count: usize) -> Setup {
    let names: Vec<String> = (0..count).map(|place| format!("{{ env = \"KEY_{place}\" }}")).collect();
    let setup = setup.target(target, &format!("api_keys = [{}]", names.join(", ")));
    SECRETS.iter().enumerate().fold(setup, |setup, (place, secret)| {
        setup.env(&format!("KEY_{place}"), secret)
    })
}

#[test]
fn keys_take_turns() {
    let vendor = by_key("vendor", |_| None);
    let gateway = with_keys(Setup::new([&vendor]), "vendor", 3).start();
    for _ in 0..6 {
        assert_eq!(gateway.chat(ASK).status, 200);
    }
    for secret in SECRETS {
        assert_eq!(keys(&vendor).iter().filter(|key| *key == secret).count(), 2, "{secret}");
    }
}

/// The other key is tried at once, without asking anybody: the target is well.
#[test]
fn a_key_that_is_limited_gives_way_to_the_other_at_once() {
    for ask in [ASK, ASK_STREAM] {
        let vendor = by_key("first", |place| (place == 0).then(|| limited("60")));
        let second = Vendor::well("second");
        let gateway = with_keys(Setup::new([&vendor, &second]), "first", 2).start();
        for attempts in ["2", "1", "1"] {
            let answer = gateway.chat(ask);
            assert!(answer.text().contains("key 1"), "{}", answer.text());
            assert_eq!(answer.header("x-pointsman-attempts"), attempts);
        }
        assert_eq!(keys(&vendor), [SECRETS[0], SECRETS[1], SECRETS[1], SECRETS[1]]);
        assert_eq!(second.count(), 0);
        let told = gateway.target("first");
        assert_eq!(
            (&told["breaker"], &told["cooldown_ms"]),
            (&"closed".into(), &0.into()),
            "{told}"
        );
    }
}

/// A policy that rejects after any failure is not asked.
#[test]
fn a_policy_is_not_asked_about_a_key() {
    let vendor = by_key("first", |place| (place == 0).then(|| limited("60")));
    let setup = Setup::new([&vendor]).plugin("picker", super::guests::guest("picker"));
    let setup = setup
        .route("policies = [\"picker\"]")
        .toml("policy.picker.settings = { picks = \"first\", when_failed = \"\" }");
    let gateway = with_keys(setup, "first", 2).start();
    assert_eq!(gateway.chat(ASK).says(), "key 1");
}

#[test]
fn a_key_that_is_refused_rests_alone() {
    for refusal in [401, 402, 403] {
        let refuses = move |place| (place == 0).then(|| Script::status(refusal, &[], &error_body("no")));
        let vendor = by_key("vendor", refuses);
        let gateway = with_keys(Setup::new([&vendor]), "vendor", 2).start();
        for _ in 0..4 {
            assert_eq!(gateway.chat(ASK).says(), "key 1", "{refusal}");
        }
        let refused = keys(&vendor).iter().filter(|key| *key == SECRETS[0]).count();
        assert_eq!(refused, 1, "{refusal}: the key rests");
        let told = gateway.target("vendor");
        assert_eq!(
            (&told["breaker"], &told["keys_resting"]),
            (&"closed".into(), &1.into()),
            "{refusal}"
        );
    }
}

/// Then, and only then, it is the target that rests.
#[test]
fn when_every_key_rests_the_target_does() {
    let ways = [
        [limited("60"), limited("30")],
        [limited("30"), limited("60")],
        [limited("30"), unauthorised()],
    ];
    for (number, way) in ways.into_iter().enumerate() {
        let vendor = by_key("first", move |place| Some(way[place].clone()));
        let second = Vendor::well("second");
        let gateway = with_keys(Setup::new([&vendor, &second]), "first", 2).start();
        assert_eq!(gateway.chat(ASK).header("x-pointsman-target"), "second");
        assert_eq!(keys(&vendor), SECRETS[..2]);
        let cooldown = gateway.target("first")["cooldown_ms"].as_u64().unwrap();
        assert!(
            (20_000..=30_000).contains(&cooldown),
            "until the first key is awake: {cooldown}, way {number}"
        );
        assert_eq!(gateway.chat(ASK).header("x-pointsman-attempts"), "1");
        assert_eq!(vendor.count(), 2);
    }
}

#[test]
fn when_every_key_is_refused_the_operator_is_told_and_the_client_is_not() {
    let vendor = by_key("vendor", |_| Some(unauthorised()));
    let gateway = with_keys(Setup::new([&vendor]), "vendor", 2).start();
    gateway.chat(ASK).assert_error(502, "vendor_credentials");
    assert_eq!(vendor.count(), 2);
    assert_eq!(gateway.target("vendor")["breaker"], "open");
}

/// A failure that is not the key's costs the target its turn, not another key.
#[test]
fn another_key_does_not_help_a_vendor_that_is_down() {
    let vendor = by_key("first", |_| Some(Script::status(500, &[], &error_body("server_error"))));
    let second = Vendor::well("second");
    let gateway = with_keys(Setup::new([&vendor, &second]), "first", 3).start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("from second", "2")
    );
    assert_eq!(vendor.count(), 1);
}

/// A vendor that repeats the key, in an error and in its stream.
#[test]
fn keys_are_told_to_nobody() {
    let vendor = Vendor::start(
        "vendor",
        [Script::of(|request| {
            let said = format!(
                "{{\"error\":{{\"message\":\"bad key {}\",\"code\":\"no\"}}}}",
                key(request)
            );
            match request.body.windows(8).any(|window| window == b"\"stream\"") {
                true => Script::stream([ROLE, &text("half"), &format!("data: {said}\n\n"), STOP, DONE]),
                false => Script::status(if key(request) == SECRETS[2] { 400 } else { 401 }, &[], &said),
            }
        })],
    );
    let gateway = with_keys(Setup::new([&vendor]), "vendor", 3)
        .toml("log.level = \"debug\"")
        .start();
    let mut told = String::new();
    for ask in [ASK, ASK_STREAM, ASK, ASK, ASK_STREAM] {
        told += gateway.chat(ask).text();
    }
    assert_eq!(keys(&vendor).iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    for line in ["GET /api/targets", "GET /metrics", "GET /api/config"] {
        told += gateway.admin(line).text();
    }
    told += &gateway.log();
    for secret in SECRETS {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[test]
fn keys_rest_on_through_a_reload() {
    let vendor = by_key("vendor", |place| (place == 0).then(|| limited("600")));
    let setup = with_keys(Setup::new([&vendor]), "vendor", 2);
    let mut gateway = setup.clone().start();
    assert_eq!(gateway.chat(ASK).says(), "key 1");
    gateway.configure(
        setup
            .target("vendor", "attributes = { changed = true }")
            .toml("attempts.max = 2"),
    );
    eventually("the reload", || {
        (gateway.metric("pointsman_config_reloads", "live") > 0.0).then_some(())
    });
    for _ in 0..4 {
        assert_eq!(gateway.chat(ASK).says(), "key 1");
    }
    assert_eq!(keys(&vendor).iter().filter(|key| *key == SECRETS[0]).count(), 1);
}

/// As far as the request's attempts go.
#[test]
fn every_key_has_its_turn_before_the_target_is_given_up() {
    let vendor = by_key("first", |place| (place != 1).then(|| limited("60")));
    let gateway = with_keys(Setup::new([&vendor]), "first", 3).start();
    let answer = gateway.chat(ASK);
    assert_eq!(
        (answer.says().as_str(), answer.header("x-pointsman-attempts")),
        ("key 1", "3")
    );
    assert_eq!(keys(&vendor), [SECRETS[0], SECRETS[2], SECRETS[1]]);
}

/// What vendors answer for a model that is not there: a status and a body.
fn no_such_models() -> [(&'static str, &'static str, u16, &'static str); 6] {
    [
        (
            "openai",
            "openai-compatible",
            404,
            r#"{"error":{"message":"The model `x` does not exist","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#,
        ),
        (
            "mistral",
            "mistral",
            400,
            r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500"}"#,
        ),
        (
            "vllm",
            "vllm",
            404,
            r#"{"object":"error","message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}"#,
        ),
        (
            "anthropic",
            "anthropic",
            404,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#,
        ),
        (
            "gemini",
            "gemini",
            404,
            r#"{"error":{"code":404,"message":"models/x is not found for API version v1beta","status":"NOT_FOUND"}}"#,
        ),
        (
            "bedrock",
            "bedrock",
            400,
            r#"{"message":"The provided model identifier is invalid."}"#,
        ),
    ]
}

/// No key can help, none is to blame, and the next target is asked at once.
#[test]
fn a_model_that_is_not_there_costs_one_attempt_and_rests_nothing() {
    for (name, api, status, body) in no_such_models() {
        let headers: &[(&str, &str)] = if api == "bedrock" {
            &[("x-amzn-errortype", "ValidationException")]
        } else {
            &[]
        };
        let vendor = Vendor::start("first", [Script::status(status, headers, body)]);
        let second = Vendor::well("second");
        let setup = Setup::new([&vendor, &second]).vendor("first", api);
        let gateway = with_keys(setup, "first", 3).start();
        for asked in 1..=3 {
            let answer = gateway.chat(ASK);
            assert_eq!(
                (answer.says().as_str(), answer.header("x-pointsman-attempts")),
                ("from second", "2"),
                "{name}"
            );
            assert_eq!(vendor.count(), asked, "{name}");
        }
        let shown = gateway.target("first");
        assert_eq!(
            (&shown["breaker"], &shown["keys_resting"]),
            (&"closed".into(), &0.into()),
            "{name}"
        );
    }
}

/// Google says 400 of a bad key.
#[test]
fn a_bad_key_rests_whatever_its_status() {
    let refused = r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#;
    for count in 1..=3 {
        let vendor = Vendor::start("first", [Script::status(400, &[], refused)]);
        let second = Vendor::well("second");
        let setup = Setup::new([&vendor, &second]).vendor("first", "gemini");
        let gateway = with_keys(setup, "first", count).toml("attempts.max = 5").start();
        for _ in 0..3 {
            assert_eq!(gateway.chat(ASK).says(), "from second", "{count} keys");
        }
        assert_eq!(vendor.count(), count, "each of {count} keys is tried once");
        let shown = gateway.target("first");
        assert_eq!(
            (&shown["breaker"], &shown["keys_resting"]),
            (&"open".into(), &count.into()),
            "{count} keys"
        );
        assert_eq!(shown["error_rate"], 1.0);
    }
}

/// However many keys a target has, the last attempt goes to another target.
#[test]
fn plan_b_is_asked_although_there_are_more_bad_keys_than_attempts() {
    for (attempts, tried) in [(3, 2), (2, 1)] {
        let vendor = by_key("first", |_| Some(unauthorised()));
        let second = Vendor::well("second");
        let setup = with_keys(Setup::new([&vendor, &second]), "first", 3);
        let gateway = setup.toml(&format!("attempts.max = {attempts}")).start();
        assert_eq!(gateway.chat(ASK).says(), "from second");
        assert_eq!(vendor.count(), tried, "{attempts} attempts");
    }
}

/// Keys that say that they need not be waited for do not take turns within one request.
#[test]
fn limits_without_a_wait_do_not_go_round() {
    let vendor = by_key("first", |_| Some(limited("0")));
    let second = Vendor::well("second");
    let setup = with_keys(Setup::new([&vendor, &second]), "first", 2);
    let gateway = setup.toml("attempts.max = 10").start();
    assert_eq!(gateway.chat(ASK).says(), "from second");
    assert_eq!(keys(&vendor), SECRETS[..2]);
}

/// A limit that comes in the middle of a stream is its key's, as one that comes before.
#[test]
fn a_key_that_is_limited_in_the_middle_of_a_stream_rests() {
    let gate = Gate::default();
    let open = gate.clone();
    let vendor = by_key("first", move |place| {
        let error = format!("data: {}\n\n", error_body("rate_limit_exceeded"));
        let script = Script::begin([ROLE, &text("half")]).until(&gate).frames([error]).end();
        (place == 0).then_some(script)
    });
    let gateway = with_keys(Setup::new([&vendor]), "first", 2).start();
    let mut stream = gateway.stream(ASK_STREAM);
    stream.read_until("half");
    open.open();
    assert!(stream.rest().contains("rate_limit_exceeded"));
    let shown = eventually("the key to rest", || {
        Some(gateway.target("first")).filter(|shown| shown["keys_resting"] == 1)
    });
    assert_eq!(
        (&shown["breaker"], &shown["cooldown_ms"]),
        (&"closed".into(), &0.into())
    );
}
