//! Several keys of one target: each rests for itself, and the target is well while one of them is.

use super::running::{ASK, ASK_STREAM, eventually};
use super::script::{DONE, ROLE, STOP, Script, error_body, text};
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
